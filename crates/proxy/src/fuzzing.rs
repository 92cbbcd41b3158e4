//! What comes to a proxy from anybody, as fuzzers call it: bytes in, nothing out. They may be refused, and nothing else.
//!
//! Compiled for tests, which run it on bytes by chance, and for `fuzz/` (`cargo xtask fuzz`), which runs it for longer.

#![allow(clippy::panic, reason = "a mistake that is found ends the run")]

use lorica_model::head::{HeadBuilder, Version};
use tokio_rustls::rustls::server::Acceptor;

use crate::path::detect;
use crate::path::grpc_web::Call;
use crate::{dns, wire};

/// A name, what is run on bytes, and bytes to begin with.
pub type Target = (&'static str, fn(&[u8]), fn() -> Vec<Vec<u8>>);

/// All of this crate.
pub const TARGETS: &[Target] = &[
    ("http1_requests", wire::fuzzing::http1_requests, http1_requests),
    ("http1_answers", wire::fuzzing::http1_answers, http1_answers),
    ("http2_requests", wire::fuzzing::http2_requests, http2_requests),
    ("http2_answers", wire::fuzzing::http2_answers, http2_answers),
    ("hpack", wire::fuzzing::hpack, hpack),
    #[cfg(feature = "http3")]
    ("qpack", wire::fuzzing::qpack, qpack),
    ("dns", dns::fuzzed, dns_messages),
    ("first_bytes", first_bytes, hellos),
    ("grpc_web", grpc_web, bodies),
];

/// What a connection begins with: what it speaks, and the hello of TLS.
pub fn first_bytes(bytes: &[u8]) {
    // What is known once stays so, however much more comes.
    let known = (0..=bytes.len()).find_map(|length| bytes.get(..length).and_then(detect::spoken));
    assert!(known.is_none() || detect::spoken(bytes) == known, "{known:?}, then {:?}", detect::spoken(bytes));
    let mut acceptor = Acceptor::default();
    let mut rest = bytes;
    while !rest.is_empty() && acceptor.read_tls(&mut rest).is_ok_and(|read| read > 0) {
        match acceptor.accept() {
            Ok(None) => {}
            Ok(Some(accepted)) => return drop(accepted.client_hello().server_name().map(str::to_owned)),
            Err(_) => return,
        }
    }
}

/// The body of a gRPC-Web request in base64, cut where its first byte says.
pub fn grpc_web(bytes: &[u8]) {
    let Some((cut, body)) = bytes.split_first() else { return };
    let mut builder = HeadBuilder::with_capacity(64);
    if builder.field(b"content-type", b"application/grpc-web-text").is_err() {
        return;
    }
    let Ok(head) = builder.request(Version::Http11, "POST", "/a.B/C", "web.shop", None) else { return };
    let decoder = || Call::of(&head).and_then(Call::decoder);
    let (Some(mut whole), Some(mut parts)) = (decoder(), decoder()) else { panic!("it is no gRPC-Web") };
    let one = whole.read(body);
    let (first, second) = body.split_at(usize::from(*cut).min(body.len()));
    let two = parts.read(first).and_then(|first| Ok([first, parts.read(second)?].concat()));
    // Where it is cut changes nothing.
    assert_eq!(one.as_deref().ok(), two.as_deref().ok());
    if one.is_ok() {
        assert_eq!(whole.end().is_ok(), parts.end().is_ok());
    }
}

fn texts(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

fn http1_requests() -> Vec<Vec<u8>> {
    texts(&[
        "GET /a?b=c HTTP/1.1\r\nHost: web.shop\r\n\r\n",
        "POST http://web.shop/ HTTP/1.1\r\nhost: web.shop\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\nabcdeGET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: web.shop\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n5;a=b\r\nabcde\r\n0\r\nx-sum: 1\r\n\r\n",
        "GET /chat HTTP/1.1\r\nHost: web.shop\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        "GET / HTTP/1.0\r\n\r\n",
    ])
}

fn http1_answers() -> Vec<Vec<u8>> {
    texts(&[
        "\0HTTP/1.1 200 OK\r\nContent-Length: 2\r\nKeep-Alive: timeout=5\r\n\r\nok",
        "\0HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nx: y\r\n\r\n",
        "\u{1}HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n",
        "\0HTTP/1.0 200 OK\r\n\r\nuntil it closes",
    ])
}

fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).unwrap_or(u8::MAX);
    [&[0, 0, length, kind, flags, 0, 0, 0, stream], &payload[..length.into()]].concat()
}

/// A block: `GET http://web.shop/` with a field of the table and one of its own.
const REQUEST: &[u8] = b"\x82\x86\x84\x41\x08web.shop\x40\x01a\x01b\x7a\x03abc";

