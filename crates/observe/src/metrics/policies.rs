//! What became of calls by the policies and limits that they met: one set of counts each. Bounded: past it, what is of one kind counts
//! together. Counts that nobody holds any more, as their policy is gone, end after a while.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use lorica_model::snapshot::{Effect, Effects};

use super::Budget;
use crate::exposition::{Family, Kind, Labels, Sample, Value};
use crate::record::OTHER;

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
    /// The most counts of one.
    const MOST_OUTCOMES: usize;

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
    const MOST_OUTCOMES: usize = 5;

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
    const MOST_OUTCOMES: usize = 6;

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
    const MOST_OUTCOMES: usize = 5;

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
    const MOST_OUTCOMES: usize = 1 + Effect::ALL.len();

    /// What is of another kind of policy than this one never happens, and is left out.
    fn outcomes(&self) -> Vec<(&'static str, &AtomicU64)> {
        let effects = Effect::ALL.into_iter().map(Effect::word).zip(&self.effects);
        std::iter::once(("would_pass", &self.passed)).chain(effects.filter(|(_, count)| count.load(Ordering::Relaxed) > 0)).collect()
    }
}

/// The counts of all of a kind, by the values of their labels.
#[derive(Debug)]
pub(super) struct Counted<C> {
    budget: Budget,
    all: Mutex<All<C>>,
}

#[derive(Debug)]
struct All<C> {
    counts: BTreeMap<Vec<String>, Of<C>>,
    folded: u64,
    expired: u64,
    /// When it was looked last for what has ended.
    swept: Instant,
}

/// The counts of one policy or limit.
#[derive(Debug)]
struct Of<C> {
    counts: Arc<C>,
    /// Since when nobody but the registry was seen to hold them.
    alone: Option<Instant>,
}

impl<C: Counts> All<C> {
    /// Ends what nobody has held for `idle`.
    fn sweep(&mut self, now: Instant, idle: Duration) {
        self.swept = now;
        let before = self.counts.len();
        self.counts.retain(|_, of| {
            of.alone = if Arc::strong_count(&of.counts) > 1 { None } else { of.alone.or(Some(now)) };
            of.alone.is_none_or(|since| now.saturating_duration_since(since) < idle)
        });
        self.expired += ((before - self.counts.len()) * C::default().outcomes().len()) as u64;
    }
}

impl<C: Counts> Counted<C> {
    pub(super) fn new(budget: Budget) -> Self {
        let all = All { counts: BTreeMap::new(), folded: 0, expired: 0, swept: Instant::now() };
        Self { budget, all: Mutex::new(all) }
    }

    fn all(&self) -> MutexGuard<'_, All<C>> {
        // Every change of it is complete before the next line can fail.
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Those of one.
    pub(super) fn counts(&self, named: Vec<String>, now: Instant) -> Arc<C> {
        // A series for each outcome.
        let most = self.budget.series / C::MOST_OUTCOMES;
        let mut all = self.all();
        let is_full = |all: &All<C>| all.counts.len() >= most && !all.counts.contains_key(&named);
        if is_full(&all) && now.saturating_duration_since(all.swept) >= self.budget.idle / 10 {
            all.sweep(now, self.budget.idle);
        }
        let named = if is_full(&all) {
            all.folded += 1;
            vec![OTHER.to_owned(); C::LABELS.len()]
        } else {
            named
        };
        all.counts.entry(named).or_insert_with(|| Of { counts: Arc::default(), alone: None }).counts.clone()
    }

    /// Its family, how often something counted under `other`, and how many series have ended.
    pub(super) fn family(&self, now: Instant) -> (Family, u64, u64) {
        let mut all = self.all();
        all.sweep(now, self.budget.idle);
        let samples = all.counts.iter().flat_map(|(named, of)| {
            of.counts.outcomes().into_iter().map(|(outcome, count)| Sample {
                labels: Labels::new(C::LABELS.iter().copied().zip(named.iter().map(String::as_str)).chain([(C::OUTCOME, outcome)])),
                value: Value::Counter(count.load(Ordering::Relaxed)),
            })
        });
        let family = Family { name: C::NAME, help: C::HELP, kind: Kind::Counter, samples: samples.collect() };
        (family, all.folded, all.expired)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Room for two limits.
    fn limits() -> Counted<LimitCounts> {
        Counted::new(Budget { series: 2 * LimitCounts::MOST_OUTCOMES, idle: Duration::from_secs(600) })
    }

    fn named(limit: &str) -> Vec<String> {
        vec!["p.n".to_owned(), limit.to_owned()]
    }

    #[test]
    fn what_is_past_the_bound_counts_together() {
        let (limits, now) = (limits(), Instant::now());
        let known = ["a", "b"].map(|limit| limits.counts(named(limit), now));
        for limit in ["one more", "and one"] {
            limits.counts(named(limit), now).limited.fetch_add(1, Ordering::Relaxed);
        }
        let (family, folded, expired) = limits.family(now);
        assert_eq!((family.samples.len(), folded, expired), (3 * 5, 2, 0));
        let labels = Labels::new([("policy", OTHER), ("limit", OTHER), ("result", "limited")]);
        let other = family.samples.iter().find(|sample| sample.labels == labels);
        assert!(matches!(other.map(|sample| &sample.value), Some(Value::Counter(2))));
        drop(known);
    }

    #[test]
    fn counts_of_what_is_gone_end_and_make_room() {
        let (limits, now) = (limits(), Instant::now());
        let (held, gone) = (limits.counts(named("held"), now), limits.counts(named("gone"), now));
        assert_eq!(limits.family(now).0.samples.len(), 10);
        drop(gone);
        let later = |seconds| now + Duration::from_secs(seconds);
        assert_eq!(limits.family(later(60)).0.samples.len(), 10);
        // Whoever takes it up again finds its counts.
        limits.counts(named("gone"), later(300)).limited.fetch_add(1, Ordering::Relaxed);
        assert_eq!(limits.family(later(659)).0.samples.len(), 10);
        let (family, folded, expired) = limits.family(later(660));
        assert_eq!((family.samples.len(), folded, expired), (5, 0, 5));
        assert_eq!(limits.counts(named("new"), later(661)).limited.load(Ordering::Relaxed), 0);
        assert_eq!(limits.family(later(662)).0.samples.len(), 10);
        drop(held);
    }
}
