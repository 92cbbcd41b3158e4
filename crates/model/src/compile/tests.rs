//! YAML in, units out; and the order of precedence, whatever order the resources come in.

#![allow(clippy::unwrap_used, clippy::panic)]

use proptest::prelude::*;

use super::*;
use crate::head::{HeadBuilder, RequestHead, Version};
use crate::resource::{Options, check, read};
use crate::snapshot::route;

const SERVICES: &str = "
apiVersion: lorica.io/v1alpha1
kind: Service
metadata: {name: recording, namespace: contact}
spec: {ports: [{port: 80, appProtocol: http}]}
---
apiVersion: lorica.io/v1alpha1
kind: Service
metadata: {name: recording-v2, namespace: contact}
spec: {ports: [{port: 80, appProtocol: http}]}
";

fn resources(texts: &[&str]) -> Resources {
    let mut resources = Resources::default();
    for text in texts {
        let documents = read("mesh.yaml", text).unwrap_or_else(|found| panic!("{}", found.iter().map(|found| found.render(text, false)).collect::<String>()));
        let found = check(&documents, &resources, Options::default(), |_| (*text).to_owned());
        assert!(found.is_empty(), "{}", found.iter().map(|found| found.render(text, false)).collect::<String>());
        documents.into_iter().for_each(|document| drop(resources.insert(document.resource)));
    }
    resources
}

fn registry(resources: &Resources) -> Registry {
    let services = resources.services().enumerate().map(|(index, (metadata, _))| {
        let last = u8::try_from(index + 2).unwrap();
        let addresses = VirtualAddresses { v4: [240, 0, 0, last].into(), v6: format!("fd00::{last:x}").parse().unwrap() };
        (ServiceName::new(metadata.namespace.clone(), metadata.name.clone()), addresses)
    });
    Registry { services: services.collect(), workloads: BTreeMap::new() }
}

fn unit(texts: &[&str], viewer: &str) -> crate::snapshot::OutboundUnit {
    let resources = resources(texts);
    let registry = registry(&resources);
    let world = World { resources: &resources, registry: &registry, trust_domain: &TrustDomain::default() };
    outbound(&world, &Namespace::new(viewer).unwrap(), &"recording.contact.mesh:80".parse().unwrap()).unwrap()
}

fn get(path: &str, fields: &[(&str, &str)]) -> RequestHead {
    let mut builder = HeadBuilder::with_capacity(256);
    fields.iter().for_each(|(name, value)| builder.field(name.as_bytes(), value.as_bytes()).unwrap());
    builder.request(Version::Http11, "GET", path, "x", None).unwrap()
}

fn route_of(rules: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: recording, namespace: contact}}\nspec:\n  parentRefs: [{{kind: Service, name: recording}}]\n  rules:\n{rules}"
    )
}

#[test]
fn without_a_route_calls_go_to_the_service_itself() {
    insta::assert_json_snapshot!(unit(&[SERVICES], "contact"));
}

#[test]
fn rules_are_tried_in_the_gateway_apis_order() {
    let rules = "
  - matches: [{path: {value: /a}}]
    backendRefs: [{name: recording, port: 80}]
  - matches: [{path: {type: RegularExpression, value: '/a.*'}}, {path: {type: Exact, value: /a/b}}]
    backendRefs: [{name: recording-v2, port: 80, weight: 3}, {name: recording, port: 80, weight: 0}]
    timeouts: {request: 1m30s, backendRequest: 500ms}
  - matches: [{path: {value: /a}, headers: [{name: X-User, value: ann}]}, {path: {value: /a}, method: GET}]
";
    let unit = unit(&[SERVICES, &route_of(rules)], "contact");
    let order: Vec<_> = unit.rules.iter().map(|rule| (rule.origin.rule, rule.origin.matched)).collect();
    assert_eq!(order, [(1, 1), (2, 1), (2, 0), (0, 0), (1, 0)]);
    let chosen = |head: &RequestHead| route::rule(&unit, head, &mut ()).map(|rule| (rule.origin.rule, rule.origin.matched));
    assert_eq!(chosen(&get("/a/b?c=d", &[])), Ok((1, 1)));
    assert_eq!(chosen(&get("/a/c", &[("x-user", "ann")])), Ok((2, 1)));
    assert_eq!(chosen(&get("/abc", &[])), Ok((1, 0)));
    assert_eq!(chosen(&get("/b", &[])), Err(crate::reason::Reason::NoRoute));
    insta::assert_json_snapshot!(unit.rules[0]);
}

