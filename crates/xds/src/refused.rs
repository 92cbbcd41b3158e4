//! What proxies refused to let out of the mesh, as they tell it to the [access log service](crate::access_log_service).
//!
//! A proxy hands over refusals and waits for nobody; what is alike within a second is told once, with a count. What does not fit is
//! left out: the proxy's own log and metrics have it.

use std::collections::HashMap;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::data::accesslog::v3::{AccessLogCommon, HttpAccessLogEntry, TcpAccessLogEntry};
use envoy_types::pb::envoy::service::accesslog::v3::{
    StreamAccessLogsMessage,
    access_log_service_client::AccessLogServiceClient,
    stream_access_logs_message::{Identifier, LogEntries, TcpAccessLogEntries},
};
use lorica_model::spiffe::SpiffeId;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use crate::access_log_service::{TIMES, address_of, caller, peer, socket, times};
use crate::encode;

/// A call that was refused to leave the mesh.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Refusal {
    /// Who called; none: the workload beside the proxy that tells it.
    pub caller: Option<SpiffeId>,
    /// What was called, as far as its name is known.
    pub host: Option<String>,
    /// Its address, where the caller named one.
    pub address: Option<IpAddr>,
    /// The port.
    pub port: u16,
}

/// The tag by which Lorica's proxy says what the log has no field for.
const HOST: &str = "host";

/// A connection of which only the address, and at most the server name, is known.
pub(crate) fn of_tcp(entry: TcpAccessLogEntry) -> Option<(Refusal, u64)> {
    let common = entry.common_properties?;
    let times = times(&common);
    let called = common.downstream_local_address.as_ref().and_then(socket);
    let sni = common.tls_properties.as_ref().map(|tls| tls.tls_sni_hostname.clone()).filter(|name| !name.is_empty());
    let host = common.custom_tags.get(HOST).cloned().or(sni);
    let (address, port) = match called {
        Some((address, port)) => (Some(address).filter(|address| !address.is_unspecified()), port),
        None => return None,
    };
    Some((Refusal { caller: caller(&common), host, address, port }, times))
}

/// A request that Envoy answered by itself: what hosts outside answer is none.
pub(crate) fn of_http(entry: HttpAccessLogEntry) -> Option<(Refusal, u64)> {
    let common = entry.common_properties?;
    let details = entry.response.as_ref().map(|response| response.response_code_details.as_str()).unwrap_or_default();
    if details != "direct_response" && !details.starts_with("rbac_access_denied") {
        return None;
    }
    let authority = entry.request?.authority;
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => (host.to_owned(), port.parse().ok()),
        _ => (authority, None),
    };
    let called = common.downstream_local_address.as_ref().and_then(socket);
    let port = port.or_else(|| called.map(|(_, port)| port)).unwrap_or(80);
    let address = host.trim_matches(['[', ']']).parse().ok();
    let host = Some(host).filter(|host| !host.is_empty() && address.is_none());
    Some((Refusal { caller: caller(&common), host, address, port }, 1))
}

fn entry(refusal: Refusal, times: u64) -> TcpAccessLogEntry {
    let Refusal { caller, host, address, port } = refusal;
    let socket = SocketAddr::new(address.unwrap_or(IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED)), port);
    let tls = caller.map(peer);
    let host = host.map(|host| (HOST.to_owned(), host));
    let common = AccessLogCommon {
        downstream_local_address: Some(address_of(socket)),
        tls_properties: tls,
        custom_tags: host.into_iter().chain([(TIMES.to_owned(), times.to_string())]).collect(),
        ..AccessLogCommon::default()
    };
    TcpAccessLogEntry { common_properties: Some(common), ..TcpAccessLogEntry::default() }
}

/// Where a proxy hands over what it refused. Clones are cheap.
#[derive(Debug, Clone)]
pub struct Teller(mpsc::Sender<Refusal>);

/// How many refusals may wait, and how many that differ are told at once.
const WAITING: usize = 1024;
/// How long is waited for more of the same before they are told.
const PACE: Duration = Duration::from_secs(1);
/// How long until a control plane that does not listen is told again.
const AGAIN: Duration = Duration::from_secs(5);

