//! Client and server against each other over a Unix socket, with a source that the test holds in its hands.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;

use lorica_model::name::Namespace;
use lorica_model::snapshot::OutboundUnit;
use prost::Message;
use tokio::net::UnixListener;
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, JoinSet};
use tonic::Status;

use super::*;
use crate::server::{Opener, Peer, Publication, SessionObserver, Source};
use crate::session::{Catalog, Event, Form};
use crate::wire::Node;
use crate::{Kind, Resource, encode, samples};

/// Resources by kind and name.
#[derive(Default, Clone)]
struct World(HashMap<(Kind, String), Arc<Resource>>);

impl World {
    fn add(mut self, resources: impl IntoIterator<Item = Resource>) -> Self {
        self.0.extend(resources.into_iter().map(|resource| ((resource.kind, resource.name.clone()), Arc::new(resource))));
        self
    }
    fn service(self, unit: &OutboundUnit, ports: &[u16]) -> Self {
        let set = samples::endpoints(&unit.port.to_string(), ports);
        self.add(samples::resources(unit, &set))
    }
    fn without(mut self, name: &str) -> Self {
        self.0.retain(|(_, other), _| other != name);
        self
    }
    fn basic() -> Self {
        let names = encode::names(&samples::names("contact", &["recording", "agents"]));
        Self::default().add([names, encode::bundle(&samples::bundle()), encode::inbound(&samples::inbound())])
    }
}

impl Catalog for World {
    fn get(&self, kind: Kind, name: &str) -> Option<Arc<Resource>> {
        self.0.get(&(kind, name.to_owned())).cloned()
    }
    fn all(&self, kind: Kind) -> Vec<Arc<Resource>> {
        self.0.iter().filter(|((other, _), _)| *other == kind).map(|(_, resource)| resource.clone()).collect()
    }
}

/// What the control plane of a test sees.
#[derive(Debug)]
enum Seen {
    Opened(Node, Opener),
    Node(Node),
    Event(Event),
    Ended,
}

struct Control {
    /// None once the control plane is ending, which ends its streams.
    publications: Mutex<Option<watch::Sender<Publication>>>,
    seen: mpsc::Sender<Seen>,
    refusal: Mutex<Option<Status>>,
}

struct Watcher(mpsc::Sender<Seen>);

impl Drop for Watcher {
    fn drop(&mut self) {
        // The test may be over.
        let _ = self.0.try_send(Seen::Ended);
    }
}

impl SessionObserver for Watcher {
    fn node_changed(&mut self, node: &Node) -> Result<(), Status> {
        self.0.try_send(Seen::Node(node.clone())).unwrap();
        Ok(())
    }
    fn event(&mut self, event: Event) {
        self.0.try_send(Seen::Event(event)).unwrap();
    }
    // What is sent is seen at the client.
    fn sent(&mut self, _: Kind) {}
}

impl Source for Control {
    type Registration = Watcher;
    async fn open(&self, node: &Node, form: Form, opener: Opener) -> Result<(Watcher, watch::Receiver<Publication>), Status> {
        assert_eq!(form, Form::Delta);
        if let Some(status) = self.refusal.lock().unwrap().take() {
            return Err(status);
        }
        let publications = self.publications.lock().unwrap().as_ref().map(watch::Sender::subscribe);
        let publications = publications.ok_or_else(|| Status::unavailable("ending"))?;
        self.seen.try_send(Seen::Opened(node.clone(), opener)).unwrap();
        Ok((Watcher(self.seen.clone()), publications))
    }
}

/// A control plane that can end and come back, and a client of it.
struct Bench {
    directory: tempfile::TempDir,
    control: Arc<Control>,
    seen: mpsc::Receiver<Seen>,
    server: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
    revision: u64,
    tasks: JoinSet<()>,
}

impl Bench {
    fn new(world: World) -> Self {
        let (publications, _) = watch::channel(Publication { revision: 1, catalog: Arc::new(world) });
        let (sender, seen) = mpsc::channel(MANY);
        let control = Arc::new(Control { publications: Mutex::new(Some(publications)), seen: sender, refusal: Mutex::new(None) });
        let directory = tempfile::tempdir().unwrap();
        Self { directory, control, seen, server: None, revision: 1, tasks: JoinSet::new() }
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("control.sock")
    }

    fn serve(&mut self) {
        let listener = UnixListener::bind(self.socket()).unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let service = crate::server::service(self.control.clone());
        let server = tokio::spawn(async move {
            let incoming = tokio_stream::wrappers::UnixListenerStream::new(listener);
            let ended = async { drop(stopped.await) };
            tonic::transport::Server::builder().add_service(service).serve_with_incoming_shutdown(incoming, ended).await.unwrap();
        });
        self.server = Some((stop, server));
    }

