//! From text to parts. An operator is `%NAME%`, `%NAME(…)%` or `%NAME(…):LENGTH%`; `%%` is a percent sign.

use std::ops::Range;

use super::operator::{Field, OF_ENVOY, OPERATORS, Operator, Takes};
use super::time::TimeFormat;
use super::{MOST_BYTES, Part};
use crate::cel::{Expression, Wrong};
use crate::resource::nearest;

pub(super) fn parse(text: &str) -> Result<Vec<Part>, Vec<Wrong>> {
    let mut parse = Parse { parts: Vec::new(), literal: String::new(), wrong: Vec::new() };
    let line = text.strip_suffix('\n').unwrap_or(text);
    if text.len() > MOST_BYTES {
        parse.wrong(0..text.len(), format!("a format has at most {MOST_BYTES} bytes"), None);
    } else if let Some(at) = line.find(['\n', '\r']) {
        let hint = "end the format where the line ends; for what is optional, make two policies with `when`";
        parse.wrong(at..at + 1, "a line of the log is one line", Some(hint.to_owned()));
    } else {
        parse.line(line);
    }
    if parse.wrong.is_empty() { Ok(parse.parts) } else { Err(parse.wrong) }
}

struct Parse {
    parts: Vec<Part>,
    literal: String,
    wrong: Vec<Wrong>,
}

