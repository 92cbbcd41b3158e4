//! The rules of a hop: which fields go on, and how they change between versions. Pure.
//!
//! In: fields as received, and the edits beside them. Out: the fields that the next connection gets. Fields that speak of one
//! connection stay behind; framing (`Content-Length`, `Transfer-Encoding`) and `Host` are written by the codecs alone.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lorica_identity::digest::sha1;
use lorica_model::head::{Edits, Field, Fields, is_same, tokens};
use smallvec::SmallVec;

use super::error::WireError;

/// Fields that speak of one connection only (RFC 9110, 7.6.1), those that this codec writes itself among them.
const HOP_BY_HOP: [&str; 6] = ["connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade", "http2-settings"];

/// Fields that `Connection` cannot name: without them the message would be another one.
const NOT_NAMEABLE: [&str; 6] = ["host", "content-length", "te", "keep-alive", "close", "upgrade"];

/// Fields that may not come as trailers (RFC 9110, 6.5.1): whoever merges them would frame or route the message anew.
const NOT_TRAILERS: [&str; 5] = ["content-length", "host", "te", "trailer", "expect"];

/// By which a client of HTTP/1 makes sure that its server knows WebSocket.
pub(super) const WEBSOCKET_KEY: &str = "sec-websocket-key";
/// What answers it.
pub(super) const WEBSOCKET_ACCEPT: &str = "sec-websocket-accept";

/// Which fields of a message go on. Made once a message, as `Connection` may name more that do not.
pub(super) struct Onward<'f> {
    named: SmallVec<[&'f [u8]; 2]>,
}

impl<'f> Onward<'f> {
    /// The rules for a message that came with `fields`.
    pub(super) fn new(fields: &'f Fields) -> Self {
        let mut named = SmallVec::new();
        for value in fields.get_all("connection") {
            named.extend(tokens(value).filter(|token| !is_one_of(token, &NOT_NAMEABLE)));
        }
        Self { named }
    }

    /// A received field as it goes on, if it does.
    pub(super) fn pass<'v>(&self, field: Field<'v>) -> Option<Field<'v>> {
        if self.named.iter().any(|named| is_same(field.name, named)) { None } else { pass(field) }
    }
}

/// The fields of a message that go on: those received, without the hop's own, then those that the edits add. What a caller
/// names in `Connection` cannot take away what the proxy itself adds.
pub(super) fn onward<'f>(fields: &'f Fields, edits: &'f Edits) -> impl Iterator<Item = Field<'f>> {
    let rules = Onward::new(fields);
    edits.kept(fields).filter_map(move |field| rules.pass(field)).chain(edits.added().filter_map(pass))
}

