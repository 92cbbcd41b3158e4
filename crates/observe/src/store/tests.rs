//! The store as its users meet it: what is kept is found, whatever happens to its files.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ScopeLogs};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{ScopeSpans, Span, Status};
use proptest::prelude::*;
use tempfile::TempDir;

use super::filter::{Condition, LogFilter, SpanFilter};
use super::intake::{check_logs, check_spans};
use super::query::Part;
use super::*;

const ROOMY: Bounds = Bounds { bytes: 64 * 1024 * 1024, age: Duration::from_secs(3600) };
const SECOND: u64 = 1_000_000_000;

fn attribute(key: &str, value: &str) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(Value::StringValue(value.to_owned())) }), ..KeyValue::default() }
}

fn resource(service: &str) -> Option<Resource> {
    let (name, namespace) = service.split_once('.').unwrap_or((service, ""));
    Some(Resource { attributes: vec![attribute("service.name", name), attribute("service.namespace", namespace)], ..Resource::default() })
}

fn span(trace: u128, id: u64, parent: u64, start: u64, duration: u64) -> Span {
    Span {
        trace_id: trace.to_be_bytes().to_vec(),
        span_id: id.to_be_bytes().to_vec(),
        parent_span_id: if parent == 0 { Vec::new() } else { parent.to_be_bytes().to_vec() },
        name: format!("operation-{}", id % 3),
        kind: SpanKind::Server.into(),
        start_time_unix_nano: start,
        end_time_unix_nano: start + duration,
        attributes: vec![attribute("of", &(id % 5).to_string())],
        status: Some(Status { code: if id.is_multiple_of(7) { StatusCode::Error } else { StatusCode::Unset }.into(), ..Status::default() }),
        ..Span::default()
    }
}

fn of(service: &str, spans: Vec<Span>) -> ResourceSpans {
    ResourceSpans { resource: resource(service), scope_spans: vec![ScopeSpans { spans, ..ScopeSpans::default() }], ..Default::default() }
}

fn log(number: u64) -> LogRecord {
    LogRecord {
        time_unix_nano: SECOND + number,
        body: Some(AnyValue { value: Some(Value::StringValue(format!("line {number}"))) }),
        attributes: vec![attribute("of", &(number % 5).to_string())],
        ..LogRecord::default()
    }
}

fn logs_of(service: &str, log_records: Vec<LogRecord>) -> ResourceLogs {
    ResourceLogs {
        resource: resource(service),
        scope_logs: vec![ScopeLogs { log_records, ..ScopeLogs::default() }],
        ..ResourceLogs::default()
    }
}

fn opened(directory: &TempDir, bounds: Bounds) -> Store {
    Store::open(directory.path(), bounds, bounds).unwrap()
}

fn put(store: &Store, spans: Vec<ResourceSpans>) {
    let checked = check_spans(spans);
    assert_eq!(checked.refused, 0);
    assert!(store.offer_spans(checked));
    store.flush();
}

fn put_logs(store: &Store, numbers: std::ops::Range<u64>) {
    assert!(store.offer_logs(check_logs(vec![logs_of("web.shop", numbers.map(log).collect())])));
    store.flush();
}

fn said(log: &query::StoredLog) -> u64 {
    match log.record.body.clone().unwrap().value {
        Some(Value::StringValue(text)) => text.strip_prefix("line ").unwrap().parse().unwrap(),
        other => panic!("{other:?}"),
    }
}

fn segments(directory: &TempDir, kind: &str) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir(directory.path().join(kind)).unwrap().map(|entry| entry.unwrap().path()).collect();
    found.sort();
    found
}

