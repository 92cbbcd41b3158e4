//! Telemetry on its way to those who keep it: the control plane, collectors that speak OTLP, Zipkin.
//!
//! | module | noun |
//! | --- | --- |
//! | [`destination`] | where something is sent, as users write it |
//! | [`queue`] | the bounded queue before one destination, and who empties it |
//! | [`otlp`], `zipkin` | what is said there |
//! | [`logs`] | log records of exchanges |
//! | `connect`, `post` | connections, and requests on them |
//! | `retry` | whether and when something is sent again |
//! | `span` | the span of an exchange |
//!
//! Each destination has a queue of its own: one that is slow or gone costs nothing but what it does not take, and that is counted.

pub mod connect;
pub mod destination;
pub mod logs;
pub mod otlp;
mod post;
pub mod queue;
pub mod retry;
mod span;
mod zipkin;

#[cfg(test)]
mod tests;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::Span;
use tokio::time::timeout;

pub use destination::{Destination, DestinationError, OtlpProtocol};
pub use logs::LogSink;
pub(crate) use span::text;

use crate::record::Record;
use otlp::{Signal, Traces};
use queue::{Name, Queue};

/// What empties the queue of a destination. Ends with the last sink.
pub type Sending = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Who sends.
#[derive(Debug, Clone)]
pub struct Sender {
    /// `service.name`.
    pub service: String,
    /// `service.namespace`.
    pub namespace: String,
    /// `service.version`.
    pub version: Option<String>,
    /// `service.instance.id`.
    pub instance: String,
}

impl Sender {
    /// The sender, as OTLP names it.
    #[must_use]
    pub fn resource(&self) -> Resource {
        let mut attributes = vec![
            span::text("service.name", &self.service),
            span::text("service.namespace", &self.namespace),
            span::text("service.instance.id", &self.instance),
        ];
        attributes.extend(self.version.as_deref().map(|version| span::text("service.version", version)));
        Resource { attributes, ..Resource::default() }
    }
}

/// The way of spans to all their destinations. Clones lead to the same ones.
#[derive(Debug, Clone)]
pub struct SpanSink {
    queues: Arc<[Queue<Arc<Span>>]>,
}

impl SpanSink {
    /// A sink that takes nothing.
    #[must_use]
    pub fn none() -> Self {
        Self { queues: Arc::new([]) }
    }

    /// A sink that sends to each of `destinations`, and what does so, to be run.
    #[must_use]
    pub fn start(destinations: &[Destination], sender: &Sender) -> (Self, Vec<Sending>) {
        let (mut queues, mut sending): (Vec<_>, Vec<Sending>) = (Vec::new(), Vec::new());
        for destination in destinations {
            let name = Name { destination: destination.name.clone(), what: Traces::WHAT, quiet: destination.quiet };
            if let Some(carrier) = destination.carrier::<Traces>(sender.resource()) {
                let (queue, emptying) = Queue::start(name, carrier);
                queues.push(queue);
                sending.push(Box::pin(emptying));
            } else if let Some(carrier) = destination.zipkin_carrier(&sender.service) {
                let (queue, emptying) = Queue::start(name, carrier);
                queues.push(queue);
                sending.push(Box::pin(emptying));
            }
        }
        (Self { queues: queues.into() }, sending)
    }

    /// Hands the span of a record on to each destination that has room for it; the others count it as dropped. Never waits.
    pub fn send(&self, record: &Record<'_>) {
        let Some((span, http)) = record.http.as_ref().and_then(|http| http.span.map(|span| (span, http))) else { return };
        // Made once, and only if somebody takes it.
        let mut made: Option<Arc<Span>> = None;
        for queue in self.queues.iter() {
            queue.offer(|| made.get_or_insert_with(|| Arc::new(span::of(record, http, span))).clone());
        }
    }

    /// The queue of each destination.
    pub fn queues(&self) -> impl Iterator<Item = &Queue<Arc<Span>>> {
        self.queues.iter()
    }

    /// Waits until all that was handed over is sent, for `limit` at most.
    pub async fn flush(&self, limit: Duration) {
        // Past the limit a destination does not answer, and nobody waits for that.
        drop(timeout(limit, join_all(self.queues.iter().map(Queue::flush))).await);
    }
}