/// A field as it goes on, whatever `Connection` says.
fn pass(field: Field<'_>) -> Option<Field<'_>> {
    let Field { name, value, .. } = field;
    // Most names are none of these; their length tells.
    if matches!(name.len(), 7 | 10 | 14 | 16 | 17) && is_one_of(name, &HOP_BY_HOP) {
        return None;
    }
    if name.len() == 2 && name.eq_ignore_ascii_case(b"te") {
        // The only member that a hop may promise for the next (and the only one that HTTP/2 knows).
        return tokens(value).any(|token| token.eq_ignore_ascii_case(b"trailers")).then_some(Field::new(name, b"trailers"));
    }
    Some(field)
}

/// The trailers that go on.
pub(crate) fn trailers(fields: &Fields) -> impl Iterator<Item = (&[u8], &[u8])> {
    fields.iter().filter(|(name, _)| !is_one_of(name, &HOP_BY_HOP) && !is_one_of(name, &NOT_TRAILERS))
}

fn is_one_of(name: &[u8], names: &[&str]) -> bool {
    names.iter().any(|other| name.len() == other.len() && is_same(name, other.as_bytes()))
}

/// What Content-Length says, where it is there; said twice it must say the same. A list of one number is taken by some and refused by others,
/// so that it is refused.
pub(super) fn content_length(fields: &Fields) -> Result<Option<u64>, WireError> {
    let mut length = None;
    for value in fields.get_all("content-length") {
        let value = value.trim_ascii();
        let digits = !value.is_empty() && value.len() <= 19 && value.iter().all(u8::is_ascii_digit);
        let parsed = digits.then(|| value.iter().fold(0, |sum: u64, digit| sum * 10 + u64::from(digit - b'0')));
        let parsed = parsed.ok_or(WireError::Invalid("the Content-Length is no number"))?;
        if length.replace(parsed).is_some_and(|before| before != parsed) {
            return Err(WireError::Invalid("there are two Content-Lengths"));
        }
    }
    Ok(length)
}

/// The length that an answer's head says in HTTP/2 and HTTP/3, and whether nothing follows it. `to_head`: it answers a HEAD.
///
/// # Errors
/// The status is no final one.
pub(super) fn answer_length(status: u16, to_head: bool, length: Option<u64>, end: bool) -> Result<(Option<u64>, bool), WireError> {
    if !(200..1000).contains(&status) {
        return Err(WireError::Invalid("the status is none"));
    }
    let bodiless = to_head || matches!(status, 204 | 304);
    let length = match (status, bodiless, end) {
        (204, ..) => None,
        // What a GET would have had.
        (_, true, _) => length,
        (_, false, true) => Some(0),
        (_, false, false) => length,
    };
    Ok((length, end || bodiless))
}

/// Whether `text` can be host and port; a user's name before them is none of HTTP's.
pub(super) fn is_host(text: &[u8]) -> bool {
    text.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:[]%".contains(byte))
}

/// Whether `text` is a token, as method, field name and protocol are.
pub(super) fn is_token(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte))
}

/// The protocol of an `Upgrade` field that is passed on: the first, but `h2c`, which would take the connection out of the
/// mesh's hands, and what proxies alone say to each other.
pub(super) fn upgrade(value: &[u8]) -> Option<&[u8]> {
    let ours = |name: &[u8]| name.get(..7).is_some_and(|start| start.eq_ignore_ascii_case(b"lorica-"));
    let barred =
        |token: &[u8]| token.split(|byte| *byte == b'/').next().is_some_and(|name| name.eq_ignore_ascii_case(b"h2c") || ours(name));
    let valid = |token: &[u8]| token.split(|byte| *byte == b'/').all(is_token);
    tokens(value).find(|token| !barred(token) && valid(token))
}

/// A `Sec-WebSocket-Key` for a caller of HTTP/2, which has none (RFC 8441, 5): 16 random bytes in Base64.
pub(super) fn websocket_key() -> String {
    STANDARD.encode(fastrand::u128(..).to_ne_bytes())
}

