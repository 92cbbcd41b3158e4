//! Connections kept for the next request: idle ones of HTTP/1, shared ones of HTTP/2.
//!
//! A worker has its own pool. What is kept belongs to one destination, one TLS epoch and one protocol. Reusing an idle connection
//! while its server closes it is the best known source of 503s: so one is used only up to an age that its upstream surely leaves it
//! open for ([`Lifetime`]), and looked at once more when it is taken. A few older ones stay open, unused, so that it is seen when the
//! upstream closes them. Where a request meets a closed one all the same, `wire/http1/untaken.rs` says what is known of it.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Wake, Waker};
use std::time::{Duration, Instant};

use lorica_identity::PeerIdentity;
use lorica_model::head::ResponseHead;
use lorica_model::name::ServicePort;
use lorica_model::snapshot::Connections;
use lorica_observe::record::Party;
use tokio::sync::{Mutex, Notify, OwnedMutexGuard};

use crate::config::MAX_IDLE_PER_ENDPOINT;
use crate::endpoints::places::Place;
use crate::lifetime::{ALWAYS, Lifetime};
use crate::path::mtls::Negotiated;
use crate::stream::{Carried, Stream};
use crate::wire::{Http1Client, Http2Client, Outgoing, Receiver, Sender, WireError};

/// The most HTTP/2 connections to one destination; past it, requests wait for a stream.
const MAX_SHARED: usize = 8;
/// How many connections to one destination stay open that are too old to be used.
const WATCHED: usize = 2;
/// How long between two looks at idle connections of which some were closed: many are closed at once.
const LOOK: Duration = Duration::from_millis(10);
/// The most upstreams of whose habits something is remembered; past it, others are forgotten first.
const MAX_UPSTREAMS: usize = 4096;

/// What connections have in common that may stand for each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key {
    /// Where they lead.
    pub to: Destination,
    /// What is spoken.
    pub protocol: Negotiated,
}

/// Where a connection leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Destination {
    /// To an endpoint, in one TLS epoch, with one of these identities at its other end.
    Endpoint {
        /// The endpoint's number in this process.
        id: u64,
        /// The epoch's number; 0 in plaintext.
        epoch: u64,
        /// The number of the identities that were accepted.
        accepted: u64,
    },
    /// To an app port, from a caller's address.
    App {
        /// The port.
        port: u16,
        /// The address from which the app sees the call come.
        caller: Option<Ipv4Addr>,
    },
}

/// What shares a server program, as far as can be told, and so leaves idle connections open for the same time.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Upstream {
    /// The endpoints of a service port.
    Port(ServicePort),
    /// An app port.
    App(u16),
}

/// Which of the idle connections a request may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reuse {
    /// Any that is surely open.
    Any,
    /// One that was used a moment ago, at most [`ALWAYS`]: what is sent cannot be sent again.
    Recent,
    /// None: one was found closed already. Shared connections of HTTP/2 tell their end and are meant by none of this.
    No,
}

/// What holds for a connection of HTTP/1 for as long as it lives.
#[derive(Clone)]
pub struct Keeping {
    connections: Connections,
    /// What is known of its upstream; none where that tells when it leaves, as another Lorica proxy does.
    lifetime: Option<Rc<RefCell<Lifetime>>>,
    born: Instant,
}

impl Keeping {
    /// Up to which age an idle connection may be used.
    fn reusable(&self) -> Duration {
        let most = self.connections.idle;
        self.lifetime.as_ref().map_or(most, |lifetime| lifetime.borrow().reusable(most))
    }

    /// Whether the connection is too old to take a request at `now`.
    fn is_over(&self, now: Instant) -> bool {
        self.connections.max_age.is_some_and(|most| now.saturating_duration_since(self.born) >= most)
    }

    fn learn(&self, what: impl FnOnce(&mut Lifetime)) {
        if let Some(lifetime) = &self.lifetime {
            what(&mut lifetime.borrow_mut());
        }
    }
}

