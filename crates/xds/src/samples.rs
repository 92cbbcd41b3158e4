//! Units for tests: one of each by hand, and generators of any.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod access;
mod telemetry;
mod tried;

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, SystemTime};

use ipnet::IpNet;
use lorica_model::name::{GatewayName, Label, Namespace, SecretName, ServiceName, ServicePort, WorkloadName};
use lorica_model::snapshot::{
    Abort, AbortAnswer, Action, Adaptive, Affinity, Algorithm, Among, Backend, BackendTls, Balancing, Bandwidth, Certificate,
    ClientValidation, Cluster, Connections, Cors, Counted, Delay, DelayTime, EgressCaller, EgressHost, EgressRule, EgressUnit, Ejection,
    Endpoint, EndpointSet, FailurePercentage, Fault, FieldMatch, Filters, Forward, GatewayUnit, HashOn, HeaderEdits, HealthCheck,
    HealthQuestion, Hedge, HostPattern, Hosts, HttpRule, InboundPort, InboundUnit, KeyPart, LimitService, Limits, Listening, Locality,
    Mirror, MtlsMode, NameAnswer, NameFault, NameRecord, NameTable, Nearness, Origin, OriginMatch, OutboundUnit, PathEdit, PathMatch,
    Pattern, Pause, PrivateKey, Protocol, Quota, RateLimit, Redirect, Retry, RetryLimit, RetryOn, Revoked, RouteMatch, ServerTls, Share,
    SlowStart, SuccessRate, Terminated, Timeouts, TlsAction, TlsChain, Traffic, Transport, TransportRoute, TrustBundle, Unavailable,
    Unlisted, ValueMatch, VirtualHost, WeightedBackend,
};
use lorica_model::spiffe::{SpiffeId, TrustDomain};
use proptest::collection::{btree_map, btree_set, vec};
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
            filters: Filters::default(),
            action: Action::Forward(Forward {
                backends: leads.into_iter().map(|port| WeightedBackend::plain(1, Backend::Port(port))).collect(),
                ..Forward::default()
            }),
        }]
        .into(),
        http_only: false,
        faults: Vec::new(),
        cluster: Cluster {
            port: own.clone(),
            protocol: Protocol::Detect,
            accepted: [identity].into(),
            connect_timeout: Duration::from_secs(5),
            server: own.clone(),
            tls: None,
            traffic: Traffic::default(),
        },
        port: own,
    }
}

/// Changes the first rule of a unit.
pub(crate) fn change(unit: &mut OutboundUnit, change: impl FnOnce(&mut HttpRule)) {
    let mut rules: Vec<HttpRule> = unit.rules.iter().map(|rule| (**rule).clone()).collect();
    change(&mut rules[0]);
    unit.rules = rules.into();
}

