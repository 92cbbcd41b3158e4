//! Zipkin's JSON, version 2: `POST /api/v2/spans`.
//!
//! Times are in microseconds, ids are hexadecimal. `shared` is never said: it marks a server's span that has its client's id, and a
//! proxy's span always has one of its own, below its caller's.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use serde::Serialize;

use super::destination::{Destination, Way};
use super::otlp::excerpt;
use super::post::{Answer, Post, PostError};
use super::queue::{Carrier, Failure, Refused};
use super::retry::{self, Again};

/// Brings spans to a Zipkin.
pub(super) struct Zipkin {
    post: Post,
    path: String,
    service: String,
}

impl Destination {
    /// What brings spans of `service` there, if it is a Zipkin.
    pub(super) fn zipkin_carrier(&self, service: &str) -> Option<Zipkin> {
        match self.way.clone() {
            Way::Zipkin(post, path) => Some(Zipkin { post, path, service: service.to_owned() }),
            _ => None,
        }
    }
}

impl Carrier for Zipkin {
    type Item = Arc<Span>;
    type Batch = Bytes;

    fn pack(&self, spans: Vec<Arc<Span>>) -> Bytes {
        let spans: Vec<ZipkinSpan<'_>> = spans.iter().map(|span| ZipkinSpan::of(span, &self.service)).collect();
        // Nothing in it can fail to be written.
        serde_json::to_vec(&spans).unwrap_or_default().into()
    }

    async fn carry(&mut self, batch: &Bytes) -> Result<Refused, Failure> {
        let answer = self.post.send(&self.path, "application/json", batch.clone()).await.map_err(|error| match error {
            PostError::Unsent(said) => Failure { said, again: Again::Soon },
            // Zipkin would count what it took twice.
            PostError::Lost(said) => Failure { said, again: Again::Never },
        })?;
        let Answer { status, retry_after, body } = answer;
        if status.is_success() {
            return Ok(Refused::default());
        }
        // With these two it says that it took nothing; what a gateway before it says leaves that open.
        let again =
            if matches!(status.as_u16(), 429 | 503) { retry::of_http(status.as_u16(), retry_after.as_deref()) } else { Again::Never };
        Err(Failure { said: format!("{status} {}", excerpt(&body)).trim_end().to_owned(), again })
    }
}

/// A span, as Zipkin reads it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ZipkinSpan<'s> {
    trace_id: String,
    id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent_id: Option<String>,
    name: &'s str,
    #[serde(skip_serializing_if = "Option::is_none")]
    kind: Option<&'static str>,
    /// Microseconds.
    timestamp: u64,
    /// Microseconds; 0 would say that it is not known.
    duration: u64,
    local_endpoint: EndpointName<'s>,
    #[serde(skip_serializing_if = "Option::is_none")]
    remote_endpoint: Option<EndpointName<'s>>,
    tags: BTreeMap<&'s str, String>,
}

/// One side of a call.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct EndpointName<'s> {
    #[serde(skip_serializing_if = "Option::is_none")]
    service_name: Option<&'s str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ipv4: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ipv6: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    port: Option<u16>,
}

impl<'s> ZipkinSpan<'s> {
    fn of(span: &'s Span, service: &'s str) -> Self {
        let mut tags: BTreeMap<&str, String> = span.attributes.iter().map(|attribute| (attribute.key.as_str(), said(attribute))).collect();
        if let Some(status) = &span.status {
            // Its page marks spans with this tag as failed, whatever it says.
            let why = if status.message.is_empty() { tags.get("error.type").cloned().unwrap_or_default() } else { status.message.clone() };
            tags.insert("error", if why.is_empty() { "true".to_owned() } else { why });
            tags.insert("otel.status_code", "ERROR".to_owned());
        }
        let microseconds = |nanoseconds: u64| nanoseconds / 1000;
        Self {
            trace_id: hexadecimal(&span.trace_id),
            id: hexadecimal(&span.span_id),
            parent_id: (!span.parent_span_id.is_empty()).then(|| hexadecimal(&span.parent_span_id)),
            name: &span.name,
            kind: match span.kind() {
                SpanKind::Client => Some("CLIENT"),
                SpanKind::Server => Some("SERVER"),
                _ => None,
            },
            timestamp: microseconds(span.start_time_unix_nano),
            duration: microseconds(span.end_time_unix_nano.saturating_sub(span.start_time_unix_nano)).max(1),
            local_endpoint: EndpointName { service_name: Some(service), ..EndpointName::default() },
            remote_endpoint: remote(span),
            tags,
        }
    }
}

