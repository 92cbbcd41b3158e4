//! HTTP/3 (RFC 9114), our own framing on quinn's QUIC: each exchange has a stream of its own, and QUIC their flow control.
//!
//! `frame` and `qpack` are the formats, pure. `shared` is what the streams of a connection have in common, `control` reads what a client says
//! beside its requests. `server` is the face, `incoming` and `body` what requests bring, `respond` what they are answered.
//!
//! Heads go through the same checks as those of HTTP/2 (`http2::Collected`), whose rules RFC 9114 repeats. Of QPACK there is no dynamic table in
//! either direction: it would let one lost packet hold up all requests, and make us hold memory for each connection. The window is given back
//! only as bytes are used up. What a client can make us hold or do is bounded: windows and streams by QUIC, heads in `server`, frames that bring
//! nothing and early resets by the same allowances as in HTTP/2.
//!
//! The crate `h3` does not carry what a proxy needs: it tells nobody that a client gave up on a request that was read to its end, lets
//! pseudo-fields stand twice or behind fields and the fields of one connection pass, and answers a head that is too large by itself.

mod body;
mod control;
mod frame;
mod incoming;
mod qpack;
mod respond;
mod server;
mod shared;

pub(super) use body::Http3Body;
pub(super) use respond::Http3Responder;
pub use server::{Hold, Http3Request, Http3Server};

/// How much a client may send ahead on one stream, in bytes; as in HTTP/2.
const STREAM_WINDOW: u32 = 1024 * 1024;
/// The same for all streams of a connection together; it bounds what one connection can make us hold.
const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;
/// The most exchanges that a client may have under way on one connection.
const MAX_STREAMS: u32 = 256;
/// The most streams besides: one for control, two for QPACK, and some that nobody knows.
const MAX_SIDE_STREAMS: u32 = 8;
/// How much may wait to be acknowledged on one connection, in bytes.
const SEND_BUFFER: u64 = 1024 * 1024;

/// What QUIC is to hold a client to.
#[must_use]
pub fn transport(idle: std::time::Duration) -> quinn::TransportConfig {
    let mut transport = quinn::TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(MAX_STREAMS.into())
        .max_concurrent_uni_streams(MAX_SIDE_STREAMS.into())
        .stream_receive_window(STREAM_WINDOW.into())
        .receive_window(CONNECTION_WINDOW.into())
        .send_window(SEND_BUFFER)
        .datagram_receive_buffer_size(None)
        .max_idle_timeout(idle.try_into().ok());
    transport
}

/// A block of fields, and the numbers that frames are made of, as fuzzers have them.
#[cfg(any(test, fuzzing))]
pub(super) fn fuzzed(mut bytes: &[u8]) {
    let _: Result<(), qpack::Undecodable> = qpack::decode(bytes, |_, _, _| ());
    while frame::take_number(&mut bytes).is_some() {}
}

#[cfg(test)]
mod tests;
