//! The Workload API of a host that joined: what the kernel says of a process is held against what the control plane has registered for this
//! host; keys are made here, and signed there. It has a socket of its own, on which any user may ask.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use lorica_identity::attestation::PeerProcess;
use lorica_identity::host_api::HostClient;
use lorica_identity::jwt_svid::Claims;
use lorica_identity::workload_api::{Attestor, Bundles, Readable, Renewable, SERVICE, Seats, WorkloadApiServer, Workloads};
use lorica_identity::{KeyPair, Svid, rotation};
use lorica_model::spiffe::SpiffeId;
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::Status;
use tonic::body::Body;
use tonic::transport::Channel;
use tower::Service as _;

use super::view::Views;
use super::{connection, relay};

/// Gives the processes of this host what the control plane lets them have.
pub(super) struct HostWorkloads {
    client: HostClient<Channel>,
    views: Arc<Views>,
    attestor: Attestor,
}

impl HostWorkloads {
    pub(super) fn new(client: HostClient<Channel>, views: Arc<Views>) -> Arc<Self> {
        Arc::new(Self { client, views, attestor: Attestor::default() })
    }
}

impl Workloads for HostWorkloads {
    async fn identities(&self, caller: &Arc<PeerProcess>) -> Result<Vec<SpiffeId>, Status> {
        let view = self.views.newest();
        let registered =
            view.registered.as_ref().ok_or_else(|| Status::unavailable("this host's agent has not reached the control plane yet"))?;
        let found = self.attestor.identities(caller, registered).await;
        found.inspect_err(|status| tracing::debug!(pid = caller.pid(), why = status.message(), "a process has no identity"))
    }

    async fn svid(&self, id: &SpiffeId) -> Result<Renewable, Status> {
        let internal = |error: &dyn std::fmt::Display| Status::internal(error.to_string());
        let key = KeyPair::generate().map_err(|error| internal(&error))?;
        let request = key.request_pem(id).map_err(|error| internal(&error))?;
        let signed = self.client.sign_svid(id, request).await;
        let chain = signed.inspect_err(|status| tracing::warn!(identity = %id, why = status.message(), "a process got no SVID"))?;
        let svid = Svid::new(&chain, key).map_err(|error| internal(&error))?;
        tracing::info!(identity = %id, not_after = ?svid.not_after(), "an SVID was given to a process");
        let renew_at = rotation::renew_at(svid.not_before(), svid.not_after(), fastrand::f64());
        Ok(Renewable { svid, renew_at })
    }

    async fn token(&self, id: &SpiffeId, audience: &[String]) -> Result<String, Status> {
        self.client.sign_token(id, audience).await
    }

    async fn validate(&self, token: &str, audience: &str) -> Result<Claims, Status> {
        self.client.validate_token(token, audience).await
    }

    fn bundles(&self) -> Bundles {
        self.views.newest().bundles.clone()
    }

    fn changes(&self) -> watch::Receiver<()> {
        self.views.changes()
    }
}

/// Lets every user connect: whoever has no identity is told so.
///
/// # Errors
/// When another server answers there, or the system refuses.
pub(super) async fn bind(path: &Path) -> anyhow::Result<UnixListener> {
    let listener = relay::bind(path).await?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666))?;
    Ok(listener)
}

/// Serves until `ending`.
pub(super) async fn serve(listener: UnixListener, workloads: Arc<HostWorkloads>, ending: CancellationToken) {
    let (tasks, seats) = (TaskTracker::new(), Seats::default());
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = ending.cancelled() => break,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "a connection to the Workload API could not be accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        match seats.admit(&stream) {
            Ok((process, seat)) => {
                let (server, process) = (WorkloadApiServer::new(workloads.clone()), Arc::new(process));
                let served = connection::serve(
                    Readable::new(stream),
                    move |request| answer(request, server.clone(), process.clone()),
                    ending.clone(),
                );
                tasks.spawn(async move {
                    served.await;
                    drop(seat);
                });
            }
            Err(why) => tracing::debug!(why, "a connection to the Workload API was refused"),
        }
    }
    tasks.close();
    tasks.wait().await;
}

async fn answer(
    mut request: http::Request<Incoming>,
    mut server: WorkloadApiServer<HostWorkloads>,
    process: Arc<PeerProcess>,
) -> http::Response<Body> {
    let service = request.uri().path().strip_prefix('/').and_then(|path| path.split_once('/')).map(|(service, _)| service);
    if service != Some(SERVICE) {
        return Status::unimplemented(format!("only {SERVICE} is served here")).into_http();
    }
    request.extensions_mut().insert(process);
    match server.call(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    }
}
