//! The client's side of HTTP/2: a connection that many exchanges share.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use h2::ext::Protocol;
use h2::{Reason, SendStream};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Method, Request, Response, Uri};
use lorica_model::head::{Edits, Fields, HeadBuilder, MAX_HEAD_BYTES, ResponseHead, Version};
use tokio::time::timeout;

use super::super::error::WireError;
use super::super::fields::content_length;
use super::super::upstream::{Answer, MAX_INFORMATIONAL, Outgoing, Tunnel};
use super::body::{finish, incoming, poll_room};
use super::{CONNECTION_WINDOW, Http2Tunnel, SEND_BUFFER, STREAM_WINDOW, copy, map};
use crate::stream::Stream;

/// How long a server may take to say whether it takes an extended CONNECT: a round trip, and time to spare.
const SETTINGS: Duration = Duration::from_secs(5);

/// A connection to a server of HTTP/2. A clone is another handle of the same connection; it is closed once all are dropped.
#[derive(Clone)]
pub struct Http2Client {
    requests: h2::client::SendRequest<Bytes>,
    link: Rc<Link>,
}

/// What the driver of a connection tells its handles.
#[derive(Default)]
struct Link {
    /// The connection has ended.
    ended: Cell<bool>,
    /// The server's settings are known, as it has answered a PING sent behind ours.
    settled: Cell<bool>,
    /// Somebody waits for that.
    asked: Cell<bool>,
    driver: RefCell<Option<Waker>>,
    waiting: RefCell<Vec<Waker>>,
}

impl Http2Client {
    /// Begins HTTP/2 on `stream`. The future drives the connection and must be spawned.
    ///
    /// # Errors
    /// When the preface cannot be sent.
    pub async fn start(stream: Stream) -> Result<(Self, impl Future<Output = ()> + use<>), WireError> {
        let mut builder = h2::client::Builder::new();
        builder
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(MAX_HEAD_BYTES as u32)
            .max_send_buffer_size(SEND_BUFFER)
            .enable_push(false);
        let (requests, connection) = builder.handshake(stream).await?;
        let link = Rc::new(Link::default());
        let driver = drive(connection, link.clone());
        Ok((Self { requests, link }, driver))
    }

