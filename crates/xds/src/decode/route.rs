//! The rules of a service port.

use std::sync::Arc;

use envoy_types::pb::envoy::config::core::v3::{
    HeaderValue, HeaderValueOption, RuntimeFractionalPercent, header_value_option::HeaderAppendAction,
};
use envoy_types::pb::envoy::config::route::v3::{
    DirectResponseAction, HeaderMatcher, QueryParameterMatcher, RedirectAction, Route, RouteAction, RouteConfiguration,
    RouteMatch as EnvoyMatch, VirtualHost, WeightedCluster,
    header_matcher::HeaderMatchSpecifier,
    query_parameter_matcher::QueryParameterMatchSpecifier,
    redirect_action::{RedirectResponseCode, SchemeRewriteSpecifier},
    route::Action,
    route_action::{ClusterNotFoundResponseCode, ClusterSpecifier, HostRewriteSpecifier, RequestMirrorPolicy},
    route_match::PathSpecifier,
    weighted_cluster::{ClusterWeight, cluster_weight},
};
use envoy_types::pb::envoy::r#type::matcher::v3::{RegexMatcher, StringMatcher, string_matcher::MatchPattern};
use envoy_types::pb::envoy::r#type::v3::{FractionalPercent, fractional_percent::DenominatorType};
use envoy_types::pb::google::protobuf::Any;
use lorica_model::snapshot::{
    Action as RuleAction, Backend, Fault as MadeFault, FieldMatch, Filters, Forward, HeaderEdits, HttpRule, Mirror, PathEdit, PathMatch,
    Pattern, Redirect, RouteMatch, Share, Timeouts, ValueMatch, WeightedBackend,
};

use super::{At, Fault, Rejected, apart, facts, limit, open, present, service_port};
use crate::Kind;
use crate::encode::{AttemptFields, GRPC_WEB, MISSING_PREFIX, path_specifier, per_backend, per_filter, redirect as encode_redirect};
use crate::facts::{AttemptFacts, RouteFacts};

/// Reads the rules of a service port, in order.
///
/// # Errors
/// Names the first field that is not understood.
pub fn rules(name: &str, body: &Any) -> Result<Vec<HttpRule>, Rejected> {
    open(Kind::Route, name, body, |at, configuration| read(at, name, configuration))
}

fn read(at: &At<'_>, expected: &str, configuration: RouteConfiguration) -> Result<Vec<HttpRule>, Fault> {
    let mut hosts = hosts(at, expected, configuration)?.into_iter();
    let (Some((domain, rules)), None) = (hosts.next(), hosts.next()) else {
        return Err(at.field("virtual_hosts").fault("is not one virtual host".to_owned()));
    };
    at.index("virtual_hosts", 0).equal("domains", &domain.as_str(), &"*")?;
    Ok(rules)
}

/// The rules of each host.
pub(super) fn hosts(at: &At<'_>, expected: &str, configuration: RouteConfiguration) -> Result<Vec<(String, Vec<HttpRule>)>, Fault> {
    apart!(at, configuration => RouteConfiguration { name, virtual_hosts, ignore_port_in_host_matching } unset {
        vhds, internal_only_headers, response_headers_to_add, response_headers_to_remove, request_headers_to_add, request_headers_to_remove,
        most_specific_header_mutations_wins, validate_clusters, max_direct_response_body_size_bytes, cluster_specifier_plugins,
        request_mirror_policies, vhost_header, ignore_path_parameters_in_path_matching, typed_per_filter_config, metadata, route_specifiers,
    });
    at.equal("name", &name.as_str(), &expected)?;
    let one = |(index, one): (usize, VirtualHost)| host(&at.index("virtual_hosts", index), one);
    let hosts: Vec<_> = virtual_hosts.into_iter().enumerate().map(one).collect::<Result<_, _>>()?;
    // A host is the same with any port; where there is one host for all, ports make no difference.
    let all = matches!(hosts.as_slice(), [(domain, _)] if domain == "*");
    if !all {
        at.equal("ignore_port_in_host_matching", &ignore_port_in_host_matching, &true)?;
    }
    Ok(hosts)
}

