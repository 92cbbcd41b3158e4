//! tcp: a connection whose bytes are not looked at, from its first to its last.

use std::net::IpAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use lorica_model::reason::Reason;
use lorica_model::snapshot::{Origin, Transport, hash};

use super::accept::Boxed;
use super::authenticate;
use super::authorize;
use super::caller::{Caller, Entry};
use super::connect::{self, Connected, NotConnected};
use super::fault;
use super::pick::{self, Ready, Tried};
use super::record::ConnectionRecord;
use super::relay::{Read, relay, relay_at};
use crate::config::MAX_ATTEMPTS;
use crate::endpoints::{Active, Wanted};
use crate::pool::{ConnectionPlaces, StreamKind};
use crate::stream::Stream;
use crate::view::Reach;
use crate::worker::Worker;

/// How long a relayed connection may be silent: Envoy's default for TCP, as databases and message queues keep connections for long.
pub const TCP_IDLE: Duration = Duration::from_secs(3600);

/// A connection to an endpoint, which counts as its load.
pub struct Upstream {
    /// The connection.
    pub stream: Stream,
    /// Who is at its other end.
    pub peer: Option<Arc<lorica_identity::PeerIdentity>>,
    /// The endpoint.
    pub active: Active,
    /// Its place among the connections that a limit allows.
    _places: Option<Arc<ConnectionPlaces>>,
}

/// What detection brought along: a connection made ahead, and what was read from it.
pub struct Early {
    /// The connection, if it is settled already.
    pub upstream: Option<Result<Upstream, NotConnected>>,
    /// What the upstream sent.
    pub answered: Bytes,
}

/// Connects to an endpoint of a service port, trying others where one cannot be reached: nothing was sent yet. Where a hash decides on the endpoint, it
/// is that of the address that the connection came from, the only thing known of it.
pub async fn connect(worker: &Rc<Worker>, called: &Reach, source: IpAddr) -> Result<Upstream, NotConnected> {
    let mut tried = Tried::new();
    let hash = called.live.by_hash().then(|| hash::source(source));
    loop {
        let places = pick::tcp_places(worker, called).await?;
        let Ready { active, at } = pick::ready(worker, called, Wanted { tried: &tried, hash, stay: None }, Instant::now()).await?;
        let reach = at.reach(called);
        tried.push(active.live.id);
        let endpoint = &active.live.endpoint;
        let connected = if endpoint.transport == Transport::Lorica {
            let opened = pick::stream(worker, reach, &active, StreamKind::Tcp).await;
            opened.map(|(stream, facts)| Connected { stream, peer: facts.peer, local: facts.local })
        } else {
            let epoch = worker.epoch().filter(|_| endpoint.transport == Transport::MutualTls);
            let tls = epoch.as_deref().map(|epoch| (epoch, worker.client_config(epoch, reach, None)));
            connect::connect(worker, reach, endpoint, tls, None).await
        };
        match connected {
            Ok(Connected { stream, peer, local: _local }) => {
                active.connected(Instant::now());
                return Ok(Upstream { stream, peer, active, _places: places });
            }
            Err(error) => {
                active.failed(error.reason, Instant::now());
                tracing::debug!(endpoint = %endpoint.address, %error, "an endpoint could not be connected to");
                if called.is_exhausted(&tried) || tried.len() >= MAX_ATTEMPTS as usize {
                    return Err(error);
                }
            }
        }
    }
}

/// A connection that came to a gateway, to where a route leads.
pub fn gateway<'a>(
    worker: &'a Rc<Worker>,
    caller: &'a Caller,
    mut stream: Stream,
    sent: Bytes,
    reach: &'a Reach,
    origin: &'a Arc<Origin>,
) -> Boxed<'a> {
    Box::pin(async move {
        let mut record = ConnectionRecord::begin(worker, caller);
        record.route(origin, &reach.unit.port);
        let pace = match fault::connection(worker, caller, &reach.unit.faults, &mut record).await {
            Ok(pace) => pace,
            Err(by) => {
                record.fail(Reason::FaultInjected, by);
                return stream.reset_on_close();
            }
        };
        match connect(worker, reach, caller.remote.ip()).await {
            Ok(upstream) => {
                record.upstream(upstream.active.live.id, &upstream.active.live.endpoint, upstream.peer.as_deref());
                let read = Read { client: sent, upstream: Bytes::new() };
                let relayed = {
                    let relaying = pin!(worker.until_ended(relay_at(pace, &mut stream, upstream.stream, read, Some(TCP_IDLE))));
                    authorize::relay_while_allowed(worker, caller, relaying).await
                };
                match relayed {
                    Ok(relayed) => record.end(relayed),
                    Err(denied) => {
                        record.fail(denied.reason, denied.detail);
                        stream.reset_on_close();
                    }
                }
            }
            Err(error) => {
                record.fail(error.reason, error.detail);
                stream.reset_on_close();
            }
        }
    })
}

/// The app's connection to a service port.
pub fn outbound<'a>(
    worker: &'a Rc<Worker>,
    caller: &'a Caller,
    mut stream: Stream,
    sent: Bytes,
    reach: &'a Reach,
    early: Option<Early>,
) -> Boxed<'a> {
    Box::pin(async move {
        let mut record = ConnectionRecord::begin(worker, caller);
        let pace = match fault::connection(worker, caller, &reach.unit.faults, &mut record).await {
            Ok(pace) => pace,
            Err(by) => {
                record.fail(Reason::FaultInjected, by);
                return stream.reset_on_close();
            }
        };
        let (upstream, answered) = match early {
            Some(Early { upstream: Some(upstream), answered }) => (upstream, answered),
            _ => (connect(worker, reach, caller.remote.ip()).await, Bytes::new()),
        };
        match upstream {
            Ok(upstream) => {
                record.upstream(upstream.active.live.id, &upstream.active.live.endpoint, upstream.peer.as_deref());
                let read = Read { client: sent, upstream: answered };
                let relayed = worker.until_ended(relay_at(pace, &mut stream, upstream.stream, read, Some(TCP_IDLE))).await;
                record.end(relayed);
            }
            Err(error) => {
                record.fail(error.reason, error.detail);
                stream.reset_on_close();
            }
        }
    })
}

/// A caller's connection to the app.
pub fn inbound<'a>(worker: &'a Rc<Worker>, caller: &'a Caller, mut stream: Stream, sent: Bytes) -> Boxed<'a> {
    Box::pin(async move {
        let mut record = ConnectionRecord::begin(worker, caller);
        let Entry::Inbound { port, .. } = &caller.entry else { return };
        let admitted = authenticate::connection(worker, caller).and_then(|()| authorize::connection(worker, caller));
        if let Err(failure) = admitted {
            record.fail(failure.reason, failure.detail);
            return stream.reset_on_close();
        }
        match worker.app.connect(port.app_port, caller.virtual_address()).await {
            Ok(mut app) => {
                record.app(&app);
                let read = Read { client: sent, upstream: Bytes::new() };
                let relayed = {
                    let relaying = pin!(worker.until_ended(relay(&mut stream, &mut app, read, Some(TCP_IDLE))));
                    authorize::relay_while_allowed(worker, caller, relaying).await
                };
                match relayed {
                    Ok(relayed) => record.end(relayed),
                    Err(denied) => {
                        record.fail(denied.reason, denied.detail);
                        stream.reset_on_close();
                    }
                }
            }
            Err(error) => {
                record.fail(Reason::ConnectFailed, error.to_string());
                stream.reset_on_close();
            }
        }
    })
}
