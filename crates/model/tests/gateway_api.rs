//! The Gateway API's own conformance cases, as far as their routes use only fields that are carried out: these are attached to a
//! service in place of a gateway, compiled, and asked where each request goes. Where the cases are not at hand, the test says
//! so and passes.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test")]

use std::collections::BTreeMap;
use std::path::PathBuf;

use lorica_model::compile::{Registry, VirtualAddresses, World, outbound};
use lorica_model::head::{HeadBuilder, RequestHead, Version};
use lorica_model::name::{Namespace, ServiceName, ServicePort};
use lorica_model::reason::Reason;
use lorica_model::resource::{Options, Resources, check, read};
use lorica_model::snapshot::{Backend, HttpRule, OutboundUnit, PathMatch, route};
use lorica_model::spiffe::TrustDomain;

const NAMESPACE: &str = "gateway-conformance-infra";

/// The tests whose routes use only fields that are carried out.
const TESTS: [&str; 10] = [
    "HTTPRouteExactPathMatching",
    "HTTPRouteHeaderMatching",
    "HTTPRouteInvalidNonExistentBackendRef",
    "HTTPRouteMatching",
    "HTTPRouteMethodMatching",
    "HTTPRouteNamedRule",
    "HTTPRouteNoBackendRefs",
    "HTTPRoutePathMatchOrder",
    "HTTPRouteQueryParamMatching",
    "HTTPRouteSimpleSameNamespace",
];

fn folder() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/conformance/gateway-api"))
}

/// The backends that the suite deploys, and the service that stands in for its gateway.
fn services() -> String {
    let service = |name: &str, port: u16| {
        format!(
            "apiVersion: lorica.io/v1alpha1\nkind: Service\nmetadata: {{name: {name}, namespace: {NAMESPACE}}}\nspec: {{ports: [{{port: {port}, appProtocol: http}}]}}\n---\n"
        )
    };
    ["infra-backend-v1", "infra-backend-v2", "infra-backend-v3"].map(|name| service(name, 8080)).concat() + &service("same-namespace", 80)
}

fn unit(manifest: &str) -> OutboundUnit {
    let attached = manifest.replace("  - name: same-namespace\n", "  - {group: lorica.io, kind: Service, name: same-namespace}\n");
    let text = services() + &attached;
    let documents = read("manifest.yaml", &text)
        .unwrap_or_else(|found| panic!("{}", found.iter().map(|found| found.render(&text, false)).collect::<Vec<_>>().join("\n")));
    let mut resources = Resources::default();
    let found = check(&documents, &resources, Options { allow_missing: true }, |_| text.clone());
    assert!(found.iter().all(|found| found.severity == lorica_model::resource::Severity::Warning), "{found:?}");
    documents.into_iter().for_each(|document| drop(resources.insert(document.resource)));

    let addresses = VirtualAddresses { v4: [240, 0, 0, 2].into(), v6: "fd00::2".parse().unwrap() };
    let port: ServicePort = format!("same-namespace.{NAMESPACE}.mesh:80").parse().unwrap();
    let services: BTreeMap<ServiceName, _> = [(port.service.clone(), addresses)].into();
    let registry = Registry { services, ..Registry::default() };
    let world = World { resources: &resources, registry: &registry, trust_domain: &TrustDomain::default() };
    outbound(&world, &Namespace::new(NAMESPACE).unwrap(), &port).unwrap()
}

fn head(request: &serde_json::Value) -> RequestHead {
    let mut builder = HeadBuilder::with_capacity(256);
    for (name, value) in request["Headers"].as_object().into_iter().flatten() {
        builder.field(name.as_bytes(), value.as_str().unwrap().as_bytes()).unwrap();
    }
    let method = request["Method"].as_str().unwrap_or("GET");
    builder.request(Version::Http11, method, request["Path"].as_str().unwrap(), "10.0.0.1", None).unwrap()
}

