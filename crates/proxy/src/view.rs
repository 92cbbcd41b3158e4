//! What workers read: the snapshot with what this proxy knows beside it, replaced as a whole.
//!
//! In: snapshots from the control plane's client. Out: one `Arc<View>` a change. An exchange loads it once.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use lorica_identity::{AcceptedIdentities, edge};
use lorica_model::name::{Namespace, SUFFIX, ServiceName, ServicePort};
use lorica_model::snapshot::{
    Authorization, BackendTls, GatewayUnit, HostPattern, Hosts, Listening, NameRecord, OutboundUnit, ServerTls, Snapshot, Terminated,
    TlsAction,
};
#[cfg(feature = "http3")]
use lorica_model::snapshot::{Certificate, TlsChain};
use lorica_model::spiffe::TrustDomain;
use lorica_xds::client::Client;
use smallvec::SmallVec;
use tokio::sync::watch;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, ServerConfig};

use crate::endpoints::survey::{Surveyed, survey};
use crate::endpoints::{self, Active, LiveSet, LiveSets, NoPick, Vantage, Wanted};
use crate::path::mtls::Negotiated;

/// The snapshot, the live endpoints, and which service each virtual address means.
#[derive(Debug, Default)]
pub struct View {
    /// Its number: a later view has a higher one. Connections tell by it whether what they remember still holds.
    pub number: u64,
    /// What the control plane sent.
    pub snapshot: Arc<Snapshot>,
    /// The endpoints and what is known of each.
    pub live: LiveSets,
    /// From where they are seen.
    pub vantage: Vantage,
    /// Service ports as far as their own endpoints go.
    alone: Reaches,
    reaches: Reaches,
    addresses: Arc<HashMap<IpAddr, ServiceName>>,
    servers: BTreeMap<(u16, HostPattern), Server>,
    /// The gateway's ports some of whose rules may look at what tokens say.
    telling: BTreeSet<u16>,
    #[cfg(feature = "http3")]
    quic: BTreeMap<u16, Quic>,
}

/// How each service port is reached.
type Reaches = HashMap<ServicePort, Arc<Reach>, foldhash::fast::RandomState>;

/// How TLS ends inside QUIC on a port: what each server name shows, what was made of it, or why nothing could be.
#[cfg(feature = "http3")]
#[derive(Debug, Clone)]
struct Quic {
    of: Vec<(HostPattern, Option<Vec<Certificate>>)>,
    config: Result<Arc<ServerConfig>, String>,
}

/// How TLS ends at a gateway for some server names: what it was made of, and what was made, or why nothing could be.
#[derive(Debug, Clone)]
struct Server {
    of: ServerTls,
    config: Result<Arc<ServerConfig>, String>,
}

/// A service port as an exchange needs it: its unit and its endpoints, joined once a view and not once a request.
#[derive(Debug)]
pub struct Reach {
    /// What the control plane says of the service port.
    pub unit: Arc<OutboundUnit>,
    /// Its endpoints.
    pub live: Arc<LiveSet>,
    /// The service ports that take over, in this order, as its own endpoints fail; each with its own endpoints alone.
    pub failover: Vec<Arc<Self>>,
    /// The identities that they may prove.
    pub accepted: AcceptedIdentities,
    /// A number that stands for `accepted` and `edge` in pools: the same one for as long as these stay the same.
    pub accepted_number: u64,
    /// TLS towards endpoints that are no part of the mesh, or why there can be none.
    pub edge: Option<Result<EdgeClient, String>>,
}

/// TLS towards endpoints that are no part of the mesh: one configuration for each protocol that may be spoken inside.
#[derive(Debug, Clone)]
pub struct EdgeClient {
    /// The name that is asked for.
    pub name: ServerName<'static>,
    http1: Arc<ClientConfig>,
    http2: Arc<ClientConfig>,
    bytes: Arc<ClientConfig>,
}

impl EdgeClient {
    fn new(tls: &BackendTls) -> Result<Self, String> {
        let made = |alpn: &[&[u8]]| edge::client_config(tls, alpn).map_err(|error| error.to_string());
        let (bytes, name) = made(&[])?;
        Ok(Self { name, http1: made(&[Negotiated::Http1.alpn()])?.0, http2: made(&[Negotiated::Http2.alpn()])?.0, bytes })
    }

