//! What stands in a segment's file: after its first bytes, frames. Each has its length, its checksum, and a protobuf message: where records come
//! from, what they are called, or a record.
//!
//! A segment explains itself: whatever a record refers to stands before it in the same file.

use bytes::{Buf, Bytes};
use opentelemetry_proto::tonic::common::v1::InstrumentationScope;
use opentelemetry_proto::tonic::resource::v1::Resource;
use prost::{Message, Oneof};

/// The first bytes of a segment; the last one is the version of what follows.
pub(super) const MAGIC: [u8; 8] = *b"lorica\x00\x01";
/// Bytes before a frame's message: its length and its CRC-32, both little-endian.
pub(super) const HEAD: usize = 8;
/// The largest message that is believed when a file is read back: a record of the largest size, and what stands around it.
const MAX_MESSAGE: usize = super::MAX_RECORD + 4096;

/// One message.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Frame {
    #[prost(oneof = "Part", tags = "1, 2, 3")]
    pub(super) part: Option<Part>,
}

/// What a frame is about.
#[derive(Clone, PartialEq, Oneof)]
pub(super) enum Part {
    /// The next number of sources is this one's.
    #[prost(message, tag = "1")]
    Source(Source),
    /// The next number of names is this one's.
    #[prost(message, tag = "2")]
    Name(Name),
    /// A record.
    #[prost(message, tag = "3")]
    Record(Stored),
}

/// Where records come from.
#[derive(Clone, PartialEq, Message)]
pub struct Source {
    /// Who sent them.
    #[prost(message, optional, tag = "1")]
    pub resource: Option<Resource>,
    /// Which part of it made them.
    #[prost(message, optional, tag = "2")]
    pub scope: Option<InstrumentationScope>,
}

/// What a record is called.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub(super) struct Name {
    /// The service: `recording.contact` where its namespace is known, else its name alone.
    #[prost(string, tag = "1")]
    pub(super) service: String,
    /// The operation; empty for log records.
    #[prost(string, tag = "2")]
    pub(super) operation: String,
    /// OTLP's number of the span's kind; 0 for log records.
    #[prost(uint32, tag = "3")]
    pub(super) kind: u32,
}

/// A record, with what the index has of it in front.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Stored {
    #[prost(uint32, tag = "1")]
    pub(super) source: u32,
    #[prost(uint32, tag = "2")]
    pub(super) name: u32,
    #[prost(fixed64, tag = "3")]
    pub(super) trace_high: u64,
    #[prost(fixed64, tag = "4")]
    pub(super) trace_low: u64,
    /// When it began, in nanoseconds since 1970.
    #[prost(fixed64, tag = "5")]
    pub(super) time: u64,
    /// How long it took, in nanoseconds.
    #[prost(uint64, tag = "6")]
    pub(super) duration: u64,
    #[prost(bool, tag = "7")]
    pub(super) failed: bool,
    /// The span or the log record itself.
    #[prost(bytes = "bytes", tag = "8")]
    pub(super) body: Bytes,
}

/// Appends a frame. How many bytes its message has.
pub(super) fn append(out: &mut Vec<u8>, part: Part) -> usize {
    let frame = Frame { part: Some(part) };
    let begin = out.len();
    out.extend_from_slice(&[0; HEAD]);
    frame.encode_raw(out);
    let message = out.len() - begin - HEAD;
    let sum = crc32fast::hash(out.get(begin + HEAD..).unwrap_or_default());
    // Messages are far smaller than what the length can say.
    let length = u32::try_from(message).unwrap_or(u32::MAX);
    if let Some(head) = out.get_mut(begin..begin + HEAD) {
        let (first, second) = head.split_at_mut(4);
        first.copy_from_slice(&length.to_le_bytes());
        second.copy_from_slice(&sum.to_le_bytes());
    }
    message
}

/// The frame at the front of `bytes`, which goes on behind it. None at the end, and where what follows is no whole frame.
pub(super) fn next(bytes: &mut Bytes) -> Option<Part> {
    let mut head = bytes.get(..HEAD)?;
    let (length, sum) = (head.get_u32_le() as usize, head.get_u32_le());
    // A disk that was cut off may leave zeros: a frame without a message is none.
    if length == 0 || length > MAX_MESSAGE || bytes.len() < HEAD + length {
        return None;
    }
    let message = bytes.slice(HEAD..HEAD + length);
    if crc32fast::hash(&message) != sum {
        return None;
    }
    let part = Frame::decode(message).ok()?.part?;
    bytes.advance(HEAD + length);
    Some(part)
}
