//! XXH64: the hash by which Envoy tells requests and endpoints apart, and so do we, as both are to choose the same endpoint for a request.
//! Quick and even; it keeps no secrets and guards against nobody.

const PRIMES: [u64; 5] =
    [0x9E37_79B1_85EB_CA87, 0xC2B2_AE3D_27D4_EB4F, 0x1656_67B1_9E37_79F9, 0x85EB_CA77_C2B2_AE63, 0x27D4_EB2F_1656_67C5];

/// The hash of `bytes` with a seed; Envoy's is 0 unless said otherwise.
#[must_use]
pub fn xxh64(bytes: &[u8], seed: u64) -> u64 {
    let [one, two, .., five] = PRIMES;
    let (blocks, mut rest) = bytes.as_chunks::<32>();
    let mut hash = if blocks.is_empty() { seed.wrapping_add(five) } else { lanes(blocks, seed) };
    hash = hash.wrapping_add(bytes.len() as u64);
    while let Some((word, after)) = rest.split_first_chunk::<8>() {
        hash = (hash ^ round(0, u64::from_le_bytes(*word))).rotate_left(27).wrapping_mul(one).wrapping_add(PRIMES[3]);
        rest = after;
    }
    if let Some((word, after)) = rest.split_first_chunk::<4>() {
        let word = u64::from(u32::from_le_bytes(*word));
        hash = (hash ^ word.wrapping_mul(one)).rotate_left(23).wrapping_mul(two).wrapping_add(PRIMES[2]);
        rest = after;
    }
    for byte in rest {
        hash = (hash ^ u64::from(*byte).wrapping_mul(five)).rotate_left(11).wrapping_mul(one);
    }
    hash = (hash ^ (hash >> 33)).wrapping_mul(two);
    hash = (hash ^ (hash >> 29)).wrapping_mul(PRIMES[2]);
    hash ^ (hash >> 32)
}

/// What whole blocks of four words come to.
fn lanes(blocks: &[[u8; 32]], seed: u64) -> u64 {
    let [one, two, .., four, _] = PRIMES;
    let first = seed.wrapping_add(one);
    let mut lanes = [first.wrapping_add(two), seed.wrapping_add(two), seed, seed.wrapping_sub(one)];
    for block in blocks {
        for (lane, word) in lanes.iter_mut().zip(block.as_chunks::<8>().0) {
            *lane = round(*lane, u64::from_le_bytes(*word));
        }
    }
    let turns = lanes.iter().zip([1, 7, 12, 18]).map(|(lane, turn)| lane.rotate_left(turn));
    let joined = turns.fold(0u64, u64::wrapping_add);
    lanes.iter().fold(joined, |hash, lane| (hash ^ round(0, *lane)).wrapping_mul(one).wrapping_add(four))
}

fn round(lane: u64, word: u64) -> u64 {
    lane.wrapping_add(word.wrapping_mul(PRIMES[1])).rotate_left(31).wrapping_mul(PRIMES[0])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers of the reference implementation (`xxhsum -H1`), for inputs below and above a block.
    #[test]
    fn the_reference_says_the_same() {
        for (text, expected) in [
            ("", 0xef46_db37_51d8_e999),
            ("a", 0xd24e_c4f1_a98c_6e5b),
            ("abc", 0x44bc_2cf5_ad77_0999),
            ("foobar", 0xa2aa_05ed_9085_aaf9),
            ("Nobody inspects the spammish repetition", 0xfbce_a83c_8a37_8bf1),
        ] {
            assert_eq!(xxh64(text.as_bytes(), 0), expected, "{text}");
        }
        assert_ne!(xxh64(b"a", 1), xxh64(b"a", 0));
    }
}
