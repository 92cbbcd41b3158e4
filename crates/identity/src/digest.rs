//! Digests: short names for long texts, and what protocols ask for that prove nothing by them.

use aws_lc_rs::digest;

/// SHA-256: of two texts nobody can make the same.
#[must_use]
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    out
}

/// SHA-1, as a WebSocket's opening handshake asks for it (RFC 6455, 4.2.2). It protects nothing.
#[must_use]
pub fn sha1(bytes: &[u8]) -> [u8; 20] {
    let mut out = [0; 20];
    out.copy_from_slice(digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, bytes).as_ref());
    out
}
