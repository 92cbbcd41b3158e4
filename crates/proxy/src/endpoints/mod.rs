//! The live endpoints: what this proxy knows of each from its own calls, and which of them takes the next one.
//!
//! In: endpoint sets as the control plane sends them, and the outcome of every call. Out: one endpoint a call. What is
//! known of an endpoint outlives every change of routes. A worker's sets are its own; who is left out, and how much is under
//! way, all workers of the process share (`shared`). Nothing here waits.
//!
//! `choose` picks: the level (`locality`), then one of its endpoints (`balance`, `hash`). `arranged` holds what both need, made ahead.

mod arranged;
mod balance;
mod choose;
mod ewma;
mod hash;
mod locality;

pub mod adaptive;
pub mod ejection;
pub mod health;
pub mod health_check;
pub mod limits;
pub mod places;
pub mod shared;
pub mod survey;
pub mod tried;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, Guard};
use lorica_model::name::ServicePort;
use lorica_model::reason::Reason;
use lorica_model::snapshot::{Endpoint, EndpointSet, Locality, OutboundUnit, Traffic};
use lorica_model::xxh64::xxh64;

pub use self::choose::{NoPick, Wanted, is_exhausted, pick};

use self::arranged::Arranged;
use self::ewma::{FAILURE_LATENCY, PeakEwma, penalty};
use self::health::Health;
use self::limits::{Overflow, PendingGuard, RequestGuard, RetryGuard};
use self::shared::{Shared, SharedPort};
use self::tried::Outcome;

/// The endpoints of one service port.
#[derive(Debug)]
pub struct LiveSet {
    endpoints: Vec<Arc<LiveEndpoint>>,
    /// What holds for calls to them.
    traffic: Traffic,
    /// Their indices by how far they are, the nearest first.
    levels: Vec<Vec<u32>>,
    /// The same with what follows from the health of each.
    arranged: ArcSwap<Arranged>,
    /// Whose turn it is in round robin. It begins anywhere, so that many proxies do not go in step.
    turn: AtomicU64,
    /// What all workers share of it.
    shared: Arc<SharedPort>,
    /// The number of the worker whose set it is.
    worker: usize,
}

/// From where endpoints are seen.
#[derive(Debug, Clone, Default)]
pub struct Vantage {
    /// Where the proxy runs.
    pub own: Locality,
    /// The number of the worker that sees them, from 0.
    pub worker: usize,
    /// What it shares with the other workers of the process.
    pub shared: Arc<Shared>,
}

/// One endpoint and what is known of it.
#[derive(Debug)]
pub struct LiveEndpoint {
    /// What the control plane says of it.
    pub endpoint: Endpoint,
    /// Tells endpoints apart in pools, for the life of the process.
    pub id: u64,
    /// By which a caller's cookie names it: a hash of its workload and port. It is the same in every proxy, and tells no address.
    pub token: u64,
    /// Whether it is to be called.
    pub health: Arc<Health>,
    shared: Arc<SharedPort>,
    /// When it came to a set that was there before; none for one that came with its set.
    new_since: Option<Instant>,
    active: AtomicU32,
    load: PeakEwma,
}

/// The live sets of all service ports, replaced as a whole when an endpoint set changes.
pub type LiveSets = HashMap<ServicePort, Arc<LiveSet>>;

/// The sets for `endpoints`, with what `before` knew of those that stay, and what the `units` say of calls to them.
#[must_use]
pub fn update(
    before: &LiveSets,
    endpoints: &HashMap<ServicePort, Arc<EndpointSet>>,
    units: &HashMap<ServicePort, Arc<OutboundUnit>>,
    vantage: &Vantage,
    now: Instant,
) -> LiveSets {
    let set = |(port, set): (&ServicePort, &EndpointSet)| {
        let known = before.get(port);
        let traffic = units.get(port).map(|unit| unit.cluster.traffic.clone()).unwrap_or_default();
        let same = |known: &&Arc<LiveSet>| known.endpoints.iter().map(|live| &live.endpoint).eq(&set.endpoints) && known.traffic == traffic;
        if let Some(known) = known.filter(same) {
            return (port.clone(), known.clone());
        }
        let shared = vantage.shared.port(port);
        let live = set.endpoints.iter().map(|endpoint| {
            let same = known.and_then(|known| known.endpoints.iter().find(|live| live.endpoint == *endpoint));
            same.cloned().unwrap_or_else(|| {
                let new_since = known.and_then(|known| known.new_since(endpoint, now));
                Arc::new(LiveEndpoint::new(endpoint.clone(), shared.health(endpoint, &traffic), shared.clone(), new_since, now))
            })
        });
        let turn = known.map_or_else(|| fastrand::u64(..), |known| known.turn.load(Ordering::Relaxed));
        let live: Vec<_> = live.collect();
        shared.set(&traffic, &live, now);
        (port.clone(), Arc::new(LiveSet::new(live, traffic, vantage, shared, turn)))
    };
    // A port of which no endpoint was told yet has limits and a queue as well.
    let none = |port: &ServicePort| EndpointSet { port: port.clone(), endpoints: Vec::new() };
    let untold = units.keys().filter(|port| !endpoints.contains_key(port)).map(|port| set((port, &none(port))));
    endpoints.iter().map(|(port, told)| set((port, &**told))).chain(untold).collect()
}

