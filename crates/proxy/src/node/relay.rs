//! The host's socket: calls of this host's proxies in, the same calls to the control plane out, and its answers back. A call is passed on whole;
//! what a workload may be is decided where it arrives.
//!
//! As beside a control plane, only the socket's owner and root may connect.

use std::io;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use lorica_identity::ca_api::CREATE_CERTIFICATE;
use lorica_model::name::Label;
use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::Status;
use tonic::body::Body;
use tonic::transport::Channel;
use tower::ServiceExt as _;

use super::upstream::LocalEnd;
use super::{connection, identity};

/// The services that are passed on: those that proxies call.
const SERVICES: [&str; 8] = [
    "envoy.service.discovery.v3.AggregatedDiscoveryService",
    "istio.v1.auth.IstioCertificateService",
    "envoy.service.accesslog.v3.AccessLogService",
    "envoy.service.ratelimit.v3.RateLimitService",
    lorica_xds::diagnostics::SERVICE,
    "opentelemetry.proto.collector.trace.v1.TraceService",
    "opentelemetry.proto.collector.logs.v1.LogsService",
    "opentelemetry.proto.collector.metrics.v1.MetricsService",
];
/// Where `lorica run` asks which host this is.
const HOST_PATH: &str = "/v1/host";
/// The most connections at once.
const MAX_CONNECTIONS: usize = 4096;

/// What workloads of this host are to know of it.
#[derive(Debug)]
pub(super) struct Here {
    pub(super) host: Label,
    /// As the user said.
    pub(super) advertise: Option<IpAddr>,
    /// As it is.
    pub(super) local: Arc<LocalEnd>,
    /// In a pod: the token of its service account, which goes with each request for a certificate.
    pub(super) token_file: Option<PathBuf>,
}

/// Binds the socket. One that nobody answers on is a left-over, and replaced.
///
/// # Errors
/// When another answers there, or the system refuses.
pub(super) async fn bind(path: &Path) -> anyhow::Result<UnixListener> {
    if UnixStream::connect(path).await.is_ok() {
        anyhow::bail!("a control plane or another agent answers there already\nhint: a host needs one of them");
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
pub(super) async fn serve(listener: UnixListener, channel: Channel, here: Here, shutdown: impl Future<Output = ()>) {
    let (here, own) = (Arc::new(here), rustix::process::geteuid().as_raw());
    let (ending, tasks) = (CancellationToken::new(), TaskTracker::new());
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
        match stream.peer_cred() {
            Ok(peer) if peer.uid() == own || peer.uid() == 0 => {}
            Ok(peer) => {
                tracing::warn!(uid = peer.uid(), "another user was refused");
                continue;
            }
            Err(error) => {
                tracing::warn!(%error, "a connection without credentials was refused");
                continue;
            }
        }
        if tasks.len() >= MAX_CONNECTIONS {
            tracing::warn!("a connection was refused: there are too many");
            continue;
        }
        let (channel, here) = (channel.clone(), here.clone());
        let answer = move |request| {
            let (channel, here) = (channel.clone(), here.clone());
            async move { answer(request, channel, &here).await }
        };
        tasks.spawn(connection::serve(stream, answer, ending.clone()));
    }
    ending.cancel();
    tasks.close();
    tasks.wait().await;
}

async fn answer(mut request: Request<Incoming>, channel: Channel, here: &Here) -> Response<Body> {
    let path = request.uri().path();
    if path == HOST_PATH {
        return this_host(channel, here).await;
    }
    let service = path.strip_prefix('/').and_then(|path| path.split_once('/')).map(|(service, _)| service);
    if !service.is_some_and(|service| SERVICES.contains(&service)) {
        let message = "this is a host that joined a mesh, and not its control plane";
        let hint = "run this command beside the control plane";
        let body = serde_json::json!({ "error": { "message": message, "hint": hint } });
        return json(http::StatusCode::NOT_FOUND, &body);
    }
    if let Some(file) = here.token_file.as_ref().filter(|_| request.uri().path() == CREATE_CERTIFICATE) {
        match authorization(file.clone()).await {
            Ok(value) => drop(request.headers_mut().insert(http::header::AUTHORIZATION, value)),
            Err(error) => return Status::unavailable(format!("{error:#}")).into_http(),
        }
    }
    match channel.oneshot(request.map(Body::new)).await {
        Ok(response) => response,
        Err(error) => {
            let mut why = error.to_string();
            let mut source = std::error::Error::source(&error);
            while let Some(error) = source {
                why = format!("{why}: {error}");
                source = error.source();
            }
            tracing::debug!(why, "a call could not be passed on");
            Status::unavailable(format!("this host's agent cannot reach the control plane: {why}")).into_http()
        }
    }
}

/// The token of the service account as it is now.
async fn authorization(file: PathBuf) -> anyhow::Result<http::HeaderValue> {
    let token = tokio::task::spawn_blocking(move || identity::token(&file)).await??;
    let mut value = http::HeaderValue::try_from(format!("Bearer {token}"))?;
    value.set_sensitive(true);
    Ok(value)
}

/// The host's name, and where others reach it: known once the control plane was reached.
async fn this_host(channel: Channel, here: &Here) -> Response<Body> {
    if here.advertise.is_none() && here.local.get().is_none() {
        // Any call connects; this one the control plane answers with "no such method", which is enough.
        let probe = Request::builder().method("POST").uri("/lorica.host.v1.HostService/Here").body(Body::empty());
        if let Ok(probe) = probe
            && let Err(error) = channel.oneshot(probe).await
        {
            tracing::debug!(%error, "the control plane is not reached yet");
        }
    }
    match here.advertise.or(here.local.get()) {
        Some(advertise) => json(http::StatusCode::OK, &serde_json::json!({ "name": here.host, "advertise": advertise })),
        None => {
            let error =
                serde_json::json!({ "message": "this host's agent cannot reach the control plane", "hint": "look at the agent's log" });
            json(http::StatusCode::SERVICE_UNAVAILABLE, &serde_json::json!({ "error": error }))
        }
    }
}

fn json(status: http::StatusCode, body: &serde_json::Value) -> Response<Body> {
    let mut response = Response::new(Body::new(http_body_util::Full::new(bytes::Bytes::from(body.to_string()))));
    *response.status_mut() = status;
    response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    response
}
