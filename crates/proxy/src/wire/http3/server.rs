//! The server's side of HTTP/3: requests as they come, each answered in its own time.

use std::any::Any;
use std::cell::Cell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use lorica_model::head::{MAX_FIELDS, MAX_HEAD_BYTES, RequestHead, Version};
use quinn::{Connection, RecvStream, SendStream, VarInt};
use tokio::task::spawn_local;
use tokio::time::timeout;

use super::super::body::Body;
use super::super::error::WireError;
use super::super::http2::{Collected, NoHead};
use super::body::following;
use super::frame::{code, is_of_http2, kind, put_header, put_number, setting, stream};
use super::incoming::Incoming;
use super::respond::Http3Responder;
use super::shared::{Counted, Shared};
use super::{control, qpack};

/// The longest block of fields, in bytes: a head of the largest size, with what says how long each name and value is.
pub(super) const MAX_BLOCK: u64 = (MAX_HEAD_BYTES + MAX_FIELDS * 8) as u64;
/// How long a client may take for its head, and for letting us say our settings.
const HEAD_TIME: Duration = Duration::from_secs(10);

/// What is held until an answer has arrived.
pub type Hold = Rc<dyn Fn() -> Box<dyn Any>>;

/// Whether a frame of this type has no place among requests: whatever follows could not be understood any more.
pub(super) const fn is_misplaced(kind: u64) -> bool {
    matches!(kind, kind::SETTINGS | kind::GOAWAY | kind::CANCEL_PUSH | kind::MAX_PUSH_ID | kind::PUSH_PROMISE) || is_of_http2(kind)
}

/// A connection from a client of HTTP/3. Dropped, it closes the connection.
pub struct Http3Server {
    shared: Rc<Shared>,
    /// The number of the stream that comes next.
    next: Cell<u64>,
    /// Streams from this number on are not looked at.
    leaves_at: Cell<Option<u64>>,
}

impl Http3Server {
    /// Serves a connection. `hold`: what is held for each answer until the client has it.
    ///
    /// # Errors
    /// When the client does not let us say our settings, or is gone.
    pub async fn start(connection: Connection, hold: Hold) -> Result<Self, WireError> {
        let shared = Rc::new(Shared::new(connection, hold));
        let mut settings = Vec::new();
        put_number(setting::MAX_FIELD_SECTION_SIZE, &mut settings);
        put_number((MAX_HEAD_BYTES + MAX_FIELDS * 32) as u64, &mut settings);
        let mut said = Vec::new();
        put_number(stream::CONTROL, &mut said);
        put_header(kind::SETTINGS, settings.len(), &mut said);
        said.extend_from_slice(&settings);
        let saying = async {
            let mut control = shared.connection.open_uni().await.map_err(|_| WireError::Closed)?;
            control.write_all(&said).await.map_err(|_| WireError::Closed)?;
            Ok::<_, WireError>(control)
        };
        let control = timeout(HEAD_TIME, saying).await.map_err(|_| WireError::HeadTimeout)??;
        *shared.control.borrow_mut() = Some(control);
        spawn_local(control::read(shared.clone()));
        Ok(Self { shared, next: Cell::new(0), leaves_at: Cell::new(None) })
    }

    /// The next request, of which nothing was read; none once the connection has ended. Nothing is lost if the future is dropped.
    pub async fn next(&self) -> Option<Http3Request> {
        loop {
            let (send, receive) = match self.shared.connection.accept_bi().await {
                Ok(both) => both,
                Err(error) => {
                    tracing::debug!(remote = %self.shared.connection.remote_address(), %error, "an HTTP/3 connection ended");
                    return None;
                }
            };
            let number = u64::from(send.id());
            let request = Http3Request { shared: self.shared.clone(), send, receive };
            if self.leaves_at.get().is_some_and(|last| number >= last) {
                request.reject();
                continue;
            }
            self.next.set(number + 4);
            return Some(request);
        }
    }

    /// Says GOAWAY: no new request is taken, those under way go on.
    pub async fn leave(&self) {
        let last = self.next.get();
        if self.leaves_at.replace(Some(last)).is_some() {
            return;
        }
        let (mut payload, mut said) = (Vec::new(), Vec::new());
        put_number(last, &mut payload);
        put_header(kind::GOAWAY, payload.len(), &mut said);
        said.extend_from_slice(&payload);
        let control = self.shared.control.borrow_mut().take();
        if let Some(mut control) = control {
            // Whoever does not read it is told by the close.
            drop(timeout(HEAD_TIME, control.write_all(&said)).await);
            *self.shared.control.borrow_mut() = Some(control);
        }
    }

    /// Waits until no request is read or answered, and all answers have arrived.
    pub async fn idle(&self) {
        while self.shared.open.get() > 0 {
            self.shared.idle.notified().await;
        }
    }
}

