//! HTTP/2 on the `h2` crate: many exchanges at once on a connection, each with its own flow control.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use h2::ext::Protocol;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri};
use lorica_model::head::{Fields, HeadBuilder, MAX_HEAD_BYTES, RequestHead, ResponseHead, Version};
use tokio::io::ReadBuf;

use super::body::{Body, Frame};
use super::error::WireError;
use super::upstream::{Answer, Outgoing, Tunnel};
use crate::stream::Stream;

/// How much a peer may send ahead on one stream, in bytes: enough for a gigabit over 8 ms.
const STREAM_WINDOW: u32 = 1024 * 1024;
/// The same for all streams of a connection together; it bounds what one connection can make us hold.
const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;
/// The most exchanges that a client may have under way on one connection.
const MAX_STREAMS: u32 = 256;
/// How much may wait to be written on one stream, in bytes.
const SEND_BUFFER: usize = 256 * 1024;
/// The most interim answers that one request may have.
const MAX_INFORMATIONAL: u32 = 8;

/// A connection from a client of HTTP/2.
pub struct Http2Server(h2::server::Connection<Tunnel, Bytes>);

impl Http2Server {
    /// Serves `stream`, of which `read` was read already.
    ///
    /// # Errors
    /// When the client's preface is none.
    pub async fn start(stream: Stream, read: Bytes) -> Result<Self, WireError> {
        let mut builder = h2::server::Builder::new();
        builder
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_concurrent_streams(MAX_STREAMS)
            .max_header_list_size(MAX_HEAD_BYTES as u32)
            .max_send_buffer_size(SEND_BUFFER)
            .enable_connect_protocol();
        Ok(Self(builder.handshake(Tunnel::Http1 { stream, read }).await?))
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
                Ok(head) => {
                    let body = incoming(request.into_body());
                    return Ok(Some((head, body, Http2Responder { state: Answering::Before(respond) })));
                }
                Err(error) => {
                    let status = match error {
                        WireError::Unsupported(_) => StatusCode::NOT_IMPLEMENTED,
                        WireError::HeadTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                        _ => StatusCode::BAD_REQUEST,
                    };
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

fn request_head(request: &Request<RecvStream>) -> Result<RequestHead, WireError> {
    let uri = request.uri();
    let protocol = request.extensions().get::<Protocol>().map(Protocol::as_str);
    if request.method() == Method::CONNECT && protocol.is_none() {
        return Err(WireError::Unsupported("CONNECT is not passed on"));
    }
    let host = request.headers().get(http::header::HOST);
    let host = host.map(|host| host.to_str().map_err(|_| WireError::Invalid("the Host is no host"))).transpose()?;
    let authority = uri.authority().map_or(host.unwrap_or_default(), |authority| authority.as_str());
    let mut builder = HeadBuilder::with_capacity(1024);
    copy(request.headers(), &mut builder)?;
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    Ok(builder.request(Version::Http2, request.method().as_str(), path, authority, protocol)?)
}

fn copy(map: &HeaderMap, builder: &mut HeadBuilder) -> Result<(), WireError> {
    for (name, value) in map {
        builder.field(name.as_str().as_bytes(), value.as_bytes())?;
    }
    Ok(())
}

fn map<'f>(fields: impl Iterator<Item = (&'f [u8], &'f [u8])>) -> Result<HeaderMap, WireError> {
    let mut map = HeaderMap::new();
    for (name, value) in fields {
        // `from_bytes` folds the case.
        let name = HeaderName::from_bytes(name).map_err(|_| WireError::Invalid("a field name is none"))?;
        let value = HeaderValue::from_bytes(value).map_err(|_| WireError::Invalid("a field value has a byte that it may not have"))?;
        map.try_append(name, value).map_err(|_| WireError::HeadTooLarge)?;
    }
    Ok(map)
}

fn incoming(stream: RecvStream) -> Body {
    if stream.is_end_stream() { Body::Empty } else { Body::Http2(Http2Body { stream, owed: 0, state: Reading::Data }) }
}

/// A body of HTTP/2 as it comes in. The peer may send more only as what came is used up.
pub struct Http2Body {
    stream: RecvStream,
    /// Bytes that were handed out and not yet given back to the window.
    owed: usize,
    state: Reading,
}

#[derive(PartialEq, Eq)]
enum Reading {
    Data,
    Trailers,
    End,
}

impl Http2Body {
    pub(crate) fn is_end(&self) -> bool {
        self.state == Reading::End || (self.state == Reading::Data && self.stream.is_end_stream())
    }

    pub(crate) fn length(&self) -> Option<u64> {
        None
    }

    pub(crate) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, WireError>>> {
        if self.owed > 0 {
            let owed = std::mem::take(&mut self.owed);
            // It fails only where the stream has ended, and then nothing is owed.
            let _: Result<(), h2::Error> = self.stream.flow_control().release_capacity(owed);
        }
        while self.state == Reading::Data {
            match ready!(self.stream.poll_data(cx)) {
                Some(Ok(data)) if data.is_empty() => {}
                Some(Ok(data)) => {
                    self.owed = data.len();
                    return Poll::Ready(Some(Ok(Frame::Data(data))));
                }
                Some(Err(error)) => {
                    self.state = Reading::End;
                    return Poll::Ready(Some(Err(error.into())));
                }
                None => self.state = Reading::Trailers,
            }
        }
        if self.state == Reading::End {
            return Poll::Ready(None);
        }
        let trailers = ready!(self.stream.poll_trailers(cx));
        self.state = Reading::End;
        Poll::Ready(match trailers {
            Ok(Some(trailers)) => {
                let mut builder = HeadBuilder::with_capacity(256);
                Some(copy(&trailers, &mut builder).map(|()| Frame::Trailers(builder.fields())))
            }
            Ok(None) => None,
            Err(error) => Some(Err(error.into())),
        })
    }
}

/// Sends bytes as the peer's window allows.
async fn send(stream: &mut SendStream<Bytes>, mut data: Bytes) -> Result<(), WireError> {
    while !data.is_empty() {
        stream.reserve_capacity(data.len());
        let capacity = match poll_fn(|cx| stream.poll_capacity(cx)).await {
            Some(capacity) => capacity?,
            None => return Err(WireError::Closed),
        };
        if capacity > 0 {
            stream.send_data(data.split_to(capacity.min(data.len())), false)?;
        }
    }
    Ok(())
}

fn finish(stream: &mut SendStream<Bytes>, trailers: Option<&Fields>) -> Result<(), WireError> {
    match trailers.filter(|trailers| !trailers.is_empty()) {
        Some(trailers) => stream.send_trailers(map(trailers.iter())?)?,
        None => stream.send_data(Bytes::new(), true)?,
    }
    Ok(())
}

/// Answers one request of HTTP/2.
pub struct Http2Responder {
    state: Answering,
}

enum Answering {
    Before(h2::server::SendResponse<Bytes>),
    Body(SendStream<Bytes>),
    Done,
}

impl Http2Responder {
    pub(crate) fn informational<'f>(&mut self, status: u16, fields: impl Iterator<Item = (&'f [u8], &'f [u8])>) -> Result<(), WireError> {
        let Answering::Before(respond) = &mut self.state else { return Ok(()) };
        respond.send_informational(response(status, fields)?)?;
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
        let mut response = response(status, fields)?;
        if let Some(length) = length.filter(|_| !end && !response.headers().contains_key(http::header::CONTENT_LENGTH)) {
            response.headers_mut().insert(http::header::CONTENT_LENGTH, length.into());
        }
        let stream = respond.send_response(response, end)?;
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
        // An extended CONNECT succeeds with 200 (RFC 8441), whatever the other side's version says.
        let stream = respond.send_response(response(200, fields)?, false)?;
        let Body::Http2(body) = body else { return Err(WireError::Closed) };
        Ok(Tunnel::Http2(Http2Tunnel { send: stream, receive: body.stream, read: Bytes::new() }))
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

fn response<'f>(status: u16, fields: impl Iterator<Item = (&'f [u8], &'f [u8])>) -> Result<Response<()>, WireError> {
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::from_u16(status).map_err(|_| WireError::Invalid("the status is none"))?;
    *response.headers_mut() = map(fields)?;
    Ok(response)
}

/// A connection to a server of HTTP/2. A clone is another handle of the same connection.
#[derive(Clone)]
pub struct Http2Client {
    requests: h2::client::SendRequest<Bytes>,
    /// Set when the connection has ended.
    ended: Rc<Cell<bool>>,
}

impl Http2Client {
    /// Begins HTTP/2 on `stream`. The future drives the connection and must be spawned.
    ///
    /// # Errors
    /// When the preface cannot be sent.
    pub async fn start(stream: Stream) -> Result<(Self, impl Future<Output = ()>), WireError> {
        let mut builder = h2::client::Builder::new();
        builder
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(MAX_HEAD_BYTES as u32)
            .max_send_buffer_size(SEND_BUFFER)
            .enable_push(false);
        let (requests, connection) = builder.handshake(stream).await?;
        let ended = Rc::new(Cell::new(false));
        let over = ended.clone();
        let driver = async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "an HTTP/2 connection ended");
            }
            over.set(true);
        };
        Ok((Self { requests, ended }, driver))
    }

    /// Whether it takes no new request any more.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        self.ended.get()
    }

    /// How many exchanges the server takes at once.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.requests.current_max_send_streams()
    }

    /// Begins an exchange.
    ///
    /// # Errors
    /// [`WireError::NotProcessed`] where the connection takes no more.
    pub async fn send(&mut self, outgoing: &Outgoing<'_>) -> Result<(Http2Sender, Http2Receiver), WireError> {
        poll_fn(|cx| self.requests.poll_ready(cx)).await.map_err(|_| WireError::NotProcessed)?;
        let mut request = Request::new(());
        let mut fields: Vec<(HeaderName, HeaderValue)> = Vec::with_capacity(outgoing.head.fields.len() + 4);
        let mut invalid = None;
        outgoing.fields(|name, value| match (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) {
            (Ok(name), _) if name == http::header::HOST => {}
            (Ok(name), Ok(value)) => fields.push((name, value)),
            _ => invalid = Some(WireError::Invalid("a field cannot be said in HTTP/2")),
        });
        if let Some(invalid) = invalid {
            return Err(invalid);
        }
        for (name, value) in fields {
            request.headers_mut().try_append(name, value).map_err(|_| WireError::HeadTooLarge)?;
        }
        let method = if outgoing.upgrade.is_some() { "CONNECT" } else { outgoing.head.method() };
        *request.method_mut() = Method::from_bytes(method.as_bytes()).map_err(|_| WireError::Invalid("the method is none"))?;
        let uri = Uri::builder().scheme("http").authority(outgoing.authority()).path_and_query(outgoing.path_and_query());
        *request.uri_mut() = uri.build().map_err(|_| WireError::Invalid("the target cannot be said in HTTP/2"))?;
        if let Some(protocol) = outgoing.upgrade {
            let protocol = std::str::from_utf8(protocol).map_err(|_| WireError::Invalid("the protocol to upgrade to is none"))?;
            if !self.requests.is_extended_connect_protocol_enabled() {
                return Err(WireError::Unsupported("the endpoint takes no upgrade over HTTP/2"));
            }
            request.extensions_mut().insert(Protocol::from(protocol));
        }
        let end = outgoing.length == Some(0) && outgoing.upgrade.is_none();
        let (response, stream) = self.requests.send_request(request, end).map_err(|error| {
            if error.is_io() || error.is_go_away() { WireError::NotProcessed } else { error.into() }
        })?;
        let stream = Rc::new(std::cell::RefCell::new(Some(stream)));
        let receiver = Http2Receiver { response, stream: stream.clone(), upgrade: outgoing.upgrade.is_some(), informational: 0 };
        Ok((Http2Sender { stream, ended: end }, receiver))
    }
}