    /// The configuration for speaking `protocol` inside.
    #[must_use]
    pub fn config(&self, protocol: Option<Negotiated>) -> &Arc<ClientConfig> {
        match protocol {
            Some(Negotiated::Http1) => &self.http1,
            Some(Negotiated::Http2) => &self.http2,
            None => &self.bytes,
        }
    }
}

impl Reach {
    fn next(before: Option<&Arc<Self>>, unit: &Arc<OutboundUnit>, live: Arc<LiveSet>) -> Arc<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let Some(before) = before else {
            return Arc::new(Self::new(unit, live, NEXT.fetch_add(1, Ordering::Relaxed)));
        };
        let same_unit = Arc::ptr_eq(&before.unit, unit);
        if same_unit && Arc::ptr_eq(&before.live, &live) {
            return before.clone();
        }
        let (old, new) = (&before.unit.cluster, &unit.cluster);
        if !same_unit && (old.accepted != new.accepted || old.tls != new.tls) {
            return Arc::new(Self::new(unit, live, NEXT.fetch_add(1, Ordering::Relaxed)));
        }
        let (accepted, edge) = (before.accepted.clone(), before.edge.clone());
        Arc::new(Self { unit: unit.clone(), live, failover: Vec::new(), accepted, accepted_number: before.accepted_number, edge })
    }

    fn new(unit: &Arc<OutboundUnit>, live: Arc<LiveSet>, accepted_number: u64) -> Self {
        let accepted = AcceptedIdentities::new(unit.cluster.accepted.iter().cloned());
        let edge = unit.cluster.tls.as_ref().map(EdgeClient::new);
        Self { unit: unit.clone(), live, failover: Vec::new(), accepted, accepted_number, edge }
    }

    /// The same with those that take over, as far as they are known.
    fn with_failover(self: &Arc<Self>, before: Option<&Arc<Self>>, alone: &Reaches) -> Arc<Self> {
        let named = &self.unit.cluster.traffic.failover;
        let failover: Vec<Arc<Self>> = named.iter().filter_map(|port| alone.get(port)).cloned().collect();
        if failover.is_empty() {
            return self.clone();
        }
        let same = |before: &&Arc<Self>| {
            let same_others =
                before.failover.len() == failover.len() && before.failover.iter().zip(&failover).all(|(old, new)| Arc::ptr_eq(old, new));
            same_others && Arc::ptr_eq(&before.unit, &self.unit) && Arc::ptr_eq(&before.live, &self.live)
        };
        before.filter(same).cloned().unwrap_or_else(|| {
            let (accepted, edge) = (self.accepted.clone(), self.edge.clone());
            let (unit, live, accepted_number) = (self.unit.clone(), self.live.clone(), self.accepted_number);
            Arc::new(Self { unit, live, failover, accepted, accepted_number, edge })
        })
    }

    /// The endpoint that takes a call, and the place of its service port among this one and those that take over: see [`Self::at`].
    ///
    /// # Errors
    /// [`NoPick`] where there is none.
    pub fn pick(&self, wanted: Wanted<'_>, now: Instant, random: impl FnMut() -> f64) -> Result<(usize, Active), NoPick> {
        if self.failover.is_empty() {
            return endpoints::pick(&[&*self.live], wanted, now, random);
        }
        endpoints::pick(&self.sets(), wanted, now, random)
    }

    /// This service port, at 0, or one of those that take over.
    #[must_use]
    pub fn at(&self, place: usize) -> &Self {
        place.checked_sub(1).and_then(|place| self.failover.get(place)).map_or(self, |other| &**other)
    }

    /// Whether every endpoint that a call could be given is among those `tried`.
    #[must_use]
    pub fn is_exhausted(&self, tried: &[u64]) -> bool {
        endpoints::is_exhausted(&self.sets(), tried)
    }

    /// All endpoints that a call could be given, as they stand.
    #[must_use]
    pub fn survey(&self, tried: &[u64], now: Instant) -> Vec<Surveyed> {
        survey(&self.sets(), tried, now)
    }

    /// Its own endpoints, then those that take over.
    fn sets(&self) -> SmallVec<[&LiveSet; 1]> {
        std::iter::once(&*self.live).chain(self.failover.iter().map(|other| &*other.live)).collect()
    }
}

impl View {
    /// The view of a worker that knows nothing yet.
    #[must_use]
    pub fn first(vantage: Vantage) -> Self {
        Self { vantage, ..Self::default() }
    }

