//! From words to a tree, with the language's precedence. It stops at the first mistake: what follows one is guesswork.

use std::ops::Range;

use super::lex::{Token, Word, tokens};
use super::tree::{Each, EachKind, Literal, Operator, Term, Tree};
use super::{MOST_BYTES, Wrong};

/// How deep parts may stand within each other, so that no expression exhausts a stack, and each can be read as a message, whose parts stand at most
/// 100 deep. The language asks for 24.
const MOST_DEEP: usize = 32;
/// How deep brackets, choices and signs may be read within each other.
const MOST_NESTED: usize = 50;

/// Words that are no names.
const RESERVED: [&str; 19] = [
    "in",
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
    "has",
];

pub(super) fn parse(text: &str) -> Result<Tree, Wrong> {
    if text.len() > MOST_BYTES {
        let wrong = Wrong::new(0..text.len(), format!("an expression has at most {MOST_BYTES} bytes, and this one {}", text.len()));
        return Err(wrong);
    }
    let tokens = tokens(text)?;
    let mut parser = Parser { tokens: &tokens, at: 0, nested: 0 };
    let tree = parser.expression()?;
    match parser.word() {
        Word::End => Ok(tree),
        _ => Err(parser.unexpected("an operator or the end")),
    }
}

struct Parser<'t> {
    tokens: &'t [Token<'t>],
    at: usize,
    nested: usize,
}

impl<'t> Parser<'t> {
    fn word(&self) -> &'t Word<'t> {
        self.tokens.get(self.at).map_or(&Word::End, |token| &token.word)
    }

    fn range(&self) -> Range<usize> {
        let end = || self.tokens.last().map_or(0..0, |token| token.range.clone());
        self.tokens.get(self.at).map_or_else(end, |token| token.range.clone())
    }

    /// Where the last word that was taken ends.
    fn end(&self) -> usize {
        self.at.checked_sub(1).and_then(|at| self.tokens.get(at)).map_or(0, |token| token.range.end)
    }

    fn is(&self, symbol: &str) -> bool {
        matches!(self.word(), Word::Symbol(found) if *found == symbol)
    }

    fn take(&mut self, symbol: &str) -> bool {
        let found = self.is(symbol);
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, symbol: &'static str) -> Result<(), Wrong> {
        if self.take(symbol) { Ok(()) } else { Err(self.unexpected(&format!("`{symbol}`"))) }
    }

    fn unexpected(&self, wanted: &str) -> Wrong {
        let found = match self.word() {
            Word::End => "the expression ends".to_owned(),
            Word::Name(name) => format!("`{name}` stands"),
            Word::Symbol(symbol) => format!("`{symbol}` stands"),
            Word::Int(_) | Word::Uint(_) | Word::Double(_) => "a number stands".to_owned(),
            Word::Text(_) | Word::Bytes(_) => "a text stands".to_owned(),
        };
        Wrong::new(self.range(), format!("{found} where {wanted} should be"))
    }

    fn deeper<T>(&mut self, read: impl FnOnce(&mut Self) -> Result<T, Wrong>) -> Result<T, Wrong> {
        if self.nested >= MOST_NESTED {
            return Err(Wrong::new(self.range(), format!("more than {MOST_NESTED} parts stand within each other here")));
        }
        self.nested += 1;
        let found = read(self);
        self.nested -= 1;
        found
    }

    fn tree(&self, term: Term, range: Range<usize>) -> Result<Tree, Wrong> {
        let mut tree = Tree { term, range, depth: 0 };
        let own = match &tree.term {
            // As a message, a row is a tree of pairs.
            Term::All(parts) | Term::Any(parts) => parts.len().next_power_of_two().trailing_zeros() as usize,
            Term::Map(_) => 2,
            _ => 1,
        };
        tree.depth = own + tree.parts().iter().map(|part| part.depth).max().unwrap_or_default();
        if tree.depth > MOST_DEEP {
            return Err(Wrong::new(tree.range, format!("more than {MOST_DEEP} parts stand within each other here")));
        }
        Ok(tree)
    }

    fn operator(&self, operator: Operator, operands: Vec<Tree>, start: usize) -> Result<Tree, Wrong> {
        self.tree(Term::Operator(operator, operands), start..self.end())
    }

    fn expression(&mut self) -> Result<Tree, Wrong> {
        self.deeper(|parser| {
            let condition = parser.any()?;
            if !parser.take("?") {
                return Ok(condition);
            }
            let start = condition.range.start;
            let yes = parser.any()?;
            parser.expect(":")?;
            let no = parser.expression()?;
            parser.operator(Operator::Choose, vec![condition, yes, no], start)
        })
    }

