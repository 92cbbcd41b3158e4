//! The rules of a service port.

use std::sync::Arc;

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
use envoy_types::pb::google::protobuf::Any;
use lorica_model::snapshot::{Backend, FieldMatch, HttpRule, PathMatch, Pattern, RouteMatch, Timeouts, ValueMatch, WeightedBackend};

use super::{At, Fault, Rejected, apart, duration, facts, limit, open, present, service_port};
use crate::Kind;
use crate::encode::{MISSING_PREFIX, path_specifier};
use crate::facts::{RouteFacts, Unanswered};

/// Reads the rules of a service port, in order.
///
/// # Errors
/// Names the first field that is not understood.
pub fn rules(name: &str, body: &Any) -> Result<Vec<HttpRule>, Rejected> {
    open(Kind::Route, name, body, |at, configuration| read(at, name, configuration))
}

fn read(at: &At<'_>, expected: &str, configuration: RouteConfiguration) -> Result<Vec<HttpRule>, Fault> {
    apart!(at, configuration => RouteConfiguration { name, virtual_hosts } unset {
        vhds, internal_only_headers, response_headers_to_add, response_headers_to_remove, request_headers_to_add, request_headers_to_remove,
        most_specific_header_mutations_wins, validate_clusters, max_direct_response_body_size_bytes, cluster_specifier_plugins,
        request_mirror_policies, ignore_port_in_host_matching, vhost_header, ignore_path_parameters_in_path_matching,
        typed_per_filter_config, metadata, route_specifiers,
    });
    at.equal("name", &name.as_str(), &expected)?;
    let mut hosts = virtual_hosts.into_iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else {
        return Err(at.field("virtual_hosts").fault("is not one virtual host".to_owned()));
    };
    let at = at.index("virtual_hosts", 0);
    apart!(at, host => VirtualHost { name: _name, domains, routes } unset {
        matcher, require_tls, virtual_clusters, rate_limits, request_headers_to_add, request_headers_to_remove, response_headers_to_add,
        response_headers_to_remove, cors, typed_per_filter_config, include_request_attempt_count, include_attempt_count_in_response,
        retry_policy, retry_policy_typed_config, hedge_policy, include_is_timeout_retry_header, per_request_buffer_limit_bytes,
        request_body_buffer_limit, request_mirror_policies, metadata, route_specifiers,
    });
    at.equal("domains", &domains, &vec!["*".to_owned()])?;
    routes.into_iter().enumerate().map(|(index, one)| route(&at.index("routes", index), one)).collect()
}

fn route(at: &At<'_>, route: Route) -> Result<HttpRule, Fault> {
    apart!(at, route => Route { name: _name, r#match: wanted, metadata, action } unset {
        decorator, typed_per_filter_config, request_headers_to_add, request_headers_to_remove, response_headers_to_add,
        response_headers_to_remove, tracing, per_request_buffer_limit_bytes, stat_prefix, request_body_buffer_limit, route_specifiers,
    });
    let RouteFacts { origin, prefix, unanswered } = facts(at, metadata)?;
    let matches = matches(&at.field("match"), wanted, prefix)?;
    let (backends, timeouts) = match (present(&at.field("action"), action)?, unanswered) {
        (Action::Route(action), None) => forward(&at.field("route"), action)?,
        (Action::DirectResponse(action), Some(Unanswered { backends, timeouts })) => {
            let at = at.field("direct_response");
            apart!(at, action => DirectResponseAction { status } unset { body, body_format });
            at.equal("status", &status, &500)?;
            if backends.iter().any(|backend| backend.weight != 0) {
                return Err(at.fault("stands for a rule that has a backend of some weight".to_owned()));
            }
            (backends, timeouts)
        }
        (
            Action::Route(_) | Action::DirectResponse(_) | Action::Redirect(_) | Action::FilterAction(_) | Action::NonForwardingAction(_),
            _,
        ) => return Err(at.field("action").fault("is not understood by this proxy".to_owned())),
    };
    Ok(HttpRule { origin: Arc::new(origin), matches, backends, timeouts })
}

