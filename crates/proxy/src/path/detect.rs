//! detect: what the first bytes of a connection speak. Pure; the caller reads.

use lorica_model::snapshot::Protocol;

/// The connection preface of HTTP/2 (RFC 9113, 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The longest method that is looked for; the registered ones have at most 17 letters.
const LONGEST_METHOD: usize = 20;

/// What the first bytes speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spoken {
    /// HTTP/1.0 or 1.1.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// The app's own TLS, which passes as it is.
    Tls,
    /// Anything else.
    Other,
}

impl Spoken {
    /// The word in logs and metrics.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Http1 => "http1",
            Self::Http2 => "http2",
            Self::Tls => "tls",
            Self::Other => "tcp",
        }
    }
}

/// What `bytes`, the first of a connection, speak; `None` where more are needed to tell.
#[must_use]
pub fn spoken(bytes: &[u8]) -> Option<Spoken> {
    match bytes {
        [] => None,
        // A handshake record, version 3.x.
        [0x16] => None,
        [0x16, 0x03, ..] => Some(Spoken::Tls),
        _ if bytes.len() >= PREFACE.len() && bytes.starts_with(PREFACE) => Some(Spoken::Http2),
        _ if PREFACE.starts_with(bytes) => None,
        _ => http1(bytes),
    }
}

/// A method, a space and a target. The rest of the line may be long, and is the codec's to judge.
fn http1(bytes: &[u8]) -> Option<Spoken> {
    let method = bytes.iter().take(LONGEST_METHOD + 1).take_while(|byte| byte.is_ascii_uppercase() || **byte == b'-').count();
    if !(3..=LONGEST_METHOD).contains(&method) {
        let undecided = method == bytes.len() && method < 3;
        return if undecided { None } else { Some(Spoken::Other) };
    }
    match &bytes[method..] {
        [] | [b' '] => None,
        [b' ', b'/' | b'*', ..] => Some(Spoken::Http1),
        [b' ', rest @ ..] if bytes.starts_with(b"CONNECT ") && rest[0].is_ascii_graphic() => Some(Spoken::Http1),
        [b' ', rest @ ..] => absolute(rest),
        _ => Some(Spoken::Other),
    }
}

fn absolute(rest: &[u8]) -> Option<Spoken> {
    let scheme = b"http";
    let length = rest.len().min(scheme.len());
    match rest[..length].eq_ignore_ascii_case(&scheme[..length]) {
        true if length < scheme.len() => None,
        true => Some(Spoken::Http1),
        false => Some(Spoken::Other),
    }
}

/// What is to be done with a port's connection before its first byte came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plan {
    /// The bytes decide; the upstream may speak first.
    Detect,
    /// It speaks HTTP; the bytes only tell which version.
    Http,
    /// It is relayed.
    Relay,
}

/// The plan for a port that declares `protocol`; `http_only` where HTTP rules must not be passed by.
#[must_use]
pub const fn plan(protocol: Protocol, http_only: bool) -> Plan {
    match protocol {
        Protocol::Tcp => Plan::Relay,
        Protocol::Http | Protocol::Http2 | Protocol::Grpc => Plan::Http,
        Protocol::Detect if http_only => Plan::Http,
        Protocol::Detect => Plan::Detect,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_bytes_tell_the_protocol() {
        for (bytes, expected) in [
            (&b""[..], None),
            (b"GE", None),
            (b"GET", None),
            (b"GET ", None),
            (b"GET /", Some(Spoken::Http1)),
            (b"OPTIONS *", Some(Spoken::Http1)),
            (b"GET ht", None),
            (b"GET http://a/ HTTP/1.1\r\n", Some(Spoken::Http1)),
            (b"CONNECT a:80 HTTP/1.1", Some(Spoken::Http1)),
            (b"BASELINE-CONTROL /", Some(Spoken::Http1)),
            (b"PRI", None),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Some(Spoken::Http2)),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nmore", Some(Spoken::Http2)),
            (b"\x16", None),
            (b"\x16\x03\x01", Some(Spoken::Tls)),
            (b"\x16\x04", Some(Spoken::Other)),
            (b"PING\r\n", Some(Spoken::Other)),
            (b"EVENT queue=x", Some(Spoken::Other)),
            (b"EHLO mail.example", Some(Spoken::Other)),
            (b"*1\r\n$4\r\nPING\r\n", Some(Spoken::Other)),
            (b"get / HTTP/1.1", Some(Spoken::Other)),
            (b"\0\0\0\x08", Some(Spoken::Other)),
            (b"ABCDEFGHIJKLMNOPQRSTUVWXYZ", Some(Spoken::Other)),
        ] {
            assert_eq!(spoken(bytes), expected, "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn a_preface_cut_anywhere_is_awaited() {
        for length in 1..PREFACE.len() {
            assert_eq!(spoken(&PREFACE[..length]), None, "{length}");
        }
    }
}
