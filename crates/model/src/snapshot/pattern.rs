//! Regular expressions of users: bounded in memory, linear in time, always of the whole text, and the same to every proxy.
//!
//! They are RE2's, whose expressions Envoy and gRPC take: what `regex` knows and RE2 does not is refused, since one such rule would keep an Envoy
//! from taking any; `\d`, `\s`, `\w` and `\b` mean ASCII, as they do there.

use std::fmt::Write as _;
use std::ops::Range;

use regex::Regex;
use regex_syntax::ast::{self, Ast};
use serde::{Deserialize, Serialize};

/// The most that a repetition may count to, in RE2.
const MOST: u32 = 1000;

/// A regular expression that is matched against a whole text, in time linear in it.
#[derive(Clone)]
pub struct Pattern {
    written: Box<str>,
    regex: Regex,
}

/// Why a text is no expression.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct PatternError {
    /// What is wrong, and with what.
    pub why: String,
}

impl Pattern {
    /// Compiles `text`. A pattern may take at most 64 KiB when compiled, so that no route fills a proxy's memory.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn new(text: &str) -> Result<Self, PatternError> {
        let translated = translated(text)?;
        // Checked on its own first, so that `a)(b` cannot close the anchor's group.
        let fail = |error: regex::Error| match error {
            regex::Error::CompiledTooBig(limit) => PatternError { why: format!("it takes more than {} KiB when compiled", limit / 1024) },
            error => PatternError { why: last_line(&error.to_string()) },
        };
        regex::RegexBuilder::new(&translated).size_limit(64 * 1024).build().map_err(fail)?;
        let regex = regex::RegexBuilder::new(&format!("^(?:{translated})$")).size_limit(128 * 1024).build().map_err(fail)?;
        Ok(Self { written: text.into(), regex })
    }

    /// An expression that is looked for anywhere in a text, with the bounds of [`Pattern::new`].
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn anywhere(text: &str) -> Result<Regex, PatternError> {
        Self::new(text)?;
        let built = regex::RegexBuilder::new(&translated(text)?).size_limit(64 * 1024).build();
        built.map_err(|error| PatternError { why: last_line(&error.to_string()) })
    }

    /// Whether the whole of `text` matches.
    #[must_use]
    pub fn matches(&self, text: &str) -> bool {
        self.regex.is_match(text)
    }

    /// The expression as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.written
    }
}

/// Several expressions that are asked at once, in time that hardly grows with their number. What was learnt of texts is kept, in at most 8 MiB.
#[derive(Debug, Clone)]
pub struct PatternSet(regex::RegexSet);

impl PatternSet {
    /// The expressions as one; none where that would take more than 64 MiB.
    #[must_use]
    pub fn new<'p>(patterns: impl Iterator<Item = &'p Pattern>) -> Option<Self> {
        let mut builder = regex::RegexSetBuilder::new(patterns.map(|pattern| pattern.regex.as_str()));
        builder.size_limit(64 * 1024 * 1024).dfa_size_limit(8 * 1024 * 1024).build().ok().map(Self)
    }

    /// Which of them match the whole of `text`, in their order.
    pub fn matching(&self, text: &str) -> impl Iterator<Item = usize> + use<> {
        self.0.matches(text).into_iter()
    }
}

/// The expression in `regex`'s words.
fn translated(text: &str) -> Result<String, PatternError> {
    let ast = ast::parse::Parser::new().parse(text).map_err(|error| PatternError { why: last_line(&error.to_string()) })?;
    let replaced = ast::visit(&ast, Words { text, replaced: Vec::new() })?;
    let (mut out, mut at) = (String::with_capacity(text.len()), 0);
    for (span, word) in replaced {
        out.push_str(&text[at..span.start]);
        out.push_str(word);
        at = span.end;
    }
    out.push_str(&text[at..]);
    Ok(out)
}

/// A parser's errors are pictures, of which the last line says what is wrong.
fn last_line(error: &str) -> String {
    error.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned()
}

/// Goes through an expression and finds what means something else in RE2, or nothing.
struct Words<'t> {
    text: &'t str,
    replaced: Vec<(Range<usize>, &'static str)>,
}

