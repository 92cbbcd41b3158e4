//! Whom a user's private key is sent to: an Envoy that runs a gateway which shows its certificate, and nobody else.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use lorica_control::mesh::{Mesh, Running};
use lorica_control::store::{Embedded, Store};
use lorica_model::name::{Label, Namespace, WorkloadName};
use lorica_model::resource::{Resource, read};
use lorica_model::snapshot::TrustBundle;
use lorica_model::spiffe::TrustDomain;
use lorica_xds::{Dialect, Kind, NodeMetadata};

/// A certificate and a key as far as the model looks into them.
fn secret(name: &str) -> String {
    let pem = |label: &str| format!("-----BEGIN {label}-----\\nAAAA\\n-----END {label}-----\\n");
    format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}, namespace: shop}}\nstringData: {{tls.crt: \"{}\", tls.key: \"{}\"}}\n---\n",
        pem("CERTIFICATE"),
        pem("PRIVATE KEY")
    )
}

/// A Gateway that shows `certificate` to clients, and `own` to backends.
fn gateway(name: &str, certificate: &str, own: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: {name}, namespace: shop}}\nspec:\n  gatewayClassName: lorica\n  tls: {{backend: {{clientCertificateRef: {{name: {own}}}}}}}\n  listeners: [{{name: a, port: 443, protocol: HTTPS, tls: {{certificateRefs: [{{name: {certificate}}}]}}}}]\n---\n"
    )
}

fn documents(text: &str) -> Vec<Resource> {
    let one = |mut resource: Resource| {
        resource.metadata.generation = 1;
        resource
    };
    read("x", text).unwrap().into_iter().map(|document| one(document.resource)).collect()
}

/// Which of these secrets a session gets that speaks so and runs this gateway.
fn got(mesh: &Mesh, dialect: Dialect, gateway: Option<&str>) -> Vec<&'static str> {
    let mut node = NodeMetadata::client(Namespace::new("shop").unwrap(), Label::new("edge").unwrap());
    node.gateway = gateway.map(|name| name.parse().unwrap());
    let workload: WorkloadName = "edge-1.shop".parse().unwrap();
    let (id, publications) =
        mesh.open("edge-1.shop", Some(workload), dialect, Running { software: "x".to_owned(), clock_ahead: None }, Arc::new(node));
    let catalog = publications.borrow().catalog.clone();
    mesh.closed(id);
    let there = |name: &&str| catalog.get(Kind::Secret, name).is_some();
    ["bundle", "svid", "edge-certificate.shop", "edge-own.shop", "other-certificate.shop", "unused.shop"]
        .into_iter()
        .filter(there)
        .collect()
}

#[test]
fn a_private_key_goes_to_who_shows_its_certificate_alone() {
    let directory = tempfile::tempdir().unwrap();
    let store: Arc<dyn Store> = Arc::new(Embedded::open(directory.path()).unwrap());
    let trust_domain = TrustDomain::default();
    let bundle = TrustBundle::new(trust_domain.clone(), vec![vec![1]]);
    let mesh = Mesh::load(store, trust_domain, bundle, 0xfd00).unwrap();
    let secrets: String = ["edge-certificate", "edge-own", "other-certificate", "unused"].map(secret).concat();
    let gateways = gateway("edge", "edge-certificate", "edge-own") + &gateway("other", "other-certificate", "edge-own");
    mesh.change(documents(&(secrets + &gateways)), &[]).unwrap();

    assert_eq!(got(&mesh, Dialect::Envoy, Some("edge.shop")), ["bundle", "edge-certificate.shop", "edge-own.shop"]);
    assert_eq!(got(&mesh, Dialect::Envoy, Some("other.shop")), ["bundle", "edge-own.shop", "other-certificate.shop"]);
    // A sidecar, a gateway that there is not, and a Lorica proxy, which gets certificates within its listeners.
    for (dialect, gateway) in [
        (Dialect::Envoy, None),
        (Dialect::Envoy, Some("gone.shop")),
        (Dialect::Lorica, None),
        (Dialect::Lorica, Some("edge.shop")),
        (Dialect::Grpc, Some("edge.shop")),
    ] {
        assert_eq!(got(&mesh, dialect, gateway), ["bundle"], "{dialect:?} {gateway:?}");
    }
}
