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

    /// A session has acknowledged everything up to a publication; a newer one counts for older ones. Of each publication of which nobody is
    /// left now, what it took.
    pub fn reached(&mut self, session: u64, revision: u64, now: Instant) -> Vec<Duration> {
        let all = self.0.range_mut(..=revision).map(|(_, tracked)| tracked);
        all.filter_map(|tracked| {
            tracked.pending.remove(&session);
            tracked.settle(now)
        })
        .collect()
    }

    /// A session refused a resource. It answers as [`Self::reached`] does.
    pub fn rejected(&mut self, session: u64, revision: u64, resource: &str, message: &str, now: Instant) -> Vec<Duration> {
        let all = self.0.range_mut(..=revision).map(|(_, tracked)| tracked);
        all.filter_map(|tracked| {
            let proxy = tracked.pending.remove(&session)?;
            tracked.rejected.push(RefusedBy { proxy, resource: resource.to_owned(), message: message.to_owned() });
            tracked.settle(now)
        })
        .collect()
    }

    /// A session has ended. It answers as [`Self::reached`] does.
    pub fn gone(&mut self, session: u64, now: Instant) -> Vec<Duration> {
        let all = self.0.values_mut();
        all.filter_map(|tracked| {
            let proxy = tracked.pending.remove(&session)?;
            tracked.gone.push(proxy);
            tracked.settle(now)
        })
        .collect()
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
    /// Notes that nobody is left, if that is so and new; then what it took.
    fn settle(&mut self, now: Instant) -> Option<Duration> {
        if !self.pending.is_empty() || self.ended.is_some() {
            return None;
        }
        self.ended = Some(now.duration_since(self.begun));
        self.ended
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
        assert!(receipts.reached(0, 2, now).is_empty());
        assert!(receipts.rejected(1, 1, "Route x", "no", now).is_empty());
        assert!(receipts.gone(2, now).is_empty());
        let receipt = receipts.receipt(1, now).unwrap();
        assert_eq!((receipt.concerned, receipt.acknowledged, receipt.gone.len(), receipt.rejected.len()), (4, 1, 1, 1));
        assert_eq!(receipt.pending, ["d"]);
        assert_eq!(receipts.reached(3, 1, now + Duration::from_millis(34)), [Duration::from_millis(34)]);
        assert!(receipts.reached(3, 2, now + Duration::from_millis(50)).is_empty(), "it is told once");
        assert_eq!(receipts.receipt(1, now + Duration::from_secs(9)).unwrap().elapsed_ms, 34);
        // Nobody uses it yet: a good answer.
        assert!(receipts.receipt(2, now).unwrap().is_complete());
        assert_eq!(receipts.receipt(3, now), None);
    }
}
