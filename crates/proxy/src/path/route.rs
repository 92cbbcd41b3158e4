//! route: which service port a request or connection goes to. What was decided is the snapshot's; this waits for it.

use std::sync::Arc;

use lorica_model::name::ServicePort;
use lorica_model::reason::Reason;
use tokio::time::timeout;

use crate::config::CONFIGURATION_TIMEOUT;
use crate::view::Reach;
use crate::worker::Worker;

/// How a service port is reached; subscribed to and awaited if this proxy has not called it before.
///
/// # Errors
/// [`Reason::NoSuchPort`] where control plane or files say that there is none, [`Reason::NoConfiguration`] where it says nothing in time.
pub async fn reach(worker: &Worker, port: &ServicePort) -> Result<Arc<Reach>, Reason> {
    if let Some(reach) = worker.view().reach(port) {
        return Ok(reach.clone());
    }
    if !worker.source.want(port) {
        return Err(Reason::NoSuchPort);
    }
    let mut views = worker.views.clone();
    let arrived = views.wait_for(|view| view.snapshot.outbound.contains_key(port) || view.snapshot.absent.contains(port));
    match timeout(CONFIGURATION_TIMEOUT, arrived).await {
        Ok(Ok(view)) => {
            // The endpoints came with the unit: what follows must see both.
            worker.catch_up(&view);
            view.reach(port).cloned().ok_or(Reason::NoSuchPort)
        }
        Ok(Err(_)) | Err(_) => Err(Reason::NoConfiguration),
    }
}