#[test]
fn a_trace_is_put_together_from_all_who_told_of_it() {
    let directory = tempfile::tempdir().unwrap();
    let store = opened(&directory, ROOMY);
    put(&store, vec![of("callee.shop", vec![span(9, 2, 1, SECOND + 10, 50), span(8, 5, 0, SECOND, 1)])]);
    put(&store, vec![of("caller.shop", vec![span(9, 1, 0, SECOND, 100)])]);
    // An exporter that tried again.
    put(&store, vec![of("caller.shop", vec![span(9, 1, 0, SECOND, 100)])]);
    for store in [&store, &{
        store.close();
        opened(&directory, ROOMY)
    }] {
        let trace = store.trace(9).unwrap().unwrap();
        let spans: Vec<(u64, &str)> = trace.spans.iter().map(|span| (span.id(), span.service.as_str())).collect();
        assert_eq!(spans, [(1, "caller.shop"), (2, "callee.shop")]);
        assert_eq!((trace.start(), trace.duration(), trace.tree()), (SECOND, 100, vec![(0, 0), (1, 1)]));
        assert!(store.trace(7).unwrap().is_none());
        assert_eq!(store.services().into_iter().collect::<Vec<_>>(), ["callee.shop", "caller.shop"]);
        assert_eq!(store.operations("caller.shop").into_iter().collect::<Vec<_>>(), [("operation-1".to_owned(), 2)]);
        let edges = store.dependencies(0, u64::MAX).unwrap();
        assert_eq!(edges.into_iter().collect::<Vec<_>>(), [(("caller.shop".to_owned(), "callee.shop".to_owned()), 1)]);
    }
}

#[test]
fn what_was_stored_survives_a_new_start_and_more_is_stored_behind_it() {
    let directory = tempfile::tempdir().unwrap();
    for round in 1..=3_u64 {
        let store = opened(&directory, ROOMY);
        put(&store, vec![of("web.shop", vec![span(round.into(), round, 0, round * SECOND, 1)])]);
        put_logs(&store, round * 10..round * 10 + 10);
        // However it ends: nothing is closed in order.
        let found = store.traces(&SpanFilter::default(), None, 10).unwrap();
        assert_eq!(found.traces.iter().map(|trace| trace.id).collect::<Vec<_>>(), (1..=u128::from(round)).rev().collect::<Vec<_>>());
        let logs = store.logs(&LogFilter::default(), Part::Newest, 100).unwrap();
        assert!(logs.logs.iter().map(said).eq(10..round * 10 + 10));
    }
    // One file for all: a process that is started again and again leaves no heap of them.
    assert_eq!(segments(&directory, "spans").len(), 1);
}

/// Cuts or spoils the file at each of its bytes: all whole frames before are there, nothing behind, and it goes on from there.
#[test]
fn a_file_is_read_up_to_its_last_whole_frame() {
    let directory = tempfile::tempdir().unwrap();
    let mut ends = Vec::new();
    let path = {
        let store = opened(&directory, ROOMY);
        for number in 0..4 {
            put_logs(&store, number..number + 1);
            ends.push(fs::metadata(&segments(&directory, "logs")[0]).unwrap().len());
        }
        segments(&directory, "logs")[0].clone()
    };
    let whole = fs::read(&path).unwrap();
    let there = |length: u64| ends.iter().filter(|end| **end <= length).count() as u64;
    for length in (8..whole.len()).step_by(3) {
        let mut spoilt = whole.clone();
        spoilt[length] ^= 0x10;
        for content in [&whole[..length], &spoilt, &[&whole[..length], &[0; 64]].concat()] {
            fs::write(&path, content).unwrap();
            let store = opened(&directory, ROOMY);
            let found = store.logs(&LogFilter::default(), Part::Newest, 100).unwrap();
            assert!(found.logs.iter().map(said).eq(0..there(length as u64)), "{length} of {}", whole.len());
            put_logs(&store, 77..78);
            let found = store.logs(&LogFilter::default(), Part::Newest, 100).unwrap();
            assert!(found.logs.iter().map(said).eq((0..there(length as u64)).chain([77])), "{length} of {}", whole.len());
            store.close();
        }
    }
    // What is no segment at all is no reason not to start.
    for content in [&b""[..], b"lorica", b"something else"] {
        fs::write(&path, content).unwrap();
        assert_eq!(opened(&directory, ROOMY).counts(Kind::Logs).records, 0);
    }
}

