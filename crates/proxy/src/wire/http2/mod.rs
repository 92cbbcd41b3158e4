//! HTTP/2 (RFC 9113), our own: many exchanges at once on a connection, each with its own flow control.
//!
//! `frame` and `hpack` are the formats, pure. `connection` is the state that the handles of a connection share, single-threaded;
//! `receive` takes frames in and `send` puts them out. `driver` is the one task that moves bytes: it writes what all streams
//! have queued at once. `client` and `server` are the two faces, `body` and `tunnel` what exchanges carry.
//!
//! The window is given back only as bytes are used up, so that a slow receiver slows its sender down. Push is off, priorities
//! are ignored. What a peer can make us hold or do is bounded: windows and streams here, heads in `receive`, frames that bring
//! nothing and early resets in `calm`, what waits for a peer that does not read in `connection`.

mod body;
mod calm;
mod client;
mod connection;
mod driver;
mod frame;
mod head;
mod hpack;
mod outbox;
mod receive;
mod send;
mod server;
mod stream;
mod tunnel;

pub(super) use body::Http2Body;
pub use client::Http2Client;
pub(super) use client::{Http2Receiver, Http2Sender};
#[cfg(any(test, fuzzing))]
pub(super) use hpack::Decoder;
pub(super) use server::Http2Responder;
pub use server::Http2Server;
pub(super) use tunnel::Http2Tunnel;
// What HTTP/3 has in common with it.
#[cfg(feature = "http3")]
pub(super) use calm::Calm;
#[cfg(feature = "http3")]
pub(super) use head::{Collected, NoHead};
#[cfg(feature = "http3")]
pub(super) use hpack::{Tag, huffman_decode, prefixed_number, put_prefixed_number, tag_of_name, with_value};

/// How much a peer may send ahead on one stream, in bytes: enough for a gigabit over 8 ms.
const STREAM_WINDOW: u32 = 1024 * 1024;
/// The same for all streams of a connection together; it bounds what one connection can make us hold.
const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;
/// The most exchanges that a client may have under way on one connection.
const MAX_STREAMS: u32 = 256;
/// How much may wait to be written on one stream, in bytes: four whole frames, so that 256 slow readers cost 16 MiB at most.
pub const SEND_BUFFER: usize = 4 * send::DATA;

#[cfg(test)]
mod tests;
