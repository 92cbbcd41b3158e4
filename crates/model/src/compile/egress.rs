//! What may leave the mesh: the policies that hold for a caller, merged, and those that lead through an egress gateway. One that is tried lets
//! nothing out and leads nowhere.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::name::{GatewayName, Label, Namespace, ServiceName, ServicePort, WorkloadName};
use crate::resource::{EgressAllow, EgressPolicy, EgressTarget, Kind, ListenerProtocol, Metadata, ObjectRef};
use crate::snapshot::{Backend, EgressCaller, EgressRule, EgressTrial, EgressUnit, Origin, Unlisted};

use super::listeners::{Bound, Frame};
use super::reference::Problem;
use super::rules::age;
use super::{World, fault};

/// A policy with what tells it apart.
type Policy<'w> = (&'w Metadata, &'w EgressPolicy);

/// What the app beside the proxy of a workload may call that runs as `account`.
#[must_use]
pub fn egress<'w>(world: &World<'w>, name: &WorkloadName, account: &Label) -> EgressUnit {
    let namespace = &name.namespace;
    // 2: of its service, 1: of its namespace, 0: of the mesh.
    let closeness = |(metadata, policy): &Policy<'w>| {
        about(world, metadata, policy)
            .into_iter()
            .filter(|(_, caller)| caller.is(namespace.as_str(), account.as_str()))
            .map(|(close, _)| close)
            .max()
    };
    let about: Vec<(u8, Policy<'w>)> =
        world.resources.egress().filter_map(|policy| closeness(&policy).map(|closeness| (closeness, policy))).collect();
    let (mut tried, holding): (Vec<_>, Vec<_>) = about.into_iter().partition(|(_, (_, policy))| policy.shadow);
    // The closest say what becomes of the rest; of equals, those that deny.
    let closest = holding.iter().map(|(closeness, _)| *closeness).max();
    let denying = holding.iter().filter(|(closeness, (_, policy))| Some(*closeness) == closest && policy.denies);
    let denying = denying.map(|(_, (metadata, _))| *metadata).min_by(|one, other| age(one).cmp(&age(other)));
    let listing = |(metadata, policy): Policy<'w>| {
        let mut rules = Vec::new();
        for (index, allow) in policy.allow.iter().enumerate() {
            let named = |caller: &EgressCaller| caller.is(namespace.as_str(), account.as_str());
            if allow.callers.is_empty() || allow.callers.iter().any(named) {
                let via = allow.via.as_ref().map(|gateway| led(world, metadata, gateway));
                rules.extend(made(metadata, index, allow, &[], via.as_ref()).map(|rule| (metadata, rule)));
            }
        }
        rules
    };
    let trial = |(closeness, policy): &(u8, Policy<'w>)| EgressTrial {
        origin: Arc::new(origin(policy.0, 0)),
        rules: ordered(listing(*policy)),
        // What is closer than all others says what becomes of the rest; of equals, whoever denies.
        denies: match closest {
            Some(closest) if closest > *closeness => denying.is_some(),
            Some(closest) if closest == *closeness => denying.is_some() || policy.1.denies,
            _ => policy.1.denies,
        },
    };
    tried.sort_by(|(_, (one, _)), (_, (other, _))| age(one).cmp(&age(other)));
    EgressUnit {
        workload: name.clone(),
        tried: tried.iter().map(trial).collect(),
        unlisted: denying.map_or(Unlisted::Allow, |metadata| Unlisted::Deny(Arc::new(origin(metadata, 0)))),
        rules: ordered(holding.into_iter().flat_map(|(_, policy)| listing(policy)).collect()),
        names: fault::of_names(world, namespace, account),
    }
}

