//! pick and connect: who takes the next attempt, and a connection there, pooled or new.

use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lorica_model::head::ResponseHead;
use lorica_model::reason::Reason;
use lorica_model::snapshot::Transport;
use lorica_observe::metrics::OwnMetric;
use tokio::sync::OwnedMutexGuard;
use tokio::task::spawn_local;
use tokio::time::sleep_until;

use super::connect::{self, Connected, NotConnected};
use super::failure::Failure;
use super::mtls::Negotiated;
use super::way::{To, Way};
use crate::endpoints::limits::{Overflow, PendingGuard, RequestGuard};
use crate::endpoints::places::{Place, Places};
use crate::endpoints::{Active, LiveSet, NoPick, judged_status};
use crate::pool::{ConnectionPlaces, Destination, Facts, Key, Lease, StreamKind};
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
    /// What it counts as among the requests of its service port.
    request: Option<RequestGuard>,
    /// Its place among the connections in use, where these are limited.
    _used: Option<Place>,
}

impl Picked {
    /// Tells that there is an answer.
    pub fn answered(&self, response: &ResponseHead, now: Instant) {
        let Some(active) = &self.active else { return };
        let grpc_status = response.fields.get_str("grpc-status").and_then(|status| status.parse().ok());
        let status = judged_status(response.status, grpc_status);
        active.answered(now, status);
        if let Some(request) = &self.request {
            request.answered(status, now);
        }
    }

    /// Tells that there is none, or that it broke off.
    pub fn failed(&self, failure: &Failure, now: Instant) {
        let Some(active) = &self.active else { return };
        active.failed(now, failure.reason);
        if let Some(request) = self.request.as_ref().filter(|_| failure.reason == Reason::RequestTimeout) {
            request.timed_out(now);
        }
    }
}

/// The endpoints that took the attempts so far, by their numbers.
pub type Tried = smallvec::SmallVec<[u64; 4]>;

/// Who takes the next attempt, those `tried` left out while others are there; it is added to them.
///
/// # Errors
/// Where nobody takes it.
pub async fn pick(worker: &Rc<Worker>, way: &Way, tried: &mut Tried, now: Instant) -> Result<Picked, NotConnected> {
    match &way.to {
        To::Endpoints(reach) => {
            let used = match way.protocol {
                Negotiated::Http1 if is_limited(&reach.live) => Some(used(worker, reach).await?),
                // A connection of HTTP/2 is in use for as long as it is open.
                _ => None,
            };
            let Ready { active, reach: newer } = ready(worker, reach, tried, now).await?;
            let reach = newer.as_ref().unwrap_or(reach);
            let now = if used.is_some() || newer.is_some() { Instant::now() } else { now };
            tried.push(active.live.id);
            let mut request = reach.live.begin_request(now).map_err(|overflow| overflown(worker, reach, overflow))?;
            let lease = match endpoint(worker, reach, &active, way.protocol, now).await {
                Ok(lease) => lease,
                Err(error) => {
                    active.failed(Instant::now(), error.reason);
                    return Err(error);
                }
            };
            if !lease.has_room() {
                drop(request);
                let waiting = pending(worker, reach, "connection")?;
                let room = lease.room().await;
                drop(waiting);
                room.map_err(|error| NotConnected::new(Reason::ConnectFailed, error.to_string()))?;
                request = reach.live.begin_request(Instant::now()).map_err(|overflow| overflown(worker, reach, overflow))?;
            }
            Ok(Picked { lease, active: Some(active), request: Some(request), _used: used })
        }
        To::App { port, caller } => {
            let key = Key { to: Destination::App { port: *port, caller: *caller }, protocol: way.protocol };
            if let Some(lease) = worker.pool.ready(&key, now) {
                return Ok(Picked { lease, active: None, request: None, _used: None });
            }
            let tcp = worker
                .app
                .connect(*port, *caller)
                .await
                .map_err(|error| NotConnected::new(Reason::ConnectFailed, format!("the app's port {port}: {error}")))?;
            let facts = Facts { remote: tcp.peer_addr().ok(), ..Facts::default() };
            let lease = take(worker, key, Stream::Plain(tcp), facts).await?;
            Ok(Picked { lease, active: None, request: None, _used: None })
        }
    }
}

/// An endpoint that takes a call.
pub struct Ready {
    /// The endpoint.
    pub active: Active,
    /// How its service port is reached now, where that changed while an endpoint was waited for.
    pub reach: Option<Arc<Reach>>,
}

