//! One exchange, top to bottom: a request that came in, what was decided about it, and the answer that went back.
//!
//! clean → route → pick → connect → send → respond → record. Every step can end it with a reason; the record is
//! written once, when the exchange is over or dropped.

use std::rc::Rc;
use std::time::Instant;

use lorica_model::head::RequestHead;
use lorica_model::reason::{Reason, Side};

use super::accept::Boxed;
use super::caller::{Caller, Entry};
use super::clean;
use super::failure::Failure;
use super::pick::{self, Tried};
use super::record::ExchangeRecord;
use super::replay::Replay;
use super::respond;
use super::route;
use super::send::{self, Attempt};
use super::time::Times;
use super::way::{self, Way};
use crate::config::MAX_ATTEMPTS;
use crate::wire::{Body, Responder};
use crate::worker::Worker;

/// Passes one request on and its answer back.
pub fn run<'a>(worker: &'a Rc<Worker>, caller: &'a Caller, head: RequestHead, body: Body, responder: Responder) -> Boxed<'a> {
    Box::pin(async move {
        let mut record = ExchangeRecord::begin(worker, caller, &head);
        let mut body = Replay::new(body);
        let mut responder = Some(responder);
        let passed = pass(worker, caller, &head, &mut body, &mut responder, &mut record).await;
        record.received(body.received);
        if let Err(failure) = passed {
            record.fail(&failure);
            match responder {
                Some(responder) if !failure.answered => respond::refuse(responder, &head, failure.reason, &mut record).await,
                // Half an answer must not look like a whole one.
                Some(responder) => responder.reset(),
                None => {}
            }
        }
    })
}

async fn pass<'x>(
    worker: &Rc<Worker>,
    caller: &Caller,
    head: &'x RequestHead,
    body: &mut Replay,
    responder: &mut Option<Responder>,
    record: &mut ExchangeRecord<'x>,
) -> Result<(), Failure> {
    let from = match (&caller.entry, &caller.certificate) {
        (Entry::Outbound { .. }, _) => clean::From::App,
        (Entry::Inbound { .. }, Some(certificate)) => clean::From::Peer(certificate),
        (Entry::Inbound { .. }, None) => clean::From::Stranger,
    };
    let mut edits = clean::edits(head, from);
    record.identify(head, &mut edits);
    let way = way(worker, caller, head).await?;
    record.way(&way);
    let mut now = record.begun();
    let times = Times::begin(&way.timeouts, now.into());
    let mut tried = Tried::new();
    let mut attempt = 0;
    loop {
        attempt += 1;
        record.attempt(now);
        times.attempt(now.into());
        let failure = match pick::pick(worker, &way, &mut tried, now).await {
            Ok(mut picked) => {
                record.picked(&picked);
                worker.count_pool_use(picked.lease.reused);
                let parts = Attempt {
                    worker,
                    head,
                    edits: &edits,
                    body: &mut *body,
                    responder: &mut *responder,
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
        if attempt >= MAX_ATTEMPTS || !may_repeat(head, body, &failure) || !times.is_left() || way.is_exhausted(&tried) {
            return Err(failure);
        }
        tracing::debug!(reason = %failure.reason, detail = failure.detail, attempt, "another attempt");
        body.rewind();
        now = Instant::now();
    }
}

/// Where the request goes.
async fn way(worker: &Rc<Worker>, caller: &Caller, head: &RequestHead) -> Result<Way, Failure> {
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
            Ok(way::outbound(&reach, &worker.view(), head, fastrand::f64())?)
        }
        Entry::Inbound { port, .. } => Ok(way::inbound(port.app_port, port.protocol, caller.virtual_address(), head)),
    }
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
