//! Who gets how many of a limit's tokens: a state machine without clock or I/O. Times are nanoseconds since any moment that stays the same.
//!
//! Of each key there is one bucket. What is lent is taken from it at once, so that no more is ever lent than the limit lets through; and of
//! what is lent and perhaps not spent, there is never more than [`lease::LENT_TIME`] brings, or one token for each proxy that asks.

use std::collections::{BTreeMap, HashMap};

use lorica_model::name::WorkloadName;
use lorica_model::snapshot::{Rate, lease};
use lorica_xds::rate_limit::{Ask, Descriptor};

/// The most buckets. Past it, a limit's new keys share one.
pub const MAX_BUCKETS: usize = 100_000;
/// How often full buckets, of which nothing need be remembered, are looked for when there are too many, in nanoseconds.
const SWEEP: u64 = 1_000_000_000;
/// For how long a proxy counts among those that share a limit after it asked last, in nanoseconds.
const ASKING: u64 = 60_000_000_000;
/// After what time it is worth to ask again where others hold what there is, in nanoseconds.
const AGAIN: u64 = 10_000_000;

/// The tokens of all limits.
#[derive(Debug, Default)]
pub struct Allocator {
    buckets: HashMap<Descriptor, Bucket>,
    /// Which proxies asked for a limit, and when last.
    asking: HashMap<String, BTreeMap<WorkloadName, u64>>,
    swept: u64,
}

/// The tokens of one key.
#[derive(Debug)]
struct Bucket {
    rate: Rate,
    /// When it is full again.
    full: u64,
    lent: BTreeMap<WorkloadName, Holding>,
}

/// What a proxy may still spend.
#[derive(Debug, Clone, Copy)]
struct Holding {
    tokens: u64,
    until: u64,
}

/// What was lent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lent {
    /// So many tokens more.
    pub tokens: u64,
    /// After what time it is worth to ask again, in nanoseconds, where there was none.
    pub wait: u64,
    /// How many proxies share the limit.
    pub proxies: u32,
}

impl Allocator {
    /// Takes `hits` tokens of a key: how many are left.
    ///
    /// # Errors
    /// How long until there are as many, in nanoseconds.
    pub fn take(&mut self, of: &Descriptor, rate: Rate, hits: u64, now: u64) -> Result<u64, u64> {
        let bucket = self.bucket(of, rate, now);
        bucket.full = rate.take(bucket.full, hits, now)?;
        Ok(rate.available(bucket.full, now))
    }

    /// Lends tokens of a key to a proxy.
    pub fn lend(&mut self, proxy: &WorkloadName, ask: &Ask, rate: Rate, now: u64) -> Lent {
        let asking = self.asking.entry(ask.of.limit.clone()).or_default();
        asking.retain(|_, last| now.saturating_sub(*last) < ASKING);
        asking.insert(proxy.clone(), now);
        let proxies = u32::try_from(asking.len()).unwrap_or(u32::MAX);
        let (tokens, wait) = self.bucket(&ask.of, rate, now).lend(proxy, ask, now);
        Lent { tokens, wait, proxies }
    }

    /// How many tokens of a key are lent, and perhaps not spent.
    #[must_use]
    pub fn outstanding(&self, of: &Descriptor, now: u64) -> u64 {
        self.buckets.get(of).map_or(0, |bucket| bucket.outstanding(now))
    }

    fn bucket(&mut self, of: &Descriptor, rate: Rate, now: u64) -> &mut Bucket {
        let known = self.buckets.contains_key(of);
        if !known && self.buckets.len() >= MAX_BUCKETS && now.saturating_sub(self.swept) >= SWEEP {
            self.swept = now;
            self.buckets.retain(|_, bucket| !bucket.is_forgettable(now));
            self.asking.retain(|_, asking| asking.values().any(|last| now.saturating_sub(*last) < ASKING));
        }
        // Requests of keys for which there is no room count together, rather than not at all.
        let of =
            if known || self.buckets.len() < MAX_BUCKETS { of.clone() } else { Descriptor { limit: of.limit.clone(), key: Vec::new() } };
        let bucket = self.buckets.entry(of).or_insert_with(|| Bucket { rate, full: 0, lent: BTreeMap::new() });
        if bucket.rate != rate {
            // A limit that changed begins anew.
            (bucket.rate, bucket.full) = (rate, 0);
        }
        bucket
    }
}

impl Bucket {
    fn lend(&mut self, proxy: &WorkloadName, ask: &Ask, now: u64) -> (u64, u64) {
        let lease = nanoseconds(lease::LEASE_TIME);
        // What ran out stays known for as long again: what was not spent of it may still come back.
        self.lent.retain(|_, holding| holding.until.saturating_add(lease) > now);
        let own = self.lent.remove(proxy).map_or(0, |holding| holding.tokens);
        let returned = ask.returned.min(own);
        self.full = self.rate.give_back(self.full, returned);
        let held = ask.held.min(own - returned);
        let others = self.outstanding(now);
        let holders = 1 + self.lent.values().filter(|holding| holding.until > now).count() as u64;
        let most = self.rate.in_time(lease::LENT_TIME).max(holders);
        let share = most.div_ceil(holders);
        let available = self.rate.available(self.full, now);
        let wanted = ask.wanted.saturating_sub(held);
        let room = share.min(most.saturating_sub(others)).saturating_sub(held);
        let mut tokens = wanted.min(room).min(available);
        match self.rate.take(self.full, tokens, now) {
            Ok(full) => self.full = full,
            Err(_) => tokens = 0,
        }
        // A proxy that wants something counts among those that share, whether it got something or not.
        if ask.wanted > 0 || held > 0 {
            self.lent.insert(proxy.clone(), Holding { tokens: held + tokens, until: now.saturating_add(lease) });
        }
        let wait = match self.rate.take(self.full, 1, now) {
            _ if tokens > 0 || wanted == 0 => 0,
            Ok(_) => AGAIN,
            Err(wait) => wait.max(AGAIN),
        };
        (tokens, wait)
    }