impl Drop for Http3Server {
    fn drop(&mut self) {
        self.shared.connection.close(VarInt::from_u32(code::NO_ERROR), b"");
    }
}

/// A request of which nothing was read.
pub struct Http3Request {
    shared: Rc<Shared>,
    send: SendStream,
    receive: RecvStream,
}

impl Http3Request {
    fn reject(self) {
        let counted = Counted::new(&self.shared);
        Incoming::new(self.shared, self.receive).stop(code::REQUEST_REJECTED);
        Http3Responder::new(self.send, counted, false).reject();
    }

    /// Its head, with what follows and what answers it. None where it is no valid one: it is answered, or reset, here.
    pub async fn read(self) -> Option<(RequestHead, Body, Http3Responder)> {
        let counted = Counted::new(&self.shared);
        let mut incoming = Incoming::new(self.shared.clone(), self.receive);
        let responder = |send, to_head| Http3Responder::new(send, counted.clone(), to_head);
        let (code, status) = match timeout(HEAD_TIME, head(&mut incoming)).await {
            Ok(Ok((head, length))) => {
                self.shared.calm.borrow_mut().useful();
                let to_head = head.is_method("HEAD");
                let responder = responder(self.send, to_head);
                return Some((head, following(incoming, length, counted), responder));
            }
            Ok(Err(NotRead::Refused(status, why))) => {
                tracing::debug!(why, status, "a request was refused");
                (code::NO_ERROR, Some(status))
            }
            Ok(Err(NotRead::Malformed(why))) => {
                tracing::debug!(why, "a request was malformed");
                (code::MESSAGE_ERROR, None)
            }
            Ok(Err(NotRead::Incomplete)) => (code::REQUEST_INCOMPLETE, None),
            Ok(Err(NotRead::Broken(error))) => {
                if matches!(error, WireError::Reset(_)) {
                    self.shared.early_reset();
                }
                (code::REQUEST_CANCELLED, None)
            }
            Err(_) => (code::NO_ERROR, Some(408)),
        };
        if self.shared.idle_frame().is_ok() {
            incoming.stop(code);
            let mut responder = responder(self.send, false);
            match status {
                // It may be gone by now.
                Some(status) => drop(responder.refuse(status).await),
                None => responder.reset_with(code),
            }
        }
        None
    }
}

/// Why there is no head.
enum NotRead {
    /// It is no message of HTTP/3.
    Malformed(&'static str),
    /// It is one, yet no request that could be passed on.
    Refused(u16, &'static str),
    /// The stream ended before it.
    Incomplete,
    /// The stream or the connection broke.
    Broken(WireError),
}

impl From<WireError> for NotRead {
    fn from(error: WireError) -> Self {
        Self::Broken(error)
    }
}

/// Reads the head of a request, and the length of its body where it is declared.
async fn head(incoming: &mut Incoming) -> Result<(RequestHead, Option<u64>), NotRead> {
    loop {
        match poll_fn(|cx| incoming.poll_frame(cx)).await? {
            None => return Err(NotRead::Incomplete),
            Some(kind::HEADERS) => break,
            Some(kind::DATA) => return Err(incoming.shared.broken(code::FRAME_UNEXPECTED, "a body comes before its head").into()),
            Some(other) if is_misplaced(other) => {
                return Err(incoming.shared.broken(code::FRAME_UNEXPECTED, "a request has a frame of another stream").into());
            }
            Some(_) => {
                incoming.shared.idle_frame()?;
                poll_fn(|cx| incoming.poll_skip(cx)).await?;
            }
        }
    }
    if incoming.left() > MAX_BLOCK {
        return Err(NotRead::Refused(431, "the head has more than 64 KiB or 128 fields"));
    }
    let mut block = Vec::new();
    poll_fn(|cx| incoming.poll_whole(cx, &mut block)).await?;
    // Most requests end with their head: whether this one does tells how it is passed on.
    let at_once = |poll| if let Poll::Ready(Err(error)) = poll { Err(error) } else { Ok(()) };
    poll_fn(|cx| Poll::Ready(at_once(incoming.poll_more(cx)))).await?;
    let mut text = Vec::new();
    let mut collected = Collected::new(&mut text);
    let decoded = qpack::decode(&block, |name, value, tag| collected.field(name, value, tag));
    decoded.map_err(|_| incoming.shared.broken(code::DECOMPRESSION_FAILED, "a block of fields is none"))?;
    let (head, length) = collected.request(Version::Http3, false).map_err(|error| match error {
        NoHead::Malformed(why) => NotRead::Malformed(why),
        NoHead::Refused(status, why) => NotRead::Refused(status, why),
    })?;
    if head.protocol().is_some() {
        // Our settings do not offer it (RFC 9220).
        return Err(NotRead::Refused(501, "an extended CONNECT is not passed on"));
    }
    Ok((head, length))
}
