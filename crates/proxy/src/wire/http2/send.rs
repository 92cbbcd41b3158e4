//! Frames as they go out: heads at once, data as the windows allow, many streams in turn.
//!
//! A stream whose data fits goes straight to the outbox; what does not fit waits in the stream's own queue, and streams that
//! may send take turns, a frame each, so that one with much to say does not keep the others waiting.

use std::task::{Context, Poll};

use bytes::Bytes;

use super::super::error::WireError;
use super::SEND_BUFFER;
use super::connection::{Connection, OUTBOX_DATA};
use super::frame::{HEADER, Header, MAX_FRAME, flag, kind};
use super::hpack::Encoder;
use super::outbox::Place;
use super::stream::{End, wait, wake};

/// The largest payload of DATA that we send, in bytes: with its header, it fills one TLS record exactly.
pub(super) const DATA: usize = MAX_FRAME - HEADER;

impl Connection {
    /// Puts a head, whose block `fill` writes. Where it stands.
    pub(super) fn put_block(&mut self, id: u32, end: bool, fill: impl FnOnce(&mut Encoder, &mut Vec<u8>)) -> Place {
        let place = self.outbox.place_of_next();
        let buffer = self.outbox.buffer();
        let at = buffer.len();
        buffer.extend_from_slice(&[0; HEADER]);
        fill(&mut self.encoder, buffer);
        let length = buffer.len() - at - HEADER;
        let end = if end { flag::END_STREAM } else { 0 };
        if length <= MAX_FRAME {
            let header = Header { length, kind: kind::HEADERS, flags: flag::END_HEADERS | end, stream: id };
            buffer[at..at + HEADER].copy_from_slice(&header.write());
        } else {
            let block = buffer.split_off(at + HEADER);
            buffer.truncate(at);
            let count = length.div_ceil(MAX_FRAME);
            for (number, part) in block.chunks(MAX_FRAME).enumerate() {
                let kind = if number == 0 { kind::HEADERS } else { kind::CONTINUATION };
                let first = if number == 0 { end } else { 0 };
                let last = if number + 1 == count { flag::END_HEADERS } else { 0 };
                self.outbox.put_copied(Header { length: part.len(), kind, flags: first | last, stream: id }, part);
            }
        }
        self.wake();
        place
    }

    /// Puts the head of a stream's message; `end`: nothing follows.
    pub(super) fn put_head(&mut self, slot: u32, end: bool, fill: impl FnOnce(&mut Encoder, &mut Vec<u8>)) {
        let id = self.streams.peek(slot).id;
        let place = self.put_block(id, end, fill);
        let stream = self.streams.get(slot);
        (stream.begun, stream.last) = (Some(place), Some(place));
        if end {
            self.closed_here(slot);
        }
    }

    /// Whether a stream can be sent to, and why not.
    pub(super) fn sendable(&self, slot: u32) -> Result<(), WireError> {
        let stream = self.streams.peek(slot);
        match &stream.failed {
            Some(why) => Err(why.clone()),
            None if stream.local_closed || stream.end.is_some() => Err(WireError::Closed),
            None => Ok(()),
        }
    }

    /// Waits until a stream takes more data.
    pub(super) fn poll_room(&mut self, slot: u32, cx: &Context<'_>) -> Poll<Result<(), WireError>> {
        self.sendable(slot)?;
        let stream = self.streams.get(slot);
        if stream.queued < SEND_BUFFER {
            return Poll::Ready(Ok(()));
        }
        wait(&mut stream.sending, cx);
        Poll::Pending
    }

    /// How much of a stream's data may go to the outbox right now.
    fn direct(&self, slot: u32) -> usize {
        let stream = self.streams.peek(slot);
        if !self.ready.is_empty() || !stream.queue.is_empty() || self.outbox.waiting() >= OUTBOX_DATA {
            return 0;
        }
        usize::try_from(stream.send_window.min(self.send_window)).unwrap_or(0).min(DATA)
    }

    /// Sends data. Only where [`Self::poll_room`] said that there is room.
    pub(super) fn send(&mut self, slot: u32, mut data: Bytes) {
        while !data.is_empty() {
            let count = self.direct(slot).min(data.len());
            if count == 0 {
                let stream = self.streams.get(slot);
                stream.queued += data.len();
                stream.queue.push_back(data);
                return self.list(slot);
            }
            let payload = if count == data.len() { std::mem::take(&mut data) } else { data.split_to(count) };
            self.put_data(slot, payload, false);
        }
        self.wake();
    }

