//! A text as a question, or why it is none.

use std::fmt;

use super::ast::{
    Aggregate, Aggregator, Binary, Expression, Function, Grouping, Kind, Matching, Milliseconds, Operator, Selector, Subquery,
};
use super::lex::{Token, lex};
use crate::series::labels::NAME;
use crate::series::{Matcher, Wanted};

/// The longest question, in bytes.
const LONGEST: usize = 64 * 1024;
/// How deep it may be.
const DEEPEST: usize = 64;
/// How many operators it may have: each lies deeper than the one before.
const MOST_OPERATORS: usize = 200;
/// How often a question over a time is asked unless it says so: Prometheus' default.
const DEFAULT_STEP: Milliseconds = 60_000;
/// Functions of Prometheus that are not answered here.
const UNKNOWN: [&str; 36] = [
    "acos",
    "acosh",
    "asin",
    "asinh",
    "atan",
    "atanh",
    "cos",
    "cosh",
    "count_values",
    "day_of_month",
    "day_of_week",
    "day_of_year",
    "days_in_month",
    "deg",
    "deriv",
    "double_exponential_smoothing",
    "histogram_avg",
    "histogram_count",
    "histogram_fraction",
    "histogram_stddev",
    "histogram_stdvar",
    "histogram_sum",
    "holt_winters",
    "hour",
    "info",
    "limitk",
    "mad_over_time",
    "minute",
    "month",
    "pi",
    "predict_linear",
    "rad",
    "sin",
    "sort_by_label",
    "sort_by_label_desc",
    "year",
];

/// Why a text is no question that is answered here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ParseError {
    line: usize,
    column: usize,
    message: String,
}

impl fmt::Display for ParseError {
    /// As Prometheus says it: `1:5: parse error: …`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { line, column, message } = self;
        write!(f, "{line}:{column}: parse error: {message}")
    }
}

impl ParseError {
    pub(super) fn new(text: &str, at: usize, message: impl Into<String>) -> Self {
        let before = &text[..text.floor_char_boundary(at)];
        let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
        Self { line: before.matches('\n').count() + 1, column, message: message.into() }
    }
}

/// Reads a question.
///
/// # Errors
/// What is wrong with it and where, or what of it is not answered here.
pub fn parse(text: &str) -> Result<Expression, ParseError> {
    if text.len() > LONGEST {
        return Err(ParseError::new(text, 0, format!("a query has at most {LONGEST} bytes")));
    }
    let mut parser = Parser { text, tokens: lex(text)?, at: 0, depth: 0, operators: 0 };
    if *parser.peek() == Token::End {
        return Err(parser.error("no expression found in input"));
    }
    let expression = parser.expression(0)?;
    parser.end()?;
    Ok(expression)
}

/// Reads which series are meant, as `match[]` of the HTTP API has it.
///
/// # Errors
/// See [`parse`].
pub fn selector(text: &str) -> Result<Vec<Matcher>, ParseError> {
    match parse(text)? {
        Expression::Selector(Selector { matchers, offset: 0 }) => Ok(matchers),
        _ => Err(ParseError::new(text, 0, "a series selector was expected, such as up{job=\"web\"}")),
    }
}

/// Reads a duration: `1h30m`.
#[must_use]
pub fn duration(text: &str) -> Option<Milliseconds> {
    super::lex::duration(text)
}

struct Parser<'t> {
    text: &'t str,
    tokens: Vec<(usize, Token)>,
    at: usize,
    depth: usize,
    operators: usize,
}

type Parsed<T> = Result<T, ParseError>;

