//! What a connection has yet to write: small frames copied into one buffer, large payloads kept as they came, all in order.
//!
//! In: frames. Out: slices for one vectored write. Nothing is allocated for a frame, and nothing is held once all is written.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, Bytes};

use super::frame::{HEADER, Header};

/// Payloads up to this size are copied, in bytes: so many cost less to copy than to keep apart.
const COPIED: usize = 2048;
/// The most slices in one write: more than the data that waits at once comes to, unless its pieces are small.
pub(super) const SLICES: usize = 32;
/// The room that the first small frames get, in bytes: a few heads.
const FIRST: usize = 1024;

#[derive(Debug)]
enum Piece {
    /// So many bytes of the buffer.
    Small(usize),
    /// A payload.
    Large(Bytes),
}

#[derive(Debug, Default)]
pub(super) struct Outbox {
    small: Vec<u8>,
    /// How much of `small` was written.
    written: usize,
    /// How much of `small` stands in `pieces`; what follows comes last.
    placed: usize,
    pieces: VecDeque<Piece>,
    /// Bytes in `pieces`.
    waiting: usize,
    /// How much of the stream of small frames stood before `small`.
    before: u64,
}

/// Where a small frame, or the header of a large one, stands among all small bytes ever put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place(u64);

impl Outbox {
    /// How many bytes wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting + (self.small.len() - self.placed)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting() == 0
    }

    /// The room that small frames have, in bytes.
    pub(super) fn capacity(&self) -> usize {
        self.small.capacity()
    }

    /// The place of what is put next.
    pub(super) fn place_of_next(&self) -> Place {
        Place(self.before + self.small.len() as u64)
    }

    /// Whether not a byte of what stands there was written.
    pub(super) fn is_unwritten(&self, Place(place): Place) -> bool {
        place >= self.before + self.written as u64
    }

    /// Sets a flag in the frame whose header stands there. False: it was written already.
    pub(super) fn add_flag(&mut self, place: Place, flag: u8) -> bool {
        if !self.is_unwritten(place) {
            return false;
        }
        // The fifth byte of a header holds the flags.
        match self.small.get_mut((place.0 - self.before) as usize + 4) {
            Some(flags) => *flags |= flag,
            None => return false,
        }
        true
    }

    /// Appends a whole small frame, or several.
    pub(super) fn put(&mut self, frame: &[u8]) {
        self.buffer().extend_from_slice(frame);
    }

    /// The buffer that small frames are appended to.
    pub(super) fn buffer(&mut self) -> &mut Vec<u8> {
        if self.small.capacity() == 0 {
            self.small.reserve(FIRST);
        }
        &mut self.small
    }

    /// Appends a frame whose payload is at hand as bytes of others.
    pub(super) fn put_copied(&mut self, header: Header, payload: &[u8]) {
        let buffer = self.buffer();
        buffer.reserve(HEADER + payload.len());
        buffer.extend_from_slice(&header.write());
        buffer.extend_from_slice(payload);
    }

    /// Appends a frame with its payload, which is kept as it is if it is large.
    pub(super) fn put_payload(&mut self, header: Header, payload: Bytes) {
        if payload.len() <= COPIED {
            return self.put_copied(header, &payload);
        }
        self.put(&header.write());
        self.place();
        self.waiting += payload.len();
        self.pieces.push_back(Piece::Large(payload));
    }

    /// Gives what stands last in the buffer its place before what follows.
    fn place(&mut self) {
        let count = self.small.len() - self.placed;
        if count > 0 {
            self.pieces.push_back(Piece::Small(count));
            self.placed = self.small.len();
            self.waiting += count;
        }
    }

    /// What is to be written next; how many slices were filled.
    pub(super) fn slices<'o>(&'o self, slices: &mut [IoSlice<'o>; SLICES]) -> usize {
        let (mut used, mut at) = (0, self.written);
        for (slice, piece) in slices.iter_mut().zip(&self.pieces) {
            *slice = IoSlice::new(match piece {
                Piece::Small(count) => {
                    at += count;
                    &self.small[at - count..at]
                }
                Piece::Large(payload) => payload,
            });
            used += 1;
        }
        if used < SLICES && self.placed < self.small.len() {
            slices[used] = IoSlice::new(&self.small[self.placed..]);
            used += 1;
        }
        used
    }

    /// Takes away what was written.
    pub(super) fn wrote(&mut self, mut count: usize) {
        if count > self.waiting {
            // It reached into what had no place yet.
            self.place();
        }
        self.waiting -= count.min(self.waiting);
        while count > 0 {
            match self.pieces.front_mut() {
                Some(Piece::Small(length)) => {
                    let taken = count.min(*length);
                    *length -= taken;
                    self.written += taken;
                    count -= taken;
                    if *length > 0 {
                        break;
                    }
                }
                Some(Piece::Large(payload)) => {
                    let taken = count.min(payload.len());
                    payload.advance(taken);
                    count -= taken;
                    if !payload.is_empty() {
                        break;
                    }
                }
                None => break,
            }
            self.pieces.pop_front();
        }
        if self.pieces.is_empty() && self.placed == self.small.len() {
            self.before += self.small.len() as u64;
            self.small.clear();
            (self.written, self.placed) = (0, 0);
        } else if self.written >= 4 * COPIED {
            // What was written must not pile up before what was not.
            self.before += self.written as u64;
            self.small.drain(..self.written);
            self.placed -= self.written;
            self.written = 0;
        }
    }

    /// Gives back the room of what was written.
    pub(super) fn rest(&mut self) {
        if self.is_empty() && self.small.capacity() > 0 {
            *self = Self { before: self.before, ..Self::default() };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::frame::kind;
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn frames_leave_whole_and_in_order(
            frames in proptest::collection::vec((0_usize..6000, any::<bool>()), 0..60),
            writes in proptest::collection::vec(1_usize..9000, 1..40),
        ) {
            let (mut outbox, mut expected, mut wire) = (Outbox::default(), Vec::new(), Vec::new());
            let mut writes = writes.into_iter().cycle();
            for (number, (length, write)) in frames.into_iter().enumerate() {
                let header = Header { length, kind: kind::DATA, flags: 0, stream: number as u32 };
                let payload = vec![number as u8; length];
                expected.extend_from_slice(&header.write());
                expected.extend_from_slice(&payload);
                outbox.put_payload(header, payload.into());
                if write {
                    drain(&mut outbox, &mut wire, writes.next().unwrap_or(1));
                }
                prop_assert_eq!(outbox.waiting() + wire.len(), expected.len());
            }
            while !outbox.is_empty() {
                drain(&mut outbox, &mut wire, writes.next().unwrap_or(1));
            }
            prop_assert!(wire == expected);
        }
    }

    fn drain(outbox: &mut Outbox, wire: &mut Vec<u8>, most: usize) {
        let mut slices = [IoSlice::new(&[]); SLICES];
        let used = outbox.slices(&mut slices);
        let mut taken = Vec::new();
        slices[..used].iter().for_each(|slice| taken.extend_from_slice(slice));
        taken.truncate(most);
        wire.extend_from_slice(&taken);
        outbox.wrote(taken.len());
    }
}
