//! The rotation of a root in phases that are acknowledged: who trusts what and who has which certificate goes in with the time, the
//! next state comes out. No clock, no store, no key.
//!
//! ```text
//! distributing ──all acknowledged──▶ issuing ──all renewed──▶ withdrawing ──twice an SVID's life──▶ done
//! ```
//!
//! Until a root is withdrawn everybody trusts both, so that the way back is the way forth with the roots exchanged.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

/// How long all have to have acknowledged the new root before SVIDs are issued from it: an acknowledgement says that a proxy has taken
/// the roots in, and its workers have them a moment later.
pub const SETTLE: Duration = Duration::from_secs(1);

/// Where a rotation stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// The bundle has both roots; SVIDs come from the old one, until every proxy has acknowledged the bundle.
    Distributing,
    /// SVIDs come from the new root; every workload renews.
    Issuing,
    /// Every workload has an SVID from the new root; the old one stays for connections and clocks that lag.
    Withdrawing,
    /// The bundle has the new root alone.
    Done,
}

impl Phase {
    /// The word for people and scripts.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Distributing => "distributing",
            Self::Issuing => "issuing",
            Self::Withdrawing => "withdrawing",
            Self::Done => "done",
        }
    }
}

/// What is known of the workloads, by their names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observed {
    /// Whose proxies have not acknowledged the bundle that has both roots.
    pub unacknowledged: BTreeSet<String>,
    /// Whose newest SVID is from the old root, and still holds.
    pub from_old: BTreeSet<String>,
}

/// Why a rotation cannot be turned back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the old root is withdrawn already: nobody trusts it any more\nhint: `lorica ca rotate` begins a rotation to a new one")]
pub struct Withdrawn;

/// A rotation from one root to another. Roots go by the SHA-256 of their certificates.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootRotation {
    /// Where it stands.
    pub phase: Phase,
    /// Since when.
    pub since: SystemTime,
    /// The root that is to go.
    pub old: String,
    /// The root that is to stay.
    pub new: String,
    /// Whether it leads back to the root that an earlier one was to replace.
    pub rolled_back: bool,
    /// When the last SVID from the old root was issued, at the latest; none: they still are.
    pub last_from_old: Option<SystemTime>,
    /// Workloads that are not waited for.
    pub waived: BTreeSet<String>,
    /// Since when nobody is waited for, within a phase.
    settled: Option<SystemTime>,
}

impl RootRotation {
    /// Begins: both roots are in the bundle from now on.
    #[must_use]
    pub fn begin(old: String, new: String, now: SystemTime) -> Self {
        Self {
            phase: Phase::Distributing,
            since: now,
            old,
            new,
            rolled_back: false,
            last_from_old: None,
            waived: BTreeSet::new(),
            settled: None,
        }
    }

    /// Whose turn it is in this phase, by name.
    #[must_use]
    pub fn held_up_by(&self, observed: &Observed) -> BTreeSet<String> {
        let waited_for = match self.phase {
            Phase::Distributing => &observed.unacknowledged,
            Phase::Issuing | Phase::Withdrawing => &observed.from_old,
            Phase::Done => return BTreeSet::new(),
        };
        waited_for.difference(&self.waived).cloned().collect()
    }

    /// When the old root is withdrawn at the earliest: twice the longest life of an SVID after the last one from it.
    #[must_use]
    pub fn withdraws_at(&self, lifetime: Duration) -> Option<SystemTime> {
        self.last_from_old.map(|last| last + lifetime * 2)
    }

    /// What comes next at `now`, where `lifetime` is how long SVIDs hold; none: it stays as it is.
    #[must_use]
    pub fn step(&self, observed: &Observed, lifetime: Duration, now: SystemTime) -> Option<Self> {
        let open = !self.held_up_by(observed).is_empty();
        match self.phase {
            Phase::Distributing if open => self.settled.is_some().then(|| Self { settled: None, ..self.clone() }),
            Phase::Distributing => match self.settled {
                None => Some(Self { settled: Some(now), ..self.clone() }),
                Some(settled) if now >= settled + SETTLE => Some(self.issuing(now)),
                // The clock was set back: it is waited for from now on.
                Some(settled) if settled > now => Some(Self { settled: Some(now), ..self.clone() }),
                Some(_) => None,
            },
            Phase::Issuing => (!open).then(|| self.enter(Phase::Withdrawing, now)),
            Phase::Withdrawing if open => None,
            Phase::Withdrawing => self.withdraws_at(lifetime).is_none_or(|at| now >= at).then(|| self.enter(Phase::Done, now)),
            Phase::Done => None,
        }
    }

    /// Does not wait for a workload any more.
    #[must_use]
    pub fn waiving(&self, name: &str) -> Self {
        let mut waived = self.waived.clone();
        waived.insert(name.to_owned());
        Self { waived, ..self.clone() }
    }

    /// Turns it back. Before anything was issued from the new root, that is all there is to do; later, SVIDs come from the old root
    /// again at once, which everybody still trusts, and the new one goes as the old one would have gone.
    ///
    /// # Errors
    /// When the old root is withdrawn.
    pub fn roll_back(&self, now: SystemTime) -> Result<Self, Withdrawn> {
        let turned = Self { old: self.new.clone(), new: self.old.clone(), rolled_back: !self.rolled_back, ..self.clone() };
        match self.phase {
            Phase::Distributing => Ok(turned.enter(Phase::Done, now)),
            Phase::Issuing | Phase::Withdrawing => Ok(turned.issuing(now)),
            Phase::Done => Err(Withdrawn),
        }
    }

