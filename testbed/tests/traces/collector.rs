//! A collector of spans inside a test: OTLP over gRPC and HTTP, and Zipkin's JSON. Out flow spans in one form, whoever sent them how.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use prost::Message as _;
use tokio::net::TcpListener;
use tonic::Status;
use tonic::transport::server::TcpIncoming;

/// How a span came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum By {
    Grpc,
    Http,
    Zipkin,
}

/// A span.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Seen {
    pub(crate) by: By,
    /// 32 digits.
    pub(crate) trace: String,
    pub(crate) id: String,
    pub(crate) parent: Option<String>,
    pub(crate) service: String,
    /// `CLIENT`, `SERVER`.
    pub(crate) kind: String,
    pub(crate) name: String,
    pub(crate) tags: BTreeMap<String, String>,
    /// Whether it says that it failed.
    pub(crate) failed: bool,
    /// Microseconds since 1970, and how many it took.
    pub(crate) time: (u64, u64),
}

/// Takes all that comes.
#[derive(Clone, Default)]
pub(crate) struct Collector {
    seen: Arc<Mutex<Vec<Seen>>>,
    pub(crate) grpc: String,
    pub(crate) http: String,
}

impl Collector {
    pub(crate) async fn start() -> anyhow::Result<Self> {
        let (by_grpc, by_http) = (TcpListener::bind("127.0.0.1:0").await?, TcpListener::bind("127.0.0.1:0").await?);
        let url = |address: SocketAddr| format!("http://{address}");
        let (grpc, http) = (url(by_grpc.local_addr()?), url(by_http.local_addr()?));
        let collector = Self { seen: Arc::default(), grpc, http };
        let service = TraceServiceServer::new(collector.clone());
        tokio::spawn(tonic::transport::Server::builder().add_service(service).serve_with_incoming(TcpIncoming::from(by_grpc)));
        let serving = collector.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = by_http.accept().await {
                let serving = serving.clone();
                let service = service_fn(move |request| {
                    let serving = serving.clone();
                    async move { Ok::<_, Infallible>(serving.post(request).await) }
                });
                tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        Ok(collector)
    }

    /// What came so far.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// What came, once it is so much.
    pub(crate) async fn so_many(&self, count: usize) -> anyhow::Result<Vec<Seen>> {
        testbed::eventually(&format!("{count} spans are there"), testbed::PATIENCE, || async {
            let seen = self.seen();
            ensure!(seen.len() >= count, "{} spans: {seen:#?}", seen.len());
            Ok(seen)
        })
        .await
    }

    async fn post(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let (path, kind) = (request.uri().path().to_owned(), request.headers().get("content-type").cloned());
        let kind = kind.as_ref().and_then(|kind| kind.to_str().ok()).unwrap_or_default().to_owned();
        let Ok(body) = request.into_body().collect().await else { return answer(StatusCode::BAD_REQUEST, "") };
        let taken = match (path.as_str(), kind.as_str()) {
            ("/v1/traces", "application/x-protobuf") => self.otlp(By::Http, &body.to_bytes()),
            ("/api/v2/spans", "application/json") => self.zipkin(&body.to_bytes()),
            _ => Err(anyhow::anyhow!("nothing is taken at {path} as {kind}")),
        };
        match taken {
            Ok(status) => answer(status, ""),
            // Who sent it says so, and the test shows it.
            Err(error) => answer(StatusCode::BAD_REQUEST, &format!("{error:#}")),
        }
    }

    fn otlp(&self, by: By, body: &[u8]) -> anyhow::Result<StatusCode> {
        let request = ExportTraceServiceRequest::decode(body)?;
        let mut seen = self.seen.lock().unwrap();
        for resource in request.resource_spans {
            let said = tags(&resource.resource.context("no resource")?.attributes);
            let service = said.get("service.name").context("no service.name")?;
            for span in resource.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                let (start, end) = (span.start_time_unix_nano, span.end_time_unix_nano);
                seen.push(Seen {
                    by,
                    trace: hexadecimal(&span.trace_id),
                    id: hexadecimal(&span.span_id),
                    parent: Some(hexadecimal(&span.parent_span_id)).filter(|id| !id.is_empty()),
                    service: service.clone(),
                    kind: span.kind().as_str_name().trim_start_matches("SPAN_KIND_").to_owned(),
                    name: span.name.clone(),
                    tags: tags(&span.attributes),
                    failed: span.status.as_ref().is_some_and(|status| status.code == 2),
                    time: (start / 1000, (end.saturating_sub(start)) / 1000),
                });
                ensure!(SpanKind::try_from(span.kind).is_ok() && span.trace_id.len() == 16 && span.span_id.len() == 8, "{span:?}");
            }
        }
        Ok(StatusCode::OK)
    }

