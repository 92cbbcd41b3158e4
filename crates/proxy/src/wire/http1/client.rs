//! The client's side of HTTP/1: one exchange at a time on a connection that may serve more.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;

use bytes::Bytes;
use lorica_model::head::{Fields, Version};

use super::super::body::Body;
use super::super::error::WireError;
use super::super::upstream::{Answer, Outgoing, Tunnel};
use super::body::{Http1Body, Progress, State};
use super::connection::{Connection, flush};
use super::parse;
use crate::stream::Stream;

/// The most interim answers that one request may have; more would be a way to keep a proxy busy for ever.
const MAX_INFORMATIONAL: u32 = 8;

/// A connection to a server of HTTP/1. A clone is another handle of the same connection.
#[derive(Clone)]
pub struct Http1Client {
    connection: Rc<RefCell<Connection>>,
    exchange: Rc<Exchange>,
}

/// The state of the exchange under way.
struct Exchange {
    sent: Cell<bool>,
    body: RefCell<Option<Progress>>,
    keep: Cell<bool>,
}

impl Http1Client {
    /// A client on `stream`.
    #[must_use]
    pub fn new(stream: Stream) -> Self {
        let exchange = Exchange { sent: Cell::new(true), body: RefCell::new(Some(Rc::new(Cell::new(State::End)))), keep: Cell::new(true) };
        Self { connection: Rc::new(RefCell::new(Connection::new(stream, &[]))), exchange: Rc::new(exchange) }
    }

    /// Whether the last exchange is over on both sides and left the connection fit for another.
    #[must_use]
    pub fn is_reusable(&self) -> bool {
        let received = self.exchange.body.borrow().as_ref().is_some_and(|body| body.get() == State::End);
        self.exchange.sent.get() && received && self.exchange.keep.get() && !self.connection.borrow_mut().is_stale()
    }

    /// Begins an exchange: queues the request's head. It leaves with the first bytes of the body, or at the next flush.
    #[must_use]
    pub fn send(&mut self, outgoing: &Outgoing<'_>) -> (Http1Sender, Http1Receiver) {
        let Outgoing { head, .. } = outgoing;
        let mut text = Vec::with_capacity(1024);
        text.extend_from_slice(head.method().as_bytes());
        text.push(b' ');
        text.extend_from_slice(outgoing.path_and_query().as_bytes());
        text.extend_from_slice(b" HTTP/1.1\r\n");
        let from_http2 = head.version == Version::Http2;
        if from_http2 || head.fields.position("host").is_none() || outgoing.edits.authority.is_some() {
            parse::line(&mut text, b"host", outgoing.authority().as_bytes());
        }
        let mut crumbs: Vec<u8> = Vec::new();
        outgoing.fields(|name, value| {
            if name.eq_ignore_ascii_case(b"content-length") || (from_http2 && name == b"host") {
                return;
            }
            if from_http2 && name == b"cookie" {
                if !crumbs.is_empty() {
                    crumbs.extend_from_slice(b"; ");
                }
                return crumbs.extend_from_slice(value);
            }
            parse::line(&mut text, name, value);
        });
        if !crumbs.is_empty() {
            parse::line(&mut text, b"cookie", &crumbs);
        }
        let chunked = match (outgoing.length, outgoing.upgrade) {
            (Some(0), _) if outgoing.declared_length() => {
                parse::line(&mut text, b"content-length", b"0");
                false
            }
            (Some(0), _) => false,
            (Some(length), _) => {
                parse::line(&mut text, b"content-length", length.to_string().as_bytes());
                false
            }
            (None, _) => {
                text.extend_from_slice(b"transfer-encoding: chunked\r\n");
                true
            }
        };
        if let Some(protocol) = outgoing.upgrade {
            parse::line(&mut text, b"connection", b"upgrade");
            parse::line(&mut text, b"upgrade", protocol);
        }
        text.extend_from_slice(b"\r\n");
        self.connection.borrow_mut().push(text.into());
        self.exchange = Rc::new(Exchange { sent: Cell::new(false), body: RefCell::new(None), keep: Cell::new(true) });
        let sender = Http1Sender { connection: self.connection.clone(), exchange: self.exchange.clone(), chunked };
        let receiver = Http1Receiver {
            connection: self.connection.clone(),
            exchange: self.exchange.clone(),
            to_head: head.method() == "HEAD",
            upgrade: outgoing.upgrade.is_some(),
            informational: 0,
        };
        (sender, receiver)
    }
}

/// Sends the body of one request.
pub struct Http1Sender {
    connection: Rc<RefCell<Connection>>,
    exchange: Rc<Exchange>,
    chunked: bool,
}

impl Http1Sender {
    pub(crate) async fn data(&mut self, data: Bytes) -> Result<(), WireError> {
        {
            let mut connection = self.connection.borrow_mut();
            if self.chunked {
                connection.push(parse::chunk(data.len()));
                connection.push(data);
                connection.push(Bytes::from_static(b"\r\n"));
            } else {
                connection.push(data);
            }
        }
        poll_fn(|cx| self.connection.borrow_mut().poll_room(cx)).await?;
        Ok(())
    }

    pub(crate) async fn end(&mut self, trailers: Option<&Fields>) -> Result<(), WireError> {
        if self.chunked {
            let mut text = b"0\r\n".to_vec();
            if let Some(trailers) = trailers {
                trailers.iter().for_each(|(name, value)| parse::line(&mut text, name, value));
            }
            text.extend_from_slice(b"\r\n");
            self.connection.borrow_mut().push(text.into());
        }
        flush(&self.connection).await?;
        self.exchange.sent.set(true);
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
    upgrade: bool,
    informational: u32,
}

impl Http1Receiver {
    /// The next head of the answer. Nothing is lost if the future is dropped.
    pub(crate) async fn answer(&mut self) -> Result<Answer, WireError> {
        loop {
            let parsed = parse::response(&mut self.connection.borrow_mut().inbox, self.to_head)?;
            let Some((head, framing)) = parsed else {
                let empty = self.connection.borrow().inbox.is_empty();
                if poll_fn(|cx| self.connection.borrow_mut().poll_fill(cx)).await? == 0 {
                    return Err(if empty { WireError::Closed } else { WireError::Invalid("the answer's head is cut off") });
                }
                continue;
            };
            match head.status {
                101 if self.upgrade => {
                    let taken = self.connection.borrow_mut().take();
                    let (stream, read) = taken.ok_or(WireError::Closed)?;
                    self.exchange.keep.set(false);
                    return Ok(Answer::Upgraded(head, Tunnel::Http1 { stream, read }));
                }
                101 => return Err(WireError::Invalid("101 was not asked for")),
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
                Version::Http10 => head.fields.has_token("connection", "keep-alive"),
                _ => !head.fields.has_token("connection", "close"),
            };
            let progress = Rc::new(Cell::new(State::from(framing)));
            self.exchange.keep.set(keep && progress.get() != State::UntilClose);
            *self.exchange.body.borrow_mut() = Some(progress.clone());
            let body = if progress.get() == State::End { Body::Empty } else { Body::Http1(Http1Body::new(self.connection.clone(), progress)) };
            return Ok(Answer::Final(head, body));
        }
    }
}
