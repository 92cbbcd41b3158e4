//! Metrics under Istio's names and labels, counted in cells that a worker alone writes, summed when scraped.
//!
//! In: records. Out: series. A worker finds the cells of a kind of exchange by the addresses of its shared parts, without
//! a lock; the registry locks only when a series is new and at a scrape. Series are bounded: past the bound, exchanges
//! count under `other`, and how many series were folded so is itself counted.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::exposition::{Family, Kind, Sample, Value};
use crate::record::{Called, Party, Protocol, Record, Reporter, Security, UNKNOWN};

/// Istio's default bounds of `istio_request_duration_milliseconds`.
pub const DURATION_BOUNDS: [f64; 19] = [
    0.5,
    1.0,
    5.0,
    10.0,
    25.0,
    50.0,
    100.0,
    250.0,
    500.0,
    1000.0,
    2500.0,
    5000.0,
    10_000.0,
    30_000.0,
    60_000.0,
    300_000.0,
    600_000.0,
    1_800_000.0,
    3_600_000.0,
];
/// Istio's default bounds of the histograms of bytes.
pub const BYTES_BOUNDS: [f64; 10] =
    [1.0, 10.0, 100.0, 1000.0, 10_000.0, 100_000.0, 1_000_000.0, 10_000_000.0, 100_000_000.0, 1_000_000_000.0];
/// The most series of a process, over all its workers. Each takes about 700 bytes.
pub const MAX_SERIES: usize = 10_000;

/// What a series is counted under.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Labels {
    reporter: Reporter,
    source: Arc<Party>,
    destination: Arc<Party>,
    called: Arc<Called>,
    protocol: Protocol,
    security: Security,
    flag: &'static str,
    status: u16,
    grpc_status: Option<u32>,
}

/// The cells of a series.
#[derive(Debug, Default)]
struct Cells {
    requests: AtomicU64,
    duration: Histogram<20>,
    received: Histogram<11>,
    sent: Histogram<11>,
    opened: AtomicU64,
    closed: AtomicU64,
}

/// Buckets, the last of them without a bound, and the sum in thousandths.
#[derive(Debug)]
struct Histogram<const N: usize> {
    buckets: [AtomicU64; N],
    sum: AtomicU64,
}

impl<const N: usize> Default for Histogram<N> {
    fn default() -> Self {
        Self { buckets: std::array::from_fn(|_| AtomicU64::new(0)), sum: AtomicU64::new(0) }
    }
}

impl<const N: usize> Histogram<N> {
    fn observe(&self, bounds: &[f64], value: f64) {
        let bucket = bounds.partition_point(|bound| *bound < value).min(N - 1);
        add(&self.buckets[bucket], 1);
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a duration or a size is not negative, and saturates")]
        add(&self.sum, (value * 1000.0) as u64);
    }

    fn read(&self) -> (Vec<u64>, f64) {
        #[allow(clippy::cast_precision_loss, reason = "a metric is a float")]
        let sum = self.sum.load(Ordering::Relaxed) as f64 / 1000.0;
        (self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)).collect(), sum)
    }
}

/// Only one thread writes a cell, so no locked instruction is needed to add to it.
fn add(cell: &AtomicU64, by: u64) {
    cell.store(cell.load(Ordering::Relaxed).wrapping_add(by), Ordering::Relaxed);
}

/// All series of a process.
#[derive(Debug, Default)]
pub struct MetricsRegistry {
    series: Mutex<Vec<(Labels, Arc<Cells>)>>,
    folded: AtomicU64,
    /// Numbers without a family of Istio's, by name and label.
    counters: Mutex<BTreeMap<(&'static str, &'static str), Arc<AtomicU64>>>,
}

/// The names and help texts of our own counters, and the label that tells their series apart.
const OWN: [(&str, &str, &str); 4] = [
    ("lorica_connections_refused_total", "", "Connections refused at the bound on connections"),
    ("lorica_protocol_detected_total", "protocol", "What undeclared connections turned out to speak"),
    ("lorica_exchanges_failed_total", "reason", "Exchanges that the mesh itself ended, by reason"),
    ("lorica_attempts_repeated_total", "", "Attempts beyond the first"),
];

impl MetricsRegistry {
    fn series(&self) -> MutexGuard<'_, Vec<(Labels, Arc<Cells>)>> {
        self.series.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The cells of a worker.
    #[must_use]
    pub fn worker(self: &Arc<Self>) -> WorkerMetrics {
        WorkerMetrics { registry: self.clone(), known: RefCell::default(), own: RefCell::default() }
    }

    fn register(&self, labels: &Labels) -> Arc<Cells> {
        let mut series = self.series();
        if series.len() < MAX_SERIES {
            let cells = Arc::new(Cells::default());
            series.push((labels.clone(), cells.clone()));
            return cells;
        }
        self.folded.fetch_add(1, Ordering::Relaxed);
        let other = Labels { source: Arc::default(), destination: Arc::default(), called: Arc::new(other()), ..labels.clone() };
        let found = series.iter().find(|(known, _)| *known == other).map(|(_, cells)| cells.clone());
        found.unwrap_or_else(|| {
            let cells = Arc::new(Cells::default());
            // Few: they differ in codes only.
            series.push((other, cells.clone()));
            cells
        })
    }

