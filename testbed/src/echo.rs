//! Servers that tell back what reached them. In flow HTTP/1.1 and HTTP/2 without TLS, or bytes; out flows what was received, as JSON, or the
//! same bytes. Used inside a test, and by `testbed-app` under `lorica run`.
//!
//! Paths that do otherwise: `/status/503` answers so, `/delay/200` waits so many milliseconds first, `/bytes/1000000` answers with a body so
//! long, `/cut` closes the connection without an answer.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

/// The longest body that `/bytes/N` makes.
const LONGEST: usize = 64 << 20;

/// What reached the server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Echo {
    /// Which server answers.
    pub server: String,
    /// Who called, as the server sees it.
    pub caller: SocketAddr,
    /// `HTTP/1.1`, `HTTP/2.0`.
    pub version: String,
    /// `GET`.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// The `host` field, or the authority of HTTP/2.
    pub host: String,
    /// All fields in their order.
    pub headers: Vec<(String, String)>,
    /// The body as text.
    pub body: String,
}

impl Echo {
    /// The first field of that name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

/// An HTTP server inside the test. It ends when dropped.
#[derive(Debug)]
pub struct EchoServer {
    address: SocketAddr,
    answered: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl EchoServer {
    /// Starts one on any free port of the loopback.
    ///
    /// # Errors
    /// There is no free port.
    pub async fn start(name: &str) -> io::Result<Self> {
        Self::start_on(name, Ipv4Addr::LOCALHOST.into()).await
    }

    /// The same at another address.
    ///
    /// # Errors
    /// There is no free port, or the address is none of this machine.
    pub async fn start_on(name: &str, address: IpAddr) -> io::Result<Self> {
        let listener = TcpListener::bind((address, 0)).await?;
        let address = listener.local_addr()?;
        let answered = Arc::<AtomicU64>::default();
        let task = tokio::spawn(serve_http(listener, name.to_owned(), Arc::clone(&answered)));
        Ok(Self { address, answered, task })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many requests reached it.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }
}

impl Drop for EchoServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A TCP server inside the test, which sends back what it receives. It ends when dropped.
#[derive(Debug)]
pub struct TcpEcho {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl TcpEcho {
    /// Starts one on any free port of the loopback. It speaks first if there is a greeting.
    ///
    /// # Errors
    /// There is no free port.
    pub async fn start(greeting: &str) -> io::Result<Self> {
        Self::start_on(greeting, Ipv4Addr::LOCALHOST.into()).await
    }

