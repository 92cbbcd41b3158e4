//! Which tokens are asked for where: those of a service at its workloads, those of a gateway and its routes at the gateway.
//!
//! The narrower policy holds alone: a route may ask for other tokens than its gateway, a service for others than its namespace. Of two that are
//! equally narrow the older does.

use std::sync::Arc;

use crate::name::{GatewayName, ServiceName};
use crate::resource::{AuthenticationPolicy, AuthenticationTarget, Kind, Metadata, WrittenKeys, WrittenTokens};
use crate::snapshot::{Authentication, HttpRule, MtlsMode, Origin, TokenProvider};

use super::World;
use super::reference::Problem;
use super::rules::age;

/// The mode that holds for a service: its own policy's before its namespace's; strict without either. Where two policies hold
/// equally, the stricter does: nobody is let in by accident.
pub fn mtls(world: &World<'_>, service: &ServiceName) -> MtlsMode {
    let of = || world.resources.authentication().filter(|(metadata, _)| metadata.namespace == service.namespace);
    let own = of().filter(|(_, policy)| names_service(policy, service)).filter_map(|(_, policy)| policy.mtls).min();
    own.or_else(|| of().filter(|(_, policy)| policy.targets.is_empty()).filter_map(|(_, policy)| policy.mtls).min()).unwrap_or_default()
}

fn names_service(policy: &AuthenticationPolicy, service: &ServiceName) -> bool {
    policy.targets.iter().any(|target| target.kind == Kind::Service && target.object.name == service.name)
}

/// What is asked for in calls to a service.
pub(super) fn of_service(world: &World<'_>, service: &ServiceName) -> Option<Arc<Authentication>> {
    let in_namespace = |metadata: &Metadata| metadata.namespace == service.namespace;
    oldest(world, |metadata, policy| in_namespace(metadata) && names_service(policy, service))
        .or_else(|| oldest(world, |metadata, policy| in_namespace(metadata) && policy.targets.is_empty()))
}

/// Gives rules of a gateway what is asked for there.
pub(super) fn at_gateway(world: &World<'_>, gateway: &GatewayName, rules: &mut [HttpRule]) {
    if world.resources.authentication().all(|(_, policy)| policy.jwt.is_none()) {
        return;
    }
    let named = |target: &AuthenticationTarget| target.kind == Kind::Gateway && target.object.name == gateway.name;
    let of_gateway = oldest(world, |metadata, policy| metadata.namespace == gateway.namespace && policy.targets.iter().any(named));
    for rule in rules {
        let origin = &rule.origin;
        let named = |target: &AuthenticationTarget| target.kind.as_str() == origin.kind && target.object.name.as_str() == origin.name;
        let of_route =
            oldest(world, |metadata, policy| metadata.namespace.as_str() == origin.namespace && policy.targets.iter().any(named));
        rule.filters.authentication = of_route.or_else(|| of_gateway.clone());
    }
}

fn oldest(world: &World<'_>, means: impl Fn(&Metadata, &AuthenticationPolicy) -> bool) -> Option<Arc<Authentication>> {
    let asking = world.resources.authentication().filter_map(|(metadata, policy)| Some((metadata, policy, policy.jwt.as_ref()?)));
    let of_place = asking.filter(|(metadata, policy, _)| means(metadata, policy));
    let (metadata, policy, jwt) = of_place.min_by(|(one, ..), (other, ..)| age(one).cmp(&age(other)))?;
    Some(Arc::new(compiled(world, metadata, policy, jwt)))
}

fn compiled(world: &World<'_>, metadata: &Metadata, policy: &AuthenticationPolicy, jwt: &WrittenTokens) -> Authentication {
    let providers = jwt.providers.iter().map(|written| TokenProvider {
        name: written.name.clone(),
        issuer: written.issuer.clone(),
        audiences: written.audiences.clone(),
        keys: match &written.keys {
            WrittenKeys::Inline(keys) => Some(keys.as_str().into()),
            WrittenKeys::Url(source) => world.registry.key_sets.get(&source.url).and_then(|known| known.keys.clone()),
        },
        places: written.places.clone(),
        algorithms: written.algorithms.clone(),
        leeway: written.leeway,
        forward: written.forward,
        claim_headers: written.claim_headers.clone(),
    });
    Authentication {
        origin: Arc::new(Origin {
            kind: Kind::AuthenticationPolicy.to_string(),
            namespace: metadata.namespace.to_string(),
            name: metadata.name.to_string(),
            generation: metadata.generation,
            rule: 0,
            matched: 0,
        }),
        providers: providers.collect(),
        optional: jwt.optional,
        shadow: policy.shadow,
    }
}

/// What is wrong with the first target of a policy that is not there.
pub(super) fn unresolved(world: &World<'_>, metadata: &Metadata, policy: &AuthenticationPolicy) -> Option<Problem> {
    let missing = |target: &&AuthenticationTarget| world.resources.of(target.kind, &metadata.namespace, &target.object.name).is_none();
    let target = policy.targets.iter().find(missing)?;
    Some(Problem::new("TargetNotFound", format!("there is no {} {}.{}", target.kind, target.object.name, metadata.namespace)))
}

/// Which keys of a policy are not there, or are old because newer ones cannot be fetched.
pub(super) fn keys(world: &World<'_>, policy: &AuthenticationPolicy) -> Option<Problem> {
    let providers = policy.jwt.iter().flat_map(|jwt| &jwt.providers);
    let mut problems = providers.filter_map(|provider| {
        let WrittenKeys::Url(source) = &provider.keys else { return None };
        let known = world.registry.key_sets.get(&source.url).cloned().unwrap_or_default();
        let why = known.problem.map(|problem| format!(": {problem}")).unwrap_or_default();
        match known.keys {
            Some(_) if why.is_empty() => None,
            Some(_) => Some(Problem::new("KeysNotRenewed", format!("the keys of `{}` are those of before{why}", provider.name))),
            None => {
                let message = format!("there are no keys of `{}` yet, and its tokens are refused{why}", provider.name);
                Some(Problem::new("KeysPending", message))
            }
        }
    });
    problems.next()
}
