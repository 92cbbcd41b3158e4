//! The whole snapshot of a proxy that no control plane feeds: the service ports it is to call and its own inbound, of one world.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{World, endpoints, gateway, inbound, outbound};
use crate::name::{GatewayName, Namespace, ServicePort, WorkloadName};
use crate::snapshot::{RateLimit, Snapshot};

/// What a proxy in `viewer` runs that calls `ports` and stands beside `workload`: their units, those of all service ports that
/// their rules lead to or that take over from them, and the workload's inbound. What does not exist is `absent`. Names and roots are no part of it: nobody
/// looks names up in such a proxy, and its roots lie beside its key.
#[must_use]
pub fn snapshot(
    world: &World<'_>,
    viewer: &Namespace,
    ports: &[ServicePort],
    workload: Option<&WorkloadName>,
    runs: Option<&GatewayName>,
) -> Snapshot {
    let mut snapshot = Snapshot { inbound: workload.and_then(|workload| inbound(world, workload)).map(Arc::new), ..Snapshot::default() };
    let mut ahead: Vec<ServicePort> = ports.to_vec();
    for unit in runs.map(|name| gateway(world, name)).unwrap_or_default() {
        ahead.extend(unit.leads_to().cloned());
        snapshot.gateway.insert(unit.port, Arc::new(unit));
    }
    let mut seen: BTreeSet<ServicePort> = BTreeSet::new();
    if let Some(inbound) = &snapshot.inbound {
        ahead.extend(inbound.limits.iter().filter_map(RateLimit::service).map(|service| service.port.clone()));
        ahead.extend(inbound.authorization.authorizers().map(|authorizer| authorizer.port.clone()));
    }
    while let Some(port) = ahead.pop() {
        if !seen.insert(port.clone()) {
            continue;
        }
        let (Some(unit), Some(endpoints)) = (outbound(world, viewer, &port), endpoints(world, &port)) else {
            snapshot.absent.insert(port);
            continue;
        };
        ahead.extend(unit.rules.iter().flat_map(|rule| rule.leads_to()).cloned());
        ahead.extend(unit.cluster.traffic.failover.iter().cloned());
        snapshot.endpoints.insert(port.clone(), Arc::new(endpoints));
        snapshot.outbound.insert(port, Arc::new(unit));
    }
    snapshot
}
