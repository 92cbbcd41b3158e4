//! Frames as they come in: each is checked against the state of its connection and stream, and changes it.
//!
//! A mistake in a stream resets that stream; one that leaves the peers with different views of the connection ends it. What
//! asks us to work without bringing anything is counted.

use std::collections::VecDeque;
use std::time::Instant;

use bytes::{Buf, Bytes, BytesMut};
use lorica_model::head::MAX_HEAD_BYTES;

use super::super::error::WireError;
use super::super::upstream::MAX_INFORMATIONAL;
use super::MAX_STREAMS;
use super::connection::{Accepted, Block, Connection, DRAIN_PING, Leaving, OUTBOX_STOP, Side, setting};
use super::frame::{self, Broken, HEADER, Header, MAX_WINDOW, check_priority, code, content, flag, kind, number};
use super::head::{Collected, NoHead, put_response};
use super::stream::wake;

/// The largest compressed head that is still read, in bytes: one that is too large for us is then known as such, and answered.
/// Beyond, reading it on would only serve to keep the connection.
const MAX_BLOCK: usize = 2 * MAX_HEAD_BYTES;
/// The most frames that carry on one head: what [`MAX_BLOCK`] takes in frames of the least size that a peer may be held to,
/// twice over. More are an attack (CVE-2024-27316).
const MAX_CONTINUATIONS: u32 = 16;
/// DATA up to this size is copied out of what was read, in bytes, so that little data does not keep a large buffer.
const COPIED: usize = 2048;
/// How many pieces of data a stream keeps as they came.
const FEW: usize = 16;
/// How many streams may be held at once, those included that are closed and still worked on.
const MAX_HELD: usize = 2 * MAX_STREAMS as usize;

const CALM: Broken = Broken::new(code::ENHANCE_YOUR_CALM, "too many frames brought nothing");

impl Connection {
    /// Takes in all whole frames of `inbox`.
    pub(super) fn receive(&mut self, inbox: &mut BytesMut) -> Result<(), Broken> {
        while let Some(header) = Header::read(inbox) {
            header.check()?;
            if inbox.len() < HEADER + header.length || self.outbox.waiting() >= OUTBOX_STOP {
                break;
            }
            inbox.advance(HEADER);
            if header.kind == kind::DATA {
                self.expects(header)?;
                let range = content(header, &inbox[..header.length])?;
                let data = match range.len() {
                    0..=COPIED => {
                        let data = Bytes::copy_from_slice(&inbox[range]);
                        inbox.advance(header.length);
                        data
                    }
                    _ => inbox.split_to(header.length).freeze().slice(range),
                };
                self.data(header, data)?;
            } else {
                self.expects(header)?;
                self.frame(header, &inbox[..header.length])?;
                inbox.advance(header.length);
            }
        }
        Ok(())
    }

    /// Whether this frame may come now.
    fn expects(&self, header: Header) -> Result<(), Broken> {
        if !self.settled && (header.kind != kind::SETTINGS || header.has(flag::ACK)) {
            return Err(Broken::protocol("the first frame is not SETTINGS"));
        }
        match &self.block {
            Some(block) if header.kind != kind::CONTINUATION || header.stream != block.stream => {
                Err(Broken::protocol("a head is interrupted"))
            }
            None if header.kind == kind::CONTINUATION => Err(Broken::protocol("a head is continued that has not begun")),
            _ => Ok(()),
        }
    }

