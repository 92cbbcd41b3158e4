//! What one viewer may have of one publication: units compiled and encoded when somebody asks, and remembered.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;

use lorica_model::compile::{self, Registry, World};
use lorica_model::name::{Namespace, ServicePort, WorkloadName};
use lorica_model::resource::{Kind as ResourceKind, Resources};
use lorica_model::snapshot::{Hosts, Listening, Transport, TrustBundle};
use lorica_model::spiffe::TrustDomain;
use lorica_xds::encode::{self, Context};
use lorica_xds::session::Catalog;
use lorica_xds::{Dialect, Kind, NodeMetadata, Resource};

use crate::telemetry::counts::Counts;

/// What was encoded: by kind and name, for callers of a namespace. None: there is no such resource.
type Encoded = HashMap<(Kind, String, Namespace), Option<Arc<Resource>>>;

/// Everything at one publication. Never changes.
pub struct Published {
    /// Its number.
    pub revision: u64,
    /// What users wrote.
    pub resources: Arc<Resources>,
    /// What of it is in force: what units are made of.
    pub in_force: Arc<Resources>,
    /// Who is there.
    pub registry: Arc<Registry>,
    /// Whose identities they have.
    pub trust_domain: TrustDomain,
    /// The roots to trust.
    pub bundle: Arc<TrustBundle>,
    /// What was encoded for Lorica's proxies: it depends on their namespace only.
    encoded: Mutex<Encoded>,
    /// Where it is counted what compiling takes.
    counts: Arc<Counts>,
}

impl Published {
    /// A publication.
    #[must_use]
    pub fn new(
        revision: u64,
        (resources, in_force): (Arc<Resources>, Arc<Resources>),
        registry: Arc<Registry>,
        trust_domain: TrustDomain,
        bundle: Arc<TrustBundle>,
        counts: Arc<Counts>,
    ) -> Self {
        Self { revision, resources, in_force, registry, trust_domain, bundle, encoded: Mutex::default(), counts }
    }

    /// Compiles and encodes something, and counts what that took.
    fn timed<T>(&self, kind: Kind, make: impl FnOnce() -> T) -> T {
        let begun = Instant::now();
        let made = make();
        self.counts.compiled.of(kind).observe(begun.elapsed());
        made
    }

    /// What units are compiled from.
    #[must_use]
    pub fn world(&self) -> World<'_> {
        World { resources: &self.in_force, registry: &self.registry, trust_domain: &self.trust_domain }
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
    /// Made when it is first asked for.
    gateway: OnceLock<Entrance>,
}

/// What a viewer has of the gateway that it runs.
#[derive(Default)]
struct Entrance {
    /// Listeners; for Envoy routes and certificates beside them.
    resources: Vec<Arc<Resource>>,
    /// The service ports that it leads to.
    leads_to: BTreeSet<ServicePort>,
    /// Those of them to which routes for gRPC lead.
    grpc: BTreeSet<ServicePort>,
    /// Whether it lets calls out of the mesh.
    egress: bool,
}

impl Entrance {
    fn of(viewed: &Viewed) -> Self {
        let mut made = Self::default();
        let Some(name) = &viewed.node.gateway else { return made };
        let world = viewed.published.world();
        for unit in compile::gateway(&world, name) {
            made.leads_to.extend(unit.leads_to().cloned());
            made.egress |= matches!(unit.listening, Listening::Egress(_));
            let rules = unit.hosts().flat_map(Hosts::all).flat_map(|host| host.rules.iter());
            let grpc = rules.filter(|rule| rule.origin.kind == ResourceKind::GrpcRoute.as_str());
            made.grpc.extend(grpc.flat_map(|rule| rule.leads_to().cloned()));
            let context = Context { trust_domain: Some(&viewed.published.trust_domain), ..Context::of(&viewed.node) };
            made.resources.extend(encode::gateway(&unit, viewed.dialect, context).into_iter().map(Arc::new));
        }
        let taken_over: Vec<ServicePort> = made.leads_to.iter().flat_map(|port| compile::traffic(&world, port).failover).collect();
        made.leads_to.extend(taken_over);
        if viewed.dialect == Dialect::Envoy {
            made.resources.extend(compile::backend_certificate(&world, name).iter().map(encode::certificate).map(Arc::new));
        }
        made
    }

