//! YAML in, units out; and the order of precedence, whatever order the resources come in.

#![allow(clippy::unwrap_used, clippy::panic)]

mod authentication;
mod edge;
mod fault;
mod rate_limit;
mod telemetry;
mod traffic;
mod tried;

use proptest::prelude::*;

use super::*;
use crate::head::{HeadBuilder, RequestHead, Version};
use crate::resource::{Options, check, read};
use crate::snapshot::Transport;
use crate::snapshot::route;

/// A gateway whose two routes go to one service.
const EDGE: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge, namespace: contact}
spec: {gatewayClassName: lorica, listeners: [{name: http, port: 80, protocol: HTTP}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: one, namespace: contact}
spec: {parentRefs: [{name: edge}], rules: [{matches: [{path: {value: /one}}], backendRefs: [{name: recording, port: 80}]}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: two, namespace: contact}
spec: {parentRefs: [{name: edge}], rules: [{matches: [{path: {value: /two}}], backendRefs: [{name: recording, port: 80}]}]}
";

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
        let documents = read("mesh.yaml", text)
            .unwrap_or_else(|found| panic!("{}", found.iter().map(|found| found.render(text, false)).collect::<String>()));
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
        (metadata.service().unwrap(), addresses)
    });
    Registry { services: services.collect(), ..Registry::default() }
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
    let chosen = |head: &RequestHead| route::rule(&unit.rules, head, 0.5, &mut ()).map(|rule| (rule.origin.rule, rule.origin.matched));
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
    let unit = unit(
        &[SERVICES, &route_of("  - backendRefs: [{name: recording, port: 80, weight: 1}, {name: recording-v2, port: 80, weight: 3}]\n")],
        "contact",
    );
    let drawn = |unit: &crate::snapshot::OutboundUnit, random| {
        let backends = unit.rules[0].backends();
        route::backend(backends, random, &mut ()).map(|index| match &backends[index].backend {
            crate::snapshot::Backend::Port(port) => port.service.name.to_string(),
            crate::snapshot::Backend::Missing { name } => name.clone(),
        })
    };
    assert_eq!(drawn(&unit, 0.24), Ok("recording".to_owned()));
    assert_eq!(drawn(&unit, 0.26), Ok("recording-v2".to_owned()));
    assert_eq!(drawn(&unit, 1.0), Ok("recording-v2".to_owned()));
    let unit = self::unit(
        &[
            SERVICES,
            &route_of("  - backendRefs: [{name: recording, port: 80, weight: 1}, {kind: Bucket, name: gone, port: 80, weight: 3}]\n"),
        ],
        "contact",
    );
    assert_eq!(drawn(&unit, 0.24), Ok("recording".to_owned()));
    assert_eq!(drawn(&unit, 0.26), Err(crate::reason::Reason::NoBackend));
    let unit = self::unit(&[SERVICES, &route_of("  - {}\n")], "contact");
    assert_eq!(drawn(&unit, 0.0), Err(crate::reason::Reason::NoBackend));
}

fn workload(service: &str, index: u8, ports: &[(u16, u16, bool)]) -> RegisteredWorkload {
    RegisteredWorkload {
        service: Some(service.parse().unwrap()),
        gateway: None,
        account: crate::name::Label::new("recorder").unwrap(),
        version: Some("v1".to_owned()),
        weight: 1,
        transport: crate::snapshot::Transport::MutualTls,
        locality: crate::snapshot::Locality::default(),
        addresses: VirtualAddresses { v4: [240, 0, 1, index].into(), v6: format!("fd00::1:{index:x}").parse().unwrap() },
        ports: ports
            .iter()
            .map(|(service_port, app_port, listening)| RegisteredPort {
                service_port: *service_port,
                app_port: *app_port,
                protocol: crate::snapshot::Protocol::Detect,
                address: SocketAddr::from(([127, 0, 0, 1], 20_000 + app_port)),
                listening: *listening,
            })
            .collect(),
        draining: false,
        withdrawn: false,
    }
}

