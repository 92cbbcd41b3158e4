//! mtls: who calls. A connection goes in; out comes the same one inside mutual TLS, with the caller's proven identity.

use std::time::SystemTime;

use lorica_identity::{HandshakeFailure, PeerIdentity, TlsEpoch};
use lorica_model::name::{SUFFIX, ServicePort};
use lorica_model::reason::Reason;
use lorica_model::snapshot::Protocol;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::rustls::server::Acceptor;

use crate::config::HANDSHAKE_TIMEOUT;
use crate::stream::Stream;

/// A connection of a caller who proved who it is.
pub struct Authenticated {
    /// The connection, TLS inside.
    pub stream: Stream,
    /// The caller.
    pub peer: PeerIdentity,
    /// What the caller is going to speak; none: bytes.
    pub protocol: Option<Negotiated>,
    /// The SNI that it sent.
    pub server_name: Option<String>,
}

/// What ALPN settled on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Negotiated {
    /// `http/1.1`.
    Http1,
    /// `h2`.
    Http2,
}

impl Negotiated {
    /// The protocol's name in ALPN.
    #[must_use]
    pub const fn alpn(self) -> &'static [u8] {
        match self {
            Self::Http1 => b"http/1.1",
            Self::Http2 => b"h2",
        }
    }

    /// What an ALPN name means to us.
    #[must_use]
    pub fn of(name: &[u8]) -> Option<Self> {
        [Self::Http1, Self::Http2].into_iter().find(|protocol| protocol.alpn() == name)
    }
}

/// Why a caller was not let in.
#[derive(Debug, thiserror::Error)]
#[error("{reason}: {detail}")]
pub struct NotAuthenticated {
    /// The reason.
    pub reason: Reason,
    /// What exactly was wrong, for the log.
    pub detail: String,
}

/// What is offered by ALPN for an app's port: one for bytes takes them as they are, or as streams of HTTP/2.
#[must_use]
pub const fn alpn(protocol: Protocol) -> &'static [&'static [u8]] {
    match protocol {
        Protocol::Tcp => &[b"h2"],
        Protocol::Detect | Protocol::Http | Protocol::Http2 | Protocol::Grpc => &[b"h2", b"http/1.1"],
    }
}

/// Lets a caller in who means this service port and proves an identity of the mesh.
///
/// # Errors
/// What was wrong with the caller.
pub async fn accept(tcp: TcpStream, port: &ServicePort, alpn: &[&[u8]], epoch: &TlsEpoch) -> Result<Authenticated, NotAuthenticated> {
    let refuse = |reason, detail: String| NotAuthenticated { reason, detail };
    let handshake = async {
        let hello =
            LazyConfigAcceptor::new(Acceptor::default(), tcp).await.map_err(|error| refuse(Reason::ClientTls, error.to_string()))?;
        let server_name = hello.client_hello().server_name().map(str::to_owned);
        if let Some(name) = server_name.as_deref().filter(|name| !means(name, port)) {
            // An ephemeral port may have passed from one workload to another; the caller must not reach the wrong one.
            return Err(refuse(Reason::WrongService, format!("the caller wants {name}, this is {}", port.sni())));
        }
        let tls = hello
            .into_stream(epoch.server_config(alpn))
            .await
            .map_err(|error| refuse(Reason::ClientTls, HandshakeFailure::of_io(&error).to_string()))?;
        Ok((tls, server_name))
    };
    let (tls, server_name) = timeout(HANDSHAKE_TIMEOUT, handshake)
        .await
        .map_err(|_| refuse(Reason::ClientTls, format!("the handshake took longer than {} s", HANDSHAKE_TIMEOUT.as_secs())))??;
    let (_, connection) = tls.get_ref();
    let peer =
        epoch.peer(connection.peer_certificates(), SystemTime::now()).map_err(|error| refuse(Reason::ClientTls, error.to_string()))?;
    let protocol = connection.alpn_protocol().and_then(Negotiated::of);
    Ok(Authenticated { stream: Stream::Tls(Box::new(tls.into())), peer, protocol, server_name })
}

/// Whether an SNI may lead to `port`: its own name, or one that is none of the mesh's.
fn means(server_name: &str, port: &ServicePort) -> bool {
    let of_the_mesh = server_name.strip_suffix(SUFFIX).is_some_and(|rest| rest.ends_with('.'));
    !of_the_mesh || server_name.eq_ignore_ascii_case(&port.sni())
}
