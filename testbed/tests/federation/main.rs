//! Two meshes with roots of their own, on one machine: whom each believes, whom each lets in, and what becomes of both when roots are rotated,
//! endpoints lie, or trust ends.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod calls;
mod endpoint;
mod envoy;
mod meshes;
mod trust;
mod workload_api;
