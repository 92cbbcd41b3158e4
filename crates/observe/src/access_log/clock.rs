//! Times in words: the last second is remembered, since most lines share it with others.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;

/// Writes times as RFC 3339 has them, in UTC and to the millisecond.
#[derive(Debug, Default)]
pub(super) struct Clock {
    second: Option<u64>,
    /// `2026-11-20T22:40:07`.
    words: String,
}

/// A time without the point and the `Z` around its milliseconds.
pub(super) struct Written<'c> {
    words: &'c str,
    /// Three digits.
    pub(super) milliseconds: [u8; 3],
}

impl Written<'_> {
    /// `2026-11-20T22:40:07`.
    pub(super) fn seconds(&self) -> &[u8] {
        self.words.as_bytes()
    }
}

impl Clock {
    /// A time in words; none where it has none.
    #[inline]
    pub(super) fn written(&mut self, time: SystemTime) -> Option<Written<'_>> {
        let since = time.duration_since(SystemTime::UNIX_EPOCH).ok()?;
        if self.second != Some(since.as_secs()) {
            self.words.clear();
            let second = SystemTime::UNIX_EPOCH + Duration::from_secs(since.as_secs());
            let written = Timestamp::try_from(second).map(|second| write!(self.words, "{second:.0}"));
            // It ends with `Z`, which the milliseconds come before.
            if !matches!(written, Ok(Ok(()))) || self.words.pop() != Some('Z') {
                self.second = None;
                return None;
            }
            self.second = Some(since.as_secs());
        }
        let milliseconds = since.subsec_millis();
        let digit = |place: u32| b'0' + u8::try_from(milliseconds / place % 10).unwrap_or_default();
        Some(Written { words: &self.words, milliseconds: [digit(100), digit(10), digit(1)] })
    }
}