/// What is known of a connection, for the record.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// Who is at its other end.
    pub peer: Option<Arc<PeerIdentity>>,
    /// The address there.
    pub remote: Option<SocketAddr>,
    /// The address at this end.
    pub local: Option<SocketAddr>,
    /// Who is at its other end as a party to a call; none for the app beside the proxy.
    pub party: Option<Arc<Party>>,
    /// Its place among the connections that a limit allows, where there is one.
    pub places: Option<Arc<ConnectionPlaces>>,
}

/// What a limited connection takes up for as long as it is open.
#[derive(Debug)]
pub struct ConnectionPlaces {
    /// Among those that are open.
    pub open: Place,
    /// Among those that are in use, as one of HTTP/2 always is. One of HTTP/1 is while it has an exchange, which holds the place then.
    pub used: Option<Place>,
}

impl Facts {
    /// Whether somebody waits for the place of the connection.
    fn is_wanted(&self) -> bool {
        let wanted = |places: &Arc<ConnectionPlaces>| places.open.is_wanted() || places.used.as_ref().is_some_and(Place::is_wanted);
        self.places.as_ref().is_some_and(wanted)
    }
}

/// The connections of one worker.
#[derive(Default)]
pub struct Pool {
    idle: RefCell<HashMap<Key, Vec<Idle>, foldhash::fast::RandomState>>,
    shared: RefCell<HashMap<Key, Vec<Shared>, foldhash::fast::RandomState>>,
    connecting: RefCell<HashMap<Key, Arc<Mutex<()>>, foldhash::fast::RandomState>>,
    lifetimes: RefCell<HashMap<Upstream, Rc<RefCell<Lifetime>>, foldhash::fast::RandomState>>,
    closed: Arc<Closed>,
}

/// Told when an idle connection may have been closed.
#[derive(Default)]
struct Closed(Notify);

impl Wake for Closed {
    fn wake(self: Arc<Self>) {
        self.0.notify_one();
    }
    fn wake_by_ref(self: &Arc<Self>) {
        self.0.notify_one();
    }
}

struct Idle {
    client: Http1Client,
    facts: Facts,
    keeping: Keeping,
    /// When it was laid aside: its upstream had counted it as idle for some time then, at most since it answered.
    kept: Instant,
}

impl Idle {
    /// How long it has been idle at `now`, at most.
    fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.client.answered().unwrap_or(self.kept))
    }

    /// How long it has been idle at `now`, at least.
    fn least_age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.kept)
    }
}

struct Shared {
    client: Http2Client,
    facts: Facts,
    /// A clone for each exchange under way.
    under_way: Rc<()>,
    used: Rc<Cell<Instant>>,
    /// Whether one of its streams carries much.
    bulk: Rc<Cell<bool>>,
    born: Instant,
    max_age: Option<Duration>,
}

impl Shared {
    /// Whether it is too old to take a request at `now`.
    fn is_over(&self, now: Instant) -> bool {
        self.max_age.is_some_and(|most| now.saturating_duration_since(self.born) >= most)
    }
}

/// What an HTTP/2 connection's stream carries between two Lorica proxies, as `:protocol` says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamKind {
    /// HTTP/1, for a port that speaks HTTP.
    Http1,
    /// Bytes.
    Tcp,
}

impl StreamKind {
    /// The word in `:protocol`.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Http1 => "lorica-http1",
            Self::Tcp => "lorica-tcp",
        }
    }

    /// The kind that a word in `:protocol` names.
    #[must_use]
    pub fn of(word: &str) -> Option<Self> {
        [Self::Http1, Self::Tcp].into_iter().find(|kind| kind.word() == word)
    }
}

/// A connection for one exchange. Dropped, it goes back to its pool if it is fit for another.
pub struct Lease {
    carrier: Carrier,
    /// What is known of the connection.
    pub facts: Facts,
    /// Whether it has served before.
    pub reused: bool,
    /// For how long it had been idle, at least.
    rested: Duration,
}