impl Default for LiveSet {
    fn default() -> Self {
        Self::new(Vec::new(), Traffic::default(), &Vantage::default(), Arc::default(), 0)
    }
}

impl LiveSet {
    fn new(endpoints: Vec<Arc<LiveEndpoint>>, traffic: Traffic, vantage: &Vantage, shared: Arc<SharedPort>, turn: u64) -> Self {
        let levels = arranged::levels(&endpoints, &vantage.own, &traffic.balancing);
        let arranged = ArcSwap::from_pointee(Arranged::new(&levels, &endpoints, &traffic.balancing));
        Self { endpoints, traffic, levels, arranged, turn: AtomicU64::new(turn), shared, worker: vantage.worker }
    }

    /// How many endpoints there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.endpoints.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.endpoints.is_empty()
    }

    /// The endpoints.
    #[must_use]
    pub fn endpoints(&self) -> &[Arc<LiveEndpoint>] {
        &self.endpoints
    }

    /// What holds for calls to them.
    #[must_use]
    pub fn traffic(&self) -> &Traffic {
        &self.traffic
    }

    /// What all workers share of it.
    #[must_use]
    pub fn shared(&self) -> &Arc<SharedPort> {
        &self.shared
    }

    /// A request goes out to one of them.
    ///
    /// # Errors
    /// The limit that is reached.
    pub fn begin_request(&self, now: Instant) -> Result<RequestGuard, Overflow> {
        self.shared.under_way.begin_request(self.worker, &self.traffic.limits, now)
    }

    /// A request waits for a connection or an endpoint.
    ///
    /// # Errors
    /// Where as many wait as may.
    pub fn begin_pending(&self) -> Result<PendingGuard, Overflow> {
        self.shared.under_way.begin_pending(&self.traffic.limits)
    }

    /// A request to them is to be sent once more; none where as many retries are under way as may be. It counts until the guard is dropped.
    #[must_use]
    pub fn begin_retry(&self) -> Option<RetryGuard> {
        self.shared.under_way.begin_retry(self.traffic.limits.retries)
    }

    /// How many requests this process has under way to them, those that wait and retries among them.
    #[must_use]
    pub fn under_way(&self) -> u32 {
        self.shared.under_way.count()
    }

    /// How many requests are under way, those that wait not counted.
    #[must_use]
    pub fn requests(&self) -> u32 {
        let under_way = &self.shared.under_way;
        under_way.count().saturating_sub(under_way.pending())
    }

    /// Looks for ejections that are over and at rates of success, where that is due. Gives when it is due again.
    pub fn sweep(&self, now: Instant) -> Option<Instant> {
        let (changes, due) = self.shared.ejector.sweep(now);
        changes.into_iter().for_each(|change| self.shared.tell(change));
        let (ejected, due_of_tried) = self.shared.tried.sweep(now);
        ejected.into_iter().for_each(|ejected| self.shared.tell_tried(ejected));
        due.into_iter().chain(due_of_tried).min()
    }

    /// Whether a call's hash decides which endpoint takes it.
    #[must_use]
    pub fn by_hash(&self) -> bool {
        self.traffic.balancing.algorithm.by_hash()
    }

    /// The endpoints as they stand now.
    fn arranged(&self) -> Guard<Arc<Arranged>> {
        let present = self.arranged.load();
        if present.holds(&self.endpoints) {
            return present;
        }
        self.arranged.store(Arc::new(Arranged::new(&self.levels, &self.endpoints, &self.traffic.balancing)));
        self.arranged.load()
    }

    /// Since when an endpoint is new of which only something was changed, or which was not there.
    fn new_since(&self, endpoint: &Endpoint, now: Instant) -> Option<Instant> {
        let is_it = |live: &&Arc<LiveEndpoint>| live.endpoint.workload == endpoint.workload && live.endpoint.address == endpoint.address;
        self.endpoints.iter().find(is_it).map_or(Some(now), |live| live.new_since)
    }
}

