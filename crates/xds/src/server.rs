//! The aggregated discovery service: moves messages between a stream and its [`Session`].
//!
//! In: requests of a client, publications of the control plane. Out: responses, and to the control plane what became of
//! each publication. Who may open a stream, and what it may see, the [`Source`] decides.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::SystemTime;

use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse};
use futures_util::Stream;
use lorica_model::spiffe::SpiffeId;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use crate::session::{Catalog, Event, Form, ProtocolError, Request, Response, Session};
use crate::{Dialect, Kind, MAX_MESSAGE_BYTES};

/// The largest request that is taken, in bytes. The largest names what a reconnecting client has: 20,000 names with their versions.
const MAX_REQUEST_BYTES: usize = 8 * 1024 * 1024;
/// Responses that wait for the connection. A session has few outstanding at once, so more never helps.
const QUEUE: usize = 8;

/// What a client may have, at one revision.
#[derive(Clone)]
pub struct Publication {
    /// Counts publications up.
    pub revision: u64,
    /// What there is, as this client may see it.
    pub catalog: Arc<dyn Catalog>,
}

impl std::fmt::Debug for Publication {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "revision {}", self.revision)
    }
}

/// Who is at the other end of the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerInfo {
    /// The user that the kernel names for a Unix socket.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Its process, where the kernel knows it.
    pub pid: Option<i32>,
}

/// Who a client proved to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peer {
    /// A process of this host, by the kernel's word.
    Local(PeerInfo),
    /// Whoever has this identity, by mutual TLS.
    Remote(SpiffeId),
}

impl Peer {
    /// The peer of a request: a `Peer` among its extensions, as a server with an accept loop of its own puts it there, or
    /// what tonic notes of a Unix socket. `None` for other connections.
    #[must_use]
    pub fn of(extensions: &tonic::Extensions) -> Option<Self> {
        extensions.get::<Self>().cloned().or_else(|| {
            let credentials = extensions.get::<tonic::transport::server::UdsConnectInfo>()?.peer_cred?;
            Some(Self::Local(PeerInfo { uid: credentials.uid(), gid: credentials.gid(), pid: credentials.pid() }))
        })
    }
}

/// The metadata of a stream's opening in which Lorica's proxy says what time it is, in milliseconds since 1970.
pub(crate) const CLOCK: &str = "lorica-clock";

/// Who opens a stream.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Opener {
    /// Who it proved to be; none where the connection names nobody.
    pub peer: Option<Peer>,
    /// By how many milliseconds its clock is ahead of ours; none where it did not say.
    pub clock_ahead: Option<i64>,
}

impl Opener {
    fn of<T>(request: &tonic::Request<T>) -> Self {
        let said = request.metadata().get(CLOCK).and_then(|said| said.to_str().ok()?.parse::<i64>().ok());
        Self { peer: Peer::of(request.extensions()), clock_ahead: said.map(|said| said.saturating_sub(milliseconds(SystemTime::now()))) }
    }
}

/// Milliseconds since 1970.
pub(crate) fn milliseconds(time: SystemTime) -> i64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

/// What the control plane gives to streams.
pub trait Source: Send + Sync + 'static {
    /// What it keeps of an open stream. Dropped when the stream has ended.
    type Registration: SessionObserver;

    /// Registers a stream by its node.
    ///
    /// The revision of the first publication counts as reached: the session has nothing older.
    ///
    /// # Errors
    /// The status ends the stream. `FAILED_PRECONDITION`, `INVALID_ARGUMENT` and `PERMISSION_DENIED` tell Lorica's client that trying again is no use.
    fn open(
        &self,
        node: &Node,
        form: Form,
        opener: Opener,
    ) -> impl Future<Output = Result<(Self::Registration, watch::Receiver<Publication>), Status>> + Send;
}

/// What is told of an open stream, in order. Must not block.
pub trait SessionObserver: Send + 'static {
    /// The client sent another node than before.
    ///
    /// # Errors
    /// The status ends the stream.
    fn node_changed(&mut self, node: &Node) -> Result<(), Status>;
    /// What happened in the session. A stream that is slow skips publications: `Published` and `Reached` then speak for those
    /// skipped too.
    fn event(&mut self, event: Event);
    /// A response with resources of a kind is about to be sent.
    fn sent(&mut self, kind: Kind);
}

/// The service. Wrap it with [`service`].
pub struct Ads<S>(Arc<S>);

impl<S> std::fmt::Debug for Ads<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Ads")
    }
}

/// The gRPC service that serves `source`, for a tonic or axum router.
pub fn service<S: Source>(source: Arc<S>) -> AggregatedDiscoveryServiceServer<Ads<S>> {
    let server = AggregatedDiscoveryServiceServer::new(Ads(source));
    server.max_decoding_message_size(MAX_REQUEST_BYTES).max_encoding_message_size(MAX_MESSAGE_BYTES)
}

