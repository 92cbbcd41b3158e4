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

const CERTIFICATE: &str = r#"
apiVersion: v1
kind: Secret
metadata: {name: a, namespace: contact}
type: lorica.io/tls-files
stringData: {certificate: /a.pem, key: /a.key}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: roots, namespace: contact}
data: {ca.crt: "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"}
"#;

/// A gateway of these listeners; `more` stands in its `spec`.
fn listening(listeners: &str, more: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: edge, namespace: contact}}\nspec: {{gatewayClassName: lorica, {more}listeners: [{listeners}]}}\n"
    )
}

#[test]
fn http3_is_served_where_its_listener_says_so() {
    let asked = "tls: {certificateRefs: [{name: a}], options: {lorica.io/http3: 'true', example.com/other: x}}";
    let listeners = format!(
        "{{name: a, port: 443, protocol: HTTPS, hostname: a.example, {asked}}}, {{name: b, port: 443, protocol: HTTPS, tls: {{certificateRefs: [{{name: a}}]}}}}"
    );
    let served = |text: &str| {
        let mut resources = Resources::default();
        for text in [CERTIFICATE, text] {
            read("mesh.yaml", text).unwrap().into_iter().for_each(|document| drop(resources.insert(document.resource)));
        }
        let registry = registry(&resources);
        let world = World { resources: &resources, registry: &registry, trust_domain: &TrustDomain::default() };
        let units = gateway(&world, &"edge.contact".parse().unwrap());
        let Some(Listening::Tls(chains)) = units.iter().find(|unit| unit.port == 443).map(|unit| unit.listening.clone()) else {
            panic!("{units:?}")
        };
        let status = status(&world, resources.of_kind(crate::resource::Kind::Gateway).next().unwrap()).unwrap();
        let programmed = status["listeners"][0]["conditions"][1].clone();
        assert_eq!((&programmed["type"], &programmed["status"]), (&"Programmed".into(), &"True".into()), "{programmed}");
        (chains.iter().map(|chain| chain.http3).collect::<Vec<_>>(), programmed["message"].as_str().unwrap().to_owned())
    };
    assert_eq!(served(&listening(&listeners, "")), (vec![true, false], String::new()));
    let validated = "tls: {frontend: {default: {validation: {caCertificateRefs: [{group: '', kind: ConfigMap, name: roots}]}}}}, ";
    let (served_so, message) = served(&listening(&listeners, validated));
    assert_eq!((served_so, message.contains("certificates")), (vec![false, false], true), "{message}");
    let beside = format!("{listeners}, {{name: c, port: 443, protocol: UDP}}");
    let (served_so, message) = served(&listening(&beside, ""));
    assert_eq!((served_so, message.contains("UDP")), (vec![false, false], true), "{message}");
    // Both are told of where they are written, too.
    for (text, told) in
        [(listening(&listeners, validated), "must show certificates"), (listening(&beside, ""), "a listener for UDP has port 443")]
    {
        let found = refused(&format!("{CERTIFICATE}---\n{text}"));
        assert!(found.contains("warning") && found.contains(told) && found.contains("mesh.yaml:"), "{found}");
    }
}

#[test]
fn http3_is_asked_for_in_one_place_by_one_word() {
    let listener = |protocol: &str, options: &str| {
        listening(
            &format!("{{name: a, port: 443, protocol: {protocol}, tls: {{certificateRefs: [{{name: a}}], options: {{{options}}}}}}}"),
            "",
        )
    };
    for (text, told) in [
        (listener("HTTPS", "lorica.io/http3: 'yes'"), "is not `\"true\"`"),
        (listener("HTTPS", "lorica.io/http3: 'false'"), "is not `\"true\"`"),
        (listener("HTTPS", "lorica.io/http33: 'true'"), "`lorica.io/http33` is no option"),
        (listener("TLS", "lorica.io/http3: 'true'"), "is for listeners of HTTPS"),
        (
            "apiVersion: gateway.networking.k8s.io/v1\nkind: BackendTLSPolicy\nmetadata: {name: b, namespace: contact}\nspec: {targetRefs: [{group: '', kind: Service, name: recording}], options: {lorica.io/http3: 'true'}, validation: {hostname: b.example, wellKnownCACertificates: System}}\n".to_owned(),
            "backends are not called by HTTP/3",
        ),
    ] {
        let found = refused(&text);
        assert!(found.contains(told), "{found}");
    }
}
