//! Which limits hold where.

use super::*;
use crate::snapshot::{Counted, Listening, RateLimit};

fn policy(name: &str, targets: &str, limits: &str) -> String {
    format!(
        "apiVersion: lorica.io/v1alpha1\nkind: RateLimitPolicy\nmetadata: {{name: {name}, namespace: contact}}\nspec: {{targetRefs: [{targets}], limits: [{limits}]}}\n---\n"
    )
}

fn ids(limits: &[RateLimit]) -> Vec<&str> {
    limits.iter().map(|limit| &*limit.id).collect()
}

#[test]
fn limits_of_a_service_hold_at_its_workloads() {
    let policies = policy("a", "{name: recording}", "{name: one, requests: 1}, {name: two, scope: Global, requests: 2}")
        + &policy("b", "", "{name: one, concurrent: 1}")
        + &policy("c", "{name: recording-v2}", "{name: one, requests: 1}");
    let resources = resources(&[SERVICES, &policies]);
    let mut registry = registry(&resources);
    let name: WorkloadName = "recording-1.contact".parse().unwrap();
    registry.workloads.insert(name.clone(), workload("recording.contact", 1, &[(80, 8080, true)]));
    let world = World { resources: &resources, registry: &registry, trust_domain: &TrustDomain::default() };
    let unit = inbound(&world, &name).unwrap();
    assert_eq!(ids(&unit.limits), ["a.contact/one", "a.contact/two", "b.contact/one"]);
    assert!(matches!(global_limit(&world, "a.contact/two"), Some((_, quota)) if quota.requests == 2));
    for unknown in ["a.contact/one", "a.contact/three", "a.other/two", "two", ""] {
        assert!(global_limit(&world, unknown).is_none(), "{unknown}");
    }
}

#[test]
fn limits_of_a_gateway_hold_for_its_routes_and_theirs_for_each() {
    let policies = policy("a", "{kind: Gateway, name: edge}", "{name: all, requests: 1}")
        + &policy("b", "{kind: HTTPRoute, name: one}, {kind: Gateway, name: edge}", "{name: both, requests: 1}")
        + &policy("c", "{kind: HTTPRoute, name: two}", "{name: own, requests: 1}")
        + &policy("d", "{name: recording}", "{name: service, requests: 1}");
    let resources = resources(&[SERVICES, EDGE, &policies]);
    let registry = registry(&resources);
    let world = World { resources: &resources, registry: &registry, trust_domain: &TrustDomain::default() };
    let units = gateway(&world, &"edge.contact".parse().unwrap());
    let Listening::Http(hosts) = &units[0].listening else { panic!() };
    let rules = &hosts.all()[0].rules;
    let of = |name: &str| rules.iter().find(|rule| rule.origin.name == name).unwrap().filters.limits.clone();
    assert_eq!(ids(&of("one")), ["a.contact/all", "b.contact/both"]);
    assert_eq!(ids(&of("two")), ["a.contact/all", "b.contact/both", "c.contact/own"]);
    assert!(of("one").iter().all(|limit| matches!(limit.counted, Counted::Local(_))));
    // Calls inside the mesh are limited where they arrive.
    let called = outbound(&world, &Namespace::new("contact").unwrap(), &"recording.contact.mesh:80".parse().unwrap()).unwrap();
    assert!(called.rules.iter().all(|rule| rule.filters.limits.is_empty()));
}
