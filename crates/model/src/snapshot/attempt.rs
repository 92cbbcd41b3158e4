//! How long a request may take, when it is tried again, and to which endpoint it belongs.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::DEFAULT_IDLE_TIMEOUT;

/// How long a rule's requests may take. `None`: no limit, as long as something moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timeouts {
    /// From the end of the request's head to the end of the answer, all attempts together.
    pub request: Option<Duration>,
    /// The same for one attempt.
    pub backend_request: Option<Duration>,
    /// How long neither side may send a byte.
    pub idle: Option<Duration>,
    /// How long a stream may last, upgraded ones too, whatever moves on it.
    pub stream: Option<Duration>,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { request: None, backend_request: None, idle: Some(DEFAULT_IDLE_TIMEOUT), stream: None }
    }
}

/// When a request is tried again.
///
/// Whatever it says: once an upstream may have processed a request, it is sent again only if its method is idempotent, it carries an
/// `Idempotency-Key`, or [`Self::non_idempotent`] says that the service does not mind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Retry {
    /// How often, the first try not counted. 2 by default, as in Istio.
    pub attempts: u32,
    /// After what. By default after connections that did not come about or broke, and attempts that took too long.
    pub on: BTreeSet<RetryOn>,
    /// After answers of these statuses, too.
    pub codes: Vec<u16>,
    /// How long to wait before each.
    pub pause: Pause,
    /// Whether requests are repeated that may have been processed, of methods that are not idempotent.
    pub non_idempotent: bool,
    /// Whether endpoints tried before are avoided while others are there.
    pub avoid_tried: bool,
    /// An answer's `Retry-After` is waited for in place of the pause, where it is no longer than this; a longer one is not retried.
    pub retry_after_most: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            attempts: 2,
            on: [RetryOn::ConnectFailure, RetryOn::Reset, RetryOn::Timeout].into(),
            codes: Vec::new(),
            pause: Pause::default(),
            non_idempotent: false,
            avoid_tried: true,
            retry_after_most: Duration::from_secs(5),
        }
    }
}

/// After what a request is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RetryOn {
    /// Nothing was sent: no connection came about, or the endpoint refused the stream unprocessed.
    ConnectFailure,
    /// The connection or stream broke before an answer.
    Reset,
    /// The attempt took longer than the time for one.
    Timeout,
    /// The answer is 502, 503 or 504.
    GatewayError,
    /// The answer is of 5xx.
    ServerError,
    /// gRPC answered `CANCELLED`, without a message before.
    GrpcCancelled,
    /// The same with `DEADLINE_EXCEEDED`.
    GrpcDeadlineExceeded,
    /// The same with `RESOURCE_EXHAUSTED`.
    GrpcResourceExhausted,
    /// The same with `INTERNAL`.
    GrpcInternal,
    /// The same with `UNAVAILABLE`.
    GrpcUnavailable,
}

impl RetryOn {
    /// The condition that an answer's gRPC status fulfils.
    #[must_use]
    pub const fn of_grpc(code: u32) -> Option<Self> {
        match code {
            1 => Some(Self::GrpcCancelled),
            4 => Some(Self::GrpcDeadlineExceeded),
            8 => Some(Self::GrpcResourceExhausted),
            13 => Some(Self::GrpcInternal),
            14 => Some(Self::GrpcUnavailable),
            _ => None,
        }
    }
}

/// How long to wait before another attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Pause {
    /// At least this long, as the Gateway API has it, and at most half as long again.
    AtLeast(Duration),
    /// Anything up to a bound that doubles with each attempt, from `base` to `most`: Envoy's, whose defaults are 25 ms and 250 ms.
    Growing {
        /// The bound of the first pause.
        base: Duration,
        /// The bound that it never exceeds.
        most: Duration,
    },
}

impl Default for Pause {
    fn default() -> Self {
        Self::Growing { base: Duration::from_millis(25), most: Duration::from_millis(250) }
    }
}

impl Pause {
    /// How long to wait before the retry of this number, 1 the first. `random` is uniform in 0..1.
    #[must_use]
    pub fn before(self, retry: u32, random: f64) -> Duration {
        match self {
            Self::AtLeast(least) => least.mul_f64(1.0 + random / 2.0),
            Self::Growing { base, most } => {
                let doubled = base.saturating_mul(2u32.saturating_pow(retry.min(31)) - 1);
                doubled.min(most).mul_f64(random)
            }
        }
    }
}

/// When a second attempt goes out beside one that is slow to answer. Only where repeating is safe, within the limit of retries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hedge {
    /// After so long without an answer's head.
    pub after: Duration,
    /// The most attempts besides the first.
    pub attempts: u32,
}

/// What of a request is hashed where the hash decides on the endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum HashOn {
    /// A header field's value, by lower-case name.
    Header(String),
    /// A cookie's value.
    Cookie {
        /// Its name.
        name: String,
        /// For how long it is given to a caller that has none; none: it is not given, and such callers are not hashed by it.
        ttl: Option<Duration>,
        /// The path that it is given for.
        path: String,
    },
    /// A query parameter's value.
    Query(String),
    /// The address that the call comes from.
    SourceAddress,
}

/// A caller's requests stay with the endpoint that its first one went to, for as long as that is there. A cookie tells which.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Affinity {
    /// The cookie's name.
    pub cookie: String,
    /// For how long it holds; none: for as long as the browser is open.
    pub ttl: Option<Duration>,
    /// The path that it is given for.
    pub path: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_their_bound() {
        let pause = Pause::default();
        let most: Vec<_> = (1..6).map(|retry| pause.before(retry, 1.0).as_millis()).collect();
        assert_eq!(most, [25, 75, 175, 250, 250]);
        assert_eq!(pause.before(1, 0.0), Duration::ZERO);
        assert_eq!(Pause::AtLeast(Duration::from_secs(1)).before(9, 1.0), Duration::from_millis(1500));
        assert_eq!(pause.before(u32::MAX, 1.0).as_millis(), 250);
    }
}
