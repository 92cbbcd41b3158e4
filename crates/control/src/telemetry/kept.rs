//! Spans and log records that the mesh told of itself: where they are kept, how they are searched, and how many were not taken.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use lorica_observe::exposition::{self, Family, Labels, Sample, Value};
use lorica_observe::store::{Bounds, Counts, Kind, Store};
use tokio::sync::Semaphore;

/// How much is kept unless said otherwise, in bytes.
pub const BYTES: u64 = 256 * 1024 * 1024;
/// How long it is kept unless said otherwise.
pub const AGE: Duration = Duration::from_secs(24 * 3600);
/// How many searches may be under way: each may read all that is kept, and a thread is its own.
const SEARCHES: usize = 4;

/// How much is kept, and where it is taken.
#[derive(Debug, Clone, Copy)]
pub struct KeptConfig {
    /// The most bytes on disk: half for spans, a quarter for log records, a quarter for series.
    pub bytes: u64,
    /// How long it is kept.
    pub age: Duration,
    /// Where OTLP is taken over gRPC besides the socket; none: nowhere.
    pub otlp: Option<SocketAddr>,
    /// Where OTLP is taken over HTTP; none: nowhere.
    pub otlp_http: Option<SocketAddr>,
}

impl Default for KeptConfig {
    fn default() -> Self {
        Self { bytes: BYTES, age: AGE, otlp: None, otlp_http: None }
    }
}

/// What the mesh has told of itself.
#[derive(Debug)]
pub struct Kept {
    store: Arc<Store>,
    searches: Semaphore,
    /// Spans and log records that could not be taken for what they are or who sent them.
    refused: [AtomicU64; 2],
}

impl Kept {
    /// Opens what is kept in the state directory. Where that cannot be had, what is told is dropped and counted: a mesh does not stand still because
    /// it cannot be looked at.
    pub async fn open(state: &Path, config: &KeptConfig) -> Self {
        let directory = state.join("telemetry");
        let named = directory.display().to_string();
        let KeptConfig { bytes, age, .. } = *config;
        let opened = tokio::task::spawn_blocking(move || {
            Store::open(&directory, Bounds { bytes: bytes / 2, age }, Bounds { bytes: bytes / 4, age })
        });
        let store = opened.await.map_err(io::Error::other).flatten().unwrap_or_else(|error| {
            tracing::error!(directory = named, %error, "spans and log records cannot be kept, and are dropped");
            Store::closed()
        });
        Self { store: Arc::new(store), searches: Semaphore::new(SEARCHES), refused: Default::default() }
    }

    /// The spans and log records.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Searches, off the runtime's threads; a few at once.
    ///
    /// # Errors
    /// What the search says, and when this process ends.
    pub async fn search<T: Send + 'static>(&self, search: impl FnOnce(&Store) -> io::Result<T> + Send + 'static) -> io::Result<T> {
        let _place = self.searches.acquire().await.map_err(io::Error::other)?;
        let store = self.store.clone();
        tokio::task::spawn_blocking(move || search(&store)).await.map_err(io::Error::other)?
    }

    /// Ends: what was taken is on disk.
    pub async fn close(&self) {
        let store = self.store.clone();
        if tokio::task::spawn_blocking(move || store.close()).await.is_err() {
            tracing::error!("telemetry could not be closed in order");
        }
    }

    pub(super) fn refuse(&self, kind: Kind, count: u64) {
        if let Some(refused) = self.refused.get(usize::from(kind == Kind::Logs)) {
            refused.fetch_add(count, Ordering::Relaxed);
        }
    }

    /// Its counts, for the page of metrics.
    pub(crate) fn families(&self) -> Vec<Family> {
        #[allow(clippy::cast_precision_loss, reason = "fewer of them than a float can count")]
        let number = |count: u64| Value::Gauge(count as f64);
        let counts = Kind::ALL.map(|kind| (kind, self.store.counts(kind)));
        let each = |of: &dyn Fn(&Counts) -> Value| {
            let one = |(kind, counts): &(Kind, Counts)| Sample { labels: Labels::one("kind", kind.word()), value: of(counts) };
            counts.iter().map(one).collect::<Vec<_>>()
        };
        let mut dropped = Vec::new();
        for ((kind, counts), refused) in counts.iter().zip(&self.refused) {
            let reasons = [("overflow", counts.overflowed), ("unwritten", counts.unwritten), ("refused", refused.load(Ordering::Relaxed))];
            dropped.extend(reasons.map(|(reason, count)| Sample {
                labels: Labels::new([("kind", kind.word()), ("reason", reason)]),
                value: Value::Counter(count),
            }));
        }
        let family = |name, help, kind, samples| Family { name, help, kind, samples };
        vec![
            family(
                "lorica_telemetry_stored_total",
                "Spans and log records written to the store",
                exposition::Kind::Counter,
                each(&|counts| Value::Counter(counts.stored)),
            ),
            family(
                "lorica_telemetry_dropped_total",
                "Spans and log records that were sent here and are not stored, by why",
                exposition::Kind::Counter,
                dropped,
            ),
            family("lorica_telemetry_bytes", "Bytes of the store on disk", exposition::Kind::Gauge, each(&|counts| number(counts.bytes))),
            family(
                "lorica_telemetry_records",
                "Spans and log records in the store",
                exposition::Kind::Gauge,
                each(&|counts| number(counts.records)),
            ),
        ]
    }
}
