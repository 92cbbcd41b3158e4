//! One exchange, top to bottom: a request that came in, what was decided about it, and the answer that went back.
//!
//! clean → route → limit → filter → pick → connect → send → respond → record. Every step can end it with a reason; the record is
//! written once, when the exchange is over or dropped.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use lorica_model::head::{Edits, RequestHead};
use lorica_model::reason::{Reason, Side};
use lorica_model::snapshot::HttpRule;

use super::accept::Boxed;
use super::caller::{Caller, Entry};
use super::clean;
use super::failure::Failure;
use super::filter;
use super::gateway;
use super::limit;
use super::mirror;
use super::pick::{self, Tried};
#[cfg(feature = "http3")]
use super::quic;
use super::record::ExchangeRecord;
use super::replay::Replay;
use super::respond;
use super::route;
use super::send::{self, Attempt};
use super::time::Times;
use super::way::{self, Asked, Decided, Way};
use crate::config::MAX_ATTEMPTS;
use crate::wire::{Body, Responder};
use crate::worker::Worker;

/// The rule that decided, and which of its backends was drawn, if there is any.
pub type ByRule = (Arc<HttpRule>, Option<usize>);

/// Passes one request on and its answer back.
pub fn run<'a>(worker: &'a Rc<Worker>, caller: &'a Caller, head: RequestHead, body: Body, responder: Responder) -> Boxed<'a> {
    Box::pin(async move {
        let mut record = ExchangeRecord::begin(worker, caller, &head);
        let mut body = Replay::new(body);
        let mut responder = Some(responder);
        #[cfg(feature = "http3")]
        let alternative = quic::alternative(worker, caller, &head);
        #[cfg(not(feature = "http3"))]
        let alternative: Option<String> = None;
        let mut decided = None;
        let passed = pass(worker, caller, &head, &mut body, &mut responder, alternative.as_deref(), &mut decided, &mut record).await;
        record.received(body.received);
        if let Err(failure) = passed {
            record.fail(&failure);
            match responder {
                Some(responder) if !failure.answered => {
                    respond::refuse(responder, &head, &failure, decided.as_ref(), alternative.as_deref(), &mut record).await;
                }
                // Half an answer must not look like a whole one.
                Some(responder) => responder.reset(),
                None => {}
            }
        }
    })
}

#[expect(clippy::too_many_arguments, reason = "what an exchange holds, borrowed apart")]
async fn pass<'x>(
    worker: &Rc<Worker>,
    caller: &Caller,
    head: &'x RequestHead,
    body: &mut Replay,
    responder: &mut Option<Responder>,
    alternative: Option<&str>,
    decided: &mut Option<ByRule>,
    record: &mut ExchangeRecord<'x>,
) -> Result<(), Failure> {
    let from = match (&caller.entry, &caller.certificate) {
        (Entry::Outbound { .. }, _) => clean::From::App,
        (Entry::Inbound { .. }, Some(certificate)) => clean::From::Peer(certificate),
        (Entry::Inbound { .. }, None) | (Entry::Gateway { .. } | Entry::Egress { .. }, _) => clean::From::Stranger,
    };
    let mut edits = clean::edits(head, from);
    record.identify(head, &mut edits);
    if let Entry::Gateway { tls, .. } = &caller.entry {
        clean::forwarded(head, &mut edits, caller.remote.ip(), *tls);
    }
    let way = match decide(worker, caller, head).await? {
        Decided::Way(way) => way,
        Decided::Answer(answer, rule) => {
            record.rule(&rule);
            let responder = responder.take().ok_or_else(|| Failure::from(Reason::ClientClosed).answered())?;
            respond::answer(responder, head, answer, &rule, alternative, record).await;
            return Ok(());
        }
        Decided::Nowhere(reason, rule, drawn) => {
            record.rule(&rule);
            *decided = Some((rule, drawn));
            return Err(reason.into());
        }
    };
    *decided = way.rule.as_ref().map(|(rule, drawn)| (rule.clone(), Some(*drawn)));
    record.way(&way);
    // Held to the end: of what counts requests under way, this is one.
    let _held = limit::hold(worker, caller, head, &way).await?;
    if let Some(call) = way.grpc_web {
        call.ask(head, &mut edits);
        if let Some(decoder) = call.decoder() {
            body.decode(decoder);
        }
        record.is_grpc();
    }
    if let Some((rule, backend)) = way.decided() {
        filter::request(head, rule, backend, &mut edits);
    }
    let mirrors = mirror::begin(worker, &way, head, &edits, body);
    let passed = attempts(worker, &way, head, &edits, body, responder, alternative, record).await;
    mirrors.end(body);
    passed
}

