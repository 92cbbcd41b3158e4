//! How many requests may come: what is read, and what is refused.

use std::time::Duration;

use super::*;
use crate::snapshot::{KeyPart, Quota, Unavailable};

fn policy(spec: &str) -> String {
    format!("apiVersion: lorica.io/v1alpha1\nkind: RateLimitPolicy\nmetadata: {{name: all, namespace: contact}}\nspec: {{{spec}}}\n---\n")
}

fn limits(limits: &str) -> String {
    policy(&format!("limits: [{limits}]"))
}

/// The messages of what is found in a policy with these words.
fn messages(text: &str) -> Vec<String> {
    found(text, Options::default()).into_iter().map(|found| found.message).collect()
}

#[test]
fn a_policy_is_read_with_its_defaults() {
    let text = policy(
        "targetRefs: [{name: recording}, {kind: Gateway, name: edge}], service: {name: counter, port: 81, domain: d}, limits: [
          {name: a, requests: 5},
          {name: b, scope: Global, requests: 5, per: 1d, burst: 7, whenUnavailable: Deny, mode: Shadow,
            key: [{header: X-User}, {path: true}, {source: Address}, {caller: true}], match: {method: GET, path: {value: /a}}},
          {name: c, concurrent: 3},
          {name: d, scope: Service}]",
    );
    let Spec::RateLimitPolicy(policy) = taken(&text).remove(0).spec else { panic!() };
    let targets: Vec<_> = policy.targets.iter().map(|target| (target.kind, target.object.name.to_string())).collect();
    assert_eq!(targets, [(Kind::Service, "recording".to_owned()), (Kind::Gateway, "edge".to_owned())]);
    let counted: Vec<_> = policy.limits.iter().map(|limit| limit.counted).collect();
    let day = Quota { requests: 5, per: Duration::from_secs(24 * 3600), burst: 7 };
    assert_eq!(
        counted,
        [
            WrittenCounted::Local(Quota { requests: 5, per: Duration::from_secs(1), burst: 5 }),
            WrittenCounted::Global(day, Unavailable::Deny),
            WrittenCounted::Concurrent(3),
            WrittenCounted::Service,
        ]
    );
    let second = &policy.limits[1];
    assert_eq!(second.key, [KeyPart::Header("x-user".to_owned()), KeyPart::Path, KeyPart::Source, KeyPart::Caller]);
    assert!(second.shadow && second.matches.as_ref().is_some_and(|matches| matches.method.as_deref() == Some("GET")));
    let service = policy.service.unwrap();
    assert_eq!(
        (service.port.to_string().as_str(), service.timeout, service.fail_open),
        ("counter.contact.mesh:81", Duration::from_millis(20), true)
    );
}

