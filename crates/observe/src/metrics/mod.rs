//! Metrics under Istio's names and labels, counted in cells that a worker alone writes, summed when scraped.
//!
//! In: records. Out: families of series. A worker finds the cells of a kind of exchange by the addresses of its shared
//! parts, without a lock; the registry locks only when a worker meets a series for the first time and, shortly, at a
//! scrape. Series are bounded: past the bound, exchanges count under `other`, and how often that began is counted too. A series in which
//! nothing was counted for a while ends: its workers let go of its cells, and then the registry does, so that no count is lost on the way.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::exposition::{Family, Kind, Labels, Sample, Value};
use crate::record::{Protocol, Record};

mod cells;
mod own;
mod policies;
mod series;
#[cfg(test)]
mod tests;
mod worker;

pub use cells::{BYTES_BOUNDS, DURATION_BOUNDS};
pub use own::{Counter, Held, OwnMetric};
pub use policies::{AccessCounts, LimitCounts, TokenCounts, TrialCounts};
pub use worker::{OpenConnection, WorkerMetrics};

use cells::{Cells, Histogram};

/// How many series there may be, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Budget {
    /// The most series of a family, those under `other` besides. One takes about 1 kB, and 500 bytes for each worker that counts in it.
    pub series: usize,
    /// How long a series stays in which nothing is counted.
    pub idle: Duration,
}

impl Budget {
    /// 10,000 series a family: far more than a workload talks to others, and still a page that Prometheus takes at once.
    pub const SERIES: usize = 10_000;
    /// Ten minutes, as Linkerd has it: long enough for any interval of scraping.
    pub const IDLE: Duration = Duration::from_secs(600);
}

impl Default for Budget {
    fn default() -> Self {
        Self { series: Self::SERIES, idle: Self::IDLE }
    }
}

/// The cells of one series, by the number of the worker that writes them.
type ByWorker = Vec<(usize, Arc<Cells>)>;

/// One series.
#[derive(Debug, Clone)]
struct Series {
    protocol: Protocol,
    cells: ByWorker,
}

/// Series that are counted in the same families.
#[derive(Debug, Default)]
struct Group {
    series: BTreeMap<Labels, Series>,
    /// How often a series counted under `other`.
    folded: u64,
    /// How many series have ended.
    expired: u64,
    swept: u64,
}

impl Group {
    /// Ends the series that no worker holds and in which nothing was counted for `idle`, all in milliseconds.
    fn sweep(&mut self, now: u64, idle: u64) {
        self.swept = now;
        let before = self.series.len();
        let lives = |(_, cells): &(usize, Arc<Cells>)| {
            Arc::strong_count(cells) > 1 || now.saturating_sub(cells.used.load(Ordering::Relaxed)) < idle
        };
        self.series.retain(|_, series| series.cells.iter().any(lives));
        self.expired += (before - self.series.len()) as u64;
    }
}

/// All series of a process.
#[derive(Debug)]
pub struct MetricsRegistry {
    budget: Budget,
    began: Instant,
    http: Mutex<Group>,
    tcp: Mutex<Group>,
    workers: AtomicUsize,
    own: own::Numbers,
    limits: policies::Counted<LimitCounts>,
    access: policies::Counted<AccessCounts>,
    tokens: policies::Counted<TokenCounts>,
    trials: policies::Counted<TrialCounts>,
}

impl Default for MetricsRegistry {
    fn default() -> Self {
        Self::new(Budget::default())
    }
}

/// How the families of requests are called together, and those of connections.
const HTTP: &str = "istio_request";
const TCP: &str = "istio_tcp";

impl MetricsRegistry {
    /// Room for so many series.
    #[must_use]
    pub fn new(budget: Budget) -> Self {
        Self {
            budget,
            began: Instant::now(),
            http: Mutex::default(),
            tcp: Mutex::default(),
            workers: AtomicUsize::new(0),
            own: own::Numbers::default(),
            limits: policies::Counted::new(budget),
            access: policies::Counted::new(budget),
            tokens: policies::Counted::new(budget),
            trials: policies::Counted::new(budget),
        }
    }

    fn group(&self, protocol: Protocol) -> MutexGuard<'_, Group> {
        let group = if protocol == Protocol::Tcp { &self.tcp } else { &self.http };
        // Every change of it is complete before the next line can fail.
        group.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn milliseconds(&self, now: Instant) -> u64 {
        worker::milliseconds(now.saturating_duration_since(self.began))
    }

    /// The cells of a worker.
    #[must_use]
    pub fn worker(self: &Arc<Self>) -> WorkerMetrics {
        let worker = self.workers.fetch_add(1, Ordering::Relaxed);
        WorkerMetrics::new(self.clone(), worker)
    }

    /// Adds to one of our own counters, from anywhere. A worker's [`WorkerMetrics::count`] is cheaper.
    pub fn count(&self, metric: OwnMetric, value: &'static str, by: u64) {
        self.own.cell(metric, value).fetch_add(by, Ordering::Relaxed);
    }

    /// The cells in which `worker` counts what this record is of: always the same ones, however often it asks.
    fn register(&self, worker: usize, record: &Record<'_>, now: u64) -> Arc<Cells> {
        let (labels, folded) = (series::labels(record), || series::folded(record));
        let idle = worker::milliseconds(self.budget.idle);
        let mut group = self.group(record.protocol);
        if !group.series.contains_key(&labels) && group.series.len() >= self.budget.series && now - group.swept.min(now) >= idle / 10 {
            group.sweep(now, idle);
        }
        let labels = if group.series.len() < self.budget.series || group.series.contains_key(&labels) {
            labels
        } else {
            group.folded += 1;
            folded()
        };
        let series = group.series.entry(labels).or_insert_with(|| Series { protocol: record.protocol, cells: Vec::new() });
        match series.cells.iter().find(|(of, _)| *of == worker) {
            Some((_, found)) => found.clone(),
            None => {
                let new: Arc<Cells> = Arc::default();
                new.used.store(now, Ordering::Relaxed);
                series.cells.push((worker, new.clone()));
                new
            }
        }
    }

