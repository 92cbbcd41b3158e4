//! relay: bytes both ways until both sides have ended, one of them fails, or nothing moves for too long.
//!
//! In: two connections and the bytes already read from the caller. Out: how many bytes went each way, and how it ended.
//! Half-closed connections go on in the other direction; nothing is buffered beyond one read each way.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use lorica_model::reason::Reason;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::stream::Stream;
use crate::wire::{Paced, SEND_BUFFER, Tunnel};

/// The largest read in one direction, in bytes: what a stream takes at once, four whole TLS records with their frames' headers.
const CHUNK: usize = SEND_BUFFER;
/// The most pieces in one write: as many as [`CHUNK`] has.
const PIECES: usize = 8;

thread_local! {
    /// What is read goes through here, and stays nowhere unless it cannot be written at once.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; CHUNK].into_boxed_slice());
}

/// One side of a relay. One that has bytes in pieces of its own gives them out, and takes them, without a copy.
pub trait Side: AsyncRead + AsyncWrite + Unpin {
    /// The next piece, `None` at the end. No answer: it has none, and is read.
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Option<Poll<Option<io::Result<Bytes>>>> {
        let _ = cx;
        None
    }

    /// Takes a piece whole, if there is room. No answer: it is written to.
    fn poll_take(&mut self, cx: &mut Context<'_>, piece: &mut Bytes) -> Option<Poll<io::Result<()>>> {
        let _ = (cx, piece);
        None
    }

    /// Whether it takes pieces.
    fn takes_pieces(&self) -> bool {
        false
    }
}

impl Side for TcpStream {}
impl<S: AsyncRead + AsyncWrite + Unpin> Side for Paced<S> {}
#[cfg(test)]
impl Side for tokio::io::DuplexStream {}

impl Side for Tunnel {
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Option<Poll<Option<io::Result<Bytes>>>> {
        matches!(self, Self::Http2(_)).then(|| self.poll_data(cx))
    }
    fn poll_take(&mut self, cx: &mut Context<'_>, piece: &mut Bytes) -> Option<Poll<io::Result<()>>> {
        matches!(self, Self::Http2(_)).then(|| self.poll_send(cx, piece))
    }
    fn takes_pieces(&self) -> bool {
        matches!(self, Self::Http2(_))
    }
}

impl Side for Stream {
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Option<Poll<Option<io::Result<Bytes>>>> {
        if let Self::Carried(carried) = self { Some(carried.poll_data(cx)) } else { None }
    }
    fn poll_take(&mut self, cx: &mut Context<'_>, piece: &mut Bytes) -> Option<Poll<io::Result<()>>> {
        if let Self::Carried(carried) = self { Some(carried.poll_send(cx, piece)) } else { None }
    }
    fn takes_pieces(&self) -> bool {
        matches!(self, Self::Carried(_))
    }
}

/// What a relay did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Relayed {
    /// Bytes from the caller to the upstream.
    pub up: u64,
    /// Bytes from the upstream to the caller.
    pub down: u64,
    /// Why it ended, unless both sides closed in order.
    pub reason: Option<Reason>,
}

/// Bytes that were read before the relay began.
#[derive(Debug, Default)]
pub struct Read {
    /// From the caller; they go upstream first.
    pub client: Bytes,
    /// From the upstream; they go to the caller first.
    pub upstream: Bytes,
}

