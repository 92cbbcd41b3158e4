//! Spans to a collector, by OTLP over gRPC.
//!
//! In: records of sampled exchanges, on a bounded queue; one that finds it full is dropped and counted, so that a slow
//! collector never slows a request. Out: batches, sent again only where the collector says that it may help.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, timeout};
use tonic::transport::{Channel, Endpoint};

use crate::record::{Protocol, Record, Reporter};

/// How many spans may wait: OpenTelemetry's default for its batch processor.
const QUEUE: usize = 2048;
/// How many go in one message: the same.
const BATCH: usize = 512;
/// How long a span waits for others.
const LINGER: Duration = Duration::from_secs(1);
/// How long the collector may take: OTLP's default.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How often a batch is sent before it is given up.
const TRIES: u32 = 5;

/// The way to the collector. Clones lead to the same one.
#[derive(Debug, Clone)]
pub struct SpanSink {
    queue: Option<mpsc::Sender<Message>>,
    dropped: Arc<AtomicU64>,
}

enum Message {
    Span(Box<Span>),
    Flush(oneshot::Sender<()>),
}

/// Who sends.
#[derive(Debug, Clone)]
pub struct Sender {
    /// `service.name`.
    pub service: String,
    /// `service.namespace`.
    pub namespace: String,
    /// `service.version`.
    pub version: Option<String>,
    /// `service.instance.id`.
    pub instance: String,
}

impl SpanSink {
    /// A sink that takes nothing.
    #[must_use]
    pub fn none() -> Self {
        Self { queue: None, dropped: Arc::default() }
    }

    /// A sink that sends to `endpoint` (`http://127.0.0.1:4317`), and the task that does it.
    ///
    /// # Errors
    /// When `endpoint` is no URL.
    pub fn start(endpoint: &str, sender: Sender) -> Result<(Self, impl Future<Output = ()> + Send + 'static), tonic::transport::Error> {
        let channel = Endpoint::from_shared(endpoint.to_owned())?.connect_timeout(TIMEOUT).connect_lazy();
        let (queue, messages) = mpsc::channel(QUEUE);
        let dropped: Arc<AtomicU64> = Arc::default();
        let sink = Self { queue: Some(queue), dropped: dropped.clone() };
        Ok((sink, run(TraceServiceClient::new(channel), resource(&sender), messages, dropped)))
    }

    /// Hands the span of a record on, or counts it as dropped. Never waits.
    pub fn send(&self, record: &Record) {
        if let (Some(queue), Some(span)) = (&self.queue, span(record))
            && queue.try_send(Message::Span(Box::new(span))).is_err()
        {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many spans were dropped.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Waits until all that was handed over is sent, for `limit` at most.
    pub async fn flush(&self, limit: Duration) {
        let (done, sent) = oneshot::channel();
        if let Some(queue) = &self.queue
            && queue.send_timeout(Message::Flush(done), limit).await.is_ok()
        {
            // Past the limit the collector does not answer, and nobody waits for that.
            drop(timeout(limit, sent).await);
        }
    }
}

async fn run(mut client: TraceServiceClient<Channel>, resource: Resource, mut messages: mpsc::Receiver<Message>, dropped: Arc<AtomicU64>) {
    let mut batch = Vec::with_capacity(BATCH);
    loop {
        let message = if batch.is_empty() {
            messages.recv().await.map(Some)
        } else {
            timeout(LINGER, messages.recv()).await.map_or(Some(None), |message| message.map(Some))
        };
        let asked = match message {
            Some(Some(Message::Span(span))) => {
                batch.push(*span);
                if batch.len() < BATCH {
                    continue;
                }
                None
            }
            Some(Some(Message::Flush(done))) => Some(done),
            Some(None) => None,
            None => {
                export(&mut client, &resource, std::mem::take(&mut batch), &dropped).await;
                return;
            }
        };
        export(&mut client, &resource, std::mem::take(&mut batch), &dropped).await;
        if let Some(done) = asked {
            // Whoever asked may have stopped waiting.
            let _: Result<(), _> = done.send(());
        }
    }
}

async fn export(client: &mut TraceServiceClient<Channel>, resource: &Resource, spans: Vec<Span>, dropped: &AtomicU64) {
    if spans.is_empty() {
        return;
    }
    let count = spans.len() as u64;
    let scope = InstrumentationScope {
        name: "lorica".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..InstrumentationScope::default()
    };
    let scoped = ScopeSpans { scope: Some(scope), spans, ..ScopeSpans::default() };
    let request = ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans { resource: Some(resource.clone()), scope_spans: vec![scoped], ..ResourceSpans::default() }],
    };
    let mut pause = Duration::from_millis(250);
    for last in (0..TRIES).map(|attempt| attempt + 1 == TRIES) {
        let error = match timeout(TIMEOUT, client.export(request.clone())).await {
            // What a collector refused of a batch it took must not be sent again.
            Ok(Ok(response)) => {
                let refused = response.into_inner().partial_success.map_or(0, |partial| partial.rejected_spans);
                dropped.fetch_add(u64::try_from(refused).unwrap_or(0), Ordering::Relaxed);
                return;
            }
            Ok(Err(status)) if !may_help(status.code()) => {
                tracing::warn!(%status, count, "the trace collector refused spans");
                break;
            }
            Ok(Err(status)) => status.to_string(),
            Err(_) => format!("no answer within {} s", TIMEOUT.as_secs()),
        };
        tracing::debug!(error, count, "spans could not be sent");
        if !last {
            sleep(pause).await;
            pause *= 2;
        }
    }
    dropped.fetch_add(count, Ordering::Relaxed);
}

