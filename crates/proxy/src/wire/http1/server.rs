//! The server's side of HTTP/1: one request after another.

use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use lorica_model::head::{Field, Fields, RequestHead, Version};
use tokio::time::timeout;

use super::super::body::{Body, Frame};
use super::super::error::WireError;
use super::super::fields::phrase;
use super::super::upstream::Tunnel;
use super::body::{Exchange, Http1Body, State};
use super::connection::{Connection, flush};
use super::outgoing::Shape;
use super::parse::{self, Framing};
use crate::stream::Stream;

/// How much of a body that nobody read is thrown away to keep its connection, in bytes; with more left, closing is cheaper.
const DISCARD: usize = 64 * 1024;

/// A connection from a client of HTTP/1.
pub struct Http1Server {
    connection: Rc<RefCell<Connection>>,
    head_timeout: Duration,
    exchange: Rc<Exchange>,
    close_next: bool,
    /// Whether it has no TLS.
    plain: bool,
}

impl Http1Server {
    /// A server on `stream`, of which `read` was read already. A head may take `head_timeout` from its first byte.
    #[must_use]
    pub fn new(stream: Stream, read: &[u8], head_timeout: Duration) -> Self {
        let plain = matches!(stream, Stream::Plain(_));
        let connection = Rc::new(RefCell::new(Connection::new(stream, read)));
        Self { connection, head_timeout, exchange: Exchange::new(State::End, true, true), close_next: false, plain }
    }

    /// Whether nothing of a next request has come.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.connection.borrow().inbox.is_empty()
    }

    /// Ends the connection between two requests, so that the client can tell that one on its way was not taken.
    pub async fn leave(self) {
        linger(&self.connection).await;
    }

    /// Makes the next answer the last: it says `Connection: close`.
    pub fn close_after_next(&mut self) {
        self.close_next = true;
    }

    /// The next request; `None` once the client has closed, or the last answer ended the connection. Nothing is lost if the future is dropped.
    ///
    /// # Errors
    /// What is wrong with the request; [`Self::refuse`] answers it.
    pub async fn next(&mut self) -> Result<Option<(RequestHead, Body, Http1Responder)>, WireError> {
        if !self.exchange.said.get() {
            return Ok(None);
        }
        if !self.exchange.keep.get() || !self.discard().await {
            linger(&self.connection).await;
            return Ok(None);
        }
        // A connection between two requests may be silent for as long as it likes; a head must not be.
        loop {
            parse::skip_empty_lines(&mut self.connection.borrow_mut().inbox);
            if !self.is_idle() {
                break;
            }
            if !matches!(poll_fn(|cx| self.connection.borrow_mut().poll_fill(cx)).await, Ok(1..)) {
                return Ok(None);
            }
        }
        self.connection.borrow_mut().begin();
        // Most heads come whole, and need no timer.
        let read = match self.parsed()? {
            Some(parsed) => Some(parsed),
            None => timeout(self.head_timeout, self.head()).await.map_err(|_| WireError::HeadTimeout)??,
        };
        let Some((head, framing)) = read else { return Ok(None) };
        let keep = match head.version {
            Version::Http10 => head.fields.has_token("connection", "keep-alive"),
            _ => !head.fields.has_token("connection", "close"),
        };
        let exchange = Exchange::new(framing.into(), false, keep && !self.close_next);
        self.exchange = exchange.clone();
        let body = match exchange.body.get() {
            State::End => Body::Empty,
            _ => Body::Http1(Http1Body::new(self.connection.clone(), exchange.clone())),
        };
        let responder = Http1Responder {
            connection: self.connection.clone(),
            exchange,
            version: head.version,
            to_head: head.is_method("HEAD"),
            expects: head.fields.has_token("expect", "100-continue"),
            shape: Shape::None,
        };
        Ok(Some((head, body, responder)))
    }

    /// The rest of the next head, and the head; `None` where the client closed before its first byte.
    async fn head(&mut self) -> Result<Option<(RequestHead, Framing)>, WireError> {
        loop {
            if poll_fn(|cx| self.connection.borrow_mut().poll_fill(cx)).await? == 0 {
                if self.is_idle() {
                    return Ok(None);
                }
                // What is wrong already is told so, however the bytes came.
                return parse::request(&mut self.connection.borrow_mut().inbox, self.plain)?
                    .map_or(Err(WireError::Closed), |parsed| Ok(Some(parsed)));
            }
            if let Some(parsed) = self.parsed()? {
                return Ok(Some(parsed));
            }
        }
    }

    /// The next head, if all of it has come.
    fn parsed(&self) -> Result<Option<(RequestHead, Framing)>, WireError> {
        let mut connection = self.connection.borrow_mut();
        if connection.has_new_line() { parse::request(&mut connection.inbox, self.plain) } else { Ok(None) }
    }

    /// Throws away what nobody read of the last body, so that the connection can go on; `false` where closing is cheaper.
    async fn discard(&mut self) -> bool {
        if self.exchange.body.get() == State::End {
            return true;
        }
        let mut body = Http1Body::new(self.connection.clone(), self.exchange.clone());
        let rest = async {
            let mut left = DISCARD;
            loop {
                match poll_fn(|cx| body.poll_frame(cx)).await {
                    Some(Ok(Frame::Data(data))) if data.len() <= left => left -= data.len(),
                    Some(Ok(Frame::Trailers(_))) | None => return true,
                    Some(_) => return false,
                }
            }
        };
        timeout(self.head_timeout, rest).await.unwrap_or(false)
    }

    /// Answers a request that could not be read, and ends the connection.
    pub async fn refuse(self, status: u16, reason: &str, text: &str) {
        let head = format!(
            "HTTP/1.1 {status} {}\r\ncontent-type: text/plain\r\ncontent-length: {}\r\nconnection: close\r\n{}: {reason}\r\n\r\n{text}",
            phrase(status),
            text.len(),
            crate::path::clean::REASON
        );
        self.connection.borrow_mut().outbox.data(Bytes::from(head));
        // The client may be gone; then nobody is owed an answer.
        if flush(&self.connection).await.is_ok() {
            linger(&self.connection).await;
        }
    }
}

