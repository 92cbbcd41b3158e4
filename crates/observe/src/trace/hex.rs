//! Ids as digits: written for every request, so eight digits at once.

/// Sixteen digits, lower case.
#[must_use]
pub fn hexadecimal(number: u64) -> [u8; 16] {
    // Every request has some of these written, so eight digits are made at once, one in each byte of a word.
    let eight = |half: u32| {
        let spread = u64::from(half);
        let spread = (spread | spread << 16) & 0x0000_ffff_0000_ffff;
        let spread = (spread | spread << 8) & 0x00ff_00ff_00ff_00ff;
        let spread = (spread | spread << 4) & 0x0f0f_0f0f_0f0f_0f0f;
        // One in each byte whose digit is a letter: those are 39 further on than `9` would lead.
        let letters = (spread + 0x0606_0606_0606_0606) >> 4 & 0x0101_0101_0101_0101;
        (spread + 0x3030_3030_3030_3030 + letters * 39).to_be_bytes()
    };
    let mut text = [0; 16];
    text[..8].copy_from_slice(&eight((number >> 32) as u32));
    text[8..].copy_from_slice(&eight(number as u32));
    text
}

/// Thirty-two digits, lower case.
#[must_use]
pub fn hexadecimal_128(number: u128) -> [u8; 32] {
    let mut text = [0; 32];
    text[..16].copy_from_slice(&hexadecimal((number >> 64) as u64));
    text[16..].copy_from_slice(&hexadecimal(number as u64));
    text
}

/// The number that `digits` say, if they are lower case, as many as a `u128` has at most, and not all zero.
pub(super) fn id(digits: &str) -> Option<u128> {
    let hexadecimal = digits.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
    u128::from_str_radix(digits, 16).ok().filter(|id| hexadecimal && *id != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_the_library_writes_them() {
        let mut number = 0x9e37_79b9_7f4a_7c15_u64;
        for _ in 0..10_000 {
            number = number.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            assert_eq!(hexadecimal(number), *format!("{number:016x}").as_bytes());
        }
        for digit in 0..16 {
            assert_eq!(hexadecimal(digit * 0x1111_1111_1111_1111), *format!("{digit:x}").repeat(16).as_bytes());
        }
        assert_eq!(hexadecimal_128(1 << 64 | 0xab), *format!("{:032x}", 1_u128 << 64 | 0xab).as_bytes());
    }

    #[test]
    fn an_id_is_lower_case_and_not_zero() {
        assert_eq!(id("00ab"), Some(0xab));
        for bad in ["", "0000", "AB", "+1", "-1", "0x1", " 1", "g", "1é", &"1".repeat(33)] {
            assert_eq!(id(bad), None, "{bad}");
        }
    }
}