    fn frame(&mut self, header: Header, payload: &[u8]) -> Result<(), Broken> {
        match header.kind {
            kind::HEADERS => {
                let block = &payload[content(header, payload)?];
                let end_stream = header.has(flag::END_STREAM);
                if header.has(flag::END_HEADERS) {
                    return self.head(header.stream, end_stream, block);
                }
                self.block = Some(Block { stream: header.stream, end_stream, text: block.into(), frames: 0 });
                Ok(())
            }
            kind::CONTINUATION => self.continuation(header, payload),
            kind::PRIORITY => {
                check_priority(header.stream, payload)?;
                self.idle_frame()
            }
            kind::RST_STREAM => self.reset_by_peer(header.stream, number(payload)),
            kind::SETTINGS => self.settings(header, payload),
            kind::PING => self.ping(header, payload),
            kind::GOAWAY => self.goaway(number(payload) & frame::MAX_STREAM, number(&payload[4..])),
            kind::WINDOW_UPDATE => self.window_update(header.stream, i64::from(number(payload) & frame::MAX_STREAM)),
            _ => self.idle_frame(),
        }
    }

    fn idle_frame(&mut self) -> Result<(), Broken> {
        if self.calm.idle_frame(Instant::now) { Ok(()) } else { Err(CALM) }
    }

    /// Whether a stream has not begun.
    fn is_idle(&self, id: u32) -> bool {
        let odd = !id.is_multiple_of(2);
        match self.side {
            Side::Client => !odd || id >= self.next,
            Side::Server => !odd || id > self.last,
        }
    }

    /// A frame that carries something names a stream that is not open.
    fn stray(&mut self, id: u32) -> Result<(), Broken> {
        if self.leaving == Leaving::Final && id > self.last {
            return self.idle_frame();
        }
        if self.is_idle(id) {
            return Err(Broken::protocol("a frame names a stream that has not begun"));
        }
        if self.was_reset(id) {
            return self.idle_frame();
        }
        Err(Broken::new(code::STREAM_CLOSED, "a frame names a stream that has ended"))
    }

    fn data(&mut self, header: Header, data: Bytes) -> Result<(), Broken> {
        let (length, size) = (header.length, data.len());
        self.receive_window -= length as i64;
        if self.receive_window < 0 {
            return Err(Broken::new(code::FLOW_CONTROL_ERROR, "the peer sent more than the connection's window"));
        }
        let Some(slot) = self.streams.find(header.stream) else {
            self.release_connection(length);
            return self.stray(header.stream);
        };
        let end = header.has(flag::END_STREAM);
        if size > 0 || end {
            self.calm.useful();
        } else {
            self.idle_frame()?;
        }
        let stream = self.streams.get(slot);
        stream.receive_window -= length as i64;
        let left = stream.expected.map(|expected| expected.checked_sub(size as u64));
        let fault = if stream.remote_closed {
            Some((code::STREAM_CLOSED, "there is data behind the end"))
        } else if !stream.headed {
            Some((code::PROTOCOL_ERROR, "there is data before the head"))
        } else if stream.receive_window < 0 {
            Some((code::FLOW_CONTROL_ERROR, "the peer sent more than the stream's window"))
        } else if matches!(left, Some(None)) || (end && matches!(left, Some(Some(1..)))) {
            Some((code::PROTOCOL_ERROR, "the body is not as long as its head says"))
        } else {
            None
        };
        if let Some((code, why)) = fault {
            self.release_connection(length);
            return self.fail(slot, code, why);
        }
        stream.expected = left.flatten();
        if stream.unwanted || size == 0 {
            self.release(slot, length);
        } else {
            keep(&mut stream.data, data);
            self.woke |= wake(&mut stream.receiving);
            if length > size {
                // Padding is used up as it comes.
                self.release(slot, length - size);
            }
        }
        if end {
            self.closed_there(slot);
        }
        Ok(())
    }

    fn continuation(&mut self, header: Header, payload: &[u8]) -> Result<(), Broken> {
        let Some(mut block) = self.block.take() else { return Ok(()) };
        block.frames += 1;
        block.text.extend_from_slice(payload);
        if block.frames > MAX_CONTINUATIONS || block.text.len() > MAX_BLOCK {
            return Err(Broken::new(code::ENHANCE_YOUR_CALM, "a head has no end"));
        }
        if header.has(flag::END_HEADERS) {
            return self.head(block.stream, block.end_stream, &block.text);
        }
        self.block = Some(block);
        Ok(())
    }