/// Relays until the end. `idle`: how long nothing may move; `None`: for ever.
pub async fn relay<C, U>(client: &mut C, upstream: &mut U, read: Read, idle: Option<Duration>) -> Relayed
where
    C: Side,
    U: Side,
{
    let mut up = Direction::new(read.client);
    let mut down = Direction::new(read.upstream);
    let mut clock = idle.map(Clock::new);
    let reason = poll_fn(|cx| {
        let moved = (up.bytes, down.bytes);
        let to_upstream = up.poll(cx, client, upstream);
        let to_client = down.poll(cx, upstream, client);
        let failed = match (&to_upstream, &to_client) {
            (Poll::Ready(Err(end)), _) => Some(end.reason(Reason::ClientClosed, Reason::UpstreamClosed)),
            (_, Poll::Ready(Err(end))) => Some(end.reason(Reason::UpstreamClosed, Reason::ClientClosed)),
            _ => None,
        };
        if failed.is_some() {
            return Poll::Ready(failed);
        }
        if to_upstream.is_ready() && to_client.is_ready() {
            return Poll::Ready(None);
        }
        match &mut clock {
            Some(clock) => clock.poll(cx, moved != (up.bytes, down.bytes)).map(|()| Some(Reason::IdleTimeout)),
            None => Poll::Pending,
        }
    })
    .await;
    Relayed { up: up.bytes, down: down.bytes, reason }
}

/// Relays until the end; `pace`: at most so many bytes a second come from the upstream.
pub async fn relay_at<C, U>(pace: Option<u64>, client: &mut C, mut upstream: U, read: Read, idle: Option<Duration>) -> Relayed
where
    C: Side,
    U: Side,
{
    match pace {
        None => relay(client, &mut upstream, read, idle).await,
        // Boxed, as it is seldom and would make every relay larger.
        Some(pace) => Box::pin(relay(client, &mut Paced::new(upstream, pace), read, idle)).await,
    }
}

/// Which side of a direction failed.
enum End {
    Reading,
    Writing,
}

impl End {
    fn reason(&self, reading: Reason, writing: Reason) -> Reason {
        match self {
            Self::Reading => reading,
            Self::Writing => writing,
        }
    }
}

struct Direction {
    /// What was read and could not be written yet; mostly nothing.
    pending: VecDeque<Bytes>,
    unflushed: bool,
    read_ended: bool,
    shut: bool,
    /// Whether the last read brought much: then bytes are read where they stay.
    bulk: bool,
    bytes: u64,
}

impl Direction {
    fn new(prefix: Bytes) -> Self {
        let pending = Some(prefix).filter(|prefix| !prefix.is_empty()).into_iter().collect();
        Self { pending, unflushed: false, read_ended: false, shut: false, bulk: false, bytes: 0 }
    }

    fn poll(&mut self, cx: &mut Context<'_>, from: &mut impl Side, to: &mut impl Side) -> Poll<Result<(), End>> {
        if self.shut {
            return Poll::Ready(Ok(()));
        }
        loop {
            ready!(self.poll_write(cx, to))?;
            if self.read_ended {
                // A peer that is gone already needs no farewell.
                let _: io::Result<()> = ready!(Pin::new(&mut *to).poll_shutdown(cx));
                self.shut = true;
                return Poll::Ready(Ok(()));
            }
            if self.poll_read(cx, from, to)?.is_pending() {
                if self.unflushed {
                    // TLS may hold back what it could not write at once.
                    match Pin::new(&mut *to).poll_flush(cx) {
                        Poll::Ready(Ok(())) => self.unflushed = false,
                        Poll::Ready(Err(_)) => return Poll::Ready(Err(End::Writing)),
                        Poll::Pending => {}
                    }
                }
                return Poll::Pending;
            }
        }
    }

