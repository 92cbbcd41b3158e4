//! Whom the mesh trusts: the bundle that every proxy is sent, and who has acknowledged it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lorica_identity::host_api::WATCH;
use lorica_identity::{Bundle, BundleError};
use lorica_model::name::{Label, WorkloadName};
use lorica_model::snapshot::{TrustBundle, Version};
use lorica_xds::{Dialect, Kind};

use super::{Mesh, SessionId};
use crate::catalog::BUNDLE;

/// A proxy that trusts by the bundle that it is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trusting {
    /// Its workload, or what it calls itself.
    pub name: String,
    /// Whether it has acknowledged the newest bundle.
    pub acknowledged: bool,
}

/// By which bundle an agent trusts, and when it said so last.
#[derive(Debug)]
pub(super) struct AgentTrust {
    version: String,
    said: Instant,
}

impl AgentTrust {
    /// How long one counts as connected after it asked last: it asks again as soon as it is answered.
    const CONNECTED: Duration = WATCH.saturating_add(Duration::from_secs(10));
}

/// What a host is called among those who trust: no workload has a name with a slash.
#[must_use]
pub fn host_name(host: &Label) -> String {
    format!("host/{host}")
}

impl Mesh {
    /// An agent has a version of the bundle; `name` is what it has its SVID as.
    pub fn agent_trusts(&self, name: String, version: String) {
        let mut state = self.state();
        state.agents.retain(|_, agent| agent.said.elapsed() < AgentTrust::CONNECTED);
        state.agents.insert(name, AgentTrust { version, said: Instant::now() });
    }

    /// A host is of the mesh no more.
    pub fn host_gone(&self, host: &Label) {
        self.state().agents.remove(&host_name(host));
    }

    /// Publishes another bundle; the number of the publication. Other trust domains are those that resources name, whatever it says of them.
    pub fn trust(&self, bundle: TrustBundle) -> u64 {
        let mut state = self.state();
        if *state.bundle == bundle {
            return state.published.revision;
        }
        state.bundle = Arc::new(bundle);
        let revision = state.publish();
        drop(state);
        self.said.notify_waiters();
        // Whoever has the roots from the Workload API gets the new ones.
        self.identities.send_replace(());
        revision
    }

    /// The connected proxies that know nothing of revocations: clients of gRPC, and stock Envoys where there are no lists for them.
    #[must_use]
    pub fn without_revocations(&self) -> Vec<String> {
        let state = self.state();
        let listed = state.bundle.revoked.is_empty() || !state.bundle.revocation_lists.is_empty();
        let without = |dialect| match dialect {
            Dialect::Lorica => false,
            Dialect::Envoy => !listed,
            Dialect::Grpc => true,
        };
        state.sessions.values().filter(|session| without(session.dialect)).map(|session| session.name.clone()).collect()
    }

    /// The bundle that is published.
    #[must_use]
    pub fn trusted(&self) -> Arc<TrustBundle> {
        self.state().bundle.clone()
    }

    /// The roots of the mesh's own trust domain.
    ///
    /// # Errors
    /// When one cannot be read.
    pub fn own_roots(&self) -> Result<Bundle, BundleError> {
        let trusted = self.trusted();
        Bundle::new(trusted.trust_domain.clone(), trusted.roots.iter().map(|root| root.clone().into()).collect())
    }

    /// A stream's client has a version of a secret.
    pub fn acknowledged(&self, id: SessionId, secret: &str, version: String) {
        let mut state = self.state();
        if let Some(session) = state.sessions.get_mut(&id).filter(|_| secret == BUNDLE) {
            session.trusts = Some(version);
        }
        drop(state);
        self.said.notify_waiters();
    }

    /// The workloads whose proxies are connected, and the hosts, and whether each trusts what it was sent last. An Envoy that has nothing to verify asks
    /// for no bundle, and is not waited for; a client of gRPC is no workload.
    #[must_use]
    pub fn trusting(&self) -> Vec<Trusting> {
        let state = self.state();
        let newest = Version::of(&*state.bundle).to_string();
        let asks = |session: &super::Session| {
            session.subscribed.iter().any(|(kind, name)| *kind == Kind::Secret && (name == BUNDLE || name == "*"))
        };
        let trusting = state.sessions.values().filter(|session| session.dialect != Dialect::Grpc);
        let trusting = trusting.map(|session| Trusting {
            name: session.workload.as_ref().map_or_else(|| session.name.clone(), ToString::to_string),
            acknowledged: session.trusts.as_ref() == Some(&newest) || (session.dialect == Dialect::Envoy && !asks(session)),
        });
        let agents = state.agents.iter().filter(|(_, agent)| agent.said.elapsed() < AgentTrust::CONNECTED);
        let agents = agents.map(|(name, agent)| Trusting { name: name.clone(), acknowledged: agent.version == newest });
        trusting.chain(agents).collect()
    }

    /// The workloads that ended in order since this was asked last.
    #[must_use]
    pub fn ended_in_order(&self) -> BTreeSet<WorkloadName> {
        std::mem::take(&mut self.state().ended_in_order)
    }
}
