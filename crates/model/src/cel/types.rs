//! The types of expressions, and which functions there are for which of them.

use std::fmt;

/// A type without what it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Known once it is evaluated.
    Dyn,
    Null,
    Bool,
    Int,
    Uint,
    Double,
    Text,
    Bytes,
    Timestamp,
    Duration,
    Type,
    List,
    Map,
    /// The header fields of a request: only names can be asked for.
    Headers,
}

impl Kind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Dyn => "dyn",
            Self::Null => "null_type",
            Self::Bool => "bool",
            Self::Int => "int",
            Self::Uint => "uint",
            Self::Double => "double",
            Self::Text => "string",
            Self::Bytes => "bytes",
            Self::Timestamp => "timestamp",
            Self::Duration => "duration",
            Self::Type => "type",
            Self::List => "list",
            Self::Map => "map",
            Self::Headers => "headers",
        }
    }

    /// The types that have names of their own in expressions.
    pub(super) const NAMED: [Self; 10] =
        [Self::Null, Self::Bool, Self::Int, Self::Uint, Self::Double, Self::Text, Self::Bytes, Self::Type, Self::List, Self::Map];

    pub(super) fn is_number(self) -> bool {
        matches!(self, Self::Int | Self::Uint | Self::Double)
    }

    pub(super) fn is_ordered(self) -> bool {
        self.is_number() || matches!(self, Self::Bool | Self::Text | Self::Bytes | Self::Timestamp | Self::Duration)
    }
}

/// A type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Type {
    Plain(Kind),
    List(Box<Type>),
    Map(Box<(Type, Type)>),
}

impl Type {
    pub(super) const DYN: Self = Self::Plain(Kind::Dyn);
    pub(super) const BOOL: Self = Self::Plain(Kind::Bool);
    pub(super) const TEXT: Self = Self::Plain(Kind::Text);

    pub(super) fn kind(&self) -> Kind {
        match self {
            Self::Plain(kind) => *kind,
            Self::List(_) => Kind::List,
            Self::Map(_) => Kind::Map,
        }
    }

    pub(super) fn is_dyn(&self) -> bool {
        self.kind() == Kind::Dyn
    }

    /// Whether a value may be of both types.
    pub(super) fn meets(&self, other: &Self) -> bool {
        match (self, other) {
            _ if self.is_dyn() || other.is_dyn() => true,
            (Self::List(one), Self::List(other)) => one.meets(other),
            (Self::Map(one), Self::Map(other)) => one.0.meets(&other.0) && one.1.meets(&other.1),
            _ => self == other,
        }
    }

    /// The type of what is of one or the other.
    pub(super) fn join(self, other: &Self) -> Self {
        if self == *other { self } else { Self::DYN }
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plain(kind) => f.write_str(kind.name()),
            Self::List(of) => write!(f, "list({of})"),
            Self::Map(of) => write!(f, "map({}, {})", of.0, of.1),
        }
    }
}

/// What is done with values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Function {
    Not,
    Negate,
    Multiply,
    Divide,
    Remainder,
    Add,
    Subtract,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
    Equal,
    NotEqual,
    In,
    Index,
    Size,
    StartsWith,
    EndsWith,
    Contains,
    Matches,
    LowerAscii,
    UpperAscii,
    ToBool,
    ToInt,
    ToUint,
    ToDouble,
    ToText,
    ToBytes,
    ToTimestamp,
    ToDuration,
    ToDyn,
    TypeOf,
    FullYear,
    Month,
    DayOfYear,
    DayOfMonth,
    Date,
    DayOfWeek,
    Hours,
    Minutes,
    Seconds,
    Milliseconds,
}

/// A form of a function.
#[derive(Debug)]
pub(super) struct Overload {
    pub(super) name: &'static str,
    /// Whether the first of `takes` stands before the dot.
    pub(super) method: bool,
    pub(super) takes: &'static [Kind],
    pub(super) gives: Kind,
    pub(super) function: Function,
}

const fn call(name: &'static str, takes: &'static [Kind], gives: Kind, function: Function) -> Overload {
    Overload { name, method: false, takes, gives, function }
}

const fn method(name: &'static str, takes: &'static [Kind], gives: Kind, function: Function) -> Overload {
    Overload { name, method: true, takes, gives, function }
}

use Function as F;
use Kind::{Bool, Bytes, Double, Duration, Dyn, Int, List, Map, Text, Timestamp, Uint};

