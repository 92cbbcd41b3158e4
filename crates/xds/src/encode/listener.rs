//! The listener of a service port.
//!
//! Lorica and Envoy get an ordinary listener: HTTP connection manager, TCP proxy as default chain, as far as the protocol
//! allows each. gRPC gets an `ApiListener`, which has no address at all.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use envoy_types::pb::envoy::config::accesslog::v3::AccessLog;
use envoy_types::pb::envoy::config::common::mutation_rules::v3::{HeaderMutation, header_mutation};
use envoy_types::pb::envoy::config::core::v3::{Http2ProtocolOptions, TrafficDirection, TypedExtensionConfig};
use envoy_types::pb::envoy::config::listener::v3::{
    AdditionalAddress, ApiListener, Filter, FilterChain, FilterChainMatch, Listener, ListenerFilter, filter, listener_filter,
};
use envoy_types::pb::envoy::extensions::filters::http::cors::v3::Cors;
use envoy_types::pb::envoy::extensions::filters::http::grpc_web::v3::GrpcWeb;
use envoy_types::pb::envoy::extensions::filters::http::router::v3::Router;
use envoy_types::pb::envoy::extensions::filters::listener::http_inspector::v3::HttpInspector;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, HttpFilter, Rds,
    http_connection_manager::{RouteSpecifier, ServerHeaderTransformation, UpgradeConfig},
    http_filter,
};
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::{TcpProxy, tcp_proxy::ClusterSpecifier};
use envoy_types::pb::envoy::extensions::http::early_header_mutation::header_mutation::v3::HeaderMutation as EarlyHeaderMutation;
use envoy_types::pb::envoy::r#type::matcher::v3::{StringMatcher, string_matcher::MatchPattern};
use envoy_types::pb::envoy::r#type::v3::{
    HashPolicy,
    hash_policy::{PolicySpecifier, SourceIp},
};
use envoy_types::pb::google::protobuf::Any;
use lorica_model::name::ServicePort;
use lorica_model::snapshot::{OutboundUnit, Protocol};

use super::access_log::access_log;
use super::local_reply::local_reply;
use super::{CORS, Context, GRPC_WEB, address, ads, duration, fault, no};
use crate::facts::{ListenerFacts, metadata};
use crate::node::Dialect;
use crate::resource::pack;

/// What Envoy's HTTP inspector says of a connection that speaks HTTP.
pub(crate) const HTTP_PROTOCOLS: [&str; 3] = ["http/1.0", "http/1.1", "h2c"];
/// Where captured connections of an Envoy sidecar arrive; the port that service meshes use for it since Istio.
pub(super) const ORIGINAL_DST_PORT: u16 = 15001;
/// How long Envoy waits for a client's first bytes before it takes a connection for TCP: as long as a service that speaks
/// first may hesitate a client without anyone noticing. Lorica's proxy does not wait at all.
pub(super) const INSPECTION: Duration = Duration::from_millis(200);

pub(super) fn outbound(unit: &OutboundUnit, dialect: Dialect, context: Context<'_>) -> Option<Listener> {
    let name = unit.port.to_string();
    let http =
        || vec![network_filter("envoy.filters.network.http_connection_manager", pack(&connection_manager(&unit.port, dialect, context)))];
    if dialect == Dialect::Grpc {
        let manager = connection_manager(&unit.port, dialect, context);
        return Some(Listener { name, api_listener: Some(ApiListener { api_listener: Some(pack(&manager)) }), ..Listener::default() });
    }
    let mut listener = Listener {
        stat_prefix: String::new(),
        metadata: Some(metadata(&ListenerFacts { protocol: unit.protocol, http_only: unit.http_only, faults: unit.faults.clone() })),
        traffic_direction: TrafficDirection::Outbound.into(),
        ..Listener::default()
    };
    let local = context.node.upstreams.get(&unit.port);
    if let (Dialect::Envoy, Some(local)) = (dialect, local) {
        listener.address = Some(address(*local));
    } else if dialect == Dialect::Envoy && !context.node.upstreams.is_empty() {
        return None;
    } else {
        let v6 = SocketAddr::new(IpAddr::V6(unit.virtual_v6), unit.port.port);
        listener.address = Some(address(SocketAddr::new(IpAddr::V4(unit.virtual_v4), unit.port.port)));
        listener.additional_addresses = vec![AdditionalAddress { address: Some(address(v6)), ..AdditionalAddress::default() }];
        listener.bind_to_port = no();
    }
    let detects = unit.protocol == Protocol::Detect;
    let both = detects && !unit.http_only;
    if unit.protocol != Protocol::Tcp {
        let application_protocols = HTTP_PROTOCOLS.map(str::to_owned).to_vec();
        let matches = both.then(|| FilterChainMatch { application_protocols, ..FilterChainMatch::default() });
        listener.filter_chains =
            vec![FilterChain { name: "http".to_owned(), filter_chain_match: matches, filters: http(), ..FilterChain::default() }];
    }
    if both || unit.protocol == Protocol::Tcp {
        let filters = vec![tcp_filter(&name, access_log(dialect, context), by_source(dialect))];
        listener.default_filter_chain = Some(FilterChain { name: "tcp".to_owned(), filters, ..FilterChain::default() });
    }
    if both && dialect == Dialect::Envoy {
        listener.listener_filters = vec![listener_filter("envoy.filters.listener.http_inspector", pack(&HttpInspector {}))];
        listener.listener_filters_timeout = Some(duration(INSPECTION));
        listener.continue_on_listener_filters_timeout = true;
    }
    listener.name = name;
    Some(listener)
}