    /// Whether it takes no new request any more: it has ended, or its server said GOAWAY. Exchanges under way go on.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        let mut nobody = Context::from_waker(Waker::noop());
        // A fresh handle never waits: it only says whether the connection would refuse it.
        self.link.ended.get() || matches!(self.requests.clone().poll_ready(&mut nobody), Poll::Ready(Err(_)))
    }

    /// How many exchanges the server takes at once.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.requests.current_max_send_streams()
    }

    /// Begins an exchange. Past the server's bound on exchanges it waits for one to end.
    ///
    /// # Errors
    /// [`WireError::NotProcessed`] where the connection takes no more.
    pub async fn send(&mut self, outgoing: &Outgoing<'_>) -> Result<(Http2Sender, Http2Receiver), WireError> {
        self.start_exchange(outgoing, outgoing.protocol()).await
    }

    async fn start_exchange(&mut self, outgoing: &Outgoing<'_>, upgrade: Option<&[u8]>) -> Result<(Http2Sender, Http2Receiver), WireError> {
        if upgrade.is_some() && !self.takes_extended_connect().await? {
            return Err(WireError::Unsupported("the endpoint takes no upgrade over HTTP/2"));
        }
        poll_fn(|cx| self.requests.poll_ready(cx)).await.map_err(|_| WireError::NotProcessed)?;
        let request = request(outgoing, upgrade)?;
        let end = outgoing.length == Some(0) && upgrade.is_none();
        let (response, stream) = self.requests.send_request(request, end).map_err(|error| {
            // Nothing was sent: the connection was over before.
            if error.is_io() || error.is_go_away() { WireError::NotProcessed } else { error.into() }
        })?;
        let stream = Rc::new(RefCell::new(Some(stream)));
        let upgrade = upgrade.is_some();
        let receiver = Http2Receiver { response, stream: stream.clone(), upgrade, informational: 0 };
        Ok((Http2Sender { stream, ended: end, upgrade }, receiver))
    }

    /// Opens a stream that carries bytes, by an extended CONNECT.
    ///
    /// # Errors
    /// When the connection takes no more streams, or the server refuses this one.
    pub async fn open(&mut self, protocol: &str, authority: &str) -> Result<Tunnel, WireError> {
        let head = HeadBuilder::with_capacity(128).request(Version::Http2, "CONNECT", "/", authority, Some(protocol))?;
        let (_sender, mut receiver) = self
            .start_exchange(&Outgoing { head: &head, edits: &Edits::default(), length: None, upgrade: None }, Some(protocol.as_bytes()))
            .await?;
        loop {
            match receiver.answer().await? {
                Answer::Informational(_) => {}
                Answer::Upgraded(_, tunnel) => return Ok(tunnel),
                Answer::Final(..) => return Err(WireError::Unsupported("the endpoint takes no stream of this kind")),
            }
        }
    }

    /// Whether the server takes extended CONNECT. Its settings may still be on their way.
    async fn takes_extended_connect(&self) -> Result<bool, WireError> {
        let link = &self.link;
        let known = poll_fn(|cx| {
            if link.ended.get() {
                return Poll::Ready(Err(WireError::NotProcessed));
            }
            if self.requests.is_extended_connect_protocol_enabled() || link.settled.get() {
                return Poll::Ready(Ok(self.requests.is_extended_connect_protocol_enabled()));
            }
            let mut waiting = link.waiting.borrow_mut();
            if !waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
                waiting.push(cx.waker().clone());
            }
            if !link.asked.replace(true)
                && let Some(driver) = link.driver.borrow().as_ref()
            {
                driver.wake_by_ref();
            }
            Poll::Pending
        });
        timeout(SETTINGS, known).await.unwrap_or(Err(WireError::NotProcessed))
    }
}

/// Drives a connection to its end.
async fn drive(mut connection: h2::client::Connection<Stream, Bytes>, link: Rc<Link>) {
    let mut ping = connection.ping_pong();
    let mut pinged = false;
    let mut connection = pin!(connection);
    let ended = poll_fn(|cx| {
        *link.driver.borrow_mut() = Some(cx.waker().clone());
        let mut driven = connection.as_mut().poll(cx);
        if link.asked.get() && !link.settled.get() {
            if let Some(ping) = &mut ping {
                if !pinged && driven.is_pending() {
                    pinged = ping.send_ping(h2::Ping::opaque()).is_ok();
                    driven = connection.as_mut().poll(cx);
                }
                if let Poll::Ready(pong) = ping.poll_pong(cx) {
                    link.settled.set(pong.is_ok());
                }
            }
            // The settings may have come with this very read.
            link.waiting.take().into_iter().for_each(Waker::wake);
        }
        driven
    });
    if let Err(error) = ended.await {
        tracing::debug!(%error, "an HTTP/2 connection ended");
    }
    link.ended.set(true);
    link.waiting.take().into_iter().for_each(Waker::wake);
}