const BY_HAND: &str = "
apiVersion: lorica.io/v1alpha1
kind: Workload
metadata: {name: old, namespace: contact}
spec: {service: recording, address: 10.0.0.9, ports: [{servicePort: 80, port: 8080}], weight: 5, transport: Plaintext}
";

#[test]
fn endpoints_are_those_that_listen_and_stay() {
    let resources = resources(&[SERVICES, BY_HAND]);
    let mut registry = registry(&resources);
    let mut add = |name: &str, workload: RegisteredWorkload| drop(registry.workloads.insert(name.parse().unwrap(), workload));
    add("recording-1.contact", workload("recording.contact", 1, &[(80, 8000, true), (80, 8001, true), (81, 8002, true)]));
    add("recording-2.contact", workload("recording.contact", 2, &[(80, 8000, false)]));
    add("recording-3.contact", RegisteredWorkload { draining: true, ..workload("recording.contact", 3, &[(80, 8000, true)]) });
    add("recording-v2-1.contact", workload("recording-v2.contact", 4, &[(80, 8000, true)]));
    let world = World { resources: &resources, registry: &registry, trust_domain: &TrustDomain::default() };
    let set = endpoints(&world, &"recording.contact.mesh:80".parse().unwrap()).unwrap();
    let seen: Vec<_> = set
        .endpoints
        .iter()
        .map(|endpoint| (endpoint.workload.to_string(), endpoint.address.to_string(), endpoint.transport, endpoint.weight))
        .collect();
    assert_eq!(
        seen,
        [
            ("old.contact".to_owned(), "10.0.0.9:8080".to_owned(), Transport::Plaintext, 5),
            ("recording-1.contact".to_owned(), "127.0.0.1:28000".to_owned(), Transport::MutualTls, 1),
            ("recording-1.contact".to_owned(), "127.0.0.1:28001".to_owned(), Transport::MutualTls, 1),
        ]
    );
    assert_eq!(endpoints(&world, &"recording.contact.mesh:81".parse().unwrap()), None);
    assert_eq!(
        outbound_ports(&world).map(|port| port.to_string()).collect::<Vec<_>>(),
        ["recording.contact.mesh:80", "recording-v2.contact.mesh:80"]
    );
    let accepted = |port: &str| {
        outbound(&world, &Namespace::default(), &port.parse().unwrap())
            .unwrap()
            .cluster
            .accepted
            .iter()
            .map(|id| id.path().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(accepted("recording.contact.mesh:80"), ["/ns/contact/sa/recorder", "/ns/contact/sa/recording"]);
    assert_eq!(accepted("recording-v2.contact.mesh:80"), ["/ns/contact/sa/recorder"]);
}

#[test]
fn a_services_own_policy_comes_before_its_namespaces() {
    let policy = |name: &str, targets: &str, mode: &str| {
        format!(
            "apiVersion: lorica.io/v1alpha1\nkind: AuthenticationPolicy\nmetadata: {{name: {name}, namespace: contact}}\nspec: {{{targets}mtls: {{mode: {mode}}}}}\n"
        )
    };
    let mode = |policies: &[String]| {
        let texts: Vec<&str> = [SERVICES].into_iter().chain(policies.iter().map(String::as_str)).collect();
        let resources = resources(&texts);
        let mut registry = registry(&resources);
        let name: WorkloadName = "recording-1.contact".parse().unwrap();
        registry.workloads.insert(name.clone(), workload("recording.contact", 1, &[(80, 8000, false)]));
        let unit = inbound(&World { resources: &resources, registry: &registry, trust_domain: &TrustDomain::default() }, &name).unwrap();
        assert_eq!(unit.identity.to_string(), "spiffe://mesh.local/ns/contact/sa/recorder");
        // The service's word, not the workload's.
        assert_eq!(unit.ports[0].protocol, crate::snapshot::Protocol::Http);
        unit.ports[0].mtls
    };
    let own = "targetRefs: [{kind: Service, name: recording}], ";
    assert_eq!(mode(&[]), MtlsMode::Strict);
    assert_eq!(mode(&[policy("all", "", "Permissive")]), MtlsMode::Permissive);
    assert_eq!(mode(&[policy("all", "", "Permissive"), policy("own", own, "Strict")]), MtlsMode::Strict);
    assert_eq!(mode(&[policy("all", "", "Strict"), policy("own", own, "Permissive")]), MtlsMode::Permissive);
    assert_eq!(mode(&[policy("one", own, "Permissive"), policy("two", own, "Strict")]), MtlsMode::Strict);
    assert_eq!(mode(&[policy("other", "targetRefs: [{kind: Service, name: recording-v2}], ", "Permissive")]), MtlsMode::Strict);
}

#[test]
fn every_service_with_an_address_has_a_name() {
    let resources = resources(&[SERVICES]);
    let mut registry = registry(&resources);
    registry.services.remove(&"recording-v2.contact".parse().unwrap());
    let tables = names(&World { resources: &resources, registry: &registry, trust_domain: &TrustDomain::default() });
    let seen: Vec<_> =
        tables.values().flat_map(|table| &table.records).map(|record| (record.name.as_str(), record.v4.to_string())).collect();
    assert_eq!(seen, [("recording", "240.0.0.2".to_owned())]);
}

#[test]
fn a_route_says_how_it_stands_with_each_parent() {
    let text = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: r, namespace: contact, generation: 3}\nspec:\n  parentRefs: [{kind: Service, name: recording, port: 80}, {kind: Service, name: gone}, {kind: Service, name: recording, port: 81}]\n  rules: [{backendRefs: [{name: recording, port: 82}]}]\n";
    let mut resources = resources(&[SERVICES]);
    read("mesh.yaml", text).unwrap().into_iter().for_each(|document| drop(resources.insert(document.resource)));
    let registry = registry(&resources);
    let world = World { resources: &resources, registry: &registry, trust_domain: &TrustDomain::default() };
    insta::assert_json_snapshot!(status(&world, resources.of_kind(crate::resource::Kind::HttpRoute).next().unwrap()));
}

#[test]
fn between_equal_matches_the_oldest_route_decides() {
    let route = |name: &str, created: &str| {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: {name}, namespace: contact, creationTimestamp: '{created}'}}\nspec:\n  parentRefs: [{{kind: Service, name: recording}}]\n  rules: [{{backendRefs: [{{name: recording, port: 80}}]}}]\n"
        )
    };
    let order = |routes: &[(&str, &str)]| {
        let mut resources = resources(&[SERVICES]);
        for (name, created) in routes {
            read("mesh.yaml", &route(name, created)).unwrap().into_iter().for_each(|document| drop(resources.insert(document.resource)));
        }
        let registry = registry(&resources);
        let world = World { resources: &resources, registry: &registry, trust_domain: &TrustDomain::default() };
        let unit = outbound(&world, &Namespace::new("contact").unwrap(), &"recording.contact.mesh:80".parse().unwrap()).unwrap();
        unit.rules.iter().map(|rule| rule.origin.name.clone()).collect::<Vec<_>>()
    };
    let mut routes = [("a", ""), ("b", "2026-01-01T00:00:00.5Z"), ("c", "2026-01-01T00:00:00Z"), ("d", "2026-01-01T00:00:00Z")];
    for _ in 0..routes.len() {
        assert_eq!(order(&routes), ["c", "d", "b", "a"]);
        routes.rotate_left(1);
    }
}

