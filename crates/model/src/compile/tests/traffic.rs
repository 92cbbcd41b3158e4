//! Which policy decides, and what comes of it.

use std::time::Duration;

use super::*;
use crate::snapshot::{Algorithm, Forward, Nearness, Pause};

fn policy(name: &str, spec: &str) -> String {
    format!("apiVersion: lorica.io/v1alpha1\nkind: TrafficPolicy\nmetadata: {{name: {name}, namespace: contact}}\nspec: {spec}\n")
}

fn forward(unit: &crate::snapshot::OutboundUnit, index: usize) -> Forward {
    unit.rules[index].forward().unwrap().clone()
}

const ROUTE: &str = "
  - name: first
    matches: [{path: {type: Exact, value: /a}}]
    timeouts: {request: 9s}
    retry: {attempts: 7, codes: [503], backoff: 1s}
    backendRefs: [{name: recording, port: 80}]
  - name: second
    backendRefs: [{name: recording, port: 80}]
";

#[test]
fn the_most_specific_policy_decides_field_by_field() {
    let own = "targetRefs: [{kind: Service, name: recording}]";
    let route = "targetRefs: [{kind: HTTPRoute, name: recording}]";
    let rule = "targetRefs: [{kind: HTTPRoute, name: recording, sectionName: second}]";
    let texts = [
        SERVICES.to_owned(),
        route_of(ROUTE),
        policy("namespace", "{timeouts: {request: 1s, perTry: 500ms, connect: 100ms}, retries: {attempts: 1}, balancing: {prefer: Zone}}"),
        policy("service", &format!("{{{own}, timeouts: {{request: 2s}}, balancing: {{algorithm: RoundRobin}}}}")),
        policy("route", &format!("{{{route}, timeouts: {{request: 3s, perTry: 0s}}, retries: {{attempts: 3}}}}")),
        policy("rule", &format!("{{{rule}, timeouts: {{request: 4s}}}}")),
    ];
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let unit = unit(&texts, "contact");
    let traffic = &unit.cluster.traffic;
    assert_eq!((traffic.balancing.algorithm, traffic.balancing.prefer), (Algorithm::RoundRobin, Nearness::Zone));
    assert_eq!(unit.cluster.connect_timeout, Duration::from_millis(100));
    // The rule's own words go first.
    let first = forward(&unit, 0);
    assert_eq!((first.timeouts.request, first.timeouts.backend_request), (Some(Duration::from_secs(9)), None));
    assert_eq!(
        (first.retry.attempts, first.retry.pause, first.retry.codes.as_slice()),
        (7, Pause::AtLeast(Duration::from_secs(1)), &[503][..])
    );
    let second = forward(&unit, 1);
    assert_eq!((second.timeouts.request, second.timeouts.backend_request, second.retry.attempts), (Some(Duration::from_secs(4)), None, 3));
    let without = self::unit(&texts[..3], "contact");
    assert_eq!(forward(&without, 1).timeouts.request, Some(Duration::from_secs(1)));
}

#[test]
fn a_backend_with_a_policy_of_its_own_gets_a_rule_of_its_own() {
    let split = "
  - backendRefs: [{name: recording, port: 80, weight: 3}, {name: recording-v2, port: 80, weight: 1}, {name: gone, port: 80, weight: 0}]
";
    let documents = [
        SERVICES.to_owned(),
        policy("v2", "{targetRefs: [{kind: Service, name: recording-v2}], timeouts: {request: 5s}}"),
        policy("v1", "{targetRefs: [{kind: Service, name: recording}], retries: {attempts: 9}}"),
    ];
    let mut resources = resources(&documents.iter().map(String::as_str).collect::<Vec<_>>());
    for document in read("mesh.yaml", &route_of(split)).unwrap() {
        resources.insert(document.resource);
    }
    let registry = registry(&resources);
    let world = World { resources: &resources, registry: &registry, trust_domain: &TrustDomain::default() };
    let unit = outbound(&world, &Namespace::new("contact").unwrap(), &"recording.contact.mesh:80".parse().unwrap()).unwrap();
    let seen: Vec<_> = (0..unit.rules.len())
        .map(|index| {
            let forward = forward(&unit, index);
            (unit.rules[index].matches.share.map(|share| share.0), forward.timeouts.request, forward.retry.attempts)
        })
        .collect();
    // What the called service's policy says holds for both, where the backend's own says nothing.
    assert_eq!(seen, [(Some(750_000), None, 9), (None, Some(Duration::from_secs(5)), 9)]);
}

#[test]
fn a_subset_has_the_policies_of_its_service() {
    let subset = "apiVersion: lorica.io/v1alpha1\nkind: Service\nmetadata: {name: recording-v3, namespace: contact}\nspec: {subset: {of: recording, version: v3}}\n";
    let own = policy("own", "{targetRefs: [{kind: Service, name: recording}], limits: {requests: 5}}");
    let resources = resources(&[SERVICES, subset, &own]);
    let registry = registry(&resources);
    let world = World { resources: &resources, registry: &registry, trust_domain: &TrustDomain::default() };
    let requests =
        |port: &str| outbound(&world, &Namespace::new("contact").unwrap(), &port.parse().unwrap()).unwrap().cluster.traffic.limits.requests;
    assert_eq!(requests("recording-v3.contact.mesh:80"), Some(5));
    assert_eq!(requests("recording-v2.contact.mesh:80"), None);
}

#[test]
fn what_holds_is_told_with_who_says_so() {
    let texts = [
        SERVICES.to_owned(),
        route_of(ROUTE),
        policy("namespace", "{timeouts: {request: 1s}, ejection: {mode: Disabled}}"),
        policy("service", "{targetRefs: [{kind: Service, name: recording}], limits: {retries: {percent: 10}}}"),
        policy("rule", "{targetRefs: [{kind: HTTPRoute, name: recording, sectionName: second}], retries: {nonIdempotent: true}}"),
    ];
    let resources = resources(&texts.iter().map(String::as_str).collect::<Vec<_>>());
    let registry = registry(&resources);
    let world = World { resources: &resources, registry: &registry, trust_domain: &TrustDomain::default() };
    let (settings, rules) = effective(&world, &"recording.contact.mesh:80".parse().unwrap()).unwrap();
    let line = |one: &Effective| {
        let by = match &one.by {
            SaidBy::Default => "default".to_owned(),
            SaidBy::Rule => "rule".to_owned(),
            SaidBy::Policy(namespace, name) => format!("{name}.{namespace}"),
        };
        format!("{} = {} ({by})", one.setting, one.value)
    };
    insta::assert_snapshot!(settings.iter().map(line).collect::<Vec<_>>().join("\n"));
    let rules: Vec<_> =
        rules.iter().flat_map(|rule| rule.settings.iter().map(|one| format!("{}: {}", rule.rule.as_deref().unwrap(), line(one)))).collect();
    insta::assert_snapshot!(rules.join("\n"));
}
