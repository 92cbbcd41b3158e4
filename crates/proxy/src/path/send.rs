//! send and respond: one attempt, request and answer both ways at once, so that neither side can keep the other waiting.

use std::pin::{Pin, pin};
use std::rc::Rc;
use std::time::{Duration, Instant};

use lorica_model::head::{Edits, RequestHead, ResponseHead};
use lorica_model::reason::Reason;

use super::explain;
use super::failure::{Again, Failure};
use super::filter;
use super::grpc_web;
use super::pick::Picked;
use super::record::ExchangeRecord;
use super::relay::{Read, relay_at};
use super::replay::Replay;
use super::respond::ALTERNATIVE;
use super::retry::Terms;
use super::time::Times;
use super::trial;
use super::unserved::{self, Unserved};
use super::way::{Leave, Way};
use super::{authorize, external};
use crate::config::REPLAY_BYTES;
use crate::endpoints::Active;
use crate::wire::{Answer, Body, Frame, Outgoing, PacedBody, Responder, Sender, Tunnel, WireError};
use crate::worker::Worker;

/// What an attempt needs of its exchange.
pub struct Attempt<'x, 'h> {
    /// The worker.
    pub worker: &'x Rc<Worker>,
    /// The head as received.
    pub head: &'x RequestHead,
    /// What is altered in it.
    pub edits: &'x Edits,
    /// Where it goes.
    pub way: &'x Way,
    /// The answers that are not passed on.
    pub answers: AnswersGivenUp<'x>,
    /// The request's body.
    pub body: &'x mut Replay,
    /// Where the answer goes; taken once the answer has ended.
    pub responder: &'x mut Option<Responder>,
    /// What the caller is told of HTTP/3; a backend knows nothing of the port that it would speak of.
    pub alternative: Option<&'x str>,
    /// The record.
    pub record: &'x mut ExchangeRecord<'h>,
    /// The times.
    pub times: &'x Times,
}

/// Which answers are given up for another attempt.
pub struct AnswersGivenUp<'x> {
    /// The terms of the request.
    pub terms: Terms<'x>,
    /// Whether there may be another attempt at all.
    pub may: bool,
    /// The leave by which this attempt is made, if it is a retry: one that follows takes it over.
    pub leave: Option<Leave>,
    /// What policies that are tried would have done.
    pub judging: Option<&'x trial::Exchange<'x>>,
}

impl AnswersGivenUp<'_> {
    /// What follows if this answer is given up; nothing where it is passed on.
    pub(super) fn takes(&mut self, worker: &Worker, way: &Way, picked: &Picked, response: &ResponseHead) -> Option<Again> {
        let again = self.given_up(worker, way, picked, response);
        if let (Some(judging), None) = (self.judging, &again) {
            judging.passed_on(response);
        }
        again
    }

    fn given_up(&mut self, worker: &Worker, way: &Way, picked: &Picked, response: &ResponseHead) -> Option<Again> {
        let unserved = Unserved::told(response, picked.active.as_ref());
        let wait = if self.may { self.terms.instead_of(response, unserved)? } else { return None };
        let leave = match unserved {
            // What reached nobody adds nothing to anybody's load.
            Some(Unserved::Unreached) => Leave::unlimited(),
            _ => self.leave.take().or_else(|| way.leave_to_retry(worker))?,
        };
        Some(Again { wait, leave })
    }
}

/// The protocol that a request asks to upgrade to: by `Upgrade` in HTTP/1, by an extended CONNECT in HTTP/2.
#[must_use]
pub fn upgrade(head: &RequestHead) -> Option<&[u8]> {
    if let Some(protocol) = head.protocol() {
        return Some(protocol.as_bytes());
    }
    let asked = head.fields.has_token("connection", "upgrade");
    // `h2c` would take the connection out of the mesh's hands.
    head.fields.get("upgrade").filter(|protocol| asked && !protocol.eq_ignore_ascii_case(b"h2c"))
}

