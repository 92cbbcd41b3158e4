//! The listener of a service port: which addresses it has, and what it takes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use envoy_types::pb::envoy::config::core::v3::TrafficDirection;
use envoy_types::pb::envoy::config::listener::v3::{AdditionalAddress, Filter, FilterChain, FilterChainMatch, Listener, filter};
use envoy_types::pb::envoy::extensions::filters::http::router::v3::Router;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, HttpFilter, Rds, http_connection_manager::RouteSpecifier, http_filter,
};
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::{TcpProxy, tcp_proxy::ClusterSpecifier};
use envoy_types::pb::google::protobuf::Any;
use lorica_model::name::ServicePort;
use lorica_model::snapshot::{Fault as MadeFault, Protocol};
use prost::{Message, Name};

use super::{At, Fault, Rejected, address, apart, facts, from_ads, open, present, service_port, unpack};
use crate::Kind;
use crate::encode::{HTTP_PROTOCOLS, no};
use crate::facts::ListenerFacts;

/// What the listener of a service port says of its unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutboundListener {
    /// The service port.
    pub port: ServicePort,
    /// The service's virtual address.
    pub virtual_v4: Ipv4Addr,
    /// The same for IPv6.
    pub virtual_v6: Ipv6Addr,
    /// What the port speaks.
    pub protocol: Protocol,
    /// Whether bytes that are no HTTP are refused.
    pub http_only: bool,
    /// The faults that connections meet whose bytes are not looked at.
    pub faults: Vec<MadeFault>,
}

/// Reads the listener of a service port.
///
/// # Errors
/// Names the first field that is not understood.
pub fn outbound_listener(name: &str, body: &Any) -> Result<OutboundListener, Rejected> {
    open(Kind::Listener, name, body, read)
}

fn read(at: &At<'_>, listener: Listener) -> Result<OutboundListener, Fault> {
    apart!(at, listener => Listener {
        name, address: v4, additional_addresses, filter_chains, default_filter_chain, metadata, traffic_direction, bind_to_port,
    } unset {
        stat_prefix, stats_matcher, fcds_config, filter_chain_matcher, use_original_dst, per_connection_buffer_limit_bytes,
        per_connection_buffer_high_watermark_timeout, deprecated_v1, drain_type, listener_filters, listener_filters_timeout,
        continue_on_listener_filters_timeout, transparent, freebind, socket_options, tcp_fast_open_queue_length, udp_listener_config,
        api_listener, connection_balance_config, reuse_port, enable_reuse_port, access_log, tcp_backlog_size,
        max_connections_to_accept_per_socket_event, enable_mptcp, ignore_global_conn_limit, bypass_overload_manager, tcp_keepalive,
        listener_specifier,
    });
    let port = service_port(&at.field("name"), &name)?;
    at.equal("bind_to_port", &bind_to_port, &no())?;
    at.equal("traffic_direction", &traffic_direction, &TrafficDirection::Outbound.into())?;
    let ListenerFacts { protocol, http_only, faults } = facts(at, metadata)?;
    let (virtual_v4, virtual_v6) = addresses(at, &port, v4, additional_addresses)?;

    let both = protocol == Protocol::Detect && !http_only;
    let wanted = usize::from(protocol != Protocol::Tcp);
    if filter_chains.len() != wanted {
        return Err(at
            .field("filter_chains")
            .fault(format!("has {} chains, where protocol {protocol:?} has {wanted}", filter_chains.len())));
    }
    for (index, chain) in filter_chains.into_iter().enumerate() {
        let at = at.index("filter_chains", index);
        let (filter_chain_match, filters) = chain_parts(&at, chain)?;
        let expected = both
            .then(|| FilterChainMatch { application_protocols: HTTP_PROTOCOLS.map(str::to_owned).to_vec(), ..FilterChainMatch::default() });
        at.equal("filter_chain_match", &filter_chain_match, &expected)?;
        let manager = only_filter(&at, filters)?;
        connection_manager(&at.index("filters", 0).field("typed_config"), manager, &name)?;
    }
    let at_default = at.field("default_filter_chain");
    match (default_filter_chain, both || protocol == Protocol::Tcp) {
        (None, false) => {}
        (Some(chain), true) => {
            let (filter_chain_match, filters) = chain_parts(&at_default, chain)?;
            at_default.equal("filter_chain_match", &filter_chain_match, &None)?;
            let proxy = only_filter(&at_default, filters)?;
            tcp_proxy(&at_default.index("filters", 0).field("typed_config"), proxy, &name)?;
        }
        (None, true) => return Err(at_default.fault(format!("is missing, where protocol {protocol:?} takes bytes"))),
        (Some(_), false) => return Err(at_default.fault("is there, where only HTTP is taken".to_owned())),
    }
    Ok(OutboundListener { port, virtual_v4, virtual_v6, protocol, http_only, faults })
}

