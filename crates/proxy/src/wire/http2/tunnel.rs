//! A stream of HTTP/2 that carries bytes, as an accepted extended CONNECT does.

use std::io;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::ReadBuf;

use super::super::error::WireError;
use super::driver::Handle;
use super::stream::wait;

/// A stream of HTTP/2 that carries bytes. Dropped before both sides have ended, it resets the stream.
pub struct Http2Tunnel {
    stream: Handle,
    read: Bytes,
    /// Whether the server's answer to the CONNECT has not been looked at yet.
    asked: bool,
}

impl Http2Tunnel {
    pub(super) fn new(stream: Handle) -> Self {
        Self { stream, read: Bytes::new(), asked: false }
    }

    /// A stream that was asked for; the answer is still to come.
    pub(super) fn asked(stream: Handle) -> Self {
        Self { asked: true, ..Self::new(stream) }
    }

    /// Waits for the answer to the CONNECT.
    fn poll_taken(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let taken = self.stream.with(|connection, slot| {
            let stream = connection.streams.get(slot);
            if let Some(why) = &stream.failed {
                return Poll::Ready(Err(failed(why.clone())));
            }
            match stream.head.take() {
                Some((head, _)) if head.status < 300 => Poll::Ready(Ok(())),
                Some((head, _)) => Poll::Ready(Err(io::Error::other(format!("the peer refused the stream with status {}", head.status)))),
                None => {
                    wait(&mut stream.receiving, cx);
                    Poll::Pending
                }
            }
        });
        ready!(taken)?;
        self.asked = false;
        Poll::Ready(Ok(()))
    }

    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.read.is_empty() {
            match ready!(self.poll_data(cx)) {
                Some(data) => self.read = data?,
                None => return Poll::Ready(Ok(())),
            }
        }
        let count = self.read.len().min(buffer.remaining());
        buffer.put_slice(&self.read[..count]);
        self.read.advance(count);
        Poll::Ready(Ok(()))
    }

    /// The next bytes as they came, nothing copied; `None` at the end. The peer may send as many again once more is asked for.
    pub(crate) fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        if !self.read.is_empty() {
            return Poll::Ready(Some(Ok(std::mem::take(&mut self.read))));
        }
        if self.asked {
            ready!(self.poll_taken(cx))?;
        }
        let data = ready!(self.stream.with(|connection, slot| connection.poll_data(slot, cx)));
        Poll::Ready(data.map(|data| data.map_err(failed)))
    }

    pub(crate) fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        self.stream.with(|connection, slot| {
            ready!(connection.poll_room(slot, cx)).map_err(failed)?;
            Poll::Ready(Ok(connection.send_copied(slot, bytes)))
        })
    }

    /// Sends `data`, nothing of it copied but where it is small. It is left empty where there was room; else nothing was taken.
    pub(crate) fn poll_send(&mut self, cx: &mut Context<'_>, data: &mut Bytes) -> Poll<io::Result<()>> {
        self.stream.with(|connection, slot| {
            ready!(connection.poll_room(slot, cx)).map_err(failed)?;
            connection.send(slot, std::mem::take(data));
            Poll::Ready(Ok(()))
        })
    }

    pub(crate) fn shutdown(&mut self) -> io::Result<()> {
        self.stream.with(|connection, slot| connection.finish(slot, None)).map_err(failed)
    }
}

fn failed(error: WireError) -> io::Error {
    match error {
        WireError::Io(kind) => kind.into(),
        WireError::Closed | WireError::NotProcessed | WireError::Reset(_) => io::Error::new(io::ErrorKind::ConnectionReset, error),
        _ => io::Error::other(error),
    }
}
