//! The access log: one line of JSON an exchange, written by a thread of its own.
//!
//! In: records on a bounded channel; one that finds it full is dropped and counted, so that a slow disk never slows a
//! request. Out: whole lines, each second at the latest, to a file that is rotated or to a stream.

use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

use crate::record::Record;

mod file;
mod line;
#[cfg(test)]
mod tests;

use file::Rotating;
use line::Line;

/// How many records may wait for the writer. Some 200 ms of a busy proxy.
const QUEUE: usize = 8192;
/// How large a file becomes before it is moved to `NAME.1`, in bytes; with that one kept, a log takes twice as much.
const ROTATE: u64 = 64 * 1024 * 1024;
/// How many bytes of lines are written at once.
const BUFFER: usize = 64 * 1024;
/// How long a line may wait to be written.
const LINGER: Duration = Duration::from_secs(1);
/// How often a full queue is tried again by whoever waits for it to be written.
const AGAIN: Duration = Duration::from_millis(5);

/// Where the access log goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// Nowhere.
    Off,
    /// The process's stdout.
    Stdout,
    /// The process's stderr.
    Stderr,
    /// A file, mode 0600.
    File(PathBuf),
}

impl From<&str> for Target {
    fn from(text: &str) -> Self {
        match text {
            "off" => Self::Off,
            "stdout" => Self::Stdout,
            "stderr" => Self::Stderr,
            path => Self::File(path.into()),
        }
    }
}

/// The way to the log. Clones lead to the same one.
#[derive(Debug, Clone)]
pub struct AccessLog {
    lines: Option<SyncSender<Message>>,
    dropped: Arc<AtomicU64>,
}

enum Message {
    Record(Box<Record>),
    Flush(SyncSender<()>),
}

impl AccessLog {
    /// Opens the log.
    ///
    /// # Errors
    /// When the file cannot be written, or no thread be started.
    pub fn open(target: &Target) -> io::Result<Self> {
        let out = match target {
            Target::Off => return Ok(Self { lines: None, dropped: Arc::default() }),
            Target::Stdout => Out::Stream(Box::new(io::stdout())),
            Target::Stderr => Out::Stream(Box::new(io::stderr())),
            Target::File(path) => Out::File(Rotating::open(path, ROTATE)?),
        };
        Self::to(out, QUEUE)
    }

    fn to(out: Out, queue: usize) -> io::Result<Self> {
        let (lines, records) = sync_channel(queue);
        let dropped: Arc<AtomicU64> = Arc::default();
        let writer = Writer { out, buffer: Vec::with_capacity(BUFFER), waiting: 0, failing: false, dropped: dropped.clone() };
        std::thread::Builder::new().name("access-log".to_owned()).spawn(move || writer.run(&records))?;
        Ok(Self { lines: Some(lines), dropped })
    }

    /// Whether anything is written at all.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.lines.is_some()
    }

    /// Hands a record to the writer, or counts it as dropped. Never waits.
    pub fn write(&self, record: Record) {
        if let Some(lines) = &self.lines
            && let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) = lines.try_send(Message::Record(Box::new(record)))
        {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many records were dropped: there was no room for them, or they could not be written.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Waits until all that was handed over is written, for `limit` at most. Blocks its thread.
    pub fn flush(&self, limit: Duration) {
        let Some(lines) = &self.lines else { return };
        let deadline = Instant::now() + limit;
        let (done, written) = sync_channel(1);
        let mut message = Message::Flush(done);
        while let Err(TrySendError::Full(back)) = lines.try_send(message) {
            if Instant::now() >= deadline {
                return;
            }
            message = back;
            std::thread::sleep(AGAIN);
        }
        // Past the limit the writer hangs on a full disk or a stopped reader, and nobody waits for that.
        let _: Result<(), _> = written.recv_timeout(deadline.saturating_duration_since(Instant::now()));
    }
}

enum Out {
    Stream(Box<dyn Write + Send>),
    File(Rotating),
}

impl Out {
    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        match self {
            Self::Stream(stream) => stream.write_all(lines).and_then(|()| stream.flush()),
            Self::File(file) => file.write(lines),
        }
    }
}

/// What the thread has.
struct Writer {
    out: Out,
    /// Whole lines.
    buffer: Vec<u8>,
    /// How many they are.
    waiting: u64,
    failing: bool,
    dropped: Arc<AtomicU64>,
}

impl Writer {
    fn run(mut self, records: &Receiver<Message>) {
        // When the oldest line in the buffer is to be written.
        let mut due = None;
        loop {
            let wait = due.map_or(LINGER, |due: Instant| due.saturating_duration_since(Instant::now()));
            match records.recv_timeout(wait) {
                Ok(Message::Record(record)) => {
                    self.push(&record);
                    due = due.or_else(|| Some(Instant::now() + LINGER));
                    // A queue that never runs empty must not put it off.
                    if self.buffer.len() >= BUFFER || due.is_some_and(|due| Instant::now() >= due) {
                        self.flush();
                    }
                }
                Ok(Message::Flush(done)) => {
                    self.flush();
                    // Whoever asked may have stopped waiting.
                    let _: Result<(), _> = done.send(());
                }
                Err(RecvTimeoutError::Timeout) => self.flush(),
                Err(RecvTimeoutError::Disconnected) => return self.flush(),
            }
            due = due.filter(|_| !self.buffer.is_empty());
        }
    }

    fn push(&mut self, record: &Record) {
        let begin = self.buffer.len();
        match serde_json::to_writer(&mut self.buffer, &Line(record)) {
            Ok(()) => {
                self.buffer.push(b'\n');
                self.waiting += 1;
            }
            // Writing to memory fails for none of the types in a record; if it ever does, no half of a line stays.
            Err(_) => {
                self.buffer.truncate(begin);
                self.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Writes what waits. What cannot be written is dropped: it must not fill the memory while a disk is full.
    fn flush(&mut self) {
        if self.buffer.is_empty() {
            return;
        }
        let written = self.out.write(&self.buffer);
        match (&written, self.failing) {
            // Said once, not once a line.
            (Err(error), false) => tracing::warn!(%error, "the access log cannot be written; its lines are dropped until it can"),
            (Ok(()), true) => tracing::info!("the access log can be written again"),
            _ => {}
        }
        self.failing = written.is_err();
        if self.failing {
            self.dropped.fetch_add(self.waiting, Ordering::Relaxed);
        }
        self.buffer.clear();
        self.waiting = 0;
    }
}
