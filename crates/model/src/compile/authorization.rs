//! Who may do what where: the policies of a service hold at its workloads, those of a gateway and its routes at the gateway.

use std::sync::Arc;

use crate::name::{GatewayName, Namespace, ServiceName};
use crate::resource::{
    AuthorizationPolicy, AuthorizationTarget, IdentityOf, Kind, Metadata, WrittenAccessRule, WrittenIdentity, WrittenSource,
};
use crate::snapshot::{AccessPolicy, AccessRule, Among, Authorization, HttpRule, IdentityPattern, Origin, Source};
use crate::spiffe::SpiffeId;

use super::World;
use super::reference::Problem;
use super::rules::age;

/// The policies that hold for calls to a service, the oldest first.
#[must_use]
pub fn of_service(world: &World<'_>, service: &ServiceName) -> Authorization {
    policies(world, |metadata, policy| {
        let named = |target: &AuthorizationTarget| target.kind == Kind::Service && target.object.name == service.name;
        metadata.namespace == service.namespace && (policy.targets.is_empty() || policy.targets.iter().any(named))
    })
}

/// Gives rules of a gateway the policies that hold for them: the gateway's own, and those of their routes.
pub(super) fn at_gateway(world: &World<'_>, gateway: &GatewayName, port: u16, rules: &mut [HttpRule]) {
    if world.resources.authorization().next().is_none() {
        return;
    }
    for rule in rules {
        rule.filters.authorization = of_route(world, gateway, port, &rule.origin);
    }
}

/// The policies that hold at a port of a gateway for what a route takes: the gateway's own, and the route's.
pub(super) fn of_route(world: &World<'_>, gateway: &GatewayName, port: u16, route: &Origin) -> Option<Arc<Authorization>> {
    let found = policies(world, |metadata, policy| {
        policy.targets.iter().any(|target| match target.kind {
            Kind::Service => false,
            Kind::Gateway => metadata.namespace == gateway.namespace && target.object.name == gateway.name,
            kind => {
                kind.as_str() == route.kind && target.object.name.as_str() == route.name && metadata.namespace.as_str() == route.namespace
            }
        })
    });
    Some(found.at(port)).filter(|found| !found.is_empty()).map(Arc::new)
}

fn policies(world: &World<'_>, means: impl Fn(&Metadata, &AuthorizationPolicy) -> bool) -> Authorization {
    let mut found: Vec<_> = world.resources.authorization().filter(|(metadata, policy)| means(metadata, policy)).collect();
    found.sort_by(|(one, _), (other, _)| age(one).cmp(&age(other)));
    Authorization { policies: found.into_iter().map(|(metadata, policy)| compiled(world, metadata, policy)).collect() }
}

fn compiled(world: &World<'_>, metadata: &Metadata, policy: &AuthorizationPolicy) -> AccessPolicy {
    AccessPolicy {
        origin: Arc::new(Origin {
            kind: Kind::AuthorizationPolicy.to_string(),
            namespace: metadata.namespace.to_string(),
            name: metadata.name.to_string(),
            generation: metadata.generation,
            rule: 0,
            matched: 0,
        }),
        action: policy.action,
        shadow: policy.shadow,
        rules: policy.rules.iter().enumerate().map(|(index, rule)| self::rule(world, index, rule)).collect(),
    }
}

fn rule(world: &World<'_>, index: usize, written: &WrittenAccessRule) -> AccessRule {
    AccessRule {
        name: written.name.as_ref().map_or_else(|| index.to_string(), ToString::to_string),
        from: written.from.iter().map(|source| self::source(world, source)).collect(),
        to: written.to.iter().map(|written| written.operation.clone()).collect(),
        when: written.when.as_ref().map(|when| when.expression.clone()),
    }
}

fn source(world: &World<'_>, written: &WrittenSource) -> Source {
    let identities = |list: &[WrittenIdentity]| list.iter().map(|written| identity(world, &written.of)).collect();
    let namespaces = |list: &[Namespace]| {
        list.iter().map(|namespace| IdentityPattern::Namespace(world.trust_domain.clone(), namespace.clone())).collect()
    };
    Source {
        identities: Among { any: identities(&written.identities.any), none: identities(&written.identities.none) },
        namespaces: Among { any: namespaces(&written.namespaces.any), none: namespaces(&written.namespaces.none) },
        addresses: written.addresses.clone(),
        claims: written.claims.clone(),
        not_claims: written.not_claims.clone(),
    }
}

fn identity(world: &World<'_>, written: &IdentityOf) -> IdentityPattern {
    match written {
        IdentityOf::Account(namespace, account) => IdentityPattern::Exact(SpiffeId::of_account(world.trust_domain, namespace, account)),
        IdentityOf::Namespace(namespace) => IdentityPattern::Namespace(world.trust_domain.clone(), namespace.clone()),
        IdentityOf::Id(id) => IdentityPattern::Exact(id.clone()),
        IdentityOf::TrustDomain(domain) => IdentityPattern::TrustDomain(domain.clone()),
        IdentityOf::Any => IdentityPattern::Any,
    }
}

/// What is wrong with the first target of a policy that is not there.
pub(super) fn unresolved(world: &World<'_>, metadata: &Metadata, policy: &AuthorizationPolicy) -> Option<Problem> {
    let missing = |target: &&AuthorizationTarget| world.resources.of(target.kind, &metadata.namespace, &target.object.name).is_none();
    let target = policy.targets.iter().find(missing)?;
    Some(Problem::new("TargetNotFound", format!("there is no {} {}.{}", target.kind, target.object.name, metadata.namespace)))
}