fn host(at: &At<'_>, host: VirtualHost) -> Result<(String, Vec<HttpRule>), Fault> {
    apart!(at, host => VirtualHost { name: _name, domains, routes } unset {
        matcher, require_tls, virtual_clusters, rate_limits, request_headers_to_add, request_headers_to_remove, response_headers_to_add,
        response_headers_to_remove, cors, typed_per_filter_config, include_request_attempt_count, include_attempt_count_in_response,
        retry_policy, retry_policy_typed_config, hedge_policy, include_is_timeout_retry_header, per_request_buffer_limit_bytes,
        request_body_buffer_limit, request_mirror_policies, metadata, route_specifiers,
    });
    let Ok([domain]) = <[String; 1]>::try_from(domains) else { return Err(at.field("domains").fault("is not one".to_owned())) };
    let rules = routes.into_iter().enumerate().map(|(index, one)| route(&at.index("routes", index), one));
    Ok((domain, rules.collect::<Result<_, _>>()?))
}

fn route(at: &At<'_>, route: Route) -> Result<HttpRule, Fault> {
    apart!(at, route => Route {
        name: _name, r#match: wanted, metadata, action, typed_per_filter_config, request_headers_to_add, request_headers_to_remove,
        response_headers_to_add, response_headers_to_remove,
    } unset { decorator, tracing, per_request_buffer_limit_bytes, stat_prefix, request_body_buffer_limit, route_specifiers });
    let RouteFacts { origin, prefix, path, cors, unanswered, limits, attempt, faults, authentication, authorization, tried } =
        facts(at, metadata)?;
    let matches = matches(&at.field("match"), wanted, prefix)?;
    let filters = Filters {
        request: edits(at, ("request_headers_to_add", request_headers_to_add), request_headers_to_remove)?,
        response: edits(at, ("response_headers_to_add", response_headers_to_add), response_headers_to_remove)?,
        cors,
        grpc_web: typed_per_filter_config.contains_key(GRPC_WEB),
        limits,
        authentication,
        authorization,
        tried,
    };
    at.equal("typed_per_filter_config", &typed_per_filter_config, &per_filter(&filters, &faults))?;
    let action = match (present(&at.field("action"), action)?, unanswered) {
        (Action::Route(action), None) => RuleAction::Forward(forward(&at.field("route"), action, path, attempt, faults)?),
        (Action::DirectResponse(action), unanswered) => {
            let at = at.field("direct_response");
            apart!(at, action => DirectResponseAction { status } unset { body, body_format });
            match unanswered {
                None => RuleAction::Respond(u16::try_from(status).map_err(|_| at.field("status").fault(format!("{status} is no status")))?),
                Some(forward) => {
                    at.equal("status", &status, &500)?;
                    if forward.backends.iter().any(|backend| backend.weight != 0) {
                        return Err(at.fault("stands for a rule that has a backend of some weight".to_owned()));
                    }
                    RuleAction::Forward(forward)
                }
            }
        }
        (Action::Redirect(action), None) => RuleAction::Redirect(redirect(&at.field("redirect"), &action, path)?),
        (Action::Route(_) | Action::Redirect(_) | Action::FilterAction(_) | Action::NonForwardingAction(_), _) => {
            return Err(at.field("action").fault("is not understood by this proxy".to_owned()));
        }
    };
    Ok(HttpRule { origin: Arc::new(origin), matches, filters, action })
}

/// What is changed in a head.
fn edits(at: &At<'_>, (field, changes): (&'static str, Vec<HeaderValueOption>), remove: Vec<String>) -> Result<HeaderEdits, Fault> {
    let mut edits = HeaderEdits { remove, ..HeaderEdits::default() };
    for (index, change) in changes.into_iter().enumerate() {
        let at = at.index(field, index);
        apart!(at, change => HeaderValueOption { header, append_action, keep_empty_value } unset { append });
        at.equal("keep_empty_value", &keep_empty_value, &true)?;
        let at_header = at.field("header");
        apart!(at_header, present(&at_header, header)? => HeaderValue { key, value } unset { raw_value });
        if value.replace("%%", "").contains('%') {
            return Err(at_header.field("value").fault("has a `%`, which is one of Envoy's commands".to_owned()));
        }
        let value = value.replace("%%", "%");
        match HeaderAppendAction::try_from(append_action) {
            Ok(HeaderAppendAction::OverwriteIfExistsOrAdd) if edits.add.is_empty() => edits.set.push((key, value)),
            Ok(HeaderAppendAction::AppendIfExistsOrAdd) => edits.add.push((key, value)),
            _ => return Err(at.field("append_action").fault("is not understood by this proxy at this place".to_owned())),
        }
    }
    Ok(edits)
}

