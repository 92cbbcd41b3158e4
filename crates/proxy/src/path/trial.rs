//! trial: what policies that are tried (`mode: Shadow`) would have done to a call. It is counted and told, and nothing else comes of it: whatever
//! is in force decides as if they were not there.

use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lorica_model::head::{RequestHead, ResponseHead};
use lorica_model::snapshot::{AttemptTrial, Effect, Effects, Origin, TrafficTrial};
use lorica_model::spiffe::SpiffeId;

use super::caller::{Caller, Entry};
use super::failure::Failure;
use super::retry::Terms;
use super::send;
use super::way::{To, Way};
use crate::worker::Worker;

/// Who calls what, as it is told of an example.
#[derive(Debug, Clone)]
pub struct Call {
    /// The identity of the caller; of what leaves this workload, its own.
    pub caller: Option<SpiffeId>,
    /// The address that it came from, where it has none.
    pub address: Option<IpAddr>,
    /// A service port, a gateway's port, or a host outside the mesh.
    pub called: String,
}

impl Call {
    /// A call that came in.
    #[must_use]
    pub fn of(worker: &Worker, caller: &Caller) -> Self {
        let own = || worker.epoch().map(|epoch| epoch.svid().id().clone());
        let (id, called) = match &caller.entry {
            Entry::Outbound { port } => (own(), port.to_string()),
            Entry::Inbound { port, peer, .. } => (peer.as_ref().map(|peer| peer.id.clone()), port.service_port.to_string()),
            Entry::Egress { port, peer } => (peer.as_ref().map(|peer| peer.id.clone()), port.to_string()),
            Entry::Gateway { port, .. } => {
                let gateway = worker.view().snapshot.gateway.get(port).map(|unit| unit.gateway.to_string());
                (None, format!("{}:{port}", gateway.unwrap_or_default()))
            }
        };
        let address = id.is_none().then(|| caller.remote.ip());
        Self { caller: id, address, called }
    }

    /// A call of this workload's.
    #[must_use]
    pub fn own(worker: &Worker, called: String) -> Self {
        Self { caller: worker.epoch().map(|epoch| epoch.svid().id().clone()), address: None, called }
    }
}

/// Tells what a policy would have done to a call. `head`: of a request; `why` may be empty.
pub fn tell(worker: &Worker, caller: &Caller, head: Option<&RequestHead>, policy: &Origin, effects: Effects, why: &str) {
    worker.observed.tried(&worker.telemetry.metrics, policy, effects, || (Call::of(worker, caller), head, why));
}

/// The same of a call that is known by its parts.
pub fn tell_of(worker: &Worker, call: &Call, head: Option<&RequestHead>, policy: &Origin, effects: Effects, why: &str) {
    worker.observed.tried(&worker.telemetry.metrics, policy, effects, || (call.clone(), head, why));
}

/// The most trials of a worker that wait for somebody's answer.
const MOST_WAITING: usize = 1024;

/// A trial that waits for somebody's answer, while its request goes on.
pub struct Waiting(Rc<Worker>);

impl Waiting {
    /// None where too many wait already.
    #[must_use]
    pub fn begin(worker: &Rc<Worker>) -> Option<Self> {
        let waiting = worker.trials.get();
        (waiting < MOST_WAITING).then(|| {
            worker.trials.set(waiting + 1);
            Self(worker.clone())
        })
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.trials.set(self.0.trials.get().saturating_sub(1));
    }
}

/// What TrafficPolicies that are tried would have done to one exchange, found out on its way and told at its end.
pub struct Exchange<'x> {
    worker: &'x Worker,
    caller: &'x Caller,
    head: &'x RequestHead,
    way: &'x Way,
    requests: Vec<&'x AttemptTrial>,
    endpoints: &'x [TrafficTrial],
    is_retry: bool,
    begun: Instant,
    attempt: Cell<(u32, Instant)>,
    found: RefCell<Vec<(Arc<Origin>, Effects, String)>>,
}

