//! What the workers of a process share of service ports: who is left out, and how much is under way.
//!
//! Each worker has live sets of its own, as loads and latencies change with every request. What changes seldom, or has to hold for the proxy
//! as a whole, is here. Views find it by name, behind a lock that no request takes; live sets and endpoints then hold it by reference.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

use lorica_model::name::{ServicePort, WorkloadName};
use lorica_model::snapshot::{Effect, Endpoint, Traffic};
use lorica_observe::Telemetry;
use lorica_observe::metrics::OwnMetric;
use serde::Serialize;
use tokio::sync::{Notify, watch};

use super::LiveEndpoint;
use super::ejection::{Change, Ejector};
use super::health::{Health, LeftOut};
use super::limits::UnderWay;
use super::tried::{Ejected, TriedEjectors};
use crate::observed::{Aside, Judged};

/// What the workers of one process share.
pub struct Shared {
    workers: usize,
    telemetry: Option<Telemetry>,
    ports: Mutex<HashMap<ServicePort, Weak<SharedPort>>>,
    /// Counts up when a worker needs a connection that another keeps idle.
    wanted: watch::Sender<u64>,
    /// What policies that are tried would do to endpoints and names.
    pub aside: Aside,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("workers", &self.workers).finish_non_exhaustive()
    }
}

impl Default for Shared {
    fn default() -> Self {
        Self { workers: 1, telemetry: None, ports: Mutex::default(), wanted: watch::Sender::new(0), aside: Aside::default() }
    }
}

impl Shared {
    /// For so many workers, whose ejections are counted in `telemetry`.
    #[must_use]
    pub fn new(workers: usize, telemetry: Telemetry) -> Self {
        Self { workers, telemetry: Some(telemetry), ..Self::default() }
    }

    fn ports(&self) -> MutexGuard<'_, HashMap<ServicePort, Weak<SharedPort>>> {
        self.ports.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is shared of a service port. Views ask, never requests.
    #[must_use]
    pub fn port(&self, port: &ServicePort) -> Arc<SharedPort> {
        let mut ports = self.ports();
        if let Some(known) = ports.get(port).and_then(Weak::upgrade) {
            return known;
        }
        ports.retain(|_, known| known.strong_count() > 0);
        let (telemetry, aside) = (self.telemetry.clone(), self.aside.clone());
        let new = SharedPort { name: port.to_string(), telemetry, aside, ..SharedPort::new(self.workers) };
        let new = Arc::new(new);
        ports.insert(port.clone(), Arc::downgrade(&new));
        new
    }

    /// Asks all workers to close what they keep idle and others wait for.
    pub fn want_idle(&self) {
        self.wanted.send_modify(|asked| *asked += 1);
    }

    /// Tells when a worker is asked to close what it keeps idle.
    #[must_use]
    pub fn wanted(&self) -> watch::Receiver<u64> {
        self.wanted.subscribe()
    }

    /// How all service ports stand, by name.
    #[must_use]
    pub fn status(&self, now: Instant) -> Vec<PortStatus> {
        let ports: Vec<_> = self.ports().values().filter_map(Weak::upgrade).collect();
        let mut status: Vec<_> = ports.iter().map(|port| port.status(now)).collect();
        status.sort_by(|one, other| one.service_port.cmp(&other.service_port));
        status
    }

    /// How many endpoints are left out, by reason.
    #[must_use]
    pub fn left_out(&self) -> [(LeftOut, usize); LeftOut::ALL.len()] {
        let ports: Vec<_> = self.ports().values().filter_map(Weak::upgrade).collect();
        LeftOut::ALL.map(|reason| {
            let count = |port: &Arc<SharedPort>| port.members().iter().filter(|(_, health)| health.is(reason)).count();
            (reason, ports.iter().map(count).sum())
        })
    }
}

/// Whom an endpoint is, whatever else is said of it.
type Who = (WorkloadName, SocketAddr);

/// What is shared of a service port.
pub struct SharedPort {
    name: String,
    telemetry: Option<Telemetry>,
    /// Who is left out for how calls went.
    pub ejector: Ejector,
    /// Whom policies that are tried would leave out.
    pub tried: TriedEjectors,
    aside: Aside,
    /// What is under way.
    pub under_way: Arc<UnderWay>,
    /// What requests do while no endpoint is ready.
    pub queue: Queue,
    members: Mutex<HashMap<Who, Arc<Health>>>,
}

impl std::fmt::Debug for SharedPort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SharedPort").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Default for SharedPort {
    fn default() -> Self {
        Self::new(1)
    }
}

impl SharedPort {
    fn new(workers: usize) -> Self {
        Self {
            name: String::new(),
            telemetry: None,
            ejector: Ejector::default(),
            tried: TriedEjectors::default(),
            aside: Aside::default(),
            under_way: Arc::new(UnderWay::new(workers)),
            queue: Queue::default(),
            members: Mutex::default(),
        }
    }

    fn members(&self) -> MutexGuard<'_, HashMap<Who, Arc<Health>>> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known of an endpoint's health. One that is new waits for its first health check, where there are checks.
    #[must_use]
    pub fn health(&self, endpoint: &Endpoint, traffic: &Traffic) -> Arc<Health> {
        let new = || match traffic.health_check {
            Some(_) => Arc::new(Health::left_out(LeftOut::HealthCheck)),
            None => Arc::default(),
        };
        self.members().entry((endpoint.workload.clone(), endpoint.address)).or_insert_with(new).clone()
    }

