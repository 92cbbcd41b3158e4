//! How many requests may come, from its document.

use std::time::Duration;

use super::filter::field_name;
use super::matches::route_match;
use super::route::duration;
use super::{GATEWAY_GROUP, port, reference, shadow};
use crate::name::{Label, Namespace, ServiceName, ServicePort};
use crate::resource::Kind;
use crate::resource::kinds::{RateLimitPolicy, RateLimitTarget, WrittenCounted, WrittenLimit, WrittenService};
use crate::resource::reader::{Object, Reader};
use crate::resource::tree::{Node, Value};
use crate::snapshot::{KeyPart, LimitService, Quota, Unavailable};

/// What may be limited.
const TARGETS: [(&str, Kind); 4] =
    [("Service", Kind::Service), ("Gateway", Kind::Gateway), ("HTTPRoute", Kind::HttpRoute), ("GRPCRoute", Kind::GrpcRoute)];
/// The most limits of a policy: a request is held against each.
const MOST_LIMITS: usize = 16;
/// The most parts of a key.
const MOST_PARTS: usize = 4;
/// The highest rate, in requests a second: above it the nanoseconds between two tokens are too few to be exact.
const MOST_A_SECOND: u64 = 1_000_000;
/// The longest time that requests are counted in.
const LONGEST: Duration = Duration::from_secs(31 * 24 * 3600);

pub(super) fn policy(node: Node, own: &Namespace, reader: &mut Reader<'_>) -> Option<RateLimitPolicy> {
    let mut object = reader.object(node, "a RateLimitPolicy's `spec`")?;
    let (targets, limits, service) = (object.take("targetRefs"), object.need("limits", reader), object.take("service"));
    let mode = object.take("mode");
    reader.end(object);
    let targets = targets.map(|node| reader.list(node, "`targetRefs`")).unwrap_or_default();
    let targets = targets.into_iter().filter_map(|node| target(node, own, reader)).collect();
    let limits = limits?;
    let span = limits.span.clone();
    let nodes = reader.list(limits, "`limits`");
    reader.bound((1..=MOST_LIMITS).contains(&nodes.len()), &span, format!("a policy has 1 to {MOST_LIMITS} limits"));
    let service_span = service.as_ref().map(|node| node.span.clone());
    let service = service.and_then(|node| self::service(node, own, reader));
    let mut found: Vec<WrittenLimit> = Vec::new();
    for node in nodes {
        let Some(limit) = limit(node, reader) else { continue };
        if found.iter().any(|known| known.name == limit.name) {
            let message = format!("another limit of the policy is named `{}`", limit.name);
            reader.wrong_with(&limit.span, message, "requests are counted by a limit's name: give each its own");
            continue;
        }
        if limit.counted == WrittenCounted::Service && service_span.is_none() {
            let message = format!("the limit `{}` asks a service, and the policy names none", limit.name);
            reader.wrong_with(&limit.span, message, "add `service: {name: …, port: …, domain: …}` beside `limits`");
        }
        found.push(limit);
    }
    if let (Some(span), false) = (service_span, found.iter().any(|limit| limit.counted == WrittenCounted::Service)) {
        reader.wrong_with(
            &span,
            "no limit of the policy asks a service",
            "write `scope: Service` for those that do, or leave `service` out",
        );
    }
    Some(RateLimitPolicy { targets, limits: found, service, shadow: shadow(mode, reader) })
}

fn target(node: Node, own: &Namespace, reader: &mut Reader<'_>) -> Option<RateLimitTarget> {
    let mut object = reader.object(node, "a target")?;
    let kind = object.take("kind");
    let word = kind.map_or(Some(Kind::Service), |node| reader.word(&node, "kind of target", &TARGETS));
    let named = reference(&mut object, own, (if word == Some(Kind::Service) { "" } else { GATEWAY_GROUP }, word?.as_str()), reader);
    reader.end(object);
    let named = named?;
    let group = if word == Some(Kind::Service) { "" } else { GATEWAY_GROUP };
    if named.group != group {
        let hint = if group.is_empty() { "leave `group` out".to_owned() } else { format!("write `group: {group}`, or leave it out") };
        reader.wrong_with(&named.span, format!("no {} is of the group `{}`", named.kind, named.group), hint);
        return None;
    }
    if named.namespace != *own {
        let message = format!("a policy of `{own}` limits nothing of `{}`", named.namespace);
        reader.wrong_with(&named.span, message, format!("put the policy into the namespace `{}`", named.namespace));
        return None;
    }
    Some(RateLimitTarget { kind: word?, object: named })
}

