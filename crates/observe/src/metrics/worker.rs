//! What one worker counts, in cells that it alone writes. It finds the cells of a kind of exchange by the addresses of its shared parts.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use lorica_model::snapshot::Origin;

use super::cells::{BYTES_BOUNDS, Cells, DURATION_BOUNDS, add};
use super::own::{Counter, Held, OwnMetric};
use super::policies::{AccessCounts, LimitCounts, TokenCounts, TrialCounts};
use super::series::Codes;
use super::{Budget, MetricsRegistry};
use crate::exposition::Exemplar;
use crate::record::{Called, Http, Party, Record, Route};

/// What tells series apart in a worker: the addresses of shared parts, which the entry keeps alive, so that no other
/// part can come to lie at the same address.
#[derive(PartialEq, Eq, Hash)]
struct Key {
    parts: [usize; 4],
    codes: Codes,
}

impl Key {
    fn of(record: &Record<'_>) -> Self {
        let route = match &record.route {
            Some(Route::Rule(origin)) => Arc::as_ptr(origin) as usize,
            Some(Route::Outside) | None => 0,
        };
        let parts =
            [Arc::as_ptr(&record.source) as usize, Arc::as_ptr(&record.destination) as usize, Arc::as_ptr(&record.called) as usize, route];
        Self { parts, codes: Codes::of(record) }
    }
}

/// The cells of one worker. Stays on its thread.
pub struct WorkerMetrics {
    registry: Arc<MetricsRegistry>,
    worker: usize,
    /// Milliseconds since the registry began, as of the last tick.
    now: Cell<u64>,
    swept: Cell<u64>,
    known: RefCell<HashMap<Key, Rc<Entry>, foldhash::fast::RandomState>>,
    own: RefCell<HashMap<(OwnMetric, &'static str), Arc<AtomicU64>, foldhash::fast::RandomState>>,
}

struct Entry {
    cells: Arc<Cells>,
    used: Cell<u64>,
    _alive: (Arc<Party>, Arc<Party>, Arc<Called>, Option<Arc<Origin>>),
}

impl Entry {
    /// Tells the registry when the cells were used last.
    fn tell(&self) {
        self.cells.used.fetch_max(self.used.get(), Ordering::Relaxed);
    }
}

/// A connection that is open. While it lives, its series does not end.
#[must_use = "the series of a connection may end before it"]
pub struct OpenConnection(Rc<Entry>);

impl std::fmt::Debug for OpenConnection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("OpenConnection").field(&self.0.cells).finish()
    }
}

impl WorkerMetrics {
    pub(super) fn new(registry: Arc<MetricsRegistry>, worker: usize) -> Self {
        let now = registry.milliseconds(Instant::now());
        Self { registry, worker, now: Cell::new(now), swept: Cell::new(now), known: RefCell::default(), own: RefCell::default() }
    }

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
                let duration = record.duration.as_secs_f64() * 1000.0;
                let bucket = cells.duration.observe(&DURATION_BOUNDS, duration);
                #[allow(clippy::cast_precision_loss, reason = "a bucket is no finer than that")]
                let (received, sent) = (record.received as f64, record.sent as f64);
                cells.request_bytes.observe(&BYTES_BOUNDS, received);
                cells.response_bytes.observe(&BYTES_BOUNDS, sent);
                add(&cells.request_messages, http.request_messages);
                add(&cells.response_messages, http.response_messages);
                if http.attempts > 1 {
                    self.count(OwnMetric::ATTEMPTS_REPEATED, "", u64::from(http.attempts - 1));
                }
                if record.is_sampled() {
                    example(cells, bucket, duration, http, record);
                }
            }
        }
        if let Some(reason) = record.reason {
            self.count(OwnMetric::EXCHANGES_FAILED, reason.meaning().word, 1);
        }
    }

    /// Counts a connection that was opened, under what its record says so far. To be told once its callee is known, or
    /// else it opens under another series than it closes under.
    pub fn opened(&self, record: &Record<'_>) -> OpenConnection {
        let entry = self.entry(record);
        add(&entry.cells.opened, 1);
        OpenConnection(entry)
    }

    /// Tells what time it is; to be called each second. From time to time it lets go of series that nothing was counted in for as long as
    /// the budget says.
    pub fn tick(&self, now: Instant) {
        let now = self.registry.milliseconds(now);
        self.now.set(now);
        let idle = milliseconds(self.registry.budget.idle);
        if now.saturating_sub(self.swept.get()) < (idle / 10).max(1) {
            return;
        }
        self.swept.set(now);
        self.known.borrow_mut().retain(|_, entry| {
            if Rc::strong_count(entry) > 1 {
                entry.used.set(now);
            }
            entry.tell();
            now.saturating_sub(entry.used.get()) < idle
        });
    }

    /// What became of requests that a limit of a policy is about.
    #[must_use]
    pub fn limit(&self, policy: &str, limit: &str) -> Arc<LimitCounts> {
        self.registry.limits.counts(vec![policy.to_owned(), limit.to_owned()], Instant::now())
    }

    /// What an AuthenticationPolicy of this name said of tokens.
    #[must_use]
    pub fn tokens(&self, policy: String) -> Arc<TokenCounts> {
        self.registry.tokens.counts(vec![policy], Instant::now())
    }

    /// What an AuthorizationPolicy of this name said of calls.
    #[must_use]
    pub fn access(&self, policy: String) -> Arc<AccessCounts> {
        self.registry.access.counts(vec![policy], Instant::now())
    }

    /// What a policy that is tried would have done, by its kind and name.
    #[must_use]
    pub fn trial(&self, kind: &str, policy: &str) -> Arc<TrialCounts> {
        self.registry.trials.counts(vec![kind.to_owned(), policy.to_owned()], Instant::now())
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
        if known.len() >= most_known(self.registry.budget) {
            // A party is made anew with each of its certificates, a route with each change. The registry gives the same cells for it again.
            known.values().for_each(|entry| entry.tell());
            known.clear();
        }
        let make = || {
            let route = match &record.route {
                Some(Route::Rule(origin)) => Some(origin.clone()),
                Some(Route::Outside) | None => None,
            };
            let alive = (record.source.clone(), record.destination.clone(), record.called.clone(), route);
            let cells = self.registry.register(self.worker, record, self.now.get());
            Rc::new(Entry { cells, used: Cell::new(0), _alive: alive })
        };
        let entry = known.entry(Key::of(record)).or_insert_with(make);
        entry.used.set(self.now.get());
        entry.clone()
    }
}

/// How many kinds of exchange a worker knows by address: room for all series twice, as several kinds may be one series.
fn most_known(budget: Budget) -> usize {
    budget.series.saturating_mul(2).max(64)
}

pub(super) fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Keeps a traced exchange as the example of its bucket.
#[cold]
fn example(cells: &Cells, bucket: usize, value: f64, http: &Http<'_>, record: &Record<'_>) {
    if let Some(span) = http.span {
        let at = record.start + record.duration;
        cells.keep(bucket, Exemplar { trace_id: span.context.trace_id, span_id: span.context.span_id, value, at });
    }
}