#[test]
fn the_oldest_go_when_there_are_too_many_bytes() {
    let directory = tempfile::tempdir().unwrap();
    let bounds = Bounds { bytes: 512 * 1024, age: ROOMY.age };
    let size = || segments(&directory, "logs").iter().map(|path| fs::metadata(path).unwrap().len()).sum::<u64>();
    for round in 0..2 {
        let store = opened(&directory, bounds);
        for batch in 0..100 {
            let first = round * 10_000 + batch * 100;
            put_logs(&store, first..first + 100);
            assert!(size() <= bounds.bytes, "{} bytes", size());
        }
        assert_eq!(store.counts(Kind::Logs).bytes, size());
        let mut found = store.logs(&LogFilter::default(), Part::Newest, usize::MAX).unwrap().logs;
        let numbers: Vec<u64> = found.iter().map(said).collect();
        let last = round * 10_000 + 9_999;
        // What is left is the newest, without a gap, and most of the room is used.
        assert_eq!(numbers, (last + 1 - numbers.len() as u64..=last).collect::<Vec<_>>());
        assert!(size() > bounds.bytes / 2 && found.pop().is_some());
        store.close();
    }
}

#[test]
fn the_oldest_go_when_they_are_too_old() {
    let directory = tempfile::tempdir().unwrap();
    let bounds = Bounds { bytes: ROOMY.bytes, age: Duration::from_secs(160) };
    let begin = SystemTime::now();
    let mut sequence = Sequence::open(directory.path(), bounds, begin).unwrap();
    let (source, described) = (bytes::Bytes::new(), Source::default());
    let at = |seconds: u64, sequence: &mut Sequence| {
        let record = segment::Incoming { trace: 0, time: seconds, duration: 0, failed: false, body: bytes::Bytes::new() };
        let now = begin + Duration::from_secs(seconds);
        sequence.add(&source, &described, &frame::Name::default(), record, now);
        assert_eq!(sequence.commit(now), Done { stored: 1, lost: 0 });
    };
    for seconds in 0..100 {
        at(seconds, &mut sequence);
    }
    let times = |sequence: &mut Sequence| -> Vec<u64> {
        sequence.look().iter().flat_map(|segment| segment.entries().map(|entry| entry.time).collect::<Vec<_>>()).collect()
    };
    assert_eq!(times(&mut sequence), (0..100).collect::<Vec<_>>());
    // Segments end a sixteenth of the age after their begin; all of these were sealed "now", which the file system says.
    let done = sequence.commit(begin + Duration::from_secs(100 + 161));
    assert_eq!((done, times(&mut sequence).len()), (Done::default(), 0));
    assert!(fs::read_dir(directory.path()).unwrap().next().is_none());
    drop(sequence);
    let again = Sequence::open(directory.path(), bounds, begin).unwrap();
    assert_eq!(again.close(begin), Done::default());
}

#[test]
fn what_cannot_be_written_is_counted_and_the_rest_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let store = opened(&directory, ROOMY);
    let (there, away) = (directory.path().join("logs"), directory.path().join("away"));
    fs::rename(&there, &away).unwrap();
    put_logs(&store, 0..10);
    put(&store, vec![of("web.shop", vec![span(1, 1, 0, SECOND, 1)])]);
    let counts = store.counts(Kind::Logs);
    assert_eq!((counts.stored, counts.unwritten, counts.records), (0, 10, 0));
    assert_eq!(store.counts(Kind::Spans).stored, 1);
    fs::rename(&away, &there).unwrap();
    put_logs(&store, 10..20);
    let counts = store.counts(Kind::Logs);
    assert_eq!((counts.stored, counts.unwritten, counts.records), (10, 10, 10));
}

