//! HPACK's fixed table (RFC 7541, appendix A), and what each field means to HTTP/2 (RFC 9113, 8.2 and 8.3).

/// The fixed table; its entries count from 1.
pub(super) const STATIC: [(&str, &str); 61] = [
    (":authority", ""),
    (":method", "GET"),
    (":method", "POST"),
    (":path", "/"),
    (":path", "/index.html"),
    (":scheme", "http"),
    (":scheme", "https"),
    (":status", "200"),
    (":status", "204"),
    (":status", "206"),
    (":status", "304"),
    (":status", "400"),
    (":status", "404"),
    (":status", "500"),
    ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"),
    ("accept-language", ""),
    ("accept-ranges", ""),
    ("accept", ""),
    ("access-control-allow-origin", ""),
    ("age", ""),
    ("allow", ""),
    ("authorization", ""),
    ("cache-control", ""),
    ("content-disposition", ""),
    ("content-encoding", ""),
    ("content-language", ""),
    ("content-length", ""),
    ("content-location", ""),
    ("content-range", ""),
    ("content-type", ""),
    ("cookie", ""),
    ("date", ""),
    ("etag", ""),
    ("expect", ""),
    ("expires", ""),
    ("from", ""),
    ("host", ""),
    ("if-match", ""),
    ("if-modified-since", ""),
    ("if-none-match", ""),
    ("if-range", ""),
    ("if-unmodified-since", ""),
    ("last-modified", ""),
    ("link", ""),
    ("location", ""),
    ("max-forwards", ""),
    ("proxy-authenticate", ""),
    ("proxy-authorization", ""),
    ("range", ""),
    ("referer", ""),
    ("refresh", ""),
    ("retry-after", ""),
    ("server", ""),
    ("set-cookie", ""),
    ("strict-transport-security", ""),
    ("transfer-encoding", ""),
    ("user-agent", ""),
    ("vary", ""),
    ("via", ""),
    ("www-authenticate", ""),
];

/// What a field is to HTTP/2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tag {
    /// `:method`.
    Method,
    /// `:scheme`.
    Scheme,
    /// `:authority`.
    Authority,
    /// `:path`.
    Path,
    /// `:protocol` (RFC 8441).
    Protocol,
    /// `:status`.
    Status,
    /// `host`.
    Host,
    /// `content-length`.
    ContentLength,
    /// Any other that may be there.
    Plain,
    /// One that makes its message malformed: an unknown pseudo-field, an upper-case name, a field of one connection, a byte that
    /// no field may have.
    Malformed,
}

/// What a field is whose name is known, with this value. A `:protocol` has rules of its own, and an answer if it breaks them.
pub(in super::super::super) fn with_value(tag: Tag, value: &[u8]) -> Tag {
    if tag == Tag::Protocol || is_value(value) { tag } else { Tag::Malformed }
}

/// What a field named as entry `index` of the fixed table is.
pub(super) fn tag_of_static(index: usize) -> Tag {
    match index {
        1 => Tag::Authority,
        2 | 3 => Tag::Method,
        4 | 5 => Tag::Path,
        6 | 7 => Tag::Scheme,
        8..=14 => Tag::Status,
        28 => Tag::ContentLength,
        38 => Tag::Host,
        57 => Tag::Malformed,
        _ => Tag::Plain,
    }
}

/// What a field is by its name alone. `te` may say one thing only, which whoever collects the fields checks.
pub(in super::super::super) fn tag_of_name(name: &[u8]) -> Tag {
    match name {
        [b':', pseudo @ ..] => match pseudo {
            b"method" => Tag::Method,
            b"scheme" => Tag::Scheme,
            b"authority" => Tag::Authority,
            b"path" => Tag::Path,
            b"protocol" => Tag::Protocol,
            b"status" => Tag::Status,
            _ => Tag::Malformed,
        },
        b"host" => Tag::Host,
        b"content-length" => Tag::ContentLength,
        b"connection" | b"proxy-connection" | b"keep-alive" | b"transfer-encoding" | b"upgrade" | b"" => Tag::Malformed,
        _ if name.iter().all(|byte| NAME[usize::from(*byte)]) => Tag::Plain,
        _ => Tag::Malformed,
    }
}

