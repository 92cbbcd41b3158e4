//! The server's side of HTTP/2: requests as they come, each answered in its own time.

use std::future::poll_fn;
use std::time::Duration;

use bytes::Bytes;
use h2::ext::Protocol;
use h2::{Reason, RecvStream, SendStream};
use http::{Method, Request, Response, StatusCode};
use lorica_model::head::{Fields, HeadBuilder, MAX_HEAD_BYTES, RequestHead, Version};
use tokio::time::timeout;

use super::super::body::Body;
use super::super::error::WireError;
use super::super::fields::{content_length, is_host, is_token};
use super::super::upstream::Tunnel;
use super::body::{finish, incoming, send};
use super::{CONNECTION_WINDOW, Http2Tunnel, MAX_STREAMS, SEND_BUFFER, STREAM_WINDOW, map};
use crate::stream::Stream;

/// How long a client may take for its preface; the time that a head may take, too.
const PREFACE: Duration = Duration::from_secs(10);

/// A connection from a client of HTTP/2.
pub struct Http2Server(h2::server::Connection<Tunnel, Bytes>);

impl Http2Server {
    /// Serves `stream`, of which `read` was read already.
    ///
    /// # Errors
    /// When the client's preface is none, or does not come within 10 s.
    pub async fn start(stream: Stream, read: Bytes) -> Result<Self, WireError> {
        let mut builder = h2::server::Builder::new();
        builder
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_concurrent_streams(MAX_STREAMS)
            .max_header_list_size(MAX_HEAD_BYTES as u32)
            .max_send_buffer_size(SEND_BUFFER)
            .enable_connect_protocol();
        let handshake = builder.handshake(Tunnel::Http1 { stream, read });
        Ok(Self(timeout(PREFACE, handshake).await.map_err(|_| WireError::HeadTimeout)??))
    }

    /// The next request; `None` once the connection has ended. It must be awaited for as long as exchanges are under way, since
    /// it drives them too. Nothing is lost if the future is dropped.
    ///
    /// # Errors
    /// When the connection broke. A request that is no valid one is answered here, and not returned.
    pub async fn next(&mut self) -> Result<Option<(RequestHead, Body, Http2Responder)>, WireError> {
        while let Some(accepted) = poll_fn(|cx| self.0.poll_accept(cx)).await {
            let (request, mut respond) = accepted?;
            match request_head(&request) {
                Ok((head, length)) => {
                    let body = incoming(request.into_body(), length);
                    let to_head = head.method() == "HEAD";
                    return Ok(Some((head, body, Http2Responder { state: Answering::Before(respond), to_head })));
                }
                Err(error) => {
                    let status = match error {
                        WireError::Unsupported(_) => StatusCode::NOT_IMPLEMENTED,
                        WireError::HeadTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                        _ => StatusCode::BAD_REQUEST,
                    };
                    tracing::debug!(%error, status = status.as_u16(), "a request was refused");
                    let mut answer = Response::new(());
                    *answer.status_mut() = status;
                    if let Err(error) = respond.send_response(answer, true) {
                        tracing::debug!(%error, "a malformed request could not be answered");
                    }
                }
            }
        }
        Ok(None)
    }

    /// Says GOAWAY: no new request is taken, those under way go on.
    pub fn graceful_shutdown(&mut self) {
        self.0.graceful_shutdown();
    }
}

/// The head of a request, and the length of its body where it is declared. The crate has checked what HTTP/2 asks for; here
/// is checked what could mean something else once it is written as HTTP/1.
fn request_head(request: &Request<RecvStream>) -> Result<(RequestHead, Option<u64>), WireError> {
    let (uri, method) = (request.uri(), request.method());
    let protocol = request.extensions().get::<Protocol>().map(Protocol::as_str);
    if *method == Method::CONNECT && protocol.is_none() {
        return Err(WireError::Unsupported("CONNECT is not passed on"));
    }
    // The crate takes any text, line ends too.
    if protocol.is_some_and(|protocol| !protocol.split('/').all(|part| is_token(part.as_bytes()))) {
        return Err(WireError::Invalid("the :protocol is none"));
    }
    let mut builder = HeadBuilder::with_capacity(1024);
    let host = request.headers().get(http::header::HOST);
    let authority = match (uri.authority(), host) {
        (Some(authority), _) => authority.as_str(),
        (None, Some(host)) => host.to_str().map_err(|_| WireError::Invalid("the Host is no host"))?,
        (None, None) => "",
    };
    if !is_host(authority.as_bytes()) {
        return Err(WireError::Invalid("the authority is no host"));
    }
    for (name, value) in request.headers() {
        // `:authority` says it; a Host beside it would be a second truth.
        if name != http::header::HOST || uri.authority().is_none() {
            builder.field(name.as_str().as_bytes(), value.as_bytes())?;
        }
    }
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let is_star = path == "*" && *method == Method::OPTIONS;
    if !path.starts_with('/') && !is_star {
        return Err(WireError::Invalid("the :path is none"));
    }
    let head = builder.request(Version::Http2, method.as_str(), path, authority, protocol)?;
    let length = content_length(&head.fields)?;
    Ok((head, length))
}

