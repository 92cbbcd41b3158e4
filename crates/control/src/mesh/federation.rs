//! Other trust domains: which bundles are to be fetched, what is known of them, and whom proxies trust by them.

use std::collections::BTreeMap;
use std::sync::Arc;

use lorica_model::compile::{self, KnownBundle, Registry, World};
use lorica_model::resource::{Resources, TrustBundle};
use lorica_model::snapshot;
use lorica_model::spiffe::TrustDomain;

use super::Mesh;

/// `bundle` with the roots of the other trust domains that are trusted now.
pub(super) fn federated(
    bundle: &Arc<snapshot::TrustBundle>,
    resources: &Resources,
    registry: &Registry,
    trust_domain: &TrustDomain,
) -> Arc<snapshot::TrustBundle> {
    let found = compile::federated(&World { resources, registry, trust_domain });
    let federated: BTreeMap<_, _> = found.into_iter().map(|(trust_domain, bundle)| (trust_domain, bundle.roots.clone())).collect();
    if bundle.federated == federated { bundle.clone() } else { Arc::new(snapshot::TrustBundle { federated, ..(**bundle).clone() }) }
}

impl Mesh {
    /// The resources whose bundles are fetched, by their trust domain.
    #[must_use]
    pub fn bundle_sources(&self) -> BTreeMap<TrustDomain, TrustBundle> {
        let state = self.state();
        let fetched = state.resources.trust_bundles().filter(|(_, bundle)| bundle.endpoint.is_some());
        let others = fetched.filter(|(_, bundle)| bundle.trust_domain != state.trust_domain);
        others.map(|(_, bundle)| (bundle.trust_domain.clone(), bundle.clone())).collect()
    }

    /// What is known of them.
    #[must_use]
    pub fn bundles(&self) -> BTreeMap<TrustDomain, KnownBundle> {
        self.state().registry.bundles.clone()
    }

    /// Publishes what is known of them now.
    pub fn set_bundles(&self, bundles: BTreeMap<TrustDomain, KnownBundle>) {
        let mut state = self.state();
        if state.registry.bundles == bundles {
            return;
        }
        state.registry = Arc::new(Registry { bundles, ..(*state.registry).clone() });
        state.publish();
        drop(state);
        self.said.notify_waiters();
        // Whoever has bundles from the Workload API gets the new ones.
        self.identities.send_replace(());
    }
}
