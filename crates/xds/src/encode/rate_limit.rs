//! Limits in Envoy's words. Its buckets belong to the configuration that they stand in, so those of local limits stand in the route
//! configuration, where all of its routes share them; each route says only what of a request counts under which of them.
//!
//! Lorica's proxy has a rule's limits from the route's metadata, and no filters.

use std::collections::BTreeMap;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::{
    ApiVersion, GrpcService, HeaderValue, HeaderValueOption, RuntimeFractionalPercent, TypedExtensionConfig,
    grpc_service::{EnvoyGrpc, TargetSpecifier},
    header_value_option::HeaderAppendAction,
};
use envoy_types::pb::envoy::config::ratelimit::v3::RateLimitServiceConfig;
use envoy_types::pb::envoy::config::route::v3::{
    HeaderMatcher, RateLimit as Actions,
    rate_limit::{
        Action,
        action::{ActionSpecifier, GenericKey, HeaderValueMatch, RemoteAddress},
    },
};
use envoy_types::pb::envoy::extensions::common::ratelimit::v3::{LocalRateLimitDescriptor, rate_limit_descriptor::Entry};
use envoy_types::pb::envoy::extensions::filters::http::local_ratelimit::v3::LocalRateLimit;
use envoy_types::pb::envoy::extensions::filters::http::ratelimit::v3::{RateLimit as RateLimitFilter, RateLimitPerRoute};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{HttpFilter, http_filter::ConfigType};
use envoy_types::pb::envoy::extensions::rate_limit_descriptors::expr::v3::{Descriptor, descriptor::ExprSpecifier};
use envoy_types::pb::envoy::r#type::v3::TokenBucket;
use envoy_types::pb::google::protobuf::{Any, BoolValue};
use lorica_model::reason::Reason;
use lorica_model::snapshot::{Counted, KeyPart, LimitService, NO_VALUE, PathMatch, Quota, RateLimit, RouteMatch, Share};

use super::route::{escaped, exact, header, safe_regex, string_matcher};
use super::{CONTROL_CLUSTER, duration, filter, number};
use crate::rate_limit::{DOMAIN, LIMIT_ENTRY};
use crate::resource::pack;

/// The name of Envoy's filter for limits that it counts by itself.
pub const LOCAL: &str = "envoy.filters.http.local_ratelimit";
/// The name of Envoy's filter for limits that the control plane counts.
pub const GLOBAL: &str = "envoy.filters.http.ratelimit";
/// How long the control plane may take to answer an Envoy before a request passes.
pub const TIMEOUT: Duration = Duration::from_millis(100);
/// What routes say to the filter for local limits, and only to that.
const STAGE_OF_LOCAL: u32 = 0;
/// What no route says anything of: what these filters are to ask stands in their own configuration of a route.
const STAGE_OF_NONE: u32 = 1;
/// Envoy's least time between refills, of which all others must be a multiple.
const LEAST_INTERVAL: u64 = 50;
/// How many values of a limit's key Envoy tells apart at once: as many as Lorica's proxy.
const MOST_KEYS: u32 = 10_000;

/// The filters of a connection manager whose routes have these limits. Those that nothing changes but a listener's own are always there: a
/// listener that changed would end connections.
pub(super) fn filters<'l>(limits: impl Iterator<Item = &'l RateLimit>) -> Vec<HttpFilter> {
    let local = LocalRateLimit { stat_prefix: "rate_limits".to_owned(), ..LocalRateLimit::default() };
    let mut filters = vec![made(LOCAL, pack(&local)), made(GLOBAL, pack(&asking(CONTROL_CLUSTER, DOMAIN, TIMEOUT, true)))];
    let services: BTreeMap<String, LimitService> =
        limits.filter_map(RateLimit::service).map(|service| (service_filter(service), service.clone())).collect();
    filters.extend(services.into_iter().map(|(name, LimitService { port, domain, timeout, fail_open })| {
        made(&name, pack(&asking(&port.to_string(), &domain, timeout, fail_open)))
    }));
    filters
}

/// The filter that asks a service. How it asks can be said of a filter, not of a route: so each way has one.
fn service_filter(service: &LimitService) -> String {
    let LimitService { port, domain, timeout, fail_open } = service;
    format!("{GLOBAL}/{port}/{domain}/{}ms/{}", timeout.as_millis(), if *fail_open { "open" } else { "closed" })
}

fn made(name: &str, config: Any) -> HttpFilter {
    HttpFilter { name: name.to_owned(), config_type: Some(ConfigType::TypedConfig(config)), ..HttpFilter::default() }
}

