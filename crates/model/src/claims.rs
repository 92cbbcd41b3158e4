//! What a verified token says: its claims, each found by its name or its path.

use std::borrow::Cow;

use serde_json::{Map, Value};

use crate::strict_json::{self, StrictJsonError};

/// The claims of a token whose signature was verified. Nobody makes them of anything else.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Claims(Map<String, Value>);

impl Claims {
    /// Reads the payload of a token.
    ///
    /// # Errors
    /// If it is no JSON object, has a member twice, or nests deeper than [`strict_json::MAX_DEPTH`].
    pub fn read(payload: &[u8]) -> Result<Self, StrictJsonError> {
        strict_json::object(payload).map(Self)
    }

    /// The claim of a path. A claim whose name is the whole path comes first (`https://example.com/roles`); else each dot leads one
    /// object down (`realm_access.roles`).
    #[must_use]
    pub fn get(&self, path: &str) -> Option<&Value> {
        if let Some(value) = self.0.get(path) {
            return Some(value);
        }
        let mut steps = path.split('.');
        let first = self.0.get(steps.next()?)?;
        steps.try_fold(first, |value, step| value.get(step))
    }

    /// The texts that the claim of a path holds: one, or those of a list. Numbers and truth values count as they are written; what else
    /// stands in a list is passed over, and an object holds none.
    #[must_use]
    pub fn texts(&self, path: &str) -> Vec<Cow<'_, str>> {
        match self.get(path) {
            Some(Value::Array(list)) => list.iter().filter_map(scalar).collect(),
            Some(value) => scalar(value).into_iter().collect(),
            None => Vec::new(),
        }
    }

    /// The claim as one text, as header fields and keys of limits have it: the texts of a list are joined by commas. None where it has no
    /// text, or where a text of a list has a comma itself and would read as two.
    #[must_use]
    pub fn text(&self, path: &str) -> Option<Cow<'_, str>> {
        let mut texts = self.texts(path);
        match texts.len() {
            0 => None,
            1 if !matches!(self.get(path), Some(Value::Array(_))) => texts.pop(),
            _ if texts.iter().any(|text| text.contains(',')) => None,
            _ => Some(texts.join(",").into()),
        }
    }

    /// The claims as JSON.
    #[must_use]
    pub fn as_object(&self) -> &Map<String, Value> {
        &self.0
    }
}

fn scalar(value: &Value) -> Option<Cow<'_, str>> {
    match value {
        Value::String(text) => Some(Cow::Borrowed(text)),
        Value::Number(number) => Some(Cow::Owned(number.to_string())),
        Value::Bool(value) => Some(Cow::Borrowed(if *value { "true" } else { "false" })),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_claim_is_found_by_its_name_or_path() {
        let claims = Claims::read(
            br#"{"sub":"ada","n":7,"on":true,"a.b":"whole","a":{"b":"path","c":{"d":["x",{"y":1},2]}},"commas":["a,b","c"],"one":["p"],"none":[]}"#,
        )
        .unwrap();
        let text = |path: &str| claims.text(path).map(Cow::into_owned);
        for (path, found) in [
            ("sub", Some("ada")),
            ("n", Some("7")),
            ("on", Some("true")),
            ("a.b", Some("whole")),
            ("a.c.d", Some("x,2")),
            ("one", Some("p")),
            ("a", None),
            ("a.c", None),
            ("commas", None),
            ("none", None),
            ("sub.x", None),
            ("", None),
            ("..", None),
        ] {
            assert_eq!(text(path).as_deref(), found, "{path}");
        }
        assert_eq!(claims.texts("commas"), ["a,b", "c"], "who compares one by one sees both");
    }
}