    /// Reads once: pieces as they are, much into a buffer that stays, little through the scratch and on at once.
    fn poll_read(&mut self, cx: &mut Context<'_>, from: &mut impl Side, to: &mut impl Side) -> Result<Poll<()>, End> {
        let mut gathered = 0;
        while let Some(piece) = from.poll_piece(cx) {
            match piece {
                Poll::Ready(Some(Ok(piece))) => {
                    gathered += piece.len();
                    self.pending.push_back(piece);
                    if gathered >= CHUNK || self.pending.len() >= PIECES {
                        return Ok(Poll::Ready(()));
                    }
                }
                Poll::Ready(Some(Err(_))) => return Err(End::Reading),
                Poll::Ready(None) => {
                    self.read_ended = true;
                    return Ok(Poll::Ready(()));
                }
                // What came is written first; then it is asked again, and wakes us.
                Poll::Pending => return Ok(if gathered > 0 { Poll::Ready(()) } else { Poll::Pending }),
            }
        }
        if self.bulk && to.takes_pieces() {
            let mut buffer = BytesMut::with_capacity(CHUNK);
            let Poll::Ready(read) = tokio_util::io::poll_read_buf(Pin::new(from), cx, &mut buffer) else { return Ok(Poll::Pending) };
            let count = read.map_err(|_| End::Reading)?;
            (self.read_ended, self.bulk) = (count == 0, count >= CHUNK / 4);
            self.pending.extend((count > 0).then(|| buffer.freeze()));
            return Ok(Poll::Ready(()));
        }
        SCRATCH.with_borrow_mut(|scratch| {
            let mut buffer = ReadBuf::new(scratch);
            let Poll::Ready(read) = Pin::new(from).poll_read(cx, &mut buffer) else { return Ok(Poll::Pending) };
            read.map_err(|_| End::Reading)?;
            let mut read = buffer.filled();
            (self.read_ended, self.bulk) = (read.is_empty(), read.len() >= CHUNK / 2);
            while !read.is_empty() {
                match Pin::new(&mut *to).poll_write(cx, read) {
                    Poll::Ready(Ok(count @ 1..)) => {
                        self.moved(count);
                        read = &read[count..];
                    }
                    Poll::Ready(_) => return Err(End::Writing),
                    Poll::Pending => {
                        self.pending.push_back(Bytes::copy_from_slice(read));
                        break;
                    }
                }
            }
            Ok(Poll::Ready(()))
        })
    }

    /// Writes what waits.
    fn poll_write(&mut self, cx: &mut Context<'_>, to: &mut impl Side) -> Poll<Result<(), End>> {
        loop {
            let several = self.pending.len() > 1 && to.is_write_vectored();
            let Some(first) = self.pending.front_mut() else { break };
            let length = first.len();
            if let Some(taken) = to.poll_take(cx, first) {
                ready!(taken).map_err(|_| End::Writing)?;
                self.pending.pop_front();
                self.moved(length);
                continue;
            }
            let written = if several {
                let mut slices = [IoSlice::new(&[]); PIECES];
                let used = slices.iter_mut().zip(&self.pending).map(|(slice, piece)| *slice = IoSlice::new(piece)).count();
                ready!(Pin::new(&mut *to).poll_write_vectored(cx, &slices[..used]))
            } else {
                ready!(Pin::new(&mut *to).poll_write(cx, first))
            };
            match written {
                Ok(count @ 1..) => self.wrote(count),
                _ => return Poll::Ready(Err(End::Writing)),
            }
        }
        // An idle connection holds no buffer.
        self.pending = VecDeque::new();
        Poll::Ready(Ok(()))
    }

    fn wrote(&mut self, mut count: usize) {
        self.moved(count);
        while let Some(first) = self.pending.front_mut() {
            if count < first.len() {
                first.advance(count);
                return;
            }
            count -= first.len();
            self.pending.pop_front();
        }
    }

    fn moved(&mut self, count: usize) {
        self.bytes += count as u64;
        self.unflushed |= count > 0;
    }
}

/// An idle timer that is armed again only when it fires, not at each byte.
struct Clock {
    idle: Duration,
    last: Instant,
    sleep: Pin<Box<Sleep>>,
}

impl Clock {
    fn new(idle: Duration) -> Self {
        let last = Instant::now();
        Self { idle, last, sleep: Box::pin(sleep_until(last + idle)) }
    }

