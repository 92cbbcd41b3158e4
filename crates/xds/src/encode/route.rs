//! The rules of a service port: one virtual host for all names, one route a rule, in order.
//!
//! A share that leads to what does not exist is answered with 500, as the Gateway API has it. Envoy has no direct response
//! for a share, so the share names a cluster that is never sent (`missing/NAME`) and `cluster_not_found_response_code` says
//! 500; a cluster without endpoints would give 503. A rule of no weight names such a cluster, too, as Envoy refuses a
//! weighted cluster of no weight; for the others it is a direct response with the rule's own words beside it.

use envoy_types::pb::envoy::config::route::v3::{
    DirectResponseAction, HeaderMatcher, QueryParameterMatcher, Route, RouteAction, RouteConfiguration, RouteMatch as EnvoyMatch,
    VirtualHost, WeightedCluster,
    header_matcher::HeaderMatchSpecifier,
    query_parameter_matcher::QueryParameterMatchSpecifier,
    route::Action,
    route_action::{ClusterNotFoundResponseCode, ClusterSpecifier, HostRewriteSpecifier},
    route_match::PathSpecifier,
    weighted_cluster::{ClusterWeight, cluster_weight},
};
use envoy_types::pb::envoy::r#type::matcher::v3::{RegexMatcher, StringMatcher, string_matcher::MatchPattern};
use lorica_model::snapshot::{
    Action as RuleAction, Backend, Fault, FieldMatch, Forward, HttpRule, OutboundUnit, PathMatch, RouteMatch, RuleTable, ValueMatch,
    WeightedBackend,
};

use super::attempt::{self, AttemptFields};
use super::{authentication, authorization, duration, envoy, fault, filter, number, rate_limit};
use crate::facts::{AttemptFacts, RouteFacts, metadata};
use crate::node::Dialect;

/// What the names of clusters begin with that stand for backends which do not exist.
pub(crate) const MISSING_PREFIX: &str = "missing/";

pub(super) fn configuration(unit: &OutboundUnit, dialect: Dialect) -> RouteConfiguration {
    let name = unit.port.to_string();
    RouteConfiguration { virtual_hosts: vec![host(&name, "*", &unit.rules, dialect)], name, ..RouteConfiguration::default() }
}

/// The rules of a host.
pub(super) fn host(name: &str, domain: &str, rules: &RuleTable, dialect: Dialect) -> VirtualHost {
    VirtualHost {
        name: name.to_owned(),
        domains: domains(domain, dialect),
        routes: rules
            .iter()
            .flat_map(|rule| match dialect {
                Dialect::Envoy => attempt::safe(&envoy::rule(rule)).iter().map(|rule| route(rule, dialect)).collect(),
                Dialect::Lorica | Dialect::Grpc => vec![route(rule, dialect)],
            })
            .collect(),
        // An Envoy behind it, and an app, see which attempt it is.
        include_request_attempt_count: dialect == Dialect::Envoy,
        ..VirtualHost::default()
    }
}

/// A host may end with the dot of the root, which Envoy takes for another.
fn domains(domain: &str, dialect: Dialect) -> Vec<String> {
    let rooted = (dialect == Dialect::Envoy && domain != "*").then(|| format!("{domain}."));
    std::iter::once(domain.to_owned()).chain(rooted).collect()
}