fn asking(cluster: &str, domain: &str, timeout: Duration, fail_open: bool) -> RateLimitFilter {
    let envoy_grpc = EnvoyGrpc { cluster_name: cluster.to_owned(), ..EnvoyGrpc::default() };
    RateLimitFilter {
        domain: domain.to_owned(),
        stage: STAGE_OF_NONE,
        timeout: Some(duration(timeout)),
        failure_mode_deny: !fail_open,
        rate_limited_as_resource_exhausted: true,
        enable_retry_after_header: true,
        response_headers_to_add: vec![reason()],
        rate_limit_service: Some(RateLimitServiceConfig {
            grpc_service: Some(GrpcService { target_specifier: Some(TargetSpecifier::EnvoyGrpc(envoy_grpc)), ..GrpcService::default() }),
            transport_api_version: ApiVersion::V3.into(),
        }),
        ..RateLimitFilter::default()
    }
}

/// By which callers are told why.
fn reason() -> HeaderValueOption {
    let header =
        HeaderValue { key: "x-lorica-reason".to_owned(), value: Reason::RateLimited.meaning().word.to_owned(), ..HeaderValue::default() };
    HeaderValueOption {
        header: Some(header),
        append_action: HeaderAppendAction::OverwriteIfExistsOrAdd.into(),
        ..HeaderValueOption::default()
    }
}

/// The buckets of a route configuration, by the name of the filter that has them; none where no limit is local.
pub(super) fn buckets<'l>(limits: impl Iterator<Item = &'l RateLimit>) -> Option<(String, Any)> {
    let local = |limit: &'l RateLimit| if let Counted::Local(quota) = limit.counted { Some((&*limit.id, (limit, quota))) } else { None };
    let limits: BTreeMap<&str, (&RateLimit, Quota)> = limits.filter_map(local).collect();
    if limits.is_empty() {
        return None;
    }
    let always = || -> Option<RuntimeFractionalPercent> { Some(filter::fraction(Share::ALL)) };
    let config = LocalRateLimit {
        stat_prefix: "rate_limits".to_owned(),
        stage: STAGE_OF_LOCAL,
        // For requests that no limit is about. Envoy wants one.
        token_bucket: Some(TokenBucket {
            max_tokens: u32::MAX,
            tokens_per_fill: number(u32::MAX),
            fill_interval: Some(duration(Duration::from_millis(LEAST_INTERVAL))),
        }),
        always_consume_default_token_bucket: Some(BoolValue { value: false }),
        filter_enabled: always(),
        filter_enforced: always(),
        rate_limited_as_resource_exhausted: true,
        enable_retry_after_header: true,
        response_headers_to_add: vec![reason()],
        descriptors: limits.into_values().map(|(limit, quota)| descriptor(limit, quota)).collect(),
        max_dynamic_descriptors: number(MOST_KEYS),
        ..LocalRateLimit::default()
    };
    Some((LOCAL.to_owned(), pack(&config)))
}

fn descriptor(limit: &RateLimit, quota: Quota) -> LocalRateLimitDescriptor {
    let entry = |key: &str, value: &str| Entry { key: key.to_owned(), value: value.to_owned() };
    // A blank value stands for any, each with a bucket of its own.
    let parts = limit.key.iter().map(|part| entry(&part.entry(), ""));
    LocalRateLimitDescriptor {
        entries: std::iter::once(entry(LIMIT_ENTRY, &limit.id)).chain(parts).collect(),
        token_bucket: Some(bucket(quota)),
        shadow_mode: limit.shadow,
    }
}

/// The same rate, in a time that is a multiple of Envoy's least one.
fn bucket(Quota { requests, per, burst }: Quota) -> TokenBucket {
    let milliseconds = u64::try_from(per.as_millis()).unwrap_or(u64::MAX).max(1);
    let times = LEAST_INTERVAL / greatest_common_divisor(milliseconds, LEAST_INTERVAL);
    let tokens = u32::try_from(u64::from(requests) * times).unwrap_or(u32::MAX);
    TokenBucket {
        max_tokens: burst,
        tokens_per_fill: number(tokens),
        fill_interval: Some(duration(Duration::from_millis(milliseconds.saturating_mul(times)))),
    }
}

fn greatest_common_divisor(one: u64, other: u64) -> u64 {
    if other == 0 { one } else { greatest_common_divisor(other, one % other) }
}

/// What of a route's requests counts under which local limit.
pub(super) fn actions(limits: &[RateLimit]) -> Vec<Actions> {
    limits.iter().filter(|limit| matches!(limit.counted, Counted::Local(_))).map(descriptor_of).collect()
}

