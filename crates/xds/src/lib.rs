//! xDS v3: units in, Envoy's types out, and back; sessions between control plane and proxies.
//!
//! ```text
//!   units ──encode──▶ resources ──Catalog──▶ session ──▶ server ══ADS══▶ client ──decode──▶ units ──▶ Snapshot
//! ```
//!
//! One encoder serves three data planes by a [`Dialect`] each: Lorica's proxy, a stock Envoy, proxyless gRPC. The decoder
//! is for Lorica's proxy alone and refuses whatever it does not fully understand. The session is a state machine without
//! I/O or clock; server and client move its messages over gRPC. Nothing here decides where a request goes or what a
//! proxy may know: that is in the units, and in the catalog that a session is given.

pub mod access_log_service;
pub mod authorization;
pub mod client;
pub mod decode;
pub mod diagnostics;
pub mod encode;
mod facts;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod grpc;
mod kind;
mod node;
pub mod observed;
pub mod rate_limit;
pub mod refused;
mod resource;
#[cfg(test)]
mod samples;
pub mod server;
pub mod session;
pub mod trial;
mod value;

pub use kind::Kind;
pub use node::{Dialect, Level, NodeError, NodeMetadata, NodePort, node};
pub use resource::Resource;

/// The messages of the protocols, as Envoy defines them, for who registers services, reads nodes or asks of limits.
pub mod wire {
    pub use envoy_types::pb::envoy::config::core::v3::{HeaderValue, HeaderValueOption, Node, header_value_option, node};
    pub use envoy_types::pb::envoy::extensions::common::ratelimit::v3::{RateLimitDescriptor, rate_limit_descriptor};
    pub use envoy_types::pb::envoy::service::auth::v3 as authorization;
    pub use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_server::AggregatedDiscoveryServiceServer;
    pub use envoy_types::pb::envoy::service::discovery::v3::{
        DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
    };
    pub use envoy_types::pb::envoy::service::ratelimit::v3::{
        RateLimitRequest, RateLimitResponse, rate_limit_response, rate_limit_service_client, rate_limit_service_server,
    };
    pub use envoy_types::pb::envoy::r#type::v3::HttpStatus;
    pub use envoy_types::pb::google::protobuf::{Any, BoolValue, Struct};
    pub use envoy_types::pb::google::rpc::Status as RpcStatus;
}

/// The largest message that either side takes, in bytes. A cluster of 3,000 endpoints takes about 1 MiB; gRPC's own default
/// of 4 MiB is too small for the first answer to a wildcard in a large mesh.
pub const MAX_MESSAGE_BYTES: usize = 64 * 1024 * 1024;
