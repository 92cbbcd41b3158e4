//! The rules of a service port: one virtual host for all names, one route a rule, in order.
//!
//! A share that leads to what does not exist is answered with 500, as the Gateway API has it. Envoy has no direct response
//! for a share, so the share names a cluster that is never sent (`missing/NAME`) and `cluster_not_found_response_code` says
//! 500; a cluster without endpoints would give 503. A rule of no weight is a direct response, since Envoy refuses a
//! weighted cluster of no weight.

use envoy_types::pb::envoy::config::route::v3::{
    DirectResponseAction, HeaderMatcher, QueryParameterMatcher, RetryPolicy, Route, RouteAction, RouteConfiguration,
    RouteMatch as EnvoyMatch, VirtualHost, WeightedCluster,
    header_matcher::HeaderMatchSpecifier,
    query_parameter_matcher::QueryParameterMatchSpecifier,
    route::Action,
    route_action::{ClusterNotFoundResponseCode, ClusterSpecifier},
    route_match::PathSpecifier,
    weighted_cluster::ClusterWeight,
};
use envoy_types::pb::envoy::r#type::matcher::v3::{RegexMatcher, StringMatcher, string_matcher::MatchPattern};
use lorica_model::snapshot::{Backend, FieldMatch, HttpRule, OutboundUnit, PathMatch, RouteMatch, ValueMatch, WeightedBackend};

use super::{duration, number};
use crate::facts::{RouteFacts, Unanswered, metadata};
use crate::node::Dialect;

/// What the names of clusters begin with that stand for backends which do not exist.
pub(crate) const MISSING_PREFIX: &str = "missing/";

pub(super) fn configuration(unit: &OutboundUnit, dialect: Dialect) -> RouteConfiguration {
    let name = unit.port.to_string();
    RouteConfiguration {
        virtual_hosts: vec![VirtualHost {
            name: name.clone(),
            domains: vec!["*".to_owned()],
            routes: unit.rules.iter().map(|rule| route(rule, dialect)).collect(),
            ..VirtualHost::default()
        }],
        name,
        ..RouteConfiguration::default()
    }
}

fn route(rule: &HttpRule, dialect: Dialect) -> Route {
    let (specifier, prefix) = path_specifier(&rule.matches.path);
    let specifier = if dialect == Dialect::Grpc { without_separated_prefix(specifier) } else { specifier };
    let (action, unanswered) = action(rule);
    Route {
        r#match: Some(matches(&rule.matches, specifier)),
        metadata: Some(metadata(&RouteFacts { origin: (*rule.origin).clone(), prefix, unanswered })),
        action: Some(action),
        ..Route::default()
    }
}

fn action(rule: &HttpRule) -> (Action, Option<Unanswered>) {
    let total: u64 = rule.backends.iter().map(|backend| u64::from(backend.weight)).sum();
    if total == 0 {
        let action = DirectResponseAction { status: 500, ..DirectResponseAction::default() };
        return (Action::DirectResponse(action), Some(Unanswered { backends: rule.backends.clone(), timeouts: rule.timeouts }));
    }
    let missing = rule.backends.iter().any(|backend| matches!(backend.backend, Backend::Missing { .. }));
    let specifier = match rule.backends.as_slice() {
        [WeightedBackend { weight: 1, backend }] => ClusterSpecifier::Cluster(cluster_name(backend)),
        backends => ClusterSpecifier::WeightedClusters(WeightedCluster {
            clusters: backends
                .iter()
                .map(|backend| ClusterWeight {
                    name: cluster_name(&backend.backend),
                    weight: number(backend.weight),
                    ..ClusterWeight::default()
                })
                .collect(),
            ..WeightedCluster::default()
        }),
    };
    // Without a retry condition nothing is tried again; the policy is there for its time limit alone.
    let retry_policy =
        rule.timeouts.backend_request.map(|limit| RetryPolicy { per_try_timeout: Some(duration(limit)), ..RetryPolicy::default() });
    let action = RouteAction {
        cluster_specifier: Some(specifier),
        cluster_not_found_response_code: if missing { ClusterNotFoundResponseCode::InternalServerError.into() } else { 0 },
        // Unset would mean 15 s and 5 min; 0 means no limit.
        timeout: Some(duration(rule.timeouts.request.unwrap_or_default())),
        idle_timeout: Some(duration(rule.timeouts.idle.unwrap_or_default())),
        retry_policy,
        ..RouteAction::default()
    };
    (Action::Route(action), None)
}

fn cluster_name(backend: &Backend) -> String {
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
    let mut text = String::with_capacity(prefix.len() + 8);
    for c in prefix.chars() {
        if c.is_ascii_punctuation() && c != '/' && c != '_' {
            text.push('\\');
        }
        text.push(c);
    }
    text + "(/.*)?"
}

fn matches(matches: &RouteMatch, specifier: PathSpecifier) -> EnvoyMatch {
    let method = matches.method.iter().map(|method| header(":method", exact(method)));
    EnvoyMatch {
        path_specifier: Some(specifier),
        headers: method.chain(matches.headers.iter().map(|field| header(&field.name, string_matcher(&field.value)))).collect(),
        query_parameters: matches.query.iter().map(query).collect(),
        ..EnvoyMatch::default()
    }
}

fn header(name: &str, matcher: StringMatcher) -> HeaderMatcher {
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

fn string_matcher(value: &ValueMatch) -> StringMatcher {
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

fn regex(text: &str) -> RegexMatcher {
    RegexMatcher { regex: text.to_owned(), ..RegexMatcher::default() }
}
