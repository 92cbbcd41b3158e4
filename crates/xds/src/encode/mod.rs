//! Units in, resources out, in the dialect of the client that they are for.
//!
//! The version of a resource is its unit's, so replicas agree and what did not change is not sent. For Lorica's proxy an
//! encoding is complete: [`crate::decode`] gives the unit back. For Envoy and gRPC it says what they can honour.

mod access_log;
mod attempt;
mod authentication;
mod authorization;
mod authorizer;
mod bundle;
pub mod cel;
mod certificate;
mod claim;
mod cluster;
mod egress;
mod endpoint;
mod envoy;
mod fault;
mod filter;
mod gateway;
mod inbound;
mod listener;
mod local_reply;
mod names;
mod rate_limit;
mod route;
mod telemetry;
mod tls;
mod traffic;

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::{
    Address, AggregatedConfigSource, ApiVersion, ConfigSource, SocketAddress, address, config_source::ConfigSourceSpecifier,
    socket_address::PortSpecifier,
};
use envoy_types::pb::google::protobuf;
use lorica_model::name::ServicePort;
use lorica_model::snapshot::{OutboundUnit, Version};
use lorica_model::spiffe::TrustDomain;

pub use access_log::ACCESS_LOG;
pub use authorization::{HTTP_FILTERS as ACCESS_HTTP_FILTERS, WORDS as ACCESS_FILTERS};
pub use bundle::bundle;
pub(crate) use bundle::{CERTIFICATE, REVOCATION_LIST, REVOKED};
pub use certificate::certificate;
pub use egress::{CAPTURE, EGRESS_PREFIX, REFUSED_LOG, capture, egress, egress_clusters, egress_name};
pub use endpoint::{endpoints, endpoints_near};
pub use gateway::{GATEWAY_PREFIX, gateway, gateway_name};
pub use inbound::{inbound, inbound_filter_name, inbound_filters, inbound_name, inbound_routes, inbound_routes_name};
pub use names::names;
pub use rate_limit::{GLOBAL as GLOBAL_LIMITS, LOCAL as LOCAL_LIMITS, TIMEOUT as LIMIT_TIMEOUT};

pub(crate) use access_log::policy as policy_logs;
pub(crate) use attempt::AttemptFields;
pub(crate) use cluster::{MUTUAL_TLS, PLAINTEXT, transport_match};
pub(crate) use egress::{egress_listener, gateway_chain};
pub(crate) use fault::per_backend;
pub(crate) use filter::{CORS, GRPC_WEB, path_rewrite, per_filter, redirect};
pub(crate) use gateway::tcp_proxy;
pub(crate) use inbound::inbound_chains;
pub(crate) use listener::HTTP_PROTOCOLS;
pub(crate) use route::{MISSING_PREFIX, path_specifier};
pub(crate) use telemetry::tracing;
pub(crate) use tls::{BUNDLE, NOBODY, SVID, alpn, outside, tls_parameters};
pub(crate) use traffic::TrafficFields;

use crate::node::{Dialect, NodeMetadata};
use crate::{Kind, Resource};

/// What an Envoy's bootstrap calls the control plane.
pub const CONTROL_CLUSTER: &str = "lorica-control";

/// What an encoding depends on besides the unit.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// What the client says of itself: where Envoy listens, and where its secrets are.
    pub node: &'a NodeMetadata,
    /// Whether the endpoints of the unit's service port are all plaintext. gRPC has one transport for a cluster, not one
    /// for each endpoint; for the other dialects the endpoints say it.
    pub plaintext: bool,
    /// Whether routes for gRPC lead there from the gateway that the client runs. Lorica's proxy sees by each request what to speak;
    /// Envoy speaks one version with a cluster.
    pub grpc: bool,
    /// For Envoy: the clusters that take over from the unit's own, in this order.
    pub failover: &'a [String],
    /// The trust domain of the mesh; none: what is encoded asks nobody for it.
    pub trust_domain: Option<&'a TrustDomain>,
}

impl<'a> Context<'a> {
    /// The context of a client whose clusters are reached by mutual TLS where nothing else is said.
    #[must_use]
    pub fn of(node: &'a NodeMetadata) -> Self {
        Self { node, plaintext: false, grpc: false, failover: &[], trust_domain: None }
    }