/// Tries one endpoint after another, as far as that is safe and the rule allows.
#[expect(clippy::too_many_arguments, reason = "what an exchange holds, borrowed apart")]
async fn attempts<'x>(
    worker: &Rc<Worker>,
    way: &Way,
    head: &'x RequestHead,
    edits: &Edits,
    body: &mut Replay,
    responder: &mut Option<Responder>,
    alternative: Option<&str>,
    record: &mut ExchangeRecord<'x>,
) -> Result<(), Failure> {
    let retry = way.decided().and_then(|(rule, _)| rule.forward()).map(|forward| &forward.retry);
    let most = retry.map_or(MAX_ATTEMPTS, |retry| retry.attempts.saturating_add(1));
    let mut now = record.begun();
    let times = Times::begin(&way.timeouts, now.into());
    let mut tried = Tried::new();
    let mut attempt = 0;
    loop {
        attempt += 1;
        record.attempt(now);
        times.attempt(now.into());
        let failure = match pick::pick(worker, way, &mut tried, now).await {
            Ok(mut picked) => {
                record.picked(&picked);
                worker.count_pool_use(picked.lease.reused);
                let parts = Attempt {
                    worker,
                    head,
                    edits,
                    way,
                    again_after: retry.filter(|_| attempt < most).map(|retry| retry.codes.as_slice()).unwrap_or_default(),
                    body: &mut *body,
                    responder: &mut *responder,
                    alternative,
                    record: &mut *record,
                    times: &times,
                };
                match send::attempt(parts, &mut picked).await {
                    Ok(()) => return Ok(()),
                    Err(failure) => {
                        if let Some(active) = picked.active.as_ref().filter(|_| failure.reason.meaning().side != Side::Client) {
                            active.failed(Instant::now());
                        }
                        if picked.lease.reused {
                            // A kept connection that broke says little of its endpoint: a new one there may do.
                            tried.pop();
                            picked.lease.forget_others();
                        }
                        failure
                    }
                }
            }
            Err(error) => error.into(),
        };
        let may_repeat = match retry {
            None => may_repeat(head, body, &failure) && !way.is_exhausted(&tried),
            Some(_) => may_retry(head, body, &failure),
        };
        if attempt >= most || !may_repeat || !times.is_left() {
            return Err(failure);
        }
        if let Some(retry) = retry {
            if way.is_exhausted(&tried) {
                // All were tried: the rule asks for another round.
                tried.clear();
            }
            if times.pause(retry.pause.before(attempt, fastrand::f64())).await.is_err() {
                return Err(Reason::RequestTimeout.into());
            }
        }
        tracing::debug!(reason = %failure.reason, detail = failure.detail, attempt, "another attempt");
        body.rewind();
        now = Instant::now();
    }
}

/// What is done with the request.
async fn decide(worker: &Rc<Worker>, caller: &Caller, head: &RequestHead) -> Result<Decided, Failure> {
    match &caller.entry {
        Entry::Outbound { port } => {
            let reach = match caller.remembered(worker.view_number()) {
                Some(reach) => reach,
                None => {
                    let reach = route::reach(worker, port).await?;
                    caller.remember(worker.view_number(), reach.clone());
                    reach
                }
            };
            let asked = Asked { called: Some(&reach), view: &worker.view(), scheme: "http" };
            Ok(way::by_rules(asked, &reach.unit.rules, head, fastrand::f64())?)
        }
        // What an egress gateway takes is no exchange.
        Entry::Egress { .. } => Err(Reason::NotImplemented.into()),
        Entry::Inbound { port, .. } => Ok(Decided::Way(way::inbound(port.app_port, port.protocol, caller.virtual_address(), head))),
        Entry::Gateway { port, chain, tls } => {
            let view = worker.view();
            let hosts = gateway::hosts(&view, *port, chain.as_ref()).ok_or(Reason::NoRoute)?;
            let rules = hosts.rules(head.authority()).ok_or(Reason::NoRoute)?;
            let asked = Asked { called: None, view: &view, scheme: if *tls { "https" } else { "http" } };
            Ok(way::by_rules(asked, rules, head, fastrand::f64())?)
        }
    }
}

/// Whether a rule that asks for retries may have one: after an answer that it lists; after a connection that failed, or an attempt that took too
/// long, where repeating is safe.
fn may_retry(head: &RequestHead, body: &Replay, failure: &Failure) -> bool {
    let listed = failure.again;
    let slow = failure.reason == Reason::RequestTimeout && head.is_idempotent();
    !failure.answered && body.is_replayable() && (listed || slow || may_repeat(head, body, failure))
}

/// Whether sending the request again can repeat nothing, or nothing that matters. A payment is never sent twice.
fn may_repeat(head: &RequestHead, body: &Replay, failure: &Failure) -> bool {
    let transient = matches!(
        failure.reason,
        Reason::ConnectFailed
            | Reason::ConnectTimeout
            | Reason::UpstreamTls
            | Reason::UpstreamIdentity
            | Reason::UpstreamClosed
            | Reason::UpstreamReset
    );
    transient && !failure.answered && body.is_replayable() && (failure.unsent || head.is_idempotent())
}