    /// Ends the server with its streams and connections. The next one begins with the same world.
    async fn stop(&mut self) {
        let ending = self.control.publications.lock().unwrap().take().unwrap();
        let catalog = ending.borrow().catalog.clone();
        drop(ending);
        let (stop, server) = self.server.take().unwrap();
        stop.send(()).unwrap();
        server.await.unwrap();
        std::fs::remove_file(self.socket()).unwrap();
        let (publications, _) = watch::channel(Publication { revision: self.revision, catalog });
        let (sender, seen) = mpsc::channel(MANY);
        self.control = Arc::new(Control { publications: Mutex::new(Some(publications)), seen: sender, refusal: Mutex::new(None) });
        self.seen = seen;
    }

    fn client(&mut self, last_good: Option<Snapshot>) -> Client {
        let config = config(&self.socket());
        let (client, task) = Client::start(config, last_good);
        self.tasks.spawn(task);
        client
    }

    fn publish(&mut self, world: World) -> u64 {
        self.revision += 1;
        let publication = Publication { revision: self.revision, catalog: Arc::new(world) };
        self.control.publications.lock().unwrap().as_ref().unwrap().send_replace(publication);
        self.revision
    }

    /// What the control plane sees, up to the first that fits.
    async fn until(&mut self, fits: impl Fn(&Seen) -> bool) -> Vec<Seen> {
        let mut all = Vec::new();
        loop {
            let seen = self.seen.recv().await.unwrap();
            all.push(seen);
            if fits(all.last().unwrap()) {
                return all;
            }
        }
    }

    async fn reached(&mut self, wanted: u64) -> Vec<Seen> {
        self.until(|seen| matches!(seen, Seen::Event(Event::Reached { revision }) if *revision >= wanted)).await
    }
}

fn config(socket: &Path) -> ClientConfig {
    let mut metadata = samples::metadata();
    metadata.service = Some("recording.contact".parse().unwrap());
    ClientConfig {
        endpoint: Endpoint::Unix(socket.to_owned()),
        node_id: "recording-1.contact".parse().unwrap(),
        version: "0.1.0".into(),
        metadata,
    }
}

async fn snapshot(client: &Client, fits: impl Fn(&Snapshot) -> bool) -> Arc<Snapshot> {
    client.snapshot().wait_for(|snapshot| fits(snapshot)).await.unwrap().clone()
}

/// More than any test sees.
const MANY: usize = 1024;
const A: &str = "agents.contact.mesh:80";
const B: &str = "recording.contact.mesh:80";
const C: &str = "analytics.contact.mesh:80";

#[tokio::test]
async fn a_client_has_names_roots_and_its_inbound_unasked() {
    let mut bench = Bench::new(World::basic().service(&samples::unit(A, &[]), &[1]));
    bench.serve();
    let client = bench.client(None);
    let seen = snapshot(&client, |snapshot| snapshot.inbound.is_some() && snapshot.bundle.is_some() && !snapshot.names.is_empty()).await;
    assert_eq!(*seen.inbound.clone().unwrap(), samples::inbound());
    assert_eq!(*seen.bundle.clone().unwrap(), samples::bundle());
    assert_eq!(seen.names[&Namespace::new("contact").unwrap()].records.len(), 2);
    assert!(seen.outbound.is_empty() && seen.endpoints.is_empty(), "nothing was called");
    let Some(Seen::Opened(node, Opener { peer: Some(peer), clock_ahead: Some(ahead) })) = bench.seen.recv().await else { panic!() };
    assert!(ahead <= 0, "both have the same clock, and what was said is of before: {ahead}");
    assert_eq!((node.id.as_str(), node.cluster.as_str()), ("recording-1.contact", "recording.contact"));
    let owner = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(bench.directory.path()).unwrap());
    let Peer::Local(peer) = peer else { panic!("{peer:?}") };
    assert_eq!(peer.uid, owner);
    client.state().wait_for(|state| matches!(state, ConnectionState::Connected { .. })).await.unwrap();
}