/// Sends the body of one request. Shared with the receiver, which takes it when the exchange becomes a tunnel.
pub struct Http2Sender {
    stream: Rc<std::cell::RefCell<Option<SendStream<Bytes>>>>,
    ended: bool,
}

impl Http2Sender {
    pub(crate) async fn data(&mut self, mut data: Bytes) -> Result<(), WireError> {
        while !data.is_empty() {
            let capacity = poll_fn(|cx| match self.stream.borrow_mut().as_mut() {
                Some(stream) => {
                    stream.reserve_capacity(data.len());
                    stream.poll_capacity(cx)
                }
                None => Poll::Ready(None),
            });
            let capacity = capacity.await.ok_or(WireError::Closed)??;
            if let Some(stream) = self.stream.borrow_mut().as_mut().filter(|_| capacity > 0) {
                stream.send_data(data.split_to(capacity.min(data.len())), false)?;
            }
        }
        Ok(())
    }

    pub(crate) fn end(&mut self, trailers: Option<&Fields>) -> Result<(), WireError> {
        if !std::mem::replace(&mut self.ended, true)
            && let Some(stream) = self.stream.borrow_mut().as_mut()
        {
            finish(stream, trailers)?;
        }
        Ok(())
    }
}

impl Drop for Http2Sender {
    fn drop(&mut self) {
        if !self.ended
            && let Some(stream) = self.stream.borrow_mut().as_mut()
        {
            stream.send_reset(Reason::CANCEL);
        }
    }
}

