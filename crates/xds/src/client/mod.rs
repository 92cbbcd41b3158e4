//! Lorica's client: keeps a proxy's [`Snapshot`] as the control plane has it.
//!
//! In: the service ports that the app calls, what the proxy says of itself. Out: snapshots, and the state of the connection.
//! While no control plane answers, everything known stays in force. The client never drops a unit because it could not be
//! replaced: a refused resource leaves the one before it, and a unit enters the snapshot complete or not at all.

mod connection;
mod known;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::future::Future;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use lorica_model::name::{ServicePort, WorkloadName};
use lorica_model::snapshot::Snapshot;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;

use crate::node::NodeMetadata;
use connection::Ended;
use known::Known;

/// The most service ports that a proxy keeps; the least recently wanted goes when another comes. Far more than an app calls,
/// few enough that an app that scans the mesh does not fill the proxy's memory.
pub const MAX_WANTED: usize = 4096;
/// The shortest and longest pause before a connection is tried again. The first try after a loss is at once; the longest is
/// a third of the 15 s for which the control plane keeps a registration whose stream broke.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// Where the control plane listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// A Unix socket.
    Unix(PathBuf),
}

/// What a client needs to begin.
#[derive(Debug, Clone)]
pub struct ClientConfig {
    /// Where the control plane listens.
    pub endpoint: Endpoint,
    /// The workload, which is `Node.id`.
    pub node_id: WorkloadName,
    /// The version of the software, for people: `0.1.0`.
    pub version: String,
    /// What the proxy says of itself at first.
    pub metadata: NodeMetadata,
}

/// How the client stands with the control plane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConnectionState {
    /// No control plane answers (yet).
    Connecting {
        /// Why the last try failed or the connection ended.
        last_error: Option<String>,
    },
    /// The control plane has taken the registration and sends.
    Connected {
        /// Since when.
        since: SystemTime,
    },
    /// The control plane does not take this workload as it is. Tries go on, as what contradicts may be changed.
    Refused {
        /// Its reason, as a sentence.
        message: String,
    },
}

/// A handle; clones are cheap. The task ends when the last one is dropped.
#[derive(Debug, Clone)]
pub struct Client {
    shared: Arc<Shared>,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    states: watch::Receiver<ConnectionState>,
    /// Held, never used: its end ends the task.
    _alive: mpsc::Sender<()>,
}

/// What handles and the task share.
#[derive(Debug)]
struct Shared {
    asked: Mutex<Asked>,
    changed: Notify,
    /// How many snapshots were published.
    published: AtomicU64,
    /// Up to which the proxy runs them; 0: it does not say.
    confirmed: AtomicU64,
    confirmations: Notify,
}

#[derive(Debug)]
struct Asked {
    /// The service ports, with the tick at which each was last wanted.
    wanted: HashMap<ServicePort, u64>,
    tick: u64,
    metadata: NodeMetadata,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Asked> {
        // Nothing that holds the lock can leave it half changed.
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Client {
    /// A client and its task, which the caller spawns or polls. `last_good` is in force until the control plane says otherwise,
    /// and its service ports count as wanted.
    pub fn start(config: ClientConfig, last_good: Option<Snapshot>) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let last_good = last_good.unwrap_or_default();
        let wanted = last_good.outbound.keys().take(MAX_WANTED).map(|port| (port.clone(), 0)).collect();
        let shared = Arc::new(Shared {
            asked: Mutex::new(Asked { wanted, tick: 0, metadata: config.metadata.clone() }),
            changed: Notify::new(),
            published: AtomicU64::new(0),
            confirmed: AtomicU64::new(0),
            confirmations: Notify::new(),
        });
        let known = Known::new(&config.node_id, config.metadata.gateway.clone(), &last_good);
        let (snapshots_in, snapshots) = watch::channel(Arc::new(last_good));
        let (states_in, states) = watch::channel(ConnectionState::Connecting { last_error: None });
        let (alive, watched) = mpsc::channel(1);
        let task = run(config, shared.clone(), known, snapshots_in, states_in, watched);
        (Self { shared, snapshots, states, _alive: alive }, task)
    }

    /// The newest snapshot, and each that follows.
    #[must_use]
    pub fn snapshot(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.snapshots.clone()
    }

    /// The number of the newest snapshot. What is then read of [`Client::snapshot`] is that or a later one.
    #[must_use]
    pub fn published(&self) -> u64 {
        self.shared.published.load(Ordering::Acquire)
    }

    /// Says that all workers run the snapshot of this number, so that it may be acknowledged. Until this is called for the first time, what is
    /// published counts as in force.
    pub fn confirm(&self, number: u64) {
        self.shared.confirmed.fetch_max(number, Ordering::AcqRel);
        self.shared.confirmations.notify_one();
    }

    /// How the client stands with the control plane.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<ConnectionState> {
        self.states.clone()
    }

    /// Has the unit of `port` kept in the snapshot, with what its rules lead to; it appears in `outbound`, or in `absent`.
    /// Wanting again what is wanted only says that it is still of use.
    pub fn want(&self, port: ServicePort) {
        let mut asked = self.shared.lock();
        asked.tick += 1;
        let tick = asked.tick;
        if let Some(last) = asked.wanted.get_mut(&port) {
            *last = tick;
            return;
        }
        if asked.wanted.len() >= MAX_WANTED {
            let oldest = asked.wanted.iter().min_by_key(|(_, tick)| **tick).map(|(port, _)| port.clone());
            if let Some(oldest) = oldest {
                asked.wanted.remove(&oldest);
            }
        }
        asked.wanted.insert(port, tick);
        drop(asked);
        self.shared.changed.notify_one();
    }

    /// Changes what the proxy says of itself, and tells the control plane if that makes a difference.
    pub fn update_metadata(&self, change: impl FnOnce(&mut NodeMetadata)) {
        change(&mut self.shared.lock().metadata);
        self.shared.changed.notify_one();
    }
}

async fn run(
    config: ClientConfig,
    shared: Arc<Shared>,
    mut known: Known,
    snapshots: watch::Sender<Arc<Snapshot>>,
    states: watch::Sender<ConnectionState>,
    mut alive: mpsc::Receiver<()>,
) {
    let mut failures = 0;
    loop {
        let ended = tokio::select! {
            ended = connection::serve(&config, &shared, &mut known, &snapshots, &states) => ended,
            // Nobody ever sends: the last handle is gone.
            _ = alive.recv() => return,
        };
        let Ended { message, refused, connected } = ended;
        tracing::debug!(%message, refused, "the connection to the control plane ended");
        let lasted = connected.is_some_and(|since: Instant| since.elapsed() >= BACKOFF.1);
        failures = if lasted { 0 } else { failures + 1 };
        states.send_replace(if refused {
            ConnectionState::Refused { message }
        } else {
            ConnectionState::Connecting { last_error: Some(message) }
        });
        let first = connected.is_some() && failures <= 1;
        let pause = if first { Duration::ZERO } else { pause(failures, fastrand::f64()) };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _ = alive.recv() => return,
        }
    }
}

/// How long to wait after so many failures in a row. `random` is in 0..1.
fn pause(failures: u32, random: f64) -> Duration {
    let (shortest, longest) = BACKOFF;
    let longest_now = shortest.saturating_mul(1 << failures.min(16)).min(longest);
    shortest + longest_now.saturating_sub(shortest).mul_f64(random)
}
