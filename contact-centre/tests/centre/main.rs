//! The contact centre in one process: its services on ports of the loopback address, called as their users call them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod agents;
mod analytics;
mod caller;
mod calls;
mod command_line;
mod customers;
mod harness;
mod http_client;
mod recordings;
