//! The listener port of a gateway: one listener, with a filter chain for each server name where it takes TLS.
//!
//! Lorica's proxy gets routes and certificates within the listener, so that a unit is one resource and is replaced as a whole. Envoy asks for
//! them by RDS and SDS: in its hands a changed listener would end connections.

use std::net::{Ipv4Addr, SocketAddr};

use envoy_types::pb::envoy::config::core::v3::{
    Http1ProtocolOptions, TransportSocket, address, socket_address, transport_socket::ConfigType,
};
use envoy_types::pb::envoy::config::listener::v3::{Filter, FilterChain, FilterChainMatch, Listener, ListenerFilter, UdpListenerConfig};
use envoy_types::pb::envoy::config::route::v3::RouteConfiguration;
use envoy_types::pb::envoy::extensions::filters::listener::tls_inspector::v3::TlsInspector;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{Rds, http_connection_manager::RouteSpecifier};
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::{
    TcpProxy,
    tcp_proxy::{ClusterSpecifier, WeightedCluster, weighted_cluster::ClusterWeight},
};
use envoy_types::pb::envoy::extensions::filters::udp::udp_proxy::v3::{UdpProxyConfig, udp_proxy_config::RouteSpecifier as UdpRoute};
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, CommonTlsContext, DownstreamTlsContext, certificate_validation_context::TrustChainVerification,
    common_tls_context::ValidationContextType,
};
use envoy_types::pb::google::protobuf::BoolValue;
use lorica_model::name::GatewayName;
use lorica_model::snapshot::{
    GatewayUnit, HostPattern, Hosts, Listening, ServerTls, Terminated, TlsAction, TlsChain, TransportRoute, Version,
};

use super::access_log::{access_log, access_log_of_refused};
use super::certificate::{by_name, certificate, inline, shown};
use super::listener::{listener_filter, manager, network_filter};
use super::route::{cluster_name, host};
use super::{Context, MISSING_PREFIX, address as socket, ads, yes};
use crate::facts::{TransportFacts, metadata};
use crate::node::Dialect;
use crate::resource::pack;
use crate::{Kind, Resource};

/// What the names of a gateway's listeners and routes begin with.
pub const GATEWAY_PREFIX: &str = "gateway/";

/// The name of the listener of a gateway's port.
#[must_use]
pub fn gateway_name(gateway: &GatewayName, port: u16, udp: bool) -> String {
    format!("{GATEWAY_PREFIX}{gateway}:{port}{}", if udp { "/udp" } else { "" })
}

/// The resources of a gateway's listener port.
#[must_use]
pub fn gateway(unit: &GatewayUnit, dialect: Dialect, context: Context<'_>) -> Vec<Resource> {
    let name = gateway_name(&unit.gateway, unit.port, matches!(unit.listening, Listening::Udp(_)));
    let mut encoder = Encoder { name: &name, dialect, context, routes: Vec::new() };
    let mut listener = Listener { name: name.clone(), access_log: access_log_of_refused(dialect, context), ..Listener::default() };
    match &unit.listening {
        Listening::Http(hosts) => {
            let filters = vec![encoder.http(&name, hosts)];
            listener.filter_chains = vec![FilterChain { filters, ..FilterChain::default() }];
        }
        Listening::Tcp(route) => listener.filter_chains = vec![encoder.bytes(&name, route.as_ref())],
        Listening::Tls(chains) => {
            listener.filter_chains = chains.iter().map(|chain| encoder.chain(chain)).collect();
            if dialect == Dialect::Envoy {
                listener.listener_filters = vec![listener_filter("envoy.filters.listener.tls_inspector", pack(&TlsInspector::default()))];
            }
        }
        Listening::Udp(route) => {
            listener.metadata = Some(metadata(&TransportFacts { route: route.clone() }));
            listener.listener_filters = vec![datagrams(&name, route.as_ref())];
            listener.udp_listener_config = Some(UdpListenerConfig::default());
        }
    }
    let bound = context.gateway_bind(unit.port).filter(|_| dialect == Dialect::Envoy);
    let mut place = socket(bound.unwrap_or_else(|| SocketAddr::from((Ipv4Addr::UNSPECIFIED, unit.port))));
    if let (Listening::Udp(_), Some(address::Address::SocketAddress(socket))) = (&unit.listening, &mut place.address) {
        socket.protocol = socket_address::Protocol::Udp.into();
    }
    listener.address = Some(place);
    if dialect != Dialect::Envoy {
        return vec![Resource::new(Kind::Listener, &name, Version::of(unit), &listener)];
    }
    let routes = encoder.routes;
    let mut resources = vec![Resource::new(Kind::Listener, &name, Version::of(&(apart(unit), bound)), &listener)];
    resources.extend(routes.iter().map(|(version, routes)| Resource::new(Kind::Route, &routes.name, version, routes)));
    resources.extend(unit.certificates().map(certificate));
    resources
}

