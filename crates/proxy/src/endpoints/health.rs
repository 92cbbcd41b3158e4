//! Whether an endpoint is to be called: one flag a reason not to, set by whoever knows, read by every pick.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

/// Why an endpoint is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum LeftOut {
    /// Calls to it failed: it is ejected for a while.
    Ejected = 1,
    /// It does not answer health checks as it should.
    HealthCheck = 2,
    /// It was ejected, and one real request finds out whether it is well again.
    Probation = 4,
}

/// How often the health of any endpoint has changed in this process: whoever made something of it knows by this number when to look again.
static CHANGES: AtomicU64 = AtomicU64::new(0);

/// See [`Health::set`]. What is read after it is at least as new.
#[must_use]
pub fn changes() -> u64 {
    CHANGES.load(Ordering::Acquire)
}

/// Whether an endpoint is to be called.
#[derive(Debug, Default)]
pub struct Health(AtomicU8);

impl Health {
    /// Whether nothing speaks against it.
    #[must_use]
    pub fn is_available(&self) -> bool {
        self.0.load(Ordering::Relaxed) == 0
    }

    /// Whether it is left out for this reason.
    #[must_use]
    pub fn is(&self, reason: LeftOut) -> bool {
        self.0.load(Ordering::Relaxed) & reason as u8 != 0
    }

    /// Leaves it out for a reason, or no longer. Gives whether that changed anything; if so, every pick from now on knows.
    pub fn set(&self, reason: LeftOut, left_out: bool) -> bool {
        let bit = reason as u8;
        let before = if left_out { self.0.fetch_or(bit, Ordering::Relaxed) } else { self.0.fetch_and(!bit, Ordering::Relaxed) };
        let changed = (before & bit != 0) != left_out;
        if changed {
            CHANGES.fetch_add(1, Ordering::Release);
        }
        changed
    }
}
