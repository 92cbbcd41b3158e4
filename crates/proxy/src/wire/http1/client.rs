//! The client's side of HTTP/1: one exchange at a time on a connection that may serve more.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io::ErrorKind;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use lorica_model::head::{Field, Fields, ResponseHead, Version};

use super::super::body::Body;
use super::super::error::WireError;
use super::super::fields::{WEBSOCKET_ACCEPT, WEBSOCKET_KEY, websocket_accept, websocket_key};
use super::super::upstream::{Answer, MAX_INFORMATIONAL, Outgoing, Tunnel};
use super::body::{Exchange, Http1Body, State};
use super::connection::{Connection, flush};
use super::outgoing::Shape;
use super::parse::{self, Framing};
use crate::lifetime::KeepAlive;
use crate::stream::Stream;

/// A connection to a server of HTTP/1. A clone is another handle of the same connection.
#[derive(Clone)]
pub struct Http1Client {
    connection: Rc<RefCell<Connection>>,
    exchange: Rc<Exchange>,
}

impl Http1Client {
    /// A client on `stream`.
    #[must_use]
    pub fn new(stream: Stream) -> Self {
        Self { connection: Rc::new(RefCell::new(Connection::new(stream, &[]))), exchange: Exchange::new(State::End, true, true) }
    }

    /// Whether the last exchange is over on both sides and left the connection fit for another: the server has not closed it since,
    /// nor said anything unasked.
    #[must_use]
    pub fn is_reusable(&self) -> bool {
        self.is_kept() && self.is_open(Waker::noop())
    }

    /// Whether the last exchange is over on both sides, and neither wants the connection closed.
    #[must_use]
    pub fn is_kept(&self) -> bool {
        let Exchange { body, said, keep, keep_alive, .. } = &*self.exchange;
        said.get() && body.get() == State::End && keep.get() && keep_alive.get().max != Some(0)
    }

    /// Whether the server has neither closed the connection nor said anything unasked. While it has not, `waker` is told once it does.
    #[must_use]
    pub fn is_open(&self, waker: &Waker) -> bool {
        !self.connection.borrow_mut().is_stale(waker)
    }

    /// When the head of the last answer came: the server has been idle since then at most.
    #[must_use]
    pub fn answered(&self) -> Option<Instant> {
        self.exchange.answered.get()
    }

    /// How long the connection stays open when idle, as the last answer announced it.
    #[must_use]
    pub fn announced(&self) -> Option<Duration> {
        self.exchange.keep_alive.get().timeout
    }

    /// Begins an exchange: queues the request's head. It leaves with the first bytes of the body, or at the next flush.
    #[must_use]
    pub fn send(&mut self, outgoing: &Outgoing<'_>) -> (Http1Sender, Http1Receiver) {
        let upgrade = outgoing.protocol();
        // An extended CONNECT is how HTTP/2 says GET with Upgrade; what it sends belongs to the tunnel, not to a body.
        let extended = outgoing.head.protocol().is_some();
        let key = match upgrade {
            // HTTP/2 has no such key (RFC 8441, 5).
            Some(protocol) if extended && protocol.eq_ignore_ascii_case(b"websocket") && !outgoing.has(WEBSOCKET_KEY) => {
                Some(websocket_key())
            }
            _ => None,
        };
        let shape = {
            let mut connection = self.connection.borrow_mut();
            connection.begin();
            let mut shape = Shape::None;
            connection.outbox.text(|text| shape = head(text, outgoing, upgrade, key.as_deref()));
            shape
        };
        self.exchange = Exchange::new(State::Awaited, extended, true);
        let sender = Http1Sender { connection: self.connection.clone(), exchange: self.exchange.clone(), shape };
        let receiver = Http1Receiver {
            connection: self.connection.clone(),
            exchange: self.exchange.clone(),
            to_head: outgoing.head.is_method("HEAD"),
            upgrade: upgrade.map(<[u8]>::to_vec),
            accept: key.map(|key| websocket_accept(key.as_bytes())),
            informational: 0,
        };
        (sender, receiver)
    }
}

