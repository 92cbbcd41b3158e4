//! Whether an endpoint is to be called: one flag a reason not to, set by whoever knows, read by every pick. Workers of a process share it.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use super::ejection::Calls;

/// Why an endpoint is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum LeftOut {
    /// Calls to it failed: it is ejected for a while.
    Ejected = 1,
    /// It does not answer health checks as it should, or has not been asked yet.
    HealthCheck = 2,
    /// It was ejected, and one real request finds out whether it is well again.
    Probation = 4,
}

impl LeftOut {
    /// Every reason.
    pub const ALL: [Self; 3] = [Self::Ejected, Self::HealthCheck, Self::Probation];

    /// The word in metrics and on the page of endpoints.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Ejected => "ejected",
            Self::HealthCheck => "health_check",
            Self::Probation => "probation",
        }
    }
}

/// How often the health of any endpoint has changed in this process: whoever made something of it knows by this number when to look again.
static CHANGES: AtomicU64 = AtomicU64::new(0);

/// See [`Health::set`]. What is read after it is at least as new.
#[must_use]
pub fn changes() -> u64 {
    CHANGES.load(Ordering::Acquire)
}

/// Whether an endpoint is to be called, and what was counted of the calls to it.
#[derive(Debug, Default)]
pub struct Health {
    left_out: AtomicU8,
    probe: AtomicU8,
    /// What was counted of the calls to it.
    pub calls: Calls,
}

/// No request finds out whether the endpoint is well.
const NO_PROBE: u8 = 0;
/// A request is to find out, and has not begun.
const PROBE_TAKEN: u8 = 1;
/// A request is under way that finds out.
const PROBE_UNDER_WAY: u8 = 2;

impl Health {
    /// That of an endpoint which is left out for a reason from the start.
    #[must_use]
    pub fn left_out(reason: LeftOut) -> Self {
        Self { left_out: AtomicU8::new(reason as u8), ..Self::default() }
    }

    /// Whether nothing speaks against it.
    #[must_use]
    pub fn is_available(&self) -> bool {
        self.left_out.load(Ordering::Relaxed) == 0
    }

    /// Whether it is left out for this reason.
    #[must_use]
    pub fn is(&self, reason: LeftOut) -> bool {
        self.left_out.load(Ordering::Relaxed) & reason as u8 != 0
    }

    /// Leaves it out for a reason, or no longer. Gives whether that changed anything; if so, every pick from now on knows.
    pub fn set(&self, reason: LeftOut, left_out: bool) -> bool {
        let bit = reason as u8;
        let before =
            if left_out { self.left_out.fetch_or(bit, Ordering::Relaxed) } else { self.left_out.fetch_and(!bit, Ordering::Relaxed) };
        let changed = (before & bit != 0) != left_out;
        if changed {
            CHANGES.fetch_add(1, Ordering::Release);
        }
        changed
    }

    /// Whether ejection leaves it out, probation counted.
    #[must_use]
    pub fn is_ejected(&self) -> bool {
        self.left_out.load(Ordering::Relaxed) & (LeftOut::Ejected as u8 | LeftOut::Probation as u8) != 0
    }

    /// Takes the right to send the one request that finds out whether the endpoint is well again. Whoever is given it begins a call: the
    /// right is given to nobody else before that is over.
    #[must_use]
    pub fn try_probe(&self) -> bool {
        self.left_out.load(Ordering::Relaxed) == LeftOut::Probation as u8 && self.pass(NO_PROBE, PROBE_TAKEN)
    }

    /// A call begins. Gives whether it is the one that finds out.
    pub(super) fn begins_probe(&self) -> bool {
        self.probe.load(Ordering::Relaxed) == PROBE_TAKEN && self.pass(PROBE_TAKEN, PROBE_UNDER_WAY)
    }

    /// The call that was to find out is over, whatever it found.
    pub(super) fn ends_probe(&self) {
        self.probe.store(NO_PROBE, Ordering::Relaxed);
    }

    fn pass(&self, from: u8, to: u8) -> bool {
        self.probe.compare_exchange(from, to, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_request_at_a_time_finds_out() {
        let health = Health::default();
        assert!(!health.try_probe(), "it is well");
        health.set(LeftOut::Probation, true);
        assert!(health.try_probe());
        assert!(!health.try_probe());
        assert!(health.begins_probe());
        assert!(!health.begins_probe() && !health.try_probe());
        health.ends_probe();
        assert!(health.try_probe());
        health.ends_probe();
        health.set(LeftOut::HealthCheck, true);
        assert!(!health.try_probe(), "its health checks fail");
    }
}