impl Teller {
    /// A teller, and its task, which ends with the last clone. `node` says who tells; `channel` leads to the control plane.
    pub fn start(node: Node, channel: Channel) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let (refused, waiting) = mpsc::channel(WAITING);
        (Self(refused), tell(node, channel, waiting))
    }

    /// Hands a refusal over; where too many wait, it is left out.
    pub fn refused(&self, refusal: Refusal) {
        if self.0.try_send(refusal).is_err() {
            tracing::debug!("more calls were refused than the control plane can be told of");
        }
    }
}

async fn tell(node: Node, channel: Channel, mut waiting: mpsc::Receiver<Refusal>) {
    let mut client = AccessLogServiceClient::new(channel);
    while let Some(first) = waiting.recv().await {
        let (messages, stream) = mpsc::channel(1);
        let identifier = Identifier { node: Some(node.clone()), log_name: encode::REFUSED_LOG.to_owned() };
        let mut identifier = Some(identifier);
        let mut told = std::pin::pin!(client.stream_access_logs(ReceiverStream::new(stream)));
        let mut next = Some(first);
        loop {
            let batch = tokio::select! {
                batch = batch(next.take(), &mut waiting) => batch,
                ended = &mut told => {
                    // Refusals go on meanwhile; they are told to the next stream.
                    tracing::debug!(?ended, "the control plane takes no refusals");
                    tokio::time::sleep(AGAIN).await;
                    break;
                }
            };
            if batch.is_empty() {
                // What was told last is still on its way.
                drop(messages);
                if tokio::time::timeout(PACE, told).await.is_err() {
                    tracing::debug!("the control plane did not take all that was refused in time");
                }
                return;
            }
            let log_entry = batch.into_iter().map(|(refusal, times)| entry(refusal, times)).collect();
            let message = StreamAccessLogsMessage {
                identifier: identifier.take(),
                log_entries: Some(LogEntries::TcpLogs(TcpAccessLogEntries { log_entry })),
            };
            tokio::select! {
                sent = messages.send(message) => if sent.is_err() { break },
                ended = &mut told => {
                    tracing::debug!(?ended, "the control plane takes no refusals");
                    tokio::time::sleep(AGAIN).await;
                    break;
                }
            }
        }
    }
}

/// What comes within [`PACE`] of the first; nothing once no more can come.
async fn batch(first: Option<Refusal>, waiting: &mut mpsc::Receiver<Refusal>) -> HashMap<Refusal, u64> {
    let mut batch = HashMap::new();
    let Some(first) = (match first {
        Some(first) => Some(first),
        None => waiting.recv().await,
    }) else {
        return batch;
    };
    batch.insert(first, 1);
    let until = tokio::time::Instant::now() + PACE;
    while batch.len() < WAITING {
        match tokio::time::timeout_at(until, waiting.recv()).await {
            Ok(Some(more)) => *batch.entry(more).or_insert(0) += 1,
            Ok(None) | Err(_) => break,
        }
    }
    batch
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_refusal_reads_back() {
        for refusal in [
            Refusal { caller: None, host: Some("api.example".to_owned()), address: Some([203, 0, 113, 7].into()), port: 443 },
            Refusal {
                caller: Some("spiffe://lorica.local/ns/shop/sa/web".parse().unwrap()),
                host: Some("a.example".to_owned()),
                address: None,
                port: 25,
            },
            Refusal { caller: None, host: None, address: Some("2001:db8::1".parse().unwrap()), port: 1 },
        ] {
            assert_eq!(of_tcp(entry(refusal.clone(), 7)), Some((refusal, 7)));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_alike_is_told_once() {
        let (refused, mut waiting) = mpsc::channel(8);
        let refusal = |port| Refusal { caller: None, host: None, address: None, port };
        for port in [1, 2, 1] {
            refused.send(refusal(port)).await.unwrap();
        }
        let batch = batch(None, &mut waiting).await;
        assert_eq!((batch.get(&refusal(1)), batch.get(&refusal(2))), (Some(&2), Some(&1)));
    }
}
