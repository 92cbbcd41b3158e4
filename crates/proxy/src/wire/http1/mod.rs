//! HTTP/1.0 and 1.1: a codec of our own, as strict as the strictest peer, so that no two hops can disagree on where a
//! message ends. Heads are parsed where they stand and forwarded as slices; head and first bytes of a body leave in one write.

mod body;
mod client;
mod connection;
mod outbox;
mod outgoing;
mod parse;
mod server;

pub(super) use body::Http1Body;
pub use client::Http1Client;
pub(super) use client::{Http1Receiver, Http1Sender};
pub(super) use server::Http1Responder;
pub use server::Http1Server;
