//! Faults: what is read of them, and what is refused.

use std::time::{Duration, SystemTime};

use super::*;
use crate::snapshot::{Abort, AbortAnswer, Bandwidth, Delay, DelayTime, NameAnswer, Share};

fn policy(spec: &str) -> String {
    format!("apiVersion: lorica.io/v1alpha1\nkind: FaultPolicy\nmetadata: {{name: f, namespace: contact}}\nspec: {spec}\n")
}

fn spec(spec: &str) -> FaultPolicy {
    match taken(&policy(spec)).remove(0).spec {
        Spec::FaultPolicy(policy) => policy,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_fault_is_read() {
    let read = spec(
        "{targetRefs: [{kind: Service, name: recording}, {kind: HTTPRoute, name: r.1}], ends: 2026-11-30T12:00:00.5Z,
          match: {headers: [{name: X-Test, value: '1'}], callers: [{account: routing}, {namespace: shop}]},
          delay: {percent: 12.5, uniform: {from: 100ms, to: 2s}}, abort: {percent: 0.0001, grpcStatus: UNAVAILABLE}, reset: {},
          bandwidth: {bytesPerSecond: 50KiB}, dns: {percent: 50, answer: NoSuchName}}",
    );
    assert_eq!(read.ends, SystemTime::UNIX_EPOCH + Duration::from_millis(1_796_040_000_500));
    assert_eq!(read.headers[0].name, "x-test");
    let callers: Vec<_> =
        read.callers.iter().map(|caller| (caller.namespace.as_ref().unwrap().as_str(), caller.account.is_some())).collect();
    assert_eq!(callers, [("contact", true), ("shop", false)]);
    let time = DelayTime::Uniform { from: Duration::from_millis(100), to: Duration::from_secs(2) };
    assert_eq!(read.delay, Some(Delay { share: Share(125_000), time }));
    assert_eq!(read.abort, Some(Abort { share: Share(1), answer: AbortAnswer::Grpc(14) }));
    assert_eq!(read.bandwidth, Some(Bandwidth { share: Share::ALL, bytes_per_second: 51_200 }));
    assert_eq!((read.reset, read.dns), (Some(Share::ALL), Some((Share(500_000), NameAnswer::NoSuchName))));
    assert_eq!((read.is_about(&"recording".parse().unwrap()), read.is_about(&"transcript".parse().unwrap())), (true, false));
    assert_eq!((read.is_about_route(("HTTPRoute", "r.1")), read.is_about_route(("GRPCRoute", "r.1"))), (true, false));
    assert!(spec("{ends: 2026-11-30T12:00:00+01:00, reset: {percent: 0}}").is_about(&"transcript".parse().unwrap()));
}

#[test]
fn what_no_fault_can_do_is_refused_where_it_stands() {
    const ENDS: &str = "ends: 2026-11-30T12:00:00Z";
    for (spec, told, at) in [
        (format!("{{{ENDS}}}"), "nothing is made to fail", ENDS),
        ("{reset: {}}".to_owned(), "needs `ends`", "reset: {}"),
        ("{ends: tomorrow, reset: {}}".to_owned(), "`tomorrow` is no time", "tomorrow"),
        ("{ends: 2026-11-30T12:00:00, reset: {}}".to_owned(), "is no time", "2026-11-30T12:00:00"),
        (format!("{{{ENDS}, reset: {{percent: 100.5}}}}"), "100.5 percent is no share", "100.5"),
        (format!("{{{ENDS}, reset: {{percent: -1}}}}"), "-1 percent is no share", "-1"),
        (format!("{{{ENDS}, reset: {{percent: 0.00001}}}}"), "at most four decimals", "0.00001"),
        (format!("{{{ENDS}, reset: {{percent: '20%'}}}}"), "`percent` is a number, not text", "'20%'"),
        (format!("{{{ENDS}, abort: {{httpStatus: 600}}}}"), "`httpStatus` is from 200 to 599, not 600", "600"),
        (format!("{{{ENDS}, abort: {{httpStatus: 199}}}}"), "`httpStatus` is from 200 to 599, not 199", "199"),
        (format!("{{{ENDS}, abort: {{percent: 3}}}}"), "an abort is one of", "{percent: 3}"),
        (format!("{{{ENDS}, abort: {{grpcStatus: UNAVAILBLE}}}}"), "`UNAVAILBLE` is no status of gRPC", "UNAVAILBLE"),
        (format!("{{{ENDS}, abort: {{grpcStatus: 17}}}}"), "`grpcStatus` is from 0 to 16, not 17", "17"),
        (format!("{{{ENDS}, delay: {{}}}}"), "a delay is one of", "{}"),
        (format!("{{{ENDS}, delay: {{fixed: 0s}}}}"), "a delay of no time is none", "0s"),
        (format!("{{{ENDS}, delay: {{fixed: 301s}}}}"), "a delay is at most 5m", "301s"),
        (format!("{{{ENDS}, delay: {{uniform: {{from: 2s, to: 1s}}}}}}"), "`to` is shorter than `from`", "1s"),
        (format!("{{{ENDS}, delay: {{exponential: {{mean: 2s, most: 1s}}}}}}"), "`most` is shorter than `mean`", "1s"),
        (format!("{{{ENDS}, bandwidth: {{bytesPerSecond: 0}}}}"), "`0` is no number of bytes", "0"),
        (format!("{{{ENDS}, dns: {{answer: Never}}}}"), "`Never` is no answer", "Never"),
        (
            format!("{{{ENDS}, reset: {{}}, match: {{headers: [{{name: X-Lorica-Reason, value: a}}]}}}}"),
            "`x-lorica-reason` is the mesh's own word",
            "[{name: X-Lorica-Reason, value: a}]",
        ),
        (format!("{{{ENDS}, reset: {{}}, targetRefs: [{{name: recordng}}]}}"), "there is no service `recordng.contact`", "recordng"),
        (format!("{{{ENDS}, reset: {{}}, targetRefs: [{{kind: HTTPRoute, name: r}}]}}"), "there is no HTTPRoute `r.contact`", "r"),
        (
            format!("{{{ENDS}, dns: {{answer: Timeout}}, match: {{headers: [{{name: a, value: b}}]}}}}"),
            "a question for a name has no headers",
            "{answer: Timeout}",
        ),
    ] {
        let found = pointed(&policy(&spec));
        let [(message, text)] = found.as_slice() else { panic!("{spec}: {found:?}") };
        assert!(message.contains(told) && text.contains(at), "{spec}: {message} at {text}");
    }
}

#[test]
fn bytes_cannot_be_answered() {
    let bytes = service("queue", "{port: 5672, appProtocol: tcp}");
    let of = |rest: &str| bytes.clone() + &policy(&format!("{{ends: 2026-11-30T12:00:00Z, targetRefs: [{{name: queue}}], {rest}}}"));
    insta::assert_snapshot!(refused(&of("abort: {httpStatus: 503}")));
    assert!(refused(&of("reset: {}, match: {headers: [{name: a, value: b}]}")).contains("no connection has the header `a`"));
    assert!(found(&of("reset: {}, delay: {fixed: 1s}, bandwidth: {bytesPerSecond: 1}"), Options::default()).is_empty());
}

#[test]
fn a_status_of_grpc_is_warned_of_where_nobody_speaks_it() {
    let of = |name: &str| policy(&format!("{{ends: 2026-11-30T12:00:00Z, targetRefs: [{{name: {name}}}], abort: {{grpcStatus: 14}}}}"));
    let warned = found(&of("recording"), Options::default());
    assert!(matches!(warned.as_slice(), [one] if one.severity == Severity::Warning && one.message.contains("speaks gRPC")), "{warned:?}");
    // What was not declared may be gRPC.
    assert!(found(&of("transcript"), Options::default()).is_empty());
}

#[test]
fn a_fault_that_is_over_is_refused_at_the_door_and_no_part_of_the_world() {
    let text = policy("{ends: 2026-11-30T12:00:00Z, reset: {}}");
    let documents = read("mesh.yaml", &text).unwrap();
    let end = SystemTime::UNIX_EPOCH + Duration::from_secs(1_796_040_000);
    let told = over(&documents, end, |_| text.clone());
    insta::assert_snapshot!(rendered(&told, &text));
    assert!(over(&documents, end - Duration::from_nanos(1), |_| text.clone()).is_empty());
    let told = beyond_envoy(&documents, |_| text.clone());
    assert!(matches!(told.as_slice(), [one] if one.severity == Severity::Warning && one.message.ends_with("reset nothing")), "{told:?}");

    let mut resources = Resources::default();
    taken(&(text + "---\n" + &service("recording", "{port: 80}"))).into_iter().for_each(|resource| drop(resources.insert(resource)));
    let resources = Arc::new(resources);
    assert_eq!((resources.in_force(end).len(), resources.in_force(end).faults().count()), (1, 0));
    assert_eq!(resources.in_force(end - Duration::from_nanos(1)).len(), 2);
}