/// What workloads may call through an egress gateway: what policies let through it, and nothing else.
pub(super) fn through(world: &World<'_>, gateway: &GatewayName) -> Vec<EgressRule> {
    let mut rules = Vec::new();
    for (metadata, policy) in world.resources.egress().filter(|(_, policy)| !policy.shadow) {
        let about: BTreeSet<EgressCaller> = about(world, metadata, policy).into_iter().map(|(_, caller)| caller).collect();
        for (index, allow) in policy.allow.iter().enumerate() {
            let leads_here = allow.via.as_ref().is_some_and(|via| {
                via.namespace == gateway.namespace && via.name == gateway.name && gateway_port(world, metadata, via).is_ok()
            });
            let callers: Vec<EgressCaller> = match allow.callers.as_slice() {
                [] => about.iter().cloned().collect(),
                named => named.iter().flat_map(|named| about.iter().filter_map(|about| both(named, about))).collect(),
            };
            if leads_here && !callers.is_empty() {
                rules.extend(made(metadata, index, allow, &callers, None).map(|rule| (metadata, rule)));
            }
        }
    }
    ordered(rules)
}

/// The egress gateway that a service port means. Nobody else has a port of this number under this name.
pub(super) fn gateway(world: &World<'_>, port: &ServicePort) -> Option<GatewayName> {
    let taken = |bound: &Bound<'_>| bound.refused.is_none() && bound.listener.protocol == ListenerProtocol::Egress;
    gateways(world).filter(|name| service(name) == port.service).find(|name| {
        let frame = Frame::of(world, name);
        frame.is_some_and(|frame| frame.listeners.iter().any(|bound| taken(bound) && bound.listener.port == port.port))
    })
}

/// The ports of all egress gateways.
pub fn egress_ports<'w>(world: &'w World<'w>) -> impl Iterator<Item = ServicePort> + use<'w> {
    gateways(world).filter_map(|name| Frame::of(world, &name).map(|frame| (name, frame))).flat_map(|(name, frame)| {
        let taken = frame.listeners.iter().filter(|bound| bound.refused.is_none() && bound.listener.protocol == ListenerProtocol::Egress);
        let service = service(&name);
        taken.map(|bound| ServicePort { service: service.clone(), port: bound.listener.port }).collect::<Vec<_>>()
    })
}

fn gateways(world: &World<'_>) -> impl Iterator<Item = GatewayName> {
    let of_kind = world.resources.of_kind(Kind::Gateway);
    of_kind.map(|resource| GatewayName::new(resource.metadata.namespace.clone(), resource.metadata.name.clone()))
}

/// Under which name its ports are told.
fn service(gateway: &GatewayName) -> ServiceName {
    ServiceName::new(gateway.namespace.clone(), gateway.account())
}

/// Who is meant: identities, and how closely each is meant.
fn about(world: &World<'_>, metadata: &Metadata, policy: &EgressPolicy) -> Vec<(u8, EgressCaller)> {
    let own = || EgressCaller { namespace: Some(metadata.namespace.clone()), account: None };
    if policy.targets.is_empty() {
        return vec![(1, own())];
    }
    let mut about = Vec::new();
    for target in &policy.targets {
        match target {
            EgressTarget::Mesh => about.push((0, EgressCaller { namespace: None, account: None })),
            EgressTarget::Service { name, .. } => {
                let accounts = accounts(world, &metadata.namespace, name);
                about.extend(accounts.into_iter().map(|account| (2, EgressCaller { account: Some(account), ..own() })));
            }
        }
    }
    about
}

/// The accounts of a service's workloads.
fn accounts(world: &World<'_>, namespace: &Namespace, name: &Label) -> BTreeSet<Label> {
    let service = ServiceName::new(namespace.clone(), name.clone());
    let of = world.resources.service(&service).and_then(|(_, spec)| spec.subset.as_ref()).map_or(&service, |subset| &subset.of);
    let declared = world.resources.service(of).map(|(_, spec)| spec.accounts.as_slice()).unwrap_or_default();
    world.accounts(of, declared)
}

/// Whom two callers both mean.
fn both(one: &EgressCaller, other: &EgressCaller) -> Option<EgressCaller> {
    fn part<T: Clone + PartialEq>(one: &Option<T>, other: &Option<T>) -> Option<Option<T>> {
        match (one, other) {
            (Some(one), Some(other)) => (one == other).then(|| Some(one.clone())),
            (one, other) => Some(one.clone().or_else(|| other.clone())),
        }
    }
    Some(EgressCaller { namespace: part(&one.namespace, &other.namespace)?, account: part(&one.account, &other.account)? })
}

