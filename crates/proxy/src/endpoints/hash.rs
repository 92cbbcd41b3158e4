//! The tables by which a request's hash finds its endpoint: a ring, or Maglev's. Both hold what Envoy's hold for the same endpoints, so that
//! callers behind either proxy reach the same one. Made when endpoints or their health change, never for a request.

use std::net::SocketAddr;

use lorica_model::xxh64::xxh64;

/// The most places on a ring: Envoy's default bound. Endpoints of very unequal weight would need more.
const LARGEST_RING: f64 = 8_388_608.0;
/// The largest table of Maglev that Envoy takes.
const LARGEST_TABLE: u64 = 5_000_011;

/// A host as tables know it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Host {
    /// Its index among the endpoints of its set.
    pub(super) index: u32,
    /// Its address: what is hashed of it.
    pub(super) address: SocketAddr,
    /// Its weight.
    pub(super) weight: u32,
}

/// Which endpoint takes which hash.
#[derive(Debug)]
pub(super) enum Table {
    /// Places on a ring, by hash: the first one from the request's hash on takes it.
    Ring(Vec<(u64, u32)>),
    /// Places of a table: the hash's remainder by its length takes it.
    Maglev(Vec<u32>),
}

impl Table {
    /// A ring of at least `minimum_size` places: each host has a share of them that follows its weight, and the lightest a whole number.
    #[must_use]
    #[allow(clippy::cast_precision_loss, reason = "far below what a float holds exactly")]
    pub(super) fn ring(hosts: &[Host], minimum_size: u32) -> Self {
        let sum: f64 = hosts.iter().map(|host| f64::from(host.weight)).sum();
        let lightest = hosts.iter().map(|host| f64::from(host.weight) / sum).fold(1.0, f64::min);
        let scale = ((lightest * f64::from(minimum_size)).ceil() / lightest).min(LARGEST_RING);
        let mut ring = Vec::new();
        let mut due = 0.0;
        for host in hosts {
            due += scale * (f64::from(host.weight) / sum);
            let mut place = 0u32;
            while (ring.len() as f64) < due {
                ring.push((xxh64(format!("{}_{place}", host.address).as_bytes(), 0), host.index));
                place += 1;
            }
        }
        ring.sort_by_key(|(hash, _)| *hash);
        Self::Ring(ring)
    }

    /// Maglev's table of `size` places: hosts take turns, heavier ones more often, each in an order of its own. A size that is no prime is
    /// raised to the next one, as the orders would not reach every place.
    #[must_use]
    #[allow(clippy::cast_precision_loss, reason = "far below what a float holds exactly")]
    pub(super) fn maglev(hosts: &[Host], size: u32) -> Self {
        struct Turn {
            index: u32,
            offset: u64,
            skip: u64,
            weight: f64,
            due: f64,
            next: u64,
        }
        let size = prime(u64::from(size).min(LARGEST_TABLE));
        let sum: f64 = hosts.iter().map(|host| f64::from(host.weight)).sum();
        let heaviest = hosts.iter().map(|host| f64::from(host.weight) / sum).fold(0.0, f64::max);
        let mut named: Vec<(String, &Host)> = hosts.iter().map(|host| (host.address.to_string(), host)).collect();
        named.sort_by(|(one, _), (other, _)| one.cmp(other));
        let turn = |(name, host): (String, &Host)| Turn {
            index: host.index,
            offset: xxh64(name.as_bytes(), 0) % size,
            skip: xxh64(name.as_bytes(), 1) % (size - 1) + 1,
            weight: f64::from(host.weight) / sum,
            due: 0.0,
            next: 0,
        };
        let mut turns: Vec<Turn> = named.into_iter().map(turn).collect();
        let mut table: Vec<Option<u32>> = vec![None; usize::try_from(size).unwrap_or_default()];
        let mut left = if turns.is_empty() { 0 } else { table.len() };
        let mut round = 0.0;
        while left > 0 {
            round += 1.0;
            for turn in &mut turns {
                if left == 0 || round * turn.weight < turn.due {
                    continue;
                }
                turn.due += heaviest;
                let free = loop {
                    let place = (turn.offset + turn.skip * turn.next) % size;
                    turn.next += 1;
                    match usize::try_from(place).ok().and_then(|place| table.get_mut(place)) {
                        Some(place @ None) => break place,
                        _ => {}
                    }
                };
                *free = Some(turn.index);
                left -= 1;
            }
        }
        Self::Maglev(table.into_iter().flatten().collect())
    }

    /// The host that takes a hash; for later attempts, probably another one: `attempt` 0 is the first.
    #[must_use]
    pub(super) fn host(&self, hash: u64, attempt: u32) -> Option<u32> {
        match self {
            Self::Ring(ring) => {
                let place = ring.partition_point(|(place, _)| *place < hash);
                let place = if place == ring.len() { 0 } else { place };
                ring.get((place + attempt as usize).checked_rem(ring.len())?).map(|(_, host)| *host)
            }
            Self::Maglev(table) => {
                // Most bits turn, so that the attempts of requests with one host part.
                let hash = hash ^ u64::from(attempt).wrapping_neg();
                let place = hash.checked_rem(table.len() as u64)?;
                table.get(usize::try_from(place).ok()?).copied()
            }
        }
    }
}

