//! The mesh as this control plane knows it: resources and registrations in, publications out to every session, and what
//! each session said to them.
//!
//! What must survive is in the store before it is published. One lock guards the state, held for moments; another puts
//! changes of the store in order and is held while the disk is waited for, so that reading and streams never wait for it.

mod federation;
pub mod figures;
mod key_sets;
mod registration;
pub mod trust;

pub use key_sets::sources;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use lorica_api::{AcknowledgedAt, Receipt, RejectedAt};
use lorica_model::compile::{RegisteredWorkload, Registry, VirtualAddresses};
use lorica_model::name::{ServiceName, WorkloadName};
use lorica_model::resource::{Key, Kind as ResourceKind, Resource, Resources};
use lorica_model::snapshot::TrustBundle;
use lorica_model::spiffe::TrustDomain;
use lorica_xds::server::Publication;
use lorica_xds::session::Catalog;
use lorica_xds::{Dialect, Kind, NodeMetadata};
use tokio::sync::{Notify, watch};

use crate::addresses::{Addresses, Taken};
use crate::catalog::{Published, Viewed};
use crate::receipt::Receipts;
use crate::store::{Expected, Revision, Store, StoreError, Table, Write};
use crate::telemetry::counts::{Counts, one};
use crate::timestamp;

/// How long a registration outlives its stream: a proxy reconnects within a third of it.
pub const GRACE: Duration = Duration::from_secs(15);
/// The shortest time between publications of registrations: many workloads that come at once are published together.
pub const PACE: Duration = Duration::from_millis(20);

/// The mesh.
pub struct Mesh {
    store: Arc<dyn Store>,
    /// Held through each change of the store; taken before `state`, never after it.
    writing: Mutex<()>,
    state: Mutex<State>,
    /// Told when something waits to be published.
    pub behind: Notify,
    /// Told when there may be faults that end at other times.
    pub faults: Notify,
    /// Told when policies may name other key sets.
    pub keys: Notify,
    /// Told at every acknowledgement, refusal and end, for who waits for a receipt.
    pub said: Notify,
    /// Told at every change of resources, for who watches what they say of identities.
    pub identities: watch::Sender<()>,
    /// What happened, for who looks at metrics.
    pub counts: Arc<Counts>,
}

/// A number for each stream.
pub type SessionId = u64;

struct State {
    resources: Arc<Resources>,
    /// What of the resources is in force: all but the faults that are over.
    in_force: Arc<Resources>,
    registry: Arc<Registry>,
    addresses: Addresses,
    trust_domain: TrustDomain,
    bundle: Arc<TrustBundle>,
    published: Arc<Published>,
    sessions: BTreeMap<SessionId, Session>,
    lost: BTreeMap<WorkloadName, Lost>,
    proxies: BTreeMap<WorkloadName, Proxy>,
    /// The agents of hosts and pods, by what they are called among those who trust.
    agents: BTreeMap<String, trust::AgentTrust>,
    receipts: Receipts,
    next_session: SessionId,
    revision: Revision,
    /// The keys of the change sets that are remembered, oldest first.
    history: VecDeque<String>,
    held_back: BTreeSet<ServiceName>,
    certificates: BTreeMap<WorkloadName, SystemTime>,
    /// Workloads that ended in order, for who keeps books on their certificates.
    ended_in_order: BTreeSet<WorkloadName>,
    published_at: Instant,
    /// Whether something is not published yet.
    behind: bool,
    /// Whether this control plane is ending.
    ended: bool,
    counts: Arc<Counts>,
}

/// A stream.
struct Session {
    name: String,
    dialect: Dialect,
    node: Arc<NodeMetadata>,
    workload: Option<WorkloadName>,
    subscribed: BTreeSet<(Kind, String)>,
    /// The version of the bundle that its client has acknowledged.
    trusts: Option<String>,
    publications: watch::Sender<Publication>,
}

/// A workload whose stream broke.
struct Lost {
    since: Instant,
}