/// Appends the text of a request's head; says the shape of its body.
fn head(text: &mut Vec<u8>, outgoing: &Outgoing<'_>, upgrade: Option<&[u8]>, key: Option<&str>) -> Shape {
    let head = outgoing.head;
    let extended = head.protocol().is_some();
    text.reserve(1024);
    text.extend_from_slice(if extended { b"GET" } else { head.method().as_bytes() });
    text.push(b' ');
    text.extend_from_slice(outgoing.path_and_query().as_bytes());
    text.extend_from_slice(b" HTTP/1.1\r\n");
    // The received Host stays as it was written only where it says what the request was routed by.
    let from_http2 = head.version.has_pseudo_fields();
    let host_stays = !from_http2 && head.fields.get("host").is_some_and(|host| host == outgoing.authority().as_bytes());
    if !host_stays {
        parse::line(text, b"host", outgoing.authority().as_bytes());
    }
    let mut crumbs: Vec<u8> = Vec::new();
    let mut promises_trailers = false;
    outgoing.fields().for_each(|field| {
        let Field { name, value, .. } = field;
        match name.len() {
            4 if !host_stays && name.eq_ignore_ascii_case(b"host") => return,
            14 if name.eq_ignore_ascii_case(b"content-length") => return,
            2 if name.eq_ignore_ascii_case(b"te") => promises_trailers = true,
            6 if from_http2 && name == b"cookie" => {
                if !crumbs.is_empty() {
                    crumbs.extend_from_slice(b"; ");
                }
                crumbs.extend_from_slice(value);
                return;
            }
            _ => {}
        }
        field.write_line(text);
    });
    if !crumbs.is_empty() {
        parse::line(text, b"cookie", &crumbs);
    }
    let shape = match outgoing.length {
        _ if extended => Shape::Length(0),
        Some(0) if !outgoing.declares_length() => Shape::Length(0),
        Some(length) => {
            parse::content_length_line(text, length);
            Shape::Length(length)
        }
        None => {
            text.extend_from_slice(b"transfer-encoding: chunked\r\n");
            Shape::Chunked
        }
    };
    if let Some(protocol) = upgrade {
        parse::line(text, b"connection", b"upgrade");
        parse::line(text, b"upgrade", protocol);
        if let Some(key) = key {
            parse::line(text, WEBSOCKET_KEY.as_bytes(), key.as_bytes());
        }
    } else if promises_trailers {
        // TE speaks of this connection (RFC 9110, 10.1.4).
        parse::line(text, b"connection", b"te");
    }
    text.extend_from_slice(b"\r\n");
    shape
}

/// Sends the body of one request.
pub struct Http1Sender {
    connection: Rc<RefCell<Connection>>,
    exchange: Rc<Exchange>,
    shape: Shape,
}

impl Http1Sender {
    pub(crate) async fn data(&mut self, data: Bytes) -> Result<(), WireError> {
        self.shape.data(&mut self.connection.borrow_mut(), data)?;
        poll_fn(|cx| self.connection.borrow_mut().poll_room(cx)).await?;
        Ok(())
    }

    pub(crate) async fn end(&mut self, trailers: Option<&Fields>) -> Result<(), WireError> {
        if self.exchange.said.get() {
            return Ok(());
        }
        self.shape.end(&mut self.connection.borrow_mut(), trailers)?;
        // All of it is queued: nothing is queued twice, should this future be dropped and asked for again.
        self.shape = Shape::Length(0);
        flush(&self.connection).await?;
        self.exchange.said.set(true);
        Ok(())
    }

    pub(crate) async fn flush(&mut self) -> Result<(), WireError> {
        Ok(flush(&self.connection).await?)
    }
}

/// Receives the answer to one request.
pub struct Http1Receiver {
    connection: Rc<RefCell<Connection>>,
    exchange: Rc<Exchange>,
    to_head: bool,
    /// What was asked for.
    upgrade: Option<Vec<u8>>,
    /// The answer to the key that was made here.
    accept: Option<String>,
    informational: u32,
}

