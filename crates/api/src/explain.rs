//! Single requests over the API: tokens to have one recorded in full, and what a tap is asked for and streams. What is told of a request is the
//! model's: [`Hop`] and [`Story`].

use serde::{Deserialize, Serialize};

pub use lorica_model::story::{Attempt, Candidate, Decision, Hop, Place, Seen, Side, Step, Story, Tapped, Told, Who};

/// A token by which one request is recorded in full: `POST /v1/explain`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainToken {
    /// By which its story is asked for.
    pub id: String,
    /// The value of the field `x-lorica-explain`.
    pub token: String,
    /// How long it holds, in seconds.
    pub holds_for: u64,
}

/// What a tap is to show: `GET /v1/tap`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TapRequest {
    /// Whose requests: `service/recording.contact`, `workload/recording-7f3a2c.contact`, `deploy/recording.contact`, `gateway/edge.shop`. None:
    /// everybody's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// A condition in CEL that a request must meet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,
    /// Only those that failed.
    pub failed: bool,
    /// The most requests a second.
    pub rate: u32,
    /// How long, in seconds.
    pub seconds: u64,
    /// Of how many of the proxies it is asked, in percent; at least one.
    pub percent: u8,
}

/// Requests a second that a tap shows at most unless said otherwise.
pub const TAP_RATE: u32 = 100;
/// How long a tap lives unless said otherwise, and at most, in seconds.
pub const TAP_SECONDS: u64 = 600;

impl Default for TapRequest {
    fn default() -> Self {
        Self { target: None, filter: None, failed: false, rate: TAP_RATE, seconds: TAP_SECONDS, percent: 100 }
    }
}

/// A line of what a tap streams.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TapLine {
    /// It has begun, at so many proxies.
    Begun {
        /// How many proxies tell.
        proxies: usize,
        /// Of how many that could.
        of: usize,
    },
    /// A request.
    Request(Box<Tapped>),
    /// So many more requests were not shown since the line before.
    Dropped {
        /// How many.
        requests: u64,
    },
    /// It is over.
    Ended {
        /// Why.
        why: String,
    },
}
