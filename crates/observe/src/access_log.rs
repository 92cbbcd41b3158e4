//! The access log: one line of JSON an exchange, written by a thread of its own.
//!
//! In: records on a bounded channel; one that finds it full is dropped and counted. Out: a file that is rotated, or a stream.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde::Serialize;

use crate::record::Record;

/// How many records may wait for the writer. Some 200 ms of a busy proxy.
const QUEUE: usize = 8192;
/// How large a file becomes before it is moved to `NAME.1`, in bytes; with that one kept, a log takes twice as much.
const ROTATE: u64 = 64 * 1024 * 1024;

/// How long a line may wait in memory.
const FLUSH: Duration = Duration::from_secs(1);

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
    let mut line = Vec::with_capacity(1024);
    let mut failing = false;
    let mut flushed = Instant::now();
    loop {
        let mut written = match records.recv_timeout(FLUSH) {
            Ok(Message::Record(record)) => {
                line.clear();
                serde_json::to_writer(&mut line, &Line::of(&record)).map_err(io::Error::from).and_then(|()| {
                    line.push(b'\n');
                    // A line goes out as a whole, so that who reads the file meanwhile sees no half one.
                    if line.len() > out.capacity() - out.buffer().len() {
                        out.flush()?;
                    }
                    out.write_all(&line)
                })
            }
            Ok(Message::Flush(done)) => {
                let all = out.flush();
                // Whoever asked may have stopped waiting.
                let _: Result<(), _> = done.send(());
                all
            }
            Err(RecvTimeoutError::Timeout) => Ok(()),
            Err(RecvTimeoutError::Disconnected) => {
                let _: io::Result<()> = out.flush();
                return;
            }
        };
        if flushed.elapsed() >= FLUSH {
            written = written.and_then(|()| out.flush());
            flushed = Instant::now();
        }
        // Said once, not once a line.
        if let Err(error) = &written
            && !failing
        {
            tracing::warn!(%error, "the access log cannot be written");
        }
        failing = written.is_err();
    }
}

/// A record as the log shows it, in this order: Envoy's and Istio's keys, then ours. What is not known is null.
#[derive(Debug, Serialize)]
struct Line<'r> {
    start_time: String,
    method: Option<&'r str>,
    path: Option<&'r str>,
    protocol: Option<&'r str>,
    response_code: u16,
    response_flags: &'r str,
    response_code_details: Option<&'r str>,
    bytes_received: u64,
    bytes_sent: u64,
    duration: u128,
    upstream_service_time: Option<u128>,
    x_forwarded_for: Option<&'r str>,
    user_agent: Option<&'r str>,
    request_id: Option<&'r str>,
    authority: Option<&'r str>,
    upstream_host: Option<SocketAddr>,
    upstream_cluster: &'r str,
    downstream_local_address: Option<SocketAddr>,
    downstream_remote_address: Option<SocketAddr>,
    requested_server_name: Option<&'r str>,
    route_name: Option<&'r str>,
    reporter: &'r str,
    source_workload: &'r str,
    source_principal: &'r str,
    destination_workload: &'r str,
    destination_principal: &'r str,
    grpc_status: Option<u32>,
    attempts: Option<u32>,
    trace_id: Option<String>,
    detail: Option<&'r str>,
}

impl<'r> Line<'r> {
    fn of(record: &'r Record) -> Self {
        let http = record.http.as_ref();
        let text = |text: &'r str| Some(text).filter(|text| !text.is_empty());
        Self {
            start_time: Timestamp::try_from(record.start).map_or_else(|_| String::new(), |start| format!("{start:.3}")),
            method: http.and_then(|http| text(&http.method)),
            path: http.and_then(|http| text(&http.path)),
            protocol: http.and_then(|http| text(http.version)),
            response_code: http.map_or(0, |http| http.status),
            response_flags: record.flag(),
            response_code_details: record.reason.map(|reason| reason.meaning().word).or_else(|| http.map(|_| "via_upstream")),
            bytes_received: record.received,
            bytes_sent: record.sent,
            duration: record.duration.as_millis(),
            upstream_service_time: http.and_then(|http| http.upstream_time).map(|time| time.as_millis()),
            x_forwarded_for: http.and_then(|http| http.forwarded_for.as_deref()),
            user_agent: http.and_then(|http| http.user_agent.as_deref()),
            request_id: http.and_then(|http| text(&http.request_id)),
            authority: http.and_then(|http| text(&http.authority)),
            upstream_host: record.upstream,
            upstream_cluster: &record.called.fqdn,
            downstream_local_address: record.local,
            downstream_remote_address: record.remote,
            requested_server_name: record.server_name.as_deref(),
            route_name: record.route.as_deref(),
            reporter: record.reporter.word(),
            source_workload: &record.source.workload,
            source_principal: &record.source.principal,
            destination_workload: &record.destination.workload,
            destination_principal: &record.destination.principal,
            grpc_status: http.and_then(|http| http.grpc_status),
            attempts: http.map(|http| http.attempts),
            trace_id: http.and_then(|http| http.span).map(|span| format!("{:032x}", span.context.trace_id)),
            detail: text(&record.detail),
        }
    }
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::PermissionsExt;
    use std::sync::Arc;
    use std::time::SystemTime;

    use lorica_model::reason::Reason;

    use super::*;
    use crate::record::{Called, Http, Party, Protocol, Reporter, Security};

    fn record(http: Option<Http>) -> Record {
        Record {
            reporter: Reporter::Source,
            source: Arc::default(),
            destination: Arc::new(Party { workload: "recording-1".to_owned(), ..Party::default() }),
            called: Arc::new(Called {
                fqdn: "recording.contact.mesh".to_owned(),
                name: "recording".to_owned(),
                namespace: "contact".to_owned(),
            }),
            protocol: Protocol::Http,
            security: Security::Unknown,
            reason: Some(Reason::NoEndpoint),
            detail: String::new(),
            start: SystemTime::UNIX_EPOCH,
            duration: Duration::from_millis(7),
            received: 1,
            sent: 2,
            route: None,
            upstream: None,
            remote: None,
            local: None,
            server_name: None,
            http,
        }
    }

    #[test]
    fn a_line_has_its_keys_in_order_and_null_for_what_is_not_known() {
        let http =
            Http { version: "HTTP/1.1", method: "GET".to_owned(), path: "/a\"b".to_owned(), status: 503, attempts: 1, ..Http::default() };
        let line = serde_json::to_string(&Line::of(&record(Some(http)))).unwrap();
        assert!(line.starts_with(r#"{"start_time":"1970-01-01T00:00:00.000Z","method":"GET","path":"/a\"b","protocol":"HTTP/1.1","response_code":503,"response_flags":"UH","response_code_details":"no_endpoint","#), "{line}");
        assert!(line.contains(r#""upstream_host":null"#) && line.contains(r#""source_workload":"unknown""#), "{line}");
    }

    #[test]
    fn a_file_holds_whole_lines_and_is_its_owners_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("inside/access.log");
        let log = AccessLog::open(&Target::File(path.clone())).unwrap();
        (0..1000).for_each(|_| log.write(record(None)));
        log.flush(Duration::from_secs(20));
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().count() as u64 + log.dropped(), 1000);
        assert!(text.lines().all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()));
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_large_file_is_moved_aside() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("access.log");
        let mut file = Rotating::open(&path).unwrap();
        file.size = ROTATE;
        file.write_all(b"new\n").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "new\n");
        assert!(directory.path().join("access.log.1").exists());
    }
}
