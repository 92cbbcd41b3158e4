//! Taps: requests that are shown as they end, to whoever looks. What a tap costs is bounded: so many a second, for so long, cut to so many bytes; what
//! is over that, or comes faster than it is taken, is dropped and counted. Nobody waits.
//!
//! Bodies are never shown, and fields that hold secrets are left out.

use std::sync::Arc;
use std::time::{Duration, Instant};

use lorica_model::cel::{Attributes, Expression};
use lorica_model::head;
use lorica_model::story::{Hop, Tapped};
use lorica_observe::Record;
use lorica_observe::access_log::with_attributes;
use lorica_xds::diagnostics::{Dropped, Said, Tap, TappedOne};
use tokio::sync::mpsc;

use super::notes::Notes;

/// The most taps at once.
pub const MOST_TAPS: usize = 8;
/// The longest that a tap lives, whatever it was told.
const LONGEST: Duration = Duration::from_secs(600);
/// The most fields of a head, bytes of a value, and bytes of all of them, that are shown.
const MOST_FIELDS: usize = 64;
const LONGEST_VALUE: usize = 256;
const LONGEST_FIELDS: usize = 8 * 1024;

/// Fields whose values are secrets: left out, name and all.
const SECRETS: [&str; 6] = ["authorization", "proxy-authorization", "cookie", "set-cookie", "x-lorica-explain", "x-api-key"];

/// Fields of a head as they are shown.
pub type Fields = Vec<(String, String)>;

/// What a tap is to show.
#[derive(Debug)]
pub struct Terms {
    /// Its number.
    pub number: u64,
    filter: Option<Expression>,
    failed: bool,
    /// Requests a second, of one worker.
    rate: f64,
    until: Instant,
}

impl Terms {
    /// What the control plane asked for, of each of so many workers. None: this proxy does not understand the condition, as it is older.
    #[must_use]
    pub fn of(tap: &Tap, workers: usize, now: Instant) -> Option<Self> {
        let filter = match tap.filter.as_str() {
            "" => None,
            text => Some(Expression::parse_of_exchange(text).ok()?),
        };
        #[allow(clippy::cast_precision_loss, reason = "a proxy has a handful of workers")]
        let rate = (f64::from(tap.rate) / workers.max(1) as f64).max(1.0);
        Some(Self { number: tap.tap, filter, failed: tap.failed, rate, until: now + Duration::from_secs(tap.seconds).min(LONGEST) })
    }

    fn shows(&self, record: &Record<'_>, notes: &Notes<'_>) -> bool {
        let Some(http) = &record.http else { return false };
        if self.failed && record.reason.is_none() && (1..500).contains(&http.status) {
            return false;
        }
        let (Some(filter), Some((head, caller))) = (&self.filter, notes.of) else { return true };
        // What has no result is not meant, as with policies that allow.
        let meant = |known: &Attributes<'_>| {
            let identity = caller.entry.peer().map(|peer| &peer.id);
            filter.evaluate(&Attributes { head: Some(head), identity, ..*known }).unwrap_or(false)
        };
        with_attributes(record, meant)
    }
}

/// A tap on one worker.
#[derive(Debug)]
pub struct WorkerTap {
    terms: Arc<Terms>,
    /// How many may be shown now, and since when that is so.
    leave: f64,
    counted: Instant,
    dropped: u64,
}

impl WorkerTap {
    /// A tap that begins now.
    #[must_use]
    pub fn new(terms: Arc<Terms>, now: Instant) -> Self {
        Self { leave: terms.rate, counted: now, dropped: 0, terms }
    }

    /// Its number.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.terms.number
    }

    /// Whether its time is over.
    #[must_use]
    pub fn is_over(&self, now: Instant) -> bool {
        now >= self.terms.until
    }

    /// Whether it shows this exchange: it is meant, and there is leave for it.
    pub fn takes(&mut self, record: &Record<'_>, notes: &Notes<'_>, now: Instant) -> bool {
        self.terms.shows(record, notes) && self.has_leave(now)
    }

    /// Takes leave to show one more; one without is counted.
    fn has_leave(&mut self, now: Instant) -> bool {
        self.leave = (self.leave + now.saturating_duration_since(self.counted).as_secs_f64() * self.terms.rate).min(self.terms.rate);
        self.counted = now;
        if self.leave < 1.0 {
            self.dropped += 1;
            return false;
        }
        self.leave -= 1.0;
        true
    }

    /// Shows one, as far as there is room on the way.
    pub fn show(&mut self, request: &[u8], to: &mpsc::Sender<Said>) {
        if to.try_send(Said::Tapped(TappedOne { tap: self.terms.number, request: request.to_vec() })).is_err() {
            self.dropped += 1;
        }
    }

    /// Tells how many it did not show.
    pub fn tell(&mut self, to: &mpsc::Sender<Said>) {
        if self.dropped > 0 && to.try_send(Said::Dropped(Dropped { tap: self.terms.number, requests: self.dropped })).is_ok() {
            self.dropped = 0;
        }
    }
}