#[tokio::test]
async fn a_wanted_port_comes_with_what_its_rules_lead_to() {
    let unit = samples::unit(A, &[B]);
    let mut bench = Bench::new(World::basic().service(&unit, &[1]).service(&samples::unit(B, &[]), &[2, 3]));
    bench.serve();
    let client = bench.client(None);
    client.want(samples::port(A));
    let seen = snapshot(&client, |snapshot| snapshot.outbound.contains_key(&samples::port(A))).await;
    assert_eq!(*seen.outbound[&samples::port(A)], unit);
    assert!(seen.outbound.contains_key(&samples::port(B)), "complete or not at all");
    assert_eq!(seen.endpoints[&samples::port(B)].endpoints.len(), 2);
    // What does not exist is said so, and appears once it does.
    client.want(samples::port(C));
    snapshot(&client, |snapshot| snapshot.absent.contains(&samples::port(C))).await;
    let world = World::basic().service(&unit, &[1]).service(&samples::unit(B, &[]), &[2]).service(&samples::unit(C, &[]), &[4]);
    let revision = bench.publish(world.clone());
    let seen = snapshot(&client, |snapshot| snapshot.outbound.contains_key(&samples::port(C))).await;
    assert!(seen.absent.is_empty());
    bench.reached(revision).await;
    assert_eq!(client.snapshot().borrow().endpoints[&samples::port(B)].endpoints.len(), 1);
    // And it can go again.
    let revision = bench.publish(world.without(C));
    bench.reached(revision).await;
    let seen = client.snapshot().borrow().clone();
    assert!(seen.absent.contains(&samples::port(C)) && !seen.outbound.contains_key(&samples::port(C)));
}

#[tokio::test]
async fn rules_are_acknowledged_once_what_they_lead_to_is_there() {
    let world = World::basic().service(&samples::unit(A, &[]), &[1]).service(&samples::unit(C, &[]), &[4]);
    let mut bench = Bench::new(world.clone());
    bench.serve();
    let client = bench.client(None);
    client.want(samples::port(A));
    snapshot(&client, |snapshot| snapshot.outbound.contains_key(&samples::port(A))).await;
    let revision = bench.publish(world.service(&samples::unit(A, &[C]), &[1]));
    let events = bench.reached(revision).await;
    assert!(events.iter().any(|seen| matches!(seen, Seen::Event(Event::Published { concerned: true, .. }))));
    // Acknowledged means in force: nothing to wait for here.
    let seen = client.snapshot().borrow().clone();
    assert_eq!(*seen.outbound[&samples::port(A)], samples::unit(A, &[C]));
    assert!(seen.outbound.contains_key(&samples::port(C)));
}

#[tokio::test]
async fn a_proxy_that_confirms_is_waited_for() {
    let world = World::basic().service(&samples::unit(A, &[]), &[1]).service(&samples::unit(B, &[]), &[2]);
    let mut bench = Bench::new(world.clone());
    bench.serve();
    let client = bench.client(None);
    client.want(samples::port(A));
    snapshot(&client, |snapshot| snapshot.outbound.contains_key(&samples::port(A))).await;
    client.confirm(client.published());
    let revision = bench.publish(world.service(&samples::unit(A, &[]), &[1, 2, 3]));
    snapshot(&client, |snapshot| snapshot.endpoints.get(&samples::port(A)).is_some_and(|set| set.endpoints.len() == 3)).await;
    // What the client says next comes after what it would have said before.
    client.want(samples::port(B));
    let before =
        bench.until(|seen| matches!(seen, Seen::Event(Event::Subscribed { names, .. }) if names.iter().any(|name| name == B))).await;
    let is_early = |seen: &&Seen| matches!(seen, Seen::Event(Event::Reached { revision: at }) if *at >= revision);
    assert_eq!(before.iter().filter(is_early).count(), 0, "{before:?}");
    let confirming = async {
        let mut snapshots = client.snapshot();
        loop {
            client.confirm(client.published());
            snapshots.changed().await.unwrap();
        }
    };
    tokio::select! {
        _ = bench.reached(revision) => {}
        () = confirming => {}
    }
}

/// A unit of which others take over.
fn taken_over(text: &str, backends: &[&str], by: &[&str]) -> OutboundUnit {
    let mut unit = samples::unit(text, backends);
    unit.cluster.traffic.failover = by.iter().map(|port| samples::port(port)).collect();
    unit
}

