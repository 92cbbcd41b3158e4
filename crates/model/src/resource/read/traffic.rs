//! What a policy says of traffic, from its document.

use std::collections::BTreeSet;
use std::ops::{Range, RangeInclusive};
use std::time::Duration;

use super::route::duration;
use super::{GATEWAY_GROUP, port, reference, shadow};
use crate::name::{Label, Namespace, ServiceName, ServicePort};
use crate::resource::kinds::{Mode, Set, Settings, TrafficPolicy, TrafficTarget};
use crate::resource::reader::{Object, Reader};
use crate::resource::tree::{Node, Value};
use crate::snapshot::{Affinity, Algorithm, FailurePercentage, HashOn, HealthQuestion, Nearness, RetryLimit, RetryOn, SuccessRate};

/// The largest table of Maglev's: Envoy's bound.
const LARGEST_TABLE: i64 = 5_000_011;
/// The largest ring: Envoy's bound.
const LARGEST_RING: i64 = 8 * 1024 * 1024;
/// What nobody needs more of.
const MANY: i64 = u32::MAX as i64;

pub(super) fn policy(node: Node, own: &Namespace, reader: &mut Reader<'_>) -> Option<TrafficPolicy> {
    let mut object = reader.object(node, "a TrafficPolicy's `spec`")?;
    let (targets, mode) = (object.take("targetRefs"), object.take("mode"));
    let sections = Sections {
        balancing: object.take("balancing"),
        failover: object.take("failover"),
        limits: object.take("limits"),
        ejection: object.take("ejection"),
        health_check: object.take("healthCheck"),
        timeouts: object.take("timeouts"),
        retries: object.take("retries"),
        hedging: object.take("hedging"),
    };
    reader.end(object);
    let targets = targets.map(|node| reader.list(node, "`targetRefs`")).unwrap_or_default();
    let targets = targets.into_iter().filter_map(|node| target(node, own, reader)).collect();
    let mut settings = Settings::default();
    sections.read(own, &mut settings, reader);
    together(&settings, reader);
    let mode_span = mode.as_ref().map(|node| node.span.clone());
    let shadow = shadow(mode, reader);
    if let (Some(span), true) = (mode_span, shadow) {
        tried(&settings, &span, reader);
    }
    Some(TrafficPolicy { targets, settings, shadow })
}

fn target(node: Node, own: &Namespace, reader: &mut Reader<'_>) -> Option<TrafficTarget> {
    let mut object = reader.object(node, "a target")?;
    let section = object.take("sectionName");
    let route = matches!(object.peek("kind"), Some("HTTPRoute" | "GRPCRoute"));
    let default = if route { (GATEWAY_GROUP, "HTTPRoute") } else { ("", "Service") };
    let named = reference(&mut object, own, default, reader);
    reader.end(object);
    let named = named?;
    let known = named.is_service() || (named.group == GATEWAY_GROUP && matches!(named.kind.as_str(), "HTTPRoute" | "GRPCRoute"));
    if !known {
        reader.wrong_with(
            &named.span,
            format!("nothing of a {} is balanced or timed", named.kind),
            "name a Service, an HTTPRoute or a GRPCRoute",
        );
        return None;
    }
    if named.namespace != *own {
        let message = format!("a policy of `{own}` cannot hold for a {} of `{}`", named.kind, named.namespace);
        reader.wrong_with(&named.span, message, "put the policy there; for the calls of your own namespace, target a route of your own");
        return None;
    }
    let section = section.and_then(|node| reader.text(&node, "`sectionName`"));
    Some(TrafficTarget { object: named, section })
}

struct Sections {
    balancing: Option<Node>,
    failover: Option<Node>,
    limits: Option<Node>,
    ejection: Option<Node>,
    health_check: Option<Node>,
    timeouts: Option<Node>,
    retries: Option<Node>,
    hedging: Option<Node>,
}

