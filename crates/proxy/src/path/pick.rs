//! pick and connect: who takes the next attempt, and a connection there, pooled or new.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use lorica_identity::AcceptedIdentities;
use lorica_model::reason::Reason;
use lorica_model::snapshot::{Cluster, OutboundUnit, Transport};
use tokio::task::spawn_local;

use super::connect::{self, Connected, NotConnected};
use super::mtls::Negotiated;
use super::way::{To, Way};
use crate::endpoints::{Active, NoPick};
use crate::pool::{Destination, Facts, Key, Lease};
use crate::stream::Stream;
use crate::wire::{Http1Client, Http2Client};
use crate::worker::Worker;

/// Who takes an attempt.
pub struct Picked {
    /// The connection to it.
    pub lease: Lease,
    /// The endpoint, which counts the attempt as load; none for the app beside the proxy.
    pub active: Option<Active>,
}

/// Who takes the next attempt, those `tried` left out while others are there; it is added to them.
///
/// # Errors
/// Where nobody takes it.
pub async fn pick(worker: &Rc<Worker>, way: &Way, tried: &mut Vec<u64>) -> Result<Picked, NotConnected> {
    match &way.to {
        To::Endpoints { unit, live } => {
            let cluster = &unit.cluster;
            let active = live.pick(tried, Instant::now(), fastrand::f64).map_err(|none| match none {
                NoPick::None => NotConnected::new(Reason::NoEndpoint, format!("{} has no endpoint left to try", cluster.port)),
                NoPick::Full => NotConnected::new(Reason::Overflow, format!("{} has too many requests under way", cluster.port)),
            })?;
            tried.push(active.live.id);
            match endpoint(worker, unit, &active, way.protocol).await {
                Ok(lease) => Ok(Picked { lease, active: Some(active) }),
                Err(error) => {
                    active.failed(Instant::now());
                    Err(error)
                }
            }
        }
        To::App { port, caller } => {
            let key = Key { to: Destination::App { port: *port, caller: *caller }, protocol: way.protocol };
            if let Some(lease) = worker.pool.ready(&key) {
                return Ok(Picked { lease, active: None });
            }
            let tcp = worker
                .app
                .connect(*port, *caller)
                .await
                .map_err(|error| NotConnected::new(Reason::ConnectFailed, format!("the app's port {port}: {error}")))?;
            let facts = Facts { peer: None, remote: tcp.peer_addr().ok() };
            let lease = take(worker, key, Stream::Plain(tcp), facts).await?;
            Ok(Picked { lease, active: None })
        }
    }
}

async fn endpoint(worker: &Rc<Worker>, unit: &Arc<OutboundUnit>, active: &Active, protocol: Negotiated) -> Result<Lease, NotConnected> {
    let endpoint = &active.live.endpoint;
    let epoch = match endpoint.transport {
        Transport::Plaintext => None,
        Transport::MutualTls => Some(worker.epoch().ok_or_else(|| NotConnected::new(Reason::UpstreamTls, "this proxy has no SVID yet"))?),
    };
    let cluster = &unit.cluster;
    let accepted = worker.accepted(unit);
    let to = Destination::Endpoint { id: active.live.id, epoch: epoch.as_ref().map_or(0, |epoch| epoch.number()), accepted };
    let key = Key { to, protocol };
    if let Some(lease) = worker.pool.ready(&key) {
        return Ok(lease);
    }
    let turn = worker.pool.turn(&key).await;
    if turn.is_some()
        && let Some(lease) = worker.pool.ready(&key)
    {
        return Ok(lease);
    }
    let tls = epoch.as_deref().map(|epoch| (epoch, worker.client_config(epoch, unit, Some(protocol))));
    let Connected { stream, peer } = connect::connect(cluster, endpoint, tls, Some(protocol)).await?;
    take(worker, key, stream, Facts { peer, remote: Some(endpoint.address) }).await
}

/// Takes a new connection into the pool.
async fn take(worker: &Rc<Worker>, key: Key, stream: Stream, facts: Facts) -> Result<Lease, NotConnected> {
    match key.protocol {
        Negotiated::Http1 => Ok(worker.pool.add_http1(key, Http1Client::new(stream), facts)),
        Negotiated::Http2 => {
            let (client, driver) = Http2Client::start(stream);
            spawn_local(driver);
            Ok(worker.pool.add_http2(key, client, facts))
        }
    }
}

/// The identities that a cluster's endpoints may prove, in the form that TLS wants.
#[must_use]
pub fn accepted(cluster: &Cluster) -> AcceptedIdentities {
    AcceptedIdentities::new(cluster.accepted.iter().cloned())
}
