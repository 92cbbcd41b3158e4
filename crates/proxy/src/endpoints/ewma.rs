//! The latency that calls to an endpoint are expected to have: what was seen of it lately, peaks first, and what an answer says of its load.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The latency that an endpoint never called is taken to have: Linkerd's default.
const ASSUMED_LATENCY: Duration = Duration::from_millis(30);
/// How fast old latencies are forgotten: Linkerd's default.
const DECAY: Duration = Duration::from_secs(10);
/// The latency that a failed connection, or an answer which says that the endpoint cannot do it, counts as, so that others are preferred for
/// some seconds: Linkerd's penalty.
pub(super) const FAILURE_LATENCY: Duration = Duration::from_secs(5);
/// The most that a `Retry-After` counts as: Linkerd's bound.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(300);

/// A latency average that rises at once to a peak and comes down slowly. Writers race without harm: a lost update is one sample.
#[derive(Debug)]
pub(super) struct PeakEwma {
    /// Seconds, as bits of an `f64`.
    value: AtomicU64,
    /// Nanoseconds after `epoch` at which `value` held.
    stamp: AtomicU64,
    epoch: Instant,
}

impl PeakEwma {
    /// That of an endpoint never called.
    #[must_use]
    pub(super) fn new(now: Instant) -> Self {
        Self { value: AtomicU64::new(ASSUMED_LATENCY.as_secs_f64().to_bits()), stamp: AtomicU64::new(0), epoch: now }
    }

    /// The expected latency at `now`, in seconds.
    #[must_use]
    pub(super) fn at(&self, now: Instant) -> f64 {
        f64::from_bits(self.value.load(Ordering::Relaxed)) * self.kept(self.nanos(now))
    }

    /// The nanoseconds from `epoch` to `now`.
    fn nanos(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.epoch).as_nanos()).unwrap_or(u64::MAX)
    }

    /// The share of the value that is left so many nanoseconds after `epoch`.
    fn kept(&self, nanos: u64) -> f64 {
        let age = Duration::from_nanos(nanos.saturating_sub(self.stamp.load(Ordering::Relaxed)));
        (-age.as_secs_f64() / DECAY.as_secs_f64()).exp()
    }

    /// Takes in that a call took so long.
    pub(super) fn observe(&self, latency: Duration, now: Instant) {
        let latency = latency.as_secs_f64();
        let old = f64::from_bits(self.value.load(Ordering::Relaxed));
        let nanos = self.nanos(now);
        let new = if latency > old {
            latency
        } else {
            let kept = self.kept(nanos);
            old * kept + latency * (1.0 - kept)
        };
        self.value.store(new.to_bits(), Ordering::Relaxed);
        self.stamp.store(nanos, Ordering::Relaxed);
    }
}

/// The latency that an answer counts as which says that the endpoint is overloaded or fails: 429 and 5xx. A `Retry-After` beside 429 or 503
/// counts in place of [`FAILURE_LATENCY`] where it is longer, up to 300 s.
#[must_use]
pub(super) fn penalty(status: u16, retry_after: Option<Duration>) -> Option<Duration> {
    let asked = retry_after.filter(|_| matches!(status, 429 | 503)).unwrap_or_default().min(LONGEST_RETRY_AFTER);
    matches!(status, 429 | 500..=599).then(|| asked.max(FAILURE_LATENCY))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peak_counts_at_once_and_is_forgotten_slowly() {
        let begun = Instant::now();
        let latency = PeakEwma::new(begun);
        latency.observe(Duration::from_secs(1), begun);
        assert_eq!(latency.at(begun).to_bits(), 1f64.to_bits());
        let later = begun + DECAY;
        assert!((latency.at(later) - (-1f64).exp()).abs() < 1e-9);
        latency.observe(Duration::ZERO, later);
        assert!((latency.at(later) - (-1f64).exp()).abs() < 1e-9, "a quick answer takes nothing off what is left of a peak");
    }

    #[test]
    fn overload_and_failure_are_penalised() {
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        for (status, retry_after, expected) in [
            (200, None, None),
            (404, seconds(60), None),
            (429, None, seconds(5)),
            (429, seconds(2), seconds(5)),
            (429, seconds(60), seconds(60)),
            (503, seconds(9000), seconds(300)),
            (500, seconds(60), seconds(5)),
            (599, None, seconds(5)),
        ] {
            assert_eq!(penalty(status, retry_after), expected, "{status} {retry_after:?}");
        }
    }
}
