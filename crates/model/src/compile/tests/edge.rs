//! What only gateways do.

use super::*;
use crate::snapshot::{GatewayUnit, Listening};

const GATEWAY: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge, namespace: contact}
spec: {gatewayClassName: lorica, listeners: [{name: http, port: 80, protocol: HTTP}]}
---
apiVersion: lorica.io/v1alpha1
kind: Service
metadata: {name: agents, namespace: contact}
spec: {ports: [{port: 50051, appProtocol: grpc}]}
";

/// The units of the gateway `edge.contact`.
fn units(texts: &[&str]) -> Vec<GatewayUnit> {
    let resources = resources(texts);
    let registry = registry(&resources);
    let world = World { resources: &resources, registry: &registry, trust_domain: &TrustDomain::default() };
    gateway(&world, &"edge.contact".parse().unwrap())
}

#[test]
fn grpc_web_is_translated_where_only_grpc_is_meant() {
    let translated = |kind: &str, parent: &str, rule: &str| {
        let route = format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\nmetadata: {{name: r, namespace: contact}}\nspec: {{parentRefs: [{parent}], rules: [{rule}]}}\n"
        );
        if parent.contains("Service") {
            return unit(&[SERVICES, GATEWAY, &route], "contact").rules[0].filters.grpc_web;
        }
        match &units(&[SERVICES, GATEWAY, &route])[0].listening {
            Listening::Http(hosts) => hosts.all()[0].rules[0].filters.grpc_web,
            other => panic!("{other:?}"),
        }
    };
    let (grpc, web) = ("{name: agents, port: 50051}", "{name: recording, port: 80}");
    for (kind, backends, expected) in [
        ("GRPCRoute", web.to_owned(), true),
        ("HTTPRoute", grpc.to_owned(), true),
        ("HTTPRoute", format!("{grpc}, {grpc}"), true),
        ("HTTPRoute", format!("{grpc}, {web}"), false),
        ("HTTPRoute", web.to_owned(), false),
    ] {
        assert_eq!(translated(kind, "{name: edge}", &format!("{{backendRefs: [{backends}]}}")), expected, "{kind} {backends}");
    }
    let elsewhere = "{filters: [{type: RequestRedirect, requestRedirect: {hostname: a.example}}]}";
    assert!(!translated("HTTPRoute", "{name: edge}", elsewhere), "a redirect calls nobody");
    // In the mesh callers speak gRPC themselves.
    assert!(!translated("GRPCRoute", "{kind: Service, name: recording, group: ''}", &format!("{{backendRefs: [{web}]}}")));
}

#[test]
fn a_port_in_tls_is_called_by_no_other_way() {
    let text = |trusted: &str| {
        format!(
            "apiVersion: lorica.io/v1alpha1\nkind: Service\nmetadata: {{name: recording, namespace: contact}}\nspec: {{ports: [{{name: chat, port: 80, appProtocol: kubernetes.io/wss}}]}}\n---\n\
             apiVersion: gateway.networking.k8s.io/v1\nkind: BackendTLSPolicy\nmetadata: {{name: chat, namespace: contact}}\nspec: {{targetRefs: [{{group: '', kind: Service, name: {trusted}}}], validation: {{hostname: chat.example, wellKnownCACertificates: System}}}}\n"
        )
    };
    let tls = unit(&[&text("recording, sectionName: chat")], "contact").cluster.tls.unwrap();
    assert_eq!((tls.server_name.as_str(), tls.roots), ("chat.example", None));
    for other in ["recording, sectionName: other", "agents"] {
        let text = text(other);
        let told = refused(&text);
        assert!(told.contains("port 80 speaks TLS") && told.contains("mesh.yaml:4:"), "{told}");
        // What is missing may come later; until then nobody is trusted.
        let mut resources = Resources::default();
        read("mesh.yaml", &text).unwrap().into_iter().for_each(|document| drop(resources.insert(document.resource)));
        let registry = registry(&resources);
        let world = World { resources: &resources, registry: &registry, trust_domain: &TrustDomain::default() };
        let unit = outbound(&world, &Namespace::default(), &"recording.contact.mesh:80".parse().unwrap()).unwrap();
        assert_eq!(unit.cluster.tls.unwrap().roots.as_deref(), Some(""));
    }
}