#[tokio::test]
async fn what_takes_over_is_subscribed_to_and_known_before_a_change_is_acknowledged() {
    let world = World::basic()
        .service(&samples::unit(A, &[B]), &[1])
        .service(&samples::unit(B, &[]), &[2])
        .service(&taken_over(C, &[], &[A]), &[3]);
    let mut bench = Bench::new(world.clone());
    bench.serve();
    let client = bench.client(None);
    client.want(samples::port(A));
    let before = snapshot(&client, |snapshot| snapshot.outbound.contains_key(&samples::port(A))).await;
    assert!(!before.outbound.contains_key(&samples::port(C)));
    // Of what the rules lead to, and not of what is called alone.
    let revision = bench.publish(world.clone().service(&taken_over(B, &[], &[C]), &[2]));
    bench.reached(revision).await;
    let seen = client.snapshot().borrow().clone();
    assert_eq!(seen.outbound[&samples::port(B)].cluster.traffic.failover, [samples::port(C)]);
    assert!(seen.outbound.contains_key(&samples::port(C)) && seen.endpoints.contains_key(&samples::port(C)));
    // Who does not exist cannot take over, and holds nothing up.
    let revision = bench.publish(world.clone().service(&taken_over(B, &[], &["gone.contact.mesh:80"]), &[2]));
    bench.reached(revision).await;
    let seen = snapshot(&client, |snapshot| !snapshot.outbound.contains_key(&samples::port(C))).await;
    assert!(seen.absent.contains(&samples::port("gone.contact.mesh:80")));
}

#[tokio::test]
async fn what_is_refused_leaves_what_was_there_and_is_named() {
    let world = World::basic().service(&samples::unit(A, &[]), &[1]).service(&samples::unit(B, &[]), &[2]);
    let mut bench = Bench::new(world.clone());
    bench.serve();
    let client = bench.client(None);
    client.want(samples::port(A));
    client.want(samples::port(B));
    snapshot(&client, |snapshot| snapshot.outbound.len() == 2).await;
    bench
        .until(|seen| matches!(seen, Seen::Event(Event::Subscribed { kind: Kind::Route, names }) if names.len() == 2 || names[0] == B))
        .await;
    // A new cluster for both, of which one says what the proxy cannot do.
    let mut slow = samples::unit(A, &[]);
    slow.cluster.connect_timeout = std::time::Duration::from_secs(9);
    let mut fast = samples::unit(B, &[]);
    fast.cluster.connect_timeout = std::time::Duration::from_secs(1);
    let mut next = world.service(&slow, &[1]).service(&fast, &[2]);
    let bad = next.0.get_mut(&(Kind::Cluster, A.to_owned())).unwrap();
    let mut message = envoy_types::pb::envoy::config::cluster::v3::Cluster::decode(bad.body.value.as_slice()).unwrap();
    message.alt_stat_name = "x".into();
    Arc::make_mut(bad).body.value = message.encode_to_vec();
    let revision = bench.publish(next.clone());
    let events = bench.reached(revision).await;
    let rejected: Vec<_> = events.iter().filter(|seen| matches!(seen, Seen::Event(Event::Rejected { .. }))).collect();
    let [Seen::Event(Event::Rejected { kind: Kind::Cluster, name, message, revision: at })] = rejected.as_slice() else {
        panic!("{rejected:?}")
    };
    assert_eq!((name.as_str(), *at), (A, revision));
    assert!(message.contains("alt_stat_name"), "{message}");
    let seen = client.snapshot().borrow().clone();
    assert_eq!(seen.outbound[&samples::port(A)].cluster, samples::unit(A, &[]).cluster);
    assert_eq!(seen.outbound[&samples::port(B)].cluster, fast.cluster);
    // Mended, it goes through.
    let revision = bench.publish(next.service(
        &{
            let mut unit = slow.clone();
            unit.http_only = true;
            unit
        },
        &[1],
    ));
    bench.reached(revision).await;
    assert_eq!(client.snapshot().borrow().outbound[&samples::port(A)].cluster, slow.cluster);
}

#[tokio::test]
async fn a_restart_keeps_the_snapshot_and_sends_nothing_twice() {
    let world = World::basic().service(&samples::unit(A, &[]), &[1]);
    let mut bench = Bench::new(world.clone());
    bench.serve();
    let client = bench.client(None);
    client.want(samples::port(A));
    let before =
        snapshot(&client, |snapshot| snapshot.outbound.len() == 1 && snapshot.inbound.is_some() && snapshot.bundle.is_some()).await;
    bench.stop().await;
    client.state().wait_for(|state| matches!(state, ConnectionState::Connecting { last_error: Some(_) })).await.unwrap();
    assert!(Arc::ptr_eq(&client.snapshot().borrow().outbound[&samples::port(A)], &before.outbound[&samples::port(A)]));
    client.want(samples::port(B));
    bench.serve();
    snapshot(&client, |snapshot| snapshot.absent.contains(&samples::port(B))).await;
    let after = client.snapshot().borrow().clone();
    // The very same: it was not sent again.
    assert!(Arc::ptr_eq(&after.outbound[&samples::port(A)], &before.outbound[&samples::port(A)]));
    assert!(Arc::ptr_eq(&after.endpoints[&samples::port(A)], &before.endpoints[&samples::port(A)]));
    assert!(Arc::ptr_eq(after.bundle.as_ref().unwrap(), before.bundle.as_ref().unwrap()));
    let revision = bench.publish(world.service(&samples::unit(A, &[]), &[1, 2]));
    bench.reached(revision).await;
    assert_eq!(client.snapshot().borrow().endpoints[&samples::port(A)].endpoints.len(), 2);
}