    /// What a scrape gets: series summed over the workers.
    #[must_use]
    pub fn families(&self) -> Vec<Family> {
        self.families_at(Instant::now())
    }

    fn families_at(&self, now: Instant) -> Vec<Family> {
        let (at, idle) = (self.milliseconds(now), worker::milliseconds(self.budget.idle));
        // Copied first: a worker that meets a new series must not wait for a text to be written.
        let copied = |protocol| {
            let mut group = self.group(protocol);
            group.sweep(at, idle);
            let rows: Vec<Row> = group.series.iter().map(|(labels, series)| (labels.clone(), series.clone())).collect();
            (rows, group.folded, group.expired)
        };
        let ((http, http_folded, http_expired), (tcp, tcp_folded, tcp_expired)) = (copied(Protocol::Http), copied(Protocol::Tcp));
        let grpc: Vec<Row> = http.iter().filter(|(_, series)| series.protocol == Protocol::Grpc).cloned().collect();
        let load = |cell: &AtomicU64| cell.load(Ordering::Relaxed);
        let mut families = vec![
            counter("istio_requests_total", "Requests", &http, |cells| load(&cells.requests)),
            durations(&http),
            histogram("istio_request_bytes", "Size of requests' bodies", &http, |cells| &cells.request_bytes),
            histogram("istio_response_bytes", "Size of answers' bodies", &http, |cells| &cells.response_bytes),
            counter("istio_request_messages_total", "gRPC messages from the caller", &grpc, |cells| load(&cells.request_messages)),
            counter("istio_response_messages_total", "gRPC messages to the caller", &grpc, |cells| load(&cells.response_messages)),
            counter("istio_tcp_connections_opened_total", "Connections opened", &tcp, |cells| load(&cells.opened)),
            counter("istio_tcp_connections_closed_total", "Connections closed", &tcp, |cells| load(&cells.closed)),
            // Sent is what goes to the caller, in Istio's metrics.
            counter("istio_tcp_sent_bytes_total", "Bytes to the caller", &tcp, |cells| load(&cells.sent)),
            counter("istio_tcp_received_bytes_total", "Bytes from the caller", &tcp, |cells| load(&cells.received)),
        ];
        families.extend(self.own.families());
        let mut bounded = vec![(HTTP, http_folded, http_expired), (TCP, tcp_folded, tcp_expired)];
        let mut policies = |(family, folded, expired): (Family, u64, u64)| {
            bounded.push((family.name, folded, expired));
            families.push(family);
        };
        policies(self.limits.family(now));
        policies(self.access.family(now));
        policies(self.tokens.family(now));
        policies(self.trials.family(now));
        let of_bounded = |name, help, value: fn(&(&'static str, u64, u64)) -> u64| Family {
            name,
            help,
            kind: Kind::Counter,
            samples: bounded
                .iter()
                .map(|family| Sample { labels: Labels::one("family", family.0), value: Value::Counter(value(family)) })
                .collect(),
        };
        families.push(of_bounded(
            "lorica_metrics_dropped_series_total",
            "How often a series was counted under `other`, since the bound on series was reached",
            |(_, folded, _)| *folded,
        ));
        families.push(of_bounded(
            "lorica_metrics_expired_series_total",
            "Series that ended, since nothing was counted in them any more",
            |(_, _, expired)| *expired,
        ));
        families
    }
}

/// A series about to be written: its labels, and the cells to sum.
type Row = (Labels, Series);

fn counter(name: &'static str, help: &'static str, rows: &[Row], value: impl Fn(&Cells) -> u64) -> Family {
    let sample = |(labels, series): &Row| {
        let sum = series.cells.iter().map(|(_, cells)| value(cells)).sum();
        Sample { labels: labels.clone(), value: Value::Counter(sum) }
    };
    Family { name, help, kind: Kind::Counter, samples: rows.iter().map(sample).collect() }
}

fn summed<const N: usize>(series: &Series, bounds: &'static [f64], of: impl Fn(&Cells) -> &Histogram<N>) -> Value {
    let (mut buckets, mut sum) = (vec![0; N], 0.0);
    series.cells.iter().for_each(|(_, cells)| of(cells).read(&mut buckets, &mut sum));
    Value::Histogram { bounds, buckets, sum, exemplars: Vec::new() }
}

fn histogram(name: &'static str, help: &'static str, rows: &[Row], of: impl Fn(&Cells) -> &Histogram<11>) -> Family {
    let sample = |(labels, series): &Row| Sample { labels: labels.clone(), value: summed(series, &BYTES_BOUNDS, &of) };
    Family { name, help, kind: Kind::Histogram, samples: rows.iter().map(sample).collect() }
}

/// The one family with examples.
fn durations(rows: &[Row]) -> Family {
    let sample = |(labels, series): &Row| {
        let mut value = summed(series, &DURATION_BOUNDS, |cells| &cells.duration);
        if let Value::Histogram { exemplars, .. } = &mut value {
            series.cells.iter().for_each(|(_, cells)| cells.read_exemplars(exemplars));
        }
        Sample { labels: labels.clone(), value }
    };
    Family {
        name: "istio_request_duration_milliseconds",
        help: "Duration of requests, to the end of the answer",
        kind: Kind::Histogram,
        samples: rows.iter().map(sample).collect(),
    }
}
