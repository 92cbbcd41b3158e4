//! The story of single requests, as the real binary tells it: recorded in full by a token, remembered by every proxy, and shown by taps. In flow calls
//! through apps that pass on a request's id and nothing else; out flow stories, lines of taps, and what the apps saw.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod hosts;
mod rig;
mod story;
mod tap;
