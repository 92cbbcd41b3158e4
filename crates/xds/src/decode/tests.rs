//! What is encoded reads back as it was; what is not understood is refused with its place.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use envoy_types::pb::envoy::config::cluster::v3::{Cluster as EnvoyCluster, OutlierDetection, cluster::ClusterDiscoveryType};
use envoy_types::pb::envoy::config::core::v3::{Metadata, RuntimeFractionalPercent};
use envoy_types::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use envoy_types::pb::envoy::config::listener::v3::{Listener, filter::ConfigType};
use envoy_types::pb::envoy::config::route::v3::{
    HedgePolicy, RouteConfiguration, header_matcher::HeaderMatchSpecifier, route::Action, route_action::ClusterSpecifier,
    route_match::PathSpecifier,
};
use envoy_types::pb::envoy::data::dns::v3::DnsTable;
use envoy_types::pb::envoy::extensions::clusters::aggregate::v3::ClusterConfig as AggregateConfig;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{Secret, TlsCertificate, secret};
use lorica_model::snapshot::{
    AccessLog, AccessLogFormat, Balancing, Certificate, EndpointSet, GatewayUnit, HostPattern, Hosts, HttpRule, InboundUnit, Listening,
    LogTarget, NameTable, Nearness, OutboundUnit, PrivateKey, Protocol, ServerTls, Share, Telemetry, Terminated, TlsAction, TlsChain,
    Tracing, TrustBundle, VirtualHost,
};
use proptest::prelude::*;
use prost::{Message, Name};

use super::*;
use crate::encode::{self, Context, no};
use crate::node::Dialect;
use crate::resource::pack;
use crate::{Resource, samples};

fn of_kind(resources: &[Resource], kind: Kind) -> &Resource {
    resources.iter().find(|resource| resource.kind == kind).unwrap()
}

fn decode_unit(resources: &[Resource]) -> Result<OutboundUnit, Rejected> {
    let (listener, route, cluster_) =
        (of_kind(resources, Kind::Listener), of_kind(resources, Kind::Route), of_kind(resources, Kind::Cluster));
    Ok(outbound(
        outbound_listener(&listener.name, &listener.body)?,
        rules(&route.name, &route.body)?,
        cluster(&cluster_.name, &cluster_.body)?,
    ))
}

fn encoded(unit: &OutboundUnit) -> Vec<Resource> {
    encode::outbound(unit, Dialect::Lorica, Context::of(&samples::metadata()))
}

proptest! {
    #[test]
    fn units_read_back(unit in samples::any_unit()) {
        prop_assert_eq!(decode_unit(&encoded(&unit)).unwrap(), unit);
    }

    #[test]
    fn gateways_read_back(unit in samples::any_gateway()) {
        let resources = encode::gateway(&unit, Dialect::Lorica, Context::of(&samples::metadata()));
        prop_assert_eq!(resources.len(), 1);
        prop_assert_eq!(gateway(&resources[0].name, &resources[0].body).unwrap(), unit);
    }

    #[test]
    fn what_may_leave_reads_back(unit in samples::any_egress()) {
        let resource = encode::egress(&unit);
        prop_assert_eq!(egress(&resource.name, &resource.body).unwrap(), unit);
    }

    #[test]
    fn endpoints_read_back(set in samples::any_endpoints()) {
        let resource = encode::endpoints(&set, Dialect::Lorica);
        let read: EndpointSet = endpoints(&resource.name, &resource.body).unwrap();
        prop_assert_eq!(read, set);
    }

    #[test]
    fn inbounds_read_back(unit in samples::any_inbound()) {
        let resource = encode::inbound(&unit);
        let read: InboundUnit = inbound(&resource.name, &resource.body).unwrap();
        prop_assert_eq!(read, unit);
    }

    #[test]
    fn names_read_back(table in samples::any_names()) {
        let resource = encode::names(&table);
        let read: NameTable = names(&resource.name, &resource.body).unwrap();
        prop_assert_eq!(read, table);
    }

    #[test]
    fn bundles_read_back(roots in samples::any_bundle()) {
        let resource = encode::bundle(&roots);
        let read: TrustBundle = bundle(&resource.name, &resource.body).unwrap();
        prop_assert_eq!(read, roots);
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), index in 0..Kind::ALL.len()) {
        let kind = Kind::ALL[index];
        let body = Any { type_url: kind.type_url().to_owned(), value: bytes };
        let name = "recording.contact.mesh:80";
        let _ = (cluster(name, &body), endpoints(name, &body), outbound_listener(name, &body), rules(name, &body));
        let _ = (inbound(name, &body), names("contact", &body), bundle("bundle", &body), gateway("gateway/edge.shop:80", &body), egress("egress/a.b", &body));
    }

    #[test]
    fn a_field_newer_than_our_types_is_refused(unit in samples::any_unit()) {
        for resource in encoded(&unit) {
            let mut resources = encoded(&unit);
            let newer = resources.iter_mut().find(|other| other.kind == resource.kind).unwrap();
            // Field 9999, a number.
            newer.body.value.extend([0xf8, 0xf0, 0x04, 0x01]);
            let rejected = decode_unit(&resources).unwrap_err();
            prop_assert!(rejected.message.contains("does not know"), "{}", rejected);
        }
    }
}

