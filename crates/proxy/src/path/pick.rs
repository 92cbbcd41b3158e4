//! pick and connect: who takes the next attempt, and a connection there, pooled or new.

use std::rc::Rc;
use std::time::Instant;

use lorica_model::reason::Reason;
use lorica_model::snapshot::{Connections, Transport};
use lorica_observe::metrics::OwnMetric;
use tokio::task::spawn_local;

use super::connect::{self, Connected, NotConnected};
use super::mtls::Negotiated;
use super::way::{To, Way};
use crate::endpoints::{Active, NoPick, Wanted};
use crate::pool::{Destination, Facts, Keeping, Key, Lease, Reuse, StreamKind, Upstream};
use crate::stream::Stream;
use crate::view::Reach;
use crate::wire::{Http1Client, Http2Client};
use crate::worker::Worker;

/// Who takes an attempt.
pub struct Picked {
    /// The connection to it.
    pub lease: Lease,
    /// The endpoint, which counts the attempt as load; none for the app beside the proxy.
    pub active: Option<Active>,
}

/// The endpoints that took the attempts so far, by their numbers.
pub type Tried = smallvec::SmallVec<[u64; 4]>;

/// Who takes the next attempt, those `tried` left out while others are there; it is added to them. `reuse`: on which of the connections that
/// are there.
///
/// # Errors
/// Where nobody takes it.
pub async fn pick(worker: &Rc<Worker>, way: &Way, tried: &mut Tried, reuse: Reuse, now: Instant) -> Result<Picked, NotConnected> {
    match &way.to {
        To::Endpoints(reach) => {
            let (reach, active) = choose(worker, reach, way.wanted(tried), now)?;
            tried.push(active.live.id);
            match endpoint(worker, reach, &active, way.protocol, reuse, now).await {
                Ok(lease) => Ok(Picked { lease, active: Some(active) }),
                Err(error) => {
                    active.failed(Instant::now());
                    Err(error)
                }
            }
        }
        To::App { port, caller } => {
            let key = Key { to: Destination::App { port: *port, caller: *caller }, protocol: way.protocol };
            if let Some(lease) = worker.pool.ready(&key, reuse, now) {
                return Ok(Picked { lease, active: None });
            }
            let tcp = worker
                .app
                .connect(*port, *caller)
                .await
                .map_err(|error| NotConnected::new(Reason::ConnectFailed, format!("the app's port {port}: {error}")))?;
            let facts = Facts { peer: None, remote: tcp.peer_addr().ok(), party: None };
            let keeping = worker.pool.keeping(Connections::default(), Some(Upstream::App(*port)));
            let lease = take(worker, key, Stream::Plain(tcp), keeping, facts);
            Ok(Picked { lease, active: None })
        }
    }
}

/// The endpoint that takes a call to a service port, and how that is reached.
///
/// # Errors
/// Where there is none, or the one that is has as many calls as it may.
pub fn choose<'r>(worker: &Worker, reach: &'r Reach, wanted: Wanted<'_>, now: Instant) -> Result<(&'r Reach, Active), NotConnected> {
    let port = &reach.unit.cluster.port;
    let picked = reach.pick(wanted, now, fastrand::f64).map_err(|none| match none {
        NoPick::None => NotConnected::new(Reason::NoEndpoint, format!("{port} has no endpoint left to try")),
        NoPick::Full => NotConnected::new(Reason::Overflow, format!("{port} has too many requests under way")),
    })?;
    if picked.1.panic {
        worker.telemetry.metrics.count(OwnMetric::PANIC_PICKS, "", 1);
    }
    Ok(picked)
}

/// A connection to an endpoint, pooled or new.
///
/// # Errors
/// Where there is none.
pub async fn endpoint(
    worker: &Rc<Worker>,
    reach: &Reach,
    active: &Active,
    protocol: Negotiated,
    reuse: Reuse,
    now: Instant,
) -> Result<Lease, NotConnected> {
    let endpoint = &active.live.endpoint;
    let epoch = match endpoint.transport {
        Transport::Plaintext => None,
        Transport::MutualTls | Transport::Lorica => {
            Some(worker.epoch().ok_or_else(|| NotConnected::new(Reason::UpstreamTls, worker.source.without_svid()))?)
        }
    };
    let to = Destination::Endpoint {
        id: active.live.id,
        epoch: epoch.as_ref().map_or(0, |epoch| epoch.number()),
        accepted: reach.accepted_number,
    };
    let key = Key { to, protocol };
    if let Some(lease) = worker.pool.ready(&key, reuse, now) {
        return Ok(lease);
    }
    let cluster = &reach.unit.cluster;
    let connections = cluster.traffic.connections;
    if protocol == Negotiated::Http1 && endpoint.transport == Transport::Lorica {
        let (stream, facts) = stream(worker, reach, active, StreamKind::Http1).await?;
        return Ok(take(worker, key, stream, worker.pool.keeping(connections, None), facts));
    }
    let turn = worker.pool.turn(&key).await;
    if turn.is_some()
        && let Some(lease) = worker.pool.ready(&key, reuse, Instant::now())
    {
        return Ok(lease);
    }
    let tls = epoch.as_deref().map(|epoch| (epoch, worker.client_config(epoch, reach, Some(protocol))));
    let Connected { stream, peer } = connect::connect(reach, endpoint, tls, Some(protocol)).await?;
    let party = worker.parties.callee(active.live.id, endpoint, peer.as_deref());
    let keeping = worker.pool.keeping(connections, Some(Upstream::Port(cluster.port.clone())));
    Ok(take(worker, key, stream, keeping, Facts { peer, remote: Some(endpoint.address), party: Some(party) }))
}

/// Opens a stream to a Lorica proxy, on a connection that is there or a new one.
///
/// # Errors
/// Where there is no connection, or it takes no stream.
pub async fn stream(worker: &Rc<Worker>, reach: &Reach, active: &Active, kind: StreamKind) -> Result<(Stream, Facts), NotConnected> {
    // Boxed, as the way to a connection for HTTP/1 leads over one for HTTP/2.
    let lease = Box::pin(endpoint(worker, reach, active, Negotiated::Http2, Reuse::Any, Instant::now())).await?;
    let facts = lease.facts.clone();
    let stream = lease.carry(kind, &reach.unit.cluster.server.sni()).await;
    Ok((stream.map_err(|error| NotConnected::new(Reason::ConnectFailed, error.to_string()))?, facts))
}

/// Takes a new connection into the pool.
fn take(worker: &Rc<Worker>, key: Key, stream: Stream, keeping: Keeping, facts: Facts) -> Lease {
    match key.protocol {
        Negotiated::Http1 => worker.pool.add_http1(key, Http1Client::new(stream), keeping, facts),
        Negotiated::Http2 => {
            let (client, driver) = Http2Client::start(stream);
            spawn_local(driver);
            worker.pool.add_http2(key, client, &keeping, facts)
        }
    }
}
