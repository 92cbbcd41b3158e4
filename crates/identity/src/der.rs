//! The little of DER that the SVID extension needs: tagged values in, bytes out, and back.
//!
//! Reads only what DER allows (definite, shortest lengths; tags of one byte). Never allocates for its input.

/// The tag of a SEQUENCE.
pub(crate) const SEQUENCE: u8 = 0x30;

/// The first byte of a context-specific, primitive value with `number` (0 to 30).
pub(crate) const fn context(number: u8) -> u8 {
    0x80 | number
}

/// Appends one value: tag, length, content.
pub(crate) fn put(out: &mut Vec<u8>, tag: u8, content: &[u8]) {
    out.push(tag);
    let length = content.len().to_be_bytes();
    match content.len() {
        0..=0x7f => out.push(length[length.len() - 1]),
        _ => {
            let skip = length.iter().take_while(|byte| **byte == 0).count();
            // At most eight bytes of length, so the count fits the lower bits.
            out.push(0x80 | (length.len() - skip) as u8);
            out.extend_from_slice(&length[skip..]);
        }
    }
    out.extend_from_slice(content);
}

/// Reads values one after the other.
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The next value as tag and content; `Ok(None)` at the end. The error says what DER forbids.
    pub(crate) fn next(&mut self) -> Result<Option<(u8, &'a [u8])>, &'static str> {
        let Some((&tag, rest)) = self.0.split_first() else {
            return Ok(None);
        };
        if tag & 0x1f == 0x1f {
            return Err("a tag is longer than one byte");
        }
        let Some((&first, mut rest)) = rest.split_first() else {
            return Err("a length is missing");
        };
        let length = match first {
            0..=0x7f => usize::from(first),
            // Nothing here is longer than 64 KiB, so one or two bytes of length are enough.
            0x81 | 0x82 => {
                let count = usize::from(first & 0x7f);
                let Some((bytes, after)) = rest.split_at_checked(count) else {
                    return Err("a length is cut off");
                };
                rest = after;
                let length = bytes.iter().fold(0usize, |sum, byte| (sum << 8) | usize::from(*byte));
                if length < 0x80 || bytes[0] == 0 {
                    return Err("a length is not in its shortest form");
                }
                length
            }
            _ => return Err("a length is indefinite or beyond 64 KiB"),
        };
        let Some((content, rest)) = rest.split_at_checked(length) else {
            return Err("a value is cut off");
        };
        self.0 = rest;
        Ok(Some((tag, content)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_every_length_read_back() {
        for length in [0, 1, 0x7f, 0x80, 0xff, 0x100, 0xffff] {
            let content = vec![7; length];
            let mut bytes = Vec::new();
            put(&mut bytes, context(3), &content);
            let mut reader = Reader::new(&bytes);
            assert_eq!(reader.next(), Ok(Some((0x83, &content[..]))), "{length}");
            assert_eq!(reader.next(), Ok(None));
        }
    }

    #[test]
    fn what_der_forbids_is_refused() {
        for bad in [
            &[0x30][..],
            &[0x30, 0x01],
            &[0x30, 0x80, 0, 0],
            &[0x30, 0x81],
            &[0x30, 0x81, 0x05, 1, 2, 3, 4, 5],
            &[0x30, 0x82, 0x00, 0x80],
            &[0x30, 0x83, 0, 0, 1, 9],
            &[0x1f, 0x01, 0x00],
        ] {
            assert!(Reader::new(bad).next().is_err(), "{bad:x?}");
        }
    }
}
