//! Which tokens are asked for where: those of a service at its workloads, those of a gateway and its routes at the gateway.
//!
//! The narrower policy holds alone: a route may ask for other tokens than its gateway, a service for others than its namespace. Of two that are
//! equally narrow the older does. One that is tried stands beside them, and takes nobody's place.

use std::sync::Arc;

use crate::name::{GatewayName, ServiceName};
use crate::resource::{AuthenticationPolicy, AuthenticationTarget, Kind, Metadata, WrittenKeys, WrittenTokens};
use crate::snapshot::{Authentication, AuthenticationTrial, HttpRule, MtlsMode, Origin, TokenProvider};

use super::World;
use super::reference::Problem;
use super::rules::age;

/// The mode that holds for a service: its own policy's before its namespace's; strict without either. Where two policies hold
/// equally, the stricter does: nobody is let in by accident.
pub fn mtls(world: &World<'_>, service: &ServiceName) -> MtlsMode {
    let of = || world.resources.authentication().filter(|(metadata, policy)| !policy.shadow && metadata.namespace == service.namespace);
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
    let means_gateway = |metadata: &Metadata, policy: &AuthenticationPolicy| {
        let named = |target: &AuthenticationTarget| target.kind == Kind::Gateway && target.object.name == gateway.name;
        metadata.namespace == gateway.namespace && policy.targets.iter().any(named)
    };
    let of_gateway = oldest(world, means_gateway);
    for rule in rules {
        let origin = &rule.origin;
        let means_route = |metadata: &Metadata, policy: &AuthenticationPolicy| {
            let named = |target: &AuthenticationTarget| target.kind.as_str() == origin.kind && target.object.name.as_str() == origin.name;
            metadata.namespace.as_str() == origin.namespace && policy.targets.iter().any(named)
        };
        rule.filters.tried = tried(world, false, |metadata, policy| means_gateway(metadata, policy) || means_route(metadata, policy));
        rule.filters.authentication = oldest(world, means_route).or_else(|| of_gateway.clone());
    }
}

/// What policies that are tried ask for in calls to a service.
pub(super) fn tried_at_service(world: &World<'_>, service: &ServiceName) -> Vec<AuthenticationTrial> {
    tried(world, true, |metadata, policy| {
        metadata.namespace == service.namespace && (policy.targets.is_empty() || names_service(policy, service))
    })
}

/// The oldest first. `mutual_tls`: whether callers could prove who they are there.
fn tried(world: &World<'_>, mutual_tls: bool, means: impl Fn(&Metadata, &AuthenticationPolicy) -> bool) -> Vec<AuthenticationTrial> {
    let mut tried: Vec<_> =
        world.resources.authentication().filter(|(metadata, policy)| policy.shadow && means(metadata, policy)).collect();
    tried.sort_by(|(one, _), (other, _)| age(one).cmp(&age(other)));
    let one = |(metadata, policy): (&Metadata, &AuthenticationPolicy)| AuthenticationTrial {
        origin: Arc::new(origin(metadata)),
        tokens: policy.jwt.as_ref().map(|jwt| Arc::new(compiled(world, metadata, jwt))),
        mutual_tls: mutual_tls && policy.mtls == Some(MtlsMode::Strict),
    };
    tried.into_iter().map(one).filter(|trial| trial.mutual_tls || trial.tokens.is_some()).collect()
}

fn oldest(world: &World<'_>, means: impl Fn(&Metadata, &AuthenticationPolicy) -> bool) -> Option<Arc<Authentication>> {
    let asking = world.resources.authentication().filter(|(_, policy)| !policy.shadow);
    let asking = asking.filter_map(|(metadata, policy)| Some((metadata, policy, policy.jwt.as_ref()?)));
    let of_place = asking.filter(|(metadata, policy, _)| means(metadata, policy));
    let (metadata, _, jwt) = of_place.min_by(|(one, ..), (other, ..)| age(one).cmp(&age(other)))?;
    Some(Arc::new(compiled(world, metadata, jwt)))
}

fn compiled(world: &World<'_>, metadata: &Metadata, jwt: &WrittenTokens) -> Authentication {
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
    Authentication { origin: Arc::new(origin(metadata)), providers: providers.collect(), optional: jwt.optional }
}

fn origin(metadata: &Metadata) -> Origin {
    Origin {
        kind: Kind::AuthenticationPolicy.to_string(),
        namespace: metadata.namespace.to_string(),
        name: metadata.name.to_string(),
        generation: metadata.generation,
        rule: 0,
        matched: 0,
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
