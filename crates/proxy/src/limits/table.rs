//! What is remembered of the keys of a limit: a table of fixed size, shared by all workers, without a lock. A key has one of a few places; one
//! whose bucket is full, or that has nothing under way, needs none. Where all of its places are taken, a key counts together with others.

use std::sync::atomic::{AtomicU64, Ordering};

use lorica_model::snapshot::Rate;

/// How many places a key may have.
const WAYS: usize = 8;
/// How many such sets of places there are: 10,240 places, 160 KiB for a limit of rates.
const SETS: usize = 1280;

/// The buckets of a limit's keys.
#[derive(Debug)]
pub(super) struct Rates {
    rate: Rate,
    places: Box<[Place]>,
    /// The bucket of keys without a place; of a limit without a key the only one.
    rest: AtomicU64,
}

/// A place: whose it is, and when that one's bucket is full again.
#[derive(Debug, Default)]
struct Place {
    owner: AtomicU64,
    full: AtomicU64,
}

/// A token that was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Token {
    key: u64,
    /// Whether the key had a place of its own.
    pub(super) apart: bool,
}

impl Rates {
    /// Full buckets, for keys or for all requests together.
    #[must_use]
    pub(super) fn new(rate: Rate, keyed: bool) -> Self {
        let places = if keyed { WAYS * SETS } else { 0 };
        Self { rate, places: (0..places).map(|_| Place::default()).collect(), rest: AtomicU64::new(0) }
    }

    /// The rate.
    #[must_use]
    pub(super) fn rate(&self) -> Rate {
        self.rate
    }

    /// Takes a token of a key at `now`, in nanoseconds since any moment that stays the same; `rate` is the limit's, or a share of it.
    ///
    /// # Errors
    /// How long until there is one, in nanoseconds.
    pub(super) fn take(&self, key: u64, rate: Rate, now: u64) -> Result<Token, u64> {
        let (full, apart) = self.bucket(key, now);
        let mut known = full.load(Ordering::Relaxed);
        loop {
            let after = rate.take(known, 1, now)?;
            match full.compare_exchange_weak(known, after, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Ok(Token { key, apart }),
                Err(other) => known = other,
            }
        }
    }

    /// Gives a token back.
    pub(super) fn give_back(&self, token: Token) {
        let own = || self.set(token.key).iter().find(|place| place.owner.load(Ordering::Relaxed) == token.key);
        let full = if token.apart && !self.places.is_empty() { own().map(|place| &place.full) } else { Some(&self.rest) };
        if let Some(full) = full {
            // Never fails: there is always a value.
            let _: Result<u64, u64> = full.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |full| Some(self.rate.give_back(full, 1)));
        }
    }

    fn set(&self, key: u64) -> &[Place] {
        set(&self.places, key)
    }

    fn bucket(&self, key: u64, now: u64) -> (&AtomicU64, bool) {
        let places = self.set(key);
        let own = || places.iter().find(|place| place.owner.load(Ordering::SeqCst) == key);
        if let Some(own) = own() {
            return (&own.full, true);
        }
        for place in places {
            let owner = place.owner.load(Ordering::SeqCst);
            // Of a full bucket nothing need be remembered. Whoever takes from it at this very moment does so for the new owner.
            let free = owner != key && place.full.load(Ordering::Relaxed) <= now;
            if owner == key || (free && place.owner.compare_exchange(owner, key, Ordering::SeqCst, Ordering::SeqCst).is_ok()) {
                // Another worker may have taken another place for the key meanwhile: the first of them is the key's.
                return (&own().unwrap_or(place).full, true);
            }
            if place.owner.load(Ordering::SeqCst) == key {
                return (&place.full, true);
            }
        }
        (&self.rest, self.places.is_empty())
    }
}

/// How much is under way of each of a limit's keys.
#[derive(Debug)]
pub(super) struct Counts {
    /// In one word, so that nothing can come between: whose it is, and how much is under way.
    places: Box<[AtomicU64]>,
    rest: AtomicU64,
}

/// The bits of a word that count: more than a limit may say.
const COUNT_BITS: u32 = 24;
const COUNT: u64 = (1 << COUNT_BITS) - 1;

/// Where something under way was counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Slot {
    /// None: among the rest.
    place: Option<usize>,
    /// Whether the key had a place of its own.
    pub(super) apart: bool,
}

impl Counts {
    /// Nothing under way, for keys or for all requests together.
    #[must_use]
    pub(super) fn new(keyed: bool) -> Self {
        let places = if keyed { WAYS * SETS } else { 0 };
        Self { places: (0..places).map(|_| AtomicU64::new(0)).collect(), rest: AtomicU64::new(0) }
    }

