//! The state of a connection of HTTP/2, shared by the one task that drives it and the handles of its streams.
//!
//! `receive` takes frames in, `send` puts frames out, `driver` moves bytes; here is what they have in common: windows,
//! settings, how streams and the connection end. Nothing here reads or writes a socket.

use std::collections::VecDeque;
use std::task::{Context, Waker};

use bytes::BytesMut;
use lorica_model::head::{MAX_HEAD_BYTES, RequestHead};

use super::super::error::WireError;
use super::calm::Calm;
use super::frame::{self, Broken, DEFAULT_WINDOW, Header, MAX_STREAM, PREFACE, code, kind};
use super::hpack::{Decoder, Encoder};
use super::outbox::Outbox;
use super::stream::{Streams, wake};
use super::{CONNECTION_WINDOW, MAX_STREAMS, STREAM_WINDOW};

/// The most exchanges that we begin on one connection, whatever its server allows: each holds a head and a window.
const MAX_BEGUN: u32 = 1024;
/// The most that we begin before the server has said how many it takes: what the standard asks servers to allow at least.
const BEFORE_SETTINGS: u32 = 100;
/// How many streams that we reset are remembered: as many as may have been open, as what their peer had sent before it knew is
/// no mistake of it.
const REMEMBERED: usize = MAX_STREAMS as usize;
/// How much may wait to be written before no DATA is added, in bytes: what a loopback socket takes at once.
pub(super) const OUTBOX_DATA: usize = 128 * 1024;
/// How much may wait to be written before the peer is no longer read, in bytes; a peer that never reads makes us hold this,
/// and what one read makes us answer. More than [`OUTBOX_DATA`], so that two sides with much to send never both stop reading.
pub(super) const OUTBOX_STOP: usize = 512 * 1024;
/// How much room for what is to be written a connection keeps while exchanges are under way that say nothing, in bytes.
const KEPT: usize = 16 * 1024;
/// What the PING says that follows our first GOAWAY.
pub(super) const DRAIN_PING: [u8; 8] = *b"draining";

/// Settings (RFC 9113, 6.5.2; RFC 8441).
pub(super) mod setting {
    pub(crate) const HEADER_TABLE_SIZE: u16 = 1;
    pub(crate) const ENABLE_PUSH: u16 = 2;
    pub(crate) const MAX_CONCURRENT_STREAMS: u16 = 3;
    pub(crate) const INITIAL_WINDOW_SIZE: u16 = 4;
    pub(crate) const MAX_FRAME_SIZE: u16 = 5;
    pub(crate) const MAX_HEADER_LIST_SIZE: u16 = 6;
    pub(crate) const ENABLE_CONNECT_PROTOCOL: u16 = 8;
}

/// Which side we are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Client,
    Server,
}

/// A head of which more frames follow.
#[derive(Debug)]
pub(super) struct Block {
    pub(super) stream: u32,
    pub(super) end_stream: bool,
    pub(super) text: BytesMut,
    pub(super) frames: u32,
}

/// A request that nobody has taken yet.
#[derive(Debug)]
pub(super) struct Accepted {
    pub(super) head: RequestHead,
    pub(super) length: Option<u64>,
    pub(super) slot: u32,
}

/// How far a server is on its way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Leaving {
    No,
    /// GOAWAY was said without naming a last stream: requests on their way are still taken.
    Announced,
    /// GOAWAY has named the last stream.
    Final,
}

/// The state of one connection.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) side: Side,
    pub(super) streams: Streams,
    pub(super) outbox: Outbox,
    pub(super) encoder: Encoder,
    pub(super) decoder: Decoder,
    /// Where heads are put together.
    pub(super) text: Vec<u8>,
    pub(super) block: Option<Block>,
    pub(super) accepted: VecDeque<Accepted>,
    pub(super) calm: Calm,

    /// The peer's settings have come.
    pub(super) settled: bool,
    /// Ours were acknowledged.
    pub(super) acknowledged: bool,
    pub(super) peer_window: i64,
    pub(super) peer_streams: u32,
    pub(super) extended_connect: bool,
    /// Whether we take CONNECT requests to a host, as an egress gateway does.
    pub(super) takes_connect: bool,

    pub(super) send_window: i64,
    pub(super) receive_window: i64,
    pub(super) used: u32,
    /// Streams that have something to send and a window for it, in turn.
    pub(super) ready: VecDeque<u32>,

    /// A client's next stream.
    pub(super) next: u32,
    /// The highest stream that the peer has begun.
    pub(super) last: u32,
    pub(super) leaving: Leaving,
    /// The last stream that the peer's GOAWAY names.
    pub(super) told: Option<u32>,
    reset: VecDeque<u32>,
    /// Why the connection has ended.
    pub(super) ended: Option<WireError>,

    /// How many handles a client has.
    pub(super) clients: usize,
    /// How many requests wait for room.
    pub(super) waiting: usize,
    pub(super) driver: Option<Waker>,
    /// The driver was woken and has not run since, or is running.
    pub(super) notified: bool,
    /// Somebody was woken by what came.
    pub(super) woke: bool,
}