impl Words<'_> {
    fn replace(&mut self, span: &ast::Span, word: &'static str) {
        self.replaced.push((span.start.offset..span.end.offset, word));
    }

    fn unknown(&self, span: &ast::Span, why: &str) -> PatternError {
        let mut text = String::new();
        // Writing to a text does not fail.
        let _ = write!(text, "`{}` {why}", &self.text[span.start.offset..span.end.offset]);
        PatternError { why: text }
    }

    fn perl(&mut self, class: &ast::ClassPerl) {
        let word = match (&class.kind, class.negated) {
            (ast::ClassPerlKind::Digit, false) => "[0-9]",
            (ast::ClassPerlKind::Digit, true) => "[^0-9]",
            (ast::ClassPerlKind::Space, false) => r"[\t\n\f\r ]",
            (ast::ClassPerlKind::Space, true) => r"[^\t\n\f\r ]",
            (ast::ClassPerlKind::Word, false) => "[0-9A-Za-z_]",
            (ast::ClassPerlKind::Word, true) => "[^0-9A-Za-z_]",
        };
        self.replace(&class.span, word);
    }

    fn literal(&self, literal: &ast::Literal) -> Result<(), PatternError> {
        let known = match &literal.kind {
            ast::LiteralKind::HexFixed(ast::HexLiteralKind::X) | ast::LiteralKind::HexBrace(ast::HexLiteralKind::X) => true,
            ast::LiteralKind::HexFixed(_) | ast::LiteralKind::HexBrace(_) => false,
            ast::LiteralKind::Meta | ast::LiteralKind::Superfluous => literal.c != '_',
            ast::LiteralKind::Verbatim | ast::LiteralKind::Octal | ast::LiteralKind::Special(_) => true,
        };
        if known { Ok(()) } else { Err(self.unknown(&literal.span, "is an escape that RE2 does not know")) }
    }

    fn flags(&self, flags: &ast::Flags) -> Result<(), PatternError> {
        use ast::{Flag, FlagsItemKind};
        let unknown =
            flags.items.iter().find(|item| matches!(item.kind, FlagsItemKind::Flag(Flag::Unicode | Flag::CRLF | Flag::IgnoreWhitespace)));
        unknown.map_or(Ok(()), |item| Err(self.unknown(&item.span, "is a flag that RE2 does not know: it knows i, m, s and U")))
    }
}

impl ast::Visitor for Words<'_> {
    type Output = Vec<(Range<usize>, &'static str)>;
    type Err = PatternError;

    fn finish(self) -> Result<Self::Output, PatternError> {
        Ok(self.replaced)
    }

    fn visit_pre(&mut self, ast: &Ast) -> Result<(), PatternError> {
        match ast {
            Ast::ClassPerl(class) => self.perl(class),
            Ast::Literal(literal) => self.literal(literal)?,
            Ast::Flags(set) => self.flags(&set.flags)?,
            Ast::Group(group) => {
                if let ast::GroupKind::NonCapturing(flags) = &group.kind {
                    self.flags(flags)?;
                }
            }
            Ast::Assertion(assertion) => match assertion.kind {
                ast::AssertionKind::WordBoundary => self.replace(&assertion.span, r"(?-u:\b)"),
                ast::AssertionKind::NotWordBoundary => self.replace(&assertion.span, r"(?-u:\B)"),
                ast::AssertionKind::WordBoundaryStart
                | ast::AssertionKind::WordBoundaryEnd
                | ast::AssertionKind::WordBoundaryStartAngle
                | ast::AssertionKind::WordBoundaryEndAngle
                | ast::AssertionKind::WordBoundaryStartHalf
                | ast::AssertionKind::WordBoundaryEndHalf => {
                    return Err(self.unknown(&assertion.span, "is a place that RE2 does not know"));
                }
                ast::AssertionKind::StartLine
                | ast::AssertionKind::EndLine
                | ast::AssertionKind::StartText
                | ast::AssertionKind::EndText => {}
            },
            Ast::Repetition(repetition) => {
                if matches!(*repetition.ast, Ast::Repetition(_)) {
                    return Err(self.unknown(&repetition.span, "repeats a repetition; put the inner one into parentheses"));
                }
                if let ast::RepetitionKind::Range(range) = &repetition.op.kind {
                    let most = match range {
                        ast::RepetitionRange::Exactly(most)
                        | ast::RepetitionRange::AtLeast(most)
                        | ast::RepetitionRange::Bounded(_, most) => *most,
                    };
                    if most > MOST {
                        return Err(self.unknown(&repetition.op.span, "counts to more than 1000"));
                    }
                    if self.text[repetition.op.span.start.offset..].starts_with("{,") {
                        return Err(self.unknown(&repetition.op.span, "means another thing to RE2; write `{0,` in place of `{,`"));
                    }
                }
            }
            Ast::Empty(_) | Ast::Dot(_) | Ast::ClassUnicode(_) | Ast::ClassBracketed(_) | Ast::Alternation(_) | Ast::Concat(_) => {}
        }
        Ok(())
    }

    fn visit_class_set_item_pre(&mut self, item: &ast::ClassSetItem) -> Result<(), PatternError> {
        match item {
            ast::ClassSetItem::Perl(class) => self.perl(class),
            ast::ClassSetItem::Literal(literal) => self.literal(literal)?,
            ast::ClassSetItem::Range(range) => {
                self.literal(&range.start)?;
                self.literal(&range.end)?;
            }
            ast::ClassSetItem::Bracketed(class) => {
                return Err(self.unknown(&class.span, "is a class within a class, which RE2 does not know"));
            }
            ast::ClassSetItem::Empty(_) | ast::ClassSetItem::Ascii(_) | ast::ClassSetItem::Unicode(_) | ast::ClassSetItem::Union(_) => {}
        }
        Ok(())
    }

    fn visit_class_set_binary_op_pre(&mut self, op: &ast::ClassSetBinaryOp) -> Result<(), PatternError> {
        Err(self.unknown(&op.span, "is an operation on classes that RE2 does not know"))
    }
}

