//! The server's side of HTTP/2: requests as they come, each answered in its own time.

use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use lorica_model::head::{Field, Fields, RequestHead};
use tokio::io::AsyncReadExt;
use tokio::time::timeout;

use super::super::body::Body;
use super::super::error::WireError;
use super::super::fields::answer_length;
use super::super::upstream::Tunnel;
use super::Http2Tunnel;
use super::body::{finish, incoming, send};
use super::connection::Side;
use super::driver::{Driver, Handle};
use super::frame::{PREFACE, code};
use super::head::put_response;
use crate::stream::Stream;

/// How long a client may take for its preface; the time that a head may take, too.
const PREFACE_TIME: Duration = Duration::from_secs(10);

/// A connection from a client of HTTP/2.
pub struct Http2Server(pub(super) Driver);

impl Http2Server {
    /// Serves `stream`, of which `read` was read already.
    ///
    /// # Errors
    /// When the client's preface is none, or does not come within 10 s.
    pub async fn start(mut stream: Stream, read: Bytes) -> Result<Self, WireError> {
        let mut inbox = BytesMut::from(read);
        let preface = async {
            loop {
                let count = inbox.len().min(PREFACE.len());
                if inbox[..count] != PREFACE[..count] {
                    return Err(WireError::Invalid("the preface is none of HTTP/2"));
                }
                if count == PREFACE.len() {
                    return Ok(());
                }
                inbox.reserve(1024);
                if stream.read_buf(&mut inbox).await? == 0 {
                    return Err(WireError::Closed);
                }
            }
        };
        timeout(PREFACE_TIME, preface).await.map_err(|_| WireError::HeadTimeout)??;
        inbox.advance(PREFACE.len());
        Ok(Self(Driver::new(Side::Server, stream, inbox)))
    }

    /// Takes CONNECT requests to a host as well, which are answered with 501 else.
    pub fn take_connect(&mut self) {
        self.0.shared.connection.borrow_mut().takes_connect = true;
    }

    /// The next request; `None` once the connection has ended. It must be awaited for as long as exchanges are under way, since
    /// it drives them too. Nothing is lost if the future is dropped.
    ///
    /// # Errors
    /// When the connection broke. A request that is no valid one is answered here, and not returned.
    pub async fn next(&mut self) -> Result<Option<(RequestHead, Body, Http2Responder)>, WireError> {
        poll_fn(|cx| {
            loop {
                if let Some(request) = self.accepted() {
                    return Poll::Ready(Ok(Some(request)));
                }
                match self.0.poll(cx) {
                    Poll::Ready(Ok(())) => return Poll::Ready(Ok(None)),
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending if self.0.shared.connection.borrow().accepted.is_empty() => return Poll::Pending,
                    Poll::Pending => {}
                }
            }
        })
        .await
    }

    /// A request that nobody has taken yet.
    fn accepted(&self) -> Option<(RequestHead, Body, Http2Responder)> {
        let accepted = self.0.shared.connection.borrow_mut().accepted.pop_front()?;
        let stream = Handle::counted(self.0.shared.clone(), accepted.slot);
        let to_head = accepted.head.method() == "HEAD";
        let body = incoming(stream.clone(), accepted.length);
        Some((accepted.head, body, Http2Responder { stream, state: Answering::Before, to_head }))
    }

    /// Says GOAWAY: no new request is taken, those under way go on.
    pub fn graceful_shutdown(&mut self) {
        self.0.shared.connection.borrow_mut().leave();
    }
}

/// Answers one request of HTTP/2. Dropped before its end, it resets the stream.
pub struct Http2Responder {
    stream: Handle,
    state: Answering,
    to_head: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answering {
    Before,
    Body,
    Done,
}

impl Http2Responder {
    pub(crate) fn informational<'f>(&mut self, status: u16, fields: impl Iterator<Item = Field<'f>>) -> Result<(), WireError> {
        if self.state != Answering::Before {
            return Ok(());
        }
        self.stream.with(|connection, slot| {
            connection.sendable(slot)?;
            let id = connection.streams.peek(slot).id;
            connection.put_block(id, false, |encoder, out| put_response(status, fields, None, encoder, out));
            Ok(())
        })
    }

    pub(crate) fn head<'f>(
        &mut self,
        status: u16,
        fields: impl Iterator<Item = Field<'f>>,
        length: Option<u64>,
        end: bool,
    ) -> Result<(), WireError> {
        if self.state != Answering::Before {
            return Err(WireError::Closed);
        }
        let (length, end) = answer_length(status, self.to_head, length, end)?;
        self.stream.with(|connection, slot| {
            connection.sendable(slot)?;
            connection.put_head(slot, end, |encoder, out| put_response(status, fields, length, encoder, out));
            Ok::<(), WireError>(())
        })?;
        self.state = if end { Answering::Done } else { Answering::Body };
        Ok(())
    }

    pub(crate) async fn data(&mut self, data: Bytes) -> Result<(), WireError> {
        match self.state {
            Answering::Body => send(&self.stream, data).await,
            Answering::Before => Err(WireError::Closed),
            Answering::Done => Ok(()),
        }
    }

    pub(crate) fn end(mut self, trailers: Option<&Fields>) -> Result<(), WireError> {
        match std::mem::replace(&mut self.state, Answering::Done) {
            Answering::Body => finish(&self.stream, trailers),
            Answering::Before => {
                self.state = Answering::Before;
                Err(WireError::Closed)
            }
            Answering::Done => Ok(()),
        }
    }

    pub(crate) fn upgrade<'f>(mut self, fields: impl Iterator<Item = Field<'f>>, body: Body) -> Result<Tunnel, WireError> {
        if self.state != Answering::Before {
            return Err(WireError::Closed);
        }
        let Body::Http2(body) = body else { return Err(WireError::Closed) };
        self.stream.with(|connection, slot| {
            connection.sendable(slot)?;
            // An extended CONNECT succeeds with 200 (RFC 8441), whatever the other side's version says.
            connection.put_head(slot, false, |encoder, out| put_response(200, fields, None, encoder, out));
            Ok::<(), WireError>(())
        })?;
        body.give_up();
        self.state = Answering::Done;
        Ok(Tunnel::Http2(Http2Tunnel::new(self.stream.clone())))
    }

    pub(crate) fn reset(mut self) {
        self.reset_with(code::INTERNAL_ERROR);
    }

    fn reset_with(&mut self, code: u32) {
        if std::mem::replace(&mut self.state, Answering::Done) != Answering::Done {
            self.stream.with(|connection, slot| connection.reset(slot, code));
        }
    }

    pub(crate) async fn gone(&mut self) {
        if self.state == Answering::Done {
            std::future::pending().await
        }
        poll_fn(|cx| self.stream.with(|connection, slot| connection.poll_gone(slot, cx))).await;
        tracing::trace!("the client reset its stream");
    }
}

impl Drop for Http2Responder {
    fn drop(&mut self) {
        self.reset_with(code::CANCEL);
    }
}