#[test]
fn what_finds_the_queue_full_is_counted_and_nobody_waits() {
    // Nobody takes anything out of this one.
    let (queue, messages) = sync_channel(QUEUE);
    let store = Store { queue, shared: Arc::default(), changes: watch::channel(()).1, writer: Mutex::default() };
    let one = || check_logs(vec![logs_of("web.shop", vec![log(1)])]);
    let taken = (0..QUEUE + 10).filter(|_| store.offer_logs(one())).count();
    assert_eq!((taken, store.counts(Kind::Logs).overflowed), (QUEUE, 10));
    while messages.try_recv().is_ok() {}
    // As much as fits into a quarter of the bytes, five times.
    let large = |bytes: usize| LogRecord { event_name: "x".repeat(bytes), ..LogRecord::default() };
    store.shared.waiting.store(0, Ordering::Relaxed);
    let quarter = || check_logs(vec![logs_of("web.shop", (0..33).map(|_| large(250_000)).collect())]);
    let taken = (0..5).filter(|_| store.offer_logs(quarter())).count();
    assert_eq!((taken, store.counts(Kind::Logs).overflowed), (4, 10 + 33));
    drop(messages);
    assert!(!store.offer_logs(one()));
    assert!(!Store::closed().offer_logs(one()));
    // Nothing to take is nothing to drop.
    assert!(store.offer_logs(check_logs(Vec::new())));
}

#[test]
fn what_cannot_be_a_span_is_refused_and_the_others_are_taken() {
    let good = span(1, 1, 0, SECOND, 1);
    let large = Span { name: "x".repeat(MAX_RECORD), ..good.clone() };
    let bad = [
        Span { trace_id: Vec::new(), ..good.clone() },
        Span { trace_id: vec![0; 16], ..good.clone() },
        Span { trace_id: vec![1; 8], ..good.clone() },
        Span { span_id: vec![0; 8], ..good.clone() },
        Span { span_id: vec![1; 16], ..good.clone() },
        large,
    ];
    for bad in bad {
        let checked = check_spans(vec![of("web", vec![bad.clone()]), of("web", vec![bad, good.clone()])]);
        assert_eq!((checked.kept, checked.refused, checked.items.len()), (1, 2, 1));
        assert!(checked.why.is_some());
    }
    let odd = Span { parent_span_id: vec![0; 8], ..good.clone() };
    let checked = check_spans(vec![of("web", vec![odd])]);
    assert_eq!(checked.items[0].scope_spans[0].spans, [good]);
    let odd = LogRecord { trace_id: vec![1; 3], span_id: vec![0; 8], ..log(1) };
    assert_eq!(check_logs(vec![logs_of("web", vec![odd])]).items[0].scope_logs[0].log_records, [log(1)]);
    let mut heavy = of("web", vec![span(1, 1, 0, SECOND, 1), span(1, 2, 0, SECOND, 1)]);
    heavy.resource.as_mut().unwrap().attributes.push(attribute("k", &"x".repeat(MAX_RECORD)));
    let checked = check_spans(vec![heavy]);
    assert_eq!((checked.kept, checked.refused), (0, 2));
}

#[test]
fn the_log_is_read_in_pages_and_followed() {
    let directory = tempfile::tempdir().unwrap();
    let store = opened(&directory, Bounds { bytes: 1024 * 1024, ..ROOMY });
    put_logs(&store, 0..2000);
    assert!(segments(&directory, "logs").len() > 1, "the test is to cross from one segment to the next");
    let filter = LogFilter { conditions: vec![Condition::attribute("of", "3")], ..LogFilter::default() };
    let expected: Vec<u64> = (0..2000).filter(|number| number % 5 == 3).collect();
    let (mut part, mut seen) = (Part::Newest, Vec::new());
    loop {
        let found = store.logs(&filter, part, 37).unwrap();
        seen.splice(0..0, found.logs.iter().map(said));
        match found.before {
            Some(before) => part = Part::Before(before),
            None => break,
        }
    }
    assert_eq!(seen, expected);
    let (mut after, mut seen) = (0, Vec::new());
    for _ in 0..expected.len().div_ceil(37) {
        let found = store.logs(&filter, Part::After(after), 37).unwrap();
        seen.extend(found.logs.iter().map(said));
        after = found.after;
    }
    assert_eq!(seen, expected);
    // Then what comes, and only that.
    assert!(store.logs(&filter, Part::After(after), 37).unwrap().logs.is_empty());
    put_logs(&store, 2000..2010);
    let found = store.logs(&filter, Part::After(after), 37).unwrap();
    assert_eq!(found.logs.iter().map(said).collect::<Vec<_>>(), [2003, 2008]);
}