/// Each parent's `Accepted` condition of a route: whether it holds, and the reason.
fn accepted(resources: &Resources, name: &str) -> Vec<String> {
    let registry = registry(resources);
    let world = World { resources, registry: &registry, trust_domain: &TrustDomain::default() };
    let resource = resources.iter().find(|resource| resource.metadata.name.as_str() == name).unwrap();
    let status = status(&world, resource).unwrap();
    let condition = |parent: &serde_json::Value| {
        let conditions = parent["conditions"].as_array().unwrap();
        let found = conditions.iter().find(|condition| condition["type"] == "Accepted").unwrap();
        format!("{} {}", found["status"].as_str().unwrap(), found["reason"].as_str().unwrap())
    };
    status["parents"].as_array().unwrap().iter().map(condition).collect()
}

fn read_all(texts: &[String]) -> Resources {
    let mut resources = resources(&[SERVICES]);
    for text in texts {
        read("mesh.yaml", text).unwrap().into_iter().for_each(|document| drop(resources.insert(document.resource)));
    }
    resources
}

#[test]
fn of_an_http_route_and_a_grpc_route_of_one_host_the_older_is_accepted() {
    let gateway = "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: edge, namespace: contact}\nspec: {gatewayClassName: lorica, listeners: [{name: one, port: 80, protocol: HTTP}, {name: two, port: 81, protocol: HTTP, hostname: other.example}]}\n".to_owned();
    let route = |kind: &str, name: &str, second: u8, host: &str, parents: &str| {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\nmetadata: {{name: {name}, namespace: contact, creationTimestamp: '2026-01-01T00:00:0{second}Z'}}\nspec:\n  hostnames: [{host}]\n  parentRefs: [{parents}]\n  rules: [{{backendRefs: [{{name: recording, port: 80}}]}}]\n"
        )
    };
    let (one, both) = ("{name: edge, sectionName: one}", "{name: edge, sectionName: one}, {name: edge, sectionName: two}");
    let of = |http: u8, grpc: u8, host: &str| {
        let routes = [gateway.clone(), route("HTTPRoute", "h", http, "'*.example'", both), route("GRPCRoute", "g", grpc, host, one)];
        let resources = read_all(&routes);
        (accepted(&resources, "h"), accepted(&resources, "g"))
    };
    let (yes, no) = ("True Accepted".to_owned(), "False Conflicted".to_owned());
    assert_eq!(of(1, 2, "a.example"), (vec![yes.clone(), yes.clone()], vec![no.clone()]));
    // At the other listener, which the GRPCRoute does not name, the HTTPRoute is alone.
    assert_eq!(of(2, 1, "a.example"), (vec![no.clone(), yes.clone()], vec![yes.clone()]));
    // Of one age: by name.
    assert_eq!(of(1, 1, "a.example"), (vec![no, yes.clone()], vec![yes.clone()]));
    // Their hosts never meet.
    assert_eq!(of(1, 2, "a.test"), (vec![yes.clone(), yes.clone()], vec![yes]));
}

