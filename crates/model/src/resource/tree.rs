//! Text as a tree in which every value knows its place. YAML of several documents; JSON is YAML.

use std::fmt;
use std::ops::Range;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

use super::diagnostic::Diagnostic;

/// A value and its place.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) span: Range<usize>,
    pub(super) value: Value,
}

/// A value.
#[derive(Debug, Clone)]
pub(super) enum Value {
    Null,
    Bool(bool),
    Integer(i64),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    /// In the order written.
    Map(Vec<(Key, Node)>),
}

/// The name of a field, and its place.
#[derive(Debug, Clone)]
pub(super) struct Key {
    pub(super) span: Range<usize>,
    pub(super) name: String,
}

impl Node {
    /// What kind of value it is, for people.
    pub(super) fn what(&self) -> &'static str {
        match self.value {
            Value::Null => "nothing",
            Value::Bool(_) => "true or false",
            Value::Integer(_) | Value::Float(_) => "a number",
            Value::Text(_) => "text",
            Value::List(_) => "a list",
            Value::Map(_) => "an object",
        }
    }

    /// The same without places.
    pub(super) fn to_json(&self) -> serde_json::Value {
        match &self.value {
            Value::Null => serde_json::Value::Null,
            Value::Bool(value) => (*value).into(),
            Value::Integer(value) => (*value).into(),
            Value::Float(value) => (*value).into(),
            Value::Text(text) => text.as_str().into(),
            Value::List(list) => list.iter().map(Self::to_json).collect(),
            Value::Map(map) => map.iter().map(|(key, node)| (key.name.clone(), node.to_json())).collect::<serde_json::Map<_, _>>().into(),
        }
    }

    /// A tree without places, of what is stored.
    pub(super) fn of_json(json: &serde_json::Value) -> Self {
        let value = match json {
            serde_json::Value::Null => Value::Null,
            serde_json::Value::Bool(value) => Value::Bool(*value),
            serde_json::Value::Number(number) => match number.as_i64() {
                Some(integer) => Value::Integer(integer),
                None => Value::Float(number.as_f64().unwrap_or_default()),
            },
            serde_json::Value::String(text) => Value::Text(text.clone()),
            serde_json::Value::Array(list) => Value::List(list.iter().map(Self::of_json).collect()),
            serde_json::Value::Object(map) => {
                Value::Map(map.iter().map(|(name, value)| (Key { span: 0..0, name: name.clone() }, Self::of_json(value))).collect())
            }
        };
        Self { span: 0..0, value }
    }
}

/// The documents of `text`; empty ones are left out.
pub(super) fn documents(file: &str, text: &str) -> Result<Vec<Node>, Diagnostic> {
    let options = serde_saphyr::options! { strict_booleans: true };
    let documents: Vec<Spanned<Bare>> = serde_saphyr::from_multiple_with_options(text, options).map_err(|error| {
        let span = error.location().map_or(0..0, |location| place(location));
        let message = error.without_snippet().to_string();
        let message = message.lines().next().unwrap_or_default().split(" at line ").next().unwrap_or_default().to_owned();
        Diagnostic::error(file, text, span, format!("this is no YAML: {message}"))
    })?;
    Ok(documents.into_iter().map(node).filter(|node| !matches!(node.value, Value::Null)).collect())
}

fn place(location: serde_saphyr::Location) -> Range<usize> {
    let span = location.span();
    let number = |value: Option<u64>| value.and_then(|value| usize::try_from(value).ok()).unwrap_or_default();
    let start = number(span.byte_offset());
    start..start + number(span.byte_len()).max(1)
}

fn node(spanned: Spanned<Bare>) -> Node {
    Node { span: place(spanned.referenced), value: spanned.value.0 }
}

/// A value whose place its holder knows.
struct Bare(Value);

impl<'de> Deserialize<'de> for Bare {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Visit)
    }
}

struct Visit;

impl<'de> Visitor<'de> for Visit {
    type Value = Bare;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }
    fn visit_unit<E>(self) -> Result<Bare, E> {
        Ok(Bare(Value::Null))
    }
    fn visit_none<E>(self) -> Result<Bare, E> {
        Ok(Bare(Value::Null))
    }
    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Bare, D::Error> {
        Bare::deserialize(deserializer)
    }
    fn visit_bool<E>(self, value: bool) -> Result<Bare, E> {
        Ok(Bare(Value::Bool(value)))
    }
    fn visit_i64<E>(self, value: i64) -> Result<Bare, E> {
        Ok(Bare(Value::Integer(value)))
    }
    fn visit_u64<E>(self, value: u64) -> Result<Bare, E> {
        Ok(Bare(i64::try_from(value).map_or_else(|_| Value::Text(value.to_string()), Value::Integer)))
    }
    fn visit_f64<E>(self, value: f64) -> Result<Bare, E> {
        Ok(Bare(Value::Float(value)))
    }
    fn visit_str<E>(self, text: &str) -> Result<Bare, E> {
        Ok(Bare(Value::Text(text.to_owned())))
    }
    fn visit_string<E>(self, text: String) -> Result<Bare, E> {
        Ok(Bare(Value::Text(text)))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Bare, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element::<Spanned<Bare>>()? {
            list.push(node(item));
        }
        Ok(Bare(Value::List(list)))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Bare, A::Error> {
        let mut map = Vec::new();
        while let Some((name, value)) = entries.next_entry::<Spanned<String>, Spanned<Bare>>()? {
            map.push((Key { span: place(name.referenced), name: name.value }, node(value)));
        }
        Ok(Bare(Value::Map(map)))
    }
}
