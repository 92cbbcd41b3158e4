//! Spans as a collector gets them, and collectors that are slow, refuse or are gone.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that fails says where by panicking")]

use std::collections::VecDeque;
use std::sync::Mutex;

use http::{Request as HttpRequest, Response as HttpResponse};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use lorica_model::reason::Reason;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use prost::Message as _;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tonic::transport::server::TcpIncoming;
use tonic::{Code, Request, Response, Status};

use super::connect::Secure;
use super::queue::{BATCH, QUEUE, TRIES};
use super::*;
use crate::record::sample::{http, tcp, with};
use crate::record::{Http, Protocol, Reporter};
use crate::trace;

/// Long enough for any machine; a test that passes never waits for it.
const LONG: Duration = Duration::from_secs(60);

/// A collector that answers what it is told to, then takes everything.
#[derive(Clone)]
struct Collector {
    answers: Arc<Mutex<VecDeque<Result<ExportTraceServiceResponse, Status>>>>,
    calls: Arc<Mutex<Vec<ExportTraceServiceRequest>>>,
    /// How many calls it may answer.
    may: Arc<Semaphore>,
    /// How many calls have come.
    came: Arc<Semaphore>,
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(&self, request: Request<ExportTraceServiceRequest>) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.came.add_permits(1);
        self.may.acquire().await.unwrap().forget();
        self.calls.lock().unwrap().push(request.into_inner());
        let answer = self.answers.lock().unwrap().pop_front();
        answer.unwrap_or_else(|| Ok(ExportTraceServiceResponse::default())).map(Response::new)
    }
}

