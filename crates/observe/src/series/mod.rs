//! Time series: samples of metrics in, selections of them out. On disk, bounded by bytes, age and number of series.
//!
//! | module | noun |
//! | --- | --- |
//! | [`otlp`] | OTLP metrics as samples |
//! | [`labels`], [`matcher`] | what a series is called, and what it has to be called |
//! | `index` | all series in memory |
//! | `chunk` | samples, compressed |
//! | `frames`, `wire` | files, and what is in them |
//! | `writer` | the one thread that writes |
//! | `fill` | what who tells only of changes left out |
//!
//! What comes is written to a log and is then found in memory; each half hour, or when the log is large, all of it goes
//! compressed into a segment, and a new log begins. A log that was cut off in the middle of a write is read as far as it is
//! whole. The oldest segment goes when the bounds are met. Recording never waits: where the queue is full, the disk is, or
//! there are too many series, samples are dropped and counted.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, SystemTime};

use tokio::sync::oneshot;

mod chunk;
mod fill;
mod frames;
mod index;
pub mod labels;
pub mod matcher;
pub mod otlp;
#[cfg(test)]
mod tests;
mod wire;
mod writer;

pub use labels::Labels;
pub use matcher::{Matcher, Wanted};
pub use wire::About;

use index::Index;
use writer::{Job, Writer};

/// The value of a sample that says that its series has ended: Prometheus' own bits, a NaN that no arithmetic makes.
pub const STALE: f64 = f64::from_bits(0x7ff0_0000_0000_0002);

/// How often who tells only of changes tells at least that it lives, by a sample of `up`.
pub const PUSH_INTERVAL: Duration = Duration::from_secs(10);
/// How often it tells of a series that did not change.
pub const PUSH_ALL: Duration = Duration::from_secs(300);

/// How many batches may wait to be written.
const QUEUE: usize = 16;

/// A value at a time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample {
    /// Milliseconds since 1970.
    pub at: i64,
    /// The value.
    pub value: f64,
}

/// Whether a value says that its series has ended.
#[must_use]
pub fn is_stale(value: f64) -> bool {
    value.to_bits() == STALE.to_bits()
}

/// Samples of one time that have most labels in common, as those of a histogram do.
#[derive(Debug, Clone, PartialEq)]
pub struct Incoming {
    /// What all of them are labelled with. No name comes twice, no value is empty.
    pub labels: Vec<(String, String)>,
    /// When, in milliseconds since 1970.
    pub at: i64,
    /// Since when they count, where they do: they were 0 then.
    pub start: Option<i64>,
    /// The samples.
    pub samples: Vec<Part>,
}

/// One sample of [`Incoming`].
#[derive(Debug, Clone, PartialEq)]
pub struct Part {
    /// The metric's name.
    pub name: String,
    /// The label that only this one has.
    pub label: Option<(String, String)>,
    /// The value.
    pub value: f64,
}

/// What became of samples.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Taken {
    /// They can be found.
    pub samples: u64,
    /// Their series has newer ones.
    pub late: u64,
    /// Their time is past the age that is kept, or in the future.
    pub untimely: u64,
    /// They are of further series than are kept.
    pub no_room: u64,
}

/// Why samples were not taken.
#[derive(Debug, Clone, thiserror::Error)]
pub enum WriteError {
    /// Too many wait already.
    #[error("the store of series cannot keep up; come again")]
    Busy,
    /// The disk does not take them.
    #[error("the store of series cannot write: {0}")]
    Disk(String),
    /// The store has ended.
    #[error("the store of series has ended")]
    Ended,
}

/// Why a selection cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum SelectError {
    /// It has too many samples.
    #[error("too many samples are needed to answer; ask for fewer series or less time")]
    TooMuch,
    /// The disk does not give them.
    #[error("series cannot be read: {0}")]
    Disk(#[from] io::Error),
}

/// A series that was asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// Its labels.
    pub labels: Labels,
    /// Its samples, oldest first.
    pub samples: Vec<Sample>,
}

/// How much is kept.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// On disk. 256 MiB unless said otherwise.
    pub bytes: u64,
    /// How long. 24 hours unless said otherwise.
    pub age: Duration,
    /// At once. 200,000 unless said otherwise: each takes about 600 bytes of memory.
    pub series: usize,
    /// How long samples stay in the log. 30 minutes unless said otherwise.
    pub segment: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { bytes: 256 * 1024 * 1024, age: Duration::from_secs(24 * 3600), series: 200_000, segment: Duration::from_secs(1800) }
    }
}

/// What the store did since it was opened.
#[derive(Debug, Default)]
struct Counts {
    samples: AtomicU64,
    late: AtomicU64,
    untimely: AtomicU64,
    no_room: AtomicU64,
    unwritten: AtomicU64,
}

/// How the store stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Series.
    pub series: u64,
    /// Bytes in segments.
    pub bytes: u64,
    /// Samples that were taken since the start.
    pub samples: u64,
    /// Samples that were refused: late, untimely, or of further series than are kept.
    pub refused: u64,
    /// Samples that were dropped: the queue or the disk was full.
    pub dropped: u64,
}

