//! What policies say of telemetry, ready for use: which exchanges are kept, which have a line in the log, and how it looks.

use lorica_model::snapshot::{Share, Slow, Telemetry};

use crate::access_log::LogRules;
use crate::keep::Keep;

/// What policies say of telemetry at this proxy. A worker makes its own, and an exchange goes by those that it began with.
#[derive(Debug)]
pub struct Rules {
    /// Which exchanges are kept whole.
    pub keep: Keep,
    /// What is logged; none: what the process was told at its start.
    pub log: Option<LogRules>,
}

impl Rules {
    /// What `telemetry` says, and where it says nothing what the process was told.
    #[must_use]
    pub fn new(telemetry: &Telemetry, process: Keep) -> Self {
        let tracing = telemetry.tracing.unwrap_or_default();
        let keep = Keep {
            share: tracing.sampling.map_or(process.share, |Share(millionths)| f64::from(millionths) / 1_000_000.0),
            failed: tracing.keep_failed.unwrap_or(process.failed),
            slower_than: match tracing.keep_slower_than {
                None => process.slower_than,
                Some(Slow::Never) => None,
                Some(Slow::After(bound)) => Some(bound),
            },
        };
        Self { keep, log: telemetry.access_log.as_ref().map(LogRules::new) }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use lorica_model::snapshot::Tracing;

    use super::*;

    #[test]
    fn what_a_policy_leaves_open_is_as_the_process_was_told() {
        let of = |tracing| Rules::new(&Telemetry { tracing, access_log: None }, Keep::default()).keep;
        assert_eq!(of(None), Keep::default());
        let sampling = Some(Tracing { sampling: Some(Share(250_000)), ..Tracing::default() });
        assert_eq!(of(sampling), Keep { share: 0.25, ..Keep::default() });
        let never = Some(Tracing { keep_failed: Some(false), keep_slower_than: Some(Slow::Never), ..Tracing::default() });
        assert_eq!(of(never), Keep { failed: false, slower_than: None, ..Keep::default() });
        let bound = Duration::from_millis(250);
        let slower = Some(Tracing { keep_slower_than: Some(Slow::After(bound)), ..Tracing::default() });
        assert_eq!(of(slower), Keep { slower_than: Some(bound), ..Keep::default() });
    }
}