    fn get(&self, kind: Kind, name: &str) -> Option<Arc<Resource>> {
        self.resources.iter().find(|resource| resource.kind == kind && resource.name == name).cloned()
    }
}

impl Viewed {
    /// A publication as this viewer may see it.
    #[must_use]
    pub fn new(published: Arc<Published>, dialect: Dialect, node: Arc<NodeMetadata>, workload: Option<WorkloadName>) -> Self {
        Self { published, dialect, node, workload, gateway: OnceLock::new() }
    }

    fn gateway(&self) -> &Entrance {
        self.gateway.get_or_init(|| match &self.node.gateway {
            Some(_) => self.published.timed(Kind::Listener, || Entrance::of(self)),
            None => Entrance::default(),
        })
    }

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
        let grpc = self.node.gateway.is_some() && self.gateway().grpc.contains(&port);
        let failover: Vec<String> = unit.cluster.traffic.failover.iter().map(|port| self.own_cluster(port)).collect();
        encode::outbound(&unit, self.dialect, Context { plaintext, grpc, failover: &failover, ..Context::of(&self.node) })
    }

    /// An Envoy's cluster of a service port's own endpoints: without those that take over, who would take over from each other for ever.
    fn own_cluster(&self, port: &ServicePort) -> String {
        let alone = compile::traffic(&self.published.world(), port).failover.is_empty();
        if alone { port.to_string() } else { encode::own_name(port) }
    }

    /// An Envoy's clusters for calls to some service ports.
    fn clusters<'p>(&self, ports: impl Iterator<Item = &'p ServicePort>) -> Vec<String> {
        let both = |port: &ServicePort| {
            let (name, own) = (port.to_string(), self.own_cluster(port));
            if own == name { vec![name] } else { vec![own, name] }
        };
        ports.flat_map(both).collect()
    }

    fn endpoints(&self, name: &str) -> Option<Resource> {
        let world = self.published.world();
        let port = name.strip_prefix(encode::OWN_PREFIX).unwrap_or(name).parse().ok()?;
        let set = compile::endpoints(&world, &port)?;
        Some(match self.dialect {
            Dialect::Envoy => encode::endpoints_near(&set, name, &self.node.locality, &compile::traffic(&world, &port).balancing),
            Dialect::Lorica | Dialect::Grpc => encode::endpoints(&set, self.dialect),
        })
    }

    /// Whether it is an Envoy that takes captured connections.
    fn captures(&self) -> bool {
        self.dialect == Dialect::Envoy && self.node.upstreams.is_empty() && self.node.gateway.is_none()
    }

    fn make(&self, kind: Kind, name: &str) -> Option<Resource> {
        let world = self.published.world();
        match kind {
            Kind::Secret => (name == BUNDLE).then(|| encode::bundle(&self.published.bundle)),
            Kind::Names => compile::names(&world).get(&name.parse::<Namespace>().ok()?).map(encode::names),
            Kind::Endpoints => self.endpoints(name),
            Kind::Listener if self.workload.as_ref().is_some_and(|workload| encode::inbound_name(workload) == name) => {
                compile::inbound(&world, self.workload.as_ref()?).map(|unit| encode::inbound(&unit))
            }
            Kind::Listener if self.workload.as_ref().is_some_and(|workload| encode::egress_name(workload) == name) => {
                Some(encode::egress(&compile::egress(&world, self.workload.as_ref()?, &self.node.account)))
            }
            Kind::Route if name.starts_with(INBOUND_PREFIX) && self.dialect == Dialect::Envoy => {
                let unit = compile::inbound(&world, self.workload.as_ref()?)?;
                encode::inbound_routes(&unit).into_iter().find(|resource| resource.name == name)
            }
            Kind::Extension if self.dialect == Dialect::Envoy => {
                let unit = compile::inbound(&world, self.workload.as_ref()?)?;
                encode::inbound_filters(&unit).into_iter().find(|resource| resource.name == name)
            }
            Kind::Extension => None,
            Kind::Listener if name == encode::CAPTURE && self.captures() => {
                Some(encode::capture(&compile::egress(&world, self.workload.as_ref()?, &self.node.account)))
            }
            Kind::Cluster if name.starts_with(encode::EGRESS_PREFIX) && self.dialect == Dialect::Envoy => {
                encode::egress_clusters().into_iter().find(|resource| resource.name == name)
            }
            Kind::Listener | Kind::Route | Kind::Cluster => {
                let port = name.strip_prefix(encode::OWN_PREFIX).filter(|_| self.dialect == Dialect::Envoy);
                self.outbound(port.unwrap_or(name)).into_iter().find(|resource| resource.kind == kind && resource.name == name)
            }
        }
    }
}

