//! Numbers that Istio has no family for. Each is named here, and nothing can be counted that is not; the label of each takes
//! values of a closed list, so that these numbers need no bound of their own.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::exposition::{Family, Kind, Labels, Sample, Value};

/// A number of our own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OwnMetric {
    name: &'static str,
    /// Its label, none if empty.
    label: &'static str,
    is_gauge: bool,
    help: &'static str,
}

impl OwnMetric {
    const fn counter(name: &'static str, label: &'static str, help: &'static str) -> Self {
        Self { name, label, is_gauge: false, help }
    }

    const fn gauge(name: &'static str, label: &'static str, help: &'static str) -> Self {
        Self { name, label, is_gauge: true, help }
    }

    /// Attempts beyond the first.
    pub const ATTEMPTS_REPEATED: Self = Self::counter("lorica_attempts_repeated_total", "", "Attempts beyond the first");
    /// Connections open now.
    pub const CONNECTIONS_OPEN: Self = Self::gauge("lorica_connections_open", "side", "Connections open now, by side of the proxy");
    /// Connections over the bound.
    pub const CONNECTIONS_REFUSED: Self =
        Self::counter("lorica_connections_refused_total", "", "Connections refused at the bound on connections");
    /// Questions for names.
    pub const DNS_QUERIES: Self =
        Self::counter("lorica_dns_queries_total", "result", "Names that the app asked for, by what became of the question");
    /// Endpoints ejected.
    pub const EJECTIONS: Self =
        Self::counter("lorica_ejections_total", "reason", "Endpoints that were left out for how calls to them went, by reason");
    /// Endpoints that would have been ejected.
    pub const EJECTIONS_SPARED: Self = Self::counter(
        "lorica_ejections_spared_total",
        "reason",
        "Endpoints that stayed in use as many were left out already, by the reason that spoke against them",
    );
    /// Exchanges that the mesh ended.
    pub const EXCHANGES_FAILED: Self =
        Self::counter("lorica_exchanges_failed_total", "reason", "Exchanges that the mesh itself ended, by reason");
    /// What was to be told of single requests, and could not be.
    pub const DIAGNOSTICS_DROPPED: Self = Self::counter(
        "lorica_diagnostics_dropped_total",
        "what",
        "What the control plane was to be told of single requests and did not take in time",
    );
    /// Tokens that are none.
    pub const EXPLAIN_REFUSED: Self = Self::counter(
        "lorica_explain_tokens_refused_total",
        "why",
        "Tokens to have a request recorded in full that were taken away and not followed, by why",
    );
    /// What FaultPolicies did.
    pub const FAULTS_INJECTED: Self =
        Self::counter("lorica_faults_injected_total", "fault", "What FaultPolicies did to calls, by what it was");
    /// Health checks.
    pub const HEALTH_CHECKS: Self =
        Self::counter("lorica_health_checks_total", "result", "Health checks of endpoints, by what became of them");
    /// Requests over a limit.
    pub const LIMITS_REACHED: Self =
        Self::counter("lorica_limits_reached_total", "limit", "Requests that a limit of a TrafficPolicy kept from going out, by limit");
    /// Attempts beside slow ones.
    pub const HEDGES: Self = Self::counter("lorica_hedges_total", "", "Attempts made beside one that was slow to answer");
    /// Copies of requests.
    pub const MIRRORED: Self = Self::counter("lorica_mirrored_requests_total", "result", "Copies of requests, by what became of them");
    /// Calls that went to any endpoint.
    pub const PANIC_PICKS: Self =
        Self::counter("lorica_balancing_panic_total", "", "Calls given to any endpoint, whatever its health, as too few were well");
    /// Requests that waited.
    pub const PENDING: Self = Self::counter(
        "lorica_pending_requests_total",
        "for",
        "Requests that waited for a connection or an endpoint, by what they waited for",
    );
    /// Upstream connections made.
    pub const POOL_CONNECTS: Self = Self::counter("lorica_pool_connects_total", "", "Upstream connections made");
    /// Upstream connections used again.
    pub const POOL_REUSES: Self = Self::counter("lorica_pool_reuses_total", "", "Attempts that took an upstream connection that was there");
    /// Requests repeated unseen.
    pub const POOL_STALE_REPEATS: Self = Self::counter(
        "lorica_pool_stale_repeats_total",
        "",
        "Requests sent again on a new connection because the upstream had closed the one that was kept",
    );
    /// What undeclared connections speak.
    pub const PROTOCOL_DETECTED: Self =
        Self::counter("lorica_protocol_detected_total", "protocol", "What undeclared connections turned out to speak");
    /// Clients of QUIC that were sent back once.
    pub const QUIC_RETRIES: Self = Self::counter(
        "lorica_quic_retries_total",
        "",
        "Clients of QUIC that had to prove their address first, as many handshakes were open",
    );
}

/// The numbers of a process, by value of their label.
#[derive(Debug, Default)]
pub(super) struct Numbers(Mutex<BTreeMap<(OwnMetric, &'static str), Arc<AtomicU64>>>);

impl Numbers {
    fn cells(&self) -> MutexGuard<'_, BTreeMap<(OwnMetric, &'static str), Arc<AtomicU64>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The cell of a number. Workers share it; whoever counts each request in one keeps a [`Counter`].
    pub(super) fn cell(&self, metric: OwnMetric, value: &'static str) -> Arc<AtomicU64> {
        self.cells().entry((metric, value)).or_default().clone()
    }

    /// The families of all that was counted.
    pub(super) fn families(&self) -> Vec<Family> {
        let mut families: Vec<Family> = Vec::new();
        for ((metric, word), cell) in &*self.cells() {
            let OwnMetric { name, label, is_gauge, help } = *metric;
            let count = cell.load(Ordering::Relaxed);
            #[allow(clippy::cast_precision_loss, reason = "fewer connections than a float can count")]
            let value = if is_gauge { Value::Gauge(count as f64) } else { Value::Counter(count) };
            let labels = if label.is_empty() { Labels::none() } else { Labels::one(label, word) };
            let sample = Sample { labels, value };
            match families.last_mut().filter(|last| last.name == name) {
                Some(family) => family.samples.push(sample),
                None => {
                    let kind = if is_gauge { Kind::Gauge } else { Kind::Counter };
                    families.push(Family { name, help, kind, samples: vec![sample] });
                }
            }
        }
        families
    }
}

/// A counter of our own, found once and added to often.
#[derive(Debug, Clone)]
pub struct Counter(Arc<AtomicU64>);

impl Counter {
    pub(super) fn of(cell: Arc<AtomicU64>) -> Self {
        Self(cell)
    }

    /// Adds to it.
    pub fn add(&self, by: u64) {
        self.0.fetch_add(by, Ordering::Relaxed);
    }
}

/// One more in a gauge, until it is dropped.
#[derive(Debug)]
pub struct Held(Arc<AtomicU64>);

impl Held {
    pub(super) fn one(cell: Arc<AtomicU64>) -> Self {
        cell.fetch_add(1, Ordering::Relaxed);
        Self(cell)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
