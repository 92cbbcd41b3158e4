//! hedge: a second attempt beside one that is slow to answer, on another endpoint; the first answer goes to the caller, and the others are given up.
//!
//! Only requests without a body that may be repeated are hedged, and each attempt beside the first counts as a retry within the service's limit. An
//! endpoint that was outrun is remembered as at least so slow.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Instant;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use lorica_model::head::{Edits, RequestHead, ResponseHead};
use lorica_model::reason::Reason;
use lorica_model::snapshot::Hedge;
use lorica_observe::metrics::OwnMetric;
use tokio::time::sleep_until;

use super::deadline;
use super::explain::{self, Explained};
use super::failure::Failure;
use super::pick::{self, Earlier, Picked};
use super::retry::Terms;
use super::send::{Attempt, Delivery, upgrade};
use super::time::Times;
use super::unserved::Unserved;
use super::way::{Leave, Way};
use crate::wire::{Answer, Body, Outgoing, Receiver, Sender, WireError};
use crate::worker::Worker;

/// How a request is hedged, if it is: where the policy asks for it, a second request repeats nothing, and nobody before this hop tries again.
#[must_use]
pub fn terms(attempt: &Attempt<'_, '_>) -> Option<Hedge> {
    let terms = attempt.answers.terms;
    let hedge = attempt.way.decided().and_then(|(rule, _)| rule.forward()?.hedge)?;
    let may = terms.is_repeatable && !terms.is_retried && attempt.body.is_end() && upgrade(attempt.head).is_none();
    may.then_some(hedge)
}

/// Why attempts under way are given up.
#[derive(Clone, Copy)]
enum GivenUp {
    /// The caller went away, which says nothing of who was asked.
    Unheard,
    /// Another endpoint answered before.
    Outrun,
    /// Their time is over.
    Over(Reason),
}

/// An endpoint that was asked. Dropped without its answer, it is told why it was given up.
struct Asked<'x> {
    picked: Option<Picked>,
    given_up: &'x Cell<GivenUp>,
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        let Some(picked) = &self.picked else { return };
        match self.given_up.get() {
            GivenUp::Unheard => {}
            GivenUp::Outrun => picked.outrun(Instant::now()),
            GivenUp::Over(reason) => picked.ended(reason, Instant::now()),
        }
    }
}

/// An answer's head and what belongs to it.
struct Answered {
    picked: Picked,
    response: ResponseHead,
    body: Body,
    /// Kept for as long as the answer is read.
    _halves: (Sender, Receiver),
}

/// What is asked of each endpoint.
#[derive(Clone, Copy)]
struct Question<'x> {
    worker: &'x Rc<Worker>,
    way: &'x Way,
    head: &'x RequestHead,
    edits: &'x Edits,
    times: &'x Times,
    terms: Terms<'x>,
    earlier: &'x Earlier,
    given_up: &'x Cell<GivenUp>,
    explained: Option<&'x Explained>,
}

/// Makes one attempt, and others beside it as long as none is answered. `number`: of the first.
///
/// # Errors
/// Where none was answered: why the last was not.
pub async fn attempt(attempt: Attempt<'_, '_>, hedge: Hedge, number: u32, earlier: &Earlier) -> Result<(), Failure> {
    let Attempt { worker, head, edits, way, mut answers, body: _, responder: slot, alternative, record, times } = attempt;
    let given_up = Cell::new(GivenUp::Unheard);
    let explained = record.explained().cloned();
    let explained = explained.as_deref();
    let question = Question { worker, way, head, edits, times, terms: answers.terms, earlier, given_up: &given_up, explained };
    let mut asked = FuturesUnordered::new();
    asked.push(question.ask(number));
    let mut leaves: Vec<Leave> = Vec::new();
    let mut next = tokio::time::Instant::now() + hedge.after;
    let mut more = hedge.attempts;
    let responder = slot.as_mut().ok_or_else(|| Failure::from(Reason::ClientClosed).answered())?;
    let Answered { picked, response, body, _halves } = loop {
        tokio::select! {
            biased;
            Some(answered) = asked.next() => match answered {
                // Another that is under way may do better.
                Ok(Answered { picked, response, .. }) if !asked.is_empty() && answers.terms.instead_of(&response, Unserved::told(&response, picked.active.as_ref())).is_some() => {
                    picked.answered(&response, Instant::now());
                }
                Ok(answered) => break answered,
                Err(failure) if asked.is_empty() => return Err(failure),
                Err(failure) => tracing::debug!(reason = %failure.reason, detail = failure.detail, "one of several attempts failed"),
            },
            () = sleep_until(next), if more > 0 => {
                next += hedge.after;
                more -= 1;
                // Asking one endpoint twice gains little.
                match earlier.leave_others(way).then(|| way.leave_to_retry(worker)).flatten() {
                    Some(leave) => {
                        worker.telemetry.metrics.count(OwnMetric::HEDGES, "", 1);
                        leaves.push(leave);
                        asked.push(question.ask(number + hedge.attempts - more));
                    }
                    None => more = 0,
                }
            }
            () = responder.gone() => return Err(Failure::new(Reason::ClientClosed, "it went away before there was an answer")),
            reason = times.over() => {
                given_up.set(GivenUp::Over(reason));
                return Err(reason.into());
            }
        }
    };
    given_up.set(GivenUp::Outrun);
    drop(asked);
    drop(leaves);
    let now = Instant::now();
    record.picked(&picked);
    picked.answered(&response, now);
    record.response(&response, now);
    record.step("send");
    if let Some(again) = answers.takes(worker, way, &picked, &response) {
        let detail = format!("the last attempt was answered with {}", response.status);
        return Err(Failure { again: Some(again), ..Failure::new(Reason::RequestTimeout, detail) });
    }
    Delivery { head, way, alternative, slot, record, times }.alone(&picked, &response, body).await
}

impl Question<'_> {
    /// Asks one endpoint.
    async fn ask(self, number: u32) -> Result<Answered, Failure> {
        let Self { worker, way, head, edits, times, terms, earlier, given_up, explained } = self;
        let now = Instant::now();
        let edits = deadline::said_on(head, edits, times.left(now.into()), number);
        let mut asked = Asked { picked: Some(pick::pick(worker, way, earlier, now).await?), given_up };
        let answered = match &mut asked.picked {
            Some(picked) => {
                let edits = explain::goes_on(worker, head, &edits, explained, picked);
                answered(worker, picked, &Outgoing { head, edits: &edits, length: Some(0), upgrade: None }).await
            }
            None => Err(Failure::from(Reason::NoEndpoint)),
        };
        match (answered, asked.picked.take()) {
            (Ok((response, body, halves)), Some(picked)) => Ok(Answered { picked, response, body, _halves: halves }),
            (Err(failure), Some(picked)) => Err(picked.failed(failure, earlier, terms)),
            (_, None) => Err(Failure::from(Reason::NoEndpoint)),
        }
    }
}

/// Sends a request without a body, and waits for the head of its answer.
async fn answered(
    worker: &Worker,
    picked: &mut Picked,
    outgoing: &Outgoing<'_>,
) -> Result<(ResponseHead, Body, (Sender, Receiver)), Failure> {
    let failed = |error: WireError| Failure::upstream(&error);
    worker.count_pool_use(picked.lease.reused);
    let (mut sender, mut receiver) = picked.lease.send(outgoing).await.map_err(failed)?;
    // Where the upstream took no more, its answer says why.
    drop(sender.end(None).await);
    loop {
        if let Answer::Final(response, body) = receiver.answer().await.map_err(failed)? {
            return Ok((response, body, (sender, receiver)));
        }
    }
}