fn addresses(
    at: &At<'_>,
    port: &ServicePort,
    v4: Option<envoy_types::pb::envoy::config::core::v3::Address>,
    additional: Vec<AdditionalAddress>,
) -> Result<(Ipv4Addr, Ipv6Addr), Fault> {
    let at_v4 = at.field("address");
    let v4 = address(&at_v4, v4)?;
    let IpAddr::V4(virtual_v4) = v4.ip() else { return Err(at_v4.fault(format!("{v4} is no IPv4 address"))) };
    let at_v6 = at.index("additional_addresses", 0);
    let mut additional = additional.into_iter();
    let (Some(first), None) = (additional.next(), additional.next()) else {
        return Err(at.field("additional_addresses").fault("is not one IPv6 address".to_owned()));
    };
    apart!(at_v6, first => AdditionalAddress { address: v6 } unset { socket_options, tcp_keepalive });
    let v6 = address(&at_v6.field("address"), v6)?;
    let IpAddr::V6(virtual_v6) = v6.ip() else { return Err(at_v6.fault(format!("{v6} is no IPv6 address"))) };
    at_v4.equal("port_value", &v4.port(), &port.port)?;
    at_v6.equal("port_value", &v6.port(), &port.port)?;
    Ok((virtual_v4, virtual_v6))
}

/// The match and filters of a chain; its name is for people.
fn chain_parts(at: &At<'_>, chain: FilterChain) -> Result<(Option<FilterChainMatch>, Vec<Filter>), Fault> {
    apart!(at, chain => FilterChain { filter_chain_match, filters, name: _name } unset {
        use_proxy_proto, metadata, transport_socket, transport_socket_connect_timeout,
    });
    Ok((filter_chain_match, filters))
}

/// The one filter of a chain. What a filter is, its type says; its name is for people.
pub(super) fn only_filter<M: Message + Name + Default>(at: &At<'_>, filters: Vec<Filter>) -> Result<M, Fault> {
    let mut filters = filters.into_iter();
    let (Some(Filter { name: _, config_type }), None) = (filters.next(), filters.next()) else {
        return Err(at.field("filters").fault(format!("is not one {}", M::NAME)));
    };
    let at = at.index("filters", 0);
    match config_type {
        Some(filter::ConfigType::TypedConfig(config)) => unpack(&at.field("typed_config"), &config),
        Some(filter::ConfigType::ConfigDiscovery(_)) | None => Err(at.fault("has no typed_config".to_owned())),
    }
}

fn connection_manager(at: &At<'_>, manager: HttpConnectionManager, name: &str) -> Result<(), Fault> {
    match routes(at, manager)? {
        Some(RouteSpecifier::Rds(Rds { config_source, route_config_name })) => {
            let at = at.field("rds");
            from_ads(&at.field("config_source"), config_source)?;
            at.equal("route_config_name", &route_config_name.as_str(), &name)
        }
        Some(RouteSpecifier::RouteConfig(_) | RouteSpecifier::ScopedRoutes(_)) | None => {
            Err(at.field("route_specifier").fault("is not `rds`".to_owned()))
        }
    }
}

