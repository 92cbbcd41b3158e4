//! A proxy's telemetry: metrics, spans and access log behind one handle, and a worker's own part of it.

use std::cell::RefCell;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lorica_model::snapshot;
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::trace::v1::Span;

use crate::access_log::{AccessLog, Target, WorkerLog};
use crate::export::queue::Queue;
use crate::export::{LogSink, SpanSink};
use crate::exposition::{self, Family, Kind, Labels, Page, Sample, Value};
use crate::keep::Keep;
use crate::metrics::{Budget, MetricsRegistry, OwnMetric, WorkerMetrics};
use crate::process;
use crate::record::Record;
use crate::rules::Rules;

/// A process's telemetry. Clones are of the same.
#[derive(Clone)]
pub struct Telemetry {
    registry: Arc<MetricsRegistry>,
    log: AccessLog,
    spans: SpanSink,
    logs: LogSink,
    keep: Keep,
}

impl Telemetry {
    /// Telemetry that logs to `target`, and sends spans of what `keep` keeps to `spans` and log records to `logs`.
    ///
    /// # Errors
    /// When the access log cannot be opened.
    pub fn open(target: &Target, spans: SpanSink, logs: LogSink, keep: Keep) -> io::Result<Self> {
        Ok(Self { registry: Arc::default(), log: AccessLog::open(target)?, spans, logs, keep })
    }

    /// The same with room for so many series. To be said before there are workers.
    #[must_use]
    pub fn with_budget(self, budget: Budget) -> Self {
        Self { registry: Arc::new(MetricsRegistry::new(budget)), ..self }
    }

    /// A worker's part.
    #[must_use]
    pub fn worker(&self) -> WorkerTelemetry {
        WorkerTelemetry {
            metrics: self.registry.worker(),
            log: self.log.worker(self.logs.clone()),
            spans: self.spans.clone(),
            keep: self.keep,
            rules: RefCell::default(),
        }
    }

    /// What a scrape gets: the type of the text, and the text. `more` is what the caller knows besides.
    #[must_use]
    pub fn scrape(&self, accept: Option<&str>, more: Vec<Family>) -> (&'static str, Page) {
        exposition::encode(self.families(more), accept)
    }

    /// All families. `more` is what the caller knows besides.
    #[must_use]
    pub fn families(&self, more: Vec<Family>) -> Vec<Family> {
        let mut families = self.registry.families();
        families.extend([
            Family::counter("lorica_access_log_dropped_total", "Log lines dropped since the log could not keep up", self.log.dropped()),
            self.spans_of("lorica_spans_sent_total", "Spans that a destination took", Queue::sent),
            self.spans_of("lorica_spans_dropped_total", "Spans dropped since a destination did not take them in time", Queue::dropped),
            self.records("lorica_log_records_sent_total", "Log records that a destination took", Queue::sent),
            self.records(
                "lorica_log_records_dropped_total",
                "Log records dropped since a destination did not take them in time",
                Queue::dropped,
            ),
        ]);
        families.extend(process::families());
        families.extend(more);
        families
    }

    fn spans_of(&self, name: &'static str, help: &'static str, of: fn(&Queue<Arc<Span>>) -> u64) -> Family {
        counted(name, help, self.spans.queues().map(|queue| (queue.name(), of(queue))))
    }

    fn records(&self, name: &'static str, help: &'static str, of: fn(&Queue<Arc<LogRecord>>) -> u64) -> Family {
        counted(name, help, self.logs.queues().map(|queue| (queue.name(), of(queue))))
    }

    /// Adds to one of our own counters, from outside of the workers.
    pub fn count(&self, metric: OwnMetric, value: &'static str, by: u64) {
        self.registry.count(metric, value, by);
    }

    /// Waits until what workers handed over, as they do when they end, is written, for `limit` at most.
    pub async fn flush(&self, limit: Duration) {
        tokio::join!(self.spans.flush(limit), self.logs.flush(limit));
        let log = self.log.clone();
        // It blocks, and exchanges may still be ending on this thread.
        if let Err(error) = tokio::task::spawn_blocking(move || log.flush(limit)).await {
            tracing::warn!(%error, "the access log was not written to its end");
        }
    }
}

/// Counts by destination.
fn counted<'q>(name: &'static str, help: &'static str, queues: impl Iterator<Item = (&'q str, u64)>) -> Family {
    let sample =
        |(destination, count): (&str, u64)| Sample { labels: Labels::one("destination", destination), value: Value::Counter(count) };
    Family { name, help, kind: Kind::Counter, samples: queues.map(sample).collect() }
}

