//! HTTP on the wire: bytes of a connection in, heads and bodies out, and back; all versions behind one head type.
//!
//! Both codecs are our own, as strict as the strictest peer: `http1` has its heads parsed by httparse, `http2` is ours to the
//! last bit. `fields` holds the rules of a hop that both share. Everything runs on one thread: no lock, no `Send`.
//! Nothing here knows of routes or endpoints.

mod body;
mod error;
mod fields;
mod http1;
mod http2;
mod upstream;

pub use body::{Body, Frame};
pub use error::WireError;
pub use http1::{Http1Client, Http1Server, host};
pub use http2::{Http2Client, Http2Server, SEND_BUFFER};
pub use upstream::{Answer, Outgoing, Receiver, Responder, Sender, Tunnel};

#[cfg(test)]
mod tests;