fn limit(node: Node, reader: &mut Reader<'_>) -> Option<WrittenLimit> {
    let mut object = reader.object(node, "a limit")?;
    let name = object.need("name", reader);
    let scope = object.take("scope");
    let parts = object.take("key");
    let (matches, mode) = (object.take("match"), object.take("mode"));
    let counted = counted(&mut object, scope, reader);
    reader.end(object);
    let shadow = shadow(mode, reader);
    let matches_span = matches.as_ref().map(|node| node.span.clone());
    let matches = matches.and_then(|node| route_match(node, reader));
    if let (Some(span), Some(matches)) = (matches_span, &matches)
        && !matches.query.is_empty()
    {
        reader.wrong_with(&span, "limits look at no query", "match the path, the method or headers");
    }
    let key = parts.map(|node| key(node, reader)).unwrap_or_default();
    let node = name?;
    let name: Label = reader.parsed(&node, "`name`")?;
    Some(WrittenLimit { name: name.as_str().to_owned(), span: node.span, counted: counted?, key, matches, shadow })
}

fn counted(object: &mut Object, scope: Option<Node>, reader: &mut Reader<'_>) -> Option<WrittenCounted> {
    #[derive(Clone, Copy, PartialEq)]
    enum Scope {
        Local,
        Global,
        Service,
    }
    let span = object.span.clone();
    let (requests, per, burst) = (object.take("requests"), object.take("per"), object.take("burst"));
    let (concurrent, unavailable) = (object.take("concurrent"), object.take("whenUnavailable"));
    let scope_span = scope.as_ref().map(|node| node.span.clone());
    let words = [("Local", Scope::Local), ("Global", Scope::Global), ("Service", Scope::Service)];
    let scope = scope.map_or(Some(Scope::Local), |node| reader.word(&node, "scope", &words))?;
    if let Some(node) = unavailable.as_ref().filter(|_| scope != Scope::Global) {
        let hint = if scope == Scope::Local { "it would have no effect; leave it out" } else { "say `failOpen` in the policy's `service`" };
        reader.wrong_with(&node.span, "`whenUnavailable` is about limits of the scope Global", hint);
        return None;
    }
    let words = [("LocalShare", Unavailable::LocalShare), ("Allow", Unavailable::Allow), ("Deny", Unavailable::Deny)];
    let unavailable = unavailable.and_then(|node| reader.word(&node, "whenUnavailable", &words)).unwrap_or_default();
    if scope == Scope::Service {
        if let Some(node) = [&requests, &per, &burst, &concurrent].into_iter().flatten().next() {
            reader.wrong_with(&node.span, "how much passes is what the service itself is told", "leave it out, or choose another `scope`");
            return None;
        }
        return Some(WrittenCounted::Service);
    }
    let Some(requests) = requests else {
        if let Some(node) = per.as_ref().or(burst.as_ref()) {
            reader.wrong_with(&node.span, "the limit says in what time, not how many", "add `requests`");
            return None;
        }
        let Some(node) = concurrent else {
            reader.wrong_with(
                &span,
                "the limit says neither `requests` nor `concurrent`",
                "write `requests: 100, per: 1s`, or `concurrent: 50`",
            );
            return None;
        };
        if let (Scope::Global, Some(span)) = (scope, scope_span) {
            let message = "requests under way are counted by each proxy alone";
            reader.wrong_with(&span, message, "leave `scope` out, or limit `requests`");
            return None;
        }
        let most = reader.number(&node, "`concurrent`", 1..=1_000_000)?;
        return u32::try_from(most).ok().map(WrittenCounted::Concurrent);
    };
    if let Some(node) = concurrent {
        reader.wrong_with(&node.span, "a limit counts `requests` or what is `concurrent`, not both", "make two limits of it");
        return None;
    }
    let requests_span = requests.span.clone();
    let requests = reader.number(&requests, "`requests`", 1..=1_000_000_000).and_then(|number| u32::try_from(number).ok());
    let per = per.map_or(Some(Duration::from_secs(1)), |node| self::per(&node, reader));
    let most = i64::from(u32::MAX);
    let burst = burst.map(|node| reader.number(&node, "`burst`", 1..=most).and_then(|number| u32::try_from(number).ok()));
    let (requests, per) = (requests?, per?);
    let burst = burst.unwrap_or(Some(requests))?;
    if u128::from(requests) * 1000 > u128::from(MOST_A_SECOND) * per.as_millis() {
        let message = format!("more than {MOST_A_SECOND} requests a second cannot be told apart");
        reader.wrong_with(&requests_span, message, "a limit so high limits nothing; leave it out");
        return None;
    }
    let quota = Quota { requests, per, burst };
    Some(if scope == Scope::Global { WrittenCounted::Global(quota, unavailable) } else { WrittenCounted::Local(quota) })
}