/// An endpoint that takes a call, those `tried` left out. Where none is ready, it is waited for, but not in vain by more than one after the
/// other.
///
/// # Errors
/// Where nobody takes it.
pub async fn ready(worker: &Worker, reach: &Reach, tried: &[u64], now: Instant) -> Result<Ready, NotConnected> {
    let port = &reach.unit.port;
    match reach.live.pick(tried, now, fastrand::f64) {
        Ok(active) => {
            reach.live.shared().queue.found();
            return Ok(Ready { active, reach: None });
        }
        Err(NoPick::Full) => return Err(NotConnected::new(Reason::Overflow, format!("{port} has too many requests under way"))),
        Err(NoPick::None) if !tried.is_empty() => {
            return Err(NotConnected::new(Reason::NoEndpoint, format!("{port} has no endpoint left to try")));
        }
        Err(NoPick::None) => {}
    }
    let queue_timeout = reach.live.traffic().limits.queue_timeout;
    let mut waiting = None;
    let mut views = worker.views.clone();
    let until = now + queue_timeout;
    loop {
        let view = views.borrow_and_update().clone();
        let newest = view.reach(port).cloned();
        let live = newest.as_ref().map_or(&reach.live, |newest| &newest.live);
        let queue = &live.shared().queue;
        // Before the look at the endpoints: whatever changes after it is told.
        let mut changed = pin!(queue.may_be_ready());
        changed.as_mut().enable();
        match live.pick(&[], Instant::now(), fastrand::f64) {
            Ok(active) => {
                queue.found();
                return Ok(Ready { active, reach: newest.clone() });
            }
            Err(NoPick::Full) => return Err(NotConnected::new(Reason::Overflow, format!("{port} has too many requests under way"))),
            Err(NoPick::None) if queue.fails_fast() => {
                let detail = format!("no endpoint of {port} is ready, and another request has waited {queue_timeout:?} in vain");
                return Err(NotConnected::new(Reason::NoEndpoint, detail));
            }
            Err(NoPick::None) => {}
        }
        if waiting.is_none() {
            waiting = Some(pending(worker, reach, "endpoint")?);
        }
        tokio::select! {
            () = changed => {}
            changed = views.changed() => if changed.is_err() {
                return Err(NotConnected::new(Reason::Draining, ""));
            },
            () = sleep_until(until.into()) => {
                queue.in_vain();
                let detail = format!("no endpoint of {port} became ready within limits.queueTimeout: {queue_timeout:?}");
                return Err(NotConnected::new(Reason::NoEndpoint, detail));
            }
        }
    }
}

/// Whether there are only so many connections to a service port.
fn is_limited(live: &LiveSet) -> bool {
    live.traffic().limits.connections.is_some()
}

/// A request waits.
fn pending(worker: &Worker, reach: &Reach, what_for: &'static str) -> Result<PendingGuard, NotConnected> {
    let waiting = reach.live.begin_pending().map_err(|overflow| overflown(worker, reach, overflow))?;
    worker.telemetry.metrics.count(OwnMetric::PENDING, what_for, 1);
    Ok(waiting)
}

/// A limit is reached.
fn overflown(worker: &Worker, reach: &Reach, overflow: Overflow) -> NotConnected {
    worker.telemetry.metrics.count(OwnMetric::LIMITS_REACHED, overflow.word(), 1);
    NotConnected::new(overflow.reason(), format!("{}: {overflow}", reach.unit.port))
}

/// A place among the connections in use, behind those who wait for one already.
async fn used(worker: &Worker, reach: &Reach) -> Result<Place, NotConnected> {
    let used = &reach.live.shared().under_way.used;
    if let Some(place) = used.try_take() {
        return Ok(place);
    }
    let _waiting = pending(worker, reach, "connection")?;
    Ok(place(worker, used).await)
}

/// A place. Where none is free, what is kept idle on this worker makes room, then what others keep.
async fn place(worker: &Worker, places: &Arc<Places>) -> Place {
    if let Some(place) = places.try_take() {
        return place;
    }
    let mut place = pin!(places.take());
    tokio::select! {
        biased;
        place = &mut place => return place,
        () = std::future::ready(()) => worker.pool.give_up(),
    }
    tokio::select! {
        biased;
        place = &mut place => return place,
        () = std::future::ready(()) => worker.view().shared.want_idle(),
    }
    place.await
}

/// The places of a new connection, which is in use for as long as it is open where it holds one of those in use.
async fn places(worker: &Worker, reach: &Reach, used: Option<Place>) -> Arc<ConnectionPlaces> {
    Arc::new(ConnectionPlaces { open: place(worker, &reach.live.shared().under_way.open).await, used })
}

