//! The connection under a codec: what was read and not yet used, what is to be written.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Bytes, BytesMut};
use lorica_model::head::MAX_HEAD_BYTES;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::outbox::Outbox;
use super::untaken;
use crate::stream::Stream;

/// How much is read at once, in bytes: one TLS record, so that a record's rest never waits in the TLS layer.
const READ: usize = 16 * 1024;
/// How much may wait to be written before the writer must wait for the peer, in bytes.
const WRITE: usize = 64 * 1024;

thread_local! {
    /// What heads and small bodies are read into: a connection then holds no more than what came.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ].into_boxed_slice());
}

/// A connection with its buffers.
pub(super) struct Connection {
    /// Taken out when the connection becomes a tunnel.
    stream: Option<Stream>,
    /// What was read and not yet used.
    pub(super) inbox: BytesMut,
    /// Whether the peer has ended its side.
    pub(super) ended: bool,
    /// Whether a call failed as it does after a reset. The kernel tells that once, to whichever call comes first; reading then finds the end.
    reset: bool,
    /// What is to be written.
    pub(super) outbox: Outbox,
    /// Whether much comes at once.
    bulk: bool,
    /// Bytes written since [`Self::begin`].
    written: u64,
    /// How much of the inbox was looked at in vain for the end of a head.
    looked: usize,
}

impl Connection {
    pub(super) fn new(stream: Stream, read: &[u8]) -> Self {
        Self {
            stream: Some(stream),
            inbox: BytesMut::from(read),
            ended: false,
            reset: false,
            outbox: Outbox::default(),
            bulk: false,
            written: 0,
            looked: 0,
        }
    }

    /// A new message begins: from here on it counts what is written, and looks at the inbox afresh.
    pub(super) fn begin(&mut self) {
        self.written = 0;
        self.look_afresh();
    }

    /// What [`Self::has_new_line`] has seen no longer counts: something was taken out of the inbox.
    pub(super) fn look_afresh(&mut self) {
        self.looked = 0;
    }

    /// Whether the peer, which has closed, certainly had nothing of what was written since [`Self::begin`] when it did.
    pub(super) fn is_untaken(&self) -> bool {
        untaken::is_untaken(self.stream.as_ref(), self.written, self.ended && !self.reset)
    }

    /// Whether any call met a reset.
    pub(super) fn was_reset(&self) -> bool {
        self.reset
    }

    /// Whether everything queued was written.
    pub(super) fn is_flushed(&self) -> bool {
        self.outbox.is_empty()
    }

    /// Whether parsing can have come further: only with another line. A peer that sends byte by byte would else make each byte
    /// cost a whole head. At most one parse for each line remains.
    pub(super) fn has_new_line(&mut self) -> bool {
        if self.looked == 0 {
            // Most heads come whole: parsing tells at once.
            self.looked = self.inbox.len();
            return true;
        }
        let from = self.looked.min(self.inbox.len());
        self.looked = self.inbox.len();
        self.looked >= MAX_HEAD_BYTES || self.inbox[from..].contains(&b'\n')
    }

    fn stream(&mut self) -> io::Result<&mut Stream> {
        self.stream.as_mut().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// Reads more into the inbox; 0 at the end.
    pub(super) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.ended {
            return Poll::Ready(Ok(0));
        }
        let Self { stream: Some(stream), inbox, outbox, bulk, .. } = self else {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        };
        let read = if *bulk {
            // What is large is read where it stays.
            inbox.reserve(READ);
            tokio_util::io::poll_read_buf(Pin::new(stream), cx, inbox)
        } else {
            SCRATCH.with_borrow_mut(|scratch| {
                let mut buffer = ReadBuf::new(scratch);
                let read = ready!(Pin::new(stream).poll_read(cx, &mut buffer));
                inbox.extend_from_slice(buffer.filled());
                Poll::Ready(read.map(|()| buffer.filled().len()))
            })
        };
        let Poll::Ready(read) = read else {
            if inbox.is_empty() {
                // Most connections are silent most of the time; a silent one holds no buffer.
                *inbox = BytesMut::new();
                *bulk = false;
                outbox.give_back();
            }
            return Poll::Pending;
        };
        let count = self.noted(read)?;
        self.bulk = count >= READ / 2;
        self.ended = count == 0;
        Poll::Ready(Ok(count))
    }

    /// Writes all that is queued.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { stream: Some(stream), outbox, written, .. } = self else { return Poll::Ready(Err(io::ErrorKind::NotConnected.into())) };
        while !outbox.is_empty() {
            match ready!(outbox.poll_write(stream, cx)) {
                Ok(count) => *written += count as u64,
                failed => return Poll::Ready(self.noted(failed).map(|_| ())),
            }
        }
        Pin::new(stream).poll_flush(cx)
    }

    /// The same, with a reset kept in mind. A broken pipe is none: the kernel says so where the peer had ended its side before.
    fn noted<T>(&mut self, done: io::Result<T>) -> io::Result<T> {
        self.reset |= done.as_ref().is_err_and(|error| error.kind() != io::ErrorKind::BrokenPipe);
        done
    }

    /// Waits until there is room to queue more.
    pub(super) fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.outbox.waiting() < WRITE { Poll::Ready(Ok(())) } else { self.poll_flush(cx) }
    }

    /// Whether the peer has closed, or sent what nobody asked for. Reads only what is there; `waker` is told when there is something.
    pub(super) fn is_stale(&mut self, waker: &Waker) -> bool {
        if self.ended || !self.inbox.is_empty() {
            return true;
        }
        let Some(stream) = self.stream.as_mut() else { return true };
        let mut byte = [0];
        let mut buffer = ReadBuf::new(&mut byte);
        Pin::new(stream).poll_read(&mut Context::from_waker(waker), &mut buffer).is_ready()
    }

    /// Waits until the peer ends its side. Bytes of a next request stay in the inbox; past a bound nobody waits any more.
    pub(super) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if self.inbox.len() >= READ {
                return Poll::Pending;
            }
            match ready!(self.poll_fill(cx)) {
                Ok(0) | Err(_) => return Poll::Ready(()),
                Ok(_) => {}
            }
        }
    }

    /// Ends our side.
    pub(super) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.stream()?).poll_shutdown(cx)
    }

    /// Takes the connection out of HTTP, with what was read of it.
    pub(super) fn take(&mut self) -> Option<(Stream, Bytes)> {
        Some((self.stream.take()?, self.inbox.split().freeze()))
    }

    /// Makes the close of the connection a reset.
    pub(super) fn reset_on_close(&self) {
        if let Some(stream) = &self.stream {
            stream.reset_on_close();
        }
    }
}

/// Waits until all that `connection` has queued is written.
pub(super) async fn flush(connection: &RefCell<Connection>) -> io::Result<()> {
    poll_fn(|cx| connection.borrow_mut().poll_flush(cx)).await
}
