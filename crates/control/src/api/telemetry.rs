//! Traces and log records: found by words in the query, shown as plain JSON.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use lorica_api::{EventView, LogList, LogView, SpanView, TraceList, TraceSummary, TraceView};
use lorica_observe::jaeger;
use lorica_observe::store::filter::{Condition, FilterError, LogFilter, SpanFilter, Status};
use lorica_observe::store::query::{Part, Place, StoredLog};
use lorica_observe::store::trace::{StoredSpan, Trace};
use lorica_observe::store::{Source, Store, intake};
use opentelemetry_proto::tonic::common::v1::KeyValue;
use serde_json::{Map, Value};

use super::request::{Path, Query};
use super::{Failure, MAX_WAIT};
use crate::ControlPlane;
use crate::telemetry::jaeger::trace_id;

/// How many an answer has unless said otherwise.
const LIMIT: usize = 20;
/// How many log records.
const LOG_LIMIT: usize = 100;
/// The most that an answer has.
const MAX_LIMIT: usize = 1000;

/// A query's words, as written.
type Words = Query<Vec<(String, String)>>;

impl From<FilterError> for Failure {
    fn from(error: FilterError) -> Self {
        Self::new(StatusCode::BAD_REQUEST, error.to_string(), None)
    }
}

fn unread(error: std::io::Error) -> Failure {
    Failure::new(StatusCode::INTERNAL_SERVER_ERROR, format!("the telemetry cannot be read: {error}"), None)
}

fn bad(message: String, hint: &str) -> Failure {
    Failure::new(StatusCode::BAD_REQUEST, message, Some(hint))
}

pub(super) async fn traces(State(control): State<Arc<ControlPlane>>, Query(words): Words) -> Result<Json<TraceList>, Failure> {
    let (mut filter, mut page, mut limit) = (SpanFilter::default(), None, LIMIT);
    let now = SystemTime::now();
    for (key, value) in words {
        match key.as_str() {
            "service" => filter.service = Some(value),
            "operation" => filter.operation = Some(value),
            "since" => filter.from = Some(time(&value, now)?),
            "until" => filter.to = Some(time(&value, now)?),
            "min_duration" => filter.shortest = Some(duration(&value)?),
            "max_duration" => filter.longest = Some(duration(&value)?),
            "status" => match Status::read(&value)? {
                Status::Error => filter.failed = Some(true),
                Status::Says(condition) => filter.conditions.push(condition),
            },
            "route" => filter.conditions.push(Condition::route(&value)),
            "request_id" => filter.conditions.push(Condition::request_id(&value)),
            "attribute" => filter.conditions.push(Condition::read(&value)?),
            "limit" => limit = read_limit(&value)?,
            "page" => page = Some(read_page(&value)?),
            other => return Err(bad(format!("`{other}` is nothing that traces are found by"), TRACE_WORDS)),
        }
    }
    let found = control.kept.search(move |store| store.traces(&filter, page, limit)).await.map_err(unread)?;
    let next = found.next.map(|(time, id)| format!("{time}-{id:032x}"));
    Ok(Json(TraceList { traces: found.traces.iter().map(summary).collect(), next }))
}

const TRACE_WORDS: &str =
    "service, operation, route, status, min_duration, max_duration, attribute, request_id, since, until, limit and page are";

/// One trace, by its id or by that of a request in it.
pub(super) async fn trace(State(control): State<Arc<ControlPlane>>, Path(id): Path<String>) -> Result<Json<TraceView>, Failure> {
    let wanted = id.clone();
    let found = control.kept.search(move |store| by_any_id(store, &wanted)).await.map_err(unread)?;
    let found = found.ok_or_else(|| {
        let hint = "a trace is kept where it was sampled, failed or was slow; `lorica trace` lists what there is";
        Failure::new(StatusCode::NOT_FOUND, format!("no trace and no request `{id}` is kept"), Some(hint))
    })?;
    Ok(Json(view(&found)))
}

fn by_any_id(store: &Store, id: &str) -> std::io::Result<Option<Trace>> {
    if let Some(found) = trace_id(id).ok().map(|id| store.trace(id)).transpose()?.flatten() {
        return Ok(Some(found));
    }
    let of_request = SpanFilter { conditions: vec![Condition::request_id(id)], ..SpanFilter::default() };
    if let Some(found) = store.traces(&of_request, None, 1)?.traces.pop() {
        return Ok(Some(found));
    }
    let of_request = LogFilter { conditions: vec![Condition::request_id(id)], ..LogFilter::default() };
    let logs = store.logs(&of_request, Part::Newest, 1)?.logs;
    match logs.first().map(|log| intake::number(&log.record.trace_id)).filter(|id| *id != 0) {
        Some(id) => store.trace(id),
        None => Ok(None),
    }
}

