//! Records in, lines out: their keys, their files, and a log that cannot keep up.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that fails says where by panicking")]

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::mpsc::channel;
use std::sync::{Mutex, PoisonError};

use serde_json::{Value, json};

use super::*;
use crate::record::sample::{http, tcp, with};
use crate::record::{FaultMet, Protocol, Reporter};
use crate::trace::Span;
use lorica_model::reason::Reason;
use lorica_model::snapshot::Origin;

/// Long enough for any machine; a test that passes never waits for it.
const LONG: Duration = Duration::from_secs(60);

fn written(record: &Record<'_>) -> String {
    let mut out = Vec::new();
    LineWriter::default().write(&mut out, record);
    String::from_utf8(out).unwrap()
}

fn line(record: &Record<'_>) -> Value {
    serde_json::from_str(&written(record)).unwrap()
}

/// As a worker writes them.
fn log_to(log: &AccessLog, records: impl IntoIterator<Item = Record<'static>>) {
    let worker = log.worker(LogSink::none());
    records.into_iter().for_each(|record| worker.write(&record, false));
}

fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    assert!(text.is_empty() || text.ends_with('\n'));
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_request_has_envoys_keys_and_ours() {
    let record = with(|http| http.span = Some(Span::begin(Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"), 0.0, || 0xabc)));
    let expected = concat!(
        r#"{"start_time":"2023-11-14T22:13:20.250Z","method":"GET","path":"/recordings?of=7","protocol":"HTTP/1.1","response_code":200,"#,
        r#""response_flags":"-","response_code_details":"via_upstream","#,
        r#""bytes_received":20,"bytes_sent":3000,"duration":12,"upstream_service_time":11,"user_agent":"curl/8","#,
        r#""request_id":"4b1d","authority":"recording.contact","upstream_host":"127.0.0.1:9001","#,
        r#""downstream_local_address":"240.0.0.9:80","downstream_remote_address":"240.0.0.7:40000","attempts":1,"#,
        r#""trace_id":"0af7651916cd43dd8448eb211c80319c","span_id":"0000000000000abc","#,
        r#""upstream_cluster":"recording.contact.mesh","route_name":"HTTPRoute/recording.contact rule 0","reporter":"source","#,
        r#""source_workload":"routing-1","source_namespace":"contact","source_principal":"spiffe://mesh/ns/contact/sa/routing","#,
        r#""destination_workload":"recording-1","destination_namespace":"contact","destination_principal":"spiffe://mesh/ns/contact/sa/recording","#,
        r#""connection_security_policy":"unknown"}"#
    );
    assert_eq!(written(&record), format!("{expected}\n"));
}

#[test]
fn what_is_not_known_is_left_out() {
    let unknown = Record { source: Arc::default(), destination: Arc::default(), upstream: None, remote: None, ..tcp() };
    let line = line(&Record { reporter: Reporter::Destination, ..unknown });
    for key in
        ["method", "protocol", "upstream_host", "source_workload", "source_principal", "destination_workload", "attempts", "trace_id"]
    {
        assert_eq!(line.get(key), None, "{key}");
    }
    assert_eq!(line["response_code"], json!(0));
    assert_eq!(line["response_flags"], json!("-"));
    assert_eq!(line["reporter"], json!("destination"));
}

#[test]
fn a_failure_says_why_where_envoy_says_it() {
    let failed = |record: Record<'static>, reason| line(&Record { reason: Some(reason), detail: "connection refused".into(), ..record });
    let refused = failed(with(|http| http.status = 503), Reason::ConnectFailed);
    assert_eq!(refused["response_flags"], json!("UF"));
    assert_eq!(refused["response_code_details"], json!("connect_failed"));
    assert_eq!(refused["reason"], json!("connect_failed"));
    assert_eq!(refused["upstream_transport_failure_reason"], json!("connection refused"));
    assert_eq!(refused["connection_termination_details"], Value::Null);
    let closed = failed(tcp(), Reason::PlaintextRefused);
    assert_eq!(closed["connection_termination_details"], json!("connection refused"));
    assert_eq!(closed["upstream_transport_failure_reason"], Value::Null);
}

#[test]
fn what_is_made_to_fail_names_its_policy() {
    let by = |delayed| {
        let origin = Origin {
            kind: "FaultPolicy".to_owned(),
            namespace: "contact".to_owned(),
            name: "slow".to_owned(),
            generation: 1,
            rule: 0,
            matched: 0,
        };
        Some(FaultMet { by: Arc::new(origin), delayed })
    };
    let delayed = line(&Record { fault: by(true), ..http() });
    assert_eq!((&delayed["response_flags"], &delayed["fault"]), (&json!("DI"), &json!("FaultPolicy/slow.contact")));
    let injected = |delayed| line(&Record { fault: by(delayed), reason: Some(Reason::FaultInjected), ..http() })["response_flags"].clone();
    assert_eq!((injected(true), injected(false)), (json!("DI,FI"), json!("FI")));
    // What failed after a delay failed by itself.
    let failed = line(&Record { fault: by(true), reason: Some(Reason::ConnectFailed), ..http() });
    assert_eq!(failed["response_flags"], json!("UF"));
    assert_eq!(line(&http()).get("fault"), None);
}

#[test]
fn hostile_text_stays_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.log");
    let log = AccessLog::open(&Target::File(path.clone())).unwrap();
    let agent = "a\"b\\c\nd\r\u{0}\u{2028}\u{7f}é";
    log_to(&log, [Record { protocol: Protocol::Grpc, ..with(|http| http.user_agent = Some(agent)) }, http()]);
    log.flush(LONG);
    let lines = lines(&path);
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[0]["user_agent"], json!(agent));
}

#[test]
fn the_file_is_the_owners_and_kept_over_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("new/access.log");
    for _ in 0..2 {
        let log = AccessLog::open(&Target::File(path.clone())).unwrap();
        log_to(&log, [http()]);
        log.flush(LONG);
    }
    assert_eq!(lines(&path).len(), 2);
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_file_that_cannot_be_written_is_an_error_at_once() {
    assert!(AccessLog::open(&Target::File("/proc/access.log".into())).is_err());
    assert!(AccessLog::open(&Target::from("")).is_err());
}

#[test]
fn rotation_keeps_lines_whole_and_two_files_at_most() {
    const LIMIT: u64 = 4 * BUFFER as u64;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.log");
    let log = AccessLog::to(Out::File(Rotating::open(&path, LIMIT).unwrap()), QUEUE).unwrap();
    let written = 2_000;
    log_to(&log, (0..written).map(|index: u64| with(|http| http.request_id = index.to_string().into())));
    log.flush(LONG);
    assert_eq!(log.dropped(), 0);
    let old = folder.path().join("access.log.1");
    let ids: Vec<u64> = lines(&old).iter().chain(&lines(&path)).map(|line| line["request_id"].as_str().unwrap().parse().unwrap()).collect();
    // The newest of all that was written, without a gap.
    assert_eq!(ids.last(), Some(&(written - 1)));
    assert!(ids.windows(2).all(|pair| pair[0] + 1 == pair[1]));
    assert!(ids.len() < 2_000);
    for file in [&old, &path] {
        assert!(std::fs::metadata(file).unwrap().len() <= LIMIT);
        assert_eq!(std::fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
}

#[test]
fn a_file_taken_away_is_made_anew() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.log");
    let mut file = Rotating::open(&path, 10).unwrap();
    file.write(b"eight...\n").unwrap();
    std::fs::remove_file(&path).unwrap();
    file.write(b"more\n").unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"more\n");
}

#[test]
fn lines_end_with_who_called_whom_however_often_that_changes() {
    let mut writer = LineWriter::default();
    let (first, second) = (http(), Record { reporter: Reporter::Destination, ..http() });
    for record in [&first, &second, &first, &Record { route: None, ..first.clone() }] {
        let mut out = Vec::new();
        writer.write(&mut out, record);
        assert_eq!(String::from_utf8(out).unwrap(), written(record));
    }
}

#[test]
fn every_address_is_written_as_it_is_shown() {
    for address in ["0.0.0.0:0", "9.10.99.100:65535", "255.249.200.1:80", "[2001:db8::1]:443"] {
        let record = Record { upstream: Some(address.parse().unwrap()), ..http() };
        assert_eq!(line(&record)["upstream_host"], json!(address));
    }
}

#[test]
fn the_second_in_words_follows_the_clock() {
    let mut writer = LineWriter::default();
    let at = |milliseconds| Record { start: std::time::SystemTime::UNIX_EPOCH + Duration::from_millis(milliseconds), ..http() };
    let times = [1_700_000_000_999, 1_700_000_001_000, 1_700_000_001_007, 1_700_000_000_000].map(|milliseconds| {
        let mut out = Vec::new();
        writer.write(&mut out, &at(milliseconds));
        String::from_utf8(out).unwrap()[15..].split('"').next().unwrap().to_owned()
    });
    assert_eq!(times, ["2023-11-14T22:13:20.999Z", "2023-11-14T22:13:21.000Z", "2023-11-14T22:13:21.007Z", "2023-11-14T22:13:20.000Z"]);
}

/// A stream that takes nothing before it is let.
struct Stalled {
    go: Receiver<()>,
    gone: bool,
    written: Arc<Mutex<Vec<u8>>>,
}

impl Write for Stalled {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if !self.gone {
            self.gone = self.go.recv().is_ok();
        }
        self.written.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_writer_that_hangs_holds_up_nobody_and_what_is_dropped_is_counted() {
    const SENT: u64 = 5_000;
    let (go, wait) = channel();
    let written: Arc<Mutex<Vec<u8>>> = Arc::default();
    let log = AccessLog::to(Out::Stream(Box::new(Stalled { go: wait, gone: false, written: written.clone() })), 4).unwrap();
    log_to(&log, (0..SENT).map(|_| http()));
    // What it holds at most: its queue, and the buffer that it writes.
    assert!(log.dropped() > SENT - 5 * BUFFER as u64 / 500);
    // Nobody waits for it longer than they said.
    log.flush(Duration::ZERO);
    go.send(()).unwrap();
    log.flush(LONG);
    let lines = written.lock().unwrap().iter().filter(|byte| **byte == b'\n').count() as u64;
    assert_eq!(lines + log.dropped(), SENT);
}

/// A stream that is closed.
struct Closed;

impl Write for Closed {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::BrokenPipe.into())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn lines_that_cannot_be_written_are_counted_as_dropped() {
    let log = AccessLog::to(Out::Stream(Box::new(Closed)), 64).unwrap();
    log_to(&log, (0..3).map(|_| http()));
    log.flush(LONG);
    assert_eq!(log.dropped(), 3);
}

#[test]
fn off_takes_nothing() {
    let log = AccessLog::open(&Target::from("off")).unwrap();
    log_to(&log, [http()]);
    log.flush(LONG);
    assert_eq!(log.dropped(), 0);
}
