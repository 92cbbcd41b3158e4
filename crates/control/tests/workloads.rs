//! Workloads that come and go, as the mesh keeps them: time is passed in, no stream and no socket is needed.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use lorica_control::mesh::{GRACE, Mesh, NotTaken, Running, SessionId};
use lorica_control::store::{Embedded, Store, StoreError};
use lorica_model::name::{Label, Namespace, WorkloadName};
use lorica_model::resource::{self, Resource};
use lorica_model::snapshot::{Protocol, TrustBundle};
use lorica_model::spiffe::TrustDomain;
use lorica_xds::{Dialect, Kind, NodeMetadata, NodePort};
use tempfile::TempDir;

struct Kept {
    directory: TempDir,
    store: Arc<dyn Store>,
    mesh: Arc<Mesh>,
}

fn load(store: &Arc<dyn Store>) -> Arc<Mesh> {
    let bundle = TrustBundle::new(TrustDomain::default(), Vec::new());
    Mesh::load(store.clone(), TrustDomain::default(), bundle, 0xfd00_0000_0007).unwrap()
}

fn kept() -> Kept {
    let directory = tempfile::tempdir().unwrap();
    let store: Arc<dyn Store> = Arc::new(Embedded::open(directory.path()).unwrap());
    Kept { mesh: load(&store), store, directory }
}

fn name(text: &str) -> WorkloadName {
    text.parse().unwrap()
}

fn node() -> NodeMetadata {
    NodeMetadata {
        service: Some("recording.contact".parse().unwrap()),
        ports: vec![NodePort { service_port: 80, app_port: 8080, protocol: Protocol::Http, address: "127.0.0.1:15008".parse().unwrap() }],
        listening: vec![8080],
        ..NodeMetadata::client(Namespace::new("contact").unwrap(), Label::new("recording").unwrap())
    }
}

/// Registers a workload and opens its stream, as one does that connects.
fn connect(mesh: &Mesh, workload: &str, node: NodeMetadata) -> SessionId {
    mesh.register(&name(workload), &node).unwrap();
    mesh.open(
        workload,
        Some(name(workload)),
        Dialect::Lorica,
        Running { software: "lorica 0.1.0".to_owned(), clock_ahead: None },
        Arc::new(node),
    )
    .0
}

fn there(mesh: &Mesh) -> Vec<String> {
    mesh.catch_up();
    let mut names: Vec<String> = mesh.seen().published.registry.workloads.keys().map(ToString::to_string).collect();
    names.sort();
    names
}

fn document(text: &str) -> Resource {
    let mut resource = resource::read("mesh.yaml", text).unwrap().remove(0).resource;
    resource.metadata.generation = 1;
    resource
}

const SERVICE: &str =
    "apiVersion: lorica.io/v1alpha1\nkind: Service\nmetadata: {name: recording, namespace: contact}\nspec: {ports: [{port: 80}]}\n";

#[test]
fn a_registration_outlives_its_stream_for_its_grace() {
    let Kept { mesh, .. } = kept();
    let stream = connect(&mesh, "recording-1.contact", node());
    mesh.expire(Instant::now() + GRACE * 2);
    assert_eq!(there(&mesh), ["recording-1.contact"], "while its stream is up nothing expires");
    mesh.closed(stream);
    mesh.expire(Instant::now());
    assert_eq!(there(&mesh), ["recording-1.contact"]);
    mesh.expire(Instant::now() + GRACE);
    assert!(there(&mesh).is_empty());
}

#[test]
fn who_comes_back_in_time_was_never_gone() {
    let Kept { mesh, .. } = kept();
    let first = connect(&mesh, "recording-1.contact", node());
    mesh.closed(first);
    let second = connect(&mesh, "recording-1.contact", node());
    mesh.expire(Instant::now() + GRACE * 2);
    assert_eq!(there(&mesh), ["recording-1.contact"]);
    // A stream whose end is noticed late does not take the newer one's workload away.
    let third = connect(&mesh, "recording-1.contact", node());
    mesh.closed(second);
    mesh.expire(Instant::now() + GRACE * 2);
    assert_eq!(there(&mesh), ["recording-1.contact"]);
    mesh.closed(third);
    mesh.expire(Instant::now() + GRACE * 2);
    assert!(there(&mesh).is_empty());
}

#[test]
fn who_said_that_it_ends_is_gone_with_its_stream() {
    let Kept { mesh, .. } = kept();
    let stream = connect(&mesh, "recording-1.contact", node());
    mesh.register(&name("recording-1.contact"), &NodeMetadata { draining: true, ..node() }).unwrap();
    mesh.closed(stream);
    mesh.expire(Instant::now());
    assert!(there(&mesh).is_empty());
}

#[test]
fn a_service_that_loses_all_its_endpoints_at_once_keeps_the_last_ones() {
    let Kept { mesh, .. } = kept();
    let streams = ["recording-1.contact", "recording-2.contact"].map(|workload| connect(&mesh, workload, node()));
    streams.into_iter().for_each(|stream| mesh.closed(stream));
    mesh.expire(Instant::now() + GRACE * 2);
    assert_eq!(there(&mesh), ["recording-1.contact", "recording-2.contact"]);
    assert_eq!(mesh.seen().held_back.iter().map(ToString::to_string).collect::<Vec<_>>(), ["recording.contact"]);
    // One that does not listen yet is no endpoint, and takes no other's place.
    connect(&mesh, "recording-3.contact", NodeMetadata { listening: Vec::new(), ..node() });
    mesh.expire(Instant::now() + GRACE * 2);
    assert_eq!(there(&mesh).len(), 3);
    // Once one is there, those that are lost go.
    mesh.register(&name("recording-3.contact"), &node()).unwrap();
    mesh.expire(Instant::now() + GRACE * 2);
    assert_eq!(there(&mesh), ["recording-3.contact"]);
    assert!(mesh.seen().held_back.is_empty());
}