#[test]
fn at_a_service_port_grpc_routes_come_before_http_routes() {
    let route = |kind: &str, name: &str, parent: &str| {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\nmetadata: {{name: {name}, namespace: contact}}\nspec:\n  parentRefs: [{{kind: Service, group: '', name: {parent}}}]\n  rules: [{{backendRefs: [{{name: recording, port: 80}}]}}]\n"
        )
    };
    let resources =
        read_all(&[route("HTTPRoute", "a", "recording"), route("GRPCRoute", "b", "recording"), route("HTTPRoute", "c", "recording-v2")]);
    let registry = registry(&resources);
    let world = World { resources: &resources, registry: &registry, trust_domain: &TrustDomain::default() };
    let unit = outbound(&world, &Namespace::new("contact").unwrap(), &"recording.contact.mesh:80".parse().unwrap()).unwrap();
    assert_eq!(unit.rules.iter().map(|rule| rule.origin.name.as_str()).collect::<Vec<_>>(), ["b"]);
    assert_eq!(["a", "b", "c"].map(|name| accepted(&resources, name).concat()), ["False Conflicted", "True Accepted", "True Accepted"]);
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
    insta::assert_snapshot!(refused(
        "apiVersion: lorica.io/v1alpha1\nkind: Service\nmetadata: {name: Web}\nspec:\n  ports: [{port: eighty}, {port: 70000}]\n"
    ));
    insta::assert_snapshot!(refused("kind: Service\n  metadata: [\n"));
}

