//! A port over TCP: bound, and served until the end, with a bound on its connections.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// The most connections at once: one a process that tells, and some that ask.
const CONNECTIONS: usize = 512;

/// Whoever reaches a port: it proves nothing.
#[derive(Debug, Clone, Copy)]
struct Anybody;

/// A port.
pub(crate) struct Door {
    listener: TcpListener,
    what: &'static str,
}

impl Door {
    /// Binds it. `what` says what it is for: `OTLP over gRPC`.
    ///
    /// # Errors
    /// When the address cannot be had.
    pub(crate) async fn bind(address: SocketAddr, what: &'static str) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(address).await.with_context(|| format!("{what} cannot be served on {address}"))?;
        Ok(Self { listener, what })
    }

    /// Where it is.
    pub(crate) fn address(&self) -> Option<SocketAddr> {
        self.listener.local_addr().ok()
    }

    /// Serves HTTP/1 and HTTP/2 until `ending`.
    pub(crate) async fn serve(self, router: Router, ending: CancellationToken) {
        let room = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let place = tokio::select! {
                place = room.clone().acquire_owned() => place,
                () = ending.cancelled() => return,
            };
            let Ok(place) = place else { return };
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                () = ending.cancelled() => return,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, door = self.what, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            // Small frames are not to wait for each other; without that it is only slower.
            let _: std::io::Result<()> = stream.set_nodelay(true);
            let (router, ending) = (router.clone(), ending.clone());
            tokio::spawn(async move {
                crate::serve::connection(stream, router, Anybody, ending).await;
                drop(place);
            });
        }
    }
}
