//! A set's endpoints as they stand: near ones before far ones, the healthy ones of each level with what their algorithm makes of them. Made again
//! when the health of one of them has changed, never for a call.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use lorica_model::snapshot::{Algorithm, Balancing, Locality};

use super::balance::Group;
use super::locality::Level;
use super::{LiveEndpoint, health};

/// A set's endpoints as they stand.
#[derive(Debug)]
pub(super) struct Arranged {
    /// The levels, the nearest first. None is without endpoints.
    pub(super) levels: Vec<Arrangement>,
    /// Which of the set's endpoints were available.
    available: Vec<bool>,
    /// [`health::changes`] when that was so, or was seen to be so still.
    as_of: AtomicU64,
}

/// One level.
#[derive(Debug)]
pub(super) struct Arrangement {
    /// How it stands.
    pub(super) level: Level,
    healthy: Group,
    members: Vec<u32>,
    /// All of them, made when they are first called in a panic.
    all: OnceLock<Group>,
}

impl Arranged {
    /// The endpoints of a set by their levels, as they stand now.
    #[must_use]
    pub(super) fn new(levels: &[Vec<u32>], endpoints: &[Arc<LiveEndpoint>], balancing: &Balancing) -> Self {
        let as_of = AtomicU64::new(health::changes());
        let available: Vec<bool> = endpoints.iter().map(|live| live.health.is_available()).collect();
        let is_available = |index: &u32| available.get(*index as usize).copied().unwrap_or_default();
        let arrangement = |members: &Vec<u32>| {
            let healthy: Vec<u32> = members.iter().copied().filter(is_available).collect();
            let level =
                Level { healthy: healthy.len(), total: members.len(), overprovisioning_percent: balancing.overprovisioning_percent };
            let healthy = Group::new(healthy, endpoints, balancing.algorithm);
            Arrangement { level, healthy, members: members.clone(), all: OnceLock::new() }
        };
        Self { levels: levels.iter().map(arrangement).collect(), available, as_of }
    }

    /// All endpoints, where they are of one level and each is healthy: then nothing is shared out, and nobody has to be found out about.
    #[must_use]
    pub(super) fn whole(&self) -> Option<&Group> {
        match self.levels.as_slice() {
            [only] if only.level.healthy == only.level.total => Some(&only.healthy),
            _ => None,
        }
    }

    /// Whether nothing has changed since.
    #[must_use]
    pub(super) fn holds(&self, endpoints: &[Arc<LiveEndpoint>]) -> bool {
        let changes = health::changes();
        if self.as_of.load(Ordering::Relaxed) == changes {
            return true;
        }
        let same = endpoints.iter().map(|live| live.health.is_available()).eq(self.available.iter().copied());
        if same {
            self.as_of.store(changes, Ordering::Relaxed);
        }
        same
    }
}

impl Arrangement {
    /// Those that may be called: the healthy ones, or all in a panic.
    #[must_use]
    pub(super) fn group(&self, panic: bool, endpoints: &[Arc<LiveEndpoint>], algorithm: Algorithm) -> &Group {
        if panic && self.level.healthy < self.level.total {
            return self.all.get_or_init(|| Group::new(self.members.clone(), endpoints, algorithm));
        }
        &self.healthy
    }

    /// The same, by their indices.
    #[must_use]
    pub(super) fn members(&self, panic: bool) -> &[u32] {
        if panic { &self.members } else { &self.healthy.members }
    }
}

/// The indices of endpoints by their distance from `own`, the nearest first.
#[must_use]
pub(super) fn levels(endpoints: &[Arc<LiveEndpoint>], own: &Locality, balancing: &Balancing) -> Vec<Vec<u32>> {
    let mut levels: std::collections::BTreeMap<u32, Vec<u32>> = std::collections::BTreeMap::new();
    for (index, live) in (0..).zip(endpoints) {
        levels.entry(own.distance(&live.endpoint.locality, balancing.prefer)).or_default().push(index);
    }
    levels.into_values().collect()
}