/// The first prime from `least` on; 3 at least, so that there is a way to skip.
fn prime(least: u64) -> u64 {
    let is_prime = |number: u64| (2..).take_while(|divisor| divisor * divisor <= number).all(|divisor| number % divisor != 0);
    (least.max(3)..).find(|number| is_prime(*number)).unwrap_or(LARGEST_TABLE)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::cast_possible_truncation, clippy::cast_precision_loss)]
    use super::*;
    use std::collections::BTreeMap;

    const KEYS: u64 = 20_000;

    fn hosts(weights: &[u32]) -> Vec<Host> {
        let host = |(index, weight): (usize, &u32)| Host {
            index: index as u32,
            address: ([10, 0, 0, index as u8 + 1], 8080).into(),
            weight: *weight,
        };
        weights.iter().enumerate().map(host).collect()
    }

    fn key(number: u64) -> u64 {
        xxh64(&number.to_le_bytes(), 0)
    }

    fn counts(table: &Table) -> BTreeMap<u32, u64> {
        let mut counts = BTreeMap::new();
        (0..KEYS).for_each(|number| *counts.entry(table.host(key(number), 0).unwrap()).or_default() += 1);
        counts
    }

    /// The share of keys that go elsewhere when the third of ten hosts goes, of those that were not its own.
    fn moved(make: impl Fn(&[Host]) -> Table) -> f64 {
        let all = hosts(&[1; 10]);
        let (before, after) = (make(&all), make(&[&all[..2], &all[3..]].concat()));
        let stayed: Vec<u64> = (0..KEYS).filter(|number| before.host(key(*number), 0) != Some(2)).collect();
        assert!(stayed.len() < KEYS as usize);
        let gone = stayed.iter().filter(|number| before.host(key(**number), 0) != after.host(key(**number), 0)).count();
        gone as f64 / KEYS as f64
    }

    /// Chi-square against the places that each host has.
    fn chi_square(counts: &BTreeMap<u32, u64>, places: &BTreeMap<u32, u64>) -> f64 {
        let total: u64 = places.values().sum();
        let one = |(host, places): (&u32, &u64)| {
            let expected = KEYS as f64 * *places as f64 / total as f64;
            let seen = counts.get(host).copied().unwrap_or_default() as f64;
            (seen - expected).powi(2) / expected
        };
        places.iter().map(one).sum()
    }

    #[test]
    fn a_rings_places_follow_the_weights() {
        let Table::Ring(ring) = Table::ring(&hosts(&[1, 2, 1]), 1024) else { panic!() };
        let places = |index| ring.iter().filter(|(_, host)| *host == index).count();
        assert_eq!([places(0), places(1), places(2)], [256, 512, 256]);
        assert!(ring.is_sorted());
        let Table::Ring(uneven) = Table::ring(&hosts(&[1, 1, 1]), 1024) else { panic!() };
        assert_eq!(uneven.len(), 1026, "each of three has a third of at least 1,024, and a whole number");
    }

    #[test]
    fn maglevs_places_follow_the_weights() {
        let table = Table::maglev(&hosts(&[1, 2, 1]), 65_537);
        let Table::Maglev(places) = &table else { panic!() };
        let count = |index| places.iter().filter(|host| **host == index).count() as f64 / places.len() as f64;
        for (index, share) in [(0, 0.25), (1, 0.5), (2, 0.25)] {
            assert!((count(index) - share).abs() < 1e-4, "{index}: {}", count(index));
        }
        let of: BTreeMap<u32, u64> = (0..3).map(|index| (index, places.iter().filter(|host| **host == index).count() as u64)).collect();
        // Two degrees of freedom, one in 10,000.
        assert!(chi_square(&counts(&table), &of) < 18.4);
    }

    #[test]
    fn when_a_host_goes_a_ring_moves_its_keys_alone() {
        // 103 places each of 1,030; without one, 114 each: the others gain places and take some keys from each other.
        let same_places = |hosts: &[Host]| Table::ring(hosts, hosts.len() as u32 * 128);
        assert_eq!(moved(same_places).to_bits(), 0f64.to_bits());
        assert!(moved(|hosts| Table::ring(hosts, 1024)) < 0.1, "{}", moved(|hosts| Table::ring(hosts, 1024)));
    }

    #[test]
    fn when_a_host_goes_maglev_moves_its_keys_and_few_others() {
        let others = moved(|hosts| Table::maglev(hosts, 65_537));
        assert!(others > 0.0 && others < 0.03, "{others}");
    }

    #[test]
    fn later_attempts_find_others() {
        for table in [Table::ring(&hosts(&[1; 5]), 1024), Table::maglev(&hosts(&[1; 5]), 65_537)] {
            for number in 0..100 {
                let found: std::collections::BTreeSet<_> = (0..64).map(|attempt| table.host(key(number), attempt).unwrap()).collect();
                assert!(found.len() >= 4, "{found:?}");
            }
        }
    }

    #[test]
    fn odd_sizes_are_no_trap() {
        assert_eq!((prime(0), prime(4), prime(65_537), prime(65_536)), (3, 5, 65_537, 65_537));
        let count = |table: &Table| (0..100).filter_map(|number| table.host(key(number), 0)).count();
        assert_eq!(count(&Table::maglev(&hosts(&[1, 1]), 4)), 100);
        assert_eq!(count(&Table::maglev(&hosts(&[1, u32::MAX]), 0)), 100);
        assert_eq!(count(&Table::maglev(&[], 65_537)), 0);
        assert_eq!(count(&Table::ring(&[], 1024)), 0);
        assert_eq!(count(&Table::ring(&hosts(&[1]), 1)), 100);
        // At the ends of the ring.
        let Table::Ring(ring) = Table::ring(&hosts(&[1, 1]), 8) else { panic!() };
        let (first, last) = (ring[0], ring[ring.len() - 1]);
        let ring = Table::Ring(ring);
        assert_eq!(ring.host(0, 0), Some(first.1));
        assert_eq!(ring.host(u64::MAX, 0), Some(first.1));
        assert_eq!(ring.host(last.0, 0), Some(last.1));
    }
}
