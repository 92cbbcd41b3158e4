//! Tokens of a global limit that a proxy holds, so that it need not ask for each request: what both sides of a loan go by.
//!
//! All that is lent of one key at one time is no more than the tokens of [`LENT_TIME`], or one token a proxy where that is more. This is
//! what a limit may be passed by; every token that is lent was taken from the one bucket.

use std::time::Duration;

/// So much of a limit's rate is lent at once: a tenth of what it lets through in a second.
pub const LENT_TIME: Duration = Duration::from_millis(100);
/// How long a token may be spent after it was lent. What is left then goes back.
pub const LEASE_TIME: Duration = Duration::from_secs(1);

/// How many tokens a proxy wants to have of a key: enough for [`LENT_TIME`] at the pace of the last requests, and for all that wait.
/// `seen`: requests since it asked last, `since` then.
#[must_use]
pub fn wanted(seen: u64, since: Duration, waiting: u64) -> u64 {
    let since = since.max(SHORTEST_LOOK).as_nanos();
    let ahead = u128::from(seen) * LENT_TIME.as_nanos() / since;
    u64::try_from(ahead).unwrap_or(u64::MAX).max(waiting)
}

/// Of a shorter time no pace is made.
const SHORTEST_LOOK: Duration = Duration::from_millis(10);

/// Whether it is time to ask for more: half of what was lent last is spent.
#[must_use]
pub const fn asks_again(held: u64, lent: u64) -> bool {
    held <= lent / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wanted_follows_the_pace() {
        assert_eq!(wanted(100, Duration::from_secs(1), 0), 10);
        assert_eq!(wanted(100, Duration::from_millis(50), 0), 200);
        assert_eq!(wanted(1, Duration::from_secs(60), 1), 1);
        assert_eq!(wanted(1, Duration::ZERO, 0), 10);
        assert!(asks_again(5, 10) && !asks_again(6, 10) && asks_again(0, 1));
    }
}
