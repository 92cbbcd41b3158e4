//! Log records of exchanges, to those who keep them.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use opentelemetry_proto::tonic::collector::logs::v1::{ExportLogsServiceRequest, ExportLogsServiceResponse};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, KeyValue, KeyValueList};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs, SeverityNumber};
use opentelemetry_proto::tonic::resource::v1::Resource;
use tokio::time::timeout;

use super::otlp::{Signal, scope};
use super::queue::{Name, Queue, Refused};
use super::{Destination, Sender, Sending, span};
use crate::keep::has_failed;
use crate::record::{Record, UNKNOWN};

/// How many bytes a line has at most on its way: a batch must fit into what gRPC takes in a message, 4 MiB.
const MOST_BODY: usize = 4096;
/// How many bytes any other text has.
const MOST_TEXT: usize = 512;

/// Log records.
pub struct Logs;

impl Signal for Logs {
    type Item = Arc<LogRecord>;
    type Request = ExportLogsServiceRequest;
    type Response = ExportLogsServiceResponse;
    const WHAT: &'static str = "log records";
    const METHOD: &'static str = "/opentelemetry.proto.collector.logs.v1.LogsService/Export";
    const PATH: &'static str = "/v1/logs";

    fn request(resource: &Resource, records: Vec<Arc<LogRecord>>) -> ExportLogsServiceRequest {
        let log_records = records.into_iter().map(Arc::unwrap_or_clone).collect();
        let scope_logs = vec![ScopeLogs { scope: Some(scope()), log_records, ..ScopeLogs::default() }];
        let resource = Some(resource.clone());
        ExportLogsServiceRequest { resource_logs: vec![ResourceLogs { resource, scope_logs, ..ResourceLogs::default() }] }
    }

    fn refused(response: ExportLogsServiceResponse) -> Refused {
        let partial = response.partial_success.unwrap_or_default();
        Refused { count: u64::try_from(partial.rejected_log_records).unwrap_or(0), why: partial.error_message }
    }
}

/// The way of log records to all their destinations. Clones lead to the same ones.
#[derive(Debug, Clone)]
pub struct LogSink {
    /// The control plane.
    mesh: Option<Queue<Arc<LogRecord>>>,
    /// Collectors that the process was told of.
    collectors: Arc<[Queue<Arc<LogRecord>>]>,
}

/// Which of the destinations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct To {
    /// The control plane.
    pub mesh: bool,
    /// Collectors.
    pub collectors: bool,
}

impl LogSink {
    /// A sink that takes nothing.
    #[must_use]
    pub fn none() -> Self {
        Self { mesh: None, collectors: Arc::new([]) }
    }

    /// A sink that sends to those of `destinations` that take log records, and what does so, to be run.
    #[must_use]
    pub fn start(destinations: &[Destination], sender: &Sender) -> (Self, Vec<Sending>) {
        let (mut mesh, mut collectors, mut sending): (Option<_>, Vec<_>, Vec<Sending>) = (None, Vec::new(), Vec::new());
        for destination in destinations {
            let Some(carrier) = destination.carrier::<Logs>(sender.resource()) else { continue };
            let name = Name { destination: destination.name.clone(), what: Logs::WHAT, quiet: destination.quiet };
            let (queue, emptying) = Queue::start(name, carrier);
            sending.push(Box::pin(emptying));
            if destination.is_control_plane() {
                mesh = Some(queue);
            } else {
                collectors.push(queue);
            }
        }
        (Self { mesh, collectors: collectors.into() }, sending)
    }

    /// Whether anybody is there of those.
    #[must_use]
    pub fn reaches(&self, to: To) -> bool {
        (to.mesh && self.mesh.is_some()) || (to.collectors && !self.collectors.is_empty())
    }

    /// Hands on what `make` makes, which happens once and only if somebody has room for it; the others count it as dropped. Never waits.
    pub fn send(&self, to: To, make: impl FnOnce() -> LogRecord) {
        let (mut make, mut made) = (Some(make), None);
        let mut record = || made.get_or_insert_with(|| Arc::new(make.take().map(|make| make()).unwrap_or_default())).clone();
        let mesh = self.mesh.iter().filter(|_| to.mesh);
        for queue in mesh.chain(self.collectors.iter().filter(|_| to.collectors)) {
            queue.offer(&mut record);
        }
    }

    /// The queue of each destination.
    pub fn queues(&self) -> impl Iterator<Item = &Queue<Arc<LogRecord>>> {
        self.mesh.iter().chain(self.collectors.iter())
    }

