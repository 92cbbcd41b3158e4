//! What is noted of an exchange while it is under way, besides its record: a little of all, and everything of one that is recorded in full or shown
//! by a tap.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lorica_model::head::{RequestHead, ResponseHead};
use lorica_model::snapshot::{Origin, Transport};
use lorica_observe::Record;

use super::full::Full;
use super::ring::Tried;
use super::taps::{self, Fields};
use crate::path::caller::Caller;
use crate::path::explain::Explained;
use crate::path::failure::Failure;
use crate::path::pick::Picked;

/// The most attempts that are remembered besides the last.
const MOST_ATTEMPTS: usize = 8;
/// The longest detail of an attempt, in bytes.
const LONGEST_DETAIL: usize = 256;

/// The notes of an exchange.
#[derive(Default)]
pub struct Notes<'x> {
    /// Its request, and who makes it; none of what is no exchange.
    pub of: Option<(&'x RequestHead, &'x Caller)>,
    /// Whether it came to a gateway.
    pub at_gateway: bool,
    /// The AuthorizationPolicy that decided, its rule, and what it said.
    pub policy: Option<(Arc<Origin>, Option<u32>, &'static str)>,
    /// How much time its caller had left for it.
    pub left: Option<Duration>,
    /// When its first attempt began, after it did.
    pub decided: Option<Duration>,
    /// When the head of its answer was there.
    pub answered: Option<Duration>,
    /// Attempts that another followed.
    pub earlier: Vec<Tried>,
    /// The attempt under way or last: when it began.
    attempt: Option<Duration>,
    /// Whether somebody was asked in it.
    asked: bool,
    /// Whether that has a Lorica proxy.
    tells: bool,
    /// The status that it was answered with; 0: none.
    status: u16,
    /// The fields of the answer, where a tap shows it.
    pub answer: Option<Box<Fields>>,
    /// All of it, where it is recorded in full.
    pub full: Option<Box<Full>>,
}

impl Notes<'_> {
    /// Under which token it is recorded in full, if it is.
    #[must_use]
    pub fn explained(&self) -> Option<&Rc<Explained>> {
        self.full.as_ref().map(|full| &full.explained)
    }

    /// An attempt begins, so long after the request.
    pub fn attempt(&mut self, at: Duration) {
        self.decided.get_or_insert(at);
        self.attempt = Some(at);
        (self.asked, self.tells, self.status) = (false, false, 0);
    }

    /// Somebody takes it.
    pub fn picked(&mut self, picked: &Picked) {
        self.asked = true;
        self.tells = picked.active.as_ref().is_some_and(|active| active.live.endpoint.transport == Transport::Lorica);
        if let Some(full) = &mut self.full {
            full.picked(picked);
        }
    }

    /// The head of an answer is there.
    pub fn response(&mut self, response: &ResponseHead, at: Duration, is_tapped: bool) {
        self.status = response.status;
        self.answered = Some(at);
        if is_tapped {
            self.answer = Some(Box::new(taps::fields(&response.fields)));
        }
    }

    /// The attempt failed, and another follows.
    pub fn tried(&mut self, record: &Record<'_>, failure: &Failure, begun: Instant) {
        let Some(at) = self.attempt.take().filter(|_| self.earlier.len() < MOST_ATTEMPTS) else { return };
        let given_up = self.status != 0;
        self.answered = None;
        let detail = failure.detail.get(..failure.detail.floor_char_boundary(LONGEST_DETAIL)).unwrap_or_default();
        self.earlier.push(Tried {
            asked: self.asked.then(|| (record.upstream, record.destination.clone())),
            tells: self.tells,
            at,
            took: begun.elapsed().saturating_sub(at),
            status: self.status,
            reason: (!given_up).then_some(failure.reason),
            detail: if given_up { String::new() } else { detail.to_owned() },
        });
    }

    /// The last attempt, once the exchange is over.
    #[must_use]
    pub fn last(&self, record: &Record<'_>) -> Option<Tried> {
        let at = self.attempt?;
        Some(Tried {
            asked: self.asked.then(|| (record.upstream, record.destination.clone())),
            tells: self.tells,
            at,
            took: record.duration.saturating_sub(at),
            status: self.status,
            reason: record.reason,
            detail: String::new(),
        })
    }
}
