//! The access log: one line of JSON an exchange, written by a thread of its own.
//!
//! In: records on a bounded channel; one that finds it full is dropped and counted. Out: a file that is rotated, or a stream.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::record::Record;

/// How many records may wait for the writer. Some 200 ms of a busy proxy.
const QUEUE: usize = 8192;
/// How large a file becomes before it is moved to `NAME.1`, in bytes; with that one kept, a log takes twice as much.
const ROTATE: u64 = 64 * 1024 * 1024;

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
    /// When the file cannot be written.
    pub fn open(target: &Target) -> io::Result<Self> {
        let out: Box<dyn Write + Send> = match target {
            Target::Off => return Ok(Self { lines: None, dropped: Arc::default() }),
            Target::Stdout => Box::new(io::stdout()),
            Target::Stderr => Box::new(io::stderr()),
            Target::File(path) => Box::new(Rotating::open(path)?),
        };
        let (lines, records) = sync_channel(QUEUE);
        std::thread::Builder::new().name("lorica-access-log".to_owned()).spawn(move || write(&records, out))?;
        Ok(Self { lines: Some(lines), dropped: Arc::default() })
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

    /// How many records were dropped.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Waits until all that was handed over is written, for `limit` at most.
    pub fn flush(&self, limit: Duration) {
        let (done, written) = sync_channel(1);
        if let Some(lines) = &self.lines
            && lines.try_send(Message::Flush(done)).is_ok()
        {
            // Past the limit the writer hangs on a full disk or a stopped reader, and nobody waits for that.
            let _: Result<(), _> = written.recv_timeout(limit);
        }
    }
}

fn write(records: &Receiver<Message>, out: Box<dyn Write + Send>) {
    let mut out = BufWriter::with_capacity(64 * 1024, out);
    let mut failing = false;
    loop {
        let written = match records.recv_timeout(Duration::from_secs(1)) {
            Ok(Message::Record(record)) => {
                serde_json::to_writer(&mut out, &line(&record)).map_err(io::Error::from).and_then(|()| out.write_all(b"\n"))
            }
            Ok(Message::Flush(done)) => {
                let flushed = out.flush();
                // Whoever asked may have stopped waiting.
                let _: Result<(), _> = done.send(());
                flushed
            }
            Err(RecvTimeoutError::Timeout) => out.flush(),
            Err(RecvTimeoutError::Disconnected) => {
                let _: io::Result<()> = out.flush();
                return;
            }
        };
        // Said once, not once a line.
        if let Err(error) = &written
            && !failing
        {
            tracing::warn!(%error, "the access log cannot be written");
        }
        failing = written.is_err();
    }
}

/// A record as the log shows it. Keys are Envoy's and Istio's; ours come after them. What is not known is null.
#[must_use]
pub fn line(record: &Record) -> Value {
    let text = |text: &str| if text.is_empty() { Value::Null } else { Value::from(text) };
    let milliseconds = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let start = Timestamp::try_from(record.start).map_or(Value::Null, |start| Value::from(format!("{start:.3}")));
    let http = record.http.as_ref();
    let mut line = Map::new();
    let mut put = |key: &str, value: Value| drop(line.insert(key.to_owned(), value));
    put("start_time", start);
    put("method", http.map_or(Value::Null, |http| text(&http.method)));
    put("path", http.map_or(Value::Null, |http| text(&http.path)));
    put("protocol", http.map_or(Value::Null, |http| text(http.version)));
    put("response_code", http.map_or(json!(0), |http| json!(http.status)));
    put("response_flags", json!(record.flag()));
    put(
        "response_code_details",
        record.reason.map_or_else(|| http.map_or(Value::Null, |_| json!("via_upstream")), |reason| json!(reason.meaning().word)),
    );
    put("bytes_received", json!(record.received));
    put("bytes_sent", json!(record.sent));
    put("duration", json!(milliseconds(record.duration)));
    put("upstream_service_time", http.and_then(|http| http.upstream_time).map_or(Value::Null, |time| json!(milliseconds(time))));
    put("x_forwarded_for", http.and_then(|http| http.forwarded_for.as_deref()).map_or(Value::Null, text));
    put("user_agent", http.and_then(|http| http.user_agent.as_deref()).map_or(Value::Null, text));
    put("request_id", http.map_or(Value::Null, |http| text(&http.request_id)));
    put("authority", http.map_or(Value::Null, |http| text(&http.authority)));
    put("upstream_host", record.upstream.map_or(Value::Null, |address| json!(address)));
    put("upstream_cluster", json!(record.called.fqdn));
    put("downstream_local_address", record.local.map_or(Value::Null, |address| json!(address)));
    put("downstream_remote_address", record.remote.map_or(Value::Null, |address| json!(address)));
    put("requested_server_name", record.server_name.as_deref().map_or(Value::Null, text));
    put("route_name", record.route.as_deref().map_or(Value::Null, text));
    put("reporter", json!(record.reporter.word()));
    put("source_workload", json!(record.source.workload));
    put("source_principal", json!(record.source.principal));
    put("destination_workload", json!(record.destination.workload));
    put("destination_principal", json!(record.destination.principal));
    put("grpc_status", http.and_then(|http| http.grpc_status).map_or(Value::Null, |status| json!(status)));
    put("attempts", http.map_or(Value::Null, |http| json!(http.attempts)));
    put("trace_id", http.and_then(|http| http.span).map_or(Value::Null, |span| json!(format!("{:032x}", span.context.trace_id))));
    put("detail", text(&record.detail));
    Value::Object(line)
}

/// A file that moves itself aside when it is large.
struct Rotating {
    path: PathBuf,
    file: File,
    size: u64,
}

impl Rotating {
    fn open(path: &Path) -> io::Result<Self> {
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory)?;
        }
        let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
        let size = file.metadata()?.len();
        Ok(Self { path: path.to_owned(), file, size })
    }
}

impl Write for Rotating {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.size + bytes.len() as u64 > ROTATE {
            let mut aside = self.path.clone().into_os_string();
            aside.push(".1");
            std::fs::rename(&self.path, aside)?;
            *self = Self::open(&self.path)?;
        }
        let count = self.file.write(bytes)?;
        self.size += count as u64;
        Ok(count)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
