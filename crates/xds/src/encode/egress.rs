//! What may leave the mesh, in Envoy's words: filter chains by port, network, server name and host.
//!
//! Envoy chooses a chain by the port first and never comes back to chains without one, so the rules are spelled out for every port that
//! one of them names, and once for all other ports. Lorica's proxy reads the rules themselves, which stand beside the chains. What is
//! refused is told to the control plane by the access log service, by whichever proxy.

use std::collections::BTreeSet;
use std::net::IpAddr;

use envoy_types::pb::envoy::config::accesslog::v3::{AccessLog, access_log};
use envoy_types::pb::envoy::config::cluster::v3::{
    Cluster as EnvoyCluster,
    cluster::{ClusterDiscoveryType, CustomClusterType, DiscoveryType, LbPolicy},
};
use envoy_types::pb::envoy::config::core::v3::{
    ApiVersion, CidrRange, DataSource, GrpcService, HeaderValue, HeaderValueOption, Http2ProtocolOptions, SubstitutionFormatString,
    TrafficDirection, TransportSocket, data_source,
    grpc_service::{EnvoyGrpc, TargetSpecifier},
    substitution_format_string,
};
use envoy_types::pb::envoy::config::listener::v3::{Filter, FilterChain, FilterChainMatch, Listener};
use envoy_types::pb::envoy::config::rbac::v3::{
    Permission, Policy, Principal, Rbac, permission, principal, principal::Authenticated, rbac::Action as RbacAction,
};
use envoy_types::pb::envoy::config::route::v3::{
    DirectResponseAction, HeaderMatcher, Route, RouteAction, RouteConfiguration, RouteMatch, VirtualHost,
    route::Action,
    route_action::{ClusterSpecifier as RouteCluster, UpgradeConfig as RouteUpgrade, upgrade_config::ConnectConfig},
    route_match::{ConnectMatcher, PathSpecifier},
};
use envoy_types::pb::envoy::extensions::access_loggers::grpc::v3::{
    CommonGrpcAccessLogConfig, HttpGrpcAccessLogConfig, TcpGrpcAccessLogConfig,
};
use envoy_types::pb::envoy::extensions::clusters::dynamic_forward_proxy::v3::{
    ClusterConfig, cluster_config::ClusterImplementationSpecifier,
};
use envoy_types::pb::envoy::extensions::common::dynamic_forward_proxy::v3::DnsCacheConfig;
use envoy_types::pb::envoy::extensions::filters::common::set_filter_state::v3::{FilterStateValue, filter_state_value};
use envoy_types::pb::envoy::extensions::filters::http::dynamic_forward_proxy::v3::{
    FilterConfig as HttpForward, filter_config::ImplementationSpecifier,
};
use envoy_types::pb::envoy::extensions::filters::http::rbac::v3::Rbac as RbacFilter;
use envoy_types::pb::envoy::extensions::filters::listener::http_inspector::v3::HttpInspector;
use envoy_types::pb::envoy::extensions::filters::listener::original_dst::v3::OriginalDst;
use envoy_types::pb::envoy::extensions::filters::listener::tls_inspector::v3::TlsInspector;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, HttpFilter,
    http_connection_manager::{RouteSpecifier, ServerHeaderTransformation, UpgradeConfig},
    http_filter,
};
use envoy_types::pb::envoy::extensions::filters::network::set_filter_state::v3::Config as SetFilterState;
use envoy_types::pb::envoy::extensions::filters::network::sni_dynamic_forward_proxy::v3::FilterConfig as SniForward;
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::{
    TcpProxy,
    tcp_proxy::{ClusterSpecifier, TunnelingConfig},
};
use envoy_types::pb::envoy::r#type::matcher::v3::{StringMatcher, string_matcher::MatchPattern};
use envoy_types::pb::google::protobuf::Any;
use lorica_model::name::WorkloadName;
use lorica_model::snapshot::{Backend, EgressCaller, EgressHost, EgressRule, EgressUnit, HostPattern, Telemetry, Unlisted, Version};
use lorica_model::spiffe::TrustDomain;

