//! The key sets that policies name: which are wanted, and what is known of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use lorica_model::compile::{KnownKeys, Registry};
use lorica_model::resource::{KeySource, Resources, WrittenKeys};

use super::Mesh;

/// The key sets that the policies of `resources` name, by their address. Where several name one, it is fetched as often as any of them says,
/// and from where any of them allows.
#[must_use]
pub fn sources(resources: &Resources) -> BTreeMap<String, KeySource> {
    let providers = resources.authentication().filter_map(|(_, policy)| policy.jwt.as_ref()).flat_map(|jwt| &jwt.providers);
    let mut found: BTreeMap<String, KeySource> = BTreeMap::new();
    for provider in providers {
        let WrittenKeys::Url(source) = &provider.keys else { continue };
        let known = found.entry(source.url.clone()).or_insert_with(|| source.clone());
        known.refresh = known.refresh.min(source.refresh);
        known.allow_private |= source.allow_private;
    }
    found
}

impl Mesh {
    /// The key sets that its policies name.
    #[must_use]
    pub fn key_sources(&self) -> BTreeMap<String, KeySource> {
        sources(&self.state().resources)
    }

    /// What is known of them.
    #[must_use]
    pub fn key_sets(&self) -> BTreeMap<String, KnownKeys> {
        self.state().registry.key_sets.clone()
    }

    /// Publishes what is known of them now.
    pub fn set_key_sets(&self, key_sets: BTreeMap<String, KnownKeys>) {
        let mut state = self.state();
        if state.registry.key_sets == key_sets {
            return;
        }
        state.registry = Arc::new(Registry { key_sets, ..(*state.registry).clone() });
        state.publish();
        drop(state);
        self.said.notify_waiters();
    }
}
