//! Metrics under Istio's names and labels, counted in cells that a worker alone writes, summed when scraped.
//!
//! In: records. Out: families of series. A worker finds the cells of a kind of exchange by the addresses of its shared
//! parts, without a lock; the registry locks only when a worker meets a series for the first time and, shortly, at a
//! scrape. Series are bounded: past the bound, exchanges count under `other`, and how often that began is counted too.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::exposition::{Family, Kind, Sample, Value};
use crate::record::{Called, OTHER, Party, Protocol, Record, Reporter, Security, UNKNOWN};

mod cells;
mod own;
mod policies;
#[cfg(test)]
mod tests;

pub use cells::{BYTES_BOUNDS, DURATION_BOUNDS};
pub use own::{Counter, Held, OwnMetric};
pub use policies::{AccessCounts, LimitCounts, TokenCounts, TrialCounts};

use cells::{Cells, Histogram, add};

/// The most series of a process. Each takes about 500 bytes a worker that counts in it.
pub const MAX_SERIES: usize = 10_000;
/// The highest status that gRPC knows. What is above is `UNKNOWN` to gRPC, and so it is counted: a service that makes up
/// statuses makes no series.
const MAX_GRPC_STATUS: u32 = 16;
const GRPC_UNKNOWN: u32 = 2;

/// What a series is counted under.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
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

impl Labels {
    /// What is counted together once the bound is reached: whoever it was; by class of status, as there are few of them.
    fn folded(&self) -> Self {
        Self {
            source: Arc::new(Party::named(OTHER)),
            destination: Arc::new(Party::named(OTHER)),
            called: Arc::new(Called::named(OTHER)),
            status: self.status / 100 * 100,
            ..self.clone()
        }
    }

    /// Istio's labels, in its order. The cluster labels tell meshes of several sites apart; here there is one.
    fn names(&self) -> Vec<(&'static str, String)> {
        let Self { reporter, source, destination, called, protocol, security, flag, status, grpc_status } = self;
        let mut all = vec![
            ("reporter", reporter.word().to_owned()),
            ("source_workload", source.workload.clone()),
            ("source_canonical_service", source.service.clone()),
            ("source_canonical_revision", source.revision().to_owned()),
            ("source_workload_namespace", source.namespace.clone()),
            ("source_principal", source.principal.clone()),
            ("source_app", source.service.clone()),
            ("source_version", source.version.clone()),
            ("source_cluster", UNKNOWN.to_owned()),
            ("destination_service", called.fqdn.clone()),
            ("destination_service_name", called.name.clone()),
            ("destination_service_namespace", called.namespace.clone()),
            ("destination_workload", destination.workload.clone()),
            ("destination_canonical_service", destination.service.clone()),
            ("destination_canonical_revision", destination.revision().to_owned()),
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
            // Empty without one, as in Istio: the only label that may be.
            all.push(("grpc_response_status", grpc_status.map(|status| status.to_string()).unwrap_or_default()));
        }
        all
    }
}

/// The cells of one series, by the number of the worker that writes them.
type ByWorker = Vec<(usize, Arc<Cells>)>;

/// All series of a process.
#[derive(Debug, Default)]
pub struct MetricsRegistry {
    series: Mutex<BTreeMap<Labels, ByWorker>>,
    folded: AtomicU64,
    workers: AtomicUsize,
    own: own::Numbers,
    limits: policies::Counted<LimitCounts>,
    access: policies::Counted<AccessCounts>,
    tokens: policies::Counted<TokenCounts>,
    trials: policies::Counted<TrialCounts>,
}

impl MetricsRegistry {
    fn series(&self) -> MutexGuard<'_, BTreeMap<Labels, ByWorker>> {
        self.series.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The cells of a worker.
    #[must_use]
    pub fn worker(self: &Arc<Self>) -> WorkerMetrics {
        let worker = self.workers.fetch_add(1, Ordering::Relaxed);
        WorkerMetrics { registry: self.clone(), worker, known: RefCell::default(), own: RefCell::default() }
    }

    /// Adds to one of our own counters, from anywhere. A worker's [`WorkerMetrics::count`] is cheaper.
    pub fn count(&self, metric: OwnMetric, value: &'static str, by: u64) {
        self.own.cell(metric, value).fetch_add(by, Ordering::Relaxed);
    }

    /// The cells in which `worker` counts what has these labels: always the same ones, however often it asks.
    fn register(&self, worker: usize, labels: Labels) -> Arc<Cells> {
        let mut series = self.series();
        let labels = if series.len() < MAX_SERIES || series.contains_key(&labels) {
            labels
        } else {
            self.folded.fetch_add(1, Ordering::Relaxed);
            labels.folded()
        };
        let cells = series.entry(labels).or_default();
        match cells.iter().find(|(of, _)| *of == worker) {
            Some((_, found)) => found.clone(),
            None => {
                let new: Arc<Cells> = Arc::default();
                cells.push((worker, new.clone()));
                new
            }
        }
    }