use super::access_log::policy;
use super::listener::{HTTP_PROTOCOLS, INSPECTION, ORIGINAL_DST_PORT, listener_filter, network_filter, router};
use super::route::{cluster_name, escaped, regex, safe_regex};
use super::{Context, MISSING_PREFIX, address as socket, duration, no, tls, yes};
use crate::facts::metadata;
use crate::node::Dialect;
use crate::resource::pack;
use crate::{Kind, Resource};

/// What the names of listeners begin with that say what may leave the mesh.
pub const EGRESS_PREFIX: &str = "egress/";
/// The cluster of the address that an app wanted.
const ORIGINAL: &str = "egress/original";
/// The cluster of the host that an app named.
const NAMED: &str = "egress/named";
/// The cluster of the control plane in Envoy's bootstrap.
const CONTROL: &str = "lorica-control";
/// The name of the log of what was refused, by which the control plane knows it.
pub const REFUSED_LOG: &str = "lorica-egress-refused";
/// The listener of an Envoy that takes captured connections.
pub const CAPTURE: &str = "outbound";

/// The name of the listener that says what the app beside a workload's proxy may call: `egress/recording-7f3a2c.contact`.
#[must_use]
pub fn egress_name(workload: &WorkloadName) -> String {
    format!("{EGRESS_PREFIX}{workload}")
}

/// The resource of `unit`, for Lorica's proxy.
#[must_use]
pub fn egress(unit: &EgressUnit) -> Resource {
    let name = egress_name(&unit.workload);
    Resource::new(Kind::Listener, name, Version::of(unit), &egress_listener(unit))
}

pub(crate) fn egress_listener(unit: &EgressUnit) -> Listener {
    let (filter_chains, default_filter_chain) = chains(unit);
    Listener {
        name: egress_name(&unit.workload),
        filter_chains,
        default_filter_chain,
        metadata: Some(metadata(unit)),
        traffic_direction: TrafficDirection::Outbound.into(),
        bind_to_port: no(),
        ..Listener::default()
    }
}

/// The listener at which an Envoy without listeners of its own takes captured connections, to hand each to the unbound
/// listener of its destination. What is addressed to no service port leaves the mesh here, or does not.
#[must_use]
pub fn capture(unit: &EgressUnit) -> Resource {
    let (filter_chains, default_filter_chain) = chains(unit);
    let mut listener_filters = vec![listener_filter("envoy.filters.listener.original_dst", pack(&OriginalDst {}))];
    if !unit.is_open() {
        listener_filters.push(listener_filter("envoy.filters.listener.tls_inspector", pack(&TlsInspector::default())));
        listener_filters.push(listener_filter("envoy.filters.listener.http_inspector", pack(&HttpInspector {})));
    }
    let listener = Listener {
        name: CAPTURE.to_owned(),
        address: Some(socket(([127, 0, 0, 1], ORIGINAL_DST_PORT).into())),
        use_original_dst: yes(),
        listener_filters,
        listener_filters_timeout: Some(duration(INSPECTION)),
        continue_on_listener_filters_timeout: true,
        filter_chains,
        default_filter_chain,
        traffic_direction: TrafficDirection::Outbound.into(),
        ..Listener::default()
    };
    // An Envoy answers no questions for names and tries nothing, so what these meet makes no difference to it.
    let version = Version::of(&EgressUnit { names: Vec::new(), tried: Vec::new(), ..unit.clone() });
    Resource::new(Kind::Listener, CAPTURE, version, &listener)
}

/// The clusters by which Envoy leaves the mesh.
#[must_use]
pub fn egress_clusters() -> Vec<Resource> {
    let original = EnvoyCluster {
        name: ORIGINAL.to_owned(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::OriginalDst.into())),
        lb_policy: LbPolicy::ClusterProvided.into(),
        connect_timeout: Some(duration(CONNECT_TIMEOUT)),
        ..EnvoyCluster::default()
    };
    let config = ClusterConfig {
        cluster_implementation_specifier: Some(ClusterImplementationSpecifier::DnsCacheConfig(dns_cache())),
        ..ClusterConfig::default()
    };
    let named = EnvoyCluster {
        name: NAMED.to_owned(),
        cluster_discovery_type: Some(ClusterDiscoveryType::ClusterType(CustomClusterType {
            name: "envoy.clusters.dynamic_forward_proxy".to_owned(),
            typed_config: Some(pack(&config)),
        })),
        lb_policy: LbPolicy::ClusterProvided.into(),
        connect_timeout: Some(duration(CONNECT_TIMEOUT)),
        ..EnvoyCluster::default()
    };
    let version = Version::of(&"egress clusters 1");
    [original, named].iter().map(|cluster| Resource::new(Kind::Cluster, &cluster.name, version, cluster)).collect()
}