/// What a proxy is as it connects.
#[derive(Debug, Clone)]
pub struct Running {
    /// `lorica 0.1.0`.
    pub software: String,
    /// By how many milliseconds its clock is ahead of ours; none where it did not say.
    pub clock_ahead: Option<i64>,
}

/// What is known of a proxy besides its registration.
#[derive(Debug, Clone)]
pub struct Proxy {
    /// `lorica 0.1.0`.
    pub software: String,
    /// By how many milliseconds its clock was ahead of ours as it connected; none where it did not say.
    pub clock_ahead: Option<i64>,
    /// Its stream, if it is up.
    pub session: Option<SessionId>,
    /// Since when it is up, or not.
    pub since: SystemTime,
    /// Where its metrics are scraped.
    pub metrics: Option<std::net::SocketAddr>,
    /// Until when its certificate holds.
    pub certificate_not_after: Option<SystemTime>,
    /// What it acknowledged last.
    pub last_ack: Option<AcknowledgedAt>,
    /// What it refused last.
    pub last_nack: Option<RejectedAt>,
}

/// Why a workload is not taken.
#[derive(Debug, thiserror::Error)]
pub enum NotTaken {
    /// It contradicts what a user wrote.
    #[error("{0}")]
    Contradicts(String),
    /// It is not what it may be.
    #[error("{0}")]
    Wrong(String),
    /// No address is left.
    #[error("no virtual address is left in 240.0.0.0/12")]
    NoAddress,
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A workload that was taken in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Registered {
    /// Its own virtual addresses.
    pub addresses: VirtualAddresses,
    /// The publication that holds it, which may be still to come.
    pub publication: u64,
}

/// What is shown of the mesh.
pub struct Seen {
    /// The newest publication.
    pub published: Arc<Published>,
    /// The newest batch.
    pub revision: Revision,
    /// The proxies.
    pub proxies: Vec<(WorkloadName, RegisteredWorkload, Proxy)>,
    /// Services whose endpoints were kept although all were lost at once.
    pub held_back: Vec<ServiceName>,
}

impl Mesh {
    /// The mesh as the store has it.
    ///
    /// # Errors
    /// When the store cannot be read, or holds what cannot be understood.
    pub fn load(store: Arc<dyn Store>, trust_domain: TrustDomain, bundle: TrustBundle, prefix: u64) -> anyhow::Result<Arc<Self>> {
        let mut resources = Resources::default();
        for (key, record) in store.list(Table::Resources)? {
            let json: serde_json::Value = serde_json::from_slice(&record)?;
            let resource = lorica_model::resource::stored(json.get("resource").unwrap_or(&json)).map_err(|found| {
                let first = found.first().map(|found| found.message.clone()).unwrap_or_default();
                anyhow::anyhow!("the stored resource {key} cannot be understood: {first}")
            })?;
            resources.insert(resource);
        }
        let remembered = store
            .list(Table::Addresses)?
            .into_iter()
            .filter_map(|(name, record)| Some((name, serde_json::from_slice::<Taken>(&record).ok()?)));
        let mut addresses = Addresses::new(prefix, remembered.collect::<Vec<_>>());
        let now = SystemTime::now();
        let mut registry = Registry::default();
        for (metadata, _) in resources.services() {
            let Some(name) = metadata.service() else { continue };
            if let Some((taken, _)) = addresses.take(&service_key(&name), now) {
                registry.services.insert(name, taken);
            }
        }
        let mut lost = BTreeMap::new();
        let mut proxies = BTreeMap::new();
        for (name, record) in store.list(Table::Registrations)? {
            // A registration of another version is made anew as soon as its proxy reconnects.
            let (Ok(name), Ok(workload)) = (name.parse::<WorkloadName>(), serde_json::from_slice::<RegisteredWorkload>(&record)) else {
                continue;
            };
            lost.insert(name.clone(), Lost { since: Instant::now() });
            proxies.insert(name.clone(), Proxy::unseen());
            registry.workloads.insert(name, workload);
        }
        let (resources, registry, bundle) = (Arc::new(resources), Arc::new(registry), Arc::new(bundle));
        let in_force = resources.in_force(now);
        let both = (resources.clone(), in_force.clone());
        let bundle = federation::federated(&bundle, &in_force, &registry, &trust_domain);
        let counts: Arc<Counts> = Arc::default();
        let published = Published::new(1, both, registry.clone(), trust_domain.clone(), bundle.clone(), counts.clone());
        let published = Arc::new(published);
        let revision = store.revision()?;
        let history = store.list(Table::History)?.into_iter().map(|(key, _)| key).collect();
        let state = State {
            resources,
            in_force,
            registry,
            addresses,
            trust_domain,
            bundle,
            published,
            sessions: BTreeMap::new(),
            lost,
            proxies,
            agents: BTreeMap::new(),
            receipts: Receipts::default(),
            next_session: 1,
            revision,
            history,
            held_back: BTreeSet::new(),
            certificates: BTreeMap::new(),
            ended_in_order: BTreeSet::new(),
            published_at: Instant::now(),
            behind: false,
            ended: false,
            counts: counts.clone(),
        };
        Ok(Arc::new(Self {
            store,
            writing: Mutex::new(()),
            state: Mutex::new(state),
            behind: Notify::new(),
            faults: Notify::new(),
            keys: Notify::new(),
            said: Notify::new(),
            identities: watch::Sender::new(()),
            counts,
        }))
    }

