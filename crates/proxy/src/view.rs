//! What workers read: the snapshot with what this proxy knows beside it, replaced as a whole.
//!
//! In: snapshots from the control plane's client. Out: one `Arc<View>` a change. An exchange loads it once.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use lorica_identity::AcceptedIdentities;
use lorica_model::name::{Namespace, SUFFIX, ServiceName, ServicePort};
use lorica_model::snapshot::{NameRecord, OutboundUnit, Snapshot};
use tokio::sync::watch;

use crate::endpoints::{self, LiveSet, LiveSets};

/// The snapshot, the live endpoints, and which service each virtual address means.
#[derive(Debug, Default)]
pub struct View {
    /// Its number: a later view has a higher one. Connections tell by it whether what they remember still holds.
    pub number: u64,
    /// What the control plane sent.
    pub snapshot: Arc<Snapshot>,
    /// The endpoints and what is known of each.
    pub live: LiveSets,
    reaches: HashMap<ServicePort, Arc<Reach>, foldhash::fast::RandomState>,
    addresses: Arc<HashMap<IpAddr, ServiceName>>,
}

/// A service port as an exchange needs it: its unit and its endpoints, joined once a view and not once a request.
#[derive(Debug)]
pub struct Reach {
    /// What the control plane says of the service port.
    pub unit: Arc<OutboundUnit>,
    /// Its endpoints.
    pub live: Arc<LiveSet>,
    /// The identities that they may prove.
    pub accepted: AcceptedIdentities,
    /// A number that stands for `accepted` in pools: the same one for as long as these stay the same.
    pub accepted_number: u64,
}

impl Reach {
    fn next(before: Option<&Arc<Self>>, unit: &Arc<OutboundUnit>, live: Arc<LiveSet>) -> Arc<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let Some(before) = before else {
            let accepted = AcceptedIdentities::new(unit.cluster.accepted.iter().cloned());
            return Arc::new(Self { unit: unit.clone(), live, accepted, accepted_number: NEXT.fetch_add(1, Ordering::Relaxed) });
        };
        let same_unit = Arc::ptr_eq(&before.unit, unit);
        if same_unit && Arc::ptr_eq(&before.live, &live) {
            return before.clone();
        }
        let (accepted, accepted_number) = if same_unit || before.unit.cluster.accepted == unit.cluster.accepted {
            (before.accepted.clone(), before.accepted_number)
        } else {
            (AcceptedIdentities::new(unit.cluster.accepted.iter().cloned()), NEXT.fetch_add(1, Ordering::Relaxed))
        };
        Arc::new(Self { unit: unit.clone(), live, accepted, accepted_number })
    }
}

impl View {
    /// The view of `snapshot`, keeping what `before` knew.
    #[must_use]
    pub fn next(before: &Self, snapshot: Arc<Snapshot>, now: Instant) -> Self {
        let live = endpoints::update(&before.live, &snapshot.endpoints, now);
        let reach = |(port, unit): (&ServicePort, &Arc<OutboundUnit>)| {
            let live = live.get(port).cloned().unwrap_or_default();
            (port.clone(), Reach::next(before.reaches.get(port), unit, live))
        };
        let reaches = snapshot.outbound.iter().map(reach).collect();
        // Names change seldom, endpoints often: the index is made again only when a table did.
        let same = before.snapshot.names.len() == snapshot.names.len()
            && before.snapshot.names.values().zip(snapshot.names.values()).all(|(old, new)| Arc::ptr_eq(old, new));
        let addresses = if same { before.addresses.clone() } else { Arc::new(addresses(&snapshot)) };
        Self { number: before.number + 1, snapshot, live, reaches, addresses }
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

fn addresses(snapshot: &Snapshot) -> HashMap<IpAddr, ServiceName> {
    let records = snapshot.names.values().flat_map(|table| table.records.iter().map(move |record| (&table.namespace, record)));
    let both = records.flat_map(|(namespace, record)| {
        let service = ServiceName::new(namespace.clone(), record.name.clone());
        [(IpAddr::V4(record.v4), service.clone()), (IpAddr::V6(record.v6), service)]
    });
    both.collect()
}

/// Turns snapshots into views until the client ends.
pub async fn follow(mut snapshots: watch::Receiver<Arc<Snapshot>>, views: watch::Sender<Arc<View>>) {
    loop {
        let snapshot = snapshots.borrow_and_update().clone();
        let next = View::next(&views.borrow(), snapshot, Instant::now());
        views.send_replace(Arc::new(next));
        if snapshots.changed().await.is_err() {
            return;
        }
    }
}
