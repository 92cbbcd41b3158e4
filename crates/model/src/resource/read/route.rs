//! Routes: parents, hosts, rules and where they lead.

use std::time::Duration;

use super::filter::filters;
use super::matches::{route_match, route_match_of_grpc};
use super::{hostname, port, reference};
use crate::name::{Label, Namespace};
use crate::resource::kinds::{
    BackendRef, HttpFilter, HttpRoute, ParentRef, PathModifier, RouteRetry, RouteRule, TransportRoute, TransportRouteRule,
};
use crate::resource::reader::{Object, Reader};
use crate::resource::tree::Node;
use crate::resource::{GATEWAY_GROUP, Kind};
use crate::snapshot::{HostPattern, PathMatch, RouteMatch};

pub(super) fn route(node: Node, of: Kind, own: &Namespace, reader: &mut Reader<'_>) -> Option<HttpRoute> {
    let what = if of == Kind::GrpcRoute { "a GRPCRoute's `spec`" } else { "an HTTPRoute's `spec`" };
    let mut object = reader.object(node, what)?;
    let (parents, hostnames, rules) = (object.need("parentRefs", reader), object.take("hostnames"), object.take("rules"));
    object.unsupported(&["useDefaultGateways"]);
    let object_span = object.span.clone();
    reader.end(object);
    let parents = self::parents(parents, own, reader);
    let hostnames = self::hostnames(hostnames, 16, reader);
    let Some(rules) = rules else {
        return Some(HttpRoute { parents, hostnames, rules: vec![RouteRule::of_default(object_span)] });
    };
    let rules_span = rules.span.clone();
    let mut names = Vec::new();
    let rules: Vec<_> = reader.list(rules, "`rules`").into_iter().filter_map(|node| rule(node, of, own, &mut names, reader)).collect();
    reader.bound(!rules.is_empty(), &rules_span, "a route has at least one rule");
    reader.bound(rules.len() <= 16, &rules_span, "a route has at most 16 rules");
    let matches: usize = rules.iter().map(|rule| rule.matches.len()).sum();
    reader.bound(matches <= 128, &rules_span, "a route has at most 128 matches, all rules together");
    Some(HttpRoute { parents, hostnames, rules })
}

pub(super) fn hostnames(node: Option<Node>, most: usize, reader: &mut Reader<'_>) -> Vec<HostPattern> {
    let span = node.as_ref().map(|node| node.span.clone()).unwrap_or_default();
    let nodes = node.map(|node| reader.list(node, "`hostnames`")).unwrap_or_default();
    reader.bound(nodes.len() <= most, &span, format!("a route has at most {most} host names"));
    nodes.iter().filter_map(|node| hostname(node, true, reader)).map(|text| HostPattern::of(&text)).collect()
}

pub(super) fn parents(node: Option<Node>, own: &Namespace, reader: &mut Reader<'_>) -> Vec<ParentRef> {
    let span = node.as_ref().map(|node| node.span.clone());
    let nodes = node.map(|node| reader.list(node, "`parentRefs`")).unwrap_or_default();
    if let Some(span) = &span {
        reader.bound(!nodes.is_empty(), span, "a route without a parent routes nothing");
        reader.bound(nodes.len() <= 32, span, "a route has at most 32 parents");
    }
    let mut parents: Vec<ParentRef> = Vec::new();
    for node in nodes {
        let span = node.span.clone();
        let Some(found) = parent(node, own, reader) else { continue };
        let same = |known: &&ParentRef| {
            let (one, other) = (&known.object, &found.object);
            (&one.group, &one.kind, &one.namespace, &one.name) == (&other.group, &other.kind, &other.namespace, &other.name)
        };
        let whole = |parent: &ParentRef| parent.port.is_none() && parent.section.is_none();
        let name = format!("`{}.{}`", found.object.name, found.object.namespace);
        if let Some(known) = parents.iter().find(same) {
            let part = !whole(known) && !whole(&found);
            let equal = parents.iter().filter(same).any(|known| (known.port, &known.section) == (found.port, &found.section));
            reader.bound(!equal, &span, format!("{name} is a parent already"));
            reader.bound(equal || part, &span, format!("{name} is a parent as a whole already: name its `sectionName` or `port` in each"));
        }
        parents.push(found);
    }
    parents
}

pub(super) fn parent(node: Node, own: &Namespace, reader: &mut Reader<'_>) -> Option<ParentRef> {
    let mut written = node.to_json();
    if let Some(fields) = written.as_object_mut() {
        // The API's defaults: a status names its parents in full.
        fields.entry("group").or_insert_with(|| GATEWAY_GROUP.into());
        fields.entry("kind").or_insert_with(|| "Gateway".into());
    }
    let mut object = reader.object(node, "a parent")?;
    let (number, section) = (object.take("port"), object.take("sectionName"));
    let named = reference(&mut object, own, (GATEWAY_GROUP, "Gateway"), reader);
    reader.end(object);
    let named = named?;
    let port_span = number.as_ref().map_or_else(|| named.span.clone(), |node| node.span.clone());
    let port = number.and_then(|node| port(&node, reader));
    let section = section.and_then(|node| reader.text(&node, "`sectionName`"));
    Some(ParentRef { object: named, port, section, port_span, written })
}

