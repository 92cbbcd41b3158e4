//! The rules of a host with an index over their paths, so that a thousand rules cost little more than ten.
//!
//! Rules are tried in order. An order made by the Gateway API's precedence has exact paths first, then prefixes from the longest to
//! the shortest, then expressions: a run of such rules can be asked by path. A list may have several runs one after another, where
//! rules of a wider host follow those of a narrower one.

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{HttpRule, PathMatch};

/// Rules in the order in which they are tried, with an index.
#[derive(Debug, Default)]
pub struct RuleTable {
    /// Shared one by one, as an exchange keeps its own to its end.
    rules: Vec<Arc<HttpRule>>,
    runs: Vec<Run>,
}

type Indices = HashMap<Box<str>, Vec<u32>, foldhash::fast::RandomState>;

/// Rules in precedence order.
#[derive(Debug, Clone, Default)]
struct Run {
    exact: Indices,
    /// By prefix without its last slash.
    prefix: Indices,
    regex: Vec<u32>,
}

impl RuleTable {
    /// The table of rules that are tried in this order.
    #[must_use]
    pub fn new(rules: Vec<HttpRule>) -> Self {
        Self::of(rules.into_iter().map(Arc::new).collect())
    }

    fn of(rules: Vec<Arc<HttpRule>>) -> Self {
        let mut runs: Vec<Run> = Vec::new();
        let mut last = None;
        for (index, rule) in (0_u32..).zip(&rules) {
            let place = place(&rule.matches.path);
            if last.is_none_or(|last| place < last) {
                runs.push(Run::default());
            }
            last = Some(place);
            let Some(run) = runs.last_mut() else { continue };
            match &rule.matches.path {
                PathMatch::Exact(path) => run.exact.entry(path.as_str().into()).or_default().push(index),
                PathMatch::Prefix(prefix) => run.prefix.entry(trimmed(prefix).into()).or_default().push(index),
                PathMatch::Regex(_) => run.regex.push(index),
            }
        }
        Self { rules, runs }
    }

    /// The rules whose path may take `path`, in the order in which they are tried. Exact paths and prefixes do take it; expressions are still
    /// to be asked.
    pub fn candidates(&self, path: &str) -> impl Iterator<Item = &Arc<HttpRule>> {
        self.runs.iter().flat_map(move |run| run.of(path)).filter_map(|index| self.rules.get(*index as usize))
    }
}

impl Run {
    fn of<'r>(&'r self, path: &str) -> impl Iterator<Item = &'r u32> + use<'r> {
        let exact = self.exact.get(path).map(Vec::as_slice).unwrap_or_default();
        let mut prefixes: Vec<&'r [u32]> = Vec::new();
        if !self.prefix.is_empty() {
            let mut rest = Some(path);
            while let Some(prefix) = rest {
                prefixes.extend(self.prefix.get(prefix).map(Vec::as_slice));
                rest = prefix.rfind('/').map(|at| &prefix[..at]);
            }
            if path == "*" {
                // `OPTIONS *`: only the prefix of everything takes it.
                prefixes.extend(self.prefix.get("").map(Vec::as_slice));
            }
        }
        exact.iter().chain(prefixes.into_iter().flatten()).chain(&self.regex)
    }
}

/// Where a path stands in the order of precedence: smaller first.
fn place(path: &PathMatch) -> (u8, std::cmp::Reverse<usize>) {
    match path {
        PathMatch::Exact(_) => (0, std::cmp::Reverse(0)),
        PathMatch::Prefix(prefix) => (1, std::cmp::Reverse(trimmed(prefix).len())),
        PathMatch::Regex(_) => (2, std::cmp::Reverse(0)),
    }
}

fn trimmed(prefix: &str) -> &str {
    prefix.strip_suffix('/').unwrap_or(prefix)
}

/// A clone shares nothing with the table that it is made of: threads that each have one never meet at a count of references.
impl Clone for RuleTable {
    fn clone(&self) -> Self {
        let own = |rule: &Arc<HttpRule>| HttpRule { origin: Arc::new((*rule.origin).clone()), ..(**rule).clone() };
        Self { rules: self.rules.iter().map(|rule| Arc::new(own(rule))).collect(), runs: self.runs.clone() }
    }
}
impl Deref for RuleTable {
    type Target = [Arc<HttpRule>];
    fn deref(&self) -> &[Arc<HttpRule>] {
        &self.rules
    }
}
impl From<Vec<HttpRule>> for RuleTable {
    fn from(rules: Vec<HttpRule>) -> Self {
        Self::new(rules)
    }
}
impl PartialEq for RuleTable {
    fn eq(&self, other: &Self) -> bool {
        self.rules == other.rules
    }
}
impl Eq for RuleTable {}
impl Serialize for RuleTable {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.rules.serialize(serializer)
    }
}
impl<'de> Deserialize<'de> for RuleTable {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Vec::deserialize(deserializer).map(Self::new)
    }
}
