//! Where a request ends: what two readers could see differently is refused, and what goes on has one reading only.

use super::doors::{Door, Doors, status, text};

/// What becomes of an attack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// It is answered with this status, the connection ends, and the app sees nothing.
    Refused(u16),
    /// The app sees one request with this body.
    One(&'static str),
}
use Fate::{One, Refused};

const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nhost: web.shop\r\n\r\n";

/// A POST with these lines, and what follows its head.
fn post(lines: &str, body: &str) -> String {
    format!("POST / HTTP/1.1\r\nhost: web.shop\r\n{lines}\r\n{body}")
}

/// A POST in chunks, as these bytes.
fn chunked(body: &str) -> String {
    post("transfer-encoding: chunked\r\n", body)
}

#[expect(clippy::too_many_lines, reason = "a list")]
fn attacks() -> Vec<(&'static str, String, Fate)> {
    let both = |first: &str, second: &str, body: &str| post(&format!("{first}{second}"), body);
    let (length, coding) = ("content-length: 5\r\n", "transfer-encoding: chunked\r\n");
    let hidden = format!("0\r\n\r\n{SMUGGLED}");
    let coded = |line: &str| post(&format!("{line}\r\n"), &hidden);
    let long = |line: &str| post(&format!("{line}\r\n"), &format!("abcde{SMUGGLED}"));
    let head = |head: &str| head.to_owned();
    vec![
        // Content-Length beside Transfer-Encoding.
        ("CL.TE", both(length, coding, &hidden), Refused(400)),
        ("TE.CL", both(coding, length, &format!("{:x}\r\n{SMUGGLED}\r\n0\r\n\r\n", SMUGGLED.len())), Refused(400)),
        ("CL.0", both("content-length: 0\r\n", coding, &hidden), Refused(400)),
        // One of two Transfer-Encodings that one of two readers does not see.
        ("TE.TE: identity first", both("transfer-encoding: identity\r\n", coding, &hidden), Refused(501)),
        ("TE.TE: identity last", both(coding, "transfer-encoding: identity\r\n", &hidden), Refused(501)),
        ("TE.TE: twice", both(coding, coding, &hidden), Refused(501)),
        ("TE.TE: a list", coded("transfer-encoding: identity, chunked"), Refused(501)),
        ("TE.TE: another word", coded("transfer-encoding: xchunked"), Refused(501)),
        ("TE.TE: in quotes", coded("transfer-encoding: \"chunked\""), Refused(501)),
        ("TE.TE: nothing", coded("transfer-encoding:"), Refused(501)),
        ("TE.TE: a comma", coded("transfer-encoding: ,"), Refused(501)),
        ("TE.TE: vertical tab", coded("transfer-encoding: \x0bchunked"), Refused(400)),
        ("TE.TE: form feed", coded("transfer-encoding: chunked\x0c"), Refused(400)),
        ("TE.TE: NUL", coded("transfer-encoding: chunked\0"), Refused(400)),
        ("TE.TE: a space before the colon", coded("transfer-encoding : chunked"), Refused(400)),
        ("TE.TE: a tab before the colon", coded("transfer-encoding\t: chunked"), Refused(400)),
        ("TE.TE: on the next line", coded("transfer-encoding:\r\n chunked"), Refused(400)),
        ("TE.TE: the colon on the next line", coded("transfer-encoding\r\n: chunked"), Refused(400)),
        ("TE.TE: after a space", coded(" transfer-encoding: chunked"), Refused(400)),
        ("TE.TE: behind a bare LF", coded("a: b\ntransfer-encoding: chunked"), Refused(400)),
        ("TE.TE: behind a bare CR", coded("a: b\rtransfer-encoding: chunked"), Refused(400)),
        ("TE.TE: tabs are spaces", post("transfer-encoding:\tchunked\t\r\n", "0\r\n\r\n"), One("")),
        ("TE in HTTP/1.0", format!("POST / HTTP/1.0\r\nhost: web.shop\r\n{coding}\r\n{hidden}"), Refused(400)),
        // Lengths that are none, or not one.
        ("two lengths", long("content-length: 5\r\ncontent-length: 50"), Refused(400)),
        ("two lengths in one", long("content-length: 5, 50"), Refused(400)),
        ("the same length in one", long("content-length: 5, 5"), Refused(400)),
        ("the same length twice", post("content-length: 5\r\ncontent-length: 5\r\n", "abcde"), One("abcde")),
        ("a sign", long("content-length: +5"), Refused(400)),
        ("less than none", long("content-length: -5"), Refused(400)),
        ("hexadecimal", long("content-length: 0x5"), Refused(400)),
        ("two words", long("content-length: 5 5"), Refused(400)),
        ("a fraction", long("content-length: 5.0"), Refused(400)),
        ("no length", long("content-length:"), Refused(400)),
        ("vertical tab in a length", long("content-length: 5\x0b"), Refused(400)),
        ("a length past 64 bits", long("content-length: 18446744073709551621"), Refused(400)),
        ("a space before the colon", long("content-length : 5"), Refused(400)),
        ("a length behind a bare LF", long("a: b\ncontent-length: 5"), Refused(400)),
        // It says nothing of the body; the request after it is one of its own, and is judged as such.
        ("a name with an underscore", post("content_length: 50\r\ncontent-length: 5\r\n", "abcde"), One("abcde")),
        (
            "a body of a GET",
            format!("GET / HTTP/1.1\r\nhost: web.shop\r\ncontent-length: {}\r\n\r\n{SMUGGLED}", SMUGGLED.len()),
            One(SMUGGLED),
        ),
        ("an odd Expect", post("expect: y 100-continue\r\ncontent-length: 5\r\n", "abcde"), One("abcde")),
        // Lines.
        ("obs-fold", post("a: b\r\n c: d\r\n", SMUGGLED), Refused(400)),
        ("obs-fold by a tab", post("a: b\r\n\tc: d\r\n", SMUGGLED), Refused(400)),
        ("a space before the first field", head("GET / HTTP/1.1\r\n host: web.shop\r\n\r\n"), Refused(400)),
        ("bare LF everywhere", head("GET / HTTP/1.1\nhost: web.shop\n\n"), Refused(400)),
        ("bare LF after the first line", head("GET / HTTP/1.1\nhost: web.shop\r\n\r\n"), Refused(400)),
        ("bare LF at the end of the head", head("GET / HTTP/1.1\r\nhost: web.shop\r\n\n"), Refused(400)),
        ("LF CR", head("GET / HTTP/1.1\n\rhost: web.shop\n\r\n\r"), Refused(400)),
        ("bare CR everywhere", head("GET / HTTP/1.1\rhost: web.shop\r\r\n\r\n"), Refused(400)),
        ("bare CR in a value", post("a: b\rc\r\n", ""), Refused(400)),
        ("NUL in a value", post("a: b\0c\r\n", ""), Refused(400)),
        ("NUL in a name", post("a\0b: c\r\n", ""), Refused(400)),
        ("no name", post(": a\r\n", ""), Refused(400)),
        ("no colon", post("a\r\n", ""), Refused(400)),
        ("a byte of another alphabet in a name", post("transfer-\u{e9}ncoding: chunked\r\n", ""), Refused(400)),
        // The first line.
        ("two spaces", head("GET  / HTTP/1.1\r\nhost: web.shop\r\n\r\n"), Refused(400)),
        ("a tab", head("GET\t/ HTTP/1.1\r\nhost: web.shop\r\n\r\n"), Refused(400)),
        ("two versions", head("GET / HTTP/1.1 HTTP/1.1\r\nhost: web.shop\r\n\r\n"), Refused(400)),
        ("another version", head("GET / HTTP/1.2\r\nhost: web.shop\r\n\r\n"), Refused(400)),
        ("a space in the target", head("GET /a b HTTP/1.1\r\nhost: web.shop\r\n\r\n"), Refused(400)),
        ("NUL in the target", head("GET /a\0b HTTP/1.1\r\nhost: web.shop\r\n\r\n"), Refused(400)),
        ("no version", head("GET /\r\nhost: web.shop\r\n\r\n"), Refused(400)),
        ("no target", head("GET HTTP/1.1\r\nhost: web.shop\r\n\r\n"), Refused(400)),
        ("CONNECT", head("CONNECT web.shop:80 HTTP/1.1\r\nhost: web.shop:80\r\n\r\n"), Refused(501)),
        ("PRI in the middle", head("PRI * HTTP/1.1\r\nhost: web.shop\r\n\r\n"), Refused(400)),
        // Chunks.
        ("a chunk's extension goes no further", chunked("5;a=b\r\nabcde\r\n0;c\r\n\r\n"), One("abcde")),
        ("a bare LF in an extension", chunked("5;\na\r\nabcde\r\n0\r\n\r\n"), Refused(400)),
        ("a bare CR in an extension", chunked("5;\ra\r\nabcde\r\n0\r\n\r\n"), Refused(400)),
        ("a NUL in an extension", chunked("5;\0a\r\nabcde\r\n0\r\n\r\n"), Refused(400)),
        ("a size that ends in a bare LF", chunked("5\nabcde\r\n0\r\n\r\n"), Refused(400)),
        ("a size that ends in a bare CR", chunked("5\rabcde\r\n0\r\n\r\n"), Refused(400)),
        ("a size past 64 bits", chunked("10000000000000005\r\nabcde\r\n0\r\n\r\n"), Refused(400)),
        ("the largest size", chunked("ffffffffffffffff\r\nabcde\r\n0\r\n\r\n"), Refused(400)),
        ("a size with a sign", chunked("+5\r\nabcde\r\n0\r\n\r\n"), Refused(400)),
        ("a size with a prefix", chunked("0x5\r\nabcde\r\n0\r\n\r\n"), Refused(400)),
        ("a size with an underscore", chunked("0_5\r\nabcde\r\n0\r\n\r\n"), Refused(400)),
        ("no size", chunked("\r\nabcde\r\n0\r\n\r\n"), Refused(400)),
        ("a space before a size", chunked(" 5\r\nabcde\r\n0\r\n\r\n"), Refused(400)),
        ("a chunk longer than its size", chunked("5\r\nabcdefg\r\n0\r\n\r\n"), Refused(400)),
        ("any two bytes behind a chunk", chunked("5\r\nabcdeXX0\r\n\r\n"), Refused(400)),
        ("a bare LF behind a chunk", chunked("5\r\nabcde\n0\r\n\r\n"), Refused(400)),
        ("a bare LF behind the last chunk", chunked("5\r\nabcde\r\n0\n\n"), Refused(400)),
        ("a bare LF in trailers", chunked("5\r\nabcde\r\n0\r\na: b\n\r\n"), Refused(400)),
        (
            "trailers that frame",
            chunked("5\r\nabcde\r\n0\r\ncontent-length: 50\r\ntransfer-encoding: chunked\r\nhost: x\r\n\r\n"),
            One("abcde"),
        ),
        // Hosts.
        ("two hosts", head("GET / HTTP/1.1\r\nhost: web.shop\r\nhost: other.shop\r\n\r\n"), Refused(400)),
        ("the same host twice", head("GET / HTTP/1.1\r\nhost: web.shop\r\nHost: web.shop\r\n\r\n"), Refused(400)),
        ("no host", head("GET / HTTP/1.1\r\n\r\n"), Refused(400)),
        ("a host with a path", head("GET / HTTP/1.1\r\nhost: web.shop/smuggled\r\n\r\n"), Refused(400)),
        ("a host with a user", head("GET / HTTP/1.1\r\nhost: web.shop@other.shop\r\n\r\n"), Refused(400)),
        ("a host with a space", head("GET / HTTP/1.1\r\nhost: web.shop other.shop\r\n\r\n"), Refused(400)),
        ("a user in the target", head("GET http://web.shop@other.shop/ HTTP/1.1\r\nhost: web.shop\r\n\r\n"), Refused(400)),
        ("another scheme", head("GET ftp://web.shop/ HTTP/1.1\r\nhost: web.shop\r\n\r\n"), Refused(400)),
        // Out of HTTP.
        (
            "h2c",
            post("connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__\r\ncontent-length: 0\r\n", ""),
            One(""),
        ),
        ("what proxies alone say", post("connection: upgrade\r\nupgrade: lorica-tcp\r\ncontent-length: 0\r\n", ""), One("")),
    ]
}