enum Carrier {
    Http1 { client: Http1Client, key: Key, keeping: Keeping, pool: Rc<Pool> },
    Http2 { client: Http2Client, _under_way: Rc<()>, used: Rc<Cell<Instant>>, bulk: Rc<Cell<bool>> },
}

impl Lease {
    /// Begins the exchange.
    ///
    /// # Errors
    /// When the connection takes no request any more.
    pub async fn send(&mut self, outgoing: &Outgoing<'_>) -> Result<(Sender, Receiver), WireError> {
        match &mut self.carrier {
            Carrier::Http1 { client, .. } => {
                let (sender, receiver) = client.send(outgoing);
                Ok((Sender::Http1(sender), Receiver::Http1(receiver)))
            }
            Carrier::Http2 { client, .. } => {
                let (sender, receiver) = client.send(outgoing).await?;
                Ok((Sender::Http2(sender), Receiver::Http2(receiver)))
            }
        }
    }
}

impl Lease {
    /// Whether an exchange can begin at once.
    #[must_use]
    pub fn has_room(&self) -> bool {
        match &self.carrier {
            Carrier::Http1 { .. } => true,
            Carrier::Http2 { client, .. } => client.has_room(),
        }
    }

    /// Waits until an exchange can begin, behind those who wait already.
    ///
    /// # Errors
    /// When the connection takes no request any more.
    pub async fn room(&self) -> Result<(), WireError> {
        match &self.carrier {
            Carrier::Http1 { .. } => Ok(()),
            Carrier::Http2 { client, .. } => client.room().await,
        }
    }

    /// Opens a stream for other bytes on the connection, which stays in use for as long as the stream is.
    ///
    /// # Errors
    /// When the connection or its peer takes none.
    pub async fn carry(self, kind: StreamKind, authority: &str) -> Result<Stream, WireError> {
        let Carrier::Http2 { client, .. } = &self.carrier else { return Err(WireError::Unsupported("HTTP/1 has no streams")) };
        let tunnel = client.clone().open(kind.word(), authority).await?;
        Ok(Stream::Carried(Box::new(Carried::new(tunnel, Some(self)))))
    }

    /// Asks the server for a connection to a host, which keeps this one in use for as long as it lasts; or the head that says why not.
    ///
    /// # Errors
    /// When the connection takes no request any more.
    pub async fn connect(self, authority: &str) -> Result<Result<Stream, ResponseHead>, WireError> {
        let Carrier::Http2 { client, .. } = &self.carrier else { return Err(WireError::Unsupported("HTTP/1 has no streams")) };
        let answered = client.clone().connect(authority).await?;
        Ok(answered.map(|tunnel| Stream::Carried(Box::new(Carried::new(tunnel, Some(self))))))
    }

    /// Says whether a stream of the connection carries much: then others go elsewhere.
    pub fn set_bulk(&self, is_bulk: bool) {
        if let Carrier::Http2 { bulk, .. } = &self.carrier {
            bulk.set(is_bulk);
        }
    }

    /// Whether it is one of HTTP/1 that was kept for this request, and may have been closed meanwhile.
    #[must_use]
    pub fn was_idle(&self) -> bool {
        self.reused && matches!(self.carrier, Carrier::Http1 { .. })
    }

    /// A kept connection that was closed says that the others to the same place are closed too: none of them gets the next request.
    pub fn was_closed(&self) {
        if let Carrier::Http1 { key, keeping, pool, .. } = &self.carrier {
            keeping.learn(|lifetime| lifetime.closed(self.rested, Instant::now()));
            pool.idle.borrow_mut().remove(key);
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        match &self.carrier {
            Carrier::Http1 { client, key, keeping, pool } if client.is_kept() => {
                pool.keep(*key, client.clone(), keeping.clone(), std::mem::take(&mut self.facts), Instant::now());
            }
            Carrier::Http1 { .. } => {}
            Carrier::Http2 { used, .. } => used.set(Instant::now()),
        }
    }
}

impl Pool {
    /// A connection that is there already at `now`.
    #[must_use]
    pub fn ready(self: &Rc<Self>, key: &Key, reuse: Reuse, now: Instant) -> Option<Lease> {
        match key.protocol {
            Negotiated::Http1 => self.take_idle(key, reuse, now),
            Negotiated::Http2 => self.share(key, false, now),
        }
    }

