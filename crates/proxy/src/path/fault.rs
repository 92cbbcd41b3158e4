//! fault: what FaultPolicies do to a request or a connection before anything is tried. What they do is never retried, is counted, and is told
//! to the caller and in the record for what it is. Where there is no fault, nothing happens here.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use lorica_model::head::RequestHead;
use lorica_model::reason::Reason;
use lorica_model::snapshot::{Fault, FaultCall, FaultCaller, Injected, InjectedEnd, Origin, inject, tried_faults};
use lorica_observe::metrics::OwnMetric;
use tokio::time::{sleep, sleep_until};

use super::caller::Caller;
use super::exchange::ByRule;
use super::failure::Failure;
use super::record::{ConnectionRecord, ExchangeRecord};
use super::respond;
use super::trial;
use super::way::{To, Way};
use crate::wire::Responder;
use crate::worker::Worker;

/// Whether the rule of a request has any. Hardly one does.
#[must_use]
pub fn is_faulty(way: &Way) -> bool {
    !faults(way).is_empty()
}

fn faults(way: &Way) -> &[Fault] {
    way.decided().and_then(|(rule, _)| rule.forward()).map(|forward| forward.faults.as_slice()).unwrap_or_default()
}

/// Lets a request meet the faults of its rule. True: it was answered or reset, and is over. `deadline`: what its caller gives it; the timeouts of
/// its rule begin after its delay.
///
/// # Errors
/// Where the caller goes away while it waits, or the time that it gave is over.
#[expect(clippy::too_many_arguments, reason = "what an exchange holds, borrowed apart")]
pub async fn request(
    worker: &Rc<Worker>,
    caller: &Caller,
    head: &RequestHead,
    way: &mut Way,
    deadline: Option<Instant>,
    slot: &mut Option<Responder>,
    decided: Option<&ByRule>,
    alternative: Option<&str>,
    record: &mut ExchangeRecord<'_>,
) -> Result<bool, Failure> {
    let to = if let To::Endpoints(reach) = &way.to { Some(&reach.unit.port) } else { None };
    let call = FaultCall::Request { head, to };
    try_out(worker, caller, faults(way), call);
    let Injected { delay, end, bytes_per_second, by } = met(worker, faults(way), call);
    let Some(by) = by.cloned() else { return Ok(false) };
    way.bytes_per_second = bytes_per_second;
    record.fault(&by, delay.is_some());
    let gone = || Failure::from(Reason::ClientClosed).answered();
    if let Some(delay) = delay {
        let responder = slot.as_mut().ok_or_else(gone)?;
        let over = deadline.filter(|deadline| *deadline < Instant::now() + delay);
        let until = over.unwrap_or_else(|| Instant::now() + delay);
        tokio::select! {
            () = sleep_until(until.into()) => {}
            () = responder.gone() => return Err(Failure::new(Reason::ClientClosed, "it went away while a fault held it up")),
        }
        if over.is_some() {
            return Err(Failure::new(Reason::DeadlineExceeded, "its time was over while a fault held it up"));
        }
        record.held_up();
    }
    let Some(end) = end else { return Ok(false) };
    let responder = slot.take().ok_or_else(gone)?;
    record.fail(&Failure::new(Reason::FaultInjected, policy(&by)));
    match end {
        InjectedEnd::Reset => {
            record.answered(0, None, 0);
            responder.reset();
        }
        InjectedEnd::Answer(answer) => {
            let statuses = (answer.http(), answer.grpc());
            respond::refuse_as(responder, head, (Reason::FaultInjected, &[]), statuses, decided, alternative, record).await;
        }
    }
    Ok(true)
}

/// Lets a connection whose bytes are not looked at meet `faults`. How many bytes a second come back of it; none: as many as there are.
///
/// # Errors
/// Where it is to be reset: what the record is to say.
pub async fn connection(
    worker: &Rc<Worker>,
    caller: &Caller,
    faults: &[Fault],
    record: &mut ConnectionRecord<'_>,
) -> Result<Option<u64>, String> {
    if faults.is_empty() {
        return Ok(None);
    }
    try_out(worker, caller, faults, FaultCall::Bytes);
    let Injected { delay, end, bytes_per_second, by } = met(worker, faults, FaultCall::Bytes);
    let Some(by) = by else { return Ok(None) };
    record.fault(by, delay.is_some());
    if let Some(delay) = delay {
        sleep(delay).await;
    }
    if end.is_some() { Err(policy(by)) } else { Ok(bytes_per_second) }
}

/// Who calls, as faults know it.
fn own(worker: &Worker) -> FaultCaller<'_> {
    FaultCaller { namespace: &worker.own.namespace, account: &worker.own.account }
}

/// Tells what faults that are tried would do to a call.
fn try_out(worker: &Worker, caller: &Caller, faults: &[Fault], call: FaultCall<'_>) {
    let head = if let FaultCall::Request { head, .. } = call { Some(head) } else { None };
    for (policy, effects) in tried_faults(faults, call, own(worker), SystemTime::now(), fastrand::f64) {
        trial::tell(worker, caller, head, policy, effects, "");
    }
}

/// What a call meets, counted.
fn met<'f>(worker: &Rc<Worker>, faults: &'f [Fault], call: FaultCall<'_>) -> Injected<'f> {
    let injected = inject(faults, call, own(worker), SystemTime::now(), fastrand::f64);
    let end = injected.end.map(|end| match end {
        InjectedEnd::Reset => "reset",
        InjectedEnd::Answer(_) => "abort",
    });
    let delay = injected.delay.map(|_| "delay");
    // An answer of the mesh's own is not slowed down.
    let bandwidth = injected.bytes_per_second.filter(|_| end.is_none()).map(|_| "bandwidth");
    for word in [delay, end, bandwidth].into_iter().flatten() {
        worker.telemetry.metrics.count(OwnMetric::FAULTS_INJECTED, word, 1);
    }
    injected
}

/// The policy, for people.
fn policy(origin: &Arc<Origin>) -> String {
    format!("{} {}.{} asks for it", origin.kind, origin.name, origin.namespace)
}