/// The places of a TCP connection, where connections are limited.
///
/// # Errors
/// Where as many wait as may.
pub async fn tcp_places(worker: &Worker, reach: &Reach) -> Result<Option<Arc<ConnectionPlaces>>, NotConnected> {
    if !is_limited(&reach.live) {
        return Ok(None);
    }
    let used = used(worker, reach).await?;
    Ok(Some(places(worker, reach, Some(used)).await))
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
    now: Instant,
) -> Result<Lease, NotConnected> {
    let limited = is_limited(&reach.live);
    connection(worker, reach, active, protocol, limited, now).await
}

/// The same beside all limits, for health checks.
///
/// # Errors
/// Where there is none.
pub async fn beside_limits(worker: &Rc<Worker>, reach: &Reach, active: &Active, protocol: Negotiated) -> Result<Lease, NotConnected> {
    connection(worker, reach, active, protocol, false, Instant::now()).await
}

/// The same, `limited` or beside the limit.
async fn connection(
    worker: &Rc<Worker>,
    reach: &Reach,
    active: &Active,
    protocol: Negotiated,
    limited: bool,
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
    if let Some(lease) = worker.pool.ready(&key, now) {
        return Ok(lease);
    }
    if protocol == Negotiated::Http1 && endpoint.transport == Transport::Lorica {
        // What the app sees as a connection counts as one; the one that carries it does not.
        let places = if limited { Some(places(worker, reach, None).await) } else { None };
        let (stream, facts) = stream(worker, reach, active, StreamKind::Http1).await?;
        return take(worker, key, stream, Facts { places, ..facts }).await;
    }
    let turn = turn(worker, reach, &key, limited).await?;
    if turn.is_some()
        && let Some(lease) = worker.pool.ready(&key, Instant::now())
    {
        return Ok(lease);
    }
    let places = match protocol {
        _ if !limited => None,
        Negotiated::Http1 => Some(places(worker, reach, None).await),
        Negotiated::Http2 => {
            let all = &reach.live.shared().under_way.used;
            let used = match (all.try_take(), worker.pool.share(&key, true, Instant::now())) {
                (Some(used), _) => used,
                // Where there may be no other connection, one that is full will have room again.
                (None, Some(lease)) => return Ok(lease),
                (None, None) => used(worker, reach).await?,
            };
            Some(places(worker, reach, Some(used)).await)
        }
    };
    let tls = epoch.as_deref().map(|epoch| (epoch, worker.client_config(epoch, reach, Some(protocol))));
    let Connected { stream, peer } = connect::connect(reach, endpoint, tls, Some(protocol)).await?;
    let party = worker.parties.callee(active.live.id, endpoint, peer.as_deref());
    let until = reach.live.traffic().connections.max_age.map(|most| Instant::now() + age(most, fastrand::f64()));
    take(worker, key, stream, Facts { peer, remote: Some(endpoint.address), party: Some(party), until, places }).await
}

/// The turn to connect; who comes while another connects waits, and counts so where connections are limited.
async fn turn(worker: &Worker, reach: &Reach, key: &Key, limited: bool) -> Result<Option<OwnedMutexGuard<()>>, NotConnected> {
    let mut turn = pin!(worker.pool.turn(key));
    tokio::select! {
        biased;
        turn = &mut turn => return Ok(turn),
        () = std::future::ready(()), if limited => {}
    }
    let _waiting = pending(worker, reach, "connection")?;
    Ok(turn.await)
}

/// How old a connection becomes: up to a tenth less than it may, so that those made together do not end together. `random` is uniform in 0..1.
fn age(most: Duration, random: f64) -> Duration {
    most.mul_f64(1.0 - random / 10.0)
}

/// Opens a stream to a Lorica proxy, on a connection that is there or a new one.
///
/// # Errors
/// Where there is no connection, or it takes no stream.
pub async fn stream(worker: &Rc<Worker>, reach: &Reach, active: &Active, kind: StreamKind) -> Result<(Stream, Facts), NotConnected> {
    // Boxed, as the way to a connection for HTTP/1 leads over one for HTTP/2.
    let lease = Box::pin(connection(worker, reach, active, Negotiated::Http2, false, Instant::now())).await?;
    let facts = lease.facts.clone();
    let stream = lease.carry(kind, &reach.unit.cluster.server.sni()).await;
    Ok((stream.map_err(|error| NotConnected::new(Reason::ConnectFailed, error.to_string()))?, facts))
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
