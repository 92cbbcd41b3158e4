//! The tokens of global limits: lent to Lorica's proxies, counted out one by one to Envoys. In memory; a control plane that starts anew
//! begins with full buckets, and what was lent before is spent besides.

mod allocator;
mod envoy;
#[cfg(test)]
mod simulation;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use lorica_model::compile;
use lorica_model::name::WorkloadName;
use lorica_model::snapshot::{Quota, RateLimit, told};
use lorica_xds::rate_limit::{Ask, Descriptor, Grant, Ledger, Taken};

use crate::mesh::Mesh;

pub use allocator::{Allocator, Lent, MAX_BUCKETS};
pub use envoy::not_held;

/// What is said of limits, by id; none where there is no such global limit.
type Known = HashMap<String, Option<Arc<(RateLimit, Quota)>>>;

/// The tokens of global limits.
pub struct Limits {
    mesh: Arc<Mesh>,
    start: Instant,
    allocator: Mutex<Allocator>,
    /// What was looked up in the publication of this number.
    known: Mutex<(u64, Known)>,
}

/// The most ids that are remembered: whoever asks may make some up.
const MAX_KNOWN: usize = 4096;

impl Limits {
    /// Full buckets. `start`: from when on time is counted.
    #[must_use]
    pub fn new(mesh: Arc<Mesh>, start: Instant) -> Self {
        Self { mesh, start, allocator: Mutex::default(), known: Mutex::default() }
    }

    fn allocator(&self) -> MutexGuard<'_, Allocator> {
        // Every change of it is complete before the next line can fail.
        self.allocator.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What users say of a limit now.
    fn limit(&self, id: &str) -> Option<Arc<(RateLimit, Quota)>> {
        let published = self.mesh.published();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let (revision, limits) = &mut *known;
        if *revision != published.revision || limits.len() >= MAX_KNOWN {
            limits.clear();
            *revision = published.revision;
        }
        let found = || compile::global_limit(&published.world(), id).map(Arc::new);
        limits.entry(id.to_owned()).or_insert_with(found).clone()
    }

    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

impl Ledger for Limits {
    fn take(&self, of: &Descriptor, hits: u64) -> Taken {
        let Some(limit) = self.limit(&of.limit) else { return Taken::Unknown };
        let (limit, quota) = &*limit;
        match self.allocator().take(of, quota.rate(), hits, self.now()) {
            Ok(remaining) => Taken::Passes(remaining),
            Err(_) if limit.shadow => Taken::Passes(0),
            Err(wait) => {
                let wait = Duration::from_nanos(wait);
                Taken::Over { wait, told: told(limit, wait) }
            }
        }
    }

    fn lend(&self, proxy: &WorkloadName, ask: &Ask) -> Grant {
        let Some(limit) = self.limit(&ask.of.limit) else {
            return Grant { tokens: None, wait: Duration::ZERO, proxies: 1 };
        };
        let Lent { tokens, wait, proxies } = self.allocator().lend(proxy, ask, limit.1.rate(), self.now());
        Grant { tokens: Some(tokens), wait: Duration::from_nanos(wait), proxies }
    }
}
