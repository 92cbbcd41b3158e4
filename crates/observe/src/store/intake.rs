//! What is taken of OTLP's messages, and what is refused: spans without a trace, and records that are too large. Pure.

use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, Span};
use prost::Message as _;

/// The largest span or log record that is taken, and the largest resource with its scope, in bytes of protobuf.
pub const MAX_RECORD: usize = 256 * 1024;
/// The longest name that the index has, in bytes: a longer one is cut there, and found by what is left.
const MAX_NAME: usize = 256;
/// What a service is called that does not say its name, by OpenTelemetry's conventions.
const UNKNOWN_SERVICE: &str = "unknown_service";

/// What is left of a message once what cannot be taken is out of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Checked<T> {
    /// What is taken.
    pub items: Vec<T>,
    /// How many spans or log records these are.
    pub kept: u64,
    /// Their bytes.
    pub bytes: u64,
    /// How many are refused.
    pub refused: u64,
    /// Why the first of these.
    pub why: Option<String>,
}

impl<T> Checked<T> {
    fn new() -> Self {
        Self { items: Vec::new(), kept: 0, bytes: 0, refused: 0, why: None }
    }

    fn refuse(&mut self, count: usize, why: impl FnOnce() -> String) {
        self.refused += count as u64;
        if count > 0 {
            self.why.get_or_insert_with(why);
        }
    }

    fn keep(&mut self, bytes: usize) {
        self.kept += 1;
        self.bytes += bytes as u64;
    }
}

/// Checks spans.
#[must_use]
pub fn check_spans(spans: Vec<ResourceSpans>) -> Checked<ResourceSpans> {
    let mut checked = Checked::new();
    for mut of_resource in spans {
        let resource = of_resource.resource.as_ref().map_or(0, Resource::encoded_len);
        of_resource.scope_spans.retain_mut(|of_scope| {
            if resource + of_scope.scope.as_ref().map_or(0, prost::Message::encoded_len) > MAX_RECORD {
                checked.refuse(of_scope.spans.len(), || too_large("a resource"));
                return false;
            }
            of_scope.spans.retain_mut(|span| match span_fault(span) {
                None => {
                    checked.keep(span.encoded_len());
                    true
                }
                Some(why) => {
                    checked.refuse(1, || why);
                    false
                }
            });
            checked.bytes += (resource + 64) as u64;
            !of_scope.spans.is_empty()
        });
        if !of_resource.scope_spans.is_empty() {
            checked.items.push(of_resource);
        }
    }
    checked
}

/// Checks log records.
#[must_use]
pub fn check_logs(logs: Vec<ResourceLogs>) -> Checked<ResourceLogs> {
    let mut checked = Checked::new();
    for mut of_resource in logs {
        let resource = of_resource.resource.as_ref().map_or(0, Resource::encoded_len);
        of_resource.scope_logs.retain_mut(|of_scope| {
            if resource + of_scope.scope.as_ref().map_or(0, prost::Message::encoded_len) > MAX_RECORD {
                checked.refuse(of_scope.log_records.len(), || too_large("a resource"));
                return false;
            }
            of_scope.log_records.retain_mut(|record| {
                let length = record.encoded_len();
                if length > MAX_RECORD {
                    checked.refuse(1, || too_large("a log record"));
                    return false;
                }
                mend(record);
                checked.keep(length);
                true
            });
            checked.bytes += (resource + 64) as u64;
            !of_scope.log_records.is_empty()
        });
        if !of_resource.scope_logs.is_empty() {
            checked.items.push(of_resource);
        }
    }
    checked
}

fn too_large(what: &str) -> String {
    format!("{what} is larger than {} KiB", MAX_RECORD / 1024)
}

/// What is wrong with a span. An unusable parent is none.
fn span_fault(span: &mut Span) -> Option<String> {
    if span.trace_id.len() != 16 || number(&span.trace_id) == 0 {
        return Some("a span has no trace id of 16 bytes".to_owned());
    }
    if span.span_id.len() != 8 || number(&span.span_id) == 0 {
        return Some("a span has no span id of 8 bytes".to_owned());
    }
    if span.parent_span_id.len() != 8 || number(&span.parent_span_id) == 0 {
        span.parent_span_id.clear();
    }
    (span.encoded_len() > MAX_RECORD).then(|| too_large("a span"))
}

/// Ids that are none are left out, as OTLP asks of whoever receives them.
fn mend(record: &mut LogRecord) {
    if record.trace_id.len() != 16 || number(&record.trace_id) == 0 {
        record.trace_id.clear();
    }
    if record.span_id.len() != 8 || number(&record.span_id) == 0 {
        record.span_id.clear();
    }
}

/// The number that an id of at most 16 bytes is.
#[must_use]
pub fn number(id: &[u8]) -> u128 {
    id.iter().take(16).fold(0, |number, byte| number << 8 | u128::from(*byte))
}

/// Whether a span says that it failed.
#[must_use]
pub fn failed(span: &Span) -> bool {
    span.status.as_ref().is_some_and(|status| status.code == i32::from(StatusCode::Error))
}

/// The service that a resource names, with its namespace where it has one: `recording.contact`.
#[must_use]
pub fn service(resource: Option<&Resource>) -> String {
    let attributes = resource.map_or(&[][..], |resource| &resource.attributes);
    let name = text(attributes, "service.name").filter(|name| !name.is_empty()).unwrap_or(UNKNOWN_SERVICE);
    match text(attributes, "service.namespace").filter(|namespace| !namespace.is_empty()) {
        Some(namespace) => format!("{}.{}", shortened(name), shortened(namespace)),
        None => shortened(name).to_owned(),
    }
}

/// The text of an attribute.
#[must_use]
pub fn text<'a>(attributes: &'a [KeyValue], key: &str) -> Option<&'a str> {
    match attributes.iter().find(|attribute| attribute.key == key)?.value.as_ref()? {
        AnyValue { value: Some(Value::StringValue(text)) } => Some(text),
        _ => None,
    }
}

/// A name as the index has it.
#[must_use]
pub fn shortened(name: &str) -> &str {
    let mut end = name.len().min(MAX_NAME);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    name.get(..end).unwrap_or_default()
}
