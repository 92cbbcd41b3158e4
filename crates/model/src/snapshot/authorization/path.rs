//! Paths in policies, and the ways in which a path that came can be read.
//!
//! Between a proxy and an app a path can mean two things: `/a//b`, `/a;x/b` and `/%61/b` are for many apps what `/a/b` is. Whoever decides by paths has to
//! decide for all of these readings, so a rule allows a request only if it allows each reading, and denies it if it denies any. What no honest client
//! sends (dot segments, backslashes, control characters) is not read at all.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Paths that are meant: `/list`, `/recordings/{id}/audio` (any one segment), `/recordings/*` (all below, at any depth).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PathPattern {
    written: String,
    segments: Vec<Segment>,
    /// Whether all below is meant, too.
    below: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Segment {
    /// This text.
    Literal(String),
    /// Any text, but not none.
    Any,
}

/// Why a text is no pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{written}` is no path for a rule: {why}")]
pub struct PathPatternError {
    /// What was written.
    pub written: String,
    /// What is wrong with it.
    pub why: &'static str,
}

/// The longest pattern, in bytes.
const LONGEST: usize = 1024;

impl PathPattern {
    /// The pattern as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.written
    }

    /// Whether all below is meant, too.
    #[must_use]
    pub fn takes_below(&self) -> bool {
        self.below
    }

    pub(super) fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// The segments that are text, none where any is meant.
    pub fn texts(&self) -> impl Iterator<Item = Option<&str>> {
        self.segments.iter().map(|segment| if let Segment::Literal(text) = segment { Some(text.as_str()) } else { None })
    }

    /// Whether it means `path`. `loosely`: in any case of letters, with a slash at the end or without, and with `/*` the place itself too, as some apps take it.
    #[must_use]
    pub fn takes(&self, path: &str, loosely: bool) -> bool {
        let Some(path) = path.strip_prefix('/') else { return self.below && self.segments.is_empty() };
        let mut came = path.split('/');
        for segment in &self.segments {
            let fits = match (segment, came.next()) {
                (_, None) => false,
                (Segment::Literal(text), Some(came)) if loosely => text.eq_ignore_ascii_case(came),
                (Segment::Literal(text), Some(came)) => text == came,
                (Segment::Any, Some(came)) => !came.is_empty(),
            };
            if !fits {
                return false;
            }
        }
        match came.next() {
            None => loosely || !self.below,
            Some(_) if self.below => true,
            Some(rest) => loosely && rest.is_empty() && came.next().is_none(),
        }
    }
}

impl FromStr for PathPattern {
    type Err = PathPatternError;

    fn from_str(text: &str) -> Result<Self, PathPatternError> {
        let fail = |why| Err(PathPatternError { written: text.to_owned(), why });
        if text.len() > LONGEST {
            return fail("it has more than 1024 characters");
        }
        let Some(rest) = text.strip_prefix('/') else {
            // What people write for everything.
            return if text == "*" {
                Ok(Self { written: text.to_owned(), segments: Vec::new(), below: true })
            } else {
                fail("it begins with `/`")
            };
        };
        let (rest, below) = match rest.strip_suffix('*') {
            Some("") => ("", true),
            Some(before) => match before.strip_suffix('/') {
                Some(before) => (before, true),
                None => return fail("`*` stands alone after the last slash, for all below; `{name}` is any one segment"),
            },
            None => (rest, false),
        };
        let mut segments = Vec::new();
        let mut written = if below && rest.is_empty() { None } else { Some(rest.split('/')) };
        for segment in written.iter_mut().flatten() {
            let named = segment.strip_prefix('{').and_then(|segment| segment.strip_suffix('}'));
            segments.push(match named {
                Some(name) if name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-')) && !name.is_empty() => {
                    Segment::Any
                }
                Some(_) => return fail("a segment in braces has a name of letters, digits, `_` and `-`"),
                None if segment.contains(['{', '}', '*']) => return fail("braces and `*` stand for whole segments"),
                None => Segment::Literal(segment.to_owned()),
            });
        }
        let literals =
            || segments.iter().filter_map(|segment| if let Segment::Literal(text) = segment { Some(text.as_str()) } else { None });
        // The last segment of a path that ends with a slash is empty.
        let inner = segments.len().saturating_sub(usize::from(!below));
        if segments.iter().take(inner).any(|segment| matches!(segment, Segment::Literal(text) if text.is_empty())) {
            return fail("it has an empty segment, which never comes in");
        }
        if literals().any(|text| matches!(text, "." | "..")) {
            return fail("a path with dot segments never comes in");
        }
        if literals().any(|text| text.contains(';')) {
            return fail("what follows a `;` in a segment is not looked at; leave it out");
        }
        if literals().flat_map(str::bytes).any(|byte| byte.is_ascii_control() || matches!(byte, b'?' | b'#' | b'\\')) {
            return fail("it has a character that no path has; the query is not part of it");
        }
        for segment in &mut segments {
            let Segment::Literal(text) = segment else { continue };
            match Reading::of(&format!("/{}", text.replace(' ', "%20"))) {
                Reading::Plain => {}
                Reading::Decoded(path) => path.trim_start_matches('/').clone_into(text),
                Reading::Twofold(..) | Reading::Ambiguous(_) => return fail("write characters that need no `%` as they are"),
            }
        }
        Ok(Self { written: text.to_owned(), segments, below })
    }
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.written)
    }
}