    /// The view of `snapshot`, keeping what `before` knew.
    #[must_use]
    pub fn next(before: &Self, snapshot: Arc<Snapshot>, now: Instant) -> Self {
        let live = endpoints::update(&before.live, &snapshot.endpoints, &snapshot.outbound, &before.vantage, now);
        let reach = |(port, unit): (&ServicePort, &Arc<OutboundUnit>)| {
            let live = live.get(port).cloned().unwrap_or_default();
            (port.clone(), Reach::next(before.alone.get(port), unit, live))
        };
        let alone: Reaches = snapshot.outbound.iter().map(reach).collect();
        let whole = |(port, reach): (&ServicePort, &Arc<Reach>)| (port.clone(), reach.with_failover(before.reaches.get(port), &alone));
        let reaches = alone.iter().map(whole).collect();
        // Names change seldom, endpoints often: the index is made again only when a table did.
        let same = before.snapshot.names.len() == snapshot.names.len()
            && before.snapshot.names.values().zip(snapshot.names.values()).all(|(old, new)| Arc::ptr_eq(old, new));
        let addresses = if same { before.addresses.clone() } else { Arc::new(addresses(&snapshot)) };
        let servers = servers(&before.servers, &snapshot);
        #[cfg(feature = "http3")]
        let quic = quic(&before.quic, &snapshot);
        let telling = telling(&snapshot);
        Self {
            number: before.number + 1,
            snapshot,
            live,
            vantage: before.vantage.clone(),
            alone,
            reaches,
            addresses,
            servers,
            telling,
            #[cfg(feature = "http3")]
            quic,
        }
    }

