//! What a label of a series has to be.

use std::fmt;

use regex::Regex;

use super::labels::Labels;

/// A condition on one label. A label that is not there has an empty value.
#[derive(Debug, Clone)]
pub struct Matcher {
    /// The label.
    pub name: String,
    /// What its value has to be.
    pub wanted: Wanted,
}

/// What a value has to be.
#[derive(Debug, Clone)]
pub enum Wanted {
    /// `=`.
    Equal(String),
    /// `!=`.
    NotEqual(String),
    /// `=~`: the whole value matches.
    Matches(Regex),
    /// `!~`.
    MatchesNot(Regex),
}

impl Matcher {
    /// `name="value"`.
    #[must_use]
    pub fn equal(name: &str, value: &str) -> Self {
        Self { name: name.to_owned(), wanted: Wanted::Equal(value.to_owned()) }
    }

    /// The expression of `=~`, which is of the whole value.
    ///
    /// # Errors
    /// When it is none.
    pub fn regex(text: &str) -> Result<Regex, regex::Error> {
        regex::RegexBuilder::new(&format!("^(?s:{text})$")).size_limit(1 << 20).dfa_size_limit(1 << 20).build()
    }

    /// Whether a value is as it has to be.
    #[must_use]
    pub fn takes(&self, value: &str) -> bool {
        match &self.wanted {
            Wanted::Equal(wanted) => value == wanted,
            Wanted::NotEqual(other) => value != other,
            Wanted::Matches(regex) => regex.is_match(value),
            Wanted::MatchesNot(regex) => !regex.is_match(value),
        }
    }

    /// Whether labels are as they have to be.
    #[must_use]
    pub fn holds(&self, labels: &Labels) -> bool {
        self.takes(labels.get(&self.name))
    }
}

impl fmt::Display for Matcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = |regex: &Regex| {
            let text = regex.as_str();
            text.strip_prefix("^(?s:").and_then(|text| text.strip_suffix(")$")).unwrap_or(text).to_owned()
        };
        let (sign, value) = match &self.wanted {
            Wanted::Equal(value) => ("=", value.clone()),
            Wanted::NotEqual(value) => ("!=", value.clone()),
            Wanted::Matches(regex) => ("=~", inner(regex)),
            Wanted::MatchesNot(regex) => ("!~", inner(regex)),
        };
        write!(f, "{}{sign}{value:?}", self.name)
    }
}
