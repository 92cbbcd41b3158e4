//! Units for tests: one of each by hand, and generators of any.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use lorica_model::name::{Label, Namespace, ServiceName, ServicePort, WorkloadName};
use lorica_model::snapshot::{
    Backend, Cluster, Endpoint, EndpointSet, FieldMatch, HttpRule, InboundPort, InboundUnit, Locality, MtlsMode, NameRecord, NameTable,
    Origin, OutboundUnit, PathMatch, Pattern, Protocol, RouteMatch, Timeouts, Transport, TrustBundle, ValueMatch, WeightedBackend,
};
use lorica_model::spiffe::{SpiffeId, TrustDomain};
use proptest::collection::{btree_set, vec};
use proptest::option;
use proptest::prelude::*;

use crate::Resource;
use crate::encode::{self, Context};
use crate::node::{Dialect, NodeMetadata};

pub(crate) fn port(text: &str) -> ServicePort {
    text.parse().unwrap()
}

pub(crate) fn metadata() -> NodeMetadata {
    NodeMetadata::client(Namespace::new("contact").unwrap(), Label::new("caller").unwrap())
}

/// A unit whose one rule leads to `backends`; to the port itself where there are none.
pub(crate) fn unit(text: &str, backends: &[&str]) -> OutboundUnit {
    let own = port(text);
    let mut leads: Vec<ServicePort> = backends.iter().map(|text| port(text)).collect();
    if leads.is_empty() {
        leads.push(own.clone());
    }
    let identity = SpiffeId::of_account(&TrustDomain::default(), &own.service.namespace, &own.service.name);
    OutboundUnit {
        virtual_v4: Ipv4Addr::new(240, 0, 1, 1),
        virtual_v6: "fd00::1".parse().unwrap(),
        protocol: Protocol::Detect,
        rules: vec![HttpRule {
            origin: std::sync::Arc::new(Origin {
                kind: "HTTPRoute".into(),
                namespace: "contact".into(),
                name: "r".into(),
                generation: 3,
                rule: 1,
                matched: 0,
            }),
            matches: RouteMatch::any(),
            backends: leads.into_iter().map(|port| WeightedBackend { weight: 1, backend: Backend::Port(port) }).collect(),
            timeouts: Timeouts::default(),
        }],
        http_only: false,
        cluster: Cluster {
            port: own.clone(),
            protocol: Protocol::Detect,
            accepted: [identity].into(),
            connect_timeout: Duration::from_secs(5),
        },
        port: own,
    }
}

pub(crate) fn endpoints(text: &str, ports: &[u16]) -> EndpointSet {
    let endpoints = ports.iter().map(|number| Endpoint {
        workload: WorkloadName::new(Namespace::new("contact").unwrap(), Label::new(&format!("w-{number}")).unwrap()),
        address: SocketAddr::from(([127, 0, 0, 1], *number)),
        transport: Transport::MutualTls,
        weight: 1,
        version: Some("v1".into()),
        virtual_address: Some(Ipv4Addr::new(240, 0, 2, 2)),
        locality: Locality::default(),
    });
    EndpointSet { port: port(text), endpoints: endpoints.collect() }
}

pub(crate) fn inbound() -> InboundUnit {
    let workload: WorkloadName = "recording-1.contact".parse().unwrap();
    let service: ServiceName = "recording.contact".parse().unwrap();
    InboundUnit {
        identity: SpiffeId::of_account(&TrustDomain::default(), &workload.namespace, &service.name),
        account: service.name.clone(),
        service: Some(service.clone()),
        workload,
        virtual_v4: Ipv4Addr::new(240, 0, 3, 3),
        virtual_v6: "fd00::3".parse().unwrap(),
        ports: vec![
            InboundPort {
                service_port: ServicePort { service: service.clone(), port: 80 },
                app_port: 8080,
                protocol: Protocol::Http,
                mtls: MtlsMode::Permissive,
            },
            InboundPort {
                service_port: ServicePort { service, port: 9000 },
                app_port: 9000,
                protocol: Protocol::Detect,
                mtls: MtlsMode::Strict,
            },
        ],
        withdrawn: false,
    }
}

