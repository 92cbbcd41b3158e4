//! A record as a line of the log: JSON, the same keys in the same order each time.
//!
//! First Envoy's keys in Istio's order, so that what reads a mesh's logs today reads these; then ours. What is not known is
//! null. `protocol` is null and `response_code` is 0 where bytes were not looked at, as Envoy has it.

use std::time::Duration;

use jiff::Timestamp;
use lorica_model::reason::Reason;
use serde::ser::{Serialize, SerializeMap, Serializer};

use crate::record::{Record, UNKNOWN};

/// Writes a record as JSON, without a copy of its texts.
pub(super) struct Line<'a>(pub(super) &'a Record);

impl Serialize for Line<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let record = self.0;
        let http = record.http.as_ref();
        let word = record.reason.map(|reason| reason.meaning().word);
        let start = Timestamp::try_from(record.start).ok().map(|start| format!("{start:.3}"));
        let mut line = serializer.serialize_map(None)?;
        line.serialize_entry("start_time", &start)?;
        line.serialize_entry("method", &http.and_then(|http| text(&http.method)))?;
        line.serialize_entry("path", &http.and_then(|http| text(&http.path)))?;
        line.serialize_entry("protocol", &http.and_then(|http| text(http.version)))?;
        line.serialize_entry("response_code", &http.map_or(0, |http| http.status))?;
        line.serialize_entry("response_flags", record.flag())?;
        line.serialize_entry("response_code_details", &word.or_else(|| http.map(|_| "via_upstream")))?;
        // Envoy tells here what closed a connection that it had no answer for.
        let closed = http.is_none() && record.reason.is_some();
        line.serialize_entry("connection_termination_details", &closed.then(|| text(&record.detail)).flatten())?;
        line.serialize_entry("upstream_transport_failure_reason", &failed_to_connect(record).then(|| text(&record.detail)).flatten())?;
        line.serialize_entry("bytes_received", &record.received)?;
        line.serialize_entry("bytes_sent", &record.sent)?;
        line.serialize_entry("duration", &milliseconds(record.duration))?;
        line.serialize_entry("upstream_service_time", &http.and_then(|http| http.upstream_time).map(milliseconds))?;
        line.serialize_entry("x_forwarded_for", &http.and_then(|http| http.forwarded_for.as_deref()))?;
        line.serialize_entry("user_agent", &http.and_then(|http| http.user_agent.as_deref()))?;
        line.serialize_entry("request_id", &http.and_then(|http| text(&http.request_id)))?;
        line.serialize_entry("authority", &http.and_then(|http| text(&http.authority)))?;
        line.serialize_entry("upstream_host", &record.upstream)?;
        line.serialize_entry("upstream_cluster", &text(&record.called.fqdn))?;
        // A connection is shared by exchanges; which local port it has says nothing of one.
        line.serialize_entry("upstream_local_address", &None::<&str>)?;
        line.serialize_entry("downstream_local_address", &record.local)?;
        line.serialize_entry("downstream_remote_address", &record.remote)?;
        line.serialize_entry("requested_server_name", &record.server_name)?;
        line.serialize_entry("route_name", &record.route.as_deref())?;
        // Ours.
        line.serialize_entry("reporter", record.reporter.word())?;
        line.serialize_entry("reason", &word)?;
        line.serialize_entry("detail", &text(&record.detail))?;
        line.serialize_entry("source_workload", &text(&record.source.workload))?;
        line.serialize_entry("source_namespace", &text(&record.source.namespace))?;
        line.serialize_entry("source_principal", &text(&record.source.principal))?;
        line.serialize_entry("destination_workload", &text(&record.destination.workload))?;
        line.serialize_entry("destination_namespace", &text(&record.destination.namespace))?;
        line.serialize_entry("destination_principal", &text(&record.destination.principal))?;
        line.serialize_entry("connection_security_policy", record.security.word())?;
        line.serialize_entry("grpc_status", &http.and_then(|http| http.grpc_status))?;
        line.serialize_entry("attempts", &http.map(|http| http.attempts))?;
        let context = http.and_then(|http| http.span).map(|span| span.context);
        line.serialize_entry("trace_id", &context.map(|context| format!("{:032x}", context.trace_id)))?;
        line.serialize_entry("span_id", &context.map(|context| format!("{:016x}", context.span_id)))?;
        line.end()
    }
}

/// Metrics say `unknown` for what a log can leave open.
fn text(text: &str) -> Option<&str> {
    Some(text).filter(|text| !text.is_empty() && *text != UNKNOWN)
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn failed_to_connect(record: &Record) -> bool {
    use Reason::{ConnectFailed, ConnectTimeout, OutsideFailed, UpstreamIdentity, UpstreamTls};
    matches!(record.reason, Some(ConnectFailed | ConnectTimeout | OutsideFailed | UpstreamIdentity | UpstreamTls))
}