/// As long as an app would wait for a few lost SYNs; Lorica's proxy waits as long.
const CONNECT_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(10);

/// One cache for cluster and filters: Envoy refuses two that differ.
fn dns_cache() -> DnsCacheConfig {
    DnsCacheConfig { name: "egress".to_owned(), ..DnsCacheConfig::default() }
}

/// The chains of a unit, and the one for connections that none of them takes.
fn chains(unit: &EgressUnit) -> (Vec<FilterChain>, Option<FilterChain>) {
    if unit.is_open() {
        return (Vec::new(), Some(FilterChain { filters: tcp("all", ORIGINAL), ..FilterChain::default() }));
    }
    let ports: BTreeSet<u16> = unit.rules.iter().flat_map(|rule| rule.ports.iter().copied()).collect();
    let mut chains = Vec::new();
    for port in &ports {
        let group = Group { unit, ports: &ports, port: Some(*port) };
        let (of_port, rest) = group.chains();
        chains.extend(of_port);
        chains.push(FilterChain { filter_chain_match: Some(group.wanted()), ..rest });
    }
    let (others, rest) = Group { unit, ports: &ports, port: None }.chains();
    chains.extend(others);
    (chains, Some(rest))
}

/// The rules for one port, or for all that no rule names.
struct Group<'u> {
    unit: &'u EgressUnit,
    /// All that rules name.
    ports: &'u BTreeSet<u16>,
    port: Option<u16>,
}

