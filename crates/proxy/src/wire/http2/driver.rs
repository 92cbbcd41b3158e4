//! The one task of a connection: it reads, has every whole frame taken in, and writes all that is queued at once.
//!
//! Streams only queue frames and wake it. It runs behind the tasks that the same read woke, so that what they all say leaves
//! in one write: that is where a shared connection is cheaper than many.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::BytesMut;
use tokio::io::AsyncWrite;
use tokio::sync::Notify;

use super::super::error::WireError;
use super::connection::{Connection, OUTBOX_STOP, Side};
use super::frame::{self, code};
use super::outbox::SLICES;
use crate::stream::Stream;

/// The least room for a read, in bytes: some requests.
const LEAST_READ: usize = 8 * 1024;
/// The most room for a read, in bytes: what a peer with much to say has usually sent meanwhile. Never below a frame.
const MOST_READ: usize = 64 * 1024;

/// A connection as its handles see it.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) connection: RefCell<Connection>,
    /// An exchange may begin.
    pub(super) room: Notify,
    /// The peer's settings have come.
    pub(super) settled: Notify,
}

/// Moves the bytes of one connection.
pub(super) struct Driver {
    stream: Stream,
    pub(super) shared: Rc<Shared>,
    inbox: BytesMut,
    /// How much to read at once.
    room: usize,
    /// Written, but perhaps still held back by TLS.
    unflushed: bool,
    /// Our last word is in the outbox.
    closing: bool,
    /// Requests were handed out: whoever answers them runs first.
    yields: bool,
}

/// Why the driver has to wait, or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Read {
    /// More came.
    More,
    /// There is nothing more.
    Nothing,
    /// The peer's side has ended.
    End,
}

impl Driver {
    pub(super) fn new(side: Side, stream: Stream, inbox: BytesMut) -> Self {
        let shared = Shared { connection: RefCell::new(Connection::new(side)), room: Notify::new(), settled: Notify::new() };
        Self { stream, shared: Rc::new(shared), inbox, room: LEAST_READ, unflushed: false, closing: false, yields: false }
    }

