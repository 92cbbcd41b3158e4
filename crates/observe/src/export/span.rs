//! The span of an exchange, by OpenTelemetry's semantic conventions. What they have no word for begins with `lorica.`.

use std::net::SocketAddr;
use std::time::SystemTime;

use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{Span, Status};

use crate::record::{Http, Protocol, Record, Reporter, UNKNOWN};
use crate::trace;

/// Bits of OTLP's span flags beside W3C's: whether the parent is known to be remote or not, and that it is.
const KNOWS_REMOTE: u32 = 0x100;
const IS_REMOTE: u32 = 0x200;

/// The span of an HTTP exchange that has one.
#[cfg(test)]
pub(super) fn span(record: &Record<'_>) -> Option<Span> {
    let http = record.http.as_ref()?;
    Some(of(record, http, http.span?))
}

/// The span of an HTTP exchange.
pub(super) fn of(record: &Record<'_>, http: &Http<'_>, context: trace::Span) -> Span {
    let begin = nanoseconds(record.start);
    let failed = http.status == 0 || http.status >= 500 || http.grpc_status.is_some_and(|status| status != 0);
    Span {
        trace_id: context.context.trace_id.to_be_bytes().to_vec(),
        span_id: context.context.span_id.to_be_bytes().to_vec(),
        parent_span_id: context.parent.map_or_else(Vec::new, |parent| parent.to_be_bytes().to_vec()),
        flags: u32::from(context.context.sampled) | KNOWS_REMOTE | context.parent.map_or(0, |_| IS_REMOTE),
        name: name(record, http),
        kind: match record.reporter {
            Reporter::Source => SpanKind::Client.into(),
            Reporter::Destination => SpanKind::Server.into(),
        },
        start_time_unix_nano: begin,
        end_time_unix_nano: begin.saturating_add(u64::try_from(record.duration.as_nanos()).unwrap_or(u64::MAX)),
        attributes: attributes(record, http),
        status: failed.then(|| Status { message: record.detail.clone().into_owned(), code: StatusCode::Error.into() }),
        ..Span::default()
    }
}

/// Few names for many requests: never a path that may hold an id, but gRPC's, which is a method's name.
fn name(record: &Record<'_>, http: &Http<'_>) -> String {
    match (record.protocol, &record.route) {
        (Protocol::Grpc, _) => path(http).trim_start_matches('/').to_owned(),
        (_, Some(route)) => format!("{} {route}", http.method),
        (_, None) => http.method.to_owned(),
    }
}

/// Without the query: it may hold what is nobody's business.
fn path<'x>(http: &Http<'x>) -> &'x str {
    http.path.split('?').next().unwrap_or_default()
}

fn attributes(record: &Record<'_>, http: &Http<'_>) -> Vec<KeyValue> {
    let mut attributes = vec![
        text("http.request.method", http.method),
        text("url.path", path(http)),
        text("server.address", &record.called.fqdn),
        text("network.protocol.name", "http"),
        text("network.protocol.version", http.version.trim_start_matches("HTTP/")),
        number("http.request.body.size", i64::try_from(record.received).unwrap_or(i64::MAX)),
        number("http.response.body.size", i64::try_from(record.sent).unwrap_or(i64::MAX)),
        text("lorica.source", &record.source.workload),
        text("lorica.destination", &record.destination.workload),
        number("lorica.attempts", i64::from(http.attempts)),
        // As other meshes' proxies name it.
        text("guid:x-request-id", &http.request_id),
    ];
    if http.status != 0 {
        attributes.push(number("http.response.status_code", i64::from(http.status)));
    }
    attributes.extend(port(record, http).map(|port| number("server.port", i64::from(port))));
    // The peer is whoever is at the other end of the side that the span tells of.
    let peer = match record.reporter {
        Reporter::Source => record.upstream,
        Reporter::Destination => record.remote,
    };
    attributes.extend(peer.map(|peer| text("network.peer.address", &peer.ip().to_string())));
    attributes.extend(peer.map(|peer| number("network.peer.port", i64::from(peer.port()))));
    if record.reporter == Reporter::Source && record.called.name != UNKNOWN {
        attributes.push(text("peer.service", &record.called.name));
    }
    if record.reporter == Reporter::Destination {
        attributes.extend(record.remote.map(|remote| text("client.address", &remote.ip().to_string())));
    }
    attributes.extend(http.user_agent.map(|agent| text("user_agent.original", agent)));
    if http.attempts > 1 {
        attributes.push(number("http.request.resend_count", i64::from(http.attempts - 1)));
    }
    if record.protocol == Protocol::Grpc {
        let (service, method) = path(http).trim_start_matches('/').rsplit_once('/').unwrap_or_default();
        attributes.extend([text("rpc.system", "grpc"), text("rpc.service", service), text("rpc.method", method)]);
        attributes.extend(http.grpc_status.map(|status| number("rpc.grpc.status_code", i64::from(status))));
    }
    attributes.extend(record.route.as_ref().map(|route| text("lorica.route", &route.to_string())));
    attributes.extend(record.fault.as_ref().map(|fault| text("lorica.fault", &fault.to_string())));
    if let Some(reason) = record.reason.map(|reason| reason.meaning().word) {
        attributes.extend([text("lorica.reason", reason), text("error.type", reason)]);
    } else if http.status >= 500 {
        attributes.push(text("error.type", &http.status.to_string()));
    }
    attributes
}

/// The port that the caller meant: as it named it, or where it connected to.
fn port(record: &Record<'_>, http: &Http<'_>) -> Option<u16> {
    let named = http.authority.rsplit_once(':').and_then(|(_, port)| port.parse().ok());
    let called = record.local.filter(|_| record.reporter == Reporter::Source).as_ref().map(SocketAddr::port);
    named.or(called)
}

pub(super) fn nanoseconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}

pub(crate) fn text(key: &str, value: &str) -> KeyValue {
    attribute(key, Value::StringValue(value.to_owned()))
}

pub(super) fn number(key: &str, value: i64) -> KeyValue {
    attribute(key, Value::IntValue(value))
}

fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}
