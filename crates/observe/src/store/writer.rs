//! The thread that alone writes: it takes what waits, puts it into segments, and shows them to whoever asks.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use opentelemetry_proto::tonic::common::v1::InstrumentationScope;
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, Span};
use prost::Message as _;
use tokio::sync::watch;

use super::frame::{Name, Source};
use super::intake::{failed, number, service, shortened};
use super::segment::Incoming;
use super::sequence::Sequence;
use super::{Shared, View};

/// How often the age of segments is looked at while nothing comes.
const LOOK: Duration = Duration::from_secs(10);
/// After how many messages what is written is shown, if more wait.
const AT_ONCE: usize = 64;

/// What the writer is told.
#[derive(Debug)]
pub(super) enum Message {
    /// Spans, and their bytes.
    Spans(Vec<ResourceSpans>, u64),
    /// Log records, and their bytes.
    Logs(Vec<ResourceLogs>, u64),
    /// Somebody waits until all before it is written.
    Flush(SyncSender<()>),
    /// There is nothing more to come.
    End,
}

/// What the thread has.
pub(super) struct Writer {
    pub(super) spans: Sequence,
    pub(super) logs: Sequence,
    pub(super) shared: Arc<Shared>,
    pub(super) changed: watch::Sender<()>,
}

impl Writer {
    pub(super) fn run(mut self, messages: &Receiver<Message>) {
        loop {
            let mut next = match messages.recv_timeout(LOOK) {
                Ok(message) => Some(message),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return self.end(),
            };
            let mut flushed = Vec::new();
            let mut taken = 0;
            while let Some(message) = next {
                match message {
                    Message::Spans(spans, bytes) => {
                        spans.into_iter().for_each(|spans| self.take_spans(spans));
                        self.shared.waiting.fetch_sub(bytes, Ordering::AcqRel);
                    }
                    Message::Logs(logs, bytes) => {
                        logs.into_iter().for_each(|logs| self.take_logs(logs));
                        self.shared.waiting.fetch_sub(bytes, Ordering::AcqRel);
                    }
                    Message::Flush(done) => flushed.push(done),
                    Message::End => return self.end(),
                }
                taken += 1;
                next = if taken < AT_ONCE { messages.try_recv().ok() } else { None };
            }
            self.commit();
            // Whoever asked may have stopped waiting.
            for done in flushed {
                let _: Result<(), _> = done.send(());
            }
        }
    }

    fn commit(&mut self) {
        let now = SystemTime::now();
        self.shared.spans.count(self.spans.commit(now));
        self.shared.logs.count(self.logs.commit(now));
        self.shared.view.store(Arc::new(View { spans: self.spans.look(), logs: self.logs.look() }));
        self.changed.send_replace(());
    }

    fn end(mut self) {
        self.commit();
        let now = SystemTime::now();
        self.shared.spans.count(self.spans.close(now));
        self.shared.logs.count(self.logs.close(now));
    }

    fn take_spans(&mut self, spans: ResourceSpans) {
        let now = SystemTime::now();
        let ResourceSpans { resource, scope_spans, .. } = spans;
        let service = service(resource.as_ref());
        for scoped in scope_spans {
            let (source, described) = source(resource.clone(), scoped.scope);
            let mut name = Name { service: service.clone(), ..Name::default() };
            for span in &scoped.spans {
                name.operation.clear();
                name.operation.push_str(shortened(&span.name));
                name.kind = u32::try_from(span.kind).unwrap_or(0);
                self.spans.add(&source, &described, &name, incoming_span(span, now), now);
            }
        }
    }

    fn take_logs(&mut self, logs: ResourceLogs) {
        let now = SystemTime::now();
        let ResourceLogs { resource, scope_logs, .. } = logs;
        let name = Name { service: service(resource.as_ref()), ..Name::default() };
        for scoped in scope_logs {
            let (source, described) = source(resource.clone(), scoped.scope);
            for record in &scoped.log_records {
                self.logs.add(&source, &described, &name, incoming_log(record, now), now);
            }
        }
    }
}

fn source(resource: Option<Resource>, scope: Option<InstrumentationScope>) -> (Bytes, Source) {
    let source = Source { resource, scope };
    (source.encode_to_vec().into(), source)
}

fn incoming_span(span: &Span, now: SystemTime) -> Incoming {
    // One without a time is of now: it is to be found among the others.
    let time = if span.start_time_unix_nano == 0 { nanoseconds(now) } else { span.start_time_unix_nano };
    Incoming {
        trace: number(&span.trace_id),
        time,
        duration: span.end_time_unix_nano.saturating_sub(span.start_time_unix_nano),
        failed: failed(span),
        body: span.encode_to_vec().into(),
    }
}

fn incoming_log(record: &LogRecord, now: SystemTime) -> Incoming {
    let times = [record.time_unix_nano, record.observed_time_unix_nano];
    Incoming {
        trace: number(&record.trace_id),
        time: times.into_iter().find(|time| *time != 0).unwrap_or_else(|| nanoseconds(now)),
        duration: 0,
        // OTLP's numbers of severities from ERROR on.
        failed: record.severity_number >= 17,
        body: record.encode_to_vec().into(),
    }
}

pub(super) fn nanoseconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}