/// Receives the answer to one request.
pub struct Http2Receiver {
    response: h2::client::ResponseFuture,
    stream: Rc<std::cell::RefCell<Option<SendStream<Bytes>>>>,
    upgrade: bool,
    informational: u32,
}

impl Http2Receiver {
    pub(crate) async fn answer(&mut self) -> Result<Answer, WireError> {
        let interim = poll_fn(|cx| match self.response.poll_informational(cx) {
            Poll::Ready(Some(interim)) => Poll::Ready(Err(interim)),
            _ => Pin::new(&mut self.response).poll(cx).map(Ok),
        });
        match interim.await {
            Err(interim) => {
                self.informational += 1;
                if self.informational > MAX_INFORMATIONAL {
                    return Err(WireError::Invalid("there are more than 8 interim answers"));
                }
                Ok(Answer::Informational(response_head(&interim?)?))
            }
            Ok(response) => {
                let response = response?;
                let head = response_head(&response)?;
                let stream = response.into_body();
                if self.upgrade && (200..300).contains(&head.status) {
                    let send = self.stream.borrow_mut().take().ok_or(WireError::Closed)?;
                    return Ok(Answer::Upgraded(head, Tunnel::Http2(Http2Tunnel { send, receive: stream, read: Bytes::new() })));
                }
                Ok(Answer::Final(head, incoming(stream)))
            }
        }
    }
}