/// The Gateway API's duration, or `1d`.
fn per(node: &Node, reader: &mut Reader<'_>) -> Option<Duration> {
    let days = if let Value::Text(text) = &node.value { text.strip_suffix('d').and_then(|days| days.parse::<u32>().ok()) } else { None };
    let per = match days {
        Some(days) => Duration::from_secs(24 * 3600).saturating_mul(days),
        None => duration(node, reader)?,
    };
    if per.is_zero() {
        reader.wrong_with(&node.span, "in no time there are no requests", "write `1s`, `1m`, `1h` or `1d`");
        return None;
    }
    if per > LONGEST {
        reader.wrong_with(&node.span, "requests are counted in at most 31 days", "write `31d` or less");
        return None;
    }
    Some(per)
}

fn key(node: Node, reader: &mut Reader<'_>) -> Vec<KeyPart> {
    let span = node.span.clone();
    let nodes = reader.list(node, "`key`");
    reader.bound(nodes.len() <= MOST_PARTS, &span, format!("a key has at most {MOST_PARTS} parts"));
    let mut parts: Vec<KeyPart> = Vec::new();
    for node in nodes {
        let span = node.span.clone();
        let Some(part) = part(node, reader) else { continue };
        if parts.contains(&part) {
            reader.wrong(&span, "this part is in the key already");
        } else {
            parts.push(part);
        }
    }
    parts
}

fn part(node: Node, reader: &mut Reader<'_>) -> Option<KeyPart> {
    let span = node.span.clone();
    let mut object = reader.object(node, "a part of a key")?;
    let (caller, header, path) = (object.take("caller"), object.take("header"), object.take("path"));
    let (source, claim) = (object.take("source"), object.take("claim"));
    let left = object.names().next().is_some();
    reader.end(object);
    let mut yes = |node: &Node, what: &str| match reader.boolean(node, what) {
        Some(false) => {
            reader.wrong_with(&node.span, format!("{what} is true, or left out"), "leave it out");
            false
        }
        yes => yes.is_some(),
    };
    let caller = caller.map(|node| yes(&node, "`caller`").then_some(KeyPart::Caller));
    let path = path.map(|node| yes(&node, "`path`").then_some(KeyPart::Path));
    let source = source.map(|node| reader.word(&node, "source", &[("Address", ())]).map(|()| KeyPart::Source));
    let header = header.map(|node| field_name(&node, reader).map(KeyPart::Header));
    let claim = claim.map(|node| {
        let path = reader.text(&node, "`claim`")?;
        let fits = |c: char| c.is_ascii_graphic() && !matches!(c, '\'' | '"' | '\\');
        reader.bound(
            (1..=256).contains(&path.len()) && path.chars().all(fits),
            &node.span,
            "`claim` is the path of a claim, as `sub` or `realm_access.roles`",
        );
        Some(KeyPart::Claim(path))
    });
    let mut written = [caller, header, path, source, claim].into_iter().flatten();
    match (written.next(), written.next()) {
        (Some(part), None) => part,
        (None, _) => {
            if !left {
                let hint = "write `{caller: true}`, `{claim: sub}`, `{header: x-user}`, `{path: true}` or `{source: Address}`";
                reader.wrong_with(&span, "the part names nothing", hint);
            }
            None
        }
        (Some(_), Some(_)) => {
            reader.wrong_with(&span, "a part of a key is one thing", "make two parts of it: requests count apart by all of them");
            None
        }
    }
}

fn service(node: Node, own: &Namespace, reader: &mut Reader<'_>) -> Option<WrittenService> {
    let mut object = reader.object(node, "`service`")?;
    let (name, namespace, number) = (object.need("name", reader), object.take("namespace"), object.need("port", reader));
    let (domain, timeout, fail_open) = (object.need("domain", reader), object.take("timeout"), object.take("failOpen"));
    reader.end(object);
    let namespace = namespace.map_or_else(|| Some(own.clone()), |node| reader.parsed(&node, "`namespace`"));
    let domain_span = domain.as_ref().map(|node| node.span.clone()).unwrap_or_default();
    let domain = domain.and_then(|node| reader.text(&node, "`domain`"));
    reader.bound(domain.as_ref().is_none_or(|domain| !domain.is_empty()), &domain_span, "`domain` is what the service calls these limits");
    let timeout_span = timeout.as_ref().map(|node| node.span.clone()).unwrap_or_default();
    let timeout = timeout.map_or(Some(LimitService::TIMEOUT), |node| duration(&node, reader));
    reader.bound(timeout.is_none_or(|timeout| !timeout.is_zero()), &timeout_span, "in no time nobody answers");
    let fail_open = fail_open.map_or(Some(true), |node| reader.boolean(&node, "`failOpen`"));
    let (name_node, number_node) = (name?, number?);
    let label: Option<Label> = reader.parsed(&name_node, "`name`");
    let number = port(&number_node, reader);
    Some(WrittenService {
        port: ServicePort { service: ServiceName::new(namespace?, label?), port: number? },
        span: name_node.span,
        port_span: number_node.span,
        domain: domain?,
        timeout: timeout?,
        fail_open: fail_open?,
    })
}
