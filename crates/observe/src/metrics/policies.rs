//! What became of calls by the policies and limits that they met: one set of counts each. Bounded: past it, what is of one kind counts together.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use lorica_model::snapshot::{Effect, Effects};

use crate::exposition::{Family, Kind, Sample, Value};
use crate::record::OTHER;

/// The most of a kind that are counted apart.
const MOST: usize = 1000;

/// Counts of one policy or limit.
pub(super) trait Counts: Default {
    /// The family's name.
    const NAME: &'static str;
    /// What it counts.
    const HELP: &'static str;
    /// The labels that name the policy or limit.
    const LABELS: &'static [&'static str];
    /// The label that says which count it is.
    const OUTCOME: &'static str;

    /// All of its counts, by the value of that label.
    fn outcomes(&self) -> Vec<(&'static str, &AtomicU64)>;
}

/// What one AuthorizationPolicy said of calls.
#[derive(Debug, Default)]
pub struct AccessCounts {
    /// It denied them.
    pub denied: AtomicU64,
    /// It would have denied them, had it been more than a trial.
    pub would_deny: AtomicU64,
    /// It would have let them pass, had it been more than a trial.
    pub would_pass: AtomicU64,
    /// It wrote them down.
    pub audited: AtomicU64,
    /// The service that it has asked did not answer. Unless its policy fails open they were denied, and count among these.
    pub unanswered: AtomicU64,
}

impl Counts for AccessCounts {
    const NAME: &'static str = "lorica_authorization_verdicts_total";
    const HELP: &'static str =
        "Calls that an AuthorizationPolicy decided on, by what it said of them (of `unanswered` ones also what followed)";
    const LABELS: &'static [&'static str] = &["policy"];
    const OUTCOME: &'static str = "verdict";

    fn outcomes(&self) -> Vec<(&'static str, &AtomicU64)> {
        let Self { denied, would_deny, would_pass, audited, unanswered } = self;
        vec![("denied", denied), ("would_deny", would_deny), ("would_pass", would_pass), ("audited", audited), ("unanswered", unanswered)]
    }
}

/// What one AuthenticationPolicy said of the tokens of requests.
#[derive(Debug, Default)]
pub struct TokenCounts {
    /// Their token was good.
    pub accepted: AtomicU64,
    /// Of these, tokens that had been verified before, and cost no signature.
    pub remembered: AtomicU64,
    /// They had no token, and needed none.
    pub anonymous: AtomicU64,
    /// They had no token, and were refused.
    pub missing: AtomicU64,
    /// Their token was not taken.
    pub refused: AtomicU64,
    /// They would have been refused, had the policy been more than a trial.
    pub would_refuse: AtomicU64,
}

impl Counts for TokenCounts {
    const NAME: &'static str = "lorica_authentication_verdicts_total";
    const HELP: &'static str =
        "Requests that an AuthenticationPolicy looked at, by what it said of their tokens (`remembered` counts among `accepted`)";
    const LABELS: &'static [&'static str] = &["policy"];
    const OUTCOME: &'static str = "verdict";

    fn outcomes(&self) -> Vec<(&'static str, &AtomicU64)> {
        let Self { accepted, remembered, anonymous, missing, refused, would_refuse } = self;
        vec![
            ("accepted", accepted),
            ("remembered", remembered),
            ("anonymous", anonymous),
            ("missing", missing),
            ("refused", refused),
            ("would_refuse", would_refuse),
        ]
    }
}

/// What became of requests that one limit is about.
#[derive(Debug, Default)]
pub struct LimitCounts {
    /// They passed.
    pub allowed: AtomicU64,
    /// They were refused.
    pub limited: AtomicU64,
    /// They would have been refused, had the limit been more than a shadow.
    pub shadowed: AtomicU64,
    /// Who counts could not be asked.
    pub unavailable: AtomicU64,
    /// They counted together with those of other keys, as there was no room for more.
    pub overflowed: AtomicU64,
}

