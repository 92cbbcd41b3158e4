//! Bytes that come no faster than asked for: a body, and one side of a relay.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

use super::body::{Body, Frame};
use super::error::WireError;

/// How often a piece passes: as often as with Envoy.
const EVERY: Duration = Duration::from_micros(62_500);
/// The largest read of a connection at once, in bytes.
const CHUNK: usize = 64 * 1024;

/// How fast bytes pass. Pure: it is told the time.
#[derive(Debug, Clone, Copy)]
struct Pace {
    bytes_per_second: u64,
    next: Instant,
}

impl Pace {
    fn new(bytes_per_second: u64, now: Instant) -> Self {
        Self { bytes_per_second: bytes_per_second.max(1), next: now }
    }

    /// The most bytes that pass at once.
    fn piece(self) -> usize {
        usize::try_from(self.bytes_per_second / 16).unwrap_or(usize::MAX).max(1)
    }

    /// When the next piece may pass, after one of so many bytes passed at `now`. Who comes late may catch up, by one piece at most.
    fn passed(&mut self, bytes: usize, now: Instant) -> Instant {
        #[allow(clippy::cast_precision_loss, reason = "a rate need be no more exact")]
        let takes = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64);
        self.next = self.next.max(now.checked_sub(EVERY).unwrap_or(now)) + takes;
        self.next
    }
}

/// A body that comes no faster than asked for.
pub struct PacedBody {
    body: Body,
    rest: Bytes,
    pace: Pace,
    wait: Pin<Box<Sleep>>,
}

impl PacedBody {
    /// `body`, at most so many bytes of it a second.
    #[must_use]
    pub fn new(body: Body, bytes_per_second: u64) -> Self {
        let now = Instant::now();
        Self { body, rest: Bytes::new(), pace: Pace::new(bytes_per_second, now), wait: Box::pin(sleep_until(now)) }
    }

    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, WireError>>> {
        if self.rest.is_empty() {
            match ready!(self.body.poll_frame(cx)) {
                Some(Ok(Frame::Data(data))) => self.rest = data,
                other => return Poll::Ready(other),
            }
        }
        ready!(self.wait.as_mut().poll(cx));
        let piece = self.rest.split_to(self.pace.piece().min(self.rest.len()));
        self.wait.as_mut().reset(self.pace.passed(piece.len(), Instant::now()));
        Poll::Ready(Some(Ok(Frame::Data(piece))))
    }

    pub(super) fn is_end(&self) -> bool {
        self.rest.is_empty() && self.body.is_end()
    }

    pub(super) fn length(&self) -> Option<u64> {
        self.body.length()
    }
}

/// A connection that is read no faster than asked for. What is written to it is not held up.
pub struct Paced<S> {
    stream: S,
    pace: Pace,
    wait: Pin<Box<Sleep>>,
    buffer: Box<[u8]>,
}

impl<S> Paced<S> {
    /// `stream`, of which at most so many bytes a second are read.
    #[must_use]
    pub fn new(stream: S, bytes_per_second: u64) -> Self {
        let now = Instant::now();
        let pace = Pace::new(bytes_per_second, now);
        Self { stream, pace, wait: Box::pin(sleep_until(now)), buffer: vec![0; pace.piece().min(CHUNK)].into() }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Paced<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Self { stream, pace, wait, buffer: own } = self.get_mut();
        ready!(wait.as_mut().poll(cx));
        let most = own.len().min(buffer.remaining());
        let mut piece = ReadBuf::new(&mut own[..most]);
        ready!(Pin::new(stream).poll_read(cx, &mut piece))?;
        buffer.put_slice(piece.filled());
        wait.as_mut().reset(pace.passed(piece.filled().len(), Instant::now()));
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Paced<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    #[tokio::test(start_paused = true)]
    async fn bytes_come_at_their_pace_from_the_first_to_the_last() {
        let (mut near, far) = duplex(1 << 20);
        near.write_all(&[7; 10_000]).await.unwrap();
        near.shutdown().await.unwrap();
        let begun = Instant::now();
        let mut read = Vec::new();
        Paced::new(far, 1000).read_to_end(&mut read).await.unwrap();
        assert_eq!(read.len(), 10_000);
        // The end is read once the last piece has had its time.
        assert_eq!(begun.elapsed().as_secs(), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_written_is_not_held_up() {
        let (near, mut far) = duplex(1 << 20);
        let begun = Instant::now();
        let mut paced = Paced::new(near, 1);
        paced.write_all(&[7; 1000]).await.unwrap();
        paced.shutdown().await.unwrap();
        let mut read = Vec::new();
        far.read_to_end(&mut read).await.unwrap();
        assert_eq!((read.len(), begun.elapsed()), (1000, Duration::ZERO));
    }

    #[test]
    fn who_comes_late_catches_up_by_one_piece() {
        let now = Instant::now();
        let mut pace = Pace::new(1600, now);
        assert_eq!(pace.piece(), 100);
        assert_eq!(pace.passed(100, now) - now, EVERY);
        let late = now + EVERY + Duration::from_millis(5);
        assert_eq!(pace.passed(100, late) - now, EVERY * 2);
        let idle = now + Duration::from_secs(60);
        assert_eq!(pace.passed(100, idle), idle);
        assert_eq!(pace.passed(100, idle), idle + EVERY);
        assert_eq!(Pace::new(3, now).piece(), 1);
    }
}
