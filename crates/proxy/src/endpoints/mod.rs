//! The live endpoints: what this proxy knows of each from its own calls, and which of them takes the next one.
//!
//! In: endpoint sets as the control plane sends them, and the outcome of every call. Out: one endpoint a call. What is
//! known of an endpoint outlives every change of routes. A worker's sets are its own; who is left out, and how much is under
//! way, all workers of the process share (`shared`). Nothing here waits.

pub mod adaptive;
pub mod ejection;
pub mod health;
pub mod health_check;
pub mod limits;
pub mod places;
pub mod shared;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use lorica_model::name::ServicePort;
use lorica_model::reason::Reason;
use lorica_model::snapshot::{Endpoint, EndpointSet, OutboundUnit, Traffic};

use self::health::Health;
use self::limits::{Overflow, PendingGuard, RequestGuard, RetryGuard};
use self::shared::{Shared, SharedPort};
use crate::config::MAX_ACTIVE_PER_ENDPOINT;

/// The latency that an endpoint never called is taken to have: Linkerd's default.
const ASSUMED_LATENCY: Duration = Duration::from_millis(30);
/// How fast old latencies are forgotten: Linkerd's default.
const DECAY: Duration = Duration::from_secs(10);
/// The latency that a failed connection counts as, so that others are preferred for some seconds.
const FAILURE_LATENCY: Duration = Duration::from_secs(5);

/// The endpoints of one service port.
#[derive(Debug, Default)]
pub struct LiveSet {
    endpoints: Vec<Arc<LiveEndpoint>>,
    /// What holds for calls to them.
    traffic: Traffic,
    /// What all workers share of it.
    shared: Arc<SharedPort>,
    /// The number of the worker whose set it is.
    worker: usize,
}

/// One endpoint and what is known of it.
#[derive(Debug)]
pub struct LiveEndpoint {
    /// What the control plane says of it.
    pub endpoint: Endpoint,
    /// Tells endpoints apart in pools, for the life of the process.
    pub id: u64,
    /// Whether it is to be called.
    pub health: Arc<Health>,
    shared: Arc<SharedPort>,
    active: AtomicU32,
    load: PeakEwma,
}

/// The live sets of all service ports, replaced as a whole when an endpoint set changes.
pub type LiveSets = HashMap<ServicePort, Arc<LiveSet>>;

/// The sets of a worker for `endpoints`, with what `before` knew of those that stay, and what the `units` say of calls to them.
#[must_use]
pub fn update(
    before: &LiveSets,
    endpoints: &HashMap<ServicePort, Arc<EndpointSet>>,
    units: &HashMap<ServicePort, Arc<OutboundUnit>>,
    shared: &Shared,
    worker: usize,
    now: Instant,
) -> LiveSets {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let set = |(port, set): (&ServicePort, &EndpointSet)| {
        let known = before.get(port);
        let traffic = units.get(port).map(|unit| unit.cluster.traffic.clone()).unwrap_or_default();
        let same = |known: &&Arc<LiveSet>| known.endpoints.iter().map(|live| &live.endpoint).eq(&set.endpoints) && known.traffic == traffic;
        if let Some(known) = known.filter(same) {
            return (port.clone(), known.clone());
        }
        let shared = shared.port(port);
        let live = set.endpoints.iter().map(|endpoint| {
            let same = known.and_then(|known| known.endpoints.iter().find(|live| live.endpoint == *endpoint));
            same.cloned().unwrap_or_else(|| {
                Arc::new(LiveEndpoint {
                    endpoint: endpoint.clone(),
                    id: NEXT.fetch_add(1, Ordering::Relaxed),
                    health: shared.health(endpoint, &traffic),
                    shared: shared.clone(),
                    active: AtomicU32::new(0),
                    load: PeakEwma::new(now),
                })
            })
        });
        let endpoints: Vec<_> = live.collect();
        shared.set(&traffic, &endpoints, now);
        (port.clone(), Arc::new(LiveSet { endpoints, traffic, shared, worker }))
    };
    // A port of which no endpoint was told yet has limits and a queue as well.
    let none = |port: &ServicePort| EndpointSet { port: port.clone(), endpoints: Vec::new() };
    let untold = units.keys().filter(|port| !endpoints.contains_key(port)).map(|port| set((port, &none(port))));
    endpoints.iter().map(|(port, told)| set((port, &**told))).chain(untold).collect()
}

/// Why no endpoint could be picked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoPick {
    /// There is none, or all were tried.
    None,
    /// Those there are have as many calls as they may.
    Full,
}

impl LiveSet {
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

    /// Looks for ejections that are over and at rates of success, where that is due. Gives when it is due again.
    pub fn sweep(&self, now: Instant) -> Option<Instant> {
        let (changes, due) = self.shared.ejector.sweep(now);
        changes.into_iter().for_each(|change| self.shared.tell(change));
        due
    }

