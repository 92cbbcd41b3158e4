//! All that the control plane has said, and the snapshots that follow from it. Pure: no I/O, no clock.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryResponse, Resource as WireResource};
use lorica_model::name::{GatewayName, Namespace, ServicePort, WorkloadName};
use lorica_model::snapshot::{
    Cluster, EgressUnit, EndpointSet, GatewayUnit, HttpRule, InboundUnit, Listening, NameTable, OutboundUnit, RuleTable, Snapshot,
    TrustBundle, Version,
};

use crate::Kind;
use crate::decode::{self, OutboundListener, Rejected};
use crate::encode::{BUNDLE, GATEWAY_PREFIX, egress_name, gateway_name, inbound_name};

/// What was said of one resource.
#[derive(Debug, Clone)]
enum Said<T> {
    /// That it does not exist.
    Absent,
    /// What it is, in which version.
    Is(String, T),
}

impl<T> Said<T> {
    fn is(said: &Option<Self>) -> Option<(&str, &T)> {
        match said {
            Some(Self::Is(version, value)) => Some((version, value)),
            Some(Self::Absent) | None => None,
        }
    }
}

/// The versions of listener, route and cluster that a unit was made of.
type Made = [String; 3];

/// What was said of one service port.
#[derive(Debug, Default)]
struct Port {
    listener: Option<Said<OutboundListener>>,
    route: Option<Said<RuleTable>>,
    cluster: Option<Said<Cluster>>,
    endpoints: Option<Said<Arc<EndpointSet>>>,
    /// The unit in force.
    unit: Option<(Made, Arc<OutboundUnit>)>,
}

impl Port {
    /// Whether it was said that part of it does not exist.
    fn is_absent(&self) -> bool {
        matches!(self.listener, Some(Said::Absent))
            || matches!(self.route, Some(Said::Absent))
            || matches!(self.cluster, Some(Said::Absent))
            || matches!(self.endpoints, Some(Said::Absent))
    }

    /// Whether everything was said of it.
    fn is_complete(&self) -> bool {
        let Self { listener, route, cluster, endpoints, unit: _ } = self;
        Said::is(listener).is_some() && Said::is(route).is_some() && Said::is(cluster).is_some() && Said::is(endpoints).is_some()
    }

    /// Makes the newest unit, or keeps the one in force if it is that.
    fn make(&mut self) -> Option<Arc<OutboundUnit>> {
        let (listener, route, cluster) = (Said::is(&self.listener)?, Said::is(&self.route)?, Said::is(&self.cluster)?);
        Said::is(&self.endpoints)?;
        let made = [listener.0.to_owned(), route.0.to_owned(), cluster.0.to_owned()];
        if let Some((versions, unit)) = &self.unit
            && *versions == made
        {
            return Some(unit.clone());
        }
        let unit = Arc::new(decode::outbound(listener.1.clone(), route.1.clone(), cluster.1.clone()));
        self.unit = Some((made, unit.clone()));
        Some(unit)
    }

    /// The service ports that its newest rules lead to.
    fn leads_to(&self) -> impl Iterator<Item = &ServicePort> {
        let rules = Said::is(&self.route).map(|(_, rules)| &**rules).unwrap_or_default();
        backends(rules)
    }

    /// The service ports that take over, by its newest cluster and by the one in force.
    fn taken_over_by(&self) -> impl Iterator<Item = &ServicePort> {
        let newest = Said::is(&self.cluster).map(|(_, cluster)| cluster);
        newest.into_iter().chain(self.unit.iter().map(|(_, unit)| &unit.cluster)).flat_map(|cluster| &cluster.traffic.failover)
    }
}

fn backends(rules: &[Arc<HttpRule>]) -> impl Iterator<Item = &ServicePort> {
    rules.iter().flat_map(|rule| rule.leads_to())
}

/// A listener port of a gateway.
#[derive(Debug)]
struct Listener {
    version: String,
    newest: Arc<GatewayUnit>,
    /// In force until all that the newest leads to is known.
    unit: Option<Arc<GatewayUnit>>,
}

/// All that the control plane has said.
#[derive(Debug)]
pub(super) struct Known {
    inbound_name: String,
    egress_name: String,
    /// The gateway that the proxy runs.
    gateway: Option<GatewayName>,
    /// Its listener ports, by the names of their listeners.
    listeners: BTreeMap<String, Listener>,
    ports: HashMap<ServicePort, Port>,
    names: BTreeMap<Namespace, (String, Arc<NameTable>)>,
    inbound: Option<(String, Arc<InboundUnit>)>,
    egress: Option<(String, Arc<EgressUnit>)>,
    bundle: Option<(String, Arc<TrustBundle>)>,
}

