//! Numbers that Istio has no family for. One closed list of names; the label of each takes values of a closed list too, so
//! that these numbers need no bound of their own.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::exposition::{Family, Kind, Sample, Value};

pub(super) const ATTEMPTS_REPEATED: &str = "lorica_attempts_repeated_total";
pub(super) const EXCHANGES_FAILED: &str = "lorica_exchanges_failed_total";

/// Name, label (none if empty), what it is, help.
const FAMILIES: [(&str, &str, Kind, &str); 9] = [
    ("lorica_connections_refused_total", "", Kind::Counter, "Connections refused at the bound on connections"),
    ("lorica_quic_retries_total", "", Kind::Counter, "Clients of QUIC that had to prove their address first, as many handshakes were open"),
    ("lorica_connections_open", "side", Kind::Gauge, "Connections open now, by side of the proxy"),
    ("lorica_protocol_detected_total", "protocol", Kind::Counter, "What undeclared connections turned out to speak"),
    (EXCHANGES_FAILED, "reason", Kind::Counter, "Exchanges that the mesh itself ended, by reason"),
    (ATTEMPTS_REPEATED, "", Kind::Counter, "Attempts beyond the first"),
    ("lorica_pool_connects_total", "", Kind::Counter, "Upstream connections made"),
    ("lorica_pool_reuses_total", "", Kind::Counter, "Attempts that took an upstream connection that was there"),
    ("lorica_dns_queries_total", "result", Kind::Counter, "Names that the app asked for, by what became of the question"),
];

/// The numbers of a process, by name and value of their label.
#[derive(Debug, Default)]
pub(super) struct Numbers(Mutex<BTreeMap<(&'static str, &'static str), Arc<AtomicU64>>>);

impl Numbers {
    fn cells(&self) -> MutexGuard<'_, BTreeMap<(&'static str, &'static str), Arc<AtomicU64>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The cell of a number. Workers share it; whoever counts each request in one keeps a [`Counter`].
    pub(super) fn cell(&self, name: &'static str, value: &'static str) -> Arc<AtomicU64> {
        debug_assert!(FAMILIES.iter().any(|(known, ..)| *known == name), "{name} is in no list and would never be shown");
        self.cells().entry((name, value)).or_default().clone()
    }

    pub(super) fn families(&self) -> Vec<Family> {
        let cells = self.cells();
        let family = |(name, label, kind, help): (&'static str, &'static str, Kind, &'static str)| {
            let sample = |((_, word), cell): (&(&'static str, &'static str), &Arc<AtomicU64>)| {
                let count = cell.load(Ordering::Relaxed);
                #[allow(clippy::cast_precision_loss, reason = "fewer connections than a float can count")]
                let value = if kind == Kind::Gauge { Value::Gauge(count as f64) } else { Value::Counter(count) };
                Sample { labels: if label.is_empty() { Vec::new() } else { vec![(label, (*word).to_owned())] }, value }
            };
            let samples = cells.iter().filter(|((known, _), _)| *known == name).map(sample).collect();
            Family { name, help, kind, samples }
        };
        FAMILIES.into_iter().map(family).collect()
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
