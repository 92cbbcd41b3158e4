//! Traces in the JSON of Jaeger's query API, as Jaeger itself translates OTLP: attributes are tags, events are logs, and a resource is a process. Pure.

use std::collections::BTreeMap;

use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1::span::{Event, SpanKind};
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use serde_json::{Map, Value, json};

use crate::store::filter::{Condition, SpanFilter};
use crate::store::trace::{StoredSpan, Trace};

/// The word of a kind, as `span.kind` has it; empty for one that is not said.
#[must_use]
pub fn kind(number: u32) -> &'static str {
    match i32::try_from(number).ok().and_then(|number| SpanKind::try_from(number).ok()) {
        Some(SpanKind::Internal) => "internal",
        Some(SpanKind::Server) => "server",
        Some(SpanKind::Client) => "client",
        Some(SpanKind::Producer) => "producer",
        Some(SpanKind::Consumer) => "consumer",
        Some(SpanKind::Unspecified) | None => "",
    }
}

/// OTLP's number of a kind.
#[must_use]
pub fn kind_number(word: &str) -> Option<u32> {
    (1..=5).find(|number| kind(*number) == word)
}

/// Takes a tag that is asked for into a filter. What Jaeger makes tags of is asked of where it stands.
pub fn tag(filter: &mut SpanFilter, key: &str, value: &str) {
    match (key, value) {
        ("error", "true") | ("otel.status_code", "ERROR") => filter.failed = Some(true),
        ("error", "false") => filter.failed = Some(false),
        ("span.kind", word) if kind_number(word).is_some() => filter.kind = kind_number(word),
        _ => filter.conditions.push(Condition::attribute(key, value)),
    }
}

/// A trace.
#[must_use]
pub fn trace(trace: &Trace) -> Value {
    let id = format!("{:032x}", trace.id);
    let mut processes = Map::new();
    let mut known: BTreeMap<String, String> = BTreeMap::new();
    let mut spans = Vec::with_capacity(trace.spans.len());
    for span in &trace.spans {
        let process = process(span);
        let next = format!("p{}", known.len() + 1);
        let name = known.entry(process.to_string()).or_insert(next);
        processes.entry(name.clone()).or_insert(process);
        spans.push(one(&id, span, name));
    }
    let warnings = if trace.cut { json!([format!("only {} spans of it are shown", trace.spans.len())]) } else { Value::Null };
    json!({"traceID": id, "spans": spans, "processes": processes, "warnings": warnings})
}

fn process(span: &StoredSpan) -> Value {
    let attributes = span.source.resource.iter().flat_map(|resource| &resource.attributes);
    let tags: Vec<Value> = attributes.filter(|attribute| attribute.key != "service.name").map(tagged).collect();
    json!({"serviceName": span.service, "tags": tags})
}

fn one(trace: &str, stored: &StoredSpan, process: &str) -> Value {
    let span = &stored.span;
    let mut references = Vec::new();
    if let Some(parent) = stored.parent() {
        references.push(json!({"refType": "CHILD_OF", "traceID": trace, "spanID": format!("{parent:016x}")}));
    }
    for link in &span.links {
        references.push(json!({"refType": "FOLLOWS_FROM", "traceID": hexadecimal(&link.trace_id), "spanID": hexadecimal(&link.span_id)}));
    }
    let mut warnings = Vec::new();
    if span.end_time_unix_nano < span.start_time_unix_nano {
        warnings.push("its end is before its begin: a clock was set");
    }
    json!({
        "traceID": trace,
        "spanID": format!("{:016x}", stored.id()),
        // The old field beside `references`, which some still read.
        "parentSpanID": stored.parent().map(|parent| format!("{parent:016x}")).unwrap_or_default(),
        "flags": span.flags & 1,
        "operationName": span.name,
        "references": references,
        "startTime": stored.start() / 1000,
        "duration": stored.duration() / 1000,
        "tags": tags(stored),
        "logs": span.events.iter().map(log).collect::<Vec<_>>(),
        "processID": process,
        "warnings": if warnings.is_empty() { Value::Null } else { json!(warnings) },
    })
}