    /// Waits until all that was handed over is sent, for `limit` at most.
    pub async fn flush(&self, limit: Duration) {
        // Past the limit a destination does not answer, and nobody waits for that.
        drop(timeout(limit, join_all(self.queues().map(Queue::flush))).await);
    }
}

/// A record as a log record: a line as it would be written, and beside it what searches ask for.
pub(crate) fn log_record(record: &Record<'_>, line: &[u8], is_object: bool) -> LogRecord {
    let context = record.http.as_ref().and_then(|http| http.span).map(|span| span.context);
    let severity = if has_failed(record) { SeverityNumber::Error } else { SeverityNumber::Info };
    let begin = span::nanoseconds(record.start);
    LogRecord {
        time_unix_nano: begin,
        observed_time_unix_nano: begin.saturating_add(u64::try_from(record.duration.as_nanos()).unwrap_or(u64::MAX)),
        severity_number: severity.into(),
        severity_text: if severity == SeverityNumber::Error { "ERROR" } else { "INFO" }.to_owned(),
        body: Some(body(line, is_object)),
        attributes: attributes(record),
        flags: context.map_or(0, |context| u32::from(context.sampled)),
        trace_id: context.map_or_else(Vec::new, |context| context.trace_id.to_be_bytes().to_vec()),
        span_id: context.map_or_else(Vec::new, |context| context.span_id.to_be_bytes().to_vec()),
        event_name: "lorica.exchange".to_owned(),
        ..LogRecord::default()
    }
}

/// An object as one, unless it is too long: its beginning is then a text.
fn body(line: &[u8], is_object: bool) -> AnyValue {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let object = (is_object && line.len() <= MOST_BODY).then(|| serde_json::from_slice::<serde_json::Value>(line).ok()).flatten();
    match object {
        Some(object) => any(object),
        None => AnyValue { value: Some(Value::StringValue(begun(&String::from_utf8_lossy(line), MOST_BODY).to_owned())) },
    }
}

fn any(json: serde_json::Value) -> AnyValue {
    let value = match json {
        serde_json::Value::Null => None,
        serde_json::Value::Bool(value) => Some(Value::BoolValue(value)),
        serde_json::Value::Number(number) => match number.as_i64() {
            Some(number) => Some(Value::IntValue(number)),
            None => number.as_f64().map(Value::DoubleValue),
        },
        serde_json::Value::String(text) => Some(Value::StringValue(text)),
        serde_json::Value::Array(list) => Some(Value::ArrayValue(ArrayValue { values: list.into_iter().map(any).collect() })),
        serde_json::Value::Object(fields) => {
            let pair = |(key, value)| KeyValue { key, value: Some(any(value)), ..KeyValue::default() };
            Some(Value::KvlistValue(KeyValueList { values: fields.into_iter().map(pair).collect() }))
        }
    };
    AnyValue { value }
}

/// What a search asks for, by the names that spans have for it.
fn attributes(record: &Record<'_>) -> Vec<KeyValue> {
    let mut attributes = vec![
        span::text("lorica.reporter", record.reporter.word()),
        span::text("server.address", begun(&record.called.fqdn, MOST_TEXT)),
        span::text("lorica.response_flags", record.flag()),
    ];
    let mut add = |key: &str, value: &str| {
        if !value.is_empty() && value != UNKNOWN {
            attributes.push(span::text(key, begun(value, MOST_TEXT)));
        }
    };
    add("lorica.source", &record.source.workload);
    add("lorica.source.namespace", &record.source.namespace);
    add("lorica.destination", &record.destination.workload);
    add("lorica.destination.namespace", &record.destination.namespace);
    add("lorica.reason", record.reason.map_or("", |reason| reason.meaning().word));
    add("lorica.route", &record.route.as_ref().map(ToString::to_string).unwrap_or_default());
    if let Some(http) = &record.http {
        add("http.request.method", http.method);
        add("url.path", http.path.split('?').next().unwrap_or_default());
        add("http.request.header.x-request-id", &http.request_id);
        attributes.push(span::number("http.response.status_code", i64::from(http.status)));
        attributes.extend(http.grpc_status.map(|status| span::number("rpc.grpc.status_code", i64::from(status))));
    }
    attributes.push(span::number("lorica.duration_ms", i64::try_from(record.duration.as_millis()).unwrap_or(i64::MAX)));
    attributes
}

/// The first `most` bytes of a text, and no half of a character.
fn begun(text: &str, most: usize) -> &str {
    text.get(..text.floor_char_boundary(most)).unwrap_or(text)
}
