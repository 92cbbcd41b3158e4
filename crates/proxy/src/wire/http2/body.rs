//! Bodies of HTTP/2 in both directions, each at the pace of whoever receives it.

use std::future::poll_fn;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use lorica_model::head::Fields;

use super::super::body::{Body, Frame};
use super::super::error::WireError;
use super::connection::Connection;
use super::driver::Handle;
use super::head::trailers_block;
use super::stream::wait;

/// A body of HTTP/2 as it comes in. The peer may send more only as what came is used up.
pub struct Http2Body {
    stream: Handle,
    /// As its head declared; the connection holds the peer to it.
    length: Option<u64>,
    ended: bool,
}

/// The body that comes on `stream`.
pub(super) fn incoming(stream: Handle, length: Option<u64>) -> Body {
    let ended = stream.with(|connection, slot| connection.is_received(slot));
    if ended { Body::Empty } else { Body::Http2(Http2Body { stream, length, ended: false }) }
}

impl Connection {
    /// Whether all that a stream receives was given out.
    fn is_received(&self, slot: u32) -> bool {
        let stream = self.streams.peek(slot);
        stream.remote_closed && stream.data.is_empty() && stream.trailers.is_none()
    }

    /// The next data of a stream; `None` once there is none, but perhaps trailers. What was given out before is used up.
    pub(super) fn poll_data(&mut self, slot: u32, cx: &Context<'_>) -> Poll<Option<Result<Bytes, WireError>>> {
        let owed = std::mem::take(&mut self.streams.get(slot).owed);
        if owed > 0 {
            self.release(slot, owed as usize);
        }
        let stream = self.streams.get(slot);
        if let Some(data) = stream.data.pop_front() {
            stream.owed = data.len() as u32;
            return Poll::Ready(Some(Ok(data)));
        }
        if stream.remote_closed {
            return Poll::Ready(None);
        }
        if let Some(why) = &stream.failed {
            return Poll::Ready(Some(Err(why.clone())));
        }
        wait(&mut stream.receiving, cx);
        Poll::Pending
    }

    /// Waits until the peer has reset a stream, or the connection has ended.
    pub(super) fn poll_gone(&mut self, slot: u32, cx: &Context<'_>) -> Poll<()> {
        let stream = self.streams.get(slot);
        if stream.failed.is_some() {
            return Poll::Ready(());
        }
        wait(&mut stream.gone, cx);
        Poll::Pending
    }
}

impl Http2Body {
    pub(crate) fn is_end(&self) -> bool {
        self.ended || self.stream.with(|connection, slot| connection.is_received(slot))
    }

    pub(crate) fn length(&self) -> Option<u64> {
        self.length
    }

    pub(crate) fn poll_frame(&mut self, cx: &Context<'_>) -> Poll<Option<Result<Frame, WireError>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let frame = self.stream.with(|connection, slot| match ready!(connection.poll_data(slot, cx)) {
            Some(data) => Poll::Ready(Some(data.map(Frame::Data))),
            None => Poll::Ready(connection.streams.get(slot).trailers.take().map(|trailers| Ok(Frame::Trailers(*trailers)))),
        });
        let frame = ready!(frame);
        self.ended = !matches!(frame, Some(Ok(Frame::Data(_))));
        Poll::Ready(frame)
    }

    /// What follows is read elsewhere.
    pub(super) fn give_up(mut self) {
        self.ended = true;
    }
}

impl Drop for Http2Body {
    fn drop(&mut self) {
        if !self.ended {
            self.stream.with(Connection::unwant);
        }
    }
}

/// Sends bytes as the peer's window allows.
pub(super) async fn send(stream: &Handle, data: Bytes) -> Result<(), WireError> {
    if data.is_empty() {
        return Ok(());
    }
    poll_fn(|cx| stream.with(|connection, slot| connection.poll_room(slot, cx))).await?;
    stream.with(|connection, slot| connection.send(slot, data));
    Ok(())
}

/// Ends a body.
pub(super) fn finish(stream: &Handle, fields: Option<&Fields>) -> Result<(), WireError> {
    let trailers = fields.and_then(trailers_block);
    stream.with(|connection, slot| connection.finish(slot, trailers))
}