    fn writing(&self) -> MutexGuard<'_, ()> {
        // It guards an order, no value.
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change of it is complete before the next line can fail.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is shown of it.
    #[must_use]
    pub fn seen(&self) -> Seen {
        let state = self.state();
        let proxies = state.proxies.iter().filter_map(|(name, proxy)| {
            let proxy = Proxy { certificate_not_after: state.certificates.get(name).copied(), ..proxy.clone() };
            Some((name.clone(), state.registry.workloads.get(name)?.clone(), proxy))
        });
        Seen {
            published: state.published.clone(),
            revision: state.revision,
            proxies: proxies.collect(),
            held_back: state.held_back.iter().cloned().collect(),
        }
    }

    /// The newest publication.
    #[must_use]
    pub fn published(&self) -> Arc<Published> {
        self.state().published.clone()
    }

    /// Whose identities it issues.
    #[must_use]
    pub fn trust_domain(&self) -> TrustDomain {
        self.state().trust_domain.clone()
    }

    /// The receipt of a publication.
    #[must_use]
    pub fn receipt(&self, revision: u64) -> Option<Receipt> {
        self.state().receipts.receipt(revision, Instant::now())
    }

    /// Stores a change set and publishes it; the number of the publication. Waits for the disk.
    ///
    /// # Errors
    /// When the store refuses, or a resource is not any more what the change was made from; then nothing has changed.
    pub fn change(&self, put: Vec<Resource>, delete: &[Key]) -> Result<(Revision, u64), StoreError> {
        let writing = self.writing();
        self.change_in_order(&writing, put, delete)
    }

