//! OTLP in JSON, read: bytes in, the messages of gRPC out, or the place of the mistake. Pure.
//!
//! It is protobuf's JSON with exceptions: trace and span ids are hexadecimal, not base64; kinds and codes are numbers, never names; 64-bit numbers
//! may be text. `null` is the same as nothing, what is not known is passed over, and a list without members may be left out.

use base64::Engine as _;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, InstrumentationScope, KeyValue, KeyValueList};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::{Event, Link};
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status};
use serde_json::{Map, Value};

/// Both of base64's alphabets are in use, with and without padding; this is the first.
const BASE64: GeneralPurpose =
    GeneralPurpose::new(&base64::alphabet::STANDARD, GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent));

/// A mistake, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{what}", if place.is_empty() { String::new() } else { format!("{place}: ") })]
pub struct JsonError {
    /// As `resourceSpans[0].scopeSpans[0].spans[2].traceId`; empty: the whole.
    pub place: String,
    /// What is wrong there.
    pub what: String,
}

impl JsonError {
    fn new(what: impl Into<String>) -> Self {
        Self { place: String::new(), what: what.into() }
    }

    fn within(mut self, place: &str) -> Self {
        let dot = if self.place.is_empty() || self.place.starts_with('[') { "" } else { "." };
        self.place = format!("{place}{dot}{}", self.place);
        self
    }
}

type Read<T> = Result<T, JsonError>;

/// Reads an export of spans.
///
/// # Errors
/// Where the mistake is.
pub fn spans(bytes: &[u8]) -> Read<ExportTraceServiceRequest> {
    let value = parsed(bytes)?;
    Ok(ExportTraceServiceRequest { resource_spans: list(object(&value)?, "resourceSpans", resource_spans)? })
}

/// Reads an export of log records.
///
/// # Errors
/// Where the mistake is.
pub fn logs(bytes: &[u8]) -> Read<ExportLogsServiceRequest> {
    let value = parsed(bytes)?;
    Ok(ExportLogsServiceRequest { resource_logs: list(object(&value)?, "resourceLogs", resource_logs)? })
}

fn parsed(bytes: &[u8]) -> Read<Value> {
    serde_json::from_slice(bytes).map_err(|error| JsonError::new(format!("it is no JSON: {error}")))
}

fn resource_spans(value: &Value) -> Read<ResourceSpans> {
    let of = object(value)?;
    Ok(ResourceSpans {
        resource: one(of, "resource", resource)?,
        scope_spans: list(of, "scopeSpans", scope_spans)?,
        schema_url: text(of, "schemaUrl")?,
    })
}

fn scope_spans(value: &Value) -> Read<ScopeSpans> {
    let of = object(value)?;
    Ok(ScopeSpans { scope: one(of, "scope", scope)?, spans: list(of, "spans", span)?, schema_url: text(of, "schemaUrl")? })
}

fn resource_logs(value: &Value) -> Read<ResourceLogs> {
    let of = object(value)?;
    Ok(ResourceLogs {
        resource: one(of, "resource", resource)?,
        scope_logs: list(of, "scopeLogs", scope_logs)?,
        schema_url: text(of, "schemaUrl")?,
    })
}

fn scope_logs(value: &Value) -> Read<ScopeLogs> {
    let of = object(value)?;
    Ok(ScopeLogs { scope: one(of, "scope", scope)?, log_records: list(of, "logRecords", log_record)?, schema_url: text(of, "schemaUrl")? })
}

fn resource(value: &Value) -> Read<Resource> {
    let of = object(value)?;
    Ok(Resource {
        attributes: list(of, "attributes", key_value)?,
        dropped_attributes_count: small(of, "droppedAttributesCount")?,
        ..Resource::default()
    })
}

fn scope(value: &Value) -> Read<InstrumentationScope> {
    let of = object(value)?;
    Ok(InstrumentationScope {
        name: text(of, "name")?,
        version: text(of, "version")?,
        attributes: list(of, "attributes", key_value)?,
        dropped_attributes_count: small(of, "droppedAttributesCount")?,
    })
}

fn span(value: &Value) -> Read<Span> {
    let of = object(value)?;
    Ok(Span {
        trace_id: id(of, "traceId")?,
        span_id: id(of, "spanId")?,
        trace_state: text(of, "traceState")?,
        parent_span_id: id(of, "parentSpanId")?,
        flags: small(of, "flags")?,
        name: text(of, "name")?,
        kind: word(of, "kind")?,
        start_time_unix_nano: large(of, "startTimeUnixNano")?,
        end_time_unix_nano: large(of, "endTimeUnixNano")?,
        attributes: list(of, "attributes", key_value)?,
        dropped_attributes_count: small(of, "droppedAttributesCount")?,
        events: list(of, "events", event)?,
        dropped_events_count: small(of, "droppedEventsCount")?,
        links: list(of, "links", link)?,
        dropped_links_count: small(of, "droppedLinksCount")?,
        status: one(of, "status", status)?,
    })
}

