//! The renewal schedule: validity and time in, what to do out. No clock, no timer, no randomness: a caller
//! passes the time and a jitter between 0 and 1.

use std::time::{Duration, SystemTime};

/// The part of a certificate's life after which it is renewed at the earliest.
const RENEW_FROM: f64 = 0.4;
/// Half of its life: it is renewed before that.
const HALF: f64 = 0.5;
/// The part of its life after which a failing renewal is an alarm.
const URGENT_FROM: f64 = 0.8;

/// The first pause after a failed renewal.
pub const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause between two attempts.
pub const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// How a certificate stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Expiry {
    /// Less than half of its life is over.
    Ok,
    /// Half of its life is over: it should have been renewed.
    Due,
    /// Four fifths of its life are over: someone should look why it is not renewed.
    Urgent,
    /// Its life is over: peers refuse it.
    Expired,
}

impl Expiry {
    /// The word for status output and metrics.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Due => "due",
            Self::Urgent => "urgent",
            Self::Expired => "expired",
        }
    }
}

/// When to renew: between 0.4 and 0.5 of the certificate's life, so always before half of it is over, and not all
/// workloads of a mesh at once. `jitter` is taken between 0 and 1.
#[must_use]
pub fn renew_at(not_before: SystemTime, not_after: SystemTime, jitter: f64) -> SystemTime {
    let part = RENEW_FROM + (HALF - RENEW_FROM) * unit(jitter);
    not_before + life(not_before, not_after).mul_f64(part)
}

/// How the certificate stands at `now`.
#[must_use]
pub fn expiry(not_before: SystemTime, not_after: SystemTime, now: SystemTime) -> Expiry {
    if now >= not_after {
        return Expiry::Expired;
    }
    let life = life(not_before, not_after);
    // Before its begin (a clock set back) nothing of it is used up.
    let used = now.duration_since(not_before).unwrap_or_default();
    if used >= life.mul_f64(URGENT_FROM) {
        Expiry::Urgent
    } else if used >= life.mul_f64(HALF) {
        Expiry::Due
    } else {
        Expiry::Ok
    }
}

/// The pause before the next attempt after `failures` failed ones in a row (1 or more): 1 s, 2 s, 4 s, … at most
/// 60 s, of which jitter takes up to a half away, so that proxies do not come back all at once.
#[must_use]
pub fn pause(failures: u32, jitter: f64) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    let whole = FIRST_PAUSE.saturating_mul(1 << doublings).min(LONGEST_PAUSE);
    whole.mul_f64(1.0 - unit(jitter) / 2.0)
}

fn life(not_before: SystemTime, not_after: SystemTime) -> Duration {
    not_after.duration_since(not_before).unwrap_or_default()
}

/// A jitter within bounds, whatever came in.
fn unit(jitter: f64) -> f64 {
    if jitter.is_finite() { jitter.clamp(0.0, 1.0) } else { 0.5 }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    fn start() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
    }

    fn hours(hours: f64) -> Duration {
        Duration::from_secs_f64(hours * 3600.0)
    }

    #[test]
    fn renewal_comes_before_half_life() {
        let at = |jitter| renew_at(start(), start() + DAY, jitter).duration_since(start()).unwrap_or_default();
        let close = |a: Duration, b: Duration| a.abs_diff(b) < Duration::from_millis(1);
        assert!(close(at(0.0), hours(9.6)));
        assert!(close(at(1.0), hours(12.0)));
        assert!(close(at(7.0), hours(12.0)));
        assert!(close(at(f64::NAN), hours(10.8)));
        assert_eq!(renew_at(start(), start() - DAY, 0.3), start());
    }

    #[test]
    fn a_certificate_passes_through_all_states() {
        let at = |part| expiry(start(), start() + DAY, start() + DAY.mul_f64(part));
        assert_eq!(
            [at(0.0), at(0.49), at(0.51), at(0.81), at(1.0), at(2.0)].map(Expiry::word),
            ["ok", "ok", "due", "urgent", "expired", "expired"]
        );
        assert_eq!(expiry(start(), start() + DAY, start() - DAY), Expiry::Ok);
    }

    #[test]
    fn pauses_double_up_to_a_minute() {
        let seconds = |failures| pause(failures, 0.0).as_secs();
        assert_eq!([0, 1, 2, 3, 6, 7, 8, 4_000_000_000].map(seconds), [1, 1, 2, 4, 32, 60, 60, 60]);
        assert_eq!(pause(8, 1.0), Duration::from_secs(30));
    }
}
