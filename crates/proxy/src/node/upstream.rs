//! The connection to the control plane: TCP to the first address that answers, mutual TLS with the host's newest SVID, HTTP/2. Made when it is
//! needed, and again when it is lost.

use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use lorica_identity::join_token::RootPin;
use lorica_identity::{AcceptedIdentities, TlsEpoch, door};
use lorica_model::spiffe::{SpiffeId, TrustDomain};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::ServerName;
use tonic::transport::{Channel, Endpoint};

/// How long one address may take, its handshake included.
const CONNECT: Duration = Duration::from_secs(5);
/// How often a silent connection is asked whether it lives, and how long it may take to answer.
const PING: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(5));

/// The address of this host from which the control plane was reached last.
#[derive(Debug, Default)]
pub(super) struct LocalEnd(Mutex<Option<IpAddr>>);

impl LocalEnd {
    pub(super) fn get(&self) -> Option<IpAddr> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, address: IpAddr) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(address);
    }
}

/// A channel for a host that has joined.
pub(super) fn channel(addresses: Vec<String>, epochs: watch::Receiver<Arc<TlsEpoch>>, local: Arc<LocalEnd>) -> Channel {
    let addresses: Arc<[String]> = addresses.into();
    endpoint().connect_with_connector_lazy(tower::service_fn(move |_| {
        let (addresses, local) = (addresses.clone(), local.clone());
        let epoch = epochs.borrow().clone();
        async move {
            let control = SpiffeId::of_control_plane(epoch.bundle().trust_domain());
            let config = epoch.client_config(&[b"h2"], &AcceptedIdentities::new([control]));
            let stream = first(&addresses, &TlsConnector::from(config)).await?;
            local.set(stream.get_ref().0.local_addr()?.ip());
            Ok::<_, io::Error>(TokioIo::new(stream))
        }
    }))
}

/// A channel for an agent that has no certificate yet: to the control plane whose chain leads to one of these roots.
///
/// # Errors
/// When TLS cannot be configured.
pub(super) fn pinned(trust_domain: TrustDomain, pins: Vec<RootPin>, addresses: &[String]) -> anyhow::Result<Channel> {
    let connector = TlsConnector::from(door::joining_config(trust_domain, pins)?);
    let addresses: Arc<[String]> = addresses.into();
    Ok(endpoint().connect_with_connector_lazy(tower::service_fn(move |_| {
        let (addresses, connector) = (addresses.clone(), connector.clone());
        async move { first(&addresses, &connector).await.map(TokioIo::new) }
    })))
}

fn endpoint() -> Endpoint {
    // The address is never looked up: the connector decides.
    Endpoint::from_static("http://control.lorica").http2_keep_alive_interval(PING.0).keep_alive_timeout(PING.1).keep_alive_while_idle(true)
}

/// The first address that answers as it must, in the order in which they stand.
async fn first(addresses: &[String], connector: &TlsConnector) -> io::Result<TlsStream<TcpStream>> {
    let mut failed = Vec::new();
    for address in addresses {
        match tokio::time::timeout(CONNECT, connect(address, connector)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => failed.push(format!("{address}: {error}")),
            Err(_) => failed.push(format!("{address}: no answer within {} s", CONNECT.as_secs())),
        }
    }
    Err(io::Error::other(failed.join("; ")))
}

async fn connect(address: &str, connector: &TlsConnector) -> io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    // Who answers is told by its SPIFFE ID; the name is only what TLS wants to have.
    let name = ServerName::try_from("control.lorica").map_err(io::Error::other)?;
    connector.connect(name, stream).await
}