fn connection_manager(port: &ServicePort, dialect: Dialect, context: Context<'_>) -> HttpConnectionManager {
    let name = port.to_string();
    let routes = RouteSpecifier::Rds(Rds { config_source: Some(ads()), route_config_name: name.clone() });
    HttpConnectionManager { access_log: access_log(dialect, context), ..manager(&name, routes, dialect) }
}

/// A connection manager whose routes are these.
pub(super) fn manager(name: &str, routes: RouteSpecifier, dialect: Dialect) -> HttpConnectionManager {
    let mut manager = HttpConnectionManager {
        stat_prefix: name.to_owned(),
        http_filters: vec![router()],
        route_specifier: Some(routes),
        ..HttpConnectionManager::default()
    };
    if dialect != Dialect::Lorica {
        manager.http_filters.splice(0..0, fault::filters(dialect));
    }
    if dialect == Dialect::Envoy {
        // What it answers by itself, it answers before any fault.
        manager.http_filters.insert(0, cors_filter());
        manager.server_header_transformation = ServerHeaderTransformation::PassThrough.into();
        manager.early_header_mutation_extensions = vec![ours_removed()];
        manager.local_reply_config = Some(local_reply());
        manager.upgrade_configs = vec![UpgradeConfig { upgrade_type: "websocket".to_owned(), ..UpgradeConfig::default() }];
        // WebSockets of HTTP/2 (RFC 8441); no other CONNECT has a route.
        manager.http2_protocol_options = Some(Http2ProtocolOptions { allow_connect: true, ..Http2ProtocolOptions::default() });
    }
    manager
}

/// Takes away what only proxies of the mesh may say to each other.
fn ours_removed() -> TypedExtensionConfig {
    let pattern = StringMatcher { match_pattern: Some(MatchPattern::Prefix("x-lorica-".to_owned())), ..StringMatcher::default() };
    let removed = header_mutation::RemoveOnMatch { key_matcher: Some(pattern) };
    let mutation = HeaderMutation { action: Some(header_mutation::Action::RemoveOnMatch(removed)) };
    TypedExtensionConfig {
        name: "envoy.http.early_header_mutation.header_mutation".to_owned(),
        typed_config: Some(pack(&EarlyHeaderMutation { mutations: vec![mutation] })),
    }
}

pub(super) fn router() -> HttpFilter {
    HttpFilter {
        name: "envoy.filters.http.router".to_owned(),
        config_type: Some(http_filter::ConfigType::TypedConfig(pack(&Router::default()))),
        ..HttpFilter::default()
    }
}

/// Does what a route's own policy says, and nothing where there is none.
fn cors_filter() -> HttpFilter {
    HttpFilter { name: CORS.to_owned(), config_type: Some(http_filter::ConfigType::TypedConfig(pack(&Cors {}))), ..HttpFilter::default() }
}

/// Does nothing but where a route switches it on.
pub(super) fn grpc_web_filter() -> HttpFilter {
    let config_type = Some(http_filter::ConfigType::TypedConfig(pack(&GrpcWeb {})));
    HttpFilter { name: GRPC_WEB.to_owned(), config_type, disabled: true, ..HttpFilter::default() }
}

/// What an Envoy hashes of a connection where a hash decides on the endpoint; Lorica's proxy does so by itself.
pub(super) fn by_source(dialect: Dialect) -> Vec<HashPolicy> {
    let source = HashPolicy { policy_specifier: Some(PolicySpecifier::SourceIp(SourceIp {})) };
    Some(source).filter(|_| dialect == Dialect::Envoy).into_iter().collect()
}

pub(super) fn tcp_filter(cluster: &str, access_log: Vec<AccessLog>, hash_policy: Vec<HashPolicy>) -> Filter {
    let proxy = TcpProxy {
        hash_policy,
        stat_prefix: cluster.to_owned(),
        cluster_specifier: Some(ClusterSpecifier::Cluster(cluster.to_owned())),
        access_log,
        ..TcpProxy::default()
    };
    network_filter("envoy.filters.network.tcp_proxy", pack(&proxy))
}

pub(super) fn network_filter(name: &str, config: Any) -> Filter {
    Filter { name: name.to_owned(), config_type: Some(filter::ConfigType::TypedConfig(config)) }
}

pub(super) fn listener_filter(name: &str, config: Any) -> ListenerFilter {
    ListenerFilter {
        name: name.to_owned(),
        config_type: Some(listener_filter::ConfigType::TypedConfig(config)),
        ..ListenerFilter::default()
    }
}