fn matches(at: &At<'_>, wanted: Option<EnvoyMatch>, prefix: Option<String>) -> Result<RouteMatch, Fault> {
    apart!(at, present(at, wanted)? => EnvoyMatch { headers, query_parameters, path_specifier: specifier } unset {
        case_sensitive, runtime_fraction, cookies, grpc, tls_context, dynamic_metadata, filter_state,
    });
    let path = path(at, present(&at.field("path_specifier"), specifier)?, prefix)?;
    let mut method = None;
    let mut fields = Vec::new();
    for (index, matcher) in headers.into_iter().enumerate() {
        let at = at.index("headers", index);
        let field = header(&at, matcher)?;
        match (field.name.as_str(), field.value) {
            (":method", ValueMatch::Exact(text)) if method.is_none() => method = Some(text),
            (name, _) if name.starts_with(':') => return Err(at.field("name").fault(format!("`{name}` is not understood by this proxy"))),
            (_, value) => fields.push(FieldMatch { name: field.name, value }),
        }
    }
    let query = query_parameters.into_iter().enumerate().map(|(index, one)| parameter(&at.index("query_parameters", index), one));
    Ok(RouteMatch { path, method, headers: fields, query: query.collect::<Result<_, _>>()? })
}

fn path(at: &At<'_>, specifier: PathSpecifier, prefix: Option<String>) -> Result<PathMatch, Fault> {
    if let Some(written) = prefix {
        let path = PathMatch::Prefix(written);
        let same = path_specifier(&path).0 == specifier;
        return if same { Ok(path) } else { Err(at.field("path_specifier").fault("is not the prefix that its metadata names".to_owned())) };
    }
    match specifier {
        PathSpecifier::Path(path) => Ok(PathMatch::Exact(path)),
        PathSpecifier::SafeRegex(pattern) => Ok(PathMatch::Regex(regex(&at.field("safe_regex"), pattern)?)),
        PathSpecifier::PathSeparatedPrefix(prefix) => Ok(PathMatch::Prefix(prefix)),
        // A prefix that need not end with a path element is something else than the Gateway API's.
        PathSpecifier::Prefix(prefix) if prefix == "/" => Ok(PathMatch::Prefix(prefix)),
        PathSpecifier::Prefix(_) | PathSpecifier::ConnectMatcher(_) | PathSpecifier::PathMatchPolicy(_) => {
            Err(at.field("path_specifier").fault("is not understood by this proxy".to_owned()))
        }
    }
}

fn header(at: &At<'_>, matcher: HeaderMatcher) -> Result<FieldMatch, Fault> {
    apart!(at, matcher => HeaderMatcher { name, header_match_specifier } unset { invert_match, treat_missing_header_as_empty });
    let value = match header_match_specifier {
        Some(HeaderMatchSpecifier::StringMatch(matcher)) => value(&at.field("string_match"), matcher)?,
        Some(HeaderMatchSpecifier::ExactMatch(text)) => ValueMatch::Exact(text),
        Some(HeaderMatchSpecifier::SafeRegexMatch(pattern)) => ValueMatch::Regex(regex(&at.field("safe_regex_match"), pattern)?),
        Some(
            HeaderMatchSpecifier::RangeMatch(_)
            | HeaderMatchSpecifier::PresentMatch(_)
            | HeaderMatchSpecifier::PrefixMatch(_)
            | HeaderMatchSpecifier::SuffixMatch(_)
            | HeaderMatchSpecifier::ContainsMatch(_),
        )
        | None => return Err(at.field("header_match_specifier").fault("is not understood by this proxy".to_owned())),
    };
    Ok(FieldMatch { name, value })
}

fn parameter(at: &At<'_>, matcher: QueryParameterMatcher) -> Result<FieldMatch, Fault> {
    let QueryParameterMatcher { name, query_parameter_match_specifier } = matcher;
    match query_parameter_match_specifier {
        Some(QueryParameterMatchSpecifier::StringMatch(matcher)) => {
            Ok(FieldMatch { name, value: value(&at.field("string_match"), matcher)? })
        }
        Some(QueryParameterMatchSpecifier::PresentMatch(_)) | None => {
            Err(at.field("query_parameter_match_specifier").fault("is not understood by this proxy".to_owned()))
        }
    }
}

fn value(at: &At<'_>, matcher: StringMatcher) -> Result<ValueMatch, Fault> {
    apart!(at, matcher => StringMatcher { match_pattern } unset { ignore_case });
    match match_pattern {
        Some(MatchPattern::Exact(text)) => Ok(ValueMatch::Exact(text)),
        Some(MatchPattern::SafeRegex(pattern)) => Ok(ValueMatch::Regex(regex(&at.field("safe_regex"), pattern)?)),
        Some(MatchPattern::Prefix(_) | MatchPattern::Suffix(_) | MatchPattern::Contains(_) | MatchPattern::Custom(_)) | None => {
            Err(at.field("match_pattern").fault("is not understood by this proxy".to_owned()))
        }
    }
}