/// A worker's part of the telemetry. Stays on its thread.
pub struct WorkerTelemetry {
    /// Its metrics.
    pub metrics: WorkerMetrics,
    log: WorkerLog,
    spans: SpanSink,
    keep: Keep,
    /// What policies say, and what was made of it.
    rules: RefCell<Option<(Arc<snapshot::Telemetry>, Arc<Rules>)>>,
}

impl WorkerTelemetry {
    /// Goes by what policies say from now on. Exchanges under way keep what they began with.
    pub fn adopt(&self, told: Option<&Arc<snapshot::Telemetry>>) {
        let mut rules = self.rules.borrow_mut();
        if rules.as_ref().map(|(known, _)| known) != told {
            *rules = told.map(|told| (told.clone(), Arc::new(Rules::new(told, self.keep))));
        }
    }

    /// What policies say now, for a record that begins.
    #[must_use]
    pub fn rules(&self) -> Option<Arc<Rules>> {
        self.rules.borrow().as_ref().map(|(_, rules)| rules.clone())
    }

    /// Which exchanges are kept, and so which share of new traces.
    #[must_use]
    pub fn keep<'t>(&'t self, record: &'t Record<'_>) -> &'t Keep {
        record.rules.as_ref().map_or(&self.keep, |rules| &rules.keep)
    }

    /// Tells of an exchange that has ended.
    pub fn record(&self, record: &Record<'_>) {
        self.metrics.record(record);
        let kept = self.keep(record).keeps(record);
        if kept {
            self.spans.send(record);
        }
        self.log.write(record, kept);
    }

    /// Hands the log's lines over, and lets go of series that are idle; to be called each second.
    pub fn hand_over(&self) {
        self.log.hand_over();
        self.metrics.tick(Instant::now());
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that fails says where by panicking")]
    use lorica_model::reason::Reason;

    use super::*;
    use crate::export::{Destination, Sender};
    use crate::record::sample::{http, with};
    use crate::summary;
    use crate::trace::Span;

    #[tokio::test]
    async fn one_record_is_counted_and_logged_and_read_back_as_an_edge() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        let telemetry = Telemetry::open(&Target::File(path.clone()), SpanSink::none(), LogSink::none(), Keep::ALL).unwrap();
        let worker = telemetry.worker();
        worker.record(&http());
        worker.record(&with(|http| http.status = 503));
        worker.hand_over();
        telemetry.flush(Duration::from_secs(60)).await;
        assert_eq!(std::fs::read_to_string(path).unwrap().lines().count(), 2);

        let (kind, page) = telemetry.scrape(Some(exposition::OPENMETRICS), vec![Family::gauge("up", "Up", 1.0)]);
        let text = page.into_text();
        assert_eq!(kind, exposition::OPENMETRICS);
        for line in [
            "lorica_access_log_dropped_total 0",
            "lorica_metrics_dropped_series_total{family=\"istio_request\"} 0",
            "lorica_metrics_expired_series_total{family=\"istio_tcp\"} 0",
            "up 1",
            "# EOF",
        ] {
            assert!(text.lines().any(|known| known == line), "{line}");
        }
        let mut edges = std::collections::BTreeMap::new();
        summary::add(&mut edges, &text);
        let (edge, totals) = edges.first_key_value().unwrap();
        assert_eq!((edge.source.as_str(), edge.destination.as_str(), edges.len()), ("routing", "recording", 1));
        assert_eq!((totals.requests, totals.failures), (2, 1));
    }

    #[tokio::test]
    async fn only_kept_exchanges_go_to_the_collector() {
        // The task does not run, so what is sent stays in the queue until that is full.
        let sender = Sender { service: String::new(), namespace: String::new(), version: None, instance: String::new() };
        let collector = Destination::otlp("http://127.0.0.1:1", None, &|_, _| Err(String::new())).unwrap();
        let (spans, _task) = SpanSink::start(&[collector], &sender);
        let keep = Keep { slower_than: None, ..Keep::default() };
        let telemetry = Telemetry::open(&Target::Off, spans, LogSink::none(), keep).unwrap();
        let worker = telemetry.worker();
        assert_eq!(*worker.keep(&http()), keep);
        let of = |sampling| with(|http| http.span = Some(Span::begin(None, sampling, || 1)));
        (0..3000).for_each(|_| worker.record(&of(0.0)));
        let dropped = || telemetry.spans.queues().next().unwrap().dropped();
        (0..2048).for_each(|_| worker.record(&of(1.0)));
        assert_eq!(dropped(), 0);
        worker.record(&Record { reason: Some(Reason::ConnectFailed), ..of(0.0) });
        assert_eq!(dropped(), 1);
        let text = telemetry.scrape(None, Vec::new()).1.into_text();
        assert!(text.contains("lorica_spans_dropped_total{destination=\"http://127.0.0.1:1\"} 1\n"), "{text}");
    }
}
