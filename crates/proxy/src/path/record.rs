//! record: what became of an exchange or a connection, told once, when it is over or dropped.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Instant, SystemTime};

use lorica_identity::PeerIdentity;
use lorica_model::head::{Edits, Fields, RequestHead, ResponseHead};
use lorica_model::log_format::Wanted;
use lorica_model::name::ServicePort;
use lorica_model::reason::Reason;
use lorica_model::snapshot::{Endpoint, HttpRule, Origin};
use lorica_observe::Record;
use lorica_observe::access_log::LogRules;
use lorica_observe::metrics::OpenConnection;
use lorica_observe::record::{Called, FaultMet, Http, Party, Protocol, Reporter, Route, Security, UNKNOWN};
use lorica_observe::trace;
use tokio::net::TcpStream;

use super::caller::{Caller, Entry};
use super::clean;
use super::explain::Explained;
use super::failure::Failure;
use super::pick::Picked;
use super::relay::Relayed;
use super::way::{To, Way};
use crate::config::Own;
use crate::diagnostics::full::Full;
use crate::diagnostics::notes::Notes;
use crate::worker::Worker;

/// The most parties of one kind that are remembered; past it they are made anew, which costs an allocation an exchange.
const MAX_PARTIES: usize = 4096;

/// Shared parts by what tells them apart.
type Remembered<K, V> = RefCell<HashMap<K, Arc<V>, foldhash::fast::RandomState>>;

/// Who is who: shared, so that an exchange names its parties by a pointer.
pub struct Parties {
    own: Arc<Party>,
    nobody: Arc<Party>,
    callers: RefCell<HashMap<[u8; 32], Arc<Party>, foldhash::fast::RandomState>>,
    callees: Remembered<(u64, Option<[u8; 32]>), Party>,
    unknown: Arc<Called>,
    called: Remembered<ServicePort, Called>,
    outside: Remembered<SocketAddr, Called>,
    named: Remembered<String, Called>,
}

impl Parties {
    /// The parties that a proxy meets which stands for `proxy`.
    #[must_use]
    pub fn new(proxy: &Own) -> Self {
        let own = Party {
            workload: proxy.workload.name.to_string(),
            namespace: proxy.namespace.to_string(),
            service: proxy.service_label(),
            version: proxy.version.clone().unwrap_or_else(|| UNKNOWN.to_owned()),
            principal: UNKNOWN.to_owned(),
        };
        Self {
            own: Arc::new(own),
            nobody: Arc::default(),
            callers: RefCell::default(),
            callees: RefCell::default(),
            unknown: Arc::new(Called { fqdn: UNKNOWN.to_owned(), name: UNKNOWN.to_owned(), namespace: UNKNOWN.to_owned() }),
            called: RefCell::default(),
            outside: RefCell::default(),
            named: RefCell::default(),
        }
    }

    fn caller(&self, peer: &PeerIdentity) -> Arc<Party> {
        remembered(&self.callers, peer.certificate_sha256, || party(peer))
    }

    /// Who an endpoint is, with what its certificate says.
    pub fn callee(&self, id: u64, endpoint: &Endpoint, peer: Option<&PeerIdentity>) -> Arc<Party> {
        remembered(&self.callees, (id, peer.map(|peer| peer.certificate_sha256)), || match peer {
            Some(peer) if peer.facts.is_some() => party(peer),
            _ => Party {
                workload: endpoint.workload.name.to_string(),
                namespace: endpoint.workload.namespace.to_string(),
                service: UNKNOWN.to_owned(),
                version: endpoint.version.clone().unwrap_or_else(|| UNKNOWN.to_owned()),
                principal: peer.map_or_else(|| UNKNOWN.to_owned(), |peer| peer.id.to_string()),
            },
        })
    }

    fn called(&self, port: &ServicePort) -> Arc<Called> {
        remembered(&self.called, port.clone(), || Called {
            fqdn: port.service.fqdn(),
            name: port.service.name.to_string(),
            namespace: port.service.namespace.to_string(),
        })
    }

    fn outside(&self, destination: SocketAddr) -> Arc<Called> {
        remembered(&self.outside, destination, || Called {
            fqdn: destination.to_string(),
            name: destination.to_string(),
            namespace: UNKNOWN.to_owned(),
        })
    }
}

