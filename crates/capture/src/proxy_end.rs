//! What the proxy process holds: its channel to the supervisor, its source of sockets in the app's
//! namespace, and the question where a captured connection was going. All nonblocking, so that a
//! runtime can wait on the descriptors; no runtime here.

use std::{
    io,
    net::SocketAddr,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
};

use rustix::net::AddressFamily;

use crate::{
    FromProxy, ToProxy,
    channel::{Channel, Received},
    message::{Family, MoreSockets, Sockets, ToProxyText},
};

/// How many sockets one batch may hold. In batches of 32 a socket costs 19 µs instead of 25, and
/// those in flight count against RLIMIT_NOFILE.
pub(crate) const BATCH: u8 = 32;

/// The proxy's end of its channel to the supervisor.
#[derive(Debug)]
pub struct ProxyChannel(Channel);

impl ProxyChannel {
    /// The channel that the supervisor left for this process, if `lorica run` started it. Also
    /// makes the process not dumpable: its keys are not for other programs of the same user.
    /// Call it once, before descriptors are opened or threads started.
    pub fn from_env() -> Option<Self> {
        let channel = Channel::from_environment()?;
        if let Err(error) = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable) {
            tracing::debug!(%error, "this process stays readable to other programs of its user");
        }
        Some(Self(channel))
    }

    /// Takes the next message; `None` when there is none yet.
    ///
    /// # Errors
    /// `UnexpectedEof` when the supervisor is gone: the proxy then ends at once. `InvalidData`
    /// for a message that cannot be read.
    pub fn try_receive(&self) -> io::Result<Option<ToProxy>> {
        let (message, descriptors) = match self.0.try_receive()? {
            Received::Message(message, descriptors) => (message, descriptors),
            Received::Nothing => return Ok(None),
            Received::Closed => return Err(gone("the supervisor")),
        };
        let mut descriptors = descriptors.into_iter();
        let mut one =
            || descriptors.next().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "a message came without its descriptor"));
        Ok(Some(match message {
            ToProxyText::Listener { label } => ToProxy::Listener { label, socket: one()? },
            ToProxyText::HostListenersSent => ToProxy::HostListenersSent,
            ToProxyText::SocketChannel => ToProxy::SocketChannel(one()?),
            ToProxyText::AllListenersSent => ToProxy::AllListenersSent,
            ToProxyText::Listening { listeners } => ToProxy::Listening { listeners },
            ToProxyText::Drain { deadline_ms } => ToProxy::Drain { deadline_ms },
            ToProxyText::AppEnded => ToProxy::AppEnded,
        }))
    }

    /// Says something to the supervisor, which reads at once.
    ///
    /// # Errors
    /// When the supervisor is gone, or does not read for five seconds.
    pub fn send(&self, message: &FromProxy) -> io::Result<()> {
        self.0.send(message, &[])
    }
}

impl AsFd for ProxyChannel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for ProxyChannel {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// Sockets that came from the helper.
#[derive(Debug)]
pub struct SocketBatch {
    /// Of which family.
    pub family: Family,
    /// TCP, nonblocking, TCP_NODELAY, in the app's namespace, past its redirect: bind each to the
    /// caller's virtual address with port 0 (or [`ANONYMOUS_CALLER`](crate::ANONYMOUS_CALLER)),
    /// then connect it to an [`AppListener`](crate::AppListener).
    pub sockets: Vec<OwnedFd>,
    /// Why there are fewer than asked for, if the helper could not make them (out of
    /// descriptors, or no IPv6).
    pub refused: Option<String>,
}

/// The proxy's end of the channel on which sockets in the app's namespace come ahead of need.
#[derive(Debug)]
pub struct SocketSource(Channel);

impl SocketSource {
    /// Takes the descriptor of [`ToProxy::SocketChannel`].
    ///
    /// # Errors
    /// When the descriptor cannot be made nonblocking.
    pub fn new(descriptor: OwnedFd) -> io::Result<Self> {
        Channel::from_fd(descriptor).map(Self)
    }

    /// Asks for `count` sockets (1 to 32; beyond is cut). They come later, as one batch.
    ///
    /// # Errors
    /// `WouldBlock` when so many requests wait that the channel is full: read batches first.
    pub fn request(&self, family: Family, count: u8) -> io::Result<()> {
        self.0.try_send(&MoreSockets { family, count: count.clamp(1, BATCH) }, &[])
    }

    /// Takes the next batch; `None` when there is none yet. After a restart of the proxy there may
    /// be batches that its predecessor asked for: they are as good.
    ///
    /// # Errors
    /// `UnexpectedEof` when the helper is gone.
    pub fn try_receive_batch(&self) -> io::Result<Option<SocketBatch>> {
        match self.0.try_receive::<Sockets>()? {
            Received::Message(Sockets { family, refused }, sockets) => Ok(Some(SocketBatch { family, sockets, refused })),
            Received::Nothing => Ok(None),
            Received::Closed => Err(gone("the helper")),
        }
    }
}

impl AsFd for SocketSource {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for SocketSource {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// Where a redirected TCP connection, accepted on an outbound listener, was going.
///
/// # Errors
/// When the connection was not redirected (`ENOENT`, `ENOPROTOOPT`), or is no TCP/IP socket.
pub fn original_destination(socket: BorrowedFd<'_>) -> io::Result<SocketAddr> {
    match rustix::net::sockopt::socket_domain(socket)? {
        AddressFamily::INET => Ok(rustix::net::sockopt::ip_original_dst(socket)?.into()),
        AddressFamily::INET6 => Ok(rustix::net::sockopt::ipv6_original_dst(socket)?.into()),
        _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "not a TCP/IP socket")),
    }
}

fn gone(who: &str) -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, format!("{who} is gone"))
}