fn regex(at: &At<'_>, matcher: RegexMatcher) -> Result<Pattern, Fault> {
    apart!(at, matcher => RegexMatcher { regex } unset { engine_type });
    Pattern::new(&regex).map_err(|error| at.field("regex").fault(format!("`{regex}` cannot be compiled: {error}")))
}

fn forward(at: &At<'_>, action: RouteAction) -> Result<(Vec<WeightedBackend>, Timeouts), Fault> {
    apart!(at, action => RouteAction { cluster_not_found_response_code, timeout, idle_timeout, retry_policy, cluster_specifier } unset {
        metadata_match, prefix_rewrite, regex_rewrite, path_rewrite_policy, path_rewrite, append_x_forwarded_host, flush_timeout,
        early_data_policy, retry_policy_typed_config, request_mirror_policies, priority, rate_limits, include_vh_rate_limits, hash_policy,
        cors, max_grpc_timeout, grpc_timeout_offset, upgrade_configs, internal_redirect_policy, internal_redirect_action,
        max_internal_redirects, hedge_policy, max_stream_duration, host_rewrite_specifier,
    });
    let backends = match present(&at.field("cluster_specifier"), cluster_specifier)? {
        ClusterSpecifier::Cluster(name) => vec![WeightedBackend { weight: 1, backend: backend(&at.field("cluster"), &name)? }],
        ClusterSpecifier::WeightedClusters(weighted) => weighted_backends(&at.field("weighted_clusters"), weighted)?,
        ClusterSpecifier::ClusterHeader(_)
        | ClusterSpecifier::ClusterSpecifierPlugin(_)
        | ClusterSpecifier::InlineClusterSpecifierPlugin(_) => {
            return Err(at.field("cluster_specifier").fault("is not understood by this proxy".to_owned()));
        }
    };
    let missing = backends.iter().any(|backend| matches!(backend.backend, Backend::Missing { .. }));
    let expected = if missing { ClusterNotFoundResponseCode::InternalServerError.into() } else { 0 };
    at.equal("cluster_not_found_response_code", &cluster_not_found_response_code, &expected)?;
    let timeouts = Timeouts {
        request: limit(&at.field("timeout"), timeout)?,
        backend_request: retry_policy.map(|policy| attempt_limit(&at.field("retry_policy"), policy)).transpose()?,
        idle: limit(&at.field("idle_timeout"), idle_timeout)?,
    };
    Ok((backends, timeouts))
}

fn weighted_backends(at: &At<'_>, weighted: WeightedCluster) -> Result<Vec<WeightedBackend>, Fault> {
    apart!(at, weighted => WeightedCluster { clusters } unset { total_weight, runtime_key_prefix, random_value_specifier });
    let one = |(index, one): (usize, ClusterWeight)| {
        let at = at.index("clusters", index);
        apart!(at, one => ClusterWeight { name, weight } unset {
            cluster_header, metadata_match, request_headers_to_add, request_headers_to_remove, response_headers_to_add,
            response_headers_to_remove, typed_per_filter_config, host_rewrite_specifier,
        });
        let weight = present(&at.field("weight"), weight)?.value;
        Ok(WeightedBackend { weight, backend: backend(&at.field("name"), &name)? })
    };
    clusters.into_iter().enumerate().map(one).collect()
}

fn backend(at: &At<'_>, name: &str) -> Result<Backend, Fault> {
    match name.strip_prefix(MISSING_PREFIX) {
        Some(name) => Ok(Backend::Missing { name: name.to_owned() }),
        None => Ok(Backend::Port(service_port(at, name)?)),
    }
}

/// A retry policy that retries nothing holds the time limit of an attempt.
fn attempt_limit(at: &At<'_>, policy: RetryPolicy) -> Result<std::time::Duration, Fault> {
    apart!(at, policy => RetryPolicy { per_try_timeout } unset {
        retry_on, num_retries, per_try_idle_timeout, retry_priority, retry_host_predicate, retry_options_predicates,
        host_selection_retry_max_attempts, retriable_status_codes, retry_back_off, rate_limited_retry_back_off, retriable_headers,
        retriable_request_headers, refresh_cluster_on_retry,
    });
    let at = at.field("per_try_timeout");
    duration(&at, present(&at, per_try_timeout)?)
}
