//! Key sets for a proxy without a control plane: the same fetching, on a thread of its own once any is wanted. What is new makes the proxy read its
//! configuration again.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lorica_control::key_sets::Keeper;
use lorica_model::compile::KnownKeys;
use lorica_model::resource::KeySource;
use tokio::sync::Notify;

/// What is known of key sets, and which are wanted.
#[derive(Debug, Clone, Default)]
pub(crate) struct Keys(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    sets: Mutex<Sets>,
    wanted: Notify,
    changed: Arc<Notify>,
}

#[derive(Debug, Default)]
struct Sets {
    /// Whether the thread is there.
    kept: bool,
    wanted: BTreeMap<String, KeySource>,
    known: BTreeMap<String, KnownKeys>,
}

impl Keys {
    /// Nothing is known yet, and nothing wanted. `changed` is told of what is new.
    pub(crate) fn new(changed: Arc<Notify>) -> Self {
        Self(Arc::new(Shared { changed, ..Shared::default() }))
    }

    /// What is known of the sets that are `wanted` from now on. They are fetched for as long as the process lives.
    ///
    /// # Errors
    /// When there can be no thread.
    pub(crate) fn known(&self, wanted: BTreeMap<String, KeySource>) -> std::io::Result<BTreeMap<String, KnownKeys>> {
        let mut sets = self.sets();
        if !sets.kept && !wanted.is_empty() {
            let keys = self.clone();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            std::thread::Builder::new().name("key sets".to_owned()).spawn(move || runtime.block_on(keys.kept()))?;
            sets.kept = true;
        }
        if sets.wanted != wanted {
            sets.wanted = wanted;
            self.0.wanted.notify_one();
        }
        Ok(sets.known.clone())
    }

    async fn kept(&self) {
        let mut keeper = Keeper::default();
        loop {
            let wanted = self.sets().wanted.clone();
            keeper.follow(wanted, |_| None);
            keeper.fetch().await;
            let known = keeper.known();
            let is_new = {
                let mut sets = self.sets();
                let is_new = sets.known != known;
                sets.known = known;
                is_new
            };
            if is_new {
                self.0.changed.notify_one();
            }
            match keeper.due() {
                Some(due) => drop(tokio::time::timeout_at(due, self.0.wanted.notified()).await),
                None => self.0.wanted.notified().await,
            }
        }
    }

    fn sets(&self) -> MutexGuard<'_, Sets> {
        // Every change of it is complete before the next line can fail.
        self.0.sets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
