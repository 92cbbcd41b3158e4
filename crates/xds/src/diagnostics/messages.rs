//! The messages of the diagnostics stream. What a hop tells is JSON inside, as the API has it: whoever joins and shows it reads nothing twice.

use envoy_types::pb::envoy::config::core::v3::Node;

/// What a proxy says.
#[derive(Clone, PartialEq, prost::Message)]
pub struct FromProxy {
    /// It.
    #[prost(oneof = "Said", tags = "1, 2, 3, 4, 5")]
    pub said: Option<Said>,
}

/// What a proxy says, by what it is.
#[derive(Clone, PartialEq, prost::Oneof)]
#[expect(clippy::large_enum_variant, reason = "the largest is the first of each stream, and few wait at once")]
pub enum Said {
    /// Who it is: the first message, and no other.
    #[prost(message, tag = "1")]
    Node(Node),
    /// What it remembers of a request that was asked for.
    #[prost(message, tag = "2")]
    Found(Found),
    /// A request that was recorded in full.
    #[prost(message, tag = "3")]
    Explained(Explained),
    /// A request that a tap shows.
    #[prost(message, tag = "4")]
    Tapped(TappedOne),
    /// Requests that a tap could not show.
    #[prost(message, tag = "5")]
    Dropped(Dropped),
}

/// An answer to [`LookUp`].
#[derive(Clone, PartialEq, prost::Message)]
pub struct Found {
    /// The number of the question.
    #[prost(uint64, tag = "1")]
    pub question: u64,
    /// What it remembers, each in JSON. The bound of a message holds for all together; what is over it is left out.
    #[prost(bytes = "vec", repeated, tag = "2")]
    pub hops: Vec<Vec<u8>>,
}

/// A request that was recorded in full.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Explained {
    /// Under what: what its token says.
    #[prost(string, tag = "1")]
    pub id: String,
    /// What became of it, in JSON.
    #[prost(bytes = "vec", tag = "2")]
    pub hop: Vec<u8>,
}

/// A request that a tap shows.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TappedOne {
    /// The number of the tap.
    #[prost(uint64, tag = "1")]
    pub tap: u64,
    /// What became of it, in JSON.
    #[prost(bytes = "vec", tag = "2")]
    pub request: Vec<u8>,
}

/// Requests that a tap could not show.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Dropped {
    /// The number of the tap.
    #[prost(uint64, tag = "1")]
    pub tap: u64,
    /// How many since the last such message.
    #[prost(uint64, tag = "2")]
    pub requests: u64,
}

/// What the control plane asks.
#[derive(Clone, PartialEq, prost::Message)]
pub struct FromControl {
    /// It.
    #[prost(oneof = "Asked", tags = "1, 2, 3")]
    pub asked: Option<Asked>,
}

/// What the control plane asks, by what it is.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Asked {
    /// What is remembered of a request?
    #[prost(message, tag = "1")]
    LookUp(LookUp),
    /// Show requests from now on.
    #[prost(message, tag = "2")]
    Tap(Tap),
    /// No more of this tap.
    #[prost(uint64, tag = "3")]
    EndTap(u64),
}

/// A question for a request that is over.
#[derive(Clone, PartialEq, prost::Message)]
pub struct LookUp {
    /// The number of the question, which the answer repeats.
    #[prost(uint64, tag = "1")]
    pub question: u64,
    /// Its `x-request-id`; empty: any.
    #[prost(string, tag = "2")]
    pub request_id: String,
    /// Its trace, 32 digits; empty: any.
    #[prost(string, tag = "3")]
    pub trace_id: String,
}

/// A tap.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Tap {
    /// Its number.
    #[prost(uint64, tag = "1")]
    pub tap: u64,
    /// The condition in CEL that a request must meet; empty: all do.
    #[prost(string, tag = "2")]
    pub filter: String,
    /// Only those that failed.
    #[prost(bool, tag = "3")]
    pub failed: bool,
    /// The most requests a second, of this proxy.
    #[prost(uint32, tag = "4")]
    pub rate: u32,
    /// How long it lives without being ended, in seconds.
    #[prost(uint64, tag = "5")]
    pub seconds: u64,
}