/// A span of the model, with whose it is.
#[derive(Debug, Clone)]
struct Told {
    service: &'static str,
    span: Span,
}

fn told() -> impl Strategy<Value = Told> {
    let ids = (1..30_u128, 1..400_u64, 0..400_u64);
    (prop::sample::select(vec!["a.x", "a.y", "b.x", "c"]), ids, 0..1000_u64, 0..1000_u64).prop_map(
        |(service, (trace, id, parent), start, duration)| Told { service, span: span(trace, id, parent, SECOND + start, duration) },
    )
}

fn wanted() -> impl Strategy<Value = SpanFilter> {
    let service = prop::option::of(prop::sample::select(vec!["a", "a.x", "b.x", "c", "x"]));
    let operation = prop::option::of(0..3_u64);
    let times = (prop::option::of(0..1000_u64), prop::option::of(0..1000_u64));
    let durations = (prop::option::of(0..1000_u64), prop::option::of(0..1000_u64));
    (service, operation, times, durations, prop::option::of(any::<bool>()), prop::option::of(0..6_u64)).prop_map(
        |(service, operation, (from, to), (shortest, longest), failed, attribute)| SpanFilter {
            service: service.map(str::to_owned),
            operation: operation.map(|number| format!("operation-{number}")),
            kind: None,
            from: from.map(|time| SECOND + time),
            to: to.map(|time| SECOND + time),
            shortest: shortest.map(Duration::from_nanos),
            longest: longest.map(Duration::from_nanos),
            failed,
            conditions: attribute.map(|value| Condition::attribute("of", &value.to_string())).into_iter().collect(),
        },
    )
}

