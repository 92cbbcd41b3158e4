//! Resources in, units out, for Lorica's proxy: the inverse of [`crate::encode`].
//!
//! Whatever is set and not understood is refused with the place of the field, since a proxy that passes a setting by would
//! do something else than its user was told. Each message is taken apart with a full pattern (no `..`), so a field
//! that nobody handles does not compile; fields newer than our types, which decoding drops, are noticed by the length of
//! the message written again. Nothing here panics or allocates beyond what the message holds.

#![allow(deprecated, reason = "a full pattern names every field, and some decoders accept what the field replaced")]

mod cluster;
mod egress;
mod endpoint;
mod gateway;
mod inbound;
mod listener;
mod names;
mod place;
mod route;
mod secret;
mod telemetry;

use std::net::SocketAddr;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::{
    Address, AggregatedConfigSource, ApiVersion, ConfigSource, Metadata, SocketAddress, address, config_source::ConfigSourceSpecifier,
    socket_address::PortSpecifier,
};
use envoy_types::pb::google::protobuf::{self, Any};
use lorica_model::name::ServicePort;
use lorica_model::snapshot::OutboundUnit;
use prost::{Message, Name};
use serde::de::DeserializeOwned;

use crate::Kind;
use crate::node::KEY;
use crate::value::from_struct;

pub use cluster::cluster;
pub use egress::egress;
pub use endpoint::endpoints;
pub use gateway::gateway;
pub use inbound::inbound;
pub use listener::{OutboundListener, outbound_listener};
pub use names::names;
pub use route::rules;
pub use secret::bundle;

use place::{At, Fault, apart};

/// Why a resource is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind} {name}: {path}: {message}")]
pub struct Rejected {
    /// The resource's kind.
    pub kind: Kind,
    /// The resource's name.
    pub name: String,
    /// The field: `filter_chains[0].filters[1].typed_config`.
    pub path: String,
    /// What is wrong with it.
    pub message: String,
}

/// The unit of the three resources that say it, already decoded.
#[must_use]
pub fn outbound(
    listener: OutboundListener,
    rules: impl Into<lorica_model::snapshot::RuleTable>,
    cluster: lorica_model::snapshot::Cluster,
) -> OutboundUnit {
    let OutboundListener { port, virtual_v4, virtual_v6, protocol, http_only, faults } = listener;
    OutboundUnit { port, virtual_v4, virtual_v6, protocol, rules: rules.into(), http_only, faults, cluster }
}

/// Opens the message of a resource and reads it with `read`.
fn open<M: Message + Name + Default, T>(
    kind: Kind,
    name: &str,
    body: &Any,
    read: impl FnOnce(&At<'_>, M) -> Result<T, Fault>,
) -> Result<T, Rejected> {
    let root = At::root();
    let result = unpack(&root, body).and_then(|message| read(&root, message));
    result.map_err(|Fault { path, message }| Rejected { kind, name: name.to_owned(), path, message })
}

/// The message in `any`, which must be of this type and hold nothing that our types do not.
fn unpack<M: Message + Name + Default>(at: &At<'_>, any: &Any) -> Result<M, Fault> {
    if any.type_url != M::type_url() {
        return Err(at.fault(format!("is a {}, expected a {}", any.type_url, M::NAME)));
    }
    let message = M::decode(any.value.as_slice()).map_err(|error| at.fault(format!("cannot be read: {error}")))?;
    if message.encoded_len() != any.value.len() {
        return Err(
            at.fault("has fields that this version of Lorica does not know; upgrade the proxy, or do not use what is newer".to_owned())
        );
    }
    Ok(message)
}

/// The facts that Lorica adds; the metadata may hold nothing else.
fn facts<T: DeserializeOwned>(at: &At<'_>, metadata: Option<Metadata>) -> Result<T, Fault> {
    let at = at.field("metadata");
    apart!(at, present(&at, metadata)? => Metadata { filter_metadata } unset { typed_filter_metadata });
    let at = at.field("filter_metadata");
    if let Some(other) = filter_metadata.keys().find(|key| *key != KEY) {
        return Err(at.fault(format!("`{other}` is not understood")));
    }
    let fields = filter_metadata.get(KEY).ok_or_else(|| at.fault(format!("has no `{KEY}`")))?;
    from_struct(fields).map_err(|error| at.fault(format!("`{KEY}` cannot be read: {error}")))
}

fn present<T>(at: &At<'_>, value: Option<T>) -> Result<T, Fault> {
    value.ok_or_else(|| at.fault("is missing".to_owned()))
}

fn service_port(at: &At<'_>, name: &str) -> Result<ServicePort, Fault> {
    name.parse().map_err(|error: lorica_model::name::NameError| at.fault(error.to_string()))
}

fn address(at: &At<'_>, address: Option<Address>) -> Result<SocketAddr, Fault> {
    let Address { address } = present(at, address)?;
    let Some(address::Address::SocketAddress(socket)) = address else { return Err(at.fault("is no socket address".to_owned())) };
    let at = at.field("socket_address");
    apart!(at, socket => SocketAddress { address, port_specifier } unset { protocol, resolver_name, ipv4_compat, network_namespace_filepath });
    let ip = address.parse().map_err(|_| at.field("address").fault(format!("`{address}` is no IP address")))?;
    match port_specifier {
        Some(PortSpecifier::PortValue(port)) => {
            let port = u16::try_from(port).map_err(|_| at.field("port_value").fault(format!("{port} is no port")))?;
            Ok(SocketAddr::new(ip, port))
        }
        Some(PortSpecifier::NamedPort(_)) | None => Err(at.fault("has no port number".to_owned())),
    }
}

/// A source must be this stream.
fn from_ads(at: &At<'_>, source: Option<ConfigSource>) -> Result<(), Fault> {
    let source = present(at, source)?;
    apart!(at, source => ConfigSource { resource_api_version, config_source_specifier } unset { authorities, initial_fetch_timeout });
    match config_source_specifier {
        Some(ConfigSourceSpecifier::Ads(AggregatedConfigSource {})) if resource_api_version == i32::from(ApiVersion::V3) => Ok(()),
        _ => Err(at.fault("is not `ads` in version V3".to_owned())),
    }
}

fn duration(at: &At<'_>, value: protobuf::Duration) -> Result<Duration, Fault> {
    let protobuf::Duration { seconds, nanos } = value;
    match (u64::try_from(seconds), u32::try_from(nanos)) {
        (Ok(seconds), Ok(nanos)) if nanos < 1_000_000_000 => Ok(Duration::new(seconds, nanos)),
        _ => Err(at.fault(format!("{seconds} s {nanos} ns is no duration"))),
    }
}

/// A limit of which 0 says that there is none.
fn limit(at: &At<'_>, value: Option<protobuf::Duration>) -> Result<Option<Duration>, Fault> {
    Ok(Some(duration(at, present(at, value)?)?).filter(|limit| !limit.is_zero()))
}

#[cfg(test)]
mod tests;
