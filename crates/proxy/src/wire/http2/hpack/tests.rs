//! HPACK against the standard's examples (RFC 7541, appendix C), and against itself.

#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

type List = Vec<(Vec<u8>, Vec<u8>)>;

fn decoded(decoder: &mut Decoder, block: &[u8]) -> Option<List> {
    let mut list = Vec::new();
    decoder.decode(block, |name, value, _| list.push((name.to_vec(), value.to_vec()))).ok()?;
    Some(list)
}

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    digits.chunks(2).map(|two| u8::from_str_radix(std::str::from_utf8(two).unwrap(), 16).unwrap()).collect()
}

fn check(blocks: &[(&str, &[(&str, &str)])]) {
    let mut decoder = Decoder::new();
    for (block, list) in blocks {
        let expected: List = list.iter().map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec())).collect();
        assert_eq!(decoded(&mut decoder, &hex(block)), Some(expected), "{block}");
    }
}

#[test]
fn single_fields_read_as_the_standard_says() {
    check(&[("400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572", &[("custom-key", "custom-header")])]);
    check(&[("040c 2f73 616d 706c 652f 7061 7468", &[(":path", "/sample/path")])]);
    check(&[("1008 7061 7373 776f 7264 0673 6563 7265 74", &[("password", "secret")])]);
    check(&[("82", &[(":method", "GET")])]);
}

const FIRST: &[(&str, &str)] = &[(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "www.example.com")];
const SECOND: &[(&str, &str)] =
    &[(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "www.example.com"), ("cache-control", "no-cache")];
const THIRD: &[(&str, &str)] = &[
    (":method", "GET"),
    (":scheme", "https"),
    (":path", "/index.html"),
    (":authority", "www.example.com"),
    ("custom-key", "custom-value"),
];

#[test]
fn requests_on_one_connection_read_as_the_standard_says() {
    check(&[
        ("8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d", FIRST),
        ("8286 84be 5808 6e6f 2d63 6163 6865", SECOND),
        ("8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65", THIRD),
    ]);
    // The same with Huffman code.
    check(&[
        ("8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff", FIRST),
        ("8286 84be 5886 a8eb 1064 9cbf", SECOND),
        ("8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf", THIRD),
    ]);
}

#[test]
fn entries_leave_a_small_table_as_the_standard_says() {
    let date = "Mon, 21 Oct 2013 20:13:21 GMT";
    let cookie = "foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1";
    // The examples have a table of 256 bytes: an update says so first.
    check(&[
        (
            "3fe101 4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff6e 919d 29ad 1718 63c7 8f0b 97c8 e9ae 82ae 43d3",
            &[(":status", "302"), ("cache-control", "private"), ("date", date), ("location", "https://www.example.com")],
        ),
        (
            "4883 640e ffc1 c0bf",
            &[(":status", "307"), ("cache-control", "private"), ("date", date), ("location", "https://www.example.com")],
        ),
        (
            "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab 77ad 94e7 821d d7f2 e6c7 b335 dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f 9587 3160 65c0 03ed 4ee5 b106 3d50 07",
            &[
                (":status", "200"),
                ("cache-control", "private"),
                ("date", "Mon, 21 Oct 2013 20:13:22 GMT"),
                ("location", "https://www.example.com"),
                ("content-encoding", "gzip"),
                ("set-cookie", cookie),
            ],
        ),
    ]);
}

#[test]
fn numbers_read_back_and_end() {
    for number in [0, 9, 10, 30, 31, 127, 128, 254, 255, 1337, 65_536, (1 << 28) - 1] {
        for bits in 4..=7 {
            let mut out = Vec::new();
            put_number((0, bits), number, &mut out);
            let mut block = &out[..];
            assert_eq!((take_number(&mut block, bits), block.len()), (Some(number), 0));
            assert_eq!(take_number(&mut &out[..out.len() - 1], bits), None);
        }
    }
    assert_eq!(take_number(&mut &[0x7f, 0xff, 0xff, 0xff, 0xff, 0x01][..], 7), None);
}

