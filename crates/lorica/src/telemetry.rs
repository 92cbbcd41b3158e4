//! What was typed of a proxy's telemetry, as the proxy is told it.

use lorica_cli::args::TraceArgs;
use lorica_proxy::config::TelemetryConfig;

pub(crate) fn telemetry(access_log: String, traces: &TraceArgs) -> TelemetryConfig {
    let keep = traces.keep();
    let TraceArgs { otlp, otlp_protocol, zipkin, .. } = traces.clone();
    TelemetryConfig { access_log, otlp, otlp_protocol, zipkin, keep }
}
