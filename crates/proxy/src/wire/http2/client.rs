//! The client's side of HTTP/2: a connection that many exchanges share.

use std::future::{Future, poll_fn};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use lorica_model::head::{Edits, Fields, HeadBuilder, ResponseHead, Version};
use tokio::time::timeout;

use super::super::error::WireError;
use super::super::upstream::{Answer, Outgoing, Tunnel};
use super::Http2Tunnel;
use super::body::{finish, incoming, send};
use super::connection::{Connection, Side};
use super::driver::{Driver, Handle, Shared};
use super::frame::code;
use super::head::put_request;
use super::stream::wait;
use crate::stream::Stream;

/// How long a server may take to say whether it takes an extended CONNECT: a round trip, and time to spare.
const SETTINGS: Duration = Duration::from_secs(5);

/// A connection to a server of HTTP/2. A clone is another handle of the same connection; it is closed once all are dropped and
/// no exchange is under way.
pub struct Http2Client(Rc<Shared>);

impl Http2Client {
    /// Begins HTTP/2 on `stream`. The future drives the connection and must be spawned. Our preface leaves with the first request.
    pub fn start(stream: Stream) -> (Self, impl Future<Output = ()> + use<>) {
        let mut driver = Driver::new(Side::Client, stream, BytesMut::new());
        let client = Self(driver.shared.clone());
        let driving = async move {
            if let Err(error) = poll_fn(|cx| driver.poll(cx)).await {
                tracing::debug!(%error, "an HTTP/2 connection ended");
            }
        };
        (client, driving)
    }

    /// Whether it takes no new request any more: it has ended, or its server said GOAWAY. Exchanges under way go on.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        self.0.connection.borrow().is_ended()
    }

    /// How many exchanges the server takes at once.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.0.connection.borrow().capacity()
    }

    /// Begins an exchange. Past the server's bound on exchanges it waits for one to end.
    ///
    /// # Errors
    /// [`WireError::NotProcessed`] where the connection takes no more.
    pub async fn send(&mut self, outgoing: &Outgoing<'_>) -> Result<(Http2Sender, Http2Receiver), WireError> {
        let upgrade = outgoing.protocol();
        if upgrade.is_some() && !self.takes_extended_connect().await? {
            return Err(WireError::Unsupported("the endpoint takes no upgrade over HTTP/2"));
        }
        self.room().await?;
        let end = outgoing.length == Some(0) && upgrade.is_none();
        let slot = self.0.connection.borrow_mut().ask(outgoing, upgrade, end);
        let stream = Handle::counted(self.0.clone(), slot);
        let upgrade = upgrade.is_some();
        Ok((Http2Sender { stream: stream.clone(), ended: end, upgrade }, Http2Receiver { stream, upgrade }))
    }

    /// Opens a stream that carries bytes, by an extended CONNECT to a server that is known to take it: what is sent on it
    /// does not wait for the answer. A refusal is an error of the first read.
    ///
    /// # Errors
    /// [`WireError::NotProcessed`] where the connection takes no more.
    pub async fn open(&mut self, protocol: &str, authority: &str) -> Result<Tunnel, WireError> {
        let head = HeadBuilder::with_capacity(128).request(Version::Http2, "CONNECT", "/", authority, Some(protocol))?;
        self.room().await?;
        let outgoing = Outgoing { head: &head, edits: &Edits::default(), length: None, upgrade: None };
        let slot = self.0.connection.borrow_mut().ask(&outgoing, Some(protocol.as_bytes()), false);
        Ok(Tunnel::Http2(Http2Tunnel::asked(Handle::counted(self.0.clone(), slot))))
    }

    /// Asks the server for a connection to a host, by CONNECT, and waits for its answer: bytes both ways, or the head that says why not.
    ///
    /// # Errors
    /// [`WireError::NotProcessed`] where the connection takes no more.
    pub async fn connect(&mut self, authority: &str) -> Result<Result<Tunnel, ResponseHead>, WireError> {
        let head = HeadBuilder::with_capacity(128).request(Version::Http2, "CONNECT", "", authority, None)?;
        self.room().await?;
        let outgoing = Outgoing { head: &head, edits: &Edits::default(), length: None, upgrade: None };
        let slot = self.0.connection.borrow_mut().ask(&outgoing, None, false);
        let mut receiver = Http2Receiver { stream: Handle::counted(self.0.clone(), slot), upgrade: true };
        loop {
            match receiver.answer().await? {
                Answer::Informational(_) => {}
                Answer::Upgraded(_, tunnel) => return Ok(Ok(tunnel)),
                Answer::Final(refused, _) => return Ok(Err(refused)),
            }
        }
    }

    /// Whether an exchange can begin at once.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.0.connection.borrow().has_room()
    }

    /// Waits until an exchange can begin.
    ///
    /// # Errors
    /// [`WireError::NotProcessed`] where the connection takes no more.
    pub async fn room(&self) -> Result<(), WireError> {
        let check = || {
            let connection = self.0.connection.borrow();
            match connection.is_ended() {
                true => Err(WireError::NotProcessed),
                false => Ok(connection.has_room()),
            }
        };
        if check()? {
            return Ok(());
        }
        let _waiting = Waiting::new(&self.0);
        while !check()? {
            self.0.room.notified().await;
        }
        Ok(())
    }

    /// Whether the server takes extended CONNECT. Its settings may still be on their way.
    async fn takes_extended_connect(&self) -> Result<bool, WireError> {
        let known = async {
            loop {
                {
                    let connection = self.0.connection.borrow();
                    if connection.is_ended() {
                        return Err(WireError::NotProcessed);
                    }
                    if connection.settled {
                        return Ok(connection.extended_connect);
                    }
                }
                self.0.settled.notified().await;
            }
        };
        timeout(SETTINGS, known).await.unwrap_or(Err(WireError::NotProcessed))
    }
}

