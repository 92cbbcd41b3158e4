//! What is told of exchanges: what is read of it, and what is refused.

use std::time::Duration;

use super::*;
use crate::log_format::LogValue;
use crate::snapshot::{AccessLogFormat, LogTarget, Share, Slow, Tracing};

fn policy(spec: &str) -> String {
    format!("apiVersion: lorica.io/v1alpha1\nkind: TelemetryPolicy\nmetadata: {{name: t, namespace: contact}}\nspec: {spec}\n")
}

fn spec(spec: &str) -> TelemetryPolicy {
    match taken(&policy(spec)).remove(0).spec {
        Spec::TelemetryPolicy(policy) => *policy,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_policy_is_read() {
    let read = spec(
        "{targetRefs: [{kind: Service, name: recording}, {kind: Gateway, name: edge}],
          tracing: {sampling: 0.25%, keepFailed: false, keepSlowerThan: 500ms},
          accessLog: {format: {text: '%DURATION%'}, when: 'response.code >= 500', to: [Stdout, Mesh, Otlp]}}",
    );
    let tracing =
        Tracing { sampling: Some(Share(2_500)), keep_failed: Some(false), keep_slower_than: Some(Slow::After(Duration::from_millis(500))) };
    assert_eq!(read.tracing.as_ref().map(|written| written.tracing), Some(tracing));
    assert!(read.names_service(&"recording.contact".parse().unwrap()) && !read.names_service(&"other.contact".parse().unwrap()));
    assert!(read.names_gateway(&"edge.contact".parse().unwrap()) && !read.names_gateway(&"recording.contact".parse().unwrap()));
    let log = read.access_log.unwrap().log;
    assert!(matches!(&log.format, AccessLogFormat::Text(format) if format.as_str() == "%DURATION%"));
    assert_eq!(log.when.unwrap().as_str(), "response.code >= 500");
    assert_eq!(log.to, [LogTarget::Stdout, LogTarget::Mesh, LogTarget::Otlp]);

    let plain = spec("{accessLog: {}}").access_log.unwrap().log;
    assert_eq!((plain.format, plain.when, plain.to), (AccessLogFormat::Json, None, vec![LogTarget::Stdout]));
    assert_eq!(spec("{accessLog: {to: []}}").access_log.unwrap().log.to, []);
    let never = spec("{tracing: {keepSlowerThan: Never, sampling: 100%}}").tracing.unwrap().tracing;
    assert_eq!((never.keep_slower_than, never.sampling), (Some(Slow::Never), Some(Share::ALL)));
    let object = spec("{accessLog: {format: {json: {b: '%PROTOCOL%', a: {c: ['%DURATION%', x]}}}}}").access_log.unwrap().log.format;
    let AccessLogFormat::Fields(fields) = object else { panic!("{object:?}") };
    assert_eq!(fields.keys().collect::<Vec<_>>(), ["a", "b"]);
    assert!(matches!(&fields["a"], LogValue::Fields(inner) if matches!(&inner["c"], LogValue::List(list) if list.len() == 2)));
}

#[test]
fn what_is_wrong_is_refused_where_it_stands() {
    for (spec, told, at) in [
        ("{}", "the policy says nothing", "{}"),
        ("{tracing: {}}", "`tracing` says nothing", "{}"),
        ("{tracing: {sampling: 1}}", "a share in percent, not a number", "1"),
        ("{tracing: {sampling: 101%}}", "`101%` is no share", "101%"),
        ("{tracing: {sampling: 0.00001%}}", "at most four decimals", "0.00001%"),
        ("{tracing: {keepSlowerThan: 0s}}", "takes more than no time", "0s"),
        ("{tracing: {keepSlowerThan: soon}}", "`soon` is no duration", "soon"),
        ("{accessLog: {format: Jsn}}", "`Jsn` is no format", "Jsn"),
        ("{accessLog: {format: {}}}", "the format is empty", "{}"),
        ("{accessLog: {format: {text: a, json: {a: b}}}}", "not both", "{a: b}"),
        ("{accessLog: {format: {text: 'a %DURATON% b'}}}", "there is no operator `DURATON`", "DURATON"),
        ("{accessLog: {format: {json: {a: {b: '%REQ(a'}}}}}", "is not closed", "%REQ(a"),
        ("{accessLog: {format: {json: {a: 1}}}}", "a text with operators, not a number", "1"),
        ("{accessLog: {format: {json: {}}}}", "an object of a log has 1 to 128 values", "{}"),
        ("{accessLog: {when: 'response.cod == 1'}}", "there is no attribute `response.cod`", "response.cod"),
        ("{accessLog: {when: 'response.duration > duration(\"1s\")'}}", "there is no attribute `response.duration`", "response.duration"),
        ("{accessLog: {when: claims.sub == 'a'}}", "`claims` is not known", "claims"),
        (
            "{accessLog: {when: \"['a'].exists(x, x == request.method)\"}}",
            "goes through no list or map",
            "['a'].exists(x, x == request.method)",
        ),
        ("{accessLog: {to: [Stdot]}}", "`Stdot` is no place for a log", "Stdot"),
        ("{accessLog: {to: [Mesh, Mesh]}}", "in the list already", "Mesh"),
        ("{accessLog: {}, targetRefs: [{kind: HTTPRoute, name: r}]}", "`HTTPRoute` is no kind of target", "HTTPRoute"),
        ("{accessLog: {}, targetRefs: [{name: a, namespace: other}]}", "says nothing of what is in `other`", "a"),
        ("{accessLog: {}, targetRefs: [{name: recordng}]}", "there is no service `recordng.contact`", "recordng"),
        ("{accessLog: {}, targetRefs: [{kind: Gateway, name: edge}]}", "there is no Gateway `edge.contact`", "edge"),
    ] {
        let found = pointed(&policy(spec));
        let [(message, text)] = found.as_slice() else { panic!("{spec}: {found:?}") };
        assert!(message.contains(told) && text.contains(at), "{spec}: {message} at {text}");
    }
    insta::assert_snapshot!(refused(&policy("{accessLog: {format: {text: '%START_TME% %REQ(:PATH)%'}, when: response.code > '5'}}")));
}

#[test]
fn what_answers_tell_is_no_part_of_who_may_ask() {
    let text = "apiVersion: lorica.io/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {name: a, namespace: contact}\nspec: {rules: [{when: response.code == 200}]}\n";
    let told = refused(text);
    assert!(told.contains("`response` is not known") && told.contains("a request is judged before it is answered"), "{told}");
}

#[test]
fn of_two_that_say_the_same_the_user_is_warned() {
    let of = |name: &str, spec: &str| policy(spec).replace("name: t,", &format!("name: {name},")) + "---\n";
    let services = service("recording", "{port: 80}");
    let warned = |one: &str, other: &str| {
        let found = found(&(services.clone() + "---\n" + &of("one", one) + &of("other", other)), Options::default());
        assert!(found.iter().all(|found| found.severity == Severity::Warning), "{found:?}");
        found.len()
    };
    let named = "{targetRefs: [{name: recording}], accessLog: {}}";
    assert_eq!(warned("{accessLog: {}}", "{accessLog: {}}"), 2);
    assert_eq!(warned(named, named), 2);
    // What names its target is heard first, and each is heard for what it alone says.
    assert_eq!(warned(named, "{accessLog: {}}"), 0);
    assert_eq!(warned("{accessLog: {}}", "{tracing: {sampling: 1%}}"), 0);
}

#[test]
fn what_envoys_leave_out_is_told() {
    let told = |spec: &str| {
        let text = policy(spec);
        let found = beyond_envoy(&read("mesh.yaml", &text).unwrap(), |_| text.clone());
        found.into_iter().map(|found| found.message).collect::<Vec<_>>().concat()
    };
    assert_eq!(told("{targetRefs: [{kind: Gateway, name: edge}], accessLog: {to: [Stdout, Mesh]}, tracing: {sampling: 1%}}"), "");
    assert!(told("{accessLog: {}}").contains("as their bootstrap says"));
    assert!(told("{targetRefs: [{kind: Gateway, name: edge}], accessLog: {to: [Otlp]}}").contains("they know no collectors"));
    assert!(told("{targetRefs: [{kind: Gateway, name: edge}], tracing: {keepFailed: true}}").contains("the sampled share alone"));
}
