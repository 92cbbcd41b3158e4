//! Which limits hold where: those of a service at its workloads, those of a gateway and its routes at the gateway.

use std::sync::Arc;

use crate::name::{GatewayName, ServiceName};
use crate::resource::{Kind, Metadata, RateLimitPolicy, RateLimitTarget, WrittenCounted};
use crate::snapshot::{Counted, HttpRule, LimitService, Origin, Quota, RateLimit};

use super::World;
use super::reference::Problem;
use super::rules::age;

/// The limits that hold for calls to a service, the oldest policy's first.
pub(super) fn of_service(world: &World<'_>, service: &ServiceName) -> Vec<RateLimit> {
    let means = |metadata: &Metadata, policy: &RateLimitPolicy| {
        let named = |target: &RateLimitTarget| target.kind == Kind::Service && target.object.name == service.name;
        metadata.namespace == service.namespace && (policy.targets.is_empty() || policy.targets.iter().any(named))
    };
    limits(world, means)
}

/// Gives rules of a gateway the limits that hold for them: the gateway's own, then those of their routes.
pub(super) fn at_gateway(world: &World<'_>, gateway: &GatewayName, rules: &mut [HttpRule]) {
    if world.resources.rate_limits().next().is_none() {
        return;
    }
    let named = |target: &RateLimitTarget| target.kind == Kind::Gateway && target.object.name == gateway.name;
    let of_gateway = limits(world, |metadata, policy| metadata.namespace == gateway.namespace && policy.targets.iter().any(named));
    for rule in rules {
        let origin = &rule.origin;
        let named = |target: &RateLimitTarget| target.kind.as_str() == origin.kind && target.object.name.as_str() == origin.name;
        let of_route =
            limits(world, |metadata, policy| metadata.namespace.as_str() == origin.namespace && policy.targets.iter().any(named));
        rule.filters.limits = of_gateway.clone();
        // A policy may name the gateway and the route: a request counts once.
        rule.filters.limits.extend(of_route.into_iter().filter(|limit| !of_gateway.iter().any(|known| known.id == limit.id)));
    }
}

/// The bucket of a global limit, by its id: `POLICY.NAMESPACE/LIMIT`. With whether it only counts, and its policy's words for callers.
#[must_use]
pub fn global_limit(world: &World<'_>, id: &str) -> Option<(RateLimit, Quota)> {
    let (policy, _) = id.rsplit_once('/')?;
    let (name, namespace) = policy.rsplit_once('.')?;
    let means = |metadata: &Metadata, _: &RateLimitPolicy| metadata.name.as_str() == name && metadata.namespace.as_str() == namespace;
    let found = limits(world, means).into_iter().find(|limit| &*limit.id == id)?;
    match found.counted {
        Counted::Global { quota, .. } => Some((found, quota)),
        _ => None,
    }
}

fn limits(world: &World<'_>, means: impl Fn(&Metadata, &RateLimitPolicy) -> bool) -> Vec<RateLimit> {
    let mut policies: Vec<_> = world.resources.rate_limits().filter(|(metadata, policy)| means(metadata, policy)).collect();
    policies.sort_by(|(one, _), (other, _)| age(one).cmp(&age(other)));
    policies.into_iter().flat_map(|(metadata, policy)| compiled(metadata, policy)).collect()
}

fn compiled<'w>(metadata: &'w Metadata, policy: &'w RateLimitPolicy) -> impl Iterator<Item = RateLimit> + use<'w> {
    policy.limits.iter().enumerate().filter_map(|(index, written)| {
        let counted = match written.counted {
            WrittenCounted::Local(quota) => Counted::Local(quota),
            WrittenCounted::Global(quota, unavailable) => Counted::Global { quota, unavailable },
            WrittenCounted::Concurrent(most) => Counted::Concurrent(most),
            WrittenCounted::Service => {
                let service = policy.service.as_ref()?;
                Counted::Service(LimitService {
                    port: service.port.clone(),
                    domain: service.domain.clone(),
                    timeout: service.timeout,
                    fail_open: service.fail_open,
                })
            }
        };
        Some(RateLimit {
            origin: Arc::new(Origin {
                kind: Kind::RateLimitPolicy.to_string(),
                namespace: metadata.namespace.to_string(),
                name: metadata.name.to_string(),
                generation: metadata.generation,
                rule: u32::try_from(index).unwrap_or(u32::MAX),
                matched: 0,
            }),
            id: format!("{}.{}/{}", metadata.name, metadata.namespace, written.name).into(),
            counted,
            key: written.key.clone(),
            matches: written.matches.clone(),
            shadow: policy.shadow || written.shadow,
        })
    })
}

/// What is wrong with the first reference of a policy that leads nowhere.
pub(super) fn unresolved(world: &World<'_>, metadata: &Metadata, policy: &RateLimitPolicy) -> Option<Problem> {
    let missing = |target: &RateLimitTarget| world.resources.of(target.kind, &metadata.namespace, &target.object.name).is_none();
    if let Some(target) = policy.targets.iter().find(|target| missing(target)) {
        let message = format!("there is no {} {}.{}", target.kind, target.object.name, metadata.namespace);
        return Some(Problem::new("TargetNotFound", message));
    }
    let service = policy.service.as_ref()?;
    world.port(&service.port).is_none().then(|| Problem::new("BackendNotFound", format!("there is no service port {}", service.port)))
}
