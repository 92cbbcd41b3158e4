//! HPACK (RFC 7541): fields of heads in, their compressed form out, and back. Pure.
//!
//! `decoder` and `encoder` each hold one side's table; `table` is what they share, `huffman` the code of strings, `names` the
//! fixed table and what each field means to HTTP/2.

mod decoder;
mod encoder;
mod huffman;
mod names;
mod table;

pub(in super::super) use decoder::Decoder;
pub(super) use encoder::{Encoder, plain};
pub(in super::super) use names::Tag;
#[cfg(feature = "http3")]
pub(in super::super) use {
    huffman::decode as huffman_decode,
    names::{tag_of_name, with_value},
};

#[cfg(test)]
mod tests;

/// The largest table that we keep for either direction, in bytes as HPACK counts them: the standard's default. Larger ones
/// cost each connection memory, and the fields of one caller rarely need more.
pub(super) const TABLE: usize = 4096;

/// The form of a field: its highest bits in the first byte, and how many of the byte's bits are left for a number.
mod form {
    pub(super) const INDEXED: (u8, u32) = (0x80, 7);
    pub(super) const INDEXING: (u8, u32) = (0x40, 6);
    pub(super) const SIZE_UPDATE: (u8, u32) = (0x20, 5);
    pub(super) const NEVER: (u8, u32) = (0x10, 4);
    pub(super) const PLAIN: (u8, u32) = (0x00, 4);
    pub(super) const HUFFMAN: (u8, u32) = (0x80, 7);
    pub(super) const STRING: (u8, u32) = (0x00, 7);
}

/// Appends a number in a form (RFC 7541, 5.1).
fn put_number((first, bits): (u8, u32), number: usize, out: &mut Vec<u8>) {
    let most = (1 << bits) - 1;
    if number < most {
        return out.push(first | number as u8);
    }
    out.push(first | most as u8);
    let mut rest = number - most;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

/// Takes a number whose first byte has `bits` bits of it. Four more bytes say more than any that we take.
fn take_number(block: &mut &[u8], bits: u32) -> Option<usize> {
    let (first, mut rest) = block.split_first()?;
    let most = (1 << bits) - 1;
    let mut number = usize::from(*first) & most;
    if number == most {
        let mut shift = 0;
        loop {
            let (byte, after) = rest.split_first()?;
            rest = after;
            number += usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                break;
            }
            shift += 7;
            if shift > 21 {
                return None;
            }
        }
    }
    *block = rest;
    Some(number)
}

/// As [`put_number`], for QPACK, which has the same numbers in forms of its own.
#[cfg(feature = "http3")]
pub(in super::super) fn put_prefixed_number(form: (u8, u32), number: usize, out: &mut Vec<u8>) {
    put_number(form, number, out);
}

/// As [`take_number`].
#[cfg(feature = "http3")]
pub(in super::super) fn prefixed_number(block: &mut &[u8], bits: u32) -> Option<usize> {
    take_number(block, bits)
}