    /// A whole head. Whatever becomes of it, it is decoded, as the table of fields has to follow.
    fn head(&mut self, id: u32, end: bool, block: &[u8]) -> Result<(), Broken> {
        let mut text = std::mem::take(&mut self.text);
        let mut collected = Collected::new(&mut text);
        let decoded = self.decoder.decode(block, |name, value, tag| collected.field(name, value, tag));
        let taken = match decoded {
            Err(_) => Err(Broken::new(code::COMPRESSION_ERROR, "a head cannot be decoded")),
            Ok(()) => match self.streams.find(id) {
                Some(slot) => {
                    self.calm.useful();
                    self.head_of(slot, end, collected)
                }
                None if self.side == Side::Server && !id.is_multiple_of(2) && id > self.last && self.leaving != Leaving::Final => {
                    self.request(id, end, collected)
                }
                None => self.stray(id),
            },
        };
        self.text = text;
        taken
    }

    /// A new request.
    fn request(&mut self, id: u32, end: bool, collected: Collected<'_>) -> Result<(), Broken> {
        self.last = id;
        if self.streams.open() >= MAX_STREAMS as usize || self.streams.held() >= MAX_HELD {
            self.put_reset(id, code::REFUSED_STREAM);
            return self.idle_frame();
        }
        let (head, length) = match collected.request(self.takes_connect) {
            Ok((_, Some(1..))) if end => {
                self.put_reset(id, code::PROTOCOL_ERROR);
                return self.idle_frame();
            }
            Ok(request) => request,
            Err(NoHead::Malformed(why)) => {
                tracing::debug!(why, "a request was malformed");
                self.put_reset(id, code::PROTOCOL_ERROR);
                return self.idle_frame();
            }
            Err(NoHead::Refused(status, why)) => {
                tracing::debug!(why, status, "a request was refused");
                let none = std::iter::empty();
                self.put_block(id, true, |encoder, out| put_response(status, none, None, encoder, out));
                if !end {
                    self.put_reset(id, code::NO_ERROR);
                }
                return self.idle_frame();
            }
        };
        self.calm.useful();
        let slot = self.streams.begin(id, self.peer_window);
        let stream = self.streams.get(slot);
        (stream.headed, stream.remote_closed, stream.expected, stream.handles) = (true, end, length, 1);
        self.accepted.push_back(Accepted { head, length, slot });
        Ok(())
    }

    /// A head on a stream that is there: an answer, or trailers.
    fn head_of(&mut self, slot: u32, end: bool, collected: Collected<'_>) -> Result<(), Broken> {
        let stream = self.streams.get(slot);
        let taken = if stream.remote_closed {
            Err((code::STREAM_CLOSED, "there is a head behind the end"))
        } else if stream.headed {
            match collected.trailers() {
                _ if !end => Err((code::PROTOCOL_ERROR, "there is a second head")),
                Ok(_) if matches!(stream.expected, Some(1..)) => Err((code::PROTOCOL_ERROR, "the body is not as long as its head says")),
                Ok(trailers) => {
                    if !stream.unwanted && !trailers.is_empty() {
                        stream.trailers = Some(Box::new(trailers));
                    }
                    Ok(())
                }
                Err(why) => Err((code::PROTOCOL_ERROR, why)),
            }
        } else {
            match collected.response() {
                Ok((head, _)) if head.status < 200 => {
                    stream.informational += 1;
                    if end {
                        Err((code::PROTOCOL_ERROR, "an interim answer ends its stream"))
                    } else if stream.informational > MAX_INFORMATIONAL {
                        Err((code::ENHANCE_YOUR_CALM, "there are more than 8 interim answers"))
                    } else {
                        stream.interim.push_back(head);
                        Ok(())
                    }
                }
                Ok((head, length)) => {
                    let bodiless = stream.to_head || matches!(head.status, 204 | 304);
                    stream.expected = length.filter(|_| !bodiless);
                    if end && matches!(stream.expected, Some(1..)) {
                        Err((code::PROTOCOL_ERROR, "the body is not as long as its head says"))
                    } else {
                        (stream.head, stream.headed) = (Some((head, length)), true);
                        Ok(())
                    }
                }
                Err(why) => Err((code::PROTOCOL_ERROR, why)),
            }
        };
        match taken {
            Ok(()) if end => self.closed_there(slot),
            Ok(()) => self.woke |= wake(&mut stream.receiving),
            Err((code, why)) => return self.fail(slot, code, why),
        }
        Ok(())
    }

