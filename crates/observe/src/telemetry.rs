//! A proxy's telemetry: metrics, spans and access log behind one handle, and a worker's own part of it.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::access_log::{AccessLog, Target};
use crate::exposition::{self, Family, Kind, Sample, Value};
use crate::metrics::{MetricsRegistry, WorkerMetrics};
use crate::otlp::SpanSink;
use crate::record::Record;

/// A process's telemetry. Clones are of the same.
#[derive(Clone)]
pub struct Telemetry {
    registry: Arc<MetricsRegistry>,
    log: AccessLog,
    spans: SpanSink,
    sampling: f64,
}

impl Telemetry {
    /// Telemetry that logs to `target` and sends spans to `spans`, of a `sampling` share of new traces.
    ///
    /// # Errors
    /// When the access log cannot be opened.
    pub fn open(target: &Target, spans: SpanSink, sampling: f64) -> io::Result<Self> {
        Ok(Self { registry: Arc::default(), log: AccessLog::open(target)?, spans, sampling })
    }

    /// A worker's part.
    #[must_use]
    pub fn worker(&self) -> WorkerTelemetry {
        WorkerTelemetry { metrics: self.registry.worker(), log: self.log.clone(), spans: self.spans.clone(), sampling: self.sampling }
    }

    /// What a scrape gets: the type of the text, and the text. `more` is what the caller knows besides.
    #[must_use]
    pub fn scrape(&self, accept: Option<&str>, more: Vec<Family>) -> (&'static str, String) {
        let counter = |name, help, value| Family {
            name,
            help,
            kind: Kind::Counter,
            samples: vec![Sample { labels: Vec::new(), value: Value::Counter(value) }],
        };
        let mut families = self.registry.families();
        families.extend([
            counter("lorica_access_log_dropped_total", "Log lines dropped since the log could not keep up", self.log.dropped()),
            counter("lorica_spans_dropped_total", "Spans dropped since the collector could not keep up", self.spans.dropped()),
        ]);
        families.extend(more);
        exposition::encode(&families, accept)
    }

    /// Waits until what was recorded is written, for `limit` at most.
    pub async fn flush(&self, limit: Duration) {
        self.spans.flush(limit).await;
        self.log.flush(limit);
    }
}

/// A worker's part of the telemetry. Stays on its thread.
pub struct WorkerTelemetry {
    /// Its metrics.
    pub metrics: WorkerMetrics,
    log: AccessLog,
    spans: SpanSink,
    sampling: f64,
}

impl WorkerTelemetry {
    /// The share of new traces that are recorded.
    #[must_use]
    pub fn sampling(&self) -> f64 {
        self.sampling
    }

    /// Tells of an exchange that has ended.
    pub fn record(&self, record: Record) {
        self.metrics.record(&record);
        if record.http.as_ref().and_then(|http| http.span).is_some_and(|span| span.context.sampled) {
            self.spans.send(&record);
        }
        self.log.write(record);
    }
}
