//! What a policy says of the log, ready for use.

use lorica_model::cel::Expression;
use lorica_model::log_format::Wanted;
use lorica_model::snapshot::{AccessLog, LogTarget};

use super::attributes::with_attributes;
use super::clock::Clock;
use super::format::Format;
use super::line::LineWriter;
use crate::export::logs::To;
use crate::record::Record;

/// Which exchanges have a line, how it looks and where it goes.
#[derive(Debug)]
pub struct LogRules {
    when: Option<Expression>,
    format: Format,
    to: Vec<LogTarget>,
    wanted: Wanted,
}

impl LogRules {
    /// What a policy says.
    #[must_use]
    pub fn new(log: &AccessLog) -> Self {
        Self { when: log.when.clone(), format: Format::new(&log.format), to: log.to.clone(), wanted: log.wanted() }
    }

    /// What of an answer is looked at, and must be kept until then.
    #[must_use]
    pub fn wanted(&self) -> Wanted {
        // A log that goes nowhere looks at nothing.
        if self.to.is_empty() { Wanted::default() } else { self.wanted }
    }

    /// Whether there is a line. An expression that asks for what is not there has none.
    pub(super) fn takes(&self, record: &Record<'_>) -> bool {
        let holds = |when: &Expression| with_attributes(record, |attributes| when.evaluate(attributes)).unwrap_or(false);
        !self.to.is_empty() && self.when.as_ref().is_none_or(holds)
    }

    /// Whether it goes where the process writes.
    pub(super) fn to_process(&self) -> bool {
        self.to.contains(&LogTarget::Stdout)
    }

    /// Whom it is sent to besides.
    pub(super) fn sent_to(&self) -> To {
        To { mesh: self.to.contains(&LogTarget::Mesh), collectors: self.to.contains(&LogTarget::Otlp) }
    }

    /// Whether lines are objects.
    pub(super) fn is_object(&self) -> bool {
        self.format.is_object()
    }

    /// Appends the line.
    pub(super) fn write(&self, out: &mut Vec<u8>, record: &Record<'_>, own: &mut LineWriter, clock: &mut Clock) {
        self.format.write(out, record, own, clock);
    }
}