impl<'u> Group<'u> {
    fn rules(&self) -> impl Iterator<Item = &'u EgressRule> {
        let port = self.port;
        let takes = move |rule: &&EgressRule| match port {
            Some(port) => rule.takes_port(port),
            None => rule.ports.is_empty(),
        };
        // Of rules for one host the first holds.
        let mut hosts: Vec<&EgressHost> = Vec::new();
        self.unit.rules.iter().filter(takes).filter(move |rule| {
            let fresh = !hosts.contains(&&rule.host);
            hosts.push(&rule.host);
            fresh
        })
    }

    fn wanted(&self) -> FilterChainMatch {
        let port = self.port.map(|port| envoy_types::pb::google::protobuf::UInt32Value { value: port.into() });
        FilterChainMatch { destination_port: port, ..FilterChainMatch::default() }
    }

    fn name(&self, what: &str) -> String {
        self.port.map_or_else(|| what.to_owned(), |port| format!("{what}:{port}"))
    }

    /// What becomes of what no rule for a network or a name lists.
    fn rest(&self) -> Way<'u> {
        let all = self.rules().find(|rule| rule.host == EgressHost::Name(HostPattern::Any));
        match (all, &self.unit.unlisted) {
            (Some(rule), _) => Way::By(rule),
            (None, Unlisted::Allow) => Way::Freely,
            (None, Unlisted::Deny(_)) => Way::Nowhere,
        }
    }

    fn chains(&self) -> (Vec<FilterChain>, FilterChain) {
        let mut chains = Vec::new();
        let mut names = Vec::new();
        for rule in self.rules() {
            match &rule.host {
                EgressHost::Network(network) => {
                    let range =
                        CidrRange { address_prefix: network.network().to_string(), prefix_len: super::number(network.prefix_len().into()) };
                    let wanted = FilterChainMatch { prefix_ranges: vec![range], ..self.wanted() };
                    chains.push(self.chain(&rule.host.to_string(), wanted, Way::By(rule).tcp(&self.name(&rule.host.to_string()))));
                }
                EgressHost::Name(HostPattern::Any) => {}
                EgressHost::Name(pattern) => {
                    names.push((pattern, rule));
                    let wanted =
                        FilterChainMatch { server_names: vec![pattern.to_string()], transport_protocol: "tls".to_owned(), ..self.wanted() };
                    chains.push(self.chain(&format!("tls/{pattern}"), wanted, self.tls(rule)));
                }
            }
        }
        let rest = self.rest();
        if !names.is_empty() || matches!(rest, Way::Nowhere) {
            let wanted = FilterChainMatch {
                transport_protocol: "raw_buffer".to_owned(),
                application_protocols: HTTP_PROTOCOLS.map(str::to_owned).to_vec(),
                ..self.wanted()
            };
            chains.push(self.chain("http", wanted, vec![called_port(), self.http(&names, rest)]));
        }
        let name = self.name("rest");
        (chains, FilterChain { filters: rest.tcp(&name), name, ..FilterChain::default() })
    }

    fn chain(&self, name: &str, wanted: FilterChainMatch, filters: Vec<Filter>) -> FilterChain {
        FilterChain { name: self.name(name), filter_chain_match: Some(wanted), filters, ..FilterChain::default() }
    }

    /// TLS to a name: the name is looked up again, so that whoever claims it goes there and nowhere else.
    fn tls(&self, rule: &EgressRule) -> Vec<Filter> {
        let name = self.name(&format!("tls/{}", rule.host));
        let port = self.port.map_or_else(|| "%DOWNSTREAM_LOCAL_PORT%".to_owned(), |port| port.to_string());
        match &rule.via {
            Some(gateway) => vec![tunnel(&name, gateway, &format!("%REQUESTED_SERVER_NAME%:{port}"))],
            None => {
                let forward = SniForward { dns_cache_config: Some(dns_cache()), ..SniForward::default() };
                let forward = network_filter("envoy.filters.network.sni_dynamic_forward_proxy", pack(&forward));
                let mut filters = vec![called_port(), forward];
                filters.extend(tcp(&name, NAMED));
                filters
            }
        }
    }

    /// HTTP in plaintext: each request's host is looked up, so that it goes there and nowhere else. Envoy cannot lead it through a
    /// gateway, and refuses it then.
    fn http(&self, names: &[(&HostPattern, &EgressRule)], rest: Way<'_>) -> Filter {
        let to = |cluster: &str| {
            Action::Route(RouteAction {
                cluster_specifier: Some(RouteCluster::Cluster(cluster.to_owned())),
                timeout: Some(duration(std::time::Duration::ZERO)),
                ..RouteAction::default()
            })
        };
        let host = |domain: String, routes: Vec<Route>| VirtualHost {
            name: domain.clone(),
            domains: vec![domain],
            routes,
            ..VirtualHost::default()
        };
        let direct = |via: &Option<Backend>, cluster: &str| if via.is_none() { to(cluster) } else { refusal() };
        let named = |(pattern, rule): &(&HostPattern, &EgressRule)| host(pattern.to_string(), self.at_its_port(direct(&rule.via, NAMED)));
        let mut virtual_hosts: Vec<VirtualHost> = names.iter().map(named).collect();
        let unnamed = match rest {
            Way::By(rule) => direct(&rule.via, ORIGINAL),
            Way::Freely => to(ORIGINAL),
            Way::Nowhere => refusal(),
        };
        virtual_hosts.push(host("*".to_owned(), vec![request(None, unnamed)]));
        let name = self.name("egress/http");
        let forward = HttpForward {
            allow_dynamic_host_from_filter_state: true,
            implementation_specifier: Some(ImplementationSpecifier::DnsCacheConfig(dns_cache())),
            ..HttpForward::default()
        };
        let manager = HttpConnectionManager {
            stat_prefix: name.clone(),
            route_specifier: Some(RouteSpecifier::RouteConfig(RouteConfiguration {
                name,
                virtual_hosts,
                ignore_port_in_host_matching: true,
                ..RouteConfiguration::default()
            })),
            http_filters: vec![http_filter("envoy.filters.http.dynamic_forward_proxy", pack(&forward)), router()],
            upgrade_configs: vec![UpgradeConfig { upgrade_type: "websocket".to_owned(), ..UpgradeConfig::default() }],
            access_log: vec![http_log()],
            // Hosts outside are told nothing of the mesh, and apps hear who answered.
            generate_request_id: no(),
            server_header_transformation: ServerHeaderTransformation::PassThrough.into(),
            ..HttpConnectionManager::default()
        };
        network_filter("envoy.filters.network.http_connection_manager", pack(&manager))
    }

    /// Requests to a listed name. Envoy goes to the port that the Host says, so it must be one for which the same rules hold as for the
    /// port that was called; where none is said, it goes to that one.
    fn at_its_port(&self, action: Action) -> Vec<Route> {
        let said = |ports: &str| Some(safe_regex(":authority", &format!("[^:]*{ports}")));
        match self.port {
            Some(port) => vec![request(said(&format!("(?::{port})?")), action), request(None, refusal())],
            None if self.ports.is_empty() => vec![request(None, action)],
            None => vec![request(said(&format!(":(?:{})", either(self.ports))), refusal()), request(None, action)],
        }
    }
}

