//! The formats, byte by byte. What a connection does with them, the testbed asks of the whole proxy.

#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::frame::{put_number, take_number};
use super::qpack;

fn decoded(block: &[u8]) -> Option<Vec<(String, String)>> {
    let mut fields = Vec::new();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    qpack::decode(block, |name, value, _| fields.push((text(name), text(value)))).ok().map(|()| fields)
}

#[test]
fn numbers_are_those_of_the_standard() {
    // RFC 9000, A.1.
    for (bytes, number) in [
        (&[0xc2, 0x19, 0x7c, 0x5e, 0xff, 0x14, 0xe8, 0x8c][..], 151_288_809_941_952_652),
        (&[0x9d, 0x7f, 0x3e, 0x7d], 494_878_333),
        (&[0x7b, 0xbd], 15_293),
        (&[0x25], 37),
    ] {
        let mut rest = bytes;
        assert_eq!((take_number(&mut rest), rest.len()), (Some(number), 0));
        let mut put = Vec::new();
        put_number(number, &mut put);
        assert_eq!(put, bytes);
        let mut cut = &bytes[..bytes.len() - 1];
        assert_eq!(take_number(&mut cut), None);
    }
    let mut long = &[0x40, 0x25][..];
    assert_eq!(take_number(&mut long), Some(37), "a longer form than need be");
}

#[test]
fn blocks_are_those_of_the_standard() {
    let one = |name: &str, value: &str| Some(vec![(name.to_owned(), value.to_owned())]);
    for (block, fields) in [
        // RFC 9204, B.1.
        (&b"\0\0\x51\x0b/index.html"[..], one(":path", "/index.html")),
        // Huffman code: RFC 7541, C.4.1.
        (b"\0\0\x50\x8c\xf1\xe3\xc2\xe5\xf2\x3a\x6b\xa0\xab\x90\xf4\xff", one(":authority", "www.example.com")),
        (b"\0\0\xd1", one(":method", "GET")),
        (b"\0\0\xff\x23", one("x-frame-options", "sameorigin")),
        (b"\0\0\x23abc\x01d", one("abc", "d")),
        // Never to be indexed.
        (b"\0\0\x33abc\x01d", one("abc", "d")),
        (b"\0\0", Some(Vec::new())),
        // An entry too far, a dynamic table in every form, strings that are cut off.
        (b"\0\0\xff\x24", None),
        (b"\x01\0\x80", None),
        (b"\0\0\x80", None),
        (b"\0\0\x40\x01a", None),
        (b"\0\0\x10", None),
        (b"\0\0\x00\x01a", None),
        (b"\0\0\x51\x0b/index", None),
        (b"\0", None),
        (b"", None),
    ] {
        assert_eq!(decoded(block), fields, "{block:?}");
    }
}

proptest! {
    #[test]
    fn fields_read_back(fields in proptest::collection::vec((
        prop_oneof!["[a-z][a-z-]{0,20}", Just("content-type".to_owned()), Just("set-cookie".to_owned()), Just(":status".to_owned())],
        prop_oneof!["[ -~]{0,300}", Just("200".to_owned()), Just("application/json".to_owned())],
    ), 0..12)) {
        let mut block = Vec::new();
        qpack::begin(&mut block);
        for (name, value) in &fields {
            qpack::put(name.as_bytes(), value.as_bytes(), &mut block);
        }
        prop_assert_eq!(decoded(&block), Some(fields));
    }

    #[test]
    fn no_bytes_make_it_panic(block in proptest::collection::vec(any::<u8>(), 0..64)) {
        decoded(&block);
        decoded(&[&[0, 0], block.as_slice()].concat());
        take_number(&mut block.as_slice());
    }
}
