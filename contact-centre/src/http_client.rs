//! A small HTTP/1.1 client for one service: requests in, whole answers out, over connections that are kept for reuse.
//!
//! A kept connection may be closed by the other side just as a request is written to it. A GET is then sent once more
//! on a fresh connection. Anything else is not, since the first copy may have been acted upon; it takes a connection
//! used within the last second, or a fresh one. A request that never left is no copy and always goes on a fresh
//! connection. Redirects are not followed.

use std::convert::Infallible;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::stream;
use http::header::{CONTENT_TYPE, HOST};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full, Limited, StreamBody};
use hyper::body::Frame;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpStream, lookup_host};

use crate::address::BaseUrl;

/// Connections kept while nobody uses them.
const MOST_IDLE: usize = 32;
/// How long a connection is kept unused. Servers commonly close after 60 s or more.
const LONGEST_IDLE: Duration = Duration::from_secs(30);
/// How long ago a connection may have been used to carry a request that must not be sent twice.
const LONGEST_IDLE_UNREPEATABLE: Duration = Duration::from_secs(1);
/// The longest answer that is read, in bytes.
const LONGEST_ANSWER: usize = 1 << 20;

type Body = UnsyncBoxBody<Bytes, Infallible>;
type Sender = SendRequest<Body>;

/// A client for the service at one address.
#[derive(Debug)]
pub struct HttpClient {
    base: BaseUrl,
    /// The one used last is at the end.
    idle: Mutex<Vec<Idle>>,
}

#[derive(Debug)]
struct Idle {
    sender: Sender,
    since: Instant,
}

/// A request to send.
#[derive(Clone, Debug)]
pub struct Outgoing {
    /// Method; decides whether the request may be sent a second time.
    pub method: Method,
    /// Path and query, beginning with `/`.
    pub path: String,
    /// Headers besides those of connection and body.
    pub headers: HeaderMap,
    /// Body.
    pub content: Content,
}

/// The body of a request.
#[derive(Clone, Debug)]
pub enum Content {
    /// None.
    Empty,
    /// JSON, sent with `Content-Length`.
    Json(Vec<u8>),
    /// JSON, sent in chunks of the given length in bytes, without a length told ahead.
    JsonInChunks(Vec<u8>, usize),
}

/// An answer with its body read to the end.
#[derive(Debug)]
pub struct Answer {
    /// Status.
    pub status: StatusCode,
    /// Headers.
    pub headers: HeaderMap,
    /// Body, at most 1 MiB.
    pub body: Bytes,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The host's name has no address.
    #[error("{base}: cannot find the host: {source}")]
    Resolve {
        /// The service called.
        base: String,
        /// What the resolver said.
        source: io::Error,
    },
    /// None of the host's addresses took the connection.
    #[error("{base}: cannot connect: {source}")]
    Connect {
        /// The service called.
        base: String,
        /// What the last address said.
        source: io::Error,
    },
    /// The connection broke, or the answer was no HTTP.
    #[error("{base}: {source}")]
    Exchange {
        /// The service called.
        base: String,
        /// What went wrong.
        source: hyper::Error,
    },
    /// The body of the answer broke off or was too long.
    #[error("{base}: reading the answer: {reason}")]
    Answer {
        /// The service called.
        base: String,
        /// What went wrong.
        reason: String,
    },
    /// Path or headers cannot be sent.
    #[error("{base}: not a valid request: {source}")]
    Request {
        /// The service called.
        base: String,
        /// What is wrong.
        source: http::Error,
    },
    /// No whole answer in the time given.
    #[error("{base}: no answer within {limit:?}")]
    Timeout {
        /// The service called.
        base: String,
        /// The time given.
        limit: Duration,
    },
}

impl Outgoing {
    /// A GET without headers.
    pub fn get(path: impl Into<String>) -> Self {
        Self { method: Method::GET, path: path.into(), headers: HeaderMap::new(), content: Content::Empty }
    }

    /// A POST without headers.
    pub fn post(path: impl Into<String>, content: Content) -> Self {
        Self { method: Method::POST, path: path.into(), headers: HeaderMap::new(), content }
    }

    /// The same with these headers.
    #[must_use]
    pub fn with_headers(self, headers: HeaderMap) -> Self {
        Self { headers, ..self }
    }

    fn may_repeat(&self) -> bool {
        self.method == Method::GET
    }

    fn longest_idle(&self) -> Duration {
        if self.may_repeat() { LONGEST_IDLE } else { LONGEST_IDLE_UNREPEATABLE }
    }