/// How a rule passes requests on.
pub(crate) fn forward(rule: &mut HttpRule) -> &mut Forward {
    match &mut rule.action {
        Action::Forward(forward) => forward,
        other => panic!("{other:?}"),
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
        limits: Vec::new(),
        authentication: None,
        authorization: std::sync::Arc::default(),
        tried: Vec::new(),
        telemetry: None,
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
    let federated =
        [("other.example", 9), ("third.example", 10)].map(|(name, byte)| (TrustDomain::new(name).unwrap(), vec![vec![byte; 50]]));
    let revoked = Revoked {
        identities: ["spiffe://mesh.local/ns/shop/sa/bad".parse().unwrap()].into(),
        workloads: ["web-1.shop".parse().unwrap()].into(),
    };
    TrustBundle {
        federated: federated.into(),
        revoked,
        revocation_lists: vec![vec![9; 70]],
        ..TrustBundle::new(TrustDomain::default(), vec![vec![7; 100], vec![8; 3]])
    }
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

fn any_share() -> impl Strategy<Value = Share> {
    (0..=1_000_000u32).prop_map(Share)
}

fn any_edits() -> impl Strategy<Value = HeaderEdits> {
    let pair = || ("[a-z][a-z-]{0,8}", "[ -~]{0,8}");
    (vec("[a-z]{1,6}", 0..2), vec(pair(), 0..2), vec(pair(), 0..2)).prop_map(|(remove, set, add)| HeaderEdits { remove, set, add })
}

fn any_host() -> impl Strategy<Value = String> {
    "[a-z]{1,4}(\\.[a-z]{1,4}){1,2}"
}

fn any_path_edit() -> impl Strategy<Value = PathEdit> {
    prop_oneof![
        "/[a-z.\\\\/]{0,6}".prop_map(PathEdit::Full),
        ("(/[a-z.]{1,3}){0,2}", "(/[a-z]{0,3}){0,2}").prop_map(|(matched, replacement)| PathEdit::Prefix { matched, replacement })
    ]
}

fn any_destination() -> impl Strategy<Value = Backend> {
    prop_oneof![3 => any_port().prop_map(Backend::Port), 1 => ".{0,12}".prop_map(|name| Backend::Missing { name })]
}

fn any_backend() -> impl Strategy<Value = WeightedBackend> {
    let weight = prop_oneof![Just(0), Just(1), 0..1_000_000u32];
    (weight, any_destination(), any_edits(), any_edits(), option::of(any_host()))
        .prop_map(|(weight, backend, request, response, host)| WeightedBackend { weight, backend, request, response, host })
}

fn any_cors() -> impl Strategy<Value = Cors> {
    let origin = prop_oneof![
        Just(OriginMatch::Any),
        "https://[a-z.]{1,8}".prop_map(OriginMatch::Exact),
        "\\.[a-z]{1,4}".prop_map(|after| OriginMatch::Wildcard { before: "https://".to_owned(), after }),
    ];
    let words = || vec("[A-Za-z-]{1,6}", 0..3);
    (vec(origin, 0..3), words(), words(), words(), any::<bool>(), any::<u32>()).prop_map(
        |(origins, methods, headers, expose, credentials, max_age)| Cors { origins, methods, headers, expose, credentials, max_age },
    )
}

fn any_action() -> impl Strategy<Value = Action> {
    let timeouts = (option::of(any_duration()), option::of(any_duration()), option::of(any_duration()), option::of(any_duration()))
        .prop_map(|(request, backend_request, idle, stream)| Timeouts { request, backend_request, idle, stream });
    let mirror = (any_destination(), any_share()).prop_map(|(backend, share)| Mirror { backend, share });
    let to = (vec(any_backend(), 0..4), option::of(any_path_edit()), option::of(any_host()), vec(mirror, 0..2));
    let hedge = (any_duration(), 1..4u32).prop_map(|(after, attempts)| Hedge { after, attempts });
    let affinity = ("[a-z]{1,6}", option::of(any_duration())).prop_map(|(cookie, ttl)| Affinity { cookie, ttl, path: "/".to_owned() });
    let faults = (vec(any_fault(), 0..6), vec(tried::any_attempts(), 0..2));
    let forward = (to, timeouts, any_retry(), option::of(hedge), vec(any_hash(), 0..3), option::of(affinity), faults).prop_map(
        |((backends, path, host, mirrors), timeouts, retry, hedge, hash, affinity, (mut faults, tried))| {
            // Some are for where the rule leads, as those of services are.
            for (fault, backend) in faults.iter_mut().zip(&backends) {
                if let (Some(to), Backend::Port(port)) = (&mut fault.to, &backend.backend) {
                    to.clone_from(port);
                }
            }
            Forward { backends, timeouts, path, host, mirrors, retry, hedge, hash, affinity, faults, tried }
        },
    );
    let redirect = (
        option::of("https?"),
        option::of(any_host()),
        option::of(1..=u16::MAX),
        option::of(any_path_edit()),
        prop_oneof![Just(301), Just(302), Just(303), Just(307), Just(308)],
    )
        .prop_map(|(scheme, host, port, path, status)| Redirect { scheme, host, port, path, status });
    prop_oneof![4 => forward.prop_map(Action::Forward), 1 => redirect.prop_map(Action::Redirect), 1 => (200..600u16).prop_map(Action::Respond)]
}

fn any_retry() -> impl Strategy<Value = Retry> {
    let on = btree_set(
        prop_oneof![
            Just(RetryOn::ConnectFailure),
            Just(RetryOn::Reset),
            Just(RetryOn::Timeout),
            Just(RetryOn::GatewayError),
            Just(RetryOn::ServerError),
            Just(RetryOn::GrpcUnavailable)
        ],
        0..4,
    );
    let pause = prop_oneof![
        any_duration().prop_map(Pause::AtLeast),
        (any_duration(), any_duration()).prop_map(|(base, most)| Pause::Growing { base, most })
    ];
    (any::<u32>(), on, vec(400..600u16, 0..3), pause, any::<bool>(), any::<bool>(), any_duration()).prop_map(
        |(attempts, on, codes, pause, non_idempotent, avoid_tried, retry_after_most)| Retry {
            attempts,
            on,
            codes,
            pause,
            non_idempotent,
            avoid_tried,
            retry_after_most,
        },
    )
}

fn any_hash() -> impl Strategy<Value = HashOn> {
    prop_oneof![
        "[a-z-]{1,8}".prop_map(HashOn::Header),
        ("[a-z]{1,6}", option::of(any_duration())).prop_map(|(name, ttl)| HashOn::Cookie { name, ttl, path: "/".to_owned() }),
        "[a-z]{1,6}".prop_map(HashOn::Query),
        Just(HashOn::SourceAddress)
    ]
}

fn any_traffic() -> impl Strategy<Value = Traffic> {
    let algorithm = prop_oneof![
        Just(Algorithm::PeakEwma),
        Just(Algorithm::LeastRequest),
        Just(Algorithm::RoundRobin),
        Just(Algorithm::Random),
        (1..9999u32).prop_map(|minimum_size| Algorithm::RingHash { minimum_size }),
        (2..9999u32).prop_map(|table_size| Algorithm::Maglev { table_size })
    ];
    let nearness = prop_oneof![Just(Nearness::Anywhere), Just(Nearness::Region), Just(Nearness::Zone)];
    let slow_start = (any_duration(), 1..=100u32).prop_map(|(window, minimum_percent)| SlowStart { window, minimum_percent });
    let balancing = (algorithm, nearness, 100..999u32, 0..=100u32, option::of(slow_start)).prop_map(
        |(algorithm, prefer, overprovisioning_percent, panic_percent, slow_start)| Balancing {
            algorithm,
            prefer,
            overprovisioning_percent,
            panic_percent,
            slow_start,
        },
    );
    let retries = prop_oneof![
        any::<u32>().prop_map(RetryLimit::AtMost),
        (0..=100u32, any::<u32>()).prop_map(|(percent, minimum)| RetryLimit::Budget { percent, minimum })
    ];
    let adaptive = (any::<u32>(), any::<u32>(), any_duration(), any::<u32>())
        .prop_map(|(minimum, maximum, interval, tolerance_percent)| Adaptive { minimum, maximum, interval, tolerance_percent });
    let limits = (option::of(any::<u32>()), any::<u32>(), option::of(any::<u32>()), any_duration(), retries, option::of(adaptive))
        .prop_map(|(connections, pending, requests, queue_timeout, retries, adaptive)| Limits {
            connections,
            pending,
            requests,
            queue_timeout,
            retries,
            adaptive,
        });
    let consecutive = || option::of(1..99u32);
    let success_rate = (any::<u32>(), any::<u32>(), any::<u32>()).prop_map(|(minimum_hosts, request_volume, stdev_factor)| SuccessRate {
        minimum_hosts,
        request_volume,
        stdev_factor,
    });
    let failures = (any::<u32>(), any::<u32>(), any::<u32>()).prop_map(|(threshold, minimum_hosts, request_volume)| FailurePercentage {
        threshold,
        minimum_hosts,
        request_volume,
    });
    let rates = (option::of(success_rate), option::of(failures));
    let times = (any_duration(), any_duration(), any_duration());
    let ejection = (consecutive(), consecutive(), consecutive(), times, 0..=100u32, rates)
        .prop_map(|(consecutive_5xx, consecutive_gateway, consecutive_local, (interval, base_time, max_time), max_percent, rates)| {
            Ejection {
                consecutive_5xx,
                consecutive_gateway,
                consecutive_local,
                interval,
                base_time,
                max_time,
                max_percent,
                success_rate: rates.0,
                failure_percentage: rates.1,
            }
        })
        .boxed();
    let ask = prop_oneof![
        ("/[a-z]{0,5}", option::of(any_host()), vec((100..600u16).prop_map(|status| status..=status), 1..3))
            .prop_map(|(path, host, expected)| HealthQuestion::Http { path, host, expected }),
        "[a-z.]{0,6}".prop_map(|service| HealthQuestion::Grpc { service }),
        Just(HealthQuestion::Tcp)
    ];
    let health_check = (ask, any_duration(), any_duration(), 1..9u32, 1..9u32).prop_map(
        |(ask, interval, timeout, unhealthy_threshold, healthy_threshold)| HealthCheck {
            ask,
            interval,
            timeout,
            unhealthy_threshold,
            healthy_threshold,
        },
    );
    let connections = (any_duration(), option::of(any_duration())).prop_map(|(idle, max_age)| Connections { idle, max_age });
    let tried = vec(tried::any_traffic((any_origin(), option::of(any::<u32>()), option::of(ejection.clone()))), 0..2);
    (balancing, limits, option::of(ejection), option::of(health_check), connections, (vec(any_port(), 0..2), tried)).prop_map(
        |(balancing, limits, ejection, health_check, connections, (failover, tried))| Traffic {
            balancing,
            limits,
            ejection,
            health_check,
            connections,
            failover,
            tried,
        },
    )
}

fn any_origin() -> impl Strategy<Value = Origin> {
    ("[A-Za-z]{1,8}", "[a-z]{1,8}", ".{0,8}", 0..(1u64 << 53), any::<u32>(), any::<u32>())
        .prop_map(|(kind, namespace, name, generation, rule, matched)| Origin { kind, namespace, name, generation, rule, matched })
}

fn any_limit() -> impl Strategy<Value = RateLimit> {
    let quota = || (any::<u32>(), any_duration(), any::<u32>()).prop_map(|(requests, per, burst)| Quota { requests, per, burst });
    let unavailable = prop_oneof![Just(Unavailable::LocalShare), Just(Unavailable::Allow), Just(Unavailable::Deny)];
    let service = (any_port(), ".{0,6}", any_duration(), any::<bool>()).prop_map(|(port, domain, timeout, fail_open)| LimitService {
        port,
        domain,
        timeout,
        fail_open,
    });
    let counted = prop_oneof![
        quota().prop_map(Counted::Local),
        (quota(), unavailable).prop_map(|(quota, unavailable)| Counted::Global { quota, unavailable }),
        any::<u32>().prop_map(Counted::Concurrent),
        service.prop_map(Counted::Service),
    ];
    let part = prop_oneof![
        Just(KeyPart::Caller),
        "[a-z-]{1,6}".prop_map(KeyPart::Header),
        Just(KeyPart::Path),
        "[a-z.]{1,6}".prop_map(KeyPart::Claim),
        Just(KeyPart::Source)
    ];
    let matches = (any_path(), option::of("[A-Z]{1,7}"), vec(any_field("[a-z]{1,8}"), 0..2))
        .prop_map(|(path, method, headers)| RouteMatch { path, method, headers, ..RouteMatch::any() });
    (any_origin(), ".{0,8}", counted, vec(part, 0..3), option::of(matches), any::<bool>()).prop_map(
        |(origin, id, counted, key, matches, shadow)| RateLimit {
            origin: std::sync::Arc::new(origin),
            id: id.into(),
            counted,
            key,
            matches,
            shadow,
        },
    )
}

fn any_caller() -> impl Strategy<Value = EgressCaller> {
    (option::of(any_namespace()), option::of(any_label())).prop_map(|(namespace, account)| EgressCaller { namespace, account })
}

fn any_time() -> impl Strategy<Value = SystemTime> {
    any_duration().prop_map(|since| SystemTime::UNIX_EPOCH + since)
}

fn any_fault() -> impl Strategy<Value = Fault> {
    let time = prop_oneof![
        any_duration().prop_map(DelayTime::Fixed),
        (any_duration(), any_duration()).prop_map(|(from, more)| DelayTime::Uniform { from, to: from + more }),
        (any_duration(), any_duration()).prop_map(|(mean, more)| DelayTime::Exponential { mean, most: mean + more }),
    ];
    let delay = (any_share(), time).prop_map(|(share, time)| Delay { share, time });
    let answer = prop_oneof![(200..600u16).prop_map(AbortAnswer::Http), (0..17u32).prop_map(AbortAnswer::Grpc)];
    let abort = (any_share(), answer).prop_map(|(share, answer)| Abort { share, answer });
    let bandwidth = (any_share(), 1..1u64 << 40).prop_map(|(share, bytes_per_second)| Bandwidth { share, bytes_per_second });
    let whom = (option::of(any_port()), vec(any_field("[a-z][a-z-]{0,8}"), 0..2), vec(any_caller(), 0..2));
    let what = (option::of(delay), option::of(any_share()), option::of(abort), option::of(bandwidth), any::<bool>());
    (any_origin(), any_time(), whom, what).prop_map(|(origin, ends, (to, headers, callers), (delay, reset, abort, bandwidth, shadow))| {
        Fault { origin: std::sync::Arc::new(origin), ends, to, headers, callers, delay, reset, abort, bandwidth, shadow }
    })
}

fn any_among<T: Clone + std::fmt::Debug>(one: impl Strategy<Value = T> + Clone) -> impl Strategy<Value = Among<T>> {
    (vec(one.clone(), 0..2), vec(one, 0..2)).prop_map(|(any, none)| Among { any, none })
}

fn any_rule() -> impl Strategy<Value = HttpRule> {
    let fields = (vec(any_field("[a-z][a-z-]{0,8}"), 0..3), vec(any_field(".{0,6}"), 0..3));
    let matches = (any_path(), option::of("[A-Z]{1,7}"), fields, option::of(any_share()))
        .prop_map(|(path, method, (headers, query), share)| RouteMatch { path, method, headers, query, share });
    let access = (
        option::of(access::any_authentication()),
        option::of(access::any_authorization().prop_map(std::sync::Arc::new)),
        vec(tried::any_authentication(), 0..2),
    );
    let filters = (any_edits(), any_edits(), option::of(any_cors()), any::<bool>(), vec(any_limit(), 0..2), access).prop_map(
        |(request, response, cors, grpc_web, limits, (authentication, authorization, tried))| Filters {
            request,
            response,
            cors,
            grpc_web,
            limits,
            authentication,
            authorization,
            tried,
        },
    );
    (any_origin(), matches, filters, any_action()).prop_map(|(origin, matches, filters, action)| HttpRule {
        origin: std::sync::Arc::new(origin),
        matches,
        filters,
        action,
    })
}

fn any_certificate() -> impl Strategy<Value = Certificate> {
    let secret = (any_namespace(), any_label()).prop_map(|(namespace, name)| SecretName::new(namespace, name.into()));
    (secret, ".{0,12}", ".{0,12}", any::<bool>()).prop_map(|(secret, chain, key, in_files)| Certificate {
        secret,
        chain,
        key: PrivateKey(key),
        in_files,
    })
}

fn any_backend_tls() -> impl Strategy<Value = BackendTls> {
    let name = prop_oneof![any_host(), any_host().prop_map(|host| format!("spiffe://{host}/a"))];
    (any_host(), vec(name, 0..3), option::of(".{0,12}"), option::of(any_certificate())).prop_map(
        |(server_name, mut names, roots, certificate)| {
            // One name that is the server's own is what none says.
            if *names == [server_name.as_str()] {
                names.clear();
            }
            BackendTls { server_name, names, roots, certificate }
        },
    )
}

fn any_pattern_of_hosts() -> impl Strategy<Value = HostPattern> {
    prop_oneof![any_host().prop_map(HostPattern::Exact), any_host().prop_map(HostPattern::Under), Just(HostPattern::Any)]
}

fn any_hosts() -> impl Strategy<Value = Hosts> {
    vec((any_pattern_of_hosts(), vec(any_rule(), 0..3)), 0..3).prop_map(|hosts| {
        let hosts: std::collections::BTreeMap<HostPattern, Vec<HttpRule>> = hosts.into_iter().collect();
        Hosts::new(hosts.into_iter().map(|(host, rules)| VirtualHost { host, rules: rules.into() }).collect())
    })
}

fn any_transport() -> impl Strategy<Value = TransportRoute> {
    let backend = (0..100u32, any_destination()).prop_map(|(weight, backend)| WeightedBackend::plain(weight, backend));
    (any_origin(), vec(backend, 0..3), option::of(access::any_authorization().prop_map(std::sync::Arc::new)))
        .prop_map(|(origin, backends, authorization)| TransportRoute { origin: std::sync::Arc::new(origin), backends, authorization })
}

pub(crate) fn any_gateway() -> impl Strategy<Value = GatewayUnit> {
    let client = (".{0,12}", any::<bool>()).prop_map(|(roots, optional)| ClientValidation { roots, optional });
    let tls = (vec(any_certificate(), 0..3), option::of(client)).prop_map(|(certificates, client)| ServerTls { certificates, client });
    let then = prop_oneof![any_hosts().prop_map(Terminated::Http), option::of(any_transport()).prop_map(Terminated::Tcp)];
    let action = prop_oneof![
        any_transport().prop_map(TlsAction::Passthrough),
        (tls, then).prop_map(|(tls, then)| TlsAction::Terminate { tls, then })
    ];
    let chain = (any_pattern_of_hosts(), action, any::<bool>()).prop_map(|(server_name, action, http3)| {
        let http3 = http3 && matches!(action, TlsAction::Terminate { then: Terminated::Http(_), .. });
        TlsChain { server_name, action, http3 }
    });
    let listening = prop_oneof![
        any_hosts().prop_map(Listening::Http),
        vec(chain, 0..3).prop_map(Listening::Tls),
        option::of(any_transport()).prop_map(Listening::Tcp),
        option::of(any_transport()).prop_map(Listening::Udp),
        vec(any_egress_rule(), 0..4).prop_map(Listening::Egress),
    ];
    (any_namespace(), any_label(), 1..=u16::MAX, listening, telemetry::any_telemetry()).prop_map(
        |(namespace, name, port, listening, telemetry)| GatewayUnit {
            gateway: GatewayName::new(namespace, name.into()),
            port,
            listening,
            telemetry,
        },
    )
}

fn any_egress_rule() -> impl Strategy<Value = EgressRule> {
    let network = prop_oneof![
        (any::<Ipv4Addr>(), 0..=32u8).prop_map(|(address, length)| IpNet::new(address.into(), length).unwrap().trunc()),
        (any::<Ipv6Addr>(), 0..=128u8).prop_map(|(address, length)| IpNet::new(address.into(), length).unwrap().trunc()),
    ];
    let host = prop_oneof![network.prop_map(EgressHost::Network), any_pattern_of_hosts().prop_map(EgressHost::Name)];
    (any_origin(), host, vec(1..=u16::MAX, 0..3), vec(any_caller(), 0..2), option::of(any_destination()))
        .prop_map(|(origin, host, ports, callers, via)| EgressRule { origin: std::sync::Arc::new(origin), host, ports, callers, via })
}

pub(crate) fn any_egress() -> impl Strategy<Value = EgressUnit> {
    let unlisted = prop_oneof![Just(Unlisted::Allow), any_origin().prop_map(|origin| Unlisted::Deny(std::sync::Arc::new(origin)))];
    let answer = prop_oneof![Just(NameAnswer::ServerFailure), Just(NameAnswer::NoSuchName), Just(NameAnswer::Timeout)];
    let fault = (any_origin(), any_time(), any_service(), any_share(), answer, any::<bool>()).prop_map(
        |(origin, ends, service, share, answer, shadow)| NameFault { origin: origin.into(), ends, service, share, answer, shadow },
    );
    let tried = vec(tried::any_egress(), 0..2);
    (any_namespace(), any_label(), vec(any_egress_rule(), 0..5), unlisted, vec(fault, 0..3), tried).prop_map(
        |(namespace, name, rules, unlisted, names, tried)| {
            let workload = WorkloadName::new(namespace, name);
            EgressUnit { workload, rules, unlisted, names, tried }
        },
    )
}

pub(crate) fn any_unit() -> impl Strategy<Value = OutboundUnit> {
    let reached = (option::of(any_port()), option::of(any_backend_tls()));
    let cluster = (any_protocol(), btree_set(any_identity(), 0..3), any_duration(), reached, any_traffic());
    let faults = vec(any_fault(), 0..3);
    (any_port(), any::<Ipv4Addr>(), any::<Ipv6Addr>(), any_protocol(), vec(any_rule(), 1..4), any::<bool>(), faults, cluster).prop_map(
        |(
            port,
            virtual_v4,
            virtual_v6,
            protocol,
            rules,
            http_only,
            faults,
            (speaks, accepted, connect_timeout, (server, tls), traffic),
        )| {
            OutboundUnit {
                cluster: Cluster {
                    server: server.unwrap_or_else(|| port.clone()),
                    port: port.clone(),
                    protocol: speaks,
                    accepted,
                    connect_timeout,
                    tls,
                    traffic,
                },
                port,
                virtual_v4,
                virtual_v6,
                protocol,
                rules: rules.into(),
                http_only,
                faults,
            }
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
    let access = (option::of(access::any_authentication()), access::any_authorization(), vec(tried::any_authentication(), 0..2));
    let flags = (any::<bool>(), vec(any_limit(), 0..3), access, telemetry::any_telemetry());
    (any_workload(), option::of(any_service()), any_label(), any_identity(), addresses, vec(one, 0..4), flags).prop_map(
        |(workload, service, account, identity, (virtual_v4, virtual_v6), ports, (withdrawn, limits, access, telemetry))| {
            let (authentication, authorization, tried) = access;
            InboundUnit {
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
                authorization: std::sync::Arc::new(authorization),
                tried,
                telemetry,
            }
        },
    )
}

pub(crate) fn any_names() -> impl Strategy<Value = NameTable> {
    let record = (any_label(), any::<Ipv4Addr>(), any::<Ipv6Addr>()).prop_map(|(name, v4, v6)| NameRecord { name, v4, v6 });
    (any_namespace(), vec(record, 0..5)).prop_map(|(namespace, records)| NameTable { namespace, records })
}

pub(crate) fn any_bundle() -> impl Strategy<Value = TrustBundle> {
    let domain = || "[a-z0-9._-]{1,12}".prop_map(|text| TrustDomain::new(&text).unwrap());
    let roots = || vec(vec(any::<u8>(), 0..200), 0..3);
    (domain(), roots(), btree_map(domain(), roots(), 0..3), any_revoked(), roots()).prop_map(
        |(trust_domain, roots, mut federated, revoked, revocation_lists)| {
            federated.remove(&trust_domain);
            TrustBundle { trust_domain, roots, federated, revoked, revocation_lists }
        },
    )
}

fn any_revoked() -> impl Strategy<Value = Revoked> {
    let identity = any_label().prop_map(|name| format!("spiffe://mesh.local/ns/shop/sa/{name}").parse::<SpiffeId>().unwrap());
    let workload = (any_namespace(), any_label()).prop_map(|(namespace, name)| WorkloadName::new(namespace, name));
    (btree_set(identity, 0..4), btree_set(workload, 0..4)).prop_map(|(identities, workloads)| Revoked { identities, workloads })
}
