//! The control plane's socket: REST over HTTP/1, gRPC over HTTP/2, to its owner and nobody else. Beside it the door over TCP, where there is one.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::Request;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use lorica_identity::ca_api::CertificateServiceServer;
use lorica_identity::host_api::HostServiceServer;
use lorica_xds::access_log_service::{self, Listener};
use lorica_xds::diagnostics::DiagnosticsServer;
use lorica_xds::observed::Observation;
use lorica_xds::refused::Refusal;
use lorica_xds::server::{self, Peer, PeerInfo};
use lorica_xds::trial::Trial;
use lorica_xds::wire::Node;
use lorica_xds::{NodeMetadata, rate_limit};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::Status;
use tower::ServiceExt;

use crate::ControlPlane;
use crate::door::Door;
use crate::hosts::{Admission, Hosts};
use crate::observed::Observed;
use crate::refused::Refused;
use crate::sessions::Streams;
use crate::telemetry::receive::Receiver;
use crate::telemetry::series::MetricsReceiver;

/// How long calls under way may take once the control plane ends. Streams of proxies are ended by the mesh; what is left
/// then is cut off.
const END: Duration = Duration::from_millis(500);

/// What proxies tell, by what it is about.
struct Heard {
    refused: Arc<Refused>,
    observed: Arc<Observed>,
    hosts: Arc<Hosts>,
}

impl Listener for Heard {
    async fn admits(&self, peer: Option<Peer>, node: &Node) -> Result<(), Status> {
        let Some(Peer::Remote(_)) = &peer else { return Ok(()) };
        let invalid = |error: &dyn std::fmt::Display| Status::invalid_argument(error.to_string());
        let name = node.id.parse().map_err(|error| invalid(&error))?;
        let metadata = NodeMetadata::of(node).map_err(|error| invalid(&error))?;
        let hosts = self.hosts.clone();
        let judged =
            tokio::task::spawn_blocking(move || hosts.claimant(peer.as_ref())?.may_be(&name, &metadata).map_err(Status::permission_denied));
        judged.await.map_err(|error| Status::internal(error.to_string()))?
    }

    fn refused(&self, node: &Node, refusal: Refusal, times: u64) {
        self.refused.told(node, refusal, times);
    }

    fn observed(&self, node: &Node, observation: Observation, times: u64) {
        // A proxy tells of calls to its own service, and of no other's.
        let own = NodeMetadata::of(node).ok().and_then(|metadata| metadata.service);
        if own.as_ref() == Some(&observation.port.service) {
            self.observed.saw(observation, times);
        }
    }

    fn tried(&self, _: &Node, trial: Trial) {
        self.observed.tried(trial);
    }
}

/// Binds the socket. One that nobody answers on is a left-over, and replaced.
///
/// # Errors
/// When another control plane answers there, or the system refuses.
pub(crate) async fn bind(path: &Path) -> anyhow::Result<UnixListener> {
    if UnixStream::connect(path).await.is_ok() {
        anyhow::bail!("another control plane answers there already\nhint: `lorica status` shows it");
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Serves until `shutdown`.
pub(crate) async fn serve(
    listener: UnixListener,
    door: Option<Door>,
    admission: Arc<Admission>,
    control: Arc<ControlPlane>,
    shutdown: impl Future<Output = ()>,
) {
    let ads = server::service(Arc::new(Streams { mesh: control.mesh.clone(), hosts: control.hosts.clone() }));
    let certificates = CertificateServiceServer::new(control.issuer.clone());
    let told = access_log_service::service(Arc::new(Heard {
        refused: control.refused.clone(),
        observed: control.observed.clone(),
        hosts: control.hosts.clone(),
    }));
    let limits = rate_limit::service(control.limits.clone());
    let diagnostics = DiagnosticsServer::new(control.diagnostics.clone());
    let (traces, logs) = Receiver::judging(control.kept.clone(), control.hosts.clone()).services();
    let metrics = MetricsReceiver::judging(control.series.clone(), control.hosts.clone()).service();
    let grpc = tonic::service::Routes::new(ads).add_service(certificates).add_service(told).add_service(limits).add_service(diagnostics);
    let grpc = grpc.add_service(traces).add_service(logs).add_service(metrics);
    let router = crate::api::router(control.clone()).merge(grpc.clone().into_axum_router().reset_fallback());
    let own = rustix::process::geteuid().as_raw();
    let (ending, tasks) = (CancellationToken::new(), TaskTracker::new());
    if let Some(door) = door {
        let grpc = grpc.add_service(HostServiceServer::new(admission.clone())).into_axum_router();
        tasks.spawn(door.serve(control.clone(), admission, grpc, ending.clone(), tasks.clone()));
    }
    tokio::pin!(shutdown);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut shutdown => break,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let peer = match stream.peer_cred() {
            Ok(peer) if peer.uid() == own || peer.uid() == 0 => Peer::Local(PeerInfo { uid: peer.uid(), gid: peer.gid(), pid: peer.pid() }),
            Ok(peer) => {
                tracing::warn!(uid = peer.uid(), "another user was refused");
                continue;
            }
            Err(error) => {
                tracing::warn!(%error, "a connection without credentials was refused");
                continue;
            }
        };
        tasks.spawn(connection(stream, router.clone(), peer, ending.clone()));
    }
    control.mesh.end();
    control.diagnostics.end();
    ending.cancel();
    tasks.close();
    tasks.wait().await;
}

/// Serves a connection until it ends, or until `ending`. `peer` goes with each of its requests.
pub(crate) async fn connection<S, P>(stream: S, router: Router, peer: P, ending: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    P: Clone + Send + Sync + 'static,
{
    let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(peer.clone());
        router.clone().oneshot(request.map(axum::body::Body::new))
    });
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new());
    builder.http2().timer(TokioTimer::new()).keep_alive_interval(Some(Duration::from_secs(10)));
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let served = tokio::select! {
        served = &mut connection => served,
        () = ending.cancelled() => {
            connection.as_mut().graceful_shutdown();
            match tokio::time::timeout(END, connection).await {
                Ok(served) => served,
                Err(_) => return tracing::debug!("a connection was cut off"),
            }
        }
    };
    if let Err(error) = served {
        tracing::debug!(%error, "a connection broke off");
    }
}