    /// Sends some of `data`, copied; how much. Only where [`Self::poll_room`] said that there is room.
    pub(super) fn send_copied(&mut self, slot: u32, data: &[u8]) -> usize {
        let count = self.direct(slot).min(data.len());
        if count == 0 {
            let count = data.len().min(DATA);
            self.send(slot, Bytes::copy_from_slice(&data[..count]));
            return count;
        }
        let header = self.spend(slot, count, false);
        self.outbox.put_copied(header, &data[..count]);
        self.wake();
        count
    }

    fn put_data(&mut self, slot: u32, payload: Bytes, end: bool) {
        let header = self.spend(slot, payload.len(), end);
        self.outbox.put_payload(header, payload);
    }

    /// The header of a frame of DATA that is put now; its bytes count against the windows.
    fn spend(&mut self, slot: u32, length: usize, end: bool) -> Header {
        self.calm.useful();
        self.send_window -= length as i64;
        let place = self.outbox.place_of_next();
        let stream = self.streams.get(slot);
        stream.send_window -= length as i64;
        stream.last = Some(place);
        Header { length, kind: kind::DATA, flags: if end { flag::END_STREAM } else { 0 }, stream: stream.id }
    }

    /// Ends a stream's message, with the block of its trailers if there are any.
    pub(super) fn finish(&mut self, slot: u32, trailers: Option<Bytes>) -> Result<(), WireError> {
        self.sendable(slot)?;
        let stream = self.streams.get(slot);
        let (waits, last) = (!stream.queue.is_empty(), stream.last);
        if waits {
            stream.end = Some(trailers.map_or(End::Plain, End::Trailers));
            self.list(slot);
            return Ok(());
        }
        // What was not written yet can still say that it is the last.
        let said = trailers.is_none() && last.is_some_and(|last| self.outbox.add_flag(last, flag::END_STREAM));
        if !said {
            self.put_end(slot, trailers);
        }
        self.closed_here(slot);
        self.wake();
        Ok(())
    }

    fn put_end(&mut self, slot: u32, trailers: Option<Bytes>) {
        let id = self.streams.peek(slot).id;
        match trailers {
            Some(block) => {
                self.put_block(id, true, |_, out| out.extend_from_slice(&block));
            }
            None => self.outbox.put(&Header { length: 0, kind: kind::DATA, flags: flag::END_STREAM, stream: id }.write()),
        }
    }

    /// Lets a stream have its turn, if it has something that it may send.
    pub(super) fn list(&mut self, slot: u32) {
        let stream = self.streams.get(slot);
        if !stream.listed && !stream.closed && stream.is_sendable() {
            stream.listed = true;
            self.ready.push_back(slot);
            self.wake();
        }
    }

    /// Fills the outbox from the queues of the streams, in turn.
    pub(super) fn pump(&mut self) {
        let mut fruitless = 0;
        while fruitless < self.ready.len() && self.outbox.waiting() < OUTBOX_DATA {
            let Some(slot) = self.ready.pop_front() else { break };
            let window = self.send_window;
            let stream = self.streams.get(slot);
            if !stream.listed || stream.closed {
                continue;
            }
            if window <= 0 && !stream.queue.is_empty() {
                self.ready.push_back(slot);
                fruitless += 1;
                continue;
            }
            stream.listed = false;
            fruitless = 0;
            self.turn(slot);
        }
    }

    /// A stream's turn: one frame.
    fn turn(&mut self, slot: u32) {
        let window = self.send_window;
        let stream = self.streams.get(slot);
        let room = usize::try_from(stream.send_window.min(window)).unwrap_or(0).min(DATA);
        if let Some(mut first) = stream.queue.pop_front() {
            if room == 0 {
                return stream.queue.push_front(first);
            }
            let payload = if first.len() <= room {
                first
            } else {
                let payload = first.split_to(room);
                stream.queue.push_front(first);
                payload
            };
            stream.queued -= payload.len();
            if stream.queued < SEND_BUFFER {
                wake(&mut stream.sending);
            }
            let last = stream.queue.is_empty() && matches!(stream.end, Some(End::Plain));
            if last {
                stream.end = None;
            }
            self.put_data(slot, payload, last);
            if last {
                return self.closed_here(slot);
            }
        } else if let Some(end) = stream.end.take() {
            let trailers = match end {
                End::Plain => None,
                End::Trailers(block) => Some(block),
            };
            self.put_end(slot, trailers);
            return self.closed_here(slot);
        }
        self.list(slot);
    }
}