    fn reset_by_peer(&mut self, id: u32, code: u32) -> Result<(), Broken> {
        if self.is_idle(id) && !(self.leaving == Leaving::Final && id > self.last) {
            return Err(Broken::protocol("a stream is reset that has not begun"));
        }
        self.idle_frame()?;
        let Some(slot) = self.streams.find(id) else { return Ok(()) };
        self.early_reset(slot)?;
        self.end_stream(slot, if code == code::REFUSED_STREAM { WireError::NotProcessed } else { WireError::Reset(code) });
        Ok(())
    }

    /// A request that ends before its answer has begun may have been work for nothing, whoever resets it (CVE-2025-8671).
    fn early_reset(&mut self, slot: u32) -> Result<(), Broken> {
        if self.side == Side::Server && self.streams.peek(slot).begun.is_none() && !self.calm.early_reset(Instant::now) {
            return Err(Broken::new(code::ENHANCE_YOUR_CALM, "too many requests were reset before their answer"));
        }
        Ok(())
    }

    /// Resets a stream for the peer's mistake in it.
    fn fail(&mut self, slot: u32, code: u32, why: &'static str) -> Result<(), Broken> {
        self.early_reset(slot)?;
        let id = self.streams.peek(slot).id;
        self.end_stream(slot, WireError::Invalid(why));
        self.put_reset(id, code);
        Ok(())
    }

    fn settings(&mut self, header: Header, payload: &[u8]) -> Result<(), Broken> {
        if header.has(flag::ACK) {
            if std::mem::replace(&mut self.acknowledged, true) {
                return Err(Broken::protocol("settings are acknowledged that nobody sent"));
            }
            return Ok(());
        }
        self.idle_frame()?;
        let (mut window, mut streams) = (None, None);
        for entry in payload.chunks_exact(6) {
            let (id, value) = (u16::from_be_bytes([entry[0], entry[1]]), number(&entry[2..]));
            match (id, value) {
                (setting::HEADER_TABLE_SIZE, size) => self.encoder.resize(size as usize),
                // A server may not say that it takes pushes.
                (setting::ENABLE_PUSH, 2..) => return Err(Broken::protocol("ENABLE_PUSH is neither 0 nor 1")),
                (setting::ENABLE_PUSH, 1) if self.side == Side::Client => return Err(Broken::protocol("a server enables pushes")),
                (setting::MAX_CONCURRENT_STREAMS, most) => streams = Some(most),
                (setting::INITIAL_WINDOW_SIZE, size) if i64::from(size) > MAX_WINDOW => {
                    return Err(Broken::new(code::FLOW_CONTROL_ERROR, "the initial window is too large"));
                }
                // The last counts; to go through all streams for each would be work for nothing.
                (setting::INITIAL_WINDOW_SIZE, size) => window = Some(i64::from(size)),
                (setting::MAX_FRAME_SIZE, ..0x4000 | 0x100_0000..) => {
                    return Err(Broken::protocol("the largest frame has a size that none has"));
                }
                (setting::ENABLE_CONNECT_PROTOCOL, 2..) => return Err(Broken::protocol("ENABLE_CONNECT_PROTOCOL is neither 0 nor 1")),
                (setting::ENABLE_CONNECT_PROTOCOL, 0) if self.extended_connect => {
                    return Err(Broken::protocol("extended CONNECT is taken back"));
                }
                (setting::ENABLE_CONNECT_PROTOCOL, value) => self.extended_connect = value == 1,
                _ => {}
            }
        }
        if !std::mem::replace(&mut self.settled, true) {
            // Who says nothing allows any number.
            self.peer_streams = streams.unwrap_or(u32::MAX);
        } else if let Some(streams) = streams {
            self.peer_streams = streams;
        }
        if let Some(window) = window {
            self.initial_window(window)?;
        }
        self.outbox.put(&Header { length: 0, kind: kind::SETTINGS, flags: flag::ACK, stream: 0 }.write());
        Ok(())
    }

