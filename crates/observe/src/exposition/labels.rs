//! The labels of a series, kept as they are written: `name="value",…`. Whatever a value is made of, the text stays readable to a scraper.

use std::borrow::Cow;
use std::sync::Arc;

/// The longest value, in bytes; the rest of a longer one is left out. As long as a host's name may be (253), and no room for what somebody
/// makes up.
pub const MAX_VALUE: usize = 256;

/// The labels of a series, in order. Clones are of the same text. Equal labels are one series.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Labels(Arc<str>);

impl Labels {
    /// Labels of these names and values. A control character in a value becomes U+FFFD: readers of the text take some of them for its end.
    #[must_use]
    pub fn new<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let mut text = String::new();
        for (name, value) in pairs {
            if !text.is_empty() {
                text.push(',');
            }
            text.push_str(name);
            text.push_str("=\"");
            for character in bounded(value).chars() {
                match character {
                    '\\' => text.push_str("\\\\"),
                    '"' => text.push_str("\\\""),
                    '\n' => text.push_str("\\n"),
                    control if control.is_control() => text.push(char::REPLACEMENT_CHARACTER),
                    other => text.push(other),
                }
            }
            text.push('"');
        }
        Self(text.into())
    }

    /// One label.
    #[must_use]
    pub fn one(name: &str, value: &str) -> Self {
        Self::new([(name, value)])
    }

    /// No label.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// As they are written between braces.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.0
    }

    /// Names and values, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Cow<'_, str>)> {
        let mut rest = &*self.0;
        std::iter::from_fn(move || {
            let (name, value) = rest.split_once("=\"")?;
            let end = closing(value)?;
            rest = &value[end + 1..];
            Some((name.trim_start_matches(','), unescaped(&value[..end])))
        })
    }

    /// The value of one label.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<Cow<'_, str>> {
        self.iter().find(|(known, _)| *known == name).map(|(_, value)| value)
    }
}

/// As much of a value as there is room for.
fn bounded(value: &str) -> &str {
    &value[..value.floor_char_boundary(MAX_VALUE)]
}

/// Where the quote is that ends a value.
fn closing(value: &str) -> Option<usize> {
    let mut escaped = false;
    value.bytes().position(|byte| {
        let ends = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        ends
    })
}

fn unescaped(value: &str) -> Cow<'_, str> {
    if !value.contains('\\') {
        return Cow::Borrowed(value);
    }
    let mut text = String::with_capacity(value.len());
    let mut characters = value.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => text.extend(characters.next().map(|escaped| if escaped == 'n' { '\n' } else { escaped })),
            other => text.push(other),
        }
    }
    Cow::Owned(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_back() {
        for value in ["", "plain", "a\"b\\c\nd", "\\", "\"", "\\\"", "},x=\"y", "Grüße"] {
            let labels = Labels::new([("one", value), ("two", "2")]);
            let read: Vec<_> = labels.iter().collect();
            assert_eq!(read, [("one", Cow::Borrowed(value)), ("two", Cow::Borrowed("2"))], "{value:?}");
            assert_eq!(labels.get("two").as_deref(), Some("2"));
            assert!(!labels.text().contains('\n'));
        }
        assert_eq!(Labels::none().iter().count(), 0);
    }

    #[test]
    fn a_hostile_value_neither_ends_the_text_nor_fills_it() {
        assert_eq!(Labels::one("host", "a\0b\r\u{7f}").text(), "host=\"a\u{fffd}b\u{fffd}\u{fffd}\"");
        let long = "é".repeat(1000);
        let labels = Labels::one("host", &long);
        assert_eq!(labels.get("host").map(|value| value.len()), Some(MAX_VALUE));
        // What differs past the bound is one series, and so it is written once.
        assert_eq!(labels, Labels::one("host", &(long + "x")));
    }
}