impl Sections {
    fn read(self, own: &Namespace, settings: &mut Settings, reader: &mut Reader<'_>) {
        if let Some(object) = self.balancing.and_then(|node| reader.object(node, "`balancing`")) {
            balancing(object, settings, reader);
        }
        settings.failover = set(self.failover, reader, |node, reader| {
            let nodes = reader.list(node.clone(), "`failover`");
            Some(nodes.into_iter().filter_map(|node| service_port(node, own, reader)).collect())
        });
        if let Some(object) = self.limits.and_then(|node| reader.object(node, "`limits`")) {
            limits(object, settings, reader);
        }
        if let Some(object) = self.ejection.and_then(|node| reader.object(node, "`ejection`")) {
            ejection(object, settings, reader);
        }
        if let Some(object) = self.health_check.and_then(|node| reader.object(node, "`healthCheck`")) {
            health_check(object, settings, reader);
        }
        if let Some(object) = self.timeouts.and_then(|node| reader.object(node, "`timeouts`")) {
            timeouts(object, settings, reader);
        }
        if let Some(object) = self.retries.and_then(|node| reader.object(node, "`retries`")) {
            retries(object, settings, reader);
        }
        if let Some(mut object) = self.hedging.and_then(|node| reader.object(node, "`hedging`")) {
            let (after, attempts) = (object.take("after"), object.take("attempts"));
            reader.end(object);
            settings.hedge_after = set(after, reader, time_or_none);
            settings.hedge_attempts = set(attempts, reader, |node, reader| count(node, "`attempts`", 1..=10, reader));
        }
    }
}

fn balancing(mut object: Object, settings: &mut Settings, reader: &mut Reader<'_>) {
    let (algorithm, ring, table) = (object.take("algorithm"), object.take("minimumRingSize"), object.take("tableSize"));
    let (hash, affinity, prefer) = (object.take("hashOn"), object.take("affinity"), object.take("prefer"));
    let (overprovisioning, panic) = (object.take("overprovisioningPercent"), object.take("panicPercent"));
    let slow_start = object.take("slowStart");
    reader.end(object);
    settings.algorithm = set(algorithm, reader, |node, reader| {
        let words = [
            ("PeakEwma", Algorithm::PeakEwma),
            ("LeastRequest", Algorithm::LeastRequest),
            ("RoundRobin", Algorithm::RoundRobin),
            ("Random", Algorithm::Random),
            ("RingHash", Algorithm::RingHash { minimum_size: Algorithm::RING_SIZE }),
            ("Maglev", Algorithm::Maglev { table_size: Algorithm::TABLE_SIZE }),
        ];
        reader.word(node, "algorithm", &words)
    });
    let chosen = settings.algorithm.as_mut().map(|set| &mut set.value);
    match (chosen, ring, table) {
        (Some(Algorithm::RingHash { minimum_size }), Some(node), None) => {
            *minimum_size = count(&node, "`minimumRingSize`", 1..=LARGEST_RING, reader).unwrap_or(*minimum_size);
        }
        (Some(Algorithm::Maglev { table_size }), None, Some(node)) => *table_size = prime(&node, reader).unwrap_or(*table_size),
        (_, ring, table) => {
            for (node, name, algorithm) in [(ring, "minimumRingSize", "RingHash"), (table, "tableSize", "Maglev")] {
                if let Some(node) = node {
                    let message = format!("`{name}` is the size of what `{algorithm}` looks up");
                    reader.wrong_with(&node.span, message, format!("write `algorithm: {algorithm}` beside it, or leave it out"));
                }
            }
        }
    }
    settings.hash = set(hash, reader, |node, reader| {
        let nodes = reader.list(node.clone(), "`hashOn`");
        reader.bound(nodes.len() <= 8, &node.span, "at most 8 parts of a request are hashed");
        Some(nodes.into_iter().filter_map(|node| hash_on(node, reader)).collect())
    });
    settings.affinity = set(affinity, reader, |node, reader| {
        if is_none(node) {
            return Some(None);
        }
        let mut object = reader.object(node.clone(), "`affinity`")?;
        let (name, ttl, path) = (object.need("cookie", reader), object.take("ttl"), object.take("path"));
        reader.end(object);
        let cookie = cookie_name(&name?, reader)?;
        Some(Some(Affinity { cookie, ttl: ttl.and_then(|node| duration(&node, reader)), path: cookie_path(path, reader) }))
    });
    settings.prefer = set(prefer, reader, |node, reader| {
        let words = [("Anywhere", Nearness::Anywhere), ("Region", Nearness::Region), ("Zone", Nearness::Zone)];
        reader.word(node, "preference", &words)
    });
    settings.overprovisioning =
        set(overprovisioning, reader, |node, reader| count(node, "`overprovisioningPercent`", 100..=10_000, reader));
    settings.panic = set(panic, reader, |node, reader| count(node, "`panicPercent`", 0..=100, reader));
    if let Some(mut object) = slow_start.and_then(|node| reader.object(node, "`slowStart`")) {
        let (window, minimum) = (object.take("window"), object.take("minimumPercent"));
        reader.end(object);
        settings.slow_start_window = set(window, reader, time_or_none);
        settings.slow_start_minimum = set(minimum, reader, |node, reader| count(node, "`minimumPercent`", 1..=100, reader));
    }
}