/// Changes a message of `resources` and checks the place that is refused.
fn refuses<M: Message + Name + Default>(path: &str, change: impl FnOnce(&mut M)) {
    let mut unit = samples::unit("recording.contact.mesh:80", &["a.contact.mesh:80", "b.contact.mesh:80"]);
    let header = lorica_model::snapshot::FieldMatch { name: "x".into(), value: lorica_model::snapshot::ValueMatch::Exact("y".into()) };
    samples::change(&mut unit, |rule| rule.matches.headers = vec![header]);
    let mut all = samples::resources(&unit, &samples::endpoints("recording.contact.mesh:80", &[1]));
    all.push(encode::names(&samples::names("contact", &["recording"])));
    all.push(encode::bundle(&samples::bundle()));
    let resource = all.iter_mut().find(|resource| resource.body.type_url == M::type_url()).unwrap();
    let mut message = M::decode(resource.body.value.as_slice()).unwrap();
    change(&mut message);
    resource.body = pack(&message);
    let (name, body) = (resource.name.as_str(), &resource.body);
    let rejected = match resource.kind {
        Kind::Secret => bundle(name, body).map(drop),
        Kind::Cluster => cluster(name, body).map(drop),
        Kind::Endpoints => endpoints(name, body).map(drop),
        Kind::Listener => outbound_listener(name, body).map(drop),
        Kind::Route => rules(name, body).map(drop),
        Kind::Names => names(name, body).map(drop),
        Kind::Extension => Ok(()),
    };
    let rejected = rejected.unwrap_err();
    assert_eq!(rejected.path, path, "{rejected}");
}

