//! Frames of HTTP/3 (RFC 9114, 7): numbers, types, error codes. Pure.

/// Types of frames.
pub(super) mod kind {
    pub(crate) const DATA: u64 = 0x0;
    pub(crate) const HEADERS: u64 = 0x1;
    pub(crate) const CANCEL_PUSH: u64 = 0x3;
    pub(crate) const SETTINGS: u64 = 0x4;
    pub(crate) const PUSH_PROMISE: u64 = 0x5;
    pub(crate) const GOAWAY: u64 = 0x7;
    pub(crate) const MAX_PUSH_ID: u64 = 0xd;
}

/// Whether a frame of this type is one of HTTP/2's that HTTP/3 has not (RFC 9114, 7.2.8).
pub(super) const fn is_of_http2(kind: u64) -> bool {
    matches!(kind, 0x2 | 0x6 | 0x8 | 0x9)
}

/// Types of one-way streams.
pub(super) mod stream {
    pub(crate) const CONTROL: u64 = 0;
    pub(crate) const PUSH: u64 = 1;
    pub(crate) const QPACK_ENCODER: u64 = 2;
    pub(crate) const QPACK_DECODER: u64 = 3;
}

/// Settings.
pub(super) mod setting {
    pub(crate) const MAX_FIELD_SECTION_SIZE: u64 = 0x6;
}

/// Error codes (RFC 9114, 8.1, and RFC 9204, 6).
pub(super) mod code {
    pub(crate) const NO_ERROR: u32 = 0x100;
    pub(crate) const INTERNAL_ERROR: u32 = 0x102;
    pub(crate) const STREAM_CREATION_ERROR: u32 = 0x103;
    pub(crate) const CLOSED_CRITICAL_STREAM: u32 = 0x104;
    pub(crate) const FRAME_UNEXPECTED: u32 = 0x105;
    pub(crate) const FRAME_ERROR: u32 = 0x106;
    pub(crate) const EXCESSIVE_LOAD: u32 = 0x107;
    pub(crate) const ID_ERROR: u32 = 0x108;
    pub(crate) const SETTINGS_ERROR: u32 = 0x109;
    pub(crate) const MISSING_SETTINGS: u32 = 0x10a;
    pub(crate) const REQUEST_REJECTED: u32 = 0x10b;
    pub(crate) const REQUEST_CANCELLED: u32 = 0x10c;
    pub(crate) const REQUEST_INCOMPLETE: u32 = 0x10d;
    pub(crate) const MESSAGE_ERROR: u32 = 0x10e;
    pub(crate) const DECOMPRESSION_FAILED: u32 = 0x200;
    pub(crate) const ENCODER_STREAM_ERROR: u32 = 0x201;
    pub(crate) const DECODER_STREAM_ERROR: u32 = 0x202;
}

/// Appends a number (RFC 9000, 16); what is larger than any is written as the largest.
pub(super) fn put_number(number: u64, out: &mut Vec<u8>) {
    match number {
        0..0x40 => out.push(number as u8),
        0x40..0x4000 => out.extend_from_slice(&(number as u16 | 0x4000).to_be_bytes()),
        0x4000..0x4000_0000 => out.extend_from_slice(&(number as u32 | 0x8000_0000).to_be_bytes()),
        _ => out.extend_from_slice(&(number.min(u64::MAX >> 2) | 0xc000_0000_0000_0000).to_be_bytes()),
    }
}

/// Takes a number; none where more bytes are needed.
pub(super) fn take_number(bytes: &mut &[u8]) -> Option<u64> {
    let first = *bytes.first()?;
    let (number, rest) = bytes.split_at_checked(1 << (first >> 6))?;
    *bytes = rest;
    Some(number[1..].iter().fold(u64::from(first & 0x3f), |number, byte| number << 8 | u64::from(*byte)))
}

/// Appends the header of a frame.
pub(super) fn put_header(kind: u64, length: usize, out: &mut Vec<u8>) {
    put_number(kind, out);
    put_number(length as u64, out);
}
