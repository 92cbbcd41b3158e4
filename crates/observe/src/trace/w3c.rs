//! W3C Trace Context, level 1: `traceparent`, and the `tracestate` that goes on beside it.

use lorica_model::head::Fields;

use super::hex::{hexadecimal, hexadecimal_128, id};
use super::{SpanContext, only};

/// The request field that carries the caller's span.
pub const TRACEPARENT: &str = "traceparent";
/// The request field in which tracing systems keep what is theirs. Passed on as it came, or not at all.
pub const TRACESTATE: &str = "tracestate";
/// The most members of a `tracestate`, by the standard.
const MAX_MEMBERS: usize = 32;
/// The longest key and value of a member, in bytes.
const MAX_PART: usize = 256;
/// The longest parts of a key before and behind its `@`, in bytes.
const MAX_TENANT: usize = 241;
const MAX_SYSTEM: usize = 14;

impl SpanContext {
    /// Reads a `traceparent`. Versions to come are read as far as version 00 goes; `ff`, upper case and zero ids are none.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.splitn(5, '-');
        let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let rest = parts.next();
        let byte =
            |text: &str| Some(text).filter(|text| text.len() == 2 && is_lower_hex(text)).and_then(|text| u8::from_str_radix(text, 16).ok());
        let (version, flags) = (byte(version)?, byte(flags)?);
        if version == 0xff || (version == 0 && rest.is_some()) || trace.len() != 32 || span.len() != 16 {
            return None;
        }
        Some(Self { trace_id: id(trace)?, span_id: u64::try_from(id(span)?).ok()?, sampled: flags & 1 == 1 })
    }

    /// Writes a `traceparent`: `00-TRACE-SPAN-FLAGS`. Flags that this version does not know are not passed on: they are set by
    /// whoever knows what they say.
    #[must_use]
    pub fn encode(&self) -> [u8; 55] {
        let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
        text[3..35].copy_from_slice(&hexadecimal_128(self.trace_id));
        text[36..52].copy_from_slice(&hexadecimal(self.span_id));
        text[54] += u8::from(self.sampled);
        text
    }
}

fn is_lower_hex(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

/// The caller's span, if its request says it.
pub(super) fn parent(fields: &Fields) -> Option<SpanContext> {
    only(fields, TRACEPARENT).and_then(SpanContext::parse)
}

/// Whether the `tracestate` of a request, which may stand in several fields, goes on: as a whole or, where something in it is
/// not as the standard has it, not at all.
pub(super) fn keeps_state(fields: &Fields) -> bool {
    let mut keys: [&[u8]; MAX_MEMBERS] = [&[]; MAX_MEMBERS];
    let mut count = 0;
    let members = fields.get_all(TRACESTATE).flat_map(|value| value.split(|byte| *byte == b','));
    // Empty members are allowed, and none.
    for member in members.map(<[u8]>::trim_ascii).filter(|member| !member.is_empty()) {
        let Some(key) = key_of(member) else { return false };
        let Some(place) = keys.get_mut(count) else { return false };
        *place = key;
        count += 1;
        if keys.iter().take(count - 1).any(|known| *known == key) {
            return false;
        }
    }
    true
}

/// The key of a member that is as the standard has it.
fn key_of(member: &[u8]) -> Option<&[u8]> {
    let equals = member.iter().position(|byte| *byte == b'=')?;
    let (key, value) = (member.get(..equals)?, member.get(equals + 1..)?);
    let value_is = !value.is_empty() && value.len() <= MAX_PART && value.iter().all(|byte| matches!(byte, b' '..=b'~') && *byte != b'=');
    (value_is && is_key(key)).then_some(key)
}

/// `vendor`, or `tenant@system`.
fn is_key(key: &[u8]) -> bool {
    let named = |part: &[u8], longest: usize| {
        part.first().is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
            && part.len() <= longest
            && part.iter().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'_' | b'-' | b'*' | b'/'))
    };
    match key.iter().position(|byte| *byte == b'@') {
        None => named(key, MAX_PART),
        Some(at) => {
            let (tenant, system) = (key.get(..at).unwrap_or_default(), key.get(at + 1..).unwrap_or_default());
            named(tenant, MAX_TENANT) && named(system, MAX_SYSTEM)
        }
    }
}
