//! Which rule takes a request, and which of its backends: pure functions of head, unit and a random number.

use std::borrow::Cow;
use std::sync::Arc;

use super::{Backend, FieldMatch, HttpRule, PathMatch, RouteMatch, RuleTable, ValueMatch, WeightedBackend};
use crate::head::RequestHead;
use crate::reason::Reason;

/// What is told each step of a decision. `()` listens to nothing and costs nothing.
pub trait Recorder {
    /// Whether it is told of every rule up to the one that takes the request. If not, of those alone that the index over paths leaves to be asked.
    const OF_ALL: bool = false;

    /// A rule was tried and does not take the request.
    fn rejected(&mut self, rule: &HttpRule, part: MatchPart);
    /// A rule takes the request.
    fn matched(&mut self, rule: &HttpRule);
    /// A backend of the rule was drawn.
    fn drawn(&mut self, backend: &Backend);
}

impl Recorder for () {
    fn rejected(&mut self, _: &HttpRule, _: MatchPart) {}
    fn matched(&mut self, _: &HttpRule) {}
    fn drawn(&mut self, _: &Backend) {}
}

/// The part of a match that did not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MatchPart {
    /// The path.
    Path,
    /// The method.
    Method,
    /// The header match at this index.
    Header(usize),
    /// The query match at this index.
    Query(usize),
    /// The share: the request's random number is not in it.
    Share,
}

/// The first of `rules` that takes the request. `random` is uniform in 0..1 and drawn once for a request.
///
/// # Errors
/// [`Reason::NoRoute`] where none does.
pub fn rule<'r, R: Recorder>(rules: &'r RuleTable, head: &RequestHead, random: f64, recorder: &mut R) -> Result<&'r Arc<HttpRule>, Reason> {
    let request = Request::of(head);
    if R::OF_ALL {
        first(rules.iter(), &request, random, recorder)
    } else {
        first(rules.candidates(request.path), &request, random, recorder)
    }
}

fn first<'r>(
    rules: impl Iterator<Item = &'r Arc<HttpRule>>,
    request: &Request<'_>,
    random: f64,
    recorder: &mut impl Recorder,
) -> Result<&'r Arc<HttpRule>, Reason> {
    for rule in rules {
        match request.mismatch(&rule.matches, random) {
            None => {
                recorder.matched(rule);
                return Ok(rule);
            }
            Some(part) => recorder.rejected(rule, part),
        }
    }
    Err(Reason::NoRoute)
}

/// Which of `backends` `random` (uniform in 0..1) draws by weight. It leads to a service port.
///
/// # Errors
/// [`Reason::NoBackend`] where there is none of any weight, or the drawn one does not exist.
pub fn backend(backends: &[WeightedBackend], random: f64, recorder: &mut impl Recorder) -> Result<usize, Reason> {
    let drawn = drawn(backends, random, recorder).ok_or(Reason::NoBackend)?;
    match &backends[drawn].backend {
        Backend::Port(_) => Ok(drawn),
        Backend::Missing { .. } => Err(Reason::NoBackend),
    }
}

/// The same, wherever it leads; none where there is none of any weight.
pub fn drawn(backends: &[WeightedBackend], random: f64, recorder: &mut impl Recorder) -> Option<usize> {
    let total: u64 = backends.iter().map(|backend| u64::from(backend.weight)).sum();
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "random is in 0..1")]
    let mut ticket = (random * total as f64) as u64;
    ticket = ticket.min(total.saturating_sub(1));
    for (index, candidate) in backends.iter().enumerate() {
        let weight = u64::from(candidate.weight);
        if ticket < weight {
            recorder.drawn(&candidate.backend);
            return Some(index);
        }
        ticket -= weight;
    }
    None
}

/// The first part of `matches` that does not hold for `head`.
#[must_use]
pub fn mismatch(matches: &RouteMatch, head: &RequestHead, random: f64) -> Option<MatchPart> {
    Request::of(head).mismatch(matches, random)
}

/// The same without its path, for the first share of what is shared.
pub(super) fn mismatch_beside_path(matches: &RouteMatch, head: &RequestHead) -> Option<MatchPart> {
    Request::of(head).mismatch_beside_path(matches, 0.0)
}

/// What every rule asks a head for, taken out of it once.
struct Request<'h> {
    head: &'h RequestHead,
    path: &'h str,
    method: &'h str,
}

