//! The data plane: takes an app's calls and calls for the app, and passes them on as the snapshot says.
//!
//! `path/` is a request from top to bottom. Beside it stand what a request uses: `wire` (HTTP's versions), `endpoints`
//! (who takes the next call), `pool` (connections kept), `limits` (what was counted), `view` (what the control plane said); and what runs beside
//! requests: `identity` (SVIDs), `checks` (of endpoints), `dns`, `admin`. Knows nothing of user resources.

pub mod admin;
pub mod app;
pub mod checks;
pub mod config;
pub mod diagnostics;
pub mod dns;
pub mod endpoints;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod gateway;
pub mod identity;
pub mod identity_files;
pub mod lifetime;
pub mod limits;
pub mod node;
pub mod observed;
pub mod path;
pub mod peers;
pub mod pool;
pub mod rejudge;
pub mod sidecar;
pub mod source;
pub mod standalone;
pub mod stream;
pub mod supervisor;
pub mod telemetry;
pub mod tokens;
pub mod told;
pub mod view;
pub mod wire;
pub mod worker;
pub mod workers;
