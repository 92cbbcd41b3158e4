//! Who calls what, as proxies tell it to the [access log service](crate::access_log_service).
//!
//! Lorica's proxy counts what is alike, and tells it once a second with the count. What the control plane does not take is left out: nobody waits.

use std::collections::HashMap;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};

use envoy_types::pb::envoy::config::core::v3::{Node, RequestMethod};
use envoy_types::pb::envoy::data::accesslog::v3::{AccessLogCommon, HttpAccessLogEntry, HttpRequestProperties, TcpAccessLogEntry};
use envoy_types::pb::envoy::service::accesslog::v3::{
    StreamAccessLogsMessage,
    access_log_service_client::AccessLogServiceClient,
    stream_access_logs_message::{HttpAccessLogEntries, Identifier, LogEntries},
};
use lorica_model::name::ServicePort;
use lorica_model::spiffe::SpiffeId;
use tokio::sync::mpsc;
use tonic::transport::Channel;

use crate::access_log_service::{TIMES, address_of, caller, peer, socket, times};
use crate::trial::{self, Trial};

/// A call that came to a service.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Observation {
    /// The identity that the caller proved.
    pub caller: Option<SpiffeId>,
    /// The address that it came from; of a caller with an identity nothing is told of it.
    pub address: Option<IpAddr>,
    /// What was called.
    pub port: ServicePort,
    /// Method and path, whose variable segments are `{id}`; none of a connection whose bytes are not looked at.
    pub request: Option<(String, String)>,
    /// What became of it.
    pub verdict: Verdict,
}

/// What became of a call, as far as policies in force go.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// It passed.
    Passed,
    /// It was denied.
    Denied,
}

/// The name of the log.
pub const LOG: &str = "lorica-observed";
/// The tag that holds the service port that was called.
pub const PORT_TAG: &str = "port";
/// The tag that holds why Envoy ended a connection.
pub const ENDED_TAG: &str = "ended";
pub(crate) const METHOD: &str = "method";
const VERDICT: &str = "verdict";

impl Verdict {
    fn word(&self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Denied => "denied",
        }
    }
}

/// A request that Lorica's proxy tells of, or Envoy.
pub(crate) fn of_http(entry: HttpAccessLogEntry) -> Option<(Observation, u64)> {
    let mut common = entry.common_properties?;
    let request = entry.request.unwrap_or_default();
    let method = common.custom_tags.remove(METHOD).or_else(|| {
        let method = RequestMethod::try_from(request.request_method).ok().filter(|method| *method != RequestMethod::MethodUnspecified);
        method.map(|method| method.as_str_name().to_owned())
    });
    // A connection that Lorica's proxy tells of names no method.
    let asked = method.map(|method| (method, template(request.path.split('?').next().unwrap_or_default())));
    let denied = entry.response.is_some_and(|response| response.response_code_details.starts_with("rbac_access_denied"));
    observation(common, asked, denied)
}

/// A connection that Envoy tells of.
pub(crate) fn of_tcp(entry: TcpAccessLogEntry) -> Option<(Observation, u64)> {
    let common = entry.common_properties?;
    let denied = common.custom_tags.get(ENDED_TAG).is_some_and(|why| why.starts_with("rbac_access_denied"));
    observation(common, None, denied)
}

fn observation(common: AccessLogCommon, request: Option<(String, String)>, denied: bool) -> Option<(Observation, u64)> {
    let port = common.custom_tags.get(PORT_TAG)?.parse().ok()?;
    let denied = common.custom_tags.get(VERDICT).map_or(denied, |word| word == Verdict::Denied.word());
    let verdict = if denied { Verdict::Denied } else { Verdict::Passed };
    let (id, address) = who(&common);
    Some((Observation { caller: id, address, port, request, verdict }, times(&common)))
}

/// Who calls: the identity that was proved, else the address.
pub(crate) fn who(common: &AccessLogCommon) -> (Option<SpiffeId>, Option<IpAddr>) {
    let id = caller(common);
    let remote = common.downstream_direct_remote_address.as_ref().or(common.downstream_remote_address.as_ref());
    let address = remote.filter(|_| id.is_none()).and_then(socket).map(|(address, _)| address);
    (id, address)
}

fn entry(observation: Observation, times: u64) -> HttpAccessLogEntry {
    let Observation { caller, address, port, request, verdict } = observation;
    let tags = HashMap::from([
        (TIMES.to_owned(), times.to_string()),
        (PORT_TAG.to_owned(), port.to_string()),
        (VERDICT.to_owned(), verdict.word().to_owned()),
    ]);
    told(tags, caller, address, request)
}

/// What is told of a call, besides `tags`.
pub(crate) fn told(
    mut tags: HashMap<String, String>,
    caller: Option<SpiffeId>,
    address: Option<IpAddr>,
    request: Option<(String, String)>,
) -> HttpAccessLogEntry {
    let path = request.map(|(method, path)| {
        tags.insert(METHOD.to_owned(), method);
        path
    });
    let common = AccessLogCommon {
        downstream_remote_address: address.map(|address| address_of(SocketAddr::new(address, 0))),
        tls_properties: caller.map(peer),
        custom_tags: tags,
        ..AccessLogCommon::default()
    };
    HttpAccessLogEntry {
        common_properties: Some(common),
        request: Some(HttpRequestProperties { path: path.unwrap_or_default(), ..HttpRequestProperties::default() }),
        ..HttpAccessLogEntry::default()
    }
}

