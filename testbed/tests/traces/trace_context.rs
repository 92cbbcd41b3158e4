//! The cases of W3C's own test harness for Trace Context, by its names for them, against a real proxy: each is requests with some fields, and
//! what is to be said of the trace behind it.

use std::net::SocketAddr;

use anyhow::{Context as _, ensure};
use testbed::{Connection, Echo, EchoServer, Mesh};

use crate::proxy;

const TRACE: &str = "12345678901234567890123456789012";
const SPAN: &str = "1234567890123456";

/// What becomes of the trace.
#[derive(Debug, Clone, Copy)]
enum Trace {
    /// It goes on, with another span.
    Same,
    /// Another one begins.
    New,
}

/// What becomes of the state.
#[derive(Debug, Clone)]
enum State {
    /// It goes on: these members, in this order.
    Kept(Vec<(String, String)>),
    /// It does not.
    Gone,
}

/// What stands behind the proxy.
struct Behind {
    trace: String,
    span: String,
    state: Vec<(String, String)>,
}

async fn behind(at: SocketAddr, sent: &[(&str, String)]) -> anyhow::Result<Behind> {
    // As bytes: names keep their case, values the space around them.
    let fields: String = sent.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let request = format!("POST /test HTTP/1.1\r\nhost: web.shop\r\nconnection: close\r\ncontent-length: 0\r\n{fields}\r\n");
    let mut connection = Connection::open(at).await?;
    connection.write(request.as_bytes()).await?;
    let answer = String::from_utf8(connection.read_to_end().await?)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no head")?;
    ensure!(head.starts_with("HTTP/1.1 200"), "{answer}");
    let echo: Echo = serde_json::from_str(body)?;
    let all = |name: &str| echo.headers.iter().filter(|(known, _)| known == name).map(|(_, value)| value.as_str()).collect::<Vec<_>>();
    let told = all("traceparent");
    let [one] = told.as_slice() else { anyhow::bail!("not one traceparent: {told:?}") };
    let parts: Vec<&str> = one.split('-').collect();
    let lower = |part: &&str| part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    ensure!(parts.iter().map(|part| part.len()).eq([2, 32, 16, 2]) && parts.iter().all(lower), "{one}");
    ensure!(parts[0] == "00" && parts[1..3].iter().all(|id| id.bytes().any(|digit| digit != b'0')), "{one}");
    let states = all("tracestate").join(",");
    let members = states.split(',').map(|member| member.trim_matches([' ', '\t'])).filter(|member| !member.is_empty());
    let state = members.map(|member| member.split_once('=').map(|(key, value)| (key.to_owned(), value.to_owned())));
    Ok(Behind { trace: parts[1].to_owned(), span: parts[2].to_owned(), state: state.collect::<Option<_>>().context(states.clone())? })
}

