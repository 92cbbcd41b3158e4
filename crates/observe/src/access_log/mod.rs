//! The access log: one line an exchange, put to disk by a thread of its own. JSON with keys of ours, unless a policy says otherwise: which
//! exchanges have a line, how it looks, and where it goes.
//!
//! In: records. A worker writes them into a buffer as soon as their exchange is over, and hands the buffer over when it is
//! full or a second old: text costs less to pass on than what it is made of. The channel is bounded; lines that find it full
//! are dropped and counted, so that a slow disk never slows a request. Out: whole lines to a file that is rotated or to a stream.

use std::cell::RefCell;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use crate::export::LogSink;
use crate::export::logs::{To, log_record};
use crate::record::Record;

mod attributes;
mod clock;
mod file;
mod format;
mod line;
mod rules;
#[cfg(test)]
mod tests;

use clock::Clock;
use file::Rotating;
use line::LineWriter;

pub use attributes::with_attributes;
pub use rules::LogRules;

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
    /// Where the process has no log and a policy wants one: its stdout, opened for the first line; none where it could not be.
    stdout: Arc<OnceLock<Option<SyncSender<Message>>>>,
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

impl Lines {
    /// Where a line is added.
    fn room(&mut self) -> &mut Vec<u8> {
        if self.text.capacity() == 0 {
            self.text.reserve(BUFFER);
        }
        &mut self.text
    }
}

impl AccessLog {
    /// Opens the log.
    ///
    /// # Errors
    /// When the file cannot be written, or no thread be started.
    pub fn open(target: &Target) -> io::Result<Self> {
        let out = match target {
            Target::Off => return Ok(Self { lines: None, stdout: Arc::default(), dropped: Arc::default() }),
            Target::Stdout => Out::Stream(Box::new(io::stdout())),
            Target::Stderr => Out::Stream(Box::new(io::stderr())),
            Target::File(path) => Out::File(Rotating::open(path, ROTATE)?),
        };
        Self::to(out, QUEUE)
    }

    fn to(out: Out, queue: usize) -> io::Result<Self> {
        let dropped: Arc<AtomicU64> = Arc::default();
        Ok(Self { lines: Some(written_to(out, queue, &dropped)?), stdout: Arc::default(), dropped })
    }

    /// A worker's way to the log, and to those whom records are sent to.
    #[must_use]
    pub fn worker(&self, sink: LogSink) -> WorkerLog {
        WorkerLog { log: self.clone(), sink, writers: RefCell::default(), lines: RefCell::default() }
    }

    /// The way to the writer of what policies ask for.
    fn sender(&self) -> Option<&SyncSender<Message>> {
        let opened = || {
            let opened = written_to(Out::Stream(Box::new(io::stdout())), QUEUE, &self.dropped);
            opened.inspect_err(|error| tracing::warn!(%error, "there is no thread for the access log; its lines are dropped")).ok()
        };
        self.lines.as_ref().or_else(|| self.stdout.get_or_init(opened).as_ref())
    }

    /// Hands lines to the writer, or counts them as dropped. Never waits.
    fn hand_over(&self, lines: Lines) {
        let count = lines.count;
        let taken = self.sender().map(|writer| writer.try_send(Message::Lines(lines)));
        if !matches!(taken, Some(Ok(()))) {
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
        let Some(lines) = self.lines.as_ref().or_else(|| self.stdout.get().and_then(Option::as_ref)) else { return };
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
    sink: LogSink,
    writers: RefCell<Writers>,
    lines: RefCell<Lines>,
}

/// What lines of a worker share.
#[derive(Debug, Default)]
struct Writers {
    own: LineWriter,
    clock: Clock,
    /// Where a line is made that is not written but sent.
    sent: Vec<u8>,
}

/// The way to a thread that writes.
fn written_to(out: Out, queue: usize, dropped: &Arc<AtomicU64>) -> io::Result<SyncSender<Message>> {
    let (lines, messages) = sync_channel(queue);
    let writer = Writer { out, failing: false, dropped: dropped.clone() };
    std::thread::Builder::new().name("access-log".to_owned()).spawn(move || writer.run(&messages))?;
    Ok(lines)
}

impl WorkerLog {
    /// Writes a record's line, where there is to be one. `kept`: it is one of those that are kept whole, which go to the control plane where
    /// no policy says what does.
    pub fn write(&self, record: &Record<'_>, kept: bool) {
        if let Some(rules) = record.rules.as_deref().and_then(|rules| rules.log.as_ref()) {
            return self.write_by(rules, record);
        }
        if kept {
            self.send(To { mesh: true, collectors: false }, record, true, |out, writers| writers.own.write(out, record));
        }
        if self.log.lines.is_none() {
            return;
        }
        let mut lines = self.lines.borrow_mut();
        self.writers.borrow_mut().own.write(lines.room(), record);
        self.written(&mut lines);
    }

    /// Writes and sends a line that a policy asks for.
    fn write_by(&self, rules: &LogRules, record: &Record<'_>) {
        if !rules.takes(record) {
            return;
        }
        if rules.to_process() {
            let mut lines = self.lines.borrow_mut();
            let writers = &mut *self.writers.borrow_mut();
            rules.write(lines.room(), record, &mut writers.own, &mut writers.clock);
            self.written(&mut lines);
        }
        self.send(rules.sent_to(), record, rules.is_object(), |out, writers| {
            rules.write(out, record, &mut writers.own, &mut writers.clock)
        });
    }

    /// Sends a line that `write` makes.
    fn send(&self, to: To, record: &Record<'_>, is_object: bool, write: impl FnOnce(&mut Vec<u8>, &mut Writers)) {
        if !self.sink.reaches(to) {
            return;
        }
        self.sink.send(to, || {
            let writers = &mut *self.writers.borrow_mut();
            let mut line = std::mem::take(&mut writers.sent);
            line.clear();
            write(&mut line, writers);
            let made = log_record(record, &line, is_object);
            writers.sent = line;
            made
        });
    }

    /// A line was added.
    fn written(&self, lines: &mut Lines) {
        lines.count += 1;
        // The next line may not fit.
        if lines.text.len() >= BUFFER - 2048 {
            self.log.hand_over(std::mem::take(lines));
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
