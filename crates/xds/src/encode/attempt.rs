//! How requests are timed, tried again, and belong to endpoints, in Envoy's words. The rule's own words stand in the route's metadata.
//!
//! Envoy knows nothing of idempotence. What may only be repeated where that is safe becomes three routes for it: of methods that are
//! idempotent, of requests with an `Idempotency-Key`, and of all others, for which only those conditions stay after which nobody can have
//! processed the request.

use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::TypedExtensionConfig;
use envoy_types::pb::envoy::config::route::v3::{
    HedgePolicy, RetryPolicy, RouteAction,
    retry_policy::{RateLimitedRetryBackOff, ResetHeader, ResetHeaderFormat, RetryBackOff, RetryHostPredicate, retry_host_predicate},
    route_action::{
        HashPolicy, MaxStreamDuration,
        hash_policy::{ConnectionProperties, Cookie, Header, PolicySpecifier, QueryParameter},
    },
};
use envoy_types::pb::envoy::extensions::retry::host::previous_hosts::v3::PreviousHostsPredicate;
use lorica_model::snapshot::{FieldMatch, Forward, HashOn, HttpRule, Pattern, Pause, RetryOn, Timeouts, ValueMatch};

use super::{duration, number};
use crate::resource::pack;

/// How often Envoy looks for an endpoint not tried yet: Istio's number.
const SELECTIONS: i64 = 5;
/// The methods that are idempotent (RFC 9110, 9.2.2).
const IDEMPOTENT: &str = "GET|HEAD|OPTIONS|TRACE|PUT|DELETE";

/// The fields of a route's action that say how its requests are tried.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct AttemptFields {
    pub(crate) retry_policy: Option<RetryPolicy>,
    pub(crate) hedge_policy: Option<HedgePolicy>,
    pub(crate) hash_policy: Vec<HashPolicy>,
    pub(crate) max_stream_duration: Option<MaxStreamDuration>,
}

impl AttemptFields {
    pub(crate) fn of(forward: &Forward) -> Self {
        Self {
            retry_policy: retry(forward),
            hedge_policy: forward.hedge.map(|_| HedgePolicy { hedge_on_per_try_timeout: true, ..HedgePolicy::default() }),
            hash_policy: forward.hash.iter().map(hash_policy).collect(),
            max_stream_duration: max_stream_duration(forward),
        }
    }

    pub(super) fn write(self, out: &mut RouteAction) {
        let Self { retry_policy, hedge_policy, hash_policy, max_stream_duration } = self;
        out.retry_policy = retry_policy;
        out.hedge_policy = hedge_policy;
        out.hash_policy = hash_policy;
        out.max_stream_duration = max_stream_duration;
    }
}

/// How long a stream may last. Where Envoy is told so, it passes the time for a request over; so where both are said, the shorter is, and where a
/// request's alone is, Envoy counts no caller's own deadline.
fn max_stream_duration(forward: &Forward) -> Option<MaxStreamDuration> {
    let Timeouts { request, stream, .. } = forward.timeouts;
    if request.is_some() && stream.is_none() {
        return None;
    }
    Some(MaxStreamDuration {
        max_stream_duration: [request, stream].into_iter().flatten().min().map(duration),
        // The caller's own deadline holds, however long.
        grpc_timeout_header_max: Some(duration(Duration::ZERO)),
        ..MaxStreamDuration::default()
    })
}

/// Without a condition nothing is tried again; the policy is then there for the time limit of an attempt alone.
fn retry(forward: &Forward) -> Option<RetryPolicy> {
    // A second attempt beside the first is Envoy's answer to one that takes longer than it may.
    let limit = match (forward.timeouts.backend_request, forward.hedge) {
        (limit, None) => limit,
        (None, Some(hedge)) => Some(hedge.after),
        (Some(limit), Some(hedge)) => Some(limit.min(hedge.after)),
    };
    let limit = limit.map(duration);
    let retry = &forward.retry;
    let attempts = retry.attempts.max(forward.hedge.map_or(0, |hedge| hedge.attempts));
    if attempts == 0 {
        return limit.map(|limit| RetryPolicy { per_try_timeout: Some(limit), ..RetryPolicy::default() });
    }
    let (base_interval, max_interval) = match retry.pause {
        Pause::AtLeast(pause) => (pause, pause),
        Pause::Growing { base, most } => (base, most),
    };
    Some(RetryPolicy {
        retry_on: conditions(forward),
        num_retries: number(attempts),
        retriable_status_codes: retry.codes.iter().map(|code| u32::from(*code)).collect(),
        retry_back_off: Some(RetryBackOff { base_interval: Some(duration(base_interval)), max_interval: Some(duration(max_interval)) }),
        rate_limited_retry_back_off: (!retry.retry_after_most.is_zero()).then(|| RateLimitedRetryBackOff {
            reset_headers: vec![ResetHeader { name: "retry-after".to_owned(), format: ResetHeaderFormat::Seconds.into() }],
            max_interval: Some(duration(retry.retry_after_most)),
        }),
        retry_host_predicate: retry.avoid_tried.then(previous_hosts).into_iter().collect(),
        host_selection_retry_max_attempts: if retry.avoid_tried { SELECTIONS } else { 0 },
        per_try_timeout: limit,
        ..RetryPolicy::default()
    })
}

