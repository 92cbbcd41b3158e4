//! Takes objects apart, field by field. Every mistake is collected, so that one look shows them all; at the door a field
//! that nobody took is one, from the store it is kept for a later version.

use std::ops::Range;

use super::diagnostic::Diagnostic;
use super::nearest::nearest;
use super::tree::{Key, Node, Value};

/// Who reads, and what was found wrong so far.
pub(super) struct Reader<'t> {
    pub(super) file: &'t str,
    pub(super) source: &'t str,
    /// Whether a field that nobody takes is a mistake.
    pub(super) strict: bool,
    pub(super) found: Vec<Diagnostic>,
}

impl Reader<'_> {
    /// Notes a mistake.
    pub(super) fn wrong(&mut self, span: &Range<usize>, message: impl Into<String>) {
        let found = Diagnostic::error(self.file, self.source, span.clone(), message);
        self.found.push(found);
    }

    /// Notes a mistake and what to do.
    pub(super) fn wrong_with(&mut self, span: &Range<usize>, message: impl Into<String>, hint: impl Into<String>) {
        let found = Diagnostic::error(self.file, self.source, span.clone(), message).hint(hint);
        self.found.push(found);
    }

    /// A bound of the specification. What is stored was let in once and stays usable, should a bound change.
    pub(super) fn bound(&mut self, holds: bool, span: &Range<usize>, message: impl Into<String>) {
        if self.strict && !holds {
            self.wrong(span, message);
        }
    }

    /// The object that `node` is.
    pub(super) fn object(&mut self, node: Node, what: &'static str) -> Option<Object> {
        match node.value {
            Value::Map(fields) => {
                let mut object = Object { span: node.span, what, fields: Vec::new(), asked: Vec::new(), unsupported: Vec::new() };
                for (key, value) in fields {
                    if object.fields.iter().any(|(known, _): &(Key, Node)| known.name == key.name) {
                        self.wrong(&key.span, format!("`{}` is there twice", key.name));
                    } else {
                        object.fields.push((key, value));
                    }
                }
                Some(object)
            }
            _ => {
                self.wrong(&node.span, format!("{what} is an object, not {}", node.what()));
                None
            }
        }
    }

    /// The list that `node` is.
    pub(super) fn list(&mut self, node: Node, what: &str) -> Vec<Node> {
        match node.value {
            Value::List(list) => list,
            Value::Null => Vec::new(),
            _ => {
                self.wrong(&node.span, format!("{what} is a list, not {}", node.what()));
                Vec::new()
            }
        }
    }

    /// The text that `node` is.
    pub(super) fn text(&mut self, node: &Node, what: &str) -> Option<String> {
        match &node.value {
            Value::Text(text) => Some(text.clone()),
            // What people write without quotes and mean as text.
            Value::Integer(number) => Some(number.to_string()),
            _ => {
                self.wrong(&node.span, format!("{what} is text, not {}", node.what()));
                None
            }
        }
    }

    /// The whole number that `node` is, from `range`.
    pub(super) fn number(&mut self, node: &Node, what: &str, range: std::ops::RangeInclusive<i64>) -> Option<i64> {
        match node.value {
            Value::Integer(number) if range.contains(&number) => Some(number),
            Value::Integer(number) => {
                self.wrong(&node.span, format!("{what} is from {} to {}, not {number}", range.start(), range.end()));
                None
            }
            _ => {
                self.wrong(&node.span, format!("{what} is a whole number, not {}", node.what()));
                None
            }
        }
    }

    /// The yes or no that `node` is.
    pub(super) fn boolean(&mut self, node: &Node, what: &str) -> Option<bool> {
        match node.value {
            Value::Bool(value) => Some(value),
            _ => {
                self.wrong(&node.span, format!("{what} is true or false, not {}", node.what()));
                None
            }
        }
    }

    /// The value that `node`'s text reads as.
    pub(super) fn parsed<T: std::str::FromStr>(&mut self, node: &Node, what: &str) -> Option<T>
    where
        T::Err: std::fmt::Display,
    {
        let text = self.text(node, what)?;
        match text.parse() {
            Ok(value) => Some(value),
            Err(error) => {
                self.wrong(&node.span, error.to_string());
                None
            }
        }
    }

    /// One of the words that are allowed.
    pub(super) fn word<T: Copy>(&mut self, node: &Node, what: &str, words: &[(&str, T)]) -> Option<T> {
        let text = self.text(node, what)?;
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
            return Some(*value);
        }
        let all = words.iter().map(|(word, _)| format!("`{word}`")).collect::<Vec<_>>().join(", ");
        match nearest(&text, words.iter().map(|(word, _)| *word)) {
            Some(near) => self.wrong_with(&node.span, format!("`{text}` is no {what}"), format!("did you mean `{near}`?")),
            None => self.wrong_with(&node.span, format!("`{text}` is no {what}"), format!("one of {all}")),
        }
        None
    }

    /// Ends an object: what nobody took is unknown.
    pub(super) fn end(&mut self, object: Object) {
        if !self.strict {
            return;
        }
        for (key, _) in &object.fields {
            if object.unsupported.contains(&key.name.as_str()) {
                let message = format!("`{}` is part of the specification and not supported here yet", key.name);
                self.wrong_with(&key.span, message, "it would have no effect; leave it out");
                continue;
            }
            let message = format!("{} has no field `{}`", object.what, key.name);
            match nearest(&key.name, object.asked.iter().copied()) {
                Some(near) => self.wrong_with(&key.span, message, format!("did you mean `{near}`?")),
                None => {
                    let known = object.asked.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
                    self.wrong_with(&key.span, message, format!("it has {known}"));
                }
            }
        }
    }
}

