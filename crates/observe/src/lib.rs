//! What is seen of the mesh: one record an exchange goes in; metrics, spans and log lines come out.
//!
//! | module | noun |
//! | --- | --- |
//! | [`record`] | the record of an exchange |
//! | [`metrics`] | counts under Istio's names, in cells that a worker alone writes |
//! | [`exposition`] | the text in which they are scraped |
//! | [`trace`] | which trace an exchange belongs to |
//! | [`keep`] | which exchanges are kept whole |
//! | [`export`] | telemetry to those who keep it |
//! | [`access_log`] | one line an exchange |
//! | [`rules`] | what policies say of spans and lines |
//! | [`telemetry`] | all of it behind one handle |
//! | [`process`] | what the process takes of its machine |
//! | [`push`] | a proxy's metrics, told to the control plane |
//! | [`series`] | the control plane's store of time series |
//! | [`promql`] | questions of series |
//! | [`graph`] | who calls whom, and how that goes |
//! | [`summary`] | rates between services, read from metrics |
//! | [`store`] | spans and log records on disk, found again |
//! | [`otlp_json`] | OTLP in JSON, read |
//! | [`jaeger`] | traces in the JSON of Jaeger's API |
//!
//! Recording never waits: what cannot be taken in time is dropped and counted. Knows nothing of routing or keys.

pub mod access_log;
pub mod export;
pub mod exposition;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod graph;
pub mod jaeger;
pub mod keep;
pub mod metrics;
pub mod otlp_json;
pub mod process;
pub mod promql;
pub mod push;
pub mod record;
pub mod rules;
pub mod series;
pub mod store;
pub mod summary;
pub mod telemetry;
pub mod trace;

pub use keep::Keep;
pub use record::Record;
pub use rules::Rules;
pub use telemetry::{Telemetry, WorkerTelemetry};