/// All that is pushed for a small mesh, as it was written and registered.
#[test]
fn a_mesh_compiles_to_its_units() {
    let text = "
apiVersion: lorica.io/v1alpha1
kind: Service
metadata: {name: recording, namespace: contact}
spec: {ports: [{port: 80, appProtocol: http}, {port: 9000, appProtocol: tcp}], accounts: [archivist]}
---
apiVersion: lorica.io/v1alpha1
kind: Service
metadata: {name: recording-v2, namespace: contact}
spec: {ports: [{port: 80, appProtocol: grpc}]}
---
apiVersion: lorica.io/v1alpha1
kind: AuthenticationPolicy
metadata: {name: migration, namespace: contact}
spec: {targetRefs: [{kind: Service, name: recording}], mtls: {mode: Permissive}}
---
apiVersion: lorica.io/v1alpha1
kind: Workload
metadata: {name: old, namespace: contact}
spec: {service: recording, address: 10.0.0.9, ports: [{servicePort: 80, port: 8080}], version: v0, locality: {region: eu, zone: a}, transport: Plaintext}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: canary, namespace: contact}
spec:
  parentRefs: [{kind: Service, name: recording, port: 80}]
  rules:
  - matches: [{path: {value: /recordings}, headers: [{name: X-Beta, value: 'yes'}], queryParams: [{name: tier, value: gold|silver, type: RegularExpression}]}]
    backendRefs: [{name: recording-v2, port: 80, weight: 5}, {name: recording, port: 80, weight: 95}]
    timeouts: {request: 2s}
  - backendRefs: [{name: recording, port: 80}]
";
    let resources = resources(&[text]);
    let mut registry = registry(&resources);
    let name: WorkloadName = "recording-1.contact".parse().unwrap();
    registry.workloads.insert(name.clone(), workload("recording.contact", 1, &[(80, 8000, true), (9000, 9000, false)]));
    let world = World { resources: &resources, registry: &registry, trust_domain: &TrustDomain::default() };
    let contact = Namespace::new("contact").unwrap();
    insta::assert_json_snapshot!("mesh_names", names(&world));
    insta::assert_json_snapshot!("mesh_inbound", inbound(&world, &name).unwrap());
    for (file, port) in [("http", "recording.contact.mesh:80"), ("tcp", "recording.contact.mesh:9000")] {
        let port: ServicePort = port.parse().unwrap();
        insta::assert_json_snapshot!(format!("mesh_outbound_{file}"), outbound(&world, &contact, &port).unwrap());
        insta::assert_json_snapshot!(format!("mesh_endpoints_{file}"), endpoints(&world, &port).unwrap());
    }
}

#[test]
fn a_route_on_tcp_alone_says_so() {
    let mut resources = resources(&[SERVICES, &route_of("  - {}\n")]);
    let tcp = SERVICES.replacen("http}", "tcp}", 1);
    read("mesh.yaml", &tcp).unwrap().into_iter().for_each(|document| drop(resources.insert(document.resource)));
    // Its bytes pass unlooked at; the rules wait for the port to be HTTP again.
    let registry = registry(&resources);
    let world = World { resources: &resources, registry: &registry, trust_domain: &TrustDomain::default() };
    assert!(!outbound(&world, &Namespace::default(), &"recording.contact.mesh:80".parse().unwrap()).unwrap().http_only);
    let status = status(&world, resources.of_kind(crate::resource::Kind::HttpRoute).next().unwrap()).unwrap();
    let accepted = &status["parents"][0]["conditions"][0];
    assert_eq!((&accepted["status"], &accepted["reason"]), (&"False".into(), &"NotAllowedByListeners".into()));
}

/// The Gateway API's order between two matches, written down once more in its own words.
fn comes_first(one: &crate::snapshot::RouteMatch, other: &crate::snapshot::RouteMatch) -> std::cmp::Ordering {
    use crate::snapshot::PathMatch::{Exact, Prefix, Regex};
    let exact = |found: &crate::snapshot::RouteMatch| matches!(found.path, Exact(_));
    let regex = |found: &crate::snapshot::RouteMatch| matches!(found.path, Regex(_));
    let length = |found: &crate::snapshot::RouteMatch| match &found.path {
        Exact(path) => path.len(),
        Prefix(path) => path.trim_end_matches('/').len(),
        Regex(pattern) => pattern.as_str().len(),
    };
    exact(other)
        .cmp(&exact(one))
        .then(regex(one).cmp(&regex(other)))
        .then(length(other).cmp(&length(one)))
        .then(other.method.is_some().cmp(&one.method.is_some()))
        .then(other.headers.len().cmp(&one.headers.len()))
        .then(other.query.len().cmp(&one.query.len()))
}