impl Http1Receiver {
    /// The next head of the answer. Nothing is lost if the future is dropped.
    pub(crate) async fn answer(&mut self) -> Result<Answer, WireError> {
        let (head, framing) = self.head().await?;
        match head.status {
            101 => return self.upgraded(head),
            100..=199 => {
                self.informational += 1;
                if self.informational > MAX_INFORMATIONAL {
                    return Err(WireError::Invalid("there are more than 8 interim answers"));
                }
                return Ok(Answer::Informational(head));
            }
            _ => {}
        }
        let keep = match head.version {
            // With Transfer-Encoding it is nobody's guess where such an answer ends for others (RFC 9112, 6.1).
            Version::Http10 => head.fields.has_token("connection", "keep-alive") && head.fields.position("transfer-encoding").is_none(),
            _ => !head.fields.has_token("connection", "close"),
        };
        if let Some(announced) = head.fields.get("keep-alive") {
            self.exchange.keep_alive.set(KeepAlive::read(announced));
        }
        self.exchange.answered.set(Some(Instant::now()));
        let state = State::from(framing);
        self.exchange.keep.set(keep && state != State::UntilClose);
        self.exchange.body.set(state);
        let body = match state {
            State::End => Body::Empty,
            _ => Body::Http1(Http1Body::new(self.connection.clone(), self.exchange.clone())),
        };
        Ok(Answer::Final(head, body))
    }

    async fn head(&mut self) -> Result<(ResponseHead, Framing), WireError> {
        loop {
            {
                let mut connection = self.connection.borrow_mut();
                if connection.has_new_line()
                    && let Some(parsed) = parse::response(&mut connection.inbox, self.to_head)?
                {
                    connection.look_afresh();
                    return Ok(parsed);
                }
            }
            let count = poll_fn(|cx| {
                let mut connection = self.connection.borrow_mut();
                // Where no sender does it: the head of an extended CONNECT has no body behind it.
                if self.exchange.said.get()
                    && !connection.is_flushed()
                    && let Poll::Ready(Err(error)) = connection.poll_flush(cx)
                {
                    return Poll::Ready(Err(error));
                }
                connection.poll_fill(cx)
            });
            let error = match count.await {
                Ok(1..) => continue,
                Ok(0) if self.connection.borrow().inbox.is_empty() => WireError::Closed,
                Ok(0) => return Err(WireError::Invalid("the answer's head is cut off")),
                Err(error) => error.into(),
            };
            let connection = self.connection.borrow();
            return Err(match error {
                // A kept connection that its server closed before the request came: so nothing came of it.
                WireError::Closed if self.informational == 0 && connection.is_untaken() => WireError::NotProcessed,
                // Nothing tells whether it had come.
                WireError::Closed if self.informational == 0 && connection.was_reset() => WireError::Io(ErrorKind::ConnectionReset),
                error => error,
            });
        }
    }

    fn upgraded(&mut self, head: ResponseHead) -> Result<Answer, WireError> {
        let asked = self.upgrade.as_deref().ok_or(WireError::Invalid("101 was not asked for"))?;
        if head.fields.get("upgrade").is_some_and(|protocol| !protocol.eq_ignore_ascii_case(asked)) {
            return Err(WireError::Invalid("101 leads to a protocol that was not asked for"));
        }
        // The caller has no key to hold it against.
        if self.accept.as_ref().is_some_and(|accept| head.fields.get(WEBSOCKET_ACCEPT) != Some(accept.as_bytes())) {
            return Err(WireError::Invalid("101 does not answer the Sec-WebSocket-Key"));
        }
        self.exchange.keep.set(false);
        let mut connection = self.connection.borrow_mut();
        if !self.exchange.said.get() || !connection.is_flushed() {
            return Err(WireError::Invalid("101 came before the request was complete"));
        }
        let (stream, read) = connection.take().ok_or(WireError::Closed)?;
        Ok(Answer::Upgraded(head, Tunnel::Http1 { stream, read }))
    }
}
