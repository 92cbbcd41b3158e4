//! limit: whether a request is one too many. At the callee's proxy, so that nobody passes it by; at a gateway once its rule is known.
//!
//! A request must pass every limit that is about it; what it took of those before the one that refuses it goes back. Limits that are tried are
//! held against what passed, and keep nobody waiting.

use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use lorica_model::claims::Claims;
use lorica_model::head::RequestHead;
use lorica_model::reason::Reason;
use lorica_model::snapshot::{Asking, Counted, Effect, Effects, RateLimit, told};
use lorica_model::spiffe::SpiffeId;
use tokio::task::spawn_local;

use super::authenticate::Authenticated;
use super::caller::{Caller, Entry};
use super::failure::Failure;
use super::limit_service;
use super::trial;
use super::way::Way;
use crate::limits::{State, Taken, Verdict};
use crate::worker::Worker;

/// What a request took, to be held until its exchange is over.
pub type Held = Vec<Taken>;

/// Holds a request against the limits that are about it.
///
/// # Errors
/// [`Reason::RateLimited`] with what the caller is to be told, or [`Reason::RateLimitFailed`].
pub async fn hold(worker: &Rc<Worker>, caller: &Caller, request: &Authenticated<'_>, way: &Way) -> Result<Held, Failure> {
    match (&caller.entry, way.decided()) {
        (Entry::Inbound { .. }, _) => {
            let view = worker.view();
            match &view.snapshot.inbound {
                Some(inbound) if !inbound.limits.is_empty() => Box::pin(against(worker, caller, request, &inbound.limits)).await,
                _ => Ok(Held::new()),
            }
        }
        (Entry::Gateway { .. }, Some((rule, _))) if !rule.filters.limits.is_empty() => {
            Box::pin(against(worker, caller, request, &rule.filters.limits)).await
        }
        _ => Ok(Held::new()),
    }
}

async fn against(worker: &Rc<Worker>, caller: &Caller, request: &Authenticated<'_>, limits: &[RateLimit]) -> Result<Held, Failure> {
    let head = request.head;
    let asking = Asking { caller: caller.entry.peer().map(|peer| &peer.id), claims: request.claims.as_deref(), source: source(caller) };
    let mut held = Held::new();
    let mut asked: Vec<(&RateLimit, Arc<State>)> = Vec::new();
    for limit in limits.iter().filter(|limit| !limit.shadow && limit.is_about(head)) {
        let state = worker.limits.state(limit, &worker.telemetry.metrics);
        if limit.service().is_some() {
            asked.push((limit, state));
            continue;
        }
        let verdict = worker.limits.take(state.clone(), head, asking).await;
        if let Err(failure) = settle(limit, &state, verdict, &mut held) {
            worker.limits.give_back(&held);
            return Err(failure);
        }
    }
    if let Err(failure) = services(worker, head, asking, &asked).await {
        worker.limits.give_back(&held);
        return Err(failure);
    }
    try_out(worker, caller, request, limits, &mut held).await;
    Ok(held)
}

/// A limit that is tried, with what is remembered of it.
type Tried<'l> = (&'l RateLimit, Arc<State>);

/// Holds limits that are tried against a request that passes, policy by policy.
async fn try_out(worker: &Rc<Worker>, caller: &Caller, request: &Authenticated<'_>, limits: &[RateLimit], held: &mut Held) {
    let head = request.head;
    let about = limits.iter().filter(|limit| limit.shadow && limit.is_about(head));
    let about: Vec<Tried<'_>> = about.map(|limit| (limit, worker.limits.state(limit, &worker.telemetry.metrics))).collect();
    // Limits of one policy stand together.
    for of_policy in
        about.chunk_by(|(one, _), (other, _)| (&one.origin.namespace, &one.origin.name) == (&other.origin.namespace, &other.origin.name))
    {
        let (here, elsewhere): (Vec<Tried<'_>>, Vec<Tried<'_>>) =
            of_policy.iter().cloned().partition(|(limit, _)| matches!(limit.counted, Counted::Local(_) | Counted::Concurrent(_)));
        let asker = Asker::of(caller, request);
        let mut over = Vec::new();
        for (limit, state) in here {
            // Nobody is asked, so nobody waits.
            match worker.limits.take(state.clone(), head, asker.asking()).await {
                Verdict::Passes(taken) => {
                    state.counts.allowed.fetch_add(1, Ordering::Relaxed);
                    held.push(taken);
                }
                Verdict::Over(_) => {
                    state.counts.shadowed.fetch_add(1, Ordering::Relaxed);
                    over.push(limit.name().to_owned());
                }
                Verdict::Unavailable => {}
            }
        }
        let Some((first, _)) = of_policy.first() else { continue };
        if elsewhere.is_empty() {
            let effects = Effects::NONE.with_if(!over.is_empty(), Effect::Limit);
            trial::tell(worker, caller, Some(head), &first.origin, effects, &why(&over));
            continue;
        }
        let Some(waiting) = trial::Waiting::begin(worker) else { continue };
        let elsewhere: Vec<(RateLimit, Arc<State>)> = elsewhere.into_iter().map(|(limit, state)| (limit.clone(), state)).collect();
        let (call, head, origin, worker) = (trial::Call::of(worker, caller), head.clone(), first.origin.clone(), worker.clone());
        spawn_local(async move {
            over.extend(asked_of_others(&worker, &head, asker.asking(), &elsewhere).await);
            let effects = Effects::NONE.with_if(!over.is_empty(), Effect::Limit);
            trial::tell_of(&worker, &call, Some(&head), &origin, effects, &why(&over));
            drop(waiting);
        });
    }
}