#[tokio::test]
async fn no_request_hides_in_another() -> anyhow::Result<()> {
    let doors = Doors::open(&Door::ALL, "").await?;
    let mut wrong = Vec::new();
    for door in Door::ALL {
        for (name, bytes, fate) in attacks() {
            let (answer, seen) = doors.attack(door, bytes.as_bytes()).await.map_err(|error| error.context(format!("{door:?}: {name}")))?;
            let became = match (status(&answer), seen.as_slice()) {
                // What is no HTTP at all is cut off before HTTP is spoken.
                (None, []) if answer.is_empty() => Ok(fate),
                (Some(status), []) if status >= 400 && text(&answer).matches("HTTP/1.1 ").count() == 1 => Ok(Refused(status)),
                (Some(200), [one, last]) if last.path() == "/last" => Err(one),
                _ => {
                    wrong.push(format!("{door:?}: {name}: {:?}, the app saw {seen:?}", text(&answer)));
                    continue;
                }
            };
            let fits = match (became, fate) {
                (Ok(Refused(_)), One(_)) => false,
                (Ok(became), fate) => became == fate,
                (Err(one), One(body)) => {
                    let barred = ["upgrade", "http2-settings", "transfer_encoding"];
                    text(&one.body) == body && one.trailers.is_empty() && barred.iter().all(|name| one.all(name).is_empty())
                }
                (Err(_), Refused(_)) => false,
            };
            if !fits {
                wrong.push(format!("{door:?}: {name}: {:?}, the app saw {seen:?}", text(&answer)));
            }
        }
    }
    assert!(wrong.is_empty(), "{} got in or were refused otherwise:\n{}", wrong.len(), wrong.join("\n"));
    doors.mesh.finish().await
}
