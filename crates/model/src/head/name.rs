//! Names of fields, compared in any case. Pure, and the same as byte by byte: messages are asked for names many times.

/// Whether two names are the same in any case. Most have 8 to 16 bytes: such are two words each, in place of so many bytes.
#[must_use]
pub fn is_same(one: &[u8], other: &[u8]) -> bool {
    let word = |name: &[u8; 8]| lower(u64::from_le_bytes(*name));
    match (one.first_chunk(), one.last_chunk(), other.first_chunk(), other.last_chunk()) {
        (Some(a), Some(b), Some(c), Some(d)) if one.len() <= 16 => one.len() == other.len() && word(a) == word(c) && word(b) == word(d),
        _ => one.eq_ignore_ascii_case(other),
    }
}

/// Eight bytes at once as [`u8::to_ascii_lowercase`].
const fn lower(word: u64) -> u64 {
    const EACH: u64 = 0x0101_0101_0101_0101;
    // Seven bits of each: no sum reaches the next. It has the eighth bit from `A` on, and past `Z`.
    let low = word & (EACH * 0x7f);
    let from_a = low + EACH * (0x80 - b'A' as u64);
    let past_z = low + EACH * (0x7f - b'Z' as u64);
    let capitals = (from_a ^ past_z) & !word & (EACH * 0x80);
    word | (capitals >> 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_same_as_the_standard_library_says() {
        for length in [0_usize, 1, 7, 8, 9, 12, 16, 17, 40] {
            for (one, other) in (0..=u8::MAX).flat_map(|one| (0..=u8::MAX).map(move |other| (one, other))) {
                for at in [0, length / 2, length.saturating_sub(1)] {
                    let (mut name, mut likely) = (vec![b'x'; length], vec![b'X'; length]);
                    if let (Some(byte), Some(likely)) = (name.get_mut(at), likely.get_mut(at)) {
                        (*byte, *likely) = (one, other);
                    }
                    assert_eq!(is_same(&name, &likely), name.eq_ignore_ascii_case(&likely), "{name:?} {likely:?}");
                }
            }
            assert!(!is_same(&vec![b'x'; length], &vec![b'x'; length + 1]));
        }
    }
}