/// The names that the client subscribes to, by kind.
pub(super) type Names = BTreeMap<Kind, BTreeSet<String>>;

impl Known {
    /// Begins with what a snapshot holds, as if it had just been received.
    pub(super) fn new(workload: &WorkloadName, gateway: Option<GatewayName>, last_good: &Snapshot) -> Self {
        let mut ports: HashMap<ServicePort, Port> = HashMap::new();
        for (name, unit) in &last_good.outbound {
            let version = Version::of(&**unit).to_string();
            let OutboundUnit { port, virtual_v4, virtual_v6, protocol, rules, http_only, faults, cluster } = &**unit;
            let listener = OutboundListener {
                port: port.clone(),
                virtual_v4: *virtual_v4,
                virtual_v6: *virtual_v6,
                protocol: *protocol,
                http_only: *http_only,
                faults: faults.clone(),
            };
            let slot = ports.entry(name.clone()).or_default();
            slot.listener = Some(Said::Is(version.clone(), listener));
            slot.route = Some(Said::Is(version.clone(), rules.clone()));
            slot.cluster = Some(Said::Is(version.clone(), cluster.clone()));
            slot.unit = Some((std::array::from_fn(|_| version.clone()), unit.clone()));
        }
        for (name, set) in &last_good.endpoints {
            let said = Said::Is(Version::of(&**set).to_string(), set.clone());
            ports.entry(name.clone()).or_default().endpoints = Some(said);
        }
        let listener = |unit: &Arc<GatewayUnit>| {
            let udp = matches!(unit.listening, Listening::Udp(_));
            let made = Listener { version: Version::of(&**unit).to_string(), newest: unit.clone(), unit: Some(unit.clone()) };
            (gateway_name(&unit.gateway, unit.port, udp), made)
        };
        Self {
            inbound_name: inbound_name(workload),
            egress_name: egress_name(workload),
            gateway,
            listeners: last_good.gateway.values().map(listener).collect(),
            ports,
            names: last_good.names.iter().map(|(name, table)| (name.clone(), (Version::of(&**table).to_string(), table.clone()))).collect(),
            inbound: last_good.inbound.as_ref().map(|unit| (Version::of(&**unit).to_string(), unit.clone())),
            egress: last_good.egress.as_ref().map(|unit| (Version::of(&**unit).to_string(), unit.clone())),
            bundle: last_good.bundle.as_ref().map(|bundle| (Version::of(&**bundle).to_string(), bundle.clone())),
        }
    }

    /// What to subscribe to, so that the wanted service ports and what their rules lead to are complete. Where the newest rules
    /// are not in force yet, what the older ones lead to stays.
    pub(super) fn subscriptions(&self, wanted: &BTreeSet<ServicePort>) -> Names {
        let mut ports: BTreeSet<&ServicePort> = wanted.iter().collect();
        for port in wanted.iter().filter_map(|port| self.ports.get(port)) {
            ports.extend(port.leads_to());
            ports.extend(port.unit.iter().flat_map(|(_, unit)| backends(&unit.rules)));
        }
        for listener in self.listeners.values() {
            ports.extend(listener.newest.leads_to());
            ports.extend(listener.unit.iter().flat_map(|unit| unit.leads_to()));
        }
        ports.extend(self.egress.iter().flat_map(|(_, unit)| unit.leads_to()));
        // Known before the first request: who is asked for leave has little time to answer.
        ports.extend(self.inbound.iter().flat_map(|(_, unit)| unit.authorization.authorizers()).map(|authorizer| &authorizer.port));
        // Those that take over do so with their own endpoints: who takes over from them is of no concern.
        let others: Vec<&ServicePort> = ports.iter().filter_map(|port| self.ports.get(*port)).flat_map(Port::taken_over_by).collect();
        ports.extend(others);
        let names: BTreeSet<String> = ports.into_iter().map(ToString::to_string).collect();
        let mut listeners = names.clone();
        listeners.insert(self.inbound_name.clone());
        if self.gateway.is_some() {
            listeners.insert("*".to_owned());
        } else {
            listeners.insert(self.egress_name.clone());
        }
        BTreeMap::from([
            (Kind::Secret, BTreeSet::from([BUNDLE.to_owned()])),
            (Kind::Cluster, names.clone()),
            (Kind::Endpoints, names.clone()),
            (Kind::Listener, listeners),
            (Kind::Route, names),
            (Kind::Names, BTreeSet::from(["*".to_owned()])),
        ])
    }

