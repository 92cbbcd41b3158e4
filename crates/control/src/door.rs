//! The control plane's door over TCP: gRPC in mutual TLS 1.3, for hosts that joined and for workloads that have an SVID. Who has no certificate
//! may do one thing: get one, by a join token or, where a cluster's are believed, by that of a service account.
//!
//! The REST API is not served here. A connection ends with its client's certificate, or when its host is let go of.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use lorica_identity::ca_api::{CREATE_CERTIFICATE, CertificateServiceServer};
use lorica_identity::host_api::{HostServiceServer, JOIN};
use lorica_identity::{PeerIdentity, TlsEpoch, door, rotation};
use lorica_xds::server::Peer;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::Status;

use crate::ControlPlane;
use crate::ca::Ca;
use crate::hosts::{Admission, Client, Hosts};
use crate::mesh::Mesh;
use crate::telemetry::counts::{Counts, one};

/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long a client without a certificate may stay: joining is one call.
const ANONYMOUS: Duration = Duration::from_secs(30);
/// The most connections at once. A host needs one.
const MAX_CONNECTIONS: usize = 4096;
/// The most connections at once whose client has proved nothing yet.
const MAX_UNPROVED: usize = 256;

/// The door, bound.
pub(crate) struct Door {
    listener: TcpListener,
    /// Where it is.
    pub(crate) address: SocketAddr,
    epochs: watch::Receiver<Arc<TlsEpoch>>,
    /// Keeps the epoch fresh; ends with the door.
    keeper: tokio::task::JoinHandle<()>,
}

impl Drop for Door {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

impl Door {
    /// Binds it, with an identity of the control plane's own.
    ///
    /// # Errors
    /// When the address cannot be had, or the CA cannot sign.
    pub(crate) async fn bind(address: SocketAddr, ca: Arc<Ca>, mesh: Arc<Mesh>) -> anyhow::Result<Self> {
        // What changes from here on makes another.
        let changes = mesh.identities.subscribe();
        let first = own_epoch(&ca, &mesh).context("the control plane's own certificate")?;
        let listener = TcpListener::bind(address).await.with_context(|| format!("{address} cannot be served"))?;
        let address = listener.local_addr()?;
        let (epochs_in, epochs) = watch::channel(first);
        Ok(Self { listener, address, epochs, keeper: tokio::spawn(keep(ca, mesh, changes, epochs_in)) })
    }

    /// Serves until `ending`.
    pub(crate) async fn serve(
        self,
        control: Arc<ControlPlane>,
        admission: Arc<Admission>,
        grpc: Router,
        ending: CancellationToken,
        tasks: TaskTracker,
    ) {
        let mut joining = tonic::service::Routes::new(HostServiceServer::new(admission));
        let mut paths = vec![JOIN];
        if control.hosts.believes_accounts() {
            joining = joining.add_service(CertificateServiceServer::new(control.issuer.clone()));
            paths.push(CREATE_CERTIFICATE);
        }
        let joining = joining.into_axum_router().layer(from_fn_with_state(Arc::from(paths), only));
        let (all, unproved) = (Arc::new(Semaphore::new(MAX_CONNECTIONS)), Arc::new(Semaphore::new(MAX_UNPROVED)));
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                () = ending.cancelled() => return,
            };
            let (stream, client) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            let (Ok(permit), Ok(unproved)) = (all.clone().try_acquire_owned(), unproved.clone().try_acquire_owned()) else {
                one(&control.mesh.counts.door.full);
                tracing::warn!(%client, "a connection was refused: there are too many");
                continue;
            };
            let connection = Connection {
                hosts: control.hosts.clone(),
                counts: control.mesh.counts.clone(),
                epoch: self.epochs.borrow().clone(),
                client,
                permit,
                grpc: grpc.clone(),
                joining: joining.clone(),
                ending: ending.clone(),
            };
            tasks.spawn(connection.serve(stream, unproved));
        }
    }
}

/// An identity of the control plane's own, and whom it trusts: those of this mesh, and of no other that it is federated with.
fn own_epoch(ca: &Ca, mesh: &Mesh) -> anyhow::Result<Arc<TlsEpoch>> {
    Ok(door::own_epoch(&ca.authority(), mesh.own_roots()?, ca.lifetime(), SystemTime::now())?)
}