impl Serialize for PathPattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.written.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for PathPattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Cow::<'de, str>::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// How a path that came can be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reading {
    /// As it came.
    Plain,
    /// As this: what cannot stand in a path unencoded is decoded.
    Decoded(String),
    /// In two ways: so, and decoded as a whole, without parameters, with slashes joined.
    Twofold(String, String),
    /// In ways that nobody can tell.
    Ambiguous(&'static str),
}

impl Reading {
    /// The readings of `path`, which has no query.
    #[must_use]
    pub fn of(path: &str) -> Self {
        let mut before = 0;
        let plain = path.bytes().all(|byte| {
            let fits = match byte {
                b'%' | b';' | b'\\' | b'#' | 0..=0x20 | 0x7f => false,
                b'/' | b'.' => before != b'/',
                _ => true,
            };
            before = byte;
            fits
        });
        if plain { Self::Plain } else { Self::closely(path).unwrap_or_else(Self::Ambiguous) }
    }

    fn closely(path: &str) -> Result<Self, &'static str> {
        let (mut spelled, mut decoded) = (Vec::with_capacity(path.len()), Vec::with_capacity(path.len()));
        let mut bytes = path.bytes();
        while let Some(byte) = bytes.next() {
            match byte {
                b'\\' => return Err("a backslash"),
                b'#' => return Err("a fragment"),
                0..=0x20 | 0x7f => return Err("a control character or a space"),
                b'%' => {
                    let mut digit = || bytes.next().and_then(|digit| char::from(digit).to_digit(16));
                    let (Some(high), Some(low)) = (digit(), digit()) else { return Err("a `%` without two digits") };
                    let byte = u8::try_from(high * 16 + low).unwrap_or_default();
                    match byte {
                        b'\\' => return Err("an encoded backslash"),
                        0..=0x1f | 0x7f => return Err("an encoded control character"),
                        // What is encoded twice is decoded once by some apps, and twice by others.
                        b'%' => return Err("an encoded `%`"),
                        _ if must_be_encoded(byte) => spelled.push(byte),
                        _ => spelled.extend_from_slice(format!("%{byte:02X}").as_bytes()),
                    }
                    decoded.push(byte);
                }
                byte => {
                    spelled.push(byte);
                    decoded.push(byte);
                }
            }
        }
        let mut read = Vec::with_capacity(decoded.len());
        let mut segments = decoded.split(|byte| *byte == b'/').skip(1).peekable();
        while let Some(segment) = segments.next() {
            let name = segment.split(|byte| *byte == b';').next().unwrap_or_default();
            if matches!(name, b"." | b"..") {
                return Err("a dot segment");
            }
            if !name.is_empty() || segments.peek().is_none() {
                read.push(b'/');
                read.extend_from_slice(name);
            }
        }
        let text = |bytes| String::from_utf8(bytes).map_err(|_| "encoded bytes that are no text");
        let (spelled, read) = (text(spelled)?, text(read)?);
        Ok(match spelled == read {
            true if spelled == path => Self::Plain,
            true => Self::Decoded(spelled),
            false => Self::Twofold(spelled, read),
        })
    }
}

/// Whether a byte stands in a path only encoded, so that its encoded form means nothing else than itself to anybody.
fn must_be_encoded(byte: u8) -> bool {
    byte >= 0x80 || matches!(byte, b' ' | b'"' | b'<' | b'>' | b'^' | b'`' | b'{' | b'|' | b'}')
}
