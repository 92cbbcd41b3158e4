//! HTTP/1.0 and 1.1: a codec of our own, as strict as the strictest peer, so that no two hops can disagree on where a
//! message ends. Heads are parsed where they stand and forwarded as slices; head and first bytes of a body leave in one write.

mod body;
mod client;
mod connection;
mod outbox;
mod outgoing;
mod parse;
mod server;
mod untaken;

use bytes::BytesMut;

pub(super) use body::Http1Body;
pub use client::Http1Client;
pub(super) use client::{Http1Receiver, Http1Sender};
pub(super) use server::Http1Responder;
pub use server::Http1Server;

/// The host that the request whose first bytes these are is for; none where it names none or is no request. `None`: more are needed to tell.
#[must_use]
pub fn host(bytes: &[u8]) -> Option<Option<String>> {
    match parse::request(&mut BytesMut::from(bytes), true) {
        Ok(Some((head, _))) => Some(Some(head.authority().to_owned()).filter(|host| !host.is_empty())),
        Ok(None) => None,
        Err(_) => Some(None),
    }
}
