//! What AuthorizationPolicies said of calls: one set of counts a policy. Bounded: past it, policies are counted together.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::exposition::{Family, Kind, Sample, Value};
use crate::record::OTHER;

/// The most policies that are counted apart.
const MOST: usize = 1000;

/// What one policy said of calls.
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
}

/// The counts of all policies, by their name.
#[derive(Debug, Default)]
pub(super) struct Policies(Mutex<BTreeMap<String, Arc<AccessCounts>>>);

impl Policies {
    /// Those of a policy.
    pub(super) fn counts(&self, policy: String) -> Arc<AccessCounts> {
        // Every change of it is complete before the next line can fail.
        let mut policies = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = if policies.len() < MOST || policies.contains_key(&policy) { policy } else { OTHER.to_owned() };
        policies.entry(key).or_default().clone()
    }

    pub(super) fn family(&self) -> Family {
        let policies = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let samples = policies.iter().flat_map(|(policy, counts)| {
            let AccessCounts { denied, would_deny, would_pass, audited } = &**counts;
            [("denied", denied), ("would_deny", would_deny), ("would_pass", would_pass), ("audited", audited)].map(|(verdict, count)| {
                Sample {
                    labels: vec![("policy", policy.clone()), ("verdict", verdict.to_owned())],
                    value: Value::Counter(count.load(Ordering::Relaxed)),
                }
            })
        });
        Family {
            name: "lorica_authorization_verdicts_total",
            help: "Calls that an AuthorizationPolicy decided on, by what it said of them",
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
        let policies = Policies::default();
        (0..MOST).for_each(|number| drop(policies.counts(number.to_string())));
        for _ in 0..2 {
            policies.counts("one more".to_owned()).denied.fetch_add(1, Ordering::Relaxed);
        }
        let family = policies.family();
        let other = family.samples.iter().find(|sample| sample.labels[0].1 == OTHER && sample.labels[1].1 == "denied");
        assert!(matches!(other.map(|sample| &sample.value), Some(Value::Counter(2))));
    }
}