    /// Sets what holds, and which endpoints there are.
    pub fn set(&self, traffic: &Traffic, endpoints: &[Arc<LiveEndpoint>], now: Instant) {
        let who = |live: &LiveEndpoint| (live.endpoint.workload.clone(), live.endpoint.address);
        *self.members() = endpoints.iter().map(|live| (who(live), live.health.clone())).collect();
        let named = |live: &Arc<LiveEndpoint>| (live.health.clone(), format!("{} at {}", live.endpoint.workload, live.endpoint.address));
        self.ejector.set(traffic.ejection, endpoints.iter().map(named));
        self.tried.set(&traffic.tried, endpoints.iter().map(named));
        self.under_way.set(&traffic.limits, now);
        self.queue.changed();
    }

    /// Tells whom a policy that is tried would leave out.
    pub fn tell_tried(&self, (policy, endpoint, why): Ejected) {
        let why = format!("{endpoint}: {}", why.word());
        self.aside.tell(Judged { policy, calls: 0, effects: Effect::Eject.into(), called: self.name.clone(), why });
    }

    /// Tells of what became of an endpoint.
    pub fn tell(&self, change: Change) {
        let service_port = &self.name;
        match change {
            Change::Ejected { name, why, term } => {
                if let Some(telemetry) = &self.telemetry {
                    telemetry.count(OwnMetric::EJECTIONS, why.word(), 1);
                }
                let reason = why.word();
                tracing::info!(service_port, endpoint = name, reason, "an endpoint is left out for at least {} s", term.as_secs_f64());
            }
            Change::Spared { name, why } => {
                if let Some(telemetry) = &self.telemetry {
                    telemetry.count(OwnMetric::EJECTIONS_SPARED, why.word(), 1);
                }
                let reason = why.word();
                tracing::info!(
                    service_port,
                    endpoint = name,
                    reason,
                    "an endpoint stays in use: as many are left out as ejection.maxPercent allows"
                );
            }
            Change::Probation { name } => {
                tracing::debug!(service_port, endpoint = name, "the time of an endpoint is over: one request finds out whether it is well");
                self.queue.changed();
            }
            Change::Back { name } => {
                tracing::info!(service_port, endpoint = name, "an endpoint is back: the request that found out was answered well");
                self.queue.changed();
            }
        }
    }

    fn status(&self, now: Instant) -> PortStatus {
        let of = |((workload, address), health): (&Who, &Arc<Health>)| EndpointStatus {
            workload: workload.to_string(),
            address: *address,
            left_out: LeftOut::ALL.into_iter().filter(|reason| health.is(*reason)).map(LeftOut::word).collect(),
            ejection: self
                .ejector
                .out(health, now)
                .map(|out| EjectionStatus { reason: out.why.word(), seconds_left: out.left.as_secs_f64() }),
        };
        let mut endpoints: Vec<_> = self.members().iter().map(of).collect();
        endpoints.sort_by(|one, other| (&one.workload, one.address).cmp(&(&other.workload, other.address)));
        let under_way = &self.under_way;
        let limited = under_way.open.limit().is_some();
        PortStatus {
            service_port: self.name.clone(),
            endpoints,
            requests: under_way.count() - under_way.pending().min(under_way.count()),
            pending: under_way.pending(),
            retries: under_way.retries(),
            connections: limited.then(|| under_way.open.taken()),
            adaptive_limit: under_way.adaptive.limit(),
            fails_fast: self.queue.fails_fast(),
        }
    }
}

/// What requests do while no endpoint is ready: they wait, until one has waited in vain; from then on they fail at once, until an endpoint
/// is ready.
#[derive(Debug, Default)]
pub struct Queue {
    fails_fast: AtomicBool,
    changed: Notify,
}

impl Queue {
    /// Whether requests fail at once.
    #[must_use]
    pub fn fails_fast(&self) -> bool {
        self.fails_fast.load(Ordering::Relaxed)
    }

    /// An endpoint was ready.
    pub fn found(&self) {
        if self.fails_fast() {
            self.fails_fast.store(false, Ordering::Relaxed);
        }
    }

    /// One has waited in vain: nor does anybody else.
    pub fn in_vain(&self) {
        self.fails_fast.store(true, Ordering::Relaxed);
        self.changed();
    }

    /// Lets those who wait look again.
    pub fn changed(&self) {
        self.changed.notify_waiters();
    }

    /// Waits until there may be an endpoint.
    pub fn may_be_ready(&self) -> tokio::sync::futures::Notified<'_> {
        self.changed.notified()
    }
}

/// How a service port stands.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PortStatus {
    /// The service port.
    pub service_port: String,
    /// Its endpoints.
    pub endpoints: Vec<EndpointStatus>,
    /// Requests under way, those that wait not counted.
    pub requests: u32,
    /// Requests that wait for a connection or an endpoint.
    pub pending: u32,
    /// Retries under way.
    pub retries: u32,
    /// Connections that are open, where they are limited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connections: Option<u32>,
    /// What the limit that follows the latency has come to, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adaptive_limit: Option<u32>,
    /// Whether requests fail at once, as one has waited for an endpoint in vain.
    pub fails_fast: bool,
}

/// How an endpoint stands.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointStatus {
    /// Its workload.
    pub workload: String,
    /// Its address.
    pub address: SocketAddr,
    /// Why it is left out; empty where it is not.
    pub left_out: Vec<&'static str>,
    /// What is known of its ejection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ejection: Option<EjectionStatus>,
}

/// How an ejection stands.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EjectionStatus {
    /// Why.
    pub reason: &'static str,
    /// How long until its time is over, in seconds; 0 in probation.
    pub seconds_left: f64,
}
