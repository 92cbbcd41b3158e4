//! The caller of a connection: what accept and mtls settled, for every exchange on it.

use std::cell::RefCell;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use lorica_identity::PeerIdentity;
use lorica_model::name::ServicePort;
use lorica_model::snapshot::{Authorization, HostPattern, InboundPort};

use super::authorize::{Granted, Remembered};
use super::clean;
use super::record::Sides;
use crate::view::Reach;
use crate::worker::Worker;

/// Who opened a connection, and what for.
#[derive(Debug)]
pub struct Caller {
    /// Which side of the proxy it came to.
    pub entry: Entry,
    /// The address it came from.
    pub remote: SocketAddr,
    /// The address it meant.
    pub local: SocketAddr,
    /// The SNI that it sent.
    pub server_name: Option<String>,
    /// Who calls whom, for the record.
    pub sides: Sides,
    /// By what the app is told who calls, where the caller proved it.
    pub certificate: Option<Bytes>,
    /// How the called service port is reached, and the number of the view that said so.
    reach: RefCell<Option<(u64, Arc<Reach>)>>,
    /// What it may do.
    granted: Remembered,
}

/// The side of the proxy that a connection came to.
#[derive(Debug, Clone)]
pub enum Entry {
    /// The app calls a service port.
    Outbound {
        /// The service port.
        port: ServicePort,
    },
    /// Somebody calls what is behind the gateway that this proxy runs.
    Gateway {
        /// The gateway's port.
        port: u16,
        /// The server names by which it was chosen what is done with the connection; none without TLS.
        chain: Option<HostPattern>,
        /// Whether it came by TLS.
        tls: bool,
    },
    /// A workload calls what is outside the mesh, through the egress gateway that this proxy runs.
    Egress {
        /// The gateway's port, as workloads name it.
        port: ServicePort,
        /// The caller, where it proved who it is.
        peer: Option<Arc<PeerIdentity>>,
    },
    /// Somebody calls the app.
    Inbound {
        /// The app port.
        port: Arc<InboundPort>,
        /// The caller, where it proved who it is.
        peer: Option<Arc<PeerIdentity>>,
        /// Whether it came to a port that is open to callers without a mesh.
        published: bool,
    },
}

impl Entry {
    /// The service port that is called; at a gateway only the rules tell.
    #[must_use]
    pub fn service_port(&self) -> Option<&ServicePort> {
        match self {
            Self::Outbound { port } => Some(port),
            Self::Inbound { port, .. } => Some(&port.service_port),
            Self::Egress { port, .. } => Some(port),
            Self::Gateway { .. } => None,
        }
    }

    /// The caller's identity, where it proved one to us.
    #[must_use]
    pub fn peer(&self) -> Option<&PeerIdentity> {
        match self {
            Self::Outbound { .. } | Self::Gateway { .. } => None,
            Self::Inbound { peer, .. } | Self::Egress { peer, .. } => peer.as_deref(),
        }
    }
}

impl Caller {
    /// A caller from `remote` that meant `local`, with what follows from it for all of its exchanges.
    #[must_use]
    pub fn new(worker: &Worker, entry: Entry, remote: SocketAddr, local: SocketAddr, server_name: Option<String>) -> Self {
        let sides = worker.parties.sides(worker, &entry);
        let certificate = entry.peer().zip(worker.epoch()).map(|(peer, own)| clean::client_certificate(peer, own.svid().id()));
        Self { entry, remote, local, server_name, sides, certificate, reach: RefCell::default(), granted: Remembered::default() }
    }

    /// How the called service port is reached, if that is remembered of the view of this number.
    #[must_use]
    pub fn remembered(&self, view: u64) -> Option<Arc<Reach>> {
        self.reach.borrow().as_ref().filter(|(of, _)| *of == view).map(|(_, reach)| reach.clone())
    }

    /// Remembers how the called service port is reached.
    pub fn remember(&self, view: u64, reach: Arc<Reach>) {
        *self.reach.borrow_mut() = Some((view, reach));
    }

    /// What it may do by these policies, worked out by `make` once.
    pub fn granted(&self, authorization: &Arc<Authorization>, make: impl FnOnce() -> Granted) -> Rc<Granted> {
        self.granted.get(authorization, make)
    }

    /// The caller's virtual address, attested by the CA, by which the app sees it.
    #[must_use]
    pub fn virtual_address(&self) -> Option<Ipv4Addr> {
        self.entry.peer().and_then(|peer| peer.facts.as_ref()).and_then(|facts| facts.virtual_v4)
    }
}