/// An object that is being taken apart.
pub(super) struct Object {
    /// Its place.
    pub(super) span: Range<usize>,
    what: &'static str,
    fields: Vec<(Key, Node)>,
    asked: Vec<&'static str>,
    unsupported: Vec<&'static str>,
}

impl Object {
    /// Takes a field; nothing written counts as absent.
    pub(super) fn take(&mut self, name: &'static str) -> Option<Node> {
        self.asked.push(name);
        let at = self.fields.iter().position(|(key, _)| key.name == name)?;
        Some(self.fields.remove(at).1).filter(|node| !matches!(node.value, Value::Null))
    }

    /// The text of a field that stays.
    pub(super) fn peek(&self, name: &str) -> Option<&str> {
        let (_, node) = self.fields.iter().find(|(key, _)| key.name == name)?;
        if let Value::Text(text) = &node.value { Some(text) } else { None }
    }

    /// Takes a field that must be there.
    pub(super) fn need(&mut self, name: &'static str, reader: &mut Reader<'_>) -> Option<Node> {
        let taken = self.take(name);
        if taken.is_none() {
            reader.wrong(&self.span.clone(), format!("{} needs `{name}`", self.what));
        }
        taken
    }

    /// Fields that a specification has and we do not carry out: said to be so, never passed over.
    pub(super) fn unsupported(&mut self, names: &[&'static str]) {
        self.unsupported.extend_from_slice(names);
    }

    /// The names of what is left, each with its place.
    pub(super) fn names(&self) -> impl Iterator<Item = (&str, Range<usize>)> {
        self.fields.iter().map(|(key, _)| (key.name.as_str(), key.span.clone()))
    }

    /// All that is left, as an object of its own.
    pub(super) fn rest(self) -> Node {
        Node { span: self.span, value: Value::Map(self.fields) }
    }

    /// All that is left, as a map of text.
    pub(super) fn texts(mut self, reader: &mut Reader<'_>) -> std::collections::BTreeMap<String, String> {
        let what = self.what;
        self.fields.drain(..).filter_map(|(key, node)| Some((key.name, reader.text(&node, what)?))).collect()
    }
}
