//! What the suite's echo server does: it tells what reached it. In flow HTTP/1.1 and HTTP/2 with or without TLS, gRPC, WebSockets, bytes and
//! datagrams; out flows who answers and what came, as JSON (for gRPC as a message of our own).

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, UdpSocket};
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;
use tonic::body::Body;
use tonic_prost::ProstCodec;

/// Who answers, and what all servers of a test have in common.
#[derive(Clone)]
pub(crate) struct Pod {
    /// The name of its Deployment; its own is that with a number.
    pub(crate) name: String,
    pub(crate) namespace: String,
    pub(crate) log: Log,
}

/// What was answered so far: server, path and, by the `x-test` field, which request.
#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Answered>>);

#[derive(Default)]
struct Answered {
    paths: BTreeMap<(String, String), u64>,
    attempts: BTreeMap<String, u32>,
}

impl Log {
    fn note(&self, server: &str, path: &str) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).paths.entry((server.to_owned(), path.to_owned())).or_default() += 1;
    }

    /// How often the servers of a name have answered a path.
    pub(crate) fn answers(&self, server: &str, path: &str) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).paths.get(&(server.to_owned(), path.to_owned())).copied().unwrap_or_default()
    }

    /// Counts another attempt of a request.
    fn attempt(&self, request: &str) -> u32 {
        let mut answered = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = answered.attempts.entry(request.to_owned()).or_default();
        *count += 1;
        *count
    }
}

/// What gRPC is asked with: nothing.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct Asked {}

/// What gRPC is answered with.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct Told {
    /// `/package.Service/Method`.
    #[prost(string, tag = "1")]
    pub(crate) method: String,
    #[prost(string, tag = "2")]
    pub(crate) authority: String,
    #[prost(message, repeated, tag = "3")]
    pub(crate) headers: Vec<Header>,
    #[prost(string, tag = "4")]
    pub(crate) pod: String,
    #[prost(string, tag = "5")]
    pub(crate) namespace: String,
}

/// A field of a call's head.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct Header {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(string, tag = "2")]
    pub(crate) value: String,
}

/// Serves HTTP, gRPC and WebSockets.
pub(crate) async fn serve_http(listener: TcpListener, tls: Option<TlsAcceptor>, pod: Pod) {
    while let Ok((stream, _)) = listener.accept().await {
        drop(stream.set_nodelay(true));
        let (pod, tls) = (pod.clone(), tls.clone());
        // A client that goes away, or is turned away, is no concern of the server's.
        tokio::spawn(async move {
            let Some(tls) = tls else { return drop(serve_connection(stream, pod, Value::Null).await) };
            let Ok(stream) = tls.accept(stream).await else { return };
            let (_, session) = stream.get_ref();
            let certificates: Vec<Vec<u8>> =
                session.peer_certificates().unwrap_or_default().iter().map(|certificate| certificate.to_vec()).collect();
            let told = json!({ "serverName": session.server_name(), "peerCertificates": certificates });
            drop(serve_connection(stream, pod, told).await);
        });
    }
}

type ServeError = Box<dyn std::error::Error + Send + Sync>;

async fn serve_connection(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, pod: Pod, tls: Value) -> Result<(), ServeError> {
    let service = service_fn(move |request| answer(request, pod.clone(), tls.clone()));
    auto::Builder::new(TokioExecutor::new()).serve_connection_with_upgrades(TokioIo::new(stream), service).await
}

async fn answer(request: Request<Incoming>, pod: Pod, tls: Value) -> io::Result<Response<Body>> {
    let of = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    if of("content-type").starts_with("application/grpc") {
        return Ok(grpc(request, &pod).await);
    }
    if of("upgrade").eq_ignore_ascii_case("websocket") {
        let key = of("sec-websocket-key");
        return Ok(web_socket(request, &key, &pod));
    }
    http(request, pod, tls).await
}

/// A duration as Go writes it, as far as the cases do: `1s`, `300ms`.
fn duration(text: &str) -> Option<Duration> {
    match text.strip_suffix("ms") {
        Some(millis) => millis.parse().map(Duration::from_millis).ok(),
        None => text.strip_suffix('s')?.parse().map(Duration::from_secs_f64).ok(),
    }
}

