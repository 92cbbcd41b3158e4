//! W3C Trace Context, level 1: which trace an exchange belongs to. Pure; random numbers are passed in.

use std::fmt;

/// The request field that carries the caller's span.
pub const TRACEPARENT: &str = "traceparent";

/// The request field in which tracing systems keep what is theirs. Passed on as it came.
pub const TRACESTATE: &str = "tracestate";
/// The most members of a `tracestate`, by the standard.
const MAX_MEMBERS: usize = 32;

/// Whether the `tracestate` of a request, which may stand in several fields, goes on with it: only with the `traceparent`
/// that it came with, and with 32 members at most. If not, its fields are to be removed.
#[must_use]
pub fn keeps_tracestate<'a>(span: &Span, values: impl IntoIterator<Item = &'a str>) -> bool {
    // Empty members are allowed, and none.
    let members = values.into_iter().flat_map(|value| value.split(',')).filter(|member| !member.trim().is_empty()).count();
    span.parent.is_some() && members <= MAX_MEMBERS
}

/// A span of a trace, as `traceparent` names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpanContext {
    /// Never 0.
    pub trace_id: u128,
    /// Never 0.
    pub span_id: u64,
    /// Whether the trace is recorded.
    pub sampled: bool,
}

impl SpanContext {
    /// Reads a `traceparent`. Versions to come are read as far as version 00 goes; `ff`, upper case and zero ids are none.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.trim().splitn(5, '-');
        let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let rest = parts.next();
        let widths = version.len() == 2 && trace.len() == 32 && span.len() == 16 && flags.len() == 2;
        let hex = [version, trace, span, flags]
            .iter()
            .all(|part| part.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte)));
        if !widths || !hex || version == "ff" || (version == "00" && rest.is_some()) {
            return None;
        }
        let trace_id = u128::from_str_radix(trace, 16).ok().filter(|id| *id != 0)?;
        let span_id = u64::from_str_radix(span, 16).ok().filter(|id| *id != 0)?;
        let flags = u8::from_str_radix(flags, 16).ok()?;
        Some(Self { trace_id, span_id, sampled: flags & 1 == 1 })
    }
}

impl SpanContext {
    /// Writes a `traceparent`: `00-TRACE-SPAN-FLAGS`.
    #[must_use]
    pub fn encode(&self) -> [u8; 55] {
        let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
        text[3..35].copy_from_slice(&hexadecimal_128(self.trace_id));
        text[36..52].copy_from_slice(&hexadecimal(self.span_id));
        text[54] += u8::from(self.sampled);
        text
    }
}

/// Sixteen digits, lower case.
#[must_use]
pub fn hexadecimal(number: u64) -> [u8; 16] {
    // Every request has some of these written, so eight digits are made at once, one in each byte of a word.
    let eight = |half: u32| {
        let spread = u64::from(half);
        let spread = (spread | spread << 16) & 0x0000_ffff_0000_ffff;
        let spread = (spread | spread << 8) & 0x00ff_00ff_00ff_00ff;
        let spread = (spread | spread << 4) & 0x0f0f_0f0f_0f0f_0f0f;
        // One in each byte whose digit is a letter: those are 39 further on than `9` would lead.
        let letters = (spread + 0x0606_0606_0606_0606) >> 4 & 0x0101_0101_0101_0101;
        (spread + 0x3030_3030_3030_3030 + letters * 39).to_be_bytes()
    };
    let mut text = [0; 16];
    text[..8].copy_from_slice(&eight((number >> 32) as u32));
    text[8..].copy_from_slice(&eight(number as u32));
    text
}

/// Thirty-two digits, lower case.
#[must_use]
pub fn hexadecimal_128(number: u128) -> [u8; 32] {
    let mut text = [0; 32];
    text[..16].copy_from_slice(&hexadecimal((number >> 64) as u64));
    text[16..].copy_from_slice(&hexadecimal(number as u64));
    text
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
    /// The span of an exchange whose request came with `incoming`. Without one, a trace begins, recorded in a `sampling` share of cases.
    /// A caller's decision to record or not is kept.
    #[must_use]
    pub fn begin(incoming: Option<&str>, sampling: f64, mut random: impl FnMut() -> u64) -> Self {
        let span_id = random().max(1);
        match incoming.and_then(SpanContext::parse) {
            Some(caller) => Self { context: SpanContext { span_id, ..caller }, parent: Some(caller.span_id) },
            None => {
                let trace_id = (u128::from(random()) << 64 | u128::from(random())).max(1);
                // 53 bits are what a float holds.
                #[allow(clippy::cast_precision_loss, reason = "53 bits fit")]
                let sampled = ((random() >> 11) as f64 / (1_u64 << 53) as f64) < sampling;
                Self { context: SpanContext { trace_id, span_id, sampled }, parent: None }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_traceparent_reads_back_as_written() {
        assert_eq!(SpanContext::parse(GOOD).unwrap().to_string(), GOOD);
        // A version to come, with more behind.
        let newer = SpanContext::parse("01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-03-more").unwrap();
        assert!(newer.sampled);
        // Flags to come are not passed on: they are set by whoever knows what they say.
        assert!(newer.to_string().starts_with("00-") && newer.to_string().ends_with("-01"));
    }

    #[test]
    fn a_tracestate_goes_on_with_its_traceparent_alone() {
        let zero = || 0;
        let (child, root) = (Span::begin(Some(GOOD), 0.0, zero), Span::begin(None, 0.0, zero));
        let members = |count: usize| vec!["a=1"; count].join(",");
        assert!(keeps_tracestate(&child, ["congo=t61, ,rojo=00f0"]));
        assert!(keeps_tracestate(&child, [members(16).as_str(), members(16).as_str()]));
        assert!(!keeps_tracestate(&child, [members(16).as_str(), members(17).as_str()]));
        assert!(!keeps_tracestate(&root, ["congo=t61"]));
    }

    #[test]
    fn numbers_are_written_as_the_library_writes_them() {
        let mut number = 0x9e37_79b9_7f4a_7c15_u64;
        for _ in 0..10_000 {
            number = number.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            assert_eq!(hexadecimal(number), *format!("{number:016x}").as_bytes());
        }
        for digit in 0..16 {
            assert_eq!(hexadecimal(digit * 0x1111_1111_1111_1111), *format!("{digit:x}").repeat(16).as_bytes());
        }
        assert_eq!(hexadecimal_128(1 << 64 | 0xab), *format!("{:032x}", 1_u128 << 64 | 0xab).as_bytes());
    }

    #[test]
    fn no_id_is_ever_zero() {
        let Span { context, .. } = Span::begin(None, 1.0, || 0);
        assert!(context.trace_id != 0 && context.span_id != 0);
    }

    #[test]
    fn what_is_no_traceparent_is_not_taken() {
        for bad in [
            "",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "00-0af7651916cd43dd8448eb211c8031+c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0x",
            "0-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01more",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01,00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319\u{e9}-b7ad6b7169203331-01",
        ] {
            assert_eq!(SpanContext::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_callers_decision_is_kept_and_ours_is_drawn() {
        let mut next = 41;
        let mut random = || {
            next += 1;
            next
        };
        let span = Span::begin(Some(GOOD), 0.0, &mut random);
        assert!(span.context.sampled);
        assert_eq!(span.parent, Some(0xb7ad_6b71_6920_3331));
        assert!(!Span::begin(None, 0.0, &mut random).context.sampled);
        assert!(Span::begin(None, 1.0, &mut random).context.sampled);
    }
}