    fn any(&mut self) -> Result<Tree, Wrong> {
        self.chain("||", Self::all, Term::Any)
    }

    fn all(&mut self) -> Result<Tree, Wrong> {
        self.chain("&&", |parser| parser.binary(0), Term::All)
    }

    fn chain(
        &mut self,
        symbol: &str,
        mut read: impl FnMut(&mut Self) -> Result<Tree, Wrong>,
        join: fn(Vec<Tree>) -> Term,
    ) -> Result<Tree, Wrong> {
        let first = read(self)?;
        if !self.is(symbol) {
            return Ok(first);
        }
        let start = first.range.start;
        let mut parts = vec![first];
        while self.take(symbol) {
            parts.push(read(self)?);
        }
        self.tree(join(parts), start..self.end())
    }

    /// Operators with two operands that bind at least as strongly as `least`.
    fn binary(&mut self, least: u8) -> Result<Tree, Wrong> {
        let mut left = self.unary()?;
        while let Some((operator, strength)) = self.infix().filter(|(_, strength)| *strength >= least) {
            self.at += 1;
            let right = self.binary(strength + 1)?;
            let start = left.range.start;
            left = self.operator(operator, vec![left, right], start)?;
        }
        Ok(left)
    }

    /// The operator that stands here, and how strongly it binds.
    fn infix(&self) -> Option<(Operator, u8)> {
        Some(match self.word() {
            Word::Name("in") => (Operator::In, 0),
            Word::Symbol(symbol) => match *symbol {
                "==" => (Operator::Equal, 0),
                "!=" => (Operator::NotEqual, 0),
                "<" => (Operator::Less, 0),
                "<=" => (Operator::LessEqual, 0),
                ">" => (Operator::Greater, 0),
                ">=" => (Operator::GreaterEqual, 0),
                "+" => (Operator::Add, 1),
                "-" => (Operator::Subtract, 1),
                "*" => (Operator::Multiply, 2),
                "/" => (Operator::Divide, 2),
                "%" => (Operator::Remainder, 2),
                _ => return None,
            },
            _ => return None,
        })
    }

    fn unary(&mut self) -> Result<Tree, Wrong> {
        let start = self.range().start;
        if self.take("!") {
            let of = self.deeper(Self::unary)?;
            return self.operator(Operator::Not, vec![of], start);
        }
        if !self.take("-") {
            return self.member();
        }
        let number = match self.word() {
            Word::Int(value) => Some(0_i64.checked_sub_unsigned(*value).map(Literal::Int).ok_or("the number is no integer of 64 bits")),
            Word::Double(value) => Some(Ok(Literal::Double(-value))),
            _ => None,
        };
        match number {
            Some(Ok(literal)) => {
                self.at += 1;
                let literal = self.tree(Term::Literal(literal), start..self.end())?;
                self.members(literal)
            }
            Some(Err(wrong)) => Err(Wrong::new(start..self.range().end, wrong)),
            None => {
                let of = self.deeper(Self::unary)?;
                self.operator(Operator::Negate, vec![of], start)
            }
        }
    }

    fn member(&mut self) -> Result<Tree, Wrong> {
        let first = self.primary()?;
        self.members(first)
    }

    fn members(&mut self, mut of: Tree) -> Result<Tree, Wrong> {
        loop {
            let start = of.range.start;
            if self.take("[") {
                let key = self.expression()?;
                self.expect("]")?;
                of = self.operator(Operator::Index, vec![of, key], start)?;
            } else if self.take(".") {
                let range = self.range();
                let Word::Name(name) = *self.word() else { return Err(self.unexpected("a name")) };
                if name == "in" {
                    return Err(self.unexpected("a name"));
                }
                self.at += 1;
                of = if self.take("(") {
                    self.method(of, name, range)?
                } else {
                    self.tree(Term::Select { of: Box::new(of), field: name.into() }, start..self.end())?
                };
            } else if self.is("{") {
                let wrong = Wrong::new(self.range(), "messages cannot be made in an expression");
                return Err(wrong.hint("a map is `{'key': value}`"));
            } else {
                return Ok(of);
            }
        }
    }