fn http2_requests() -> Vec<Vec<u8>> {
    let settings = frame(4, 0, 0, &[0, 3, 0, 0, 0, 100, 0, 4, 0, 1, 0, 0]);
    let post = [frame(1, 4, 1, &[b"\x83", &REQUEST[1..]].concat()), frame(0, 1, 1, b"abcde")].concat();
    let trailers =
        [frame(1, 4, 3, &[b"\x83", &REQUEST[1..]].concat()), frame(0, 0, 3, b"abc"), frame(1, 5, 3, b"\x40\x05x-sum\x011")].concat();
    let others =
        [frame(6, 0, 0, &[7; 8]), frame(8, 0, 0, &[0, 0, 1, 0]), frame(2, 0, 5, &[0, 0, 0, 0, 16]), frame(3, 0, 1, &[0, 0, 0, 8])].concat();
    vec![
        [settings.clone(), frame(1, 5, 1, REQUEST)].concat(),
        [settings.clone(), post, trailers, others].concat(),
        [settings, frame(1, 1, 1, &REQUEST[..5]), frame(9, 4, 1, &REQUEST[5..]), frame(7, 0, 0, &[0; 8])].concat(),
    ]
}

fn http2_answers() -> Vec<Vec<u8>> {
    let settings = [frame(4, 0, 0, &[0, 8, 0, 0, 0, 1]), frame(4, 1, 0, &[])].concat();
    vec![
        [settings.clone(), frame(1, 4, 1, b"\x88\x5f\x01a"), frame(0, 1, 1, b"ok")].concat(),
        [
            settings.clone(),
            frame(1, 4, 1, b"\x48\x03103"),
            frame(1, 4, 1, b"\x88"),
            frame(0, 0, 1, b"ok"),
            frame(1, 5, 1, b"\x40\x01a\x01b"),
        ]
        .concat(),
        [settings, frame(3, 0, 1, &[0, 0, 0, 7]), frame(7, 0, 0, &[0; 8])].concat(),
    ]
}

fn hpack() -> Vec<Vec<u8>> {
    let length = u8::try_from(REQUEST.len()).unwrap_or_default();
    let huffman = b"\x82\x86\x84\x41\x8c\xf1\xe3\xc2\xe5\xf2\x3a\x6b\xa0\xab\x90\xf4\xff";
    vec![[&[length], REQUEST, &[length], REQUEST].concat(), [&[17], &huffman[..], &[3, 0x3f, 0xe1, 0x1f, 1, 0xbe]].concat()]
}

#[cfg(feature = "http3")]
fn qpack() -> Vec<Vec<u8>> {
    vec![b"\0\0\xd1\xd7\x50\x08web.shop\xc1\x21a\x01b".to_vec(), b"\0\0\xd9\x5f\x1d\x03foo".to_vec()]
}

fn dns_messages() -> Vec<Vec<u8>> {
    let question = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\x01\x03web\x04shop\x04mesh\0\0\x01\0\x01\0\0\x29\x04\xd0\0\0\0\0\0\0".to_vec();
    let reverse = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x017\x010\x010\x03240\x07in-addr\x04arpa\0\0\x0c\0\x01".to_vec();
    let answer = b"\x12\x34\x81\x80\0\x01\0\x02\0\0\0\0\x01a\x07example\0\0\x01\0\x01\xc0\x0c\0\x05\0\x01\0\0\0\x3c\0\x04\x01b\xc0\x0e\xc0\x27\0\x01\0\x01\0\0\0\x3c\0\x04\xc0\0\x02\x01".to_vec();
    vec![question, reverse, answer, b"nameserver 192.0.2.1\nnameserver fe80::1%eth0\n".to_vec()]
}

fn hellos() -> Vec<Vec<u8>> {
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend(b"\0\0\x02\x13\x01\x01\0\0\x3f\0\0\0\x0d\0\x0b\0\0\x08web.shop\0\x2b\0\x03\x02\x03\x04\0\x0a\0\x04\0\x02\0\x1d\0\x0d\0\x04\0\x02\x04\x03\0\x10\0\x0e\0\x0c\x02h2\x08http/1.1");
    let length = u8::try_from(body.len()).unwrap_or_default();
    let hello = [&[22, 3, 1, 0, length + 4, 1, 0, 0, length], body.as_slice()].concat();
    let mut seeds = texts(&[
        "GET / HTTP/1.1\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "CONNECT a:443 HTTP/1.1\r\n",
        "GET http://a/ HTTP/1.1\r\n",
        "220 ready\r\n",
    ]);
    seeds.push(hello);
    seeds
}

fn bodies() -> Vec<Vec<u8>> {
    texts(&["\u{3}AAAAAAUKA2Fi", "\u{2}AAAAAAA=AAAAAAA=", "\0AAAA"])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

        #[test]
        fn no_bytes_break_a_proxy(noise in prop::collection::vec(any::<u8>(), 0..200), which in any::<prop::sample::Index>(), at in any::<prop::sample::Index>()) {
            for (_, run, samples) in TARGETS {
                run(&noise);
                let mut bytes = which.get(&samples()).clone();
                let at = at.index(bytes.len());
                let end = (at + noise.len() % 9).min(bytes.len());
                bytes.splice(at..end, noise.iter().copied().take(8));
                run(&bytes);
            }
        }
    }
}