/// Sends the request to whom was picked, and passes the answer back.
///
/// # Errors
/// What went wrong; with `answered` set where the answer had begun.
pub async fn attempt(attempt: Attempt<'_, '_>, picked: &mut Picked) -> Result<(), Failure> {
    let Attempt { worker, head, edits, way, mut answers, body, responder: slot, alternative, record, times } = attempt;
    let upgrade = upgrade(head);
    // An answer is only given up where the body can certainly be sent again.
    let kept = body.length().is_some_and(|length| length <= REPLAY_BYTES as u64);
    let edits = explain::goes_on(worker, head, edits, record.explained().map(|explained| &**explained), picked);
    let outgoing = Outgoing { head, edits: &edits, length: body.length(), upgrade };
    let (mut sender, mut receiver) = picked.lease.send(&outgoing).await.map_err(|error| Failure::upstream(&error))?;
    let upgraded = {
        // What an extended CONNECT sends belongs to its tunnel.
        let mut uploading = head.protocol().is_none();
        if uploading && body.is_end() {
            // A request without a body leaves at once. Where the upstream took no more, its answer says why.
            uploading = poll_once(sender.end(None)).await.is_none();
        }
        let mut upload = pin!(upload(body, &mut sender, times));
        let responder = slot.as_mut().ok_or_else(|| Failure::from(Reason::ClientClosed).answered())?;
        let (response, rest) = loop {
            tokio::select! {
                biased;
                answer = receiver.answer() => match answer.map_err(|error| Failure::upstream(&error))? {
                    Answer::Informational(interim) => responder.informational(&interim).await.map_err(|error| Failure::client(&error).answered())?,
                    Answer::Final(response, body) => break (response, Ok(body)),
                    Answer::Upgraded(response, tunnel) => break (response, Err(tunnel)),
                },
                sent = &mut upload, if uploading => {
                    uploading = false;
                    // Where the upstream took no more, its answer says why.
                    if let Err(Half::Client(error)) = sent {
                        return Err(Failure::client(&error));
                    }
                }
                () = responder.gone(), if !uploading => return Err(Failure::new(Reason::ClientClosed, "it went away before there was an answer")),
                reason = times.over() => return Err(reason.into()),
            }
        };
        let now = Instant::now();
        picked.answered(&response, now);
        record.response(&response, now);
        record.step("send");
        if kept && let Some(again) = answers.takes(worker, way, picked, &response) {
            // Told only if there is no time left for the attempt.
            let detail = format!("the last attempt was answered with {}", response.status);
            return Err(Failure { again: Some(again), ..Failure::new(Reason::RequestTimeout, detail) });
        }
        match rest {
            Err(tunnel) => Some((response, tunnel)),
            Ok(download) => {
                let delivery = Delivery { head, way, alternative, slot, record, times };
                delivery.run(picked, &response, download, upload.as_mut(), uploading).await?;
                None
            }
        }
    };
    match (upgraded, slot.take()) {
        (Some((response, tunnel)), Some(responder)) => {
            let changes = changes(way, head, &response, picked.active.as_ref(), alternative);
            let client = responder.upgrade(head, upgrade.unwrap_or_default(), &response, &changes, body.take_source()).await;
            let client = client.map_err(|error| Failure::client(&error).answered())?;
            tunnelled(worker, client, tunnel, way.bytes_per_second, times, record).await
        }
        _ => Ok(()),
    }
}

/// An answer on its way to the caller.
pub struct Delivery<'x, 'h> {
    /// The head as received.
    pub head: &'x RequestHead,
    /// Where it went.
    pub way: &'x Way,
    /// What the caller is told of HTTP/3.
    pub alternative: Option<&'x str>,
    /// Where it goes; taken once it has ended.
    pub slot: &'x mut Option<Responder>,
    /// The record.
    pub record: &'x mut ExchangeRecord<'h>,
    /// The times.
    pub times: &'x Times,
}

impl Delivery<'_, '_> {
    /// Passes the answer of a request on of which nothing is sent any more.
    ///
    /// # Errors
    /// Which half broke, or which time is over.
    pub async fn alone(self, picked: &Picked, response: &ResponseHead, download: Body) -> Result<(), Failure> {
        self.run(picked, response, download, pin!(std::future::pending()), false).await
    }

    /// Passes it on, while the request may still be sent.
    async fn run(
        self,
        picked: &Picked,
        response: &ResponseHead,
        download: Body,
        mut upload: Pin<&mut impl Future<Output = Result<(), Half>>>,
        mut uploading: bool,
    ) -> Result<(), Failure> {
        let Self { head, way, alternative, slot, record, times } = self;
        let mut changes = changes(way, head, response, picked.active.as_ref(), alternative);
        let goes_on = way.grpc_web.is_none_or(|call| call.answer(response, download.is_end(), &mut changes));
        let download = match way.bytes_per_second {
            _ if !goes_on => Body::Empty,
            None => download,
            Some(pace) => Body::Paced(Box::new(PacedBody::new(download, pace))),
        };
        let mut passing = pin!(pass(response, &changes, download, way.grpc_web, slot, times, record));
        loop {
            tokio::select! {
                biased;
                passed = &mut passing => return passed.map_err(|half| match half {
                    Half::Client(error) => Failure::client(&error).answered(),
                    Half::Upstream(error) => Failure::upstream(&error).answered(),
                }),
                sent = &mut upload, if uploading => {
                    uploading = false;
                    if let Err(Half::Client(error)) = sent {
                        return Err(Failure::client(&error).answered());
                    }
                }
                reason = times.over() => return Err(Failure::from(reason).answered()),
            }
        }
    }
}