fn response_head<B>(response: &Response<B>) -> Result<ResponseHead, WireError> {
    let mut builder = HeadBuilder::with_capacity(512);
    copy(response.headers(), &mut builder)?;
    Ok(builder.response(Version::Http2, response.status().as_u16()))
}

/// A stream of HTTP/2 that carries bytes.
pub struct Http2Tunnel {
    send: SendStream<Bytes>,
    receive: RecvStream,
    read: Bytes,
}

impl Http2Tunnel {
    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        while self.read.is_empty() {
            match ready!(self.receive.poll_data(cx)) {
                Some(Ok(data)) => {
                    // It fails only where the stream has ended, and then nothing is owed.
                    let _: Result<(), h2::Error> = self.receive.flow_control().release_capacity(data.len());
                    self.read = data;
                }
                Some(Err(error)) => return Poll::Ready(Err(io::Error::other(error))),
                None => return Poll::Ready(Ok(())),
            }
        }
        let count = self.read.len().min(buffer.remaining());
        buffer.put_slice(&self.read[..count]);
        self.read.advance(count);
        Poll::Ready(Ok(()))
    }

    pub(crate) fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.send.reserve_capacity(bytes.len());
        let capacity = match ready!(self.send.poll_capacity(cx)) {
            Some(capacity) => capacity.map_err(io::Error::other)?,
            None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        };
        let count = capacity.min(bytes.len());
        self.send.send_data(Bytes::copy_from_slice(&bytes[..count]), false).map_err(io::Error::other)?;
        Poll::Ready(Ok(count))
    }

    pub(crate) fn shutdown(&mut self) -> io::Result<()> {
        self.send.send_data(Bytes::new(), true).map_err(io::Error::other)
    }
}