    /// `of.name(` was read.
    fn method(&mut self, of: Tree, name: &str, range: Range<usize>) -> Result<Tree, Wrong> {
        let start = of.range.start;
        let arguments = self.list(")")?;
        let kind = match (name, arguments.len()) {
            ("all", 2) => Some(EachKind::All),
            ("exists", 2) => Some(EachKind::Exists),
            ("exists_one", 2) => Some(EachKind::ExistsOne),
            ("filter", 2) => Some(EachKind::Filter),
            ("map", 2 | 3) => Some(EachKind::Map),
            ("all" | "exists" | "exists_one" | "filter" | "map", given) => {
                let wants = if name == "map" { "2 or 3" } else { "2" };
                return Err(Wrong::new(range, format!("`{name}` takes {wants} arguments, and {given} are given"))
                    .hint(format!("the first names an element: `list.{name}(element, element != '')`")));
            }
            _ => None,
        };
        let Some(kind) = kind else {
            let term = Term::Call { receiver: Some(Box::new(of)), function: name.into(), name: range, arguments };
            return self.tree(term, start..self.end());
        };
        let mut arguments = arguments.into_iter();
        let variable = match arguments.next() {
            Some(Tree { term: Term::Name(variable), .. }) => variable,
            other => {
                let at = other.map_or(range, |tree| tree.range);
                return Err(Wrong::new(at, format!("the first argument of `{name}` is a name for an element")));
            }
        };
        let (filter, result) = match (kind, arguments.next(), arguments.next()) {
            (EachKind::Map, result, None) => (None, result),
            (_, filter, result) => (filter, result),
        };
        self.tree(Term::Each(Box::new(Each { kind, over: of, variable, filter, result })), start..self.end())
    }

    /// Expressions up to `close`, with commas between them; one may stand behind the last of a list.
    fn list(&mut self, close: &'static str) -> Result<Vec<Tree>, Wrong> {
        let mut found = Vec::new();
        loop {
            if (found.is_empty() || close == "]") && self.take(close) {
                return Ok(found);
            }
            found.push(self.expression()?);
            if self.take(close) {
                return Ok(found);
            }
            self.expect(",")?;
        }
    }

    fn primary(&mut self) -> Result<Tree, Wrong> {
        let range = self.range();
        let literal = match self.word() {
            Word::Int(value) => {
                let value = i64::try_from(*value).map_err(|_| Wrong::new(range.clone(), "the number is no integer of 64 bits"))?;
                Literal::Int(value)
            }
            Word::Uint(value) => Literal::Uint(*value),
            Word::Double(value) => Literal::Double(*value),
            Word::Text(value) => Literal::Text(value.as_str().into()),
            Word::Bytes(value) => Literal::Bytes(value.as_slice().into()),
            Word::Name("true") => Literal::Bool(true),
            Word::Name("false") => Literal::Bool(false),
            Word::Name("null") => Literal::Null,
            Word::Name(name) => return self.name(name, range),
            Word::Symbol("(") => {
                self.at += 1;
                let within = self.expression()?;
                self.expect(")")?;
                return Ok(within);
            }
            Word::Symbol("[") => {
                self.at += 1;
                let elements = self.list("]")?;
                return self.tree(Term::List(elements), range.start..self.end());
            }
            Word::Symbol("{") => {
                self.at += 1;
                return self.map(range.start);
            }
            Word::Symbol(_) | Word::End => return Err(self.unexpected("a value")),
        };
        self.at += 1;
        self.tree(Term::Literal(literal), range)
    }

    fn name(&mut self, name: &'t str, range: Range<usize>) -> Result<Tree, Wrong> {
        self.at += 1;
        if !self.take("(") {
            if RESERVED.contains(&name) {
                return Err(Wrong::new(range, format!("`{name}` is a word of the language, and no name")));
            }
            return self.tree(Term::Name(name.into()), range);
        }
        let arguments = self.list(")")?;
        if name != "has" {
            let term = Term::Call { receiver: None, function: name.into(), name: range.clone(), arguments };
            return self.tree(term, range.start..self.end());
        }
        let mut arguments = arguments.into_iter();
        match (arguments.next(), arguments.next()) {
            (Some(Tree { term: Term::Select { of, field }, .. }), None) => self.tree(Term::Has { of, field }, range.start..self.end()),
            _ => {
                let wrong = Wrong::new(range.start..self.end(), "`has` asks for a field of something");
                Err(wrong.hint("for example `has(claims.email)`; of headers ask `'x-name' in request.headers`"))
            }
        }
    }

    fn map(&mut self, start: usize) -> Result<Tree, Wrong> {
        let mut entries = Vec::new();
        while !self.take("}") {
            let key = self.expression()?;
            self.expect(":")?;
            entries.push((key, self.expression()?));
            if !self.is("}") {
                self.expect(",")?;
            }
        }
        self.tree(Term::Map(entries), start..self.end())
    }
}