pub(crate) fn names(namespace: &str, services: &[&str]) -> NameTable {
    let record = |(index, name): (usize, &&str)| NameRecord {
        name: Label::new(name).unwrap(),
        v4: Ipv4Addr::new(240, 0, 4, u8::try_from(index).unwrap()),
        v6: "fd00::4".parse().unwrap(),
    };
    NameTable { namespace: Namespace::new(namespace).unwrap(), records: services.iter().enumerate().map(record).collect() }
}

pub(crate) fn bundle() -> TrustBundle {
    TrustBundle { trust_domain: TrustDomain::default(), roots: vec![vec![7; 100], vec![8; 3]] }
}

/// All resources of `unit` and its endpoints, for Lorica's proxy.
pub(crate) fn resources(unit: &OutboundUnit, endpoints: &EndpointSet) -> Vec<Resource> {
    let mut all = encode::outbound(unit, Dialect::Lorica, Context::of(&metadata()));
    all.push(encode::endpoints(endpoints, Dialect::Lorica));
    all
}

pub(crate) fn any_label() -> impl Strategy<Value = Label> {
    "[a-z]([a-z0-9-]{0,6}[a-z0-9])?".prop_map(|text| Label::new(&text).unwrap())
}

fn any_namespace() -> impl Strategy<Value = Namespace> {
    any_label().prop_map(|label| Namespace::new(label.as_str()).unwrap())
}

fn any_service() -> impl Strategy<Value = ServiceName> {
    (any_namespace(), any_label()).prop_map(|(namespace, name)| ServiceName::new(namespace, name))
}

fn any_workload() -> impl Strategy<Value = WorkloadName> {
    (any_namespace(), any_label()).prop_map(|(namespace, name)| WorkloadName::new(namespace, name))
}

fn any_port() -> impl Strategy<Value = ServicePort> {
    (any_service(), 1..=u16::MAX).prop_map(|(service, port)| ServicePort { service, port })
}

fn any_protocol() -> impl Strategy<Value = Protocol> {
    prop_oneof![Just(Protocol::Detect), Just(Protocol::Http), Just(Protocol::Http2), Just(Protocol::Grpc), Just(Protocol::Tcp)]
}

fn any_identity() -> impl Strategy<Value = SpiffeId> {
    (any_namespace(), any_label()).prop_map(|(namespace, account)| SpiffeId::of_account(&TrustDomain::default(), &namespace, &account))
}

fn any_duration() -> impl Strategy<Value = Duration> {
    (0..10_000_000u64, 1..1_000_000_000u32).prop_map(|(seconds, nanos)| Duration::new(seconds, nanos))
}

fn any_pattern() -> impl Strategy<Value = Pattern> {
    prop_oneof![Just("a+"), Just("^/x$|b"), Just(""), Just(r"/v\d+(/.*)?"), Just("(?i)é")].prop_map(|text| Pattern::new(text).unwrap())
}

fn any_value() -> impl Strategy<Value = ValueMatch> {
    prop_oneof![".{0,8}".prop_map(ValueMatch::Exact), any_pattern().prop_map(ValueMatch::Regex)]
}

fn any_field(name: &'static str) -> impl Strategy<Value = FieldMatch> {
    (name, any_value()).prop_map(|(name, value)| FieldMatch { name, value })
}

fn any_path() -> impl Strategy<Value = PathMatch> {
    prop_oneof![
        "/.{0,8}".prop_map(PathMatch::Exact),
        "(/[a-z.?/]{0,3}){0,3}|.{0,4}".prop_map(PathMatch::Prefix),
        any_pattern().prop_map(PathMatch::Regex)
    ]
}

fn any_backend() -> impl Strategy<Value = WeightedBackend> {
    let backend = prop_oneof![3 => any_port().prop_map(Backend::Port), 1 => ".{0,12}".prop_map(|name| Backend::Missing { name })];
    (prop_oneof![Just(0), Just(1), 0..1_000_000u32], backend).prop_map(|(weight, backend)| WeightedBackend { weight, backend })
}