fn remembered<K: std::hash::Hash + Eq, V>(map: &Remembered<K, V>, key: K, make: impl FnOnce() -> V) -> Arc<V> {
    let mut map = map.borrow_mut();
    if map.len() >= MAX_PARTIES {
        map.clear();
    }
    map.entry(key).or_insert_with(|| Arc::new(make())).clone()
}

/// What a certificate says of its workload. Attested by the CA; nobody can forge it.
fn party(peer: &PeerIdentity) -> Party {
    let (namespace, account) = peer.id.account().unwrap_or((UNKNOWN, UNKNOWN));
    let facts = peer.facts.as_ref();
    Party {
        workload: facts.map_or_else(|| UNKNOWN.to_owned(), |facts| facts.workload.name.to_string()),
        namespace: namespace.to_owned(),
        service: facts.and_then(|facts| facts.service.as_ref()).map_or_else(|| account.to_owned(), |service| service.name.to_string()),
        version: facts.and_then(|facts| facts.version.clone()).unwrap_or_else(|| UNKNOWN.to_owned()),
        principal: peer.id.to_string(),
    }
}

/// How much is under way, for the drain to wait on. Shared with the thread that drains.
#[derive(Debug, Default)]
pub struct UnderWay {
    /// For the app.
    pub inbound: AtomicUsize,
    /// By the app.
    pub outbound: AtomicUsize,
}

impl UnderWay {
    fn of(&self, reporter: Reporter) -> &AtomicUsize {
        match reporter {
            Reporter::Destination => &self.inbound,
            Reporter::Source => &self.outbound,
        }
    }
}

/// Who calls whom, as far as a connection's accept could tell. Shared parts: an exchange takes them by counting.
#[derive(Debug, Clone)]
pub struct Sides {
    reporter: Reporter,
    source: Arc<Party>,
    destination: Arc<Party>,
    called: Arc<Called>,
    security: Security,
}

/// What an exchange and a connection have in common.
struct Open<'x> {
    worker: &'x Worker,
    record: Record<'x>,
    begun: Instant,
    notes: Notes<'x>,
}

impl<'x> Open<'x> {
    fn begin(worker: &'x Worker, caller: &'x Caller, protocol: Protocol) -> Self {
        let mut open = Self::of(worker, caller.sides.clone(), protocol);
        open.record.remote = Some(caller.remote);
        open.record.local = Some(caller.local);
        open.record.server_name = caller.server_name.as_deref();
        open
    }

    fn of(worker: &'x Worker, sides: Sides, protocol: Protocol) -> Self {
        let Sides { reporter, source, destination, called, security } = sides;
        worker.under_way.of(reporter).fetch_add(1, Ordering::Relaxed);
        let record = Record {
            reporter,
            source,
            destination,
            called,
            protocol,
            security,
            reason: None,
            detail: Cow::Borrowed(""),
            fault: None,
            start: SystemTime::now(),
            duration: std::time::Duration::ZERO,
            received: 0,
            sent: 0,
            route: None,
            upstream: None,
            upstream_local: None,
            remote: None,
            local: None,
            server_name: None,
            http: None,
            rules: worker.telemetry.rules(),
        };
        Self { worker, record, begun: Instant::now(), notes: Notes::default() }
    }

    fn fault(&mut self, by: &Arc<Origin>, delayed: bool) {
        self.record.fault = Some(FaultMet { by: by.clone(), delayed });
    }

    fn fail(&mut self, reason: Reason, detail: String) {
        self.record.reason = Some(reason);
        self.record.detail = if detail.is_empty() { Cow::Borrowed(reason.meaning().text) } else { Cow::Owned(detail) };
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.record.duration = self.begun.elapsed();
        self.worker.under_way.of(self.record.reporter).fetch_sub(1, Ordering::Relaxed);
        self.worker.telemetry.record(&self.record);
        if self.notes.of.is_some() {
            self.worker.diagnostics.ended(self.worker, &self.record, &mut self.notes);
        }
    }
}