/// Renews the control plane's own certificate in time and whenever the roots change, for ever.
async fn keep(ca: Arc<Ca>, mesh: Arc<Mesh>, mut changes: watch::Receiver<()>, epochs: watch::Sender<Arc<TlsEpoch>>) {
    let mut failures = 0;
    loop {
        let pause = {
            let epoch = epochs.borrow();
            let due = rotation::renew_at(epoch.svid().not_before(), epoch.svid().not_after(), fastrand::f64());
            if failures == 0 {
                due.duration_since(SystemTime::now()).unwrap_or_default()
            } else {
                rotation::pause(failures, fastrand::f64())
            }
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            changed = changes.changed() => {
                if changed.is_err() {
                    return;
                }
                // Most changes are of resources, and none of the door's.
                let same = mesh.own_roots().is_ok_and(|roots| roots.roots() == epochs.borrow().bundle().roots());
                if same && failures == 0 {
                    continue;
                }
            }
        }
        match own_epoch(&ca, &mesh) {
            Ok(epoch) => {
                epochs.send_replace(epoch);
                failures = 0;
            }
            Err(error) => {
                failures += 1;
                tracing::error!(error = format!("{error:#}"), failures, "the control plane's own certificate could not be renewed");
            }
        }
    }
}

struct Connection {
    hosts: Arc<Hosts>,
    counts: Arc<Counts>,
    epoch: Arc<TlsEpoch>,
    client: SocketAddr,
    /// Held while the connection lives.
    permit: OwnedSemaphorePermit,
    grpc: Router,
    joining: Router,
    ending: CancellationToken,
}

impl Connection {
    async fn serve(self, stream: TcpStream, unproved: OwnedSemaphorePermit) {
        // Small frames are not to wait for each other.
        let _: std::io::Result<()> = stream.set_nodelay(true);
        let acceptor = TlsAcceptor::from(door::server_config(&self.epoch));
        let stream = match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                one(&self.counts.door.handshake);
                return tracing::warn!(client = %self.client, %error, "a TLS handshake failed");
            }
            Err(_) => {
                one(&self.counts.door.handshake);
                return tracing::warn!(client = %self.client, "a TLS handshake took too long");
            }
        };
        let certificates = stream.get_ref().1.peer_certificates();
        let ending = self.ending.child_token();
        let Some(certificates) = certificates else {
            let limit = end_after(ANONYMOUS, ending.clone());
            crate::serve::connection(stream, self.joining, Client(self.client.ip()), ending).await;
            limit.abort();
            drop((unproved, self.permit));
            return;
        };
        let now = SystemTime::now();
        let peer = match self.epoch.peer(Some(certificates), now) {
            Ok(peer) => peer,
            Err(error) => {
                one(&self.counts.door.certificate);
                return tracing::warn!(client = %self.client, %error, "a client was refused");
            }
        };
        drop(unproved);
        // From before the look at who it is, so that nothing is missed between.
        let revocations = self.hosts.revocations();
        if !self.is_welcome(&peer).await {
            one(&self.counts.door.unwelcome);
            return;
        }
        tracing::debug!(client = %self.client, identity = %peer.id, "a client connected");
        // What it proved it has proved until then.
        let limit = end_after(peer.not_after.duration_since(now).unwrap_or_default(), ending.clone());
        let watched = tokio::spawn(end_when_revoked(self.hosts.clone(), revocations, peer.clone(), ending.clone()));
        crate::serve::connection(stream, self.grpc, Peer::Remote(peer.id), ending).await;
        limit.abort();
        watched.abort();
        drop(self.permit);
    }

    async fn is_welcome(&self, peer: &PeerIdentity) -> bool {
        let id = &peer.id;
        match welcome(self.hosts.clone(), peer).await {
            Ok(()) => true,
            Err(status) => {
                tracing::warn!(client = %self.client, identity = %id, why = status.message(), "a client was refused");
                false
            }
        }
    }
}

/// Whether somebody is of this mesh. Off the runtime's threads, as it reads the store.
async fn welcome(hosts: Arc<Hosts>, peer: &PeerIdentity) -> Result<(), Status> {
    let peer = peer.clone();
    let known = tokio::task::spawn_blocking(move || hosts.welcome(&peer));
    known.await.map_err(|error| Status::internal(error.to_string()))?
}

fn end_after(limit: Duration, ending: CancellationToken) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        tokio::time::sleep(limit).await;
        ending.cancel();
    })
}

async fn end_when_revoked(hosts: Arc<Hosts>, mut revocations: watch::Receiver<()>, peer: PeerIdentity, ending: CancellationToken) {
    while revocations.changed().await.is_ok() {
        match welcome(hosts.clone(), &peer).await {
            Err(status) if status.code() == tonic::Code::PermissionDenied => {
                tracing::info!(identity = %peer.id, why = status.message(), "a connection ends: its client is welcome no more");
                return ending.cancel();
            }
            _ => {}
        }
    }
}

/// Lets nothing through but these paths.
async fn only(State(paths): State<Arc<[&'static str]>>, request: Request, next: Next) -> Response {
    if paths.contains(&request.uri().path()) {
        return next.run(request).await;
    }
    let refused = Status::unauthenticated("without a certificate one may only ask for one; show one of this mesh");
    refused.into_http::<axum::body::Body>()
}