    /// As strict as Zipkin is, and more.
    fn zipkin(&self, body: &[u8]) -> anyhow::Result<StatusCode> {
        let spans: Vec<serde_json::Value> = serde_json::from_slice(body)?;
        let mut seen = self.seen.lock().unwrap();
        for span in spans {
            let text = |name: &str| span.get(name).and_then(|value| value.as_str()).map(str::to_owned);
            let id = |name: &str, widths: &[usize]| match text(name) {
                Some(id) if widths.contains(&id.len()) && id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) => Ok(id),
                other => Err(anyhow::anyhow!("{name}: {other:?}")),
            };
            let number = |name: &str| span.get(name).and_then(serde_json::Value::as_u64).filter(|number| *number > 0);
            let tags = span.get("tags").map(|tags| serde_json::from_value(tags.clone()).context("tags"));
            let tags: BTreeMap<String, String> = tags.transpose()?.unwrap_or_default();
            seen.push(Seen {
                by: By::Zipkin,
                trace: format!("{:0>32}", id("traceId", &[16, 32])?),
                id: id("id", &[16])?,
                parent: span.get("parentId").map(|_| id("parentId", &[16])).transpose()?,
                service: span["localEndpoint"]["serviceName"].as_str().context("localEndpoint")?.to_owned(),
                kind: text("kind").unwrap_or_default(),
                name: text("name").context("name")?,
                failed: tags.contains_key("error"),
                tags,
                time: (number("timestamp").context("timestamp")?, number("duration").context("duration")?),
            });
        }
        Ok(StatusCode::ACCEPTED)
    }
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: tonic::Request<ExportTraceServiceRequest>,
    ) -> Result<tonic::Response<ExportTraceServiceResponse>, Status> {
        let body = request.into_inner().encode_to_vec();
        self.otlp(By::Grpc, &body).map_err(|error| Status::invalid_argument(format!("{error:#}")))?;
        Ok(tonic::Response::new(ExportTraceServiceResponse::default()))
    }
}

fn answer(status: StatusCode, text: &str) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::new(Bytes::from(text.to_owned())));
    *answer.status_mut() = status;
    answer
}

fn tags(attributes: &[KeyValue]) -> BTreeMap<String, String> {
    let said = |attribute: &KeyValue| match attribute.value.clone().and_then(|value| value.value) {
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(number)) => number.to_string(),
        other => format!("{other:?}"),
    };
    attributes.iter().map(|attribute| (attribute.key.clone(), said(attribute))).collect()
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Checks that spans are one whole trace: one begins it, and each other's parent is among them.
pub(crate) fn one_trace(spans: &[Seen]) -> anyhow::Result<()> {
    let traces: BTreeSet<&str> = spans.iter().map(|span| span.trace.as_str()).collect();
    let ids: BTreeSet<&str> = spans.iter().map(|span| span.id.as_str()).collect();
    let orphans: Vec<&Seen> =
        spans.iter().filter(|span| span.parent.as_ref().is_some_and(|parent| !ids.contains(parent.as_str()))).collect();
    let begins = spans.iter().filter(|span| span.parent.is_none()).count();
    ensure!(traces.len() == 1 && orphans.is_empty() && begins == 1, "{traces:?}, {begins} begin, orphans {orphans:#?} of {spans:#?}");
    Ok(())
}
