//! What is to be written: heads and small pieces in one text, large pieces as they are, all in order and in one write.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::io::AsyncWrite;

/// The most slices in one vectored write.
const SLICES: usize = 16;
/// The largest piece that is copied behind the text before it, in bytes: cheaper than a slice of its own.
const COPIED: usize = 2048;

/// Bytes in the order in which they are to be written.
#[derive(Default)]
pub(super) struct Outbox {
    text: Vec<u8>,
    /// How much of `text` is written.
    begin: usize,
    /// What follows it.
    pieces: VecDeque<Bytes>,
    waiting: usize,
}

impl Outbox {
    /// How many bytes wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }

    /// Whether nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting == 0
    }

    /// Queues what `write` appends.
    pub(super) fn text(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        if self.pieces.is_empty() {
            let before = self.text.len();
            write(&mut self.text);
            self.waiting += self.text.len() - before;
        } else {
            let mut text = Vec::new();
            write(&mut text);
            self.piece(text.into());
        }
    }

    /// Queues bytes.
    pub(super) fn data(&mut self, data: Bytes) {
        if data.len() <= COPIED && self.pieces.is_empty() {
            self.waiting += data.len();
            self.text.extend_from_slice(&data);
        } else {
            self.piece(data);
        }
    }

    fn piece(&mut self, piece: Bytes) {
        if !piece.is_empty() {
            self.waiting += piece.len();
            self.pieces.push_back(piece);
        }
    }

    /// Writes once, as much as `stream` takes.
    pub(super) fn poll_write(&mut self, stream: &mut (impl AsyncWrite + Unpin), cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let text = &self.text[self.begin..];
        let count = if self.pieces.is_empty() {
            ready!(Pin::new(stream).poll_write(cx, text))?
        } else {
            let mut slices = [IoSlice::new(&[]); SLICES];
            let mut used = 0;
            let parts = std::iter::once(text).filter(|text| !text.is_empty()).chain(self.pieces.iter().map(|piece| &piece[..]));
            for (slice, part) in slices.iter_mut().zip(parts) {
                *slice = IoSlice::new(part);
                used += 1;
            }
            ready!(Pin::new(stream).poll_write_vectored(cx, &slices[..used]))?
        };
        if count == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.advance(count);
        Poll::Ready(Ok(count))
    }

    fn advance(&mut self, count: usize) {
        self.waiting -= count.min(self.waiting);
        let of_text = count.min(self.text.len() - self.begin);
        self.begin += of_text;
        if self.begin == self.text.len() {
            self.text.clear();
            self.begin = 0;
        }
        let mut left = count - of_text;
        while let Some(first) = self.pieces.front_mut() {
            if left < first.len() {
                bytes::Buf::advance(first, left);
                return;
            }
            left -= first.len();
            self.pieces.pop_front();
        }
    }

    /// Gives the memory back, while nothing waits.
    pub(super) fn give_back(&mut self) {
        if self.is_empty() {
            *self = Self::default();
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Takes so many bytes a write.
    struct Narrow(usize, Vec<u8>);

    impl AsyncWrite for Narrow {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            let count = bytes.len().min(self.0);
            self.1.extend_from_slice(&bytes[..count]);
            Poll::Ready(Ok(count))
        }
        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[test]
    fn everything_leaves_in_order_however_little_a_write_takes() {
        let large = Bytes::from(vec![b'x'; COPIED + 1]);
        for width in [1, 2, 3, 1000, 100_000] {
            let mut outbox = Outbox::default();
            outbox.text(|text| text.extend_from_slice(b"head"));
            outbox.data(Bytes::from_static(b"small"));
            outbox.data(large.clone());
            outbox.text(|text| text.extend_from_slice(b"\r\n"));
            outbox.data(Bytes::from_static(b"after"));
            let expected = [b"headsmall", &large[..], b"\r\nafter"].concat();
            assert_eq!(outbox.waiting(), expected.len());
            let mut out = Narrow(width, Vec::new());
            let mut cx = Context::from_waker(std::task::Waker::noop());
            while !outbox.is_empty() {
                assert!(outbox.poll_write(&mut out, &mut cx).is_ready());
            }
            assert!(out.1 == expected, "{width}");
        }
    }
}
