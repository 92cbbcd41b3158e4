//! What comes in, and what goes on.

#![allow(clippy::unwrap_used, reason = "a test that fails says where by panicking")]

use lorica_model::head::{HeadBuilder, RequestHead, Version};

use super::*;

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const SHORT: &str = "8448eb211c80319c";
const CALLER: &str = "b7ad6b7169203331";
const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
/// The span's own id, by [`counting`].
const OWN: &str = "000000000000002a";

fn head(came: &[(&str, &str)]) -> RequestHead {
    let mut builder = HeadBuilder::with_capacity(256);
    for (name, value) in came {
        builder.field(name.as_bytes(), value.as_bytes()).unwrap();
    }
    builder.request(Version::Http11, "GET", "/", "a", None).unwrap()
}

fn counting() -> impl FnMut() -> u64 {
    let mut next = 41;
    move || {
        next += 1;
        next
    }
}

/// The span of a request with these fields, and those that go on, in the order of their names.
fn passed(came: &[(&str, &str)], share: f64) -> (Span, Vec<(String, String)>) {
    let (head, mut edits) = (head(came), Edits::default());
    let span = propagate(&head.fields, &mut edits, share, counting());
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let mut on: Vec<_> = edits.apply(&head.fields).map(|field| (text(field.name), text(field.value))).collect();
    on.sort();
    (span, on)
}

/// What goes on besides `traceparent`.
fn beside(came: &[(&str, &str)], share: f64) -> String {
    let (_, on) = passed(came, share);
    let lines: Vec<String> = on.iter().filter(|(name, _)| name != TRACEPARENT).map(|(name, value)| format!("{name}: {value}")).collect();
    lines.join("\n")
}

#[test]
fn a_traceparent_reads_back_as_written() {
    assert_eq!(SpanContext::parse(GOOD).unwrap().to_string(), GOOD);
    // A version to come, with more behind.
    let newer = SpanContext::parse("01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-03-more").unwrap();
    assert!(newer.sampled);
    // Flags to come are not passed on.
    assert!(newer.to_string().starts_with("00-") && newer.to_string().ends_with("-01"));
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
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-+1",
        "0-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01more",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01,00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319\u{e9}-b7ad6b7169203331-01",
    ] {
        assert_eq!(SpanContext::parse(bad), None, "{bad}");
        let (span, _) = passed(&[(TRACEPARENT, bad)], 0.0);
        assert_eq!(span.parent, None, "{bad}");
    }
}

#[test]
fn two_traceparents_are_none() {
    let other = GOOD.replace("0af7", "1af7");
    let (span, on) = passed(&[(TRACEPARENT, GOOD), (TRACEPARENT, &other), (TRACESTATE, "a=1")], 1.0);
    assert_eq!(span.parent, None);
    assert_eq!(on, [(TRACEPARENT.to_owned(), span.context.to_string())]);
}

#[test]
fn no_id_is_ever_zero() {
    let Span { context, .. } = Span::begin(None, 1.0, || 0);
    assert!(context.trace_id != 0 && context.span_id != 0);
}

#[test]
fn a_callers_decision_is_kept_and_ours_is_drawn() {
    let mut random = counting();
    let span = Span::begin(Some(GOOD), 0.0, &mut random);
    assert!(span.context.sampled);
    assert_eq!(span.parent, Some(0xb7ad_6b71_6920_3331));
    assert!(!Span::begin(Some(&GOOD.replace("-01", "-00")), 1.0, &mut random).context.sampled);
    assert!(!Span::begin(None, 0.0, &mut random).context.sampled);
    assert!(Span::begin(None, 1.0, &mut random).context.sampled);
}

#[test]
fn a_state_goes_on_with_its_traceparent_alone() {
    for state in ["congo=t61, ,rojo=00f0", "congo=t61 ,\trojo=00f0", "", "1a=b c", "fw529a3039@dt=FfffffeCZVYA0"] {
        assert_eq!(beside(&[(TRACEPARENT, GOOD), (TRACESTATE, state)], 0.0), format!("tracestate: {state}"));
        assert_eq!(beside(&[(TRACESTATE, state)], 0.0), "", "{state}");
        assert_eq!(beside(&[(TRACEPARENT, "00-nothing"), (TRACESTATE, state)], 0.0), "", "{state}");
        let b3 = format!("{TRACE}-{CALLER}-1");
        assert!(!beside(&[(SINGLE, &b3), (TRACESTATE, state)], 0.0).contains(TRACESTATE), "{state}");
    }
    let (_, on) = passed(&[(TRACEPARENT, GOOD), (TRACESTATE, "a=1"), ("x", "y"), (TRACESTATE, "b=2")], 0.0);
    assert_eq!(on[1..3].iter().map(|(_, value)| value.as_str()).collect::<Vec<_>>(), ["a=1", "b=2"]);
}

