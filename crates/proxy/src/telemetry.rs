//! Opening a proxy's telemetry: what it was told goes in, open log and running sender come out.

use anyhow::Context as _;
use lorica_observe::Telemetry;
use lorica_observe::access_log::Target;
use lorica_observe::otlp::{Sender, SpanSink};
use tokio::task::spawn_local;

use crate::config::{Own, TelemetryConfig};

/// Opens the access log and starts the sender of spans on this local set.
///
/// # Errors
/// Where one of them cannot be used, with what to write in its place.
pub fn open(config: &TelemetryConfig, own: &Own) -> anyhow::Result<Telemetry> {
    let target = Target::from(config.access_log.as_str());
    let spans = match &config.otlp {
        None => SpanSink::none(),
        Some(endpoint) => {
            let sender = Sender {
                service: own.service_label(),
                namespace: own.namespace.to_string(),
                version: own.version.clone(),
                instance: own.workload.to_string(),
            };
            let started = SpanSink::start(endpoint, sender);
            let (sink, sending) =
                started.with_context(|| format!("`{endpoint}` is no address of a collector\nhint: write http://HOST:4317"))?;
            spawn_local(sending);
            sink
        }
    };
    let opened = Telemetry::open(&target, spans, config.sampling);
    opened.with_context(|| format!("the access log {} cannot be written", config.access_log))
}
