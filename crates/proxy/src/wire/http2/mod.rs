//! HTTP/2 on the `h2` crate: many exchanges at once on a connection, each with its own flow control.
//!
//! Heads go from the crate's maps into our head type and back; bodies are handed over as they came, and the window is given
//! back only as they are used up, so that a slow receiver slows its sender down. Push is off, priorities are ignored. Resets
//! are bounded by the crate (20 not yet accepted, 1024 for errors of the peer): more end the connection.

mod body;
mod client;
mod server;
mod tunnel;

use http::{HeaderMap, HeaderName, HeaderValue};
use lorica_model::head::HeadBuilder;

use super::error::WireError;

pub(super) use body::Http2Body;
pub use client::Http2Client;
pub(super) use client::{Http2Receiver, Http2Sender};
pub(super) use server::Http2Responder;
pub use server::Http2Server;
pub(super) use tunnel::Http2Tunnel;

/// How much a peer may send ahead on one stream, in bytes: enough for a gigabit over 8 ms.
const STREAM_WINDOW: u32 = 1024 * 1024;
/// The same for all streams of a connection together; it bounds what one connection can make us hold.
const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;
/// The most exchanges that a client may have under way on one connection.
const MAX_STREAMS: u32 = 256;
/// How much may wait to be written on one stream, in bytes: four frames, so that 256 slow readers cost 16 MiB at most.
const SEND_BUFFER: usize = 64 * 1024;

/// Adds the fields of `map` to a head.
fn copy(map: &HeaderMap, builder: &mut HeadBuilder) -> Result<(), WireError> {
    for (name, value) in map {
        builder.field(name.as_str().as_bytes(), value.as_bytes())?;
    }
    Ok(())
}

/// Fields as the crate wants them: names in lower case.
fn map<'f>(fields: impl Iterator<Item = (&'f [u8], &'f [u8])>) -> Result<HeaderMap, WireError> {
    let mut map = HeaderMap::with_capacity(16);
    for (name, value) in fields {
        // `from_bytes` folds the case.
        let name = HeaderName::from_bytes(name).map_err(|_| WireError::Invalid("a field name is none"))?;
        let value = HeaderValue::from_bytes(value).map_err(|_| WireError::Invalid("a field value has a byte that it may not have"))?;
        map.try_append(name, value).map_err(|_| WireError::HeadTooLarge)?;
    }
    Ok(map)
}
