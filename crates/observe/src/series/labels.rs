//! Sets of labels, and the table that keeps each text once.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

/// The label that holds the name of a metric.
pub const NAME: &str = "__name__";

/// The labels of a series, in order of their names. None has an empty value: that is the same as not to have it.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Labels(Arc<[(Arc<str>, Arc<str>)]>);

impl Labels {
    /// These labels. Those without a value are left out; of several of one name the last counts.
    #[must_use]
    pub fn new(labels: impl IntoIterator<Item = (Arc<str>, Arc<str>)>) -> Self {
        let mut labels: Vec<_> = labels.into_iter().collect();
        labels.sort_by(|(one, _), (other, _)| one.cmp(other));
        let mut kept: Vec<(Arc<str>, Arc<str>)> = Vec::with_capacity(labels.len());
        for label in labels {
            match kept.last_mut().filter(|last| last.0 == label.0) {
                Some(last) => *last = label,
                None => kept.push(label),
            }
        }
        kept.retain(|(_, value)| !value.is_empty());
        Self(kept.into())
    }

    /// The labels of texts.
    #[must_use]
    pub fn of(labels: &[(&str, &str)]) -> Self {
        Self::new(labels.iter().map(|(name, value)| (Arc::from(*name), Arc::from(*value))))
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (&**name, &**value))
    }

    /// The value of one; empty if it is not there.
    #[must_use]
    pub fn get(&self, name: &str) -> &str {
        self.0.binary_search_by(|(known, _)| (**known).cmp(name)).map_or("", |at| &self.0[at].1)
    }

    /// The name of the metric; empty if there is none.
    #[must_use]
    pub fn name(&self) -> &str {
        self.get(NAME)
    }

    /// Those of which `keep` holds.
    #[must_use]
    pub fn filtered(&self, keep: impl Fn(&str) -> bool) -> Self {
        if self.0.iter().all(|(name, _)| keep(name)) {
            return self.clone();
        }
        Self(self.0.iter().filter(|(name, _)| keep(name)).cloned().collect())
    }

    /// Without the name of the metric.
    #[must_use]
    pub fn unnamed(&self) -> Self {
        self.filtered(|name| name != NAME)
    }

    /// With one label set to `value`, or taken away where that is empty.
    #[must_use]
    pub fn with(&self, name: &str, value: &str) -> Self {
        Self::new(self.0.iter().cloned().chain([(Arc::from(name), Arc::from(value))]))
    }
}

impl fmt::Display for Labels {
    /// As PromQL writes it: `up{job="web"}`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        let mut open = '{';
        for (name, value) in self.iter().filter(|(name, _)| *name != NAME) {
            write!(f, "{open}{name}={value:?}")?;
            open = ',';
        }
        if open == ',' || self.name().is_empty() {
            f.write_str(if open == '{' { "{}" } else { "}" })?;
        }
        Ok(())
    }
}

/// The number of a text.
pub(super) type Symbol = u32;

/// Labels as numbers of texts, in order of the numbers of their names.
pub(super) type Numbered = Arc<[(Symbol, Symbol)]>;

/// Every text once.
#[derive(Debug, Default)]
pub(super) struct Symbols {
    texts: Vec<Option<Arc<str>>>,
    numbers: HashMap<Arc<str>, Symbol, foldhash::fast::RandomState>,
    free: Vec<Symbol>,
}

impl Symbols {
    /// The number of a text, a new one if need be.
    pub(super) fn number(&mut self, text: &str) -> Symbol {
        if let Some(number) = self.numbers.get(text) {
            return *number;
        }
        let text: Arc<str> = text.into();
        let number = match self.free.pop() {
            Some(number) => number,
            None => {
                self.texts.push(None);
                // There are never more than a few texts for each of a bounded number of series.
                Symbol::try_from(self.texts.len() - 1).unwrap_or(Symbol::MAX)
            }
        };
        if let Some(slot) = self.texts.get_mut(number as usize) {
            *slot = Some(text.clone());
        }
        self.numbers.insert(text, number);
        number
    }

    /// The number that a text has.
    pub(super) fn known(&self, text: &str) -> Option<Symbol> {
        self.numbers.get(text).copied()
    }

    /// A text.
    pub(super) fn text(&self, number: Symbol) -> Arc<str> {
        self.texts.get(number as usize).cloned().flatten().unwrap_or_default()
    }

    /// Labels with their texts.
    pub(super) fn labels(&self, numbered: &[(Symbol, Symbol)]) -> Labels {
        Labels::new(numbered.iter().map(|(name, value)| (self.text(*name), self.text(*value))))
    }

    /// Lets go of texts that none of these labels has.
    pub(super) fn keep<'a>(&mut self, used: impl Iterator<Item = &'a Numbered>) {
        let mut marks = vec![false; self.texts.len()];
        for (name, value) in used.flat_map(|labels| labels.iter()) {
            for number in [name, value] {
                if let Some(mark) = marks.get_mut(*number as usize) {
                    *mark = true;
                }
            }
        }
        for (number, slot) in self.texts.iter_mut().enumerate() {
            if !marks[number]
                && let Some(text) = slot.take()
            {
                self.numbers.remove(&text);
                self.free.extend(Symbol::try_from(number));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_in_order_and_have_values() {
        let labels = Labels::of(&[("b", "2"), (NAME, "up"), ("a", ""), ("b", "3")]);
        assert_eq!(labels.to_string(), "up{b=\"3\"}");
        assert_eq!((labels.name(), labels.get("b"), labels.get("a")), ("up", "3", ""));
        assert_eq!(labels.unnamed().to_string(), "{b=\"3\"}");
        assert_eq!(labels.with("b", "").to_string(), "up");
        assert_eq!(labels.with("c", "x").to_string(), "up{b=\"3\",c=\"x\"}");
        assert_eq!(Labels::default().to_string(), "{}");
    }

    #[test]
    fn texts_that_nobody_has_make_room() {
        let mut symbols = Symbols::default();
        let numbers: Vec<Symbol> = ["a", "1", "2"].iter().map(|text| symbols.number(text)).collect();
        assert_eq!(symbols.number("1"), numbers[1]);
        let used: Numbered = Arc::from([(numbers[0], numbers[1])]);
        symbols.keep([&used].into_iter());
        assert_eq!((symbols.known("2"), symbols.known("1")), (None, Some(numbers[1])));
        assert_eq!(symbols.number("3"), numbers[2]);
        assert_eq!(symbols.labels(&used).to_string(), "{a=\"1\"}");
    }
}
