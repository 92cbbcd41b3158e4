//! Digests for protocols that prove nothing by them.

use aws_lc_rs::digest;

/// SHA-1, as a WebSocket's opening handshake asks for it (RFC 6455, 4.2.2). It protects nothing.
#[must_use]
pub fn sha1(bytes: &[u8]) -> [u8; 20] {
    let mut out = [0; 20];
    out.copy_from_slice(digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, bytes).as_ref());
    out
}
