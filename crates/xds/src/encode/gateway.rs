//! The listener port of a gateway: one listener, with a filter chain for each server name where it takes TLS.
//!
//! Lorica's proxy gets routes and certificates within the listener, so that a unit is one resource and is replaced as a whole. Envoy asks for
//! them by RDS and SDS: in its hands a changed listener would end connections.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};

use envoy_types::pb::envoy::config::common::mutation_rules::v3::{HeaderMutation as Mutation, header_mutation as mutation};
use envoy_types::pb::envoy::config::core::v3::{
    Address, HeaderValue, HeaderValueOption, Http1ProtocolOptions, Http3ProtocolOptions, TransportSocket, address,
    header_value_option::HeaderAppendAction, socket_address, transport_socket::ConfigType,
};
use envoy_types::pb::envoy::config::listener::v3::{
    Filter, FilterChain, FilterChainMatch, Listener, ListenerFilter, QuicProtocolOptions, UdpListenerConfig,
};
use envoy_types::pb::envoy::config::route::v3::RouteConfiguration;
use envoy_types::pb::envoy::extensions::filters::http::header_mutation::v3::{HeaderMutation, Mutations};
use envoy_types::pb::envoy::extensions::filters::listener::tls_inspector::v3::TlsInspector;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpFilter, Rds,
    http_connection_manager::{CodecType, RouteSpecifier},
    http_filter,
};
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::{
    TcpProxy,
    tcp_proxy::{ClusterSpecifier, WeightedCluster, weighted_cluster::ClusterWeight},
};
use envoy_types::pb::envoy::extensions::filters::udp::udp_proxy::v3::{UdpProxyConfig, udp_proxy_config::RouteSpecifier as UdpRoute};
use envoy_types::pb::envoy::extensions::transport_sockets::quic::v3::QuicDownstreamTransport;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, CommonTlsContext, DownstreamTlsContext, certificate_validation_context::TrustChainVerification,
    common_tls_context::ValidationContextType,
};
use envoy_types::pb::google::protobuf::BoolValue;
use lorica_model::name::GatewayName;
use lorica_model::snapshot::{
    GatewayUnit, HostPattern, Hosts, LimitService, Listening, ServerTls, Telemetry, Terminated, TlsAction, TlsChain, TransportRoute,
    Version,
};

use super::access_log::{access_log_of_refused, told};
use super::certificate::{by_name, certificate, inline, shown};
use super::egress::gateway_chain;
use super::listener::{by_source, grpc_web_filter, listener_filter, manager, network_filter};
use super::route::{cluster_name, host};
use super::{
    Context, MISSING_PREFIX, address as socket, ads, authentication, authorization, authorizer, fault, rate_limit, telemetry, yes,
};
use crate::facts::{DatagramFacts, GatewayFacts, TransportFacts, metadata};
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
    let mut encoder = Encoder { name: &name, dialect, context, telemetry: unit.telemetry.as_deref(), routes: Vec::new() };
    let mut listener = Listener { name: name.clone(), access_log: access_log_of_refused(dialect, context), ..Listener::default() };
    listener.metadata = unit.telemetry.as_ref().map(|told| metadata(&GatewayFacts { rules: None, telemetry: Some(told.clone()) }));
    match &unit.listening {
        Listening::Http(hosts) => {
            let filters = vec![encoder.http(&name, hosts, Over::Tcp)];
            listener.filter_chains = vec![FilterChain { filters, ..FilterChain::default() }];
        }
        Listening::Tcp(route) => listener.filter_chains = vec![encoder.bytes(&name, route.as_ref())],
        Listening::Tls(chains) => {
            listener.filter_chains = chains.iter().map(|chain| encoder.chain(chain, unit.port)).collect();
            if dialect == Dialect::Envoy {
                listener.listener_filters = vec![listener_filter("envoy.filters.listener.tls_inspector", pack(&TlsInspector::default()))];
            }
        }
        Listening::Egress(rules) => {
            listener.metadata = Some(metadata(&GatewayFacts { rules: Some(rules.clone()), telemetry: unit.telemetry.clone() }));
            listener.filter_chains = vec![gateway_chain(&name, rules, unit.telemetry.as_deref(), dialect, context)];
        }
        Listening::Udp(route) => {
            listener.metadata = Some(metadata(&DatagramFacts { route: route.clone(), telemetry: unit.telemetry.clone() }));
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
    let quic = match &unit.listening {
        Listening::Tls(chains) => encoder.quic(chains, listener.address.clone()),
        _ => None,
    };
    let routes = encoder.routes;
    // What limits ask is asked by filters of the listener.
    let asked: BTreeSet<&LimitService> =
        unit.hosts().flat_map(Hosts::all).flat_map(|host| host.rules.iter()).flat_map(|rule| rule.filters.services()).collect();
    let authorization = unit.hosts().flat_map(Hosts::all).flat_map(|host| host.rules.iter());
    let authorization = authorization.filter_map(|rule| rule.filters.authorization.as_deref());
    let tokens = authentication::version(&authentication::policies(unit.hosts()));
    let version = Version::of(&(apart(unit), bound, asked, tokens, authorizer::asked(authorization)));
    let mut resources = vec![Resource::new(Kind::Listener, &name, version, &listener)];
    resources.extend(quic.map(|quic| Resource::new(Kind::Listener, &quic.name, version, &quic)));
    resources.extend(routes.iter().map(|(version, routes)| Resource::new(Kind::Route, &routes.name, *version, routes)));
    resources.extend(unit.certificates().map(certificate));
    resources
}

/// What carries HTTP.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Over {
    /// TCP alone.
    Tcp,
    /// TCP, and QUIC beside it, at a port that answers tell.
    TcpBesideQuic(u16),
    /// QUIC.
    Quic,
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
    let chain = |chain: &TlsChain| TlsChain { action: action(&chain.action), ..chain.clone() };
    let listening = match &unit.listening {
        Listening::Http(_) => Listening::Http(Hosts::default()),
        Listening::Tls(chains) => Listening::Tls(chains.iter().map(chain).collect()),
        Listening::Tcp(route) => Listening::Tcp(route.clone()),
        Listening::Udp(route) => Listening::Udp(route.clone()),
        Listening::Egress(rules) => Listening::Egress(rules.clone()),
    };
    GatewayUnit { gateway: unit.gateway.clone(), port: unit.port, listening, telemetry: unit.telemetry.clone() }
}