#[tokio::test]
async fn a_last_good_snapshot_is_in_force_before_any_control_plane_answers() {
    let world = World::basic().service(&samples::unit(A, &[]), &[1]);
    let mut bench = Bench::new(world);
    bench.serve();
    let client = bench.client(None);
    client.want(samples::port(A));
    let good = snapshot(&client, |snapshot| snapshot.outbound.len() == 1 && snapshot.inbound.is_some() && !snapshot.names.is_empty()).await;
    drop(client);
    bench.tasks.join_next().await.unwrap().unwrap();
    bench.stop().await;
    let again = bench.client(Some((*good).clone()));
    assert!(again.snapshot().borrow().outbound.contains_key(&samples::port(A)));
    bench.serve();
    again.state().wait_for(|state| matches!(state, ConnectionState::Connected { .. })).await.unwrap();
    again.want(samples::port(B));
    let seen = snapshot(&again, |snapshot| snapshot.absent.contains(&samples::port(B))).await;
    assert!(Arc::ptr_eq(&seen.outbound[&samples::port(A)], &good.outbound[&samples::port(A)]), "its version was known");
}

#[tokio::test]
async fn a_changed_node_is_announced_on_the_same_stream() {
    let mut bench = Bench::new(World::basic());
    bench.serve();
    let client = bench.client(None);
    bench.until(|seen| matches!(seen, Seen::Opened(..))).await;
    client.update_metadata(|_| {});
    client.update_metadata(|metadata| metadata.listening = vec![8080]);
    let seen = bench.until(|seen| matches!(seen, Seen::Node(_) | Seen::Ended)).await;
    let Some(Seen::Node(node)) = seen.last() else { panic!() };
    assert_eq!(NodeMetadata::of(node).unwrap().listening, vec![8080]);
    drop(client);
    bench.until(|seen| matches!(seen, Seen::Ended)).await;
}

#[tokio::test]
async fn a_refusal_is_told_apart_from_an_absence() {
    let mut bench = Bench::new(World::basic());
    let client = bench.client(None);
    let state =
        client.state().wait_for(|state| matches!(state, ConnectionState::Connecting { last_error: Some(_) })).await.unwrap().clone();
    let ConnectionState::Connecting { last_error: Some(message) } = state else { panic!() };
    assert!(message.contains("no control plane answers at") && message.contains("control.sock"), "{message}");
    *bench.control.refusal.lock().unwrap() =
        Some(Status::failed_precondition("port 80 of recording.contact is http, this workload says tcp"));
    bench.serve();
    let state = client.state().wait_for(|state| matches!(state, ConnectionState::Refused { .. })).await.unwrap().clone();
    assert_eq!(state, ConnectionState::Refused { message: "port 80 of recording.contact is http, this workload says tcp".into() });
    // The tries go on: what contradicted may have changed.
    client.state().wait_for(|state| matches!(state, ConnectionState::Connected { .. })).await.unwrap();
}

#[test]
fn the_least_recently_wanted_port_makes_room() {
    let (client, _task) = Client::start(config(Path::new("/nowhere")), None);
    let numbered = |number: usize| samples::port(&format!("s{number}.contact.mesh:80"));
    for number in 0..MAX_WANTED {
        client.want(numbered(number));
    }
    client.want(numbered(0));
    client.want(numbered(MAX_WANTED));
    let asked = client.shared.lock();
    assert_eq!(asked.wanted.len(), MAX_WANTED);
    assert!(asked.wanted.contains_key(&numbered(0)) && !asked.wanted.contains_key(&numbered(1)));
}

#[test]
fn pauses_grow_to_their_bound() {
    assert_eq!(pause(1, 0.0), BACKOFF.0);
    assert!(pause(1, 0.999) <= BACKOFF.0 * 2);
    assert!(pause(40, 0.999) <= BACKOFF.1);
    assert!(pause(40, 0.999) > BACKOFF.1 / 2);
}