#[test]
fn a_callers_own_routes_come_in_place_of_the_services() {
    let producer = route_of("  - backendRefs: [{name: recording, port: 80}]\n");
    let consumer = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: mine, namespace: shop}\nspec:\n  parentRefs: [{kind: Service, name: recording, namespace: contact, port: 80}]\n  rules: [{backendRefs: [{name: recording-v2, namespace: contact, port: 80}]}]\n";
    let by = |viewer| unit(&[SERVICES, &producer, consumer], viewer).rules[0].origin.name.clone();
    assert_eq!((by("contact"), by("shop"), by("other")), ("recording".to_owned(), "mine".to_owned(), "recording".to_owned()));
}

#[test]
fn weights_share_requests_and_missing_backends_fail_their_share() {
    let mut unit = unit(&[SERVICES, &route_of("  - backendRefs: [{name: recording, port: 80, weight: 1}, {name: recording-v2, port: 80, weight: 3}]\n")], "contact");
    let drawn = |unit: &crate::snapshot::OutboundUnit, random| route::backend(&unit.rules[0], random, &mut ()).map(|port| port.service.name.to_string());
    assert_eq!(drawn(&unit, 0.24), Ok("recording".to_owned()));
    assert_eq!(drawn(&unit, 0.26), Ok("recording-v2".to_owned()));
    assert_eq!(drawn(&unit, 1.0), Ok("recording-v2".to_owned()));
    unit.rules[0].backends[1].backend = crate::snapshot::Backend::Missing { name: "gone".to_owned() };
    assert_eq!(drawn(&unit, 0.26), Err(crate::reason::Reason::NoBackend));
    unit.rules[0].backends.clear();
    assert_eq!(drawn(&unit, 0.0), Err(crate::reason::Reason::NoBackend));
}

#[track_caller]
fn refused(text: &str) -> String {
    let found = match read("mesh.yaml", text) {
        Err(found) => found,
        Ok(documents) => check(&documents, &resources(&[SERVICES]), Options::default(), |_| text.to_owned()),
    };
    assert!(!found.is_empty(), "it was taken");
    found.iter().map(|found| found.render(text, false)).collect::<Vec<_>>().join("\n\n")
}

#[test]
fn mistakes_are_shown_where_they_stand() {
    insta::assert_snapshot!(refused(&route_of(
        "  - backendRefs:\n    - {name: recordin, port: 80, wieght: 2}\n    timeouts: {request: 10 seconds}\n    filters: []\n"
    )));
    insta::assert_snapshot!(refused(&route_of("  - backendRefs: [{name: recordng, port: 80}, {name: recording, port: 81}]\n")));
    insta::assert_snapshot!(refused(&route_of("  - {}\n  - matches: [{path: {value: /}}]\n")));
    insta::assert_snapshot!(refused("apiVersion: lorica.io/v1alpha1\nkind: Servise\nmetadata: {name: web}\nspec: {}\n"));
    insta::assert_snapshot!(refused("apiVersion: lorica.io/v1alpha1\nkind: Service\nmetadata: {name: Web}\nspec:\n  ports: [{port: eighty}, {port: 70000}]\n"));
    insta::assert_snapshot!(refused("kind: Service\n  metadata: [\n"));
}

proptest! {
    #[test]
    fn precedence_does_not_depend_on_the_order_of_rules(seed in proptest::collection::vec((0..3_usize, 0..3_usize, any::<bool>()), 1..6), turn in 0..6_usize) {
        let paths = ["{value: /}", "{value: /a}", "{type: Exact, value: /a}"];
        let headers = ["[]", "[{name: x, value: a}]", "[{name: x, value: a}, {name: y, value: b}]"];
        let mut kinds: Vec<_> = seed;
        kinds.sort_unstable();
        kinds.dedup();
        let text = |kinds: &[(usize, usize, bool)]| {
            let rules: String = kinds.iter().map(|(path, header, method)| {
                let method = if *method { ", method: GET" } else { "" };
                format!("  - matches: [{{path: {}, headers: {}{method}}}]\n", paths[*path], headers[*header])
            }).collect();
            route_of(&rules)
        };
        let order = |kinds: &[(usize, usize, bool)]| unit(&[SERVICES, &text(kinds)], "contact").rules.into_iter().map(|rule| rule.matches).collect::<Vec<_>>();
        let first = order(&kinds);
        let turn = turn % kinds.len();
        kinds.rotate_left(turn);
        prop_assert_eq!(first, order(&kinds));
    }
}
