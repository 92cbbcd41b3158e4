//! Both ends of an exchange, whatever version carries them: what goes out, and what answers.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use lorica_model::head::{Edits, Field, Fields, RequestHead, ResponseHead, Version};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::body::Body;
use super::error::WireError;
use super::fields::{WEBSOCKET_ACCEPT, WEBSOCKET_KEY, onward, upgrade, websocket_accept};
use super::http1::{Http1Receiver, Http1Responder, Http1Sender};
use super::http2::{Http2Receiver, Http2Responder, Http2Sender, Http2Tunnel};
#[cfg(feature = "http3")]
use super::http3::Http3Responder;
use crate::stream::Stream;

/// The most interim answers that one request may have; more would be a way to keep a proxy busy for ever.
pub(super) const MAX_INFORMATIONAL: u32 = 8;

/// A request as it goes out: the head as received, with its edits.
pub struct Outgoing<'o> {
    /// The head as received.
    pub head: &'o RequestHead,
    /// What is altered in it.
    pub edits: &'o Edits,
    /// The length of its body, where known; `Some(0)`: none.
    pub length: Option<u64>,
    /// What it asks to upgrade to, as `Upgrade` or `:protocol` said it; of several, the first that may be passed on is asked for.
    pub upgrade: Option<&'o [u8]>,
}

impl Outgoing<'_> {
    pub(super) fn path_and_query(&self) -> &str {
        self.edits.path_and_query.as_deref().unwrap_or_else(|| self.head.path_and_query())
    }

    pub(super) fn authority(&self) -> &str {
        self.edits.authority.as_deref().unwrap_or_else(|| self.head.authority())
    }

    /// The one protocol that it asks to upgrade to; HTTP/1.0 has no upgrade.
    pub(super) fn protocol(&self) -> Option<&[u8]> {
        self.upgrade.filter(|_| self.head.version != Version::Http10).and_then(upgrade)
    }

    /// Every field that goes on, `Host` and `Content-Length` among them: those each codec writes in its own way.
    pub(super) fn fields(&self) -> impl Iterator<Item = Field<'_>> {
        onward(&self.head.fields, self.edits)
    }

    /// Whether a field of this name goes on.
    pub(super) fn has(&self, name: &str) -> bool {
        self.fields().any(|field| field.name.eq_ignore_ascii_case(name.as_bytes()))
    }

    /// Whether the caller said how long its body is, as it must for an empty POST.
    pub(super) fn declares_length(&self) -> bool {
        self.head.fields.position("content-length").is_some()
    }
}

/// What an upstream answers.
pub enum Answer {
    /// 1xx: more follows.
    Informational(ResponseHead),
    /// The answer.
    Final(ResponseHead, Body),
    /// The end of HTTP.
    Upgraded(ResponseHead, Tunnel),
}

/// Sends the body of one request. Dropped before its end, it tells the peer that the rest does not come.
pub enum Sender {
    /// On HTTP/1.
    Http1(Http1Sender),
    /// On HTTP/2.
    Http2(Http2Sender),
}

impl Sender {
    /// Sends bytes; waits where the peer is slow.
    ///
    /// # Errors
    /// When the connection failed; the answer may say more.
    pub async fn data(&mut self, data: Bytes) -> Result<(), WireError> {
        match self {
            Self::Http1(sender) => sender.data(data).await,
            Self::Http2(sender) => sender.data(data).await,
        }
    }

    /// Ends the request.
    ///
    /// # Errors
    /// As [`Self::data`].
    pub async fn end(&mut self, trailers: Option<&Fields>) -> Result<(), WireError> {
        match self {
            Self::Http1(sender) => sender.end(trailers).await,
            Self::Http2(sender) => sender.end(trailers),
        }
    }

    /// Sends what is queued, where nothing follows at once.
    ///
    /// # Errors
    /// As [`Self::data`].
    pub async fn flush(&mut self) -> Result<(), WireError> {
        match self {
            Self::Http1(sender) => sender.flush().await,
            Self::Http2(_) => Ok(()),
        }
    }
}

/// Receives the answer to one request.
pub enum Receiver {
    /// On HTTP/1.
    Http1(Http1Receiver),
    /// On HTTP/2.
    Http2(Http2Receiver),
}

impl Receiver {
    /// The next head of the answer. Nothing is lost if the future is dropped.
    ///
    /// # Errors
    /// What went wrong; [`WireError::NotProcessed`] where the request certainly had no effect.
    pub async fn answer(&mut self) -> Result<Answer, WireError> {
        match self {
            Self::Http1(receiver) => receiver.answer().await,
            Self::Http2(receiver) => receiver.answer().await,
        }
    }
}

