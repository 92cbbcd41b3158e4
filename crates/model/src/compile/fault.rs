//! Faults: which of them the calls of a service port, the requests of a gateway, and the questions of an app meet. World and viewer go in,
//! faults in the order in which they are met come out.

use std::sync::Arc;

use crate::name::{Label, Namespace, ServiceName};
use crate::resource::{FaultPolicy, Kind, Metadata};
use crate::snapshot::{Action, Backend, Fault, HttpRule, NameFault, Origin};

use super::World;
use super::rules::age;

/// A policy with what tells it apart.
type Policy<'w> = (&'w Metadata, &'w FaultPolicy);

/// Lets requests that `rules` pass on meet the faults of the service that is called (none at a gateway), of the rule's route, and of the
/// service that they go to.
pub(super) fn meet(world: &World<'_>, viewer: &Namespace, called: Option<&ServiceName>, rules: &mut [HttpRule]) {
    let policies = policies(world, viewer);
    if policies.is_empty() {
        return;
    }
    for rule in rules {
        let Action::Forward(forward) = &mut rule.action else { continue };
        let of_route = |(metadata, policy): &Policy<'_>| {
            metadata.namespace.as_str() == rule.origin.namespace && policy.is_about_route((&rule.origin.kind, &rule.origin.name))
        };
        let of_requests = policies.iter().filter(|(_, policy)| policy.has_faults());
        for policy in of_requests {
            if of_route(policy) || called.is_some_and(|service| is_about(policy, service)) {
                forward.faults.push(fault(policy));
                continue;
            }
            let ports = forward.backends.iter().filter_map(|weighted| match &weighted.backend {
                Backend::Port(port) if is_about(policy, &port.service) => Some(port),
                Backend::Port(_) | Backend::Missing { .. } => None,
            });
            let mut ports: Vec<_> = ports.cloned().collect();
            if ports.len() == forward.backends.len() {
                // All of them are meant, and so is the rule.
                forward.faults.extend(ports.first().map(|_| fault(policy)));
                continue;
            }
            ports.sort();
            ports.dedup();
            forward.faults.extend(ports.into_iter().map(|port| Fault { to: Some(port), ..fault(policy) }));
        }
    }
}

/// The faults that connections of a service meet whose bytes are not looked at.
pub(super) fn of_bytes(world: &World<'_>, viewer: &Namespace, service: &ServiceName) -> Vec<Fault> {
    let about = policies(world, viewer).into_iter().filter(|policy| is_about(policy, service));
    let faults = about.filter(|(_, policy)| policy.headers.is_empty()).map(|policy| Fault { abort: None, ..fault(&policy) });
    faults.filter(|fault| fault.delay.is_some() || fault.reset.is_some() || fault.bandwidth.is_some()).collect()
}

/// The faults that questions for names meet which an app of `account` asks.
pub(super) fn of_names(world: &World<'_>, namespace: &Namespace, account: &Label) -> Vec<NameFault> {
    let mut faults = Vec::new();
    for policy in policies(world, namespace) {
        let (metadata, FaultPolicy { ends, callers, dns, shadow, .. }) = policy;
        let Some((share, answer)) = *dns else { continue };
        if !callers.is_empty() && !callers.iter().any(|caller| caller.is(namespace.as_str(), account.as_str())) {
            continue;
        }
        let services = world.resources.services().filter_map(|(metadata, _)| metadata.service());
        let origin = Arc::new(origin(metadata));
        let made = |service| NameFault { origin: origin.clone(), ends: *ends, service, share, answer, shadow: *shadow };
        faults.extend(services.filter(|service| is_about(&policy, service)).map(made));
    }
    faults
}

/// The policies that may be about calls of a namespace's workloads, the oldest first.
fn policies<'w>(world: &World<'w>, viewer: &Namespace) -> Vec<Policy<'w>> {
    let concerns = |(_, policy): &Policy<'_>| {
        policy.callers.is_empty() || policy.callers.iter().any(|caller| caller.namespace.as_ref().is_none_or(|own| own == viewer))
    };
    let mut policies: Vec<Policy<'w>> = world.resources.faults().filter(concerns).collect();
    policies.sort_by(|(one, _), (other, _)| age(one).cmp(&age(other)));
    policies
}

fn is_about((metadata, policy): &Policy<'_>, service: &ServiceName) -> bool {
    metadata.namespace == service.namespace && policy.is_about(&service.name)
}

fn fault((metadata, policy): &Policy<'_>) -> Fault {
    let FaultPolicy { ends, headers, callers, delay, reset, abort, bandwidth, shadow, .. } = policy;
    Fault {
        origin: Arc::new(origin(metadata)),
        ends: *ends,
        to: None,
        headers: headers.clone(),
        callers: callers.clone(),
        delay: *delay,
        reset: *reset,
        abort: *abort,
        bandwidth: *bandwidth,
        shadow: *shadow,
    }
}

fn origin(metadata: &Metadata) -> Origin {
    Origin {
        kind: Kind::FaultPolicy.to_string(),
        namespace: metadata.namespace.to_string(),
        name: metadata.name.to_string(),
        generation: metadata.generation,
        rule: 0,
        matched: 0,
    }
}
