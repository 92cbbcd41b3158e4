//! What the control plane tells of itself and of the mesh, over HTTP: a port of its own where one is asked for, `--telemetry`. And what it is told by OTLP, on
//! its socket and on ports of their own.
//!
//! | module | what it serves |
//! | --- | --- |
//! | [`kept`] | nothing itself: spans and log records, kept |
//! | `receive` | OTLP over gRPC, in: on the control plane's socket, from hosts, and on a port |
//! | `otlp_http` | OTLP over HTTP, in, on a port |
//! | `jaeger` | `/api`: Jaeger's query API |
//! | [`series`] | nothing itself: metrics by OTLP, in, and who may tell which |
//! | `prometheus` | `/api/v1`: Prometheus' query API |
//! | `door` | a port for OTLP |
//! | [`counts`] | what happened in the control plane, counted where it happens |
//! | [`metrics`] | `/metrics`: that, and how things stand |
//! | [`discovery`] | `/sd/proxies`: where Prometheus finds every proxy |
//!
//! The port is of loopback unless told otherwise, as it asks nobody who he is: what is read there is no secret, and nothing can be changed.

pub mod counts;
pub mod discovery;
pub(crate) mod door;
pub(crate) mod jaeger;
pub mod kept;
pub(crate) mod metrics;
pub(crate) mod otlp_http;
pub(crate) mod prometheus;
pub(crate) mod receive;
pub mod series;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use axum::routing::get;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::ControlPlane;

/// The most connections at once: there are a few that scrape.
const CONNECTIONS: usize = 64;
/// How long a head may take.
const HEAD: Duration = Duration::from_secs(10);
/// How long a connection may last: one that takes nothing any more is not to keep others out. Who scrapes connects again.
const LIFE: Duration = Duration::from_secs(300);

/// The port, bound.
pub(crate) struct Port {
    listener: TcpListener,
    /// Where it is.
    pub(crate) address: SocketAddr,
}

impl Port {
    /// Binds it.
    ///
    /// # Errors
    /// When the address cannot be had.
    pub(crate) async fn bind(address: SocketAddr) -> anyhow::Result<Self> {
        let refused = || format!("--telemetry {address}: nothing can listen there\nhint: another address, or port 0 for any free one");
        let listener = TcpListener::bind(address).await.with_context(refused)?;
        let address = listener.local_addr()?;
        Ok(Self { listener, address })
    }

    /// Serves what is read there and nothing else, for ever.
    pub(crate) async fn serve(self, control: Arc<ControlPlane>) {
        let router = router(control);
        let room = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let Ok(place) = room.clone().acquire_owned().await else { return };
            let stream = match self.listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "a connection for telemetry could not be accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            let service = TowerToHyperService::new(router.clone());
            tokio::spawn(async move {
                let mut builder = hyper::server::conn::http1::Builder::new();
                let connection = builder.timer(TokioTimer::new()).header_read_timeout(HEAD).serve_connection(TokioIo::new(stream), service);
                match tokio::time::timeout(LIFE, connection).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => tracing::debug!(%error, "a connection for telemetry broke off"),
                    Err(_) => tracing::debug!("a connection for telemetry has had its time"),
                }
                drop(place);
            });
        }
    }
}

fn router(control: Arc<ControlPlane>) -> Router {
    let kept = control.kept.clone();
    let own = Router::new().route("/metrics", get(metrics::page)).route("/sd/proxies", get(discovery::proxies));
    let own = own.merge(prometheus::router()).with_state(control);
    own.merge(jaeger::router(kept))
}