/// What becomes of requests, or of those with such a header.
fn request(wanted: Option<HeaderMatcher>, action: Action) -> Route {
    let refused = matches!(action, Action::DirectResponse(_));
    Route {
        r#match: Some(RouteMatch {
            path_specifier: Some(PathSpecifier::Prefix("/".to_owned())),
            headers: wanted.into_iter().collect(),
            ..RouteMatch::default()
        }),
        action: Some(action),
        response_headers_to_add: if refused { vec![reason()] } else { Vec::new() },
        ..Route::default()
    }
}

/// Has names that are looked up again be called at the port that the app called.
fn called_port() -> Filter {
    let format = substitution_format_string::Format::TextFormatSource(DataSource {
        specifier: Some(data_source::Specifier::InlineString("%DOWNSTREAM_LOCAL_PORT%".to_owned())),
        ..DataSource::default()
    });
    let port = FilterStateValue {
        key: Some(filter_state_value::Key::ObjectKey("envoy.upstream.dynamic_port".to_owned())),
        value: Some(filter_state_value::Value::FormatString(SubstitutionFormatString {
            format: Some(format),
            ..SubstitutionFormatString::default()
        })),
        ..FilterStateValue::default()
    };
    let set = SetFilterState { on_new_connection: vec![port], ..SetFilterState::default() };
    network_filter("envoy.filters.network.set_filter_state", pack(&set))
}

/// Which way a connection goes whose name makes no difference.
#[derive(Clone, Copy)]
enum Way<'u> {
    By(&'u EgressRule),
    Freely,
    Nowhere,
}

impl Way<'_> {
    fn tcp(self, name: &str) -> Vec<Filter> {
        match self {
            Self::By(EgressRule { via: Some(gateway), .. }) => vec![tunnel(name, gateway, "%DOWNSTREAM_LOCAL_ADDRESS%")],
            Self::By(_) | Self::Freely => tcp(name, ORIGINAL),
            Self::Nowhere => {
                let log = TcpGrpcAccessLogConfig { common_config: Some(log_service()) };
                let proxy = TcpProxy {
                    stat_prefix: name.to_owned(),
                    // A cluster that is never sent: Envoy closes the connection.
                    cluster_specifier: Some(ClusterSpecifier::Cluster(format!("{MISSING_PREFIX}egress"))),
                    access_log: vec![access_log("envoy.access_loggers.tcp_grpc", pack(&log))],
                    ..TcpProxy::default()
                };
                vec![network_filter("envoy.filters.network.tcp_proxy", pack(&proxy))]
            }
        }
    }
}

fn tcp(name: &str, cluster: &str) -> Vec<Filter> {
    let proxy = TcpProxy {
        stat_prefix: name.to_owned(),
        cluster_specifier: Some(ClusterSpecifier::Cluster(cluster.to_owned())),
        ..TcpProxy::default()
    };
    vec![network_filter("envoy.filters.network.tcp_proxy", pack(&proxy))]
}