/// What the filter means, said a second time.
fn is_wanted(told: &Told, filter: &SpanFilter) -> bool {
    let span = &told.span;
    let duration = Duration::from_nanos(span.end_time_unix_nano - span.start_time_unix_nano);
    let service = filter.service.as_ref().is_none_or(|wanted| told.service == wanted || told.service.starts_with(&format!("{wanted}.")));
    service
        && filter.operation.as_ref().is_none_or(|wanted| *wanted == span.name)
        && filter.from.is_none_or(|from| span.start_time_unix_nano >= from)
        && filter.to.is_none_or(|to| span.start_time_unix_nano <= to)
        && filter.shortest.is_none_or(|shortest| duration >= shortest)
        && filter.longest.is_none_or(|longest| duration <= longest)
        && filter.failed.is_none_or(|failed| intake::failed(span) == failed)
        && filter.conditions.iter().all(|condition| condition.is_met(&span.attributes))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever is stored, in however many segments and however often it is started anew: a search finds what a look at each span finds, page by page.
    #[test]
    fn a_search_finds_what_is_wanted(
        batches in prop::collection::vec(prop::collection::vec(told(), 1..60), 1..12),
        filters in prop::collection::vec(wanted(), 6),
        limit in 1..12_usize,
        anew in any::<u16>(),
    ) {
        let directory = tempfile::tempdir().unwrap();
        // Small segments, and many.
        let bounds = Bounds { bytes: 384 * 1024, age: ROOMY.age };
        let mut store = opened(&directory, bounds);
        for (number, batch) in batches.iter().enumerate() {
            put(&store, batch.iter().map(|told| of(told.service, vec![told.span.clone()])).collect());
            if anew >> (number % 16) & 1 == 1 {
                store = opened(&directory, bounds);
            }
        }
        let all: Vec<&Told> = batches.iter().flatten().collect();
        prop_assert_eq!(store.counts(Kind::Spans).records as usize, all.len());
        for filter in &filters {
            let mut newest = std::collections::BTreeMap::new();
            for told in all.iter().filter(|told| is_wanted(told, filter)) {
                let time = newest.entry(intake::number(&told.span.trace_id)).or_insert(0);
                *time = told.span.start_time_unix_nano.max(*time);
            }
            let mut expected: Vec<(u64, u128)> = newest.into_iter().map(|(id, time)| (time, id)).collect();
            expected.sort_by(|a, b| b.cmp(a));
            let expected: Vec<u128> = expected.into_iter().map(|(_, id)| id).collect();
            let (mut before, mut found) = (None, Vec::new());
            loop {
                let page = store.traces(filter, before, limit).unwrap();
                prop_assert!(page.traces.len() <= limit);
                found.extend(page.traces);
                before = page.next;
                if before.is_none() {
                    break;
                }
            }
            prop_assert_eq!(found.iter().map(|trace| trace.id).collect::<Vec<_>>(), expected);
            for trace in &found {
                let ids = |spans: Vec<(u64, String, u64)>| spans.into_iter().collect::<BTreeSet<_>>();
                let stored = trace.spans.iter().map(|span| (span.id(), span.service.clone(), span.start())).collect();
                let of_trace = all.iter().filter(|told| intake::number(&told.span.trace_id) == trace.id);
                let told = of_trace.map(|told| {
                    (intake::number(&told.span.span_id) as u64, told.service.to_owned(), told.span.start_time_unix_nano)
                });
                prop_assert_eq!(ids(stored), ids(told.collect()));
                // Each span stands in the tree once, whoever is whose parent.
                let mut tree: Vec<usize> = trace.tree().into_iter().map(|(number, _)| number).collect();
                tree.sort_unstable();
                prop_assert!(tree.into_iter().eq(0..trace.spans.len()));
            }
        }
    }

    /// No file makes the store fail to open, whatever is in it.
    #[test]
    fn any_file_is_read(content in prop::collection::vec(any::<u8>(), 0..300), as_segment in any::<bool>()) {
        let directory = tempfile::tempdir().unwrap();
        let spans = directory.path().join("spans");
        fs::create_dir(&spans).unwrap();
        let begin = if as_segment { frame::MAGIC.to_vec() } else { Vec::new() };
        fs::write(spans.join("000000000003.segment"), [begin, content].concat()).unwrap();
        let store = opened(&directory, ROOMY);
        put(&store, vec![of("web.shop", vec![span(1, 1, 0, SECOND, 1)])]);
        prop_assert_eq!(store.traces(&SpanFilter::default(), None, 10).unwrap().traces.len(), 1);
    }
}

#[test]
fn in_zipkins_way_both_sides_of_a_call_have_one_id() {
    let client = |service: &str, span: Span| (service.to_owned(), Span { kind: SpanKind::Client.into(), ..span });
    let server = |service: &str, span: Span| (service.to_owned(), span);
    let directory = tempfile::tempdir().unwrap();
    let store = opened(&directory, ROOMY);
    for (service, span) in [
        client("a", span(1, 10, 0, SECOND, 100)),
        server("b", span(1, 10, 0, SECOND + 1, 90)),
        client("b", span(1, 11, 10, SECOND + 2, 80)),
        server("c", span(1, 11, 10, SECOND + 3, 70)),
    ] {
        put(&store, vec![of(&service, vec![span])]);
    }
    let trace = store.trace(1).unwrap().unwrap();
    assert_eq!(trace.tree(), [(0, 0), (1, 1), (2, 2), (3, 3)]);
    let edges: Vec<(String, String, u64)> =
        store.dependencies(0, u64::MAX).unwrap().into_iter().map(|((caller, callee), times)| (caller, callee, times)).collect();
    assert_eq!(edges, [("a".to_owned(), "b".to_owned(), 1), ("b".to_owned(), "c".to_owned(), 1)]);
}
