//! Conditions in the Common Expression Language, over what is known of a request or a connection.
//!
//! In goes text; out comes an [`Expression`] whose names and types hold together, or every mistake with its place. Evaluating one borrows from the
//! request: what is common (a method compared, a path's beginning, a header) allocates nothing. It always ends, within a bound of steps. What an
//! expression asks of a request that is not there is an error, and an error never allows.
//!
//! The attributes have Envoy's names, and what there is of the language means what Envoy makes of it. Not taken up: messages, enumerations,
//! patterns that come with a request, and going through the header fields, none of which a condition needs. Two things are stricter than in Envoy,
//! as the language wants them: times and durations out of its bounds are errors, and so are texts in forms that it does not name.

mod attribute;
mod check;
mod evaluate;
mod function;
mod lex;
mod parse;
mod time;
mod tree;
mod types;
mod value;

use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use attribute::{Attribute, Attributes, Exchange, Scope};
use check::Gives;
pub use evaluate::Steps;
pub use tree::{Each, EachKind, Literal, Operator, Term, Tree};

/// How many bytes an expression has at most.
pub const MOST_BYTES: usize = 4096;

/// A condition, checked. Clones share it.
#[derive(Clone)]
pub struct Expression(Arc<Checked>);

struct Checked {
    text: Box<str>,
    tree: Tree,
    node: check::Node,
    attributes: BTreeSet<Attribute>,
}

/// A mistake in an expression.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wrong {
    /// Its bytes within the expression.
    pub range: Range<usize>,
    /// What is wrong.
    pub message: String,
    /// What to do about it, where that is known.
    pub hint: Option<String>,
}

impl Wrong {
    fn new(range: Range<usize>, message: impl Into<String>) -> Self {
        Self { range, message: message.into(), hint: None }
    }

    fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.message)?;
        self.hint.as_ref().map_or(Ok(()), |hint| write!(f, " (hint: {hint})"))
    }
}

impl Expression {
    /// Reads and checks an expression of at most [`MOST_BYTES`].
    ///
    /// # Errors
    /// Every mistake; of those that keep the text from being read the first.
    pub fn parse(text: &str) -> Result<Self, Vec<Wrong>> {
        Self::checked(text, Scope::Request, Gives::Condition)
    }

    /// The same of what is known once an exchange is over.
    ///
    /// # Errors
    /// As [`Self::parse`].
    pub fn parse_of_exchange(text: &str) -> Result<Self, Vec<Wrong>> {
        Self::checked(text, Scope::Exchange, Gives::Condition)
    }

    /// The same of an expression that gives a text: a string, a bool, an int or a uint.
    ///
    /// # Errors
    /// As [`Self::parse`].
    pub fn parse_text_of_exchange(text: &str) -> Result<Self, Vec<Wrong>> {
        Self::checked(text, Scope::Exchange, Gives::Text)
    }

    fn checked(text: &str, scope: Scope, gives: Gives) -> Result<Self, Vec<Wrong>> {
        let tree = parse::parse(text).map_err(|wrong| vec![wrong])?;
        let (node, attributes) = check::check(&tree, scope, gives)?;
        Ok(Self(Arc::new(Checked { text: text.into(), tree, node, attributes })))
    }

    /// The text that it gives.
    ///
    /// # Errors
    /// As [`Self::evaluate`].
    pub fn evaluate_text(&self, attributes: &Attributes<'_>) -> Result<String, EvaluationError> {
        evaluate::text(&self.0.node, attributes)
    }

    /// Whether the condition holds.
    ///
    /// # Errors
    /// What it asks for is not there or of another type, a calculation has no result, or it would take too many steps. It neither holds nor does
    /// not hold then: what would allow must not allow, what would deny must deny.
    pub fn evaluate(&self, attributes: &Attributes<'_>) -> Result<bool, EvaluationError> {
        self.evaluate_within(attributes, &Steps::default())
    }

    /// The same as one of several conditions of a request, which have only so many steps together.
    ///
    /// # Errors
    /// As [`Self::evaluate`].
    pub fn evaluate_within(&self, attributes: &Attributes<'_>, steps: &Steps) -> Result<bool, EvaluationError> {
        evaluate::evaluate(&self.0.node, attributes, steps)
    }

    /// The expression as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0.text
    }

    /// What it says, for those who encode it for others.
    #[must_use]
    pub fn tree(&self) -> &Tree {
        &self.0.tree
    }

    /// The first macro that goes through a list or a map, by its bytes. An Envoy evaluates none of these.
    #[must_use]
    pub fn macro_range(&self) -> Option<Range<usize>> {
        self.0.tree.macro_range()
    }

    /// Whether it asks about `attribute`.
    #[must_use]
    pub fn asks(&self, attribute: Attribute) -> bool {
        self.0.attributes.contains(&attribute)
    }

    /// Whether it asks for anything that only a request of HTTP has.
    #[must_use]
    pub fn is_of_http(&self) -> bool {
        self.0.attributes.iter().any(|attribute| attribute.is_of_http())
    }
}

/// Why an evaluation has no result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EvaluationError {
    /// What failed.
    pub failure: Failure,
    start: usize,
    end: usize,
}

impl EvaluationError {
    /// Where in the expression.
    #[must_use]
    pub fn range(&self) -> Range<usize> {
        self.start..self.end
    }
}

impl fmt::Display for EvaluationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (bytes {} to {} of the expression)", self.failure, self.start, self.end)
    }
}
impl std::error::Error for EvaluationError {}

/// What fails in an evaluation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The request or connection does not have the attribute.
    #[error("the attribute is not there")]
    NoAttribute,
    /// A map or the header fields have nothing of the name.
    #[error("there is nothing of this name")]
    NoKey,
    /// A key stands twice in a map.
    #[error("the key stands twice")]
    RepeatedKey,
    /// A list has no such element.
    #[error("the list has no such element")]
    OutOfRange,
    /// A value whose type only the request tells has the wrong one.
    #[error("the value is of another type")]
    WrongType,
    /// A number, time or duration is out of bounds.
    #[error("the result is out of bounds")]
    Overflow,
    /// An integer is divided by nought.
    #[error("it divides by nought")]
    DivisionByZero,
    /// A text is not what it is to be read as.
    #[error("the text cannot be read so")]
    Conversion,
    /// It takes too many steps.
    #[error("it takes too many steps")]
    TooCostly,
}

impl fmt::Debug for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Expression").field(&self.as_str()).finish()
    }
}
impl PartialEq for Expression {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}
impl Eq for Expression {}
impl Serialize for Expression {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}
impl<'de> Deserialize<'de> for Expression {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(|wrong| {
            let wrong: Vec<String> = wrong.iter().map(ToString::to_string).collect();
            serde::de::Error::custom(format!("`{text}`: {}", wrong.join("; ")))
        })
    }
}

#[cfg(test)]
mod tests;