#[test]
fn a_state_that_is_not_as_the_standard_has_it_goes_as_a_whole() {
    let many = |count: usize| (0..count).map(|number| format!("k{number}=1")).collect::<Vec<_>>().join(",");
    let kept = |state: &str| !beside(&[(TRACEPARENT, GOOD), (TRACESTATE, state)], 0.0).is_empty();
    assert!(kept(&many(32)) && !kept(&many(33)));
    for (key, expected) in [
        ("z".repeat(256), true),
        ("z".repeat(257), false),
        (format!("{}@{}", "t".repeat(241), "v".repeat(14)), true),
        (format!("{}@v", "t".repeat(242)), false),
        (format!("t@{}", "v".repeat(15)), false),
    ] {
        assert_eq!(kept(&format!("a=1,{key}=1")), expected, "{key}");
    }
    assert!(kept(&format!("a={}", "v".repeat(256))) && !kept(&format!("a={}", "v".repeat(257))));
    for bad in ["a=1,a=2", "a", "=1", "a=", "a=1=2", "A=1", "a b=1", "a.b=1", "@b=1", "a@=1", "a@b@c=1", "_a=1", "a=\u{e9}"] {
        assert!(!kept(&format!("ok=1,{bad}")), "{bad}");
    }
}

const SINGLE: &str = "b3";

#[test]
fn b3_in_one_field_is_read_and_goes_on_in_one() {
    let id = |text: &str| u128::from_str_radix(text, 16).unwrap();
    for (value, share, trace, parent, sampled, on) in [
        (format!("{TRACE}-{CALLER}-1"), 0.0, id(TRACE), true, true, format!("{TRACE}-{OWN}-1-{CALLER}")),
        (format!("{TRACE}-{CALLER}-0-{SHORT}"), 1.0, id(TRACE), true, false, format!("{TRACE}-{OWN}-0-{CALLER}")),
        (format!("{TRACE}-{CALLER}-d"), 0.0, id(TRACE), true, true, format!("{TRACE}-{OWN}-d-{CALLER}")),
        // The decision is left to us.
        (format!("{TRACE}-{CALLER}"), 0.0, id(TRACE), true, false, format!("{TRACE}-{OWN}-0-{CALLER}")),
        (format!("{TRACE}-{CALLER}"), 1.0, id(TRACE), true, true, format!("{TRACE}-{OWN}-1-{CALLER}")),
        // Ids of 64 bits stay so for whoever reads B3.
        (format!("{SHORT}-{CALLER}-1"), 0.0, id(SHORT), true, true, format!("{SHORT}-{OWN}-1-{CALLER}")),
        // Only the decision came: a trace begins.
        ("0".to_owned(), 1.0, 43 << 64 | 44, false, false, format!("{:032x}-{OWN}-0", 43_u128 << 64 | 44)),
        ("d".to_owned(), 0.0, 43 << 64 | 44, false, true, format!("{:032x}-{OWN}-d", 43_u128 << 64 | 44)),
        // No B3 after all; but somebody speaks it.
        ("nothing".to_owned(), 0.0, 43 << 64 | 44, false, false, format!("{:032x}-{OWN}-0", 43_u128 << 64 | 44)),
    ] {
        let (span, all) = passed(&[("B3", &value)], share);
        assert_eq!(span.context.trace_id, trace, "{value}");
        assert_eq!(span.parent.is_some(), parent, "{value}");
        assert_eq!(span.context.sampled, sampled, "{value}");
        assert_eq!(all, [(SINGLE.to_owned(), on), (TRACEPARENT.to_owned(), span.context.to_string())], "{value}");
    }
}

