//! HTTP/2, frame by frame as an attacker writes it, before an app of HTTP/1: what would be another message there goes no further.

use testbed::PATIENCE;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use super::backend::Seen;
use super::doors::{Door, Doors, Duplex};

const HEADERS: u8 = 1;
const DATA: u8 = 0;
const RESET: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Status(u16),
    Reset,
    /// The whole connection ended.
    Ended,
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A text of HPACK, as it is.
fn literal(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    if text.len() < 127 {
        out.push(u8::try_from(text.len()).unwrap());
    } else {
        out.push(127);
        let mut rest = text.len() - 127;
        while rest >= 128 {
            out.push(u8::try_from(rest % 128).unwrap() | 128);
            rest /= 128;
        }
        out.push(u8::try_from(rest).unwrap());
    }
    out.extend(text);
    out
}

/// Fields as literals that no table remembers.
fn block(fields: &[(Vec<u8>, Vec<u8>)]) -> Vec<u8> {
    fields.iter().flat_map(|(name, value)| [vec![0], literal(name), literal(value)].concat()).collect()
}

/// A request as it is sent.
struct Attack {
    name: &'static str,
    fields: Vec<(Vec<u8>, Vec<u8>)>,
    body: Option<&'static [u8]>,
    trailers: Vec<(Vec<u8>, Vec<u8>)>,
    /// What the app may see: nothing, or a request of which this is true.
    sees: Option<fn(&Seen) -> bool>,
}

