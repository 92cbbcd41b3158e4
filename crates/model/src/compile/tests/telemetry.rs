//! Which policy is heard where.

use super::*;
use crate::snapshot::{AccessLogFormat, LogTarget, Share, Telemetry};

fn policy(name: &str, spec: &str) -> String {
    format!("apiVersion: lorica.io/v1alpha1\nkind: TelemetryPolicy\nmetadata: {{name: {name}, namespace: contact}}\nspec: {spec}\n---\n")
}

fn told(policies: &str) -> [Option<Telemetry>; 3] {
    let resources = resources(&[SERVICES, EDGE, policies]);
    let mut registry = registry(&resources);
    let service: WorkloadName = "recording-1.contact".parse().unwrap();
    let client: WorkloadName = "client-1.contact".parse().unwrap();
    registry.workloads.insert(service.clone(), workload("recording.contact", 1, &[(80, 8080, true)]));
    registry.workloads.insert(client.clone(), RegisteredWorkload { service: None, ..workload("recording.contact", 2, &[]) });
    let world = World { resources: &resources, registry: &registry, trust_domain: &TrustDomain::default() };
    let units = gateway(&world, &"edge.contact".parse().unwrap());
    assert!(units.iter().all(|unit| unit.telemetry == units[0].telemetry));
    let of = |told: Option<Arc<Telemetry>>| told.map(|told| (*told).clone());
    [of(inbound(&world, &service).unwrap().telemetry), of(inbound(&world, &client).unwrap().telemetry), of(units[0].telemetry.clone())]
}

fn share(telemetry: &Option<Telemetry>) -> Option<u32> {
    telemetry.as_ref()?.tracing?.sampling.map(|Share(share)| share)
}

#[test]
fn a_policy_is_heard_at_what_it_names_or_in_its_whole_namespace() {
    assert_eq!(told(""), [None, None, None]);
    let whole = told(&policy("a", "{tracing: {sampling: 5%}}"));
    assert_eq!(whole.map(|told| share(&told)), [Some(50_000); 3]);
    let named = told(&policy("a", "{targetRefs: [{name: recording}], tracing: {sampling: 5%}}"));
    assert_eq!(named.map(|told| share(&told)), [Some(50_000), None, None]);
    let gateway = told(&policy("a", "{targetRefs: [{kind: Gateway, name: edge}], tracing: {sampling: 5%}}"));
    assert_eq!(gateway.map(|told| share(&told)), [None, None, Some(50_000)]);
    let other = told(&policy("a", "{tracing: {sampling: 5%}}").replace("namespace: contact", "namespace: other"));
    assert_eq!(other, [None, None, None]);
}

#[test]
fn the_narrower_is_heard_first_each_for_what_it_says() {
    let policies = policy("a", "{tracing: {sampling: 1%}, accessLog: {to: [Mesh]}}")
        + &policy("b", "{targetRefs: [{name: recording}, {kind: Gateway, name: edge}], tracing: {sampling: 2%}}")
        + &policy("c", "{targetRefs: [{kind: Gateway, name: edge}], accessLog: {format: {text: x}}}");
    let [service, client, gateway] = told(&policies);
    assert_eq!([&service, &client, &gateway].map(share), [Some(20_000), Some(10_000), Some(20_000)]);
    let log = |told: Option<Telemetry>| told.and_then(|told| told.access_log).unwrap();
    assert_eq!(log(service).to, [LogTarget::Mesh]);
    assert_eq!(log(client).format, AccessLogFormat::Json);
    assert!(matches!(log(gateway).format, AccessLogFormat::Text(_)));
}
