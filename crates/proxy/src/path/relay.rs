//! relay: bytes both ways until both sides have ended, one of them fails, or nothing moves for too long.
//!
//! In: two connections and the bytes already read from the caller. Out: how many bytes went each way, and how it ended.
//! Half-closed connections go on in the other direction; nothing is buffered beyond one read each way.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use lorica_model::reason::Reason;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

/// The largest read in one direction, in bytes: four TLS records, so that one system call carries as many.
const CHUNK: usize = 64 * 1024;

thread_local! {
    /// What is read goes through here, and stays nowhere unless it cannot be written at once.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; CHUNK].into_boxed_slice());
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
    C: AsyncRead + AsyncWrite + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
{
    let mut up = Direction::new(&read.client);
    let mut down = Direction::new(&read.upstream);
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
    pending: Vec<u8>,
    written: usize,
    unflushed: bool,
    read_ended: bool,
    shut: bool,
    bytes: u64,
}

impl Direction {
    fn new(prefix: &[u8]) -> Self {
        Self { pending: prefix.to_vec(), written: 0, unflushed: false, read_ended: false, shut: false, bytes: 0 }
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut (impl AsyncRead + Unpin),
        to: &mut (impl AsyncWrite + Unpin),
    ) -> Poll<Result<(), End>> {
        if self.shut {
            return Poll::Ready(Ok(()));
        }
        loop {
            if self.written < self.pending.len() {
                let written = write(cx, to, &self.pending[self.written..]);
                self.written += written.count;
                self.moved(written.count);
                ready!(written.blocked)?;
            }
            // An idle connection holds no buffer.
            (self.pending, self.written) = (Vec::new(), 0);
            if self.read_ended {
                // A peer that is gone already needs no farewell.
                let _: io::Result<()> = ready!(Pin::new(&mut *to).poll_shutdown(cx));
                self.shut = true;
                return Poll::Ready(Ok(()));
            }
            let passed = SCRATCH.with_borrow_mut(|scratch| {
                let mut buffer = ReadBuf::new(scratch);
                if ready!(Pin::new(&mut *from).poll_read(cx, &mut buffer)).is_err() {
                    return Poll::Ready(Err(End::Reading));
                }
                let read = buffer.filled();
                self.read_ended = read.is_empty();
                let written = write(cx, to, read);
                if written.count < read.len() {
                    self.pending = read[written.count..].to_vec();
                }
                self.moved(written.count);
                match written.blocked {
                    Poll::Ready(Err(end)) => Poll::Ready(Err(end)),
                    _ => Poll::Ready(Ok(())),
                }
            });
            if passed?.is_pending() {
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

    fn moved(&mut self, count: usize) {
        self.bytes += count as u64;
        self.unflushed |= count > 0;
    }
}

/// What came of a write: how much was taken, and whether the rest must wait.
struct Written {
    count: usize,
    blocked: Poll<Result<(), End>>,
}

/// Writes as much of `bytes` as is taken now.
fn write(cx: &mut Context<'_>, to: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> Written {
    let mut count = 0;
    while count < bytes.len() {
        match Pin::new(&mut *to).poll_write(cx, &bytes[count..]) {
            Poll::Ready(Ok(more)) if more > 0 => count += more,
            Poll::Ready(_) => return Written { count, blocked: Poll::Ready(Err(End::Writing)) },
            Poll::Pending => return Written { count, blocked: Poll::Pending },
        }
    }
    Written { count, blocked: Poll::Ready(Ok(())) }
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

    #[tokio::test(start_paused = true)]
    async fn silence_ends_a_relay_that_may_not_be_silent() {
        let (_app, mut inner) = duplex(64);
        let (mut outer, _server) = duplex(64);
        let relayed = relay(&mut inner, &mut outer, Read::default(), Some(Duration::from_secs(7))).await;
        assert_eq!(relayed.reason, Some(Reason::IdleTimeout));
    }
}