fn field(name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> (Vec<u8>, Vec<u8>) {
    (name.as_ref().to_vec(), value.as_ref().to_vec())
}

/// A request with pseudo-fields as they should be, changed.
fn changed(pseudo: &[(&str, &str)]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut fields = vec![field(":method", "POST"), field(":scheme", "http"), field(":authority", "web.shop"), field(":path", "/")];
    for (name, value) in pseudo {
        if let Some(known) = fields.iter_mut().find(|(known, _)| known == name.as_bytes()) {
            known.1 = value.as_bytes().to_vec();
        }
    }
    fields
}

fn refused(name: &'static str, fields: Vec<(Vec<u8>, Vec<u8>)>) -> Attack {
    Attack { name, fields, body: None, trailers: Vec::new(), sees: None }
}

/// A good request with one more field.
fn with(name: &'static str, field_name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Attack {
    let mut fields = changed(&[]);
    fields.push(field(field_name, value));
    refused(name, fields)
}

const SMUGGLED: &str = "x\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: web.shop\r\n\r\n";

fn attacks() -> Vec<Attack> {
    let is_bare = |seen: &Seen| seen.body.is_empty() && seen.trailers.is_empty();
    let connect = |protocol: &str| {
        let mut fields = changed(&[(":method", "CONNECT")]);
        fields.push(field(":protocol", protocol));
        fields
    };
    let without = |name: &str| changed(&[]).into_iter().filter(|(known, _)| known != name.as_bytes()).collect::<Vec<_>>();
    let after = |name: &str, value: &str| [vec![field("a", "b")], changed(&[]), vec![field(name, value)]].concat();
    vec![
        // The lines that HTTP/1 would see.
        with("CR LF in a value", "a", SMUGGLED),
        with("LF in a value", "a", "b\nc: d"),
        with("CR in a value", "a", "b\rc: d"),
        with("NUL in a value", "a", "b\0c"),
        with("CR LF in a cookie", "cookie", SMUGGLED),
        with("CR LF in a name", "a: b\r\nc", "d"),
        with("a colon in a name", "a:b", "c"),
        with("a space in a name", "a b", "c"),
        with("a space at the end of a name", "transfer-encoding ", "chunked"),
        with("NUL in a name", "a\0b", "c"),
        with("upper case in a name", "Transfer-Encoding", "chunked"),
        with("no name", "", "a"),
        with("a byte of another alphabet in a name", b"a\xe9", "b"),
        refused("CR LF in the path", changed(&[(":path", "/ HTTP/1.1\r\nhost: web.shop\r\n\r\nGET /smuggled")])),
        refused("LF in the path", changed(&[(":path", "/\n")])),
        refused("a space in the path", changed(&[(":path", "/ HTTP/1.1")])),
        refused("a tab in the path", changed(&[(":path", "/\tx")])),
        refused("a fragment in the path", changed(&[(":path", "/#/admin")])),
        refused("a whole URL as path", changed(&[(":path", "http://other.shop/")])),
        refused("a host as path", changed(&[(":path", "other.shop")])),
        refused("a star as path", changed(&[(":path", "*")])),
        refused("an empty path", changed(&[(":path", "")])),
        refused("CR LF in the method", changed(&[(":method", "GET / HTTP/1.1\r\nhost: web.shop\r\n\r\nGET")])),
        refused("a space in the method", changed(&[(":method", "GET /smuggled HTTP/1.1")])),
        refused("an empty method", changed(&[(":method", "")])),
        refused("CR LF in the authority", changed(&[(":authority", SMUGGLED)])),
        refused("a path in the authority", changed(&[(":authority", "web.shop/x")])),
        refused("a user in the authority", changed(&[(":authority", "web.shop@other.shop")])),
        refused("a space in the authority", changed(&[(":authority", "web.shop other.shop")])),
        refused("a URL as scheme", changed(&[(":scheme", "http://other.shop/?")])),
        refused("CR LF in the scheme", changed(&[(":scheme", "http\r\na: b")])),
        // Pseudo-fields.
        refused("no path", without(":path")),
        refused("no method", without(":method")),
        refused("no scheme", without(":scheme")),
        refused("two paths", [changed(&[]), vec![field(":path", "/smuggled")]].concat()),
        refused("two methods", [vec![field(":method", "GET")], changed(&[])].concat()),
        refused("two authorities", [changed(&[]), vec![field(":authority", "other.shop")]].concat()),
        refused("a pseudo-field behind a field", after(":path", "/smuggled")),
        with("an unknown pseudo-field", ":smuggled", "x"),
        with("a pseudo-field of answers", ":status", "200"),
        with("a protocol without CONNECT", ":protocol", "websocket"),
        refused("CONNECT with a path", changed(&[(":method", "CONNECT")])),
        refused("CONNECT", vec![field(":method", "CONNECT"), field(":authority", "web.shop:80")]),
        // Fields of a connection, and of framing.
        Attack {
            body: Some(b"0\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: web.shop\r\n\r\n"),
            ..with("H2.TE", "transfer-encoding", "chunked")
        },
        with("connection", "connection", "x-forwarded-client-cert"),
        with("keep-alive", "keep-alive", "5"),
        with("proxy-connection", "proxy-connection", "keep-alive"),
        with("upgrade", "upgrade", "h2c"),
        with("te", "te", "gzip"),
        Attack { body: Some(b"GET /smuggled HTTP/1.1\r\nhost: web.shop\r\n\r\n"), ..with("H2.CL: none of a body", "content-length", "0") },
        Attack { body: Some(b"abcde"), ..with("H2.CL: less than the body", "content-length", "3") },
        Attack { body: Some(b"abcde"), ..with("H2.CL: more than the body", "content-length", "50") },
        with("H2.CL: a body that does not come", "content-length", "5"),
        Attack { body: Some(b"abcde"), ..with("a length with a sign", "content-length", "+5") },
        Attack { body: Some(b"abcde"), ..with("two lengths in one", "content-length", "5, 5") },
        refused("two lengths", [changed(&[]), vec![field("content-length", "5"), field("content-length", "0")]].concat()),
        refused("two hosts", [changed(&[]), vec![field("host", "a"), field("host", "b")]].concat()),
        Attack {
            sees: Some(|seen| seen.all("host") == ["web.shop"] && seen.body.is_empty()),
            ..with("another host beside the authority", "host", "other.shop")
        },
        Attack { body: Some(b"abcde"), trailers: vec![field(":path", "/smuggled")], ..refused("a pseudo-field as trailer", changed(&[])) },
        Attack { body: Some(b"abcde"), trailers: vec![field("a", "b\r\nc: d")], ..refused("CR LF in a trailer", changed(&[])) },
        Attack { body: Some(b"abcde"), trailers: vec![field("a\r\n\r\nb", "c")], ..refused("CR LF in a trailer's name", changed(&[])) },
        Attack {
            body: Some(b"abcde"),
            trailers: vec![field("content-length", "50"), field("host", "other.shop")],
            sees: Some(|seen| seen.body == b"abcde" && seen.trailers.is_empty()),
            ..refused("trailers that frame", changed(&[]))
        },
        // Out of HTTP.
        refused("CR LF in a protocol", connect("websocket\r\nx-smuggled: 1")),
        refused("an empty protocol", connect("")),
        // What it carries goes nowhere. (Between two proxies of the mesh it is a connection of its own, whose requests are judged.)
        Attack {
            body: Some(SMUGGLED.as_bytes()),
            sees: Some(is_bare),
            ..refused("what proxies alone say, of bytes", connect("lorica-tcp"))
        },
        Attack {
            body: Some(SMUGGLED.as_bytes()),
            sees: Some(is_bare),
            ..refused("what proxies alone say, of HTTP/1", connect("lorica-http1"))
        },
    ]
}

async fn sent(stream: &mut dyn Duplex, attack: &Attack) -> anyhow::Result<Outcome> {
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(SETTINGS, 0, 0, &[]));
    let last = if attack.body.is_none() && attack.trailers.is_empty() { END_STREAM } else { 0 };
    bytes.extend(frame(HEADERS, END_HEADERS | last, 1, &block(&attack.fields)));
    if let Some(body) = attack.body {
        bytes.extend(frame(DATA, if attack.trailers.is_empty() { END_STREAM } else { 0 }, 1, body));
    }
    if !attack.trailers.is_empty() {
        bytes.extend(frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(&attack.trailers)));
    }
    stream.write_all(&bytes).await?;
    let mut inbox = Vec::new();
    loop {
        while let Some(head) = inbox.first_chunk::<9>().copied() {
            let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
            if inbox.len() < 9 + length {
                break;
            }
            let payload: Vec<u8> = inbox.drain(..9 + length).skip(9).collect();
            match (head[3], head[8]) {
                (HEADERS, 1) => return status(&payload).map(Outcome::Status),
                (RESET, 1) => return Ok(Outcome::Reset),
                (GOAWAY, 0) => return Ok(Outcome::Ended),
                _ => {}
            }
        }
        match timeout(PATIENCE, stream.read_buf(&mut inbox)).await? {
            Ok(1..) => {}
            _ => return Ok(Outcome::Ended),
        }
    }
}

