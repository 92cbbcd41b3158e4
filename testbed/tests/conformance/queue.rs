//! What the data lists in the order of the code, taken one by one as the checks ask for it. A name keeps what it was given, unless there is
//! enough for each of its uses: then it is declared anew each time.

use std::collections::BTreeMap;

use serde_json::Value;

/// Entries of one sort.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    entries: Vec<Value>,
    named: BTreeMap<String, Value>,
}

impl Queue {
    pub(crate) fn new(entries: Vec<Value>) -> Self {
        Self { entries, named: BTreeMap::new() }
    }

    /// Passes over the next entry that fits: it is known from the call itself.
    pub(crate) fn pass(&mut self, fits: impl Fn(&Value) -> bool) {
        if let Some(found) = self.entries.iter().position(fits) {
            self.entries.remove(found);
        }
    }

    /// Whether one that was not taken, or was given a name, is so.
    pub(crate) fn any(&self, is: impl Fn(&Value) -> bool) -> bool {
        self.entries.iter().chain(self.named.values()).any(is)
    }

    /// What a name stands for. `uses`: how many checks from here on ask by a name; `fits`: what it can be.
    pub(crate) fn named(&mut self, name: &str, uses: usize, fits: impl Fn(&Value) -> bool) -> Option<Value> {
        let left = self.entries.iter().filter(|entry| fits(entry)).count();
        if left < uses
            && let Some(known) = self.named.get(name)
        {
            return Some(known.clone());
        }
        let found = self.entries.iter().position(fits)?;
        let value = self.entries.remove(found);
        self.named.insert(name.to_owned(), value.clone());
        Some(value)
    }
}

/// What kind of thing a check expects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sort {
    Condition,
    Conditions,
    Listeners,
    Parents,
}

impl Sort {
    pub(crate) fn is(self, kind: &str) -> bool {
        match self {
            Self::Condition => kind == "metav1.Condition",
            Self::Conditions => kind == "[]metav1.Condition",
            Self::Listeners => kind.contains("ListenerStatus") || kind.contains("ListenerEntryStatus"),
            Self::Parents => kind.contains("RouteParentStatus"),
        }
    }

    /// Whether a check takes such a thing by a name.
    pub(crate) fn asked_by(self, call: &str) -> bool {
        let name = call.split('(').next().unwrap_or_default();
        let asks = match self {
            Self::Condition => name.ends_with("MustHaveCondition"),
            Self::Conditions => name.ends_with("MustHaveConditions"),
            Self::Listeners => name.ends_with("StatusMustHaveListeners"),
            Self::Parents => name.ends_with("MustHaveParents"),
        };
        asks && !call.contains('{')
    }
}