impl Clone for Http2Client {
    fn clone(&self) -> Self {
        self.0.connection.borrow_mut().clients += 1;
        Self(self.0.clone())
    }
}

impl Drop for Http2Client {
    fn drop(&mut self) {
        let mut connection = self.0.connection.borrow_mut();
        connection.clients -= 1;
        if connection.is_done() {
            connection.wake();
        }
    }
}

/// Somebody waits for room. Gone, it lets the next one look, since the room that it was told of may be left.
struct Waiting<'s>(&'s Shared);

impl<'s> Waiting<'s> {
    fn new(shared: &'s Shared) -> Self {
        shared.connection.borrow_mut().waiting += 1;
        Self(shared)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut connection = self.0.connection.borrow_mut();
        connection.waiting -= 1;
        if connection.waiting > 0 && (connection.is_ended() || connection.has_room()) {
            self.0.room.notify_one();
        }
    }
}

impl Connection {
    /// Begins a stream with its request. Only where there is room.
    fn ask(&mut self, outgoing: &Outgoing<'_>, upgrade: Option<&[u8]>, end: bool) -> u32 {
        let slot = self.streams.begin(self.next, self.peer_window);
        self.next += 2;
        let stream = self.streams.get(slot);
        (stream.handles, stream.to_head) = (1, outgoing.head.is_method("HEAD"));
        self.put_head(slot, end, |encoder, out| put_request(outgoing, upgrade, encoder, out));
        slot
    }
}

/// Sends the body of one request.
pub struct Http2Sender {
    stream: Handle,
    ended: bool,
    /// An extended CONNECT has no body: the stream stays open for its tunnel.
    upgrade: bool,
}

impl Http2Sender {
    pub(crate) async fn data(&mut self, data: Bytes) -> Result<(), WireError> {
        if self.upgrade && !data.is_empty() {
            return Err(WireError::Unsupported("a request to upgrade has no body in HTTP/2"));
        }
        send(&self.stream, data).await
    }

    pub(crate) fn end(&mut self, trailers: Option<&Fields>) -> Result<(), WireError> {
        if !std::mem::replace(&mut self.ended, true) && !self.upgrade {
            finish(&self.stream, trailers)?;
        }
        Ok(())
    }
}

impl Drop for Http2Sender {
    fn drop(&mut self) {
        if !self.ended && !self.upgrade {
            self.stream.with(|connection, slot| connection.reset(slot, code::CANCEL));
        }
    }
}

/// Receives the answer to one request.
pub struct Http2Receiver {
    stream: Handle,
    upgrade: bool,
}

impl Http2Receiver {
    pub(crate) async fn answer(&mut self) -> Result<Answer, WireError> {
        let (head, length) = poll_fn(|cx| {
            self.stream.with(|connection, slot| {
                let stream = connection.streams.get(slot);
                if let Some(head) = stream.interim.pop_front() {
                    return Poll::Ready(Ok((head, None)));
                }
                if let Some(head) = stream.head.take() {
                    return Poll::Ready(Ok(head));
                }
                if let Some(why) = &stream.failed {
                    return Poll::Ready(Err(why.clone()));
                }
                wait(&mut stream.receiving, cx);
                Poll::Pending
            })
        })
        .await?;
        if head.status < 200 {
            return Ok(Answer::Informational(head));
        }
        if self.upgrade && head.status < 300 {
            return Ok(Answer::Upgraded(head, Tunnel::Http2(Http2Tunnel::new(self.stream.clone()))));
        }
        Ok(Answer::Final(head, incoming(self.stream.clone(), length)))
    }
}