impl Parser<'_> {
    fn peek(&self) -> &Token {
        self.peek_at(0)
    }

    fn peek_at(&self, ahead: usize) -> &Token {
        self.tokens.get(self.at + ahead).map_or(&Token::End, |(_, token)| token)
    }

    fn place(&self) -> usize {
        self.tokens.get(self.at).map_or(self.text.len(), |(at, _)| *at)
    }

    fn next(&mut self) -> Token {
        let token = self.peek().clone();
        self.at += 1;
        token
    }

    fn error(&self, message: impl Into<String>) -> ParseError {
        ParseError::new(self.text, self.place(), message)
    }

    fn unexpected(&self, wanted: &str) -> ParseError {
        let found = match self.peek() {
            Token::End => "end of input".to_owned(),
            Token::Name(name) => format!("\"{name}\""),
            Token::Sign(sign) => format!("\"{sign}\""),
            Token::Number(number) => format!("number {number}"),
            Token::Duration(_) => "a duration".to_owned(),
            Token::Text(text) => format!("string {text:?}"),
        };
        self.error(format!("unexpected {found}, {wanted} was expected"))
    }

    fn is_sign(&self, sign: &str) -> bool {
        matches!(self.peek(), Token::Sign(found) if *found == sign)
    }

    fn take_sign(&mut self, sign: &str) -> bool {
        let is = self.is_sign(sign);
        self.at += usize::from(is);
        is
    }

    fn sign(&mut self, sign: &str) -> Parsed<()> {
        if self.take_sign(sign) { Ok(()) } else { Err(self.unexpected(&format!("\"{sign}\""))) }
    }

    /// Whether a word that is a key word comes next.
    fn is_word(&self, word: &str) -> bool {
        matches!(self.peek(), Token::Name(name) if name.eq_ignore_ascii_case(word))
    }

    fn take_word(&mut self, word: &str) -> bool {
        let is = self.is_word(word);
        self.at += usize::from(is);
        is
    }

    fn end(&self) -> Parsed<()> {
        if *self.peek() == Token::End { Ok(()) } else { Err(self.unexpected("an operator or the end")) }
    }

    /// An expression whose operators bind at least so tightly.
    fn expression(&mut self, least: u8) -> Parsed<Expression> {
        self.depth += 1;
        if self.depth > DEEPEST {
            return Err(self.error(format!("the query is more than {DEEPEST} levels deep")));
        }
        let mut left = self.unary()?;
        while let Some((operator, binds)) = self.operator().filter(|(_, binds)| *binds >= least) {
            let place = self.place();
            self.operators += 1;
            if self.operators > MOST_OPERATORS {
                return Err(self.error(format!("the query has more than {MOST_OPERATORS} operators")));
            }
            self.at += 1;
            let is_bool = self.take_word("bool");
            let matching = self.matching(operator, place)?;
            // A power binds to its right.
            let right = self.expression(if operator == Operator::Power { binds } else { binds + 1 })?;
            left = self.binary(
                Binary { operator, left, right, is_bool, matching: matching.clone().unwrap_or_default() },
                matching.is_some(),
                place,
            )?;
        }
        self.depth -= 1;
        Ok(left)
    }

    /// The operator that comes next, and how tightly it binds.
    fn operator(&self) -> Option<(Operator, u8)> {
        Some(match self.peek() {
            Token::Sign(sign) => match *sign {
                "+" => (Operator::Add, 4),
                "-" => (Operator::Subtract, 4),
                "*" => (Operator::Multiply, 5),
                "/" => (Operator::Divide, 5),
                "%" => (Operator::Modulo, 5),
                "^" => (Operator::Power, 6),
                "==" => (Operator::Equal, 3),
                "!=" => (Operator::NotEqual, 3),
                ">" => (Operator::Greater, 3),
                "<" => (Operator::Less, 3),
                ">=" => (Operator::GreaterOrEqual, 3),
                "<=" => (Operator::LessOrEqual, 3),
                _ => return None,
            },
            Token::Name(name) => match name.to_ascii_lowercase().as_str() {
                "or" => (Operator::Or, 1),
                "and" => (Operator::And, 2),
                "unless" => (Operator::Unless, 2),
                "atan2" => (Operator::Atan2, 5),
                _ => return None,
            },
            _ => return None,
        })
    }

    fn matching(&mut self, operator: Operator, place: usize) -> Parsed<Option<Matching>> {
        let is_on = self.is_word("on");
        if !is_on && !self.is_word("ignoring") {
            return Ok(None);
        }
        self.at += 1;
        let mut matching = Matching { labels: self.label_names()?, is_on, ..Matching::default() };
        for (word, grouping) in [("group_left", Grouping::Left), ("group_right", Grouping::Right)] {
            if self.take_word(word) {
                if operator.is_of_sets() {
                    return Err(ParseError::new(self.text, place, "no grouping allowed for set operations"));
                }
                matching.grouping = grouping;
                if self.is_sign("(") {
                    matching.included = self.label_names()?;
                }
                break;
            }
        }
        let both = matching.included.iter().find(|label| matching.is_on && matching.labels.contains(label));
        match both {
            Some(label) => {
                Err(ParseError::new(self.text, place, format!("label \"{label}\" must not occur in ON and GROUP clause at once")))
            }
            None => Ok(Some(matching)),
        }
    }

    fn binary(&self, binary: Binary, has_matching: bool, place: usize) -> Parsed<Expression> {
        let error = |message: &str| Err(ParseError::new(self.text, place, message));
        let (left, right) = (binary.left.kind(), binary.right.kind());
        let of_values = |kind: Kind| matches!(kind, Kind::Scalar | Kind::Vector);
        let both_vectors = left == Kind::Vector && right == Kind::Vector;
        if binary.is_bool && !binary.operator.compares() {
            return error("bool modifier can only be used on comparison operators");
        }
        if !of_values(left) || !of_values(right) {
            return error("binary expression must contain only scalar and instant vector types");
        }
        if binary.operator.compares() && !binary.is_bool && left == Kind::Scalar && right == Kind::Scalar {
            return error("comparisons between scalars must use BOOL modifier");
        }
        if has_matching && !both_vectors {
            return error("vector matching only allowed between instant vectors");
        }
        if binary.operator.is_of_sets() && !both_vectors {
            return error("set operators not allowed in binary scalar expression");
        }
        Ok(Expression::Binary(Box::new(binary)))
    }

    fn unary(&mut self) -> Parsed<Expression> {
        let place = self.place();
        let minus = self.take_sign("-");
        if !minus && !self.take_sign("+") {
            return self.postfix();
        }
        // A power binds more tightly than a sign.
        let of = self.expression(6)?;
        if !matches!(of.kind(), Kind::Scalar | Kind::Vector) {
            let message =
                format!("unary expression only allowed on expressions of type scalar or instant vector, got {:?}", of.kind().word());
            return Err(ParseError::new(self.text, place, message));
        }
        Ok(match of {
            Expression::Number(number) if minus => Expression::Number(-number),
            of if minus => Expression::Negative(Box::new(of)),
            of => of,
        })
    }

    fn postfix(&mut self) -> Parsed<Expression> {
        let mut of = self.primary()?;
        loop {
            let place = self.place();
            if self.take_sign("[") {
                of = self.range(of, place)?;
            } else if self.take_word("offset") {
                let sign = if self.take_sign("-") { -1 } else { 1 };
                let offset = sign * self.length()?;
                let slot = match &mut of {
                    Expression::Selector(selector) | Expression::Range(selector, _) => &mut selector.offset,
                    Expression::Subquery(subquery) => &mut subquery.offset,
                    _ => {
                        let message =
                            "offset modifier must be preceded by an instant vector selector or range vector selector or a subquery";
                        return Err(ParseError::new(self.text, place, message));
                    }
                };
                if *slot != 0 {
                    return Err(ParseError::new(self.text, place, "offset may not be set multiple times"));
                }
                *slot = offset;
            } else if self.is_sign("@") {
                return Err(self.error("the @ modifier is not answered here"));
            } else {
                return Ok(of);
            }
        }
    }

    fn length(&mut self) -> Parsed<Milliseconds> {
        match *self.peek() {
            Token::Duration(length) => {
                self.at += 1;
                Ok(length)
            }
            _ => Err(self.unexpected("a duration such as 5m")),
        }
    }

    /// What stands in brackets behind `of`.
    fn range(&mut self, of: Expression, place: usize) -> Parsed<Expression> {
        let range = self.length()?;
        if range <= 0 {
            return Err(ParseError::new(self.text, place, "duration must be greater than 0"));
        }
        if self.take_sign(":") {
            let step = if self.is_sign("]") { DEFAULT_STEP } else { self.length()? };
            self.sign("]")?;
            if step <= 0 {
                return Err(ParseError::new(self.text, place, "duration must be greater than 0"));
            }
            if of.kind() != Kind::Vector {
                let message = format!("subquery is only allowed on instant vector, got {} instead", of.kind().word());
                return Err(ParseError::new(self.text, place, message));
            }
            return Ok(Expression::Subquery(Box::new(Subquery { of, range, step, offset: 0 })));
        }
        self.sign("]")?;
        match of {
            Expression::Selector(selector) if selector.offset == 0 => Ok(Expression::Range(selector, range)),
            Expression::Selector(_) => Err(ParseError::new(self.text, place, "no offset modifiers allowed before range")),
            _ => Err(ParseError::new(self.text, place, "ranges only allowed for vector selectors")),
        }
    }

    fn primary(&mut self) -> Parsed<Expression> {
        match self.peek().clone() {
            Token::Number(number) => {
                self.at += 1;
                Ok(Expression::Number(number))
            }
            Token::Text(text) => {
                self.at += 1;
                Ok(Expression::Text(text))
            }
            Token::Sign("(") => {
                self.at += 1;
                let inner = self.expression(0)?;
                self.sign(")")?;
                Ok(inner)
            }
            Token::Sign("{") => self.series(None),
            Token::Name(name) => {
                let opens = |token: &Token| *token == Token::Sign("(");
                let lower = name.to_ascii_lowercase();
                let aggregator = Aggregator::ALL.into_iter().find(|(known, _)| *known == lower).map(|(_, aggregator)| aggregator);
                let grouped =
                    matches!(self.peek_at(1), Token::Name(next) if ["by", "without"].contains(&next.to_ascii_lowercase().as_str()));
                match aggregator {
                    Some(by) if opens(self.peek_at(1)) || grouped => self.aggregate(by),
                    _ if opens(self.peek_at(1)) => self.call(&name),
                    _ => self.series(Some(name)),
                }
            }
            Token::Duration(_) | Token::Sign(_) | Token::End => Err(self.unexpected("an expression")),
        }
    }

    fn aggregate(&mut self, by: Aggregator) -> Parsed<Expression> {
        let place = self.place();
        self.at += 1;
        let mut grouping = self.grouping()?;
        self.sign("(")?;
        let first = self.expression(0)?;
        let (parameter, of) = if self.take_sign(",") { (Some(first), self.expression(0)?) } else { (None, first) };
        self.sign(")")?;
        if grouping.is_none() {
            grouping = self.grouping()?;
        }
        let error = |message: String| Err(ParseError::new(self.text, place, message));
        if by.has_parameter() != parameter.is_some() {
            let expected = if by.has_parameter() { 2 } else { 1 };
            return error(format!("wrong number of arguments for aggregate expression provided, expected {expected}"));
        }
        if let Some(parameter) = &parameter
            && parameter.kind() != Kind::Scalar
        {
            return error(format!("expected type scalar in aggregation parameter, got {}", parameter.kind().word()));
        }
        if of.kind() != Kind::Vector {
            return error(format!("expected type instant vector in aggregation expression, got {}", of.kind().word()));
        }
        let (without, labels) = grouping.unwrap_or_default();
        Ok(Expression::Aggregate(Box::new(Aggregate { by, labels, without, parameter, of })))
    }

    /// `by (…)` or `without (…)`: whether it is the latter, and the labels.
    fn grouping(&mut self) -> Parsed<Option<(bool, Vec<String>)>> {
        let without = self.is_word("without");
        if !without && !self.is_word("by") {
            return Ok(None);
        }
        self.at += 1;
        Ok(Some((without, self.label_names()?)))
    }

    fn label_names(&mut self) -> Parsed<Vec<String>> {
        self.sign("(")?;
        let mut labels = Vec::new();
        while !self.take_sign(")") {
            match self.next() {
                Token::Name(name) if !name.contains(':') => labels.push(name),
                _ => {
                    self.at -= 1;
                    return Err(self.unexpected("a label's name"));
                }
            }
            if !self.take_sign(",") && !self.is_sign(")") {
                return Err(self.unexpected("\",\" or \")\""));
            }
        }
        Ok(labels)
    }

    fn call(&mut self, name: &str) -> Parsed<Expression> {
        let place = self.place();
        let error = |message: String| Err(ParseError::new(self.text, place, message));
        let Some((_, function)) = Function::ALL.iter().find(|(known, _)| *known == name) else {
            return error(if UNKNOWN.contains(&name) {
                format!("the function \"{name}\" is not answered here")
            } else {
                format!("unknown function with name {name:?}")
            });
        };
        self.at += 1;
        self.sign("(")?;
        let mut arguments = Vec::new();
        while !self.take_sign(")") {
            arguments.push((self.place(), self.expression(0)?));
            if !self.take_sign(",") && !self.is_sign(")") {
                return Err(self.unexpected("\",\" or \")\""));
            }
        }
        let (needed, optional) = function.takes();
        let most = if *function == Function::LabelJoin { usize::MAX } else { needed.len() + optional.len() };
        if arguments.len() < needed.len() || arguments.len() > most {
            let expected = needed.len();
            return Err(ParseError::new(
                self.text,
                place,
                format!("expected {expected} argument(s) in call to {name:?}, got {}", arguments.len()),
            ));
        }
        let kinds = needed.iter().chain(optional).copied().chain(std::iter::repeat(Kind::Text));
        for ((place, argument), wanted) in arguments.iter().zip(kinds) {
            if argument.kind() != wanted {
                let message = format!("expected type {} in call to function {name:?}, got {}", wanted.word(), argument.kind().word());
                return Err(ParseError::new(self.text, *place, message));
            }
        }
        Ok(Expression::Call(*function, arguments.into_iter().map(|(_, argument)| argument).collect()))
    }

    fn series(&mut self, name: Option<String>) -> Parsed<Expression> {
        let place = self.place();
        self.at += usize::from(name.is_some());
        let mut matchers: Vec<Matcher> = name.iter().map(|name| Matcher::equal(NAME, name)).collect();
        if self.take_sign("{") {
            while !self.take_sign("}") {
                let matcher = self.matcher()?;
                if matcher.name == NAME && name.is_some() {
                    return Err(ParseError::new(self.text, place, "metric name must not be set twice"));
                }
                matchers.push(matcher);
                if !self.take_sign(",") && !self.is_sign("}") {
                    return Err(self.unexpected("\",\" or \"}\""));
                }
            }
        }
        if matchers.iter().all(|matcher| matcher.takes("")) {
            let message = "vector selector must contain at least one non-empty matcher";
            return Err(ParseError::new(self.text, place, message));
        }
        Ok(Expression::Selector(Selector { matchers, offset: 0 }))
    }

    fn matcher(&mut self) -> Parsed<Matcher> {
        let name = match self.peek().clone() {
            Token::Name(name) if !name.contains(':') => name,
            _ => return Err(self.unexpected("a label's name")),
        };
        self.at += 1;
        let sign = match self.peek() {
            Token::Sign(sign @ ("=" | "!=" | "=~" | "!~")) => *sign,
            _ => return Err(self.unexpected("one of =, !=, =~, !~")),
        };
        self.at += 1;
        let Token::Text(value) = self.peek().clone() else { return Err(self.unexpected("a string")) };
        let regex = || Matcher::regex(&value).map_err(|error| self.error(format!("error parsing regexp: {error}")));
        let wanted = match sign {
            "=" => Wanted::Equal(value),
            "!=" => Wanted::NotEqual(value),
            "=~" => Wanted::Matches(regex()?),
            _ => Wanted::MatchesNot(regex()?),
        };
        self.at += 1;
        Ok(Matcher { name, wanted })
    }
}
