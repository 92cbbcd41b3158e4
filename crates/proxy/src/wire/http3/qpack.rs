//! QPACK (RFC 9204) without a dynamic table: blocks in, fields out, and back. Pure.

use super::super::http2::{Tag, huffman_decode, prefixed_number, put_prefixed_number, tag_of_name, with_value};

/// The longest name or value that is read, in bytes; a longer one could stand in no head that we take.
const LONGEST: usize = lorica_model::head::MAX_HEAD_BYTES + 1;

/// A block that is none: the connection ends (RFC 9204, 2.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Undecodable;

/// Reads one whole block; each field goes to `field` as name, value and meaning.
pub(super) fn decode(mut block: &[u8], mut field: impl FnMut(&[u8], &[u8], Tag)) -> Result<(), Undecodable> {
    let block = &mut block;
    // What a block needs of a table that has no entry, and where it counts from: nothing, and nowhere.
    if prefixed_number(block, 8) != Some(0) || prefixed_number(block, 7).is_none() {
        return Err(Undecodable);
    }
    let (mut name_buffer, mut value_buffer) = (Vec::new(), Vec::new());
    while let Some(first) = block.first().copied() {
        match first {
            // Indexed, of the fixed table.
            0xc0.. => {
                let index = prefixed_number(block, 6).ok_or(Undecodable)?;
                let (name, value) = STATIC.get(index).ok_or(Undecodable)?;
                field(name.as_bytes(), value.as_bytes(), tag_of_name(name.as_bytes()));
            }
            // Named by the fixed table.
            0x40..0x80 if first & 0x10 != 0 => {
                let index = prefixed_number(block, 4).ok_or(Undecodable)?;
                let (name, _) = STATIC.get(index).ok_or(Undecodable)?;
                let value = string(block, 7, &mut value_buffer)?;
                field(name.as_bytes(), value, with_value(tag_of_name(name.as_bytes()), value));
            }
            // As it is.
            0x20..0x40 => {
                let name = string(block, 3, &mut name_buffer)?;
                let value = string(block, 7, &mut value_buffer)?;
                field(name, value, with_value(tag_of_name(name), value));
            }
            // Everything else needs the dynamic table.
            _ => return Err(Undecodable),
        }
    }
    Ok(())
}

/// Takes a string whose length has `bits` bits of its first byte, behind one that says whether it is Huffman code.
fn string<'s, 'b: 's>(block: &mut &'b [u8], bits: u32, buffer: &'s mut Vec<u8>) -> Result<&'s [u8], Undecodable> {
    let huffman = block.first().ok_or(Undecodable)? & (1 << bits) != 0;
    let length = prefixed_number(block, bits).ok_or(Undecodable)?;
    let (text, rest) = block.split_at_checked(length).ok_or(Undecodable)?;
    *block = rest;
    if !huffman {
        return Ok(text);
    }
    buffer.clear();
    if huffman_decode(text, buffer, LONGEST) { Ok(buffer) } else { Err(Undecodable) }
}

/// Begins a block.
pub(super) fn begin(out: &mut Vec<u8>) {
    out.extend_from_slice(&[0, 0]);
}

/// Appends a field. Its name may be in any case. Strings go out as they are, as Huffman code costs more than it saves.
pub(super) fn put(name: &[u8], value: &[u8], out: &mut Vec<u8>) {
    let same = |known: &str| known.as_bytes().eq_ignore_ascii_case(name);
    let mut named = None;
    // Most names of answers stand among the first half, and most of the others differ by their length alone.
    for (index, (known, with)) in STATIC.iter().enumerate() {
        if known.len() == name.len() && same(known) {
            if with.as_bytes() == value {
                return put_prefixed_number((0xc0, 6), index, out);
            }
            named.get_or_insert(index);
        }
    }
    match named {
        // Secrets are never to enter a table of those behind.
        Some(index) => put_prefixed_number((if is_secret(name) { 0x70 } else { 0x50 }, 4), index, out),
        None => {
            put_prefixed_number((0x20, 3), name.len(), out);
            out.extend(name.iter().map(u8::to_ascii_lowercase));
        }
    }
    put_prefixed_number((0, 7), value.len(), out);
    out.extend_from_slice(value);
}

