//! Traces and log records, as the API shows them: times in RFC 3339 to the microsecond, lengths in microseconds.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Traces that were found, the newest first: `GET /v1/traces`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TraceList {
    /// The traces.
    pub traces: Vec<TraceSummary>,
    /// What `page=` is to say for those that come next, if there are more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// A trace in a list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TraceSummary {
    /// Its id, 32 hexadecimal digits.
    pub trace_id: String,
    /// When it began.
    pub start: String,
    /// From its begin to its last end, in microseconds.
    pub duration_us: u64,
    /// The service of its root.
    pub service: String,
    /// The name of its root.
    pub name: String,
    /// How many spans it has.
    pub spans: usize,
    /// How many of them failed.
    pub failures: usize,
    /// How many are of which service.
    pub services: BTreeMap<String, usize>,
}

/// A trace: `GET /v1/traces/{id}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TraceView {
    /// Its id, 32 hexadecimal digits.
    pub trace_id: String,
    /// When it began.
    pub start: String,
    /// From its begin to its last end, in microseconds.
    pub duration_us: u64,
    /// There are more spans than these.
    #[serde(default)]
    pub cut: bool,
    /// Its spans, each behind its parent.
    pub spans: Vec<SpanView>,
}

/// A span.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SpanView {
    /// Its id, 16 hexadecimal digits.
    pub span_id: String,
    /// Its parent's, if it has one, stored or not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent_id: Option<String>,
    /// How many stand above it.
    pub depth: usize,
    /// The service that tells of it: `recording.contact`.
    pub service: String,
    /// The workload that tells of it, where it says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// `server`, `client`, `internal`, `producer`, `consumer`, or empty.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// From the trace's begin to its own, in microseconds.
    pub offset_us: u64,
    /// How long it took, in microseconds.
    pub duration_us: u64,
    /// Whether it failed.
    pub failed: bool,
    /// What it says of that.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Its attributes.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub attributes: Map<String, Value>,
    /// What happened in it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub events: Vec<EventView>,
    /// Spans of other traces that belong to it, as `TRACE-SPAN`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub links: Vec<String>,
}

/// Something that happened in a span.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EventView {
    /// From the trace's begin, in microseconds.
    pub offset_us: u64,
    /// Its name.
    pub name: String,
    /// Its attributes.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub attributes: Map<String, Value>,
}

/// Log records that were found, the oldest first: `GET /v1/logs`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LogList {
    /// The records.
    pub logs: Vec<LogView>,
    /// What `before=` is to say for those before, if there are any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<u64>,
    /// What `after=` is to say for those to come.
    pub after: u64,
}

/// A log record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LogView {
    /// When it was.
    pub time: String,
    /// The service that tells it: `recording.contact`.
    pub service: String,
    /// The workload that tells it, where it says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// `INFO`, `ERROR`; empty where it says none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub severity: String,
    /// What it says.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub body: Value,
    /// Its attributes.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub attributes: Map<String, Value>,
    /// The trace that it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
    /// The span that it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub span_id: Option<String>,
}