type Responses<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl<S: Source> AggregatedDiscoveryService for Ads<S> {
    type StreamAggregatedResourcesStream = Responses<DiscoveryResponse>;
    type DeltaAggregatedResourcesStream = Responses<DeltaDiscoveryResponse>;

    async fn stream_aggregated_resources(
        &self,
        request: tonic::Request<Streaming<DiscoveryRequest>>,
    ) -> Result<tonic::Response<Self::StreamAggregatedResourcesStream>, Status> {
        let opener = Opener::of(&request);
        let responses = Opening { source: self.0.clone(), form: Form::StateOfTheWorld, opener }.start(request.into_inner());
        Ok(tonic::Response::new(responses))
    }

    async fn delta_aggregated_resources(
        &self,
        request: tonic::Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<tonic::Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let opener = Opener::of(&request);
        let responses = Opening { source: self.0.clone(), form: Form::Delta, opener }.start(request.into_inner());
        Ok(tonic::Response::new(responses))
    }
}

/// The messages of one form.
trait Wire: Send + 'static {
    type Response: Send + 'static;
    fn node(&mut self) -> Option<Node>;
    fn request(self) -> Request;
    fn response(response: Response) -> Option<Self::Response>;
}

impl Wire for DeltaDiscoveryRequest {
    type Response = DeltaDiscoveryResponse;
    fn node(&mut self) -> Option<Node> {
        self.node.take()
    }
    fn request(self) -> Request {
        Request::Delta(self)
    }
    fn response(response: Response) -> Option<DeltaDiscoveryResponse> {
        match response {
            Response::Delta(response) => Some(response),
            Response::World(_) => None,
        }
    }
}

impl Wire for DiscoveryRequest {
    type Response = DiscoveryResponse;
    fn node(&mut self) -> Option<Node> {
        self.node.take()
    }
    fn request(self) -> Request {
        Request::World(self)
    }
    fn response(response: Response) -> Option<DiscoveryResponse> {
        match response {
            Response::World(response) => Some(response),
            Response::Delta(_) => None,
        }
    }
}

/// One stream, before its first message.
struct Opening<S> {
    source: Arc<S>,
    form: Form,
    opener: Opener,
}

impl<S: Source> Opening<S> {
    /// Serves the stream in a task of its own, which ends with the stream.
    fn start<M: Wire>(self, mut requests: Streaming<M>) -> Responses<M::Response> {
        let (sender, receiver) = mpsc::channel(QUEUE);
        tokio::spawn(async move {
            let ended = tokio::select! {
                ended = self.serve(&mut requests, &sender) => ended,
                () = sender.closed() => Ok(()),
            };
            if let Err(status) = ended {
                // Who has gone need not be told.
                let _ = sender.send(Err(status)).await;
            }
        });
        Box::pin(ReceiverStream::new(receiver))
    }

    async fn serve<M: Wire>(
        self,
        requests: &mut Streaming<M>,
        responses: &mpsc::Sender<Result<M::Response, Status>>,
    ) -> Result<(), Status> {
        let Some(mut first) = requests.message().await? else { return Ok(()) };
        let mut node =
            first.node().ok_or_else(|| Status::invalid_argument("the first request of a stream must say by its node who asks"))?;
        let (mut observer, mut publications) = self.source.open(&node, self.form, self.opener).await?;
        let Publication { revision, catalog } = publications.borrow_and_update().clone();
        let mut session = Session::new(self.form, catalog, revision).warming(Dialect::of(&node) == Dialect::Envoy);
        let mut next = Some(first);
        loop {
            if let Some(request) = next.take() {
                for event in session.on_request(request.request()).map_err(refusal)? {
                    observer.event(event);
                }
            }
            while let Some(response) = session.next_response() {
                let kind = response.kind();
                let Some(response) = M::response(response) else { continue };
                if let Some(kind) = kind {
                    observer.sent(kind);
                }
                if responses.send(Ok(response)).await.is_err() {
                    return Ok(());
                }
            }
            tokio::select! {
                request = requests.message() => {
                    let Some(mut request) = request? else { return Ok(()) };
                    if let Some(said) = request.node().filter(|said| *said != node) {
                        observer.node_changed(&said)?;
                        node = said;
                    }
                    next = Some(request);
                }
                changed = publications.changed() => {
                    if changed.is_err() {
                        return Err(Status::unavailable("the control plane is ending"));
                    }
                    let Publication { revision, catalog } = publications.borrow_and_update().clone();
                    for event in session.publish(catalog, revision) {
                        observer.event(event);
                    }
                }
            }
        }
    }
}

fn refusal(error: ProtocolError) -> Status {
    match error {
        ProtocolError::TooManySubscriptions => Status::resource_exhausted(error.to_string()),
        ProtocolError::WrongForm => Status::internal(error.to_string()),
    }
}