fn tags(stored: &StoredSpan) -> Vec<Value> {
    let span = &stored.span;
    let mut tags: Vec<Value> = span.attributes.iter().map(tagged).collect();
    let text = |key: &str, value: &str| json!({"key": key, "type": "string", "value": value});
    let word = u32::try_from(span.kind).map(kind).unwrap_or_default();
    if !word.is_empty() {
        tags.push(text("span.kind", word));
    }
    if let Some(status) = &span.status {
        match StatusCode::try_from(status.code) {
            Ok(StatusCode::Error) => {
                tags.push(text("otel.status_code", "ERROR"));
                // One that the program set itself is not said twice.
                if !span.attributes.iter().any(|attribute| attribute.key == "error") {
                    tags.push(json!({"key": "error", "type": "bool", "value": true}));
                }
            }
            Ok(StatusCode::Ok) => tags.push(text("otel.status_code", "OK")),
            Ok(StatusCode::Unset) | Err(_) => {}
        }
        if !status.message.is_empty() {
            tags.push(text("otel.status_description", &status.message));
        }
    }
    if !span.trace_state.is_empty() {
        tags.push(text("w3c.tracestate", &span.trace_state));
    }
    for (key, value) in
        stored.source.scope.iter().flat_map(|scope| [("otel.scope.name", &scope.name), ("otel.scope.version", &scope.version)])
    {
        if !value.is_empty() {
            tags.push(text(key, value));
        }
    }
    tags
}

fn log(event: &Event) -> Value {
    let name = (!event.name.is_empty()).then(|| json!({"key": "event", "type": "string", "value": event.name}));
    let fields: Vec<Value> = name.into_iter().chain(event.attributes.iter().map(tagged)).collect();
    json!({"timestamp": event.time_unix_nano / 1000, "fields": fields})
}

fn tagged(attribute: &KeyValue) -> Value {
    let value = attribute.value.as_ref().and_then(|value| value.value.as_ref());
    let (kind, value) = match value {
        Some(Any::StringValue(text)) => ("string", json!(text)),
        Some(Any::BoolValue(yes)) => ("bool", json!(yes)),
        Some(Any::IntValue(number)) => ("int64", json!(number)),
        Some(Any::DoubleValue(number)) if number.is_finite() => ("float64", json!(number)),
        // JSON has no such number.
        Some(Any::DoubleValue(number)) => ("string", json!(number.to_string())),
        Some(Any::BytesValue(bytes)) => ("binary", json!(hexadecimal(bytes))),
        Some(Any::ArrayValue(_) | Any::KvlistValue(_)) => ("string", json!(plain(attribute.value.as_ref()).to_string())),
        Some(Any::StringValueStrindex(_)) | None => ("string", json!("")),
    };
    json!({"key": attribute.key, "type": kind, "value": value})
}

/// A value as plain JSON: bytes are hexadecimal.
#[must_use]
pub fn plain(value: Option<&AnyValue>) -> Value {
    match value.and_then(|value| value.value.as_ref()) {
        Some(Any::StringValue(text)) => json!(text),
        Some(Any::BoolValue(yes)) => json!(yes),
        Some(Any::IntValue(number)) => json!(number),
        Some(Any::DoubleValue(number)) if number.is_finite() => json!(number),
        Some(Any::DoubleValue(number)) => json!(number.to_string()),
        Some(Any::BytesValue(bytes)) => json!(hexadecimal(bytes)),
        Some(Any::ArrayValue(list)) => list.values.iter().map(|value| plain(Some(value))).collect(),
        Some(Any::KvlistValue(list)) => {
            Value::Object(list.values.iter().map(|pair| (pair.key.clone(), plain(pair.value.as_ref()))).collect())
        }
        Some(Any::StringValueStrindex(_)) | None => Value::Null,
    }
}

/// Bytes in hexadecimal, lower case.
#[must_use]
pub fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        for half in [byte >> 4, byte & 15] {
            text.extend(char::from_digit(half.into(), 16));
        }
        text
    })
}