    fn take_idle(self: &Rc<Self>, key: &Key, reuse: Reuse, now: Instant) -> Option<Lease> {
        let mut idle = self.idle.borrow_mut();
        let list = idle.get_mut(key)?;
        loop {
            // The latest: the others may then grow old enough to be closed.
            let at = list.iter().rposition(|idle| {
                let most = match reuse {
                    Reuse::Any => idle.keeping.reusable(),
                    Reuse::Recent => idle.keeping.reusable().min(ALWAYS),
                    Reuse::No => Duration::ZERO,
                };
                idle.age(now) < most && !idle.keeping.is_over(now)
            })?;
            let taken = list.remove(at);
            let rested = taken.least_age(now);
            if taken.client.is_open(Waker::noop()) {
                let Idle { client, facts, keeping, .. } = taken;
                let carrier = Carrier::Http1 { client, key: *key, keeping, pool: self.clone() };
                return Some(Lease { carrier, facts, reused: true, rested });
            }
            taken.keeping.learn(|lifetime| lifetime.closed(rested, now));
        }
    }

    /// The connection with the fewest exchanges; a full one only where `full` says so.
    pub fn share(&self, key: &Key, full: bool, now: Instant) -> Option<Lease> {
        let mut shared = self.shared.borrow_mut();
        let list = shared.get_mut(key)?;
        list.retain(|shared| !shared.client.is_ended());
        let young = list.iter().filter(|shared| !shared.is_over(now));
        let least = young.min_by_key(|shared| (shared.bulk.get(), Rc::strong_count(&shared.under_way)))?;
        let more = !full && list.len() < MAX_SHARED;
        if more && (least.bulk.get() || Rc::strong_count(&least.under_way) > least.client.capacity()) {
            return None;
        }
        let carrier = Carrier::Http2 {
            client: least.client.clone(),
            _under_way: least.under_way.clone(),
            used: least.used.clone(),
            bulk: least.bulk.clone(),
        };
        Some(Lease { carrier, facts: least.facts.clone(), reused: true, rested: Duration::ZERO })
    }

    /// Waits for whoever is connecting to the same destination with HTTP/2, so that a burst makes one connection, not one each.
    pub async fn turn(&self, key: &Key) -> Option<OwnedMutexGuard<()>> {
        if key.protocol == Negotiated::Http1 {
            return None;
        }
        let turn = self.connecting.borrow_mut().entry(*key).or_default().clone();
        Some(turn.lock_owned().await)
    }

    /// What holds for a new connection to `upstream`; without one, it is a stream of another Lorica proxy, which tells its end.
    #[must_use]
    pub fn keeping(&self, connections: Connections, upstream: Option<Upstream>) -> Keeping {
        let lifetime = upstream.map(|upstream| {
            let mut lifetimes = self.lifetimes.borrow_mut();
            if lifetimes.len() >= MAX_UPSTREAMS && !lifetimes.contains_key(&upstream) {
                lifetimes.clear();
            }
            lifetimes.entry(upstream).or_default().clone()
        });
        Keeping { connections, lifetime, born: Instant::now() }
    }

    /// Takes a new connection of HTTP/1 into use.
    pub fn add_http1(self: &Rc<Self>, key: Key, client: Http1Client, keeping: Keeping, facts: Facts) -> Lease {
        Lease { carrier: Carrier::Http1 { client, key, keeping, pool: self.clone() }, facts, reused: false, rested: Duration::ZERO }
    }