/// The codes on which OTLP asks to try again.
fn may_help(code: tonic::Code) -> bool {
    use tonic::Code::{Aborted, Cancelled, DataLoss, DeadlineExceeded, OutOfRange, ResourceExhausted, Unavailable};
    matches!(code, Cancelled | DeadlineExceeded | ResourceExhausted | Aborted | OutOfRange | Unavailable | DataLoss)
}

fn resource(sender: &Sender) -> Resource {
    let mut attributes = vec![
        text("service.name", &sender.service),
        text("service.namespace", &sender.namespace),
        text("service.instance.id", &sender.instance),
    ];
    attributes.extend(sender.version.as_deref().map(|version| text("service.version", version)));
    Resource { attributes, ..Resource::default() }
}

/// The span of an HTTP exchange, by OpenTelemetry's semantic conventions.
fn span(record: &Record) -> Option<Span> {
    let http = record.http.as_ref()?;
    let context = http.span?;
    let path = http.path.split('?').next().unwrap_or_default();
    let name = match record.protocol {
        Protocol::Grpc => path.trim_start_matches('/').to_owned(),
        _ => http.method.clone(),
    };
    let mut attributes = vec![
        text("http.request.method", &http.method),
        text("url.path", path),
        number("http.response.status_code", i64::from(http.status)),
        text("server.address", &record.called.fqdn),
        text("network.protocol.version", http.version.trim_start_matches("HTTP/")),
        text("lorica.source", &record.source.workload),
        text("lorica.destination", &record.destination.workload),
        number("lorica.attempts", i64::from(http.attempts)),
    ];
    attributes.extend(record.upstream.map(|address| text("network.peer.address", &address.ip().to_string())));
    attributes.extend(record.upstream.map(|address| number("network.peer.port", i64::from(address.port()))));
    attributes.extend(http.user_agent.as_deref().map(|agent| text("user_agent.original", agent)));
    attributes.extend(record.route.as_deref().map(|route| text("lorica.route", route)));
    attributes.extend(record.reason.map(|reason| text("lorica.reason", reason.meaning().word)));
    if record.protocol == Protocol::Grpc {
        attributes.push(text("rpc.system", "grpc"));
        attributes.extend(http.grpc_status.map(|status| number("rpc.grpc.status_code", i64::from(status))));
    }
    let failed = http.status == 0 || http.status >= 500 || http.grpc_status.is_some_and(|status| status != 0);
    let begin = nanoseconds(record.start);
    Some(Span {
        trace_id: context.context.trace_id.to_be_bytes().to_vec(),
        span_id: context.context.span_id.to_be_bytes().to_vec(),
        parent_span_id: context.parent.map_or_else(Vec::new, |parent| parent.to_be_bytes().to_vec()),
        name,
        kind: match record.reporter {
            Reporter::Source => SpanKind::Client.into(),
            Reporter::Destination => SpanKind::Server.into(),
        },
        start_time_unix_nano: begin,
        end_time_unix_nano: begin.saturating_add(u64::try_from(record.duration.as_nanos()).unwrap_or(u64::MAX)),
        attributes,
        status: failed.then(|| Status { message: record.detail.clone(), code: StatusCode::Error.into() }),
        ..Span::default()
    })
}

fn nanoseconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}

fn text(key: &str, value: &str) -> KeyValue {
    attribute(key, Value::StringValue(value.to_owned()))
}

fn number(key: &str, value: i64) -> KeyValue {
    attribute(key, Value::IntValue(value))
}

fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}