/// Where a request goes: to a backend, or a status without one.
fn answer(unit: &OutboundUnit, head: &RequestHead) -> Result<String, i64> {
    let status = |reason| match reason {
        Reason::NoRoute => 404,
        Reason::NoBackend => 500,
        other => panic!("{other:?}"),
    };
    let rule = route::rule(&unit.rules, head, 0.0, &mut ()).map_err(status)?;
    drawn(rule, 0.0).map_err(status)
}

/// The service that a number draws of a rule.
fn drawn(rule: &HttpRule, random: f64) -> Result<String, Reason> {
    let index = route::backend(rule.backends(), random, &mut ())?;
    Ok(match &rule.backends()[index].backend {
        Backend::Port(port) => port.service.name.to_string(),
        Backend::Missing { name } => name.clone(),
    })
}

/// The route of one of the suite's manifests, compiled; none where the suite is not at hand.
fn unit_of(manifest: &str) -> Option<OutboundUnit> {
    let text = std::fs::read_to_string(folder().join("manifests/tests").join(manifest));
    if text.is_err() {
        println!("left out: the conformance cases are not at hand");
    }
    text.ok().map(|text| unit(&text))
}

#[test]
fn shares_are_those_of_the_weights() {
    let Some(unit) = unit_of("httproute-weight.yaml") else { return };
    let mut shares: BTreeMap<String, u32> = BTreeMap::new();
    for ticket in 0..1000 {
        let random = (f64::from(ticket) + 0.5) / 1000.0;
        *shares.entry(drawn(&unit.rules[0], random).unwrap()).or_default() += 1;
    }
    assert_eq!(shares.into_iter().collect::<Vec<_>>(), [("infra-backend-v1".to_owned(), 700), ("infra-backend-v2".to_owned(), 300)]);
}

#[test]
fn timeouts_are_those_written_and_zero_is_none() {
    let limits = |manifest| -> Option<Vec<_>> {
        let unit = unit_of(manifest)?;
        Some(
            unit.rules
                .iter()
                .map(|rule| (path_of(rule), rule.forward().unwrap().timeouts))
                .map(|(path, limits)| (path, limits.request, limits.backend_request))
                .collect(),
        )
    };
    let half = Some(std::time::Duration::from_millis(500));
    let Some(request) = limits("httproute-timeout-request.yaml") else { return };
    assert_eq!(request, [("/disable-request-timeout".to_owned(), None, None), ("/request-timeout".to_owned(), half, None)]);
    let Some(attempt) = limits("httproute-timeout-backend-request.yaml") else { return };
    assert_eq!(attempt, [("/disable-backend-timeout".to_owned(), None, None), ("/backend-timeout".to_owned(), None, half)]);
}

fn path_of(rule: &HttpRule) -> String {
    match &rule.matches.path {
        PathMatch::Exact(path) | PathMatch::Prefix(path) => path.clone(),
        PathMatch::Regex(pattern) => pattern.as_str().to_owned(),
    }
}

#[test]
fn requests_go_where_the_gateway_api_says() {
    let Ok(text) = std::fs::read_to_string(folder().join("httproute.json")) else {
        println!("left out: the conformance cases are not at hand");
        return;
    };
    let tests: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap();
    let mut cases = 0;
    for name in TESTS {
        let test = tests.iter().find(|test| test["name"] == name).unwrap_or_else(|| panic!("no test is named {name}"));
        let manifest = std::fs::read_to_string(folder().join("manifests").join(test["manifests"][0].as_str().unwrap())).unwrap();
        let unit = unit(&manifest);
        for case in test["cases"].as_array().unwrap() {
            let request = &case["Request"];
            let answer = answer(&unit, &head(request));
            match (case["Response"]["StatusCode"].as_i64(), case["Backend"].as_str()) {
                (Some(status @ (404 | 500)), _) => assert_eq!(answer, Err(status), "{name}: {request}"),
                (_, Some(backend)) => assert_eq!(answer.as_deref(), Ok(backend), "{name}: {request}"),
                // Any backend will do.
                (Some(200), None) => assert!(answer.is_ok(), "{name}: {request}"),
                other => panic!("{name}: {other:?}"),
            }
            cases += 1;
        }
    }
    assert!(cases > 50, "only {cases} cases were found");
}