fn conditions(forward: &Forward) -> String {
    let mut words: Vec<&str> = Vec::new();
    for condition in &forward.retry.on {
        words.extend_from_slice(match condition {
            RetryOn::ConnectFailure => &["connect-failure", "refused-stream", "reset-before-request"],
            RetryOn::Reset | RetryOn::Timeout => &["reset"],
            RetryOn::GatewayError => &["gateway-error"],
            RetryOn::ServerError => &["5xx"],
            RetryOn::GrpcCancelled => &["cancelled"],
            RetryOn::GrpcDeadlineExceeded => &["deadline-exceeded"],
            RetryOn::GrpcResourceExhausted => &["resource-exhausted"],
            RetryOn::GrpcInternal => &["internal"],
            RetryOn::GrpcUnavailable => &["unavailable"],
        });
    }
    if forward.hedge.is_some() && !words.contains(&"reset") {
        words.push("reset");
    }
    if !forward.retry.codes.is_empty() {
        words.push("retriable-status-codes");
    }
    words.dedup();
    words.join(",")
}

fn previous_hosts() -> RetryHostPredicate {
    let config = TypedExtensionConfig {
        name: "envoy.retry_host_predicates.previous_hosts".to_owned(),
        typed_config: Some(pack(&PreviousHostsPredicate {})),
    };
    RetryHostPredicate { name: config.name, config_type: config.typed_config.map(retry_host_predicate::ConfigType::TypedConfig) }
}

fn hash_policy(on: &HashOn) -> HashPolicy {
    let specifier = match on {
        HashOn::Header(name) => PolicySpecifier::Header(Header { header_name: name.clone(), ..Header::default() }),
        HashOn::Cookie { name, ttl, path } => {
            PolicySpecifier::Cookie(Cookie { name: name.clone(), ttl: ttl.map(duration), path: path.clone(), ..Cookie::default() })
        }
        HashOn::Query(name) => PolicySpecifier::QueryParameter(QueryParameter { name: name.clone() }),
        HashOn::SourceAddress => PolicySpecifier::ConnectionProperties(ConnectionProperties { source_ip: true }),
    };
    HashPolicy { policy_specifier: Some(specifier), ..HashPolicy::default() }
}

/// The rules that Envoy has for one of ours, the most specific first.
pub(super) fn safe(rule: &HttpRule) -> Vec<HttpRule> {
    let Some(forward) = rule.forward() else { return vec![rule.clone()] };
    let retry = &forward.retry;
    let is_safe = |condition: &RetryOn| *condition == RetryOn::ConnectFailure;
    let unsafe_ones = !retry.codes.is_empty() || !retry.on.iter().all(is_safe) || forward.hedge.is_some();
    if retry.non_idempotent || !unsafe_ones || (retry.attempts == 0 && forward.hedge.is_none()) {
        return vec![rule.clone()];
    }
    let mut other = rule.clone();
    if let lorica_model::snapshot::Action::Forward(forward) = &mut other.action {
        forward.retry.on.retain(is_safe);
        forward.retry.codes.clear();
        forward.hedge = None;
        if forward.retry.on.is_empty() {
            forward.retry.attempts = 0;
        }
    }
    let with = |field: FieldMatch| {
        let mut rule = rule.clone();
        rule.matches.headers.push(field);
        rule
    };
    let expression = |name: &str, text: &str| {
        let pattern = Pattern::new(text).ok()?;
        Some(FieldMatch { name: name.to_owned(), value: ValueMatch::Regex(pattern) })
    };
    let keyed = expression("idempotency-key", ".+").map(with);
    match rule.matches.method.as_deref() {
        Some(method) if IDEMPOTENT.split('|').any(|known| known == method) => vec![rule.clone()],
        Some(_) => keyed.into_iter().chain([other]).collect(),
        None => expression(":method", IDEMPOTENT).map(with).into_iter().chain(keyed).chain([other]).collect(),
    }
}
