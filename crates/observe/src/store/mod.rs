//! Spans and log records on disk, found again by trace, service, time and attribute: what `lorica trace`, `lorica logs` and Jaeger's API answer from.
//!
//! | module | noun |
//! | --- | --- |
//! | `frame` | what stands in a file |
//! | `segment` | a file, and the index of its records |
//! | `growing` | a list that is read while it grows |
//! | `sequence` | files one after another, the oldest of which go |
//! | [`intake`] | what is taken of OTLP's messages, and what is refused |
//! | `writer` | the thread that alone writes |
//! | [`filter`] | which records are wanted |
//! | [`query`] | how they are found |
//! | [`trace`] | a trace put together again |
//!
//! In: OTLP's messages, on a queue that is bounded in messages and bytes; what finds it full is dropped and counted, so that a slow disk never
//! slows whoever sends. Out: looks at what is written. A look is a copy that shares its parts, so that a query, however long, holds up nobody.
//!
//! On disk, records are in segments that are only appended to; the oldest go when there are too many bytes or when they are too old. The index
//! is in memory, 48 bytes a record, and made anew from the files at start. A file whose end is not whole, as after a crash, is cut to what is.
//! Written is what the kernel has: it survives the end of this process however it comes; a crash of the machine may take the last of it.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use opentelemetry_proto::tonic::logs::v1::ResourceLogs;
use opentelemetry_proto::tonic::trace::v1::ResourceSpans;
use tokio::sync::watch;

pub mod filter;
mod frame;
mod growing;
pub mod intake;
pub mod query;
mod segment;
mod sequence;
#[cfg(test)]
mod tests;
pub mod trace;
mod writer;

pub use frame::Source;
pub use intake::{Checked, MAX_RECORD};
pub use query::{FoundLogs, FoundTraces};

use self::segment::Segment;
use self::sequence::{Done, Sequence};
use self::writer::{Message, Writer};

/// How many messages may wait.
const QUEUE: usize = 1024;
/// How many bytes may wait.
const QUEUE_BYTES: u64 = 32 * 1024 * 1024;

/// How much is kept, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Bytes on disk.
    pub bytes: u64,
    /// How long a record is kept, to a sixteenth.
    pub age: Duration,
}

/// Spans or log records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Spans.
    Spans,
    /// Log records.
    Logs,
}

impl Kind {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Spans, Self::Logs];

    /// The word for it, in labels and directories.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Spans => "spans",
            Self::Logs => "logs",
        }
    }
}

/// What became of records of one kind since the store was opened, and what there is now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Written.
    pub stored: u64,
    /// Dropped, as too many waited.
    pub overflowed: u64,
    /// Dropped, as they could not be written.
    pub unwritten: u64,
    /// Bytes on disk now.
    pub bytes: u64,
    /// Records on disk now.
    pub records: u64,
}

#[derive(Debug, Default)]
struct Counters {
    stored: AtomicU64,
    overflowed: AtomicU64,
    unwritten: AtomicU64,
}

impl Counters {
    fn count(&self, done: Done) {
        self.stored.fetch_add(done.stored, Ordering::Relaxed);
        self.unwritten.fetch_add(done.lost, Ordering::Relaxed);
    }
}

/// Both kinds as they are on disk, the oldest segment first.
#[derive(Debug, Default)]
struct View {
    spans: Vec<Arc<Segment>>,
    logs: Vec<Arc<Segment>>,
}

/// What the store and its writer share.
#[derive(Debug, Default)]
struct Shared {
    view: ArcSwap<View>,
    spans: Counters,
    logs: Counters,
    /// Bytes that wait.
    waiting: AtomicU64,
}

impl Shared {
    fn counters(&self, kind: Kind) -> &Counters {
        match kind {
            Kind::Spans => &self.spans,
            Kind::Logs => &self.logs,
        }
    }
}

