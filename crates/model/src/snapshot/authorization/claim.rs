//! Claims of a verified token that a policy asks for.

use serde::{Deserialize, Serialize};

use crate::claims::Claims;

/// Claims whose text is a list of words, as RFC 9068 and RFC 8693 have `scope`; `scp` and `permission` are other issuers' names for the same.
const OF_WORDS: [&str; 3] = ["scope", "scp", "permission"];

/// What a claim must say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClaimMatch {
    /// Its name or its path.
    pub name: String,
    /// One of these; none: it is there, whatever it says.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<String>,
}

impl ClaimMatch {
    /// Whether a text of this claim is a list of words with a space between them.
    #[must_use]
    pub fn is_of_words(&self) -> bool {
        OF_WORDS.contains(&self.name.as_str())
    }

    /// Whether the claim says so: it, or one of its list. Numbers and truth values are compared as they are written.
    #[must_use]
    pub fn takes(&self, claims: &Claims) -> bool {
        if self.values.is_empty() {
            return claims.get(&self.name).is_some_and(|value| !value.is_null());
        }
        let is_one = |text: &str| self.values.iter().any(|value| value == text);
        match claims.get(&self.name) {
            Some(serde_json::Value::String(words)) if self.is_of_words() => words.split(' ').any(is_one),
            _ => claims.texts(&self.name).iter().any(|text| is_one(text)),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_claim_is_one_of_the_values_or_holds_one() {
        let claims = Claims::read(
            br#"{"sub":"ada","groups":["staff","admin"],"scope":"read write","scp":["read write","list"],"level":7,"on":true,"no":null,
            "realm":{"roles":["boss"]},"https://a.example/r":"x","words":"read write"}"#,
        )
        .unwrap();
        for (name, values, held) in [
            ("sub", &["ada", "ben"][..], true),
            ("sub", &["Ada"], false),
            ("sub", &[], true),
            ("groups", &["admin"], true),
            ("groups", &["adm"], false),
            ("groups", &["staff,admin"], false),
            ("scope", &["write"], true),
            ("scope", &["read write"], false),
            ("scp", &["list"], true),
            ("scp", &["read"], false),
            ("words", &["read"], false),
            ("words", &["read write"], true),
            ("level", &["7"], true),
            ("on", &["true"], true),
            ("no", &[], false),
            ("realm.roles", &["boss"], true),
            ("realm", &[], true),
            ("realm", &["boss"], false),
            ("https://a.example/r", &["x"], true),
            ("email", &[], false),
            ("email", &[""], false),
        ] {
            let values = values.iter().map(|value| (*value).to_owned()).collect();
            assert_eq!(ClaimMatch { name: name.to_owned(), values }.takes(&claims), held, "{name}");
        }
    }
}
