//! What a policy says of traffic, as written. Every setting stands alone: the most specific policy that writes it decides on it.

use std::collections::BTreeSet;
use std::ops::Range;
use std::time::Duration;

use crate::name::ServicePort;
use crate::snapshot::{Affinity, Algorithm, FailurePercentage, HashOn, HealthQuestion, Nearness, RetryLimit, RetryOn, SuccessRate};

use super::ObjectRef;

/// `TrafficPolicy`: how calls to services are balanced, limited, timed and tried again.
#[derive(Debug, Clone)]
pub struct TrafficPolicy {
    /// What it holds for: services and routes of its namespace; none: calls to every service of its namespace.
    pub targets: Vec<TrafficTarget>,
    /// What it says.
    pub settings: Settings,
    /// Whether it is only counted what it would do.
    pub shadow: bool,
}

/// A service or route that a policy holds for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrafficTarget {
    /// The Service, HTTPRoute or GRPCRoute.
    pub object: ObjectRef,
    /// The name of one of its ports or rules; none: all.
    pub section: Option<String>,
}

/// A value with its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Set<T> {
    /// The value.
    pub value: T,
    /// Its place, for diagnostics.
    pub span: Range<usize>,
}

/// Whether something is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// It is.
    Enabled,
    /// It is not.
    Disabled,
}

/// What a setting is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum About {
    /// The endpoints of a service: it cannot be said of one of its routes.
    Endpoints,
    /// A request: it can be said of a route, too.
    Request,
}

