//! The control plane's store of spans and log records from outside: told by OTLP over gRPC, HTTP and JSON, asked by the command line and by a
//! client of Jaeger's API, killed, started again, and left without a disk.

mod doors;
mod faults;
mod identity;
mod jaeger;

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use opentelemetry_proto::tonic::collector::logs::v1::logs_service_client::LogsServiceClient;
use opentelemetry_proto::tonic::collector::logs::v1::{ExportLogsServiceRequest, ExportLogsServiceResponse};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status};
use serde_json::Value;
use testbed::{Mesh, MeshOptions, PATIENCE, Port, Reply, eventually, http_send};
use tonic::transport::{Channel, Endpoint};

/// A mesh whose control plane takes OTLP on ports of its own.
struct Told {
    mesh: Mesh,
    grpc: Port,
    http: Port,
    scraped: Port,
}

impl Told {
    async fn start(options: MeshOptions) -> anyhow::Result<Self> {
        let [grpc, http, scraped] = [Port::free()?, Port::free()?, Port::free()?];
        let words = [("--otlp", &grpc), ("--otlp-http", &http), ("--telemetry", &scraped)];
        let options = words
            .into_iter()
            .fold(options, |options, (word, port)| options.control_option(word).control_option(port.address().to_string()));
        Ok(Self { mesh: options.start().await?, grpc, http, scraped })
    }

    async fn spans(&self, spans: Vec<ResourceSpans>) -> anyhow::Result<ExportTraceServiceResponse> {
        send_spans(&at(&format!("http://{}", self.grpc.address())).await?, spans).await
    }

    async fn logs(&self, logs: Vec<ResourceLogs>) -> anyhow::Result<ExportLogsServiceResponse> {
        let mut client = LogsServiceClient::new(at(&format!("http://{}", self.grpc.address())).await?);
        Ok(client.export(ExportLogsServiceRequest { resource_logs: logs }).await?.into_inner())
    }

    /// What the command line says in JSON.
    async fn json(&self, words: &[&str]) -> anyhow::Result<Value> {
        self.mesh.lorica(words.iter().chain(&["-o", "json"])).await?.success()?.json()
    }

    /// A trace, once it has so many spans.
    async fn trace(&self, id: &str, spans: usize) -> anyhow::Result<Value> {
        eventually(&format!("trace {id} has {spans} spans"), PATIENCE, || async {
            let found = self.json(&["trace", id]).await?;
            let count = found["spans"].as_array().map_or(0, Vec::len);
            ensure!(count == spans, "there are {count}: {found:#}");
            Ok(found)
        })
        .await
    }

    /// A page of the port that Prometheus and Jaeger's clients ask.
    async fn get(&self, path: &str) -> anyhow::Result<Reply> {
        testbed::http_get(self.scraped.address(), "control", path).await
    }
}

async fn at(endpoint: &str) -> anyhow::Result<Channel> {
    Endpoint::from_shared(endpoint.to_owned())?.connect().await.with_context(|| endpoint.to_owned())
}

/// The control plane's socket, or that of a host's agent.
async fn at_socket(socket: &Path) -> anyhow::Result<Channel> {
    at(&format!("unix://{}", socket.display())).await
}

async fn send_spans(channel: &Channel, spans: Vec<ResourceSpans>) -> anyhow::Result<ExportTraceServiceResponse> {
    let mut client = TraceServiceClient::new(channel.clone());
    Ok(client.export(ExportTraceServiceRequest { resource_spans: spans }).await?.into_inner())
}

async fn post(address: SocketAddr, path: &str, content_type: &str, encoding: Option<&str>, body: Vec<u8>) -> anyhow::Result<Reply> {
    let request = Request::post(path).header("host", "collector").header("content-type", content_type);
    let request = encoding.into_iter().fold(request, |request, encoding| request.header("content-encoding", encoding));
    http_send(address, request.body(Full::new(Bytes::from(body)))?).await
}

fn text(key: &str, value: &str) -> KeyValue {
    attribute(key, Any::StringValue(value.to_owned()))
}

fn attribute(key: &str, value: Any) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}

fn resource(service: &str) -> Option<Resource> {
    let (name, namespace) = service.split_once('.').unwrap_or((service, ""));
    Some(Resource { attributes: vec![text("service.name", name), text("service.namespace", namespace)], ..Resource::default() })
}

/// Now, in nanoseconds since 1970, to the millisecond.
fn now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(0) * 1_000_000
}

fn span(trace: u128, id: u64, parent: Option<u64>, kind: SpanKind, name: &str, times: (u64, Duration)) -> Span {
    Span {
        trace_id: trace.to_be_bytes().to_vec(),
        span_id: id.to_be_bytes().to_vec(),
        parent_span_id: parent.map_or_else(Vec::new, |parent| parent.to_be_bytes().to_vec()),
        name: name.to_owned(),
        kind: kind.into(),
        start_time_unix_nano: times.0,
        end_time_unix_nano: times.0 + u64::try_from(times.1.as_nanos()).unwrap_or(0),
        attributes: vec![text("http.request.method", "GET"), attribute("of", Any::IntValue(i64::try_from(trace).unwrap_or(0)))],
        ..Span::default()
    }
}

fn failed(mut span: Span, message: &str) -> Span {
    span.status = Some(Status { code: StatusCode::Error.into(), message: message.to_owned() });
    span
}

fn of(service: &str, spans: Vec<Span>) -> ResourceSpans {
    ResourceSpans { resource: resource(service), scope_spans: vec![ScopeSpans { spans, ..ScopeSpans::default() }], ..Default::default() }
}

fn log(words: &str, attributes: Vec<KeyValue>) -> LogRecord {
    LogRecord {
        time_unix_nano: now(),
        body: Some(AnyValue { value: Some(Any::StringValue(words.to_owned())) }),
        attributes,
        ..LogRecord::default()
    }
}

fn logs_of(service: &str, log_records: Vec<LogRecord>) -> ResourceLogs {
    ResourceLogs { resource: resource(service), scope_logs: vec![ScopeLogs { log_records, ..ScopeLogs::default() }], ..Default::default() }
}

fn id(trace: u128) -> String {
    format!("{trace:032x}")
}
