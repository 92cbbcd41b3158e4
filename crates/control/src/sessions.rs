//! Streams of xDS, tied to the mesh: a stream registers its workload, and what happens on it is told to the mesh.

use std::sync::Arc;
use std::time::Duration;

use lorica_model::name::WorkloadName;
use lorica_xds::server::{Opener, Peer, Publication, SessionObserver, Source};
use lorica_xds::session::{Event, Form};
use lorica_xds::wire::Node;
use lorica_xds::{Dialect, Kind, NodeMetadata};
use tokio::sync::watch;
use tonic::{Code, Status};

use crate::claims;
use crate::hosts::Hosts;
use crate::mesh::{Mesh, NotTaken, Registered, Running, SessionId};
use crate::telemetry::counts::one;
use crate::telemetry::discovery::reached;

/// The mesh as the xDS server sees it.
pub struct Streams {
    /// The mesh.
    pub mesh: Arc<Mesh>,
    /// Who may be what in it.
    pub hosts: Arc<Hosts>,
}

/// One stream. Dropped, it tells the mesh that the stream has ended.
pub struct Stream {
    mesh: Arc<Mesh>,
    id: SessionId,
    /// What the workload says of itself, to the task that takes it in; none for one that did not register.
    updates: Option<watch::Sender<NodeMetadata>>,
    /// What a peer of another host was let in as; none for the owner of the socket, who may become anything.
    let_in: Option<NodeMetadata>,
}

impl Source for Streams {
    type Registration = Stream;

    async fn open(&self, node: &Node, _form: Form, opener: Opener) -> Result<(Stream, watch::Receiver<Publication>), Status> {
        let opened = self.take(node, opener).await;
        one(if opened.is_ok() { &self.mesh.counts.sessions } else { &self.mesh.counts.sessions_refused });
        opened
    }
}

impl Streams {
    async fn take(&self, node: &Node, Opener { peer, clock_ahead }: Opener) -> Result<(Stream, watch::Receiver<Publication>), Status> {
        let metadata = NodeMetadata::of(node).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let dialect = Dialect::of(node);
        // Lorica's proxies and Envoys that were made a bootstrap are workloads; a gRPC client is whoever it says.
        let workload = match dialect {
            Dialect::Grpc => None,
            _ => Some(
                node.id.parse::<WorkloadName>().map_err(|error| Status::invalid_argument(format!("Node.id names no workload: {error}")))?,
            ),
        };
        let said = listening(metadata, dialect);
        if let Some(name) = &workload {
            self.judge(peer.clone(), name, &said).await?;
        }
        let let_in = matches!(peer, Some(Peer::Remote(_))).then(|| said.clone());
        let metadata = NodeMetadata { metrics: reached(said.metrics, let_in.is_none()), ..said };
        if let Some(name) = &workload {
            register(&self.mesh, name, &metadata).await?;
        }
        let software = software(node);
        let (id, publications) =
            self.mesh.open(&node.id, workload.clone(), dialect, Running { software, clock_ahead }, Arc::new(metadata.clone()));
        let updates = workload.map(|name| {
            let (updates, said) = watch::channel(metadata);
            tokio::spawn(take_in(self.mesh.clone(), id, name, said));
            updates
        });
        Ok((Stream { mesh: self.mesh.clone(), id, updates, let_in }, publications))
    }

    /// Whether a peer may be the workload that it says. Off the runtime's threads, as the store is asked.
    async fn judge(&self, peer: Option<Peer>, name: &WorkloadName, metadata: &NodeMetadata) -> Result<(), Status> {
        let (hosts, name, metadata) = (self.hosts.clone(), name.clone(), metadata.clone());
        let judged = tokio::task::spawn_blocking(move || hosts.may_be(&hosts.claimant(peer.as_ref())?, &name, &metadata));
        judged.await.map_err(|error| Status::internal(error.to_string()))?
    }
}

/// What an Envoy's bootstrap declares counts as listening: nobody tells when its app does.
fn listening(mut metadata: NodeMetadata, dialect: Dialect) -> NodeMetadata {
    if dialect == Dialect::Envoy {
        metadata.listening = metadata.ports.iter().map(|port| port.app_port).collect();
    }
    metadata
}