/// Ends our side and reads a little of what still comes: closing with unread bytes would reset the connection, and the
/// client might never see the answer.
async fn linger(connection: &RefCell<Connection>) {
    let read_on = async {
        let mut left = DISCARD;
        if poll_fn(|cx| connection.borrow_mut().poll_shutdown(cx)).await.is_err() {
            return;
        }
        loop {
            let count = std::mem::take(&mut connection.borrow_mut().inbox).len();
            left = left.saturating_sub(count);
            if left == 0 || !matches!(poll_fn(|cx| connection.borrow_mut().poll_fill(cx)).await, Ok(1..)) {
                return;
            }
        }
    };
    // A second is enough for what was on its way.
    let _: Result<(), _> = timeout(Duration::from_secs(1), read_on).await;
}

/// Answers one request of HTTP/1.
pub struct Http1Responder {
    connection: Rc<RefCell<Connection>>,
    exchange: Rc<Exchange>,
    version: Version,
    to_head: bool,
    /// The client waits for 100 before it sends its body.
    expects: bool,
    shape: Shape,
}

impl Http1Responder {
    pub(crate) async fn informational<'f>(&mut self, status: u16, fields: impl Iterator<Item = Field<'f>>) -> Result<(), WireError> {
        if status == 100 {
            self.expects = false;
        }
        // A client of HTTP/1.0 does not know them.
        if self.version != Version::Http10 {
            self.connection.borrow_mut().outbox.text(|text| {
                start(text, status);
                fields.for_each(|field| field.write_line(text));
                text.extend_from_slice(b"\r\n");
            });
            flush(&self.connection).await?;
        }
        Ok(())
    }

    /// Queues the head. `length`: of the body, where known; `end`: there is none.
    pub(crate) fn head<'f>(&mut self, status: u16, fields: impl Iterator<Item = Field<'f>>, length: Option<u64>, end: bool) {
        let bodiless = self.to_head || matches!(status, 204 | 304);
        let length = if end && !bodiless { Some(0) } else { length };
        self.shape = match (bodiless, length, self.version) {
            (true, _, _) => Shape::None,
            (false, Some(length), _) => Shape::Length(length),
            (false, None, Version::Http10) => Shape::UntilClose,
            (false, None, _) => Shape::Chunked,
        };
        let body = self.exchange.body.get();
        // Whether a client that got no 100 sends its body all the same, nobody can tell; nor where a broken one ends.
        if self.shape == Shape::UntilClose || body == State::Broken || (self.expects && body != State::End) {
            self.exchange.keep.set(false);
        }
        self.connection.borrow_mut().outbox.text(|text| {
            start(text, status);
            fields.for_each(|field| {
                if field.name.len() != 14 || !field.name.eq_ignore_ascii_case(b"content-length") {
                    field.write_line(text);
                }
            });
            match (length, self.shape) {
                (Some(length), _) if status != 204 => parse::content_length_line(text, length),
                (_, Shape::Chunked) => text.extend_from_slice(b"transfer-encoding: chunked\r\n"),
                _ => {}
            }
            if !self.exchange.keep.get() {
                text.extend_from_slice(b"connection: close\r\n");
            } else if self.version == Version::Http10 {
                text.extend_from_slice(b"connection: keep-alive\r\n");
            }
            text.extend_from_slice(b"\r\n");
        });
    }

    pub(crate) async fn data(&mut self, data: Bytes) -> Result<(), WireError> {
        self.shape.data(&mut self.connection.borrow_mut(), data)?;
        poll_fn(|cx| self.connection.borrow_mut().poll_room(cx)).await?;
        Ok(())
    }

    pub(crate) async fn end(self, trailers: Option<&Fields>) -> Result<(), WireError> {
        self.shape.end(&mut self.connection.borrow_mut(), trailers)?;
        flush(&self.connection).await?;
        if self.shape == Shape::UntilClose {
            // Inside TLS only an end in order tells a whole body from one cut off.
            poll_fn(|cx| self.connection.borrow_mut().poll_shutdown(cx)).await?;
        }
        self.exchange.said.set(true);
        Ok(())
    }

    pub(crate) async fn flush(&mut self) -> Result<(), WireError> {
        Ok(flush(&self.connection).await?)
    }

    /// Ends HTTP with 101.
    pub(crate) async fn upgrade<'f>(self, fields: impl Iterator<Item = Field<'f>>, protocol: &[u8]) -> Result<Tunnel, WireError> {
        if self.version == Version::Http10 {
            return Err(WireError::Invalid("HTTP/1.0 has no Upgrade"));
        }
        self.connection.borrow_mut().outbox.text(|text| {
            start(text, 101);
            parse::line(text, b"connection", b"upgrade");
            parse::line(text, b"upgrade", protocol);
            fields.for_each(|field| field.write_line(text));
            text.extend_from_slice(b"\r\n");
        });
        flush(&self.connection).await?;
        let taken = self.connection.borrow_mut().take();
        taken.map(|(stream, read)| Tunnel::Http1 { stream, read }).ok_or(WireError::Closed)
    }

    /// Ends the connection, as dropping it does.
    pub(crate) fn reset(self) {}

    pub(crate) async fn gone(&self) {
        if self.exchange.body.get() != State::End {
            std::future::pending::<()>().await;
        }
        poll_fn(|cx| self.connection.borrow_mut().poll_gone(cx)).await;
    }
}

impl Drop for Http1Responder {
    fn drop(&mut self) {
        // Half an answer, or none: the client must not take what it has for a whole one.
        if !self.exchange.said.get()
            && let Ok(connection) = self.connection.try_borrow()
        {
            connection.reset_on_close();
        }
    }
}

/// Begins the text of an answer's head.
fn start(text: &mut Vec<u8>, status: u16) {
    text.reserve(512);
    text.extend_from_slice(b"HTTP/1.1 ");
    parse::decimal(text, status.into());
    text.push(b' ');
    text.extend_from_slice(phrase(status).as_bytes());
    text.extend_from_slice(b"\r\n");
}
