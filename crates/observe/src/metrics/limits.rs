//! What became of requests that limits are about: one set of counts a limit. Bounded: past it, limits are counted together.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::exposition::{Family, Kind, Sample, Value};
use crate::record::OTHER;

/// The most limits that are counted apart.
const MOST: usize = 1000;

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

/// The counts of all limits, by policy and limit.
#[derive(Debug, Default)]
pub(super) struct Limits(Mutex<BTreeMap<(String, String), Arc<LimitCounts>>>);

impl Limits {
    /// Those of a limit.
    pub(super) fn counts(&self, policy: &str, limit: &str) -> Arc<LimitCounts> {
        // Every change of it is complete before the next line can fail.
        let mut limits = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (policy.to_owned(), limit.to_owned());
        let key = if limits.len() < MOST || limits.contains_key(&key) { key } else { (OTHER.to_owned(), OTHER.to_owned()) };
        limits.entry(key).or_default().clone()
    }

    pub(super) fn family(&self) -> Family {
        let limits = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let samples = limits.iter().flat_map(|((policy, limit), counts)| {
            let LimitCounts { allowed, limited, shadowed, unavailable, overflowed } = &**counts;
            let results = [
                ("allowed", allowed),
                ("limited", limited),
                ("shadowed", shadowed),
                ("unavailable", unavailable),
                ("overflowed", overflowed),
            ];
            results.map(|(result, count)| Sample {
                labels: vec![("policy", policy.clone()), ("limit", limit.clone()), ("result", result.to_owned())],
                value: Value::Counter(count.load(Ordering::Relaxed)),
            })
        });
        Family {
            name: "lorica_rate_limit_requests_total",
            help: "Requests that a limit is about, by what became of them",
            kind: Kind::Counter,
            samples: samples.collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_past_the_bound_count_together() {
        let limits = Limits::default();
        (0..MOST).for_each(|number| drop(limits.counts("p.n", &number.to_string())));
        limits.counts("p.n", "one more").limited.fetch_add(1, Ordering::Relaxed);
        limits.counts("p.n", "and one").limited.fetch_add(1, Ordering::Relaxed);
        let family = limits.family();
        assert_eq!(family.samples.len(), (MOST + 1) * 5);
        let other = family.samples.iter().find(|sample| sample.labels[0].1 == OTHER && sample.labels[2].1 == "limited");
        assert!(matches!(other.map(|sample| &sample.value), Some(Value::Counter(2))));
    }
}