/// Tells what came. A query may ask for more: `delay=1s` waits first; `responseCode=500&succeedAfter=2&request=ID` answers a request so until it
/// was tried twice (without a code the connection is closed), with `delayRetry=300ms` after that time.
async fn http(request: Request<Incoming>, pod: Pod, tls: Value) -> io::Result<Response<Body>> {
    let (head, body) = request.into_parts();
    drop(body.collect().await);
    let path = head.uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
    let query: BTreeMap<&str, &str> = head.uri.query().unwrap_or_default().split('&').filter_map(|pair| pair.split_once('=')).collect();
    if let Some(delay) = query.get("delay").and_then(|delay| duration(delay)) {
        tokio::time::sleep(delay).await;
    }
    if let (Some(id), Some(after)) = (query.get("request"), query.get("succeedAfter").and_then(|after| after.parse::<u32>().ok()))
        && pod.log.attempt(id) <= after
    {
        if let Some(delay) = query.get("delayRetry").and_then(|delay| duration(delay)) {
            tokio::time::sleep(delay).await;
        }
        let status = query.get("responseCode").and_then(|code| code.parse::<StatusCode>().ok());
        let mut response = Response::new(Body::empty());
        *response.status_mut() = status.ok_or_else(|| io::Error::from(io::ErrorKind::ConnectionReset))?;
        return Ok(response);
    }
    pod.log.note(&pod.name, &path);
    let mut headers: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (field, value) in &head.headers {
        headers.entry(field.as_str().to_owned()).or_default().push(value.to_str().unwrap_or_default().to_owned());
    }
    let told = json!({
        "path": path,
        "host": authority(&head.uri, &head.headers),
        "method": head.method.as_str(),
        "proto": format!("{:?}", head.version),
        "headers": headers,
        "namespace": pod.namespace,
        "pod": format!("{}-0", pod.name),
        "tls": tls,
    });
    let mut response = Response::new(Body::new(Full::new(Bytes::from(told.to_string())).map_err(|never: Infallible| match never {})));
    let asked = headers.get("x-echo-set-header").into_iter().flatten().flat_map(|value| value.split(','));
    for (field, value) in asked.filter_map(|pair| pair.split_once(':')) {
        if let (Ok(field), Ok(value)) = (field.trim().parse::<http::HeaderName>(), value.trim().parse()) {
            response.headers_mut().append(field, value);
        }
    }
    Ok(response)
}

fn authority(uri: &http::Uri, headers: &HeaderMap) -> String {
    let host = || headers.get("host").and_then(|host| host.to_str().ok()).map(str::to_owned);
    uri.authority().map(|authority| authority.to_string()).or_else(host).unwrap_or_default()
}

/// One call of gRPC, whatever its method.
struct Call(Told);

impl tonic::server::UnaryService<Asked> for Call {
    type Response = Told;
    type Future = Ready<Result<tonic::Response<Told>, tonic::Status>>;

    fn call(&mut self, _: tonic::Request<Asked>) -> Self::Future {
        ready(Ok(tonic::Response::new(std::mem::take(&mut self.0))))
    }
}

async fn grpc(request: Request<Incoming>, pod: &Pod) -> Response<Body> {
    let method = request.uri().path().to_owned();
    pod.log.note(&pod.name, &method);
    let field = |(name, value): (&http::HeaderName, &http::HeaderValue)| Header {
        name: name.as_str().to_owned(),
        value: value.to_str().unwrap_or_default().to_owned(),
    };
    let told = Told {
        authority: authority(request.uri(), request.headers()),
        headers: request.headers().iter().map(field).collect(),
        method,
        pod: format!("{}-0", pod.name),
        namespace: pod.namespace.clone(),
    };
    tonic::server::Grpc::new(ProstCodec::<Told, Asked>::default()).unary(Call(told), request).await
}

/// Sends back every message.
fn web_socket(request: Request<Incoming>, key: &str, pod: &Pod) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let accept = derive_accept_key(key.as_bytes());
    for (name, value) in [("connection", "Upgrade"), ("upgrade", "websocket"), ("sec-websocket-accept", &accept), ("x-pod", &pod.name)] {
        if let (Ok(name), Ok(value)) = (name.parse::<http::HeaderName>(), value.parse()) {
            response.headers_mut().insert(name, value);
        }
    }
    tokio::spawn(async move {
        let Ok(upgraded) = hyper::upgrade::on(request).await else { return };
        let mut socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, None).await;
        while let Some(Ok(message)) = socket.next().await {
            if socket.send(message).await.is_err() {
                return;
            }
        }
    });
    response
}

/// Tells who answers, once something came.
pub(crate) async fn serve_tcp(listener: TcpListener, tls: Option<TlsAcceptor>, pod: Pod) {
    while let Ok((stream, _)) = listener.accept().await {
        drop(stream.set_nodelay(true));
        let (pod, tls) = (pod.clone(), tls.clone());
        tokio::spawn(async move {
            let Some(tls) = tls else { return drop(tell(stream, &pod, Value::Null).await) };
            let Ok(stream) = tls.accept(stream).await else { return };
            let name = stream.get_ref().1.server_name().map(str::to_owned);
            drop(tell(stream, &pod, json!(name)).await);
        });
    }
}

async fn tell(mut stream: impl AsyncRead + AsyncWrite + Unpin, pod: &Pod, server_name: Value) -> io::Result<()> {
    let mut buffer = vec![0; 1024];
    while stream.read(&mut buffer).await? > 0 {
        let told = json!({ "pod": format!("{}-0", pod.name), "namespace": pod.namespace, "serverName": server_name });
        stream.write_all(format!("{told}\n").as_bytes()).await?;
    }
    Ok(())
}

/// Tells who answers, datagram by datagram.
pub(crate) async fn serve_udp(socket: UdpSocket, pod: Pod) {
    let mut buffer = vec![0; 2048];
    while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
        let request = String::from_utf8_lossy(&buffer[..length]).into_owned();
        let told = json!({ "request": request, "namespace": pod.namespace, "service": pod.name, "pod": format!("{}-0", pod.name) });
        // Who does not read it is no concern of the server's.
        drop(socket.send_to(told.to_string().as_bytes(), from).await);
    }
}