/// What changes in the answer that came from `active`.
fn changes(way: &Way, head: &RequestHead, response: &ResponseHead, active: Option<&Active>, alternative: Option<&str>) -> Edits {
    let changes = way.decided().map(|(rule, backend)| filter::response(head, rule, Some(backend), &response.fields));
    let mut changes = changes.unwrap_or_default();
    if way.leaves {
        changes.remove(&response.fields, authorize::POLICY);
    }
    changes.remove(&response.fields, unserved::FIELD);
    external::change(&response.fields, &way.told, &mut changes);
    if let Some(active) = active {
        way.cookies(&active.live).for_each(|cookie| changes.add("set-cookie", cookie));
    }
    if let Some(alternative) = alternative {
        changes.set(&response.fields, ALTERNATIVE, alternative);
    }
    changes
}

/// Bytes both ways until the end, as WebSocket wants.
async fn tunnelled(
    worker: &Rc<Worker>,
    mut client: Tunnel,
    upstream: Tunnel,
    pace: Option<u64>,
    times: &Times,
    record: &mut ExchangeRecord<'_>,
) -> Result<(), Failure> {
    let relayed = worker.until_ended(relay_at(pace, &mut client, upstream, Read::default(), Some(TUNNEL_IDLE)));
    let relayed = match times.stream_end() {
        None => relayed.await,
        Some(end) => match tokio::time::timeout_at(end, relayed).await {
            Ok(relayed) => relayed,
            Err(_) => return Err(Failure::from(Reason::StreamTimeout).answered()),
        },
    };
    record.tunnelled(&relayed);
    match relayed.reason {
        // Either side of a WebSocket may simply close.
        None | Some(Reason::ClientClosed | Reason::UpstreamClosed) => Ok(()),
        Some(reason) => Err(Failure::from(reason).answered()),
    }
}

/// How long a tunnel may be silent: WebSockets ping, if at all, each minute or so.
const TUNNEL_IDLE: Duration = Duration::from_secs(3600);

/// Which half of an exchange broke.
enum Half {
    Client(WireError),
    Upstream(WireError),
}

/// The request's body, from the caller to the upstream.
async fn upload(body: &mut Replay, sender: &mut Sender, times: &Times) -> Result<(), Half> {
    loop {
        let frame = match poll_once(body.frame()).await {
            Some(frame) => frame,
            None => {
                // Nothing follows at once: what is queued must not wait for it.
                sender.flush().await.map_err(Half::Upstream)?;
                body.frame().await
            }
        };
        match frame.map_err(Half::Client)? {
            Some(Frame::Data(data)) => sender.data(data).await.map_err(Half::Upstream)?,
            Some(Frame::Trailers(trailers)) => return sender.end(Some(&trailers)).await.map_err(Half::Upstream),
            None => return sender.end(None).await.map_err(Half::Upstream),
        }
        times.moved();
    }
}

/// The answer, from the upstream to the caller.
async fn pass(
    response: &ResponseHead,
    changes: &Edits,
    mut download: Body,
    grpc_web: Option<grpc_web::Call>,
    slot: &mut Option<Responder>,
    times: &Times,
    record: &mut ExchangeRecord<'_>,
) -> Result<(), Half> {
    let gone = || Half::Client(WireError::Closed);
    let length = match grpc_web {
        None => download.length().filter(|_| !download.is_end()).or_else(|| declared(response)),
        // Its trailers come on top, and text is longer.
        Some(_) => None,
    };
    slot.as_mut().ok_or_else(gone)?.head(response, changes, length, download.is_end()).map_err(Half::Client)?;
    loop {
        let responder = slot.as_mut().ok_or_else(gone)?;
        let frame = match poll_once(download.frame()).await {
            Some(frame) => frame,
            None => {
                responder.flush().await.map_err(Half::Client)?;
                download.frame().await
            }
        };
        match frame.transpose().map_err(Half::Upstream)? {
            Some(Frame::Data(data)) => {
                let data = match grpc_web {
                    None => data,
                    Some(call) => call.piece(data),
                };
                record.sent(data.len());
                responder.data(data).await.map_err(Half::Client)?;
            }
            Some(Frame::Trailers(trailers)) => {
                record.trailers(&trailers);
                if let Some(call) = grpc_web {
                    let last = call.trailers(&trailers);
                    record.sent(last.len());
                    responder.data(last).await.map_err(Half::Client)?;
                    return slot.take().ok_or_else(gone)?.end(None).await.map_err(Half::Client);
                }
                return slot.take().ok_or_else(gone)?.end(Some(&trailers)).await.map_err(Half::Client);
            }
            None => return slot.take().ok_or_else(gone)?.end(None).await.map_err(Half::Client),
        }
        times.moved();
    }
}

/// The length that an answer declares, also where it has no body, as to a HEAD.
fn declared(response: &ResponseHead) -> Option<u64> {
    response.fields.get_str("content-length")?.trim().parse().ok()
}

/// What a future has at once, if anything. Only for futures that lose nothing when dropped.
async fn poll_once<T>(future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    std::future::poll_fn(|cx| {
        std::task::Poll::Ready(match future.as_mut().poll(cx) {
            std::task::Poll::Ready(value) => Some(value),
            std::task::Poll::Pending => None,
        })
    })
    .await
}