/// The store.
#[derive(Debug)]
pub struct Store {
    queue: SyncSender<Message>,
    shared: Arc<Shared>,
    changes: watch::Receiver<()>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

impl Store {
    /// Opens the store in a directory, which is made if it is not there, and reads back what is in it: some hundred MiB a second.
    ///
    /// # Errors
    /// When the directory can be neither made nor read, or no thread be started.
    pub fn open(directory: &Path, spans: Bounds, logs: Bounds) -> io::Result<Self> {
        let now = SystemTime::now();
        let mut spans = Sequence::open(&directory.join(Kind::Spans.word()), spans, now)?;
        let mut logs = Sequence::open(&directory.join(Kind::Logs.word()), logs, now)?;
        let shared = Arc::new(Shared::default());
        shared.view.store(Arc::new(View { spans: spans.look(), logs: logs.look() }));
        let (queue, messages) = sync_channel(QUEUE);
        let (changed, changes) = watch::channel(());
        let writer = Writer { spans, logs, shared: shared.clone(), changed };
        let writer = std::thread::Builder::new().name("telemetry-store".to_owned()).spawn(move || writer.run(&messages))?;
        Ok(Self { queue, shared, changes, writer: Mutex::new(Some(writer)) })
    }

    /// A store that keeps nothing: what it is offered is dropped and counted.
    #[must_use]
    pub fn closed() -> Self {
        Self { queue: sync_channel(1).0, shared: Arc::default(), changes: watch::channel(()).1, writer: Mutex::default() }
    }

    /// Hands spans to the writer, or counts them as dropped. Never waits. Whether they were taken.
    pub fn offer_spans(&self, spans: Checked<ResourceSpans>) -> bool {
        let (count, bytes) = (spans.kept, spans.bytes);
        self.offer(Kind::Spans, count, bytes, Message::Spans(spans.items, bytes))
    }

    /// Hands log records to the writer, or counts them as dropped. Never waits. Whether they were taken.
    pub fn offer_logs(&self, logs: Checked<ResourceLogs>) -> bool {
        let (count, bytes) = (logs.kept, logs.bytes);
        self.offer(Kind::Logs, count, bytes, Message::Logs(logs.items, bytes))
    }

    fn offer(&self, kind: Kind, count: u64, bytes: u64, message: Message) -> bool {
        if count == 0 {
            return true;
        }
        let waiting = self.shared.waiting.fetch_add(bytes, Ordering::AcqRel);
        let taken = waiting.saturating_add(bytes) <= QUEUE_BYTES
            && !matches!(self.queue.try_send(message), Err(TrySendError::Full(_) | TrySendError::Disconnected(_)));
        if !taken {
            self.shared.waiting.fetch_sub(bytes, Ordering::AcqRel);
            self.shared.counters(kind).overflowed.fetch_add(count, Ordering::Relaxed);
        }
        taken
    }

    /// Waits until all that was handed over before is written or counted as dropped. Blocks: for tests, benches and the end.
    pub fn flush(&self) {
        let (done, written) = sync_channel(1);
        // Errors say that the writer has ended, and there is nothing to wait for.
        if self.queue.send(Message::Flush(done)).is_ok() {
            let _: Result<(), _> = written.recv();
        }
    }

    /// Ends the writer: all that was handed over is on disk. What comes later is dropped and counted.
    pub fn close(&self) {
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        let asked = self.queue.send(Message::End);
        if let (Some(writer), Ok(())) = (writer, asked)
            && writer.join().is_err()
        {
            tracing::error!("the thread that writes telemetry has failed");
        }
    }

    /// Told whenever something was written.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changes.clone()
    }

    /// What became of records.
    #[must_use]
    pub fn counts(&self, kind: Kind) -> Counts {
        let counters = self.shared.counters(kind);
        let segments = self.segments(kind);
        Counts {
            stored: counters.stored.load(Ordering::Relaxed),
            overflowed: counters.overflowed.load(Ordering::Relaxed),
            unwritten: counters.unwritten.load(Ordering::Relaxed),
            bytes: segments.iter().map(|segment| segment.bytes).sum(),
            records: segments.iter().map(|segment| segment.count() as u64).sum(),
        }
    }

    /// What is on disk now, the oldest segment first.
    fn segments(&self, kind: Kind) -> Vec<Arc<Segment>> {
        let view = self.shared.view.load();
        match kind {
            Kind::Spans => view.spans.clone(),
            Kind::Logs => view.logs.clone(),
        }
    }
}