    /// The same at another address.
    ///
    /// # Errors
    /// There is no free port, or the address is none of this machine.
    pub async fn start_on(greeting: &str, address: IpAddr) -> io::Result<Self> {
        let listener = TcpListener::bind((address, 0)).await?;
        let address = listener.local_addr()?;
        Ok(Self { address, task: tokio::spawn(serve_tcp(listener, greeting.to_owned())) })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for TcpEcho {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Serves HTTP until the task is dropped.
pub(crate) async fn serve_http(listener: TcpListener, name: String, answered: Arc<AtomicU64>) {
    let name: Arc<str> = name.into();
    each_connection(listener, move |stream, caller| exchange(stream, caller, Arc::clone(&name), Arc::clone(&answered))).await;
}

/// Serves HTTP inside TLS until the task is dropped.
async fn serve_https(listener: TcpListener, name: String, tls: TlsAcceptor) {
    let name: Arc<str> = name.into();
    each_connection(listener, move |stream, caller| {
        let (name, tls) = (Arc::clone(&name), tls.clone());
        async move {
            // Whoever fails the handshake sees so itself.
            if let Ok(stream) = tls.accept(stream).await {
                exchange(stream, caller, name, Arc::default()).await;
            }
        }
    })
    .await;
}

async fn exchange<S>(stream: S, caller: SocketAddr, name: Arc<str>, answered: Arc<AtomicU64>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request| {
        answered.fetch_add(1, Ordering::Relaxed);
        answer(Arc::clone(&name), caller, request)
    });
    // How a client ends its connection is its own affair.
    drop(auto::Builder::new(TokioExecutor::new()).serve_connection_with_upgrades(TokioIo::new(stream), service).await);
}

/// Sends back bytes until the task is dropped.
pub(crate) async fn serve_tcp(listener: TcpListener, greeting: String) {
    each_connection(listener, move |mut stream, _| {
        let greeting = greeting.clone();
        async move {
            // The other side may leave at any time.
            drop(copy_back(&mut stream, greeting.as_bytes()).await);
        }
    })
    .await;
}

async fn copy_back(stream: &mut TcpStream, greeting: &[u8]) -> io::Result<()> {
    stream.write_all(greeting).await?;
    let mut buffer = vec![0; 64 << 10];
    loop {
        let read = stream.read(&mut buffer).await?;
        if read == 0 {
            return stream.shutdown().await;
        }
        stream.write_all(&buffer[..read]).await?;
    }
}

async fn each_connection<F>(listener: TcpListener, serve: impl Fn(TcpStream, SocketAddr) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    // Connections end with the server.
    let mut connections = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, caller)) => {
                    connections.spawn(serve(stream, caller));
                }
                // Out of descriptors, or the caller is gone already: let others have their turn.
                Err(_) => tokio::task::yield_now().await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

/// The error closes the connection.
async fn answer(name: Arc<str>, caller: SocketAddr, request: Request<Incoming>) -> io::Result<Response<Full<Bytes>>> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
    let header =
        |(name, value): (&http::HeaderName, &http::HeaderValue)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned());
    let headers: Vec<(String, String)> = head.headers.iter().map(header).collect();
    let host = head
        .uri
        .authority()
        .map(ToString::to_string)
        .or_else(|| head.headers.get("host").map(|host| String::from_utf8_lossy(host.as_bytes()).into_owned()));
    let echo = Echo {
        server: name.to_string(),
        caller,
        version: format!("{:?}", head.version),
        method: head.method.to_string(),
        path: head.uri.path_and_query().map_or_else(|| "/".to_owned(), ToString::to_string),
        host: host.unwrap_or_default(),
        headers,
        body: String::from_utf8_lossy(&body).into_owned(),
    };
    let mut response = Response::builder().header("content-type", "application/json");
    let (verb, value) = head.uri.path().trim_start_matches('/').split_once('/').unwrap_or((head.uri.path(), ""));
    match (verb, value.parse::<usize>()) {
        ("status", Ok(status)) => {
            let status = u16::try_from(status).ok().and_then(|status| StatusCode::from_u16(status).ok());
            response = response.status(status.unwrap_or(StatusCode::BAD_REQUEST));
        }
        ("delay", Ok(milliseconds)) => tokio::time::sleep(Duration::from_millis(milliseconds.try_into().unwrap_or(u64::MAX))).await,
        ("bytes", Ok(bytes)) => return response.body(Bytes::from(vec![b'x'; bytes.min(LONGEST)]).into()).map_err(io::Error::other),
        ("/cut", _) => return Err(io::ErrorKind::ConnectionAborted.into()),
        _ => {}
    }
    let json = serde_json::to_vec(&echo).map_err(io::Error::other)?;
    response.body(Bytes::from(json).into()).map_err(io::Error::other)
}

/// The servers, for a program of their own: they run until it ends.
pub mod program {
    use tokio_rustls::rustls::ServerConfig;

    use super::{Arc, AtomicU64, Infallible, TcpListener, io, serve_http, serve_https, serve_tcp};

    /// Serves HTTP for good.
    ///
    /// # Errors
    /// The address cannot be listened on.
    pub async fn http(address: &str, name: String, listening: impl FnOnce(std::net::SocketAddr)) -> io::Result<Infallible> {
        let listener = TcpListener::bind(address).await?;
        listening(listener.local_addr()?);
        serve_http(listener, name, Arc::<AtomicU64>::default()).await;
        Err(io::Error::other("the server ended"))
    }