/// One rule a host.
fn made<'a>(
    metadata: &'a Metadata,
    index: usize,
    allow: &'a EgressAllow,
    callers: &'a [EgressCaller],
    via: Option<&'a Backend>,
) -> impl Iterator<Item = EgressRule> + use<'a> {
    let origin = Arc::new(origin(metadata, index));
    allow.hosts.iter().map(move |host| EgressRule {
        origin: origin.clone(),
        host: host.clone(),
        ports: allow.ports.clone(),
        callers: callers.to_vec(),
        via: via.cloned(),
    })
}

fn origin(metadata: &Metadata, index: usize) -> Origin {
    Origin {
        kind: Kind::EgressPolicy.to_string(),
        namespace: metadata.namespace.to_string(),
        name: metadata.name.to_string(),
        generation: metadata.generation,
        rule: u32::try_from(index).unwrap_or(u32::MAX),
        matched: 0,
    }
}

/// In the order in which they are tried; of equals the oldest policy's come first.
fn ordered(mut rules: Vec<(&Metadata, EgressRule)>) -> Vec<EgressRule> {
    rules.sort_by(|(one, rule), (other, known)| (rule.place(), age(one)).cmp(&(known.place(), age(other))));
    rules.into_iter().map(|(_, rule)| rule).collect()
}

/// Where a rule leads that names an egress gateway; nowhere where there is none, as a call that must pass one may not go around it.
fn led(world: &World<'_>, metadata: &Metadata, gateway: &ObjectRef) -> Backend {
    match gateway_port(world, metadata, gateway) {
        Ok(port) => Backend::Port(port),
        Err(_) => Backend::Missing { name: format!("{}.{}", gateway.name, gateway.namespace) },
    }
}

/// The port of an egress gateway, for policies of a namespace.
fn gateway_port(world: &World<'_>, metadata: &Metadata, gateway: &ObjectRef) -> Result<ServicePort, Problem> {
    let name = GatewayName::new(gateway.namespace.clone(), gateway.name.clone());
    let missing = |what: String| Problem::new("GatewayNotFound", what);
    let frame = Frame::of(world, &name).ok_or_else(|| missing(format!("there is no Gateway {name} of ours")))?;
    let mut taken = frame.listeners.iter().filter(|bound| bound.refused.is_none() && bound.listener.protocol == ListenerProtocol::Egress);
    let Some(bound) = taken.next() else {
        let protocol = crate::resource::EGRESS_PROTOCOL;
        return Err(missing(format!("the Gateway {name} has no listener of the protocol {protocol}")));
    };
    let labels = world.resources.namespace_labels(&metadata.namespace);
    if !bound.listener.allowed.namespaces.allows(&bound.owner.1.namespace, &metadata.namespace, labels) {
        let why = format!("the listener {} of {name} takes nothing from the namespace {}", bound.listener.name, metadata.namespace);
        return Err(Problem::new("NotAllowedByListeners", why));
    }
    Ok(ServicePort { service: service(&name), port: bound.listener.port })
}

/// What is wrong with the first reference of a policy that leads nowhere.
pub(super) fn unresolved(world: &World<'_>, metadata: &Metadata, policy: &EgressPolicy) -> Option<Problem> {
    let missing = policy.targets.iter().find_map(|target| match target {
        EgressTarget::Service { name, .. } => {
            let service = ServiceName::new(metadata.namespace.clone(), name.clone());
            world.resources.service(&service).is_none().then(|| Problem::new("TargetNotFound", format!("there is no service {service}")))
        }
        EgressTarget::Mesh => None,
    });
    missing.or_else(|| policy.allow.iter().filter_map(|allow| allow.via.as_ref()).find_map(|via| gateway_port(world, metadata, via).err()))
}
