//! What policies say of telemetry at a proxy. One that names the service or gateway is heard before one for the whole namespace, of two alike
//! the older; each for what it says, so that one may speak of traces and another of the log.

use std::sync::Arc;

use crate::name::{GatewayName, Namespace, ServiceName};
use crate::resource::{Metadata, TelemetryPolicy, TelemetryTarget};
use crate::snapshot::Telemetry;

use super::World;
use super::reference::Problem;
use super::rules::age;

/// What the proxy beside a workload tells.
pub(super) fn of_workload(world: &World<'_>, namespace: &Namespace, service: Option<&ServiceName>) -> Option<Arc<Telemetry>> {
    // A workload may be an instance of a service of another namespace, whose word it is then.
    let namespace = service.map_or(namespace, |service| &service.namespace);
    told(world, namespace, |policy| service.is_some_and(|service| policy.names_service(service)))
}

/// What the proxies of a gateway tell.
pub(super) fn of_gateway(world: &World<'_>, gateway: &GatewayName) -> Option<Arc<Telemetry>> {
    told(world, &gateway.namespace, |policy| policy.names_gateway(gateway))
}

fn told(world: &World<'_>, namespace: &Namespace, names: impl Fn(&TelemetryPolicy) -> bool) -> Option<Arc<Telemetry>> {
    let heard = |(metadata, policy): &(&Metadata, &TelemetryPolicy)| {
        metadata.namespace == *namespace && (policy.targets.is_empty() || names(policy))
    };
    let mut policies: Vec<(&Metadata, &TelemetryPolicy)> = world.resources.telemetry().filter(heard).collect();
    policies.sort_by(|(one, of_one), (other, of_other)| {
        of_one.targets.is_empty().cmp(&of_other.targets.is_empty()).then_with(|| age(one).cmp(&age(other)))
    });
    let telemetry = Telemetry {
        tracing: policies.iter().find_map(|(_, policy)| policy.tracing.as_ref()).map(|written| written.tracing),
        access_log: policies.iter().find_map(|(_, policy)| policy.access_log.as_ref()).map(|written| written.log.clone()),
    };
    Some(telemetry).filter(|telemetry| !telemetry.is_empty()).map(Arc::new)
}

/// What is wrong with the first target of a policy that is not there.
pub(super) fn unresolved(world: &World<'_>, metadata: &Metadata, policy: &TelemetryPolicy) -> Option<Problem> {
    let missing = |target: &&TelemetryTarget| world.resources.of(target.kind, &metadata.namespace, &target.object.name).is_none();
    let target = policy.targets.iter().find(missing)?;
    Some(Problem::new("TargetNotFound", format!("there is no {} {}.{}", target.kind, target.object.name, metadata.namespace)))
}