    /// What a scrape gets: series summed over the workers.
    #[must_use]
    pub fn families(&self) -> Vec<Family> {
        // Copied first: a worker that meets a new series must not wait for a text to be written.
        let series: Vec<(Labels, ByWorker)> = self.series().iter().map(|(labels, cells)| (labels.clone(), cells.clone())).collect();
        let of =
            |wanted: fn(Protocol) -> bool| -> Vec<_> { series.iter().filter(|(labels, _)| wanted(labels.protocol)).map(row).collect() };
        let (http, tcp) = (of(|protocol| protocol != Protocol::Tcp), of(|protocol| protocol == Protocol::Tcp));
        let grpc = of(|protocol| protocol == Protocol::Grpc);
        let load = |cell: &AtomicU64| cell.load(Ordering::Relaxed);
        let mut families = vec![
            counter("istio_requests_total", "Requests", &http, |cells| load(&cells.requests)),
            histogram(
                "istio_request_duration_milliseconds",
                "Duration of requests, to the end of the answer",
                &http,
                &DURATION_BOUNDS,
                |cells| &cells.duration,
            ),
            histogram("istio_request_bytes", "Size of requests' bodies", &http, &BYTES_BOUNDS, |cells| &cells.request_bytes),
            histogram("istio_response_bytes", "Size of answers' bodies", &http, &BYTES_BOUNDS, |cells| &cells.response_bytes),
            counter("istio_request_messages_total", "gRPC messages from the caller", &grpc, |cells| load(&cells.request_messages)),
            counter("istio_response_messages_total", "gRPC messages to the caller", &grpc, |cells| load(&cells.response_messages)),
            counter("istio_tcp_connections_opened_total", "Connections opened", &tcp, |cells| load(&cells.opened)),
            counter("istio_tcp_connections_closed_total", "Connections closed", &tcp, |cells| load(&cells.closed)),
            // Sent is what goes to the caller, in Istio's metrics.
            counter("istio_tcp_sent_bytes_total", "Bytes to the caller", &tcp, |cells| load(&cells.sent)),
            counter("istio_tcp_received_bytes_total", "Bytes from the caller", &tcp, |cells| load(&cells.received)),
            Family {
                name: "lorica_metrics_dropped_series_total",
                help: "How often a series was counted under `other`, since the bound on series was reached",
                kind: Kind::Counter,
                samples: vec![Sample { labels: Vec::new(), value: Value::Counter(load(&self.folded)) }],
            },
        ];
        families.extend(self.own.families());
        families.push(self.limits.family());
        families.push(self.access.family());
        families.push(self.tokens.family());
        families.push(self.trials.family());
        families
    }
}

/// A series about to be written: its labels, and the cells to sum.
struct Row<'a> {
    labels: Vec<(&'static str, String)>,
    cells: &'a [(usize, Arc<Cells>)],
}

fn row((labels, cells): &(Labels, ByWorker)) -> Row<'_> {
    Row { labels: labels.names(), cells }
}

fn counter(name: &'static str, help: &'static str, rows: &[Row<'_>], value: impl Fn(&Cells) -> u64) -> Family {
    let sample = |row: &Row<'_>| {
        let sum = row.cells.iter().map(|(_, cells)| value(cells)).sum();
        Sample { labels: row.labels.clone(), value: Value::Counter(sum) }
    };
    Family { name, help, kind: Kind::Counter, samples: rows.iter().map(sample).collect() }
}

fn histogram<const N: usize>(
    name: &'static str,
    help: &'static str,
    rows: &[Row<'_>],
    bounds: &'static [f64],
    of: impl Fn(&Cells) -> &Histogram<N>,
) -> Family {
    let sample = |row: &Row<'_>| {
        let (mut buckets, mut sum) = (vec![0; N], 0.0);
        for (_, cells) in row.cells {
            of(cells).read(&mut buckets, &mut sum);
        }
        Sample { labels: row.labels.clone(), value: Value::Histogram { bounds, buckets, sum } }
    };
    Family { name, help, kind: Kind::Histogram, samples: rows.iter().map(sample).collect() }
}

