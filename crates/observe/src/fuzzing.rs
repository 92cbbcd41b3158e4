//! The parsers of this crate as fuzzers call them: bytes of anybody's in, nothing out. They may refuse, and do nothing else.
//!
//! Compiled for tests, which run them on bytes by chance, and for `fuzz/` (`cargo xtask fuzz`), which runs them for longer.

#![allow(clippy::panic, clippy::expect_used, reason = "a mistake that is found ends the run")]

use lorica_model::head::{Edits, HeadBuilder, RequestHead, Version};

use crate::trace::{SpanContext, TRACEPARENT, propagate, trace_id};

/// A name, what is run on bytes, and bytes to begin with.
pub type Target = (&'static str, fn(&[u8]), fn() -> Vec<Vec<u8>>);

/// All of this crate.
pub const TARGETS: [Target; 1] = [("trace_fields", trace_fields, trace_samples)];

/// The fields by which a request says its trace, a line each. What goes on is one trace, in all forms, and reads back as the same one.
pub fn trace_fields(bytes: &[u8]) {
    let Some(came) = head(bytes.split(|byte| *byte == b'\n')) else { return };
    let mut edits = Edits::default();
    let mut number = 0;
    let span = propagate(&came.fields, &mut edits, 0.5, || {
        number += 1;
        number
    });
    let lines: Vec<Vec<u8>> = edits.apply(&came.fields).map(|field| [field.name, b":", field.value].concat()).collect();
    let on = head(lines.iter().map(Vec::as_slice)).expect("what goes on is a head");
    assert!(on.fields.get_all(TRACEPARENT).eq([&span.context.encode()[..]]), "one goes on");
    assert_eq!(on.fields.get_str(TRACEPARENT).and_then(SpanContext::parse), Some(span.context), "it reads back");
    // Without the first form the others say the same.
    let others: Vec<&[u8]> = lines.iter().map(Vec::as_slice).filter(|line| !line.starts_with(b"traceparent")).collect();
    let others = head(others.into_iter()).expect("what goes on is a head");
    assert!(trace_id(&others.fields).is_none_or(|id| Some(id) == trace_id(&on.fields)), "two traces go on");
}

fn head<'l>(lines: impl Iterator<Item = &'l [u8]>) -> Option<RequestHead> {
    let mut builder = HeadBuilder::with_capacity(256);
    for line in lines.take(64) {
        let colon = line.iter().position(|byte| *byte == b':')?;
        builder.field(line.get(..colon)?, line.get(colon + 1..)?).ok()?;
    }
    builder.request(Version::Http11, "GET", "/", "a", None).ok()
}

fn trace_samples() -> Vec<Vec<u8>> {
    let samples = [
        "traceparent:00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\ntracestate:a=1,b@c=2",
        "b3:463ac35c9f6413ad48485a3953bb6124-a2fb4a1d1a96d312-d-48485a3953bb6124",
        "x-b3-traceid:48485a3953bb6124\nx-b3-spanid:a2fb4a1d1a96d312\nx-b3-parentspanid:48485a3953bb6124\nx-b3-sampled:1\nx-b3-flags:1",
        "b3:0",
    ];
    samples.map(|sample| sample.as_bytes().to_vec()).to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_bytes_break_a_parser(noise in prop::collection::vec(any::<u8>(), 0..200), which in any::<prop::sample::Index>(), at in any::<prop::sample::Index>()) {
            for (_, run, samples) in TARGETS {
                run(&noise);
                let mut bytes = which.get(&samples()).clone();
                let at = at.index(bytes.len());
                let end = (at + noise.len() % 9).min(bytes.len());
                bytes.splice(at..end, noise.iter().copied().take(8));
                run(&bytes);
            }
        }
    }
}
