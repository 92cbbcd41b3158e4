//! One stream to the control plane, from its opening to its end.
//!
//! A response is acknowledged once it is in force: after the snapshot that holds it is published, and the proxy says that it runs it. Rules that lead to service
//! ports which are not known yet are in force only when those have come, and their acknowledgement waits for that.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use envoy_types::pb::google::rpc;
use hyper_util::rt::TokioIo;
use lorica_model::name::ServicePort;
use lorica_model::snapshot::Snapshot;
use tokio::net::UnixStream;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use super::known::{Known, Names};
use super::{ClientConfig, ConnectionState, Endpoint, Shared};
use crate::decode::Rejected;
use crate::encode::GATEWAY_PREFIX;
use crate::node::{NodeMetadata, node};
use crate::server::{CLOCK, milliseconds};
use crate::{Kind, MAX_MESSAGE_BYTES};

/// How often the connection is probed, and how long the answer may take: together, a peer that is gone is noticed within 10 s.
const KEEPALIVE: Duration = Duration::from_secs(5);
/// How long opening the connection and the stream may take.
const OPENING: Duration = Duration::from_secs(5);
/// How long an acknowledgement waits for what new rules lead to. A control plane that never sends that is at fault.
const DEFERRAL: Duration = Duration::from_secs(5);
/// How many acknowledgements wait so at once; the control plane holds back other changes meanwhile.
const MAX_DEFERRED: usize = 4;
/// Requests that wait for the connection.
const QUEUE: usize = 16;
/// How many faults an acknowledgement names.
const MAX_FAULTS: usize = 10;

/// How a connection ended.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) message: String,
    /// Whether the control plane does not take this workload as it is.
    pub(super) refused: bool,
    /// Since when the control plane sent.
    pub(super) connected: Option<Instant>,
}

/// An acknowledgement that waits until the routes or gateway listeners of these names are in force.
struct Deferred {
    kind: Kind,
    nonce: String,
    names: Vec<String>,
    until: Instant,
}

struct Connection<'a> {
    config: &'a ClientConfig,
    shared: &'a Shared,
    known: &'a mut Known,
    snapshots: &'a watch::Sender<Arc<Snapshot>>,
    subscribed: Names,
    /// What the control plane was told of this proxy.
    told: Option<NodeMetadata>,
    /// Each response is answered once and each name subscribed to once, so this is bounded by what is wanted.
    requests: VecDeque<DeltaDiscoveryRequest>,
    deferred: VecDeque<Deferred>,
    /// Acknowledgements that wait until the proxy runs the snapshot of this number.
    unconfirmed: VecDeque<(u64, DeltaDiscoveryRequest)>,
}

/// Connects and keeps the snapshot until the connection ends.
pub(super) async fn serve(
    config: &ClientConfig,
    shared: &Shared,
    known: &mut Known,
    snapshots: &watch::Sender<Arc<Snapshot>>,
    states: &watch::Sender<ConnectionState>,
) -> Ended {
    let mut connected = None;
    let mut connection = Connection {
        config,
        shared,
        known,
        snapshots,
        subscribed: Names::new(),
        told: None,
        requests: VecDeque::new(),
        deferred: VecDeque::new(),
        unconfirmed: VecDeque::new(),
    };
    let status = match connection.run(states, &mut connected).await {
        Ok(()) => Status::unavailable("the control plane closed the stream"),
        Err(status) => status,
    };
    let refused = matches!(status.code(), Code::FailedPrecondition | Code::InvalidArgument | Code::PermissionDenied);
    Ended { message: status.message().to_owned(), refused, connected }
}