macro_rules! settings {
    ($($(#[$doc:meta])* $field:ident: $type:ty = $path:literal, $about:ident;)+) => {
        /// The settings of traffic. `None`: not written.
        #[derive(Debug, Clone, Default, PartialEq, Eq)]
        pub struct Settings {
            $($(#[$doc])* pub $field: Option<Set<$type>>,)+
        }

        /// For each setting its path in a policy's `spec`.
        #[derive(Debug, Clone, Copy)]
        pub struct SettingNames {
            $($(#[$doc])* pub $field: &'static str,)+
        }

        impl Settings {
            /// For each setting its path in a policy's `spec`.
            pub const NAMES: SettingNames = SettingNames { $($field: $path,)+ };

            /// What is written: each with its path, its place, and what it is about.
            pub fn written(&self) -> impl Iterator<Item = (&'static str, &Range<usize>, About)> {
                [$(self.$field.as_ref().map(|set| ($path, &set.span, About::$about)),)+].into_iter().flatten()
            }
        }
    };
}

settings! {
    /// How an endpoint is chosen among equals.
    algorithm: Algorithm = "balancing.algorithm", Endpoints;
    /// What is hashed where the hash decides.
    hash: Vec<HashOn> = "balancing.hashOn", Request;
    /// How a caller stays with one endpoint.
    affinity: Option<Affinity> = "balancing.affinity", Request;
    /// Whether near endpoints go first.
    prefer: Nearness = "balancing.prefer", Endpoints;
    /// How much more than its share a locality takes before the next one helps.
    overprovisioning: u32 = "balancing.overprovisioningPercent", Endpoints;
    /// Below which healthy share all endpoints are called.
    panic: u32 = "balancing.panicPercent", Endpoints;
    /// For how long a new endpoint is led up to its share.
    slow_start_window: Option<Duration> = "balancing.slowStart.window", Endpoints;
    /// From which share of its weight.
    slow_start_minimum: u32 = "balancing.slowStart.minimumPercent", Endpoints;
    /// Service ports that take over.
    failover: Vec<Set<ServicePort>> = "failover", Endpoints;
    /// The most connections.
    connections: Option<u32> = "limits.connections", Endpoints;
    /// The most requests that wait.
    pending: u32 = "limits.pending", Endpoints;
    /// The most requests under way.
    requests: Option<u32> = "limits.requests", Endpoints;
    /// How long a request waits for an endpoint.
    queue_timeout: Duration = "limits.queueTimeout", Endpoints;
    /// How many of the requests under way may be retries.
    retry_limit: RetryLimit = "limits.retries", Endpoints;
    /// Whether there is a limit that follows how quickly the service answers.
    adaptive: Mode = "limits.adaptive.mode", Endpoints;
    /// Below which it never falls.
    adaptive_minimum: u32 = "limits.adaptive.minimum", Endpoints;
    /// Above which it never rises.
    adaptive_maximum: u32 = "limits.adaptive.maximum", Endpoints;
    /// How often it is set anew.
    adaptive_interval: Duration = "limits.adaptive.interval", Endpoints;
    /// How much slower the service may become before it shrinks.
    adaptive_tolerance: u32 = "limits.adaptive.tolerancePercent", Endpoints;
    /// Whether endpoints are ejected.
    ejection: Mode = "ejection.mode", Endpoints;
    /// After how many answers of 5xx in a row.
    consecutive_5xx: Option<u32> = "ejection.consecutive5xx", Endpoints;
    /// After how many answers of 502, 503, 504 in a row.
    consecutive_gateway: Option<u32> = "ejection.consecutiveGatewayErrors", Endpoints;
    /// After how many failed connections in a row.
    consecutive_local: Option<u32> = "ejection.consecutiveLocalErrors", Endpoints;
    /// How often rates are looked at.
    ejection_interval: Duration = "ejection.interval", Endpoints;
    /// For how long the first time.
    ejection_base: Duration = "ejection.baseTime", Endpoints;
    /// The longest.
    ejection_most: Duration = "ejection.maxTime", Endpoints;
    /// The most endpoints at once.
    ejection_percent: u32 = "ejection.maxPercent", Endpoints;
    /// By the rate of success.
    success_rate: Option<SuccessRate> = "ejection.successRate", Endpoints;
    /// By the share of failures.
    failure_percentage: Option<FailurePercentage> = "ejection.failurePercentage", Endpoints;
    /// What endpoints are asked, if they are.
    health_check: Option<HealthQuestion> = "healthCheck", Endpoints;
    /// How often.
    health_interval: Duration = "healthCheck.interval", Endpoints;
    /// How long an answer may take.
    health_timeout: Duration = "healthCheck.timeout", Endpoints;
    /// After how many failures an endpoint is left out.
    health_unhealthy: u32 = "healthCheck.unhealthyThreshold", Endpoints;
    /// After how many successes it is back.
    health_healthy: u32 = "healthCheck.healthyThreshold", Endpoints;
    /// How long connecting may take.
    connect: Duration = "timeouts.connect", Endpoints;
    /// How long a request may take, all attempts together.
    request: Option<Duration> = "timeouts.request", Request;
    /// How long one attempt may take.
    per_try: Option<Duration> = "timeouts.perTry", Request;
    /// How long an exchange may be silent.
    idle: Option<Duration> = "timeouts.idle", Request;
    /// How long a stream may last.
    stream: Option<Duration> = "timeouts.stream", Request;
    /// How long an idle connection is kept.
    pooled_idle: Duration = "timeouts.pooledIdle", Endpoints;
    /// How old a connection may become.
    connection_age: Option<Duration> = "timeouts.connectionAge", Endpoints;
    /// How often a request is tried again.
    retry_attempts: u32 = "retries.attempts", Request;
    /// After what.
    retry_on: BTreeSet<RetryOn> = "retries.on", Request;
    /// After answers of which statuses.
    retry_codes: Vec<u16> = "retries.statusCodes", Request;
    /// The bound of the first pause.
    backoff_base: Duration = "retries.backoff.base", Request;
    /// The bound that no pause exceeds.
    backoff_most: Duration = "retries.backoff.max", Request;
    /// Whether requests that may have been processed are repeated.
    non_idempotent: bool = "retries.nonIdempotent", Request;
    /// Whether endpoints tried before are avoided.
    avoid_tried: bool = "retries.avoidTried", Request;
    /// The longest `Retry-After` that is waited for.
    retry_after: Duration = "retries.retryAfterMax", Request;
    /// When a second attempt goes out beside a slow one.
    hedge_after: Option<Duration> = "hedging.after", Request;
    /// The most attempts besides the first.
    hedge_attempts: u32 = "hedging.attempts", Request;
}

impl Settings {
    /// Those of ejection.
    pub const EJECTION: [&str; 10] = [
        Self::NAMES.ejection,
        Self::NAMES.consecutive_5xx,
        Self::NAMES.consecutive_gateway,
        Self::NAMES.consecutive_local,
        Self::NAMES.ejection_interval,
        Self::NAMES.ejection_base,
        Self::NAMES.ejection_most,
        Self::NAMES.ejection_percent,
        Self::NAMES.success_rate,
        Self::NAMES.failure_percentage,
    ];

    /// Whether a proxy can tell what a setting would do without doing it.
    #[must_use]
    pub fn is_judged(setting: &str) -> bool {
        let names = Self::NAMES;
        let others = [
            names.request,
            names.per_try,
            names.retry_attempts,
            names.retry_on,
            names.retry_codes,
            names.non_idempotent,
            names.retry_after,
            names.requests,
        ];
        others.contains(&setting) || Self::EJECTION.contains(&setting)
    }
}
