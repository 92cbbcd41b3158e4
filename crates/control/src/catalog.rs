//! What one viewer may have of one publication: units compiled and encoded when somebody asks, and remembered.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use lorica_model::compile::{self, Registry, World};
use lorica_model::name::{Namespace, ServicePort, WorkloadName};
use lorica_model::resource::Resources;
use lorica_model::snapshot::{Transport, TrustBundle};
use lorica_model::spiffe::TrustDomain;
use lorica_xds::encode::{self, Context};
use lorica_xds::session::Catalog;
use lorica_xds::{Dialect, Kind, NodeMetadata, Resource};

/// What was encoded: by kind and name, for callers of a namespace. None: there is no such resource.
type Encoded = HashMap<(Kind, String, Namespace), Option<Arc<Resource>>>;

/// Everything at one publication. Never changes.
pub struct Published {
    /// Its number.
    pub revision: u64,
    /// What users wrote.
    pub resources: Arc<Resources>,
    /// Who is there.
    pub registry: Arc<Registry>,
    /// Whose identities they have.
    pub trust_domain: TrustDomain,
    /// The roots to trust.
    pub bundle: Arc<TrustBundle>,
    /// What was encoded for Lorica's proxies: it depends on their namespace only.
    encoded: Mutex<Encoded>,
}

impl Published {
    /// A publication.
    #[must_use]
    pub fn new(
        revision: u64,
        resources: Arc<Resources>,
        registry: Arc<Registry>,
        trust_domain: TrustDomain,
        bundle: Arc<TrustBundle>,
    ) -> Self {
        Self { revision, resources, registry, trust_domain, bundle, encoded: Mutex::default() }
    }

    /// What units are compiled from.
    #[must_use]
    pub fn world(&self) -> World<'_> {
        World { resources: &self.resources, registry: &self.registry, trust_domain: &self.trust_domain }
    }
}

/// A publication as one viewer may see it.
pub struct Viewed {
    /// The publication.
    pub published: Arc<Published>,
    /// How the viewer speaks xDS.
    pub dialect: Dialect,
    /// What it said of itself.
    pub node: Arc<NodeMetadata>,
    /// Its workload; none for one that did not register.
    pub workload: Option<WorkloadName>,
}

impl Viewed {
    fn outbound(&self, name: &str) -> Vec<Resource> {
        let world = self.published.world();
        let Ok(port) = name.parse::<ServicePort>() else { return Vec::new() };
        let Some(mut unit) = compile::outbound(&world, &self.node.namespace, &port) else { return Vec::new() };
        if let Some(tls) = &mut unit.cluster.tls {
            tls.certificate = self.node.gateway.as_ref().and_then(|gateway| compile::backend_certificate(&world, gateway));
        }
        let endpoints = compile::endpoints(&world, &port);
        let plaintext = endpoints.is_some_and(|set| {
            !set.endpoints.is_empty() && set.endpoints.iter().all(|endpoint| endpoint.transport == Transport::Plaintext)
        });
        encode::outbound(&unit, self.dialect, Context { node: &self.node, plaintext })
    }

    /// The resources of the gateway that the viewer runs.
    fn gateway(&self) -> Vec<Resource> {
        let Some(name) = &self.node.gateway else { return Vec::new() };
        let units = compile::gateway(&self.published.world(), name);
        units.iter().flat_map(|unit| encode::gateway(unit, self.dialect, Context::of(&self.node))).collect()
    }

    /// Whether it is an Envoy that takes captured connections.
    fn captures(&self) -> bool {
        self.dialect == Dialect::Envoy && self.node.upstreams.is_empty() && self.node.gateway.is_none()
    }