/// Path, headers, query parameters, method of a match; the age of its route.
type Written = ((usize, usize, usize, bool), u8);

proptest! {
    #[test]
    fn precedence_is_total_over_routes_in_whatever_order_they_come(
        written in proptest::collection::vec(((0..6_usize, 0..3_usize, 0..3_usize, any::<bool>()), 0..3_u8), 1..8),
        shuffled in any::<u64>(),
    ) {
        let paths = ["{value: /}", "{value: /a}", "{value: /a/}", "{type: Exact, value: /a}", "{type: RegularExpression, value: '/a.*'}", "{type: Exact, value: /a/b}"];
        let fields = ["[]", "[{name: x, value: a}]", "[{name: x, value: a}, {name: y, value: b}]"];
        // The same route text under the same name, wherever it stands among the others.
        let text = |(name, ((path, headers, query, method), age)): &(usize, Written)| format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: r{name}, namespace: contact, creationTimestamp: '2026-01-0{}T00:00:00Z'}}\nspec:\n  parentRefs: [{{kind: Service, name: recording}}]\n  rules:\n  - matches: [{{path: {}, headers: {}, queryParams: {}{}}}, {{path: {{value: /z}}}}]\n",
            age + 1, paths[*path], fields[*headers], fields[*query], if *method { ", method: GET" } else { "" },
        );
        let rules = |routes: &[(usize, Written)]| {
            let mut resources = resources(&[SERVICES]);
            for route in routes {
                read("mesh.yaml", &text(route)).unwrap().into_iter().for_each(|document| drop(resources.insert(document.resource)));
            }
            let registry = registry(&resources);
            let world = World { resources: &resources, registry: &registry, trust_domain: &TrustDomain::default() };
            outbound(&world, &Namespace::new("contact").unwrap(), &"recording.contact.mesh:80".parse().unwrap()).unwrap().rules
        };
        let routes: Vec<(usize, Written)> = written.into_iter().enumerate().collect();
        let first = rules(&routes);
        let mut turned = routes.clone();
        turned.sort_by_key(|(name, _)| shuffled.rotate_left(u32::try_from(name * 9).unwrap()) & 0xff);
        prop_assert_eq!(&first, &rules(&turned));
        let age = |rule: &crate::snapshot::HttpRule| routes[rule.origin.name[1..].parse::<usize>().unwrap()].1.1;
        for pair in first.windows(2) {
            let order = comes_first(&pair[0].matches, &pair[1].matches);
            let order = order.then_with(|| age(&pair[0]).cmp(&age(&pair[1]))).then_with(|| pair[0].origin.name.cmp(&pair[1].origin.name)).then(pair[0].origin.matched.cmp(&pair[1].origin.matched));
            prop_assert_eq!(order, std::cmp::Ordering::Less, "{:?}", pair);
        }
    }

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
        let order = |kinds: &[(usize, usize, bool)]| unit(&[SERVICES, &text(kinds)], "contact").rules.iter().map(|rule| rule.matches.clone()).collect::<Vec<_>>();
        let first = order(&kinds);
        let turn = turn % kinds.len();
        kinds.rotate_left(turn);
        prop_assert_eq!(first, order(&kinds));
    }
}

