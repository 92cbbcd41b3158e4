//! Which trace an exchange belongs to: what a request says of it is read, and what goes on is written. Pure; random numbers are
//! passed in.
//!
//! Read are W3C's `traceparent`, else B3 in one field, else B3 in several. Where none came, a trace begins here. Written is
//! `traceparent` always, and B3 in the form or forms in which it came: whoever speaks it reads it in what goes on.

use std::fmt;

use lorica_model::head::{Edits, Fields};

mod b3;
mod hex;
mod w3c;

pub use hex::{hexadecimal, hexadecimal_128};
pub use w3c::{TRACEPARENT, TRACESTATE};

/// A span of a trace, as a request names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpanContext {
    /// Never 0.
    pub trace_id: u128,
    /// Never 0.
    pub span_id: u64,
    /// Whether the trace is recorded.
    pub sampled: bool,
}

impl fmt::Display for SpanContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.encode()))
    }
}

/// The span of one exchange at one proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// The span itself; it is what goes on to the next hop.
    pub context: SpanContext,
    /// The caller's span.
    pub parent: Option<u64>,
}

impl Span {
    /// The span of an exchange whose request came with this `traceparent`. Without one, a trace begins, recorded in a `share` of cases.
    /// A caller's decision to record or not is kept.
    #[must_use]
    pub fn begin(traceparent: Option<&str>, share: f64, random: impl FnMut() -> u64) -> Self {
        Self::of(&traceparent.and_then(SpanContext::parse).map_or_else(Said::default, Said::from), share, random)
    }

    fn of(said: &Said, share: f64, mut random: impl FnMut() -> u64) -> Self {
        let span_id = random().max(1);
        let trace_id = said.caller.map_or_else(|| (u128::from(random()) << 64 | u128::from(random())).max(1), |(trace_id, _)| trace_id);
        // 53 bits are what a float holds.
        #[allow(clippy::cast_precision_loss, reason = "53 bits fit")]
        let sampled = said.sampled.unwrap_or_else(|| ((random() >> 11) as f64 / (1_u64 << 53) as f64) < share);
        Self { context: SpanContext { trace_id, span_id, sampled }, parent: said.caller.map(|(_, span_id)| span_id) }
    }
}

/// What a request says of the trace that it belongs to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Said {
    /// The trace, and the caller's span in it.
    caller: Option<(u128, u64)>,
    /// Whether it is recorded; none: that is left to whoever comes next.
    sampled: Option<bool>,
}

impl From<SpanContext> for Said {
    fn from(context: SpanContext) -> Self {
        Self { caller: Some((context.trace_id, context.span_id)), sampled: Some(context.sampled) }
    }
}

/// Gives a request with these fields its place in a trace, and puts that into the fields that go on. A trace that begins here is
/// recorded in a `share` of cases.
pub fn propagate(fields: &Fields, edits: &mut Edits, share: f64, random: impl FnMut() -> u64) -> Span {
    let caller = w3c::parent(fields);
    let b3 = b3::Came::of(fields);
    let said = caller.map_or_else(|| b3.as_ref().map(|came| came.said).unwrap_or_default(), Said::from);
    let span = Span::of(&said, share, random);
    edits.set(fields, TRACEPARENT, &span.context.encode()[..]);
    // The state belongs to the `traceparent` beside it, and says nothing of another trace.
    if caller.is_none() || !w3c::keeps_state(fields) {
        edits.remove(fields, TRACESTATE);
    }
    if let Some(came) = b3 {
        came.rewrite(&span, fields, edits);
    }
    span
}

/// The trace that a request says it belongs to, as digits.
#[must_use]
pub fn trace_id(fields: &Fields) -> Option<[u8; 32]> {
    let of_b3 = || b3::Came::of(fields)?.said.caller.map(|(trace_id, _)| trace_id);
    w3c::parent(fields).map(|caller| caller.trace_id).or_else(of_b3).map(hexadecimal_128)
}

/// What the one field of this name says: of several, none can be believed.
fn only<'f>(fields: &'f Fields, name: &'f str) -> Option<&'f str> {
    let mut all = fields.get_all(name);
    let (first, second) = (all.next()?, all.next());
    second.is_none().then(|| std::str::from_utf8(first).ok()).flatten().map(|text| text.trim_matches([' ', '\t']))
}

#[cfg(test)]
mod tests;