    /// Whether callers may do the same by `other`: what is under way need not be judged again.
    #[must_use]
    pub fn authorizes_as(&self, other: &Self) -> bool {
        fn all(view: &View) -> impl Iterator<Item = &Arc<Authorization>> {
            let inbound = view.snapshot.inbound.iter().map(|inbound| &inbound.authorization);
            inbound.chain(view.snapshot.gateway.values().flat_map(|unit| unit.authorizations()))
        }
        // The trust domains whose callers are believed.
        fn trusted(view: &View) -> Option<impl Iterator<Item = &TrustDomain>> {
            view.snapshot.bundle.as_ref().map(|bundle| bundle.federated.keys())
        }
        let same_domains = match (trusted(self), trusted(other)) {
            (Some(own), Some(others)) => own.eq(others),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        same_domains && all(self).eq(all(other))
    }

    /// Whether rules of a gateway's port may look at what tokens say.
    #[must_use]
    pub fn looks_at_claims(&self, port: u16) -> bool {
        self.telling.contains(&port)
    }

    /// How TLS ends inside QUIC on a gateway's port.
    #[cfg(feature = "http3")]
    #[must_use]
    pub fn quic_config(&self, port: u16) -> Option<Result<&Arc<ServerConfig>, &str>> {
        self.quic.get(&port).map(|quic| quic.config.as_ref().map_err(String::as_str))
    }

    /// How TLS ends at a gateway's port for the chain of these server names.
    #[must_use]
    pub fn server_config(&self, port: u16, chain: &HostPattern) -> Option<Result<&Arc<ServerConfig>, &str>> {
        self.servers.get(&(port, chain.clone())).map(|server| server.config.as_ref().map_err(String::as_str))
    }

    /// The service that a virtual address means.
    #[must_use]
    pub fn service_at(&self, address: IpAddr) -> Option<&ServiceName> {
        self.addresses.get(&address)
    }

    /// How a service port is reached, where the control plane has sent its unit.
    #[must_use]
    pub fn reach(&self, port: &ServicePort) -> Option<&Arc<Reach>> {
        self.reaches.get(port)
    }

    /// The service that `host` names to an app of `namespace`: `recording`, `recording.contact` or `recording.contact.mesh`, known names only.
    #[must_use]
    pub fn lookup(&self, host: &str, namespace: &Namespace) -> Option<(&Namespace, &NameRecord)> {
        let host = host.strip_suffix('.').unwrap_or(host);
        let mut labels = host.split('.');
        let name = labels.next()?;
        let (namespace, suffix) = (labels.next().unwrap_or(namespace.as_str()), labels.next());
        if suffix.is_some_and(|suffix| suffix != SUFFIX) || labels.next().is_some() {
            return None;
        }
        let (namespace, table) = self.snapshot.names.iter().find(|(known, _)| known.as_str() == namespace)?;
        let at = table.records.binary_search_by(|record| record.name.as_str().cmp(name)).ok()?;
        Some((namespace, &table.records[at]))
    }
}

/// The gateway's ports some of whose rules may look at what tokens say.
fn telling(snapshot: &Snapshot) -> BTreeSet<u16> {
    let looks = |unit: &GatewayUnit| unit.hosts().flat_map(Hosts::all).any(|host| !host.rules.telling().is_empty());
    snapshot.gateway.iter().filter(|(_, unit)| looks(unit)).map(|(port, _)| *port).collect()
}

/// Sessions are resumed for as long as a configuration lives, so what did not change keeps its own.
fn servers(before: &BTreeMap<(u16, HostPattern), Server>, snapshot: &Snapshot) -> BTreeMap<(u16, HostPattern), Server> {
    let mut servers = BTreeMap::new();
    for (port, unit) in &snapshot.gateway {
        let Listening::Tls(chains) = &unit.listening else { continue };
        for chain in chains {
            let TlsAction::Terminate { tls, then } = &chain.action else { continue };
            let key = (*port, chain.server_name.clone());
            let made =
                before.get(&key).filter(|known| known.of == *tls && !tls.certificates.iter().any(|certificate| certificate.in_files));
            let server = made.cloned().unwrap_or_else(|| {
                let alpn: &[&[u8]] = match then {
                    Terminated::Http(_) => &[Negotiated::Http2.alpn(), Negotiated::Http1.alpn()],
                    Terminated::Tcp(_) => &[],
                };
                let config = edge::server_config(tls, alpn).map_err(|error| error.to_string());
                if let Err(error) = &config {
                    tracing::warn!(gateway = %unit.gateway, port, server_name = %chain.server_name, error, "a listener cannot end TLS");
                }
                Server { of: tls.clone(), config }
            });
            servers.insert(key, server);
        }
    }
    servers
}

/// The same for ports of which a chain serves HTTP/3.
#[cfg(feature = "http3")]
fn quic(before: &BTreeMap<u16, Quic>, snapshot: &Snapshot) -> BTreeMap<u16, Quic> {
    let mut made = BTreeMap::new();
    for (port, unit) in &snapshot.gateway {
        let Listening::Tls(chains) = &unit.listening else { continue };
        let shown = |chain: &TlsChain| match &chain.action {
            TlsAction::Terminate { tls, .. } if chain.http3 => Some(tls.certificates.clone()),
            _ => None,
        };
        let of: Vec<_> = chains.iter().map(|chain| (chain.server_name.clone(), shown(chain))).collect();
        if of.iter().all(|(_, shown)| shown.is_none()) {
            continue;
        }
        let in_files = of.iter().flat_map(|(_, shown)| shown.iter().flatten()).any(|certificate| certificate.in_files);
        let quic = before.get(port).filter(|known| known.of == of && !in_files).cloned().unwrap_or_else(|| {
            let config = edge::quic_server_config(of.iter().map(|(name, shown)| (name, shown.as_deref())));
            let config = config.map_err(|error| error.to_string());
            if let Err(error) = &config {
                tracing::warn!(gateway = %unit.gateway, port, error, "a listener cannot serve HTTP/3");
            }
            Quic { of, config }
        });
        made.insert(*port, quic);
    }
    made
}

fn addresses(snapshot: &Snapshot) -> HashMap<IpAddr, ServiceName> {
    let records = snapshot.names.values().flat_map(|table| table.records.iter().map(move |record| (&table.namespace, record)));
    let both = records.flat_map(|(namespace, record)| {
        let service = ServiceName::new(namespace.clone(), record.name.clone());
        [(IpAddr::V4(record.v4), service.clone()), (IpAddr::V6(record.v6), service)]
    });
    both.collect()
}

/// Turns snapshots into views until the client ends, and tells it which the worker runs. `running`: the number of the worker's view; 0 before
/// it has one.
pub async fn follow(client: Client, views: watch::Sender<Arc<View>>, mut running: watch::Receiver<u64>) {
    let mut snapshots = client.snapshot();
    loop {
        let published = client.published();
        let snapshot = snapshots.borrow_and_update().clone();
        let next = View::next(&views.borrow(), snapshot, Instant::now());
        views.send_replace(Arc::new(next));
        let is_started = *running.borrow() > 0;
        if is_started {
            let number = views.borrow().number;
            adopted(&mut running, number).await;
            client.confirm(published);
        }
        if snapshots.changed().await.is_err() {
            return;
        }
    }
}

/// Waits until a worker runs the view of this number, however long that takes: what was given up on would never be acknowledged, and the control
/// plane holds back what comes after it.
pub async fn adopted(running: &mut watch::Receiver<u64>, number: u64) {
    if running.wait_for(|newest| *newest >= number).await.is_err() {
        tracing::debug!("a worker ended before it ran the newest view");
    }
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use lorica_model::snapshot::{Cluster, Endpoint, EndpointSet, Protocol, RuleTable, Traffic, Transport};

    /// A unit that says nothing special.
    pub(crate) fn unit(port: &ServicePort) -> OutboundUnit {
        OutboundUnit {
            port: port.clone(),
            virtual_v4: [240, 0, 0, 1].into(),
            virtual_v6: "fd00::1".parse().unwrap(),
            protocol: Protocol::Http,
            rules: RuleTable::default(),
            http_only: true,
            faults: Vec::new(),
            cluster: Cluster {
                port: port.clone(),
                protocol: Protocol::Http,
                accepted: ["spiffe://mesh.local/ns/contact/sa/a".parse().unwrap()].into(),
                connect_timeout: std::time::Duration::from_secs(1),
                server: port.clone(),
                tls: None,
                traffic: Traffic::default(),
            },
        }
    }

    fn snapshot(units: &[(&str, &[&str], usize)]) -> Snapshot {
        let mut snapshot = Snapshot::default();
        for (name, failover, endpoints) in units {
            let port: ServicePort = name.parse().unwrap();
            let mut unit = unit(&port);
            unit.cluster.traffic.failover = failover.iter().map(|name| name.parse().unwrap()).collect();
            let endpoint = |index: usize| Endpoint {
                workload: format!("{}-{index}.contact", port.service.name).parse().unwrap(),
                address: ([127, 0, 0, 1], 1000 + u16::try_from(index).unwrap()).into(),
                transport: Transport::MutualTls,
                weight: 1,
                version: None,
                virtual_address: None,
                locality: lorica_model::snapshot::Locality::default(),
            };
            let set = EndpointSet { port: port.clone(), endpoints: (0..*endpoints).map(endpoint).collect() };
            snapshot.endpoints.insert(port.clone(), Arc::new(set));
            snapshot.outbound.insert(port, Arc::new(unit));
        }
        snapshot
    }

    const A: &str = "a.contact.mesh:80";
    const B: &str = "b.contact.mesh:80";

    #[test]
    fn each_of_two_services_takes_over_for_the_other() {
        let all = Arc::new(snapshot(&[(A, &[B], 0), (B, &[A, "gone.contact.mesh:80"], 1)]));
        let view = View::next(&View::default(), all.clone(), Instant::now());
        let (a, b) = (view.reach(&A.parse().unwrap()).unwrap(), view.reach(&B.parse().unwrap()).unwrap());
        let (place, active) = a.pick(Wanted::default(), Instant::now(), || 0.5).unwrap();
        let reach = a.at(place);
        assert_eq!((&reach.unit.port, reach.accepted_number), (&b.unit.port, b.accepted_number));
        assert_eq!(active.live.endpoint.workload.to_string(), "b-0.contact");
        assert_eq!(b.failover.len(), 1, "what is not known yet cannot take over");
        assert!(!a.is_exhausted(&[]) && a.is_exhausted(&[active.live.id]));
        // What did not change is the same as before.
        let next = View::next(&view, all, Instant::now());
        assert!([A, B].iter().all(|port| {
            let port = port.parse().unwrap();
            Arc::ptr_eq(view.reach(&port).unwrap(), next.reach(&port).unwrap())
        }));
        // Endpoints of the other are seen at once, and connections stay.
        let next = View::next(&next, Arc::new(snapshot(&[(A, &[B], 0), (B, &[A], 2)])), Instant::now());
        let again = next.reach(&A.parse().unwrap()).unwrap();
        assert_eq!((again.failover[0].live.len(), again.accepted_number), (2, a.accepted_number));
        assert_eq!(again.failover[0].accepted_number, b.accepted_number);
    }
}