/// The limits that somebody else counts and that a request is past.
async fn asked_of_others(worker: &Rc<Worker>, head: &RequestHead, asking: Asking<'_>, tried: &[(RateLimit, Arc<State>)]) -> Vec<String> {
    let mut over = Vec::new();
    let mut passed = |limit: &RateLimit, state: &State, passes: bool| {
        let count = if passes { &state.counts.allowed } else { &state.counts.shadowed };
        count.fetch_add(1, Ordering::Relaxed);
        if !passes {
            over.push(limit.name().to_owned());
        }
    };
    let (lent, of_service): (Vec<_>, Vec<_>) = tried.iter().partition(|(limit, _)| limit.service().is_none());
    for (limit, state) in lent {
        match worker.limits.take(state.clone(), head, asking).await {
            Verdict::Passes(_) => passed(limit, state, true),
            Verdict::Over(_) => passed(limit, state, false),
            Verdict::Unavailable => {}
        }
    }
    if let Some(service) = of_service.first().and_then(|(limit, _)| limit.service()) {
        let descriptors: Vec<_> = of_service.iter().map(|(limit, _)| crate::limits::descriptor(limit, head, asking)).collect();
        match limit_service::ask(worker, service, &descriptors).await {
            Ok(said) => {
                for (index, (limit, state)) in of_service.iter().enumerate() {
                    let all = said.refused && said.over.is_empty();
                    passed(limit, state, !all && !said.over.iter().any(|(at, _)| *at == index));
                }
            }
            Err(error) => {
                of_service.iter().for_each(|(_, state)| _ = state.counts.unavailable.fetch_add(1, Ordering::Relaxed));
                tracing::debug!(service = %service.port, error, "a rate limit service did not answer");
            }
        }
    }
    over
}

fn why(over: &[String]) -> String {
    if over.is_empty() { String::new() } else { format!("past {}", over.join(", ")) }
}

/// Where a request comes from: a workload of the mesh is seen by its own address, not by that of its host.
fn source(caller: &Caller) -> IpAddr {
    caller.virtual_address().map_or_else(|| caller.remote.ip(), Into::into)
}

/// Who asks, for as long as a trial needs it.
struct Asker {
    caller: Option<SpiffeId>,
    claims: Option<Rc<Claims>>,
    source: IpAddr,
}

impl Asker {
    fn of(caller: &Caller, request: &Authenticated<'_>) -> Self {
        Self { caller: caller.entry.peer().map(|peer| peer.id.clone()), claims: request.claims.clone(), source: source(caller) }
    }

    fn asking(&self) -> Asking<'_> {
        Asking { caller: self.caller.as_ref(), claims: self.claims.as_deref(), source: self.source }
    }
}

fn settle(limit: &RateLimit, state: &State, verdict: Verdict, held: &mut Held) -> Result<(), Failure> {
    match verdict {
        Verdict::Passes(taken) => {
            state.counts.allowed.fetch_add(1, Ordering::Relaxed);
            held.push(taken);
            Ok(())
        }
        Verdict::Over(wait) => Err(over(limit, state, wait)),
        Verdict::Unavailable => {
            let detail = format!("the limit {} lets nothing through while the control plane is away", limit.id);
            Err(Failure::new(Reason::RateLimitFailed, detail))
        }
    }
}

/// The end of a request that is past a limit.
fn over(limit: &RateLimit, state: &State, wait: Duration) -> Failure {
    state.counts.limited.fetch_add(1, Ordering::Relaxed);
    let told = told(limit, wait).into_iter().map(|(name, value)| (name.into(), value)).collect();
    Failure { told, ..Failure::new(Reason::RateLimited, format!("the limit {} is reached", limit.id)) }
}

/// Asks rate limit services: each once, about all limits that are its own.
async fn services(worker: &Rc<Worker>, head: &RequestHead, asking: Asking<'_>, asked: &[(&RateLimit, Arc<State>)]) -> Result<(), Failure> {
    let mut rest = asked;
    while let Some(service) = rest.first().and_then(|(limit, _)| limit.service()) {
        // Limits of one policy stand together.
        let alike = rest.iter().take_while(|(limit, _)| limit.service() == Some(service)).count();
        let (own, others) = rest.split_at(alike);
        rest = others;
        let descriptors: Vec<_> = own.iter().map(|(limit, _)| crate::limits::descriptor(limit, head, asking)).collect();
        match limit_service::ask(worker, service, &descriptors).await {
            Ok(said) => {
                for (index, (limit, state)) in own.iter().enumerate() {
                    match said.over.iter().find(|(at, _)| *at == index) {
                        Some((_, wait)) => {
                            let failure = over(limit, state, *wait);
                            let more = said.told.iter().map(|(name, value)| (name.clone().into(), value.clone()));
                            let mut told = failure.told;
                            // What the service says itself comes before what follows from its answer.
                            told.retain(|(name, _)| !said.told.iter().any(|(known, _)| known.eq_ignore_ascii_case(name)));
                            told.extend(more);
                            return Err(Failure { told, ..failure });
                        }
                        None => _ = state.counts.allowed.fetch_add(1, Ordering::Relaxed),
                    }
                }
                if let (true, [], Some((limit, state))) = (said.refused, said.over.as_slice(), own.first()) {
                    // It refuses the request as a whole.
                    return Err(over(limit, state, Duration::ZERO));
                }
            }
            Err(error) => {
                own.iter().for_each(|(_, state)| _ = state.counts.unavailable.fetch_add(1, Ordering::Relaxed));
                tracing::debug!(service = %service.port, error, "a rate limit service did not answer");
                if !service.fail_open {
                    let detail = format!("the rate limit service {} did not answer: {error}", service.port);
                    return Err(Failure::new(Reason::RateLimitFailed, detail));
                }
            }
        }
    }
    Ok(())
}