    fn own(&self, name: &'static str, value: &'static str) -> Arc<AtomicU64> {
        let mut counters = self.counters.lock().unwrap_or_else(PoisonError::into_inner);
        counters.entry((name, value)).or_default().clone()
    }

    /// What a scrape gets: series of the same labels summed over the workers.
    #[must_use]
    pub fn families(&self) -> Vec<Family> {
        let mut merged: BTreeMap<Labels, Vec<Arc<Cells>>> = BTreeMap::new();
        for (labels, cells) in self.series().iter() {
            merged.entry(labels.clone()).or_default().push(cells.clone());
        }
        let (tcp, http): (Vec<_>, Vec<_>) = merged.iter().partition(|(labels, _)| labels.protocol == Protocol::Tcp);
        let counter = |name, help, of: &[(&Labels, &Vec<Arc<Cells>>)], value: fn(&Cells) -> u64| {
            let sample = |(labels, cells): &(&Labels, &Vec<Arc<Cells>>)| Sample {
                labels: names(labels),
                value: Value::Counter(cells.iter().map(|cells| value(cells)).sum()),
            };
            Family { name, help, kind: Kind::Counter, samples: of.iter().map(sample).collect() }
        };
        let histogram = |name, help, bounds: &'static [f64], value: fn(&Cells) -> (Vec<u64>, f64)| {
            let sample = |(labels, cells): &(&Labels, &Vec<Arc<Cells>>)| {
                let mut buckets = vec![0; bounds.len() + 1];
                let mut sum = 0.0;
                for (more, part) in cells.iter().map(|cells| value(cells)) {
                    buckets.iter_mut().zip(more).for_each(|(bucket, more)| *bucket += more);
                    sum += part;
                }
                Sample { labels: names(labels), value: Value::Histogram { bounds, buckets, sum } }
            };
            Family { name, help, kind: Kind::Histogram, samples: http.iter().map(sample).collect() }
        };
        let mut families = vec![
            counter("istio_requests_total", "Requests", &http, |cells| cells.requests.load(Ordering::Relaxed)),
            histogram("istio_request_duration_milliseconds", "Duration of requests, to the end of the answer", &DURATION_BOUNDS, |cells| {
                cells.duration.read()
            }),
            histogram("istio_request_bytes", "Size of requests' bodies", &BYTES_BOUNDS, |cells| cells.received.read()),
            histogram("istio_response_bytes", "Size of answers' bodies", &BYTES_BOUNDS, |cells| cells.sent.read()),
            counter("istio_tcp_connections_opened_total", "Connections opened", &tcp, |cells| cells.opened.load(Ordering::Relaxed)),
            counter("istio_tcp_connections_closed_total", "Connections closed", &tcp, |cells| cells.closed.load(Ordering::Relaxed)),
            // Istio counts what the callee sends to its caller as sent.
            counter("istio_tcp_sent_bytes_total", "Bytes to the caller", &tcp, |cells| total(&cells.sent)),
            counter("istio_tcp_received_bytes_total", "Bytes from the caller", &tcp, |cells| total(&cells.received)),
            Family {
                name: "lorica_metrics_series_folded_total",
                help: "Series counted under `unknown` parties since the bound on series was reached",
                kind: Kind::Counter,
                samples: vec![Sample { labels: Vec::new(), value: Value::Counter(self.folded.load(Ordering::Relaxed)) }],
            },
        ];
        let counters = self.counters.lock().unwrap_or_else(PoisonError::into_inner);
        for (name, label, help) in OWN {
            let of = counters.iter().filter(|((known, _), _)| *known == name);
            let sample = |((_, value), cell): (&(&'static str, &'static str), &Arc<AtomicU64>)| {
                let labels = if label.is_empty() { Vec::new() } else { vec![(label, (*value).to_owned())] };
                Sample { labels, value: Value::Counter(cell.load(Ordering::Relaxed)) }
            };
            families.push(Family { name, help, kind: Kind::Counter, samples: of.map(sample).collect() });
        }
        families
    }
}

fn total(histogram: &Histogram<11>) -> u64 {
    histogram.sum.load(Ordering::Relaxed) / 1000
}

fn other() -> Called {
    Called { fqdn: UNKNOWN.to_owned(), name: UNKNOWN.to_owned(), namespace: UNKNOWN.to_owned() }
}

