//! What the three processes say to each other: one JSON datagram per message, descriptors beside
//! it. Values only; `channel` carries them.

use std::{
    ffi::OsString,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::OwnedFd,
    path::PathBuf,
};

use serde::{Deserialize, Serialize};

use crate::Missing;

/// What a listening (or, for DNS over UDP, bound) socket is for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ListenerLabel {
    /// The app's outbound TCP connections; [`original_destination`](crate::original_destination)
    /// of an accepted one says where it was going. One on 127.0.0.1 and, where the namespace has
    /// IPv6, one on ::1: no IPv6 one, no IPv6 inside, and AAAA is best answered with NODATA.
    Outbound,
    /// The app's DNS queries over UDP: a bound socket, not a listening one.
    DnsUdp,
    /// The app's DNS queries over TCP.
    DnsTcp,
    /// The inbound mTLS listener of an app port; its own port is the one to register.
    Inbound {
        /// The app's port behind it.
        app_port: u16,
    },
    /// An app port opened to callers without a mesh.
    Publish {
        /// The app's port behind it.
        app_port: u16,
    },
    /// A port of the host's loopback, as the app sees it: connect to 127.0.0.1 on the host.
    HostPort {
        /// The same port inside and on the host.
        port: u16,
    },
    /// An explicit listener that stands for a service port.
    Upstream {
        /// The service's name, as the user wrote it.
        host: String,
        /// The service port.
        port: u16,
    },
}

/// A port on which the app listens, and where to connect to reach it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct AppListener {
    /// The port.
    pub port: u16,
    /// An address that leads to it: the workload's virtual one for a wildcard, else the one it is
    /// bound to. In explicit mode, the host's 127.0.0.1 for a wildcard.
    pub address: IpAddr,
}

impl AppListener {
    /// Address and port.
    pub fn socket_address(&self) -> SocketAddr {
        SocketAddr::new(self.address, self.port)
    }
}

/// From the supervisor to the proxy, in this order: host listeners, `HostListenersSent`, then
/// (after [`FromProxy::Prepared`]) the socket channel and the namespace's listeners, and
/// `AllListenersSent`. A restarted proxy gets all of them at once.
#[derive(Debug)]
#[non_exhaustive]
pub enum ToProxy {
    /// A socket to accept on; nonblocking.
    Listener {
        /// What it is for.
        label: ListenerLabel,
        /// The socket.
        socket: OwnedFd,
    },
    /// Every inbound, published and explicit listener is there: the proxy may register.
    HostListenersSent,
    /// The channel on which sockets in the app's namespace come: see
    /// [`SocketSource`](crate::SocketSource). Absent in explicit mode.
    SocketChannel(OwnedFd),
    /// Nothing is missing: the proxy accepts, and says [`FromProxy::Serving`].
    AllListenersSent,
    /// Where the app listens now: the whole list, sorted, again on every change.
    Listening {
        /// The app's ports.
        listeners: Vec<AppListener>,
    },
    /// Announce the end, finish what is in flight, say [`FromProxy::Drained`]; go on serving the
    /// app's own calls.
    Drain {
        /// The supervisor waits that many milliseconds.
        deadline_ms: u64,
    },
    /// The app has ended: send what is in flight and end.
    AppEnded,
}

/// From the proxy to the supervisor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromProxy {
    /// Registered, with an SVID and first configuration: the app's world can be built.
    Prepared {
        /// The workload's virtual address.
        virtual_v4: Ipv4Addr,
        /// Its IPv6 one, if it has one.
        virtual_v6: Option<Ipv6Addr>,
        /// Names that the mesh answers for, for `NO_PROXY`.
        known_names: Vec<String>,
    },
    /// Accepting on every listener.
    Serving,
    /// Cannot go on: what to tell the user, hint included. The proxy ends after it.
    Failed {
        /// The whole text.
        message: String,
    },
    /// The answer to [`ToProxy::Drain`] and to [`ToProxy::AppEnded`].
    Drained,
}

/// [`ToProxy`] without its descriptors, which travel beside it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum ToProxyText {
    Listener { label: ListenerLabel },
    HostListenersSent,
    SocketChannel,
    AllListenersSent,
    Listening { listeners: Vec<AppListener> },
    Drain { deadline_ms: u64 },
    AppEnded,
}

/// From the supervisor to the helper.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum ToHelper {
    /// First message; with namespaces its descriptor is the helper's end of the socket channel.
    Setup(Box<Setup>),
    /// Start the app.
    Start {
        /// Make its process group the terminal's foreground group.
        foreground: bool,
    },
    /// Send a signal to the app's process group.
    Signal { number: i32 },
}

/// What the helper must know before it builds anything.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Setup {
    pub app: Vec<OsString>,
    pub environment: Vec<(OsString, OsString)>,
    pub interior: Option<InteriorSpec>,
    pub app_ports: Vec<u16>,
    pub kill_grace_ms: u64,
    /// Build the namespaces, say `Ready`, and end.
    pub probe: bool,
}

/// The namespace as it is to be.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct InteriorSpec {
    pub virtual_v4: Ipv4Addr,
    pub virtual_v6: Option<Ipv6Addr>,
    pub host_ports: Vec<u16>,
    pub masked_directories: Vec<PathBuf>,
    pub outbound_sockets: u16,
}

/// From the helper to the supervisor.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum FromHelper {
    /// A socket of the namespace, beside the message.
    Listener { label: ListenerLabel },
    /// Namespaces and sockets are there.
    Ready { notices: Vec<String> },
    /// The host does not allow a step.
    Missing(Missing),
    /// Something else failed: the whole text for the user.
    Failed { message: String },
    /// The app runs, as leader of its process group.
    Started { pid: i32 },
    /// Where the app listens.
    Listening { listeners: Vec<AppListener> },
    /// The app was stopped by the terminal.
    Stopped,
    /// The app has ended; what it left running is being ended.
    Ended { code: u8 },
}

/// The address family of a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl From<IpAddr> for Family {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

/// From the proxy to the helper.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct MoreSockets {
    pub family: Family,
    pub count: u8,
}

/// From the helper to the proxy: sockets of one family beside it, or none and the reason.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Sockets {
    pub family: Family,
    pub refused: Option<String>,
}