    fn change_in_order(&self, _writing: &MutexGuard<'_, ()>, put: Vec<Resource>, delete: &[Key]) -> Result<(Revision, u64), StoreError> {
        let mut state = self.state();
        state.check_generations(&put, delete)?;
        let mut touched: Vec<(String, Option<Taken>)> = Vec::new();
        let now = SystemTime::now();
        let mut writes: Vec<Write> = Vec::new();
        let mut services = state.registry.services.clone();
        for resource in &put {
            writes.push(Write {
                table: Table::Resources,
                key: resource.key().to_string(),
                value: Some(encoded(resource)?),
                expected: Expected::Anything,
            });
            if resource.kind == ResourceKind::Service {
                let Some(name) = resource.metadata.service() else { continue };
                touched.push((service_key(&name), state.addresses.known(&service_key(&name))));
                let Some((taken, remember)) = state.addresses.take(&service_key(&name), now) else { continue };
                writes.extend(remember.map(|remember| address(&service_key(&name), &remember)));
                services.insert(name, taken);
            }
        }
        for key in delete {
            writes.push(Write { table: Table::Resources, key: key.to_string(), value: None, expected: Expected::Anything });
            if key.kind == ResourceKind::Service {
                let Some(label) = key.name.label() else { continue };
                let name = ServiceName::new(key.namespace.clone(), label);
                touched.push((service_key(&name), state.addresses.known(&service_key(&name))));
                let rested = state.addresses.give_back(&service_key(&name), now);
                writes.extend(rested.map(|rested| address(&service_key(&name), &rested)));
                services.remove(&name);
            }
        }
        let history = serde_json::json!({ "at": timestamp(now), "put": put.iter().map(|resource| resource.key().to_string()).collect::<Vec<_>>(), "deleted": delete.iter().map(ToString::to_string).collect::<Vec<_>>() });
        // Registrations count revisions up too, so change sets are counted by their keys.
        let newest = format!("{:020}", state.revision.0 + 1);
        writes.push(Write {
            table: Table::History,
            key: newest.clone(),
            value: Some(history.to_string().into_bytes()),
            expected: Expected::Anything,
        });
        let forgotten = (state.history.len() + 1).saturating_sub(HISTORY);
        let oldest = state.history.iter().take(forgotten);
        writes.extend(oldest.map(|key| Write { table: Table::History, key: key.clone(), value: None, expected: Expected::Anything }));
        drop(state);
        let written = self.store.write(&writes);
        let mut state = self.state();
        let revision = match written {
            Ok(revision) => revision,
            Err(error) => {
                touched.into_iter().rev().for_each(|(key, before)| state.addresses.restore(&key, before));
                return Err(error);
            }
        };
        state.history.drain(..forgotten);
        state.history.push_back(newest);
        let mut resources = (*state.resources).clone();
        put.into_iter().for_each(|resource| drop(resources.insert(resource)));
        delete.iter().for_each(|key| drop(resources.remove(key)));
        state.resources = Arc::new(resources);
        state.in_force = state.resources.in_force(SystemTime::now());
        state.registry = Arc::new(Registry { services, ..(*state.registry).clone() });
        state.revision = revision;
        let number = state.publish();
        drop(state);
        self.said.notify_waiters();
        self.faults.notify_one();
        self.keys.notify_one();
        self.identities.send_replace(());
        Ok((revision, number))
    }

    /// Whether somebody is here who is no proxy of Lorica's: an Envoy, or a client of gRPC.
    #[must_use]
    pub fn has_other_clients(&self) -> bool {
        self.state().sessions.values().any(|session| session.dialect != Dialect::Lorica)
    }

    /// A stream begins.
    pub fn open(
        &self,
        name: &str,
        workload: Option<WorkloadName>,
        dialect: Dialect,
        running: Running,
        node: Arc<NodeMetadata>,
    ) -> (SessionId, watch::Receiver<Publication>) {
        let mut state = self.state();
        let id = state.next_session;
        state.next_session += 1;
        let viewed = Viewed::new(state.published.clone(), dialect, node.clone(), workload.clone());
        let (publications, receiver) = watch::channel(Publication { revision: state.published.revision, catalog: Arc::new(viewed) });
        if let Some(workload) = &workload {
            state.lost.remove(workload);
            let revision = state.published.revision;
            let proxy = state.proxies.entry(workload.clone()).or_insert_with(Proxy::unseen);
            proxy.software = running.software;
            proxy.clock_ahead = running.clock_ahead;
            proxy.session = Some(id);
            proxy.since = SystemTime::now();
            proxy.last_ack = Some(AcknowledgedAt { revision, at: timestamp(SystemTime::now()) });
            if let Some(service) = &node.service {
                state.held_back.remove(service);
            }
        }
        state.sessions.insert(
            id,
            Session { name: name.to_owned(), dialect, node, workload, subscribed: BTreeSet::new(), trusts: None, publications },
        );
        (id, receiver)
    }

    /// A stream's client sent another node.
    pub fn renewed(&self, id: SessionId, node: Arc<NodeMetadata>) {
        let mut state = self.state();
        if let Some(session) = state.sessions.get_mut(&id) {
            session.node = node;
        }
    }

