//! OTLP: any of its signals, over gRPC or HTTP with protobuf.

use std::marker::PhantomData;
use std::sync::Arc;

use bytes::Bytes;
use http::uri::PathAndQuery;
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::InstrumentationScope;
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use prost::Message;
use tonic::client::Grpc;
use tonic::transport::Channel;
use tonic_prost::ProstCodec;

use super::connect::Dial;
use super::destination::{Destination, Way};
use super::post::{Answer, Post, PostError, said};
use super::queue::{Carrier, Failure, Refused};
use super::retry::{self, Again};

/// A kind of telemetry that OTLP carries.
pub trait Signal: Send + Sync + 'static {
    /// One of what is sent.
    type Item: Send + 'static;
    /// Many of them.
    type Request: Message + Clone + Send + Sync + 'static;
    /// What comes back.
    type Response: Message + Default + Send + 'static;
    /// What is sent, for messages: `spans`.
    const WHAT: &'static str;
    /// The method by gRPC.
    const METHOD: &'static str;
    /// The path by HTTP.
    const PATH: &'static str;

    /// Many of them from one sender.
    fn request(resource: &Resource, items: Vec<Self::Item>) -> Self::Request;

    /// What was not taken, and why.
    fn refused(response: Self::Response) -> Refused;
}

/// Spans.
pub struct Traces;

impl Signal for Traces {
    type Item = Arc<Span>;
    type Request = ExportTraceServiceRequest;
    type Response = ExportTraceServiceResponse;
    const WHAT: &'static str = "spans";
    const METHOD: &'static str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
    const PATH: &'static str = "/v1/traces";

    fn request(resource: &Resource, spans: Vec<Arc<Span>>) -> ExportTraceServiceRequest {
        let spans = spans.into_iter().map(Arc::unwrap_or_clone).collect();
        let scope_spans = vec![ScopeSpans { scope: Some(scope()), spans, ..ScopeSpans::default() }];
        let resource = Some(resource.clone());
        ExportTraceServiceRequest { resource_spans: vec![ResourceSpans { resource, scope_spans, ..ResourceSpans::default() }] }
    }

    fn refused(response: ExportTraceServiceResponse) -> Refused {
        let partial = response.partial_success.unwrap_or_default();
        Refused { count: u64::try_from(partial.rejected_spans).unwrap_or(0), why: partial.error_message }
    }
}

/// Who made telemetry.
#[must_use]
pub fn scope() -> InstrumentationScope {
    let version = env!("CARGO_PKG_VERSION").to_owned();
    InstrumentationScope { name: "lorica".to_owned(), version, ..InstrumentationScope::default() }
}

/// Brings a signal to a destination.
pub struct Otlp<S> {
    resource: Resource,
    line: Line,
    signal: PhantomData<fn() -> S>,
}

/// What it is brought by.
enum Line {
    /// A channel is made where it is used: it needs the runtime there.
    Dial(Dial),
    Grpc(Grpc<Channel>),
    Http(Post, String),
}

impl Destination {
    /// What brings a signal of `resource` there; none where it takes no OTLP.
    #[must_use]
    pub fn carrier<S: Signal>(&self, resource: Resource) -> Option<Otlp<S>> {
        let line = match self.way.clone() {
            Way::Grpc(dial) => Line::Dial(dial),
            Way::Channel(channel) => Line::Grpc(Grpc::new(channel)),
            Way::Http(post, base) => Line::Http(post, format!("{base}{}", S::PATH)),
            Way::Zipkin(..) => return None,
        };
        Some(Otlp { resource, line, signal: PhantomData })
    }
}

impl<S: Signal> Carrier for Otlp<S> {
    type Item = S::Item;
    type Batch = S::Request;

    fn pack(&self, items: Vec<S::Item>) -> S::Request {
        S::request(&self.resource, items)
    }

    async fn carry(&mut self, batch: &S::Request) -> Result<Refused, Failure> {
        if let Line::Dial(dial) = &self.line {
            let channel = dial.clone().channel().map_err(|error| Failure { said: said(&error), again: Again::Never })?;
            self.line = Line::Grpc(Grpc::new(channel));
        }
        match &mut self.line {
            Line::Grpc(grpc) => by_grpc::<S>(grpc, batch.clone()).await,
            Line::Http(post, path) => by_http::<S>(post, path, batch.encode_to_vec().into()).await,
            Line::Dial(_) => Err(Failure { said: "there is no channel".to_owned(), again: Again::Soon }),
        }
    }
}

async fn by_grpc<S: Signal>(grpc: &mut Grpc<Channel>, request: S::Request) -> Result<Refused, Failure> {
    let failure = |status: &tonic::Status| Failure { said: said_by(status), again: retry::of_status(status) };
    grpc.ready().await.map_err(|error| failure(&tonic::Status::unavailable(said(&error))))?;
    let codec = ProstCodec::<S::Request, S::Response>::default();
    let answer = grpc.unary(tonic::Request::new(request), PathAndQuery::from_static(S::METHOD), codec).await;
    answer.map(|response| S::refused(response.into_inner())).map_err(|status| failure(&status))
}

async fn by_http<S: Signal>(post: &mut Post, path: &str, body: Bytes) -> Result<Refused, Failure> {
    // By the protocol, what may have been lost is sent again.
    let answer = post.send(path, "application/x-protobuf", body).await.map_err(|error| match error {
        PostError::Unsent(said) | PostError::Lost(said) => Failure { said, again: Again::Soon },
    })?;
    let Answer { status, retry_after, body } = answer;
    if status.is_success() {
        // It was taken; what it says besides is not worth sending it again.
        return Ok(S::Response::decode(body).map(S::refused).unwrap_or_default());
    }
    let why = retry::Details::decode(body.clone()).map(|details| details.message).unwrap_or_default();
    let why = if why.is_empty() { excerpt(&body) } else { why };
    Err(Failure { said: format!("{status} {why}").trim_end().to_owned(), again: retry::of_http(status.as_u16(), retry_after.as_deref()) })
}

/// What an answer that is text says at its beginning.
pub(super) fn excerpt(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    text.chars().take(200).map(|letter| if letter.is_control() { ' ' } else { letter }).collect()
}

pub(crate) fn said_by(status: &tonic::Status) -> String {
    let mut text = format!("{} ({:?})", status.message(), status.code());
    if let Some(source) = std::error::Error::source(status) {
        text.push_str(": ");
        text.push_str(&said(source));
    }
    text
}