    fn outstanding(&self, now: u64) -> u64 {
        self.lent.values().filter(|holding| holding.until > now).map(|holding| holding.tokens).sum()
    }

    /// Whether nothing is known of it but that it is full.
    fn is_forgettable(&self, now: u64) -> bool {
        self.full <= now && self.lent.values().all(|holding| holding.until.saturating_add(nanoseconds(lease::LEASE_TIME)) <= now)
    }
}

fn nanoseconds(time: std::time::Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::time::Duration;

    const SECOND: u64 = 1_000_000_000;

    fn key(value: usize) -> Descriptor {
        Descriptor { limit: "p.n/l".to_owned(), key: vec![("path".to_owned(), value.to_string())] }
    }

    fn ask(wanted: u64, held: u64, returned: u64) -> Ask {
        Ask { of: key(0), wanted, held, returned }
    }

    fn proxy(number: usize) -> WorkloadName {
        format!("a-{number}.n").parse().unwrap()
    }

    fn rate() -> Rate {
        Rate::new(100, Duration::from_secs(1), 100)
    }

    #[test]
    fn no_more_is_lent_than_a_tenth_of_a_second() {
        let mut allocator = Allocator::default();
        let mut lend = |number, ask: &Ask, now| allocator.lend(&proxy(number), ask, rate(), now);
        assert_eq!(lend(1, &ask(1000, 0, 0), 0), Lent { tokens: 10, wait: 0, proxies: 1 });
        // All that may be lent is lent.
        assert_eq!(lend(2, &ask(1, 0, 0), 1), Lent { tokens: 0, wait: AGAIN, proxies: 2 });
        // The first has spent all but two: as much as is its share of two.
        assert_eq!(lend(1, &ask(1000, 2, 0), 2).tokens, 3);
        assert_eq!(lend(2, &ask(1000, 0, 0), 3).tokens, 5);
        assert_eq!(allocator.outstanding(&key(0), 3), 10);
        // What is not renewed runs out.
        assert_eq!(allocator.outstanding(&key(0), 2 + SECOND), 5);
    }

    #[test]
    fn what_comes_back_is_lent_again() {
        let slow = Rate::new(1, Duration::from_secs(3600), 3);
        let mut allocator = Allocator::default();
        let mut lend = |number, ask: &Ask, now| allocator.lend(&proxy(number), ask, slow, now).tokens;
        assert_eq!(
            [lend(1, &ask(1, 0, 0), 0), lend(2, &ask(1, 0, 0), 0), lend(3, &ask(1, 0, 0), 0), lend(4, &ask(1, 0, 0), 0)],
            [1, 1, 1, 0]
        );
        assert_eq!(lend(1, &ask(0, 0, 1), SECOND), 0);
        assert_eq!(lend(4, &ask(1, 0, 0), SECOND), 1);
        // Nobody can give back what was not lent to it.
        assert_eq!(lend(4, &ask(1, 0, 9), SECOND), 1);
        assert_eq!(lend(1, &ask(1, 0, 9), SECOND), 0);
    }

    #[test]
    fn who_is_refused_is_told_until_when() {
        let mut allocator = Allocator::default();
        let slow = Rate::new(1, Duration::from_secs(10), 1);
        assert_eq!(allocator.take(&key(0), slow, 1, 0), Ok(0));
        assert_eq!(allocator.take(&key(0), slow, 1, SECOND), Err(9 * SECOND));
        assert_eq!(allocator.lend(&proxy(1), &ask(1, 0, 0), slow, SECOND).wait, 9 * SECOND);
        // A limit that is changed begins anew.
        assert_eq!(allocator.take(&key(0), Rate::new(2, Duration::from_secs(10), 1), 1, SECOND), Ok(0));
    }

    #[test]
    fn keys_past_the_bound_count_together() {
        let mut allocator = Allocator::default();
        let once = Rate::new(1, Duration::from_secs(10), 1);
        for number in 0..MAX_BUCKETS {
            assert_eq!(allocator.take(&key(number), once, 1, 0), Ok(0));
        }
        assert_eq!(allocator.take(&key(MAX_BUCKETS), once, 1, 2 * SECOND), Ok(0));
        allocator.take(&key(MAX_BUCKETS + 1), once, 1, 2 * SECOND).unwrap_err();
        assert_eq!(allocator.buckets.len(), MAX_BUCKETS + 1);
        // Full buckets are forgotten once there is need.
        assert_eq!(allocator.take(&key(MAX_BUCKETS + 2), once, 1, 20 * SECOND), Ok(0));
        assert_eq!(allocator.buckets.len(), 1);
    }
}
