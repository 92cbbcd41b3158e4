//! The caller of a connection: what accept and mtls settled, for every exchange on it.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use lorica_identity::PeerIdentity;
use lorica_model::name::ServicePort;
use lorica_model::snapshot::InboundPort;

/// Who opened a connection, and what for.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Which side of the proxy it came to.
    pub entry: Entry,
    /// The address it came from.
    pub remote: SocketAddr,
    /// The address it meant.
    pub local: SocketAddr,
    /// The SNI that it sent.
    pub server_name: Option<String>,
}

/// The side of the proxy that a connection came to.
#[derive(Debug, Clone)]
pub enum Entry {
    /// The app calls a service port.
    Outbound {
        /// The service port.
        port: ServicePort,
    },
    /// Somebody calls the app.
    Inbound {
        /// The app port.
        port: Arc<InboundPort>,
        /// The caller, where it proved who it is.
        peer: Option<Arc<PeerIdentity>>,
    },
}

impl Caller {
    /// The service port that is called.
    #[must_use]
    pub fn service_port(&self) -> &ServicePort {
        match &self.entry {
            Entry::Outbound { port } => port,
            Entry::Inbound { port, .. } => &port.service_port,
        }
    }

    /// The caller's identity, where it proved one to us.
    #[must_use]
    pub fn peer(&self) -> Option<&PeerIdentity> {
        match &self.entry {
            Entry::Outbound { .. } => None,
            Entry::Inbound { peer, .. } => peer.as_deref(),
        }
    }

    /// The caller's virtual address, attested by the CA, by which the app sees it.
    #[must_use]
    pub fn virtual_address(&self) -> Option<Ipv4Addr> {
        self.peer().and_then(|peer| peer.facts.as_ref()).and_then(|facts| facts.virtual_v4)
    }
}
