//! Which tokens are asked for where.

use super::*;
use crate::resource::Kind;
use crate::snapshot::{Authentication, Listening};

const URL: &str = "https://login.example/keys";

fn policy(name: &str, targets: &str) -> String {
    format!(
        "apiVersion: lorica.io/v1alpha1\nkind: AuthenticationPolicy\nmetadata: {{name: {name}, namespace: contact}}\nspec: {{{targets}jwt: {{providers: [{{name: l, issuer: i, audiences: [a], jwks: {{url: '{URL}'}}}}]}}}}\n---\n"
    )
}

/// The world with these policies, whatever they are warned of.
fn world_with(policies: &str) -> Resources {
    let mut resources = resources(&[SERVICES, EDGE]);
    for document in read("mesh.yaml", policies).unwrap() {
        resources.insert(document.resource);
    }
    resources
}

fn name(found: Option<&Arc<Authentication>>) -> Option<&str> {
    found.map(|found| found.origin.name.as_str())
}

#[test]
fn a_services_policy_holds_in_place_of_its_namespaces() {
    let of = |policies: &str| {
        let resources = world_with(policies);
        let mut registry = registry(&resources);
        let workload_name: WorkloadName = "recording-1.contact".parse().unwrap();
        registry.workloads.insert(workload_name.clone(), workload("recording.contact", 1, &[(80, 8080, true)]));
        let world = World { resources: &resources, registry: &registry, trust_domain: &TrustDomain::default() };
        inbound(&world, &workload_name).unwrap().authentication
    };
    let all = policy("all", "");
    let own = policy("own", "targetRefs: [{name: recording}], ");
    assert_eq!(name(of(&all).as_ref()), Some("all"));
    assert_eq!(name(of(&(all + &own)).as_ref()), Some("own"));
    assert_eq!(name(of(&own.replace("name: recording}", "name: recording-v2}")).as_ref()), None);
    let two = own.clone() + &own.replace("name: own", "name: before");
    assert_eq!(name(of(&two).as_ref()), Some("before"), "of two the older, or the first by name");
}

#[test]
fn a_routes_policy_holds_in_place_of_its_gateways_and_keys_come_from_the_registry() {
    let policies =
        policy("edge", "targetRefs: [{kind: Gateway, name: edge}], ") + &policy("own", "targetRefs: [{kind: HTTPRoute, name: two}], ");
    let resources = world_with(&policies);
    let mut registry = registry(&resources);
    let keys_of = |registry: &Registry| -> Vec<(String, Option<String>, Option<String>)> {
        let world = World { resources: &resources, registry, trust_domain: &TrustDomain::default() };
        let units = gateway(&world, &"edge.contact".parse().unwrap());
        let Listening::Http(hosts) = &units[0].listening else { panic!() };
        let rules = hosts.all().iter().flat_map(|host| host.rules.iter());
        let found = rules.map(|rule| {
            let authentication = rule.filters.authentication.as_ref();
            let keys = authentication.and_then(|found| found.providers[0].keys.as_deref()).map(str::to_owned);
            (rule.origin.name.clone(), name(authentication).map(str::to_owned), keys)
        });
        found.collect()
    };
    let told = |registry: &Registry| {
        let world = World { resources: &resources, registry, trust_domain: &TrustDomain::default() };
        let resource = resources.of_kind(Kind::AuthenticationPolicy).next().unwrap();
        let status = status(&world, resource).unwrap();
        status["conditions"][2]["reason"].as_str().unwrap().to_owned()
    };
    let expected = |keys: Option<&str>| {
        [("one", "edge"), ("two", "own")].map(|(route, policy)| (route.to_owned(), Some(policy.to_owned()), keys.map(str::to_owned)))
    };
    assert_eq!(keys_of(&registry), expected(None));
    assert_eq!(told(&registry), "KeysPending");
    registry.key_sets.insert(URL.to_owned(), KnownKeys { keys: Some("{}".into()), problem: None });
    assert_eq!(keys_of(&registry), expected(Some("{}")));
    assert_eq!(told(&registry), "KeysFetched");
    registry.key_sets.insert(URL.to_owned(), KnownKeys { keys: Some("{}".into()), problem: Some("down".to_owned()) });
    assert_eq!(told(&registry), "KeysNotRenewed");
}
