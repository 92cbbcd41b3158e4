//! pick and connect: who takes the next attempt, and a connection there, pooled or new.

use std::cell::{Cell, RefCell};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lorica_identity::TlsEpoch;
use lorica_model::head::ResponseHead;
use lorica_model::reason::{Reason, Side};
use lorica_model::snapshot::{Connections, Transport};
use lorica_observe::metrics::OwnMetric;
use tokio::sync::OwnedMutexGuard;
use tokio::task::spawn_local;
use tokio::time::sleep_until;

use super::connect::{self, Connected, NotConnected};
use super::failure::Failure;
use super::mtls::Negotiated;
use super::retry::{Terms, retry_after};
use super::way::{To, Way};
use crate::diagnostics::full::Full;
use crate::endpoints::limits::{Overflow, PendingGuard, RequestGuard};
use crate::endpoints::places::{Place, Places};
use crate::endpoints::{Active, LiveSet, NoPick, Wanted, judged_status};
use crate::pool::{ConnectionPlaces, Destination, Facts, Keeping, Key, Lease, Reuse, StreamKind, Upstream};
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
        let wait = if status < 400 { None } else { retry_after(response) };
        active.answered(status, wait, now);
        if let Some(request) = &self.request {
            request.answered(status, now);
        }
    }

    /// Tells that another endpoint answered before.
    pub fn outrun(&self, now: Instant) {
        if let Some(active) = &self.active {
            active.outrun(now);
        }
    }

    /// What follows from a failure of its attempt: for it, for attempts after, and for the request of these `terms`.
    #[must_use]
    pub fn failed(&self, failure: Failure, earlier: &Earlier, terms: Terms<'_>) -> Failure {
        if self.lease.reused && !failure.answered && failure.reason == Reason::UpstreamClosed {
            // A kept connection that broke says little of its endpoint: a new one there may do.
            self.lease.was_closed();
            earlier.reuse.set(Reuse::No);
            if let Some(active) = &self.active {
                earlier.tried.borrow_mut().retain(|tried| *tried != active.live.id);
            }
            // Its upstream may have closed it before the request arrived; where that is not certain, only what may be repeated is.
            return Failure { stale: failure.unsent || (failure.reset && terms.is_repeatable), ..failure };
        }
        // An answer that is given up was told of as an answer.
        if failure.again.is_none() {
            self.ended(failure.reason, Instant::now());
        }
        failure
    }

    /// Tells that there is no answer, or that it broke off. What its caller did speaks for nobody and against nobody.
    pub fn ended(&self, reason: Reason, now: Instant) {
        let Some(active) = self.active.as_ref().filter(|_| reason.meaning().side != Side::Client) else { return };
        active.failed(reason, now);
        if let Some(request) = self.request.as_ref().filter(|_| reason == Reason::RequestTimeout) {
            request.timed_out(now);
        }
    }
}

/// The endpoints that took the attempts so far, by their numbers.
pub type Tried = smallvec::SmallVec<[u64; 4]>;

/// What the attempts of one request know of each other, whether one follows another or is made beside it.
pub struct Earlier {
    tried: RefCell<Tried>,
    reuse: Cell<Reuse>,
}

impl Earlier {
    /// There was none. `reuse`: which of the connections that are there the first may have.
    #[must_use]
    pub fn none(reuse: Reuse) -> Self {
        Self { tried: RefCell::default(), reuse: Cell::new(reuse) }
    }

    /// Whether `way` has an endpoint that took none of them.
    #[must_use]
    pub fn leave_others(&self, way: &Way) -> bool {
        !way.is_exhausted(&self.tried.borrow())
    }

    /// Records how the endpoints of `way` stand before one of them takes the next.
    pub fn survey(&self, way: &Way, full: &mut Full, now: Instant) {
        let reach = if let To::Endpoints(reach) = &way.to { Some(&**reach) } else { None };
        full.attempt(reach, &self.tried.borrow(), now);
    }

    /// Those that took them may take the next as well.
    pub fn forget_tried(&self) {
        self.tried.borrow_mut().clear();
    }
}

