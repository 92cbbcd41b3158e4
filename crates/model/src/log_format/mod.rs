//! Formats of access logs in Envoy's words: text with operators between percent signs, and objects of such texts.
//!
//! In goes text; out comes a list of [`Part`]s, or every mistake with its place. Operators mean what Envoy's documentation of access logs says;
//! those that tell what no proxy of ours knows are refused, since a line that never has them says so to nobody. What writes lines is elsewhere.

mod operator;
mod parse;
#[cfg(test)]
mod tests;
mod time;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use operator::{AddressOf, AddressPart, Field, GrpcForm, Operator};
pub use time::TimeFormat;

use crate::cel::{Attribute, Wrong};

/// How many bytes a format has at most.
pub const MOST_BYTES: usize = 4096;
/// How many values an object of formats has at most, those of objects within it among them.
pub const MOST_FIELDS: usize = 128;
/// How deep objects of formats stand in each other at most.
pub const MOST_DEPTH: usize = 4;

/// A format, read. Clones share it.
#[derive(Clone)]
pub struct LogFormat(Arc<Read>);

struct Read {
    text: Box<str>,
    parts: Vec<Part>,
}

/// A part of a format.
#[derive(Debug, Clone, PartialEq)]
pub enum Part {
    /// What stands in each line.
    Text(Box<str>),
    /// What differs.
    Value {
        /// Which.
        operator: Operator,
        /// How many bytes of it are written at most.
        most: Option<usize>,
    },
}

impl LogFormat {
    /// Reads a format of one line. A line's end may stand at its end, and is there anyway.
    ///
    /// # Errors
    /// Every mistake, with its bytes.
    pub fn parse(text: &str) -> Result<Self, Vec<Wrong>> {
        let parts = parse::parse(text)?;
        Ok(Self(Arc::new(Read { text: text.into(), parts })))
    }

    /// The format as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0.text
    }

    /// Its parts, in order, without the line's end.
    #[must_use]
    pub fn parts(&self) -> &[Part] {
        &self.0.parts
    }

    fn operators(&self) -> impl Iterator<Item = &Operator> {
        self.0.parts.iter().filter_map(|part| if let Part::Value { operator, .. } = part { Some(operator) } else { None })
    }
}

impl fmt::Debug for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LogFormat").field(&self.as_str()).finish()
    }
}
impl PartialEq for LogFormat {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}
impl Eq for LogFormat {}
impl Serialize for LogFormat {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}
impl<'de> Deserialize<'de> for LogFormat {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(|wrong| {
            let wrong: Vec<String> = wrong.iter().map(ToString::to_string).collect();
            serde::de::Error::custom(format!("`{text}`: {}", wrong.join("; ")))
        })
    }
}

/// The values of an object, by their keys. A line has them in the keys' order, as Envoy's have.
pub type LogFields = BTreeMap<String, LogValue>;

/// A value of an object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum LogValue {
    /// A format. One operator alone gives a value of its type, or null; anything else a text.
    Format(LogFormat),
    /// An object.
    Fields(LogFields),
    /// A list.
    List(Vec<LogValue>),
}

/// What of an answer a log looks at: it is kept until the end of an exchange only where somebody does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Its header fields.
    pub headers: bool,
    /// The fields behind its body.
    pub trailers: bool,
}

impl Wanted {
    /// Both.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self { headers: self.headers || other.headers, trailers: self.trailers || other.trailers }
    }
}

impl crate::cel::Expression {
    /// What of an answer it looks at.
    #[must_use]
    pub fn wanted(&self) -> Wanted {
        Wanted { headers: self.asks(Attribute::ResponseHeaders), trailers: self.asks(Attribute::ResponseTrailers) }
    }
}

impl LogFormat {
    /// What of an answer it looks at.
    #[must_use]
    pub fn wanted(&self) -> Wanted {
        self.operators().map(Operator::wanted).fold(Wanted::default(), Wanted::and)
    }
}

impl LogValue {
    /// What of an answer it looks at.
    #[must_use]
    pub fn wanted(&self) -> Wanted {
        match self {
            Self::Format(format) => format.wanted(),
            Self::Fields(fields) => fields.values().map(Self::wanted).fold(Wanted::default(), Wanted::and),
            Self::List(list) => list.iter().map(Self::wanted).fold(Wanted::default(), Wanted::and),
        }
    }
}
