//! The books on SVIDs: which one each workload has, until it is over or the workload has ended. Pure; the store holds a copy.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use lorica_model::name::WorkloadName;
use lorica_model::spiffe::SpiffeId;
use serde::{Deserialize, Serialize};

/// The newest SVID of a workload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct IssuedSvid {
    /// Its identity.
    pub(super) identity: SpiffeId,
    /// The root that it comes from, by the SHA-256 of its certificate.
    pub(super) root: String,
    /// The begin of its life.
    pub(super) not_before: SystemTime,
    /// The end of its life.
    pub(super) not_after: SystemTime,
}

/// The newest SVID of each workload, by name.
#[derive(Debug, Default)]
pub(super) struct Svids(BTreeMap<String, IssuedSvid>);

impl Svids {
    pub(super) fn new(svids: BTreeMap<String, IssuedSvid>) -> Self {
        Self(svids)
    }

    pub(super) fn insert(&mut self, workload: String, svid: IssuedSvid) {
        self.0.insert(workload, svid);
    }

    pub(super) fn remove(&mut self, workloads: &[String]) {
        for workload in workloads {
            self.0.remove(workload);
        }
    }

    /// Those that hold at `now`.
    pub(super) fn holding(&self, now: SystemTime) -> impl Iterator<Item = (&String, &IssuedSvid)> {
        self.0.iter().filter(move |(_, svid)| svid.not_after > now)
    }

    /// Whose SVIDs are of no account any more: those that are over, and those of workloads that ended in order.
    pub(super) fn over(&self, ended: &BTreeSet<WorkloadName>, now: SystemTime) -> Vec<String> {
        let ended: BTreeSet<String> = ended.iter().map(ToString::to_string).collect();
        self.0.iter().filter(|(name, svid)| svid.not_after <= now || ended.contains(*name)).map(|(name, _)| name.clone()).collect()
    }
}
