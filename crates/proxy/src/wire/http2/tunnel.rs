//! A stream of HTTP/2 that carries bytes, as an accepted extended CONNECT does.

use std::io;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use h2::{RecvStream, SendStream};
use tokio::io::ReadBuf;

use super::super::error::WireError;
use super::body::poll_room;

/// The most bytes that one write takes: what is taken is copied, and need not outrun the frames.
const WRITE: usize = 16 * 1024;

/// A stream of HTTP/2 that carries bytes.
pub struct Http2Tunnel {
    send: SendStream<Bytes>,
    receive: RecvStream,
    read: Bytes,
}

impl Http2Tunnel {
    pub(super) fn new(send: SendStream<Bytes>, receive: RecvStream) -> Self {
        Self { send, receive, read: Bytes::new() }
    }

    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        while self.read.is_empty() {
            match ready!(self.receive.poll_data(cx)) {
                Some(Ok(data)) => self.read = data,
                Some(Err(error)) => return Poll::Ready(Err(failed(error.into()))),
                None => return Poll::Ready(Ok(())),
            }
        }
        let count = self.read.len().min(buffer.remaining());
        buffer.put_slice(&self.read[..count]);
        self.read.advance(count);
        // It fails only where the stream has ended, and then nothing is owed.
        let _: Result<(), h2::Error> = self.receive.flow_control().release_capacity(count);
        Poll::Ready(Ok(()))
    }

    pub(crate) fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let count = ready!(poll_room(&mut self.send, bytes.len().min(WRITE), cx)).map_err(failed)?;
        self.send.send_data(Bytes::copy_from_slice(&bytes[..count]), false).map_err(|error| failed(error.into()))?;
        Poll::Ready(Ok(count))
    }

    pub(crate) fn shutdown(&mut self) -> io::Result<()> {
        self.send.send_data(Bytes::new(), true).map_err(|error| failed(error.into()))
    }
}

fn failed(error: WireError) -> io::Error {
    match error {
        WireError::Io(kind) => kind.into(),
        WireError::Closed | WireError::NotProcessed | WireError::Reset(_) => io::Error::new(io::ErrorKind::ConnectionReset, error),
        _ => io::Error::other(error),
    }
}
