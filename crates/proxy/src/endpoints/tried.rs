//! Whom TrafficPolicies that are tried would leave out. Each judges by what becomes of real calls, in books of its own: what it finds is told, and
//! no pick ever sees it. An endpoint that it would have left out goes on being called, so that what it counts after that is what really comes.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;
use lorica_model::snapshot::{Origin, TrafficTrial};

use super::ejection::{Change, Ejector, Why};
use super::health::{Health, LeftOut};

/// A policy, the endpoint that it would leave out, and why.
pub type Ejected = (Arc<Origin>, String, Why);

/// What became of a call.
#[derive(Debug, Clone, Copy)]
pub enum Outcome {
    /// It was answered with this status.
    Answered(u16),
    /// Its endpoint took a connection.
    Connected,
    /// Its endpoint could not be reached, broke off, or took too long.
    Failed,
}

/// Those of one service port.
#[derive(Debug, Default)]
pub struct TriedEjectors(ArcSwap<Vec<Tried>>);

#[derive(Debug)]
struct Tried {
    origin: Arc<Origin>,
    ejector: Arc<Ejector>,
    /// What it knows of each endpoint, by where the real health of that lies in memory.
    books: HashMap<usize, Arc<Health>>,
}

fn place(health: &Health) -> usize {
    std::ptr::from_ref(health) as usize
}

impl TriedEjectors {
    /// Sets what is tried, and which endpoints there are. What a policy has counted stays for as long as it is the same one.
    pub fn set(&self, trials: &[TrafficTrial], endpoints: impl Iterator<Item = (Arc<Health>, String)>) {
        let known = self.0.load();
        if trials.is_empty() && known.is_empty() {
            return;
        }
        let endpoints: Vec<_> = endpoints.collect();
        let tried = trials.iter().filter_map(|trial| {
            let policy = trial.ejection?;
            let same = known.iter().find(|known| {
                (&known.origin.namespace, &known.origin.name, known.origin.generation)
                    == (&trial.origin.namespace, &trial.origin.name, trial.origin.generation)
            });
            let ejector = same.map(|same| same.ejector.clone()).unwrap_or_default();
            let book = |health: &Health| same.and_then(|same| same.books.get(&place(health)).cloned()).unwrap_or_default();
            let books: HashMap<usize, Arc<Health>> = endpoints.iter().map(|(health, _)| (place(health), book(health))).collect();
            let members = endpoints.iter().filter_map(|(health, name)| Some((books.get(&place(health))?.clone(), name.clone())));
            ejector.set(Some(policy), members);
            Some(Tried { origin: trial.origin.clone(), ejector, books })
        });
        let tried = tried.collect();
        self.0.store(Arc::new(tried));
    }

    /// Counts what became of a call to the endpoint of this health. `tell`: hears whom a policy would leave out for it.
    pub fn judge(&self, health: &Health, outcome: Outcome, now: Instant, mut tell: impl FnMut(Ejected)) {
        for Tried { origin, ejector, books } in self.0.load().iter() {
            let Some(book) = books.get(&place(health)) else { continue };
            // Its time over, the next call that is over finds out whether it is well.
            let probe = book.is(LeftOut::Probation);
            let change = match outcome {
                Outcome::Answered(status) => ejector.answered(book, status, probe, now),
                Outcome::Connected => ejector.connected(book, probe, now),
                Outcome::Failed => ejector.failed(book, probe, now),
            };
            if let Some(Change::Ejected { name, why, .. }) = change {
                tell((origin.clone(), name, why));
            }
        }
    }

    /// Looks at rates, and for ejections whose time is over: whom policies would leave out, and when to look again.
    pub fn sweep(&self, now: Instant) -> (Vec<Ejected>, Option<Instant>) {
        let (mut ejected, mut next) = (Vec::new(), None);
        for Tried { origin, ejector, .. } in self.0.load().iter() {
            let (changes, due) = ejector.sweep(now);
            next = next.into_iter().chain(due).min();
            ejected.extend(changes.into_iter().filter_map(|change| match change {
                Change::Ejected { name, why, .. } => Some((origin.clone(), name, why)),
                Change::Spared { .. } | Change::Probation { .. } | Change::Back { .. } => None,
            }));
        }
        (ejected, next)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use lorica_model::snapshot::Ejection;

    use super::*;

    fn trial() -> TrafficTrial {
        let (namespace, name) = ("shop".to_owned(), "strict".to_owned());
        let origin = Origin { kind: "TrafficPolicy".to_owned(), namespace, name, generation: 1, rule: 0, matched: 0 };
        let ejection = Ejection { consecutive_gateway: Some(2), base_time: Duration::from_secs(1), ..Ejection::default() };
        TrafficTrial { origin: Arc::new(origin), requests: None, ejection: Some(ejection) }
    }

    #[test]
    fn whom_it_would_leave_out_is_told_once_and_stays_in_use() {
        let (tried, trials) = (TriedEjectors::default(), [trial()]);
        let endpoints: Vec<Arc<Health>> = vec![Arc::default(), Arc::default()];
        let set = || tried.set(&trials, endpoints.iter().enumerate().map(|(number, health)| (health.clone(), number.to_string())));
        set();
        let begun = Instant::now();
        let judge = |status, now| {
            let mut told = Vec::new();
            tried.judge(&endpoints[0], Outcome::Answered(status), now, |(policy, endpoint, why)| {
                told.push((policy.name.clone(), endpoint, why));
            });
            told
        };
        assert!(judge(503, begun).is_empty());
        // What was counted outlives a change of the endpoints.
        set();
        assert_eq!(judge(503, begun), [("strict".to_owned(), "0".to_owned(), Why::ConsecutiveGatewayErrors)]);
        assert!(judge(503, begun).is_empty(), "it is left out already");
        assert!(endpoints[0].is_available(), "it goes on being called");
        let interval = Ejection::default().interval;
        tried.sweep(begun);
        assert!(tried.sweep(begun + interval).0.is_empty());
        assert_eq!(judge(503, begun + interval), [("strict".to_owned(), "0".to_owned(), Why::Probation)]);
        tried.set(&[], std::iter::empty());
        assert_eq!(tried.sweep(begun + interval), (Vec::new(), None));
    }
}
