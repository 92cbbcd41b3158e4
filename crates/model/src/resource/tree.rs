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

    /// Moves every place, where the text that was read is a part of another.
    fn shift(&mut self, by: usize) {
        let shift = |span: &mut Range<usize>| *span = span.start + by..span.end + by;
        shift(&mut self.span);
        match &mut self.value {
            Value::List(list) => list.iter_mut().for_each(|node| node.shift(by)),
            Value::Map(map) => map.iter_mut().for_each(|(key, node)| {
                shift(&mut key.span);
                node.shift(by);
            }),
            Value::Null | Value::Bool(_) | Value::Integer(_) | Value::Float(_) | Value::Text(_) => {}
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

/// The most documents of a file that are looked at one by one once it is broken.
const MAX_PIECES: usize = 1000;

/// The documents of `text`, empty ones left out, and what is no YAML. A broken document keeps none of the others from being
/// read.
pub(super) fn documents(file: &str, text: &str) -> (Vec<Node>, Vec<Diagnostic>) {
    let whole = match parsed(text) {
        Ok(nodes) => return (nodes, Vec::new()),
        Err(error) => Diagnostic::error(file, text, error.0, error.1),
    };
    let pieces = pieces(text);
    if !(2..=MAX_PIECES).contains(&pieces.len()) {
        return (Vec::new(), vec![whole]);
    }
    let (mut nodes, mut found) = (Vec::new(), Vec::new());
    for piece in pieces {
        match parsed(&text[piece.clone()]) {
            Ok(mut read) => {
                read.iter_mut().for_each(|node| node.shift(piece.start));
                nodes.append(&mut read);
            }
            Err((span, message)) => found.push(Diagnostic::error(file, text, span.start + piece.start..span.end + piece.start, message)),
        }
    }
    // Each is fine by itself where they are too much together.
    if found.is_empty() { (Vec::new(), vec![whole]) } else { (nodes, found) }
}

/// Where the documents of `text` stand. YAML lets no line of a document begin with its mark, not even in quotes or a block.
fn pieces(text: &str) -> Vec<Range<usize>> {
    // Directives belong to the document after them.
    let begun = |piece: &str| piece.lines().any(|line| !line.trim().is_empty() && !line.starts_with(['%', '#']));
    let mut pieces = Vec::new();
    let (mut start, mut at) = (0, 0);
    for line in text.split_inclusive('\n') {
        let mark = line.strip_prefix("---").is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']));
        if mark && begun(&text[start..at]) {
            pieces.push(start..at);
            start = at;
        }
        at += line.len();
    }
    pieces.push(start..at);
    pieces
}

fn parsed(text: &str) -> Result<Vec<Node>, (Range<usize>, String)> {
    // Depth, size and the replay of aliases are bounded by the reader's own defaults.
    let options = serde_saphyr::options! { strict_booleans: true };
    let documents: Vec<Spanned<Bare>> = serde_saphyr::from_multiple_with_options(text, options).map_err(|error| broken(text, &error))?;
    let settled = documents.into_iter().map(node).map(|mut node| {
        settle(&mut node, text);
        node
    });
    Ok(settled.filter(|node| !matches!(node.value, Value::Null)).collect())
}

/// What the YAML reader did not take, in our words where its own would not help.
fn broken(text: &str, error: &serde_saphyr::Error) -> (Range<usize>, String) {
    let location = error.location();
    let span = location.map_or(0..0, |location| match location.span().byte_offset() {
        Some(_) => place(location),
        None => in_line(text, location),
    });
    if let serde_saphyr::Error::DuplicateMappingKey { key: Some(key), .. } = error.without_snippet() {
        return (span, format!("`{key}` is there twice"));
    }
    let message = error.without_snippet().to_string();
    let message = message.lines().next().unwrap_or_default().split(" at line ").next().unwrap_or_default().to_owned();
    if message.starts_with("budget breached: Documents") {
        return (span, "a file has at most 1024 documents: write the rest into another".to_owned());
    }
    (span, format!("this is no YAML: {message}"))
}

/// The place of a line and column.
fn in_line(text: &str, location: serde_saphyr::Location) -> Range<usize> {
    let number = |value: u64| usize::try_from(value).unwrap_or(usize::MAX).saturating_sub(1);
    let mut start = 0;
    for line in text.split_inclusive('\n').take(number(location.line())) {
        start += line.len();
    }
    let line = text[start..].lines().next().unwrap_or_default();
    let column = line.char_indices().nth(number(location.column())).map_or(line.len(), |(at, _)| at);
    start + column..start + column + 1
}

/// Lets the place of a list or an object reach to the end of what is in it, at most to the end of its first line: the reader
/// knows only where it begins.
fn settle(node: &mut Node, text: &str) {
    let mut end = node.span.end;
    let mut inside = |child: &mut Node| {
        settle(child, text);
        // What an alias brings along stands elsewhere.
        if child.span.start >= node.span.start {
            end = end.max(child.span.end);
        }
    };
    match &mut node.value {
        Value::List(list) => list.iter_mut().for_each(&mut inside),
        Value::Map(map) => map.iter_mut().for_each(|(_, child)| inside(child)),
        Value::Null | Value::Bool(_) | Value::Integer(_) | Value::Float(_) | Value::Text(_) => {}
    }
    let close = match (&node.value, text.as_bytes().get(node.span.start)) {
        (Value::List(_), Some(b'[')) => Some(']'),
        (Value::Map(_), Some(b'{')) => Some('}'),
        _ => None,
    };
    if let Some(length) = close.and_then(|close| text.get(end..)?.find(close)) {
        end += length + 1;
    }
    let line = text.get(node.span.start..).and_then(|rest| rest.find(['\r', '\n'])).map_or(text.len(), |length| node.span.start + length);
    node.span.end = end.min(line).max(node.span.start);
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
