//! What the mesh does when the store is slow, refuses, or is asked for much: with a store that the test holds in its hands.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use lorica_control::mesh::Mesh;
use lorica_control::store::{Changed, Embedded, Expected, Revision, Store, StoreError, StoreSize, Table, Write};
use lorica_model::name::{Label, Namespace};
use lorica_model::resource::{self, Resource};
use lorica_model::snapshot::TrustBundle;
use lorica_model::spiffe::TrustDomain;
use lorica_xds::NodeMetadata;
use tokio::sync::broadcast;

/// A store that refuses or waits when told to.
struct Held {
    inner: Embedded,
    refuses: AtomicBool,
    gate: Mutex<Option<mpsc::Receiver<()>>>,
}

impl Store for Held {
    fn get(&self, table: Table, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.inner.get(table, key)
    }
    fn list(&self, table: Table) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
        self.inner.list(table)
    }
    fn write(&self, batch: &[Write]) -> Result<Revision, StoreError> {
        let gate = self.gate.lock().unwrap().take();
        if let Some(gate) = gate {
            gate.recv().unwrap();
        }
        if self.refuses.load(Ordering::SeqCst) {
            return Err(StoreError::Full { path: "store".into() });
        }
        self.inner.write(batch)
    }
    fn revision(&self) -> Result<Revision, StoreError> {
        self.inner.revision()
    }
    fn size(&self) -> Result<StoreSize, StoreError> {
        self.inner.size()
    }
    fn close(&self) {
        self.inner.close();
    }
    fn watch(&self) -> broadcast::Receiver<Changed> {
        self.inner.watch()
    }
}

fn mesh() -> (tempfile::TempDir, Arc<Held>, Arc<Mesh>) {
    let directory = tempfile::tempdir().unwrap();
    let store =
        Arc::new(Held { inner: Embedded::open(directory.path()).unwrap(), refuses: AtomicBool::new(false), gate: Mutex::new(None) });
    let mesh = load(store.clone());
    (directory, store, mesh)
}

fn load(store: Arc<Held>) -> Arc<Mesh> {
    let bundle = TrustBundle::new(TrustDomain::default(), Vec::new());
    Mesh::load(store, TrustDomain::default(), bundle, 0xfd00_0000_0001).unwrap()
}

fn service(name: &str, generation: u64) -> Resource {
    let text = format!(
        "apiVersion: lorica.io/v1alpha1\nkind: Service\nmetadata: {{name: {name}, namespace: contact}}\nspec: {{ports: [{{port: 80}}]}}\n"
    );
    let mut resource = resource::read("x", &text).unwrap().remove(0).resource;
    resource.metadata.generation = generation;
    resource
}

fn client() -> NodeMetadata {
    NodeMetadata::client(Namespace::new("contact").unwrap(), Label::new("default").unwrap())
}

#[test]
fn history_is_bounded_whatever_else_is_stored() {
    let (_directory, store, _) = mesh();
    let put = |table: Table, key: String| Write { table, key, value: Some(b"{}".to_vec()), expected: Expected::Absent };
    // A mesh of some age: 999 change sets, and then registrations, which count revisions up as well.
    for number in 1..1000 {
        store.write(&[put(Table::History, format!("{number:020}"))]).unwrap();
    }
    for number in 0..5 {
        store.write(&[put(Table::Mesh, number.to_string())]).unwrap();
    }
    let mesh = load(store.clone());
    for number in 0..5 {
        mesh.register(&format!("w-{number}.contact").parse().unwrap(), &client()).unwrap();
        mesh.change(vec![service("web", number + 1)], &[]).unwrap();
    }
    let kept = store.list(Table::History).unwrap();
    assert_eq!((kept.len(), kept[0].0.as_str()), (1000, "00000000000000000005"));
}

#[test]
fn an_address_that_could_not_be_stored_is_stored_later() {
    let (_directory, store, mesh) = mesh();
    store.refuses.store(true, Ordering::SeqCst);
    mesh.change(vec![service("web", 1)], &[]).unwrap_err();
    assert!(mesh.register(&"a-1.contact".parse().unwrap(), &client()).is_err());
    store.refuses.store(false, Ordering::SeqCst);
    mesh.change(vec![service("web", 1)], &[]).unwrap();
    mesh.register(&"a-1.contact".parse().unwrap(), &client()).unwrap();
    let stored: Vec<String> = store.list(Table::Addresses).unwrap().into_iter().map(|(key, _)| key).collect();
    assert_eq!(stored, ["service/web.contact", "workload/a-1.contact"]);
}

#[test]
fn a_delete_that_failed_gives_no_address_back() {
    let (_directory, store, mesh) = mesh();
    let web = service("web", 1);
    mesh.change(vec![web.clone()], &[]).unwrap();
    store.refuses.store(true, Ordering::SeqCst);
    mesh.change(Vec::new(), &[web.key()]).unwrap_err();
    store.refuses.store(false, Ordering::SeqCst);
    // If it counted as given back, this would write that it is taken again.
    mesh.change(vec![service("web", 2)], &[]).unwrap();
    let batch_writes_address = {
        let mut watched = store.watch();
        mesh.change(vec![service("web", 3)], &[]).unwrap();
        watched.try_recv().unwrap().keys.iter().any(|(table, _)| *table == Table::Addresses)
    };
    assert!(!batch_writes_address);
}

#[test]
fn a_slow_disk_holds_nobody_up_who_does_not_write() {
    let (_directory, store, mesh) = mesh();
    let (open, gate) = mpsc::channel();
    *store.gate.lock().unwrap() = Some(gate);
    let writing = mesh.clone();
    let writer = std::thread::spawn(move || writing.change(vec![service("web", 1)], &[]).unwrap());
    // Until the writer is at the gate.
    while store.gate.lock().unwrap().is_some() {
        std::thread::yield_now();
    }
    let (seen_in, seen) = mpsc::channel();
    std::thread::spawn(move || seen_in.send(mesh.seen().published.revision));
    let looked = seen.recv_timeout(Duration::from_secs(5));
    open.send(()).unwrap();
    writer.join().unwrap();
    assert!(looked.is_ok(), "a look at the mesh, as every event of a stream takes one, waited for the disk");
}