    /// All open streams may send more, or less, by as much as the initial window changes.
    fn initial_window(&mut self, window: i64) -> Result<(), Broken> {
        let change = window - std::mem::replace(&mut self.peer_window, window);
        if change == 0 {
            return Ok(());
        }
        for slot in self.streams.slots() {
            let stream = self.streams.get(slot);
            stream.send_window += change;
            if stream.send_window > MAX_WINDOW {
                return Err(Broken::new(code::FLOW_CONTROL_ERROR, "a window is too large"));
            }
            self.list(slot);
        }
        Ok(())
    }

    fn ping(&mut self, header: Header, payload: &[u8]) -> Result<(), Broken> {
        let opaque = *payload.first_chunk::<8>().unwrap_or(&[0; 8]);
        self.idle_frame()?;
        if !header.has(flag::ACK) {
            self.outbox.put(&frame::ping(flag::ACK, opaque));
        } else if opaque == DRAIN_PING && self.leaving == Leaving::Announced {
            self.leave_finally();
        }
        Ok(())
    }

    fn goaway(&mut self, last: u32, code: u32) -> Result<(), Broken> {
        self.idle_frame()?;
        if code != code::NO_ERROR {
            tracing::debug!(code, "the peer says that we broke HTTP/2");
        }
        if self.side == Side::Server {
            return Ok(());
        }
        if self.told.is_some_and(|before| last > before) {
            return Err(Broken::protocol("a GOAWAY takes back an earlier one"));
        }
        self.told = Some(last);
        for slot in self.streams.slots() {
            if self.streams.peek(slot).id > last {
                self.end_stream(slot, WireError::NotProcessed);
            }
        }
        Ok(())
    }

    fn window_update(&mut self, id: u32, more: i64) -> Result<(), Broken> {
        self.idle_frame()?;
        if id == 0 {
            self.send_window += more;
            return match more {
                0 => Err(Broken::protocol("a window grows by nothing")),
                _ if self.send_window > MAX_WINDOW => Err(Broken::new(code::FLOW_CONTROL_ERROR, "a window is too large")),
                _ => Ok(()),
            };
        }
        let Some(slot) = self.streams.find(id) else {
            let refused = self.leaving == Leaving::Final && id > self.last;
            return if self.is_idle(id) && !refused { Err(Broken::protocol("a window grows that is not there")) } else { Ok(()) };
        };
        let stream = self.streams.get(slot);
        stream.send_window += more;
        if more == 0 {
            return self.fail(slot, code::PROTOCOL_ERROR, "a window grows by nothing");
        }
        if stream.send_window > MAX_WINDOW {
            return self.fail(slot, code::FLOW_CONTROL_ERROR, "a window is too large");
        }
        self.list(slot);
        Ok(())
    }
}

/// Keeps data for whoever reads it. Much of it in little pieces would take far more memory than its window says, so where
/// nobody reads for a while, little pieces become larger ones.
fn keep(queue: &mut VecDeque<Bytes>, data: Bytes) {
    if queue.len() >= FEW
        && let Some(last) = queue.pop_back_if(|last| last.len() + data.len() <= COPIED)
    {
        let mut joined = last.try_into_mut().unwrap_or_else(|last| BytesMut::from(&last[..]));
        joined.extend_from_slice(&data);
        queue.push_back(joined.freeze());
    } else {
        queue.push_back(data);
    }
}