/// A request as the crate wants it.
fn request(outgoing: &Outgoing<'_>, upgrade: Option<&[u8]>) -> Result<Request<()>, WireError> {
    let unsayable = || WireError::Invalid("the target cannot be said in HTTP/2");
    let mut request = Request::new(());
    // `:authority` says what Host said.
    let fields = outgoing.fields().filter(|(name, _)| !name.eq_ignore_ascii_case(b"host") && !name.eq_ignore_ascii_case(b"content-length"));
    *request.headers_mut() = map(fields)?;
    if let Some(length) = outgoing.length.filter(|length| upgrade.is_none() && (*length > 0 || outgoing.declares_length())) {
        request.headers_mut().insert(http::header::CONTENT_LENGTH, length.into());
    }
    let method = if upgrade.is_some() { "CONNECT" } else { outgoing.head.method() };
    *request.method_mut() = Method::from_bytes(method.as_bytes()).map_err(|_| WireError::Invalid("the method is none"))?;
    let mut parts = http::uri::Parts::default();
    parts.path_and_query = Some(PathAndQuery::try_from(outgoing.path_and_query()).map_err(|_| unsayable())?);
    // HTTP/1.0 need not name a host; then there is no `:authority` either.
    if !outgoing.authority().is_empty() {
        parts.scheme = Some(Scheme::HTTP);
        parts.authority = Some(Authority::try_from(outgoing.authority()).map_err(|_| unsayable())?);
    }
    *request.uri_mut() = Uri::from_parts(parts).map_err(|_| unsayable())?;
    if let Some(protocol) = upgrade {
        let protocol = std::str::from_utf8(protocol).map_err(|_| WireError::Invalid("the protocol to upgrade to is none"))?;
        request.extensions_mut().insert(Protocol::from(protocol));
    }
    Ok(request)
}

/// Sends the body of one request. Shared with the receiver, which takes the stream when the exchange becomes a tunnel.
pub struct Http2Sender {
    stream: Rc<RefCell<Option<SendStream<Bytes>>>>,
    ended: bool,
    /// An extended CONNECT has no body: the stream stays open for its tunnel.
    upgrade: bool,
}

impl Http2Sender {
    pub(crate) async fn data(&mut self, mut data: Bytes) -> Result<(), WireError> {
        if self.upgrade && !data.is_empty() {
            return Err(WireError::Unsupported("a request to upgrade has no body in HTTP/2"));
        }
        while !data.is_empty() {
            let room = poll_fn(|cx| match self.stream.borrow_mut().as_mut() {
                Some(stream) => poll_room(stream, data.len(), cx),
                None => Poll::Ready(Err(WireError::Closed)),
            });
            let room = room.await?;
            if let Some(stream) = self.stream.borrow_mut().as_mut() {
                stream.send_data(data.split_to(room), false)?;
            }
        }
        Ok(())
    }

    pub(crate) fn end(&mut self, trailers: Option<&Fields>) -> Result<(), WireError> {
        if !std::mem::replace(&mut self.ended, true)
            && !self.upgrade
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
            && !self.upgrade
            && let Some(stream) = self.stream.borrow_mut().as_mut()
        {
            stream.send_reset(Reason::CANCEL);
        }
    }
}

/// Receives the answer to one request.
pub struct Http2Receiver {
    response: h2::client::ResponseFuture,
    stream: Rc<RefCell<Option<SendStream<Bytes>>>>,
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
                let (head, _) = response_head(&interim?)?;
                if head.status == 101 {
                    return Err(WireError::Invalid("HTTP/2 has no 101"));
                }
                self.informational += 1;
                if self.informational > MAX_INFORMATIONAL {
                    return Err(WireError::Invalid("there are more than 8 interim answers"));
                }
                Ok(Answer::Informational(head))
            }
            Ok(response) => {
                let response = response?;
                let (head, length) = response_head(&response)?;
                let stream = response.into_body();
                if self.upgrade && (200..300).contains(&head.status) {
                    let send = self.stream.borrow_mut().take().ok_or(WireError::Closed)?;
                    return Ok(Answer::Upgraded(head, Tunnel::Http2(Http2Tunnel::new(send, stream))));
                }
                Ok(Answer::Final(head, incoming(stream, length)))
            }
        }
    }
}

fn response_head<B>(response: &Response<B>) -> Result<(ResponseHead, Option<u64>), WireError> {
    let mut builder = HeadBuilder::with_capacity(512);
    copy(response.headers(), &mut builder)?;
    let head = builder.response(Version::Http2, response.status().as_u16());
    let length = content_length(&head.fields)?;
    Ok((head, length))
}