#[derive(Debug, Default)]
struct Shared {
    index: RwLock<Index>,
    counts: Counts,
}

impl Shared {
    fn index(&self) -> RwLockReadGuard<'_, Index> {
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The store. Clones are of the same; its thread ends with the last.
#[derive(Debug, Clone)]
pub struct SeriesStore {
    shared: Arc<Shared>,
    jobs: SyncSender<Job>,
}

/// Milliseconds since 1970.
#[must_use]
pub fn milliseconds(time: SystemTime) -> i64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

impl SeriesStore {
    /// Opens the store in a directory, which is made, and starts its thread. What is there is found again.
    ///
    /// # Errors
    /// When the directory cannot be used.
    pub fn open(directory: &Path, bounds: Bounds) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let writer = Writer::open(directory, bounds, shared.clone())?;
        let (jobs, waiting) = sync_channel(QUEUE);
        std::thread::Builder::new().name("lorica-series".to_owned()).spawn(move || writer.run(&waiting))?;
        Ok(Self { shared, jobs })
    }

    /// A store that keeps nothing, where none can be had.
    #[must_use]
    pub fn closed() -> Self {
        // Nobody is at the other end.
        Self { shared: Arc::default(), jobs: sync_channel(1).0 }
    }

    /// Writes samples, and says what became of them once they can be found and would survive the end of this process.
    /// Does not wait where too many others wait already.
    ///
    /// # Errors
    /// See [`WriteError`]; the samples were counted as dropped.
    pub async fn write(&self, incoming: Vec<Incoming>, abouts: Vec<About>) -> Result<Taken, WriteError> {
        let samples = incoming.iter().map(|incoming| incoming.samples.len() as u64).sum::<u64>();
        let (reply, written) = oneshot::channel();
        let outcome = match self.jobs.try_send(Job::Write { incoming, abouts, reply }) {
            Ok(()) => written.await.unwrap_or(Err(WriteError::Ended)),
            Err(TrySendError::Full(_)) => Err(WriteError::Busy),
            Err(TrySendError::Disconnected(_)) => Err(WriteError::Ended),
        };
        let counts = &self.shared.counts;
        match &outcome {
            Ok(taken) => {
                for (count, more) in [
                    (&counts.samples, taken.samples),
                    (&counts.late, taken.late),
                    (&counts.untimely, taken.untimely),
                    (&counts.no_room, taken.no_room),
                ] {
                    count.fetch_add(more, Ordering::Relaxed);
                }
            }
            Err(_) => drop(counts.unwritten.fetch_add(samples, Ordering::Relaxed)),
        }
        outcome
    }

    /// Puts all samples into a segment now.
    ///
    /// # Errors
    /// See [`WriteError`].
    pub async fn cut(&self) -> Result<(), WriteError> {
        let (reply, done) = oneshot::channel();
        self.jobs.try_send(Job::Cut { reply }).map_err(|_| WriteError::Busy)?;
        done.await.unwrap_or(Err(WriteError::Ended))
    }

    /// The series of which `matchers` hold, with their samples from `from` to `to`, both included, in order of labels. At most
    /// `room` samples are looked at; it is left with what is left of it. Blocks while it reads.
    ///
    /// # Errors
    /// See [`SelectError`].
    pub fn select(&self, matchers: &[Matcher], from: i64, to: i64, room: &mut usize) -> Result<Vec<Found>, SelectError> {
        let before = fill::look_back(from);
        let (parts, beats) = {
            let index = self.shared.index();
            let parts = index.find(matchers, before, to, room)?;
            let beats =
                if parts.is_empty() { Vec::new() } else { index.find(&[Matcher::equal(labels::NAME, fill::UP)], before, to, room)? };
            (parts, beats)
        };
        let beats = beats.into_iter().map(|parts| parts.read(before, to)).collect::<Result<Vec<_>, _>>()?;
        let beats = fill::Beats::new(beats);
        let mut found = Vec::with_capacity(parts.len());
        for parts in parts {
            let series = beats.fill(parts.read(before, to)?, from, to);
            if !series.samples.is_empty() {
                found.push(series);
            }
        }
        found.sort_by(|one, other| one.labels.cmp(&other.labels));
        Ok(found)
    }

    /// The labels of the series of which `matchers` hold and that have samples between two times, in order.
    #[must_use]
    pub fn labels(&self, matchers: &[Matcher], from: i64, to: i64) -> Vec<Labels> {
        let mut labels = self.shared.index().labels(matchers, from, to);
        labels.sort();
        labels
    }

    /// What is said of families, in order of their names.
    #[must_use]
    pub fn abouts(&self) -> Vec<About> {
        self.shared.index().abouts().values().cloned().collect()
    }

    /// How it stands.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let index = self.shared.index();
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let Counts { samples, late, untimely, no_room, unwritten } = &self.shared.counts;
        Stats {
            series: index.len() as u64,
            bytes: index.segments().values().map(|segment| segment.bytes).sum(),
            samples: load(samples),
            refused: load(late) + load(untimely) + load(no_room),
            dropped: load(unwritten),
        }
    }
}
