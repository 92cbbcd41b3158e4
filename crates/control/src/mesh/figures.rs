//! How the mesh stands, in numbers. Read at a scrape; the lock is held for as long as it takes to count.

use std::collections::BTreeMap;

use lorica_xds::Dialect;

use super::Mesh;

/// How the mesh stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Figures {
    /// Open streams, by who speaks.
    pub sessions: Vec<(&'static str, usize)>,
    /// Names that they subscribe to.
    pub subscriptions: usize,
    /// The number of the newest publication.
    pub publication: u64,
    /// Whether something is about to be published.
    pub behind: bool,
    /// Resources, by kind.
    pub resources: Vec<(&'static str, usize)>,
    /// Workloads that are registered, by how they stand.
    pub workloads: Vec<(&'static str, usize)>,
    /// Ports of workloads that take calls.
    pub endpoints: usize,
    /// Services that are registered.
    pub services: usize,
    /// Services whose endpoints are kept although all were lost at once.
    pub held_back: usize,
}

impl Mesh {
    /// How it stands.
    #[must_use]
    pub fn figures(&self) -> Figures {
        let state = self.state();
        let speak = |dialect| state.sessions.values().filter(|session| session.dialect == dialect).count();
        let (registry, resources) = (state.registry.clone(), state.resources.clone());
        let lost = |name| state.lost.contains_key(name);
        let draining = registry.workloads.values().filter(|workload| workload.draining).count();
        let gone = registry.workloads.iter().filter(|(name, workload)| !workload.draining && lost(name)).count();
        let sessions = vec![("lorica", speak(Dialect::Lorica)), ("envoy", speak(Dialect::Envoy)), ("grpc", speak(Dialect::Grpc))];
        let subscriptions = state.sessions.values().map(|session| session.subscribed.len()).sum();
        let (publication, behind, held_back) = (state.published.revision, state.behind, state.held_back.len());
        // What is left is counted without it.
        drop(state);
        let mut by_kind: BTreeMap<&'static str, usize> = BTreeMap::new();
        resources.iter().for_each(|resource| *by_kind.entry(resource.kind.as_str()).or_default() += 1);
        let ports = registry.workloads.values().filter(|workload| !workload.draining).flat_map(|workload| &workload.ports);
        Figures {
            sessions,
            subscriptions,
            publication,
            behind,
            resources: by_kind.into_iter().collect(),
            workloads: vec![("connected", registry.workloads.len() - draining - gone), ("lost", gone), ("draining", draining)],
            endpoints: ports.filter(|port| port.listening).count(),
            services: registry.services.len(),
            held_back,
        }
    }
}
