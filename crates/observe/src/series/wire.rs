//! What is in the frames of logs and segments, as protobuf.

use prost::Message;

/// What a push added: a frame of the log. Texts and series are named once in a log, by numbers that hold within it.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Entry {
    #[prost(uint32, repeated, tag = "1")]
    pub(super) text_numbers: Vec<u32>,
    #[prost(string, repeated, tag = "2")]
    pub(super) texts: Vec<String>,
    #[prost(message, repeated, tag = "3")]
    pub(super) named: Vec<Named>,
    /// The series of each sample.
    #[prost(uint32, repeated, tag = "4")]
    pub(super) series: Vec<u32>,
    /// Its time, less that of the sample before, in milliseconds.
    #[prost(sint64, repeated, tag = "5")]
    pub(super) times: Vec<i64>,
    #[prost(double, repeated, tag = "6")]
    pub(super) values: Vec<f64>,
    #[prost(message, repeated, tag = "7")]
    pub(super) abouts: Vec<About>,
}

/// A series is named.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Named {
    #[prost(uint32, tag = "1")]
    pub(super) number: u32,
    /// Name and value in turn, by the numbers of their texts.
    #[prost(uint32, repeated, tag = "2")]
    pub(super) labels: Vec<u32>,
}

/// What a family is.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct About {
    /// Its name, without what histograms put behind it.
    #[prost(string, tag = "1")]
    pub name: String,
    /// `counter`, `gauge`, `histogram` or `summary`.
    #[prost(string, tag = "2")]
    pub kind: String,
    /// What it says.
    #[prost(string, tag = "3")]
    pub help: String,
}

/// The first frame of a segment.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Opening {
    #[prost(string, repeated, tag = "1")]
    pub(super) texts: Vec<String>,
    #[prost(message, repeated, tag = "2")]
    pub(super) abouts: Vec<About>,
}

/// A series in a segment: each frame but the first.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Kept {
    /// Name and value in turn, as places among the texts.
    #[prost(uint32, repeated, tag = "1")]
    pub(super) labels: Vec<u32>,
    #[prost(sint64, tag = "2")]
    pub(super) first: i64,
    #[prost(sint64, tag = "3")]
    pub(super) last: i64,
    #[prost(uint32, tag = "4")]
    pub(super) count: u32,
    #[prost(bytes = "vec", tag = "5")]
    pub(super) samples: Vec<u8>,
}
