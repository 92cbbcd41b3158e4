//! The live endpoints: what this proxy knows of each from its own calls, and which of them takes the next one.
//!
//! In: endpoint sets as the control plane sends them, and the outcome of every call. Out: one endpoint a call. What is
//! known of an endpoint outlives every change of routes. Counters are atomics that workers share; nothing here waits.
//!
//! `choose` picks: the level (`locality`), then one of its endpoints (`balance`, `hash`). `arranged` holds what both need, made ahead.

mod arranged;
mod balance;
mod choose;
mod ewma;
mod hash;
mod locality;

pub mod health;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, Guard};
use lorica_model::name::ServicePort;
use lorica_model::snapshot::{Endpoint, EndpointSet, Locality, OutboundUnit, Traffic};
use lorica_model::xxh64::xxh64;

pub use self::choose::{NoPick, Wanted, is_exhausted, pick};

use self::arranged::Arranged;
use self::ewma::{FAILURE_LATENCY, PeakEwma, penalty};
use self::health::Health;

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
    pub health: Health,
    /// When it came to a set that was there before; none for one that came with its set.
    new_since: Option<Instant>,
    active: AtomicU32,
    load: PeakEwma,
}

/// The live sets of all service ports, replaced as a whole when an endpoint set changes.
pub type LiveSets = HashMap<ServicePort, Arc<LiveSet>>;

/// The sets for `endpoints`, with what `before` knew of those that stay, and what the `units` say of calls to them. `own`: where this proxy runs.
#[must_use]
pub fn update(
    before: &LiveSets,
    endpoints: &HashMap<ServicePort, Arc<EndpointSet>>,
    units: &HashMap<ServicePort, Arc<OutboundUnit>>,
    own: &Locality,
    now: Instant,
) -> LiveSets {
    let set = |(port, set): (&ServicePort, &Arc<EndpointSet>)| {
        let known = before.get(port);
        let traffic = units.get(port).map(|unit| unit.cluster.traffic.clone()).unwrap_or_default();
        let same = |known: &&Arc<LiveSet>| known.endpoints.iter().map(|live| &live.endpoint).eq(&set.endpoints) && known.traffic == traffic;
        if let Some(known) = known.filter(same) {
            return (port.clone(), known.clone());
        }
        let live = set.endpoints.iter().map(|endpoint| {
            let same = known.and_then(|known| known.endpoints.iter().find(|live| live.endpoint == *endpoint));
            same.cloned().unwrap_or_else(|| {
                let new_since = known.and_then(|known| known.new_since(endpoint, now));
                Arc::new(LiveEndpoint::new(endpoint.clone(), new_since, now))
            })
        });
        let turn = known.map_or_else(|| fastrand::u64(..), |known| known.turn.load(Ordering::Relaxed));
        (port.clone(), Arc::new(LiveSet::new(live.collect(), traffic, own, turn)))
    };
    endpoints.iter().map(set).collect()
}

impl Default for LiveSet {
    fn default() -> Self {
        Self::new(Vec::new(), Traffic::default(), &Locality::default(), 0)
    }
}

impl LiveSet {
    fn new(endpoints: Vec<Arc<LiveEndpoint>>, traffic: Traffic, own: &Locality, turn: u64) -> Self {
        let levels = arranged::levels(&endpoints, own, &traffic.balancing);
        let arranged = ArcSwap::from_pointee(Arranged::new(&levels, &endpoints, &traffic.balancing));
        Self { endpoints, traffic, levels, arranged, turn: AtomicU64::new(turn) }
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
    fn new(endpoint: Endpoint, new_since: Option<Instant>, now: Instant) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let name = format!("{}:{}", endpoint.workload, endpoint.address.port());
        Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            token: xxh64(name.as_bytes(), 0),
            health: Health::default(),
            new_since,
            active: AtomicU32::new(0),
            load: PeakEwma::new(now),
            endpoint,
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
}

impl Active {
    fn begin(live: Arc<LiveEndpoint>, panic: bool, now: Instant) -> Self {
        live.active.fetch_add(1, Ordering::Relaxed);
        Self { live, panic, begun: now }
    }

    /// Tells that the endpoint answered with this status. Where that says that it is overloaded or fails, others are preferred for a while: for as
    /// long as `retry_after` asks, or some seconds.
    pub fn answered(&self, status: u16, retry_after: Option<Duration>, now: Instant) {
        let took = now.saturating_duration_since(self.begun);
        self.live.load.observe(penalty(status, retry_after).map_or(took, |penalty| penalty.max(took)), now);
    }

    /// Tells that the endpoint took a connection, of which nothing more is known.
    pub fn connected(&self, now: Instant) {
        self.live.load.observe(now.saturating_duration_since(self.begun), now);
    }

    /// Tells that the endpoint could not be reached, or broke off.
    pub fn failed(&self, now: Instant) {
        self.live.load.observe(FAILURE_LATENCY, now);
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.live.active.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
