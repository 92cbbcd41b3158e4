//! What counts down at the control plane, for Prometheus: a page on the control plane's socket, and on a TCP port where one is asked for.
//! Names are those that proxies use for theirs.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::extract::State;
use axum::response::IntoResponse;
use axum::routing::get;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::ControlPlane;
use crate::ca::Ca;

/// The most connections at once: there are a few that scrape.
const CONNECTIONS: usize = 64;
/// How long a head may take.
const HEAD: Duration = Duration::from_secs(10);

/// Serves the page and nothing else, for ever.
pub(crate) async fn serve(listener: TcpListener, control: Arc<ControlPlane>) {
    let router = Router::new().route("/metrics", get(page)).with_state(control);
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(place) = room.clone().acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "a connection for metrics could not be accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let service = TowerToHyperService::new(router.clone());
        tokio::spawn(async move {
            let mut builder = hyper::server::conn::http1::Builder::new();
            let connection = builder.timer(TokioTimer::new()).header_read_timeout(HEAD).serve_connection(TokioIo::new(stream), service);
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection for metrics broke off");
            }
            drop(place);
        });
    }
}

/// Binds the port.
///
/// # Errors
/// When the address cannot be had.
pub(crate) async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| anyhow::anyhow!("metrics cannot be served on {address}: {error}"))
}

/// The page.
pub(crate) async fn page(State(control): State<Arc<ControlPlane>>) -> impl IntoResponse {
    ([("content-type", "text/plain; version=0.0.4")], countdown(&control.ca, SystemTime::now()))
}

fn countdown(ca: &Ca, now: SystemTime) -> String {
    let authority = ca.authority();
    let gauge = |name: &str, help: &str, end: SystemTime| {
        let left = end.duration_since(now).unwrap_or_default().as_secs();
        format!("# HELP {name} {help}\n# TYPE {name} gauge\n{name} {left}\n")
    };
    let root = gauge("lorica_root_expiry_seconds", "Seconds until the root that SVIDs come from expires", authority.root_end());
    let intermediate = authority.intermediate_validity().1;
    root + &gauge("lorica_intermediate_expiry_seconds", "Seconds until the intermediate that signs expires", intermediate)
}