/// A unit without what Envoy asks for apart: rules, and what is in certificates.
fn apart(unit: &GatewayUnit) -> GatewayUnit {
    let terminated = |then: &Terminated| match then {
        Terminated::Http(_) => Terminated::Http(Hosts::default()),
        Terminated::Tcp(route) => Terminated::Tcp(route.clone()),
    };
    let action = |action: &TlsAction| match action {
        TlsAction::Passthrough(route) => TlsAction::Passthrough(route.clone()),
        TlsAction::Terminate { tls: ServerTls { certificates, client }, then } => {
            let tls = ServerTls { certificates: certificates.iter().map(by_name).collect(), client: client.clone() };
            TlsAction::Terminate { tls, then: terminated(then) }
        }
    };
    let chain = |chain: &TlsChain| TlsChain { server_name: chain.server_name.clone(), action: action(&chain.action) };
    let listening = match &unit.listening {
        Listening::Http(_) => Listening::Http(Hosts::default()),
        Listening::Tls(chains) => Listening::Tls(chains.iter().map(chain).collect()),
        Listening::Tcp(route) => Listening::Tcp(route.clone()),
        Listening::Udp(route) => Listening::Udp(route.clone()),
    };
    GatewayUnit { gateway: unit.gateway.clone(), port: unit.port, listening }
}

struct Encoder<'e> {
    name: &'e str,
    dialect: Dialect,
    context: Context<'e>,
    /// What Envoy asks for by RDS.
    routes: Vec<(Version, RouteConfiguration)>,
}

impl Encoder<'_> {
    fn http(&mut self, name: &str, hosts: &Hosts) -> Filter {
        let virtual_hosts = hosts.all().iter().map(|one| host(&one.host.to_string(), &one.host.to_string(), &one.rules, self.dialect));
        let routes = RouteConfiguration {
            name: name.to_owned(),
            virtual_hosts: virtual_hosts.collect(),
            ignore_port_in_host_matching: true,
            ..RouteConfiguration::default()
        };
        let specifier = if self.dialect == Dialect::Envoy {
            self.routes.push((Version::of(hosts), routes));
            RouteSpecifier::Rds(Rds { config_source: Some(ads()), route_config_name: name.to_owned() })
        } else {
            RouteSpecifier::RouteConfig(routes)
        };
        let mut manager = manager(name, specifier, self.dialect);
        if self.dialect == Dialect::Envoy {
            // Callers are from outside: what they say of their own address stands before what is known of it.
            manager.use_remote_address = yes();
            manager.preserve_external_request_id = true;
            manager.http_protocol_options = Some(Http1ProtocolOptions {
                accept_http_10: true,
                enable_trailers: true,
                allow_custom_methods: true,
                ..Http1ProtocolOptions::default()
            });
            manager.access_log = access_log(self.dialect, self.context);
        }
        network_filter("envoy.filters.network.http_connection_manager", pack(&manager))
    }

    /// A chain that passes bytes on.
    fn bytes(&self, name: &str, route: Option<&TransportRoute>) -> FilterChain {
        let mut proxy = tcp_proxy(name, route);
        proxy.access_log = access_log(self.dialect, self.context);
        FilterChain {
            filters: vec![network_filter("envoy.filters.network.tcp_proxy", pack(&proxy))],
            metadata: Some(metadata(&TransportFacts { route: route.cloned() })),
            ..FilterChain::default()
        }
    }

    fn chain(&mut self, chain: &TlsChain) -> FilterChain {
        let name = format!("{}/{}", self.name, chain.server_name);
        let mut out = match &chain.action {
            TlsAction::Passthrough(route) => self.bytes(&name, Some(route)),
            TlsAction::Terminate { tls, then } => {
                let (mut out, alpn) = match then {
                    Terminated::Tcp(route) => (self.bytes(&name, route.as_ref()), &[][..]),
                    Terminated::Http(hosts) => {
                        (FilterChain { filters: vec![self.http(&name, hosts)], ..FilterChain::default() }, &["h2", "http/1.1"][..])
                    }
                };
                out.transport_socket = Some(TransportSocket {
                    name: "envoy.transport_sockets.tls".to_owned(),
                    config_type: Some(ConfigType::TypedConfig(pack(&server_tls(tls, alpn, self.dialect)))),
                });
                out
            }
        };
        let server_names = match &chain.server_name {
            HostPattern::Any => Vec::new(),
            name => vec![name.to_string()],
        };
        out.name = name;
        out.filter_chain_match =
            Some(FilterChainMatch { server_names, transport_protocol: "tls".to_owned(), ..FilterChainMatch::default() });
        out
    }
}