    /// A stream's client subscribes to more, or less.
    pub fn subscribed(&self, id: SessionId, kind: Kind, names: Vec<String>, more: bool) {
        let mut state = self.state();
        if let Some(session) = state.sessions.get_mut(&id) {
            for name in names {
                if more {
                    session.subscribed.insert((kind, name));
                } else {
                    session.subscribed.remove(&(kind, name));
                }
            }
        }
    }

    /// A stream's client has acknowledged everything up to a publication.
    pub fn reached(&self, id: SessionId, revision: u64) {
        let mut state = self.state();
        if let Some(workload) = state.sessions.get(&id).map(|session| session.workload.clone()) {
            one(&self.counts.acknowledgements);
            let settled = state.receipts.reached(id, revision, Instant::now());
            state.converged(&settled);
            if let Some(proxy) = workload.and_then(|workload| state.proxies.get_mut(&workload)) {
                proxy.last_ack = Some(AcknowledgedAt { revision, at: timestamp(SystemTime::now()) });
            }
        }
        drop(state);
        self.said.notify_waiters();
    }

    /// A stream's client refused a resource.
    pub fn rejected(&self, id: SessionId, kind: Kind, resource: &str, message: &str, revision: u64) {
        let mut state = self.state();
        if let Some((name, workload)) = state.sessions.get(&id).map(|session| (session.name.clone(), session.workload.clone())) {
            let resource = format!("{kind:?} {resource}");
            tracing::warn!(proxy = name, resource, message, "a proxy refused a resource");
            one(self.counts.rejections.of(kind));
            let settled = state.receipts.rejected(id, revision, &resource, message, Instant::now());
            state.converged(&settled);
            if let Some(proxy) = workload.and_then(|workload| state.proxies.get_mut(&workload)) {
                proxy.last_nack = Some(RejectedAt { resource, message: message.to_owned(), at: timestamp(SystemTime::now()) });
            }
        }
        drop(state);
        self.said.notify_waiters();
    }

    /// A stream has ended. Its workload stays for [`GRACE`], unless it said that it ends.
    pub fn closed(&self, id: SessionId) {
        let mut state = self.state();
        let Some(session) = state.sessions.remove(&id) else { return };
        let settled = state.receipts.gone(id, Instant::now());
        state.converged(&settled);
        if let Some(name) = session.workload
            && let Some(proxy) = state.proxies.get_mut(&name).filter(|proxy| proxy.session == Some(id))
        {
            proxy.session = None;
            proxy.since = SystemTime::now();
            state.lost.insert(name, Lost { since: Instant::now() });
        }
        drop(state);
        self.said.notify_waiters();
    }

    /// Publishes what is new: at once when the last time is long enough ago, else soon. The publication's number.
    fn announce(&self, state: &mut State) -> u64 {
        if state.published_at.elapsed() >= PACE {
            return state.publish();
        }
        state.behind = true;
        self.behind.notify_one();
        state.latest()
    }

    /// Takes faults away that are over at `now`. The end of the next one; none: there is no other.
    pub fn end_faults(&self, now: SystemTime) -> Option<SystemTime> {
        let mut state = self.state();
        let next = state.resources.in_force(now);
        if next.len() != state.in_force.len() {
            state.in_force = next;
            state.publish();
        }
        let end = state.in_force.faults().map(|(_, policy)| policy.ends).min();
        drop(state);
        self.said.notify_waiters();
        end
    }

    /// Publishes what waits.
    pub fn catch_up(&self) {
        let mut state = self.state();
        if state.behind {
            state.publish();
        }
        drop(state);
        self.said.notify_waiters();
    }

    /// Ends every stream, as this control plane ends: proxies reconnect to the next. Registrations stay.
    pub fn end(&self) {
        let mut state = self.state();
        state.ended = true;
        let sessions = std::mem::take(&mut state.sessions);
        drop(state);
        drop(sessions);
        self.said.notify_waiters();
    }

    /// Whether this control plane is ending.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.state().ended
    }

    /// A certificate was issued.
    pub fn issued(&self, name: &WorkloadName, not_after: SystemTime) {
        self.state().certificates.insert(name.clone(), not_after);
    }

