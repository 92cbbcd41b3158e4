//! The command line: what was typed goes in, what a person reads comes out.
//!
//! `args` is the command line as typed, `verbs` has one file a verb that talks to a control plane, and `printer` alone
//! writes to the terminal. Verbs that start something (`control`, `run`, `demo`) are in the binary's own crate.

pub mod args;
pub mod files;
pub mod places;
pub mod printer;
pub mod server;
pub mod verbs;
