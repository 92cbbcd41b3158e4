//! The server's side of HTTP/1: one request after another.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use lorica_model::head::{Fields, RequestHead, Version};
use tokio::time::timeout;

use super::super::body::{Body, Frame};
use super::super::error::WireError;
use super::super::fields::phrase;
use super::super::upstream::Tunnel;
use super::body::{Http1Body, Progress, State};
use super::connection::{Connection, flush};
use super::parse::{self, Framing};
use crate::stream::Stream;

/// How much of a body that nobody read is thrown away to keep its connection, in bytes; with more left, closing is cheaper.
const DISCARD: usize = 64 * 1024;

/// A connection from a client of HTTP/1.
pub struct Http1Server {
    connection: Rc<RefCell<Connection>>,
    head_timeout: Duration,
    current: Rc<Current>,
    close_next: bool,
}

/// The state of one exchange, shared by its body, its responder and the connection.
struct Current {
    body: Progress,
    answered: Cell<bool>,
    keep: Cell<bool>,
}

impl Http1Server {
    /// A server on `stream`, of which `read` was read already. A head may take `head_timeout` from its first byte.
    #[must_use]
    pub fn new(stream: Stream, read: &[u8], head_timeout: Duration) -> Self {
        let none = Current { body: Rc::new(Cell::new(State::End)), answered: Cell::new(true), keep: Cell::new(true) };
        Self { connection: Rc::new(RefCell::new(Connection::new(stream, read))), head_timeout, current: Rc::new(none), close_next: false }
    }

    /// Whether nothing of a next request has come.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.connection.borrow().inbox.is_empty()
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
        if !self.current.answered.get() || !self.current.keep.get() || !self.discard().await {
            return Ok(None);
        }
        if self.is_idle() && poll_fn(|cx| self.connection.borrow_mut().poll_fill(cx)).await.unwrap_or_default() == 0 {
            return Ok(None);
        }
        let read = async {
            loop {
                if let Some(head) = parse::request(&mut self.connection.borrow_mut().inbox)? {
                    return Ok(Some(head));
                }
                if poll_fn(|cx| self.connection.borrow_mut().poll_fill(cx)).await? == 0 {
                    return if self.connection.borrow().inbox.is_empty() { Ok(None) } else { Err(WireError::Closed) };
                }
            }
        };
        let read = timeout(self.head_timeout, read).await.map_err(|_| WireError::HeadTimeout)?;
        let Some((head, framing)) = read? else { return Ok(None) };
        let keep = match head.version {
            Version::Http10 => head.fields.has_token("connection", "keep-alive"),
            _ => !head.fields.has_token("connection", "close"),
        };
        let progress = Rc::new(Cell::new(State::from(framing)));
        let current = Rc::new(Current { body: progress.clone(), answered: Cell::new(false), keep: Cell::new(keep && !self.close_next) });
        self.current = current.clone();
        let body = if framing == Framing::None { Body::Empty } else { Body::Http1(Http1Body::new(self.connection.clone(), progress)) };
        let responder = Http1Responder {
            connection: self.connection.clone(),
            current,
            version: head.version,
            to_head: head.method() == "HEAD",
            upgrade: head.fields.has_token("connection", "upgrade"),
            shape: Shape::None,
        };
        Ok(Some((head, body, responder)))
    }

    /// Throws away what nobody read of the last body, so that the connection can go on; `false` where closing is cheaper.
    async fn discard(&mut self) -> bool {
        let mut body = Http1Body::new(self.connection.clone(), self.current.body.clone());
        let mut left = DISCARD;
        while !body.is_end() {
            match poll_fn(|cx| body.poll_frame(cx)).await {
                Some(Ok(Frame::Data(data))) if data.len() <= left => left -= data.len(),
                Some(Ok(Frame::Trailers(_))) | None => return true,
                Some(_) => return false,
            }
        }
        true
    }

    /// Answers a request that could not be read, and ends the connection.
    pub async fn refuse(self, status: u16, reason: &str, text: &str) {
        let head = format!(
            "HTTP/1.1 {status} {}\r\ncontent-type: text/plain\r\ncontent-length: {}\r\nconnection: close\r\n{}: {reason}\r\n\r\n{text}",
            phrase(status),
            text.len(),
            crate::path::clean::REASON
        );
        self.connection.borrow_mut().push(Bytes::from(head));
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
        while left > 0 {
            let mut connection_now = connection.borrow_mut();
            left = left.saturating_sub(connection_now.inbox.len());
            connection_now.inbox.clear();
            drop(connection_now);
            if !matches!(poll_fn(|cx| connection.borrow_mut().poll_fill(cx)).await, Ok(1..)) {
                return;
            }
        }
    };
    // A second is enough for what was on its way.
    let _: Result<(), _> = timeout(Duration::from_secs(1), read_on).await;
}

/// How the body of an answer is framed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// No head yet, or no body.
    None,
    Length,
    Chunked,
    UntilClose,
}

/// Answers one request of HTTP/1.
pub struct Http1Responder {
    connection: Rc<RefCell<Connection>>,
    current: Rc<Current>,
    version: Version,
    to_head: bool,
    upgrade: bool,
    shape: Shape,
}