/// Answers one request. Dropped before its end, it resets.
pub enum Responder {
    /// On HTTP/1.
    Http1(Http1Responder),
    /// On HTTP/2.
    Http2(Http2Responder),
    /// On HTTP/3.
    #[cfg(feature = "http3")]
    Http3(Http3Responder),
}

impl Responder {
    /// Passes on an interim answer.
    ///
    /// # Errors
    /// When the client is gone.
    pub async fn informational(&mut self, head: &ResponseHead) -> Result<(), WireError> {
        if head.status == 101 {
            return Err(WireError::Invalid("101 ends HTTP and is no interim answer"));
        }
        let edits = Edits::default();
        let fields = bodiless(&head.fields, &edits);
        match self {
            Self::Http1(responder) => responder.informational(head.status, fields).await,
            Self::Http2(responder) => responder.informational(head.status, fields),
            #[cfg(feature = "http3")]
            Self::Http3(responder) => responder.informational(head.status, fields).await,
        }
    }

    /// Begins the answer with an upstream's head and its edits. `length`: of the body, where known; `end`: there is none.
    ///
    /// # Errors
    /// When the client is gone.
    pub fn head(&mut self, head: &ResponseHead, edits: &Edits, length: Option<u64>, end: bool) -> Result<(), WireError> {
        self.raw_head(head.status, onward(&head.fields, edits), length, end)
    }

    /// Begins an answer of our own.
    ///
    /// # Errors
    /// When the client is gone.
    pub fn raw_head<'f>(
        &mut self,
        status: u16,
        fields: impl Iterator<Item = impl Into<Field<'f>>>,
        length: Option<u64>,
        end: bool,
    ) -> Result<(), WireError> {
        let fields = fields.map(Into::into);
        match self {
            Self::Http1(responder) => {
                responder.head(status, fields, length, end);
                Ok(())
            }
            Self::Http2(responder) => responder.head(status, fields, length, end),
            #[cfg(feature = "http3")]
            Self::Http3(responder) => responder.head(status, fields, length, end),
        }
    }

    /// Sends bytes of the body; waits where the client is slow.
    ///
    /// # Errors
    /// When the client is gone.
    pub async fn data(&mut self, data: Bytes) -> Result<(), WireError> {
        match self {
            Self::Http1(responder) => responder.data(data).await,
            Self::Http2(responder) => responder.data(data).await,
            #[cfg(feature = "http3")]
            Self::Http3(responder) => responder.data(data).await,
        }
    }

    /// Sends what is queued, where nothing follows at once.
    ///
    /// # Errors
    /// When the client is gone.
    pub async fn flush(&mut self) -> Result<(), WireError> {
        match self {
            Self::Http1(responder) => responder.flush().await,
            Self::Http2(_) => Ok(()),
            #[cfg(feature = "http3")]
            Self::Http3(responder) => responder.flush().await,
        }
    }

    /// Ends the answer.
    ///
    /// # Errors
    /// When the client is gone.
    pub async fn end(self, trailers: Option<&Fields>) -> Result<(), WireError> {
        match self {
            Self::Http1(responder) => responder.end(trailers).await,
            Self::Http2(responder) => responder.end(trailers),
            #[cfg(feature = "http3")]
            Self::Http3(responder) => responder.end(trailers).await,
        }
    }

    /// Ends HTTP on this connection or stream, as the upstream did with `head`, which goes out with its edits. `asked` is the request and
    /// `protocol` what it asked for; `body` is what the client goes on to send.
    ///
    /// # Errors
    /// When the client is gone.
    pub async fn upgrade(
        self,
        asked: &RequestHead,
        protocol: &[u8],
        head: &ResponseHead,
        edits: &Edits,
        body: Body,
    ) -> Result<Tunnel, WireError> {
        // The key is between a client and a server of HTTP/1; on either side of HTTP/2 there is none (RFC 8441, 5).
        let key = asked.fields.get(WEBSOCKET_KEY);
        let made = key.filter(|_| head.fields.position(WEBSOCKET_ACCEPT).is_none()).map(websocket_accept);
        let is_accept = |name: &[u8]| name.eq_ignore_ascii_case(WEBSOCKET_ACCEPT.as_bytes());
        let fields = bodiless(&head.fields, edits).filter(|field| key.is_some() || !is_accept(field.name));
        match self {
            Self::Http1(responder) => {
                // Of what the client offered, the upstream's choice; one of HTTP/2 was offered the first alone.
                let chosen = head.fields.get("upgrade").or_else(|| upgrade(protocol)).unwrap_or(protocol);
                let made = made.as_ref().filter(|_| chosen.eq_ignore_ascii_case(b"websocket"));
                let accept = made.map(|accept| Field::new(WEBSOCKET_ACCEPT.as_bytes(), accept.as_bytes()));
                responder.upgrade(fields.chain(accept), chosen).await
            }
            Self::Http2(responder) => responder.upgrade(fields, body),
            #[cfg(feature = "http3")]
            Self::Http3(responder) => {
                drop(responder);
                Err(WireError::Unsupported("HTTP/3 has no upgrade here"))
            }
        }
    }

    /// Breaks the answer off, so that it cannot be taken for a whole one.
    pub fn reset(self) {
        match self {
            Self::Http1(responder) => responder.reset(),
            Self::Http2(responder) => responder.reset(),
            #[cfg(feature = "http3")]
            Self::Http3(responder) => responder.reset(),
        }
    }

    /// Waits until the client is gone. Only once the request's body has been read.
    pub async fn gone(&mut self) {
        match self {
            Self::Http1(responder) => responder.gone().await,
            Self::Http2(responder) => responder.gone().await,
            #[cfg(feature = "http3")]
            Self::Http3(responder) => responder.gone().await,
        }
    }
}

