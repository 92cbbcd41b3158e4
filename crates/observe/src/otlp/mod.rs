//! Spans to a collector, by OTLP over gRPC.
//!
//! In: records of sampled exchanges, on a bounded queue; one that finds it full is dropped and counted, so that a slow
//! collector never slows a request. Out: batches, sent again only where the collector says that it may help. Never waits
//! for a collector at start: one that comes later is found.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use opentelemetry_proto::tonic::common::v1::InstrumentationScope;
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

use crate::record::Record;

mod retry;
mod span;
#[cfg(test)]
mod tests;

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

#[derive(Debug)]
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

/// Why spans cannot be sent to where they should be.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// The text is no URL.
    #[error("`{endpoint}` is no URL of a collector")]
    NotAUrl {
        /// What was written.
        endpoint: String,
        /// What is wrong with it.
        source: tonic::transport::Error,
    },
    /// It is one of another kind.
    #[error("`{endpoint}` does not begin with http://: spans are sent by gRPC without TLS, as to a collector on the same host")]
    NotHttp {
        /// What was written.
        endpoint: String,
    },
}

impl SpanSink {
    /// A sink that takes nothing.
    #[must_use]
    pub fn none() -> Self {
        Self { queue: None, dropped: Arc::default() }
    }

    /// A sink that sends to `endpoint` (`http://127.0.0.1:4317`, or `unix:///PATH`), and the task that does it, which ends with the last sink.
    ///
    /// # Errors
    /// When `endpoint` is no such URL.
    pub fn start(endpoint: &str, sender: Sender) -> Result<(Self, impl Future<Output = ()> + Send + 'static), EndpointError> {
        let parsed = Endpoint::from_shared(endpoint.to_owned());
        let parsed = parsed.map_err(|source| EndpointError::NotAUrl { endpoint: endpoint.to_owned(), source })?;
        if parsed.uri().scheme_str() != Some("http") {
            return Err(EndpointError::NotHttp { endpoint: endpoint.to_owned() });
        }
        let (queue, messages) = mpsc::channel(QUEUE);
        let dropped: Arc<AtomicU64> = Arc::default();
        let sink = Self { queue: Some(queue), dropped: dropped.clone() };
        let (named, endpoint) = (endpoint.to_owned(), parsed.connect_timeout(TIMEOUT));
        let exporter = Exporter { named, endpoint, resource: resource(&sender), dropped, failing: false };
        Ok((sink, exporter.run(messages)))
    }