#[test]
fn what_is_not_understood_is_refused_with_its_place() {
    refuses("traffic_direction", |m: &mut Listener| m.traffic_direction = 1);
    refuses("bind_to_port", |m: &mut Listener| m.bind_to_port = None);
    refuses("transparent", |m: &mut Listener| m.transparent = no());
    refuses("filter_chains", |m: &mut Listener| m.filter_chains.clear());
    refuses("default_filter_chain", |m: &mut Listener| m.default_filter_chain = None);
    refuses("filter_chains[0].metadata", |m: &mut Listener| m.filter_chains[0].metadata = Some(Metadata::default()));
    refuses("filter_chains[0].filter_chain_match", |m: &mut Listener| m.filter_chains[0].filter_chain_match = None);
    refuses("metadata.filter_metadata", |m: &mut Listener| m.metadata = Some(Metadata::default()));
    refuses("filter_chains[0].filters", |m: &mut Listener| {
        let twice = m.filter_chains[0].filters[0].clone();
        m.filter_chains[0].filters.push(twice);
    });
    refuses("filter_chains[0].filters[0].typed_config.via", |m: &mut Listener| {
        let Some(ConfigType::TypedConfig(config)) = &mut m.filter_chains[0].filters[0].config_type else { panic!() };
        let mut manager = HttpConnectionManager::decode(config.value.as_slice()).unwrap();
        manager.via = "x".into();
        *config = pack(&manager);
    });
    refuses("additional_addresses", |m: &mut Listener| m.additional_addresses.clear());
    refuses("address.socket_address.address", |m: &mut Listener| {
        let Some(address::Address::SocketAddress(socket)) = &mut m.address.as_mut().unwrap().address else { panic!() };
        socket.address = "host".into();
    });

    refuses("virtual_hosts[0].domains", |m: &mut RouteConfiguration| m.virtual_hosts[0].domains.push("x".into()));
    refuses("virtual_hosts[0].hedge_policy", |m: &mut RouteConfiguration| m.virtual_hosts[0].hedge_policy = Some(HedgePolicy::default()));
    let wanted = |m: &mut RouteConfiguration| m.virtual_hosts[0].routes[0].r#match.clone().unwrap();
    refuses("virtual_hosts[0].routes[0].match.runtime_fraction.default_value", |m: &mut RouteConfiguration| {
        let runtime_fraction = Some(RuntimeFractionalPercent::default());
        m.virtual_hosts[0].routes[0].r#match =
            Some(envoy_types::pb::envoy::config::route::v3::RouteMatch { runtime_fraction, ..wanted(m) });
    });
    refuses("virtual_hosts[0].routes[0].match.path_specifier", |m: &mut RouteConfiguration| {
        m.virtual_hosts[0].routes[0].r#match.as_mut().unwrap().path_specifier = Some(PathSpecifier::Prefix("/a".into()));
    });
    refuses("virtual_hosts[0].routes[0].match.headers[0].header_match_specifier", |m: &mut RouteConfiguration| {
        m.virtual_hosts[0].routes[0].r#match.as_mut().unwrap().headers[0].header_match_specifier =
            Some(HeaderMatchSpecifier::PresentMatch(true));
    });
    refuses("virtual_hosts[0].routes[0].match.headers[0].invert_match", |m: &mut RouteConfiguration| {
        m.virtual_hosts[0].routes[0].r#match.as_mut().unwrap().headers[0].invert_match = true;
    });
    refuses("virtual_hosts[0].routes[0].route.weighted_clusters.clusters[1].name", |m: &mut RouteConfiguration| {
        let Some(Action::Route(action)) = &mut m.virtual_hosts[0].routes[0].action else { panic!() };
        let Some(ClusterSpecifier::WeightedClusters(weighted)) = &mut action.cluster_specifier else { panic!() };
        weighted.clusters[1].name = "elsewhere".into();
    });
    refuses("virtual_hosts[0].routes[0].route.prefix_rewrite", |m: &mut RouteConfiguration| {
        let Some(Action::Route(action)) = &mut m.virtual_hosts[0].routes[0].action else { panic!() };
        action.prefix_rewrite = "/x".into();
    });
    refuses("virtual_hosts[0].routes[0].route.timeout", |m: &mut RouteConfiguration| {
        let Some(Action::Route(action)) = &mut m.virtual_hosts[0].routes[0].action else { panic!() };
        action.timeout.as_mut().unwrap().seconds = -1;
    });

    refuses("lb_policy", |m: &mut EnvoyCluster| m.lb_policy = 3);
    refuses("outlier_detection", |m: &mut EnvoyCluster| m.outlier_detection = Some(OutlierDetection::default()));
    refuses("transport_socket_matches", |m: &mut EnvoyCluster| m.transport_socket_matches.clear());
    refuses("transport_socket", |m: &mut EnvoyCluster| m.transport_socket = None);

    refuses("endpoints[0].priority", |m: &mut ClusterLoadAssignment| m.endpoints[0].priority = 1);
    refuses("endpoints[0].lb_endpoints[0].health_status", |m: &mut ClusterLoadAssignment| m.endpoints[0].lb_endpoints[0].health_status = 2);
    refuses("endpoints[0].lb_endpoints[0].metadata", |m: &mut ClusterLoadAssignment| {
        m.endpoints[0].lb_endpoints[0].metadata.as_mut().unwrap().filter_metadata.remove("envoy.transport_socket_match");
    });

    refuses("virtual_domains[0].name", |m: &mut DnsTable| m.virtual_domains[0].name = "recording.other.mesh".into());
    refuses("external_retry_count", |m: &mut DnsTable| m.external_retry_count = 1);
    refuses("type", |m: &mut Secret| m.r#type = Some(secret::Type::TlsCertificate(TlsCertificate::default())));
}

#[test]
fn a_cluster_that_accepts_no_identity_accepts_nobody() {
    let mut unit = samples::unit("recording.contact.mesh:80", &[]);
    unit.cluster.accepted.clear();
    for dialect in [Dialect::Lorica, Dialect::Envoy, Dialect::Grpc] {
        let resources = encode::outbound(&unit, dialect, Context::of(&samples::metadata()));
        let text = String::from_utf8_lossy(&of_kind(&resources, Kind::Cluster).body.value).into_owned();
        assert!(text.contains("none"), "{dialect:?}");
    }
}

#[test]
fn an_inbound_that_differs_from_its_ports_is_refused() {
    let resource = encode::inbound(&samples::inbound());
    let message = Listener::decode(resource.body.value.as_slice()).unwrap();
    let check = |path: &str, change: &dyn Fn(&mut Listener)| {
        let mut message = message.clone();
        change(&mut message);
        let rejected = inbound(&resource.name, &pack(&message)).unwrap_err();
        assert_eq!(rejected.path, path, "{rejected}");
    };
    check("filter_chains[0].transport_socket", &|m| m.filter_chains[0].transport_socket = None);
    check("filter_chains[0].filters", &|m| m.filter_chains[0].filters.clear());
    check("filter_chains[1].name", &|m| drop(m.filter_chains.remove(1)));
    check("filter_chains[1].metadata", &|m| m.filter_chains[1].metadata = m.filter_chains[0].metadata.clone());
    check("name", &|m| m.name = "inbound/other.contact".into());
}

#[test]
fn a_log_that_is_not_what_the_metadata_says_is_refused() {
    let log = AccessLog { format: AccessLogFormat::Json, when: None, to: vec![LogTarget::Stdout, LogTarget::Mesh] };
    let tracing = Tracing { sampling: Some(Share(10_000)), ..Tracing::default() };
    let telemetry = Telemetry { tracing: Some(tracing), access_log: Some(log) };
    let unit = InboundUnit { telemetry: Some(std::sync::Arc::new(telemetry)), ..samples::inbound() };
    let resource = encode::inbound(&unit);
    assert_eq!(inbound(&resource.name, &resource.body).unwrap(), unit);
    let message = Listener::decode(resource.body.value.as_slice()).unwrap();
    let check = |path: &str, change: &dyn Fn(&mut HttpConnectionManager)| {
        let mut message = message.clone();
        let Some(ConfigType::TypedConfig(config)) = &mut message.filter_chains[0].filters[0].config_type else { panic!() };
        let mut manager = HttpConnectionManager::decode(config.value.as_slice()).unwrap();
        change(&mut manager);
        *config = pack(&manager);
        let rejected = inbound(&resource.name, &pack(&message)).unwrap_err();
        assert_eq!(rejected.path, path, "{rejected}");
    };
    check("filter_chains[0].access_log", &|manager| manager.access_log.truncate(1));
    check("filter_chains[0].access_log[0].name", &|manager| manager.access_log.reverse());
    check("filter_chains[0].access_log[1].typed_config", &|manager| {
        manager.access_log[1].config_type = manager.access_log[0].config_type.clone();
    });
    check("filter_chains[0].tracing", &|manager| manager.tracing = None);
    check("filter_chains[0].filters", &|manager| manager.stat_prefix.push('x'));
}

#[test]
fn an_envoy_gets_what_it_can_honour() {
    let unit = samples::unit("recording.contact.mesh:80", &[]);
    let mut node = samples::metadata();
    node.secrets_directory = Some("/var/lib/x".into());
    let resources = encode::outbound(&unit, Dialect::Envoy, Context::of(&node));
    let listener = Listener::decode(of_kind(&resources, Kind::Listener).body.value.as_slice()).unwrap();
    assert_eq!((listener.bind_to_port, listener.listener_filters.len()), (no(), 1));
    let cluster = EnvoyCluster::decode(of_kind(&resources, Kind::Cluster).body.value.as_slice()).unwrap();
    assert_eq!(cluster.typed_extension_protocol_options.len(), 1);
    assert!(String::from_utf8_lossy(&of_kind(&resources, Kind::Cluster).body.value).contains("/var/lib/x/svid.yaml"));

    // With listeners of its own: one is bound where it says, others are not there.
    node.upstreams = [(unit.port.clone(), "127.0.0.1:9001".parse().unwrap())].into();
    let resources = encode::outbound(&unit, Dialect::Envoy, Context::of(&node));
    let listener = Listener::decode(of_kind(&resources, Kind::Listener).body.value.as_slice()).unwrap();
    assert_eq!((listener.bind_to_port, listener.address), (None, Some(encode::address("127.0.0.1:9001".parse().unwrap()))));
    let other = encode::outbound(&samples::unit("agents.contact.mesh:80", &[]), Dialect::Envoy, Context::of(&node));
    assert!(!other.iter().any(|resource| resource.kind == Kind::Listener));
}

#[test]
fn grpc_gets_no_secret_service_and_no_transport_matches() {
    let mut unit = samples::unit("recording.contact.mesh:80", &[]);
    unit.protocol = Protocol::Grpc;
    samples::change(&mut unit, |rule| rule.matches.path = lorica_model::snapshot::PathMatch::Prefix("/a.b".into()));
    let node = samples::metadata();
    let resources = encode::outbound(&unit, Dialect::Grpc, Context::of(&node));
    let listener = Listener::decode(of_kind(&resources, Kind::Listener).body.value.as_slice()).unwrap();
    assert!(listener.api_listener.is_some() && listener.address.is_none() && listener.filter_chains.is_empty());
    let cluster = EnvoyCluster::decode(of_kind(&resources, Kind::Cluster).body.value.as_slice()).unwrap();
    assert!(cluster.transport_socket_matches.is_empty() && cluster.transport_socket.is_some());
    let text = String::from_utf8_lossy(&of_kind(&resources, Kind::Cluster).body.value).into_owned();
    assert!(!text.contains("svid"), "{text}");
    let route = RouteConfiguration::decode(of_kind(&resources, Kind::Route).body.value.as_slice()).unwrap();
    let path = route.virtual_hosts[0].routes[0].r#match.clone().unwrap().path_specifier;
    assert!(matches!(path, Some(PathSpecifier::SafeRegex(regex)) if regex.regex == r"/a\.b(/.*)?"));

    let plaintext = encode::outbound(&unit, Dialect::Grpc, Context { plaintext: true, ..Context::of(&node) });
    let cluster = EnvoyCluster::decode(of_kind(&plaintext, Kind::Cluster).body.value.as_slice()).unwrap();
    assert!(cluster.transport_socket.is_none());
    let weights = encode::endpoints(&samples::endpoints("recording.contact.mesh:80", &[1, 2]), Dialect::Grpc);
    let assignment = ClusterLoadAssignment::decode(weights.body.value.as_slice()).unwrap();
    assert_eq!(assignment.endpoints[0].load_balancing_weight.unwrap().value, 2);
}

#[test]
fn an_envoy_is_told_what_is_near_by_priorities() {
    let mut set = samples::endpoints("recording.contact.mesh:80", &[1, 2, 3, 4]);
    for (endpoint, place) in set.endpoints.iter_mut().zip(["eu/a", "eu/b", "us/a", "us/b"]) {
        endpoint.locality = place.parse().unwrap();
    }
    let near = |own: &str, prefer, overprovisioning_percent| {
        let balancing = Balancing { prefer, overprovisioning_percent, ..Balancing::default() };
        let resource = encode::endpoints_near(&set, &set.port.to_string(), &own.parse().unwrap(), &balancing);
        let assignment = ClusterLoadAssignment::decode(resource.body.value.as_slice()).unwrap();
        let factor = assignment.policy.and_then(|policy| policy.overprovisioning_factor).map(|factor| factor.value);
        (assignment.endpoints.iter().map(|group| group.priority).collect::<Vec<_>>(), factor, resource.version)
    };
    let plain = encode::endpoints(&set, Dialect::Envoy).version;
    let (priorities, factor, version) = near("eu/b", Nearness::Zone, 140);
    assert_eq!((priorities.as_slice(), factor), (&[1, 0, 2, 2][..], None));
    assert_ne!(version, plain);
    assert_eq!(near("us/a", Nearness::Region, 140).0, [1, 1, 0, 0]);
    // Where nothing is near, what is not so far is the first: priorities have no gaps.
    assert_eq!(near("asia/a", Nearness::Zone, 200).0, [0, 0, 0, 0]);
    assert_eq!(near("us/c", Nearness::Zone, 140).0, [1, 1, 0, 0]);
    assert_eq!(near("eu/b", Nearness::Anywhere, 200).1, Some(200));
    assert_eq!(near("eu/b", Nearness::Anywhere, 140), (vec![0; 4], None, plain));
}

#[test]
fn an_envoy_is_told_who_takes_over_by_an_aggregate_of_clusters() {
    let unit = samples::unit("recording.contact.mesh:80", &[]);
    let (node, failover) = (samples::metadata(), ["spare.contact.mesh:80".to_owned()]);
    let context = Context { failover: &failover, ..Context::of(&node) };
    let resources = encode::outbound(&unit, Dialect::Envoy, context);
    let clusters: Vec<EnvoyCluster> = resources
        .iter()
        .filter(|resource| resource.kind == Kind::Cluster)
        .map(|resource| EnvoyCluster::decode(resource.body.value.as_slice()).unwrap())
        .collect();
    let [own, aggregate] = clusters.as_slice() else { panic!("{clusters:?}") };
    assert_eq!((own.name.as_str(), aggregate.name.as_str()), ("own/recording.contact.mesh:80", "recording.contact.mesh:80"));
    assert_eq!(own.eds_cluster_config.as_ref().unwrap().service_name, own.name);
    assert!(own.transport_socket.is_some() && aggregate.transport_socket.is_none());
    let Some(ClusterDiscoveryType::ClusterType(of)) = &aggregate.cluster_discovery_type else { panic!("{aggregate:?}") };
    let config = AggregateConfig::decode(of.typed_config.as_ref().unwrap().value.as_slice()).unwrap();
    assert_eq!(config.clusters, ["own/recording.contact.mesh:80", "spare.contact.mesh:80"]);
    // Lorica's proxy knows by the policy.
    let ours = encode::outbound(&unit, Dialect::Lorica, context);
    assert_eq!(ours.iter().filter(|resource| resource.kind == Kind::Cluster).count(), 1);
}

#[test]
fn a_share_that_leads_nowhere_is_answered_with_500() {
    let mut unit = samples::unit("recording.contact.mesh:80", &["a.contact.mesh:80", "b.contact.mesh:80"]);
    let missing = lorica_model::snapshot::Backend::Missing { name: "b.contact:80".into() };
    samples::change(&mut unit, |rule| samples::forward(rule).backends[1].backend = missing);
    let action = |unit: &OutboundUnit| {
        let resources = encode::outbound(unit, Dialect::Envoy, Context::of(&samples::metadata()));
        let route = RouteConfiguration::decode(of_kind(&resources, Kind::Route).body.value.as_slice()).unwrap();
        route.virtual_hosts[0].routes[0].action.clone().unwrap()
    };
    let Action::Route(route) = action(&unit) else { panic!() };
    assert_eq!(route.cluster_not_found_response_code, 2);
    // Not a direct response: its log would not say why.
    samples::change(&mut unit, |rule| samples::forward(rule).backends.clear());
    let Action::Route(route) = action(&unit) else { panic!() };
    assert_eq!(route.cluster_not_found_response_code, 2);
}

/// A gateway's port that ends TLS with one certificate and passes requests on by one rule.
fn edge(certificate: Certificate, rules: Vec<HttpRule>) -> GatewayUnit {
    let hosts = Hosts::new(vec![VirtualHost { host: HostPattern::Any, rules: rules.into() }]);
    let tls = ServerTls { certificates: vec![certificate], client: None };
    let action = TlsAction::Terminate { tls, then: Terminated::Http(hosts) };
    let listening = Listening::Tls(vec![TlsChain { server_name: HostPattern::Any, action, http3: false }]);
    GatewayUnit { gateway: "edge.shop".parse().unwrap(), port: 443, listening, telemetry: None }
}

#[test]
fn what_changes_beside_a_listener_leaves_it_to_envoy_as_it_was() {
    let certificate = |key: &str| Certificate {
        secret: "own.shop".parse().unwrap(),
        chain: "a chain".into(),
        key: PrivateKey(key.into()),
        in_files: false,
    };
    let rules = |host: &str| {
        let mut unit = samples::unit("recording.contact.mesh:80", &[]);
        samples::change(&mut unit, |rule| samples::forward(rule).host = Some(host.into()));
        unit.rules.iter().map(|rule| (**rule).clone()).collect()
    };
    let mut node = samples::metadata();
    node.gateway_listen = Some("127.0.0.1".parse().unwrap());
    let versions = |unit: &GatewayUnit| {
        let resources = encode::gateway(unit, Dialect::Envoy, Context::of(&node));
        assert!(!String::from_utf8_lossy(&of_kind(&resources, Kind::Listener).body.value).contains("a key"));
        [Kind::Listener, Kind::Route, Kind::Secret].map(|kind| of_kind(&resources, kind).version.clone())
    };
    let first = versions(&edge(certificate("a key"), rules("a.example")));
    let (rerouted, renewed) =
        (versions(&edge(certificate("a key"), rules("b.example"))), versions(&edge(certificate("a key, renewed"), rules("a.example"))));
    let changed = |other: &[String; 3]| [0, 1, 2].map(|at| first[at] != other[at]);
    assert_eq!((changed(&rerouted), changed(&renewed)), ([false, true, false], [false, false, true]));
    let resources = encode::gateway(&edge(certificate("a key"), Vec::new()), Dialect::Envoy, Context::of(&node));
    let listener = Listener::decode(of_kind(&resources, Kind::Listener).body.value.as_slice()).unwrap();
    assert_eq!(listener.address, Some(encode::address("127.0.0.1:443".parse().unwrap())));
}
