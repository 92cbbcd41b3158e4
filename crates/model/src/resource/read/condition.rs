//! Conditions, from the text of a scalar: a mistake in an expression is told at its bytes in the document.

use std::ops::Range;

use crate::cel::{Expression, Wrong};
use crate::resource::kinds::WrittenCondition;
use crate::resource::reader::Reader;
use crate::resource::tree::Node;

pub(super) fn condition(node: &Node, reader: &mut Reader<'_>) -> Option<WrittenCondition> {
    let expression = expression(node, "`when`", Expression::parse, reader)?;
    Some(WrittenCondition { expression, span: node.span.clone() })
}

/// What `parse` reads from the text of a scalar.
pub(super) fn expression<T>(node: &Node, what: &str, parse: impl Fn(&str) -> Result<T, Vec<Wrong>>, reader: &mut Reader<'_>) -> Option<T> {
    let text = reader.text(node, what)?;
    match parse(&text) {
        Ok(read) => Some(read),
        Err(found) => {
            for wrong in found {
                let span = within(node, &text, &wrong.range, reader);
                match wrong.hint {
                    Some(hint) => reader.wrong_with(&span, wrong.message, hint),
                    None => reader.wrong(&span, wrong.message),
                }
            }
            None
        }
    }
}

/// Notes a mistake in `range` of a scalar's text.
pub(super) fn formatted(node: &Node, text: &str, range: Range<usize>, message: &str, hint: &str, reader: &mut Reader<'_>) {
    let span = within(node, text, &range, reader);
    reader.wrong_with(&span, message, hint);
}

/// The place of `range` of a scalar's text in the document.
fn within(node: &Node, text: &str, range: &Range<usize>, reader: &Reader<'_>) -> Range<usize> {
    // The place of a scalar of several lines is its first.
    let written = reader.source.get(node.span.start..).unwrap_or_default();
    let within = placed(written, text, range);
    within.map_or(node.span.clone(), |within| node.span.start + within.start..node.span.start + within.end)
}

/// Where `range` of a scalar's text stands in `written`, which begins with the scalar. YAML folds lines, and doubles or escapes quotes, so the one
/// is followed along the other. None where it cannot be.
fn placed(written: &str, text: &str, range: &Range<usize>) -> Option<Range<usize>> {
    let quoted = |quote: char, itself: &str| written.starts_with(quote) && (!text.starts_with(quote) || written.starts_with(itself));
    let (doubled, escaped) = (quoted('\'', "'''"), quoted('"', "\"\\\""));
    let mut at = usize::from(doubled || escaped);
    let (mut start, mut end) = (None, None);
    for (index, letter) in text.char_indices() {
        if index == range.end {
            end = Some(at);
        }
        let rest = written.get(at..)?;
        if letter.is_whitespace() && !(escaped && rest.starts_with('\\')) {
            at += rest.find(|next: char| !next.is_whitespace()).unwrap_or(rest.len());
            continue;
        }
        let skipped = rest.find(letter)?;
        if index == range.start {
            start = Some(at + skipped);
        }
        at += skipped + letter.len_utf8();
        if doubled && letter == '\'' {
            at += usize::from(written.get(at..)?.starts_with('\''));
        }
    }
    let start = start.unwrap_or(at);
    Some(start..end.unwrap_or(at).max(start))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_a_text_is_found_where_it_is_written() {
        for (written, text, part) in [
            ("a.methd == b", "a.methd == b", "methd"),
            ("'a == ''x'' && methd'", "a == 'x' && methd", "methd"),
            ("'a == '''' && methd'", "a == '' && methd", "methd"),
            (r#""a == \"x\" && methd""#, r#"a == "x" && methd"#, "methd"),
            ("a == 'x'\n    && methd == 'y'\n", "a == 'x'\n&& methd == 'y'\n", "methd"),
            ("'x' == ''\n    && methd", "'x' == '' && methd", "methd"),
            ("\"x\" == a\n    && methd", "\"x\" == a && methd", "methd"),
            ("a\n      && methd", "a && methd", "methd"),
            ("'é == methd'", "é == methd", "methd"),
        ] {
            let start = text.find(part).unwrap_or_default();
            let found = placed(written, text, &(start..start + part.len()));
            assert_eq!(found.and_then(|range| written.get(range)), Some(part), "{written}");
        }
        assert_eq!(placed("'a &&'", "a &&", &(4..4)), Some(5..5), "what ends too soon");
    }
}