pub(super) fn rule(node: Node, of: Kind, own: &Namespace, names: &mut Vec<String>, reader: &mut Reader<'_>) -> Option<RouteRule> {
    let span = node.span.clone();
    let mut object = reader.object(node, "a rule")?;
    let (name, matches, backends, filters) =
        (object.take("name"), object.take("matches"), object.take("backendRefs"), object.take("filters"));
    let (timeouts, retry) = match of {
        Kind::GrpcRoute => (None, None),
        _ => (object.take("timeouts"), object.take("retry")),
    };
    object.unsupported(&["sessionPersistence"]);
    reader.end(object);
    let name = name.and_then(|node| self::name(&node, names, reader));
    names.extend(name.clone());
    let mut rule = RouteRule { matches: Vec::new(), name, ..RouteRule::of_default(span.clone()) };
    rule.matches.clear();
    let matches = matches.map(|node| reader.list(node, "`matches`")).unwrap_or_default();
    reader.bound(matches.len() <= 64, &span, "a rule has at most 64 matches");
    for node in matches {
        let span = node.span.clone();
        let found = if of == Kind::GrpcRoute { route_match_of_grpc(node, reader) } else { route_match(node, reader) };
        rule.matches.extend(found.map(|found| (found, span)));
    }
    if rule.matches.is_empty() {
        rule.matches.push((RouteMatch::any(), span.clone()));
    }
    let backends = backends.map(|node| reader.list(node, "`backendRefs`")).unwrap_or_default();
    reader.bound(backends.len() <= 16, &span, "a rule has at most 16 backends");
    for node in backends {
        rule.backends.extend(backend(node, of, own, reader));
    }
    rule.filters = self::filters(filters, of, own, reader);
    if let Some(mut object) = timeouts.and_then(|node| reader.object(node, "`timeouts`")) {
        let (request, attempt) = (object.take("request"), object.take("backendRequest"));
        reader.end(object);
        rule.request_timeout = request.as_ref().and_then(|node| duration(node, reader));
        rule.backend_request_timeout = attempt.as_ref().and_then(|node| duration(node, reader));
        if let (Some(request), Some(limit), Some(node)) = (rule.request_timeout, rule.backend_request_timeout, attempt)
            && !request.is_zero()
            && limit > request
        {
            reader.wrong(&node.span, "`backendRequest` is longer than `request`, of which it is a part");
        }
    }
    if let Some(mut object) = retry.and_then(|node| reader.object(node, "`retry`")) {
        let (codes, attempts, backoff) = (object.take("codes"), object.take("attempts"), object.take("backoff"));
        reader.end(object);
        let codes = codes.map(|node| reader.list(node, "`codes`")).unwrap_or_default();
        let codes = codes.iter().filter_map(|node| reader.number(node, "a status", 400..=599)).filter_map(|code| u16::try_from(code).ok());
        let codes = codes.collect();
        let attempts = attempts.and_then(|node| reader.number(&node, "`attempts`", 0..=100)).and_then(|count| u32::try_from(count).ok());
        let backoff = backoff.and_then(|node| duration(&node, reader));
        rule.retry = Some(RouteRetry { attempts: attempts.unwrap_or(1), codes, backoff });
    }
    together(&rule, reader);
    Some(rule)
}

/// What of a rule cannot stand together.
fn together(rule: &RouteRule, reader: &mut Reader<'_>) {
    let all = || rule.filters.iter().chain(rule.backends.iter().flat_map(|backend| &backend.filters));
    if let Some((_, at)) = rule.filters.iter().find(|(filter, _)| matches!(filter, HttpFilter::Redirect { .. })) {
        reader.bound(rule.backends.is_empty(), at, "a rule that redirects every request has no backends");
    }
    for (filter, at) in all() {
        let (HttpFilter::Redirect { path, .. } | HttpFilter::Rewrite { path, .. }) = filter else { continue };
        let by_prefix = matches!(path, Some(PathModifier::Prefix(_)));
        let prefix = matches!(rule.matches.as_slice(), [(only, _)] if matches!(only.path, PathMatch::Prefix(_)));
        reader.bound(!by_prefix || prefix, at, "a prefix is replaced where the rule has one match, and that by `PathPrefix`");
    }
}

/// Where copies go: an object and its port.
pub(super) fn mirrored(node: Node, own: &Namespace, reader: &mut Reader<'_>) -> Option<BackendRef> {
    let mut object = reader.object(node, "a backend")?;
    let number = object.take("port");
    target(object, number, own, reader)
}