/// Through an egress gateway, which is asked for `host`.
fn tunnel(name: &str, gateway: &Backend, host: &str) -> Filter {
    let proxy = TcpProxy {
        stat_prefix: name.to_owned(),
        cluster_specifier: Some(ClusterSpecifier::Cluster(cluster_name(gateway))),
        tunneling_config: Some(TunnelingConfig { hostname: host.to_owned(), ..TunnelingConfig::default() }),
        ..TcpProxy::default()
    };
    network_filter("envoy.filters.network.tcp_proxy", pack(&proxy))
}

fn refusal() -> Action {
    Action::DirectResponse(DirectResponseAction { status: 403, ..DirectResponseAction::default() })
}

/// What tells a refusal from an answer of the host outside.
fn reason() -> HeaderValueOption {
    let header = HeaderValue { key: "x-lorica-reason".to_owned(), value: "egress_denied".to_owned(), ..HeaderValue::default() };
    HeaderValueOption { header: Some(header), ..HeaderValueOption::default() }
}

fn http_filter(name: &str, config: Any) -> HttpFilter {
    HttpFilter { name: name.to_owned(), config_type: Some(http_filter::ConfigType::TypedConfig(config)), ..HttpFilter::default() }
}

fn http_log() -> AccessLog {
    let log = HttpGrpcAccessLogConfig { common_config: Some(log_service()), ..HttpGrpcAccessLogConfig::default() };
    access_log("envoy.access_loggers.http_grpc", pack(&log))
}

fn access_log(name: &str, config: Any) -> AccessLog {
    AccessLog { name: name.to_owned(), config_type: Some(access_log::ConfigType::TypedConfig(config)), ..AccessLog::default() }
}

fn log_service() -> CommonGrpcAccessLogConfig {
    let service = GrpcService {
        target_specifier: Some(TargetSpecifier::EnvoyGrpc(EnvoyGrpc { cluster_name: CONTROL.to_owned(), ..EnvoyGrpc::default() })),
        ..GrpcService::default()
    };
    CommonGrpcAccessLogConfig {
        log_name: REFUSED_LOG.to_owned(),
        grpc_service: Some(service),
        transport_api_version: ApiVersion::V3.into(),
        ..CommonGrpcAccessLogConfig::default()
    }
}

/// The chain of an egress gateway's listener: CONNECT requests by mutual TLS, of which each says where it goes. A rule for a network of
/// more than one address cannot be said to Envoy, which sees no address before it has connected, and is left out: nothing passes by it.
pub(crate) fn gateway_chain(
    name: &str,
    rules: &[EgressRule],
    telemetry: Option<&Telemetry>,
    dialect: Dialect,
    context: Context<'_>,
) -> FilterChain {
    let own = context.node.access_log.as_deref();
    let logged = telemetry.and_then(|telemetry| telemetry.access_log.as_ref()).filter(|_| dialect == Dialect::Envoy);
    let mut http_filters = Vec::new();
    // Lorica's proxy reads the rules themselves; a map, as this filter has one, is written in no certain order.
    if dialect == Dialect::Envoy {
        http_filters.push(http_filter("envoy.filters.http.rbac", pack(&rbac(rules, context.trust_domain))));
    }
    let forward =
        HttpForward { implementation_specifier: Some(ImplementationSpecifier::DnsCacheConfig(dns_cache())), ..HttpForward::default() };
    http_filters.extend([http_filter("envoy.filters.http.dynamic_forward_proxy", pack(&forward)), router()]);
    let connect = Route {
        r#match: Some(RouteMatch { path_specifier: Some(PathSpecifier::ConnectMatcher(ConnectMatcher {})), ..RouteMatch::default() }),
        action: Some(Action::Route(RouteAction {
            cluster_specifier: Some(RouteCluster::Cluster(NAMED.to_owned())),
            timeout: Some(duration(std::time::Duration::ZERO)),
            upgrade_configs: vec![RouteUpgrade {
                upgrade_type: "CONNECT".to_owned(),
                connect_config: Some(ConnectConfig::default()),
                ..RouteUpgrade::default()
            }],
            ..RouteAction::default()
        })),
        ..Route::default()
    };
    let manager = HttpConnectionManager {
        stat_prefix: name.to_owned(),
        route_specifier: Some(RouteSpecifier::RouteConfig(RouteConfiguration {
            name: name.to_owned(),
            virtual_hosts: vec![VirtualHost {
                name: "*".to_owned(),
                domains: vec!["*".to_owned()],
                routes: vec![connect],
                ..VirtualHost::default()
            }],
            ..RouteConfiguration::default()
        })),
        http2_protocol_options: Some(Http2ProtocolOptions { allow_connect: true, ..Http2ProtocolOptions::default() }),
        upgrade_configs: vec![UpgradeConfig { upgrade_type: "CONNECT".to_owned(), ..UpgradeConfig::default() }],
        http_filters,
        // Lorica's proxy has from the metadata what is logged besides.
        access_log: std::iter::once(http_log()).chain(logged.into_iter().flat_map(|log| policy(log, dialect, own))).collect(),
        ..HttpConnectionManager::default()
    };
    let transport_socket: TransportSocket = tls::egress(dialect, context);
    FilterChain {
        filters: vec![network_filter("envoy.filters.network.http_connection_manager", pack(&manager))],
        transport_socket: Some(transport_socket),
        ..FilterChain::default()
    }
}