impl Parties {
    /// Who calls whom on a connection that came in by `entry`.
    #[must_use]
    pub fn sides(&self, worker: &Worker, entry: &Entry) -> Sides {
        let own = self.own(worker);
        let (reporter, source, destination, security) = match entry {
            Entry::Outbound { .. } => (Reporter::Source, own, self.nobody.clone(), Security::Unknown),
            // As for other meshes' gateways: the gateway is the source of what it passes on.
            Entry::Gateway { .. } => (Reporter::Source, own, self.nobody.clone(), Security::Unknown),
            Entry::Inbound { peer: Some(peer), .. } | Entry::Egress { peer: Some(peer), .. } => {
                (Reporter::Destination, self.caller(peer), own, Security::MutualTls)
            }
            Entry::Inbound { peer: None, .. } | Entry::Egress { peer: None, .. } => {
                (Reporter::Destination, self.nobody.clone(), own, Security::None)
            }
        };
        Sides {
            reporter,
            source,
            destination,
            called: entry.service_port().map_or_else(|| self.unknown.clone(), |port| self.called(port)),
            security,
        }
    }

    /// This workload, with its identity once it has one.
    fn own(&self, worker: &Worker) -> Arc<Party> {
        match worker.epoch() {
            None => self.own.clone(),
            Some(epoch) => remembered(&self.callers, OWN, || Party { principal: epoch.svid().id().to_string(), ..(*self.own).clone() }),
        }
    }
}

/// The key of the own party among the callers: no certificate has this hash.
const OWN: [u8; 32] = [0; 32];

/// The record of an HTTP exchange; told when it is dropped.
pub struct ExchangeRecord<'x> {
    open: Open<'x>,
    /// Only the way tells which service is called.
    at_gateway: bool,
    ready: Instant,
    attempted: Instant,
}

impl<'x> ExchangeRecord<'x> {
    /// An exchange begins with its request's head.
    #[must_use]
    pub fn begin(worker: &'x Worker, caller: &'x Caller, head: &'x RequestHead) -> Self {
        let protocol = if head.is_grpc() { Protocol::Grpc } else { Protocol::Http };
        let mut open = Open::begin(worker, caller, protocol);
        open.record.http = Some(Http {
            version: head.version.as_str(),
            method: head.method(),
            path: head.path_and_query(),
            authority: head.authority(),
            user_agent: head.fields.get_str("user-agent"),
            forwarded_for: head.fields.get_str("x-forwarded-for"),
            head: Some(head),
            ..Http::default()
        });
        let begun = open.begun;
        let at_gateway = matches!(caller.entry, Entry::Gateway { .. });
        (open.notes.of, open.notes.at_gateway) = (Some((head, caller)), at_gateway);
        Self { open, at_gateway, ready: begun, attempted: begun }
    }