/// What a route's filters ask the control plane, or a service, about.
pub(super) fn per_route(limits: &[RateLimit]) -> impl Iterator<Item = (String, Any)> {
    let mut asked: BTreeMap<String, Vec<Actions>> = BTreeMap::new();
    for limit in limits {
        let name = match &limit.counted {
            Counted::Global { .. } => GLOBAL.to_owned(),
            Counted::Service(service) => service_filter(service),
            Counted::Local(_) | Counted::Concurrent(_) => continue,
        };
        asked.entry(name).or_default().push(descriptor_of(limit));
    }
    asked.into_iter().map(|(name, rate_limits)| (name, pack(&RateLimitPerRoute { rate_limits, ..RateLimitPerRoute::default() })))
}

/// What of a request counts: the limit, where it is about the request, and the parts of its key.
fn descriptor_of(limit: &RateLimit) -> Actions {
    let first = match &limit.matches {
        None => ActionSpecifier::GenericKey(GenericKey {
            descriptor_key: LIMIT_ENTRY.to_owned(),
            descriptor_value: entry_value(limit).to_owned(),
            ..GenericKey::default()
        }),
        Some(matches) => ActionSpecifier::HeaderValueMatch(HeaderValueMatch {
            descriptor_key: LIMIT_ENTRY.to_owned(),
            descriptor_value: entry_value(limit).to_owned(),
            headers: headers(matches),
            ..HeaderValueMatch::default()
        }),
    };
    let actions = std::iter::once(first).chain(limit.key.iter().map(part));
    Actions { actions: actions.map(|action| Action { action_specifier: Some(action) }).collect(), ..Actions::default() }
}

/// What a limit is called where it is counted: its id; by a service that users configure, its name.
fn entry_value(limit: &RateLimit) -> &str {
    if limit.service().is_some() { limit.name() } else { &limit.id }
}

fn headers(matches: &RouteMatch) -> Vec<HeaderMatcher> {
    // Of Envoy's `:path` the query is a part.
    let path = match &matches.path {
        PathMatch::Prefix(prefix) if prefix == "/" => None,
        PathMatch::Prefix(prefix) => Some(format!("{}(/[^?]*)?", escaped(prefix.trim_end_matches('/')))),
        PathMatch::Exact(path) => Some(escaped(path)),
        PathMatch::Regex(pattern) => Some(format!("(?:{})", pattern.as_str())),
    };
    let path = path.map(|path| safe_regex(":path", &format!("{path}(\\?.*)?")));
    let method = matches.method.iter().map(|method| header(":method", exact(method)));
    let fields = matches.headers.iter().map(|field| header(&field.name, string_matcher(&field.value)));
    let mut all: Vec<HeaderMatcher> = path.into_iter().chain(method).chain(fields).collect();
    if all.is_empty() {
        // Without any, Envoy takes none.
        all.push(safe_regex(":path", ".*"));
    }
    all
}

fn part(part: &KeyPart) -> ActionSpecifier {
    let text = match part {
        KeyPart::Source => return ActionSpecifier::RemoteAddress(RemoteAddress {}),
        KeyPart::Caller => format!("connection.mtls ? connection.uri_san_peer_certificate : '{NO_VALUE}'"),
        KeyPart::Header(name) => format!("'{name}' in request.headers ? request.headers['{name}'] : '{NO_VALUE}'"),
        KeyPart::Path => "request.url_path".to_owned(),
        KeyPart::Claim(path) => claim(path),
    };
    let config =
        Descriptor { descriptor_key: part.entry().into_owned(), skip_if_error: false, expr_specifier: Some(ExprSpecifier::Text(text)) };
    ActionSpecifier::Extension(TypedExtensionConfig {
        name: "envoy.rate_limit_descriptors.expr".to_owned(),
        typed_config: Some(pack(&config)),
    })
}

/// What a claim says, as the filter for tokens leaves it in the request's metadata.
fn claim(path: &str) -> String {
    let filter = super::authentication::FILTER;
    let mut at = format!("metadata.filter_metadata['{filter}']");
    let mut there = format!("'{filter}' in metadata.filter_metadata");
    for step in std::iter::once(super::authentication::CLAIMS).chain(path.split('.')) {
        there.push_str(&format!(" && '{step}' in {at}"));
        at.push_str(&format!("['{step}']"));
    }
    format!("{there} ? string({at}) : '{NO_VALUE}'")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_the_same_in_envoys_times() {
        let bucket = |requests, per| {
            let made = bucket(Quota { requests, per: Duration::from_millis(per), burst: 7 });
            let interval = made.fill_interval.map_or(0, |interval| interval.seconds * 1000 + i64::from(interval.nanos) / 1_000_000);
            (made.max_tokens, made.tokens_per_fill.map(|tokens| tokens.value), interval)
        };
        assert_eq!(bucket(100, 1000), (7, Some(100), 1000));
        assert_eq!(bucket(3, 75), (7, Some(6), 150));
        assert_eq!(bucket(1, 1), (7, Some(50), 50));
    }
}