/// How TLS ends.
fn server_tls(tls: &ServerTls, alpn: &[&str], dialect: Dialect) -> DownstreamTlsContext {
    let verification = |optional| if optional { TrustChainVerification::AcceptUntrusted } else { TrustChainVerification::VerifyTrustChain };
    let validation = tls.client.as_ref().map(|client| CertificateValidationContext {
        trusted_ca: Some(inline(&client.roots)),
        trust_chain_verification: verification(client.optional).into(),
        ..CertificateValidationContext::default()
    });
    DownstreamTlsContext {
        common_tls_context: Some(CommonTlsContext {
            alpn_protocols: alpn.iter().map(|name| (*name).to_owned()).collect(),
            validation_context_type: validation.map(ValidationContextType::ValidationContext),
            ..shown(tls.certificates.iter(), dialect)
        }),
        require_client_certificate: tls.client.as_ref().map(|client| BoolValue { value: !client.optional }),
        ..DownstreamTlsContext::default()
    }
}

/// Where bytes go. A share that leads nowhere names a cluster that is never sent, at which Envoy closes the connection.
pub(crate) fn tcp_proxy(name: &str, route: Option<&TransportRoute>) -> TcpProxy {
    let backends = route.map(|route| route.backends.as_slice()).unwrap_or_default();
    let weighted: Vec<ClusterWeight> = backends
        .iter()
        .filter(|backend| backend.weight > 0)
        .map(|backend| ClusterWeight { name: cluster_name(&backend.backend), weight: backend.weight, ..ClusterWeight::default() })
        .collect();
    let specifier = match weighted.as_slice() {
        [] => ClusterSpecifier::Cluster(format!("{MISSING_PREFIX}none")),
        [only] => ClusterSpecifier::Cluster(only.name.clone()),
        _ => ClusterSpecifier::WeightedClusters(WeightedCluster { clusters: weighted }),
    };
    TcpProxy { stat_prefix: name.to_owned(), cluster_specifier: Some(specifier), ..TcpProxy::default() }
}

/// Where datagrams go. Envoy draws no weights for them: the heaviest backend takes all.
fn datagrams(name: &str, route: Option<&TransportRoute>) -> ListenerFilter {
    let heaviest = route.and_then(|route| route.backends.iter().filter(|backend| backend.weight > 0).max_by_key(|backend| backend.weight));
    let cluster = heaviest.map_or_else(|| format!("{MISSING_PREFIX}none"), |backend| cluster_name(&backend.backend));
    #[allow(deprecated, reason = "the matcher that replaces it needs three more messages to say the same")]
    let config =
        UdpProxyConfig { stat_prefix: name.to_owned(), route_specifier: Some(UdpRoute::Cluster(cluster)), ..UdpProxyConfig::default() };
    listener_filter("envoy.filters.udp_listener.udp_proxy", pack(&config))
}
