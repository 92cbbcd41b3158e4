//! A connection, plain or TLS, as one type; every codec and relay works on it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsStream;

use crate::peers::Guarded;
use crate::pool::Lease;
use crate::wire::Tunnel;

/// How long a connection may be silent before its peer is asked whether it is still there, in seconds.
const PROBE_AFTER: u64 = 60;
/// How long between two such questions, in seconds; after so many without an answer the connection fails.
const PROBE_EVERY: (u64, u32) = (10, 6);

/// Makes a connection ready for a proxy's work: small writes leave at once, and a peer that vanished without a word is noticed
/// within two minutes, as half-open connections hold buffers and descriptors.
///
/// # Errors
/// When the connection has failed already.
pub fn prepare(tcp: &TcpStream) -> io::Result<()> {
    use rustix::net::sockopt::{set_socket_keepalive, set_tcp_keepcnt, set_tcp_keepidle, set_tcp_keepintvl};
    use std::time::Duration;
    tcp.set_nodelay(true)?;
    set_socket_keepalive(tcp, true)?;
    set_tcp_keepidle(tcp, Duration::from_secs(PROBE_AFTER))?;
    set_tcp_keepintvl(tcp, Duration::from_secs(PROBE_EVERY.0))?;
    set_tcp_keepcnt(tcp, PROBE_EVERY.1)?;
    Ok(())
}

/// A connection to a caller, a peer or the app.
#[derive(Debug)]
pub enum Stream {
    /// As it is.
    Plain(TcpStream),
    /// Inside TLS. Boxed: the TLS state is large and most of a sidecar's app side is plain.
    Tls(Box<TlsStream<TcpStream>>),
    /// Inside mutual TLS with a peer of the mesh, until that is revoked.
    Peer(Box<Guarded<TlsStream<TcpStream>>>),
    /// As a stream of an HTTP/2 connection between two Lorica proxies.
    Carried(Box<Carried>),
    /// In memory, for tests of the codecs.
    #[cfg(any(test, fuzzing))]
    Memory(tokio::io::DuplexStream),
}

/// After so many bytes a stream is bulk, and gets its connection for itself: whatever came behind its frames would wait for them.
const BULK: usize = 1024 * 1024;

/// A stream of a connection that others share.
pub struct Carried {
    tunnel: Tunnel,
    /// What keeps the connection, where it is a pooled one.
    lease: Option<Lease>,
    /// How many more bytes make it bulk.
    until_bulk: usize,
}

impl Carried {
    /// A stream of a connection that `lease` keeps, or that the peer keeps.
    #[must_use]
    pub fn new(tunnel: Tunnel, lease: Option<Lease>) -> Self {
        Self { tunnel, lease, until_bulk: BULK }
    }

    /// The next bytes as they came, nothing copied; `None` at the end.
    pub(crate) fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        let data = self.tunnel.poll_data(cx);
        if let Poll::Ready(Some(Ok(data))) = &data {
            self.passed(data.len());
        }
        data
    }

    /// Sends `data` whole, nothing copied, where there is room.
    pub(crate) fn poll_send(&mut self, cx: &mut Context<'_>, data: &mut Bytes) -> Poll<io::Result<()>> {
        let length = data.len();
        let sent = self.tunnel.poll_send(cx, data);
        if sent.is_ready() {
            self.passed(length);
        }
        sent
    }

    fn passed(&mut self, bytes: usize) {
        if self.until_bulk > 0 {
            self.until_bulk = self.until_bulk.saturating_sub(bytes);
            if let (0, Some(lease)) = (self.until_bulk, &self.lease) {
                lease.set_bulk(true);
            }
        }
    }
}

impl Drop for Carried {
    fn drop(&mut self) {
        if let (0, Some(lease)) = (self.until_bulk, &self.lease) {
            lease.set_bulk(false);
        }
    }
}

impl AsyncRead for Carried {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.tunnel).poll_read(cx, buf);
        self.passed(buf.filled().len() - before);
        read
    }
}

impl AsyncWrite for Carried {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.tunnel).poll_write(cx, buf);
        if let Poll::Ready(Ok(count)) = written {
            self.passed(count);
        }
        written
    }
    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.tunnel).poll_write_vectored(cx, bufs);
        if let Poll::Ready(Ok(count)) = written {
            self.passed(count);
        }
        written
    }
    fn is_write_vectored(&self) -> bool {
        self.tunnel.is_write_vectored()
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tunnel).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tunnel).poll_shutdown(cx)
    }
}

impl std::fmt::Debug for Carried {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Carried").finish_non_exhaustive()
    }
}

impl Stream {
    /// Makes the close of this connection a reset, so that the peer sees at once that it was refused.
    pub fn reset_on_close(&self) {
        let tcp = match self {
            Self::Plain(tcp) => tcp,
            Self::Tls(tls) => tls.get_ref().0,
            Self::Peer(peer) => peer.stream().get_ref().0,
            // A stream that is dropped before its end is reset.
            Self::Carried(_) => return,
            #[cfg(any(test, fuzzing))]
            Self::Memory(_) => return,
        };
        // An old kernel that refuses it only makes the close gentler.
        if let Err(error) = tcp.set_zero_linger() {
            tracing::debug!(%error, "a connection could not be made to reset");
        }
    }
}

macro_rules! each {
    ($self:ident, $stream:ident => $call:expr) => {
        match $self.get_mut() {
            Stream::Plain($stream) => {
                let $stream = Pin::new($stream);
                $call
            }
            Stream::Tls($stream) => {
                let $stream = Pin::new($stream.as_mut());
                $call
            }
            Stream::Peer($stream) => {
                let $stream = Pin::new($stream.as_mut());
                $call
            }
            Stream::Carried(carried) => {
                let $stream = Pin::new(carried.as_mut());
                $call
            }
            #[cfg(any(test, fuzzing))]
            Stream::Memory($stream) => {
                let $stream = Pin::new($stream);
                $call
            }
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => stream.poll_read(cx, buf))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        each!(self, stream => stream.poll_write(cx, buf))
    }
    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        each!(self, stream => stream.poll_write_vectored(cx, bufs))
    }
    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(tcp) => tcp.is_write_vectored(),
            Self::Tls(tls) => tls.is_write_vectored(),
            Self::Peer(peer) => peer.is_write_vectored(),
            Self::Carried(carried) => carried.is_write_vectored(),
            #[cfg(any(test, fuzzing))]
            Self::Memory(memory) => memory.is_write_vectored(),
        }
    }
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => stream.poll_flush(cx))
    }
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => stream.poll_shutdown(cx))
    }
}