/// An operator as it is written.
struct Written<'t> {
    name: &'t str,
    argument: Option<(&'t str, usize)>,
    length: Option<(&'t str, usize)>,
    range: Range<usize>,
}

impl<'t> Parse {
    fn wrong(&mut self, range: Range<usize>, message: impl Into<String>, hint: Option<String>) {
        self.wrong.push(Wrong { range, message: message.into(), hint });
    }

    fn end_literal(&mut self) {
        if !self.literal.is_empty() {
            self.parts.push(Part::Text(std::mem::take(&mut self.literal).into()));
        }
    }

    fn line(&mut self, line: &'t str) {
        let mut at = 0;
        while let Some(found) = line.get(at..).and_then(|rest| rest.find('%')) {
            self.literal.push_str(line.get(at..at + found).unwrap_or_default());
            at += found;
            if line.get(at + 1..).is_some_and(|rest| rest.starts_with('%')) {
                self.literal.push('%');
                at += 2;
                continue;
            }
            let Some(written) = self.written(line, at) else { return };
            at = written.range.end;
            self.end_literal();
            if let Some(part) = self.part(&written) {
                self.parts.push(part);
            }
        }
        self.literal.push_str(line.get(at..).unwrap_or_default());
        self.end_literal();
    }

    /// The operator that begins at the percent sign at `start`; none where none can be made out, and nothing behind it.
    fn written(&mut self, line: &'t str, start: usize) -> Option<Written<'t>> {
        let rest = line.get(start + 1..).unwrap_or_default();
        let length_of_name = rest.find(|letter: char| !(letter.is_ascii_uppercase() || letter.is_ascii_digit() || letter == '_'));
        let name = rest.get(..length_of_name.unwrap_or(rest.len())).unwrap_or_default();
        let mut at = start + 1 + name.len();
        let mut argument = None;
        if line.get(at..).is_some_and(|rest| rest.starts_with('(')) && !name.is_empty() {
            let Some(inner) = argument_length(line.get(at + 1..).unwrap_or_default()) else {
                let hint = format!("write `%{name}(…)%`; a percent sign of the text is `%%`");
                self.wrong(start..line.len(), format!("`%{name}(` is not closed"), Some(hint));
                return None;
            };
            argument = line.get(at + 1..at + 1 + inner).map(|text| (text, at + 1));
            at += inner + 2;
        }
        let mut length = None;
        if line.get(at..).is_some_and(|rest| rest.starts_with(':')) {
            let digits = line.get(at + 1..).unwrap_or_default();
            let digits = digits.get(..digits.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(digits.len())).unwrap_or_default();
            length = Some((digits, at + 1));
            at += 1 + digits.len();
        }
        if name.is_empty() || !line.get(at..).is_some_and(|rest| rest.starts_with('%')) {
            let end = (at + 1).min(line.len());
            let end = (end..=line.len()).find(|end| line.is_char_boundary(*end)).unwrap_or(line.len());
            let hint = "an operator is `%NAME%`, `%NAME(…)%` or `%NAME(…):LENGTH%`; a percent sign of the text is `%%`";
            self.wrong(start..end, "a percent sign begins an operator, and none follows", Some(hint.to_owned()));
            return None;
        }
        Some(Written { name, argument, length, range: start..at + 1 })
    }

    fn part(&mut self, written: &Written<'t>) -> Option<Part> {
        let known = OPERATORS.into_iter().find(|(name, _)| *name == written.name);
        let Some((name, takes)) = known else {
            self.unknown(written);
            return None;
        };
        let most = match written.length {
            None => None,
            Some((digits, at)) => {
                let length = digits.parse::<usize>().ok();
                if !takes.may_be_cut() || length.is_none() {
                    let message = match length {
                        None => format!("`{digits}` is no length"),
                        Some(_) => format!("what `{name}` gives is not cut to a length"),
                    };
                    self.wrong(at..at + digits.len(), message, Some(format!("write `%{name}%`")).filter(|_| length.is_some()));
                    return None;
                }
                length
            }
        };
        let operator = self.operator(name, takes, written)?;
        if let Some((message, hint)) = operator.objection() {
            self.wrong(written.range.clone(), message, Some(hint.to_owned()));
            return None;
        }
        Some(Part::Value { operator, most })
    }

    fn unknown(&mut self, written: &Written<'t>) {
        let name = written.name;
        let range = written.range.start + 1..written.range.start + 1 + name.len();
        if OF_ENVOY.contains(&name) || name.starts_with("UPSTREAM_TLS_") || name.starts_with("TLS_JA") {
            let hint = "it tells of what the mesh does not have or does not measure: leave it out";
            self.wrong(range, format!("`{name}` is Envoy's, and no proxy of the mesh but an Envoy could fill it"), Some(hint.to_owned()));
            return;
        }
        let names = OPERATORS.into_iter().map(|(name, _)| name);
        let hint = nearest(name, names).map(|near| format!("did you mean `{near}`?"));
        let hint = hint.unwrap_or_else(|| "docs/access-logs.md lists all operators; a percent sign of the text is `%%`".to_owned());
        self.wrong(range, format!("there is no operator `{name}`"), Some(hint));
    }

    fn operator(&mut self, name: &str, takes: Takes, written: &Written<'t>) -> Option<Operator> {
        let argument = written.argument.filter(|(text, _)| !text.is_empty());
        let span = argument.map_or(written.range.clone(), |(text, at)| at..at + text.len());
        match (takes, argument) {
            (Takes::Nothing(make), None) if written.argument.is_none() => Some(make()),
            (Takes::Nothing(_), _) => {
                self.wrong(span, format!("`{name}` takes nothing in brackets"), Some(format!("write `%{name}%`")));
                None
            }
            (Takes::Time(make), None) => Some(make(TimeFormat::Default)),
            (Takes::Time(make), Some((text, _))) => match TimeFormat::parse(text) {
                Ok(format) => Some(make(format)),
                Err(message) => {
                    self.wrong(span, message, Some("as `%START_TIME(%Y-%m-%dT%H:%M:%S.%3fZ)%`".to_owned()));
                    None
                }
            },
            (Takes::Word(make, words), argument) => make(argument.map(|(word, _)| word)).or_else(|| {
                self.wrong(
                    span,
                    format!("`{name}` does not know this word"),
                    Some(format!("write `%{name}%`, or behind the name {words}")),
                );
                None
            }),
            (Takes::Field(_), None) => {
                let hint = format!("as `%{name}(X-NAME)%`, or with another for where there is none `%{name}(X-NAME?X-OTHER)%`");
                self.wrong(span, format!("`{name}` needs the name of a field"), Some(hint));
                None
            }
            (Takes::Field(make), Some((text, at))) => self.field(text, at).map(make),
            (Takes::Variable, None) => {
                self.wrong(span, format!("`{name}` needs the name of a variable"), Some(format!("as `%{name}(POD_NAME)%`")));
                None
            }
            (Takes::Variable, Some((text, _))) if text.contains(['=', '\0']) => {
                self.wrong(span, "no variable has such a name", None);
                None
            }
            (Takes::Variable, Some((text, _))) => Some(Operator::Environment(text.into())),
            (Takes::Expression, None) => {
                self.wrong(span, format!("`{name}` needs an expression"), Some(format!("as `%{name}(request.method)%`")));
                None
            }
            (Takes::Expression, Some((text, at))) => match Expression::parse_text_of_exchange(text) {
                Ok(expression) => Some(Operator::Cel(expression)),
                Err(found) => {
                    for wrong in found {
                        self.wrong(at + wrong.range.start..at + wrong.range.end, wrong.message, wrong.hint);
                    }
                    None
                }
            },
        }
    }

    fn field(&mut self, text: &str, at: usize) -> Option<Field> {
        let mut names = text.split('?');
        let (name, fallback) = (names.next().unwrap_or_default(), names.next());
        if names.next().is_some() {
            self.wrong(at..at + text.len(), "one name may stand in for another, not more", Some("as `X-NAME?X-OTHER`".to_owned()));
            return None;
        }
        let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$&'*+-.^_`|~".contains(&byte);
        let fits = |name: &str| {
            let plain = name.strip_prefix(':').unwrap_or(name);
            !plain.is_empty() && plain.bytes().all(token)
        };
        if let Some(odd) = std::iter::once(name).chain(fallback).find(|name| !fits(name)) {
            self.wrong(at..at + text.len(), format!("`{odd}` is no name of a field"), None);
            return None;
        }
        let lower = |name: &str| name.to_ascii_lowercase().into_boxed_str();
        Some(Field { name: lower(name), fallback: fallback.map(lower) })
    }
}

/// How many bytes there are until the bracket that closes an operator: one that a percent sign follows, or a length and one.
fn argument_length(text: &str) -> Option<usize> {
    text.match_indices(')').map(|(at, _)| at).find(|at| {
        let behind = text.get(at + 1..).unwrap_or_default();
        let behind = match behind.strip_prefix(':') {
            // A length that is none is told of where it stands.
            Some(length) => length.trim_start_matches(|letter: char| letter.is_ascii_digit()),
            None => behind,
        };
        behind.starts_with('%')
    })
}
