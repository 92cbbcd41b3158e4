//! One exchange, top to bottom: a request that came in, what was decided about it, and the answer that went back.
//!
//! authenticate → route → clean → authorize → limit → external → fault → filter → pick → connect → send → respond → record. Every step can
//! end it with a reason; the record is written once, when the exchange is over or dropped.

use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lorica_model::head::{Edits, RequestHead};
use lorica_model::reason::Reason;
use lorica_model::snapshot::{HttpRule, RuleTable, Timeouts};

use super::accept::Boxed;
use super::authenticate::{self, Authenticated, Heads, Looked};
use super::authorize::{self, Asking, Judged};
use super::caller::{Caller, Entry};
use super::clean;
use super::deadline::{self, Told};
use super::explain;
use super::external;
use super::failure::{Again, Failure};
use super::fault;
use super::filter;
use super::gateway;
use super::hedge;
use super::limit;
use super::mirror;
use super::pick::{self, Earlier};
#[cfg(feature = "http3")]
use super::quic;
use super::record::ExchangeRecord;
use super::replay::Replay;
use super::respond;
use super::retry::Terms;
use super::route;
use super::send::{self, AnswersGivenUp, Attempt};
use super::time::Times;
use super::trial;
use super::unserved::Unserved;
use super::way::{self, Asked, Decided, Leave, Way};
use crate::config::REPLAY_BYTES;
use crate::pool::Reuse;
use crate::wire::{Body, Responder};
use crate::worker::Worker;

/// The rule that decided, and which of its backends was drawn, if there is any.
pub type ByRule = (Arc<HttpRule>, Option<usize>);

/// Passes one request on and its answer back.
pub fn run<'a>(worker: &'a Rc<Worker>, caller: &'a Caller, head: RequestHead, body: Body, responder: Responder) -> Boxed<'a> {
    // Its place is had before it is made, so that it is made there: `Box::pin` would copy all of its room.
    let place = Box::new_uninit();
    let exchange = async move {
        let heads = Heads::default();
        let mut record = ExchangeRecord::begin(worker, caller, &head);
        explain::begin(worker, caller, &head, &mut record);
        let mut body = Replay::new(body);
        let mut responder = Some(responder);
        #[cfg(feature = "http3")]
        let alternative = quic::alternative(worker, caller, &head);
        #[cfg(not(feature = "http3"))]
        let alternative: Option<String> = None;
        let mut decided = None;
        let came = record.came();
        let looked = authenticate::look(worker, caller, &head, &heads);
        // It is judged by all that is known of it, now and whenever policies change.
        let (judged, looked) = match &caller.entry {
            Entry::Inbound { .. } => match looked.settle(worker, caller, None) {
                Ok(request) => (request.head, Ok(Request::Known(request))),
                Err(failure) => (&head, Err(failure)),
            },
            _ => (looked.head, Ok(Request::Looked(looked))),
        };
        let passed = match looked {
            Ok(request) => {
                let passing =
                    pin!(pass(worker, caller, request, &mut body, &mut responder, alternative.as_deref(), &mut decided, &mut record));
                authorize::while_allowed(worker, caller, || Judged { head: judged, claims: heads.claims(), came }, passing).await
            }
            Err(failure) => {
                record.leave_query_out(&head);
                record.identify(&head, &mut Edits::default());
                Err(failure)
            }
        };
        record.received(body.received);
        if let Err(mut failure) = passed {
            // Who takes a permission away does not know how far an answer has come.
            failure.answered |= matches!(failure.reason, Reason::AccessDenied | Reason::AmbiguousPath) && record.is_answered();
            record.fail(&failure);
            failure.told.extend(Unserved::field(caller, &failure));
            match responder {
                Some(responder) if !failure.answered => {
                    respond::refuse(responder, &head, &failure, decided.as_ref(), alternative.as_deref(), &mut record).await;
                }
                // Half an answer must not look like a whole one.
                Some(responder) => responder.reset(),
                None => {}
            }
        }
    };
    let exchange = Box::write(place, exchange);
    Box::into_pin(exchange)
}

/// A request whose tokens were looked at.
enum Request<'x> {
    /// It may go on, as far as its token goes.
    Known(Authenticated<'x>),
    /// Its rule is to tell which token it needs.
    Looked(Looked<'x>),
}

impl<'x> Request<'x> {
    /// The head that rules are chosen by.
    fn head(&self) -> &'x RequestHead {
        match self {
            Self::Known(request) => request.head,
            Self::Looked(looked) => looked.head,
        }
    }
}