impl Collector {
    /// A collector, and a sink that sends to it.
    async fn start(may: usize, answers: impl IntoIterator<Item = Result<ExportTraceServiceResponse, Status>>) -> (Self, SpanSink) {
        let collector = Self {
            answers: Arc::new(Mutex::new(answers.into_iter().collect())),
            calls: Arc::default(),
            may: Arc::new(Semaphore::new(may)),
            came: Arc::new(Semaphore::new(0)),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let service = TraceServiceServer::new(collector.clone());
        tokio::spawn(tonic::transport::Server::builder().add_service(service).serve_with_incoming(TcpIncoming::from(listener)));
        (collector, sink(&Destination::otlp(&endpoint, None, &no_tls).unwrap()))
    }

    fn spans(&self) -> Vec<Span> {
        let calls = self.calls.lock().unwrap();
        let scopes = calls.iter().flat_map(|call| &call.resource_spans).flat_map(|resource| &resource.scope_spans);
        scopes.flat_map(|scope| scope.spans.clone()).collect()
    }
}

fn no_tls(_: &str, _: &'static [u8]) -> Result<Secure, String> {
    Err("no TLS here".to_owned())
}

/// A sink that sends to one destination.
fn sink(destination: &Destination) -> SpanSink {
    let (sink, sending) = SpanSink::start(std::slice::from_ref(destination), &sender());
    sending.into_iter().for_each(|sending| drop(tokio::spawn(sending)));
    sink
}

/// How many spans were dropped, and how many taken.
fn counted(sink: &SpanSink) -> (u64, u64) {
    sink.queues().fold((0, 0), |(dropped, sent), queue| (dropped + queue.dropped(), sent + queue.sent()))
}

fn sender() -> Sender {
    Sender {
        service: "routing".to_owned(),
        namespace: "contact".to_owned(),
        version: Some("v2".to_owned()),
        instance: "routing-1.contact".to_owned(),
    }
}

const CALLER: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

fn traced(change: impl FnOnce(&mut Http<'static>)) -> Record<'static> {
    with(|http| {
        http.span = Some(trace::Span::begin(Some(CALLER), 0.0, || 0xabc));
        change(http);
    })
}

/// What an attribute says; empty where it is not there.
fn said_of(attributes: &[opentelemetry_proto::tonic::common::v1::KeyValue], key: &str) -> String {
    let value = attributes.iter().find(|attribute| attribute.key == key).and_then(|attribute| attribute.value.clone()?.value);
    match value {
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(number)) => number.to_string(),
        _ => String::new(),
    }
}

fn check(record: &Record, expected: &[(&str, &str)]) -> Span {
    let span = span::span(record).unwrap();
    for (key, value) in expected {
        assert_eq!(said_of(&span.attributes, key), *value, "{key}");
    }
    span
}

#[test]
fn a_call_is_a_client_span_below_the_callers() {
    let span = check(
        &traced(|_| {}),
        &[
            ("http.request.method", "GET"),
            ("url.path", "/recordings"),
            ("http.response.status_code", "200"),
            ("server.address", "recording.contact.mesh"),
            ("server.port", "80"),
            ("network.peer.address", "127.0.0.1"),
            ("network.peer.port", "9001"),
            ("network.protocol.version", "1.1"),
            ("lorica.attempts", "1"),
            ("lorica.reason", ""),
            ("error.type", ""),
            ("client.address", ""),
        ],
    );
    assert_eq!(span.name, "GET HTTPRoute/recording.contact rule 0");
    assert_eq!(span.kind, i32::from(SpanKind::Client));
    assert_eq!(span.trace_id, 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c_u128.to_be_bytes());
    assert_eq!(span.parent_span_id, 0xb7ad_6b71_6920_3331_u64.to_be_bytes());
    assert_eq!(span.span_id, 0xabc_u64.to_be_bytes());
    assert_eq!(span.end_time_unix_nano - span.start_time_unix_nano, 12_500_000);
    assert_eq!((span.flags, span.status), (0x301, None));
}

#[test]
fn a_served_grpc_call_is_a_server_span_named_after_its_method() {
    let record = Record {
        reporter: Reporter::Destination,
        protocol: Protocol::Grpc,
        ..traced(|http| {
            http.path = "/contact.v1.Recordings/Store";
            http.authority = "recording.contact:50051";
            http.grpc_status = Some(5);
        })
    };
    let span = check(
        &record,
        &[
            ("rpc.system", "grpc"),
            ("rpc.service", "contact.v1.Recordings"),
            ("rpc.method", "Store"),
            ("rpc.grpc.status_code", "5"),
            ("server.port", "50051"),
            ("network.peer.address", "240.0.0.7"),
            ("client.address", "240.0.0.7"),
        ],
    );
    assert_eq!(span.name, "contact.v1.Recordings/Store");
    assert_eq!(span.kind, i32::from(SpanKind::Server));
    assert_eq!(span.status.unwrap().code, 2);
}

#[test]
fn a_failure_says_its_reason() {
    let mut record = traced(|http| {
        http.status = 503;
        http.attempts = 3;
    });
    record.reason = Some(Reason::ConnectFailed);
    record.detail = "connection refused".into();
    let expected = [
        ("lorica.reason", "connect_failed"),
        ("error.type", "connect_failed"),
        ("lorica.attempts", "3"),
        ("http.request.resend_count", "2"),
    ];
    let status = check(&record, &expected).status.unwrap();
    assert_eq!((status.message.as_str(), status.code), ("connection refused", 2));
    // Nobody answered: there is no status, and it did not go well.
    let gone = check(&traced(|http| http.status = 0), &[("http.response.status_code", "")]);
    assert!(gone.status.is_some());
}

#[test]
fn a_beginning_has_no_parent_and_what_is_not_traced_no_span() {
    let root = traced(|http| http.span = Some(trace::Span::begin(None, 1.0, || 1)));
    let span = span::span(&root).unwrap();
    assert_eq!((span.parent_span_id.len(), span.flags), (0, 0x101));
    assert!(span::span(&http()).is_none());
    assert!(span::span(&tcp()).is_none());
}

#[tokio::test]
async fn spans_arrive_with_who_sent_them() {
    let (collector, sink) = Collector::start(Semaphore::MAX_PERMITS, []).await;
    (0..3).for_each(|_| sink.send(&traced(|_| {})));
    sink.flush(LONG).await;
    assert_eq!(collector.spans().len(), 3);
    let calls = collector.calls.lock().unwrap();
    assert_eq!(calls.len(), 1);
    let resource = calls[0].resource_spans[0].resource.clone().unwrap();
    for (key, value) in [
        ("service.name", "routing"),
        ("service.namespace", "contact"),
        ("service.version", "v2"),
        ("service.instance.id", "routing-1.contact"),
    ] {
        assert_eq!(said_of(&resource.attributes, key), value);
    }
    assert_eq!(counted(&sink).0, 0);
}

#[tokio::test]
async fn spans_go_without_being_asked_for() {
    let (collector, sink) = Collector::start(Semaphore::MAX_PERMITS, []).await;
    // As many as fill a batch, and one that must wait its time alone.
    (0..=BATCH).for_each(|_| sink.send(&traced(|_| {})));
    collector.came.acquire_many(2).await.unwrap().forget();
    sink.flush(LONG).await;
    let sizes: Vec<usize> = collector.calls.lock().unwrap().iter().map(|call| call.resource_spans[0].scope_spans[0].spans.len()).collect();
    assert_eq!(sizes, [BATCH, 1]);
}

#[tokio::test]
async fn the_last_spans_go_when_nobody_sends_any_more() {
    let (collector, sink) = Collector::start(Semaphore::MAX_PERMITS, []).await;
    sink.send(&traced(|_| {}));
    drop(sink);
    collector.came.acquire().await.unwrap().forget();
}

#[tokio::test]
async fn a_collector_that_hangs_costs_what_it_does_not_take_and_no_more() {
    let (collector, sink) = Collector::start(0, []).await;
    let record = traced(|_| {});
    // Nothing runs while this does, so exactly the queue is taken.
    (0..5000).for_each(|_| sink.send(&record));
    assert_eq!(counted(&sink).0, 5000 - QUEUE as u64);
    // One batch is on its way: as much has room again.
    collector.came.acquire().await.unwrap().forget();
    (0..5000).for_each(|_| sink.send(&record));
    let dropped = 10_000 - QUEUE as u64 - BATCH as u64;
    assert_eq!(counted(&sink).0, dropped);
    // Nobody waits for it longer than they said.
    sink.flush(Duration::ZERO).await;
    collector.may.add_permits(Semaphore::MAX_PERMITS / 2);
    sink.flush(LONG).await;
    assert_eq!(collector.spans().len(), QUEUE + BATCH);
    assert_eq!(counted(&sink).0, dropped);
}

#[tokio::test]
async fn a_batch_is_sent_again_where_that_may_help() {
    let busy = Status::with_details(Code::ResourceExhausted, "busy", retry::asking(Duration::ZERO).into());
    let (collector, sink) = Collector::start(Semaphore::MAX_PERMITS, [Err(busy.clone()), Err(busy)]).await;
    sink.send(&traced(|_| {}));
    sink.flush(LONG).await;
    assert_eq!(collector.calls.lock().unwrap().len(), 3);
    assert_eq!(counted(&sink).0, 0);
}

#[tokio::test]
async fn a_batch_is_given_up_at_last() {
    let busy = Status::with_details(Code::Unavailable, "busy", retry::asking(Duration::ZERO).into());
    let (collector, sink) = Collector::start(Semaphore::MAX_PERMITS, vec![Err(busy); TRIES as usize]).await;
    sink.send(&traced(|_| {}));
    sink.flush(LONG).await;
    assert_eq!((collector.calls.lock().unwrap().len(), counted(&sink).0), (TRIES as usize, 1));
    // The next one goes as if nothing had been.
    sink.send(&traced(|_| {}));
    sink.flush(LONG).await;
    assert_eq!((collector.calls.lock().unwrap().len(), counted(&sink).0), (TRIES as usize + 1, 1));
}

#[tokio::test]
async fn what_a_collector_refuses_is_not_sent_again() {
    let partial = ExportTracePartialSuccess { rejected_spans: 2, error_message: "too old".to_owned() };
    let some = ExportTraceServiceResponse { partial_success: Some(partial) };
    let (collector, sink) = Collector::start(Semaphore::MAX_PERMITS, [Ok(some), Err(Status::invalid_argument("no"))]).await;
    (0..3).for_each(|_| sink.send(&traced(|_| {})));
    sink.flush(LONG).await;
    assert_eq!((collector.calls.lock().unwrap().len(), counted(&sink).0), (1, 2));
    sink.send(&traced(|_| {}));
    sink.flush(LONG).await;
    assert_eq!((collector.calls.lock().unwrap().len(), counted(&sink).0), (2, 3));
}

/// What is answered: a status, its `retry-after`, a body.
type Answer = (u16, &'static str, Vec<u8>);

/// A place that takes posts: it gives each answer once, then 202.
#[derive(Clone, Default)]
struct Place {
    answers: Arc<Mutex<VecDeque<Answer>>>,
    posts: Arc<Mutex<Vec<(String, Bytes)>>>,
    connections: Arc<Mutex<u64>>,
}

impl Place {
    /// Each answer is a status, its `retry-after`, and its body; status 0 is none, and the connection ends.
    async fn start(answers: impl IntoIterator<Item = (u16, &'static str, Vec<u8>)>) -> (Self, String) {
        let place = Self { answers: Arc::new(Mutex::new(answers.into_iter().collect())), ..Self::default() };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = place.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                *serving.connections.lock().unwrap() += 1;
                let serving = serving.clone();
                let service = service_fn(move |request| serving.clone().answer(request));
                tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        (place, format!("http://{address}"))
    }

    async fn answer(self, request: HttpRequest<Incoming>) -> std::io::Result<HttpResponse<Full<Bytes>>> {
        let head = format!("{} {} {}", request.method(), request.uri(), request.headers()["content-type"].to_str().unwrap());
        let body = request.into_body().collect().await.map_err(std::io::Error::other)?.to_bytes();
        self.posts.lock().unwrap().push((head, body));
        let (status, after, body) = self.answers.lock().unwrap().pop_front().unwrap_or((202, "", Vec::new()));
        if status == 0 {
            return Err(std::io::ErrorKind::ConnectionAborted.into());
        }
        let mut response = HttpResponse::builder().status(status);
        if !after.is_empty() {
            response = response.header("retry-after", after);
        }
        response.body(Full::new(body.into())).map_err(std::io::Error::other)
    }

    fn heads(&self) -> Vec<String> {
        self.posts.lock().unwrap().iter().map(|(head, _)| head.clone()).collect()
    }
}

const BY_HTTP: &str = "POST /otlp/v1/traces application/x-protobuf";

#[tokio::test]
async fn spans_go_by_http_on_one_connection() {
    let (place, url) = Place::start([]).await;
    let sink = sink(&Destination::otlp(&format!("{url}/otlp"), None, &no_tls).unwrap());
    for _ in 0..2 {
        sink.send(&traced(|_| {}));
        sink.flush(LONG).await;
    }
    assert_eq!((place.heads(), *place.connections.lock().unwrap()), (vec![BY_HTTP.to_owned(); 2], 1));
    let request = ExportTraceServiceRequest::decode(place.posts.lock().unwrap()[0].1.clone()).unwrap();
    let sent = &request.resource_spans[0];
    assert_eq!(sent.scope_spans[0].spans, [span::span(&traced(|_| {})).unwrap()]);
    assert_eq!(said_of(&sent.resource.clone().unwrap().attributes, "service.name"), "routing");
    assert_eq!(counted(&sink), (0, 2));
}

#[tokio::test]
async fn by_http_a_batch_is_sent_again_where_that_may_help() {
    let answers = [(503, "0", Vec::new()), (429, "0", Vec::new()), (0, "", Vec::new())];
    let (place, url) = Place::start(answers).await;
    let sink = sink(&Destination::otlp(&format!("{url}/otlp/v1/traces"), None, &no_tls).unwrap());
    sink.send(&traced(|_| {}));
    sink.flush(LONG).await;
    assert_eq!(place.heads(), [BY_HTTP; 4]);
    assert_eq!(counted(&sink), (0, 1));
}

#[tokio::test]
async fn by_http_too_what_is_refused_is_not_sent_again() {
    let partial = ExportTracePartialSuccess { rejected_spans: 2, error_message: "too old".to_owned() };
    let some = ExportTraceServiceResponse { partial_success: Some(partial) }.encode_to_vec();
    let (place, url) = Place::start([(200, "", some), (400, "0", Vec::new()), (200, "", b"<html>".to_vec())]).await;
    let sink = sink(&Destination::otlp(&format!("{url}/otlp"), None, &no_tls).unwrap());
    for (spans, expected) in [(3, (2, 1)), (1, (3, 1)), (1, (3, 2))] {
        (0..spans).for_each(|_| sink.send(&traced(|_| {})));
        sink.flush(LONG).await;
        assert_eq!(counted(&sink), expected);
    }
    assert_eq!(place.heads().len(), 3);
}

#[tokio::test]
async fn a_zipkin_gets_its_json_and_nothing_twice() {
    let (place, url) = Place::start([(503, "0", Vec::new()), (202, "", Vec::new()), (0, "", Vec::new()), (500, "0", Vec::new())]).await;
    let sink = sink(&Destination::zipkin(&url, &no_tls).unwrap());
    for expected in [(0, 1), (1, 1), (2, 1), (2, 2)] {
        sink.send(&traced(|_| {}));
        sink.flush(LONG).await;
        assert_eq!(counted(&sink), expected);
    }
    assert_eq!(place.heads(), ["POST /api/v2/spans application/json"; 5]);
    let spans: serde_json::Value = serde_json::from_slice(&place.posts.lock().unwrap()[0].1).unwrap();
    assert_eq!(spans[0]["localEndpoint"]["serviceName"], "routing");
}

#[tokio::test]
async fn a_destination_that_hangs_takes_nothing_from_others() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent = Destination::otlp(&format!("http://{}", listener.local_addr().unwrap()), None, &no_tls).unwrap();
    let (place, url) = Place::start([]).await;
    let destinations = [silent, Destination::zipkin(&url, &no_tls).unwrap()];
    let (sink, sending) = SpanSink::start(&destinations, &sender());
    sending.into_iter().for_each(|sending| drop(tokio::spawn(sending)));
    sink.send(&traced(|_| {}));
    let queues: Vec<_> = sink.queues().collect();
    timeout(LONG, queues[1].flush()).await.unwrap();
    assert_eq!((queues[0].sent(), queues[1].sent(), place.heads().len()), (0, 1, 1));
    assert_eq!(queues[1].name(), url);
}