/// Answers one request of HTTP/2. Dropped before its end, it resets the stream.
pub struct Http2Responder {
    state: Answering,
    to_head: bool,
}

enum Answering {
    Before(h2::server::SendResponse<Bytes>),
    Body(SendStream<Bytes>),
    Done,
}

impl Http2Responder {
    pub(crate) fn informational<'f>(&mut self, status: u16, fields: impl Iterator<Item = (&'f [u8], &'f [u8])>) -> Result<(), WireError> {
        let Answering::Before(respond) = &mut self.state else { return Ok(()) };
        respond.send_informational(response(status, fields, None)?)?;
        Ok(())
    }

    pub(crate) fn head<'f>(
        &mut self,
        status: u16,
        fields: impl Iterator<Item = (&'f [u8], &'f [u8])>,
        length: Option<u64>,
        end: bool,
    ) -> Result<(), WireError> {
        let Answering::Before(respond) = &mut self.state else { return Err(WireError::Closed) };
        let bodiless = self.to_head || matches!(status, 204 | 304);
        let length = match (status, bodiless, end) {
            (204, ..) => None,
            // What a GET would have had.
            (_, true, _) => length,
            (_, false, true) => Some(0),
            (_, false, false) => length,
        };
        let end = end || bodiless;
        let stream = respond.send_response(response(status, fields, length)?, end)?;
        self.state = if end { Answering::Done } else { Answering::Body(stream) };
        Ok(())
    }

    pub(crate) async fn data(&mut self, data: Bytes) -> Result<(), WireError> {
        match &mut self.state {
            Answering::Body(stream) => send(stream, data).await,
            Answering::Before(_) => Err(WireError::Closed),
            Answering::Done => Ok(()),
        }
    }

    pub(crate) fn end(mut self, trailers: Option<&Fields>) -> Result<(), WireError> {
        match &mut self.state {
            Answering::Body(stream) => finish(stream, trailers),
            Answering::Before(_) => Err(WireError::Closed),
            Answering::Done => Ok(()),
        }
    }

    pub(crate) fn upgrade<'f>(self, fields: impl Iterator<Item = (&'f [u8], &'f [u8])>, body: Body) -> Result<Tunnel, WireError> {
        let Answering::Before(mut respond) = self.state else { return Err(WireError::Closed) };
        let Body::Http2(body) = body else { return Err(WireError::Closed) };
        // An extended CONNECT succeeds with 200 (RFC 8441), whatever the other side's version says.
        let stream = respond.send_response(response(200, fields, None)?, false)?;
        Ok(Tunnel::Http2(Http2Tunnel::new(stream, body.stream)))
    }

    pub(crate) fn reset(mut self) {
        match &mut self.state {
            Answering::Before(respond) => respond.send_reset(Reason::INTERNAL_ERROR),
            Answering::Body(stream) => stream.send_reset(Reason::INTERNAL_ERROR),
            Answering::Done => {}
        }
    }

    pub(crate) async fn gone(&mut self) {
        let reset = match &mut self.state {
            Answering::Before(respond) => poll_fn(|cx| respond.poll_reset(cx)).await,
            Answering::Body(stream) => poll_fn(|cx| stream.poll_reset(cx)).await,
            Answering::Done => std::future::pending().await,
        };
        tracing::trace!(?reset, "the client reset its stream");
    }
}

/// An answer's head; its Content-Length is what the codec knows, whatever the fields say.
fn response<'f>(status: u16, fields: impl Iterator<Item = (&'f [u8], &'f [u8])>, length: Option<u64>) -> Result<Response<()>, WireError> {
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::from_u16(status).map_err(|_| WireError::Invalid("the status is none"))?;
    *response.headers_mut() = map(fields.filter(|(name, _)| !name.eq_ignore_ascii_case(b"content-length")))?;
    if let Some(length) = length {
        response.headers_mut().insert(http::header::CONTENT_LENGTH, length.into());
    }
    Ok(response)
}
