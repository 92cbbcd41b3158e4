//! The receiving half of a stream, frame by frame.

use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use quinn::{ReadError, RecvStream, VarInt};
use smallvec::SmallVec;

use super::super::error::WireError;
use super::frame::{code, take_number};
use super::shared::Shared;

/// How much room the first read has, in bytes: an ordinary head fits in.
const FIRST: usize = 2 * 1024;
/// The same for later ones. What lies in many packets is joined, so that no small piece keeps a large packet in memory.
const ROOM: usize = 16 * 1024;

/// What comes on a stream.
pub(super) struct Incoming {
    pub(super) shared: Rc<Shared>,
    stream: RecvStream,
    inbox: Bytes,
    /// The room for the next read.
    room: Vec<u8>,
    /// The header of a frame that has not come in whole.
    begun: SmallVec<[u8; 16]>,
    /// What is left of the present frame, in bytes.
    left: u64,
    /// Nothing more comes, or is wanted.
    ended: bool,
}

impl Incoming {
    pub(super) fn new(shared: Rc<Shared>, stream: RecvStream) -> Self {
        Self { shared, stream, inbox: Bytes::new(), room: vec![0; FIRST], begun: SmallVec::new(), left: 0, ended: false }
    }

    /// Waits for bytes, where there are none; false at the end.
    pub(super) fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, WireError>> {
        while self.inbox.is_empty() {
            if self.ended {
                return Poll::Ready(Ok(false));
            }
            if self.room.is_empty() {
                self.room = vec![0; ROOM];
            }
            match ready!(self.stream.poll_read(cx, &mut self.room)) {
                Ok(0) => self.ended = true,
                Ok(count) => {
                    self.room.truncate(count);
                    self.inbox = std::mem::take(&mut self.room).into();
                }
                Err(error) => {
                    self.ended = true;
                    return Poll::Ready(Err(failed(&error)));
                }
            }
        }
        Poll::Ready(Ok(true))
    }

    /// Whether the end is known.
    pub(super) fn is_end(&self) -> bool {
        self.ended && self.inbox.is_empty()
    }

    /// Takes a number that stands for itself; none at the end.
    pub(super) fn poll_number(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<u64>, WireError>> {
        self.poll_begun(cx, |mut begun| take_number(&mut begun))
    }

    /// The type of the next frame, whose length is then left; none at the end.
    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<u64>, WireError>> {
        let header = ready!(self.poll_begun(cx, |mut begun| Some((take_number(&mut begun)?, take_number(&mut begun)?))))?;
        Poll::Ready(Ok(header.map(|(kind, length)| {
            self.left = length;
            kind
        })))
    }

    /// Takes bytes one by one until `read` finds what it looks for.
    fn poll_begun<T>(&mut self, cx: &mut Context<'_>, read: impl Fn(&[u8]) -> Option<T>) -> Poll<Result<Option<T>, WireError>> {
        loop {
            if !ready!(self.poll_more(cx))? {
                let cut = !self.begun.is_empty();
                return Poll::Ready(if cut { Err(self.truncated()) } else { Ok(None) });
            }
            self.begun.push(self.inbox[0]);
            drop(self.inbox.split_to(1));
            if let Some(found) = read(&self.begun) {
                self.begun.clear();
                return Poll::Ready(Ok(Some(found)));
            }
        }
    }

    /// What is left of the present frame, in bytes.
    pub(super) fn left(&self) -> u64 {
        self.left
    }

    /// The next bytes of the present frame; none at its end.
    pub(super) fn poll_payload(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, WireError>> {
        if self.left == 0 {
            return Poll::Ready(Ok(None));
        }
        if !ready!(self.poll_more(cx))? {
            return Poll::Ready(Err(self.truncated()));
        }
        let count = usize::try_from(self.left).unwrap_or(usize::MAX).min(self.inbox.len());
        self.left -= count as u64;
        Poll::Ready(Ok(Some(self.inbox.split_to(count))))
    }

    /// Takes the present frame into `out` as it comes.
    pub(super) fn poll_whole(&mut self, cx: &mut Context<'_>, out: &mut Vec<u8>) -> Poll<Result<(), WireError>> {
        while let Some(bytes) = ready!(self.poll_payload(cx))? {
            out.extend_from_slice(&bytes);
        }
        Poll::Ready(Ok(()))
    }

    /// Passes over what is left of the present frame.
    pub(super) fn poll_skip(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), WireError>> {
        while ready!(self.poll_payload(cx))?.is_some() {}
        Poll::Ready(Ok(()))
    }

    /// All that has come and was not asked for yet, of streams that have no frames.
    pub(super) fn take(&mut self) -> Bytes {
        std::mem::take(&mut self.inbox)
    }

    fn truncated(&self) -> WireError {
        self.shared.broken(code::FRAME_ERROR, "a stream ends in the middle of a frame")
    }

    /// Tells the client that nothing more is wanted, and why.
    pub(super) fn stop(&mut self, code: u32) {
        if !std::mem::replace(&mut self.ended, true) {
            // A stream that has ended meanwhile needs no word.
            drop(self.stream.stop(VarInt::from_u32(code)));
        }
        self.inbox = Bytes::new();
    }
}

fn failed(error: &ReadError) -> WireError {
    match error {
        ReadError::Reset(code) => WireError::Reset(u32::try_from(code.into_inner()).unwrap_or(u32::MAX)),
        _ => WireError::Closed,
    }
}

/// Dropped before its end, it tells the client that the rest is not wanted.
impl Drop for Incoming {
    fn drop(&mut self) {
        self.stop(code::NO_ERROR);
    }
}
