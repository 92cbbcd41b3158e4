//! Key sets for a proxy without a control plane: the same fetching, on a thread of its own. What is new makes the proxy read its configuration
//! again.

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
}

#[derive(Debug, Default)]
struct Sets {
    wanted: BTreeMap<String, KeySource>,
    known: BTreeMap<String, KnownKeys>,
}

impl Keys {
    /// What is known of the sets that are `wanted` from now on.
    pub(crate) fn known(&self, wanted: BTreeMap<String, KeySource>) -> BTreeMap<String, KnownKeys> {
        let mut sets = self.sets();
        if sets.wanted != wanted {
            sets.wanted = wanted;
            self.0.wanted.notify_one();
        }
        sets.known.clone()
    }

    /// Fetches what is wanted for as long as the process lives, and tells `changed` of what is new.
    ///
    /// # Errors
    /// When there can be no thread.
    pub(crate) fn keep(&self, changed: Arc<Notify>) -> std::io::Result<()> {
        let keys = self.clone();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let body = move || runtime.block_on(keys.kept(&changed));
        std::thread::Builder::new().name("key sets".to_owned()).spawn(body).map(drop)
    }

    async fn kept(&self, changed: &Notify) {
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
                changed.notify_one();
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
