//! What is tried stands beside what is in force, and takes nobody's place.

use std::time::Duration;

use super::*;
use crate::resource::Kind;
use crate::snapshot::{Forward, MtlsMode, Verdict};

fn policy(kind: &str, name: &str, spec: &str) -> String {
    format!("apiVersion: lorica.io/v1alpha1\nkind: {kind}\nmetadata: {{name: {name}, namespace: contact}}\nspec: {spec}\n")
}

fn forward(unit: &crate::snapshot::OutboundUnit, index: usize) -> Forward {
    unit.rules[index].forward().unwrap().clone()
}

const OWN: &str = "targetRefs: [{kind: Service, name: recording}]";
const ROUTE: &str = "
  - name: first
    matches: [{path: {type: Exact, value: /a}}]
    timeouts: {request: 9s}
    backendRefs: [{name: recording, port: 80}]
  - name: second
    backendRefs: [{name: recording, port: 80}]
";

#[test]
fn a_traffic_policy_is_tried_for_what_it_would_decide_alone() {
    let real = policy("TrafficPolicy", "real", &format!("{{{OWN}, timeouts: {{request: 2s}}, ejection: {{consecutive5xx: 9}}}}"));
    let spec = format!(
        "{{mode: Shadow, {OWN}, timeouts: {{request: 1s, perTry: 100ms}}, retries: {{attempts: 5}}, limits: {{requests: 3}}, ejection: {{maxPercent: 50}}}}"
    );
    let tried = policy("TrafficPolicy", "tried", &spec);
    let whole = policy("TrafficPolicy", "whole", "{mode: Shadow, timeouts: {request: 5s}, limits: {requests: 7}}");
    let route = route_of(ROUTE);
    let in_force = unit(&[SERVICES, &route, &real], "contact");
    let unit = unit(&[SERVICES, &route, &real, &tried, &whole], "contact");
    let without = |unit: &crate::snapshot::OutboundUnit| {
        let mut traffic = unit.cluster.traffic.clone();
        traffic.tried.clear();
        let rules = unit
            .rules
            .iter()
            .map(|rule| (rule.matches.clone(), rule.forward().map(|forward| Forward { tried: Vec::new(), ..forward.clone() })));
        (traffic, rules.collect::<Vec<_>>())
    };
    assert_eq!(without(&unit), without(&in_force), "all that holds is what held");
    let of_rule = |index: usize| {
        let tried = forward(&unit, index).tried;
        tried
            .iter()
            .map(|trial| {
                (trial.origin.name.clone(), trial.request, trial.backend_request, trial.retry.as_ref().map(|retry| retry.attempts))
            })
            .collect::<Vec<_>>()
    };
    let per_try = Some(Duration::from_millis(100));
    // What the rule says itself, no policy decides; nor does one of the namespace what one of the service says.
    assert_eq!(of_rule(0), [("tried".to_owned(), None, per_try, Some(5))]);
    assert_eq!(of_rule(1), [("tried".to_owned(), Some(Duration::from_secs(1)), per_try, Some(5))]);
    let traffic = &unit.cluster.traffic.tried;
    let named: Vec<_> = traffic.iter().map(|trial| (trial.origin.name.as_str(), trial.requests)).collect();
    assert_eq!(named, [("tried", Some(3)), ("whole", Some(7))]);
    // Whatever it leaves unsaid is as it is in force.
    let ejection = traffic[0].ejection.unwrap();
    assert_eq!((ejection.max_percent, ejection.consecutive_5xx), (50, Some(9)));
    assert_eq!(traffic[1].ejection, None);
}

#[test]
fn a_traffic_policy_of_a_route_is_tried_for_its_rule() {
    let target = "targetRefs: [{kind: HTTPRoute, name: recording, sectionName: second}]";
    let tried = policy("TrafficPolicy", "tried", &format!("{{mode: Shadow, {target}, timeouts: {{request: 1s}}}}"));
    let unit = unit(&[SERVICES, &route_of(ROUTE), &tried], "contact");
    let tried = |index: usize| forward(&unit, index).tried.iter().map(|trial| trial.to.to_string()).collect::<Vec<_>>();
    assert_eq!((tried(0), tried(1)), (Vec::new(), vec!["recording.contact.mesh:80".to_owned()]));
}

#[test]
fn two_policies_say_one_thing_where_one_is_tried() {
    let real = policy("TrafficPolicy", "real", &format!("{{{OWN}, timeouts: {{request: 2s}}}}"));
    let tried = policy("TrafficPolicy", "tried", &format!("{{mode: Shadow, {OWN}, timeouts: {{request: 1s}}}}"));
    // Neither is refused, in whichever order they come.
    for texts in [[SERVICES, &real, &tried], [SERVICES, &tried, &real]] {
        assert_eq!(resources(&texts).of_kind(Kind::TrafficPolicy).count(), 2);
    }
}