/// The bytes of a name: those of a token, but upper case.
static NAME: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 128 {
        table[byte] = (byte as u8).is_ascii_lowercase() || (byte as u8).is_ascii_digit();
        byte += 1;
    }
    let others = b"!#$%&'*+-.^_`|~";
    let mut at = 0;
    while at < others.len() {
        table[others[at] as usize] = true;
        at += 1;
    }
    table
};

/// Whether a value has no byte that it may not have. Without a branch for each byte, so that many are looked at at once.
fn is_value(value: &[u8]) -> bool {
    value.iter().fold(true, |valid, byte| valid & ((*byte >= b' ') & (*byte != 0x7f) | (*byte == b'\t')))
}

/// The entry of the fixed table that has this name (the first of them), which is all lower case.
pub(super) fn static_name(name: &[u8]) -> Option<usize> {
    Some(match name {
        b":authority" => 1,
        b":method" => 2,
        b":path" => 4,
        b":scheme" => 6,
        b":status" => 8,
        b"accept-charset" => 15,
        b"accept-encoding" => 16,
        b"accept-language" => 17,
        b"accept-ranges" => 18,
        b"accept" => 19,
        b"access-control-allow-origin" => 20,
        b"age" => 21,
        b"allow" => 22,
        b"authorization" => 23,
        b"cache-control" => 24,
        b"content-disposition" => 25,
        b"content-encoding" => 26,
        b"content-language" => 27,
        b"content-length" => 28,
        b"content-location" => 29,
        b"content-range" => 30,
        b"content-type" => 31,
        b"cookie" => 32,
        b"date" => 33,
        b"etag" => 34,
        b"expect" => 35,
        b"expires" => 36,
        b"from" => 37,
        b"host" => 38,
        b"if-match" => 39,
        b"if-modified-since" => 40,
        b"if-none-match" => 41,
        b"if-range" => 42,
        b"if-unmodified-since" => 43,
        b"last-modified" => 44,
        b"link" => 45,
        b"location" => 46,
        b"max-forwards" => 47,
        b"proxy-authenticate" => 48,
        b"proxy-authorization" => 49,
        b"range" => 50,
        b"referer" => 51,
        b"refresh" => 52,
        b"retry-after" => 53,
        b"server" => 54,
        b"set-cookie" => 55,
        b"strict-transport-security" => 56,
        b"transfer-encoding" => 57,
        b"user-agent" => 58,
        b"vary" => 59,
        b"via" => 60,
        b"www-authenticate" => 61,
        _ => return None,
    })
}

/// The entry of the fixed table that is this field, where its name's first entry is `first`.
pub(super) fn static_field(first: usize, value: &[u8]) -> Option<usize> {
    let last = match first {
        2 => 3,
        4 => 5,
        6 => 7,
        8 => 14,
        16 => 16,
        _ => return None,
    };
    (first..=last).find(|index| STATIC[index - 1].1.as_bytes() == value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fixed_table_is_found_by_name_and_by_field() {
        for (at, (name, value)) in STATIC.iter().enumerate() {
            let first = STATIC.iter().position(|(other, _)| other == name).map(|at| at + 1);
            assert_eq!(static_name(name.as_bytes()), first, "{name}");
            assert_eq!(tag_of_static(at + 1), tag_of_name(name.as_bytes()), "{name}");
            if !value.is_empty() {
                assert_eq!(first.and_then(|first| static_field(first, value.as_bytes())), Some(at + 1), "{name}: {value}");
            }
        }
        assert_eq!((static_name(b"x-other"), static_field(8, b"201")), (None, None));
    }

    #[test]
    fn what_no_message_of_http2_may_have_is_malformed() {
        for (name, value, expected) in [
            (&b"x-a"[..], &b"b\tc \xff"[..], Tag::Plain),
            (b"X-a", b"b", Tag::Malformed),
            (b"x a", b"b", Tag::Malformed),
            (b"", b"b", Tag::Malformed),
            (b":x", b"b", Tag::Malformed),
            (b"x-a", b"b\r\n", Tag::Malformed),
            (b"x-a", b"\0", Tag::Malformed),
            (b"x-a", b"\x7f", Tag::Malformed),
            (b"connection", b"close", Tag::Malformed),
            (b"upgrade", b"h2c", Tag::Malformed),
            (b":path", b"/\n", Tag::Malformed),
            (b":path", b"/", Tag::Path),
        ] {
            assert_eq!(with_value(tag_of_name(name), value), expected, "{name:?}: {value:?}");
        }
    }
}