impl<'h> Request<'h> {
    fn of(head: &'h RequestHead) -> Self {
        Self { head, path: head.path(), method: head.method() }
    }

    /// The cheap parts come first: most rules fail by their path.
    fn mismatch(&self, matches: &RouteMatch, random: f64) -> Option<MatchPart> {
        if path_matches(&matches.path, self.path) { self.mismatch_beside_path(matches, random) } else { Some(MatchPart::Path) }
    }

    fn mismatch_beside_path(&self, matches: &RouteMatch, random: f64) -> Option<MatchPart> {
        if matches.method.as_deref().is_some_and(|method| method != self.method) {
            return Some(MatchPart::Method);
        }
        if let Some(index) = matches.headers.iter().position(|field| !header_matches(field, self.head)) {
            return Some(MatchPart::Header(index));
        }
        if let Some(index) = matches.query.iter().position(|field| !query_matches(field, self.head)) {
            return Some(MatchPart::Query(index));
        }
        matches.share.filter(|share| !share.takes(random)).map(|_| MatchPart::Share)
    }
}

fn path_matches(matches: &PathMatch, path: &str) -> bool {
    match matches {
        PathMatch::Exact(exact) => path == exact,
        PathMatch::Prefix(prefix) => {
            let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
            path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')) || (prefix.is_empty() && path == "*")
        }
        PathMatch::Regex(pattern) => pattern.matches(path),
    }
}

/// Several fields of one name count as one value joined by commas (RFC 9110, 5.3).
pub(super) fn header_matches(field: &FieldMatch, head: &RequestHead) -> bool {
    value_of(&field.name, head).is_some_and(|value| value_matches(&field.value, &value))
}

/// Whether any of several fields of one name has the value, or all of them joined: for who must rather take too much than too little.
pub(super) fn any_header_matches(field: &FieldMatch, head: &RequestHead) -> bool {
    header_matches(field, head) || values_one_by_one(&field.name, head).any(|value| value_matches(&field.value, value))
}

/// The value of a field, several joined as they are one; none where it is missing, or no text.
pub(super) fn value_of<'h>(name: &'h str, head: &'h RequestHead) -> Option<Cow<'h, str>> {
    let mut values = head.fields.get_all(name);
    let first = values.next()?;
    let Some(second) = values.next() else { return std::str::from_utf8(first).ok().map(Cow::Borrowed) };
    let mut joined = [first, second].join(&b","[..]);
    for value in values {
        joined.push(b',');
        joined.extend_from_slice(value);
    }
    String::from_utf8(joined).ok().map(Cow::Owned)
}

/// Each value of a field by itself, and each part of one that is a list.
pub(super) fn values_one_by_one<'h>(name: &'h str, head: &'h RequestHead) -> impl Iterator<Item = &'h str> {
    let values = head.fields.get_all(name).flat_map(|value| std::iter::once(value).chain(value.split(|byte| *byte == b',')));
    values.filter_map(|value| std::str::from_utf8(value).ok()).map(str::trim)
}

/// The first parameter of the name counts. Names and values are compared decoded.
fn query_matches(field: &FieldMatch, head: &RequestHead) -> bool {
    let parameters = head.query().unwrap_or_default().split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    parameters
        .into_iter()
        .find(|(name, _)| decoded(name) == field.name)
        .is_some_and(|(_, value)| value_matches(&field.value, &decoded(value)))
}

fn value_matches(matches: &ValueMatch, value: &str) -> bool {
    match matches {
        ValueMatch::Exact(exact) => value == exact,
        ValueMatch::Regex(pattern) => pattern.matches(value),
    }
}

/// A query component with `+` and `%XX` decoded; what is no valid escape stays as it is.
#[must_use]
pub fn decoded(text: &str) -> std::borrow::Cow<'_, str> {
    if !text.bytes().any(|byte| matches!(byte, b'%' | b'+')) {
        return text.into();
    }
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [byte, after @ ..] = rest {
        let escape = (*byte == b'%').then(|| after.first_chunk::<2>()).flatten().and_then(|digits| {
            let high = char::from(digits[0]).to_digit(16)?;
            let low = char::from(digits[1]).to_digit(16)?;
            u8::try_from(high * 16 + low).ok()
        });
        match escape {
            Some(decoded) => {
                out.push(decoded);
                rest = &after[2..];
            }
            None => {
                out.push(if *byte == b'+' { b' ' } else { *byte });
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned().into()
}

#[cfg(test)]
mod tests;
