//! How much work a peer may cause that brings it nothing. Pure: the time comes in.
//!
//! Frames that carry requests or bodies pay for those that only make work (PING, SETTINGS, RST_STREAM, empty DATA, small window
//! updates, frames of streams that are gone); beyond, there is an allowance that fills up with time.

use std::time::{Duration, Instant};

/// How many idle frames a peer may send at once beyond what its useful ones pay for. Ordinary clients send a handful a second;
/// a burst of this size costs us well below a millisecond.
pub(super) const IDLE_FRAMES: u32 = 1000;
/// What a frame that carries something pays for, in idle frames: it may need a window update for its stream, one for the
/// connection, and a reset.
const WORTH: u32 = 4;
/// How many requests a client may reset before they were answered, at once (CVE-2023-44487): four times as many as it may have
/// under way, so that a caller which gives up on all of its requests a few times in a row is none that attacks.
pub(super) const EARLY_RESETS: u32 = 1024;
/// How fast either allowance fills up again: once in this time.
const REFILL: Duration = Duration::from_secs(30);

/// One allowance.
#[derive(Debug)]
struct Bucket {
    left: u32,
    most: u32,
    filled: Option<Instant>,
}

impl Bucket {
    /// Takes one. False: nothing is left. `now` is asked for only then, and for the first.
    fn take(&mut self, now: impl FnOnce() -> Instant) -> bool {
        if self.left == 0 || self.filled.is_none() {
            let now = now();
            let since = self.filled.replace(now).map_or(REFILL, |filled| now.duration_since(filled));
            let share = (u128::from(self.most) * since.as_millis() / REFILL.as_millis()) as u32;
            self.left = self.left.saturating_add(share).min(self.most);
        }
        let some = self.left > 0;
        self.left = self.left.saturating_sub(1);
        some
    }
}

/// The allowances of one connection.
#[derive(Debug)]
pub(in super::super) struct Calm {
    idle: Bucket,
    resets: Bucket,
}

impl Calm {
    pub(in super::super) fn new() -> Self {
        let bucket = |most| Bucket { left: most, most, filled: None };
        Self { idle: bucket(IDLE_FRAMES), resets: bucket(EARLY_RESETS) }
    }

    /// A frame carried something.
    pub(in super::super) fn useful(&mut self) {
        self.idle.left = (self.idle.left + WORTH).min(self.idle.most);
    }

    /// A frame carried nothing. False: there were too many.
    pub(in super::super) fn idle_frame(&mut self, now: impl FnOnce() -> Instant) -> bool {
        self.idle.take(now)
    }

    /// A request was reset before its answer began. False: there were too many.
    pub(in super::super) fn early_reset(&mut self, now: impl FnOnce() -> Instant) -> bool {
        self.resets.take(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_allowance_ends_and_fills_up_with_time_and_use() {
        let (mut calm, begin) = (Calm::new(), Instant::now());
        assert!((0..IDLE_FRAMES).all(|_| calm.idle_frame(|| begin)));
        assert!(!calm.idle_frame(|| begin));
        calm.useful();
        assert!((0..WORTH).all(|_| calm.idle_frame(|| begin)));
        assert!(!calm.idle_frame(|| begin));
        let later = begin + REFILL / 2;
        assert!((0..IDLE_FRAMES / 2).all(|_| calm.idle_frame(|| later)));
        assert!(!calm.idle_frame(|| later));
        assert!((0..EARLY_RESETS).all(|_| calm.early_reset(|| begin)));
        assert!(!calm.early_reset(|| begin));
    }
}
