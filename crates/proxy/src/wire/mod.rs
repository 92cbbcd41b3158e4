//! HTTP on the wire: bytes of a connection in, heads and bodies out, and back; all versions behind one head type.
//!
//! All codecs are our own, as strict as the strictest peer: `http1` has its heads parsed by httparse, `http2` is ours to the
//! last bit, `http3` ours on quinn's QUIC (feature `http3`). `fields` holds the rules of a hop that all share. Everything runs on one thread: no lock, no `Send`.
//! Nothing here knows of routes or endpoints.

mod body;
mod error;
mod fields;
mod http1;
mod http2;
#[cfg(feature = "http3")]
pub mod http3;
mod pace;
mod upstream;

pub use body::{Body, Frame};
pub use error::WireError;
pub(crate) use fields::trailers as passed_trailers;
pub use http1::{Http1Client, Http1Server, host};
pub use http2::{Http2Client, Http2Server, SEND_BUFFER};
pub use pace::{Paced, PacedBody};
pub use upstream::{Answer, Outgoing, Receiver, Responder, Sender, Tunnel};

#[cfg(any(test, fuzzing))]
pub mod fuzzing;

#[cfg(test)]
mod tests;
