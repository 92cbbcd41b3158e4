//! The meaning of the mesh, without a runtime: names, identities, reasons; what users write (`resource`), what a
//! proxy runs (`snapshot`), and the one pure function between them (`compile`).
//!
//! Knows nothing of sockets, clocks, randomness, storage, xDS or Kubernetes.

pub mod cel;
pub mod claims;
pub mod compile;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod head;
pub mod log_format;
pub mod name;
pub mod process;
pub mod reason;
pub mod resource;
pub mod snapshot;
pub mod spiffe;
pub mod spiffe_bundle;
pub mod story;
pub mod strict_json;
pub mod xxh64;
