//! HPACK's Huffman code (RFC 7541, 5.2 and appendix B), decoding only: we never write it, as it costs both sides more time than
//! the bytes it saves between machines of one mesh.
//!
//! The code is canonical, so the lengths of its symbols are all there is to know. One look-up of eight bits finds every symbol
//! that ordinary text has; longer ones are found by the first code of each length.

/// The length of each symbol's code, in bits; the last symbol is the end of the string.
const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28, //
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, //
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, //
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28, //
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, //
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23, //
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27, //
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26, //
    30,
];
/// The longest code, in bits.
const LONGEST: usize = 30;
/// The symbol that ends a string; it never stands in one.
const END: u16 = 256;

struct Tables {
    /// For eight bits: the symbol that they begin with, and its length; length 0: it is longer.
    short: [(u8, u8); 256],
    /// The first code of each length, and where its symbol stands among `symbols`.
    first: [(u32, u16); LONGEST + 2],
    /// The symbols in the order of their codes.
    symbols: [u16; 257],
}

static TABLES: Tables = tables();

const fn tables() -> Tables {
    let mut tables = Tables { short: [(0, 0); 256], first: [(0, 0); LONGEST + 2], symbols: [0; 257] };
    let (mut code, mut count, mut length) = (0_u32, 0_u16, 1);
    while length <= LONGEST {
        code <<= 1;
        tables.first[length] = (code, count);
        let mut symbol = 0;
        while symbol < 257 {
            if LENGTHS[symbol] as usize == length {
                tables.symbols[count as usize] = symbol as u16;
                if length <= 8 {
                    let from = (code as usize) << (8 - length);
                    let mut at = from;
                    while at < from + (1 << (8 - length)) {
                        tables.short[at] = (symbol as u8, length as u8);
                        at += 1;
                    }
                }
                code += 1;
                count += 1;
            }
            symbol += 1;
        }
        length += 1;
    }
    tables.first[LONGEST + 1] = (code << 1, count);
    tables
}

/// Appends what `text` says to `out`, up to `most` bytes in all. False: it is no Huffman code, or longer.
pub(in super::super::super) fn decode(text: &[u8], out: &mut Vec<u8>, most: usize) -> bool {
    // No code is shorter than five bits.
    out.reserve((text.len() * 8 / 5 + 1).min(most));
    let mut bytes = text.iter();
    // The bits not yet used stand at the top.
    let (mut bits, mut count) = (0_u64, 0_u32);
    let begin = out.len();
    loop {
        while count <= 56 {
            let Some(byte) = bytes.next() else { break };
            bits |= u64::from(*byte) << (56 - count);
            count += 8;
        }
        if count == 0 {
            return true;
        }
        let (symbol, length) = TABLES.short[(bits >> 56) as usize];
        let (symbol, length) = match length {
            0 => match long(bits) {
                Some((symbol, length)) if length <= count && symbol != END => (symbol as u8, length),
                // What is left is padding: the beginning of the end symbol, shorter than a byte.
                _ => return count < 8 && bits == u64::MAX << (64 - count),
            },
            length if u32::from(length) > count => return count < 8 && bits == u64::MAX << (64 - count),
            length => (symbol, u32::from(length)),
        };
        if out.len() - begin == most {
            return false;
        }
        out.push(symbol);
        bits <<= length;
        count -= length;
    }
}

/// The symbol of more than eight bits that `bits` begins with.
fn long(bits: u64) -> Option<(u16, u32)> {
    for length in 9..=LONGEST {
        let code = (bits >> (64 - length)) as u32;
        let (first, at) = TABLES.first[length];
        let (_, next) = TABLES.first[length + 1];
        let index = code.checked_sub(first)?;
        if index < u32::from(next - at) {
            return Some((TABLES.symbols[usize::from(at) + index as usize], length as u32));
        }
    }
    None
}

/// Writes Huffman code, for tests of the decoder.
#[cfg(test)]
pub(super) fn encode(text: &[u8]) -> Vec<u8> {
    let mut codes = [(0_u32, 0_u32); 257];
    let mut code = 0_u32;
    for length in 1..=LONGEST {
        code <<= 1;
        for (symbol, slot) in codes.iter_mut().enumerate() {
            if usize::from(LENGTHS[symbol]) == length {
                *slot = (code, length as u32);
                code += 1;
            }
        }
    }
    let mut bits: Vec<bool> = Vec::new();
    for byte in text {
        let (code, length) = codes[usize::from(*byte)];
        bits.extend((0..length).rev().map(|bit| code >> bit & 1 == 1));
    }
    while !bits.len().is_multiple_of(8) {
        bits.push(true);
    }
    bits.chunks(8).map(|byte| byte.iter().fold(0, |sum, bit| sum << 1 | u8::from(*bit))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decoded(text: &[u8]) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        decode(text, &mut out, 1 << 16).then_some(out)
    }

    #[test]
    fn the_standards_examples_read_as_it_says() {
        let code = [0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff];
        assert_eq!(decoded(&code).as_deref(), Some(&b"www.example.com"[..]));
        assert_eq!(decoded(&[0xa8, 0xeb, 0x10, 0x64, 0x9c, 0xbf]).as_deref(), Some(&b"no-cache"[..]));
    }

    #[test]
    fn padding_is_short_and_of_ones() {
        // "a" is 00011.
        assert_eq!(decoded(&[0b0001_1111]).as_deref(), Some(&b"a"[..]));
        assert_eq!(decoded(&[0b0001_1110]), None);
        assert_eq!(decoded(&[0b0001_1111, 0xff]), None);
        assert_eq!(decoded(&[0xff]), None);
        // The end of the string, spelt out.
        assert_eq!(decoded(&[0xff, 0xff, 0xff, 0xff]), None);
        assert_eq!(decoded(&[]).as_deref(), Some(&b""[..]));
    }

    #[test]
    fn more_than_was_allowed_is_refused() {
        let mut out = b"before".to_vec();
        assert!(decode(&encode(b"abcd"), &mut out, 4));
        assert!(!decode(&encode(b"abcde"), &mut out, 4));
    }

    proptest! {
        #[test]
        fn what_was_encoded_is_decoded(text: Vec<u8>) {
            prop_assert_eq!(decoded(&encode(&text)), Some(text));
        }

        #[test]
        fn no_bytes_make_it_panic(text: Vec<u8>) {
            if let Some(decoded) = decoded(&text) {
                prop_assert_eq!(encode(&decoded), text);
            }
        }
    }
}
