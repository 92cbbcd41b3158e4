//! deadline: what a request says of the time that is left for it and of attempts made before, what this hop says on, and what calls inherit
//! from the request for which an app makes them.
//!
//! Time is told as what is left, never as a point in time: clocks differ. An app that passes nothing on but the request's id or trace still
//! hands both down: its own proxy saw the request come in, and knows its calls by these.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use lorica_model::head::{Edits, RequestHead};
use lorica_observe::trace::trace_id;

use super::clean::{From, REQUEST_ID};
use super::explain::Explained;
use crate::worker::Worker;

/// How much time is left for a request, in milliseconds. An app may say it of its calls, too: it can only make them end sooner.
pub const TIMEOUT: &str = "x-lorica-timeout-ms";
/// Which attempt a request is, where it is not the first.
pub const ATTEMPT: &str = "x-lorica-attempt";
/// The same as [`TIMEOUT`] by gRPC, with a unit.
const GRPC_TIMEOUT: &str = "grpc-timeout";
/// The same by an Envoy that calls.
const ENVOY_TIMEOUT: &str = "x-envoy-expected-rq-timeout-ms";
/// As [`ATTEMPT`] by an Envoy that calls, which says it of the first, too.
const ENVOY_ATTEMPT: &str = "x-envoy-attempt-count";
/// The most requests whose calls inherit from them, on one worker; further ones hand nothing down.
const MAX_HEIRS: usize = 10_000;

/// What a request says of itself, or inherits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Told {
    /// When it must be over.
    pub deadline: Option<Instant>,
    /// Which attempt it is of its caller's, or of somebody's before; 0: nobody said.
    pub attempt: u32,
}

impl Told {
    /// What `head` says, as far as who sent it may. What came at `now`.
    #[must_use]
    pub fn of(head: &RequestHead, from: From<'_>, now: Instant) -> Self {
        let fields = &head.fields;
        // One look at all names costs less than a search for each of ours, which few requests have.
        if !fields.iter().any(|(name, _)| is_told_by(name)) {
            return Self::default();
        }
        let millis = |name: &str| fields.get_str(name).and_then(|text| text.trim().parse().ok()).map(Duration::from_millis);
        let grpc = fields.get_str(GRPC_TIMEOUT).and_then(grpc_timeout);
        let count = |name: &str| fields.get_str(name).and_then(|text| text.trim().parse::<u32>().ok());
        let (ours, envoys, attempt) = match from {
            From::Stranger => (None, None, None),
            From::App => (millis(TIMEOUT), None, count(ATTEMPT)),
            From::Peer(_) => {
                (millis(TIMEOUT), millis(ENVOY_TIMEOUT).filter(|left| !left.is_zero()), count(ATTEMPT).or_else(|| count(ENVOY_ATTEMPT)))
            }
        };
        let left = [grpc, ours, envoys].into_iter().flatten().min();
        Self { deadline: left.and_then(|left| now.checked_add(left)), attempt: attempt.unwrap_or_default() }
    }

    /// Whether its caller, or somebody before, tries again already.
    #[must_use]
    pub fn is_retry(self) -> bool {
        self.attempt > 1
    }

    fn says_anything(self) -> bool {
        self.deadline.is_some() || self.is_retry()
    }

    /// This and what `other` says: the sooner deadline.
    fn and(self, other: Self) -> Self {
        let deadline = [self.deadline, other.deadline].into_iter().flatten().min();
        Self { deadline, attempt: self.attempt.max(other.attempt) }
    }
}

/// Whether a field may be one of those above: by its length and how it begins.
fn is_told_by(name: &[u8]) -> bool {
    matches!(name, [b'g' | b'G', ..] if name.len() == GRPC_TIMEOUT.len())
        || (matches!(name, [b'x' | b'X', b'-', ..])
            && [TIMEOUT.len(), ATTEMPT.len(), ENVOY_TIMEOUT.len(), ENVOY_ATTEMPT.len()].contains(&name.len()))
}