fn route(rule: &HttpRule, dialect: Dialect) -> Route {
    let (specifier, prefix) = path_specifier(&rule.matches.path);
    let specifier = if dialect == Dialect::Grpc { without_separated_prefix(specifier) } else { specifier };
    let (mut action, unanswered) = action(rule);
    let limits = if dialect == Dialect::Envoy { rule.filters.limits.as_slice() } else { &[] };
    let asked = rule.forward().into_iter().flat_map(|_| rate_limit::per_route(limits));
    let judged = rule.filters.authorization.iter().filter(|_| dialect == Dialect::Envoy);
    let judged = judged.flat_map(|authorization| authorization::per_route(authorization, None, None));
    if let Action::Route(action) = &mut action {
        action.rate_limits = rate_limit::actions(limits);
    }
    let path = match &rule.action {
        RuleAction::Forward(forward) => forward.path.clone(),
        RuleAction::Redirect(redirect) => redirect.path.clone(),
        RuleAction::Respond(_) => None,
    };
    let cors = rule.filters.cors.clone();
    let attempt = rule.forward().filter(|_| unanswered.is_none()).map(AttemptFacts::of).unwrap_or_default();
    let faults = rule.forward().filter(|_| unanswered.is_none()).map(|forward| forward.faults.clone()).unwrap_or_default();
    let affinity = rule.forward().filter(|_| dialect == Dialect::Envoy).and_then(attempt::affinity);
    let tokens = Some(rule).filter(|_| dialect == Dialect::Envoy).and_then(authentication::per_route);
    let typed_per_filter_config =
        filter::per_filter(&rule.filters, &faults).into_iter().chain(asked).chain(judged).chain(affinity).chain(tokens).collect();
    let limits = rule.filters.limits.clone();
    let authentication = rule.filters.authentication.clone();
    let authorization = rule.filters.authorization.clone();
    let facts = RouteFacts {
        origin: (*rule.origin).clone(),
        prefix,
        path,
        cors,
        unanswered,
        limits,
        attempt,
        faults,
        authentication,
        authorization,
    };
    let (request_headers_to_add, request_headers_to_remove) = filter::header_edits(&rule.filters.request);
    let (response_headers_to_add, response_headers_to_remove) = filter::header_edits(&rule.filters.response);
    Route {
        // What its access log calls it.
        name: if dialect == Dialect::Envoy { rule.origin.to_string() } else { String::new() },
        r#match: Some(matches(&rule.matches, specifier)),
        metadata: Some(metadata(&facts)),
        action: Some(action),
        request_headers_to_add,
        request_headers_to_remove,
        response_headers_to_add,
        response_headers_to_remove,
        typed_per_filter_config,
        ..Route::default()
    }
}

fn action(rule: &HttpRule) -> (Action, Option<Forward>) {
    let forward = match &rule.action {
        RuleAction::Forward(forward) => forward,
        RuleAction::Redirect(redirect) => return (Action::Redirect(filter::redirect(redirect)), None),
        RuleAction::Respond(status) => {
            let action = DirectResponseAction { status: (*status).into(), ..DirectResponseAction::default() };
            return (Action::DirectResponse(action), None);
        }
    };
    let total: u64 = forward.backends.iter().map(|backend| u64::from(backend.weight)).sum();
    if total == 0 {
        let action = DirectResponseAction { status: 500, ..DirectResponseAction::default() };
        return (Action::DirectResponse(action), Some(forward.clone()));
    }
    let missing = forward.backends.iter().any(|backend| matches!(backend.backend, Backend::Missing { .. }));
    let specifier = match forward.backends.as_slice() {
        [only] if only.weight == 1 && *only == WeightedBackend::plain(1, only.backend.clone()) => {
            ClusterSpecifier::Cluster(cluster_name(&only.backend))
        }
        backends => ClusterSpecifier::WeightedClusters(WeightedCluster {
            clusters: backends.iter().map(|backend| weighted(backend, &forward.faults)).collect(),
            ..WeightedCluster::default()
        }),
    };
    let (prefix_rewrite, regex_rewrite) = forward.path.as_ref().map(filter::path_rewrite).unwrap_or_default();
    let mut action = RouteAction {
        cluster_specifier: Some(specifier),
        cluster_not_found_response_code: if missing { ClusterNotFoundResponseCode::InternalServerError.into() } else { 0 },
        // Unset would mean 15 s and 5 min; 0 means no limit.
        timeout: Some(duration(forward.timeouts.request.unwrap_or_default())),
        idle_timeout: Some(duration(forward.timeouts.idle.unwrap_or_default())),
        prefix_rewrite,
        regex_rewrite,
        host_rewrite_specifier: forward.host.clone().map(HostRewriteSpecifier::HostRewriteLiteral),
        request_mirror_policies: filter::mirrors(&forward.mirrors),
        ..RouteAction::default()
    };
    AttemptFields::of(forward).write(&mut action);
    (Action::Route(action), None)
}

fn weighted(backend: &WeightedBackend, faults: &[Fault]) -> ClusterWeight {
    let (request_headers_to_add, request_headers_to_remove) = filter::header_edits(&backend.request);
    let (response_headers_to_add, response_headers_to_remove) = filter::header_edits(&backend.response);
    ClusterWeight {
        name: cluster_name(&backend.backend),
        weight: number(backend.weight),
        request_headers_to_add,
        request_headers_to_remove,
        response_headers_to_add,
        response_headers_to_remove,
        host_rewrite_specifier: backend.host.clone().map(cluster_weight::HostRewriteSpecifier::HostRewriteLiteral),
        typed_per_filter_config: fault::per_backend(faults, &backend.backend),
        ..ClusterWeight::default()
    }
}

