//! Frames of HTTP/2 (RFC 9113, 4 and 6): bytes in, headers and checked payloads out, and back. Pure.

use std::ops::Range;

/// The length of a frame's header, in bytes.
pub(super) const HEADER: usize = 9;
/// The largest payload that we take, and send, in bytes: the standard's default, which every peer takes.
pub(super) const MAX_FRAME: usize = 16 * 1024;
/// What a client says first.
pub(super) const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The largest window (RFC 9113, 6.9.1), in bytes.
pub(super) const MAX_WINDOW: i64 = (1 << 31) - 1;
/// A window before anybody said otherwise, in bytes.
pub(super) const DEFAULT_WINDOW: i64 = 65_535;
/// The largest stream number.
pub(super) const MAX_STREAM: u32 = (1 << 31) - 1;

/// Types of frames.
pub(super) mod kind {
    pub(crate) const DATA: u8 = 0;
    pub(crate) const HEADERS: u8 = 1;
    pub(crate) const PRIORITY: u8 = 2;
    pub(crate) const RST_STREAM: u8 = 3;
    pub(crate) const SETTINGS: u8 = 4;
    pub(crate) const PUSH_PROMISE: u8 = 5;
    pub(crate) const PING: u8 = 6;
    pub(crate) const GOAWAY: u8 = 7;
    pub(crate) const WINDOW_UPDATE: u8 = 8;
    pub(crate) const CONTINUATION: u8 = 9;
}

/// Flags of frames.
pub(super) mod flag {
    pub(crate) const END_STREAM: u8 = 0x1;
    pub(crate) const ACK: u8 = 0x1;
    pub(crate) const END_HEADERS: u8 = 0x4;
    pub(crate) const PADDED: u8 = 0x8;
    pub(crate) const PRIORITY: u8 = 0x20;
}

/// Error codes (RFC 9113, 7).
pub(super) mod code {
    pub(crate) const NO_ERROR: u32 = 0;
    pub(crate) const PROTOCOL_ERROR: u32 = 1;
    pub(crate) const INTERNAL_ERROR: u32 = 2;
    pub(crate) const FLOW_CONTROL_ERROR: u32 = 3;
    pub(crate) const STREAM_CLOSED: u32 = 5;
    pub(crate) const FRAME_SIZE_ERROR: u32 = 6;
    pub(crate) const REFUSED_STREAM: u32 = 7;
    pub(crate) const CANCEL: u32 = 8;
    pub(crate) const COMPRESSION_ERROR: u32 = 9;
    pub(crate) const ENHANCE_YOUR_CALM: u32 = 11;
}

/// What ends a connection: the code that GOAWAY says, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Broken {
    pub(super) code: u32,
    pub(super) why: &'static str,
}

impl Broken {
    pub(super) const fn new(code: u32, why: &'static str) -> Self {
        Self { code, why }
    }

    pub(super) const fn protocol(why: &'static str) -> Self {
        Self::new(code::PROTOCOL_ERROR, why)
    }
}

/// A frame's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) length: usize,
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) stream: u32,
}

impl Header {
    /// The header at the beginning of `bytes`, if all of it is there. The reserved bit is ignored, as the standard asks.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let [a, b, c, kind, flags, s, t, u, v] = *bytes.first_chunk::<HEADER>()?;
        Some(Self { length: u32::from_be_bytes([0, a, b, c]) as usize, kind, flags, stream: u32::from_be_bytes([s, t, u, v]) & MAX_STREAM })
    }

    /// The header's bytes. A length past 24 bits cannot occur: whoever makes frames keeps to [`MAX_FRAME`].
    pub(super) fn write(self) -> [u8; HEADER] {
        let [_, a, b, c] = (self.length as u32).to_be_bytes();
        let [s, t, u, v] = self.stream.to_be_bytes();
        [a, b, c, self.kind, self.flags, s, t, u, v]
    }

    pub(super) fn has(self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// The rules that a header alone can break: sizes, and which frames belong to a stream.
    pub(super) fn check(self) -> Result<(), Broken> {
        const SIZE: u32 = code::FRAME_SIZE_ERROR;
        if self.length > MAX_FRAME {
            return Err(Broken::new(SIZE, "a frame is larger than was allowed"));
        }
        let size = match self.kind {
            kind::PRIORITY => self.length == 5,
            kind::RST_STREAM | kind::WINDOW_UPDATE => self.length == 4,
            kind::SETTINGS => self.length.is_multiple_of(6) && (self.length == 0 || !self.has(flag::ACK)),
            kind::PING => self.length == 8,
            kind::GOAWAY => self.length >= 8,
            _ => true,
        };
        if !size {
            return Err(Broken::new(SIZE, "a frame has not the size of its type"));
        }
        match (self.kind, self.stream) {
            (kind::DATA | kind::HEADERS | kind::PRIORITY | kind::RST_STREAM | kind::CONTINUATION, 0) => {
                Err(Broken::protocol("a frame of a stream names none"))
            }
            (kind::SETTINGS | kind::PING | kind::GOAWAY, 1..) => Err(Broken::protocol("a frame of the connection names a stream")),
            (kind::PUSH_PROMISE, _) => Err(Broken::protocol("a push was not allowed")),
            _ => Ok(()),
        }
    }
}