/// What goes out with an attempt: `edits`, with the time that is left and the attempt's number where there is something to say.
#[must_use]
pub fn said_on<'e>(head: &RequestHead, edits: &'e Edits, left: Option<Duration>, attempt: u32) -> Cow<'e, Edits> {
    if left.is_none() && attempt <= 1 {
        return Cow::Borrowed(edits);
    }
    let mut edits = edits.clone();
    if attempt > 1 {
        edits.set(&head.fields, ATTEMPT, attempt.to_string());
    }
    if let Some(left) = left {
        // Rounded up: 0 would be no time at all.
        let millis = left.as_micros().div_ceil(1000).max(1);
        edits.set(&head.fields, TIMEOUT, millis.to_string());
        if head.is_grpc() || head.fields.get(GRPC_TIMEOUT).is_some() {
            edits.set(&head.fields, GRPC_TIMEOUT, grpc_text(millis));
        }
    }
    Cow::Owned(edits)
}

/// At most 8 digits and a unit, as gRPC over HTTP/2 has it.
fn grpc_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(number * 3600)),
        "M" => Some(Duration::from_secs(number * 60)),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

fn grpc_text(millis: u128) -> String {
    if millis < 100_000_000 { format!("{millis}m") } else { format!("{}S", (millis / 1000).min(99_999_999)) }
}

/// What requests that are with the app hand down to the calls that it makes for them, by their ids and traces.
#[derive(Default)]
pub struct Heirs(RefCell<HashMap<Box<[u8]>, Inherited, foldhash::fast::RandomState>>);

/// What calls inherit from a request.
#[derive(Debug, Clone)]
struct Inherited {
    told: Told,
    /// By what it is recorded in full, if it is.
    explained: Option<Rc<Explained>>,
}

/// Hands down for as long as it lives.
pub struct Bequest {
    worker: Rc<Worker>,
    keys: smallvec::SmallVec<[Box<[u8]>; 2]>,
}

impl Heirs {
    /// What a call of the app inherits, besides what it says itself.
    #[must_use]
    pub fn inherited(&self, head: &RequestHead, told: Told) -> Told {
        let known = self.0.borrow();
        // Most of the time no request has a deadline.
        if known.is_empty() {
            return told;
        }
        keys(head).filter_map(|key| known.get(&*key)).fold(told, |told, inherited| told.and(inherited.told))
    }

    /// By what a call of the app is recorded in full, as the request is for which it is made.
    #[must_use]
    pub fn explained(&self, head: &RequestHead) -> Option<Rc<Explained>> {
        let known = self.0.borrow();
        if known.is_empty() {
            return None;
        }
        keys(head).find_map(|key| known.get(&*key)?.explained.clone())
    }
}

/// Hands `told`, and by what it is recorded in full, down to the calls that the app makes for the request of `head`; nothing where there is nothing to
/// tell.
#[must_use]
pub fn bequeath(worker: &Rc<Worker>, head: &RequestHead, told: Told, explained: Option<&Rc<Explained>>) -> Option<Bequest> {
    if !told.says_anything() && explained.is_none() {
        return None;
    }
    let mut known = worker.heirs.0.borrow_mut();
    let mut bequeathed = smallvec::SmallVec::new();
    for key in keys(head) {
        if known.len() < MAX_HEIRS && !known.contains_key(&*key) {
            known.insert((*key).into(), Inherited { told, explained: explained.cloned() });
            bequeathed.push(key.into_owned().into());
        }
    }
    Some(Bequest { worker: worker.clone(), keys: bequeathed })
}

impl Drop for Bequest {
    fn drop(&mut self) {
        let mut known = self.worker.heirs.0.borrow_mut();
        for key in &self.keys {
            known.remove(key);
        }
    }
}