    fn http(&mut self, change: impl FnOnce(&mut Http<'x>)) {
        if let Some(http) = &mut self.open.record.http {
            change(http);
        }
    }

    /// Leaves the query out of what is told: a token may stand in it.
    pub fn leave_query_out(&mut self, head: &'x RequestHead) {
        self.http(|http| http.path = head.path());
    }

    /// Gives the request an id and a place in a trace, which go on with it.
    pub fn identify(&mut self, head: &'x RequestHead, edits: &mut Edits) {
        let id = clean::request_id(head, edits);
        let share = self.open.worker.telemetry.keep(&self.open.record).share;
        let span = trace::propagate(&head.fields, edits, share, || fastrand::u64(..));
        self.http(|http| {
            http.request_id = id;
            http.span = Some(span);
        });
    }

    /// It goes this way.
    pub fn way(&mut self, way: &Way) {
        if let Some((rule, _)) = &way.rule {
            self.rule(rule);
        }
        if let (true, To::Endpoints(reach)) = (self.at_gateway, &way.to) {
            self.open.record.called = self.open.worker.parties.called(&reach.unit.port);
        }
    }

    /// It is a call of gRPC, which its head did not say.
    pub fn is_grpc(&mut self) {
        self.open.record.protocol = Protocol::Grpc;
    }

    /// This rule decided.
    pub fn rule(&mut self, rule: &HttpRule) {
        self.open.record.route = Some(Route::Rule(rule.origin.clone()));
    }

    /// When it began.
    #[must_use]
    pub fn begun(&self) -> Instant {
        self.open.begun
    }

    /// The same by the clock that people read.
    #[must_use]
    pub fn came(&self) -> SystemTime {
        self.open.record.start
    }

    /// It meets a fault of this policy, which delays it or does not.
    pub fn fault(&mut self, by: &Arc<Origin>, delayed: bool) {
        self.open.fault(by, delayed);
    }

    /// A fault has held it up until now.
    pub fn held_up(&mut self) {
        self.ready = Instant::now();
    }

    /// From when on its times count: its beginning, or when a fault let it go, as with Envoy.
    #[must_use]
    pub fn ready(&self) -> Instant {
        self.ready
    }

    /// All of it is recorded.
    pub fn explain(&mut self, explained: Rc<Explained>) {
        self.open.notes.full = Some(Box::new(Full::new(explained, self.open.begun)));
    }

    /// What is recorded in full, where it is.
    pub fn full(&mut self) -> Option<&mut Full> {
        self.open.notes.full.as_deref_mut()
    }

    /// By what it is recorded in full, where it is.
    #[must_use]
    pub fn explained(&self) -> Option<&Rc<Explained>> {
        self.open.notes.explained()
    }

    /// A step of its way is over.
    pub fn step(&mut self, name: &'static str) {
        if let Some(full) = self.full() {
            full.step(name);
        }
    }

    /// Its caller gives it until then.
    pub fn deadline(&mut self, deadline: Option<Instant>) {
        self.open.notes.left = deadline.map(|deadline| deadline.saturating_duration_since(self.open.begun));
    }

    /// What its policies decide, to be written by who judges it.
    pub fn decided_by(&mut self) -> &mut super::authorize::Decided {
        &mut self.open.notes.policy
    }

    /// The attempt failed, and another follows.
    pub fn tried(&mut self, failure: &Failure) {
        let Open { notes, record, begun, .. } = &mut self.open;
        notes.tried(record, failure, *begun);
    }

    /// An attempt begins at `now`.
    pub fn attempt(&mut self, now: Instant) {
        self.attempted = now;
        self.open.notes.attempt(now.saturating_duration_since(self.open.begun));
        self.http(|http| http.attempts += 1);
    }

    /// The attempt under way does not count: a kept connection had been closed.
    pub fn unseen(&mut self) {
        if let Some(full) = self.full() {
            full.unseen();
        }
        self.http(|http| http.attempts = http.attempts.saturating_sub(1));
    }

    /// Somebody takes it.
    pub fn picked(&mut self, picked: &Picked) {
        self.open.notes.picked(picked);
        let facts = &picked.lease.facts;
        self.open.record.upstream = facts.remote;
        self.open.record.upstream_local = facts.local;
        if let Some(party) = &facts.party {
            self.open.record.destination = party.clone();
        }
    }

    /// The answer's head is there at `now`.
    pub fn response(&mut self, response: &ResponseHead, now: Instant) {
        let time = now.saturating_duration_since(self.attempted);
        let since = now.saturating_duration_since(self.open.begun);
        self.open.notes.response(response, since, self.open.worker.diagnostics.is_tapped());
        self.http(|http| {
            http.status = response.status;
            http.upstream_time = Some(time);
            http.answered_after = Some(since);
        });
        if self.wanted().headers {
            self.http(|http| http.response = Some(Box::new(response.fields.clone())));
        }
        self.grpc_status(&response.fields);
    }

    /// What of the answer the log looks at.
    fn wanted(&self) -> Wanted {
        let log = self.open.record.rules.as_ref().and_then(|rules| rules.log.as_ref());
        log.map(LogRules::wanted).unwrap_or_default()
    }

    /// Whether an answer has begun.
    #[must_use]
    pub fn is_answered(&self) -> bool {
        self.open.record.http.as_ref().is_some_and(|http| http.status != 0)
    }

    /// What comes behind the answer's body.
    pub fn trailers(&mut self, trailers: &Fields) {
        if self.wanted().trailers {
            self.http(|http| http.trailers = Some(Box::new(trailers.clone())));
        }
        self.grpc_status(trailers);
    }

    /// The gRPC status, wherever it comes.
    fn grpc_status(&mut self, trailers: &Fields) {
        if let Some(status) = trailers.get_str("grpc-status").and_then(|status| status.parse().ok()) {
            self.http(|http| http.grpc_status = Some(status));
        }
    }

    /// Bytes of the answer's body went out.
    pub fn sent(&mut self, bytes: usize) {
        self.open.record.sent += bytes as u64;
    }

    /// Bytes of the request's body came in, in all.
    pub fn received(&mut self, bytes: u64) {
        self.open.record.received += bytes;
    }

    /// A tunnel has ended.
    pub fn tunnelled(&mut self, relayed: &Relayed) {
        self.open.record.received += relayed.up;
        self.open.record.sent += relayed.down;
    }

    /// It failed.
    pub fn fail(&mut self, failure: &Failure) {
        self.open.fail(failure.reason, failure.detail.clone());
        if !failure.answered {
            self.http(|http| http.status = failure.reason.meaning().status);
        }
    }

    /// The mesh answered it.
    pub fn answered(&mut self, status: u16, grpc_status: Option<u32>, bytes: usize) {
        self.http(|http| {
            http.status = status;
            http.grpc_status = grpc_status;
        });
        self.sent(bytes);
    }
}

/// The record of a connection whose bytes are not looked at, or that was no exchange at all.
pub struct ConnectionRecord<'x> {
    open: Open<'x>,
    /// Counted as opened once it is known who takes it: both counts then have the same labels.
    counted: Option<OpenConnection>,
}