    /// Takes a new connection of HTTP/2 into use.
    pub fn add_http2(&self, key: Key, client: Http2Client, keeping: &Keeping, facts: Facts) -> Lease {
        let (under_way, used, bulk) = (Rc::new(()), Rc::new(Cell::new(Instant::now())), Rc::new(Cell::new(false)));
        let carrier = Carrier::Http2 { client: client.clone(), _under_way: under_way.clone(), used: used.clone(), bulk: bulk.clone() };
        let (born, max_age) = (keeping.born, keeping.connections.max_age);
        self.shared.borrow_mut().entry(key).or_default().push(Shared {
            client,
            facts: facts.clone(),
            under_way,
            used,
            bulk,
            born,
            max_age,
        });
        Lease { carrier, facts, reused: false, rested: Duration::ZERO }
    }

    fn keep(&self, key: Key, client: Http1Client, keeping: Keeping, facts: Facts, now: Instant) {
        if let Some(timeout) = client.announced() {
            keeping.learn(|lifetime| lifetime.announced(timeout, now));
        }
        if !client.is_open(&self.waker()) {
            // Closed right behind its answer, which did not say so.
            return keeping.learn(|lifetime| lifetime.closed(Duration::ZERO, now));
        }
        let mut idle = self.idle.borrow_mut();
        let list = idle.entry(key).or_default();
        if list.len() < MAX_IDLE_PER_ENDPOINT && !keeping.is_over(now) && !facts.is_wanted() {
            list.push(Idle { client, facts, keeping, kept: now });
        }
    }

    /// Closes what is not in use, as far as others wait for its place.
    pub fn give_up(&self) {
        self.idle.borrow_mut().retain(|_, list| {
            list.retain(|idle| !idle.facts.is_wanted());
            !list.is_empty()
        });
        self.shared.borrow_mut().retain(|_, list| {
            list.retain(|shared| Rc::strong_count(&shared.under_way) > 1 || !shared.facts.is_wanted());
            !list.is_empty()
        });
    }

    fn waker(&self) -> Waker {
        self.closed.clone().into()
    }

    /// Looks at idle connections whenever one of them may have been closed, so that it is known at which age.
    pub async fn watch(&self) {
        loop {
            self.closed.0.notified().await;
            self.sweep_idle(Instant::now());
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Closes what has been idle too long or was closed by its server, and learns from both.
    fn sweep_idle(&self, now: Instant) {
        let waker = self.waker();
        self.idle.borrow_mut().retain(|_, list| {
            let mut watched = 0;
            list.retain(|idle| {
                let (age, most) = (idle.least_age(now), idle.keeping.connections.idle);
                if !idle.client.is_open(&waker) {
                    idle.keeping.learn(|lifetime| lifetime.closed(age, now));
                    return false;
                }
                idle.keeping.learn(|lifetime| lifetime.open(age, now));
                if idle.age(now) < idle.keeping.reusable() {
                    return !idle.keeping.is_over(now);
                }
                watched += 1;
                // The eldest stand first.
                watched <= WATCHED && idle.keeping.lifetime.is_some() && age < Lifetime::watched(most)
            });
            !list.is_empty()
        });
    }

    /// Closes what has been idle too long or was closed by its server; run each second.
    pub fn sweep(&self) {
        let now = Instant::now();
        self.sweep_idle(now);
        self.lifetimes.borrow_mut().retain(|_, lifetime| {
            lifetime.borrow_mut().forget(now);
            Rc::strong_count(lifetime) > 1 || !lifetime.borrow().is_empty()
        });
        // A shared connection costs its server little, and its next handshake much.
        self.shared.borrow_mut().retain(|_, list| {
            list.retain(|shared| {
                let is_used = Rc::strong_count(&shared.under_way) > 1;
                !shared.client.is_ended() && (is_used || (shared.used.get().elapsed() < SHARED_IDLE && !shared.is_over(now)))
            });
            !list.is_empty()
        });
        self.connecting.borrow_mut().retain(|_, turn| Arc::strong_count(turn) > 1);
    }
}

/// How long an HTTP/2 connection without exchanges is kept. Its end is told by GOAWAY, which no request races with.
const SHARED_IDLE: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests;