impl Counts for LimitCounts {
    const NAME: &'static str = "lorica_rate_limit_requests_total";
    const HELP: &'static str = "Requests that a limit is about, by what became of them";
    const LABELS: &'static [&'static str] = &["policy", "limit"];
    const OUTCOME: &'static str = "result";

    fn outcomes(&self) -> Vec<(&'static str, &AtomicU64)> {
        let Self { allowed, limited, shadowed, unavailable, overflowed } = self;
        vec![("allowed", allowed), ("limited", limited), ("shadowed", shadowed), ("unavailable", unavailable), ("overflowed", overflowed)]
    }
}

/// What one policy that is tried would have done to calls.
#[derive(Debug, Default)]
pub struct TrialCounts {
    passed: AtomicU64,
    effects: [AtomicU64; Effect::ALL.len()],
}

impl TrialCounts {
    /// It would have done this to a call.
    pub fn count(&self, effects: Effects) {
        if effects.is_none() {
            self.passed.fetch_add(1, Ordering::Relaxed);
        }
        for (effect, count) in Effect::ALL.into_iter().zip(&self.effects) {
            if effects.has(effect) {
                count.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

impl Counts for TrialCounts {
    const NAME: &'static str = "lorica_trial_verdicts_total";
    const HELP: &'static str = "Calls that a policy with `mode: Shadow` was held against, by what it would have done to them";
    const LABELS: &'static [&'static str] = &["kind", "policy"];
    const OUTCOME: &'static str = "verdict";

    /// What is of another kind of policy than this one never happens, and is left out.
    fn outcomes(&self) -> Vec<(&'static str, &AtomicU64)> {
        let effects = Effect::ALL.into_iter().map(Effect::word).zip(&self.effects);
        std::iter::once(("would_pass", &self.passed)).chain(effects.filter(|(_, count)| count.load(Ordering::Relaxed) > 0)).collect()
    }
}

/// The counts of all of a kind, by the values of their labels.
#[derive(Debug, Default)]
pub(super) struct Counted<C>(Mutex<BTreeMap<Vec<String>, Arc<C>>>);

impl<C: Counts> Counted<C> {
    /// Those of one.
    pub(super) fn counts(&self, named: Vec<String>) -> Arc<C> {
        // Every change of it is complete before the next line can fail.
        let mut counted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let named = if counted.len() < MOST || counted.contains_key(&named) { named } else { vec![OTHER.to_owned(); C::LABELS.len()] };
        counted.entry(named).or_default().clone()
    }

    pub(super) fn family(&self) -> Family {
        let counted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let samples = counted.iter().flat_map(|(named, counts)| {
            counts.outcomes().into_iter().map(|(outcome, count)| Sample {
                labels: C::LABELS.iter().copied().zip(named.iter().cloned()).chain([(C::OUTCOME, outcome.to_owned())]).collect(),
                value: Value::Counter(count.load(Ordering::Relaxed)),
            })
        });
        Family { name: C::NAME, help: C::HELP, kind: Kind::Counter, samples: samples.collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_past_the_bound_counts_together() {
        let limits = Counted::<LimitCounts>::default();
        let counts = |limit: &str| limits.counts(vec!["p.n".to_owned(), limit.to_owned()]);
        (0..MOST).for_each(|number| drop(counts(&number.to_string())));
        counts("one more").limited.fetch_add(1, Ordering::Relaxed);
        counts("and one").limited.fetch_add(1, Ordering::Relaxed);
        let family = limits.family();
        assert_eq!(family.samples.len(), (MOST + 1) * 5);
        let labels = vec![("policy", OTHER.to_owned()), ("limit", OTHER.to_owned()), ("result", "limited".to_owned())];
        let other = family.samples.iter().find(|sample| sample.labels == labels);
        assert!(matches!(other.map(|sample| &sample.value), Some(Value::Counter(2))));
    }
}