fn rbac(rules: &[EgressRule], own: Option<&TrustDomain>) -> RbacFilter {
    let policies = rules.iter().enumerate().filter_map(|(index, rule)| {
        let permissions = vec![Permission { rule: Some(permission::Rule::Header(authority(rule)?)) }];
        let principals = rule.callers.iter().map(|caller| principal(caller, own)).collect();
        Some((format!("{index:04} {} {}", rule.origin, rule.host), Policy { permissions, principals, ..Policy::default() }))
    });
    RbacFilter {
        rules: Some(Rbac { action: RbacAction::Allow.into(), policies: policies.collect(), ..Rbac::default() }),
        ..RbacFilter::default()
    }
}

/// The authority that a rule lets pass.
fn authority(rule: &EgressRule) -> Option<HeaderMatcher> {
    let host = match &rule.host {
        EgressHost::Network(network) if network.prefix_len() == network.max_prefix_len() => match network.addr() {
            IpAddr::V4(address) => escaped(&address.to_string()),
            IpAddr::V6(address) => format!(r"\[{address}\]"),
        },
        EgressHost::Network(_) => return None,
        EgressHost::Name(HostPattern::Exact(name)) => escaped(name),
        EgressHost::Name(HostPattern::Under(rest)) => format!(r"[^:]+\.{}", escaped(rest)),
        EgressHost::Name(HostPattern::Any) => ".+".to_owned(),
    };
    let port = match rule.ports.as_slice() {
        [] => "[0-9]+".to_owned(),
        ports => either(ports),
    };
    Some(safe_regex(":authority", &format!("{host}:(?:{port})")))
}

/// One of these ports, as an expression.
fn either<'p>(ports: impl IntoIterator<Item = &'p u16>) -> String {
    ports.into_iter().map(u16::to_string).collect::<Vec<_>>().join("|")
}

/// The identities of a caller, of the mesh's own trust domain: the handshake takes those of others, too.
fn principal(caller: &EgressCaller, own: Option<&TrustDomain>) -> Principal {
    let domain = own.map_or_else(|| "spiffe://[^/]+".to_owned(), |own| escaped(&own.uri()));
    let part = |part: Option<&str>| part.map_or_else(|| "[^/]+".to_owned(), escaped);
    let namespace = part(caller.namespace.as_ref().map(lorica_model::name::Namespace::as_str));
    let account = part(caller.account.as_ref().map(lorica_model::name::Label::as_str));
    let pattern = regex(&format!("{domain}/ns/{namespace}/sa/{account}"));
    let name = StringMatcher { match_pattern: Some(MatchPattern::SafeRegex(pattern)), ..StringMatcher::default() };
    Principal { identifier: Some(principal::Identifier::Authenticated(Authenticated { principal_name: Some(name) })) }
}