#[test]
fn a_restart_awaits_who_was_there() {
    let Kept { mesh, store, directory } = kept();
    connect(&mesh, "recording-1.contact", node());
    assert_eq!(there(&mesh), ["recording-1.contact"]);
    let address = mesh.seen().published.registry.workloads[&name("recording-1.contact")].addresses;
    drop(mesh);
    store.close();
    let store: Arc<dyn Store> = Arc::new(Embedded::open(directory.path()).unwrap());
    let mesh = load(&store);
    mesh.expire(Instant::now());
    assert_eq!(there(&mesh), ["recording-1.contact"]);
    assert_eq!(mesh.register(&name("recording-1.contact"), &node()).unwrap().addresses, address);
    mesh.expire(Instant::now() + GRACE);
    assert!(there(&mesh).is_empty(), "who does not come back has its grace");
}

#[test]
fn an_address_is_kept_for_who_is_about_to_register() {
    let Kept { mesh, .. } = kept();
    let reserved = mesh.reserve(&name("recording-1.contact"), &node()).unwrap();
    assert!(there(&mesh).is_empty());
    mesh.expire(Instant::now() + GRACE);
    assert_eq!(mesh.reserve(&name("recording-1.contact"), &node()).unwrap(), reserved);
    assert_eq!(mesh.register(&name("recording-1.contact"), &node()).unwrap().addresses, reserved);
    let elsewhere = NodeMetadata { service: Some("recording.other".parse().unwrap()), ..node() };
    assert!(matches!(mesh.register(&name("recording-1.contact"), &elsewhere), Err(NotTaken::Wrong(_))));
}

#[test]
fn a_change_made_from_what_is_not_there_any_more_is_refused() {
    let Kept { mesh, .. } = kept();
    let service = document(SERVICE);
    mesh.change(vec![service.clone()], &[]).unwrap();
    let stale = mesh.change(vec![service.clone()], &[]).unwrap_err();
    assert!(matches!(stale, StoreError::Conflict { .. }) && stale.to_string().contains("recording.contact"), "{stale}");
    mesh.change(Vec::new(), &[service.key()]).unwrap();
    assert!(matches!(mesh.change(Vec::new(), &[service.key()]), Err(StoreError::Conflict { .. })));
    // Again from the beginning, with the address that it had.
    mesh.change(vec![service], &[]).unwrap();
}

#[test]
fn what_cannot_be_stored_has_not_happened() {
    let Kept { mesh, store, .. } = kept();
    store.close();
    assert!(matches!(mesh.change(vec![document(SERVICE)], &[]), Err(StoreError::Closed { .. })));
    assert!(matches!(mesh.register(&name("recording-1.contact"), &node()), Err(NotTaken::Store(_))));
    let seen = mesh.seen();
    assert!(seen.published.resources.is_empty() && seen.published.registry.services.is_empty() && there(&mesh).is_empty());
}

#[test]
fn a_receipt_tells_streams_of_one_name_apart_and_names_who_refused() {
    let Kept { mesh, .. } = kept();
    let old = connect(&mesh, "recording-1.contact", node());
    let new = connect(&mesh, "recording-1.contact", node());
    for stream in [old, new] {
        mesh.subscribed(stream, Kind::Listener, vec!["recording.contact.mesh:80".to_owned()], true);
    }
    let mut service = document(&SERVICE.replace("port: 80", "port: 80, appProtocol: http2"));
    // The workload declared it, which was its first generation.
    service.metadata.generation = 2;
    let (_, publication) = mesh.change(vec![service], &[]).unwrap();
    mesh.closed(old);
    let receipt = mesh.receipt(publication).unwrap();
    assert_eq!((receipt.concerned, receipt.gone.len(), receipt.pending.len()), (2, 1, 1), "{receipt:?}");
    mesh.rejected(new, Kind::Listener, "recording.contact.mesh:80", "filter_chains[0]: not understood", publication);
    let receipt = mesh.receipt(publication).unwrap();
    assert!(receipt.is_complete() && receipt.acknowledged == 0);
    let refused = &receipt.rejected[0];
    assert_eq!((refused.proxy.as_str(), refused.resource.as_str()), ("recording-1.contact", "Listener recording.contact.mesh:80"));
    assert_eq!(mesh.seen().proxies[0].2.last_nack.as_ref().unwrap().message, "filter_chains[0]: not understood");
}

#[test]
fn many_that_come_at_once_are_published_together() {
    let Kept { mesh, .. } = kept();
    let before = mesh.newest();
    let begun = Instant::now();
    let mut last = 0;
    for number in 0..50 {
        last = mesh
            .register(
                &name(&format!("caller-{number}.contact")),
                &NodeMetadata::client(Namespace::new("contact").unwrap(), Label::new("caller").unwrap()),
            )
            .unwrap()
            .publication;
    }
    mesh.catch_up();
    let most = begun.elapsed().as_millis() / Duration::from_millis(20).as_millis() + 2;
    assert!(u128::from(mesh.newest() - before) <= most, "at most one in 20 ms");
    assert_eq!((mesh.newest(), there(&mesh).len()), (last, 50));
}