/// Every form of every function that is no operator.
pub(super) const OVERLOADS: &[Overload] = &[
    call("size", &[Text], Int, F::Size),
    call("size", &[Bytes], Int, F::Size),
    call("size", &[List], Int, F::Size),
    call("size", &[Map], Int, F::Size),
    method("size", &[Text], Int, F::Size),
    method("size", &[Bytes], Int, F::Size),
    method("size", &[List], Int, F::Size),
    method("size", &[Map], Int, F::Size),
    method("startsWith", &[Text, Text], Bool, F::StartsWith),
    method("endsWith", &[Text, Text], Bool, F::EndsWith),
    method("contains", &[Text, Text], Bool, F::Contains),
    method("matches", &[Text, Text], Bool, F::Matches),
    call("matches", &[Text, Text], Bool, F::Matches),
    method("lowerAscii", &[Text], Text, F::LowerAscii),
    method("upperAscii", &[Text], Text, F::UpperAscii),
    call("bool", &[Bool], Bool, F::ToBool),
    call("bool", &[Text], Bool, F::ToBool),
    call("int", &[Int], Int, F::ToInt),
    call("int", &[Uint], Int, F::ToInt),
    call("int", &[Double], Int, F::ToInt),
    call("int", &[Text], Int, F::ToInt),
    call("int", &[Timestamp], Int, F::ToInt),
    call("uint", &[Uint], Uint, F::ToUint),
    call("uint", &[Int], Uint, F::ToUint),
    call("uint", &[Double], Uint, F::ToUint),
    call("uint", &[Text], Uint, F::ToUint),
    call("double", &[Double], Double, F::ToDouble),
    call("double", &[Int], Double, F::ToDouble),
    call("double", &[Uint], Double, F::ToDouble),
    call("double", &[Text], Double, F::ToDouble),
    call("string", &[Text], Text, F::ToText),
    call("string", &[Bool], Text, F::ToText),
    call("string", &[Int], Text, F::ToText),
    call("string", &[Uint], Text, F::ToText),
    call("string", &[Double], Text, F::ToText),
    call("string", &[Bytes], Text, F::ToText),
    call("string", &[Timestamp], Text, F::ToText),
    call("string", &[Duration], Text, F::ToText),
    call("bytes", &[Bytes], Bytes, F::ToBytes),
    call("bytes", &[Text], Bytes, F::ToBytes),
    call("timestamp", &[Timestamp], Timestamp, F::ToTimestamp),
    call("timestamp", &[Text], Timestamp, F::ToTimestamp),
    call("timestamp", &[Int], Timestamp, F::ToTimestamp),
    call("duration", &[Duration], Duration, F::ToDuration),
    call("duration", &[Text], Duration, F::ToDuration),
    call("dyn", &[Dyn], Dyn, F::ToDyn),
    call("type", &[Dyn], Kind::Type, F::TypeOf),
    method("getFullYear", &[Timestamp], Int, F::FullYear),
    method("getFullYear", &[Timestamp, Text], Int, F::FullYear),
    method("getMonth", &[Timestamp], Int, F::Month),
    method("getMonth", &[Timestamp, Text], Int, F::Month),
    method("getDayOfYear", &[Timestamp], Int, F::DayOfYear),
    method("getDayOfYear", &[Timestamp, Text], Int, F::DayOfYear),
    method("getDayOfMonth", &[Timestamp], Int, F::DayOfMonth),
    method("getDayOfMonth", &[Timestamp, Text], Int, F::DayOfMonth),
    method("getDate", &[Timestamp], Int, F::Date),
    method("getDate", &[Timestamp, Text], Int, F::Date),
    method("getDayOfWeek", &[Timestamp], Int, F::DayOfWeek),
    method("getDayOfWeek", &[Timestamp, Text], Int, F::DayOfWeek),
    method("getHours", &[Timestamp], Int, F::Hours),
    method("getHours", &[Timestamp, Text], Int, F::Hours),
    method("getHours", &[Duration], Int, F::Hours),
    method("getMinutes", &[Timestamp], Int, F::Minutes),
    method("getMinutes", &[Timestamp, Text], Int, F::Minutes),
    method("getMinutes", &[Duration], Int, F::Minutes),
    method("getSeconds", &[Timestamp], Int, F::Seconds),
    method("getSeconds", &[Timestamp, Text], Int, F::Seconds),
    method("getSeconds", &[Duration], Int, F::Seconds),
    method("getMilliseconds", &[Timestamp], Int, F::Milliseconds),
    method("getMilliseconds", &[Timestamp, Text], Int, F::Milliseconds),
    method("getMilliseconds", &[Duration], Int, F::Milliseconds),
];
