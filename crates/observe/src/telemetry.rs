//! A proxy's telemetry: metrics, spans and access log behind one handle, and a worker's own part of it.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::access_log::{AccessLog, Target, WorkerLog};
use crate::exposition::{self, Family, Kind, Sample, Value};
use crate::metrics::{MetricsRegistry, OwnMetric, WorkerMetrics};
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
        WorkerTelemetry { metrics: self.registry.worker(), log: self.log.worker(), spans: self.spans.clone(), sampling: self.sampling }
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

    /// Adds to one of our own counters, from outside of the workers.
    pub fn count(&self, metric: OwnMetric, value: &'static str, by: u64) {
        self.registry.count(metric, value, by);
    }

    /// Waits until what workers handed over, as they do when they end, is written, for `limit` at most.
    pub async fn flush(&self, limit: Duration) {
        self.spans.flush(limit).await;
        let log = self.log.clone();
        // It blocks, and exchanges may still be ending on this thread.
        if let Err(error) = tokio::task::spawn_blocking(move || log.flush(limit)).await {
            tracing::warn!(%error, "the access log was not written to its end");
        }
    }
}

/// A worker's part of the telemetry. Stays on its thread.
pub struct WorkerTelemetry {
    /// Its metrics.
    pub metrics: WorkerMetrics,
    log: WorkerLog,
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
    pub fn record(&self, record: &Record<'_>) {
        self.metrics.record(record);
        if record.is_sampled() {
            self.spans.send(record);
        }
        self.log.write(record);
    }

    /// Hands the log's lines over; to be called each second.
    pub fn hand_over(&self) {
        self.log.hand_over();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that fails says where by panicking")]
    use super::*;
    use crate::record::sample::{http, with};
    use crate::summary;
    use crate::trace::Span;

    #[tokio::test]
    async fn one_record_is_counted_and_logged_and_read_back_as_an_edge() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        let telemetry = Telemetry::open(&Target::File(path.clone()), SpanSink::none(), 1.0).unwrap();
        let worker = telemetry.worker();
        worker.record(&http());
        worker.record(&with(|http| http.status = 503));
        worker.hand_over();
        telemetry.flush(Duration::from_secs(60)).await;
        assert_eq!(std::fs::read_to_string(path).unwrap().lines().count(), 2);

        let own =
            Family { name: "up", help: "Up", kind: Kind::Gauge, samples: vec![Sample { labels: Vec::new(), value: Value::Gauge(1.0) }] };
        let (kind, text) = telemetry.scrape(Some(exposition::OPENMETRICS), vec![own]);
        assert_eq!(kind, exposition::OPENMETRICS);
        for line in
            ["lorica_access_log_dropped_total 0", "lorica_spans_dropped_total 0", "lorica_metrics_dropped_series_total 0", "up 1", "# EOF"]
        {
            assert!(text.lines().any(|known| known == line), "{line}");
        }
        let mut edges = std::collections::BTreeMap::new();
        summary::add(&mut edges, &text);
        let (edge, totals) = edges.first_key_value().unwrap();
        assert_eq!((edge.source.as_str(), edge.destination.as_str(), edges.len()), ("routing", "recording", 1));
        assert_eq!((totals.requests, totals.failures), (2, 1));
    }

    #[tokio::test]
    async fn only_sampled_exchanges_go_to_the_collector() {
        // The task does not run, so what is sent stays in the queue until that is full.
        let sender = crate::otlp::Sender { service: String::new(), namespace: String::new(), version: None, instance: String::new() };
        let (spans, _task) = SpanSink::start("http://127.0.0.1:1", sender).unwrap();
        let telemetry = Telemetry::open(&Target::Off, spans, 0.5).unwrap();
        let worker = telemetry.worker();
        assert!((worker.sampling() - 0.5).abs() < f64::EPSILON);
        let of = |sampling| with(|http| http.span = Some(Span::begin(None, sampling, || 1)));
        (0..3000).for_each(|_| worker.record(&of(0.0)));
        assert_eq!(telemetry.spans.dropped(), 0);
        (0..3000).for_each(|_| worker.record(&of(1.0)));
        assert_eq!(telemetry.spans.dropped(), 3000 - 2048);
    }
}