pub(super) fn cluster_name(backend: &Backend) -> String {
    match backend {
        Backend::Port(port) => port.to_string(),
        Backend::Missing { name } => format!("{MISSING_PREFIX}{name}"),
    }
}

/// Envoy's matcher of a path, and the prefix as written where the matcher does not tell it.
pub(crate) fn path_specifier(path: &PathMatch) -> (PathSpecifier, Option<String>) {
    match path {
        PathMatch::Exact(path) => (PathSpecifier::Path(path.clone()), None),
        PathMatch::Regex(pattern) => (PathSpecifier::SafeRegex(regex(pattern.as_str())), None),
        PathMatch::Prefix(written) if written == "/" => (PathSpecifier::Prefix("/".to_owned()), None),
        PathMatch::Prefix(written) => {
            let prefix = written.strip_suffix('/').unwrap_or(written);
            let other = (prefix != written).then(|| written.clone());
            // Envoy takes no prefix that is empty, ends with a slash, or could not be part of a path.
            if prefix.is_empty() {
                (PathSpecifier::Prefix("/".to_owned()), Some(written.clone()))
            } else if prefix.starts_with('/') && !prefix.ends_with('/') && !prefix.contains(['?', '#']) {
                (PathSpecifier::PathSeparatedPrefix(prefix.to_owned()), other)
            } else {
                (PathSpecifier::SafeRegex(regex(&prefix_regex(prefix))), Some(written.clone()))
            }
        }
    }
}

/// gRPC knows no `path_separated_prefix` and would pass the route by.
fn without_separated_prefix(specifier: PathSpecifier) -> PathSpecifier {
    match specifier {
        PathSpecifier::PathSeparatedPrefix(prefix) => PathSpecifier::SafeRegex(regex(&prefix_regex(&prefix))),
        other => other,
    }
}

fn prefix_regex(prefix: &str) -> String {
    escaped(prefix) + "(/.*)?"
}

/// A text as an expression that takes nothing else.
pub(super) fn escaped(plain: &str) -> String {
    let mut text = String::with_capacity(plain.len() + 8);
    for c in plain.chars() {
        if c.is_ascii_punctuation() && c != '/' && c != '_' {
            text.push('\\');
        }
        text.push(c);
    }
    text
}

fn matches(matches: &RouteMatch, specifier: PathSpecifier) -> EnvoyMatch {
    let method = matches.method.iter().map(|method| header(":method", exact(method)));
    EnvoyMatch {
        path_specifier: Some(specifier),
        headers: method.chain(matches.headers.iter().map(field)).collect(),
        query_parameters: matches.query.iter().map(query).collect(),
        runtime_fraction: matches.share.map(filter::fraction),
        ..EnvoyMatch::default()
    }
}

/// A header field that must be there.
pub(super) fn field(field: &FieldMatch) -> HeaderMatcher {
    header(&field.name, string_matcher(&field.value))
}

pub(super) fn header(name: &str, matcher: StringMatcher) -> HeaderMatcher {
    HeaderMatcher {
        name: name.to_owned(),
        header_match_specifier: Some(HeaderMatchSpecifier::StringMatch(matcher)),
        ..HeaderMatcher::default()
    }
}

fn query(field: &FieldMatch) -> QueryParameterMatcher {
    let specifier = QueryParameterMatchSpecifier::StringMatch(string_matcher(&field.value));
    QueryParameterMatcher { name: field.name.clone(), query_parameter_match_specifier: Some(specifier) }
}

pub(super) fn string_matcher(value: &ValueMatch) -> StringMatcher {
    match value {
        ValueMatch::Exact(text) => exact(text),
        ValueMatch::Regex(pattern) => {
            StringMatcher { match_pattern: Some(MatchPattern::SafeRegex(regex(pattern.as_str()))), ..StringMatcher::default() }
        }
    }
}

pub(super) fn exact(text: &str) -> StringMatcher {
    StringMatcher { match_pattern: Some(MatchPattern::Exact(text.to_owned())), ..StringMatcher::default() }
}

/// A header that an expression describes as a whole.
pub(super) fn safe_regex(name: &str, text: &str) -> HeaderMatcher {
    header(name, StringMatcher { match_pattern: Some(MatchPattern::SafeRegex(regex(text))), ..StringMatcher::default() })
}

pub(super) fn regex(text: &str) -> RegexMatcher {
    RegexMatcher { regex: text.to_owned(), ..RegexMatcher::default() }
}
