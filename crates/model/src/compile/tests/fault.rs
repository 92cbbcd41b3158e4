//! Which calls meet which faults.

use std::sync::Arc;

use super::*;
use crate::snapshot::{Action, EgressUnit, Fault, Forward, Listening, NameAnswer};

const ROUTE: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: split, namespace: contact}
spec:
  parentRefs: [{kind: Service, name: recording}]
  rules:
  - backendRefs: [{name: recording, port: 80}, {name: recording-v2, port: 80}]
";

fn policy(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: lorica.io/v1alpha1\nkind: FaultPolicy\nmetadata: {{name: {name}, namespace: contact}}\nspec: {{ends: 2026-11-30T12:00:00Z, {spec}}}\n"
    )
}

/// The faults by name, with the port that each is for.
fn named(faults: &[Fault]) -> Vec<String> {
    let to = |fault: &Fault| fault.to.as_ref().map(|port| format!(" to {port}")).unwrap_or_default();
    faults.iter().map(|fault| format!("{}{}", fault.origin.name, to(fault))).collect()
}

fn forward(rule: &crate::snapshot::HttpRule) -> &Forward {
    match &rule.action {
        Action::Forward(forward) => forward,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_call_meets_the_faults_of_its_service_its_route_and_where_it_goes() {
    let of = |spec: &str| {
        let unit = unit(&[SERVICES, ROUTE, &policy("f", spec)], "contact");
        named(&forward(&unit.rules[0]).faults)
    };
    assert_eq!(of("reset: {}"), ["f"]);
    assert_eq!(of("reset: {}, targetRefs: [{name: recording}]"), ["f"]);
    assert_eq!(of("reset: {}, targetRefs: [{kind: HTTPRoute, name: split}]"), ["f"]);
    assert_eq!(of("reset: {}, targetRefs: [{name: recording-v2}]"), ["f to recording-v2.contact.mesh:80"]);
    assert_eq!(of("dns: {answer: Timeout}"), [""; 0]);
    assert_eq!(of("reset: {}, match: {callers: [{namespace: shop}]}"), [""; 0]);
    assert_eq!(of("reset: {}, match: {callers: [{account: routing}]}"), ["f"]);
}

#[test]
fn faults_are_met_from_the_oldest_on() {
    let old = policy("z", "reset: {}").replace("name: z,", "name: z, creationTimestamp: '2026-01-01T00:00:00Z',");
    let young = policy("a", "reset: {}").replace("name: a,", "name: a, creationTimestamp: '2026-01-02T00:00:00Z',");
    let unit = unit(&[SERVICES, &young, &old], "contact");
    assert_eq!(named(&forward(&unit.rules[0]).faults), ["z", "a"]);
}

#[test]
fn a_gateway_meets_the_faults_of_the_services_behind_it() {
    const GATEWAY: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge, namespace: contact}
spec: {gatewayClassName: lorica, listeners: [{name: http, port: 80, protocol: HTTP}]}
";
    let route = ROUTE.replace("{kind: Service, name: recording}", "{name: edge}");
    let resources = resources(&[SERVICES, GATEWAY, &route, &policy("f", "reset: {}, targetRefs: [{name: recording-v2}]")]);
    let registry = registry(&resources);
    let world = World { resources: &resources, registry: &registry, trust_domain: &TrustDomain::default() };
    let Listening::Http(hosts) = gateway(&world, &"edge.contact".parse().unwrap()).remove(0).listening else { panic!() };
    assert_eq!(named(&forward(&hosts.all()[0].rules[0]).faults), ["f to recording-v2.contact.mesh:80"]);
}

#[test]
fn bytes_meet_what_needs_no_head() {
    let of = |protocol: &str, spec: &str| {
        let services = SERVICES.replacen(", appProtocol: http", protocol, 1);
        unit(&[&services, &policy("f", spec)], "contact").faults
    };
    assert_eq!(named(&of(", appProtocol: tcp", "reset: {}")), ["f"]);
    let detected = of("", "delay: {fixed: 1s}, abort: {httpStatus: 500}");
    assert!(matches!(detected.as_slice(), [one] if one.delay.is_some() && one.abort.is_none()), "{detected:?}");
    assert_eq!(named(&of("", "abort: {httpStatus: 500}")), [""; 0]);
    assert_eq!(named(&of("", "reset: {}, match: {headers: [{name: a, value: b}]}")), [""; 0]);
    // Where bytes are refused they meet nothing.
    assert_eq!(named(&of(", appProtocol: http", "reset: {}")), [""; 0]);
}

#[test]
fn names_fail_for_whom_the_policy_names() {
    let of = |spec: &str| -> EgressUnit {
        let resources = resources(&[SERVICES, &policy("f", spec)]);
        let registry = registry(&resources);
        let world = World { resources: &resources, registry: &registry, trust_domain: &TrustDomain::default() };
        egress(&world, &"routing-1.contact".parse().unwrap(), &"routing".parse().unwrap())
    };
    let named = |unit: EgressUnit| unit.names.iter().map(|fault| (fault.service.to_string(), fault.answer)).collect::<Vec<_>>();
    let all = named(of("dns: {answer: ServerFailure}"));
    assert_eq!(all.iter().map(|(service, _)| service.as_str()).collect::<Vec<_>>(), ["recording.contact", "recording-v2.contact"]);
    let one = named(of("dns: {answer: NoSuchName}, targetRefs: [{name: recording}], match: {callers: [{account: routing}]}"));
    assert_eq!(one, [("recording.contact".to_owned(), NameAnswer::NoSuchName)]);
    assert!(named(of("dns: {answer: NoSuchName}, match: {callers: [{account: other}]}")).is_empty());
    assert!(named(of("reset: {}")).is_empty());
}

#[test]
fn a_status_says_whether_a_fault_is_active() {
    let resources = Arc::new(resources(&[SERVICES, &policy("f", "reset: {}")]));
    let registry = registry(&resources);
    let resource = resources.of_kind(crate::resource::Kind::FaultPolicy).next().unwrap();
    let active = |in_force: &Resources| {
        let world = World { resources: in_force, registry: &registry, trust_domain: &TrustDomain::default() };
        status(&world, resource).unwrap()["conditions"][1].clone()
    };
    assert_eq!(active(&resources)["status"], "True");
    let over = active(&resources.in_force(std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1 << 33)));
    assert_eq!((over["status"].as_str(), over["reason"].as_str()), (Some("False"), Some("Ended")));
}
