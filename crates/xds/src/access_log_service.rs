//! Envoy's access log service (ALS): by it proxies tell the control plane what they refused and who calls what, so that a stock Envoy
//! tells it as well as Lorica's proxy. Each log is known by its name; of Lorica's proxy, an entry may stand for many that are alike.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use envoy_types::pb::envoy::config::core::v3::{Address, Node, SocketAddress, address, socket_address::PortSpecifier};
use envoy_types::pb::envoy::data::accesslog::v3::{
    AccessLogCommon, TlsProperties,
    tls_properties::{
        CertificateProperties,
        certificate_properties::{SubjectAltName, subject_alt_name::San},
    },
};
use envoy_types::pb::envoy::service::accesslog::v3::{
    StreamAccessLogsMessage, StreamAccessLogsResponse,
    access_log_service_server::{AccessLogService, AccessLogServiceServer},
    stream_access_logs_message::{Identifier, LogEntries},
};
use lorica_model::spiffe::SpiffeId;
use tonic::{Request, Response, Status, Streaming};

use crate::encode;
use crate::observed::{self, Observation};
use crate::refused::{self, Refusal};
use crate::server::Peer;
use crate::trial::{self, Trial};

/// The tag by which Lorica's proxy says how many an entry stands for.
pub(crate) const TIMES: &str = "times";

/// Who hears of what proxies refused and saw. Must not block.
pub trait Listener: Send + Sync + 'static {
    /// Whether a peer may tell of this node.
    ///
    /// # Errors
    /// The status ends the stream.
    fn admits(&self, peer: Option<Peer>, node: &Node) -> impl Future<Output = Result<(), Status>> + Send;

    /// Something was refused by the proxy of this node, so many times.
    fn refused(&self, node: &Node, refusal: Refusal, times: u64);

    /// A call came to the service of this node, so many times.
    fn observed(&self, node: &Node, observation: Observation, times: u64);

    /// What a policy that is tried would have done to calls that the proxy of this node saw.
    fn tried(&self, node: &Node, trial: Trial);
}

/// The service that proxies tell.
pub fn service<L: Listener>(listener: Arc<L>) -> AccessLogServiceServer<impl AccessLogService> {
    AccessLogServiceServer::new(Service(listener)).max_decoding_message_size(MAX_REQUEST_BYTES)
}

/// The largest message that is taken, in bytes: a second's worth of what a proxy tells.
const MAX_REQUEST_BYTES: usize = 1024 * 1024;

struct Service<L>(Arc<L>);

/// What a stream tells.
enum Log {
    /// Who calls what.
    Observed,
    /// What policies that are tried would have done.
    Tried,
    /// What was refused.
    Refused,
}

#[tonic::async_trait]
impl<L: Listener> AccessLogService for Service<L> {
    async fn stream_access_logs(
        &self,
        request: Request<Streaming<StreamAccessLogsMessage>>,
    ) -> Result<Response<StreamAccessLogsResponse>, Status> {
        let peer = Peer::of(request.extensions());
        let mut messages = request.into_inner();
        let mut from = None;
        while let Some(StreamAccessLogsMessage { identifier, log_entries }) = messages.message().await? {
            if let Some(Identifier { node, log_name }) = identifier {
                let log = match log_name.as_str() {
                    observed::LOG => Log::Observed,
                    trial::LOG => Log::Tried,
                    encode::REFUSED_LOG => Log::Refused,
                    _ => return Err(Status::invalid_argument(format!("the log `{log_name}` is none that is kept here"))),
                };
                if let Some(node) = &node {
                    self.0.admits(peer.clone(), node).await?;
                }
                from = node.map(|node| (node, log));
            }
            let (node, log) = from.as_ref().ok_or_else(|| Status::invalid_argument("the first message names no node"))?;
            let observed = |(observation, times)| self.0.observed(node, observation, times);
            let refused = |(refusal, times)| self.0.refused(node, refusal, times);
            match (log_entries, log) {
                (Some(LogEntries::TcpLogs(logs)), Log::Observed) => {
                    logs.log_entry.into_iter().filter_map(observed::of_tcp).for_each(observed);
                }
                (Some(LogEntries::HttpLogs(logs)), Log::Observed) => {
                    logs.log_entry.into_iter().filter_map(observed::of_http).for_each(observed);
                }
                (Some(LogEntries::TcpLogs(logs)), Log::Refused) => {
                    logs.log_entry.into_iter().filter_map(refused::of_tcp).for_each(refused);
                }
                (Some(LogEntries::HttpLogs(logs)), Log::Refused) => {
                    logs.log_entry.into_iter().filter_map(refused::of_http).for_each(refused);
                }
                (Some(LogEntries::HttpLogs(logs)), Log::Tried) => {
                    logs.log_entry.into_iter().filter_map(trial::read).for_each(|trial| self.0.tried(node, trial));
                }
                (Some(LogEntries::TcpLogs(_)), Log::Tried) => {
                    return Err(Status::invalid_argument("trials are told as entries of HTTP"));
                }
                (None, _) => {}
            }
        }
        Ok(Response::new(StreamAccessLogsResponse {}))
    }
}

/// How often what is told came.
pub(crate) fn times(common: &AccessLogCommon) -> u64 {
    common.custom_tags.get(TIMES).and_then(|times| times.parse().ok()).unwrap_or(1)
}

pub(crate) fn socket(place: &Address) -> Option<(IpAddr, u16)> {
    let Some(address::Address::SocketAddress(socket)) = &place.address else { return None };
    let Some(PortSpecifier::PortValue(port)) = socket.port_specifier else { return None };
    Some((socket.address.parse().ok()?, u16::try_from(port).ok()?))
}

pub(crate) fn caller(common: &AccessLogCommon) -> Option<SpiffeId> {
    let names = &common.tls_properties.as_ref()?.peer_certificate_properties.as_ref()?.subject_alt_name;
    names.iter().find_map(|name| if let Some(San::Uri(uri)) = &name.san { uri.parse().ok() } else { None })
}

/// What TLS says of a caller who proved this identity.
pub(crate) fn peer(id: SpiffeId) -> TlsProperties {
    let name = SubjectAltName { san: Some(San::Uri(id.to_string())) };
    TlsProperties {
        peer_certificate_properties: Some(CertificateProperties { subject_alt_name: vec![name], ..CertificateProperties::default() }),
        ..TlsProperties::default()
    }
}

pub(crate) fn address_of(socket: SocketAddr) -> Address {
    Address {
        address: Some(address::Address::SocketAddress(SocketAddress {
            address: socket.ip().to_string(),
            port_specifier: Some(PortSpecifier::PortValue(socket.port().into())),
            ..SocketAddress::default()
        })),
    }
}