fn redirect(at: &At<'_>, action: &RedirectAction, path: Option<PathEdit>) -> Result<Redirect, Fault> {
    let scheme = match &action.scheme_rewrite_specifier {
        None => None,
        Some(SchemeRewriteSpecifier::SchemeRedirect(scheme)) => Some(scheme.clone()),
        Some(SchemeRewriteSpecifier::HttpsRedirect(_)) => {
            return Err(at.field("https_redirect").fault("is not understood by this proxy".to_owned()));
        }
    };
    let status = match RedirectResponseCode::try_from(action.response_code) {
        Ok(RedirectResponseCode::MovedPermanently) => 301,
        Ok(RedirectResponseCode::Found) => 302,
        Ok(RedirectResponseCode::SeeOther) => 303,
        Ok(RedirectResponseCode::TemporaryRedirect) => 307,
        Ok(RedirectResponseCode::PermanentRedirect) => 308,
        Err(_) => return Err(at.field("response_code").fault("is not understood by this proxy".to_owned())),
    };
    let port = u16::try_from(action.port_redirect).map_err(|_| at.field("port_redirect").fault("is no port".to_owned()))?;
    let rule = Redirect {
        scheme,
        host: Some(action.host_redirect.clone()).filter(|host| !host.is_empty()),
        port: Some(port).filter(|port| *port != 0),
        path,
        status,
    };
    // What the fields above do not say must be what the rule makes of it.
    if *action == encode_redirect(&rule) { Ok(rule) } else { Err(at.fault("is not what its metadata says".to_owned())) }
}

