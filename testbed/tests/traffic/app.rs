//! An app that does as a test says: it answers with a status, or holds its answers back until it is told to give them.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// What the app is told, and what it saw.
#[derive(Debug)]
struct Told {
    name: String,
    status: AtomicU16,
    health: AtomicU16,
    holds: watch::Sender<bool>,
    requests: AtomicU64,
    checks: AtomicU64,
    opened: AtomicU64,
    streams: u32,
}

/// An HTTP server inside the test. It ends when dropped.
#[derive(Debug)]
pub(crate) struct App {
    address: SocketAddr,
    told: Arc<Told>,
    task: JoinHandle<()>,
}

/// The path of health checks.
pub(crate) const HEALTH: &str = "/healthz";
/// The path of gRPC's.
const GRPC_HEALTH: &str = "/grpc.health.v1.Health/Check";

impl App {
    /// Starts one on any free port of the loopback. It answers 200, and is well.
    pub(crate) async fn start(name: &str) -> std::io::Result<Self> {
        Self::with_streams(name, 100).await
    }

    /// The same, which takes so many streams on one connection of HTTP/2.
    pub(crate) async fn with_streams(name: &str, streams: u32) -> std::io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let told = Arc::new(Told {
            name: name.to_owned(),
            status: AtomicU16::new(200),
            health: AtomicU16::new(200),
            holds: watch::Sender::new(false),
            requests: AtomicU64::new(0),
            checks: AtomicU64::new(0),
            opened: AtomicU64::new(0),
            streams,
        });
        let task = tokio::spawn(serve(listener, told.clone()));
        Ok(Self { address, told, task })
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on it answers with this status.
    pub(crate) fn answer(&self, status: u16) {
        self.told.status.store(status, Ordering::SeqCst);
    }

    /// From now on it answers health checks with this status; gRPC's with SERVING if it is 200.
    pub(crate) fn be_well(&self, status: u16) {
        self.told.health.store(status, Ordering::SeqCst);
    }

    /// From now on it holds its answers back, or does so no more.
    pub(crate) fn hold(&self, holds: bool) {
        self.told.holds.send_replace(holds);
    }

    /// How many requests reached it, health checks not counted.
    pub(crate) fn requests(&self) -> u64 {
        self.told.requests.load(Ordering::SeqCst)
    }

    /// How many health checks reached it.
    pub(crate) fn checks(&self) -> u64 {
        self.told.checks.load(Ordering::SeqCst)
    }

    /// How many connections were opened to it.
    pub(crate) fn connections(&self) -> u64 {
        self.told.opened.load(Ordering::SeqCst)
    }
}

impl Drop for App {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: TcpListener, told: Arc<Told>) {
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        connections.spawn(connection(stream, told.clone()));
    }
}

async fn connection(stream: TcpStream, told: Arc<Told>) {
    told.opened.fetch_add(1, Ordering::SeqCst);
    let service = service_fn(|request| answer(told.clone(), request));
    // How a client ends its connection is its own affair.
    let mut server = auto::Builder::new(TokioExecutor::new());
    server.http2().max_concurrent_streams(told.streams);
    drop(server.serve_connection(TokioIo::new(stream), service).await);
}

type Body = http_body_util::combinators::BoxBody<Bytes, Infallible>;

async fn answer(told: Arc<Told>, request: Request<Incoming>) -> http::Result<Response<Body>> {
    let path = request.uri().path().to_owned();
    // A body that breaks off is the caller's affair.
    drop(request.into_body().collect().await);
    let health = told.health.load(Ordering::SeqCst);
    if path == HEALTH {
        told.checks.fetch_add(1, Ordering::SeqCst);
        return Response::builder().status(health).body(Full::default().boxed());
    }
    if path == GRPC_HEALTH {
        told.checks.fetch_add(1, Ordering::SeqCst);
        let message = [0, 0, 0, 0, 2, 8, if health == 200 { 1 } else { 2 }];
        let trailers = http::HeaderMap::from_iter([(http::HeaderName::from_static("grpc-status"), http::HeaderValue::from_static("0"))]);
        let frames = [Ok(Frame::data(Bytes::copy_from_slice(&message))), Ok(Frame::trailers(trailers))];
        return Response::builder().header("content-type", "application/grpc").body(StreamBody::new(tokio_stream::iter(frames)).boxed());
    }
    told.requests.fetch_add(1, Ordering::SeqCst);
    // The test is over where nobody tells any more.
    drop(told.holds.subscribe().wait_for(|holds| !holds).await);
    Response::builder().status(told.status.load(Ordering::SeqCst)).body(Full::from(told.name.clone()).boxed())
}
