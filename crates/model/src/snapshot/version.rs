//! The version of a unit: the hash of what it says, so that replicas agree and only what changed is pushed.

use std::fmt;

use serde::Serialize;

/// A 128-bit FNV-1a hash of a unit's JSON, in which maps are ordered.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(u128);

impl Version {
    /// The version of `unit`.
    #[must_use]
    pub fn of(unit: &impl Serialize) -> Self {
        let mut hash = Fnv(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d);
        // Units hold text, numbers and string-keyed maps only, which JSON always takes.
        if serde_json::to_writer(&mut hash, unit).is_err() {
            return Self(0);
        }
        Self(hash.0)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}
impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

struct Fnv(u128);

impl std::io::Write for Fnv {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        for byte in bytes {
            self.0 = (self.0 ^ u128::from(*byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b);
        }
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_units_have_equal_versions() {
        assert_eq!(Version::of(&("a", 1)), Version::of(&("a", 1)));
        assert_ne!(Version::of(&("a", 1)), Version::of(&("a", 2)));
    }
}