/// Who takes the next attempt: while others are there, none that took an `earlier` one. It is added to these.
///
/// # Errors
/// Where nobody takes it.
pub async fn pick(worker: &Rc<Worker>, way: &Way, earlier: &Earlier, now: Instant) -> Result<Picked, NotConnected> {
    let reuse = earlier.reuse.get();
    match &way.to {
        To::Endpoints(called) => {
            let limited = is_limited(&called.live);
            let used = match way.protocol {
                // Boxed, as all that hardly any attempt does: it takes no room in others.
                Negotiated::Http1 if limited => Some(Box::pin(used(worker, called)).await?),
                // A connection of HTTP/2 is in use for as long as it is open.
                _ => None,
            };
            let ready = ready_now(worker, called, way.wanted(&earlier.tried.borrow()), now)?;
            let Ready { active, at } = match ready {
                Some(ready) => ready,
                None => Box::pin(queued(worker, called, way.wanted(&[]), now)).await?,
            };
            let reach = at.reach(called);
            let now = if used.is_some() || at.is_newer() { Instant::now() } else { now };
            earlier.tried.borrow_mut().push(active.live.id);
            let mut request = reach.live.begin_request(now).map_err(|overflow| overflown(worker, reach, overflow))?;
            let failed = |error: &NotConnected| active.failed(error.reason, Instant::now());
            let wanted = WantedConnection::to(worker, reach, &active, way.protocol).inspect_err(failed)?;
            let lease = match worker.pool.ready(&wanted.key, reuse, now) {
                Some(lease) => lease,
                None => Box::pin(connected(worker, reach, &active, wanted, reuse, is_limited(&reach.live))).await.inspect_err(failed)?,
            };
            if !lease.has_room() {
                drop(request);
                let waiting = pending(worker, reach, "connection")?;
                let room = Box::pin(lease.room()).await;
                drop(waiting);
                room.map_err(|error| NotConnected::new(Reason::ConnectFailed, error.to_string()))?;
                request = reach.live.begin_request(Instant::now()).map_err(|overflow| overflown(worker, reach, overflow))?;
            }
            Ok(Picked { lease, active: Some(active), request: Some(request), _used: used })
        }
        To::App { port, caller } => {
            let key = Key { to: Destination::App { port: *port, caller: *caller }, protocol: way.protocol };
            if let Some(lease) = worker.pool.ready(&key, reuse, now) {
                return Ok(Picked { lease, active: None, request: None, _used: None });
            }
            let tcp = Box::pin(worker.app.connect(*port, *caller))
                .await
                .map_err(|error| NotConnected::new(Reason::ConnectFailed, format!("the app's port {port}: {error}")))?;
            let facts = Facts { remote: tcp.peer_addr().ok(), local: tcp.local_addr().ok(), ..Facts::default() };
            let keeping = worker.pool.keeping(Connections::default(), Some(Upstream::App(*port)));
            let lease = take(worker, key, Stream::Plain(tcp), keeping, facts);
            Ok(Picked { lease, active: None, request: None, _used: None })
        }
    }
}

/// The endpoint that takes a call to a service port now, and how that is reached.
///
/// # Errors
/// Where there is none, or the one that is has as many calls as it may.
pub fn choose<'r>(worker: &Worker, reach: &'r Reach, wanted: Wanted<'_>, now: Instant) -> Result<(&'r Reach, Active), NotConnected> {
    let (place, active) = try_choose(worker, reach, wanted, now)?.ok_or_else(|| none_left(reach))?;
    Ok((reach.at(place), active))
}

/// The same; `None` where there is none.
fn try_choose(worker: &Worker, reach: &Reach, wanted: Wanted<'_>, now: Instant) -> Result<Option<(usize, Active)>, NotConnected> {
    match reach.pick(wanted, now, fastrand::f64) {
        Ok((place, active)) => {
            if active.panic {
                worker.telemetry.metrics.count(OwnMetric::PANIC_PICKS, "", 1);
            }
            reach.live.shared().queue.found();
            Ok(Some((place, active)))
        }
        Err(NoPick::None) => Ok(None),
        Err(NoPick::Full) => {
            Err(NotConnected::new(Reason::Overflow, format!("{} has too many requests under way", reach.unit.cluster.port)))
        }
    }
}

fn none_left(reach: &Reach) -> NotConnected {
    NotConnected::new(Reason::NoEndpoint, format!("{} has no endpoint left to try", reach.unit.cluster.port))
}

/// An endpoint that takes a call.
pub struct Ready {
    /// The endpoint.
    pub active: Active,
    /// Of which service port it is.
    pub at: At,
}

/// Of which service port an endpoint is: of the one that was called, or one that takes over.
pub struct At {
    /// How the called one is reached now, where that changed while an endpoint was waited for.
    newer: Option<Arc<Reach>>,
    place: usize,
}

impl At {
    /// How the endpoint is reached, where this was called.
    #[must_use]
    pub fn reach<'r>(&'r self, called: &'r Reach) -> &'r Reach {
        self.newer.as_deref().unwrap_or(called).at(self.place)
    }

    /// Whether the endpoint was waited for.
    fn is_newer(&self) -> bool {
        self.newer.is_some()
    }
}

/// An endpoint that takes a call. Where none is ready, it is waited for, but not in vain by more than one after the other.
///
/// # Errors
/// Where nobody takes it.
pub async fn ready(worker: &Worker, called: &Reach, wanted: Wanted<'_>, now: Instant) -> Result<Ready, NotConnected> {
    match ready_now(worker, called, wanted, now)? {
        Some(ready) => Ok(ready),
        None => queued(worker, called, wanted, now).await,
    }
}

/// The same without waiting; `None` where it may be waited for, as nobody was tried yet.
fn ready_now(worker: &Worker, called: &Reach, wanted: Wanted<'_>, now: Instant) -> Result<Option<Ready>, NotConnected> {
    match try_choose(worker, called, wanted, now)? {
        Some((place, active)) => Ok(Some(Ready { active, at: At { newer: None, place } })),
        None if !wanted.tried.is_empty() => Err(none_left(called)),
        None => Ok(None),
    }
}