impl Connection {
    pub(super) fn new(side: Side) -> Self {
        let mut connection = Self {
            side,
            streams: Streams::default(),
            outbox: Outbox::default(),
            encoder: Encoder::new(),
            decoder: Decoder::new(),
            text: Vec::new(),
            block: None,
            accepted: VecDeque::new(),
            calm: Calm::new(),
            settled: false,
            acknowledged: false,
            peer_window: DEFAULT_WINDOW,
            peer_streams: BEFORE_SETTINGS,
            extended_connect: false,
            takes_connect: false,
            send_window: DEFAULT_WINDOW,
            receive_window: i64::from(CONNECTION_WINDOW),
            used: 0,
            ready: VecDeque::new(),
            next: 1,
            last: 0,
            leaving: Leaving::No,
            told: None,
            reset: VecDeque::new(),
            ended: None,
            clients: 1,
            waiting: 0,
            driver: None,
            notified: false,
            woke: false,
        };
        connection.greet();
        connection
    }

    /// Says what a connection begins with.
    fn greet(&mut self) {
        let common = [(setting::INITIAL_WINDOW_SIZE, STREAM_WINDOW), (setting::MAX_HEADER_LIST_SIZE, MAX_HEAD_BYTES as u32)];
        let own = match self.side {
            Side::Client => &[(setting::ENABLE_PUSH, 0)][..],
            Side::Server => &[(setting::MAX_CONCURRENT_STREAMS, MAX_STREAMS), (setting::ENABLE_CONNECT_PROTOCOL, 1)],
        };
        if self.side == Side::Client {
            self.outbox.put(PREFACE);
        }
        let length = 6 * (common.len() + own.len());
        self.outbox.put(&Header { length, kind: kind::SETTINGS, flags: 0, stream: 0 }.write());
        for (id, value) in common.iter().chain(own) {
            self.outbox.put(&id.to_be_bytes());
            self.outbox.put(&value.to_be_bytes());
        }
        self.outbox.put(&frame::with_number(kind::WINDOW_UPDATE, 0, CONNECTION_WINDOW - DEFAULT_WINDOW as u32));
    }

    /// Has the driver run: something is to be written, or the connection is over.
    pub(super) fn wake(&mut self) {
        if !self.notified {
            self.notified = true;
            if let Some(driver) = &self.driver {
                driver.wake_by_ref();
            }
        }
    }

    /// How many exchanges may be under way at once.
    pub(super) fn capacity(&self) -> usize {
        self.peer_streams.min(MAX_BEGUN) as usize
    }

    /// Whether a client can begin another exchange now.
    pub(super) fn has_room(&self) -> bool {
        self.streams.open() < self.capacity() && self.outbox.waiting() < OUTBOX_STOP
    }

    /// Whether no exchange can begin any more.
    pub(super) fn is_ended(&self) -> bool {
        self.ended.is_some() || self.told.is_some() || self.next > MAX_STREAM
    }

    /// Bytes that came were used up: the peer may send as many again.
    pub(super) fn release(&mut self, slot: u32, count: usize) {
        let stream = self.streams.get(slot);
        stream.used += count as u32;
        if stream.used >= STREAM_WINDOW / 2 && !stream.remote_closed && self.ended.is_none() {
            let used = std::mem::take(&mut stream.used);
            stream.receive_window += i64::from(used);
            self.outbox.put(&frame::with_number(kind::WINDOW_UPDATE, stream.id, used));
            self.wake();
        }
        self.release_connection(count);
    }

    /// The same, where only the connection's window counts.
    pub(super) fn release_connection(&mut self, count: usize) {
        self.used += count as u32;
        if self.used >= CONNECTION_WINDOW / 2 && self.ended.is_none() {
            let used = std::mem::take(&mut self.used);
            self.receive_window += i64::from(used);
            self.outbox.put(&frame::with_number(kind::WINDOW_UPDATE, 0, used));
            self.wake();
        }
    }

    /// What a stream has received will not be read: it counts as used up, and what follows is not kept.
    pub(super) fn unwant(&mut self, slot: u32) {
        let stream = self.streams.get(slot);
        let count = stream.unused();
        stream.data.clear();
        stream.trailers = None;
        (stream.owed, stream.unwanted) = (0, true);
        self.release_connection(count);
    }

    /// One of a stream's handles was dropped. Unless both sides are done, the last one ends the stream.
    pub(super) fn dropped(&mut self, slot: u32) {
        let side = self.side;
        let stream = self.streams.get(slot);
        stream.handles -= 1;
        if stream.handles > 0 {
            return;
        }
        let (closed, remote, local, ending) = (stream.closed, stream.remote_closed, stream.local_closed, stream.end.is_some());
        self.unwant(slot);
        match (closed, remote, local || ending) {
            (true, ..) => self.streams.release(slot),
            // It only has to be written.
            (_, true, true) => {}
            // The answer is whole, and the rest of the request is of no use.
            (_, false, true) if side == Side::Server && local => self.reset(slot, code::NO_ERROR),
            (_, false, true) if side == Side::Server => {}
            _ => self.reset(slot, code::CANCEL),
        }
    }

