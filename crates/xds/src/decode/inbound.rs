//! The inbound of the proxy's own workload.
//!
//! What a port is, its metadata says; the chains that follow from it must be there exactly so, since a chain that differs
//! would say that something else is wanted.

use envoy_types::pb::envoy::config::core::v3::TrafficDirection;
use envoy_types::pb::envoy::config::listener::v3::{FilterChain, Listener};
use envoy_types::pb::google::protobuf::Any;
use lorica_model::snapshot::{InboundPort, InboundUnit, Telemetry};

use super::{At, Fault, Rejected, apart, facts, open, telemetry};
use crate::Kind;
use crate::encode::{inbound_chains, inbound_name, no};
use crate::facts::{InboundFacts, InboundPortFacts};

/// Reads the inbound of a workload.
///
/// # Errors
/// Names the first field that is not understood.
pub fn inbound(name: &str, body: &Any) -> Result<InboundUnit, Rejected> {
    open(Kind::Listener, name, body, read)
}

fn read(at: &At<'_>, listener: Listener) -> Result<InboundUnit, Fault> {
    apart!(at, listener => Listener { name, filter_chains, metadata, traffic_direction, bind_to_port } unset {
        address, additional_addresses, stat_prefix, stats_matcher, fcds_config, filter_chain_matcher, use_original_dst,
        default_filter_chain, per_connection_buffer_limit_bytes, per_connection_buffer_high_watermark_timeout, deprecated_v1, drain_type,
        listener_filters, listener_filters_timeout, continue_on_listener_filters_timeout, transparent, freebind, socket_options,
        tcp_fast_open_queue_length, udp_listener_config, api_listener, connection_balance_config, reuse_port, enable_reuse_port,
        access_log, tcp_backlog_size, max_connections_to_accept_per_socket_event, enable_mptcp, ignore_global_conn_limit,
        bypass_overload_manager, tcp_keepalive, listener_specifier,
    });
    at.equal("bind_to_port", &bind_to_port, &no())?;
    at.equal("traffic_direction", &traffic_direction, &TrafficDirection::Inbound.into())?;
    let InboundFacts {
        workload,
        service,
        account,
        identity,
        virtual_v4,
        virtual_v6,
        withdrawn,
        limits,
        authentication,
        authorization,
        tried,
        telemetry: told,
    } = facts(at, metadata)?;
    at.equal("name", &name, &inbound_name(&workload))?;
    let mut ports = Vec::new();
    let mut chains = filter_chains.into_iter().enumerate();
    while let Some((index, first)) = chains.next() {
        let at_chain = at.index("filter_chains", index);
        let InboundPortFacts { service_port, app_port, protocol, mtls } = facts(&at_chain, first.metadata.clone())?;
        let port = InboundPort { service_port, app_port, protocol, mtls };
        let mut expected = inbound_chains(&workload.namespace, &account, &port, None).into_iter();
        let told = Says { telemetry: told.as_deref(), http: port.protocol.is_http() };
        same(&at_chain, Some(first), expected.next(), &told)?;
        for expected in expected {
            let (index, chain) = chains.next().map_or((index + 1, None), |(index, chain)| (index, Some(chain)));
            same(&at.index("filter_chains", index), chain, Some(expected), &told)?;
        }
        ports.push(port);
    }
    Ok(InboundUnit {
        workload,
        service,
        account,
        identity,
        virtual_v4,
        virtual_v6,
        ports,
        withdrawn,
        limits,
        authentication,
        authorization: authorization.unwrap_or_default(),
        tried,
        telemetry: told,
    })
}

/// What a chain is to tell of exchanges.
struct Says<'u> {
    telemetry: Option<&'u Telemetry>,
    http: bool,
}

/// `expected` tells nothing: `told` says what there is to be told.
fn same(at: &At<'_>, chain: Option<FilterChain>, expected: Option<FilterChain>, told: &Says<'_>) -> Result<(), Fault> {
    let (Some(chain), Some(expected)) = (chain, expected) else { return Err(at.fault("is missing".to_owned())) };
    apart!(at, chain => FilterChain { filter_chain_match, filters, metadata, transport_socket, name } unset {
        use_proxy_proto, transport_socket_connect_timeout,
    });
    at.equal("name", &name, &expected.name)?;
    let (filters, tells) = telemetry::taken(at, filters)?;
    tells.check(at, told.telemetry, told.http)?;
    let differs = |field| Err(at.field(field).fault("is not what this proxy does for such a port".to_owned()));
    if filter_chain_match != expected.filter_chain_match {
        return differs("filter_chain_match");
    }
    if filters != expected.filters {
        return differs("filters");
    }
    if transport_socket != expected.transport_socket {
        return differs("transport_socket");
    }
    if metadata != expected.metadata {
        return differs("metadata");
    }
    Ok(())
}