/// One part of a request: `{header: x-user}`, `{cookie: {name: session, ttl: 1h}}`, `{query: id}`, `{source: Address}`.
fn hash_on(node: Node, reader: &mut Reader<'_>) -> Option<HashOn> {
    let span = node.span.clone();
    let mut object = reader.object(node, "a part to hash")?;
    let (header, cookie, query, source) = (object.take("header"), object.take("cookie"), object.take("query"), object.take("source"));
    reader.end(object);
    match (header, cookie, query, source) {
        (Some(node), None, None, None) => header_name(&node, reader).map(HashOn::Header),
        (None, Some(node), None, None) => {
            let mut object = reader.object(node, "`cookie`")?;
            let (name, ttl, path) = (object.need("name", reader), object.take("ttl"), object.take("path"));
            reader.end(object);
            let name = cookie_name(&name?, reader)?;
            Some(HashOn::Cookie { name, ttl: ttl.and_then(|node| duration(&node, reader)), path: cookie_path(path, reader) })
        }
        (None, None, Some(node), None) => reader.text(&node, "`query`").map(HashOn::Query),
        (None, None, None, Some(node)) => reader.word(&node, "source", &[("Address", ())]).map(|()| HashOn::SourceAddress),
        _ => {
            reader.wrong_with(
                &span,
                "a part to hash is one thing",
                "write `{header: NAME}`, `{cookie: {name: NAME}}`, `{query: NAME}` or `{source: Address}`",
            );
            None
        }
    }
}

/// The name of a field that a request can carry to the balancer.
fn header_name(node: &Node, reader: &mut Reader<'_>) -> Option<String> {
    let name = reader.text(node, "`header`")?.to_ascii_lowercase();
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if name.is_empty() || !name.bytes().all(token) {
        reader.wrong(&node.span, format!("`{name}` is no name of a header field"));
        return None;
    }
    let of_connection = ["connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"];
    if of_connection.contains(&name.as_str()) || name.starts_with("x-lorica-") {
        let message = format!("no request carries `{name}` on: it would belong to no endpoint");
        reader.wrong_with(&node.span, message, "hash a field that the app sets, as `x-user`");
        return None;
    }
    Some(name)
}

fn cookie_name(node: &Node, reader: &mut Reader<'_>) -> Option<String> {
    let name = reader.text(node, "a cookie's name")?;
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if name.is_empty() || !name.bytes().all(token) {
        reader.wrong_with(&node.span, format!("`{name}` is no cookie's name"), "write letters, digits, `-` and `_`");
        return None;
    }
    Some(name)
}