    /// Moves what can be moved. Ready once the connection has ended; pending also where a server's requests are to be taken.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), WireError>> {
        let shared = self.shared.clone();
        let mut connection = shared.connection.borrow_mut();
        let connection = &mut *connection;
        connection.driven_by(cx);
        let settled = connection.settled;
        let driven = self.drive(connection, cx);
        connection.notified = false;
        if driven.is_pending() && connection.woke && !connection.outbox.is_empty() {
            // What is left is written behind those that were woken, with what they have to say.
            connection.wake();
        }
        if let Poll::Ready(Err(error)) = &driven {
            connection.end(error);
        }
        if connection.settled != settled || driven.is_ready() {
            shared.settled.notify_waiters();
        }
        if driven.is_ready() {
            connection.end(&WireError::Closed);
            shared.room.notify_waiters();
        } else if connection.waiting > 0 && (connection.has_room() || connection.is_ended()) {
            shared.room.notify_one();
        }
        driven
    }

    fn drive(&mut self, connection: &mut Connection, cx: &mut Context<'_>) -> Poll<Result<(), WireError>> {
        if let Some(error) = connection.ended.clone() {
            return Poll::Ready(Err(error));
        }
        if std::mem::take(&mut self.yields) {
            // What they say at once is written together.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        loop {
            self.write(connection, cx)?;
            if connection.is_done() {
                return self.close(connection, cx);
            }
            if !connection.accepted.is_empty() {
                // A server takes them one by one; more would only wait.
                self.yields = true;
                return Poll::Pending;
            }
            if connection.outbox.waiting() >= OUTBOX_STOP {
                return Poll::Pending;
            }
            let read = self.read(cx)?;
            if let Err(broken) = connection.receive(&mut self.inbox) {
                let error = connection.broken(broken);
                // The peer may not read it; nobody waits for that.
                self.write(connection, cx)?;
                let _: Poll<io::Result<()>> = Pin::new(&mut self.stream).poll_shutdown(cx);
                return Poll::Ready(Err(error));
            }
            match read {
                Read::End => {
                    // Its last words may have asked for an answer.
                    self.write(connection, cx)?;
                    let orderly = self.inbox.is_empty() && connection.block.is_none() && connection.streams.open() == 0;
                    return Poll::Ready(if orderly { Ok(()) } else { Err(WireError::Closed) });
                }
                Read::Nothing => {
                    if connection.woke || connection.outbox.is_empty() {
                        if self.inbox.is_empty() {
                            // Most connections are silent most of the time; a silent one holds no buffers.
                            self.inbox = BytesMut::new();
                            self.room = LEAST_READ;
                            connection.rest();
                        }
                        return Poll::Pending;
                    }
                    self.write(connection, cx)?;
                    if connection.is_done() {
                        return self.close(connection, cx);
                    }
                    return Poll::Pending;
                }
                Read::More if connection.woke => {
                    // They run first, and then their answers are written with the next read.
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                Read::More => {}
            }
        }
    }

    /// Reads once.
    fn read(&mut self, cx: &mut Context<'_>) -> io::Result<Read> {
        let free = self.inbox.capacity() - self.inbox.len();
        if free < self.room / 2 {
            self.inbox.reserve(self.room);
        }
        let free = self.inbox.capacity() - self.inbox.len();
        let read = tokio_util::io::poll_read_buf(Pin::new(&mut self.stream), cx, &mut self.inbox);
        Ok(match read {
            Poll::Pending => Read::Nothing,
            Poll::Ready(count) => match count? {
                0 => Read::End,
                count => {
                    if count == free {
                        self.room = (2 * self.room).min(MOST_READ);
                    }
                    Read::More
                }
            },
        })
    }

    /// Writes until nothing is left, or the socket takes no more.
    fn write(&mut self, connection: &mut Connection, cx: &mut Context<'_>) -> io::Result<()> {
        loop {
            connection.pump();
            if connection.outbox.is_empty() {
                break;
            }
            let mut slices = [IoSlice::new(&[]); SLICES];
            let used = connection.outbox.slices(&mut slices);
            match Pin::new(&mut self.stream).poll_write_vectored(cx, &slices[..used]) {
                Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(count)) => connection.outbox.wrote(count),
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Pending => return Ok(()),
            }
            self.unflushed = true;
        }
        if self.unflushed && Pin::new(&mut self.stream).poll_flush(cx)?.is_ready() {
            self.unflushed = false;
        }
        Ok(())
    }

    /// Says the last word, and ends our side.
    fn close(&mut self, connection: &mut Connection, cx: &mut Context<'_>) -> Poll<Result<(), WireError>> {
        if !std::mem::replace(&mut self.closing, true) && connection.side == Side::Client {
            connection.outbox.put(&frame::goaway(0, code::NO_ERROR));
        }
        self.write(connection, cx)?;
        if !connection.outbox.is_empty() || self.unflushed {
            return Poll::Pending;
        }
        Pin::new(&mut self.stream).poll_shutdown(cx).map(|shut| Ok(shut?))
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.shared.connection.borrow_mut().end(&WireError::Closed);
        self.shared.room.notify_waiters();
        self.shared.settled.notify_waiters();
    }
}

/// A handle of one stream. The last one that is dropped ends the stream, unless both sides are done.
#[derive(Debug)]
pub(super) struct Handle {
    shared: Rc<Shared>,
    slot: u32,
}

impl Handle {
    /// A handle that the slot has counted already.
    pub(super) fn counted(shared: Rc<Shared>, slot: u32) -> Self {
        Self { shared, slot }
    }

    /// Does something with the connection and this stream in it.
    pub(super) fn with<T>(&self, act: impl FnOnce(&mut Connection, u32) -> T) -> T {
        act(&mut self.shared.connection.borrow_mut(), self.slot)
    }
}

impl Clone for Handle {
    fn clone(&self) -> Self {
        self.with(|connection, slot| connection.streams.get(slot).handles += 1);
        Self { shared: self.shared.clone(), slot: self.slot }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.with(Connection::dropped);
    }
}
