//! A mistake, where it stands and what to do about it; and its picture, with the text underlined.

use std::ops::Range;

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};
use serde::{Deserialize, Serialize};

/// Whether a mistake keeps a change from being made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// It does.
    Error,
    /// It is worth knowing.
    Warning,
}

/// A mistake in what a user wrote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diagnostic {
    /// Whether it keeps the change from being made.
    pub severity: Severity,
    /// The file, as the user named it.
    pub file: String,
    /// The line, from 1.
    pub line: usize,
    /// The column, in characters from 1.
    pub column: usize,
    /// The bytes of the file that are wrong.
    pub span: Range<usize>,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
    /// Another place that has to do with it.
    pub related: Option<(Range<usize>, String)>,
}

impl Diagnostic {
    /// An error at `span` of `source`.
    #[must_use]
    pub fn error(file: &str, source: &str, span: Range<usize>, message: impl Into<String>) -> Self {
        let span = inside(source, &span);
        let before = &source[..span.start];
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        Self { severity: Severity::Error, file: file.to_owned(), line, column, span, message: message.into(), hint: None, related: None }
    }

    /// The same with what to do.
    #[must_use]
    pub fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }

    /// The same with another place that has to do with it.
    #[must_use]
    pub fn related(self, span: Range<usize>, label: impl Into<String>) -> Self {
        Self { related: Some((span, label.into())), ..self }
    }

    /// The mistake as a compiler would show it.
    #[must_use]
    pub fn render(&self, source: &str, colours: bool) -> String {
        let level = match self.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let mut snippet = Snippet::source(source).path(&self.file).annotation(AnnotationKind::Primary.span(inside(source, &self.span)));
        if let Some((span, label)) = &self.related {
            snippet = snippet.annotation(AnnotationKind::Context.span(inside(source, span)).label(label));
        }
        let mut group = level.primary_title(&self.message).element(snippet);
        if let Some(hint) = &self.hint {
            group = group.element(Level::HELP.message(hint));
        }
        let renderer = if colours { Renderer::styled() } else { Renderer::plain() };
        renderer.render(&[group])
    }
}

/// The place in whole characters of `source`: one that the YAML reader gives may end within one or past the end, and the text
/// shown may be another's.
fn inside(source: &str, span: &Range<usize>) -> Range<usize> {
    let start = source.floor_char_boundary(span.start);
    start..source.ceil_char_boundary(span.end).max(start)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_place_is_too_odd_to_be_shown() {
        for source in ["", "ä", "a\nää\n", "\u{feff}a: ä"] {
            for (start, end) in (0..9).flat_map(|start| (0..9).map(move |end| (start, end))) {
                let found = Diagnostic::error("x", source, start..end, "odd").related(end..start, "too");
                assert!(found.render(source, true).contains("odd"));
                assert!(found.render("", false).contains("odd"));
            }
        }
    }
}
