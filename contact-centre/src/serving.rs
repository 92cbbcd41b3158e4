//! How every server of the contact centre ends: no new work, what is in flight finishes, and a limit to waiting for it.

use std::future::{Future, IntoFuture};
use std::io;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use axum::serve::ListenerExt;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::program::say;

/// How long work in flight may take once the service was asked to end. Above the slowest call (call-routing with
/// every upstream at its limit: 9 s).
pub(crate) const DRAIN_LIMIT: Duration = Duration::from_secs(10);

/// Tells the tasks of a server that it ends.
#[derive(Clone, Debug)]
pub(crate) struct Ending(watch::Receiver<bool>);

impl Ending {
    /// Resolves once the server ends.
    pub(crate) async fn begun(mut self) {
        // An error means that the server is gone, which is an end too.
        let _ = self.0.wait_for(|ending| *ending).await;
    }
}

/// Serves by `serve` until `shutdown` resolves, then gives it [`DRAIN_LIMIT`] to finish.
pub(crate) async fn until_drained<F, Fut>(shutdown: impl Future<Output = ()> + Send + 'static, serve: F) -> io::Result<()>
where
    F: FnOnce(Ending) -> Fut,
    Fut: Future<Output = io::Result<()>>,
{
    let (begin, began) = watch::channel(false);
    let ending = Ending(began);
    let limit = async {
        shutdown.await;
        begin.send_replace(true);
        tokio::time::sleep(DRAIN_LIMIT).await;
    };
    tokio::select! {
        done = serve(ending) => done,
        () = limit => {
            say(&format!("still busy {} s after the signal to end: what is left is cut", DRAIN_LIMIT.as_secs()));
            Ok(())
        }
    }
}

/// What every HTTP service begins with: `GET /healthz`, which answers 200 while the process serves.
pub(crate) fn router<S: Clone + Send + Sync + 'static>() -> Router<S> {
    Router::new().route("/healthz", get(async || "ok\n"))
}

/// Serves `router` over HTTP/1.1 and HTTP/2.
pub(crate) async fn serve_http(
    listener: TcpListener,
    router: Router,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let listener = listener.tap_io(|connection| {
        // Answers are small: waiting to fill a packet only delays them. A connection that is gone already does not mind.
        let _ = connection.set_nodelay(true);
    });
    until_drained(shutdown, |ending| axum::serve(listener, router).with_graceful_shutdown(ending.begun()).into_future()).await
}