    fn make(&self, kind: Kind, name: &str) -> Option<Resource> {
        let world = self.published.world();
        match kind {
            Kind::Secret => (name == "bundle").then(|| encode::bundle(&self.published.bundle)),
            Kind::Names => compile::names(&world).get(&name.parse::<Namespace>().ok()?).map(encode::names),
            Kind::Endpoints => compile::endpoints(&world, &name.parse().ok()?).map(|set| encode::endpoints(&set, self.dialect)),
            Kind::Listener if self.workload.as_ref().is_some_and(|workload| encode::inbound_name(workload) == name) => {
                compile::inbound(&world, self.workload.as_ref()?).map(|unit| encode::inbound(&unit))
            }
            Kind::Listener if self.workload.as_ref().is_some_and(|workload| encode::egress_name(workload) == name) => {
                Some(encode::egress(&compile::egress(&world, self.workload.as_ref()?, &self.node.account)))
            }
            Kind::Listener | Kind::Route if name.starts_with(encode::GATEWAY_PREFIX) => {
                self.gateway().into_iter().find(|resource| resource.kind == kind && resource.name == name)
            }
            Kind::Listener if name == encode::CAPTURE && self.captures() => {
                Some(encode::capture(&compile::egress(&world, self.workload.as_ref()?, &self.node.account)))
            }
            Kind::Cluster if name.starts_with(encode::EGRESS_PREFIX) && self.dialect == Dialect::Envoy => {
                encode::egress_clusters().into_iter().find(|resource| resource.name == name)
            }
            Kind::Listener | Kind::Route | Kind::Cluster => {
                self.outbound(name).into_iter().find(|resource| resource.kind == kind && resource.name == name)
            }
        }
    }
}

impl Catalog for Viewed {
    fn get(&self, kind: Kind, name: &str) -> Option<Arc<Resource>> {
        // What depends on who asks is made for each.
        let own = ["inbound/", encode::EGRESS_PREFIX].iter().any(|prefix| name.starts_with(prefix))
            || name.starts_with(encode::GATEWAY_PREFIX)
            || self.node.gateway.is_some();
        let shared = self.dialect == Dialect::Lorica && !own;
        if !shared {
            return self.make(kind, name).map(Arc::new);
        }
        let key = (kind, name.to_owned(), self.node.namespace.clone());
        // Nothing that holds the lock can leave it half changed.
        if let Some(known) = self.published.encoded.lock().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return known.clone();
        }
        if matches!(kind, Kind::Cluster | Kind::Listener | Kind::Route) {
            // A unit is compiled and encoded as a whole, so whoever asks for one of the three makes all of them.
            let unit: Vec<_> = self.outbound(name).into_iter().map(Arc::new).collect();
            let mut encoded = self.published.encoded.lock().unwrap_or_else(PoisonError::into_inner);
            for part in [Kind::Cluster, Kind::Listener, Kind::Route] {
                let found = unit.iter().find(|resource| resource.kind == part && resource.name == name).cloned();
                encoded.insert((part, name.to_owned(), self.node.namespace.clone()), found);
            }
            return encoded.get(&key).cloned().flatten();
        }
        let made = self.make(kind, name).map(Arc::new);
        self.published.encoded.lock().unwrap_or_else(PoisonError::into_inner).insert(key, made.clone());
        made
    }

    fn all(&self, kind: Kind) -> Vec<Arc<Resource>> {
        let world = self.published.world();
        let names: Vec<String> = match (kind, self.dialect) {
            (Kind::Names, _) => compile::names(&world).into_keys().map(|namespace| namespace.to_string()).collect(),
            (Kind::Secret, _) => vec!["bundle".to_owned()],
            (Kind::Listener, _) if self.node.gateway.is_some() => {
                return self.gateway().into_iter().filter(|resource| resource.kind == Kind::Listener).map(Arc::new).collect();
            }
            // Only Envoy asks for all; one with explicit upstreams gets those and what their routes lead to.
            (Kind::Listener, Dialect::Envoy) if !self.node.upstreams.is_empty() => {
                self.node.upstreams.keys().map(ToString::to_string).collect()
            }
            (Kind::Listener, Dialect::Envoy) => {
                let ports = compile::outbound_ports(&world).map(|port| port.to_string());
                std::iter::once(encode::CAPTURE.to_owned()).chain(ports).collect()
            }
            (Kind::Cluster, Dialect::Envoy) => {
                let ports = compile::outbound_ports(&world).chain(compile::egress_ports(&world)).map(|port| port.to_string());
                ports.chain(encode::egress_clusters().into_iter().map(|resource| resource.name)).collect()
            }
            _ => Vec::new(),
        };
        names.iter().filter_map(|name| self.get(kind, name)).collect()
    }
}