pub(super) async fn logs(State(control): State<Arc<ControlPlane>>, Query(words): Words) -> Result<Json<LogList>, Failure> {
    let (mut filter, mut part, mut limit, mut wait) = (LogFilter::default(), Part::Newest, LOG_LIMIT, Duration::ZERO);
    let (mut shortest, mut longest) = (None, None);
    let now = SystemTime::now();
    for (key, value) in words {
        let place =
            || value.parse().map_err(|_| bad(format!("`{value}` is no place in the log"), "take it from an answer's `before` or `after`"));
        match key.as_str() {
            "service" => filter.service = Some(value),
            "trace_id" => filter.trace = Some(trace_id(&value).map_err(|error| bad(error, "it has 32 hexadecimal digits"))?),
            "since" => filter.from = Some(time(&value, now)?),
            "until" => filter.to = Some(time(&value, now)?),
            "min_duration" => shortest = Some(duration(&value)?),
            "max_duration" => longest = Some(duration(&value)?),
            "status" => match Status::read(&value)? {
                Status::Error => filter.failed = Some(true),
                Status::Says(condition) => filter.conditions.push(condition),
            },
            "route" => filter.conditions.push(Condition::route(&value)),
            "request_id" => filter.conditions.push(Condition::request_id(&value)),
            "attribute" => filter.conditions.push(Condition::read(&value)?),
            "limit" => limit = read_limit(&value)?,
            "before" => part = Part::Before(place()?),
            "after" => part = Part::After(place()?),
            "wait" => wait = duration(&value)?.min(MAX_WAIT),
            other => return Err(bad(format!("`{other}` is nothing that log records are found by"), LOG_WORDS)),
        }
    }
    if shortest.is_some() || longest.is_some() {
        filter.conditions.push(Condition::took(shortest, longest));
    }
    // From before the look, so that nothing is missed between.
    let mut changes = control.kept.store().changes();
    let deadline = tokio::time::Instant::now() + wait;
    loop {
        changes.mark_unchanged();
        let wanted = filter.clone();
        let found = control.kept.search(move |store| store.logs(&wanted, part, limit)).await.map_err(unread)?;
        let waits = found.logs.is_empty() && matches!(part, Part::After(_));
        if let (true, Part::After(_)) = (waits, part) {
            // What was looked through is not looked through again.
            part = Part::After(found.after);
        }
        let changed = async {
            waits && !control.mesh.has_ended() && matches!(tokio::time::timeout_at(deadline, changes.changed()).await, Ok(Ok(())))
        };
        if !changed.await {
            let logs = found.logs.iter().map(log_view).collect();
            return Ok(Json(LogList { logs, before: found.before, after: found.after }));
        }
    }
}

const LOG_WORDS: &str =
    "service, route, status, min_duration, max_duration, attribute, request_id, trace_id, since, until, limit, before, after and wait are";

fn read_limit(text: &str) -> Result<usize, Failure> {
    let limit = text.parse().ok().filter(|limit| (1..=MAX_LIMIT).contains(limit));
    limit.ok_or_else(|| bad(format!("`{text}` is no number of answers"), "from 1 to 1000"))
}

fn read_page(text: &str) -> Result<Place, Failure> {
    let place = text.split_once('-').and_then(|(time, id)| Some((time.parse().ok()?, u128::from_str_radix(id, 16).ok()?)));
    place.ok_or_else(|| bad(format!("`{text}` is no page"), "take it from an answer's `next`"))
}

/// A length: `250us`, `100ms`, `1.5s`, `15m`, `2h`.
fn duration(text: &str) -> Result<Duration, Failure> {
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let scale = match unit {
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(bad(format!("`{text}` is no time"), "write 250us, 100ms, 1.5s, 15m or 2h")),
    };
    let seconds = number.parse::<f64>().ok().and_then(|number| Duration::try_from_secs_f64(number * scale).ok());
    seconds.ok_or_else(|| bad(format!("`{text}` is no time"), "write 250us, 100ms, 1.5s, 15m or 2h"))
}

