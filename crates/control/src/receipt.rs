//! Receipts: which sessions a publication concerns, and what each of them said to it. Pure.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use lorica_api::{Receipt, RefusedBy};

/// How many publications are remembered.
const REMEMBERED: usize = 1000;

/// What is known of the latest publications.
#[derive(Debug, Default)]
pub struct Receipts(BTreeMap<u64, Tracked>);

#[derive(Debug)]
struct Tracked {
    begun: Instant,
    ended: Option<Duration>,
    concerned: usize,
    /// By their numbers: two streams may bear one name for a moment, when a proxy reconnects.
    pending: BTreeMap<u64, String>,
    rejected: Vec<RefusedBy>,
    gone: Vec<String>,
}

impl Receipts {
    /// A publication concerns these sessions.
    pub fn published(&mut self, revision: u64, concerned: BTreeMap<u64, String>, now: Instant) {
        let ended = concerned.is_empty().then_some(Duration::ZERO);
        self.0.insert(
            revision,
            Tracked { begun: now, ended, concerned: concerned.len(), pending: concerned, rejected: Vec::new(), gone: Vec::new() },
        );
        while self.0.len() > REMEMBERED {
            self.0.pop_first();
        }
    }

    /// A session has acknowledged everything up to a publication; a newer one counts for older ones.
    pub fn reached(&mut self, session: u64, revision: u64, now: Instant) {
        for tracked in self.0.range_mut(..=revision).map(|(_, tracked)| tracked) {
            tracked.pending.remove(&session);
            tracked.settle(now);
        }
    }

    /// A session refused a resource.
    pub fn rejected(&mut self, session: u64, revision: u64, resource: &str, message: &str, now: Instant) {
        for tracked in self.0.range_mut(..=revision).map(|(_, tracked)| tracked) {
            if let Some(proxy) = tracked.pending.remove(&session) {
                tracked.rejected.push(RefusedBy { proxy, resource: resource.to_owned(), message: message.to_owned() });
                tracked.settle(now);
            }
        }
    }

    /// A session has ended.
    pub fn gone(&mut self, session: u64, now: Instant) {
        for tracked in self.0.values_mut() {
            if let Some(proxy) = tracked.pending.remove(&session) {
                tracked.gone.push(proxy);
                tracked.settle(now);
            }
        }
    }

    /// The receipt of a publication; none where it is forgotten or never was.
    #[must_use]
    pub fn receipt(&self, revision: u64, now: Instant) -> Option<Receipt> {
        let tracked = self.0.get(&revision)?;
        let elapsed = tracked.ended.unwrap_or_else(|| now.duration_since(tracked.begun));
        Some(Receipt {
            revision,
            concerned: tracked.concerned,
            acknowledged: tracked.concerned - tracked.pending.len() - tracked.rejected.len() - tracked.gone.len(),
            pending: tracked.pending.values().cloned().collect(),
            rejected: tracked.rejected.clone(),
            gone: tracked.gone.clone(),
            elapsed_ms: u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX),
        })
    }
}

impl Tracked {
    fn settle(&mut self, now: Instant) {
        if self.pending.is_empty() && self.ended.is_none() {
            self.ended = Some(now.duration_since(self.begun));
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn everybody_concerned_is_counted_once() {
        let now = Instant::now();
        let mut receipts = Receipts::default();
        receipts.published(1, (0..).zip(["a", "b", "c", "d"].map(str::to_owned)).collect(), now);
        receipts.published(2, BTreeMap::new(), now);
        receipts.reached(0, 2, now);
        receipts.rejected(1, 1, "Route x", "no", now);
        receipts.gone(2, now);
        let receipt = receipts.receipt(1, now).unwrap();
        assert_eq!((receipt.concerned, receipt.acknowledged, receipt.gone.len(), receipt.rejected.len()), (4, 1, 1, 1));
        assert_eq!(receipt.pending, ["d"]);
        receipts.reached(3, 1, now + Duration::from_millis(34));
        assert_eq!(receipts.receipt(1, now + Duration::from_secs(9)).unwrap().elapsed_ms, 34);
        // Nobody uses it yet: a good answer.
        assert!(receipts.receipt(2, now).unwrap().is_complete());
        assert_eq!(receipts.receipt(3, now), None);
    }
}