struct Encoder<'e> {
    name: &'e str,
    dialect: Dialect,
    context: Context<'e>,
    telemetry: Option<&'e Telemetry>,
    /// What Envoy asks for by RDS.
    routes: Vec<(Version, RouteConfiguration)>,
}

impl Encoder<'_> {
    fn http(&mut self, name: &str, hosts: &Hosts, over: Over) -> Filter {
        let hosts = &*fault::hosts(hosts, self.dialect, self.context.node);
        let virtual_hosts = hosts.all().iter().map(|one| host(&one.host.to_string(), &one.host.to_string(), &one.rules, self.dialect));
        let mut routes = RouteConfiguration {
            name: name.to_owned(),
            virtual_hosts: virtual_hosts.collect(),
            ignore_port_in_host_matching: true,
            // Outside, nobody learns how a service is protected.
            response_headers_to_remove: if self.dialect == Dialect::Envoy { vec!["x-lorica-policy".to_owned()] } else { Vec::new() },
            ..RouteConfiguration::default()
        };
        let limits = || hosts.all().iter().flat_map(|host| host.rules.iter()).flat_map(|rule| &rule.filters.limits);
        let specifier = if self.dialect == Dialect::Envoy {
            routes.typed_per_filter_config.extend(rate_limit::buckets(limits()));
            if over != Over::Quic {
                self.routes.push((Version::of(hosts), routes));
            }
            RouteSpecifier::Rds(Rds { config_source: Some(ads()), route_config_name: name.to_owned() })
        } else {
            RouteSpecifier::RouteConfig(routes)
        };
        let mut manager = manager(name, specifier, self.dialect);
        manager.access_log = told(self.telemetry, self.dialect, self.context);
        manager.tracing = telemetry::tracing(self.telemetry);
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
            // Behind CORS, whose questions are none of gRPC's, and before faults, so that these answer in gRPC.
            manager.http_filters.insert(1, grpc_web_filter());
            // Whose request it is comes before whether it is one too many.
            let tokens = authentication::policies([hosts]);
            let filter = authentication::filter(&tokens, authentication::everywhere(hosts));
            let next = 2 + usize::from(filter.is_some());
            manager.http_filters.splice(2..2, filter);
            manager.early_header_mutation_extensions = authentication::early(&tokens).into_iter().collect();
            let judged = hosts.all().iter().flat_map(|host| host.rules.iter()).filter_map(|rule| rule.filters.authorization.as_deref());
            // Behind limits, so that whoever sends too much keeps nobody else busy.
            manager.http_filters.splice(next..next, authorizer::filters(judged));
            // Before faults, too: who is one too many is not kept waiting.
            manager.http_filters.splice(next..next, authorization::filters().into_iter().chain(rate_limit::filters(limits())));
        }
        match (over, self.dialect) {
            (Over::Tcp, _) => {}
            (Over::TcpBesideQuic(port), Dialect::Envoy) => manager.http_filters.insert(0, alternative_filter(port)),
            (Over::TcpBesideQuic(_), _) => manager.http3_protocol_options = Some(Http3ProtocolOptions::default()),
            (Over::Quic, _) => {
                manager.codec_type = CodecType::Http3.into();
                manager.http3_protocol_options = Some(Http3ProtocolOptions::default());
            }
        }
        network_filter("envoy.filters.network.http_connection_manager", pack(&manager))
    }

    /// The listener beside it that takes HTTP/3: Lorica's proxy has it from the same one, as its units are one resource each.
    fn quic(&mut self, chains: &[TlsChain], place: Option<Address>) -> Option<Listener> {
        let mut place = place?;
        if let Some(address::Address::SocketAddress(socket)) = &mut place.address {
            socket.protocol = socket_address::Protocol::Udp.into();
        }
        let mut filter_chains = Vec::new();
        for chain in chains.iter().filter(|chain| chain.http3) {
            let TlsAction::Terminate { tls, then: Terminated::Http(hosts) } = &chain.action else { continue };
            let name = format!("{}/{}", self.name, chain.server_name);
            let transport = QuicDownstreamTransport {
                downstream_tls_context: Some(server_tls(tls, &["h3"], self.dialect)),
                // Whoever records early data can send it again.
                enable_early_data: Some(BoolValue { value: false }),
                ..QuicDownstreamTransport::default()
            };
            filter_chains.push(FilterChain {
                filters: vec![self.http(&name, hosts, Over::Quic)],
                filter_chain_match: Some(chain_match(&chain.server_name, "quic")),
                transport_socket: Some(TransportSocket {
                    name: "envoy.transport_sockets.quic".to_owned(),
                    config_type: Some(ConfigType::TypedConfig(pack(&transport))),
                }),
                name,
                ..FilterChain::default()
            });
        }
        let udp = UdpListenerConfig { quic_options: Some(QuicProtocolOptions::default()), ..UdpListenerConfig::default() };
        let name = format!("{}/quic", self.name);
        let listener = Listener { name, address: Some(place), udp_listener_config: Some(udp), filter_chains, ..Listener::default() };
        Some(listener).filter(|listener| !listener.filter_chains.is_empty())
    }

    /// A chain that passes bytes on.
    fn bytes(&self, name: &str, route: Option<&TransportRoute>) -> FilterChain {
        let mut proxy = tcp_proxy(name, route);
        proxy.access_log = told(self.telemetry, self.dialect, self.context);
        proxy.hash_policy = by_source(self.dialect);
        // Lorica's proxy has the policies from the metadata.
        let judged = route.and_then(|route| route.authorization.as_ref()).filter(|_| self.dialect == Dialect::Envoy);
        let judged = judged.into_iter().flat_map(|authorization| authorization::of_connections(authorization, None, None));
        let judged = judged.map(|(word, config)| network_filter(&format!("envoy.filters.network.rbac/{word}"), config));
        FilterChain {
            filters: judged.chain([network_filter("envoy.filters.network.tcp_proxy", pack(&proxy))]).collect(),
            metadata: Some(metadata(&TransportFacts { route: route.cloned() })),
            ..FilterChain::default()
        }
    }

    fn chain(&mut self, chain: &TlsChain, port: u16) -> FilterChain {
        let name = format!("{}/{}", self.name, chain.server_name);
        let mut out = match &chain.action {
            TlsAction::Passthrough(route) => self.bytes(&name, Some(route)),
            TlsAction::Terminate { tls, then } => {
                let (mut out, alpn) = match then {
                    Terminated::Tcp(route) => (self.bytes(&name, route.as_ref()), &[][..]),
                    Terminated::Http(hosts) => {
                        let over = if chain.http3 { Over::TcpBesideQuic(port) } else { Over::Tcp };
                        (FilterChain { filters: vec![self.http(&name, hosts, over)], ..FilterChain::default() }, &["h2", "http/1.1"][..])
                    }
                };
                out.transport_socket = Some(TransportSocket {
                    name: "envoy.transport_sockets.tls".to_owned(),
                    config_type: Some(ConfigType::TypedConfig(pack(&server_tls(tls, alpn, self.dialect)))),
                });
                out
            }
        };
        out.name = name;
        out.filter_chain_match = Some(chain_match(&chain.server_name, "tls"));
        out
    }
}

fn chain_match(server_name: &HostPattern, transport: &str) -> FilterChainMatch {
    let server_names = match server_name {
        HostPattern::Any => Vec::new(),
        name => vec![name.to_string()],
    };
    FilterChainMatch { server_names, transport_protocol: transport.to_owned(), ..FilterChainMatch::default() }
}

/// Tells clients of TCP that there is HTTP/3 on this port, for a day.
fn alternative_filter(port: u16) -> HttpFilter {
    let header = HeaderValue { key: "alt-svc".to_owned(), value: format!("h3=\":{port}\"; ma=86400"), ..HeaderValue::default() };
    let told = HeaderValueOption {
        header: Some(header),
        append_action: HeaderAppendAction::OverwriteIfExistsOrAdd.into(),
        ..HeaderValueOption::default()
    };
    let mutation = Mutation { action: Some(mutation::Action::Append(told)) };
    let mutations = Mutations { response_mutations: vec![mutation], ..Mutations::default() };
    let config = HeaderMutation { mutations: Some(mutations), ..HeaderMutation::default() };
    HttpFilter {
        name: "envoy.filters.http.header_mutation".to_owned(),
        config_type: Some(http_filter::ConfigType::TypedConfig(pack(&config))),
        ..HttpFilter::default()
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
