//! How long an upstream leaves an idle connection open, as far as this proxy has learned. Pure: time is passed in.
//!
//! In: what answers announce (`Keep-Alive: timeout=N`), the ages at which idle connections were seen closed, and those at which they were seen
//! open. Out: up to which age one may serve another request.
//!
//! - A close counts at once where it is earlier than any known; what is known counts for [`KEPT`] after it was last seen. Pools leave a few
//!   connections open that are too old to be used, so that it is seen again and again.
//! - An upstream that restarts closes connections of any age, which is no timeout. One seen open at more than twice such an age and a
//!   second tells; so much more, as some servers look for idle connections only each second, and close them that much later.
//! - Where nothing is known yet, an age is safe only if connections were seen to outlive it.
//! - The rest is margin, for what lies between the upstream's clock and ours: the way of the answer, and of the next request.

use std::time::{Duration, Instant};

/// Up to which age a connection may be used of whose upstream nothing is known.
const UNKNOWN: Duration = Duration::from_millis(500);
/// Up to which age a connection may always be used: no idle timeout is that short, and a restart must not make every request connect anew.
pub const ALWAYS: Duration = Duration::from_millis(100);
/// The least margin before the close that is expected; from four times this on it is a quarter of the age.
const MARGIN: Duration = Duration::from_millis(200);
/// How often servers that do not time each connection look for idle ones.
const LOOKED: Duration = Duration::from_secs(1);
/// How long something learned counts after it was last seen.
const KEPT: Duration = Duration::from_secs(600);

/// What is known of one upstream.
#[derive(Debug, Default)]
pub struct Lifetime {
    /// The newest that it announced.
    announced: Option<Learned>,
    /// The least age of a close.
    closed: Option<Learned>,
    /// The greatest age of an open one.
    open: Option<Learned>,
}

#[derive(Debug, Clone, Copy)]
struct Learned {
    age: Duration,
    seen: Instant,
}

impl Lifetime {
    /// Up to which age an idle connection may serve another request, where the policy allows `most`.
    #[must_use]
    pub fn reusable(&self, most: Duration) -> Duration {
        let close = [self.announced, self.closed].into_iter().flatten().map(|learned| learned.age).min();
        let safe = match (close, self.open) {
            (Some(age), _) => before(age),
            (None, Some(open)) => before(open.age).max(UNKNOWN),
            (None, None) => UNKNOWN,
        };
        safe.min(most)
    }

    /// Up to which age one is left open to see when it is closed, where the policy allows `most`: so long that [`Self::reusable`] can become
    /// `most`, and that a restart tells itself from a timeout.
    #[must_use]
    pub fn watched(most: Duration) -> Duration {
        (most + most / 3).max(LOOKED * 3 / 2)
    }

    /// An answer announced that the connection stays open for `timeout` when idle.
    pub fn announced(&mut self, timeout: Duration, now: Instant) {
        self.announced = Some(Learned { age: timeout, seen: now });
    }

    /// An idle connection was closed by the upstream at this `age`.
    pub fn closed(&mut self, age: Duration, now: Instant) {
        match &mut self.closed {
            Some(known) if age >= known.age => {
                // The same again, as far as clocks and schedulers can tell.
                if age <= known.age * 3 / 2 {
                    known.seen = now;
                }
            }
            known => *known = Some(Learned { age, seen: now }),
        }
        if let Some(open) = self.open.as_mut().filter(|open| open.age > age) {
            open.age = age;
        }
    }

    /// An idle connection is still open at this `age`.
    pub fn open(&mut self, age: Duration, now: Instant) {
        if self.open.is_none_or(|open| age >= open.age) {
            self.open = Some(Learned { age, seen: now });
        }
        if self.closed.is_some_and(|closed| age > closed.age * 2 + LOOKED) {
            self.closed = None;
        }
    }

    /// Forgets what has not been seen for long.
    pub fn forget(&mut self, now: Instant) {
        for learned in [&mut self.announced, &mut self.closed, &mut self.open] {
            if learned.is_some_and(|learned| now.saturating_duration_since(learned.seen) >= KEPT) {
                *learned = None;
            }
        }
    }

    /// Whether nothing is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.announced.is_none() && self.closed.is_none() && self.open.is_none()
    }
}

/// An age that is surely before a close at `age`.
fn before(age: Duration) -> Duration {
    age.saturating_sub(MARGIN.max(age / 4)).max(ALWAYS)
}

/// What the field `Keep-Alive` of an answer announces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct KeepAlive {
    /// How long the connection stays open when idle.
    pub timeout: Option<Duration>,
    /// How many more requests it takes.
    pub max: Option<u32>,
}