fn cookie_path(node: Option<Node>, reader: &mut Reader<'_>) -> String {
    let Some(node) = node else { return "/".to_owned() };
    let Some(path) = reader.text(&node, "`path`") else { return "/".to_owned() };
    let fits = path.starts_with('/') && path.bytes().all(|byte| (0x21..0x7f).contains(&byte) && byte != b';');
    if !fits {
        reader.wrong_with(&node.span, format!("`{path}` is no cookie's path"), "write `/`, or `/shop`");
    }
    path
}

fn limits(mut object: Object, settings: &mut Settings, reader: &mut Reader<'_>) {
    let (connections, pending, requests) = (object.take("connections"), object.take("pending"), object.take("requests"));
    let (queue_timeout, retries, adaptive) = (object.take("queueTimeout"), object.take("retries"), object.take("adaptive"));
    reader.end(object);
    settings.connections = set(connections, reader, |node, reader| count_or_none(node, "`connections`", reader));
    settings.pending = set(pending, reader, |node, reader| count(node, "`pending`", 0..=MANY, reader));
    settings.requests = set(requests, reader, |node, reader| count_or_none(node, "`requests`", reader));
    settings.queue_timeout = set(queue_timeout, reader, duration);
    settings.retry_limit = set(retries, reader, |node, reader| {
        let mut object = reader.object(node.clone(), "`retries`")?;
        let (percent, minimum, most) = (object.take("percent"), object.take("minimum"), object.take("atMost"));
        reader.end(object);
        if let Some(most) = most {
            if percent.is_some() || minimum.is_some() {
                reader.wrong_with(
                    &most.span,
                    "retries are limited by their number or by their share",
                    "write `atMost`, or `percent` and `minimum`",
                );
            }
            return count(&most, "`atMost`", 0..=MANY, reader).map(RetryLimit::AtMost);
        }
        let percent = percent.map(|node| count(&node, "`percent`", 0..=100, reader));
        let minimum = minimum.map(|node| count(&node, "`minimum`", 0..=MANY, reader));
        Some(RetryLimit::Budget { percent: percent.unwrap_or(Some(20))?, minimum: minimum.unwrap_or(Some(10))? })
    });
    if let Some(node) = adaptive {
        let span = node.span.clone();
        let Some(mut object) = reader.object(node, "`adaptive`") else { return };
        let (mode, minimum, maximum) = (object.take("mode"), object.take("minimum"), object.take("maximum"));
        let (interval, tolerance) = (object.take("interval"), object.take("tolerancePercent"));
        reader.end(object);
        settings.adaptive = mode_of(mode, &span, reader);
        settings.adaptive_minimum = set(minimum, reader, |node, reader| count(node, "`minimum`", 1..=MANY, reader));
        settings.adaptive_maximum = set(maximum, reader, |node, reader| count(node, "`maximum`", 1..=MANY, reader));
        settings.adaptive_interval = set(interval, reader, some_time);
        settings.adaptive_tolerance = set(tolerance, reader, |node, reader| count(node, "`tolerancePercent`", 0..=1000, reader));
    }
}