impl Connection<'_> {
    async fn run(&mut self, states: &watch::Sender<ConnectionState>, connected: &mut Option<Instant>) -> Result<(), Status> {
        self.subscribe();
        let (sender, receiver) = mpsc::channel(QUEUE);
        // Some servers answer the opening only after the first request, so that must be on its way.
        if let Some(first) = self.requests.pop_front()
            && sender.try_send(first).is_err()
        {
            return Err(Status::internal("the request queue has no room"));
        }
        let opening = async {
            let mut client = AggregatedDiscoveryServiceClient::new(self.connect().await?).max_decoding_message_size(MAX_MESSAGE_BYTES);
            let mut request = Request::new(ReceiverStream::new(receiver));
            // Who issues certificates wants to know whose clock is wrong.
            request.metadata_mut().insert(CLOCK, milliseconds(SystemTime::now()).into());
            client.delta_aggregated_resources(request).await
        };
        let opened = tokio::time::timeout(OPENING, opening).await;
        let mut responses = opened.map_err(|_| Status::unavailable(format!("no answer within {OPENING:?}")))??.into_inner();
        let mut open = true;
        loop {
            let deadline = self.deferred.front().map(|deferred| deferred.until);
            tokio::select! {
                permit = sender.reserve(), if open && !self.requests.is_empty() => match (permit, self.requests.pop_front()) {
                    (Ok(permit), Some(request)) => permit.send(request),
                    // The control plane takes no more; what it says last tells why.
                    _ => open = false,
                },
                response = responses.message() => {
                    let Some(response) = response? else { return Ok(()) };
                    if connected.is_none() {
                        *connected = Some(Instant::now());
                        states.send_replace(ConnectionState::Connected { since: SystemTime::now() });
                    }
                    self.receive(response);
                }
                () = self.shared.changed.notified() => {
                    self.subscribe();
                    self.publish();
                }
                () = self.shared.confirmations.notified() => self.confirmed(),
                () = tokio::time::sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {
                    if let Some(deferred) = self.deferred.pop_front() {
                        self.acknowledge(deferred.kind, deferred.nonce, None);
                    }
                }
            }
        }
    }

    async fn connect(&self) -> Result<Channel, Status> {
        let Endpoint::Unix(path) = &self.config.endpoint;
        let endpoint = tonic::transport::Endpoint::from_static("http://control.lorica")
            .http2_keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(KEEPALIVE)
            .keep_alive_while_idle(true);
        let target = path.clone();
        let connector = tower::service_fn(move |_: tonic::codegen::http::Uri| {
            let target = target.clone();
            async move { UnixStream::connect(target).await.map(TokioIo::new) }
        });
        endpoint.connect_with_connector(connector).await.map_err(|error| {
            let mut cause: &dyn std::error::Error = &error;
            while let Some(deeper) = cause.source() {
                cause = deeper;
            }
            Status::unavailable(format!("no control plane answers at {}: {cause}", path.display()))
        })
    }

    fn wanted(&self) -> BTreeSet<ServicePort> {
        self.shared.lock().wanted.keys().cloned().collect()
    }

    /// Asks for what has become of interest, gives up what has not, and says what the proxy has become.
    fn subscribe(&mut self) {
        let desired = self.known.subscriptions(&self.wanted());
        for (kind, names) in &desired {
            let had = self.subscribed.get(kind);
            let none = BTreeSet::new();
            let before = had.unwrap_or(&none);
            let more: Vec<String> = names.difference(before).cloned().collect();
            let less: Vec<String> = before.difference(names).cloned().collect();
            if more.is_empty() && less.is_empty() {
                continue;
            }
            // Only the first request of a kind says what is known already.
            let known = if had.is_none_or(BTreeSet::is_empty) { self.known.versions(*kind, names) } else { Default::default() };
            self.requests.push_back(DeltaDiscoveryRequest {
                resource_names_subscribe: more,
                resource_names_unsubscribe: less,
                initial_resource_versions: known,
                ..request(*kind)
            });
        }
        self.known.keep(&desired);
        self.subscribed = desired;
        let metadata = self.shared.lock().metadata.clone();
        if self.told.as_ref() != Some(&metadata) {
            let node = node(&self.config.node_id.to_string(), &self.config.version, &metadata);
            let first = self.told.is_none();
            match self.requests.front_mut().filter(|_| first) {
                Some(request) => request.node = Some(node),
                None => self.requests.push_back(DeltaDiscoveryRequest { node: Some(node), ..request(Kind::Names) }),
            }
            self.told = Some(metadata);
        }
    }

    fn receive(&mut self, response: DeltaDiscoveryResponse) {
        let Some(kind) = Kind::from_type_url(&response.type_url) else { return };
        let none = BTreeSet::new();
        let rejected = self.known.take(kind, &response, self.subscribed.get(&kind).unwrap_or(&none));
        for rejected in &rejected {
            tracing::warn!(%rejected, "a resource of the control plane was refused; what was there before stays in force");
        }
        self.subscribe();
        self.publish();
        let named = response
            .resources
            .iter()
            .map(|one| &one.name)
            .filter(|name| matches!(kind, Kind::Route | Kind::Cluster) || name.starts_with(GATEWAY_PREFIX));
        let names: Vec<String> = named.filter(|name| self.known.is_behind(kind, name)).cloned().collect();
        if rejected.is_empty() && !names.is_empty() {
            self.deferred.push_back(Deferred { kind, nonce: response.nonce, names, until: Instant::now() + DEFERRAL });
            if self.deferred.len() > MAX_DEFERRED
                && let Some(oldest) = self.deferred.pop_front()
            {
                self.acknowledge(oldest.kind, oldest.nonce, None);
            }
        } else {
            self.acknowledge(kind, response.nonce, refusal(&rejected));
        }
    }

    /// Brings in force what is complete, and acknowledges what waited for that.
    fn publish(&mut self) {
        let wanted = self.wanted();
        self.snapshots.send_replace(Arc::new(self.known.snapshot(&wanted)));
        self.shared.published.fetch_add(1, Ordering::Release);
        for deferred in std::mem::take(&mut self.deferred) {
            if deferred.names.iter().any(|name| self.known.is_behind(deferred.kind, name)) {
                self.deferred.push_back(deferred);
            } else {
                self.acknowledge(deferred.kind, deferred.nonce, None);
            }
        }
    }

    fn acknowledge(&mut self, kind: Kind, response_nonce: String, error_detail: Option<rpc::Status>) {
        let request = DeltaDiscoveryRequest { response_nonce, error_detail, ..request(kind) };
        if request.error_detail.is_some() || self.shared.confirmed.load(Ordering::Acquire) == 0 {
            self.requests.push_back(request);
        } else {
            self.unconfirmed.push_back((self.shared.published.load(Ordering::Acquire), request));
        }
    }

    /// Acknowledges what the proxy runs by now.
    fn confirmed(&mut self) {
        let confirmed = self.shared.confirmed.load(Ordering::Acquire);
        while let Some((_, request)) = self.unconfirmed.pop_front_if(|(number, _)| *number <= confirmed) {
            self.requests.push_back(request);
        }
    }
}

fn request(kind: Kind) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest { type_url: kind.type_url().to_owned(), ..DeltaDiscoveryRequest::default() }
}

fn refusal(rejected: &[Rejected]) -> Option<rpc::Status> {
    let named: Vec<String> = rejected.iter().take(MAX_FAULTS).map(ToString::to_string).collect();
    let more = rejected.len().saturating_sub(MAX_FAULTS);
    let tail = if more > 0 { format!("; and {more} more") } else { String::new() };
    (!named.is_empty()).then(|| rpc::Status {
        code: Code::InvalidArgument.into(),
        message: named.join("; ") + &tail,
        ..rpc::Status::default()
    })
}