    /// Envoy's secrets; the directory that it was started in where it names none.
    fn secrets_directory(&self) -> &Path {
        self.node.secrets_directory.as_deref().unwrap_or_else(|| Path::new("."))
    }

    /// Where Envoy binds a gateway's listener port, as far as it says.
    fn gateway_bind(&self, port: u16) -> Option<SocketAddr> {
        let elsewhere = || self.node.gateway_listen.map(|address| SocketAddr::new(address, port));
        self.node.gateway_binds.get(&port).copied().or_else(elsewhere)
    }
}

/// The resources of a unit: cluster, listener, route. An Envoy that has listeners of its own for some service ports gets no
/// listener for others.
#[must_use]
pub fn outbound(unit: &OutboundUnit, dialect: Dialect, context: Context<'_>) -> Vec<Resource> {
    let unit = &*fault::unit(unit, dialect, context.node);
    let mut version = Version::of(unit);
    let name = unit.port.to_string();
    let mut resources = Vec::with_capacity(4);
    if dialect == Dialect::Envoy
        && let Some(shown) = unit.cluster.tls.as_ref().and_then(|tls| tls.certificate.as_ref())
    {
        resources.push(certificate(shown));
        let mut named = unit.clone();
        named.cluster.tls.iter_mut().for_each(|tls| tls.certificate = Some(certificate::by_name(shown)));
        version = Version::of(&named);
    }
    let mut own = cluster::cluster(&unit.cluster, dialect, context);
    if dialect == Dialect::Envoy && !context.failover.is_empty() {
        let aggregate = cluster::aggregate(&own, context.failover);
        let version = Version::of(&(version.to_string(), context.failover));
        cluster::rename(&mut own, own_name(&unit.port));
        resources.push(Resource::new(Kind::Cluster, &own.name, version, &own));
        resources.push(Resource::new(Kind::Cluster, &name, version, &aggregate));
    } else {
        resources.push(Resource::new(Kind::Cluster, &name, version, &own));
    }
    if let Some(listener) = listener::outbound(unit, dialect, context) {
        resources.push(Resource::new(Kind::Listener, &name, version, &listener));
    }
    resources.push(Resource::new(Kind::Route, &name, version, &route::configuration(unit, dialect)));
    resources
}

/// What the names of an Envoy's clusters begin with that have a service port's own endpoints, where others take over from it.
pub const OWN_PREFIX: &str = "own/";

/// The cluster of a service port's own endpoints, where others take over from it.
#[must_use]
pub fn own_name(port: &ServicePort) -> String {
    format!("{OWN_PREFIX}{port}")
}

/// "Ask on this stream."
fn ads() -> ConfigSource {
    ConfigSource {
        resource_api_version: ApiVersion::V3.into(),
        config_source_specifier: Some(ConfigSourceSpecifier::Ads(AggregatedConfigSource {})),
        ..ConfigSource::default()
    }
}

pub(crate) fn address(address: SocketAddr) -> Address {
    Address {
        address: Some(address::Address::SocketAddress(SocketAddress {
            address: address.ip().to_string(),
            port_specifier: Some(PortSpecifier::PortValue(address.port().into())),
            ..SocketAddress::default()
        })),
    }
}

/// Durations beyond protobuf's range (10,000 years) are cut to it.
pub(crate) fn duration(value: Duration) -> protobuf::Duration {
    const LIMIT: u64 = 315_576_000_000;
    #[allow(clippy::cast_possible_wrap, reason = "both are far below the limits of their types")]
    protobuf::Duration { seconds: value.as_secs().min(LIMIT) as i64, nanos: value.subsec_nanos() as i32 }
}

fn yes() -> Option<protobuf::BoolValue> {
    Some(protobuf::BoolValue { value: true })
}

pub(crate) fn no() -> Option<protobuf::BoolValue> {
    Some(protobuf::BoolValue { value: false })
}

pub(crate) fn number(value: u32) -> Option<protobuf::UInt32Value> {
    Some(protobuf::UInt32Value { value })
}