fn is_secret(name: &[u8]) -> bool {
    ["authorization", "cookie", "set-cookie"].iter().any(|secret| name.eq_ignore_ascii_case(secret.as_bytes()))
}

/// The fixed table (RFC 9204, appendix A).
const STATIC: [(&str, &str); 99] = [
    (":authority", ""),
    (":path", "/"),
    ("age", "0"),
    ("content-disposition", ""),
    ("content-length", "0"),
    ("cookie", ""),
    ("date", ""),
    ("etag", ""),
    ("if-modified-since", ""),
    ("if-none-match", ""),
    ("last-modified", ""),
    ("link", ""),
    ("location", ""),
    ("referer", ""),
    ("set-cookie", ""),
    (":method", "CONNECT"),
    (":method", "DELETE"),
    (":method", "GET"),
    (":method", "HEAD"),
    (":method", "OPTIONS"),
    (":method", "POST"),
    (":method", "PUT"),
    (":scheme", "http"),
    (":scheme", "https"),
    (":status", "103"),
    (":status", "200"),
    (":status", "304"),
    (":status", "404"),
    (":status", "503"),
    ("accept", "*/*"),
    ("accept", "application/dns-message"),
    ("accept-encoding", "gzip, deflate, br"),
    ("accept-ranges", "bytes"),
    ("access-control-allow-headers", "cache-control"),
    ("access-control-allow-headers", "content-type"),
    ("access-control-allow-origin", "*"),
    ("cache-control", "max-age=0"),
    ("cache-control", "max-age=2592000"),
    ("cache-control", "max-age=604800"),
    ("cache-control", "no-cache"),
    ("cache-control", "no-store"),
    ("cache-control", "public, max-age=31536000"),
    ("content-encoding", "br"),
    ("content-encoding", "gzip"),
    ("content-type", "application/dns-message"),
    ("content-type", "application/javascript"),
    ("content-type", "application/json"),
    ("content-type", "application/x-www-form-urlencoded"),
    ("content-type", "image/gif"),
    ("content-type", "image/jpeg"),
    ("content-type", "image/png"),
    ("content-type", "text/css"),
    ("content-type", "text/html; charset=utf-8"),
    ("content-type", "text/plain"),
    ("content-type", "text/plain;charset=utf-8"),
    ("range", "bytes=0-"),
    ("strict-transport-security", "max-age=31536000"),
    ("strict-transport-security", "max-age=31536000; includesubdomains"),
    ("strict-transport-security", "max-age=31536000; includesubdomains; preload"),
    ("vary", "accept-encoding"),
    ("vary", "origin"),
    ("x-content-type-options", "nosniff"),
    ("x-xss-protection", "1; mode=block"),
    (":status", "100"),
    (":status", "204"),
    (":status", "206"),
    (":status", "302"),
    (":status", "400"),
    (":status", "403"),
    (":status", "421"),
    (":status", "425"),
    (":status", "500"),
    ("accept-language", ""),
    ("access-control-allow-credentials", "FALSE"),
    ("access-control-allow-credentials", "TRUE"),
    ("access-control-allow-headers", "*"),
    ("access-control-allow-methods", "get"),
    ("access-control-allow-methods", "get, post, options"),
    ("access-control-allow-methods", "options"),
    ("access-control-expose-headers", "content-length"),
    ("access-control-request-headers", "content-type"),
    ("access-control-request-method", "get"),
    ("access-control-request-method", "post"),
    ("alt-svc", "clear"),
    ("authorization", ""),
    ("content-security-policy", "script-src 'none'; object-src 'none'; base-uri 'none'"),
    ("early-data", "1"),
    ("expect-ct", ""),
    ("forwarded", ""),
    ("if-range", ""),
    ("origin", ""),
    ("purpose", "prefetch"),
    ("server", ""),
    ("timing-allow-origin", "*"),
    ("upgrade-insecure-requests", "1"),
    ("user-agent", ""),
    ("x-forwarded-for", ""),
    ("x-frame-options", "deny"),
    ("x-frame-options", "sameorigin"),
];