    fn to_http(&self, base: &BaseUrl) -> Result<Request<Body>, http::Error> {
        let body = match &self.content {
            Content::Empty => Empty::new().boxed_unsync(),
            Content::Json(text) => Full::new(Bytes::from(text.clone())).boxed_unsync(),
            Content::JsonInChunks(text, length) => {
                let chunks: Vec<_> = text.chunks((*length).max(1)).map(|chunk| Ok(Frame::data(Bytes::copy_from_slice(chunk)))).collect();
                StreamBody::new(stream::iter(chunks)).boxed_unsync()
            }
        };
        let mut request = Request::builder().method(&self.method).uri(&self.path).body(body)?;
        *request.headers_mut() = self.headers.clone();
        request.headers_mut().insert(HOST, HeaderValue::from_str(&base.authority)?);
        if !matches!(self.content, Content::Empty) {
            request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        Ok(request)
    }
}

impl HttpClient {
    /// A client without connections; the first request opens one.
    pub fn new(base: BaseUrl) -> Self {
        Self { base, idle: Mutex::new(Vec::new()) }
    }

    /// Sends a request and reads the whole answer, all within `limit`.
    ///
    /// # Errors
    /// There is no whole answer; an answer of any status is no error.
    pub async fn send(&self, request: &Outgoing, limit: Duration) -> Result<Answer, HttpError> {
        match tokio::time::timeout(limit, self.exchange(request)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(HttpError::Timeout { base: self.base.to_string(), limit }),
        }
    }

    async fn exchange(&self, request: &Outgoing) -> Result<Answer, HttpError> {
        let mut message = self.message(request)?;
        if let Some(mut sender) = self.take(request.longest_idle()).await {
            match sender.try_send_request(message).await {
                Ok(response) => return self.finish(sender, response).await,
                Err(mut failed) => match failed.take_message() {
                    Some(unsent) => message = unsent,
                    None if request.may_repeat() => message = self.message(request)?,
                    None => return Err(self.broken(failed.into_error())),
                },
            }
        }
        let mut sender = self.connect().await?;
        let response = sender.send_request(message).await.map_err(|error| self.broken(error))?;
        self.finish(sender, response).await
    }

    fn message(&self, request: &Outgoing) -> Result<Request<Body>, HttpError> {
        request.to_http(&self.base).map_err(|source| HttpError::Request { base: self.base.to_string(), source })
    }

    fn broken(&self, source: hyper::Error) -> HttpError {
        HttpError::Exchange { base: self.base.to_string(), source }
    }

    async fn finish(&self, sender: Sender, response: http::Response<hyper::body::Incoming>) -> Result<Answer, HttpError> {
        let (head, body) = response.into_parts();
        let body = Limited::new(body, LONGEST_ANSWER)
            .collect()
            .await
            .map_err(|error| HttpError::Answer { base: self.base.to_string(), reason: error.to_string() })?
            .to_bytes();
        self.keep(sender);
        Ok(Answer { status: head.status, headers: head.headers, body })
    }

    /// A kept connection used no longer than `longest_idle` ago that is still open.
    async fn take(&self, longest_idle: Duration) -> Option<Sender> {
        loop {
            let mut sender = {
                let mut idle = self.idle();
                idle.retain(|kept| !kept.sender.is_closed() && kept.since.elapsed() < LONGEST_IDLE);
                idle.pop_if(|kept| kept.since.elapsed() < longest_idle)?.sender
            };
            if sender.ready().await.is_ok() {
                return Some(sender);
            }
        }
    }

    fn keep(&self, sender: Sender) {
        let mut idle = self.idle();
        if !sender.is_closed() && idle.len() < MOST_IDLE {
            idle.push(Idle { sender, since: Instant::now() });
        }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn connect(&self) -> Result<Sender, HttpError> {
        let base = || self.base.to_string();
        let to = &self.base.connect;
        let addresses = lookup_host((to.host.as_str(), to.port)).await.map_err(|source| HttpError::Resolve { base: base(), source })?;
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for address in addresses {
            match TcpStream::connect(address).await {
                Ok(stream) => {
                    // Requests are written whole: nothing is gained by waiting to fill a packet.
                    let _ = stream.set_nodelay(true);
                    let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(|error| self.broken(error))?;
                    // Ends when the sender is dropped or the other side closes; its error reaches the request.
                    tokio::spawn(async move {
                        let _ = connection.await;
                    });
                    return Ok(sender);
                }
                Err(error) => last = error,
            }
        }
        Err(HttpError::Connect { base: base(), source: last })
    }
}