#[test]
fn what_is_no_block_is_refused() {
    for block in [
        // Index 0, and indices past the table.
        "80",
        "be",
        "ff00",
        "7e 01 61",
        "0f 2f 01 61",
        // A table larger than we allow, and an update after a field.
        "3fe2 1f",
        "82 20",
        // Strings that are cut off, and a padding that is none.
        "40",
        "40 01",
        "40 01 61",
        "40 01 61 02 62",
        "40 81 1e 01 61",
        // A number without end.
        "ffff ffff ffff 01",
    ] {
        assert_eq!(decoded(&mut Decoder::new(), &hex(block)), None, "{block}");
    }
}

#[test]
fn what_repeats_becomes_short_and_secrets_never() {
    let mut encoder = Encoder::new();
    let mut lengths = Vec::new();
    for number in 0..20 {
        let mut block = Vec::new();
        encoder.begin(&mut block);
        encoder.field(b"X-Caller", b"recording.contact", &mut block);
        lengths.push(block.len());
        // What never repeats does not push out what does.
        for id in 0..3 {
            encoder.field(b"x-request-id", format!("{number}-{id}").as_bytes(), &mut block);
        }
        encoder.field(b"Authorization", b"Bearer x", &mut block);
        assert!(block.ends_with(b"\x1f\x08\x08Bearer x"), "{block:?}");
    }
    assert!(lengths[0] > 20 && lengths[19] == 1, "{lengths:?}");
}

#[test]
fn a_peers_smaller_table_is_obeyed_and_told() {
    let (mut encoder, mut decoder) = (Encoder::new(), Decoder::new());
    for (sizes, begins) in
        [(&[][..], &[][..]), (&[0, 4096], &[0x20, 0x3f, 0xe1, 0x1f]), (&[100], &[0x3f, 0x45]), (&[1 << 20], &[0x3f, 0xe1, 0x1f])]
    {
        sizes.iter().for_each(|size| encoder.resize(*size));
        for _ in 0..3 {
            let mut block = Vec::new();
            encoder.begin(&mut block);
            encoder.field(b"x-a", b"b", &mut block);
            assert_eq!(decoded(&mut decoder, &block), Some(vec![(b"x-a".to_vec(), b"b".to_vec())]));
        }
        let mut block = Vec::new();
        sizes.iter().for_each(|size| encoder.resize(*size));
        encoder.begin(&mut block);
        if sizes.len() == 2 {
            assert_eq!(block, begins);
        }
        decoded(&mut decoder, &block).unwrap();
    }
}

fn names() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        proptest::sample::select(names::STATIC.iter().map(|(name, _)| name.as_bytes().to_vec()).collect::<Vec<_>>()),
        "[a-z-]{1,12}".prop_map(String::into_bytes),
    ]
}

fn values() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        "[ -~]{0,10}".prop_map(String::into_bytes),
        "[ab]{0,2}".prop_map(String::into_bytes),
        "[a-f]{200,600}".prop_map(String::into_bytes)
    ]
}

proptest! {
    #[test]
    fn what_was_encoded_is_decoded(
        heads in proptest::collection::vec((proptest::option::of(0_usize..5000), proptest::collection::vec((names(), values()), 0..20)), 0..12)
    ) {
        let (mut ours, mut theirs) = (Encoder::new(), Decoder::new());
        for (size, list) in heads {
            if let Some(size) = size {
                ours.resize(size);
            }
            let mut block = Vec::new();
            ours.begin(&mut block);
            for (name, value) in &list {
                ours.field(name, value, &mut block);
            }
            prop_assert_eq!(decoded(&mut theirs, &block), Some(list.clone()));
            let mut plainly = Vec::new();
            for (name, value) in &list {
                plain(name, value, &mut plainly);
            }
            prop_assert_eq!(decoded(&mut theirs, &plainly), Some(list));
        }
    }

    #[test]
    fn no_bytes_make_the_decoder_panic(blocks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..200), 0..8)) {
        let mut decoder = Decoder::new();
        for block in blocks {
            let _: Option<List> = decoded(&mut decoder, &block);
        }
    }
}