    /// Our side of a stream has ended.
    pub(super) fn closed_here(&mut self, slot: u32) {
        let stream = self.streams.get(slot);
        stream.local_closed = true;
        if stream.remote_closed {
            self.close(slot);
        } else if stream.handles == 0 {
            self.reset(slot, code::NO_ERROR);
        }
    }

    /// The peer's side of a stream has ended.
    pub(super) fn closed_there(&mut self, slot: u32) {
        let stream = self.streams.get(slot);
        stream.remote_closed = true;
        self.woke |= wake(&mut stream.receiving);
        if stream.local_closed {
            self.close(slot);
        }
    }

    fn close(&mut self, slot: u32) {
        self.streams.close(slot);
        if self.streams.open() == 0 {
            // None of those listed is there any more.
            self.ready.clear();
            if self.is_done() {
                self.wake();
            }
        }
    }

    /// Resets a stream; it has failed for its handles, too.
    pub(super) fn reset(&mut self, slot: u32, code: u32) {
        let stream = self.streams.get(slot);
        if stream.closed {
            return;
        }
        let id = stream.id;
        self.end_stream(slot, WireError::Reset(code));
        self.put_reset(id, code);
    }

    /// Says RST_STREAM.
    pub(super) fn put_reset(&mut self, id: u32, code: u32) {
        if self.ended.is_some() {
            return;
        }
        self.outbox.put(&frame::with_number(kind::RST_STREAM, id, code));
        if self.reset.len() == REMEMBERED {
            self.reset.pop_front();
        }
        self.reset.push_back(id);
        self.wake();
    }

    /// Whether we reset this stream a short while ago.
    pub(super) fn was_reset(&self, id: u32) -> bool {
        self.reset.contains(&id)
    }

    /// Ends a stream before its time; what came before stays readable.
    pub(super) fn end_stream(&mut self, slot: u32, why: WireError) {
        let stream = self.streams.get(slot);
        if stream.closed {
            return;
        }
        stream.failed = Some(why);
        stream.clear_queue();
        stream.local_closed = true;
        stream.wake_all();
        self.woke = true;
        self.close(slot);
    }

    /// Ends the connection for all of its streams. `why`, but for streams of whose head nothing was written, which had no effect.
    pub(super) fn end(&mut self, why: &WireError) {
        if self.ended.is_some() {
            return;
        }
        self.ended = Some(why.clone());
        for slot in self.streams.slots() {
            let unsent = self.side == Side::Client && self.streams.peek(slot).begun.is_none_or(|place| self.outbox.is_unwritten(place));
            self.end_stream(slot, if unsent { WireError::NotProcessed } else { why.clone() });
        }
        self.ready.clear();
        self.wake();
    }

    /// Ends the connection for the peer's mistake, which GOAWAY tells it.
    pub(super) fn broken(&mut self, broken: Broken) -> WireError {
        tracing::debug!(code = broken.code, why = broken.why, "HTTP/2 was broken");
        self.outbox.put(&frame::goaway(self.last, broken.code));
        let error = WireError::Invalid(broken.why);
        self.end(&error);
        error
    }

    /// A server's first word of leaving: no new request, but those on their way.
    pub(super) fn leave(&mut self) {
        if self.side == Side::Server && self.leaving == Leaving::No && self.ended.is_none() {
            self.leaving = Leaving::Announced;
            self.outbox.put(&frame::goaway(MAX_STREAM, code::NO_ERROR));
            self.outbox.put(&frame::ping(0, DRAIN_PING));
            self.wake();
        }
    }

    /// A server's second word: this was the last stream.
    pub(super) fn leave_finally(&mut self) {
        self.leaving = Leaving::Final;
        self.outbox.put(&frame::goaway(self.last, code::NO_ERROR));
        self.wake();
    }

    /// Whether nothing is left to do but to close.
    pub(super) fn is_done(&self) -> bool {
        let leaves = match self.side {
            Side::Client => self.clients == 0 || self.told.is_some(),
            Side::Server => self.leaving == Leaving::Final,
        };
        leaves && self.streams.open() == 0 && self.accepted.is_empty()
    }

    /// Gives back what only exchanges under way need.
    pub(super) fn rest(&mut self) {
        if self.outbox.capacity() > KEPT {
            self.outbox.rest();
        }
        if self.streams.open() == 0 && self.block.is_none() {
            self.outbox.rest();
            self.decoder.rest();
            self.text = Vec::new();
            self.ready.shrink_to(0);
        }
    }

    /// Has the driver of this connection woken by `cx`'s waker.
    pub(super) fn driven_by(&mut self, cx: &Context<'_>) {
        super::stream::wait(&mut self.driver, cx);
        self.notified = true;
        self.woke = false;
    }
}