fn any_rule() -> impl Strategy<Value = HttpRule> {
    let origin = ("[A-Za-z]{1,8}", "[a-z]{1,8}", ".{0,8}", 0..(1u64 << 53), any::<u32>(), any::<u32>())
        .prop_map(|(kind, namespace, name, generation, rule, matched)| Origin { kind, namespace, name, generation, rule, matched });
    let matches = (any_path(), option::of("[A-Z]{1,7}"), vec(any_field("[a-z][a-z-]{0,8}"), 0..3), vec(any_field(".{0,6}"), 0..3))
        .prop_map(|(path, method, headers, query)| RouteMatch { path, method, headers, query });
    let timeouts = (option::of(any_duration()), option::of(any_duration()), option::of(any_duration()))
        .prop_map(|(request, backend_request, idle)| Timeouts { request, backend_request, idle });
    (origin, matches, vec(any_backend(), 0..4), timeouts).prop_map(|(origin, matches, backends, timeouts)| HttpRule {
        origin: std::sync::Arc::new(origin),
        matches,
        backends,
        timeouts,
    })
}

pub(crate) fn any_unit() -> impl Strategy<Value = OutboundUnit> {
    let cluster = (any_protocol(), btree_set(any_identity(), 0..3), any_duration());
    (any_port(), any::<Ipv4Addr>(), any::<Ipv6Addr>(), any_protocol(), vec(any_rule(), 1..4), any::<bool>(), cluster).prop_map(
        |(port, virtual_v4, virtual_v6, protocol, rules, http_only, (speaks, accepted, connect_timeout))| OutboundUnit {
            cluster: Cluster { port: port.clone(), protocol: speaks, accepted, connect_timeout },
            port,
            virtual_v4,
            virtual_v6,
            protocol,
            rules,
            http_only,
        },
    )
}

pub(crate) fn any_endpoints() -> impl Strategy<Value = EndpointSet> {
    let locality = ("[a-z0-9-]{0,6}", "[a-z0-9-]{0,6}").prop_map(|(region, zone)| Locality { region, zone });
    let transport = prop_oneof![Just(Transport::MutualTls), Just(Transport::Lorica), Just(Transport::Plaintext)];
    let endpoint =
        (any_workload(), any::<SocketAddr>(), transport, 1..=u32::MAX, option::of(".{0,6}"), option::of(any::<Ipv4Addr>()), locality)
            .prop_map(|(workload, address, transport, weight, version, virtual_address, locality)| Endpoint {
                workload,
                // Flow label and scope are of one host; they do not travel.
                address: SocketAddr::new(address.ip(), address.port()),
                transport,
                weight,
                version,
                virtual_address,
                locality,
            });
    (any_port(), btree_set(endpoint, 0..6)).prop_map(|(port, endpoints)| EndpointSet { port, endpoints: endpoints.into_iter().collect() })
}

pub(crate) fn any_inbound() -> impl Strategy<Value = InboundUnit> {
    let mtls = prop_oneof![Just(MtlsMode::Strict), Just(MtlsMode::Permissive)];
    let one = (any_port(), 1..=u16::MAX, any_protocol(), mtls).prop_map(|(service_port, app_port, protocol, mtls)| InboundPort {
        service_port,
        app_port,
        protocol,
        mtls,
    });
    let addresses = (any::<Ipv4Addr>(), any::<Ipv6Addr>());
    (any_workload(), option::of(any_service()), any_label(), any_identity(), addresses, vec(one, 0..4), any::<bool>()).prop_map(
        |(workload, service, account, identity, (virtual_v4, virtual_v6), ports, withdrawn)| InboundUnit {
            workload,
            service,
            account,
            identity,
            virtual_v4,
            virtual_v6,
            ports,
            withdrawn,
        },
    )
}

pub(crate) fn any_names() -> impl Strategy<Value = NameTable> {
    let record = (any_label(), any::<Ipv4Addr>(), any::<Ipv6Addr>()).prop_map(|(name, v4, v6)| NameRecord { name, v4, v6 });
    (any_namespace(), vec(record, 0..5)).prop_map(|(namespace, records)| NameTable { namespace, records })
}

pub(crate) fn any_bundle() -> impl Strategy<Value = TrustBundle> {
    let domain = "[a-z0-9._-]{1,12}".prop_map(|text| TrustDomain::new(&text).unwrap());
    (domain, vec(vec(any::<u8>(), 0..200), 0..3)).prop_map(|(trust_domain, roots)| TrustBundle { trust_domain, roots })
}