/// The `Sec-WebSocket-Accept` that answers a key (RFC 6455, 4.2.2).
pub(super) fn websocket_accept(key: &[u8]) -> String {
    STANDARD.encode(sha1(&[key.trim_ascii(), b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"].concat()))
}

/// The reason phrase of a status, for HTTP/1.
pub(super) fn phrase(status: u16) -> &'static str {
    http::StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason()).unwrap_or("")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use lorica_model::head::HeadBuilder;

    fn fields(list: &[(&str, &str)]) -> Fields {
        let mut builder = HeadBuilder::with_capacity(256);
        for (name, value) in list {
            builder.field(name.as_bytes(), value.as_bytes()).unwrap();
        }
        builder.fields()
    }

    fn text<'f>(fields: impl Iterator<Item = Field<'f>>) -> Vec<String> {
        fields.map(|field| format!("{}: {}", String::from_utf8_lossy(field.name), String::from_utf8_lossy(field.value))).collect()
    }

    #[test]
    fn a_hop_keeps_its_own_fields_to_itself() {
        for (list, passed) in [
            (
                &[("Connection", "close"), ("Keep-Alive", "5"), ("Proxy-Connection", "x"), ("Transfer-Encoding", "chunked"), ("A", "b")][..],
                &["A: b"][..],
            ),
            (&[("Upgrade", "h2c"), ("HTTP2-Settings", "AAMA"), ("connection", "Upgrade, HTTP2-Settings")], &[]),
            (&[("Connection", "X-Mine , , x-other"), ("x-mine", "1"), ("X-Other", "2"), ("X-Kept", "3")], &["X-Kept: 3"]),
            (
                &[("Connection", "Host, Content-Length, TE"), ("Host", "x"), ("Content-Length", "3"), ("TE", "trailers")],
                &["Host: x", "Content-Length: 3", "TE: trailers"],
            ),
            (&[("TE", "gzip;q=1, Trailers")], &["TE: trailers"]),
            (&[("TE", "gzip")], &[]),
            (&[("Trailer", "x"), ("Expect", "100-continue")], &["Trailer: x", "Expect: 100-continue"]),
        ] {
            assert_eq!(text(onward(&fields(list), &Edits::default())), passed, "{list:?}");
        }
    }

    #[test]
    fn a_caller_cannot_name_away_what_the_proxy_adds() {
        let received = fields(&[("Connection", "x-forwarded-client-cert, x-old"), ("x-old", "1"), ("x-forwarded-client-cert", "forged")]);
        let mut edits = Edits::default();
        edits.set(&received, "x-forwarded-client-cert", "By=us");
        assert_eq!(text(onward(&received, &edits)), ["x-forwarded-client-cert: By=us"]);
    }

    #[test]
    fn trailers_cannot_frame_or_route_a_message() {
        let received = fields(&[
            ("grpc-status", "0"),
            ("Content-Length", "9"),
            ("Transfer-Encoding", "chunked"),
            ("Host", "x"),
            ("Connection", "close"),
        ]);
        assert_eq!(text(trailers(&received).map(|(name, value)| Field::new(name, value))), ["grpc-status: 0"]);
    }

    #[test]
    fn a_length_is_said_once_or_the_same() {
        for (list, expected) in [
            (&[][..], Ok(None)),
            (&[("content-length", "3")], Ok(Some(3))),
            (&[("content-length", "3"), ("Content-Length", "3")], Ok(Some(3))),
            (&[("content-length", "3, 3")], Err(WireError::Invalid("the Content-Length is no number"))),
            (&[("content-length", "3"), ("Content-Length", "4")], Err(WireError::Invalid("there are two Content-Lengths"))),
            (&[("content-length", "3,")], Err(WireError::Invalid("the Content-Length is no number"))),
            (&[("content-length", "0x3")], Err(WireError::Invalid("the Content-Length is no number"))),
            (&[("content-length", "-3")], Err(WireError::Invalid("the Content-Length is no number"))),
            (&[("content-length", "")], Err(WireError::Invalid("the Content-Length is no number"))),
        ] {
            assert_eq!(content_length(&fields(list)), expected, "{list:?}");
        }
    }

    #[test]
    fn an_upgrade_never_leads_out_of_the_mesh() {
        for (value, expected) in [
            ("websocket", Some("websocket")),
            ("h2c", None),
            ("lorica-tcp", None),
            ("Lorica-HTTP1, websocket", Some("websocket")),
            ("H2C/1", None),
            ("h2c, websocket", Some("websocket")),
            ("a b, foo/2", Some("foo/2")),
            ("websocket\r\nX: y", None),
            ("", None),
        ] {
            assert_eq!(upgrade(value.as_bytes()), expected.map(str::as_bytes), "{value:?}");
        }
    }

    #[test]
    fn a_websocket_key_is_sixteen_bytes_of_base64() {
        let key = websocket_key();
        assert_eq!(STANDARD.decode(&key).unwrap().len(), 16, "{key:?}");
        assert_ne!(key, websocket_key());
    }

    #[test]
    fn a_key_is_answered_as_the_standard_has_it() {
        assert_eq!(websocket_accept(b"dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }
}
