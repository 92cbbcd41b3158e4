//! What TrafficPolicies that are tried would say: of requests by rules of routes, and of the endpoints of service ports. A setting is here only
//! where the policy would decide on it, were it in force beside all that are.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::World;
use super::traffic::{About, ByRule, Listener, Policies, SaidBy, Shown, about};
use crate::name::{Namespace, ObjectName, ServicePort};
use crate::resource::{Kind, Metadata, Settings, Spec};
use crate::snapshot::{Action, AttemptTrial, Backend, HttpRule, Origin, TrafficTrial};

/// The settings that a policy decides on.
struct Decides<'p> {
    policy: (&'p Namespace, &'p ObjectName),
    settings: BTreeSet<&'static str>,
}

impl<'p> Decides<'p> {
    fn of(metadata: &'p Metadata) -> Self {
        Self { policy: (&metadata.namespace, &metadata.name), settings: BTreeSet::new() }
    }

    /// Whether it decides on any of these.
    fn any(&self, settings: &[&str]) -> bool {
        settings.iter().any(|setting| self.settings.contains(setting))
    }
}

impl Listener for Decides<'_> {
    fn chosen(&mut self, setting: &'static str, _: &dyn Shown, by: impl FnOnce() -> SaidBy) {
        if let SaidBy::Policy(namespace, name) = by()
            && (&namespace, &name) == self.policy
        {
            self.settings.insert(setting);
        }
    }
}

/// Gives rules what is tried for requests that they pass on. `called`: the service port whose calls are routed; none at gateways.
pub(super) fn of_requests(world: &World<'_>, called: Option<&ServicePort>, rules: &mut [HttpRule]) {
    if world.resources.traffic().all(|(_, policy)| !policy.shadow) {
        return;
    }
    for rule in rules {
        let Action::Forward(forward) = &mut rule.action else { continue };
        let origin = &rule.origin;
        let kind = Kind::ALL.iter().copied().find(|kind| kind.as_str() == origin.kind);
        let named = Namespace::new(&origin.namespace).ok().zip(ObjectName::new(&origin.name).ok());
        let route = kind.zip(named).and_then(|(kind, (namespace, name))| {
            let found = world.resources.of(kind, &namespace, &name)?;
            match &found.spec {
                Spec::HttpRoute(route) | Spec::GrpcRoute(route) => Some((kind, &found.metadata, route)),
                _ => None,
            }
        });
        let written = route.and_then(|(_, _, route)| route.rules.get(usize::try_from(origin.rule).ok()?));
        let by = route.map(|(kind, route, _)| ByRule { kind, route, rule: written.and_then(|rule| rule.name.as_deref()), called });
        let ports = forward.backends.iter().filter(|weighted| weighted.weight > 0).filter_map(|weighted| match &weighted.backend {
            Backend::Port(port) => Some(port),
            Backend::Missing { .. } => None,
        });
        for port in ports.collect::<BTreeSet<_>>() {
            let about = about(world, port, by);
            let trials = tried(&about).filter_map(|of| {
                let mut decides = Decides::of(of.metadata);
                let attempts = Policies::with(&about, of).attempts_told(written, &mut decides);
                let names = Settings::NAMES;
                let trial = AttemptTrial {
                    origin: Arc::new(self::origin(of.metadata)),
                    to: port.clone(),
                    request: attempts.timeouts.request.filter(|_| decides.any(&[names.request])),
                    backend_request: attempts.timeouts.backend_request.filter(|_| decides.any(&[names.per_try])),
                    retry: decides
                        .any(&[names.retry_attempts, names.retry_on, names.retry_codes, names.non_idempotent, names.retry_after])
                        .then_some(attempts.retry),
                };
                (trial.request.is_some() || trial.backend_request.is_some() || trial.retry.is_some()).then_some(trial)
            });
            forward.tried.extend(trials);
        }
    }
}

/// What is tried for the endpoints of a service port.
pub(super) fn of_endpoints(world: &World<'_>, port: &ServicePort) -> Vec<TrafficTrial> {
    let about = about(world, port, None);
    let trials = tried(&about).filter_map(|of| {
        let mut decides = Decides::of(of.metadata);
        let traffic = Policies::with(&about, of).traffic(&mut decides);
        let trial = TrafficTrial {
            origin: Arc::new(origin(of.metadata)),
            requests: traffic.limits.requests.filter(|_| decides.any(&[Settings::NAMES.requests])),
            ejection: traffic.ejection.filter(|_| decides.any(&Settings::EJECTION)),
        };
        (trial.requests.is_some() || trial.ejection.is_some()).then_some(trial)
    });
    trials.collect()
}

/// Those that are tried, the oldest first.
fn tried<'a, 'w>(about: &'a [About<'w>]) -> impl Iterator<Item = &'a About<'w>> {
    let mut tried: Vec<_> = about.iter().filter(|about| about.policy.shadow).collect();
    tried.sort_by(|one, other| super::rules::age(one.metadata).cmp(&super::rules::age(other.metadata)));
    tried.into_iter()
}

fn origin(metadata: &Metadata) -> Origin {
    Origin {
        kind: Kind::TrafficPolicy.to_string(),
        namespace: metadata.namespace.to_string(),
        name: metadata.name.to_string(),
        generation: metadata.generation,
        rule: 0,
        matched: 0,
    }
}
