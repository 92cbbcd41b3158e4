//! Which exchanges are kept whole: a share of all, and those that somebody will ask about. Pure.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::record::{Http, Record};

/// Which exchanges are kept.
///
/// Kept says that the proxy's own span, or log line, goes out. What is said to the next hop stays what was decided when the
/// trace began: that an exchange fails or is slow is known only once it is over.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Keep {
    /// The share of the traces that begin here of which all is kept, 0 to 1. Others decided for those that come in.
    pub share: f64,
    /// Whether all that failed is kept.
    pub failed: bool,
    /// What was not answered within this time is kept.
    pub slower_than: Option<Duration>,
}

impl Default for Keep {
    /// 1 % of all, as Istio does, all that failed, and what was not answered within a second.
    fn default() -> Self {
        Self { share: 0.01, failed: true, slower_than: Some(Duration::from_secs(1)) }
    }
}

impl Keep {
    /// Everything.
    pub const ALL: Self = Self { share: 1.0, failed: true, slower_than: None };

    /// Whether this exchange is kept.
    #[must_use]
    pub fn keeps(&self, record: &Record<'_>) -> bool {
        record.is_sampled() || (self.failed && has_failed(record)) || self.slower_than.is_some_and(|bound| time(record) > Some(bound))
    }
}

/// Whether it is a failure that the callee, the mesh or the way between them is to be asked about: nobody answered, a status of
/// 500 and above, a gRPC status that is the callee's fault, or the mesh itself answered.
#[must_use]
pub fn has_failed(record: &Record<'_>) -> bool {
    let failed = |http: &Http<'_>| http.status == 0 || http.status >= 500 || http.grpc_status.is_some_and(is_fault_of_callee);
    record.reason.is_some() || record.http.as_ref().is_some_and(failed)
}

/// Whether a gRPC status is the callee's fault, as OpenTelemetry draws the line for spans of servers: UNKNOWN,
/// DEADLINE_EXCEEDED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE, DATA_LOSS.
#[must_use]
pub const fn is_fault_of_callee(grpc_status: u32) -> bool {
    matches!(grpc_status, 2 | 4 | 12..=15)
}

/// How long a caller waited for its answer to begin. What comes after is no slowness: tunnels, streams of events and downloads
/// take as long as they are used. None for bytes that nobody looks into.
fn time(record: &Record<'_>) -> Option<Duration> {
    record.http.as_ref().map(|http| http.answered_after.unwrap_or(record.duration))
}

#[cfg(test)]
mod tests {
    use lorica_model::reason::Reason;

    use super::*;
    use crate::record::sample::{tcp, with};
    use crate::trace::Span;

    const FAILED: Keep = Keep { share: 0.0, failed: true, slower_than: None };
    const SLOW: Keep = Keep { share: 0.0, failed: false, slower_than: Some(Duration::from_millis(10)) };

    #[test]
    fn what_was_sampled_is_kept_whatever_became_of_it() {
        let of = |sampling| with(|http| http.span = Some(Span::begin(None, sampling, || 1)));
        for keep in [FAILED, SLOW] {
            let keep = Keep { failed: false, slower_than: None, ..keep };
            assert!(keep.keeps(&of(1.0)) && !keep.keeps(&of(0.0)));
        }
    }

    #[test]
    fn failures_are_kept_unless_told_otherwise() {
        for (status, grpc, expected) in [
            (200, None, false),
            (404, None, false),
            (499, None, false),
            (0, None, true),
            (500, None, true),
            (503, Some(14), true),
            (200, Some(0), false),
            (200, Some(1), false),
            (200, Some(2), true),
            (200, Some(4), true),
            (200, Some(5), false),
            (200, Some(12), true),
            (200, Some(13), true),
            (200, Some(15), true),
            (200, Some(16), false),
        ] {
            let record = with(|http| (http.status, http.grpc_status) = (status, grpc));
            assert_eq!(FAILED.keeps(&record), expected, "{status} {grpc:?}");
            assert!(!Keep { failed: false, ..FAILED }.keeps(&record), "{status} {grpc:?}");
        }
        let denied = Record { reason: Some(Reason::ConnectFailed), ..with(|http| http.status = 403) };
        assert!(FAILED.keeps(&denied));
        assert!(FAILED.keeps(&Record { reason: Some(Reason::ConnectFailed), ..tcp() }));
        assert!(!FAILED.keeps(&tcp()));
    }

    #[test]
    fn slow_is_what_lets_its_caller_wait_for_the_answer_to_begin() {
        let after = |millis| with(|http| http.answered_after = Some(Duration::from_millis(millis)));
        assert!(SLOW.keeps(&after(11)) && !SLOW.keeps(&after(10)));
        // A stream or a tunnel of an hour that began at once.
        let long = Record { duration: Duration::from_secs(3600), ..after(1) };
        assert!(!SLOW.keeps(&long));
        // Never answered by anybody: all of it was waiting.
        assert!(SLOW.keeps(&with(|http| http.answered_after = None)));
        assert!(!SLOW.keeps(&Record { duration: Duration::from_secs(3600), ..tcp() }));
        assert!(!Keep { slower_than: None, ..SLOW }.keeps(&after(3_600_000)));
    }
}
