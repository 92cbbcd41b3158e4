//! limit: whether a request is one too many. At the callee's proxy, so that nobody passes it by; at a gateway once its rule is known.
//!
//! A request must pass every limit that is about it; what it took of those before the one that refuses it goes back.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use lorica_model::head::RequestHead;
use lorica_model::reason::Reason;
use lorica_model::snapshot::{Asking, RateLimit, told};

use super::authenticate::Authenticated;
use super::caller::{Caller, Entry};
use super::failure::Failure;
use super::limit_service;
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
    let asking = Asking {
        caller: caller.entry.peer().map(|peer| &peer.id),
        claims: request.claims.as_deref(),
        // A workload of the mesh is seen by its own address, not by that of its host.
        source: caller.virtual_address().map_or_else(|| caller.remote.ip(), Into::into),
    };
    let mut held = Held::new();
    let mut asked: Vec<(&RateLimit, Arc<State>)> = Vec::new();
    for limit in limits.iter().filter(|limit| limit.is_about(head)) {
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
    Ok(held)
}

fn settle(limit: &RateLimit, state: &State, verdict: Verdict, held: &mut Held) -> Result<(), Failure> {
    match verdict {
        Verdict::Passes(taken) => {
            state.counts.allowed.fetch_add(1, Ordering::Relaxed);
            held.push(taken);
            Ok(())
        }
        Verdict::Over(wait) => over(limit, state, wait),
        Verdict::Unavailable if limit.shadow => Ok(()),
        Verdict::Unavailable => {
            let detail = format!("the limit {} lets nothing through while the control plane is away", limit.id);
            Err(Failure::new(Reason::RateLimitFailed, detail))
        }
    }
}

/// The end of a request that is past a limit, unless that is a shadow.
fn over(limit: &RateLimit, state: &State, wait: Duration) -> Result<(), Failure> {
    if limit.shadow {
        state.counts.shadowed.fetch_add(1, Ordering::Relaxed);
        return Ok(());
    }
    state.counts.limited.fetch_add(1, Ordering::Relaxed);
    let told = told(limit, wait).into_iter().map(|(name, value)| (name.into(), value)).collect();
    Err(Failure { told, ..Failure::new(Reason::RateLimited, format!("the limit {} is reached", limit.id)) })
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
                        Some((_, wait)) => over(limit, state, *wait).map_err(|failure| {
                            let more = said.told.iter().map(|(name, value)| (name.clone().into(), value.clone()));
                            let mut told = failure.told;
                            // What the service says itself comes before what follows from its answer.
                            told.retain(|(name, _)| !said.told.iter().any(|(known, _)| known.eq_ignore_ascii_case(name)));
                            told.extend(more);
                            Failure { told, ..failure }
                        })?,
                        None => _ = state.counts.allowed.fetch_add(1, Ordering::Relaxed),
                    }
                }
                if let (true, [], Some((limit, state))) = (said.refused, said.over.as_slice(), own.first()) {
                    // It refuses the request as a whole.
                    over(limit, state, Duration::ZERO)?;
                }
            }
            Err(error) => {
                own.iter().for_each(|(_, state)| _ = state.counts.unavailable.fetch_add(1, Ordering::Relaxed));
                tracing::debug!(service = %service.port, error, "a rate limit service did not answer");
                if !service.fail_open && own.iter().any(|(limit, _)| !limit.shadow) {
                    let detail = format!("the rate limit service {} did not answer: {error}", service.port);
                    return Err(Failure::new(Reason::RateLimitFailed, detail));
                }
            }
        }
    }
    Ok(())
}
