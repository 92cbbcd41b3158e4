//! B3, as Zipkin's libraries speak it: in one field, or in several.

use lorica_model::head::{Edits, Fields};

use super::hex::{hexadecimal, hexadecimal_128, id};
use super::{Said, Span, only};

/// `TRACE-SPAN-STATE-PARENT`, of which the last two may be left out; or the state alone.
const SINGLE: &str = "b3";
const TRACE_ID: &str = "x-b3-traceid";
const SPAN_ID: &str = "x-b3-spanid";
const PARENT_SPAN_ID: &str = "x-b3-parentspanid";
const SAMPLED: &str = "x-b3-sampled";
const FLAGS: &str = "x-b3-flags";

/// What came as B3, and in which form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Came {
    pub(super) said: Said,
    /// Whether all is to be recorded for somebody who looks for a fault: more than sampled, which it includes.
    debug: bool,
    /// Whether the trace's id had 64 bits: whoever speaks so may not read longer ones.
    short: bool,
    single: bool,
    several: bool,
}

impl Came {
    /// None where no field of B3 came, which one look at each name tells.
    pub(super) fn of(fields: &Fields) -> Option<Self> {
        let came = |name| fields.position(name).is_some();
        let (single, several) = (came(SINGLE), [SPAN_ID, FLAGS, SAMPLED].into_iter().any(came));
        if !single && !several {
            return None;
        }
        let read = single.then(|| only(fields, SINGLE).and_then(read_single)).flatten();
        let read = read.or_else(|| several.then(|| read_several(fields)).flatten()).unwrap_or_default();
        let short = read.width == 16;
        Some(Self {
            said: Said { caller: read.caller, sampled: read.state.map(State::is_sampled) },
            debug: read.state == Some(State::Debug),
            short,
            single,
            several,
        })
    }

    /// Puts `span` into what goes on, in the form or forms in which B3 came.
    pub(super) fn rewrite(&self, span: &Span, fields: &Fields, edits: &mut Edits) {
        let (trace, own) = (hexadecimal_128(span.context.trace_id), hexadecimal(span.context.span_id));
        let short = self.short && span.context.trace_id >> 64 == 0;
        let trace = if short { &trace[16..] } else { &trace[..] };
        let parent = span.parent.map(hexadecimal);
        let debug = self.debug && span.context.sampled;
        let sampled: &[u8] = if span.context.sampled { b"1" } else { b"0" };
        if self.single {
            let mut text = Vec::with_capacity(68);
            let state = if debug { b"d" } else { sampled };
            for (index, part) in [trace, &own, state].into_iter().chain(parent.as_ref().map(|parent| &parent[..])).enumerate() {
                text.extend_from_slice(if index == 0 { b"" } else { b"-" });
                text.extend_from_slice(part);
            }
            edits.set(fields, SINGLE, text);
        }
        if self.several {
            edits.set(fields, TRACE_ID, trace);
            edits.set(fields, SPAN_ID, own);
            match parent {
                Some(parent) => edits.set(fields, PARENT_SPAN_ID, parent),
                None => edits.remove(fields, PARENT_SPAN_ID),
            }
            // Each says that it is recorded, and only one is to say so.
            if debug {
                edits.set(fields, FLAGS, b"1");
                edits.remove(fields, SAMPLED);
            } else {
                edits.set(fields, SAMPLED, sampled);
                edits.remove(fields, FLAGS);
            }
        }
    }
}

/// What was decided about recording.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Not,
    Sampled,
    Debug,
}

impl State {
    fn is_sampled(self) -> bool {
        self != Self::Not
    }
}

/// What one form says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Read {
    caller: Option<(u128, u64)>,
    state: Option<State>,
    /// How many digits the trace's id had.
    width: usize,
}

impl Read {
    /// Ids of 64 bits are the lower half of those of 128.
    fn ids(trace: &str, span: &str, state: Option<State>) -> Option<Self> {
        let caller = match (trace.len(), span.len()) {
            (16 | 32, 16) => (id(trace)?, u64::try_from(id(span)?).ok()?),
            _ => return None,
        };
        Some(Self { caller: Some(caller), state, width: trace.len() })
    }
}

fn read_single(text: &str) -> Option<Read> {
    let mut parts = text.split('-');
    let first = parts.next()?;
    let state = |text: &str| match text {
        "0" => Some(State::Not),
        "1" => Some(State::Sampled),
        "d" => Some(State::Debug),
        _ => None,
    };
    let Some(span) = parts.next() else { return state(first).map(|state| Read { state: Some(state), ..Read::default() }) };
    let decided = match parts.next() {
        None => None,
        Some(text) => Some(state(text)?),
    };
    // The caller's own parent says nothing to us, but that this is B3.
    let parent_is = parts.next().is_none_or(|parent| parent.len() == 16 && id(parent).is_some());
    if !parent_is || parts.next().is_some() {
        return None;
    }
    Read::ids(first, span, decided)
}

fn read_several(fields: &Fields) -> Option<Read> {
    let sampled = match only(fields, SAMPLED) {
        Some("1" | "true") => Some(State::Sampled),
        Some("0" | "false") => Some(State::Not),
        _ => None,
    };
    let state = if only(fields, FLAGS) == Some("1") { Some(State::Debug) } else { sampled };
    let ids = only(fields, TRACE_ID).zip(only(fields, SPAN_ID)).and_then(|(trace, span)| Read::ids(trace, span, state));
    Some(ids.unwrap_or(Read { state, ..Read::default() }))
}
