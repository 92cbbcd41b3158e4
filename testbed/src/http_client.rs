//! A small HTTP client. In flow requests, as a test builds them; out flow whole answers. No pool, no redirect, no retry: what a test asks is
//! what goes out.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context as _;
use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::PATIENCE;

/// A whole answer.
#[derive(Debug, Clone)]
pub struct Reply {
    /// Its status.
    pub status: StatusCode,
    /// Its fields.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
    /// What came after the body.
    pub trailers: HeaderMap,
}

impl Reply {
    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    ///
    /// # Errors
    /// It is none, or of another form; the error shows it.
    pub fn json<T: serde::de::DeserializeOwned>(&self) -> anyhow::Result<T> {
        serde_json::from_slice(&self.body).with_context(|| format!("the body is not what was expected: {}", self.text()))
    }

    /// A field as text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

/// A kept-alive HTTP/1.1 connection.
#[derive(Debug)]
pub struct HttpConnection {
    sender: http1::SendRequest<Full<Bytes>>,
}

impl HttpConnection {
    /// Connects.
    ///
    /// # Errors
    /// Nobody answers there.
    pub async fn open(address: SocketAddr) -> anyhow::Result<Self> {
        let stream = connect(address).await?;
        let (sender, connection) = http1::Builder::new().preserve_header_case(true).handshake(TokioIo::new(stream)).await?;
        tokio::spawn(async move {
            // Its error also ends the request that met it.
            drop(connection.await);
        });
        Ok(Self { sender })
    }

    /// Sends a request and gives the whole answer.
    ///
    /// # Errors
    /// The connection was closed or reset, or no answer came in time.
    pub async fn send(&mut self, request: Request<Full<Bytes>>) -> anyhow::Result<Reply> {
        let sender = &mut self.sender;
        whole(async move {
            sender.ready().await?;
            sender.send_request(request).await
        })
        .await
    }
}

/// Gets a path over HTTP/1.1, on a connection of its own.
///
/// # Errors
/// As [`http_send`].
pub async fn http_get(address: SocketAddr, host: &str, path: &str) -> anyhow::Result<Reply> {
    http_send(address, Request::get(path).header("host", host).body(Full::default())?).await
}

/// Sends a request over HTTP/1.1, on a connection of its own. The request names its `host`.
///
/// # Errors
/// Nobody answers there, the connection was closed or reset, or no answer came in time.
pub async fn http_send(address: SocketAddr, request: Request<Full<Bytes>>) -> anyhow::Result<Reply> {
    HttpConnection::open(address).await?.send(request).await
}

/// Sends a request over HTTP/2 without TLS, on a connection of its own. The request has an absolute URI.
///
/// # Errors
/// As [`http_send`].
pub async fn http2_send(address: SocketAddr, request: Request<Full<Bytes>>) -> anyhow::Result<Reply> {
    let stream = connect(address).await?;
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
    tokio::spawn(async move {
        drop(connection.await);
    });
    whole(async move { sender.send_request(request).await }).await
}

/// Sends a request over HTTP/1.1 inside TLS that is opened for `server_name`, trusting one certificate. The request names its `host`.
///
/// # Errors
/// As [`http_send`]; the handshake failed.
pub async fn https_send(
    address: SocketAddr,
    trusted: &CertificateDer<'static>,
    server_name: &str,
    request: Request<Full<Bytes>>,
) -> anyhow::Result<Reply> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.clone())?;
    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let name = ServerName::try_from(server_name.to_owned())?;
    let stream = timeout(PATIENCE, TlsConnector::from(Arc::new(config)).connect(name, connect(address).await?)).await??;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(async move {
        drop(connection.await);
    });
    whole(async move { sender.send_request(request).await }).await
}

async fn connect(address: SocketAddr) -> anyhow::Result<TcpStream> {
    let stream = timeout(PATIENCE, TcpStream::connect(address)).await.with_context(|| format!("{address} does not answer"))?;
    stream.with_context(|| format!("{address}"))
}

async fn whole(exchange: impl Future<Output = hyper::Result<http::Response<hyper::body::Incoming>>>) -> anyhow::Result<Reply> {
    let whole = async {
        let (head, body) = exchange.await?.into_parts();
        let body = body.collect().await?;
        let trailers = body.trailers().cloned().unwrap_or_default();
        anyhow::Ok(Reply { status: head.status, headers: head.headers, body: body.to_bytes(), trailers })
    };
    timeout(PATIENCE, whole).await.with_context(|| format!("no whole answer came within {PATIENCE:?}"))?
}