/// What the names begin with of what a workload has for its own inbound.
const INBOUND_PREFIX: &str = "inbound/";
/// The secret that everybody may have: the roots to trust.
pub(crate) const BUNDLE: &str = "bundle";

impl Catalog for Viewed {
    fn get(&self, kind: Kind, name: &str) -> Option<Arc<Resource>> {
        let of_gateway = match kind {
            Kind::Listener | Kind::Route => name.starts_with(encode::GATEWAY_PREFIX),
            // A user's private key goes to who runs a gateway that shows its certificate, and to nobody else.
            Kind::Secret => name != BUNDLE,
            Kind::Cluster | Kind::Endpoints | Kind::Names | Kind::Extension => false,
        };
        if of_gateway {
            return self.gateway().get(kind, name);
        }
        // What depends on who asks is made for each.
        let own = [INBOUND_PREFIX, encode::EGRESS_PREFIX].iter().any(|prefix| name.starts_with(prefix)) || self.node.gateway.is_some();
        let shared = self.dialect == Dialect::Lorica && !own;
        if !shared {
            return self.published.timed(kind, || self.make(kind, name)).map(Arc::new);
        }
        let key = (kind, name.to_owned(), self.node.namespace.clone());
        // Nothing that holds the lock can leave it half changed.
        if let Some(known) = self.published.encoded.lock().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return known.clone();
        }
        if matches!(kind, Kind::Cluster | Kind::Listener | Kind::Route) {
            // A unit is compiled and encoded as a whole, so whoever asks for one of the three makes all of them.
            let unit: Vec<_> = self.published.timed(kind, || self.outbound(name)).into_iter().map(Arc::new).collect();
            let mut encoded = self.published.encoded.lock().unwrap_or_else(PoisonError::into_inner);
            for part in [Kind::Cluster, Kind::Listener, Kind::Route] {
                let found = unit.iter().find(|resource| resource.kind == part && resource.name == name).cloned();
                encoded.insert((part, name.to_owned(), self.node.namespace.clone()), found);
            }
            return encoded.get(&key).cloned().flatten();
        }
        let made = self.published.timed(kind, || self.make(kind, name)).map(Arc::new);
        self.published.encoded.lock().unwrap_or_else(PoisonError::into_inner).insert(key, made.clone());
        made
    }

    fn all(&self, kind: Kind) -> Vec<Arc<Resource>> {
        let world = self.published.world();
        let names: Vec<String> = match (kind, self.dialect) {
            (Kind::Names, _) => compile::names(&world).into_keys().map(|namespace| namespace.to_string()).collect(),
            (Kind::Secret, _) => vec![BUNDLE.to_owned()],
            (Kind::Listener, _) if self.node.gateway.is_some() => {
                return self.gateway().resources.iter().filter(|resource| resource.kind == Kind::Listener).cloned().collect();
            }
            (Kind::Cluster, Dialect::Envoy) if self.node.gateway.is_some() => {
                let egress = self.gateway().egress.then(encode::egress_clusters).into_iter().flatten();
                self.clusters(self.gateway().leads_to.iter()).into_iter().chain(egress.map(|resource| resource.name)).collect()
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
                let ports: Vec<ServicePort> = compile::outbound_ports(&world).chain(compile::egress_ports(&world)).collect();
                self.clusters(ports.iter()).into_iter().chain(encode::egress_clusters().into_iter().map(|resource| resource.name)).collect()
            }
            _ => Vec::new(),
        };
        names.iter().filter_map(|name| self.get(kind, name)).collect()
    }
}