impl<'x> ConnectionRecord<'x> {
    /// A connection begins.
    #[must_use]
    pub fn begin(worker: &'x Worker, caller: &'x Caller) -> Self {
        Self { open: Open::begin(worker, caller, Protocol::Tcp), counted: None }
    }

    /// The app's connection to a host outside the mesh begins.
    #[must_use]
    pub fn outside(worker: &'x Worker, remote: SocketAddr, destination: SocketAddr) -> Self {
        let parties = &worker.parties;
        let sides = Sides {
            reporter: Reporter::Source,
            source: parties.own(worker),
            destination: parties.nobody.clone(),
            called: parties.outside(destination),
            security: Security::Unknown,
        };
        let mut open = Open::of(worker, sides, Protocol::Tcp);
        open.record.route = Some(Route::Outside);
        open.record.remote = Some(remote);
        (open.record.local, open.record.upstream) = (Some(destination), Some(destination));
        Self { open, counted: None }
    }

    fn count(&mut self) {
        if self.counted.is_none() {
            self.counted = Some(self.open.worker.telemetry.metrics.opened(&self.open.record));
        }
    }

    /// It goes to this service port: at a gateway only the route tells.
    pub fn route(&mut self, origin: &Arc<Origin>, port: &ServicePort) {
        self.open.record.route = Some(Route::Rule(origin.clone()));
        self.open.record.called = self.open.worker.parties.called(port);
    }

    /// It meets a fault of this policy, which delays it or does not.
    pub fn fault(&mut self, by: &Arc<Origin>, delayed: bool) {
        self.open.fault(by, delayed);
    }

    /// It leaves the mesh by this rule.
    pub fn rule(&mut self, origin: &Arc<Origin>) {
        self.open.record.route = Some(Route::Rule(origin.clone()));
    }

    /// It is for this host outside the mesh.
    pub fn outside_named(&mut self, host: &str) {
        let named = || Called { fqdn: host.to_owned(), name: host.to_owned(), namespace: UNKNOWN.to_owned() };
        self.open.record.called = remembered(&self.open.worker.parties.named, host.to_owned(), named);
    }

    /// A host outside the mesh takes it, at this address.
    pub fn outside_at(&mut self, address: SocketAddr) {
        self.open.record.upstream = Some(address);
        self.count();
    }

    /// Somebody takes it.
    pub fn upstream(&mut self, id: u64, endpoint: &Endpoint, peer: Option<&PeerIdentity>) {
        self.open.record.destination = self.open.worker.parties.callee(id, endpoint, peer);
        self.open.record.upstream = Some(endpoint.address);
        self.count();
    }

    /// The app takes it.
    pub fn app(&mut self, app: &TcpStream) {
        self.open.record.upstream = app.peer_addr().ok();
        self.count();
    }

    /// It is over.
    pub fn end(mut self, relayed: Relayed) {
        self.count();
        self.open.record.received = relayed.up;
        self.open.record.sent = relayed.down;
        if let Some(reason) = relayed.reason {
            self.open.fail(reason, String::new());
        }
    }

    /// It failed.
    pub fn fail(mut self, reason: Reason, detail: impl Into<String>) {
        let detail = detail.into();
        tracing::info!(%reason, detail, "a connection was refused");
        self.count();
        self.open.fail(reason, detail);
    }
}