/// What of a payload of DATA or HEADERS is neither padding nor priority.
pub(super) fn content(header: Header, payload: &[u8]) -> Result<Range<usize>, Broken> {
    let (mut start, mut end) = (0, payload.len());
    if header.has(flag::PADDED) {
        let padding = usize::from(*payload.first().ok_or(Broken::new(code::FRAME_SIZE_ERROR, "a padded frame is empty"))?);
        start = 1;
        end = end.checked_sub(padding).filter(|end| *end >= start).ok_or(Broken::protocol("the padding is longer than its frame"))?;
    }
    if header.kind == kind::HEADERS && header.has(flag::PRIORITY) {
        let priority = payload.get(start..end).and_then(|rest| rest.get(..5));
        check_priority(header.stream, priority.ok_or(Broken::new(code::FRAME_SIZE_ERROR, "there is no room for the priority"))?)?;
        start += 5;
    }
    Ok(start..end)
}

/// A priority is ignored, but not one that names its own stream.
pub(super) fn check_priority(stream: u32, payload: &[u8]) -> Result<(), Broken> {
    if number(payload) & MAX_STREAM == stream { Err(Broken::protocol("a stream depends on itself")) } else { Ok(()) }
}

/// The number that `payload` begins with; what is too short for one reads as 0, which its header has ruled out.
pub(super) fn number(payload: &[u8]) -> u32 {
    payload.first_chunk::<4>().map_or(0, |bytes| u32::from_be_bytes(*bytes))
}

/// A frame of the connection or a stream with a payload of one number.
pub(super) fn with_number(kind: u8, stream: u32, number: u32) -> [u8; HEADER + 4] {
    let mut frame = [0; HEADER + 4];
    frame[..HEADER].copy_from_slice(&Header { length: 4, kind, flags: 0, stream }.write());
    frame[HEADER..].copy_from_slice(&number.to_be_bytes());
    frame
}

/// A PING, or the answer to one.
pub(super) fn ping(flags: u8, opaque: [u8; 8]) -> [u8; HEADER + 8] {
    let mut frame = [0; HEADER + 8];
    frame[..HEADER].copy_from_slice(&Header { length: 8, kind: kind::PING, flags, stream: 0 }.write());
    frame[HEADER..].copy_from_slice(&opaque);
    frame
}

/// A GOAWAY without debug data.
pub(super) fn goaway(last: u32, code: u32) -> [u8; HEADER + 8] {
    let mut frame = [0; HEADER + 8];
    frame[..HEADER].copy_from_slice(&Header { length: 8, kind: kind::GOAWAY, flags: 0, stream: 0 }.write());
    frame[HEADER..HEADER + 4].copy_from_slice(&last.to_be_bytes());
    frame[HEADER + 4..].copy_from_slice(&code.to_be_bytes());
    frame
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_header_breaks_the_rules_of_its_type() {
        use code::{FRAME_SIZE_ERROR as SIZE, PROTOCOL_ERROR as PROTOCOL};
        for (kind, flags, length, stream, expected) in [
            (kind::DATA, 0, MAX_FRAME, 1, None),
            (kind::DATA, 0, MAX_FRAME + 1, 1, Some(SIZE)),
            (kind::DATA, 0, 1, 0, Some(PROTOCOL)),
            (kind::HEADERS, 0, 1, 0, Some(PROTOCOL)),
            (kind::PRIORITY, 0, 4, 1, Some(SIZE)),
            (kind::PRIORITY, 0, 5, 0, Some(PROTOCOL)),
            (kind::RST_STREAM, 0, 5, 1, Some(SIZE)),
            (kind::RST_STREAM, 0, 4, 0, Some(PROTOCOL)),
            (kind::SETTINGS, 0, 5, 0, Some(SIZE)),
            (kind::SETTINGS, flag::ACK, 6, 0, Some(SIZE)),
            (kind::SETTINGS, 0, 6, 1, Some(PROTOCOL)),
            (kind::PING, 0, 7, 0, Some(SIZE)),
            (kind::PING, 0, 8, 1, Some(PROTOCOL)),
            (kind::GOAWAY, 0, 7, 0, Some(SIZE)),
            (kind::GOAWAY, 0, 9, 1, Some(PROTOCOL)),
            (kind::WINDOW_UPDATE, 0, 3, 1, Some(SIZE)),
            (kind::WINDOW_UPDATE, 0, 4, 0, None),
            (kind::PUSH_PROMISE, 0, 8, 1, Some(PROTOCOL)),
            (kind::CONTINUATION, 0, 8, 0, Some(PROTOCOL)),
            (99, 0, 8, 7, None),
        ] {
            let header = Header { length, kind, flags, stream };
            assert_eq!(header.check().err().map(|broken| broken.code), expected, "{header:?}");
        }
    }

    #[test]
    fn padding_and_priority_are_taken_off() {
        let header = |kind, flags| Header { length: 0, kind, flags, stream: 3 };
        let padded = header(kind::DATA, flag::PADDED);
        assert_eq!(content(padded, b"\x02abcde"), Ok(1..4));
        assert_eq!(content(padded, b"\x02ab"), Ok(1..1));
        assert!(content(padded, b"\x03ab").is_err());
        assert!(content(padded, b"").is_err());
        let both = header(kind::HEADERS, flag::PADDED | flag::PRIORITY);
        assert_eq!(content(both, b"\x01\x80\0\0\x01\x10abc"), Ok(6..8));
        assert!(content(both, b"\x01\x80\0\0\x01\x10").is_err());
        assert!(content(both, b"\x00\x80\0\0\x03\x10abc").is_err());
    }

    proptest! {
        #[test]
        fn a_header_reads_back(length in 0..=MAX_FRAME, kind: u8, flags: u8, stream in 0..=MAX_STREAM) {
            let header = Header { length, kind, flags, stream };
            prop_assert_eq!(Header::read(&header.write()), Some(header));
        }
    }
}
