//! What a TrafficPolicy says in the world that it comes to.

use std::collections::BTreeSet;

use super::Checked;
use crate::name::ServiceName;
use crate::resource::kinds::{About, HttpRoute, Set, Settings, Spec, TrafficPolicy, TrafficTarget};
use crate::resource::{Kind, Metadata, nearest};
use crate::snapshot::{Algorithm, Protocol};

impl Checked<'_> {
    pub(super) fn traffic(&mut self, metadata: &Metadata, policy: &TrafficPolicy) {
        if policy.settings.written().next().is_none() {
            let span = self.document.name_span.clone();
            self.warn(&span, format!("TrafficPolicy {} says nothing", metadata.name), "write `timeouts`, `retries`, `balancing`, …");
        }
        if policy.shadow && policy.settings.written().any(|(setting, _, _)| Settings::is_judged(setting)) {
            for (setting, span, _) in policy.settings.written().filter(|(setting, _, _)| !Settings::is_judged(setting)) {
                let message = format!("what `{setting}` would change cannot be told without doing it: it is not tried");
                self.warn(span, message, "leave it out until the policy comes into force");
            }
        }
        for target in &policy.targets {
            if target.object.is_service() {
                self.of_service(target, &policy.settings);
            } else {
                self.of_route(target, &policy.settings);
            }
        }
        if !policy.shadow {
            self.said_elsewhere(metadata, policy);
        }
        for failover in policy.settings.failover.iter().flat_map(|set| &set.value) {
            let port = &failover.value;
            if let Some(ports) = self.service(&port.service, &failover.span) {
                self.port(&port.service, &ports, port.port, &failover.span);
            }
            if policy.targets.iter().any(|target| target.object.service().as_ref() == Some(&port.service)) {
                let found = self.wrong(&failover.span, format!("`{}` cannot take over from itself", port.service));
                self.found.push(found.hint("name another service"));
            }
        }
    }

    fn of_service(&mut self, target: &TrafficTarget, settings: &Settings) {
        let Some(service) = target.object.service() else { return };
        let Some(ports) = self.service(&service, &target.object.span) else { return };
        if let Some(section) = &target.section {
            let names: Vec<String> = self.port_names(&service);
            if !names.contains(section) {
                let hint = nearest(section, names.iter().map(String::as_str)).map(|near| format!("did you mean `{near}`?"));
                self.missing(&target.object.span, format!("the service `{service}` has no port named `{section}`"), hint);
            }
        }
        if !ports.is_empty() && ports.iter().all(|(_, protocol)| *protocol == Protocol::Tcp) {
            for (path, span, _) in settings.written().filter(|(_, _, about)| *about == About::Request) {
                // A connection has a source address, and nothing else of a request.
                if path == Settings::NAMES.hash {
                    continue;
                }
                let found = self.wrong(span, format!("`{service}` is declared as tcp: it has no requests, so `{path}` would do nothing"));
                self.found.push(found.hint("declare the port as http, or leave this out"));
            }
        }
        self.hashed(&service, settings);
    }

    fn port_names(&self, service: &ServiceName) -> Vec<String> {
        let Some((_, found)) = self.after.service(service) else { return Vec::new() };
        let of = found.subset.as_ref().and_then(|subset| self.after.service(&subset.of)).map_or(found, |(_, base)| base);
        of.ports.iter().filter_map(|port| port.name.as_ref().map(ToString::to_string)).collect()
    }

    /// The algorithm and what it is to hash may stand in two policies.
    fn hashed(&mut self, service: &ServiceName, settings: &Settings) {
        let algorithm = self.in_force(service, settings, |settings| &settings.algorithm).unwrap_or_default();
        let hash = self.in_force(service, settings, |settings| &settings.hash).unwrap_or_default();
        match (&settings.algorithm, &settings.hash) {
            (Some(set), _) if set.value.by_hash() && hash.is_empty() => {
                let word = if matches!(set.value, Algorithm::Maglev { .. }) { "Maglev" } else { "RingHash" };
                let message = format!("nothing says what `{word}` is to hash: any endpoint takes any request");
                self.warn(&set.span.clone(), message, "write `hashOn: [{header: x-user}]`");
            }
            (None, Some(set)) if !algorithm.by_hash() && !set.value.is_empty() => {
                let message = format!("nothing is hashed for `{service}`: its algorithm is {algorithm:?}");
                self.warn(&set.span.clone(), message, "write `algorithm: Maglev` or `RingHash` beside it");
            }
            _ => {}
        }
    }

    /// What holds for a service where `settings` are those of its own policy: they go first, then other policies of it, then its namespace's.
    fn in_force<T: Clone>(&self, service: &ServiceName, settings: &Settings, of: impl Fn(&Settings) -> &Option<Set<T>>) -> Option<T> {
        if let Some(set) = of(settings) {
            return Some(set.value.clone());
        }
        let policies = || self.after.traffic().filter(|(metadata, policy)| !policy.shadow && metadata.namespace == service.namespace);
        let own = policies().filter(|(_, policy)| policy.targets.iter().any(|target| target.object.service().as_ref() == Some(service)));
        let whole = policies().filter(|(_, policy)| policy.targets.is_empty());
        own.chain(whole).find_map(|(_, policy)| of(&policy.settings).as_ref().map(|set| set.value.clone()))
    }

    fn of_route(&mut self, target: &TrafficTarget, settings: &Settings) {
        let object = &target.object;
        for (path, span, _) in settings.written().filter(|(_, _, about)| *about == About::Endpoints) {
            let message = format!("`{path}` is about the endpoints of a service, which its routes share");
            let found = self.wrong(span, message);
            self.found.push(found.hint("let the policy target the Service, or leave this out"));
        }
        let kind = if object.kind == Kind::GrpcRoute.as_str() { Kind::GrpcRoute } else { Kind::HttpRoute };
        let route = self.after.of(kind, &object.namespace, &object.name);
        let Some(Spec::HttpRoute(route) | Spec::GrpcRoute(route)) = route.map(|found| &found.spec) else {
            let known: Vec<&str> = self
                .after
                .of_kind(kind)
                .filter(|found| found.metadata.namespace == object.namespace)
                .map(|found| found.metadata.name.as_str())
                .collect();
            let hint = nearest(object.name.as_str(), known.iter().copied()).map(|near| format!("did you mean `{near}`?"));
            self.missing(&object.span, format!("there is no {kind} `{}.{}`", object.name, object.namespace), hint);
            return;
        };
        if let Some(section) = &target.section {
            let names: Vec<&str> = rule_names(route);
            if !names.contains(&section.as_str()) {
                let hint = nearest(section, names.iter().copied()).map(|near| format!("did you mean `{near}`?"));
                let message = format!("no rule of the {kind} `{}` is named `{section}`", object.name);
                self.missing(&object.span, message, hint);
            }
        }
    }

    /// Two policies that say one thing of one target: which of them holds would be a riddle.
    fn said_elsewhere(&mut self, metadata: &Metadata, policy: &TrafficPolicy) {
        let mut told = BTreeSet::new();
        for (other_metadata, other) in self.after.traffic() {
            if other.shadow || other_metadata.namespace != metadata.namespace || other_metadata.name == metadata.name {
                continue;
            }
            let same = |target: &TrafficTarget| {
                other.targets.iter().any(|known| {
                    (&known.object.kind, &known.object.name, &known.section) == (&target.object.kind, &target.object.name, &target.section)
                })
            };
            let both_whole = policy.targets.is_empty() && other.targets.is_empty();
            let meets = both_whole || policy.targets.iter().any(same);
            if !meets {
                continue;
            }
            for (path, span, _) in policy.settings.written() {
                // Whoever writes of ejection says by that that it is on; both may.
                let same_mode = (path == Settings::NAMES.ejection && value(&policy.settings.ejection) == value(&other.settings.ejection))
                    || (path == Settings::NAMES.adaptive && value(&policy.settings.adaptive) == value(&other.settings.adaptive));
                if same_mode {
                    continue;
                }
                if other.settings.written().any(|(known, _, _)| known == path) && told.insert(path) {
                    let message = format!("TrafficPolicy {} says `{path}` of the same, too", other_metadata.name);
                    let found = self.wrong(span, message).hint("say it in one of the two");
                    self.found.push(found);
                }
            }
        }
    }
}

fn value<T: Copy>(set: &Option<Set<T>>) -> Option<T> {
    set.as_ref().map(|set| set.value)
}

fn rule_names(route: &HttpRoute) -> Vec<&str> {
    route.rules.iter().filter_map(|rule| rule.name.as_deref()).collect()
}