impl Http1Responder {
    pub(crate) async fn informational<'f>(&mut self, status: u16, fields: impl Iterator<Item = (&'f [u8], &'f [u8])>) -> Result<(), WireError> {
        // A client of HTTP/1.0 does not know them.
        if self.version != Version::Http10 {
            let mut text = start(status);
            fields.for_each(|(name, value)| parse::line(&mut text, name, value));
            text.extend_from_slice(b"\r\n");
            self.connection.borrow_mut().push(text.into());
            flush(&self.connection).await?;
        }
        Ok(())
    }

    /// Queues the head. `length`: of the body, where known; `end`: there is none.
    pub(crate) fn head<'f>(&mut self, status: u16, fields: impl Iterator<Item = (&'f [u8], &'f [u8])>, length: Option<u64>, end: bool) {
        let mut text = start(status);
        fields.for_each(|(name, value)| {
            if !name.eq_ignore_ascii_case(b"content-length") {
                parse::line(&mut text, name, value);
            }
        });
        let bodiless = self.to_head || matches!(status, 204 | 304);
        let length = if end && !bodiless { Some(0) } else { length };
        self.shape = match (bodiless, length, self.version) {
            (true, _, _) => Shape::None,
            (false, Some(_), _) => Shape::Length,
            (false, None, Version::Http10) => Shape::UntilClose,
            (false, None, _) => Shape::Chunked,
        };
        match (length, self.shape) {
            (Some(length), _) if status != 204 => parse::line(&mut text, b"content-length", length.to_string().as_bytes()),
            (_, Shape::Chunked) => text.extend_from_slice(b"transfer-encoding: chunked\r\n"),
            (_, Shape::UntilClose) => self.current.keep.set(false),
            _ => {}
        }
        if !self.current.keep.get() {
            text.extend_from_slice(b"connection: close\r\n");
        } else if self.version == Version::Http10 {
            text.extend_from_slice(b"connection: keep-alive\r\n");
        }
        text.extend_from_slice(b"\r\n");
        self.connection.borrow_mut().push(text.into());
    }

    pub(crate) async fn data(&mut self, data: Bytes) -> Result<(), WireError> {
        match self.shape {
            Shape::None => return Ok(()),
            Shape::Chunked => {
                let mut connection = self.connection.borrow_mut();
                connection.push(parse::chunk(data.len()));
                connection.push(data);
                connection.push(Bytes::from_static(b"\r\n"));
            }
            Shape::Length | Shape::UntilClose => self.connection.borrow_mut().push(data),
        }
        poll_fn(|cx| self.connection.borrow_mut().poll_room(cx)).await?;
        Ok(())
    }

    pub(crate) async fn end(self, trailers: Option<&Fields>) -> Result<(), WireError> {
        if self.shape == Shape::Chunked {
            let mut text = b"0\r\n".to_vec();
            if let Some(trailers) = trailers {
                trailers.iter().for_each(|(name, value)| parse::line(&mut text, name, value));
            }
            text.extend_from_slice(b"\r\n");
            self.connection.borrow_mut().push(text.into());
        }
        flush(&self.connection).await?;
        self.current.answered.set(true);
        if !self.current.keep.get() && self.current.body.get() != State::End {
            linger(&self.connection).await;
        }
        Ok(())
    }

    pub(crate) async fn flush(&mut self) -> Result<(), WireError> {
        Ok(flush(&self.connection).await?)
    }

    /// Ends HTTP with 101.
    pub(crate) async fn upgrade<'f>(self, fields: impl Iterator<Item = (&'f [u8], &'f [u8])>, protocol: &[u8]) -> Result<Tunnel, WireError> {
        let mut text = start(101);
        parse::line(&mut text, b"connection", b"upgrade");
        parse::line(&mut text, b"upgrade", protocol);
        fields.for_each(|(name, value)| parse::line(&mut text, name, value));
        text.extend_from_slice(b"\r\n");
        self.connection.borrow_mut().push(text.into());
        flush(&self.connection).await?;
        let taken = self.connection.borrow_mut().take();
        taken.map(|(stream, read)| Tunnel::Http1 { stream, read }).ok_or(WireError::Closed)
    }

    pub(crate) fn wants_upgrade(&self) -> bool {
        self.upgrade
    }

    pub(crate) fn reset(self) {
        self.connection.borrow().reset_on_close();
        self.current.keep.set(false);
    }

    pub(crate) async fn gone(&self) {
        if self.current.body.get() != State::End {
            std::future::pending::<()>().await;
        }
        poll_fn(|cx| self.connection.borrow_mut().poll_gone(cx)).await;
    }
}

fn start(status: u16) -> Vec<u8> {
    let mut text = Vec::with_capacity(512);
    text.extend_from_slice(b"HTTP/1.1 ");
    text.extend_from_slice(status.to_string().as_bytes());
    text.push(b' ');
    text.extend_from_slice(phrase(status).as_bytes());
    text.extend_from_slice(b"\r\n");
    text
}