/// The longest path that is told, in bytes, so that callers who make paths up fill no memory.
const LONGEST_PATH: usize = 512;

/// A path with its variable segments as `{id}`: numbers, UUIDs, and long ones of hexadecimal digits. What is longer than all honest ones is `/*`.
#[must_use]
pub fn template(path: &str) -> String {
    if path.len() > LONGEST_PATH {
        return "/*".to_owned();
    }
    let segments: Vec<&str> = path.split('/').map(|segment| if is_variable(segment) { "{id}" } else { segment }).collect();
    segments.join("/")
}

/// Whether a segment of a path is likely another one in each request.
#[must_use]
pub fn is_variable(segment: &str) -> bool {
    let digits = segment.bytes().filter(u8::is_ascii_digit).count();
    let hexadecimal = segment.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    digits > 0 && (digits == segment.len() || (hexadecimal && segment.len() >= 8))
}

/// What a worker saw in a second.
#[derive(Debug, Default)]
pub struct Batch {
    /// The calls, and how often each came.
    pub calls: Vec<(Observation, u64)>,
    /// What policies that are tried would have done.
    pub trials: Vec<Trial>,
}

/// Where a proxy hands over what it saw. Clones are cheap.
#[derive(Debug, Clone)]
pub struct Observer(mpsc::Sender<Batch>);

/// How many batches may wait: one a second of each worker.
const WAITING: usize = 16;
/// How many entries are told in a message, which is then well below what one may have.
const TOLD_AT_ONCE: usize = 256;

impl Observer {
    /// An observer, and its task, which ends with the last clone. `node` says who tells; `channel` leads to the control plane.
    pub fn start(node: Node, channel: Channel) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let (seen, mut waiting) = mpsc::channel::<Batch>(WAITING);
        let task = async move {
            let mut client = AccessLogServiceClient::new(channel);
            while let Some(Batch { calls, trials }) = waiting.recv().await {
                let calls = calls.into_iter().map(|(observation, times)| entry(observation, times)).collect();
                let trials = trials.into_iter().map(trial::entry).collect();
                for (log_name, entries) in [(LOG, calls), (trial::LOG, trials)] {
                    let messages = messages(&node, log_name, entries);
                    if messages.is_empty() {
                        continue;
                    }
                    if let Err(error) = client.stream_access_logs(tokio_stream::iter(messages)).await {
                        tracing::debug!(%error, "the control plane did not take what was seen");
                    }
                }
            }
        };
        (Self(seen), task)
    }

    /// Hands a batch over; where too many wait, it is left out.
    pub fn saw(&self, batch: Batch) {
        if self.0.try_send(batch).is_err() {
            tracing::debug!("more was seen than the control plane can be told of");
        }
    }
}

fn messages(node: &Node, log_name: &str, mut entries: Vec<HttpAccessLogEntry>) -> Vec<StreamAccessLogsMessage> {
    let mut messages = Vec::new();
    while !entries.is_empty() {
        let log_entry = entries.drain(..entries.len().min(TOLD_AT_ONCE)).collect();
        messages.push(StreamAccessLogsMessage {
            identifier: Some(Identifier { node: Some(node.clone()), log_name: log_name.to_owned() }),
            log_entries: Some(LogEntries::HttpLogs(HttpAccessLogEntries { log_entry })),
        });
    }
    messages
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_observation_reads_back() {
        let port: ServicePort = "web.shop.mesh:80".parse().unwrap();
        for observation in [
            Observation {
                caller: Some("spiffe://mesh.local/ns/shop/sa/ann".parse().unwrap()),
                address: None,
                port: port.clone(),
                request: Some(("GET".to_owned(), "/items/{id}".to_owned())),
                verdict: Verdict::Passed,
            },
            Observation {
                caller: None,
                address: Some([10, 0, 0, 7].into()),
                port: port.clone(),
                request: Some(("PROPFIND".to_owned(), "/".to_owned())),
                verdict: Verdict::Denied,
            },
            Observation { caller: None, address: None, port, request: None, verdict: Verdict::Denied },
        ] {
            assert_eq!(of_http(entry(observation.clone(), 7)), Some((observation, 7)));
        }
    }

    #[test]
    fn variable_segments_are_alike() {
        for (path, alike) in [
            ("/items/7", "/items/{id}"),
            ("/items/7/audio", "/items/{id}/audio"),
            ("/v1/list", "/v1/list"),
            ("/a/0b3f7c1e-9d52-4d6e-8a41-2f6f1b0c9e77", "/a/{id}"),
            ("/a/deadbeef01", "/a/{id}"),
            ("/a/facade", "/a/facade"),
            ("/", "/"),
            ("", ""),
            (&"/a".repeat(300), "/*"),
        ] {
            assert_eq!(template(path), alike);
        }
    }
}
