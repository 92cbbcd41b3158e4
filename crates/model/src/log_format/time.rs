//! How times are written: a default, or a format of the C library's kind with Envoy's additions.

use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};

/// The form of a time, in UTC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TimeFormat {
    /// RFC 3339 to the millisecond: `2026-11-20T22:40:07.250Z`.
    Default,
    /// A format, in the words of the library that writes it.
    Format(Box<str>),
}

impl TimeFormat {
    /// Reads a format as Envoy has it: conversions of `strftime`, `%s` (seconds since 1970), `%f` and `%1f` to `%9f` (fractions of a
    /// second), and `%E3S`, `%E*S`, `%E4Y`, `%Ez` of its library.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut format = String::with_capacity(text.len() + 8);
        let mut rest = text;
        while let Some((before, conversion)) = rest.split_once('%') {
            format.push_str(before);
            let (made, after) = conversion_of(conversion)?;
            format.push_str(&made);
            rest = after;
        }
        format.push_str(rest);
        let sample = Zoned::new(Timestamp::UNIX_EPOCH, TimeZone::UTC);
        match jiff::fmt::strtime::format(&format, &sample) {
            Ok(_) => Ok(Self::Format(format.into())),
            Err(error) => Err(format!("`{text}` is no format of a time: {error}")),
        }
    }

    /// A time in this form; none where it has none.
    #[must_use]
    pub fn written(&self, time: Timestamp) -> Option<String> {
        let format = match self {
            Self::Default => "%Y-%m-%dT%H:%M:%S.%3fZ",
            Self::Format(format) => format,
        };
        jiff::fmt::strtime::format(format, &Zoned::new(time, TimeZone::UTC)).ok()
    }
}

/// What `text`, which follows a percent sign, begins with, in the library's words, and what comes behind it.
fn conversion_of(text: &str) -> Result<(String, &str), String> {
    let odd = || format!("`%{}` is no part of a time", text.chars().take(3).collect::<String>());
    let mut letters = text.chars();
    let first = letters.next().ok_or_else(|| "the format ends with a single `%`".to_owned())?;
    Ok(match first {
        'n' => return Err("`%n` would end the line".to_owned()),
        'f' => ("%9f".to_owned(), letters.as_str()),
        'E' => match letters.next().ok_or_else(odd)? {
            'z' => ("%:z".to_owned(), letters.as_str()),
            'T' => ("T".to_owned(), letters.as_str()),
            '*' if letters.next() == Some('S') => ("%S%.f".to_owned(), letters.as_str()),
            '4' if letters.clone().next() == Some('Y') => {
                letters.next();
                ("%Y".to_owned(), letters.as_str())
            }
            digit @ '1'..='9' if letters.next() == Some('S') => (format!("%S.%{digit}f"), letters.as_str()),
            '0' if letters.next() == Some('S') => ("%S".to_owned(), letters.as_str()),
            _ => return Err(odd()),
        },
        other => (format!("%{other}"), letters.as_str()),
    })
}