/// An exchange as taps show it.
#[must_use]
pub fn shown(hop: Hop, notes: &mut Notes<'_>) -> Tapped {
    let request_fields = notes.of.map(|(head, _)| fields(&head.fields)).unwrap_or_default();
    Tapped { hop, request_fields, response_fields: notes.answer.take().map(|fields| *fields).unwrap_or_default() }
}

/// Fields as they are shown: none that hold secrets, and cut.
#[must_use]
pub fn fields(all: &head::Fields) -> Fields {
    let mut room = LONGEST_FIELDS;
    let mut shown = Vec::new();
    for (name, value) in all.iter() {
        if SECRETS.iter().any(|secret| name.eq_ignore_ascii_case(secret.as_bytes())) {
            continue;
        }
        let long = value.len() > LONGEST_VALUE;
        let value = value.get(..LONGEST_VALUE).unwrap_or(value);
        let Some(left) = room.checked_sub(name.len() + value.len()).filter(|_| shown.len() < MOST_FIELDS) else {
            shown.push(("…".to_owned(), "more than is shown".to_owned()));
            break;
        };
        room = left;
        let mut text = String::from_utf8_lossy(value).into_owned();
        if long {
            text.push('…');
        }
        shown.push((String::from_utf8_lossy(name).into_owned(), text));
    }
    shown
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use lorica_model::head::HeadBuilder;

    use super::*;

    fn of(list: &[(&str, &str)]) -> Fields {
        let mut builder = HeadBuilder::with_capacity(256);
        for (name, value) in list {
            builder.field(name.as_bytes(), value.as_bytes()).unwrap();
        }
        fields(&builder.fields())
    }

    #[test]
    fn secrets_are_left_out_in_whatever_case() {
        let shown =
            of(&[("Authorization", "Bearer a"), ("COOKIE", "a=b"), ("x-a", "1"), ("Set-Cookie", "a=b"), ("X-Lorica-Explain", "token")]);
        assert_eq!(shown, [("x-a".to_owned(), "1".to_owned())]);
    }

    #[test]
    fn what_is_long_is_cut() {
        let long = "a".repeat(60_000);
        let shown = of(&[("x-long", &long), ("x-short", "1")]);
        assert_eq!(shown[0].1, format!("{}…", "a".repeat(LONGEST_VALUE)));
        assert_eq!(shown[1], ("x-short".to_owned(), "1".to_owned()));
        let many: Vec<(String, String)> = (0..100).map(|at| (format!("x-{at}"), "a".repeat(200))).collect();
        let many: Vec<(&str, &str)> = many.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let shown = of(&many);
        assert!(shown.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>() < LONGEST_FIELDS + 100);
        assert_eq!(shown.last().unwrap().0, "…");
    }

    #[test]
    fn a_tap_shows_so_many_a_second_and_counts_the_rest() {
        let begun = Instant::now();
        let tap = Tap { tap: 7, filter: String::new(), failed: false, rate: 10, seconds: 60 };
        let mut tap = WorkerTap::new(Arc::new(Terms::of(&tap, 2, begun).unwrap()), begun);
        let mut shown = |millis| (0..10).filter(|_| tap.has_leave(begun + Duration::from_millis(millis))).count();
        assert_eq!([0, 0, 400, 100_000].map(&mut shown), [5, 0, 2, 5]);
        assert_eq!(tap.dropped, 40 - 12);
        assert!(!tap.is_over(begun + Duration::from_secs(59)) && tap.is_over(begun + Duration::from_secs(60)));
    }

    #[test]
    fn a_condition_that_is_no_condition_makes_no_tap() {
        let tap = |filter: &str| Tap { filter: filter.to_owned(), rate: 1, seconds: 1, ..Tap::default() };
        assert!(Terms::of(&tap("request.path.startsWith('/a')"), 1, Instant::now()).is_some());
        assert!(Terms::of(&tap("request.path ==="), 1, Instant::now()).is_none());
    }
}