    /// Hands the span of a record on, or counts it as dropped. Never waits.
    pub fn send(&self, record: &Record<'_>) {
        if let (Some(queue), Some(span)) = (&self.queue, span::span(record))
            && queue.try_send(Message::Span(Box::new(span))).is_err()
        {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many spans were dropped: there was no room for them, or the collector did not take them.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Waits until all that was handed over is sent, for `limit` at most.
    pub async fn flush(&self, limit: Duration) {
        let Some(queue) = &self.queue else { return };
        let (done, sent) = oneshot::channel();
        let flushed = async {
            if queue.send(Message::Flush(done)).await.is_ok() {
                // An error says that the task has ended, and with it the waiting.
                drop(sent.await);
            }
        };
        // Past the limit the collector does not answer, and nobody waits for that.
        drop(timeout(limit, flushed).await);
    }
}

/// What the task has.
struct Exporter {
    /// The endpoint as it was written.
    named: String,
    endpoint: Endpoint,
    resource: Resource,
    dropped: Arc<AtomicU64>,
    failing: bool,
}

impl Exporter {
    async fn run(mut self, mut messages: mpsc::Receiver<Message>) {
        // Made here, as it needs the runtime that the task runs on.
        let mut client = TraceServiceClient::new(self.endpoint.connect_lazy());
        loop {
            let (spans, asked) = match next_batch(&mut messages).await {
                Next::Batch(spans) => (spans, None),
                Next::Asked(spans, done) => (spans, Some(done)),
                Next::End(spans) => {
                    self.export(&mut client, spans).await;
                    return;
                }
            };
            self.export(&mut client, spans).await;
            if let Some(done) = asked {
                // Whoever asked may have stopped waiting.
                let _: Result<(), _> = done.send(());
            }
        }
    }

    async fn export(&mut self, client: &mut TraceServiceClient<Channel>, spans: Vec<Span>) {
        if spans.is_empty() {
            return;
        }
        let count = spans.len() as u64;
        let sent = send(client, self.request(spans)).await;
        match (&sent, self.failing) {
            // Said once, not once a batch.
            (Err(status), false) => {
                tracing::warn!(
                    endpoint = self.named,
                    error = said(status),
                    spans = count,
                    "spans cannot be sent; they are dropped until they can"
                );
            }
            (Ok(_), true) => tracing::info!(endpoint = self.named, "spans can be sent again"),
            _ => {}
        }
        self.failing = sent.is_err();
        self.dropped.fetch_add(sent.map_or(count, |refused| refused.min(count)), Ordering::Relaxed);
    }

    fn request(&self, spans: Vec<Span>) -> ExportTraceServiceRequest {
        let scope = InstrumentationScope {
            name: "lorica".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..InstrumentationScope::default()
        };
        let scope_spans = vec![ScopeSpans { scope: Some(scope), spans, ..ScopeSpans::default() }];
        let resource = Some(self.resource.clone());
        ExportTraceServiceRequest { resource_spans: vec![ResourceSpans { resource, scope_spans, ..ResourceSpans::default() }] }
    }
}

/// Sends a batch until the collector takes it or it is of no use to go on. How many spans of it the collector refused.
async fn send(client: &mut TraceServiceClient<Channel>, request: ExportTraceServiceRequest) -> Result<u64, Status> {
    let mut tries = 0;
    loop {
        tries += 1;
        let answer = timeout(TIMEOUT, client.export(request.clone())).await;
        let status = match answer.unwrap_or_else(|_| Err(Status::deadline_exceeded(format!("no answer within {} s", TIMEOUT.as_secs())))) {
            Ok(answer) => {
                // What a collector refused of a batch that it took must not be sent again.
                let partial = answer.into_inner().partial_success.unwrap_or_default();
                if partial.rejected_spans > 0 {
                    tracing::warn!(spans = partial.rejected_spans, reason = partial.error_message, "the trace collector refused spans");
                }
                return Ok(u64::try_from(partial.rejected_spans).unwrap_or(0));
            }
            Err(status) => status,
        };
        match retry::pause(&status, tries, fastrand::f64()).filter(|_| tries < TRIES) {
            Some(pause) => sleep(pause).await,
            None => return Err(status),
        }
    }
}

/// What there is to do.
enum Next {
    /// So many spans, or as many as came in time.
    Batch(Vec<Span>),
    /// Somebody waits for them.
    Asked(Vec<Span>, oneshot::Sender<()>),
    /// The last; nobody sends any more.
    End(Vec<Span>),
}

async fn next_batch(messages: &mut mpsc::Receiver<Message>) -> Next {
    let mut spans = Vec::new();
    // Until the first span is there it may take as long as it likes.
    let mut due: Option<Instant> = None;
    while spans.len() < BATCH {
        let message = match due {
            None => messages.recv().await,
            Some(due) => match timeout_at(due, messages.recv()).await {
                Ok(message) => message,
                Err(_) => break,
            },
        };
        match message {
            Some(Message::Span(span)) => spans.push(*span),
            Some(Message::Flush(done)) => return Next::Asked(spans, done),
            None => return Next::End(spans),
        }
        due = due.or_else(|| Some(Instant::now() + LINGER));
    }
    Next::Batch(spans)
}

/// What a status says, with what is behind it: a refused connection is its source, not its message.
fn said(status: &Status) -> String {
    let mut text = format!("{} ({:?})", status.message(), status.code());
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

fn resource(sender: &Sender) -> Resource {
    let mut attributes = vec![
        span::text("service.name", &sender.service),
        span::text("service.namespace", &sender.namespace),
        span::text("service.instance.id", &sender.instance),
    ];
    attributes.extend(sender.version.as_deref().map(|version| span::text("service.version", version)));
    Resource { attributes, ..Resource::default() }
}