    /// Serves HTTP inside TLS for good, with a certificate that nobody trusts.
    ///
    /// # Errors
    /// The address cannot be listened on.
    pub async fn https(address: &str, name: String, listening: impl FnOnce(std::net::SocketAddr)) -> io::Result<Infallible> {
        let made = rcgen::generate_simple_self_signed([name.clone()]).map_err(io::Error::other)?;
        let key = made.signing_key.serialize_der().try_into().map_err(io::Error::other)?;
        let config = ServerConfig::builder().with_no_client_auth().with_single_cert(vec![made.cert.der().clone()], key);
        let listener = TcpListener::bind(address).await?;
        listening(listener.local_addr()?);
        serve_https(listener, name, Arc::new(config.map_err(io::Error::other)?).into()).await;
        Err(io::Error::other("the server ended"))
    }

    /// Sends back bytes for good.
    ///
    /// # Errors
    /// The address cannot be listened on.
    pub async fn tcp(address: &str, greeting: String, listening: impl FnOnce(std::net::SocketAddr)) -> io::Result<Infallible> {
        let listener = TcpListener::bind(address).await?;
        listening(listener.local_addr()?);
        serve_tcp(listener, greeting).await;
        Err(io::Error::other("the server ended"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Connection, HttpConnection, http_get, http2_send, send_raw};

    #[tokio::test]
    async fn what_reached_the_server_is_told() {
        let server = EchoServer::start("a").await.unwrap();
        let echo: Echo = http_get(server.address(), "web.shop", "/x?y=1").await.unwrap().json().unwrap();
        assert_eq!(
            (echo.server.as_str(), echo.method.as_str(), echo.path.as_str(), echo.host.as_str()),
            ("a", "GET", "/x?y=1", "web.shop")
        );
        assert_eq!((echo.version.as_str(), echo.header("Host")), ("HTTP/1.1", Some("web.shop")));
        let request = Request::post("http://web.shop/z").body(Full::from("hello")).unwrap();
        let echo: Echo = http2_send(server.address(), request).await.unwrap().json().unwrap();
        assert_eq!((echo.version.as_str(), echo.host.as_str(), echo.body.as_str()), ("HTTP/2.0", "web.shop", "hello"));
        assert_eq!(server.requests(), 2);
    }

    #[tokio::test]
    async fn a_path_can_ask_for_another_answer() {
        let server = EchoServer::start("a").await.unwrap();
        let mut connection = HttpConnection::open(server.address()).await.unwrap();
        let mut get = async |path: &str| connection.send(Request::get(path).header("host", "a").body(Full::default()).unwrap()).await;
        assert_eq!(get("/status/503").await.unwrap().status, 503);
        assert_eq!(get("/bytes/100000").await.unwrap().body.len(), 100_000);
        assert_eq!(get("/delay/1").await.unwrap().status, 200);
        get("/cut").await.unwrap_err();
    }

    #[tokio::test]
    async fn bytes_come_back() {
        let server = TcpEcho::start("").await.unwrap();
        assert_eq!(send_raw(server.address(), b"hello").await.unwrap(), b"hello");
        let server = TcpEcho::start("220 ready\n").await.unwrap();
        let mut connection = Connection::open(server.address()).await.unwrap();
        assert_eq!(connection.read_until(b"\n").await.unwrap(), b"220 ready\n");
        connection.write(b"one two").await.unwrap();
        assert_eq!(connection.read_until(b"one").await.unwrap(), b"one");
        connection.close_write().await.unwrap();
        assert_eq!(connection.read_to_end().await.unwrap(), b" two");
        let error = connection.read_until(b"more").await.unwrap_err().to_string();
        assert!(error.contains("closed before \"more\""), "{error}");
    }
}