/// The status of an answer, which stands first in its block.
fn status(block: &[u8]) -> anyhow::Result<u16> {
    Ok(match block {
        [index @ 0x88..=0x8e, ..] => [200, 204, 206, 304, 400, 404, 500][usize::from(index - 0x88)],
        [_, 3, text @ ..] => std::str::from_utf8(&text[..3])?.parse()?,
        other => anyhow::bail!("the test cannot read a status in {:02x?}", &other[..other.len().min(8)]),
    })
}

#[tokio::test]
async fn no_request_of_http2_becomes_another_in_http1() -> anyhow::Result<()> {
    let doors = Doors::open(&Door::ALL, "").await?;
    let mut wrong = Vec::new();
    for door in Door::ALL {
        let mut attacks = attacks();
        if door != Door::Gateway {
            // A sidecar speaks HTTP/2 to the app where its caller does. What is wrong comes to none.
            attacks.retain(|attack| attack.sees.is_none());
        }
        for attack in attacks {
            let mut stream = doors.connect(door, b"h2").await?;
            let outcome = sent(&mut *stream, &attack).await.map_err(|error| error.context(format!("{door:?}: {}", attack.name)))?;
            drop(stream);
            let seen = doors.seen(door).await.map_err(|error| error.context(format!("{door:?}: {}", attack.name)))?;
            let is_well = match (outcome, seen.as_slice(), attack.sees) {
                (Outcome::Reset | Outcome::Ended | Outcome::Status(400..=499 | 501), [], _) => true,
                (Outcome::Status(200), [one], Some(fits)) => fits(one),
                _ => false,
            };
            if !is_well {
                wrong.push(format!("{door:?}: {}: {outcome:?}, the app saw {seen:?}", attack.name));
            }
        }
    }
    assert!(wrong.is_empty(), "{} got in or were refused otherwise:\n{}", wrong.len(), wrong.join("\n"));
    doors.mesh.finish().await
}

/// The same frames, with nothing wrong in them, arrive: what refuses the others is their content.
#[tokio::test]
async fn the_frames_of_these_tests_are_good_ones() -> anyhow::Result<()> {
    let doors = Doors::open(&[Door::Gateway], "").await?;
    let good = Attack { body: Some(b"abcde"), trailers: vec![field("x-sum", "1")], ..with("good", "content-length", "5") };
    let mut stream = doors.connect(Door::Gateway, b"h2").await?;
    assert_eq!(sent(&mut *stream, &good).await?, Outcome::Status(200));
    let seen = doors.seen(Door::Gateway).await?;
    let [one] = seen.as_slice() else { panic!("{seen:?}") };
    assert_eq!((one.line.as_str(), one.body.as_slice()), ("POST / HTTP/1.1", &b"abcde"[..]));
    doors.mesh.finish().await
}