    fn issuing(&self, now: SystemTime) -> Self {
        Self { last_from_old: Some(now), ..self.enter(Phase::Issuing, now) }
    }

    fn enter(&self, phase: Phase, now: SystemTime) -> Self {
        Self { phase, since: now, settled: None, ..self.clone() }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const LIFE: Duration = Duration::from_secs(24 * 3600);

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000 + seconds)
    }

    fn names(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn observed(unacknowledged: &[&str], from_old: &[&str]) -> Observed {
        Observed { unacknowledged: names(unacknowledged), from_old: names(from_old) }
    }

    fn begun() -> RootRotation {
        RootRotation::begin("old".to_owned(), "new".to_owned(), at(0))
    }

    /// Lets time pass in steps of a second until nothing changes any more, or the phase has changed.
    fn run(mut rotation: RootRotation, observed: &Observed, from: u64, to: u64) -> RootRotation {
        let phase = rotation.phase;
        for second in from..=to {
            while let Some(next) = rotation.step(observed, LIFE, at(second)) {
                rotation = next;
                if rotation.phase != phase {
                    return rotation;
                }
            }
        }
        rotation
    }

    #[test]
    fn nothing_is_issued_from_a_root_before_every_proxy_trusts_it() {
        let rotation = run(begun(), &observed(&["a", "b"], &["a", "b"]), 1, 100_000);
        assert_eq!((rotation.phase, rotation.since), (Phase::Distributing, at(0)));
        assert_eq!(rotation.held_up_by(&observed(&["a", "b"], &[])), names(&["a", "b"]));
        // The last acknowledges, another comes, and acknowledges as well: only then it goes on.
        let rotation = rotation.step(&observed(&[], &["a", "b"]), LIFE, at(100_001)).unwrap();
        assert_eq!(rotation.phase, Phase::Distributing);
        let rotation = rotation.step(&observed(&["c"], &["a", "b"]), LIFE, at(100_001)).unwrap();
        let rotation = run(rotation, &observed(&[], &["a", "b", "c"]), 100_002, 100_010);
        assert_eq!((rotation.phase, rotation.since, rotation.last_from_old), (Phase::Issuing, at(100_003), Some(at(100_003))));
    }

    #[test]
    fn the_old_root_goes_twice_an_svids_life_after_the_last_from_it() {
        let issuing = run(begun(), &observed(&[], &["a"]), 1, 5);
        assert_eq!(issuing.phase, Phase::Issuing);
        assert_eq!(run(issuing.clone(), &observed(&[], &["a"]), 3, 50).phase, Phase::Issuing);
        let withdrawing = run(issuing, &observed(&["late"], &[]), 100, 101);
        assert_eq!(withdrawing.phase, Phase::Withdrawing);
        let last = at(2) + LIFE * 2;
        assert_eq!(withdrawing.withdraws_at(LIFE), Some(last));
        assert_eq!(withdrawing.step(&observed(&[], &[]), LIFE, last - Duration::from_secs(1)), None);
        // Who comes back with an old SVID is waited for; its name can be waived.
        assert_eq!(withdrawing.step(&observed(&[], &["a"]), LIFE, last), None);
        assert_eq!(withdrawing.waiving("a").step(&observed(&[], &["a"]), LIFE, last).unwrap().phase, Phase::Done);
        let done = withdrawing.step(&observed(&[], &[]), LIFE, last).unwrap();
        assert_eq!(done.phase, Phase::Done);
        assert_eq!(done.step(&observed(&["x"], &["x"]), LIFE, last + LIFE), None);
        assert_eq!(done.roll_back(last), Err(Withdrawn));
    }

    #[test]
    fn one_that_is_gone_for_good_is_waived_by_name() {
        let rotation = begun().waiving("gone");
        assert!(rotation.held_up_by(&observed(&["gone"], &["gone"])).is_empty());
        let issuing = run(rotation, &observed(&["gone"], &["gone"]), 1, 5);
        assert_eq!(run(issuing, &observed(&[], &["gone"]), 5, 6).phase, Phase::Withdrawing);
    }

    #[test]
    fn every_phase_before_the_withdrawal_leads_back() {
        let back = begun().roll_back(at(1)).unwrap();
        assert_eq!((back.phase, back.new.as_str(), back.old.as_str(), back.rolled_back), (Phase::Done, "old", "new", true));
        let issuing = run(begun(), &observed(&[], &["a"]), 1, 5);
        let withdrawing = run(issuing.clone(), &observed(&[], &[]), 5, 6);
        for rotation in [issuing, withdrawing] {
            let back = rotation.roll_back(at(50)).unwrap();
            assert_eq!((back.phase, back.new.as_str(), back.last_from_old), (Phase::Issuing, "old", Some(at(50))));
            let back = run(back, &observed(&[], &[]), 51, 52);
            assert_eq!(back.step(&observed(&[], &[]), LIFE, at(50) + LIFE * 2).unwrap().phase, Phase::Done);
            // And forth again.
            assert_eq!(back.roll_back(at(60)).unwrap().new, "new");
        }
    }

    #[test]
    fn a_rotation_reads_back_as_stored() {
        let rotation = run(begun().waiving("a.b"), &observed(&[], &["x"]), 1, 5);
        let text = serde_json::to_string(&rotation).unwrap();
        assert_eq!(serde_json::from_str::<RootRotation>(&text).unwrap(), rotation);
    }
}
