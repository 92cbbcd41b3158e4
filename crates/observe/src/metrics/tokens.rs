//! What AuthenticationPolicies said of tokens: one set of counts a policy. Bounded: past it, policies are counted together.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::exposition::{Family, Kind, Sample, Value};
use crate::record::OTHER;

/// The most policies that are counted apart.
const MOST: usize = 1000;

/// What one policy said of requests.
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

/// The counts of all policies, by their name.
#[derive(Debug, Default)]
pub(super) struct TokenPolicies(Mutex<BTreeMap<String, Arc<TokenCounts>>>);

impl TokenPolicies {
    /// Those of a policy.
    pub(super) fn counts(&self, policy: String) -> Arc<TokenCounts> {
        // Every change of it is complete before the next line can fail.
        let mut policies = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = if policies.len() < MOST || policies.contains_key(&policy) { policy } else { OTHER.to_owned() };
        policies.entry(key).or_default().clone()
    }

    pub(super) fn family(&self) -> Family {
        let policies = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let samples = policies.iter().flat_map(|(policy, counts)| {
            let TokenCounts { accepted, remembered, anonymous, missing, refused, would_refuse } = &**counts;
            let verdicts = [
                ("accepted", accepted),
                ("remembered", remembered),
                ("anonymous", anonymous),
                ("missing", missing),
                ("refused", refused),
                ("would_refuse", would_refuse),
            ];
            verdicts.map(|(verdict, count)| Sample {
                labels: vec![("policy", policy.clone()), ("verdict", verdict.to_owned())],
                value: Value::Counter(count.load(Ordering::Relaxed)),
            })
        });
        Family {
            name: "lorica_authentication_verdicts_total",
            help: "Requests that an AuthenticationPolicy looked at, by what it said of their tokens (`remembered` counts among `accepted`)",
            kind: Kind::Counter,
            samples: samples.collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_past_the_bound_count_together() {
        let policies = TokenPolicies::default();
        (0..MOST).for_each(|number| drop(policies.counts(number.to_string())));
        for _ in 0..2 {
            policies.counts("one more".to_owned()).refused.fetch_add(1, Ordering::Relaxed);
        }
        let family = policies.family();
        let other = family.samples.iter().find(|sample| sample.labels[0].1 == OTHER && sample.labels[1].1 == "refused");
        assert!(matches!(other.map(|sample| &sample.value), Some(Value::Counter(2))));
    }
}