fn event(value: &Value) -> Read<Event> {
    let of = object(value)?;
    Ok(Event {
        time_unix_nano: large(of, "timeUnixNano")?,
        name: text(of, "name")?,
        attributes: list(of, "attributes", key_value)?,
        dropped_attributes_count: small(of, "droppedAttributesCount")?,
    })
}

fn link(value: &Value) -> Read<Link> {
    let of = object(value)?;
    Ok(Link {
        trace_id: id(of, "traceId")?,
        span_id: id(of, "spanId")?,
        trace_state: text(of, "traceState")?,
        attributes: list(of, "attributes", key_value)?,
        dropped_attributes_count: small(of, "droppedAttributesCount")?,
        flags: small(of, "flags")?,
    })
}

fn status(value: &Value) -> Read<Status> {
    let of = object(value)?;
    Ok(Status { message: text(of, "message")?, code: word(of, "code")? })
}

fn log_record(value: &Value) -> Read<LogRecord> {
    let of = object(value)?;
    Ok(LogRecord {
        time_unix_nano: large(of, "timeUnixNano")?,
        observed_time_unix_nano: large(of, "observedTimeUnixNano")?,
        severity_number: word(of, "severityNumber")?,
        severity_text: text(of, "severityText")?,
        body: one(of, "body", any_value)?,
        attributes: list(of, "attributes", key_value)?,
        dropped_attributes_count: small(of, "droppedAttributesCount")?,
        flags: small(of, "flags")?,
        trace_id: id(of, "traceId")?,
        span_id: id(of, "spanId")?,
        event_name: text(of, "eventName")?,
    })
}

fn key_value(value: &Value) -> Read<KeyValue> {
    let of = object(value)?;
    Ok(KeyValue { key: text(of, "key")?, value: one(of, "value", any_value)?, ..KeyValue::default() })
}

/// A value; of several kinds the first counts, and of none it is empty.
fn any_value(value: &Value) -> Read<AnyValue> {
    let of = object(value)?;
    let value = if present(of, "stringValue").is_some() {
        Some(Any::StringValue(text(of, "stringValue")?))
    } else if let Some(value) = present(of, "boolValue") {
        Some(Any::BoolValue(value.as_bool().ok_or_else(|| expected("true or false", value).within("boolValue"))?))
    } else if let Some(value) = present(of, "intValue") {
        Some(Any::IntValue(integer(value).map_err(|error| error.within("intValue"))?))
    } else if let Some(value) = present(of, "doubleValue") {
        Some(Any::DoubleValue(double(value).map_err(|error| error.within("doubleValue"))?))
    } else if let Some(array) = one(of, "arrayValue", |value| list(object(value)?, "values", any_value))? {
        Some(Any::ArrayValue(ArrayValue { values: array }))
    } else if let Some(values) = one(of, "kvlistValue", |value| list(object(value)?, "values", key_value))? {
        Some(Any::KvlistValue(KeyValueList { values }))
    } else if present(of, "bytesValue").is_some() {
        let written = text(of, "bytesValue")?.replace('-', "+").replace('_', "/");
        let bytes = BASE64.decode(&written).map_err(|_| expected("base64", &written.into()).within("bytesValue"))?;
        Some(Any::BytesValue(bytes))
    } else {
        None
    };
    Ok(AnyValue { value })
}

fn expected(what: &str, value: &Value) -> JsonError {
    let mut written = value.to_string();
    if written.len() > 60 {
        let mut end = 60;
        while !written.is_char_boundary(end) {
            end -= 1;
        }
        written.truncate(end);
        written.push('…');
    }
    JsonError::new(format!("`{written}` is not {what}"))
}

fn object(value: &Value) -> Read<&Map<String, Value>> {
    value.as_object().ok_or_else(|| expected("an object", value))
}

fn present<'v>(of: &'v Map<String, Value>, key: &str) -> Option<&'v Value> {
    of.get(key).filter(|value| !value.is_null())
}

fn one<T>(of: &Map<String, Value>, key: &str, read: impl Fn(&Value) -> Read<T>) -> Read<Option<T>> {
    present(of, key).map(read).transpose().map_err(|error| error.within(key))
}