    /// The versions that are known of what a new stream subscribes to.
    pub(super) fn versions(&self, kind: Kind, subscribed: &BTreeSet<String>) -> HashMap<String, String> {
        fn said<T>(said: &Option<Said<T>>) -> Option<String> {
            Said::is(said).map(|(version, _)| version.to_owned())
        }
        let of = |port: &Port| match kind {
            Kind::Cluster => said(&port.cluster),
            Kind::Endpoints => said(&port.endpoints),
            Kind::Listener => said(&port.listener),
            Kind::Route => said(&port.route),
            Kind::Secret | Kind::Names | Kind::Extension => None,
        };
        let mut versions: HashMap<String, String> = self
            .ports
            .iter()
            .filter_map(|(port, said)| Some((port.to_string(), of(said)?)))
            .filter(|(name, _)| subscribed.contains(name))
            .collect();
        match kind {
            Kind::Secret => versions.extend(self.bundle.iter().map(|(version, _)| (BUNDLE.to_owned(), version.clone()))),
            Kind::Listener => {
                versions.extend(self.inbound.iter().map(|(version, _)| (self.inbound_name.clone(), version.clone())));
                versions.extend(self.egress.iter().map(|(version, _)| (self.egress_name.clone(), version.clone())));
                versions.extend(self.listeners.iter().map(|(name, listener)| (name.clone(), listener.version.clone())));
            }
            Kind::Names => versions.extend(self.names.iter().map(|(name, (version, _))| (name.to_string(), version.clone()))),
            Kind::Cluster | Kind::Endpoints | Kind::Route | Kind::Extension => {}
        }
        versions
    }

    /// Forgets what is not subscribed to.
    pub(super) fn keep(&mut self, subscribed: &Names) {
        if let Some(names) = subscribed.get(&Kind::Cluster) {
            self.ports.retain(|port, _| names.contains(&port.to_string()));
        }
    }

    /// Takes a response. What is refused leaves what was there before; the rest is taken.
    pub(super) fn take(&mut self, kind: Kind, response: &DeltaDiscoveryResponse, subscribed: &BTreeSet<String>) -> Vec<Rejected> {
        let mut rejected = Vec::new();
        for resource in &response.resources {
            // What was unsubscribed from meanwhile is no news.
            if kind == Kind::Names || subscribed.contains(&resource.name) || self.is_of_gateway(kind, &resource.name) {
                rejected.extend(self.take_one(kind, resource).err());
            }
        }
        for name in &response.removed_resources {
            self.remove(kind, name, subscribed);
        }
        rejected
    }

    /// Whether a listener is one of the gateway that the proxy runs.
    fn is_of_gateway(&self, kind: Kind, name: &str) -> bool {
        let own = |gateway: &GatewayName| name.strip_prefix(GATEWAY_PREFIX).is_some_and(|rest| rest.starts_with(&format!("{gateway}:")));
        kind == Kind::Listener && self.gateway.as_ref().is_some_and(own)
    }

    fn take_one(&mut self, kind: Kind, resource: &WireResource) -> Result<(), Rejected> {
        let WireResource { name, version, resource, .. } = resource;
        let fault = |path: &str, message: &str| Rejected { kind, name: name.clone(), path: path.to_owned(), message: message.to_owned() };
        let body = resource.as_ref().ok_or_else(|| fault("resource", "is missing"))?;
        if *name == self.inbound_name && kind == Kind::Listener {
            self.inbound = Some((version.clone(), Arc::new(decode::inbound(name, body)?)));
            return Ok(());
        }
        if *name == self.egress_name && kind == Kind::Listener {
            self.egress = Some((version.clone(), Arc::new(decode::egress(name, body)?)));
            return Ok(());
        }
        if self.is_of_gateway(kind, name) {
            let newest = Arc::new(decode::gateway(name, body)?);
            let unit = self.listeners.remove(name).and_then(|listener| listener.unit);
            self.listeners.insert(name.clone(), Listener { version: version.clone(), newest, unit });
            return Ok(());
        }
        match kind {
            Kind::Secret => {
                self.bundle = Some((version.clone(), Arc::new(decode::bundle(name, body)?)));
                return Ok(());
            }
            Kind::Names => {
                let table = decode::names(name, body)?;
                self.names.insert(table.namespace.clone(), (version.clone(), Arc::new(table)));
                return Ok(());
            }
            // Never asked for.
            Kind::Extension => return Ok(()),
            Kind::Cluster | Kind::Endpoints | Kind::Listener | Kind::Route => {}
        }
        let port: ServicePort = name.parse().map_err(|error: lorica_model::name::NameError| fault("name", &error.to_string()))?;
        let same = |said: &ServicePort| if *said == port { Ok(()) } else { Err(fault("name", &format!("the message says {said}"))) };
        let version = version.clone();
        match kind {
            Kind::Cluster => {
                let cluster = decode::cluster(name, body)?;
                same(&cluster.port)?;
                self.ports.entry(port).or_default().cluster = Some(Said::Is(version, cluster));
            }
            Kind::Endpoints => {
                let set = decode::endpoints(name, body)?;
                same(&set.port)?;
                self.ports.entry(port).or_default().endpoints = Some(Said::Is(version, Arc::new(set)));
            }
            Kind::Listener => {
                let listener = decode::outbound_listener(name, body)?;
                same(&listener.port)?;
                self.ports.entry(port).or_default().listener = Some(Said::Is(version, listener));
            }
            Kind::Route => {
                let rules = decode::rules(name, body)?.into();
                self.ports.entry(port).or_default().route = Some(Said::Is(version, rules));
            }
            Kind::Secret | Kind::Names | Kind::Extension => {}
        }
        Ok(())
    }

