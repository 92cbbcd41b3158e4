//! The rules of a host with an index over their paths, so that a thousand rules cost little more than ten.
//!
//! Rules are tried in order. An order made by the Gateway API's precedence has exact paths first, then prefixes from the longest to
//! the shortest, then expressions: a run of such rules can be asked by path. A list may have several runs one after another, where
//! rules of a wider host follow those of a narrower one.

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Authentication, HttpRule, PathMatch, PatternSet};

/// Rules in the order in which they are tried, with an index.
#[derive(Debug, Default)]
pub struct RuleTable {
    /// Shared one by one, as an exchange keeps its own to its end.
    rules: Vec<Arc<HttpRule>>,
    runs: Vec<Run>,
    /// What tells of claims in header fields, which rules may look at.
    telling: Vec<Arc<Authentication>>,
    /// By rule, which of the different policies that say who may ask are its own. Empty where all rules have the same.
    guards: Vec<u32>,
}

type Indices = HashMap<Box<str>, Vec<u32>, foldhash::fast::RandomState>;

/// Rules in precedence order.
#[derive(Debug, Clone, Default)]
struct Run {
    exact: Indices,
    /// By prefix without its last slash.
    prefix: Indices,
    /// The length of the longest of these: no longer start of a path is looked up, however many slashes it has.
    longest: usize,
    regex: Vec<u32>,
    /// The expressions as one, where there are many.
    together: Option<PatternSet>,
}

/// From how many on expressions are asked as one: about where that begins to pay (`cargo xtask bench routes`).
const MANY: usize = 16;

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
                PathMatch::Prefix(prefix) => {
                    run.longest = run.longest.max(trimmed(prefix).len());
                    run.prefix.entry(trimmed(prefix).into()).or_default().push(index);
                }
                PathMatch::Regex(_) => run.regex.push(index),
            }
        }
        for run in runs.iter_mut().filter(|run| run.regex.len() >= MANY) {
            let path = |index: &u32| rules.get(*index as usize).map(|rule| &rule.matches.path);
            let pattern = |index| if let Some(PathMatch::Regex(pattern)) = path(index) { Some(pattern) } else { None };
            run.together = PatternSet::new(run.regex.iter().filter_map(pattern));
        }
        let mut telling: Vec<Arc<Authentication>> = Vec::new();
        for authentication in rules.iter().filter_map(|rule| rule.filters.authentication.as_ref()) {
            if authentication.claim_headers().next().is_some() && !telling.contains(authentication) {
                telling.push(authentication.clone());
            }
        }
        let guards = guards(&rules);
        Self { rules, runs, telling, guards }
    }

    /// Whether rules differ in who may ask.
    #[must_use]
    pub fn is_mixed(&self) -> bool {
        !self.guards.is_empty()
    }

    /// All rules, each with the number of its policies, where they differ.
    pub(super) fn guarded(&self) -> impl Iterator<Item = (&Arc<HttpRule>, u32)> {
        self.rules.iter().zip(self.guards.iter().copied())
    }

    /// The number of a rule's policies; none where the table has no rule with these.
    pub(super) fn guard_of(&self, rule: &Arc<HttpRule>) -> Option<u32> {
        let known = self.guarded().find(|(known, _)| Arc::ptr_eq(known, rule));
        known.or_else(|| self.guarded().find(|(known, _)| are_same(known, rule))).map(|(_, guard)| guard)
    }

    /// What tells of claims in header fields, which rules may look at.
    #[must_use]
    pub fn telling(&self) -> &[Arc<Authentication>] {
        &self.telling
    }

    /// The rules whose path may take `path`, in the order in which they are tried. Exact paths and prefixes do take it; expressions are still
    /// to be asked.
    pub fn candidates<'r, 'p>(&'r self, path: &'p str) -> impl Iterator<Item = &'r Arc<HttpRule>> + use<'r, 'p> {
        self.runs.iter().flat_map(move |run| run.of(path)).filter_map(|index| self.rules.get(*index as usize))
    }
}

impl Run {
    fn of<'r, 'p>(&'r self, path: &'p str) -> impl Iterator<Item = &'r u32> + use<'r, 'p> {
        let exact = self.exact.get(path).map(Vec::as_slice).unwrap_or_default();
        // `OPTIONS *`: only the prefix of everything takes it.
        let first = if path == "*" { Some("") } else { self.longest_start(path) };
        let starts = std::iter::successors(first, |start| start.rfind('/').map(|at| &start[..at]));
        let prefixes = starts.filter_map(|start| self.prefix.get(start)).flatten();
        let all = if self.together.is_none() { self.regex.as_slice() } else { &[] };
        let some = self.together.iter().flat_map(move |together| together.matching(path)).filter_map(|at| self.regex.get(at));
        exact.iter().chain(prefixes).chain(all).chain(some)
    }

    /// The longest start of a path, in whole elements, that a prefix may be.
    fn longest_start<'p>(&self, path: &'p str) -> Option<&'p str> {
        if self.prefix.is_empty() {
            return None;
        }
        match path.as_bytes().get(..=self.longest) {
            Some(start) => start.iter().rposition(|byte| *byte == b'/').map(|at| &path[..at]),
            None => Some(path),
        }
    }
}

/// By rule, the number of its policies.
fn guards(rules: &[Arc<HttpRule>]) -> Vec<u32> {
    let mut different: Vec<&HttpRule> = Vec::new();
    let mut numbers = Vec::with_capacity(rules.len());
    for rule in rules {
        let known = different.iter().position(|known| are_same(known, rule));
        numbers.push(known.unwrap_or_else(|| {
            different.push(rule);
            different.len() - 1
        }));
    }
    if different.len() < 2 { Vec::new() } else { numbers.into_iter().map(|number| u32::try_from(number).unwrap_or(u32::MAX)).collect() }
}

/// Whether two rules have the same policies of who may ask.
fn are_same(one: &HttpRule, other: &HttpRule) -> bool {
    one.filters.authorization == other.filters.authorization && one.filters.authentication == other.filters.authentication
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
        Self {
            rules: self.rules.iter().map(|rule| Arc::new(own(rule))).collect(),
            runs: self.runs.clone(),
            telling: self.telling.clone(),
            guards: self.guards.clone(),
        }
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