/// A moment, in nanoseconds since 1970: `15m` is so long ago, else RFC 3339.
fn time(text: &str, now: SystemTime) -> Result<u64, Failure> {
    let moment = match text.parse::<jiff::Timestamp>() {
        Ok(moment) => SystemTime::from(moment),
        Err(_) => {
            let ago =
                duration(text).map_err(|_| bad(format!("`{text}` is no moment"), "write 15m for so long ago, or 2026-11-30T14:00:00Z"))?;
            now.checked_sub(ago).unwrap_or(SystemTime::UNIX_EPOCH)
        }
    };
    Ok(moment.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)))
}

/// RFC 3339, to the microsecond.
fn timestamp(nanoseconds: u64) -> String {
    let moment = jiff::Timestamp::from_nanosecond(i128::from(nanoseconds));
    moment.map_or_else(|_| String::new(), |moment| format!("{moment:.6}"))
}

fn summary(trace: &Trace) -> TraceSummary {
    let root = trace.root();
    TraceSummary {
        trace_id: format!("{:032x}", trace.id),
        start: timestamp(trace.start()),
        duration_us: trace.duration() / 1000,
        service: root.map(|root| root.service.clone()).unwrap_or_default(),
        name: root.map(|root| root.span.name.clone()).unwrap_or_default(),
        spans: trace.spans.len(),
        failures: trace.failures(),
        services: trace.services().into_iter().map(|(service, count)| (service.to_owned(), count)).collect(),
    }
}

fn view(trace: &Trace) -> TraceView {
    let start = trace.start();
    let spans = trace.tree().into_iter().filter_map(|(number, depth)| Some(span_view(trace.spans.get(number)?, depth, start)));
    TraceView {
        trace_id: format!("{:032x}", trace.id),
        start: timestamp(start),
        duration_us: trace.duration() / 1000,
        cut: trace.cut,
        spans: spans.collect(),
    }
}

fn span_view(stored: &StoredSpan, depth: usize, start: u64) -> SpanView {
    let span = &stored.span;
    let event = |event: &opentelemetry_proto::tonic::trace::v1::span::Event| EventView {
        offset_us: event.time_unix_nano.saturating_sub(start) / 1000,
        name: event.name.clone(),
        attributes: attributes(&event.attributes),
    };
    SpanView {
        span_id: format!("{:016x}", stored.id()),
        parent_id: stored.parent().map(|parent| format!("{parent:016x}")),
        depth,
        service: stored.service.clone(),
        instance: instance(&stored.source),
        kind: u32::try_from(span.kind).map(jaeger::kind).unwrap_or_default().to_owned(),
        name: span.name.clone(),
        offset_us: stored.start().saturating_sub(start) / 1000,
        duration_us: stored.duration() / 1000,
        failed: stored.failed(),
        message: span.status.as_ref().map(|status| status.message.clone()).unwrap_or_default(),
        attributes: attributes(&span.attributes),
        events: span.events.iter().map(event).collect(),
        links: span
            .links
            .iter()
            .map(|link| format!("{}-{}", jaeger::hexadecimal(&link.trace_id), jaeger::hexadecimal(&link.span_id)))
            .collect(),
    }
}

fn log_view(log: &StoredLog) -> LogView {
    let record = &log.record;
    let id = |bytes: &[u8]| (!bytes.is_empty()).then(|| jaeger::hexadecimal(bytes));
    LogView {
        time: timestamp(log.time),
        service: log.service.clone(),
        instance: instance(&log.source),
        severity: severity(record.severity_number, &record.severity_text),
        body: jaeger::plain(record.body.as_ref()),
        attributes: attributes(&record.attributes),
        trace_id: id(&record.trace_id),
        span_id: id(&record.span_id),
    }
}

/// As the sender has it, else OTLP's word for the number.
fn severity(number: i32, text: &str) -> String {
    let word = match number {
        1..=4 => "TRACE",
        5..=8 => "DEBUG",
        9..=12 => "INFO",
        13..=16 => "WARN",
        17..=20 => "ERROR",
        21..=24 => "FATAL",
        _ => "",
    };
    if text.is_empty() { word.to_owned() } else { text.to_owned() }
}

fn instance(source: &Source) -> Option<String> {
    let attributes = source.resource.as_ref().map(|resource| resource.attributes.as_slice())?;
    intake::text(attributes, "service.instance.id").map(str::to_owned)
}

fn attributes(attributes: &[KeyValue]) -> Map<String, Value> {
    attributes.iter().map(|attribute| (attribute.key.clone(), jaeger::plain(attribute.value.as_ref()))).collect()
}