/// The fields that go on of a head without a body.
fn bodiless<'f>(fields: &'f Fields, edits: &'f Edits) -> impl Iterator<Item = Field<'f>> {
    onward(fields, edits).filter(|field| !field.name.eq_ignore_ascii_case(b"content-length"))
}

/// Bytes both ways, where HTTP has ended.
pub enum Tunnel {
    /// The connection itself, with what was read of it.
    Http1 {
        /// The connection.
        stream: Stream,
        /// What was read of it.
        read: Bytes,
    },
    /// A stream of HTTP/2.
    Http2(Http2Tunnel),
}

/// The room for bytes that a connection gives out as they come, in bytes: one TLS record.
const CHUNK: usize = 16 * 1024;

impl Tunnel {
    /// The next bytes as they came, `None` at the end; of HTTP/2 nothing is copied, and its peer may send as many again once more
    /// is asked for.
    ///
    /// # Errors
    /// When the connection failed, or the stream was reset.
    pub fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        match self {
            Self::Http1 { read, .. } if !read.is_empty() => Poll::Ready(Some(Ok(std::mem::take(read)))),
            Self::Http1 { stream, .. } => {
                let mut buffer = BytesMut::with_capacity(CHUNK);
                let count = ready!(tokio_util::io::poll_read_buf(Pin::new(stream), cx, &mut buffer));
                Poll::Ready(count.map(|count| (count > 0).then(|| buffer.freeze())).transpose())
            }
            Self::Http2(tunnel) => tunnel.poll_data(cx),
        }
    }

    /// Sends `data`, of HTTP/2 without copying it unless it is small. Ready once nothing of it is left; what is taken is cut off.
    ///
    /// # Errors
    /// As [`Self::poll_data`].
    pub fn poll_send(&mut self, cx: &mut Context<'_>, data: &mut Bytes) -> Poll<io::Result<()>> {
        match self {
            Self::Http1 { stream, .. } => {
                while !data.is_empty() {
                    let count = ready!(Pin::new(&mut *stream).poll_write(cx, data))?;
                    if count == 0 {
                        return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                    }
                    data.advance(count);
                }
                Poll::Ready(Ok(()))
            }
            Self::Http2(tunnel) => tunnel.poll_send(cx, data),
        }
    }
}

impl AsyncRead for Tunnel {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Http1 { read, .. } if !read.is_empty() => {
                let count = read.len().min(buffer.remaining());
                buffer.put_slice(&read[..count]);
                read.advance(count);
                Poll::Ready(Ok(()))
            }
            Self::Http1 { stream, .. } => Pin::new(stream).poll_read(cx, buffer),
            Self::Http2(tunnel) => tunnel.poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Tunnel {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Http1 { stream, .. } => Pin::new(stream).poll_write(cx, bytes),
            Self::Http2(tunnel) => tunnel.poll_write(cx, bytes),
        }
    }
    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, slices: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Http1 { stream, .. } => Pin::new(stream).poll_write_vectored(cx, slices),
            Self::Http2(tunnel) => match slices.iter().find(|slice| !slice.is_empty()) {
                Some(slice) => tunnel.poll_write(cx, slice),
                None => Poll::Ready(Ok(0)),
            },
        }
    }
    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Http1 { stream, .. } => stream.is_write_vectored(),
            Self::Http2(_) => false,
        }
    }
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Http1 { stream, .. } => Pin::new(stream).poll_flush(cx),
            Self::Http2(_) => Poll::Ready(Ok(())),
        }
    }
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Http1 { stream, .. } => Pin::new(stream).poll_shutdown(cx),
            Self::Http2(tunnel) => Poll::Ready(tunnel.shutdown()),
        }
    }
}
