//! Regular expressions of users: bounded in memory, linear in time, and always of the whole text.

use regex::Regex;
use serde::{Deserialize, Serialize};

/// A regular expression that is matched against a whole text, in time linear in it.
#[derive(Clone)]
pub struct Pattern(Regex);

impl Pattern {
    /// Compiles `text`. A pattern may take at most 64 KiB when compiled, so that no route fills a proxy's memory.
    ///
    /// # Errors
    /// The expression's own error.
    pub fn new(text: &str) -> Result<Self, regex::Error> {
        // Checked on its own first, so that `a)(b` cannot close the anchor's group.
        regex::RegexBuilder::new(text).size_limit(64 * 1024).build()?;
        regex::RegexBuilder::new(&format!("^(?:{text})$")).size_limit(128 * 1024).build().map(Self)
    }

    /// Whether the whole of `text` matches.
    #[must_use]
    pub fn matches(&self, text: &str) -> bool {
        self.0.is_match(text)
    }

    /// The expression as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        let anchored = self.0.as_str();
        anchored.strip_prefix("^(?:").and_then(|rest| rest.strip_suffix(")$")).unwrap_or(anchored)
    }
}
impl std::fmt::Debug for Pattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "/{}/", self.as_str())
    }
}
impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}
impl Eq for Pattern {}
impl Serialize for Pattern {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}
impl<'de> Deserialize<'de> for Pattern {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::new(&text).map_err(serde::de::Error::custom)
    }
}