fn list<T>(of: &Map<String, Value>, key: &str, read: impl Fn(&Value) -> Read<T>) -> Read<Vec<T>> {
    let Some(value) = present(of, key) else { return Ok(Vec::new()) };
    let items = value.as_array().ok_or_else(|| expected("a list", value).within(key))?;
    let one = |(index, item)| read(item).map_err(|error: JsonError| error.within(&format!("{key}[{index}]")));
    items.iter().enumerate().map(one).collect()
}

fn text(of: &Map<String, Value>, key: &str) -> Read<String> {
    let Some(value) = present(of, key) else { return Ok(String::new()) };
    value.as_str().map(str::to_owned).ok_or_else(|| expected("text", value).within(key))
}

/// An id: hexadecimal in either case.
fn id(of: &Map<String, Value>, key: &str) -> Read<Vec<u8>> {
    let written = text(of, key)?;
    let pair = |pair: &[u8]| match pair {
        [high, low] => Some(u8::try_from(char::from(*high).to_digit(16)? << 4 | char::from(*low).to_digit(16)?).unwrap_or(0)),
        _ => None,
    };
    let bytes: Option<Vec<u8>> = written.as_bytes().chunks(2).map(pair).collect();
    bytes.ok_or_else(|| expected("hexadecimal", &written.into()).within(key))
}

/// A whole number, written as such or as text.
fn whole<T: TryFrom<i128>>(value: &Value, what: &str) -> Read<T> {
    let number = match value {
        Value::Number(number) => number.as_i64().map(i128::from).or_else(|| number.as_u64().map(i128::from)),
        Value::String(text) => text.parse().ok(),
        _ => None,
    };
    number.and_then(|number| T::try_from(number).ok()).ok_or_else(|| expected(what, value))
}

fn integer(value: &Value) -> Read<i64> {
    whole(value, "a whole number of 64 bits")
}

fn large(of: &Map<String, Value>, key: &str) -> Read<u64> {
    one(of, key, |value| whole(value, "a whole number from 0, of 64 bits")).map(Option::unwrap_or_default)
}

fn small(of: &Map<String, Value>, key: &str) -> Read<u32> {
    one(of, key, |value| whole(value, "a whole number from 0, of 32 bits")).map(Option::unwrap_or_default)
}

/// The number of a kind, a code or a severity.
fn word(of: &Map<String, Value>, key: &str) -> Read<i32> {
    one(of, key, |value| whole(value, "a number: OTLP's JSON has no names for these")).map(Option::unwrap_or_default)
}

