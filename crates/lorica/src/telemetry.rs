//! What was typed of a proxy's telemetry, as the proxy is told it.

use lorica_cli::args::{MetricsArgs, TracingArgs};
use lorica_observe::metrics::Budget;
use lorica_proxy::config::TelemetryConfig;

pub(crate) fn telemetry(access_log: String, traces: &TracingArgs, metrics: MetricsArgs) -> TelemetryConfig {
    let keep = traces.keep();
    let TracingArgs { otlp, otlp_protocol, zipkin, .. } = traces.clone();
    let MetricsArgs { metrics_series, metrics_idle } = metrics;
    TelemetryConfig { access_log, otlp, otlp_protocol, zipkin, keep, metrics: Budget { series: metrics_series, idle: metrics_idle } }
}
