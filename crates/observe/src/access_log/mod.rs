//! The access log: one line of JSON an exchange, put to disk by a thread of its own.
//!
//! In: records. A worker writes them into a buffer as soon as their exchange is over, and hands the buffer over when it is
//! full or a second old: text costs less to pass on than what it is made of. The channel is bounded; lines that find it full
//! are dropped and counted, so that a slow disk never slows a request. Out: whole lines to a file that is rotated or to a stream.

use std::cell::RefCell;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

use crate::record::Record;

mod file;
mod line;
#[cfg(test)]
mod tests;

use file::Rotating;
use line::LineWriter;

/// How many buffers may wait for the writer: 4 MiB, some 4,000 lines.
const QUEUE: usize = 32;
/// How large a file becomes before it is moved to `NAME.1`, in bytes; with that one kept, a log takes twice as much.
const ROTATE: u64 = 64 * 1024 * 1024;
/// How many bytes of lines a worker hands over at once. With a quarter of it, waking the writer up took 3 % of a busy worker's time.
const BUFFER: usize = 128 * 1024;
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
    Lines(Lines),
    Flush(SyncSender<()>),
}

/// Whole lines, and how many they are.
#[derive(Debug, Default)]
struct Lines {
    text: Vec<u8>,
    count: u64,
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
        let (lines, messages) = sync_channel(queue);
        let dropped: Arc<AtomicU64> = Arc::default();
        let writer = Writer { out, failing: false, dropped: dropped.clone() };
        std::thread::Builder::new().name("access-log".to_owned()).spawn(move || writer.run(&messages))?;
        Ok(Self { lines: Some(lines), dropped })
    }

    /// A worker's way to the log.
    #[must_use]
    pub fn worker(&self) -> WorkerLog {
        WorkerLog { log: self.clone(), writer: RefCell::default(), lines: RefCell::default() }
    }

    /// Hands lines to the writer, or counts them as dropped. Never waits.
    fn hand_over(&self, lines: Lines) {
        let count = lines.count;
        if let Some(writer) = &self.lines
            && let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) = writer.try_send(Message::Lines(lines))
        {
            self.dropped.fetch_add(count, Ordering::Relaxed);
        }
    }

    /// How many records were dropped: there was no room for them, or they could not be written.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Waits until all that workers handed over is written, for `limit` at most. Blocks its thread.
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

/// A worker's way to the log. Stays on its thread; what it has written is handed over when it is dropped.
#[derive(Debug)]
pub struct WorkerLog {
    log: AccessLog,
    writer: RefCell<LineWriter>,
    lines: RefCell<Lines>,
}

impl WorkerLog {
    /// Writes a record's line.
    pub fn write(&self, record: &Record<'_>) {
        if self.log.lines.is_none() {
            return;
        }
        let mut lines = self.lines.borrow_mut();
        if lines.text.capacity() == 0 {
            lines.text.reserve(BUFFER);
        }
        self.writer.borrow_mut().write(&mut lines.text, record);
        lines.count += 1;
        // The next line may not fit.
        if lines.text.len() >= BUFFER - 2048 {
            self.log.hand_over(std::mem::take(&mut lines));
        }
    }

    /// Hands over what was written; to be called each second, so that no line waits for long.
    pub fn hand_over(&self) {
        let lines = self.lines.take();
        if lines.count > 0 {
            self.log.hand_over(lines);
        }
    }
}

impl Drop for WorkerLog {
    fn drop(&mut self) {
        self.hand_over();
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
    failing: bool,
    dropped: Arc<AtomicU64>,
}

impl Writer {
    fn run(mut self, messages: &Receiver<Message>) {
        while let Ok(message) = messages.recv() {
            match message {
                Message::Lines(lines) => self.write(&lines),
                // Whoever asked may have stopped waiting.
                Message::Flush(done) => drop(done.send(())),
            }
        }
    }

    /// Writes lines. What cannot be written is dropped: it must not fill the memory while a disk is full.
    fn write(&mut self, lines: &Lines) {
        let written = self.out.write(&lines.text);
        match (&written, self.failing) {
            // Said once, not once a line.
            (Err(error), false) => tracing::warn!(%error, "the access log cannot be written; its lines are dropped until it can"),
            (Ok(()), true) => tracing::info!("the access log can be written again"),
            _ => {}
        }
        self.failing = written.is_err();
        if self.failing {
            self.dropped.fetch_add(lines.count, Ordering::Relaxed);
        }
    }
}