fn double(value: &Value) -> Read<f64> {
    let number = match value {
        Value::Number(number) => number.as_f64(),
        // What JSON has no number for is written so.
        Value::String(text) => match text.as_str() {
            "NaN" => Some(f64::NAN),
            "Infinity" => Some(f64::INFINITY),
            "-Infinity" => Some(f64::NEG_INFINITY),
            text => text.parse().ok().filter(|number: &f64| number.is_finite()),
        },
        _ => None,
    };
    number.ok_or_else(|| expected("a number", value))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    fn read_span(fields: Value) -> Read<Span> {
        let body = json!({"resourceSpans": [{"scopeSpans": [{"spans": [fields]}]}]});
        spans(body.to_string().as_bytes()).map(|mut request| request.resource_spans.remove(0).scope_spans.remove(0).spans.remove(0))
    }

    fn read_value(value: Value) -> Read<Option<Any>> {
        read_span(json!({"attributes": [{"key": "k", "value": value}]}))
            .map(|span| span.attributes[0].value.clone().and_then(|value| value.value))
    }

    #[test]
    fn ids_are_hexadecimal_and_times_are_text_or_numbers() {
        let fields = json!({
            "traceId": "5B8EFFF798038103D269B633813FC60C", "spanId": "eee19b7ec3c1b174", "parentSpanId": "", "name": "n", "kind": 2,
            "startTimeUnixNano": "1544712660000000000", "endTimeUnixNano": 1_544_712_661_000_000_000_u64, "status": {"code": 2, "message": "no"},
            "flags": "257", "droppedEventsCount": null, "links": null, "toCome": {"a": [1]},
            "events": [{"timeUnixNano": "7", "name": "e"}],
        });
        let span = read_span(fields).unwrap();
        assert_eq!(span.trace_id, 0x5b8e_fff7_9803_8103_d269_b633_813f_c60c_u128.to_be_bytes());
        assert_eq!(span.span_id, 0xeee1_9b7e_c3c1_b174_u64.to_be_bytes());
        assert!(span.parent_span_id.is_empty() && span.links.is_empty());
        assert_eq!((span.start_time_unix_nano, span.end_time_unix_nano), (1_544_712_660_000_000_000, 1_544_712_661_000_000_000));
        assert_eq!((span.kind, span.flags, span.status.unwrap().code, span.events[0].time_unix_nano), (2, 257, 2, 7));
    }

    #[test]
    fn values_of_all_kinds_are_read() {
        for (written, expected) in [
            (json!({"stringValue": "a"}), Some(Any::StringValue("a".to_owned()))),
            (json!({"stringValue": ""}), Some(Any::StringValue(String::new()))),
            (json!({"boolValue": false}), Some(Any::BoolValue(false))),
            (json!({"intValue": "-9223372036854775808"}), Some(Any::IntValue(i64::MIN))),
            (json!({"intValue": 7}), Some(Any::IntValue(7))),
            (json!({"doubleValue": 1}), Some(Any::DoubleValue(1.0))),
            (json!({"doubleValue": "-Infinity"}), Some(Any::DoubleValue(f64::NEG_INFINITY))),
            (json!({"bytesValue": "-_8="}), Some(Any::BytesValue(vec![0xfb, 0xff]))),
            (json!({"bytesValue": "+/8"}), Some(Any::BytesValue(vec![0xfb, 0xff]))),
            (json!({"arrayValue": {}}), Some(Any::ArrayValue(ArrayValue::default()))),
            (
                json!({"kvlistValue": {"values": [{"key": "k"}]}}),
                Some(Any::KvlistValue(KeyValueList { values: vec![KeyValue { key: "k".to_owned(), ..KeyValue::default() }] })),
            ),
            (json!({}), None),
            (json!({"toCome": 1}), None),
        ] {
            assert_eq!(read_value(written.clone()), Ok(expected), "{written}");
        }
        let Ok(Some(Any::DoubleValue(number))) = read_value(json!({"doubleValue": "NaN"})) else { panic!("no number") };
        assert!(number.is_nan());
    }

    #[test]
    fn a_mistake_is_named_with_its_place() {
        let place = "resourceSpans[0].scopeSpans[0].spans[0]";
        for (fields, expected) in [
            (json!({"kind": "SPAN_KIND_SERVER"}), "kind: `\"SPAN_KIND_SERVER\"` is not a number: OTLP's JSON has no names for these"),
            (json!({"traceId": "xy"}), "traceId: `\"xy\"` is not hexadecimal"),
            (json!({"traceId": "abc"}), "traceId: `\"abc\"` is not hexadecimal"),
            (json!({"startTimeUnixNano": -1}), "startTimeUnixNano: `-1` is not a whole number from 0, of 64 bits"),
            (json!({"startTimeUnixNano": 1.5}), "startTimeUnixNano: `1.5` is not a whole number from 0, of 64 bits"),
            (json!({"flags": 4_294_967_296_u64}), "flags: `4294967296` is not a whole number from 0, of 32 bits"),
            (
                json!({"attributes": [{"value": {"intValue": "x"}}]}),
                "attributes[0].value.intValue: `\"x\"` is not a whole number of 64 bits",
            ),
            (json!({"attributes": {}}), "attributes: `{}` is not a list"),
        ] {
            assert_eq!(read_span(fields).unwrap_err().to_string(), format!("{place}.{expected}"));
        }
        assert!(spans(b"{").unwrap_err().to_string().starts_with("it is no JSON"));
        assert_eq!(logs(b"[]").unwrap_err().to_string(), "`[]` is not an object");
        // Deeper than anybody writes; the reader ends it before the stack does.
        let deep = format!("{}1{}", "{\"arrayValue\":{\"values\":[".repeat(10_000), "]}}".repeat(10_000));
        let deep = format!("{{\"resourceLogs\":[{{\"scopeLogs\":[{{\"logRecords\":[{{\"body\":{deep}}}]}}]}}]}}");
        assert!(logs(deep.as_bytes()).unwrap_err().to_string().contains("recursion limit"));
    }

    #[test]
    fn log_records_are_read() {
        let body = json!({"resourceLogs": [{"resource": {"attributes": [{"key": "service.name", "value": {"stringValue": "web"}}]},
            "scopeLogs": [{"scope": {"name": "s"}, "logRecords": [{"timeUnixNano": "7", "severityNumber": 9, "severityText": "INFO",
            "body": {"stringValue": "said"}, "traceId": "5B8EFFF798038103D269B633813FC60C", "eventName": "e"}]}]}]});
        let request = logs(body.to_string().as_bytes()).unwrap();
        let record = &request.resource_logs[0].scope_logs[0].log_records[0];
        assert_eq!((record.time_unix_nano, record.severity_number, record.trace_id.len(), record.event_name.as_str()), (7, 9, 16, "e"));
        assert_eq!(record.body.clone().unwrap().value, Some(Any::StringValue("said".to_owned())));
    }
}
