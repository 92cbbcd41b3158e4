//! An expression as it was written, read but not yet checked: what is encoded for other proxies.

use std::ops::Range;

/// A part of an expression.
#[derive(Debug, Clone, PartialEq)]
pub struct Tree {
    /// What it says.
    pub term: Term,
    /// Its bytes in the text.
    pub range: Range<usize>,
    /// How many parts stand within each other, this one included.
    pub(super) depth: usize,
}

/// What a part of an expression says.
#[derive(Debug, Clone, PartialEq)]
pub enum Term {
    /// A value.
    Literal(Literal),
    /// A name: a variable of a macro, a type, or where attributes begin.
    Name(Box<str>),
    /// `of.field`
    Select {
        /// What has the field.
        of: Box<Tree>,
        /// Its name.
        field: Box<str>,
    },
    /// `has(of.field)`
    Has {
        /// What may have the field.
        of: Box<Tree>,
        /// Its name.
        field: Box<str>,
    },
    /// `a && b && …`
    All(Vec<Tree>),
    /// `a || b || …`
    Any(Vec<Tree>),
    /// An operator other than `&&` and `||`.
    Operator(Operator, Vec<Tree>),
    /// `function(arguments)` or `receiver.function(arguments)`.
    Call {
        /// What stands before the dot.
        receiver: Option<Box<Tree>>,
        /// The name.
        function: Box<str>,
        /// The place of the name.
        name: Range<usize>,
        /// What stands in the parentheses.
        arguments: Vec<Tree>,
    },
    /// `[a, b]`
    List(Vec<Tree>),
    /// `{k: v}`
    Map(Vec<(Tree, Tree)>),
    /// A macro that goes through a list or the keys of a map.
    Each(Box<Each>),
}

/// `over.macro(variable, filter, result)`.
#[derive(Debug, Clone, PartialEq)]
pub struct Each {
    /// Which one.
    pub kind: EachKind,
    /// What it goes through.
    pub over: Tree,
    /// What an element is called.
    pub variable: Box<str>,
    /// What is asked of it; none for a `map` with two arguments.
    pub filter: Option<Tree>,
    /// What a `map` makes of it.
    pub result: Option<Tree>,
}

/// The macros that go through something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EachKind {
    /// `all`
    All,
    /// `exists`
    Exists,
    /// `exists_one`
    ExistsOne,
    /// `filter`
    Filter,
    /// `map`
    Map,
}

/// A value as written.
#[derive(Debug, Clone, PartialEq)]
pub enum Literal {
    /// `null`
    Null,
    /// `true`, `false`
    Bool(bool),
    /// `-1`
    Int(i64),
    /// `1u`
    Uint(u64),
    /// `1.5`
    Double(f64),
    /// `'a'`
    Text(Box<str>),
    /// `b'a'`
    Bytes(Box<[u8]>),
}

/// Operators other than `&&` and `||`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operator {
    /// `c ? a : b`
    Choose,
    /// `!a`
    Not,
    /// `-a`
    Negate,
    /// `a * b`
    Multiply,
    /// `a / b`
    Divide,
    /// `a % b`
    Remainder,
    /// `a + b`
    Add,
    /// `a - b`
    Subtract,
    /// `a < b`
    Less,
    /// `a <= b`
    LessEqual,
    /// `a > b`
    Greater,
    /// `a >= b`
    GreaterEqual,
    /// `a == b`
    Equal,
    /// `a != b`
    NotEqual,
    /// `a in b`
    In,
    /// `a[b]`
    Index,
}

impl Operator {
    /// Its name in the language's trees.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Choose => "_?_:_",
            Self::Not => "!_",
            Self::Negate => "-_",
            Self::Multiply => "_*_",
            Self::Divide => "_/_",
            Self::Remainder => "_%_",
            Self::Add => "_+_",
            Self::Subtract => "_-_",
            Self::Less => "_<_",
            Self::LessEqual => "_<=_",
            Self::Greater => "_>_",
            Self::GreaterEqual => "_>=_",
            Self::Equal => "_==_",
            Self::NotEqual => "_!=_",
            Self::In => "@in",
            Self::Index => "_[_]",
        }
    }

    /// How it is written.
    #[must_use]
    pub fn symbol(self) -> &'static str {
        match self {
            Self::Choose => "? :",
            Self::Not => "!",
            Self::Negate | Self::Subtract => "-",
            Self::Multiply => "*",
            Self::Divide => "/",
            Self::Remainder => "%",
            Self::Add => "+",
            Self::Less => "<",
            Self::LessEqual => "<=",
            Self::Greater => ">",
            Self::GreaterEqual => ">=",
            Self::Equal => "==",
            Self::NotEqual => "!=",
            Self::In => "in",
            Self::Index => "[ ]",
        }
    }
}

impl Tree {
    pub(super) fn macro_range(&self) -> Option<Range<usize>> {
        match &self.term {
            Term::Each(_) => Some(self.range.clone()),
            _ => self.parts().into_iter().find_map(Self::macro_range),
        }
    }

    /// The parts that it is made of.
    pub(super) fn parts(&self) -> Vec<&Self> {
        match &self.term {
            Term::Literal(_) | Term::Name(_) => Vec::new(),
            Term::Select { of, .. } | Term::Has { of, .. } => vec![of],
            Term::All(parts) | Term::Any(parts) | Term::Operator(_, parts) | Term::List(parts) => parts.iter().collect(),
            Term::Call { receiver, arguments, .. } => receiver.as_deref().into_iter().chain(arguments).collect(),
            Term::Map(entries) => entries.iter().flat_map(|(key, value)| [key, value]).collect(),
            Term::Each(each) => [Some(&each.over), each.filter.as_ref(), each.result.as_ref()].into_iter().flatten().collect(),
        }
    }
}
