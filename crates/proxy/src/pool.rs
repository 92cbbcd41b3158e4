//! Connections kept for the next request: idle ones of HTTP/1, shared ones of HTTP/2.
//!
//! A worker has its own pool. What is kept belongs to one destination, one TLS epoch and one protocol; an idle
//! connection is kept for seconds only, as reusing one while its server closes it is the best known source of 503s.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lorica_identity::PeerIdentity;
use lorica_model::head::ResponseHead;
use lorica_model::snapshot::DEFAULT_POOL_IDLE_TIMEOUT;
use lorica_observe::record::Party;
use tokio::sync::{Mutex, OwnedMutexGuard};

use crate::config::MAX_IDLE_PER_ENDPOINT;
use crate::endpoints::places::Place;
use crate::path::mtls::Negotiated;
use crate::stream::{Carried, Stream};
use crate::wire::{Http1Client, Http2Client, Outgoing, Receiver, Sender, WireError};

/// The most HTTP/2 connections to one destination; past it, requests wait for a stream.
const MAX_SHARED: usize = 8;

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

/// What is known of a connection, for the record.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// Who is at its other end.
    pub peer: Option<Arc<PeerIdentity>>,
    /// The address there.
    pub remote: Option<SocketAddr>,
    /// The same as a party to a call; none for the app beside the proxy.
    pub party: Option<Arc<Party>>,
    /// When it has become too old for another request; none: it never does.
    pub until: Option<Instant>,
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
    fn is_over(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| until <= now)
    }

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
}

struct Idle {
    client: Http1Client,
    facts: Facts,
    since: Instant,
}

struct Shared {
    client: Http2Client,
    facts: Facts,
    /// A clone for each exchange under way.
    under_way: Rc<()>,
    used: Rc<Cell<Instant>>,
    /// Whether one of its streams carries much.
    bulk: Rc<Cell<bool>>,
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
}

enum Carrier {
    Http1 { client: Http1Client, key: Key, pool: Rc<Pool> },
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

    /// A kept connection that broke says that the others to the same place are broken too: none of them gets the next request.
    pub fn forget_others(&self) {
        if let Carrier::Http1 { key, pool, .. } = &self.carrier {
            pool.idle.borrow_mut().remove(key);
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        match &self.carrier {
            Carrier::Http1 { client, key, pool } if client.is_reusable() => {
                pool.keep(*key, client.clone(), std::mem::take(&mut self.facts))
            }
            Carrier::Http1 { .. } => {}
            Carrier::Http2 { used, .. } => used.set(Instant::now()),
        }
    }
}

impl Pool {
    /// A connection that is there already at `now`.
    #[must_use]
    pub fn ready(self: &Rc<Self>, key: &Key, now: Instant) -> Option<Lease> {
        match key.protocol {
            Negotiated::Http1 => self.take_idle(key, now),
            Negotiated::Http2 => self.share(key, false, now),
        }
    }

    fn take_idle(self: &Rc<Self>, key: &Key, now: Instant) -> Option<Lease> {
        loop {
            // The latest: the others may then grow old enough to be closed.
            let Idle { client, facts, since } = self.idle.borrow_mut().get_mut(key)?.pop()?;
            if now.saturating_duration_since(since) < DEFAULT_POOL_IDLE_TIMEOUT && !facts.is_over(now) && client.is_reusable() {
                return Some(Lease { carrier: Carrier::Http1 { client, key: *key, pool: self.clone() }, facts, reused: true });
            }
        }
    }

    /// The connection with the fewest exchanges; a full one only where `full` says so.
    pub fn share(&self, key: &Key, full: bool, now: Instant) -> Option<Lease> {
        let mut shared = self.shared.borrow_mut();
        let list = shared.get_mut(key)?;
        list.retain(|shared| !shared.client.is_ended());
        let young = || list.iter().filter(|shared| !shared.facts.is_over(now));
        let least = young().min_by_key(|shared| (shared.bulk.get(), Rc::strong_count(&shared.under_way)))?;
        let more = !full && young().count() < MAX_SHARED;
        if more && (least.bulk.get() || Rc::strong_count(&least.under_way) > least.client.capacity()) {
            return None;
        }
        let carrier = Carrier::Http2 {
            client: least.client.clone(),
            _under_way: least.under_way.clone(),
            used: least.used.clone(),
            bulk: least.bulk.clone(),
        };
        Some(Lease { carrier, facts: least.facts.clone(), reused: true })
    }

    /// Waits for whoever is connecting to the same destination with HTTP/2, so that a burst makes one connection, not one each.
    pub async fn turn(&self, key: &Key) -> Option<OwnedMutexGuard<()>> {
        if key.protocol == Negotiated::Http1 {
            return None;
        }
        let turn = self.connecting.borrow_mut().entry(*key).or_default().clone();
        Some(turn.lock_owned().await)
    }

    /// Takes a new connection of HTTP/1 into use.
    pub fn add_http1(self: &Rc<Self>, key: Key, client: Http1Client, facts: Facts) -> Lease {
        Lease { carrier: Carrier::Http1 { client, key, pool: self.clone() }, facts, reused: false }
    }

    /// Takes a new connection of HTTP/2 into use.
    pub fn add_http2(&self, key: Key, client: Http2Client, facts: Facts) -> Lease {
        let (under_way, used, bulk) = (Rc::new(()), Rc::new(Cell::new(Instant::now())), Rc::new(Cell::new(false)));
        let carrier = Carrier::Http2 { client: client.clone(), _under_way: under_way.clone(), used: used.clone(), bulk: bulk.clone() };
        self.shared.borrow_mut().entry(key).or_default().push(Shared { client, facts: facts.clone(), under_way, used, bulk });
        Lease { carrier, facts, reused: false }
    }

    fn keep(&self, key: Key, client: Http1Client, facts: Facts) {
        if facts.is_wanted() {
            return;
        }
        let mut idle = self.idle.borrow_mut();
        let list = idle.entry(key).or_default();
        if list.len() < MAX_IDLE_PER_ENDPOINT {
            list.push(Idle { client, facts, since: Instant::now() });
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

    /// Closes what has been idle too long, is too old or was closed by its server; run each second.
    pub fn sweep(&self) {
        let now = Instant::now();
        self.idle.borrow_mut().retain(|_, list| {
            list.retain(|idle| idle.since.elapsed() < DEFAULT_POOL_IDLE_TIMEOUT && !idle.facts.is_over(now) && idle.client.is_reusable());
            !list.is_empty()
        });
        // A shared connection costs its server little, and its next handshake much.
        self.shared.borrow_mut().retain(|_, list| {
            list.retain(|shared| {
                let idle = shared.facts.is_over(now) || shared.used.get().elapsed() >= SHARED_IDLE;
                !shared.client.is_ended() && (Rc::strong_count(&shared.under_way) > 1 || !idle)
            });
            !list.is_empty()
        });
        self.connecting.borrow_mut().retain(|_, turn| Arc::strong_count(turn) > 1);
    }
}

/// How long an HTTP/2 connection without exchanges is kept. Its end is told by GOAWAY, which no request races with.
const SHARED_IDLE: Duration = Duration::from_secs(60);