    /// The newest publication's number.
    #[must_use]
    pub fn newest(&self) -> u64 {
        self.state().published.revision
    }
}

impl State {
    /// The publication that holds all there is.
    fn latest(&self) -> u64 {
        self.published.revision + u64::from(self.behind)
    }

    /// Whether a change set was made from what is there now.
    fn check_generations(&self, put: &[Resource], delete: &[Key]) -> Result<(), StoreError> {
        let conflict = |key: &Key| Err(StoreError::Conflict { key: key.to_string() });
        for resource in put {
            let key = resource.key();
            let now = self.resources.get(&key).map_or(0, |known| known.metadata.generation);
            if resource.metadata.generation != now + 1 {
                return conflict(&key);
            }
        }
        delete.iter().find(|key| self.resources.get(key).is_none()).map_or(Ok(()), conflict)
    }

    fn workloads(&mut self, change: impl FnOnce(&mut BTreeMap<WorkloadName, RegisteredWorkload>)) {
        let mut registry = (*self.registry).clone();
        change(&mut registry.workloads);
        self.registry = Arc::new(registry);
    }

    /// So long it took until publications were in force everywhere.
    fn converged(&self, settled: &[Duration]) {
        settled.iter().for_each(|took| self.counts.convergence.observe(*took));
    }

    /// Gives every session what is new, and notes whom it concerns.
    fn publish(&mut self) -> u64 {
        let begun = Instant::now();
        let revision = self.published.revision + 1;
        (self.behind, self.published_at) = (false, Instant::now());
        self.bundle = federation::federated(&self.bundle, &self.in_force, &self.registry, &self.trust_domain);
        let next = Arc::new(Published::new(
            revision,
            (self.resources.clone(), self.in_force.clone()),
            self.registry.clone(),
            self.trust_domain.clone(),
            self.bundle.clone(),
            self.counts.clone(),
        ));
        let mut concerned = BTreeMap::new();
        for (id, session) in &self.sessions {
            let viewed = |published: &Arc<Published>| {
                Viewed::new(published.clone(), session.dialect, session.node.clone(), session.workload.clone())
            };
            let (before, after) = (viewed(&self.published), viewed(&next));
            if session.subscribed.iter().any(|(kind, name)| versions(&before, *kind, name) != versions(&after, *kind, name)) {
                concerned.insert(*id, session.name.clone());
            }
            session.publications.send_replace(Publication { revision, catalog: Arc::new(after) });
        }
        self.receipts.published(revision, concerned, Instant::now());
        self.published = next;
        self.counts.publications.observe(begun.elapsed());
        revision
    }
}

fn versions(viewed: &Viewed, kind: Kind, name: &str) -> Vec<(String, String)> {
    if name == "*" {
        return viewed.all(kind).iter().map(|resource| (resource.name.clone(), resource.version.clone())).collect();
    }
    viewed.get(kind, name).iter().map(|resource| (resource.name.clone(), resource.version.clone())).collect()
}

impl Proxy {
    fn unseen() -> Self {
        Self {
            software: "unknown".to_owned(),
            clock_ahead: None,
            session: None,
            since: SystemTime::now(),
            metrics: None,
            certificate_not_after: None,
            last_ack: None,
            last_nack: None,
        }
    }
}

/// How many change sets are remembered.
const HISTORY: usize = 1000;

/// A resource's record: its document, which names its apiVersion, and the version that wrote it.
fn encoded(resource: &Resource) -> Result<Vec<u8>, StoreError> {
    let record = serde_json::json!({ "writer": env!("CARGO_PKG_VERSION"), "resource": resource.document });
    serde_json::to_vec(&record).map_err(|error| StoreError::Failed { path: resource.key().to_string(), error: error.to_string() })
}

fn address(key: &str, taken: &Taken) -> Write {
    Write { table: Table::Addresses, key: key.to_owned(), value: serde_json::to_vec(taken).ok(), expected: Expected::Anything }
}

fn service_key(name: &ServiceName) -> String {
    format!("service/{name}")
}

fn workload_key(name: &WorkloadName) -> String {
    format!("workload/{name}")
}