    /// The less loaded of two endpoints drawn at random by weight, leaving out those `tried` already while others are there, and those that are
    /// not well while enough are.
    ///
    /// # Errors
    /// [`NoPick`] where there is none.
    pub fn pick(&self, tried: &[u64], now: Instant, mut random: impl FnMut() -> f64) -> Result<Active, NoPick> {
        let untried = || self.endpoints.iter().filter(|live| !tried.contains(&live.id));
        if let Some(live) = untried().find(|live| live.try_probe()) {
            return Ok(Active::begin(live.clone(), now));
        }
        let available = self.endpoints.iter().filter(|live| live.health.is_available()).count();
        let panic = available * 100 < self.endpoints.len() * self.traffic.balancing.panic_percent as usize;
        let fresh: smallvec::SmallVec<[&Arc<LiveEndpoint>; 16]> = untried().filter(|live| panic || live.health.is_available()).collect();
        let picked = match fresh.as_slice() {
            [] => return Err(NoPick::None),
            [only] => only,
            candidates => {
                let first = draw(candidates, None, random());
                let second = draw(candidates, Some(first), random());
                let cost = |index: usize| candidates[index].cost(now);
                &candidates[if cost(second) < cost(first) { second } else { first }]
            }
        };
        if picked.active.load(Ordering::Relaxed) >= MAX_ACTIVE_PER_ENDPOINT {
            return Err(NoPick::Full);
        }
        Ok(Active::begin(Arc::clone(picked), now))
    }
}

/// An index drawn by weight, never `except`.
fn draw(candidates: &[&Arc<LiveEndpoint>], except: Option<usize>, random: f64) -> usize {
    let weight = |index: usize| if Some(index) == except { 0 } else { u64::from(candidates[index].endpoint.weight) };
    let total: u64 = (0..candidates.len()).map(weight).sum();
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "random is in 0..1")]
    let mut ticket = ((random * total as f64) as u64).min(total.saturating_sub(1));
    for index in 0..candidates.len() {
        if ticket < weight(index) {
            return index;
        }
        ticket -= weight(index);
    }
    // Only reached where every other weight is 0, which the control plane never sends.
    usize::from(except == Some(0)).min(candidates.len() - 1)
}

impl LiveEndpoint {
    /// What one more call would cost here: its latency times the calls it would share with.
    fn cost(&self, now: Instant) -> f64 {
        self.load.at(now) * f64::from(self.active.load(Ordering::Relaxed) + 1) / f64::from(self.endpoint.weight.max(1))
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
    begun: Instant,
    /// Whether it finds out if the endpoint is well again.
    probe: bool,
}

impl Active {
    fn begin(live: Arc<LiveEndpoint>, now: Instant) -> Self {
        live.active.fetch_add(1, Ordering::Relaxed);
        let probe = live.health.begins_probe();
        Self { live, begun: now, probe }
    }

    /// One beside those that were picked, of which nothing is told: a health check.
    #[must_use]
    pub fn aside(live: Arc<LiveEndpoint>) -> Self {
        live.active.fetch_add(1, Ordering::Relaxed);
        Self { live, begun: Instant::now(), probe: false }
    }

    /// Tells that the endpoint answered with this status: of gRPC, [`judged_status`].
    pub fn answered(&self, now: Instant, status: u16) {
        self.live.load.observe(now.saturating_duration_since(self.begun), now);
        let change = self.live.shared.ejector.answered(&self.live.health, status, self.probe, now);
        self.tell(change);
    }

    /// Tells that a connection to the endpoint came about, of which nobody can say more.
    pub fn connected(&self, now: Instant) {
        self.live.load.observe(now.saturating_duration_since(self.begun), now);
        let change = self.live.shared.ejector.connected(&self.live.health, self.probe, now);
        self.tell(change);
    }

    /// Tells that the endpoint could not be reached, broke off, or took too long.
    pub fn failed(&self, now: Instant, reason: Reason) {
        self.live.load.observe(FAILURE_LATENCY, now);
        if is_local_failure(reason) {
            let change = self.live.shared.ejector.failed(&self.live.health, self.probe, now);
            self.tell(change);
        }
    }

    fn tell(&self, change: Option<ejection::Change>) {
        if let Some(change) = change {
            self.live.shared.tell(change);
        }
    }
}

/// Whether a reason speaks against the endpoint that was called, and not against the caller, the proxy or its limits.
const fn is_local_failure(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::ConnectFailed
            | Reason::ConnectTimeout
            | Reason::UpstreamTls
            | Reason::UpstreamIdentity
            | Reason::UpstreamClosed
            | Reason::UpstreamReset
            | Reason::UpstreamProtocol
            | Reason::RequestTimeout
    )
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

/// A latency average that rises at once to a peak and comes down slowly. Writers race without harm: a lost update is one sample.
#[derive(Debug)]
struct PeakEwma {
    /// Seconds, as bits of an `f64`.
    value: AtomicU64,
    /// Nanoseconds after `epoch` at which `value` held.
    stamp: AtomicU64,
    epoch: Instant,
}

impl PeakEwma {
    fn new(now: Instant) -> Self {
        Self { value: AtomicU64::new(ASSUMED_LATENCY.as_secs_f64().to_bits()), stamp: AtomicU64::new(0), epoch: now }
    }