#[test]
fn what_limits_nothing_or_too_much_is_refused() {
    for (written, message) in [
        ("{name: a}", "the limit says neither `requests` nor `concurrent`"),
        ("{name: a, requests: 1, concurrent: 1}", "a limit counts `requests` or what is `concurrent`, not both"),
        ("{name: a, per: 1s}", "the limit says in what time, not how many"),
        ("{name: a, requests: 1, per: 0s}", "in no time there are no requests"),
        ("{name: a, requests: 1, per: 32d}", "requests are counted in at most 31 days"),
        ("{name: a, requests: 1, per: soon}", "`soon` is no duration"),
        ("{name: a, requests: 0}", "`requests` is from 1 to 1000000000, not 0"),
        ("{name: a, requests: 1, burst: 0}", "`burst` is from 1 to 4294967295, not 0"),
        ("{name: a, requests: 1000001}", "more than 1000000 requests a second cannot be told apart"),
        ("{name: a, concurrent: 1, scope: Global}", "requests under way are counted by each proxy alone"),
        ("{name: a, requests: 1, whenUnavailable: Deny}", "`whenUnavailable` is about limits of the scope Global"),
        ("{name: a, scope: Service, requests: 1}", "how much passes is what the service itself is told"),
        ("{name: a, scope: Service}", "the limit `a` asks a service, and the policy names none"),
        ("{name: a, requests: 1}, {name: a, requests: 2}", "another limit of the policy is named `a`"),
        ("{name: A/b, requests: 1}", "`A/b` is no name: a name has only lower case letters, digits and hyphens"),
        ("{name: a, requests: 1, key: [{header: Connection}]}", "`connection` is of the connection, which is the proxy's own"),
        (
            "{name: a, requests: 1, key: [{claim: sub}]}",
            "the limit `a` counts by a claim, and nobody verifies tokens for the namespace `contact`",
        ),
        ("{name: a, requests: 1, key: [{}]}", "the part names nothing"),
        ("{name: a, requests: 1, key: [{caller: false}]}", "`caller` is true, or left out"),
        ("{name: a, requests: 1, key: [{caller: true, path: true}]}", "a part of a key is one thing"),
        ("{name: a, requests: 1, key: [{path: true}, {path: true}]}", "this part is in the key already"),
        ("{name: a, requests: 1, key: [{path: true}, {caller: true}, {header: a}, {header: b}, {header: c}]}", "a key has at most 4 parts"),
        ("{name: a, requests: 1, match: {queryParams: [{name: a, value: b}]}}", "limits look at no query"),
        ("", "a policy has 1 to 16 limits"),
    ] {
        assert_eq!(messages(&limits(written)), [message], "{written}");
    }
    assert_eq!(
        messages(&policy("service: {name: a, port: 80, domain: d}, limits: [{name: a, requests: 1}]")),
        ["no limit of the policy asks a service"]
    );
}

#[test]
fn what_is_limited_must_be_there_and_take_requests() {
    let of = |target: &str| policy(&format!("targetRefs: [{target}], limits: [{{name: a, requests: 1, key: [{{path: true}}]}}]"));
    assert!(messages(&of("{name: recording}")).is_empty());
    let found = found(&of("{name: recoding}"), Options::default());
    assert_eq!(
        (found[0].message.as_str(), found[0].hint.as_deref()),
        ("there is no service `recoding.contact`", Some("did you mean `recording`?"))
    );
    assert_eq!(messages(&of("{kind: Gateway, name: edge}")), ["there is no Gateway `edge.contact`"]);
    assert_eq!(messages(&of("{kind: TCPRoute, name: a}")), ["`TCPRoute` is no kind of target"]);
    assert_eq!(messages(&of("{name: recording, namespace: shop}")), ["a policy of `contact` limits nothing of `shop`"]);
    assert_eq!(messages(&of("{group: apps, name: recording}")), ["no Service is of the group `apps`"]);
    let bytes = service("bytes", "{port: 9000, appProtocol: tcp}") + &of("{name: bytes}");
    assert_eq!(messages(&bytes), ["the ports of `bytes.contact` take bytes, and limits count requests"]);
    let in_mesh = route("r", "{kind: Service, name: recording, port: 80}", "  - {}") + &of("{kind: HTTPRoute, name: r}");
    assert_eq!(messages(&in_mesh), ["HTTPRoute `r` routes calls inside the mesh, which are limited where they arrive"]);
    let edge = "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: edge, namespace: contact}\nspec: {gatewayClassName: lorica, listeners: [{name: http, port: 80, protocol: HTTP}]}\n---\n";
    let by_caller = policy("targetRefs: [{kind: Gateway, name: edge}], limits: [{name: a, requests: 1, key: [{caller: true}]}]");
    assert_eq!(
        messages(&(edge.to_owned() + &by_caller)),
        ["the limit `a` counts by caller, and who calls a gateway proves no identity of the mesh"]
    );
    let asks = |port: u16| policy(&format!("service: {{name: recording, port: {port}, domain: d}}, limits: [{{name: a, scope: Service}}]"));
    assert_eq!(messages(&asks(80)), ["port 80 of `recording.contact` is not declared to speak gRPC"]);
    assert_eq!(messages(&asks(81)), ["the service `recording.contact` has no port 81"]);
}