/// A world with a workload `checkout-1.shop` of the service `checkout`, and an egress gateway `out.edge`.
fn leaving(policies: &str, account: &str) -> crate::snapshot::EgressUnit {
    const SHOP: &str = "
apiVersion: lorica.io/v1alpha1
kind: Service
metadata: {name: checkout, namespace: shop}
spec: {ports: [{port: 80}], accounts: [checkout]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: out, namespace: edge}
spec: {gatewayClassName: lorica, listeners: [{name: egress, port: 15008, protocol: lorica.io/egress}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: open, namespace: edge}
spec: {gatewayClassName: lorica, listeners: [{name: egress, port: 15008, protocol: lorica.io/egress, allowedRoutes: {namespaces: {from: All}}}]}
";
    let resources = resources(&[SHOP, policies]);
    let registry = registry(&resources);
    let world = World { resources: &resources, registry: &registry, trust_domain: &TrustDomain::default() };
    egress(&world, &"checkout-1.shop".parse().unwrap(), &account.parse().unwrap())
}

fn egress_policy(name: &str, namespace: &str, spec: &str) -> String {
    format!("---\napiVersion: lorica.io/v1alpha1\nkind: EgressPolicy\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {spec}\n")
}

/// The unit in words: its rules, then what becomes of the rest.
fn in_words(unit: &crate::snapshot::EgressUnit) -> Vec<String> {
    let via = |rule: &crate::snapshot::EgressRule| rule.via.as_ref().map(|via| format!(" via {via:?}")).unwrap_or_default();
    let rules =
        unit.rules.iter().map(|rule| format!("{}{:?} {}.{}{}", rule.host, rule.ports, rule.origin.name, rule.origin.rule, via(rule)));
    let rest = match &unit.unlisted {
        crate::snapshot::Unlisted::Allow => "allow".to_owned(),
        crate::snapshot::Unlisted::Deny(origin) => format!("deny {}", origin.name),
    };
    rules.chain([rest]).collect()
}

#[test]
fn without_a_policy_everything_may_leave() {
    assert!(leaving("", "checkout").is_open());
}

#[test]
fn what_any_policy_lists_may_leave_in_the_order_in_which_it_is_tried() {
    let policies = egress_policy("mesh", "infra", "{targetRefs: [{kind: Mesh, name: default}], allow: [{hosts: ['*', pool.ntp.org]}]}")
        + &egress_policy("own", "shop", "{allow: [{hosts: ['*.example', a.example, 10.0.0.0/8]}, {hosts: [10.1.0.0/16], ports: [443]}]}")
        + &egress_policy("other", "bank", "{allow: [{hosts: [secret.example]}]}");
    let expected = [
        "10.1.0.0/16[443] own.1",
        "10.0.0.0/8[] own.0",
        "pool.ntp.org[] mesh.0",
        "a.example[] own.0",
        "*.example[] own.0",
        "*[] mesh.0",
        "deny own",
    ];
    assert_eq!(in_words(&leaving(&policies, "checkout")), expected);
}

#[test]
fn the_closest_policy_says_what_becomes_of_the_rest() {
    let mesh =
        |default: &str| egress_policy("mesh", "infra", &format!("{{default: {default}, targetRefs: [{{kind: Mesh, name: default}}]}}"));
    let own = |default: &str| egress_policy("own", "shop", &format!("{{default: {default}}}"));
    let service = |default: &str| egress_policy("service", "shop", &format!("{{default: {default}, targetRefs: [{{name: checkout}}]}}"));
    let rest = |policies: &[String], account: &str| in_words(&leaving(&policies.concat(), account)).pop().unwrap();
    assert_eq!(rest(&[mesh("Deny")], "checkout"), "deny mesh");
    assert_eq!(rest(&[mesh("Deny"), own("Allow")], "checkout"), "allow");
    assert_eq!(rest(&[mesh("Deny"), own("Allow"), service("Deny")], "checkout"), "deny service");
    assert_eq!(rest(&[mesh("Deny"), own("Allow"), service("Deny")], "web"), "allow", "the service's policy is about its accounts alone");
    let twice = egress_policy("more", "shop", "{}");
    assert_eq!(rest(&[own("Allow"), twice], "checkout"), "deny more", "of equals those that deny");
}

#[test]
fn callers_and_gateways_are_those_that_policies_name() {
    let policies = egress_policy(
        "own",
        "shop",
        "{allow: [{hosts: [a.example], callers: [{account: web}]}, {hosts: [b.example], via: {name: open, namespace: edge}}, {hosts: [c.example], via: {name: out, namespace: edge}}]}",
    );
    let expected = [
        "b.example[] own.1 via Port(open.edge.mesh:15008)",
        // The gateway lets in policies of its own namespace only, and nothing may go around it.
        "c.example[] own.2 via Missing { name: \"out.edge\" }",
        "deny own",
    ];
    assert_eq!(in_words(&leaving(&policies, "checkout")), expected);
}
