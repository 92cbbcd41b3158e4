//! Key sets of token issuers, fetched from the addresses that policies name, so that no proxy needs the network for them: they travel in
//! units, and outlive their issuer's server and this control plane.
//!
//! | module | noun |
//! | --- | --- |
//! | [`fetch`] | one set, from its address |
//! | [`reach`] | which addresses may be asked |
//!
//! A set that was fetched is kept until a newer one is there, however long its server is down. In: which sets are wanted. Out: what is known of
//! each.

pub mod fetch;
pub mod reach;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use lorica_identity::jwt::KeySet;
use lorica_model::compile::KnownKeys;
use lorica_model::resource::KeySource;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::mesh::Mesh;
use crate::store::{Expected, Store, StoreError, Table, Write};

/// How many sets are fetched at once.
const AT_ONCE: usize = 4;
/// The longest wait after a failure, where the set is not there yet or cannot be renewed.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// What is kept of all sets that are wanted.
#[derive(Debug, Default)]
pub struct Keeper {
    held: BTreeMap<String, Held>,
}

#[derive(Debug, Clone)]
struct Held {
    source: KeySource,
    known: KnownKeys,
    next: Instant,
    failures: u32,
}

impl Keeper {
    /// Keeps `wanted` and nothing else. `before`: what was kept of a set earlier, by its address.
    pub fn follow(&mut self, wanted: BTreeMap<String, KeySource>, before: impl Fn(&str) -> Option<Arc<str>>) {
        self.held.retain(|url, _| wanted.contains_key(url));
        for (url, source) in wanted {
            match self.held.get_mut(&url) {
                Some(held) if held.source == source => {}
                // What is to be fetched otherwise is fetched anew; until then what was there holds.
                Some(held) => (held.source, held.next, held.failures) = (source, Instant::now(), 0),
                None => {
                    let known = KnownKeys { keys: before(&url), problem: None };
                    self.held.insert(url, Held { source, known, next: Instant::now(), failures: 0 });
                }
            }
        }
    }

    /// What is known of each, by its address.
    #[must_use]
    pub fn known(&self) -> BTreeMap<String, KnownKeys> {
        self.held.iter().map(|(url, held)| (url.clone(), held.known.clone())).collect()
    }

    /// When the next set is due; none: none is wanted.
    #[must_use]
    pub fn due(&self) -> Option<Instant> {
        self.held.values().map(|held| held.next).min()
    }

    /// Fetches what is due.
    pub async fn fetch(&mut self) {
        let now = Instant::now();
        let mut due: Vec<KeySource> = self.held.values().filter(|held| held.next <= now).map(|held| held.source.clone()).collect();
        let mut under_way = JoinSet::new();
        loop {
            while under_way.len() < AT_ONCE
                && let Some(source) = due.pop()
            {
                under_way.spawn(async move { (fetch::key_set(&source).await, source) });
            }
            let Some(ended) = under_way.join_next().await else { return };
            let Ok((fetched, source)) = ended else { continue };
            let Some(held) = self.held.get_mut(&source.url) else { continue };
            match fetched {
                Ok(keys) => {
                    held.known = KnownKeys { keys: Some(keys), problem: None };
                    held.failures = 0;
                }
                Err(error) => {
                    tracing::warn!(url = source.url, %error, "a key set could not be fetched");
                    held.known.problem = Some(error.to_string());
                    held.failures = held.failures.saturating_add(1);
                }
            }
            held.next = Instant::now() + pause(held.failures, source.refresh, fastrand::f64());
        }
    }
}

/// How long until a set is fetched again, after so many failures in a row: a tenth of it by chance, so that many control planes do not ask at
/// once. `random` is uniform in 0..1.
fn pause(failures: u32, refresh: Duration, random: f64) -> Duration {
    let whole = match failures {
        0 => refresh,
        _ => Duration::from_secs(1_u64.checked_shl(failures - 1).unwrap_or(u64::MAX)).min(LONGEST_PAUSE).min(refresh),
    };
    whole.mul_f64(0.9 + 0.1 * random)
}

/// Keeps the sets that the mesh's policies name, until the control plane ends.
pub async fn keep(mesh: Arc<Mesh>, store: Arc<dyn Store>) {
    let mut keeper = Keeper::default();
    loop {
        let changed = mesh.keys.notified();
        let present = mesh.key_sets();
        keeper.follow(mesh.key_sources(), |url| present.get(url).and_then(|known| known.keys.clone()));
        keeper.fetch().await;
        let known = keeper.known();
        if known != present {
            write(&store, &present, &known).await;
            mesh.set_key_sets(known);
        }
        match keeper.due() {
            Some(due) => drop(tokio::time::timeout_at(due, changed).await),
            None => changed.await,
        }
    }
}

/// Writes what is new, so that a control plane that starts while an issuer's server is down has its keys.
async fn write(store: &Arc<dyn Store>, before: &BTreeMap<String, KnownKeys>, known: &BTreeMap<String, KnownKeys>) {
    let put = |url: &String, keys: Option<&Arc<str>>| {
        let value = keys.map(|keys| keys.as_bytes().to_vec());
        Write { table: Table::KeySets, key: url.clone(), value, expected: Expected::Anything }
    };
    let is_new = |(url, now): &(&String, &KnownKeys)| before.get(*url).is_none_or(|before| before.keys != now.keys);
    let fresh = known.iter().filter(is_new).map(|(url, known)| put(url, known.keys.as_ref()));
    let gone = before.keys().filter(|url| !known.contains_key(*url)).map(|url| put(url, None));
    let batch: Vec<Write> = fresh.chain(gone).collect();
    if batch.is_empty() {
        return;
    }
    let store = store.clone();
    match tokio::task::spawn_blocking(move || store.write(&batch)).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => tracing::warn!(%error, "key sets could not be kept: a control plane that starts anew has to fetch them"),
        Err(error) => tracing::debug!(%error, "key sets were not kept"),
    }
}

/// What was kept of the sets at the addresses of `sources`.
///
/// # Errors
/// When the store cannot be read.
pub fn kept(store: &dyn Store, sources: BTreeMap<String, KeySource>) -> Result<BTreeMap<String, KnownKeys>, StoreError> {
    let mut known = BTreeMap::new();
    for url in sources.into_keys() {
        let text = store.get(Table::KeySets, &url)?.and_then(|record| String::from_utf8(record).ok());
        // A later version may refuse what an earlier one kept.
        let text = text.filter(|text| KeySet::read(text.as_bytes()).is_ok());
        known.insert(url, KnownKeys { keys: text.map(Into::into), problem: None });
    }
    Ok(known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_failure_it_is_tried_again_soon_and_then_ever_more_rarely() {
        let refresh = Duration::from_secs(1200);
        let seconds = |failures, random| pause(failures, refresh, random).as_secs();
        assert_eq!((seconds(0, 0.0), seconds(0, 1.0)), (1080, 1200));
        let waits: Vec<u64> = [1, 2, 3, 6, 7, 64, u32::MAX].map(|failures| seconds(failures, 1.0)).into();
        assert_eq!(waits, [1, 2, 4, 32, 60, 60, 60]);
        assert!(pause(9, Duration::from_secs(10), 1.0) <= Duration::from_secs(10));
    }
}