/// What tells series apart in a worker: the addresses of shared parts, which the entry keeps alive, so that no other
/// part can come to lie at the same address.
#[derive(PartialEq, Eq, Hash)]
struct Key {
    parts: [usize; 3],
    codes: (Reporter, Protocol, Security, &'static str, u16, Option<u32>),
}

impl Key {
    fn of(record: &Record<'_>) -> Self {
        let (status, grpc_status) = codes(record);
        Self {
            parts: [Arc::as_ptr(&record.source) as usize, Arc::as_ptr(&record.destination) as usize, Arc::as_ptr(&record.called) as usize],
            codes: (record.reporter, record.protocol, record.security, record.flag(), status, grpc_status),
        }
    }
}

/// The HTTP and gRPC status under which a record counts.
fn codes(record: &Record<'_>) -> (u16, Option<u32>) {
    record.http.as_ref().map_or((0, None), |http| {
        let grpc = http.grpc_status.map(|status| if status > MAX_GRPC_STATUS { GRPC_UNKNOWN } else { status });
        (http.status, grpc)
    })
}

/// The cells of one worker. Stays on its thread.
pub struct WorkerMetrics {
    registry: Arc<MetricsRegistry>,
    worker: usize,
    known: RefCell<HashMap<Key, Rc<Entry>, foldhash::fast::RandomState>>,
    own: RefCell<HashMap<(OwnMetric, &'static str), Arc<AtomicU64>, foldhash::fast::RandomState>>,
}

struct Entry {
    cells: Arc<Cells>,
    _alive: (Arc<Party>, Arc<Party>, Arc<Called>),
}

impl WorkerMetrics {
    /// Counts an exchange that has ended.
    pub fn record(&self, record: &Record<'_>) {
        let entry = self.entry(record);
        let cells = &entry.cells;
        match &record.http {
            None => {
                add(&cells.closed, 1);
                add(&cells.sent, record.sent);
                add(&cells.received, record.received);
            }
            Some(http) => {
                add(&cells.requests, 1);
                cells.duration.observe(&DURATION_BOUNDS, record.duration.as_secs_f64() * 1000.0);
                #[allow(clippy::cast_precision_loss, reason = "a bucket is no finer than that")]
                let (received, sent) = (record.received as f64, record.sent as f64);
                cells.request_bytes.observe(&BYTES_BOUNDS, received);
                cells.response_bytes.observe(&BYTES_BOUNDS, sent);
                add(&cells.request_messages, http.request_messages);
                add(&cells.response_messages, http.response_messages);
                if http.attempts > 1 {
                    self.count(OwnMetric::ATTEMPTS_REPEATED, "", u64::from(http.attempts - 1));
                }
            }
        }
        if let Some(reason) = record.reason {
            self.count(OwnMetric::EXCHANGES_FAILED, reason.meaning().word, 1);
        }
    }

    /// Counts a connection that was opened, under what its record says so far. To be told once its callee is known, or
    /// else it opens under another series than it closes under.
    pub fn opened(&self, record: &Record<'_>) {
        add(&self.entry(record).cells.opened, 1);
    }

    /// What became of requests that a limit of a policy is about.
    #[must_use]
    pub fn limit(&self, policy: &str, limit: &str) -> Arc<LimitCounts> {
        self.registry.limits.counts(vec![policy.to_owned(), limit.to_owned()])
    }

    /// What an AuthenticationPolicy of this name said of tokens.
    #[must_use]
    pub fn tokens(&self, policy: String) -> Arc<TokenCounts> {
        self.registry.tokens.counts(vec![policy])
    }

    /// What an AuthorizationPolicy of this name said of calls.
    #[must_use]
    pub fn access(&self, policy: String) -> Arc<AccessCounts> {
        self.registry.access.counts(vec![policy])
    }

    /// What a policy that is tried would have done, by its kind and name.
    #[must_use]
    pub fn trial(&self, kind: &str, policy: &str) -> Arc<TrialCounts> {
        self.registry.trials.counts(vec![kind.to_owned(), policy.to_owned()])
    }

    /// Adds to one of our own counters. `value` is that of its label, empty where it has none.
    pub fn count(&self, metric: OwnMetric, value: &'static str, by: u64) {
        self.own_cell(metric, value).fetch_add(by, Ordering::Relaxed);
    }

    /// One of our own counters, for who adds to it often.
    #[must_use]
    pub fn counter(&self, metric: OwnMetric, value: &'static str) -> Counter {
        Counter::of(self.own_cell(metric, value))
    }

    /// Counts one more in a gauge of our own for as long as the answer lives.
    #[must_use]
    pub fn hold(&self, metric: OwnMetric, value: &'static str) -> Held {
        Held::one(self.own_cell(metric, value))
    }

    fn own_cell(&self, metric: OwnMetric, value: &'static str) -> Arc<AtomicU64> {
        self.own.borrow_mut().entry((metric, value)).or_insert_with(|| self.registry.own.cell(metric, value)).clone()
    }

    fn entry(&self, record: &Record<'_>) -> Rc<Entry> {
        let mut known = self.known.borrow_mut();
        if known.len() >= MAX_SERIES {
            // A party is made anew with each of its certificates. The registry gives the same cells for it again.
            known.clear();
        }
        let make = || {
            let (status, grpc_status) = codes(record);
            let labels = Labels {
                reporter: record.reporter,
                source: record.source.clone(),
                destination: record.destination.clone(),
                called: record.called.clone(),
                protocol: record.protocol,
                security: record.security,
                flag: record.flag(),
                status,
                grpc_status,
            };
            let alive = (record.source.clone(), record.destination.clone(), record.called.clone());
            Rc::new(Entry { cells: self.registry.register(self.worker, labels), _alive: alive })
        };
        known.entry(Key::of(record)).or_insert_with(make).clone()
    }
}