pub(super) fn backend(node: Node, of: Kind, own: &Namespace, reader: &mut Reader<'_>) -> Option<BackendRef> {
    let mut object = reader.object(node, "a backend")?;
    let (number, weight) = (object.take("port"), object.take("weight"));
    let filters = if matches!(of, Kind::HttpRoute | Kind::GrpcRoute) { object.take("filters") } else { None };
    let weight = weight.map_or(Some(1), |node| reader.number(&node, "a weight", 0..=1_000_000));
    let filters = self::filters(filters, of, own, reader);
    let found = target(object, number, own, reader)?;
    Some(BackendRef { weight: u32::try_from(weight?).unwrap_or(1), filters, ..found })
}

/// The object of a backend and its port, from what is left of it.
fn target(mut object: Object, number: Option<Node>, own: &Namespace, reader: &mut Reader<'_>) -> Option<BackendRef> {
    let named = reference(&mut object, own, ("", "Service"), reader);
    reader.end(object);
    let object = named?;
    let port_span = number.as_ref().map_or_else(|| object.span.clone(), |node| node.span.clone());
    let port = number.and_then(|node| port(&node, reader));
    if port.is_none() && object.is_service() {
        reader.bound(false, &object.span, format!("a backend needs the `port` of `{}`", object.name));
    }
    Some(BackendRef { object, port, weight: 1, filters: Vec::new(), port_span })
}

pub(super) fn transport_route(node: Node, of: Kind, own: &Namespace, reader: &mut Reader<'_>) -> Option<TransportRoute> {
    let mut object = reader.object(node, "a route's `spec`")?;
    let (parents, rules) = (object.need("parentRefs", reader), object.need("rules", reader));
    let hostnames = if of == Kind::TlsRoute { object.take("hostnames") } else { None };
    object.unsupported(&["useDefaultGateways"]);
    let span = object.span.clone();
    reader.end(object);
    let parents = self::parents(parents, own, reader);
    // Before it was of version v1, a TLSRoute could do without.
    reader.bound(of != Kind::TlsRoute || hostnames.is_some(), &span, "a TLSRoute needs `hostnames`: the server names that it is for");
    let hostnames = self::hostnames(hostnames, 1024, reader);
    let span = rules.as_ref().map(|node| node.span.clone()).unwrap_or_default();
    let nodes = rules.map(|node| reader.list(node, "`rules`")).unwrap_or_default();
    reader.bound(nodes.len() == 1, &span, format!("a {of} has one rule: nothing would tell several apart"));
    let one = |node: Node| {
        let span = node.span.clone();
        let mut object = reader.object(node, "a rule")?;
        let (name, backends) = (object.take("name"), object.need("backendRefs", reader));
        reader.end(object);
        if let Some(node) = name {
            self::name(&node, &[], reader);
        }
        let nodes = backends.map(|node| reader.list(node, "`backendRefs`")).unwrap_or_default();
        reader.bound((1..=16).contains(&nodes.len()), &span, "a rule has 1 to 16 backends");
        Some(TransportRouteRule { backends: nodes.into_iter().filter_map(|node| backend(node, of, own, reader)).collect(), span })
    };
    let rules = nodes.into_iter().filter_map(one).collect();
    Some(TransportRoute { parents, hostnames, rules })
}

/// The name of a rule, which no other has.
fn name(node: &Node, others: &[String], reader: &mut Reader<'_>) -> Option<String> {
    let name = reader.text(node, "`name`")?;
    let fits = name.len() <= 253 && name.split('.').all(|part| Label::new(part).is_ok());
    reader.bound(fits, &node.span, format!("`{name}` is no name: it has only lower case letters, digits, hyphens and dots"));
    reader.bound(!others.contains(&name), &node.span, format!("another rule is named `{name}`"));
    Some(name)
}

/// A duration as the Gateway API writes it (GEP-2257): `1h30m`, `10s`, `500ms`.
pub(super) fn duration(node: &Node, reader: &mut Reader<'_>) -> Option<Duration> {
    let text = reader.text(node, "a duration")?;
    let parsed = parse_duration(&text);
    if parsed.is_none() {
        reader.wrong_with(&node.span, format!("`{text}` is no duration"), "write `500ms`, `10s`, `1m30s` or `2h`");
    }
    parsed
}

pub(super) fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total = Duration::ZERO;
    let mut parts = 0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).filter(|count| (1..=5).contains(count))?;
        let number: u64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let (unit, length) = match rest {
            _ if rest.starts_with("ms") => (Duration::from_millis(1), 2),
            _ if rest.starts_with('h') => (Duration::from_secs(3600), 1),
            _ if rest.starts_with('m') => (Duration::from_secs(60), 1),
            _ if rest.starts_with('s') => (Duration::from_secs(1), 1),
            _ => return None,
        };
        rest = &rest[length..];
        total += unit * u32::try_from(number).ok()?;
        parts += 1;
    }
    (1..=4).contains(&parts).then_some(total)
}