/// Where a connection manager has its routes; all else that it says is checked.
pub(super) fn routes(at: &At<'_>, manager: HttpConnectionManager) -> Result<Option<RouteSpecifier>, Fault> {
    apart!(at, manager => HttpConnectionManager { stat_prefix: _prefix, http_filters, route_specifier } unset {
        codec_type, add_user_agent, tracing, common_http_protocol_options, http1_safe_max_connection_duration, http_protocol_options,
        http2_protocol_options, http3_protocol_options, server_name, server_header_transformation, scheme_header_transformation,
        max_request_headers_kb, stream_idle_timeout, stream_flush_timeout, request_timeout, request_headers_timeout, drain_timeout,
        drain_timeout_jitter, delayed_close_timeout, access_log, access_log_flush_interval, flush_access_log_on_new_request,
        access_log_options, use_remote_address, xff_num_trusted_hops, original_ip_detection_extensions, early_header_mutation_extensions,
        internal_address_config, skip_xff_append, via, generate_request_id, preserve_external_request_id, always_set_request_id_in_response,
        forward_client_cert_details, set_current_client_cert_details, forward_client_cert_matcher, proxy_100_continue,
        represent_ipv4_remote_address_as_ipv4_mapped_ipv6, upgrade_configs, normalize_path, merge_slashes, path_with_escaped_slashes_action,
        request_id_extension, local_reply_config, strip_matching_host_port, stream_error_on_invalid_http_message,
        path_normalization_options, strip_trailing_host_dot, proxy_status_config, typed_header_validation_config, append_x_forwarded_port,
        append_local_overload, add_proxy_protocol_connection_state, forward_proto_config, strip_port_mode,
    });
    let at_filter = at.index("http_filters", 0);
    let mut http_filters = http_filters.into_iter();
    let (Some(filter), None) = (http_filters.next(), http_filters.next()) else {
        return Err(at.field("http_filters").fault("is not one router".to_owned()));
    };
    apart!(at_filter, filter => HttpFilter { name: _name, config_type } unset { is_optional, disabled });
    let Some(http_filter::ConfigType::TypedConfig(config)) = config_type else {
        return Err(at_filter.fault("has no typed_config".to_owned()));
    };
    let at_router = at_filter.field("typed_config");
    apart!(at_router, unpack::<Router>(&at_router, &config)? => Router {} unset {
        dynamic_stats, start_child_span, upstream_log, upstream_log_options, suppress_envoy_headers, strict_check_headers,
        respect_expected_rq_timeout, suppress_grpc_request_failure_code_stats, upstream_http_filters, reject_connect_request_early_data,
    });
    Ok(route_specifier)
}

fn tcp_proxy(at: &At<'_>, proxy: TcpProxy, name: &str) -> Result<(), Fault> {
    apart!(at, proxy => TcpProxy { stat_prefix: _prefix, cluster_specifier } unset {
        on_demand, metadata_match, idle_timeout, downstream_idle_timeout, upstream_idle_timeout, access_log, max_connect_attempts,
        backoff_options, hash_policy, tunneling_config, max_downstream_connection_duration,
        max_downstream_connection_duration_jitter_percentage, access_log_flush_interval, flush_access_log_on_connected, access_log_options,
        proxy_protocol_tlvs, proxy_protocol_tlv_merge_policy, upstream_connect_mode, max_early_data_bytes, check_drain_close,
    });
    match present(&at.field("cluster_specifier"), cluster_specifier)? {
        ClusterSpecifier::Cluster(cluster) => at.equal("cluster", &cluster.as_str(), &name),
        ClusterSpecifier::WeightedClusters(_) => Err(at.field("weighted_clusters").fault("is not understood by this proxy".to_owned())),
    }
}