fn software(node: &Node) -> String {
    use lorica_xds::wire::node::UserAgentVersionType;
    match &node.user_agent_version_type {
        Some(UserAgentVersionType::UserAgentVersion(version)) => format!("{} {version}", node.user_agent_name),
        _ => node.user_agent_name.clone(),
    }
}

/// Registers a workload off the runtime's threads, as it waits for the disk.
///
/// # Errors
/// The status that says why not.
async fn register(mesh: &Arc<Mesh>, name: &WorkloadName, metadata: &NodeMetadata) -> Result<Registered, Status> {
    let (mesh, name, metadata) = (mesh.clone(), name.clone(), metadata.clone());
    let registered = tokio::task::spawn_blocking(move || mesh.register(&name, &metadata)).await;
    registered.map_err(|error| Status::internal(error.to_string()))?.map_err(refusal)
}

/// The status that says why a workload is not taken.
pub(crate) fn refusal(error: NotTaken) -> Status {
    match error {
        NotTaken::Contradicts(_) => Status::failed_precondition(error.to_string()),
        NotTaken::Wrong(_) => Status::invalid_argument(error.to_string()),
        NotTaken::NoAddress => Status::resource_exhausted(error.to_string()),
        NotTaken::Store(_) => Status::unavailable(error.to_string()),
    }
}

/// How long until it is tried again to take in what the store did not.
const AGAIN: Duration = Duration::from_secs(1);

/// Takes in what a workload says of itself, in the order in which it says it; of what comes meanwhile, the last word.
async fn take_in(mesh: Arc<Mesh>, id: SessionId, name: WorkloadName, mut said: watch::Receiver<NodeMetadata>) {
    let mut drains = said.borrow_and_update().draining;
    while said.changed().await.is_ok() {
        let registered = loop {
            let metadata = said.borrow_and_update().clone();
            match register(&mesh, &name, &metadata).await {
                Ok(registered) => break (registered, metadata.draining),
                Err(status) if status.code() == Code::Unavailable => {
                    tracing::warn!(workload = %name, message = status.message(), "what a workload says of itself could not be stored; it is tried again");
                    tokio::select! {
                        () = tokio::time::sleep(AGAIN) => {}
                        changed = said.changed() => if changed.is_err() { return },
                    }
                }
                Err(status) => {
                    tracing::warn!(workload = %name, message = status.message(), "what a workload says of itself is refused");
                    // Its stream ends; when it comes back it is told why.
                    return mesh.closed(id);
                }
            }
        };
        let (registered, draining) = registered;
        if draining && !std::mem::replace(&mut drains, draining) {
            tokio::spawn(withdraw(mesh.clone(), name.clone(), registered.publication));
        }
        drains = draining;
    }
}

impl SessionObserver for Stream {
    fn node_changed(&mut self, node: &Node) -> Result<(), Status> {
        let metadata = NodeMetadata::of(node).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let metadata = listening(metadata, Dialect::of(node));
        if let Some(let_in) = &self.let_in {
            claims::stays(let_in, &metadata).map_err(Status::permission_denied)?;
        }
        let metadata = NodeMetadata { metrics: reached(metadata.metrics, self.let_in.is_none()), ..metadata };
        self.mesh.renewed(self.id, Arc::new(metadata.clone()));
        if let Some(updates) = &self.updates {
            updates.send_replace(metadata);
        }
        Ok(())
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Subscribed { kind, names } => self.mesh.subscribed(self.id, kind, names, true),
            Event::Unsubscribed { kind, names } => self.mesh.subscribed(self.id, kind, names, false),
            // Whom it concerns was settled when it was published.
            Event::Published { .. } => {}
            Event::Acknowledged { name, version } => self.mesh.acknowledged(self.id, &name, version),
            Event::Reached { revision } => self.mesh.reached(self.id, revision),
            Event::Rejected { kind, name, message, revision } => self.mesh.rejected(self.id, kind, &name, &message, revision),
        }
    }

    fn sent(&mut self, kind: Kind) {
        one(self.mesh.counts.pushes.of(kind));
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.mesh.closed(self.id);
    }
}

/// Waits until every caller's proxy knows that a workload ends, 5 s at most, and then lets it stop.
async fn withdraw(mesh: Arc<Mesh>, name: WorkloadName, publication: u64) {
    crate::wait_for(&mesh, publication, Duration::from_secs(5)).await;
    mesh.withdraw(&name);
}