impl std::fmt::Debug for Pattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "/{}/", self.as_str())
    }
}
impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}
impl Eq for Pattern {}
impl Serialize for Pattern {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}
impl<'de> Deserialize<'de> for Pattern {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::new(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn classes_are_of_ascii_and_case_is_folded() {
        for (pattern, taken, left) in [
            (r"/v\d+", &["/v1", "/v42"][..], &["/v", "/v\u{663}"][..]),
            (r"[\w.]+", &["a_1.b"], &["é"]),
            (r"[^\W]\D\S", &["aé."], &["é11"]),
            (r"a\b.*", &["a", "a-b", "aé"], &["ab"]),
            ("(?i)/Café", &["/CAFÉ", "/café"], &["/cafe"]),
            ("a|b", &["a", "b"], &["ab", "xb"]),
            ("", &[""], &["a"]),
            ("a.c", &["abc", "aéc"], &["a\nc"]),
        ] {
            let made = Pattern::new(pattern).unwrap();
            taken.iter().for_each(|text| assert!(made.matches(text), "{pattern} {text}"));
            left.iter().for_each(|text| assert!(!made.matches(text), "{pattern} {text}"));
            assert_eq!(made.as_str(), pattern);
        }
    }

    #[test]
    fn what_one_proxy_would_refuse_is_none() {
        for (pattern, why) in [
            ("a)(b", "unopened group"),
            ("(?=a)", "look-around, including look-ahead and look-behind, is not supported"),
            (r"(a)\1", "backreferences are not supported"),
            (r"[a-z&&[^b]]", "`a-z&&[^b]` is an operation on classes that RE2 does not know"),
            (r"[a[b]]", "`[b]` is a class within a class, which RE2 does not know"),
            (r"\<a", r"`\<` is a place that RE2 does not know"),
            ("(?x) a", "`x` is a flag that RE2 does not know: it knows i, m, s and U"),
            ("a**", "`a**` repeats a repetition; put the inner one into parentheses"),
            ("a{1001}", "`{1001}` counts to more than 1000"),
            (r"\u00e9", r"`\u00e9` is an escape that RE2 does not know"),
            (r"a\_b", r"`\_` is an escape that RE2 does not know"),
            ("(a{100}){100}", "it takes more than 64 KiB when compiled"),
        ] {
            assert_eq!(Pattern::new(pattern).unwrap_err().why, why, "{pattern}");
        }
    }
}