#[test]
fn tokens_and_mutual_tls_that_are_tried_are_asked_for_by_nobody() {
    let jwt = "jwt: {providers: [{name: l, issuer: i, audiences: [a], jwks: {url: 'https://login.example/keys'}}]}";
    let texts = [
        policy("AuthenticationPolicy", "a-tried", &format!("{{mode: Shadow, {OWN}, {jwt}, mtls: {{mode: Strict}}}}")),
        policy("AuthenticationPolicy", "open", "{mtls: {mode: Permissive}}"),
        policy("AuthenticationPolicy", "real", &format!("{{{jwt}}}")),
    ];
    let texts = texts.join("---\n");
    let resources = resources(&[SERVICES, &texts]);
    let mut registry = registry(&resources);
    let name: WorkloadName = "recording-1.contact".parse().unwrap();
    registry.workloads.insert(name.clone(), workload("recording.contact", 1, &[(80, 8080, true)]));
    let world = World { resources: &resources, registry: &registry, trust_domain: &TrustDomain::default() };
    let unit = inbound(&world, &name).unwrap();
    assert_eq!(unit.authentication.map(|found| found.origin.name.clone()).as_deref(), Some("real"));
    assert_eq!(unit.ports[0].mtls, MtlsMode::Permissive);
    let tried: Vec<_> = unit.tried.iter().map(|trial| (trial.origin.name.as_str(), trial.tokens.is_some(), trial.mutual_tls)).collect();
    assert_eq!(tried, [("a-tried", true, true)]);
}

#[test]
fn an_egress_policy_is_tried_beside_those_in_force() {
    let tried = |name: &str, spec: &str| egress_policy(name, "shop", &format!("{{mode: Shadow, {spec}}}"));
    let address = "192.0.2.1".parse().unwrap();
    // Who of the trials would refuse a call to a name.
    let refusing = |policies: &[String], name: &str| -> Vec<String> {
        let unit = leaving(&policies.concat(), "checkout");
        let verdict = unit.decide_finally(Some(address), 443, &[name]);
        assert_ne!(verdict, Verdict::Denied, "{name} leaves");
        unit.tried
            .iter()
            .filter(|trial| trial.would_refuse(verdict, address, 443, &[name]))
            .map(|trial| trial.origin.name.clone())
            .collect()
    };
    let strict = tried("strict", "allow: [{hosts: [a.example]}]");
    let alone = [strict.clone()];
    assert!(leaving(&alone.concat(), "checkout").is_open(), "nothing is forbidden");
    assert_eq!(refusing(&alone, "a.example"), [""; 0]);
    assert_eq!(refusing(&alone, "b.example"), ["strict"]);
    // What one in force lists may leave; what becomes of the rest, the closest says.
    let lists = egress_policy("lists", "shop", "{default: Allow, allow: [{hosts: [b.example]}]}");
    assert_eq!(refusing(&[strict.clone(), lists.clone()], "b.example"), [""; 0]);
    assert_eq!(refusing(&[strict.clone(), lists], "c.example"), ["strict"]);
    let closer = egress_policy("closer", "shop", "{default: Allow, targetRefs: [{name: checkout}]}");
    assert_eq!(refusing(&[strict, closer.clone()], "b.example"), [""; 0]);
    assert_eq!(refusing(&[tried("own", "targetRefs: [{name: checkout}]"), closer], "b.example"), ["own"]);
}

#[test]
fn faults_and_limits_are_marked() {
    let fault = policy("FaultPolicy", "f", "{mode: Shadow, ends: 2100-01-01T00:00:00Z, reset: {}, dns: {answer: NoSuchName}}");
    let unit = unit(&[SERVICES, &fault], "contact");
    assert!(forward(&unit, 0).faults.iter().all(|fault| fault.shadow) && !forward(&unit, 0).faults.is_empty());
    let limits = policy("RateLimitPolicy", "l", &format!("{{mode: Shadow, {OWN}, limits: [{{name: a, requests: 1}}]}}"));
    let resources = resources(&[SERVICES, &limits]);
    let mut registry = registry(&resources);
    let name: WorkloadName = "recording-1.contact".parse().unwrap();
    registry.workloads.insert(name.clone(), workload("recording.contact", 1, &[(80, 8080, true)]));
    let world = World { resources: &resources, registry: &registry, trust_domain: &TrustDomain::default() };
    assert!(inbound(&world, &name).unwrap().limits.iter().all(|limit| limit.shadow));
}