    /// The own inbound, what may leave, and the roots stay: a control plane that does not have them (yet) is no reason to stop serving.
    fn remove(&mut self, kind: Kind, name: &str, subscribed: &BTreeSet<String>) {
        if kind == Kind::Names {
            self.names.retain(|namespace, _| namespace.as_str() != name);
            return;
        }
        if self.is_of_gateway(kind, name) {
            self.listeners.remove(name);
            return;
        }
        let Some(port) = name.parse::<ServicePort>().ok().filter(|_| subscribed.contains(name)) else { return };
        let port = self.ports.entry(port).or_default();
        match kind {
            Kind::Cluster => port.cluster = Some(Said::Absent),
            Kind::Endpoints => port.endpoints = Some(Said::Absent),
            Kind::Listener => port.listener = Some(Said::Absent),
            Kind::Route => port.route = Some(Said::Absent),
            Kind::Secret | Kind::Names | Kind::Extension => {}
        }
    }

    /// Whether everything was said of `port`, or that it does not exist.
    fn is_settled(&self, port: &ServicePort) -> bool {
        self.ports.get(port).is_some_and(|said| said.is_absent() || said.is_complete())
    }

    /// Brings in force what is complete, and gives the snapshot.
    pub(super) fn snapshot(&mut self, wanted: &BTreeSet<ServicePort>) -> Snapshot {
        let waiting: BTreeSet<ServicePort> = wanted
            .iter()
            .filter(|port| self.ports.get(port).is_some_and(|said| !said.leads_to().all(|backend| self.is_settled(backend))))
            .cloned()
            .collect();
        let mut snapshot = Snapshot {
            names: self.names.iter().map(|(name, (_, table))| (name.clone(), table.clone())).collect(),
            inbound: self.inbound.as_ref().map(|(_, unit)| unit.clone()),
            egress: self.egress.as_ref().map(|(_, unit)| unit.clone()),
            bundle: self.bundle.as_ref().map(|(_, bundle)| bundle.clone()),
            ..Snapshot::default()
        };
        let settled: BTreeSet<String> = self
            .listeners
            .iter()
            .filter(|(_, listener)| listener.newest.leads_to().all(|backend| self.is_settled(backend)))
            .map(|(name, _)| name.clone())
            .collect();
        for (name, listener) in &mut self.listeners {
            if settled.contains(name) {
                listener.unit = Some(listener.newest.clone());
            }
            snapshot.gateway.extend(listener.unit.iter().map(|unit| (unit.port, unit.clone())));
        }
        for (name, port) in &mut self.ports {
            if port.is_absent() {
                port.unit = None;
                snapshot.absent.insert(name.clone());
                continue;
            }
            let unit = if waiting.contains(name) { port.unit.as_ref().map(|(_, unit)| unit.clone()) } else { port.make() };
            if let Some(unit) = unit {
                snapshot.outbound.insert(name.clone(), unit);
            }
            if let Some((_, set)) = Said::is(&port.endpoints) {
                snapshot.endpoints.insert(name.clone(), set.clone());
            }
        }
        snapshot
    }

    /// Whether what was said newest of `name` is not in force yet: its rules wait for what they lead to, or a service that is to take over is not
    /// known yet.
    pub(super) fn is_behind(&self, kind: Kind, name: &str) -> bool {
        if kind == Kind::Cluster {
            let port = name.parse().ok().and_then(|port: ServicePort| self.ports.get(&port));
            return port.is_some_and(|port| !port.taken_over_by().all(|other| self.is_settled(other)));
        }
        if let Some(listener) = self.listeners.get(name) {
            return listener.unit.as_ref().is_none_or(|unit| !Arc::ptr_eq(unit, &listener.newest));
        }
        let Some(port) = name.parse().ok().and_then(|port: ServicePort| self.ports.get(&port)) else { return false };
        match (&port.unit, Said::is(&port.route)) {
            (Some(([_, made, _], _)), Some((newest, _))) => made != newest,
            _ => false,
        }
    }
}
