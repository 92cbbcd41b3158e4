//! Virtual addresses: a name in, the same address out for as long as the mesh lives. Pure but for what it remembers.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::{Duration, SystemTime};

use lorica_model::compile::VirtualAddresses;
use serde::{Deserialize, Serialize};

/// How long an address that was given back is not given to another name: apps keep what they once looked up.
const REST: Duration = Duration::from_secs(24 * 3600);
/// How many addresses 240.0.0.0/12 has.
const SIZE: u32 = 1 << 20;

/// An address that is taken, or was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Taken {
    /// Which of 240.0.0.0/12.
    pub offset: u32,
    /// When it was given back; seconds since 1970.
    pub freed_at: Option<u64>,
}

/// All addresses, by the name that has them: `service/recording.contact`, `workload/recording-1.contact`.
#[derive(Debug, Default)]
pub struct Addresses {
    names: BTreeMap<String, Taken>,
    offsets: BTreeMap<u32, String>,
    /// The mesh's ULA prefix, 48 bits of it.
    prefix: u64,
}

impl Addresses {
    /// What was remembered, for a mesh of this prefix.
    #[must_use]
    pub fn new(prefix: u64, remembered: impl IntoIterator<Item = (String, Taken)>) -> Self {
        let mut addresses = Self { prefix, ..Self::default() };
        for (name, taken) in remembered {
            // An address that had rested was given on: it belongs to who has it now, else to who had it last.
            if let Some(other) = addresses.offsets.get(&taken.offset) {
                let held_until = |taken: &Taken| taken.freed_at.unwrap_or(u64::MAX);
                if addresses.names.get(other).is_some_and(|other| held_until(other) >= held_until(&taken)) {
                    continue;
                }
                addresses.names.remove(other);
            }
            addresses.offsets.insert(taken.offset, name.clone());
            addresses.names.insert(name, taken);
        }
        addresses
    }

    /// The addresses of a name, and what is to be remembered where that is new. None where the range is exhausted.
    pub fn take(&mut self, name: &str, now: SystemTime) -> Option<(VirtualAddresses, Option<Taken>)> {
        if let Some(taken) = self.names.get_mut(name) {
            let again = taken.freed_at.take().map(|_| *taken);
            return Some((self.addresses(self.names[name].offset), again));
        }
        let offset = self.free(name, now)?;
        if let Some(before) = self.offsets.insert(offset, name.to_owned()) {
            self.names.remove(&before);
        }
        let taken = Taken { offset, freed_at: None };
        self.names.insert(name.to_owned(), taken);
        Some((self.addresses(offset), Some(taken)))
    }

    /// What is known of a name.
    #[must_use]
    pub fn known(&self, name: &str) -> Option<Taken> {
        self.names.get(name).copied()
    }

    /// Takes back what was done to a name since it was `before`, as it could not be remembered.
    pub fn restore(&mut self, name: &str, before: Option<Taken>) {
        match before {
            Some(before) => drop(self.names.insert(name.to_owned(), before)),
            None => {
                if let Some(taken) = self.names.remove(name) {
                    self.offsets.remove(&taken.offset);
                }
            }
        }
    }

    /// Gives the addresses of a name back; what is to be remembered of it.
    pub fn give_back(&mut self, name: &str, now: SystemTime) -> Option<Taken> {
        let taken = self.names.get_mut(name).filter(|taken| taken.freed_at.is_none())?;
        taken.freed_at = Some(seconds(now));
        Some(*taken)
    }

    /// The first free address behind where the name's hash points, so that the same names get the same addresses in a new mesh.
    fn free(&self, name: &str, now: SystemTime) -> Option<u32> {
        let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
        let start = u32::try_from(hash % u64::from(SIZE)).unwrap_or_default();
        (0..SIZE).map(|step| (start + step) % SIZE).find(|offset| {
            // .0 and .255 look like network and broadcast to many programs; 240.0.0.1 stands for callers without an address.
            let usable = !matches!(offset & 255, 0 | 255) && *offset != 1;
            usable && self.offsets.get(offset).and_then(|name| self.names.get(name)).is_none_or(|taken| rested(taken, now))
        })
    }

    fn addresses(&self, offset: u32) -> VirtualAddresses {
        let v6 = (u128::from(self.prefix) << 80) | u128::from(offset);
        VirtualAddresses { v4: Ipv4Addr::from(0xf000_0000 | offset), v6: Ipv6Addr::from(v6) }
    }
}

fn rested(taken: &Taken, now: SystemTime) -> bool {
    taken.freed_at.is_some_and(|freed| seconds(now) >= freed + REST.as_secs())
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// A prefix of a mesh's own: fd and 40 random bits (RFC 4193).
#[must_use]
pub fn prefix(random: u64) -> u64 {
    0xfd00_0000_0000 | (random & 0x00ff_ffff_ffff)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_name_keeps_its_address() {
        let now = SystemTime::UNIX_EPOCH;
        let mut addresses = Addresses::new(prefix(7), []);
        let (first, new) = addresses.take("service/a.b", now).unwrap();
        assert!(first.v4.octets()[0] == 240 && first.v4.octets()[1] < 16 && first.v6.segments()[0] == 0xfd00);
        assert_eq!(addresses.take("service/a.b", now).unwrap(), (first, None));
        let mut again = Addresses::new(prefix(7), [("service/a.b".to_owned(), new.unwrap())]);
        assert_eq!(again.take("service/a.b", now).unwrap(), (first, None));
        assert_ne!(again.take("service/c.d", now).unwrap().0, first);
    }

    #[test]
    fn an_address_rests_for_a_day_before_another_name_has_it() {
        let now = SystemTime::UNIX_EPOCH;
        let mut addresses = Addresses::new(prefix(7), []);
        let (given, _) = addresses.take("a", now).unwrap();
        let offset = addresses.names["a"].offset;
        addresses.give_back("a", now).unwrap();
        assert!(!rested(&addresses.names["a"], now + Duration::from_secs(3600)));
        assert!(rested(&addresses.names["a"], now + REST));
        // Where two remember one address, it is the one's who has it.
        let (rested, held) = (Taken { offset: 5, freed_at: Some(1) }, Taken { offset: 5, freed_at: None });
        for remembered in [[("x", rested), ("y", held)], [("x", held), ("y", rested)]] {
            let has = if remembered[0].1 == held { "x" } else { "y" };
            let again = Addresses::new(prefix(7), remembered.map(|(name, taken)| (name.to_owned(), taken)));
            assert_eq!((again.names.len(), again.known(has)), (1, Some(held)));
        }
        // What could not be remembered is taken back.
        let before = addresses.known("b");
        addresses.take("b", now).unwrap();
        addresses.restore("b", before);
        assert_eq!((addresses.known("b"), addresses.offsets.len()), (None, 1));
        // It gets its own back at once.
        assert_eq!(addresses.take("a", now).unwrap().0, given);
        assert_eq!(addresses.names["a"].offset, offset);
    }
}
