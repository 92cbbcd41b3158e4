//! This mesh's bundle as a document: the roots that it trusts and the keys that verify its tokens, with a sequence that rises whenever any of
//! that changes. The sequence is stored before anybody sees it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use lorica_identity::{Bundle, federation};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::mesh::Mesh;
use crate::store::{Expected, Store, StoreError, Table, Write};
use crate::workload_api::HostWorkloads;

/// Where the newest document is kept in the store.
const RECORD: &str = "bundle-document";

/// What was shown last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Shown {
    sequence: u64,
    keys: Vec<Value>,
    refresh_seconds: u64,
}

/// This mesh's bundle.
pub struct Own {
    mesh: Arc<Mesh>,
    workloads: Arc<HostWorkloads>,
    store: Arc<dyn Store>,
    refresh: Duration,
    /// Held while a new one is stored.
    shown: Mutex<Option<Shown>>,
}

impl Own {
    pub(crate) fn new(mesh: Arc<Mesh>, workloads: Arc<HostWorkloads>, store: Arc<dyn Store>, refresh: Duration) -> Self {
        Self { mesh, workloads, store, refresh, shown: Mutex::default() }
    }

    /// The document at `now`. Waits for the disk where something has changed.
    ///
    /// # Errors
    /// When a root cannot be written, or the store refuses.
    pub fn document(&self, now: SystemTime) -> anyhow::Result<String> {
        let trusted = self.mesh.trusted();
        let roots = trusted.roots.iter().map(|root| root.clone().into()).collect();
        let keys = federation::keys(&Bundle::new(trusted.trust_domain.clone(), roots)?, &self.workloads.jwks())?;
        // Every change of it is complete before the next line can fail.
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        if shown.is_none() {
            // One that cannot be read any more is replaced by one of a higher sequence.
            *shown = self.store.get(Table::Mesh, RECORD)?.and_then(|record| serde_json::from_slice(&record).ok());
        }
        let next = following(shown.as_ref(), keys, self.refresh, now);
        if shown.as_ref() != Some(&next) {
            self.keep(&next)?;
        }
        let document = federation::document(&next.keys, next.sequence, self.refresh);
        *shown = Some(next);
        Ok(document)
    }

    fn keep(&self, shown: &Shown) -> Result<(), StoreError> {
        let value = serde_json::to_vec(shown).map_err(|error| StoreError::Failed { path: RECORD.to_owned(), error: error.to_string() })?;
        self.store
            .write(&[Write { table: Table::Mesh, key: RECORD.to_owned(), value: Some(value), expected: Expected::Anything }])
            .map(drop)
    }
}

/// What is shown after `before`, with these keys. Sequences are at least the seconds since 1970, so that those of a mesh whose state was lost
/// go on above those that others have seen.
fn following(before: Option<&Shown>, keys: Vec<Value>, refresh: Duration, now: SystemTime) -> Shown {
    let refresh_seconds = refresh.as_secs();
    if let Some(same) = before.filter(|before| before.keys == keys && before.refresh_seconds == refresh_seconds) {
        return same.clone();
    }
    let seconds = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let sequence = before.map_or(0, |before| before.sequence.saturating_add(1)).max(seconds);
    Shown { sequence, keys, refresh_seconds }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sequence_rises_with_every_change_and_stays_without_one() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let (hour, keys) = (Duration::from_secs(3600), |name: &str| vec![Value::from(name)]);
        let first = following(None, keys("a"), hour, at(1000));
        assert_eq!(first.sequence, 1000);
        assert_eq!(following(Some(&first), keys("a"), hour, at(2000)), first);
        // Also when the clock stands still, or was set back.
        let second = following(Some(&first), keys("b"), hour, at(1000));
        assert_eq!(second.sequence, 1001);
        let third = following(Some(&second), keys("a"), hour, at(10));
        assert_eq!(third.sequence, 1002);
        assert_eq!(following(Some(&third), keys("a"), hour * 2, at(3000)).sequence, 3000);
    }
}
