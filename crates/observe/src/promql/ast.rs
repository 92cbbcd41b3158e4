//! What a question is.

use crate::series::Matcher;

/// Milliseconds.
pub type Milliseconds = i64;

/// A question, or part of one. Types were checked when it was read.
#[derive(Debug, Clone)]
pub enum Expression {
    /// A number.
    Number(f64),
    /// A text: an argument.
    Text(String),
    /// The newest samples of series.
    Selector(Selector),
    /// The samples of series over a time.
    Range(Selector, Milliseconds),
    /// The answers to a question over a time.
    Subquery(Box<Subquery>),
    /// The opposite.
    Negative(Box<Expression>),
    /// Two, joined by an operator.
    Binary(Box<Binary>),
    /// Many series made few.
    Aggregate(Box<Aggregate>),
    /// A function.
    Call(Function, Vec<Expression>),
}

/// Which series.
#[derive(Debug, Clone)]
pub struct Selector {
    /// What holds of their labels.
    pub matchers: Vec<Matcher>,
    /// How long before the time that is asked about.
    pub offset: Milliseconds,
}

/// `expression[range:step] offset …`.
#[derive(Debug, Clone)]
pub struct Subquery {
    /// The question.
    pub of: Expression,
    /// Over which time.
    pub range: Milliseconds,
    /// How often.
    pub step: Milliseconds,
    /// How long before.
    pub offset: Milliseconds,
}

/// `left op right`.
#[derive(Debug, Clone)]
pub struct Binary {
    /// The operator.
    pub operator: Operator,
    /// The left side.
    pub left: Expression,
    /// The right side.
    pub right: Expression,
    /// Whether a comparison says 0 or 1, and leaves nothing out.
    pub is_bool: bool,
    /// Which series of both sides belong together.
    pub matching: Matching,
}

/// Which series of both sides belong together.
#[derive(Debug, Clone, Default)]
pub struct Matching {
    /// The labels that are looked at (`on`), or not (`ignoring`).
    pub labels: Vec<String>,
    /// Whether it is `on`.
    pub is_on: bool,
    /// Which side may have several.
    pub grouping: Grouping,
    /// The labels that are taken over from the other side.
    pub included: Vec<String>,
}

/// Which side may have several series for one of the other.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Grouping {
    /// None.
    #[default]
    OneToOne,
    /// `group_left`.
    Left,
    /// `group_right`.
    Right,
}

/// An operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operator {
    /// `+`.
    Add,
    /// `-`.
    Subtract,
    /// `*`.
    Multiply,
    /// `/`.
    Divide,
    /// `%`.
    Modulo,
    /// `^`.
    Power,
    /// `atan2`.
    Atan2,
    /// `==`.
    Equal,
    /// `!=`.
    NotEqual,
    /// `>`.
    Greater,
    /// `<`.
    Less,
    /// `>=`.
    GreaterOrEqual,
    /// `<=`.
    LessOrEqual,
    /// `and`.
    And,
    /// `or`.
    Or,
    /// `unless`.
    Unless,
}

impl Operator {
    /// Whether it compares.
    #[must_use]
    pub fn compares(self) -> bool {
        use Operator::{Equal, Greater, GreaterOrEqual, Less, LessOrEqual, NotEqual};
        matches!(self, Equal | NotEqual | Greater | Less | GreaterOrEqual | LessOrEqual)
    }

    /// Whether it is one of sets.
    #[must_use]
    pub fn is_of_sets(self) -> bool {
        matches!(self, Self::And | Self::Or | Self::Unless)
    }
}

/// Many series made few.
#[derive(Debug, Clone)]
pub struct Aggregate {
    /// How.
    pub by: Aggregator,
    /// The labels that are kept, or not.
    pub labels: Vec<String>,
    /// Whether they are those that are not kept.
    pub without: bool,
    /// How many (`topk`), or which share (`quantile`).
    pub parameter: Option<Expression>,
    /// Of what.
    pub of: Expression,
}

/// How many series become few.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Aggregator {
    /// Their sum.
    Sum,
    /// Their mean.
    Average,
    /// The least.
    Minimum,
    /// The greatest.
    Maximum,
    /// How many.
    Count,
    /// 1.
    Group,
    /// The standard deviation.
    StandardDeviation,
    /// The variance.
    Variance,
    /// The greatest of them, as they are.
    Top,
    /// The least of them, as they are.
    Bottom,
    /// A quantile.
    Quantile,
}

impl Aggregator {
    /// All of them, by their names.
    pub(super) const ALL: [(&'static str, Self); 11] = [
        ("sum", Self::Sum),
        ("avg", Self::Average),
        ("min", Self::Minimum),
        ("max", Self::Maximum),
        ("count", Self::Count),
        ("group", Self::Group),
        ("stddev", Self::StandardDeviation),
        ("stdvar", Self::Variance),
        ("topk", Self::Top),
        ("bottomk", Self::Bottom),
        ("quantile", Self::Quantile),
    ];

    /// Whether it has a parameter.
    #[must_use]
    pub fn has_parameter(self) -> bool {
        matches!(self, Self::Top | Self::Bottom | Self::Quantile)
    }
}

/// What an expression gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// One number at a time.
    Scalar,
    /// Series with a value at a time.
    Vector,
    /// Series with samples over a time.
    Matrix,
    /// A text.
    Text,
}

