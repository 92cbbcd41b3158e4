//! What holds for calls to the endpoints of a service port: who takes the next one, how many there may be at once, who is left out for a
//! while. What holds for one request (times, attempts) stands with its rule, in `attempt`.

use std::ops::RangeInclusive;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{DEFAULT_POOL_IDLE_TIMEOUT, TrafficTrial};
use crate::name::ServicePort;

/// What holds for calls to the endpoints of a service port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Traffic {
    /// Which endpoint takes the next call.
    pub balancing: Balancing,
    /// How many calls there may be at once.
    pub limits: Limits,
    /// Which endpoints are left out for a while because of how calls to them went; none: no endpoint is.
    pub ejection: Option<Ejection>,
    /// How a proxy asks endpoints whether they are well; none: it does not.
    pub health_check: Option<HealthCheck>,
    /// How long connections are kept.
    pub connections: Connections,
    /// Service ports that take over, in this order, as the own endpoints fail.
    pub failover: Vec<ServicePort>,
    /// What policies that are tried say of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tried: Vec<TrafficTrial>,
}

impl Default for Traffic {
    fn default() -> Self {
        Self {
            balancing: Balancing::default(),
            limits: Limits::default(),
            ejection: Some(Ejection::default()),
            health_check: None,
            connections: Connections::default(),
            failover: Vec::new(),
            tried: Vec::new(),
        }
    }
}

/// Which endpoint takes the next call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Balancing {
    /// How one is chosen among equals.
    pub algorithm: Algorithm,
    /// Whether near endpoints go first. Anywhere, unless said otherwise: where callers and endpoints are spread unevenly, a preference
    /// overloads some, and peak EWMA prefers what answers sooner anyway.
    pub prefer: Nearness,
    /// How much more than its share a locality's healthy endpoints may take before the next locality helps, in percent. Envoy's default: 140,
    /// so that a locality keeps all of its calls until less than 72 % of its endpoints are healthy.
    pub overprovisioning_percent: u32,
    /// When less than this share of all endpoints is healthy, calls go to all of them: the others would be overloaded. Envoy's default: 50.
    pub panic_percent: u32,
    /// How a new endpoint is led up to its full share; none: it has it at once.
    pub slow_start: Option<SlowStart>,
}

impl Default for Balancing {
    fn default() -> Self {
        Self {
            algorithm: Algorithm::default(),
            prefer: Nearness::default(),
            overprovisioning_percent: 140,
            panic_percent: 50,
            slow_start: None,
        }
    }
}

/// How one endpoint is chosen among equals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Algorithm {
    /// The one of two drawn at random whose recent latency, times its calls under way, is less. The default, as Linkerd's: it leaves slow
    /// endpoints alone before they fail. An Envoy uses [`Self::LeastRequest`] in its place.
    #[default]
    PeakEwma,
    /// The one of two drawn at random that has fewer calls under way.
    LeastRequest,
    /// One after another.
    RoundRobin,
    /// Any.
    Random,
    /// By the request's hash, on a ring on which each endpoint has many places.
    RingHash {
        /// The least number of places. Envoy's default: 1,024.
        minimum_size: u32,
    },
    /// By the request's hash, from a table: evener than a ring, and quicker.
    Maglev {
        /// How many places the table has, a prime. Envoy's default: 65,537.
        table_size: u32,
    },
}

impl Algorithm {
    /// The least number of places on a ring unless said otherwise: Envoy's default.
    pub const RING_SIZE: u32 = 1024;
    /// How many places Maglev's table has unless said otherwise: Envoy's default.
    pub const TABLE_SIZE: u32 = 65_537;

    /// Whether the request's hash decides.
    #[must_use]
    pub const fn by_hash(self) -> bool {
        matches!(self, Self::RingHash { .. } | Self::Maglev { .. })
    }
}

/// Whether near endpoints go first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Nearness {
    /// All are equal.
    #[default]
    Anywhere,
    /// Those of the caller's region first, then all others.
    Region,
    /// Those of the caller's zone first, then those of its region, then all others.
    Zone,
}

/// How a new endpoint is led up to its full share: it grows evenly with time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SlowStart {
    /// For how long.
    pub window: Duration,
    /// From which share of its weight, in percent. Envoy's default: 10.
    pub minimum_percent: u32,
}

/// How many calls there may be at once, from one proxy to one service port. More are answered with 503 `overflow`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Connections; none: as many as the calls need.
    pub connections: Option<u32>,
    /// Requests that wait for a connection or an endpoint. Envoy's default: 1,024.
    pub pending: u32,
    /// Requests under way, those that wait not counted; none: no limit but the proxy's own of 10,000 an endpoint.
    pub requests: Option<u32>,
    /// How long a request waits while no endpoint is ready. Once one has waited in vain, others are answered at once until an endpoint is.
    pub queue_timeout: Duration,
    /// How many of the requests under way may be retries.
    pub retries: RetryLimit,
    /// A limit that follows how quickly the service answers; none: none.
    pub adaptive: Option<Adaptive>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: None,
            pending: 1024,
            requests: None,
            queue_timeout: Duration::from_secs(1),
            retries: RetryLimit::default(),
            adaptive: None,
        }
    }
}