fn ejection(mut object: Object, settings: &mut Settings, reader: &mut Reader<'_>) {
    let span = object.span.clone();
    let (mode, any, gateway) = (object.take("mode"), object.take("consecutive5xx"), object.take("consecutiveGatewayErrors"));
    let (local, interval, base) = (object.take("consecutiveLocalErrors"), object.take("interval"), object.take("baseTime"));
    let (most, percent) = (object.take("maxTime"), object.take("maxPercent"));
    let (success_rate, failures) = (object.take("successRate"), object.take("failurePercentage"));
    reader.end(object);
    settings.ejection = mode_of(mode, &span, reader);
    settings.consecutive_5xx = set(any, reader, |node, reader| count_or_none(node, "`consecutive5xx`", reader));
    settings.consecutive_gateway = set(gateway, reader, |node, reader| count_or_none(node, "`consecutiveGatewayErrors`", reader));
    settings.consecutive_local = set(local, reader, |node, reader| count_or_none(node, "`consecutiveLocalErrors`", reader));
    settings.ejection_interval = set(interval, reader, some_time);
    settings.ejection_base = set(base, reader, some_time);
    settings.ejection_most = set(most, reader, some_time);
    settings.ejection_percent = set(percent, reader, |node, reader| count(node, "`maxPercent`", 0..=100, reader));
    settings.success_rate = set(success_rate, reader, |node, reader| {
        if is_none(node) {
            return Some(None);
        }
        let mut object = reader.object(node.clone(), "`successRate`")?;
        let (hosts, volume, factor) = (object.take("minimumHosts"), object.take("requestVolume"), object.take("stdevFactor"));
        reader.end(object);
        Some(Some(SuccessRate {
            minimum_hosts: or_default(hosts, 5, |node| count(node, "`minimumHosts`", 1..=MANY, reader))?,
            request_volume: or_default(volume, 100, |node| count(node, "`requestVolume`", 1..=MANY, reader))?,
            stdev_factor: or_default(factor, 1900, |node| count(node, "`stdevFactor`, in thousandths,", 0..=100_000, reader))?,
        }))
    });
    settings.failure_percentage = set(failures, reader, |node, reader| {
        if is_none(node) {
            return Some(None);
        }
        let mut object = reader.object(node.clone(), "`failurePercentage`")?;
        let (threshold, hosts, volume) = (object.take("threshold"), object.take("minimumHosts"), object.take("requestVolume"));
        reader.end(object);
        Some(Some(FailurePercentage {
            threshold: or_default(threshold, 85, |node| count(node, "`threshold`", 1..=100, reader))?,
            minimum_hosts: or_default(hosts, 5, |node| count(node, "`minimumHosts`", 1..=MANY, reader))?,
            request_volume: or_default(volume, 50, |node| count(node, "`requestVolume`", 1..=MANY, reader))?,
        }))
    });
}

fn health_check(mut object: Object, settings: &mut Settings, reader: &mut Reader<'_>) {
    let span = object.span.clone();
    let (mode, http, grpc, tcp) = (object.take("mode"), object.take("http"), object.take("grpc"), object.take("tcp"));
    let (interval, timeout) = (object.take("interval"), object.take("timeout"));
    let (unhealthy, healthy) = (object.take("unhealthyThreshold"), object.take("healthyThreshold"));
    reader.end(object);
    let is_on = mode_of(mode, &span, reader).is_none_or(|set| set.value == Mode::Enabled);
    let value = match (http, grpc, tcp) {
        (None, None, None) if !is_on => Some(None),
        (Some(node), None, None) => question_of_http(node, reader).map(Some),
        (None, Some(node), None) => reader.object(node, "`grpc`").map(|mut object| {
            let service = object.take("service");
            reader.end(object);
            Some(HealthQuestion::Grpc { service: service.and_then(|node| reader.text(&node, "`service`")).unwrap_or_default() })
        }),
        (None, None, Some(node)) => reader.object(node, "`tcp`").map(|object| {
            reader.end(object);
            Some(HealthQuestion::Tcp)
        }),
        (None, None, None) => None,
        _ => {
            reader.wrong_with(&span, "an endpoint is asked one question", "write one of `http: {path: /healthz}`, `grpc: {}`, `tcp: {}`");
            None
        }
    };
    settings.health_check = value.map(|value| Set { value: value.filter(|_| is_on), span });
    settings.health_interval = set(interval, reader, some_time);
    settings.health_timeout = set(timeout, reader, some_time);
    settings.health_unhealthy = set(unhealthy, reader, |node, reader| count(node, "`unhealthyThreshold`", 1..=1000, reader));
    settings.health_healthy = set(healthy, reader, |node, reader| count(node, "`healthyThreshold`", 1..=1000, reader));
}