/// By what a call is known to belong to a request: its id, and its trace's.
fn keys(head: &RequestHead) -> impl Iterator<Item = Cow<'_, [u8]>> {
    let id = head.fields.get(REQUEST_ID).filter(|id| (8..=128).contains(&id.len()));
    let trace = trace_id(&head.fields).map(|id| Cow::Owned(id.to_vec()));
    [id.map(Cow::Borrowed), trace].into_iter().flatten()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use bytes::Bytes;
    use lorica_model::head::{HeadBuilder, Version};

    use super::*;

    fn head(fields: &[(&str, &str)]) -> RequestHead {
        let mut builder = HeadBuilder::with_capacity(256);
        for (name, value) in fields {
            builder.field(name.as_bytes(), value.as_bytes()).unwrap();
        }
        builder.request(Version::Http2, "GET", "/", "a", None).unwrap()
    }

    fn left(fields: &[(&str, &str)], from: From<'_>) -> Option<u128> {
        let now = Instant::now();
        Told::of(&head(fields), from, now).deadline.map(|deadline| (deadline - now).as_micros())
    }

    #[test]
    fn the_shortest_time_counts_and_strangers_say_it_by_grpc_only() {
        let peer = Bytes::from_static(b"URI=spiffe://a/b");
        let fields = [("grpc-timeout", "3S"), ("x-lorica-timeout-ms", "2000"), ("x-envoy-expected-rq-timeout-ms", "1000")];
        assert_eq!(left(&fields, From::Stranger), Some(3_000_000));
        assert_eq!(left(&fields, From::App), Some(2_000_000));
        assert_eq!(left(&fields, From::Peer(&peer)), Some(1_000_000));
        assert_eq!(left(&[("x-envoy-expected-rq-timeout-ms", "0")], From::Peer(&peer)), None);
    }

    #[test]
    fn grpc_timeouts_have_a_unit_and_at_most_eight_digits() {
        for (text, micros) in
            [("1H", 3_600_000_000), ("2M", 120_000_000), ("3S", 3_000_000), ("4m", 4_000), ("5u", 5), ("99999999m", 99_999_999_000)]
        {
            assert_eq!(left(&[("grpc-timeout", text)], From::Stranger), Some(micros), "{text}");
        }
        for text in ["", "S", "1", "-1S", "123456789m", "1.5S", "1s", "é"] {
            assert_eq!(left(&[("grpc-timeout", text)], From::Stranger), None, "{text}");
        }
    }

    #[test]
    fn an_attempt_says_what_is_left_and_which_it_is() {
        let said = |head: &RequestHead, left: Option<u64>, attempt: u32| {
            let edits = Edits::default();
            let edits = said_on(head, &edits, left.map(Duration::from_micros), attempt);
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            edits.apply(&head.fields).map(|field| format!("{}={}", text(field.name), text(field.value))).collect::<Vec<_>>()
        };
        let plain = head(&[]);
        assert_eq!(said(&plain, None, 1), [""; 0]);
        assert_eq!(said(&plain, Some(1_500), 1), ["x-lorica-timeout-ms=2"]);
        assert_eq!(said(&plain, Some(0), 2), ["x-lorica-attempt=2", "x-lorica-timeout-ms=1"]);
        let grpc = head(&[("content-type", "application/grpc"), ("grpc-timeout", "9S")]);
        assert_eq!(said(&grpc, Some(250_000), 1), ["content-type=application/grpc", "x-lorica-timeout-ms=250", "grpc-timeout=250m"]);
        let long = Duration::from_secs(100_000_000).as_micros();
        assert_eq!(said(&grpc, u64::try_from(long).ok(), 1)[2], "grpc-timeout=99999999S");
    }

    #[test]
    fn a_call_is_known_by_its_trace_in_any_form() {
        let of = |fields: &[(&str, &str)]| keys(&head(fields)).map(Cow::into_owned).collect::<Vec<_>>();
        let (trace, span) = ("48485a3953bb61248448eb211c80319c", "a2fb4a1d1a96d312");
        let same = of(&[("traceparent", &format!("00-{trace}-{span}-00"))]);
        assert_eq!(same, [trace.as_bytes()]);
        assert_eq!(of(&[("b3", &format!("{trace}-{span}"))]), same);
        assert_eq!(
            of(&[("x-b3-traceid", trace), ("x-b3-spanid", span), ("x-request-id", "12345678")]),
            [&b"12345678"[..], trace.as_bytes()]
        );
        // Too short to tell requests apart.
        assert_eq!(of(&[("x-request-id", "1234567")]), [b""; 0]);
    }

    #[test]
    fn the_second_attempt_is_a_retry() {
        let told = |fields: &[(&str, &str)], from: From<'_>| Told::of(&head(fields), from, Instant::now()).is_retry();
        let peer = Bytes::new();
        assert!(told(&[("x-lorica-attempt", "2")], From::App));
        assert!(!told(&[("x-lorica-attempt", "2")], From::Stranger));
        assert!(!told(&[("x-envoy-attempt-count", "1")], From::Peer(&peer)));
        assert!(told(&[("x-envoy-attempt-count", "2")], From::Peer(&peer)));
    }
}
