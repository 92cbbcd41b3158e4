//! The proxy's side of `lorica run`: what the supervisor sends, sorted into what the data plane takes.
//!
//! In: messages on the supervisor's channel. Out: listeners, the app's ports, and the two ends (drain, app ended).

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use lorica_capture::{AppListener, FromProxy, ListenerLabel, ProxyChannel, SocketSource, ToProxy};
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;

/// The supervisor's channel, to be waited on.
pub struct Supervisor(AsyncFd<ProxyChannel>);

/// A listener and what it is for.
pub type Listener = (ListenerLabel, OwnedFd);

/// What comes before the proxy serves.
pub struct Interior {
    /// Listeners in the app's namespace.
    pub listeners: Vec<Listener>,
    /// Where sockets in it come from; none without a namespace.
    pub sockets: Option<SocketSource>,
}

/// How the proxy is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Not yet.
    Running,
    /// Announce the end, finish what is in flight; the app goes on calling.
    Drain,
    /// The app is gone: send what is in flight and end.
    AppEnded,
    /// Nobody is to begin anything any more, and the listeners are this process's own to close: a proxy without a supervisor.
    Closing,
}

impl Supervisor {
    /// Takes the channel.
    ///
    /// # Errors
    /// When it cannot be waited on.
    pub fn new(channel: ProxyChannel) -> io::Result<Self> {
        watched(channel).map(Self)
    }

    /// Says something to the supervisor.
    ///
    /// # Errors
    /// When it is gone.
    pub fn say(&self, message: &FromProxy) -> io::Result<()> {
        self.0.get_ref().send(message)
    }

    /// The listeners of the host: those to be registered, and explicit ones.
    ///
    /// # Errors
    /// When the supervisor is gone or says what does not belong here.
    pub async fn host_listeners(&self) -> io::Result<Vec<Listener>> {
        let mut listeners = Vec::new();
        loop {
            match self.next().await? {
                ToProxy::Listener { label, socket } => listeners.push((label, socket)),
                ToProxy::HostListenersSent => return Ok(listeners),
                other => return Err(unexpected(&other)),
            }
        }
    }

    /// What the app's namespace brought, once the proxy said `Prepared`.
    ///
    /// # Errors
    /// When the supervisor is gone or says what does not belong here.
    pub async fn interior(&self, app: &watch::Sender<Vec<AppListener>>) -> io::Result<Interior> {
        let mut interior = Interior { listeners: Vec::new(), sockets: None };
        loop {
            match self.next().await? {
                ToProxy::Listener { label, socket } => interior.listeners.push((label, socket)),
                ToProxy::SocketChannel(descriptor) => interior.sockets = Some(SocketSource::new(descriptor)?),
                // A proxy that replaces another is told at once where the app listens.
                ToProxy::Listening { listeners } => drop(app.send_replace(listeners)),
                ToProxy::AllListenersSent => return Ok(interior),
                other => return Err(unexpected(&other)),
            }
        }
    }

    /// Passes on what the supervisor says while the proxy serves, until the supervisor is gone.
    ///
    /// # Errors
    /// When the supervisor is gone: the proxy has nothing to serve any more.
    pub async fn follow(&self, app: &watch::Sender<Vec<AppListener>>, ending: &watch::Sender<Ending>) -> io::Result<()> {
        loop {
            match self.next().await? {
                ToProxy::Listening { listeners } => drop(app.send_replace(listeners)),
                ToProxy::Drain { .. } => drop(ending.send_replace(Ending::Drain)),
                ToProxy::AppEnded => drop(ending.send_replace(Ending::AppEnded)),
                other => return Err(unexpected(&other)),
            }
        }
    }

    async fn next(&self) -> io::Result<ToProxy> {
        loop {
            let mut guard = self.0.readable().await?;
            match guard.get_inner().try_receive()? {
                Some(message) => return Ok(message),
                None => guard.clear_ready(),
            }
        }
    }
}

/// Lets the runtime wait on a descriptor.
#[expect(deprecated, reason = "its successor is unsafe, for descriptors that may change; ours are owned and stay the same for life")]
pub(crate) fn watched<T: AsRawFd>(inner: T) -> io::Result<AsyncFd<T>> {
    AsyncFd::new(inner)
}

fn unexpected(message: &ToProxy) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the supervisor said what does not belong here: {message:?}"))
}