fn question_of_http(node: Node, reader: &mut Reader<'_>) -> Option<HealthQuestion> {
    let mut object = reader.object(node, "`http`")?;
    let (path, host, statuses) = (object.need("path", reader), object.take("host"), object.take("statuses"));
    reader.end(object);
    let node = path?;
    let path = reader.text(&node, "`path`")?;
    let fits = path.starts_with('/') && path.bytes().all(|byte| (0x21..0x7f).contains(&byte));
    if !fits {
        reader.wrong_with(&node.span, format!("`{path}` is no path"), "write it as `/healthz`");
        return None;
    }
    let host = host.and_then(|node| super::hostname(&node, false, reader));
    let nodes = statuses.map(|node| reader.list(node, "`statuses`")).unwrap_or_default();
    let mut expected: Vec<RangeInclusive<u16>> = nodes.iter().filter_map(|node| statuses_of(node, reader)).collect();
    if expected.is_empty() {
        expected.push(200..=200);
    }
    Some(HealthQuestion::Http { path, host, expected })
}

/// `204`, or `200-299`.
fn statuses_of(node: &Node, reader: &mut Reader<'_>) -> Option<RangeInclusive<u16>> {
    let text = reader.text(node, "a status")?;
    let (first, last) = text.split_once('-').unwrap_or((&text, &text));
    let status = |text: &str| text.trim().parse::<u16>().ok().filter(|status| (100..600).contains(status));
    match (status(first), status(last)) {
        (Some(first), Some(last)) if first <= last => Some(first..=last),
        _ => {
            reader.wrong_with(&node.span, format!("`{text}` is no status"), "write `204`, or `200-299`");
            None
        }
    }
}

fn timeouts(mut object: Object, settings: &mut Settings, reader: &mut Reader<'_>) {
    let (connect, request, per_try) = (object.take("connect"), object.take("request"), object.take("perTry"));
    let (idle, stream) = (object.take("idle"), object.take("stream"));
    let (pooled_idle, age) = (object.take("pooledIdle"), object.take("connectionAge"));
    reader.end(object);
    settings.connect = set(connect, reader, some_time);
    settings.request = set(request, reader, time_or_none);
    settings.per_try = set(per_try, reader, time_or_none);
    settings.idle = set(idle, reader, time_or_none);
    settings.stream = set(stream, reader, time_or_none);
    settings.pooled_idle = set(pooled_idle, reader, some_time);
    settings.connection_age = set(age, reader, time_or_none);
}

fn retries(mut object: Object, settings: &mut Settings, reader: &mut Reader<'_>) {
    let (attempts, on, codes, backoff) = (object.take("attempts"), object.take("on"), object.take("statusCodes"), object.take("backoff"));
    let (non_idempotent, avoid_tried, retry_after) =
        (object.take("nonIdempotent"), object.take("avoidTried"), object.take("retryAfterMax"));
    reader.end(object);
    settings.retry_attempts = set(attempts, reader, |node, reader| count(node, "`attempts`", 0..=100, reader));
    settings.retry_on = set(on, reader, |node, reader| {
        let words = [
            ("ConnectFailure", RetryOn::ConnectFailure),
            ("Reset", RetryOn::Reset),
            ("Timeout", RetryOn::Timeout),
            ("GatewayError", RetryOn::GatewayError),
            ("ServerError", RetryOn::ServerError),
            ("GrpcCancelled", RetryOn::GrpcCancelled),
            ("GrpcDeadlineExceeded", RetryOn::GrpcDeadlineExceeded),
            ("GrpcResourceExhausted", RetryOn::GrpcResourceExhausted),
            ("GrpcInternal", RetryOn::GrpcInternal),
            ("GrpcUnavailable", RetryOn::GrpcUnavailable),
        ];
        let nodes = reader.list(node.clone(), "`on`");
        Some(nodes.iter().filter_map(|node| reader.word(node, "condition", &words)).collect::<BTreeSet<_>>())
    });
    settings.retry_codes = set(codes, reader, |node, reader| {
        let nodes = reader.list(node.clone(), "`statusCodes`");
        let mut codes: Vec<u16> = nodes
            .iter()
            .filter_map(|node| reader.number(node, "a status that is tried again", 400..=599))
            .filter_map(|code| u16::try_from(code).ok())
            .collect();
        codes.sort_unstable();
        codes.dedup();
        Some(codes)
    });
    if let Some(mut object) = backoff.and_then(|node| reader.object(node, "`backoff`")) {
        let (base, most) = (object.take("base"), object.take("max"));
        reader.end(object);
        settings.backoff_base = set(base, reader, some_time);
        settings.backoff_most = set(most, reader, some_time);
    }
    settings.non_idempotent = set(non_idempotent, reader, |node, reader| reader.boolean(node, "`nonIdempotent`"));
    settings.avoid_tried = set(avoid_tried, reader, |node, reader| reader.boolean(node, "`avoidTried`"));
    settings.retry_after = set(retry_after, reader, duration);
}