    fn at(&self, now: Instant) -> f64 {
        f64::from_bits(self.value.load(Ordering::Relaxed)) * self.kept(now)
    }

    /// The share of the value that is left at `now`.
    fn kept(&self, now: Instant) -> f64 {
        let stamp = self.epoch + Duration::from_nanos(self.stamp.load(Ordering::Relaxed));
        (-now.saturating_duration_since(stamp).as_secs_f64() / DECAY.as_secs_f64()).exp()
    }

    fn observe(&self, latency: Duration, now: Instant) {
        let latency = latency.as_secs_f64();
        let old = f64::from_bits(self.value.load(Ordering::Relaxed));
        let kept = self.kept(now);
        let new = if latency > old { latency } else { old * kept + latency * (1.0 - kept) };
        self.value.store(new.to_bits(), Ordering::Relaxed);
        let nanos = now.saturating_duration_since(self.epoch).as_nanos();
        self.stamp.store(u64::try_from(nanos).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use lorica_model::snapshot::{Locality, Transport};

    fn set(weights: &[u32]) -> (LiveSets, ServicePort, Instant) {
        let port: ServicePort = "recording.contact.mesh:80".parse().unwrap();
        let endpoint = |(index, weight): (usize, &u32)| Endpoint {
            workload: format!("recording-{index}.contact").parse().unwrap(),
            address: ([127, 0, 0, 1], 1000 + u16::try_from(index).unwrap()).into(),
            transport: Transport::MutualTls,
            weight: *weight,
            version: None,
            virtual_address: None,
            locality: Locality::default(),
        };
        let endpoints = weights.iter().enumerate().map(endpoint).collect();
        let sets = HashMap::from([(port.clone(), Arc::new(EndpointSet { port: port.clone(), endpoints }))]);
        let now = Instant::now();
        (update(&LiveSets::new(), &sets, &HashMap::new(), &Shared::default(), 0, now), port, now)
    }

    #[test]
    fn the_less_loaded_of_two_is_picked() {
        let (sets, port, now) = set(&[1, 1]);
        let busy = sets[&port].pick(&[], now, || 0.0).unwrap();
        for random in [0.0, 0.3, 0.6, 0.99] {
            let picked = sets[&port].pick(&[], now, || random).unwrap();
            assert_ne!(picked.live.id, busy.live.id);
        }
    }

    #[test]
    fn a_slow_endpoint_is_left_alone_until_it_is_forgotten() {
        let (sets, port, now) = set(&[1, 1]);
        let slow = sets[&port].pick(&[], now, || 0.0).unwrap();
        slow.failed(now, Reason::ConnectFailed);
        let id = slow.live.id;
        drop(slow);
        assert_ne!(sets[&port].pick(&[], now, || 0.0).unwrap().live.id, id);
        let fast = sets[&port].pick(&[id], now, || 0.0).unwrap();
        let later = now + Duration::from_secs(120);
        fast.live.load.observe(Duration::from_millis(200), later);
        drop(fast);
        assert_eq!(sets[&port].pick(&[], later, || 0.0).unwrap().live.id, id);
    }

    #[test]
    fn what_was_tried_is_not_picked_again() {
        let (sets, port, now) = set(&[1, 1]);
        let first = sets[&port].pick(&[], now, || 0.0).unwrap().live.id;
        let second = sets[&port].pick(&[first], now, || 0.0).unwrap().live.id;
        assert_eq!(sets[&port].pick(&[first, second], now, || 0.0).unwrap_err(), NoPick::None);
    }

    #[test]
    fn what_is_known_outlives_a_change_of_the_set() {
        let (sets, port, now) = set(&[1, 1]);
        let endpoints = |sets: &LiveSets| sets[&port].endpoints.iter().map(|live| live.id).collect::<Vec<_>>();
        let kept = EndpointSet { port: port.clone(), endpoints: vec![sets[&port].endpoints[1].endpoint.clone()] };
        let after = update(&sets, &HashMap::from([(port.clone(), Arc::new(kept))]), &HashMap::new(), &Shared::default(), 0, now);
        assert_eq!(endpoints(&after), endpoints(&sets)[1..]);
    }

    #[test]
    fn weights_share_the_draws() {
        let (sets, port, _) = set(&[1, 3]);
        let candidates: Vec<_> = sets[&port].endpoints.iter().collect();
        let mut hits = [0; 2];
        for step in 0..100 {
            hits[draw(&candidates, None, f64::from(step) / 100.0)] += 1;
        }
        assert_eq!(hits, [25, 75]);
        assert_eq!(draw(&candidates, Some(1), 0.99), 0);
    }
}