/// Waits for an endpoint.
async fn queued(worker: &Worker, called: &Reach, wanted: Wanted<'_>, now: Instant) -> Result<Ready, NotConnected> {
    let port = &called.unit.port;
    let queue = &called.live.shared().queue;
    let queue_timeout = called.live.traffic().limits.queue_timeout;
    let mut views = worker.views.clone();
    let mut waiting = None;
    loop {
        let newer = views.borrow_and_update().reach(port).cloned();
        // Before the look at the endpoints: whatever changes after it is told.
        let mut changed = pin!(queue.may_be_ready());
        changed.as_mut().enable();
        let reach = newer.as_deref().unwrap_or(called);
        if let Some((place, active)) = try_choose(worker, reach, wanted, Instant::now())? {
            return Ok(Ready { active, at: At { newer, place } });
        }
        if queue.fails_fast() {
            let detail = format!("no endpoint of {port} is ready, and another request has waited {queue_timeout:?} in vain");
            return Err(NotConnected::new(Reason::NoEndpoint, detail));
        }
        if waiting.is_none() {
            waiting = Some(pending(worker, called, "endpoint")?);
        }
        tokio::select! {
            () = changed => {}
            changed = views.changed() => if changed.is_err() {
                return Err(NotConnected::new(Reason::Draining, ""));
            },
            () = sleep_until((now + queue_timeout).into()) => {
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
        () = std::future::ready(()) => worker.view().vantage.shared.want_idle(),
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
    reuse: Reuse,
    now: Instant,
) -> Result<Lease, NotConnected> {
    let limited = is_limited(&reach.live);
    connection(worker, reach, active, protocol, reuse, limited, now).await
}

/// The same beside all limits, for health checks.
///
/// # Errors
/// Where there is none.
pub async fn beside_limits(
    worker: &Rc<Worker>,
    reach: &Reach,
    active: &Active,
    protocol: Negotiated,
    reuse: Reuse,
) -> Result<Lease, NotConnected> {
    connection(worker, reach, active, protocol, reuse, false, Instant::now()).await
}

/// What tells which connections may be had.
struct WantedConnection {
    key: Key,
    epoch: Option<Arc<TlsEpoch>>,
}

impl WantedConnection {
    fn to(worker: &Worker, reach: &Reach, active: &Active, protocol: Negotiated) -> Result<Self, NotConnected> {
        let epoch = match active.live.endpoint.transport {
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
        Ok(Self { key: Key { to, protocol }, epoch })
    }
}

/// The same, `limited` or beside the limit.
async fn connection(
    worker: &Rc<Worker>,
    reach: &Reach,
    active: &Active,
    protocol: Negotiated,
    reuse: Reuse,
    limited: bool,
    now: Instant,
) -> Result<Lease, NotConnected> {
    let wanted = WantedConnection::to(worker, reach, active, protocol)?;
    match worker.pool.ready(&wanted.key, reuse, now) {
        Some(lease) => Ok(lease),
        None => connected(worker, reach, active, wanted, reuse, limited).await,
    }
}

/// One that is made now, or was made while this one waited to.
async fn connected(
    worker: &Rc<Worker>,
    reach: &Reach,
    active: &Active,
    wanted: WantedConnection,
    reuse: Reuse,
    limited: bool,
) -> Result<Lease, NotConnected> {
    let (WantedConnection { key, epoch }, endpoint) = (wanted, &active.live.endpoint);
    let protocol = key.protocol;
    let cluster = &reach.unit.cluster;
    let connections = cluster.traffic.connections;
    let connections = Connections { max_age: connections.max_age.map(|most| age(most, fastrand::f64())), ..connections };
    if protocol == Negotiated::Http1 && endpoint.transport == Transport::Lorica {
        // What the app sees as a connection counts as one; the one that carries it does not.
        let places = if limited { Some(places(worker, reach, None).await) } else { None };
        let (stream, facts) = stream(worker, reach, active, StreamKind::Http1).await?;
        return Ok(take(worker, key, stream, worker.pool.keeping(connections, None), Facts { places, ..facts }));
    }
    let turn = turn(worker, reach, &key, limited).await?;
    if turn.is_some()
        && let Some(lease) = worker.pool.ready(&key, reuse, Instant::now())
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
    let Connected { stream, peer, local } = connect::connect(worker, reach, endpoint, tls, Some(protocol)).await?;
    let party = worker.parties.callee(active.live.id, endpoint, peer.as_deref());
    let keeping = worker.pool.keeping(connections, Some(Upstream::Port(cluster.port.clone())));
    Ok(take(worker, key, stream, keeping, Facts { peer, remote: Some(endpoint.address), local, party: Some(party), places }))
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
    let lease = Box::pin(connection(worker, reach, active, Negotiated::Http2, Reuse::Any, false, Instant::now())).await?;
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