/// How many of the requests under way may be retries or hedges. What never reached an endpoint does not count: it adds nothing to its load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum RetryLimit {
    /// A share of the requests under way, so that retries cannot multiply the load of a service that fails.
    Budget {
        /// In percent. Envoy's and Linkerd's default: 20.
        percent: u32,
        /// However few requests there are, so many retries are allowed. 10 by default, the floor of Linkerd and of the Gateway API's retry budgets:
        /// with Envoy's 3 an endpoint that dies with a few requests in flight fails some of them.
        minimum: u32,
    },
    /// This many.
    AtMost(u32),
}

impl RetryLimit {
    /// The most retries while `under_way` requests are, waiting ones and retries included: Envoy's arithmetic.
    #[must_use]
    pub fn most(self, under_way: u32) -> u32 {
        match self {
            Self::Budget { percent, minimum } => {
                let share = u64::from(under_way) * u64::from(percent) / 100;
                u32::try_from(share).unwrap_or(u32::MAX).max(minimum)
            }
            Self::AtMost(most) => most,
        }
    }
}

impl Default for RetryLimit {
    fn default() -> Self {
        Self::Budget { percent: 20, minimum: 10 }
    }
}

/// A limit of requests under way that grows while latency stays near its least, and shrinks when it rises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Adaptive {
    /// It never falls below. Envoy's default: 3.
    pub minimum: u32,
    /// It never rises above. Envoy's default: 1,000.
    pub maximum: u32,
    /// How often it is set anew. Envoy's usual: 100 ms.
    pub interval: Duration,
    /// How much slower than at its best a service may become before the limit shrinks, in percent. Envoy's default: 25.
    pub tolerance_percent: u32,
}

impl Default for Adaptive {
    fn default() -> Self {
        Self { minimum: 3, maximum: 1000, interval: Duration::from_millis(100), tolerance_percent: 25 }
    }
}

/// Which endpoints are left out for a while because of how calls to them went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ejection {
    /// After so many answers of 5xx one after another, failures of the connection counted apart; none: they do not count. Off unless asked for:
    /// an app's own 500 says nothing of the endpoint.
    pub consecutive_5xx: Option<u32>,
    /// After so many answers of 502, 503 or 504 one after another. 5 by default.
    pub consecutive_gateway: Option<u32>,
    /// After so many connections in a row that failed, broke or took too long. 5 by default.
    pub consecutive_local: Option<u32>,
    /// How often rates are looked at, and ended ejections looked for. Envoy's default: 10 s.
    pub interval: Duration,
    /// For how long an endpoint is left out the first time; each time in a row that much longer. Envoy's default: 30 s.
    pub base_time: Duration,
    /// The longest. Envoy's default: 300 s.
    pub max_time: Duration,
    /// The most endpoints that are left out at once, in percent; one always may be. Envoy's default: 10.
    pub max_percent: u32,
    /// By the rate of success, beside that of the others.
    pub success_rate: Option<SuccessRate>,
    /// By the share of failures.
    pub failure_percentage: Option<FailurePercentage>,
}

impl Default for Ejection {
    fn default() -> Self {
        Self {
            consecutive_5xx: None,
            consecutive_gateway: Some(5),
            consecutive_local: Some(5),
            interval: Duration::from_secs(10),
            base_time: Duration::from_secs(30),
            max_time: Duration::from_secs(300),
            max_percent: 10,
            success_rate: None,
            failure_percentage: None,
        }
    }
}

/// Left out is whose rate of success lies this far below the mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SuccessRate {
    /// Only where so many endpoints had enough calls. Envoy's default: 5.
    pub minimum_hosts: u32,
    /// How many calls in an interval are enough. Envoy's default: 100.
    pub request_volume: u32,
    /// How many standard deviations below the mean, in thousandths. Envoy's default: 1,900.
    pub stdev_factor: u32,
}

/// Left out is who failed this share of its calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FailurePercentage {
    /// The share, in percent. Envoy's default: 85.
    pub threshold: u32,
    /// Only where so many endpoints had enough calls. Envoy's default: 5.
    pub minimum_hosts: u32,
    /// How many calls in an interval are enough. Envoy's default: 50.
    pub request_volume: u32,
}

/// How a proxy asks endpoints whether they are well. Only those that it calls.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HealthCheck {
    /// What is asked.
    pub ask: HealthQuestion,
    /// How often. 5 s by default.
    pub interval: Duration,
    /// How long an answer may take. 2 s by default.
    pub timeout: Duration,
    /// After so many failures in a row an endpoint is left out. 3 by default.
    pub unhealthy_threshold: u32,
    /// After so many successes in a row it is back. 2 by default.
    pub healthy_threshold: u32,
}

/// What is asked of an endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum HealthQuestion {
    /// A GET.
    Http {
        /// The path.
        path: String,
        /// The host; none: the service port's name.
        host: Option<String>,
        /// The statuses that are well; 200 alone by default.
        expected: Vec<RangeInclusive<u16>>,
    },
    /// gRPC's health service.
    Grpc {
        /// The service that is asked about; empty: the server as a whole.
        service: String,
    },
    /// Whether it takes a connection.
    Tcp,
}

/// How long connections are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Connections {
    /// How long an idle one of HTTP/1 is kept for the next request, at most: where the service turns out to close earlier, less.
    pub idle: Duration,
    /// How old one may become before it takes no new request; none: any age.
    pub max_age: Option<Duration>,
}

impl Default for Connections {
    fn default() -> Self {
        Self { idle: DEFAULT_POOL_IDLE_TIMEOUT, max_age: None }
    }
}