/// A port of a service of the own or another namespace.
fn service_port(node: Node, own: &Namespace, reader: &mut Reader<'_>) -> Option<Set<ServicePort>> {
    let mut object = reader.object(node, "a service to fail over to")?;
    let (name, namespace, number) = (object.need("name", reader), object.take("namespace"), object.need("port", reader));
    reader.end(object);
    let namespace = match namespace {
        Some(node) => reader.parsed::<Namespace>(&node, "`namespace`")?,
        None => own.clone(),
    };
    let node = name?;
    let name: Label = reader.parsed(&node, "`name`")?;
    let port = port(&number?, reader)?;
    Some(Set { value: ServicePort { service: ServiceName::new(namespace, name), port }, span: node.span })
}

/// What of a policy cannot stand together.
fn together(settings: &Settings, reader: &mut Reader<'_>) {
    if let (Some(algorithm), Some(hash)) = (&settings.algorithm, &settings.hash)
        && !algorithm.value.by_hash()
        && !hash.value.is_empty()
    {
        reader.wrong_with(
            &hash.span,
            "nothing is hashed with this algorithm",
            "write `algorithm: Maglev` or `RingHash`, or leave `hashOn` out",
        );
    }
    let longer = |part: &Option<Set<Option<Duration>>>, whole: &Option<Set<Option<Duration>>>| {
        let (part, whole) = (part.as_ref()?, whole.as_ref()?);
        (part.value? > whole.value?).then(|| part.span.clone())
    };
    if let Some(span) = longer(&settings.per_try, &settings.request) {
        reader.wrong_with(&span, "`perTry` is longer than `request`, of which it is a part", "make it shorter, or leave it out");
    }
    if let Some(span) = longer(&settings.hedge_after, &settings.request) {
        reader.wrong_with(
            &span,
            "`hedging.after` is longer than `timeouts.request`: no second attempt would ever be made",
            "make it shorter",
        );
    }
    if let (Some(limit), Some(attempts)) = (&settings.retry_limit, &settings.retry_attempts)
        && attempts.value == 0
        && settings.hedge_after.is_none()
    {
        reader.wrong_with(&limit.span, "this limits retries, and `retries.attempts: 0` lets none be", "leave one of the two out");
    }
    if let (Some(base), Some(most)) = (&settings.backoff_base, &settings.backoff_most)
        && base.value > most.value
    {
        reader.wrong_with(&base.span, "`backoff.base` is longer than `backoff.max`, which no pause exceeds", "make it shorter");
    }
    if let (Some(base), Some(most)) = (&settings.ejection_base, &settings.ejection_most)
        && base.value > most.value
    {
        reader.wrong_with(&base.span, "`baseTime` is longer than `maxTime`, which no ejection exceeds", "make it shorter");
    }
    if let (Some(minimum), Some(maximum)) = (&settings.adaptive_minimum, &settings.adaptive_maximum)
        && minimum.value > maximum.value
    {
        reader.wrong(&minimum.span, "`minimum` is above `maximum`");
    }
    if let (Some(timeout), Some(interval)) = (&settings.health_timeout, &settings.health_interval)
        && timeout.value > interval.value
    {
        reader.wrong_with(&timeout.span, "a health check would begin before the last one is given up", "make `timeout` at most `interval`");
    }
}

