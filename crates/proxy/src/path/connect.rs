//! connect: a connection to an endpoint of the mesh, with the identity at its other end checked.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use lorica_identity::{AcceptedIdentities, HandshakeFailure, PeerIdentity, TlsEpoch};
use lorica_model::reason::Reason;
use lorica_model::snapshot::{Cluster, Endpoint, Transport};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;

use super::mtls::Negotiated;
use crate::stream::{Stream, prepare};
use crate::view::{EdgeClient, Reach};
use crate::worker::Worker;

/// Why there is no connection.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{reason}: {detail}")]
pub struct NotConnected {
    /// The reason.
    pub reason: Reason,
    /// What exactly happened, for the log.
    pub detail: String,
}

impl NotConnected {
    /// A reason with what exactly happened.
    pub fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into() }
    }

    /// A failed TCP connect.
    #[must_use]
    pub fn tcp(error: &io::Error) -> Self {
        let reason = if error.kind() == io::ErrorKind::TimedOut { Reason::ConnectTimeout } else { Reason::ConnectFailed };
        Self::new(reason, error.to_string())
    }
}

/// A connection to an endpoint.
#[derive(Debug)]
pub struct Connected {
    /// The connection.
    pub stream: Stream,
    /// Who is at its other end; none in plaintext.
    pub peer: Option<Arc<PeerIdentity>>,
    /// The address at this end.
    pub local: Option<SocketAddr>,
}

/// Client configurations by what they depend on, so that TLS sessions can be resumed. Bounded by the service ports in use.
#[derive(Debug, Default)]
pub struct ClientConfigs {
    epoch: u64,
    configs: std::collections::HashMap<(AcceptedIdentities, Option<Negotiated>), Arc<ClientConfig>, foldhash::fast::RandomState>,
}

/// The most configurations kept; past it they are made anew.
const MAX_CONFIGS: usize = 4096;

impl ClientConfigs {
    /// The configuration for calling one of `accepted`, speaking `protocol`.
    pub fn get(&mut self, epoch: &TlsEpoch, accepted: &AcceptedIdentities, protocol: Option<Negotiated>) -> Arc<ClientConfig> {
        if self.epoch != epoch.number() || self.configs.len() >= MAX_CONFIGS {
            self.configs.clear();
            self.epoch = epoch.number();
        }
        let make = || match protocol {
            Some(protocol) => epoch.client_config(&[protocol.alpn()], accepted),
            None => epoch.client_config(&[], accepted),
        };
        self.configs.entry((accepted.clone(), protocol)).or_insert_with(make).clone()
    }
}

/// Connects to `endpoint` within the cluster's connect timeout. `tls` where the registry says mutual TLS.
///
/// # Errors
/// What failed; nothing falls back to plaintext. A callee that is revoked is as none.
pub async fn connect(
    worker: &Worker,
    reach: &Reach,
    endpoint: &Endpoint,
    tls: Option<(&TlsEpoch, Arc<ClientConfig>)>,
    protocol: Option<Negotiated>,
) -> Result<Connected, NotConnected> {
    let Connected { stream, peer, local } = open(reach, endpoint, tls, protocol).await?;
    let stream = match &peer {
        Some(peer) => worker.admit(stream, peer).map_err(|why| NotConnected::new(Reason::UpstreamIdentity, why))?,
        None => stream,
    };
    Ok(Connected { stream, peer, local })
}

async fn open(
    reach: &Reach,
    endpoint: &Endpoint,
    tls: Option<(&TlsEpoch, Arc<ClientConfig>)>,
    protocol: Option<Negotiated>,
) -> Result<Connected, NotConnected> {
    let cluster = &reach.unit.cluster;
    let connecting = async {
        let tcp = TcpStream::connect(endpoint.address).await.map_err(|error| NotConnected::tcp(&error))?;
        prepare(&tcp).map_err(|error| NotConnected::tcp(&error))?;
        let local = tcp.local_addr().ok();
        let connected = match (endpoint.transport, tls) {
            (Transport::Plaintext, _) => match &reach.edge {
                None => Ok((Stream::Plain(tcp), None)),
                Some(Ok(edge)) => outside(edge, tcp, protocol).await,
                Some(Err(error)) => Err(NotConnected::new(Reason::UpstreamTls, error.clone())),
            },
            (Transport::MutualTls | Transport::Lorica, Some((epoch, config))) => handshake(cluster, tcp, epoch, config, protocol).await,
            (Transport::MutualTls | Transport::Lorica, None) => Err(NotConnected::new(Reason::UpstreamTls, "this proxy has no SVID yet")),
        };
        connected.map(|(stream, peer)| Connected { stream, peer, local })
    };
    match timeout(cluster.connect_timeout, connecting).await {
        Ok(connected) => connected,
        Err(_) => Err(NotConnected::new(
            Reason::ConnectTimeout,
            format!("no connection to {} within {:?}", endpoint.address, cluster.connect_timeout),
        )),
    }
}

/// A connection, and who is at its other end.
type Opened = (Stream, Option<Arc<PeerIdentity>>);

/// TLS towards an endpoint that is no part of the mesh.
async fn outside(edge: &EdgeClient, tcp: TcpStream, protocol: Option<Negotiated>) -> Result<Opened, NotConnected> {
    let config = edge.config(protocol).clone();
    let tls = TlsConnector::from(config).connect(edge.name.clone(), tcp).await;
    let tls = tls.map_err(|error| NotConnected::new(Reason::UpstreamTls, error.to_string()))?;
    let negotiated = tls.get_ref().1.alpn_protocol().and_then(Negotiated::of);
    if protocol == Some(Negotiated::Http2) && negotiated != protocol {
        return Err(NotConnected::new(Reason::UpstreamTls, "the backend does not speak HTTP/2"));
    }
    Ok((Stream::Tls(Box::new(tls.into())), None))
}

async fn handshake(
    cluster: &Cluster,
    tcp: TcpStream,
    epoch: &TlsEpoch,
    config: Arc<ClientConfig>,
    protocol: Option<Negotiated>,
) -> Result<Opened, NotConnected> {
    let name = ServerName::try_from(cluster.server.sni()).map_err(|error| NotConnected::new(Reason::UpstreamTls, error.to_string()))?;
    let tls = TlsConnector::from(config).connect(name, tcp).await.map_err(|error| {
        let failure = HandshakeFailure::of_io(&error);
        let reason = if failure.is_wrong_identity() { Reason::UpstreamIdentity } else { Reason::UpstreamTls };
        NotConnected::new(reason, failure.to_string())
    })?;
    let (_, connection) = tls.get_ref();
    let peer = epoch
        .peer(connection.peer_certificates(), SystemTime::now())
        .map_err(|error| NotConnected::new(Reason::UpstreamTls, error.to_string()))?;
    let negotiated = connection.alpn_protocol().and_then(Negotiated::of);
    if negotiated != protocol {
        return Err(NotConnected::new(
            Reason::UpstreamTls,
            format!("the endpoint does not speak what was asked for: {negotiated:?} in place of {protocol:?}"),
        ));
    }
    Ok((Stream::Tls(Box::new(tls.into())), Some(Arc::new(peer))))
}