#[expect(clippy::too_many_arguments, reason = "what an exchange holds, borrowed apart")]
async fn pass<'x>(
    worker: &Rc<Worker>,
    caller: &Caller,
    request: Request<'x>,
    body: &mut Replay,
    responder: &mut Option<Responder>,
    alternative: Option<&str>,
    decided: &mut Option<ByRule>,
    record: &mut ExchangeRecord<'x>,
) -> Result<(), Failure> {
    let came = request.head();
    record.step("begin");
    let found = decide(worker, caller, came, record).await;
    record.step("route");
    let settled = match request {
        Request::Known(request) => Ok(request),
        Request::Looked(looked) => looked.settle(worker, caller, found.as_ref().ok().and_then(Decided::rule)),
    };
    let head = settled.as_ref().map_or(came, |request| request.head);
    if settled.as_ref().map_or(true, |request| request.secret_query) {
        record.leave_query_out(head);
    }
    let from = match (&caller.entry, &caller.certificate) {
        (Entry::Outbound { .. }, _) => clean::From::App,
        (Entry::Inbound { .. }, Some(certificate)) => clean::From::Peer(certificate),
        (Entry::Inbound { .. }, None) | (Entry::Gateway { .. } | Entry::Egress { .. }, _) => clean::From::Stranger,
    };
    let mut edits = clean::edits(head, from);
    let mut told = Told::of(head, from, record.begun());
    // What the app says on is what it was told; what it does not, its proxy remembers.
    let bequest = match &caller.entry {
        Entry::Inbound { .. } => deadline::bequeath(worker, head, told, record.explained()),
        Entry::Outbound { .. } => {
            told = worker.heirs.inherited(head, told);
            None
        }
        Entry::Gateway { .. } | Entry::Egress { .. } => None,
    };
    record.identify(head, &mut edits);
    record.deadline(told.deadline);
    if let Entry::Gateway { tls, .. } = &caller.entry {
        clean::forwarded(head, &mut edits, caller.remote.ip(), *tls);
    }
    let request = match settled {
        Ok(request) => request,
        Err(failure) => {
            // What its rule says of answers holds for this one as well.
            if let Some(rule) = found?.shared_rule() {
                record.rule(rule);
                *decided = Some((rule.clone(), None));
            }
            return Err(failure);
        }
    };
    body.bar(request.claim_headers());
    if let (Entry::Gateway { port, chain, .. }, Some(rule)) = (&caller.entry, found.as_ref().ok().and_then(Decided::shared_rule)) {
        gateway::led_by_its_path(worker, *port, chain.as_ref(), rule, came)?;
    }
    let judged = Judged { head, claims: request.claims.as_deref(), came: record.came() };
    let mut way = match found? {
        Decided::Way(way) => way,
        Decided::Answer(answer, rule) => {
            record.rule(&rule);
            let asking = authorized(worker, caller, judged, Some(&rule), record)?;
            let asked = ask(worker, caller, judged, asking, (&Timeouts::default(), told), body, &mut edits).await?;
            let told = asked.map(|asked| asked.response).unwrap_or_default();
            let responder = responder.take().ok_or_else(|| Failure::from(Reason::ClientClosed).answered())?;
            respond::answer(responder, head, answer, &rule, &told, alternative, record).await;
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
    record.step("authenticate");
    let asking = authorized(worker, caller, judged, way.rule.as_ref().map(|(rule, _)| &**rule), record)?;
    record.step("authorize");
    // Held to the end: of what counts requests under way, this is one.
    let _held = limit::hold(worker, caller, &request, &way).await?;
    record.step("limit");
    if let Some(call) = way.grpc_web {
        call.ask(head, &mut edits);
        if let Some(decoder) = call.decoder() {
            body.decode(decoder);
        }
        record.is_grpc();
    }
    let asked = ask(worker, caller, judged, asking, (&way.timeouts, told), body, &mut edits).await?;
    record.step("external");
    if fault::is_faulty(&way) {
        // Boxed, as what is boxed here takes no room in other exchanges.
        let met = fault::request(worker, caller, head, &mut way, told.deadline, responder, decided.as_ref(), alternative, record);
        if Box::pin(met).await? {
            return Ok(());
        }
        record.step("fault");
    }
    if let Some((rule, backend)) = way.decided() {
        filter::request(head, rule, backend, &mut edits);
    }
    if let Some(asked) = asked {
        asked.query(head, &mut edits);
        way.told = asked.response;
    }
    let mirrors = mirror::begin(worker, &way, head, &edits, body);
    let judging = trial::Exchange::begin(worker, caller, head, &way, told.is_retry(), record.ready());
    let judging = judging.as_deref();
    let tries = Tries { worker, way: &way, head, edits: &edits, told, alternative, body: &mut *body, responder, record, judging };
    let passed = tries.run().await;
    if let Some(judging) = judging {
        judging.over(&passed, body.is_replayable(), Instant::now());
    }
    mirrors.end(body);
    drop(bequest);
    passed
}

/// Whether a request may be made, and which services are to be asked of it.
fn authorized(
    worker: &Worker,
    caller: &Caller,
    request: Judged<'_>,
    rule: Option<&HttpRule>,
    record: &mut ExchangeRecord<'_>,
) -> Result<Option<Asking>, Failure> {
    if let Some(full) = record.full()
        && let Some((authorization, port)) = authorize::judges(worker, caller, rule)
    {
        full.judged(worker, caller, &authorization, request, port);
    }
    authorize::request(worker, caller, request, rule, record.decided_by())
}

/// Asks the services that are to be asked for leave, as long as there is time; none nearly everywhere.
async fn ask(
    worker: &Rc<Worker>,
    caller: &Caller,
    request: Judged<'_>,
    asking: Option<Asking>,
    (timeouts, told): (&Timeouts, Told),
    body: &mut Replay,
    edits: &mut Edits,
) -> Result<Option<external::Asked>, Failure> {
    let Some(asking) = asking else { return Ok(None) };
    let times = Times::begin(timeouts, told.deadline.map(Into::into), Instant::now().into());
    // Boxed, as what is boxed here takes no room in other exchanges.
    let asking = Box::pin(external::ask(worker, caller, request, &asking, body, edits));
    tokio::select! {
        biased;
        asked = asking => asked.map(Some),
        reason = times.over() => Err(reason.into()),
    }
}

/// What is tried, until it is answered or nothing may be tried any more.
struct Tries<'t, 'x> {
    worker: &'t Rc<Worker>,
    way: &'t Way,
    head: &'x RequestHead,
    edits: &'t Edits,
    told: Told,
    alternative: Option<&'t str>,
    body: &'t mut Replay,
    responder: &'t mut Option<Responder>,
    record: &'t mut ExchangeRecord<'x>,
    /// What policies that are tried would have done.
    judging: Option<&'t trial::Exchange<'t>>,
}

impl Tries<'_, '_> {
    /// Tries one endpoint after another, as far as that is safe, the policy allows, and there is time.
    async fn run(self) -> Result<(), Failure> {
        let Tries { worker, way, head, edits, told, alternative, body, responder, record, judging } = self;
        let terms = Terms::of(way.retry(), head, told.is_retry());
        let mut now = record.ready();
        let times = Times::begin(&way.timeouts, told.deadline.map(Into::into), now.into());
        times.check(now.into())?;
        // A body that may be too long to be kept is sent once.
        let kept = body.length().is_some_and(|length| length <= REPLAY_BYTES as u64);
        let earlier = Earlier::none(if kept { Reuse::Any } else { Reuse::Recent });
        let (mut number, mut unseen) = (1, 0);
        let mut leave: Option<Leave> = None;
        loop {
            record.attempt(now);
            if let Some(full) = record.full() {
                earlier.survey(way, full, now);
            }
            times.attempt(now.into());
            if let Some(judging) = judging {
                judging.attempt(number, now);
            }
            let edits = deadline::said_on(head, edits, times.left(now.into()), number.max(told.attempt));
            // Held until the attempt has ended: it counts as a retry under way.
            let answers = AnswersGivenUp { terms, may: number <= terms.retry.attempts, leave: leave.take(), judging };
            let attempt = Attempt {
                worker,
                head,
                edits: &edits,
                way,
                answers,
                body: &mut *body,
                responder: &mut *responder,
                alternative,
                record: &mut *record,
                times: &times,
            };
            let tried_now = match hedge::terms(&attempt) {
                Some(hedge) => Box::pin(hedge::attempt(attempt, hedge, number, &earlier)).await,
                None => attempted(attempt, &earlier, now).await,
            };
            let Err(mut failure) = tried_now else { return Ok(()) };
            if !body.is_replayable() {
                return Err(failure);
            }
            if failure.stale && unseen < MAX_UNSEEN {
                // Nobody need know: it is no attempt of the user's.
                unseen += 1;
                worker.count_stale();
                record.unseen();
            } else {
                if number > terms.retry.attempts || !terms.after(&failure) || times.check(Instant::now().into()).is_err() {
                    return Err(failure);
                }
                let again = match failure.again.take() {
                    Some(again) => again,
                    // What reached nobody adds nothing to anybody's load.
                    None if failure.unsent => Again { wait: None, leave: Leave::unlimited() },
                    None => match way.leave_to_retry(worker) {
                        Some(leave) => Again { wait: None, leave },
                        None => return Err(failure.noted("it was not tried again, as limits.retries is reached")),
                    },
                };
                leave = Some(again.leave);
                record.tried(&failure);
                let others = earlier.leave_others(way);
                if !others || !terms.retry.avoid_tried {
                    earlier.forget_tried();
                }
                // Where nothing was sent and another endpoint is there, nothing is gained by waiting.
                let pause = match again.wait {
                    Some(wait) => wait,
                    None if failure.unsent && others && number == 1 => Duration::ZERO,
                    None => terms.retry.pause.before(number, fastrand::f64()),
                };
                if !pause.is_zero() {
                    times.pause(pause).await?;
                    record.step("pause");
                }
                number += 1;
            }
            tracing::debug!(reason = %failure.reason, detail = failure.detail, number, "another attempt");
            body.rewind();
            now = Instant::now();
        }
    }
}

/// One attempt: who takes it, and what becomes of it there.
async fn attempted(attempt: Attempt<'_, '_>, earlier: &Earlier, now: Instant) -> Result<(), Failure> {
    let (worker, way, times, terms) = (attempt.worker, attempt.way, attempt.times, attempt.answers.terms);
    let mut picked = tokio::select! {
        biased;
        picked = pick::pick(worker, way, earlier, now) => picked?,
        () = gone(attempt.responder.as_mut()) => {
            return Err(Failure::new(Reason::ClientClosed, "it went away before anybody took its request"));
        }
        reason = times.over() => return Err(reason.into()),
    };
    attempt.record.picked(&picked);
    attempt.record.step("pick");
    if let Some(judging) = attempt.answers.judging {
        judging.picked();
    }
    worker.count_pool_use(picked.lease.reused);
    send::attempt(attempt, &mut picked).await.map_err(|failure| picked.failed(failure, earlier, terms))
}

/// Waits until the caller of a request that is not answered yet has gone away, as far as its connection tells.
async fn gone(responder: Option<&mut Responder>) {
    match responder {
        Some(responder) => responder.gone().await,
        None => std::future::pending().await,
    }
}

/// How often a request is repeated unseen. After the first time it goes on a new connection; one of HTTP/2 may just then be leaving, too.
const MAX_UNSEEN: u32 = 2;

/// What is done with the request.
async fn decide(worker: &Rc<Worker>, caller: &Caller, head: &RequestHead, record: &mut ExchangeRecord<'_>) -> Result<Decided, Failure> {
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
            let asked = Asked { called: Some(&reach), view: &worker.view(), scheme: "http", source: caller.remote };
            by_rules(asked, &reach.unit.rules, head, record)
        }
        // What an egress gateway takes is no exchange.
        Entry::Egress { .. } => Err(Reason::NotImplemented.into()),
        Entry::Inbound { port, .. } => Ok(Decided::Way(way::inbound(port.app_port, port.protocol, caller.virtual_address(), head))),
        Entry::Gateway { port, chain, tls } => {
            let view = worker.view();
            let hosts = gateway::hosts(&view, *port, chain.as_ref()).ok_or(Reason::NoRoute)?;
            let rules = hosts.rules(head.authority()).ok_or(Reason::NoRoute)?;
            let asked = Asked { called: None, view: &view, scheme: if *tls { "https" } else { "http" }, source: caller.remote };
            by_rules(asked, rules, head, record)
        }
    }
}

/// What rules do with the request. Of one that is recorded in full, every rule is told of.
fn by_rules(asked: Asked<'_>, rules: &RuleTable, head: &RequestHead, record: &mut ExchangeRecord<'_>) -> Result<Decided, Failure> {
    let random = fastrand::f64();
    let decided = match record.full() {
        Some(full) => way::by_rules(asked, rules, head, random, full),
        None => way::by_rules(asked, rules, head, random, &mut ()),
    };
    Ok(decided?)
}