    fn poll(&mut self, cx: &mut Context<'_>, moved: bool) -> Poll<()> {
        if moved {
            self.last = Instant::now();
        }
        while self.sleep.as_mut().poll(cx).is_ready() {
            let due = self.last + self.idle;
            if due <= Instant::now() {
                return Poll::Ready(());
            }
            self.sleep.as_mut().reset(due);
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    #[tokio::test]
    async fn bytes_pass_both_ways_and_halves_close_alone() {
        let (mut app, mut inner) = duplex(64);
        let (mut outer, mut server) = duplex(64);
        let app = async move {
            app.write_all(&vec![b'x'; 100_000]).await.unwrap();
            app.shutdown().await.unwrap();
            let mut answer = String::new();
            app.read_to_string(&mut answer).await.unwrap();
            answer
        };
        let server = async move {
            let mut all = Vec::new();
            server.read_to_end(&mut all).await.unwrap();
            server.write_all(format!("{} bytes", all.len()).as_bytes()).await.unwrap();
        };
        let (relayed, answer, ()) = tokio::join!(
            relay(&mut inner, &mut outer, Read { client: Bytes::from_static(b"ab"), upstream: Bytes::new() }, None),
            app,
            server
        );
        assert_eq!(answer, "100002 bytes");
        assert_eq!(relayed, Relayed { up: 100_002, down: 12, reason: None });
    }

    /// A side that has bytes in pieces, and takes one piece in turn.
    struct Pieces {
        out: VecDeque<Bytes>,
        taken: Vec<u8>,
        is_full: bool,
    }

    impl AsyncRead for Pieces {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Err(io::ErrorKind::Unsupported.into()))
        }
    }
    impl AsyncWrite for Pieces {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            self.taken.extend_from_slice(bytes);
            Poll::Ready(Ok(bytes.len()))
        }
        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }
    impl Side for Pieces {
        fn poll_piece(&mut self, _: &mut Context<'_>) -> Option<Poll<Option<io::Result<Bytes>>>> {
            Some(Poll::Ready(self.out.pop_front().map(Ok)))
        }
        fn poll_take(&mut self, cx: &mut Context<'_>, piece: &mut Bytes) -> Option<Poll<io::Result<()>>> {
            self.is_full = !self.is_full;
            if self.is_full {
                cx.waker().wake_by_ref();
                return Some(Poll::Pending);
            }
            self.taken.extend_from_slice(&std::mem::take(piece));
            Some(Poll::Ready(Ok(())))
        }
        fn takes_pieces(&self) -> bool {
            true
        }
    }

    #[tokio::test]
    async fn pieces_pass_whole_and_in_order() {
        let (mut app, mut inner) = duplex(256 * 1024);
        let sent: Vec<u8> = (0..300_000_u32).map(|number| number.to_le_bytes()[0]).collect();
        let pieces = sent.chunks(9000).map(Bytes::copy_from_slice).collect();
        let mut outer = Pieces { out: pieces, taken: Vec::new(), is_full: false };
        let app = async {
            let (mut read, mut write) = tokio::io::split(&mut app);
            let mut answer = Vec::new();
            let (written, _) = tokio::join!(
                async {
                    write.write_all(&sent).await.unwrap();
                    write.shutdown().await
                },
                read.read_to_end(&mut answer)
            );
            written.unwrap();
            answer
        };
        let (relayed, answer) = tokio::join!(relay(&mut inner, &mut outer, Read::default(), None), app);
        assert_eq!(relayed, Relayed { up: 300_000, down: 300_000, reason: None });
        assert!(answer == sent && outer.taken == sent);
    }

    #[tokio::test(start_paused = true)]
    async fn silence_ends_a_relay_that_may_not_be_silent() {
        let (_app, mut inner) = duplex(64);
        let (mut outer, _server) = duplex(64);
        let relayed = relay(&mut inner, &mut outer, Read::default(), Some(Duration::from_secs(7))).await;
        assert_eq!(relayed.reason, Some(Reason::IdleTimeout));
    }
}