impl KeepAlive {
    /// Reads `timeout=5, max=100`; what is none of these, or no number, says nothing.
    #[must_use]
    pub fn read(value: &[u8]) -> Self {
        let mut read = Self::default();
        for part in std::str::from_utf8(value).unwrap_or_default().split(',') {
            let Some((name, number)) = part.split_once('=') else { continue };
            let Ok(number) = number.trim().trim_matches('"').parse::<u32>() else { continue };
            match name.trim() {
                name if name.eq_ignore_ascii_case("timeout") => read.timeout = Some(Duration::from_secs(number.into())),
                name if name.eq_ignore_ascii_case("max") => read.max = Some(number),
                _ => {}
            }
        }
        read
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: Duration = Duration::from_secs(3);

    fn milliseconds(number: u64) -> Duration {
        Duration::from_millis(number)
    }

    /// What may be used after these closes.
    fn after(closes: &[u64]) -> Duration {
        let (mut lifetime, now) = (Lifetime::default(), Instant::now());
        closes.iter().for_each(|age| lifetime.closed(milliseconds(*age), now));
        lifetime.reusable(MOST)
    }

    #[test]
    fn the_earliest_close_counts_with_a_margin() {
        for (closes, reusable) in [
            (&[][..], 500),
            (&[5000], 3000),
            (&[1000], 750),
            (&[1000, 1400, 2000], 750),
            (&[2000, 1000], 750),
            (&[400], 200),
            (&[1], 100),
            (&[0], 100),
        ] {
            assert_eq!(after(closes), milliseconds(reusable), "{closes:?}");
        }
    }

    #[test]
    fn what_answers_announce_counts_until_it_turns_out_less() {
        let (mut lifetime, now) = (Lifetime::default(), Instant::now());
        lifetime.announced(Duration::from_secs(2), now);
        assert_eq!(lifetime.reusable(MOST), milliseconds(1500));
        lifetime.announced(Duration::from_secs(60), now);
        assert_eq!(lifetime.reusable(MOST), MOST, "the newest counts, and the policy");
        lifetime.closed(Duration::from_secs(1), now);
        assert_eq!(lifetime.reusable(MOST), milliseconds(750));
        lifetime.announced(Duration::ZERO, now);
        assert_eq!(lifetime.reusable(MOST), ALWAYS);
        assert_eq!(lifetime.reusable(milliseconds(50)), milliseconds(50), "never more than the policy");
    }

    #[test]
    fn what_is_not_known_is_found_out_by_watching() {
        let (mut lifetime, now) = (Lifetime::default(), Instant::now());
        for (age, reusable) in [(100, 500), (800, 600), (2000, 1500), (1000, 1500)] {
            lifetime.open(milliseconds(age), now);
            assert_eq!(lifetime.reusable(MOST), milliseconds(reusable), "{age}");
        }
        lifetime.open(Lifetime::watched(MOST), now);
        assert_eq!(lifetime.reusable(MOST), MOST);
        // What was seen open says nothing any more once one was closed.
        lifetime.closed(milliseconds(1000), now);
        lifetime.forget(now + KEPT / 2);
        assert_eq!(lifetime.reusable(MOST), milliseconds(750));
    }

    #[test]
    fn whatever_the_policy_allows_can_be_reached() {
        for most in [1, 100, 600, 3000, 60_000, 3_600_000].map(milliseconds) {
            let mut lifetime = Lifetime::default();
            lifetime.open(Lifetime::watched(most), Instant::now());
            assert_eq!(lifetime.reusable(most), most);
        }
    }

    #[test]
    fn a_restart_is_no_timeout() {
        let (mut lifetime, now) = (Lifetime::default(), Instant::now());
        for age in [2900, 1500, 700, 3] {
            lifetime.closed(milliseconds(age), now);
        }
        assert_eq!(lifetime.reusable(MOST), ALWAYS);
        lifetime.open(milliseconds(400), now + milliseconds(400));
        assert_eq!(lifetime.reusable(MOST), ALWAYS, "too early to tell");
        lifetime.open(milliseconds(1100), now + milliseconds(1100));
        assert_eq!(lifetime.reusable(MOST), milliseconds(825));
    }

    #[test]
    fn a_server_that_looks_each_second_keeps_its_least() {
        // A timeout of one second, looked at each second.
        let (mut lifetime, start) = (Lifetime::default(), Instant::now());
        let mut state: u64 = 7;
        for second in 0..3600u32 {
            let now = start + Duration::from_secs(second.into());
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let age = 1000 + (state >> 33) % 1000;
            lifetime.open(milliseconds(age - 1), now);
            lifetime.closed(milliseconds(age), now);
            lifetime.forget(now);
            if second > 60 {
                assert!(lifetime.reusable(MOST) <= milliseconds(1000), "{second}");
            }
        }
    }

    #[test]
    fn what_is_not_seen_again_is_forgotten() {
        let (mut lifetime, now) = (Lifetime::default(), Instant::now());
        lifetime.closed(milliseconds(1000), now);
        lifetime.closed(milliseconds(1400), now + KEPT / 2);
        lifetime.forget(now + KEPT);
        assert_eq!(lifetime.reusable(MOST), milliseconds(750), "it was seen again");
        lifetime.closed(milliseconds(2000), now + KEPT);
        lifetime.forget(now + KEPT * 2);
        assert!(lifetime.is_empty());
        assert_eq!(lifetime.reusable(MOST), UNKNOWN);
    }

    #[test]
    fn keep_alive_is_read_as_servers_write_it() {
        let read = |value: &str| {
            let KeepAlive { timeout, max } = KeepAlive::read(value.as_bytes());
            (timeout.map(|timeout| timeout.as_secs()), max)
        };
        assert_eq!(read("timeout=5"), (Some(5), None));
        assert_eq!(read("timeout=15, max=100"), (Some(15), Some(100)));
        assert_eq!(read("Max = 0 ,TIMEOUT=\"2\""), (Some(2), Some(0)));
        assert_eq!(read("timeout=-1, max=1x, timeout"), (None, None));
        assert_eq!(read("timeout=99999999999999999999"), (None, None));
        assert_eq!(KeepAlive::read(b"\xff=1"), KeepAlive::default());
    }
}