/// What of a policy cannot be tried, where nothing else is left of it.
fn tried(settings: &Settings, mode: &Range<usize>, reader: &mut Reader<'_>) {
    if settings.written().next().is_some() && !settings.written().any(|(setting, _, _)| Settings::is_judged(setting)) {
        let written: Vec<String> = settings.written().map(|(setting, _, _)| format!("`{setting}`")).collect();
        let message = format!("what {} would change cannot be told without doing it, so there is nothing to try", written.join(", "));
        let hint = "try `timeouts.request`, `timeouts.perTry`, `retries`, `limits.requests` or `ejection`, or leave `mode` out";
        reader.wrong_with(mode, message, hint);
    }
}

/// A setting that was written.
fn set<T>(node: Option<Node>, reader: &mut Reader<'_>, read: impl FnOnce(&Node, &mut Reader<'_>) -> Option<T>) -> Option<Set<T>> {
    let node = node?;
    Some(Set { value: read(&node, reader)?, span: node.span })
}

/// Whether something is on: who writes about it wants it, unless it says `mode: Disabled`.
fn mode_of(node: Option<Node>, section: &Range<usize>, reader: &mut Reader<'_>) -> Option<Set<Mode>> {
    match node {
        Some(node) => {
            let value = reader.word(&node, "mode", &[("Enabled", Mode::Enabled), ("Disabled", Mode::Disabled)])?;
            Some(Set { value, span: node.span })
        }
        None => Some(Set { value: Mode::Enabled, span: section.clone() }),
    }
}

fn is_none(node: &Node) -> bool {
    matches!(&node.value, Value::Text(text) if text == "None")
}

fn or_default<T>(node: Option<Node>, default: T, read: impl FnOnce(&Node) -> Option<T>) -> Option<T> {
    node.map_or(Some(default), |node| read(&node))
}

fn count(node: &Node, what: &str, range: RangeInclusive<i64>, reader: &mut Reader<'_>) -> Option<u32> {
    reader.number(node, what, range).and_then(|number| u32::try_from(number).ok())
}

/// A number from 1, or `None`.
fn count_or_none(node: &Node, what: &str, reader: &mut Reader<'_>) -> Option<Option<u32>> {
    if is_none(node) { Some(None) } else { count(node, what, 1..=MANY, reader).map(Some) }
}

/// A time; `0s` or `None`: no limit.
fn time_or_none(node: &Node, reader: &mut Reader<'_>) -> Option<Option<Duration>> {
    if is_none(node) { Some(None) } else { duration(node, reader).map(|time| Some(time).filter(|time| !time.is_zero())) }
}

/// A time that is some.
fn some_time(node: &Node, reader: &mut Reader<'_>) -> Option<Duration> {
    let time = duration(node, reader)?;
    if time.is_zero() {
        reader.wrong(&node.span, "a time of 0 leaves none");
        return None;
    }
    Some(time)
}

/// The size of Maglev's table: a prime, or keys would not spread.
fn prime(node: &Node, reader: &mut Reader<'_>) -> Option<u32> {
    let size = count(node, "`tableSize`", 2..=LARGEST_TABLE, reader)?;
    let is_prime =
        |number: u32| number >= 2 && (2..).take_while(|factor| factor * factor <= number).all(|factor| !number.is_multiple_of(factor));
    if !is_prime(size) {
        let near = (size..).find(|number| is_prime(*number)).unwrap_or(Algorithm::TABLE_SIZE);
        reader.wrong_with(&node.span, format!("`tableSize` is a prime, which {size} is not"), format!("write {near}"));
        return None;
    }
    Some(size)
}