fn matches(at: &At<'_>, wanted: Option<EnvoyMatch>, prefix: Option<String>) -> Result<RouteMatch, Fault> {
    apart!(at, present(at, wanted)? => EnvoyMatch { headers, query_parameters, runtime_fraction, path_specifier: specifier } unset {
        case_sensitive, cookies, grpc, tls_context, dynamic_metadata, filter_state,
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
    let share = runtime_fraction.map(|fraction| share(&at.field("runtime_fraction"), fraction)).transpose()?;
    let query = query_parameters.into_iter().enumerate().map(|(index, one)| parameter(&at.index("query_parameters", index), one));
    Ok(RouteMatch { path, method, headers: fields, query: query.collect::<Result<_, _>>()?, share })
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

/// A share in millionths.
fn share(at: &At<'_>, fraction: RuntimeFractionalPercent) -> Result<Share, Fault> {
    apart!(at, fraction => RuntimeFractionalPercent { default_value } unset { runtime_key });
    let at = at.field("default_value");
    let FractionalPercent { numerator, denominator } = present(&at, default_value)?;
    at.equal("denominator", &denominator, &DenominatorType::Million.into())?;
    Ok(Share(numerator))
}

fn forward(
    at: &At<'_>,
    action: RouteAction,
    path: Option<PathEdit>,
    attempt: AttemptFacts,
    faults: Vec<MadeFault>,
) -> Result<Forward, Fault> {
    apart!(at, action => RouteAction {
        cluster_not_found_response_code, timeout, idle_timeout, retry_policy, cluster_specifier, prefix_rewrite, regex_rewrite,
        request_mirror_policies, host_rewrite_specifier, hash_policy, hedge_policy, max_stream_duration,
    } unset {
        metadata_match, path_rewrite_policy, path_rewrite, append_x_forwarded_host, flush_timeout, early_data_policy,
        retry_policy_typed_config, priority, rate_limits, include_vh_rate_limits, cors, max_grpc_timeout, grpc_timeout_offset,
        upgrade_configs, internal_redirect_policy, internal_redirect_action, max_internal_redirects,
    });
    let backends = match present(&at.field("cluster_specifier"), cluster_specifier)? {
        ClusterSpecifier::Cluster(name) => vec![WeightedBackend::plain(1, backend(&at.field("cluster"), &name)?)],
        ClusterSpecifier::WeightedClusters(weighted) => weighted_backends(&at.field("weighted_clusters"), weighted, &faults)?,
        ClusterSpecifier::ClusterHeader(_)
        | ClusterSpecifier::ClusterSpecifierPlugin(_)
        | ClusterSpecifier::InlineClusterSpecifierPlugin(_) => {
            return Err(at.field("cluster_specifier").fault("is not understood by this proxy".to_owned()));
        }
    };
    let missing = backends.iter().any(|backend| matches!(backend.backend, Backend::Missing { .. }));
    let expected = if missing { ClusterNotFoundResponseCode::InternalServerError.into() } else { 0 };
    at.equal("cluster_not_found_response_code", &cluster_not_found_response_code, &expected)?;
    let (prefix, regex) = path.as_ref().map(crate::encode::path_rewrite).unwrap_or_default();
    at.equal("prefix_rewrite", &prefix_rewrite, &prefix)?;
    at.equal("regex_rewrite", &regex_rewrite, &regex)?;
    let host = match host_rewrite_specifier {
        None => None,
        Some(HostRewriteSpecifier::HostRewriteLiteral(host)) => Some(host),
        Some(_) => return Err(at.field("host_rewrite_specifier").fault("is not understood by this proxy".to_owned())),
    };
    let mirrors =
        request_mirror_policies.into_iter().enumerate().map(|(index, one)| mirror(&at.index("request_mirror_policies", index), one));
    let mirrors = mirrors.collect::<Result<_, _>>()?;
    let AttemptFacts { limit: backend_request, stream, retry, hedge, hash, affinity, tried } = attempt;
    let timeouts = Timeouts {
        request: limit(&at.field("timeout"), timeout)?,
        backend_request,
        idle: limit(&at.field("idle_timeout"), idle_timeout)?,
        stream,
    };
    let retry = retry.unwrap_or_default();
    let forward = Forward { backends, timeouts, path, host, mirrors, retry, hedge, hash, affinity, faults, tried };
    let said = AttemptFields::of(&forward);
    at.equal("retry_policy", &retry_policy, &said.retry_policy)?;
    at.equal("hedge_policy", &hedge_policy, &said.hedge_policy)?;
    at.equal("hash_policy", &hash_policy, &said.hash_policy)?;
    at.equal("max_stream_duration", &max_stream_duration, &said.max_stream_duration)?;
    Ok(forward)
}

fn mirror(at: &At<'_>, policy: RequestMirrorPolicy) -> Result<Mirror, Fault> {
    apart!(at, policy => RequestMirrorPolicy { cluster, runtime_fraction, disable_shadow_host_suffix_append } unset {
        cluster_header, trace_sampled, request_headers_mutations, host_rewrite_literal,
    });
    at.equal("disable_shadow_host_suffix_append", &disable_shadow_host_suffix_append, &true)?;
    let at_share = at.field("runtime_fraction");
    let share = share(&at_share, present(&at_share, runtime_fraction)?)?;
    Ok(Mirror { backend: backend(&at.field("cluster"), &cluster)?, share })
}

fn weighted_backends(at: &At<'_>, weighted: WeightedCluster, faults: &[MadeFault]) -> Result<Vec<WeightedBackend>, Fault> {
    apart!(at, weighted => WeightedCluster { clusters } unset { total_weight, runtime_key_prefix, random_value_specifier });
    let one = |(index, one): (usize, ClusterWeight)| {
        let at = at.index("clusters", index);
        apart!(at, one => ClusterWeight {
            name, weight, request_headers_to_add, request_headers_to_remove, response_headers_to_add, response_headers_to_remove,
            host_rewrite_specifier, typed_per_filter_config,
        } unset { cluster_header, metadata_match });
        let weight = present(&at.field("weight"), weight)?.value;
        let backend = backend(&at.field("name"), &name)?;
        at.equal("typed_per_filter_config", &typed_per_filter_config, &per_backend(faults, &backend))?;
        Ok(WeightedBackend {
            weight,
            backend,
            request: edits(&at, ("request_headers_to_add", request_headers_to_add), request_headers_to_remove)?,
            response: edits(&at, ("response_headers_to_add", response_headers_to_add), response_headers_to_remove)?,
            host: host_rewrite_specifier.map(|cluster_weight::HostRewriteSpecifier::HostRewriteLiteral(host)| host),
        })
    };
    clusters.into_iter().enumerate().map(one).collect()
}

pub(super) fn backend(at: &At<'_>, name: &str) -> Result<Backend, Fault> {
    match name.strip_prefix(MISSING_PREFIX) {
        Some(name) => Ok(Backend::Missing { name: name.to_owned() }),
        None => Ok(Backend::Port(service_port(at, name)?)),
    }
}