/// The other side, as far as it is known.
fn remote(span: &Span) -> Option<EndpointName<'_>> {
    let text = |key: &str| match attribute(span, key) {
        Some(Value::StringValue(text)) => Some(text.as_str()),
        _ => None,
    };
    let address = text("network.peer.address");
    let port = match attribute(span, "network.peer.port") {
        Some(Value::IntValue(port)) => u16::try_from(*port).ok(),
        _ => None,
    };
    let (ipv6, ipv4) = address
        .map(str::to_owned)
        .map_or((None, None), |address| if address.contains(':') { (Some(address), None) } else { (None, Some(address)) });
    Some(EndpointName { service_name: text("peer.service"), ipv4, ipv6, port }).filter(|remote| *remote != EndpointName::default())
}

fn attribute<'s>(span: &'s Span, key: &str) -> Option<&'s Value> {
    span.attributes.iter().find(|attribute| attribute.key == key)?.value.as_ref()?.value.as_ref()
}

/// Tags are text.
fn said(attribute: &KeyValue) -> String {
    match attribute.value.as_ref().and_then(|value| value.value.as_ref()) {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::IntValue(number)) => number.to_string(),
        Some(Value::BoolValue(is)) => is.to_string(),
        Some(Value::DoubleValue(number)) => number.to_string(),
        _ => String::new(),
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]).filter_map(|digit| char::from_digit(digit.into(), 16)).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that fails says where by panicking")]
    use serde_json::json;

    use super::*;
    use crate::export::span::span;
    use crate::record::sample::with;
    use crate::record::{Record, Reporter};
    use crate::trace;

    fn written(record: &Record<'_>) -> serde_json::Value {
        serde_json::to_value(ZipkinSpan::of(&span(record).unwrap(), "routing")).unwrap()
    }

    fn traced(status: u16) -> Record<'static> {
        with(|http| {
            http.status = status;
            http.span = Some(trace::Span::begin(Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"), 0.0, || 0xabc));
        })
    }

    #[test]
    fn a_call_is_a_client_span_in_microseconds_with_both_sides() {
        let mut span = written(&traced(200));
        let tags = span.as_object_mut().unwrap().remove("tags").unwrap();
        assert_eq!(
            span,
            json!({
                "traceId": "0af7651916cd43dd8448eb211c80319c", "id": "0000000000000abc", "parentId": "b7ad6b7169203331",
                "name": "GET HTTPRoute/recording.contact rule 0", "kind": "CLIENT",
                "timestamp": 1_700_000_000_250_000_u64, "duration": 12_500,
                "localEndpoint": {"serviceName": "routing"},
                "remoteEndpoint": {"serviceName": "recording", "ipv4": "127.0.0.1", "port": 9001},
            })
        );
        assert_eq!((&tags["http.response.status_code"], &tags["guid:x-request-id"]), (&json!("200"), &json!("4b1d")));
        assert!(tags.as_object().unwrap().values().all(serde_json::Value::is_string) && tags.get("error").is_none());
    }

    #[test]
    fn a_served_call_is_a_server_span_of_its_own() {
        let served = Record { reporter: Reporter::Destination, remote: Some(([0, 0, 0, 0, 0, 0, 0, 1], 7).into()), ..traced(200) };
        let span = written(&served);
        assert_eq!((&span["kind"], span.get("shared")), (&json!("SERVER"), None));
        assert_eq!(span["remoteEndpoint"], json!({"ipv6": "::1", "port": 7}));
    }

    #[test]
    fn a_beginning_has_no_parent_and_lasts() {
        let mut root = with(|http| http.span = Some(trace::Span::begin(None, 1.0, || 1)));
        root.duration = std::time::Duration::ZERO;
        let span = written(&root);
        assert_eq!((span.get("parentId"), &span["duration"]), (None, &json!(1)));
    }

    #[test]
    fn a_failure_is_marked_as_one() {
        assert_eq!(written(&traced(503))["tags"]["error"], json!("503"));
        let told = Record { detail: "connection refused".into(), ..traced(503) };
        assert_eq!(written(&told)["tags"]["error"], json!("connection refused"));
        assert_eq!(written(&traced(0))["tags"]["error"], json!("true"));
    }
}