impl LiveEndpoint {
    fn new(endpoint: Endpoint, health: Arc<Health>, shared: Arc<SharedPort>, new_since: Option<Instant>, now: Instant) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let name = format!("{}:{}", endpoint.workload, endpoint.address.port());
        Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            token: xxh64(name.as_bytes(), 0),
            health,
            shared,
            new_since,
            active: AtomicU32::new(0),
            load: PeakEwma::new(now),
            endpoint,
        }
    }

    /// Whether the next call is the one that finds out whether it is well again: see [`Health::try_probe`].
    #[must_use]
    pub fn try_probe(&self) -> bool {
        self.health.try_probe()
    }

    /// A health check has decided whether it is well.
    pub fn checked(&self, well: bool) {
        if self.health.set(health::LeftOut::HealthCheck, !well) {
            self.shared.queue.changed();
        }
    }

    /// A health check went well.
    pub fn checked_well(&self) {
        if let Some(change) = self.shared.ejector.checked_well(&self.health) {
            self.shared.tell(change);
        }
    }

    /// How many calls to it are under way.
    #[must_use]
    pub fn active(&self) -> u32 {
        self.active.load(Ordering::Relaxed)
    }

    /// The latency that calls to it are expected to have.
    #[must_use]
    pub fn expected_latency(&self, now: Instant) -> Duration {
        Duration::from_secs_f64(self.load.at(now).clamp(0.0, 3600.0))
    }
}

/// A call under way to an endpoint; it counts as load until it is dropped.
#[derive(Debug)]
pub struct Active {
    /// The endpoint.
    pub live: Arc<LiveEndpoint>,
    /// Whether it was picked whatever its health, as too few are well.
    pub panic: bool,
    begun: Instant,
    /// Whether it finds out if the endpoint is well again.
    probe: bool,
}

impl Active {
    fn begin(live: Arc<LiveEndpoint>, panic: bool, now: Instant) -> Self {
        live.active.fetch_add(1, Ordering::Relaxed);
        let probe = live.health.begins_probe();
        Self { live, panic, begun: now, probe }
    }

    /// One beside those that were picked, of which nothing is told: a health check.
    #[must_use]
    pub fn aside(live: Arc<LiveEndpoint>) -> Self {
        live.active.fetch_add(1, Ordering::Relaxed);
        Self { live, panic: false, begun: Instant::now(), probe: false }
    }

    /// Tells that the endpoint answered with this status: of gRPC, [`judged_status`]. Where that says that it is overloaded or fails, others are preferred for a while: for as
    /// long as `retry_after` asks, or some seconds.
    pub fn answered(&self, status: u16, retry_after: Option<Duration>, now: Instant) {
        let took = now.saturating_duration_since(self.begun);
        self.live.load.observe(penalty(status, retry_after).map_or(took, |penalty| penalty.max(took)), now);
        let change = self.live.shared.ejector.answered(&self.live.health, status, self.probe, now);
        self.tell(change);
        self.try_out(Outcome::Answered(status), now);
    }

    /// Tells that another endpoint answered before this one, which is at least so slow.
    pub fn outrun(&self, now: Instant) {
        self.live.load.observe(now.saturating_duration_since(self.begun), now);
    }

    /// Tells that the endpoint took a connection, of which nothing more is known.
    pub fn connected(&self, now: Instant) {
        self.live.load.observe(now.saturating_duration_since(self.begun), now);
        let change = self.live.shared.ejector.connected(&self.live.health, self.probe, now);
        self.tell(change);
        self.try_out(Outcome::Connected, now);
    }

    /// Tells that the endpoint could not be reached, broke off, or took too long.
    pub fn failed(&self, reason: Reason, now: Instant) {
        self.live.load.observe(FAILURE_LATENCY, now);
        if is_local_failure(reason) {
            let change = self.live.shared.ejector.failed(&self.live.health, self.probe, now);
            self.tell(change);
            self.try_out(Outcome::Failed, now);
        }
    }

    fn try_out(&self, outcome: Outcome, now: Instant) {
        let shared = &self.live.shared;
        shared.tried.judge(&self.live.health, outcome, now, |ejected| shared.tell_tried(ejected));
    }

    fn tell(&self, change: Option<ejection::Change>) {
        if let Some(change) = change {
            self.live.shared.tell(change);
        }
    }
}

/// Whether a reason speaks against the endpoint that was called, and not against the caller, the proxy or its limits.
fn is_local_failure(reason: Reason) -> bool {
    reason.is_of_connection() || matches!(reason, Reason::UpstreamProtocol | Reason::RequestTimeout)
}

/// The status by which an answer is judged: where gRPC ends a call with the head already, the one that Envoy takes its status for.
#[must_use]
pub fn judged_status(status: u16, grpc_status: Option<u32>) -> u16 {
    match grpc_status {
        None => status,
        Some(0) => 200,
        Some(1) => 499,
        Some(3 | 9 | 11) => 400,
        Some(4) => 504,
        Some(5) => 404,
        Some(6 | 10) => 409,
        Some(7) => 403,
        Some(8) => 429,
        Some(12) => 501,
        Some(14) => 503,
        Some(16) => 401,
        Some(_) => 500,
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.live.active.fetch_sub(1, Ordering::Relaxed);
        if self.probe {
            self.live.health.ends_probe();
        }
    }
}

#[cfg(test)]
mod tests;
