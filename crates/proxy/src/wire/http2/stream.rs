//! The streams of a connection: what each has received and not given out, what it has yet to send, and who waits for it.

use std::collections::{HashMap, VecDeque};
use std::task::{Context, Waker};

use bytes::Bytes;
use lorica_model::head::{Fields, ResponseHead};

use super::super::error::WireError;
use super::STREAM_WINDOW;
use super::outbox::Place;

/// How a stream's sending ends, once its data has left.
#[derive(Debug)]
pub(super) enum End {
    /// As it is.
    Plain,
    /// With trailers, as their block.
    Trailers(Bytes),
}

/// One stream.
#[derive(Debug, Default)]
pub(super) struct Stream {
    pub(super) id: u32,
    /// How many handles of it there are; it stays until all are dropped.
    pub(super) handles: u8,
    /// The standard's state: neither side sends any more.
    pub(super) closed: bool,
    /// Our END_STREAM is in the outbox.
    pub(super) local_closed: bool,
    /// The peer's END_STREAM has come.
    pub(super) remote_closed: bool,
    /// Why it ended before its time.
    pub(super) failed: Option<WireError>,

    /// The answer's head, and its body's length where declared.
    pub(super) head: Option<(ResponseHead, Option<u64>)>,
    /// The answer's head has come, or the stream is a request's.
    pub(super) headed: bool,
    pub(super) interim: VecDeque<ResponseHead>,
    /// How many interim answers have come.
    pub(super) informational: u32,
    pub(super) data: VecDeque<Bytes>,
    pub(super) trailers: Option<Box<Fields>>,
    /// What its Content-Length leaves to come.
    pub(super) expected: Option<u64>,
    /// Its request is a HEAD: a Content-Length says nothing of a body.
    pub(super) to_head: bool,
    /// Nobody reads what comes.
    pub(super) unwanted: bool,
    /// What the peer may still send.
    pub(super) receive_window: i64,
    /// What was used up and not yet given back to the peer.
    pub(super) used: u32,
    /// What was handed out, and is used up once more is asked for.
    pub(super) owed: u32,

    /// What we may still send.
    pub(super) send_window: i64,
    pub(super) queue: VecDeque<Bytes>,
    /// Bytes in `queue`.
    pub(super) queued: usize,
    pub(super) end: Option<End>,
    /// It stands in the list of those that may send.
    pub(super) listed: bool,
    /// A server: the answer's head was put; a client: the request's.
    pub(super) begun: Option<Place>,
    /// Where its last frame stands.
    pub(super) last: Option<Place>,

    pub(super) receiving: Option<Waker>,
    pub(super) sending: Option<Waker>,
    pub(super) gone: Option<Waker>,
}

impl Stream {
    /// Bytes that came and were not used up.
    pub(super) fn unused(&self) -> usize {
        self.owed as usize + self.data.iter().map(Bytes::len).sum::<usize>()
    }

    /// Forgets what was to be sent.
    pub(super) fn clear_queue(&mut self) {
        self.queue.clear();
        self.queued = 0;
        self.end = None;
    }

    /// Wakes whoever waits for it, as it has ended.
    pub(super) fn wake_all(&mut self) {
        for waker in [&mut self.receiving, &mut self.sending, &mut self.gone] {
            wake(waker);
        }
    }

    /// Whether there is something to send that the stream's own window allows.
    pub(super) fn is_sendable(&self) -> bool {
        if self.queue.is_empty() { self.end.is_some() } else { self.send_window > 0 }
    }

    /// As new, keeping the room of its queues.
    fn begin(&mut self, id: u32, send_window: i64) {
        let mut queues = (std::mem::take(&mut self.data), std::mem::take(&mut self.queue));
        queues.0.clear();
        queues.1.clear();
        *self = Self { id, send_window, receive_window: i64::from(STREAM_WINDOW), ..Self::default() };
        (self.data, self.queue) = queues;
    }
}

/// Wakes whoever waits there.
pub(super) fn wake(waker: &mut Option<Waker>) -> bool {
    waker.take().map(Waker::wake).is_some()
}

/// Has `cx` woken there.
pub(super) fn wait(waker: &mut Option<Waker>, cx: &Context<'_>) {
    match waker {
        Some(waker) => waker.clone_from(cx.waker()),
        None => *waker = Some(cx.waker().clone()),
    }
}

/// All streams, each in a slot that stays its own until it is released.
#[derive(Debug, Default)]
pub(super) struct Streams {
    #[expect(clippy::vec_box, reason = "a stream is large, and its slot must not be copied whenever there is one more")]
    slots: Vec<Box<Stream>>,
    free: Vec<u32>,
    /// The slot of each stream that is not closed.
    open: HashMap<u32, u32, foldhash::fast::RandomState>,
}

impl Streams {
    /// How many are not closed.
    pub(super) fn open(&self) -> usize {
        self.open.len()
    }

    /// How many slots are in use: those not closed, and those that somebody still holds.
    pub(super) fn held(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub(super) fn find(&self, id: u32) -> Option<u32> {
        self.open.get(&id).copied()
    }

    pub(super) fn get(&mut self, slot: u32) -> &mut Stream {
        &mut self.slots[slot as usize]
    }

    pub(super) fn peek(&self, slot: u32) -> &Stream {
        &self.slots[slot as usize]
    }

    pub(super) fn begin(&mut self, id: u32, send_window: i64) -> u32 {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Box::default());
            self.slots.len() as u32 - 1
        });
        self.get(slot).begin(id, send_window);
        self.open.insert(id, slot);
        slot
    }

    /// It is closed: frames that name it no longer find it.
    pub(super) fn close(&mut self, slot: u32) {
        let stream = &mut self.slots[slot as usize];
        stream.closed = true;
        self.open.remove(&stream.id);
        if stream.handles == 0 {
            self.release(slot);
        }
    }

    /// Nobody holds it, and it is closed.
    pub(super) fn release(&mut self, slot: u32) {
        self.free.push(slot);
        if self.held() == 0 {
            // A connection at rest keeps the room of one stream.
            self.slots.truncate(1);
            self.slots.shrink_to(1);
            self.free.clear();
            self.free.push(0);
            self.free.shrink_to(1);
            if self.open.capacity() > 16 {
                self.open = HashMap::default();
            }
        }
    }

    /// The slots of all that are not closed.
    pub(super) fn slots(&self) -> Vec<u32> {
        self.open.values().copied().collect()
    }
}