/// Istio's labels, in its order. The cluster labels tell meshes of several sites apart; here there is one.
fn names(labels: &Labels) -> Vec<(&'static str, String)> {
    let Labels { reporter, source, destination, called, protocol, security, flag, status, grpc_status } = labels;
    let mut all = vec![
        ("reporter", reporter.word().to_owned()),
        ("source_workload", workload(source)),
        ("source_canonical_service", source.service.clone()),
        ("source_canonical_revision", revision(source)),
        ("source_workload_namespace", source.namespace.clone()),
        ("source_principal", source.principal.clone()),
        ("source_app", source.service.clone()),
        ("source_version", source.version.clone()),
        ("source_cluster", UNKNOWN.to_owned()),
        ("destination_service", called.fqdn.clone()),
        ("destination_service_name", called.name.clone()),
        ("destination_service_namespace", called.namespace.clone()),
        ("destination_workload", workload(destination)),
        ("destination_canonical_service", destination.service.clone()),
        ("destination_canonical_revision", revision(destination)),
        ("destination_workload_namespace", destination.namespace.clone()),
        ("destination_principal", destination.principal.clone()),
        ("destination_app", destination.service.clone()),
        ("destination_version", destination.version.clone()),
        ("destination_cluster", UNKNOWN.to_owned()),
        ("request_protocol", protocol.word().to_owned()),
        ("response_flags", (*flag).to_owned()),
        ("connection_security_policy", security.word().to_owned()),
    ];
    if *protocol != Protocol::Tcp {
        all.push(("response_code", status.to_string()));
        all.push(("grpc_response_status", grpc_status.map(|status| status.to_string()).unwrap_or_default()));
    }
    all
}

fn workload(party: &Party) -> String {
    party.workload.clone()
}

/// Istio says `latest` where a workload has no version label.
fn revision(party: &Party) -> String {
    if party.version == UNKNOWN && party.workload != UNKNOWN { "latest".to_owned() } else { party.version.clone() }
}

/// What tells series apart in a worker: the addresses of shared parts, which the entry keeps alive.
#[derive(PartialEq, Eq, Hash)]
struct Key {
    parts: [usize; 3],
    codes: (Reporter, Protocol, Security, &'static str, u16, Option<u32>),
}

impl Key {
    fn of(record: &Record, status: u16) -> Self {
        let grpc_status = record.http.as_ref().and_then(|http| http.grpc_status);
        Self {
            parts: [Arc::as_ptr(&record.source) as usize, Arc::as_ptr(&record.destination) as usize, Arc::as_ptr(&record.called) as usize],
            codes: (record.reporter, record.protocol, record.security, record.flag(), status, grpc_status),
        }
    }
}

/// The cells of one worker. Stays on its thread.
pub struct WorkerMetrics {
    registry: Arc<MetricsRegistry>,
    known: RefCell<HashMap<Key, Rc<Entry>, foldhash::fast::RandomState>>,
    own: RefCell<HashMap<(&'static str, &'static str), Arc<AtomicU64>, foldhash::fast::RandomState>>,
}

struct Entry {
    cells: Arc<Cells>,
    _alive: (Arc<Party>, Arc<Party>, Arc<Called>),
}

impl WorkerMetrics {
    /// Counts an exchange that has ended.
    pub fn record(&self, record: &Record) {
        let status = record.http.as_ref().map_or(0, |http| http.status);
        let entry = self.entry(record, status);
        let cells = &entry.cells;
        #[allow(clippy::cast_precision_loss, reason = "a metric is a float")]
        let (received, sent) = (record.received as f64, record.sent as f64);
        cells.received.observe(&BYTES_BOUNDS, received);
        cells.sent.observe(&BYTES_BOUNDS, sent);
        match record.http.is_some() {
            true => {
                add(&cells.requests, 1);
                cells.duration.observe(&DURATION_BOUNDS, record.duration.as_secs_f64() * 1000.0);
            }
            false => add(&cells.closed, 1),
        }
        if let Some(http) = record.http.as_ref().filter(|http| http.attempts > 1) {
            self.count("lorica_attempts_repeated_total", "", u64::from(http.attempts - 1));
        }
        if let Some(reason) = record.reason {
            self.count("lorica_exchanges_failed_total", reason.meaning().word, 1);
        }
    }

    /// Counts a connection that was opened. Its flag is not known yet; it opens under what its record says so far.
    pub fn opened(&self, record: &Record) {
        add(&self.entry(record, 0).cells.opened, 1);
    }

    /// Adds to one of our own counters.
    pub fn count(&self, name: &'static str, value: &'static str, by: u64) {
        let mut own = self.own.borrow_mut();
        let cell = own.entry((name, value)).or_insert_with(|| self.registry.own(name, value));
        // Shared by the workers, and rare.
        cell.fetch_add(by, Ordering::Relaxed);
    }

    fn entry(&self, record: &Record, status: u16) -> Rc<Entry> {
        let mut known = self.known.borrow_mut();
        if known.len() >= MAX_SERIES {
            // Pointers of parties long gone add up here, not in the registry; the cells themselves stay where they are.
            known.clear();
        }
        let make = || {
            let labels = Labels {
                reporter: record.reporter,
                source: record.source.clone(),
                destination: record.destination.clone(),
                called: record.called.clone(),
                protocol: record.protocol,
                security: record.security,
                flag: record.flag(),
                status,
                grpc_status: record.http.as_ref().and_then(|http| http.grpc_status),
            };
            let alive = (record.source.clone(), record.destination.clone(), record.called.clone());
            Rc::new(Entry { cells: self.registry.register(&labels), _alive: alive })
        };
        known.entry(Key::of(record, status)).or_insert_with(make).clone()
    }
}