impl Kind {
    /// As Prometheus calls it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            Self::Vector => "instant vector",
            Self::Matrix => "range vector",
            Self::Text => "string",
        }
    }
}

impl Expression {
    /// What it gives.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Number(_) => Kind::Scalar,
            Self::Text(_) => Kind::Text,
            Self::Selector(_) | Self::Aggregate(_) => Kind::Vector,
            Self::Range(..) | Self::Subquery(_) => Kind::Matrix,
            Self::Negative(of) => of.kind(),
            Self::Binary(binary) => match (binary.left.kind(), binary.right.kind()) {
                (Kind::Scalar, Kind::Scalar) => Kind::Scalar,
                _ => Kind::Vector,
            },
            Self::Call(function, _) => function.gives(),
        }
    }
}

macro_rules! functions {
    ($($name:literal $variant:ident ($($argument:ident),*) $(? $($optional:ident),+)? => $gives:ident, $about:literal;)*) => {
        /// A function.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Function {
            $(#[doc = $about] $variant,)*
        }

        impl Function {
            /// All of them, by their names.
            pub const ALL: &'static [(&'static str, Self)] = &[$(($name, Self::$variant)),*];

            /// What it gives.
            #[must_use]
            pub fn gives(self) -> Kind {
                match self { $(Self::$variant => Kind::$gives,)* }
            }

            /// What it takes: what it must have, and what it may have.
            #[must_use]
            pub fn takes(self) -> (&'static [Kind], &'static [Kind]) {
                match self { $(Self::$variant => (&[$(Kind::$argument),*], &[$($(Kind::$optional),+)?]),)* }
            }
        }
    };
}

functions! {
    "abs" Absolute(Vector) => Vector, "Without sign.";
    "absent" Absent(Vector) => Vector, "1 where there is nothing.";
    "absent_over_time" AbsentOverTime(Matrix) => Vector, "1 where there was nothing.";
    "avg_over_time" AverageOverTime(Matrix) => Vector, "The mean over a time.";
    "ceil" Ceiling(Vector) => Vector, "Rounded up.";
    "changes" Changes(Matrix) => Vector, "How often it changed.";
    "clamp" Clamp(Vector, Scalar, Scalar) => Vector, "Held between two.";
    "clamp_max" ClampMaximum(Vector, Scalar) => Vector, "At most so much.";
    "clamp_min" ClampMinimum(Vector, Scalar) => Vector, "At least so much.";
    "count_over_time" CountOverTime(Matrix) => Vector, "How many samples there were.";
    "delta" Delta(Matrix) => Vector, "What a gauge changed by.";
    "exp" Exponential(Vector) => Vector, "To the power of e.";
    "floor" Floor(Vector) => Vector, "Rounded down.";
    "histogram_quantile" HistogramQuantile(Scalar, Vector) => Vector, "A quantile of buckets.";
    "idelta" InstantDelta(Matrix) => Vector, "What a gauge changed by last.";
    "increase" Increase(Matrix) => Vector, "What a counter grew by.";
    "irate" InstantRate(Matrix) => Vector, "What a counter grew by last, a second.";
    "label_join" LabelJoin(Vector, Text, Text) => Vector, "A label made of others. Takes any number of them.";
    "label_replace" LabelReplace(Vector, Text, Text, Text, Text) => Vector, "A label made of another.";
    "last_over_time" LastOverTime(Matrix) => Vector, "The newest value of a time.";
    "ln" Logarithm(Vector) => Vector, "The natural logarithm.";
    "log10" Logarithm10(Vector) => Vector, "The logarithm to ten.";
    "log2" Logarithm2(Vector) => Vector, "The logarithm to two.";
    "max_over_time" MaximumOverTime(Matrix) => Vector, "The greatest of a time.";
    "min_over_time" MinimumOverTime(Matrix) => Vector, "The least of a time.";
    "present_over_time" PresentOverTime(Matrix) => Vector, "1 where there was something.";
    "quantile_over_time" QuantileOverTime(Scalar, Matrix) => Vector, "A quantile over a time.";
    "rate" Rate(Matrix) => Vector, "What a counter grew by, a second.";
    "resets" Resets(Matrix) => Vector, "How often a counter began anew.";
    "round" Round(Vector) ? Scalar => Vector, "Rounded, to a multiple if one is said.";
    "scalar" Scalar(Vector) => Scalar, "The value of the only one; NaN unless there is one.";
    "sgn" Sign(Vector) => Vector, "The sign.";
    "sort" Sort(Vector) => Vector, "The least first.";
    "sort_desc" SortDescending(Vector) => Vector, "The greatest first.";
    "sqrt" SquareRoot(Vector) => Vector, "The square root.";
    "stddev_over_time" StandardDeviationOverTime(Matrix) => Vector, "The standard deviation over a time.";
    "stdvar_over_time" VarianceOverTime(Matrix) => Vector, "The variance over a time.";
    "sum_over_time" SumOverTime(Matrix) => Vector, "The sum over a time.";
    "time" Time() => Scalar, "The time that is asked about, in seconds.";
    "timestamp" Timestamp(Vector) => Vector, "The time of the sample, in seconds.";
    "vector" Vector(Scalar) => Vector, "A number as a series without labels.";
}