#[test]
fn b3_in_several_fields_is_read_and_goes_on_in_several() {
    let several = |sampled: &str| {
        let ids = [("X-B3-TraceId", SHORT), ("X-B3-SpanId", CALLER), ("X-B3-ParentSpanId", SHORT)];
        let decision: &[_] = match sampled {
            "" => &[],
            "d" => &[("X-B3-Flags", "1")],
            other => &[("X-B3-Sampled", other)],
        };
        beside(&[&ids[..], decision].concat(), 0.0)
    };
    let on = |decision: &str| {
        let mut lines = vec![format!("x-b3-parentspanid: {CALLER}"), format!("x-b3-spanid: {OWN}"), format!("x-b3-traceid: {SHORT}")];
        lines.push(decision.to_owned());
        lines.sort();
        lines.join("\n")
    };
    assert_eq!(several("1"), on("x-b3-sampled: 1"));
    assert_eq!(several("true"), on("x-b3-sampled: 1"));
    assert_eq!(several("0"), on("x-b3-sampled: 0"));
    assert_eq!(several(""), on("x-b3-sampled: 0"));
    assert_eq!(several("d"), on("x-b3-flags: 1"));
    // Only the decision.
    let (span, _) = passed(&[("x-b3-sampled", "1")], 0.0);
    assert!(span.context.sampled && span.parent.is_none());
    let (span, _) = passed(&[("x-b3-sampled", "0")], 1.0);
    assert!(!span.context.sampled);
}

#[test]
fn what_is_no_b3_begins_a_trace() {
    for (trace, span) in [
        (TRACE.to_uppercase().as_str(), CALLER),
        ("0", CALLER),
        ("00000000000000000000000000000000", CALLER),
        (TRACE, "0000000000000000"),
        (TRACE, TRACE),
        (&TRACE[1..], CALLER),
        ("", ""),
    ] {
        let single = format!("{trace}-{span}-1");
        assert_eq!(passed(&[(SINGLE, &single)], 0.0).0.parent, None, "{single}");
        assert_eq!(passed(&[("x-b3-traceid", trace), ("x-b3-spanid", span), ("x-b3-sampled", "1")], 0.0).0.parent, None, "{single}");
    }
    for bad in ["-2", "-1-", "-1-x", "-1-8448eb211c80319c-more", "-"] {
        let single = format!("{TRACE}-{CALLER}{bad}");
        assert_eq!(passed(&[(SINGLE, &single)], 0.0).0.parent, None, "{single}");
    }
    assert_eq!(passed(&[("x-b3-traceid", TRACE)], 0.0).0.parent, None);
    assert!(!passed(&[(SINGLE, "d"), (SINGLE, "d")], 0.0).0.context.sampled);
}

#[test]
fn the_first_of_the_forms_counts_and_each_goes_on() {
    let other = "11111111111111111111111111111111";
    let single = format!("{other}-{CALLER}-0");
    let came = [(TRACEPARENT, GOOD), (SINGLE, &single), ("x-b3-traceid", SHORT), ("x-b3-spanid", CALLER), ("x-b3-sampled", "0")];
    let parent = format!("x-b3-parentspanid: {CALLER}\nx-b3-sampled: 1\nx-b3-spanid: {OWN}\nx-b3-traceid: {TRACE}");
    assert_eq!(beside(&came, 0.0), format!("b3: {TRACE}-{OWN}-1-{CALLER}\n{parent}"));
    let (span, _) = passed(&came[1..], 0.0);
    assert_eq!(format!("{:x}", span.context.trace_id), other);
    let (span, _) = passed(&came[2..], 0.0);
    assert_eq!(format!("{:x}", span.context.trace_id), SHORT);
}

#[test]
fn a_request_names_its_trace_in_any_form() {
    let of = |came: &[(&str, &str)]| trace_id(&head(came).fields).map(|id| String::from_utf8(id.to_vec()).unwrap());
    assert_eq!(of(&[(TRACEPARENT, GOOD)]).as_deref(), Some(TRACE));
    assert_eq!(of(&[(SINGLE, &format!("{TRACE}-{CALLER}"))]).as_deref(), Some(TRACE));
    assert_eq!(of(&[("x-b3-traceid", SHORT), ("x-b3-spanid", CALLER)]), Some(format!("0000000000000000{SHORT}")));
    assert_eq!(of(&[(SINGLE, "1")]), None);
    assert_eq!(of(&[]), None);
}
