//! The rules of a hop: which fields go on, and how they change between versions. Pure.

use lorica_model::head::{Fields, tokens};

/// Fields that speak of one connection only (RFC 9110, 7.6.1), those that this codec writes itself among them.
const HOP_BY_HOP: [&str; 6] = ["connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade", "http2-settings"];

/// Which fields of a message go on. Made once a message, as `Connection` may name more that do not.
pub(super) struct Onward {
    named: Vec<Vec<u8>>,
}

impl Onward {
    /// The rules for a message that came with `fields`.
    pub(super) fn new(fields: &Fields) -> Self {
        let named = fields.get_all("connection").flat_map(tokens).filter(|token| !is_plain_option(token));
        Self { named: named.map(<[u8]>::to_ascii_lowercase).collect() }
    }

    /// Whether a field goes on.
    pub(super) fn keeps(&self, name: &[u8], value: &[u8]) -> bool {
        // Most names are none of these; their length tells.
        if name.len() <= 17 && HOP_BY_HOP.iter().any(|hop| name.eq_ignore_ascii_case(hop.as_bytes())) {
            return false;
        }
        if name.eq_ignore_ascii_case(b"te") {
            return tokens(value).any(|token| token.eq_ignore_ascii_case(b"trailers"));
        }
        !self.named.iter().any(|named| name.eq_ignore_ascii_case(named))
    }
}

/// The options that nearly every message has, which name no field.
fn is_plain_option(token: &[u8]) -> bool {
    token.eq_ignore_ascii_case(b"keep-alive") || token.eq_ignore_ascii_case(b"close") || token.eq_ignore_ascii_case(b"upgrade")
}

/// The reason phrase of a status, for HTTP/1.
pub(super) fn phrase(status: u16) -> &'static str {
    http::StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason()).unwrap_or("")
}