impl<'x> Exchange<'x> {
    /// An exchange whose times begin at `begun`; none where nothing is tried. `is_retry`: whether somebody before this hop tries again.
    #[must_use]
    pub fn begin(
        worker: &'x Worker,
        caller: &'x Caller,
        head: &'x RequestHead,
        way: &'x Way,
        is_retry: bool,
        begun: Instant,
    ) -> Option<Box<Self>> {
        let To::Endpoints(reach) = &way.to else { return None };
        let (rule, _) = way.rule.as_ref()?;
        let of_rule = rule.forward()?.tried.iter().filter(|trial| trial.to == reach.unit.port);
        let (requests, endpoints): (Vec<_>, _) = (of_rule.collect(), reach.unit.cluster.traffic.tried.as_slice());
        if requests.is_empty() && endpoints.is_empty() {
            return None;
        }
        // Boxed, as what is boxed here takes no room in other exchanges.
        let exchange = Box::new(Self {
            worker,
            caller,
            head,
            way,
            requests,
            endpoints,
            is_retry,
            begun,
            attempt: Cell::new((0, begun)),
            found: RefCell::default(),
        });
        let origins = exchange.requests.iter().map(|trial| &trial.origin).chain(exchange.endpoints.iter().map(|trial| &trial.origin));
        origins.for_each(|origin| exchange.add(origin, Effects::NONE, String::new));
        Some(exchange)
    }

    fn add(&self, origin: &Arc<Origin>, effects: Effects, why: impl FnOnce() -> String) {
        let mut found = self.found.borrow_mut();
        match found.iter_mut().find(|(known, ..)| (&known.namespace, &known.name) == (&origin.namespace, &origin.name)) {
            Some((_, known, first)) => {
                if known.is_none() && !effects.is_none() {
                    *first = why();
                }
                *known = known.and(effects);
            }
            None => found.push((origin.clone(), effects, if effects.is_none() { String::new() } else { why() })),
        }
    }

    /// The attempt of this number begins at `now`.
    pub fn attempt(&self, number: u32, now: Instant) {
        self.attempt_over(now);
        self.attempt.set((number, now));
    }

    /// Somebody takes the attempt.
    pub fn picked(&self) {
        let To::Endpoints(reach) = &self.way.to else { return };
        let under_way = reach.live.requests();
        for trial in self.endpoints {
            if let Some(most) = trial.requests.filter(|most| under_way > *most) {
                self.add(&trial.origin, Effect::Overflow.into(), || format!("limits.requests: {most}"));
            }
        }
    }

    /// An answer is passed on.
    pub fn passed_on(&self, response: &ResponseHead) {
        let (number, _) = self.attempt.get();
        for trial in &self.requests {
            let Some(retry) = &trial.retry else { continue };
            if number <= retry.attempts && Terms::of(retry, self.head, self.is_retry).instead_of(response, None).is_some() {
                self.add(&trial.origin, Effect::Retry.into(), || format!("answered with {}", response.status));
            }
        }
    }

    fn attempt_over(&self, now: Instant) {
        let (number, since) = self.attempt.get();
        if number == 0 || self.is_upgraded() {
            return;
        }
        let took = now.saturating_duration_since(since);
        for trial in &self.requests {
            if trial.backend_request.is_some_and(|limit| took > limit) {
                self.add(&trial.origin, Effect::TimeOut.into(), || format!("timeouts.perTry: it took {}", milliseconds(took)));
            }
        }
    }

    /// What goes on for as long as both sides like has no time for its answer.
    fn is_upgraded(&self) -> bool {
        send::upgrade(self.head).is_some()
    }

    /// It is over. `may_repeat`: whether its body could be sent once more.
    pub fn over(&self, passed: &Result<(), Failure>, may_repeat: bool, now: Instant) {
        self.attempt_over(now);
        let (number, _) = self.attempt.get();
        let took = now.saturating_duration_since(self.begun);
        for trial in &self.requests {
            if !self.is_upgraded() && trial.request.is_some_and(|limit| took > limit) {
                self.add(&trial.origin, Effect::TimeOut.into(), || format!("timeouts.request: it took {}", milliseconds(took)));
            }
            if let (Err(failure), Some(retry), true) = (passed, &trial.retry, may_repeat)
                && number <= retry.attempts
                && Terms::of(retry, self.head, self.is_retry).after(failure)
            {
                self.add(&trial.origin, Effect::Retry.into(), || failure.reason.to_string());
            }
        }
        for (origin, effects, why) in self.found.take() {
            tell(self.worker, self.caller, Some(self.head), &origin, effects, &why);
        }
    }
}

fn milliseconds(time: Duration) -> String {
    format!("{} ms", time.as_millis())
}