    /// Counts one more of a key, unless `most` are under way.
    #[must_use]
    pub(super) fn take(&self, key: u64, most: u32) -> Option<Slot> {
        let most = u64::from(most).min(COUNT);
        let owner = (key << COUNT_BITS) | 1 << (u64::BITS - 1);
        let first = first(&self.places, key);
        let places = set(&self.places, key);
        'again: loop {
            let own = places.iter().enumerate().find(|(_, place)| place.load(Ordering::Relaxed) & !COUNT == owner);
            let unused = || places.iter().enumerate().find(|(_, place)| place.load(Ordering::Relaxed) & COUNT == 0);
            let Some((index, place)) = own.or_else(unused) else { break };
            let mut known = place.load(Ordering::Relaxed);
            loop {
                let count = if known & !COUNT == owner { known & COUNT } else { 0 };
                if known & !COUNT != owner && known & COUNT != 0 {
                    // Somebody else has it by now.
                    continue 'again;
                }
                if count >= most {
                    return None;
                }
                match place.compare_exchange_weak(known, owner | (count + 1), Ordering::Relaxed, Ordering::Relaxed) {
                    Ok(_) => return Some(Slot { place: Some(first + index), apart: true }),
                    Err(other) => known = other,
                }
            }
        }
        let taken = self.rest.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| (count < most).then_some(count + 1));
        taken.ok().map(|_| Slot { place: None, apart: self.places.is_empty() })
    }

    /// One of them is over.
    pub(super) fn give_back(&self, slot: Slot) {
        match slot.place {
            Some(index) => self.places.get(index).map(|place| place.fetch_sub(1, Ordering::Relaxed)),
            None => Some(self.rest.fetch_sub(1, Ordering::Relaxed)),
        };
    }
}

fn first<T>(places: &[T], key: u64) -> usize {
    if places.is_empty() { 0 } else { usize::try_from(key % SETS as u64).unwrap_or(0) * WAYS }
}

fn set<T>(places: &[T], key: u64) -> &[T] {
    let first = first(places, key);
    places.get(first..first + WAYS).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::HashSet;
    use std::time::Duration;

    use super::*;

    fn rates(keyed: bool) -> Rates {
        Rates::new(Rate::new(10, Duration::from_secs(1), 2), keyed)
    }

    /// Keys that have the same places.
    fn alike(number: usize) -> impl Iterator<Item = u64> {
        (1..=number as u64).map(|index| index * SETS as u64)
    }

    #[test]
    fn keys_count_apart_as_long_as_there_is_room() {
        let table = rates(true);
        let take = |key, now| table.take(key, table.rate(), now).map(|token| token.apart);
        for key in alike(WAYS) {
            assert_eq!([take(key, 0), take(key, 0), take(key, 0)], [Ok(true), Ok(true), Err(100_000_000)]);
        }
        // Two more keys have one bucket.
        let more: Vec<u64> = alike(WAYS + 2).skip(WAYS).collect();
        assert_eq!([take(more[0], 0), take(more[1], 0), take(more[0], 0)], [Ok(false), Ok(false), Err(100_000_000)]);
        // Once buckets are full again, there is room.
        assert_eq!(take(more[1], 200_000_000), Ok(true));
    }

    #[test]
    fn what_is_given_back_can_be_taken() {
        for keyed in [true, false] {
            let table = rates(keyed);
            let token = table.take(7, table.rate(), 0).unwrap();
            table.take(7, table.rate(), 0).unwrap();
            table.take(7, table.rate(), 0).unwrap_err();
            table.give_back(token);
            table.take(7, table.rate(), 0).unwrap();
        }
    }

    #[test]
    fn no_more_is_under_way_than_may_be() {
        let counts = Counts::new(true);
        let slots: Vec<Slot> = alike(WAYS).map(|key| counts.take(key, 1).unwrap()).collect();
        assert_eq!(slots.iter().map(|slot| slot.place).collect::<HashSet<_>>().len(), WAYS);
        assert_eq!(counts.take(alike(1).next().unwrap(), 1), None);
        let more: Vec<u64> = alike(WAYS + 2).skip(WAYS).collect();
        let rest = counts.take(more[0], 1).unwrap();
        assert!(!rest.apart && counts.take(more[1], 1).is_none());
        counts.give_back(rest);
        counts.give_back(slots[3]);
        assert!(counts.take(more[1], 1).is_some_and(|slot| slot.apart));
        assert!(Counts::new(false).take(0, 1).is_some_and(|slot| slot.apart));
    }

    #[test]
    fn workers_that_take_at_once_take_no_more_than_there_is() {
        let (table, counts) = (rates(true), Counts::new(true));
        let taken: usize = std::thread::scope(|scope| {
            let work = || {
                let keys = || (0..200_u64).flat_map(|round| (1..50).map(move |key| (key, round)));
                let tokens = keys().filter(|(key, _)| table.take(*key, table.rate(), 0).is_ok()).count();
                for (key, _) in keys() {
                    if let Some(slot) = counts.take(key, 1) {
                        counts.give_back(slot);
                    }
                }
                tokens
            };
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(work)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(taken, 49 * 2);
        assert!(counts.places.iter().all(|place| place.load(Ordering::Relaxed) & COUNT == 0));
    }
}