/// One request of a case.
struct Case {
    name: &'static str,
    sent: Vec<(&'static str, String)>,
    trace: Trace,
    state: State,
}

fn parent(value: &str) -> (&'static str, String) {
    ("traceparent", value.to_owned())
}

fn good() -> (&'static str, String) {
    parent(&format!("00-{TRACE}-{SPAN}-00"))
}

/// Only about the `traceparent`.
fn parents(name: &'static str, trace: Trace, values: &[&str]) -> Vec<Case> {
    let case = |value: &&str| Case { name, sent: vec![parent(value)], trace, state: State::Gone };
    values.iter().map(case).collect()
}

fn kept(members: &[(&str, &str)]) -> State {
    State::Kept(members.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect())
}

/// About the state beside a good `traceparent`.
fn state(name: &'static str, state: State, values: &[&str]) -> Case {
    let sent = [good()].into_iter().chain(values.iter().map(|value| ("tracestate", (*value).to_owned()))).collect();
    Case { name, sent, trace: Trace::Same, state }
}

fn of_traceparent() -> Vec<Case> {
    use Trace::{New, Same};
    let long = "00-12345678901234567890123456789012-1234567890123456-01-what-the-future-will-be-like";
    let mut cases = vec![
        Case { name: "both_traceparent_and_tracestate_missing", sent: Vec::new(), trace: New, state: State::Gone },
        Case {
            name: "traceparent_duplicated",
            sent: vec![parent("00-12345678901234567890123456789011-1234567890123456-01"), parent(&format!("00-{TRACE}-{SPAN}-01"))],
            trace: New,
            state: State::Gone,
        },
    ];
    for (name, trace) in [("trace-parent", New), ("trace.parent", New), ("TraceParent", Same), ("TrAcEpArEnT", Same), ("TRACEPARENT", Same)]
    {
        let sent = vec![(name, format!("00-{TRACE}-{SPAN}-01"))];
        cases.push(Case { name: "traceparent_header_name", sent, trace, state: State::Gone });
    }
    cases.extend(parents("traceparent_included_tracestate_missing", Same, &[&format!("00-{TRACE}-{SPAN}-01")]));
    cases.extend(parents("traceparent_version_0x00", New, &[&format!("00-{TRACE}-{SPAN}-01."), long]));
    let to_come = [format!("cc-{TRACE}-{SPAN}-01"), long.replace("00-1234", "cc-1234")];
    cases.extend(parents("traceparent_version_0xcc", Same, &to_come.each_ref().map(String::as_str)));
    cases.extend(parents("traceparent_version_0xcc", New, &[&long.replace("00-1234", "cc-1234").replace("01-what", "01.what")]));
    cases.extend(parents("traceparent_version_0xff", New, &[&format!("ff-{TRACE}-{SPAN}-01")]));
    for version in [".0", "0.", "000", "0000", "0"] {
        cases.extend(parents("traceparent_version", New, &[&format!("{version}-{TRACE}-{SPAN}-01")]));
    }
    for id in [
        "00000000000000000000000000000000",
        ".2345678901234567890123456789012",
        "1234567890123456789012345678901.",
        "123456789012345678901234567890123",
        "1234567890123456789012345678901",
    ] {
        cases.extend(parents("traceparent_trace_id", New, &[&format!("00-{id}-{SPAN}-01")]));
    }
    for id in ["0000000000000000", ".234567890123456", "123456789012345.", "12345678901234567", "123456789012345"] {
        cases.extend(parents("traceparent_parent_id", New, &[&format!("00-{TRACE}-{id}-01")]));
    }
    for flags in [".0", "0.", "001", "1"] {
        cases.extend(parents("traceparent_trace_flags", New, &[&format!("00-{TRACE}-{SPAN}-{flags}")]));
    }
    for (before, after) in [(" ", ""), ("\t", ""), ("", " "), ("", "\t"), ("\t ", " \t")] {
        cases.extend(parents("traceparent_ows_handling", Same, &[&format!("{before}00-{TRACE}-{SPAN}-01{after}")]));
    }
    cases
}

fn of_tracestate() -> Vec<Case> {
    let one = || kept(&[("foo", "1")]);
    let mut cases = vec![
        state("tracestate_included_traceparent_included", kept(&[("foo", "1"), ("bar", "2")]), &["foo=1,bar=2"]),
        state("tracestate_empty_header", State::Gone, &[""]),
        state("tracestate_empty_header", one(), &["foo=1", ""]),
        state("tracestate_empty_header", one(), &["", "foo=1"]),
        state(
            "tracestate_multiple_headers_different_keys",
            kept(&[("foo", "1"), ("bar", "2"), ("rojo", "1"), ("congo", "2"), ("baz", "3")]),
            &["foo=1,bar=2", "rojo=1,congo=2", "baz=3"],
        ),
    ];
    for value in ["foo=1", "foo=1,bar=2"] {
        let sent = vec![("tracestate", value.to_owned())];
        cases.push(Case { name: "tracestate_included_traceparent_missing", sent, trace: Trace::New, state: State::Gone });
    }
    for name in ["trace-state", "trace.state"] {
        cases.push(Case {
            name: "tracestate_header_name",
            sent: vec![good(), (name, "foo=1".to_owned())],
            trace: Trace::Same,
            state: State::Gone,
        });
    }
    for name in ["TraceState", "TrAcEsTaTe", "TRACESTATE"] {
        let sent = vec![good(), (name, "foo=1".to_owned())];
        cases.push(Case { name: "tracestate_header_name_valid_casing", sent, trace: Trace::Same, state: one() });
    }
    for values in [&["foo=1,foo=1"][..], &["foo=1,foo=2"], &["foo=1", "foo=1"], &["foo=1", "foo=2"]] {
        cases.push(state("tracestate_duplicated_keys", State::Gone, values));
    }
    let range = |first: char, last: char| (first..=last).collect::<String>();
    let key = format!("{}0123456789_-*/", range('a', 'z'));
    let value = range(' ', '+') + &range('-', '<') + &range('>', '~');
    for key in [key.clone(), format!("{key}@a-z0-9_-*/")] {
        cases.push(state("tracestate_all_allowed_characters", kept(&[(&key, &value)]), &[&format!("{key}={value}")]));
    }
    let three = || kept(&[("foo", "1"), ("bar", "2"), ("baz", "3")]);
    cases.push(state("tracestate_ows_handling", three(), &["foo=1 \t , \t bar=2, \t baz=3"]));
    cases.push(state("tracestate_ows_handling", three(), &["foo=1\t \t,\t \tbar=2,\t \tbaz=3"]));
    for value in [" foo=1", "\tfoo=1", "foo=1 ", "foo=1\t", "\t foo=1 \t"] {
        cases.push(state("tracestate_ows_handling", one(), &[value]));
    }
    for value in ["foo =1", "FOO=1", "foo.bar=1"] {
        cases.push(state("tracestate_key_illegal_characters", State::Gone, &[value]));
    }
    for value in ["foo@=1,bar=2", "@foo=1,bar=2", "foo@@bar=1,bar=2", "foo@bar@baz=1,bar=2"] {
        cases.push(state("tracestate_key_illegal_vendor_format", State::Gone, &[value]));
    }
    let member = |number: usize| (format!("bar{number:02}"), format!("{number:02}"));
    let field = |numbers: std::ops::RangeInclusive<usize>| {
        numbers.map(member).map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
    };
    let fields = |last: usize| [field(1..=10), field(11..=20), field(21..=30), field(31..=last)];
    let all = State::Kept((1..=32).map(member).collect());
    cases.push(state("tracestate_member_count_limit", all, &fields(32).each_ref().map(String::as_str)));
    cases.push(state("tracestate_member_count_limit", State::Gone, &fields(33).each_ref().map(String::as_str)));
    for (key, fits) in [
        ("z".repeat(256), true),
        ("z".repeat(257), false),
        (format!("{}@{}", "t".repeat(241), "v".repeat(14)), true),
        (format!("{}@v", "t".repeat(242)), false),
        (format!("t@{}", "v".repeat(15)), false),
    ] {
        let expected = if fits { kept(&[("foo", "1"), (&key, "1")]) } else { State::Gone };
        cases.push(state("tracestate_key_length_limit", expected, &["foo=1", &format!("{key}=1")]));
    }
    for value in ["foo=bar=baz", "foo=,bar=3"] {
        cases.push(state("tracestate_value_illegal_characters", State::Gone, &[value]));
    }
    cases
}

#[tokio::test]
async fn every_case_of_the_harness_of_w3c_holds() -> anyhow::Result<()> {
    let mesh = Mesh::options().without_control()?;
    let echo = EchoServer::start("web").await?;
    let proxy = proxy(&mesh, echo.address(), &[]).await?;
    for Case { name, sent, trace, state } in of_traceparent().into_iter().chain(of_tracestate()) {
        let behind = behind(proxy.address(), &sent).await.with_context(|| format!("{name}: {sent:?}"))?;
        let told = sent.iter().any(|(_, value)| value.contains(&behind.trace));
        match trace {
            Trace::Same => assert!(behind.trace == TRACE && behind.span != SPAN, "{name}: {sent:?}"),
            Trace::New => assert!(!told, "{name}: {sent:?}: {}", behind.trace),
        }
        let expected = match state {
            State::Kept(members) => members,
            State::Gone => Vec::new(),
        };
        assert_eq!(behind.state, expected, "{name}: {sent:?}");
    }
    mesh.finish().await
}

/// The harness's `multiple_requests_with_valid_traceparent`, `…_without_traceparent`, `…_with_illegal_traceparent`.
#[tokio::test]
async fn each_request_has_a_span_of_its_own() -> anyhow::Result<()> {
    let mesh = Mesh::options().without_control()?;
    let echo = EchoServer::start("web").await?;
    let proxy = proxy(&mesh, echo.address(), &[]).await?;
    for (sent, goes_on) in [
        (vec![parent(&format!("00-{TRACE}-{SPAN}-01"))], true),
        (Vec::new(), false),
        (vec![parent(&format!("00-00000000000000000000000000000000-{SPAN}-01"))], false),
    ] {
        let (mut traces, mut spans) = (Vec::new(), Vec::new());
        for _ in 0..3 {
            let behind = behind(proxy.address(), &sent).await?;
            traces.push(behind.trace);
            spans.push(behind.span);
        }
        assert_eq!(traces.iter().all(|trace| trace == TRACE), goes_on, "{sent:?}: {traces:?}");
        spans.sort();
        spans.dedup();
        assert_eq!(spans.len(), 3, "{sent:?}");
    }
    mesh.finish().await
}
