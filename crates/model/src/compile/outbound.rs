//! The outbound of a service port as seen from one namespace: its routes merged, in the order in which they are tried.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::sync::Arc;

use crate::name::{Namespace, ServicePort};
use crate::resource::{BackendRef, HttpRoute, Metadata, RouteRule, Service};
use crate::snapshot::{
    Backend, Cluster, DEFAULT_CONNECT_TIMEOUT, HttpRule, Origin, OutboundUnit, PathMatch, Protocol, RouteMatch, Timeouts, WeightedBackend,
};
use crate::spiffe::SpiffeId;

use super::World;

/// The unit of a service port for callers in `viewer`; none where the service or the port does not exist.
#[must_use]
pub fn outbound(world: &World<'_>, viewer: &Namespace, port: &ServicePort) -> Option<OutboundUnit> {
    let (metadata, service) = world.resources.service(&port.service)?;
    let protocol = service.port(port.port)?.protocol;
    let addresses = world.registry.services.get(&port.service)?;
    let routes = routes(world, viewer, port);
    let http_only = protocol.is_http() || !routes.is_empty();
    let rules = if routes.is_empty() { vec![default_rule(metadata, port)] } else { merged(world, &routes) };
    Some(OutboundUnit {
        port: port.clone(),
        virtual_v4: addresses.v4,
        virtual_v6: addresses.v6,
        protocol,
        rules,
        http_only: http_only && protocol != Protocol::Tcp,
        cluster: cluster(world, port, service, protocol),
    })
}

/// The routes that hold: those of the callers' namespace, if there are any, in place of the service's own (GAMMA).
fn routes<'w>(world: &World<'w>, viewer: &Namespace, port: &ServicePort) -> Vec<(&'w Metadata, &'w HttpRoute)> {
    let attached = |(_, route): &(&Metadata, &HttpRoute)| {
        route.parents.iter().any(|parent| parent.service == port.service && parent.port.is_none_or(|number| number == port.port))
    };
    let of = |namespace: &Namespace| -> Vec<_> {
        world.resources.routes().filter(|(metadata, _)| metadata.namespace == *namespace).filter(attached).collect()
    };
    let consumer = if *viewer == port.service.namespace { Vec::new() } else { of(viewer) };
    if consumer.is_empty() { of(&port.service.namespace) } else { consumer }
}

/// One rule a match, in the Gateway API's order: exact path, longest prefix, method, most headers, most query parameters;
/// then the oldest route, its name, and its own order. Regular expressions come after both other forms of path.
fn merged(world: &World<'_>, routes: &[(&Metadata, &HttpRoute)]) -> Vec<HttpRule> {
    let mut rules: Vec<((_, _), HttpRule)> = Vec::new();
    for (metadata, route) in routes {
        for (index, rule) in route.rules.iter().enumerate() {
            for (matched, (matches, _)) in rule.matches.iter().enumerate() {
                let age = (created(metadata), metadata.namespace.clone(), metadata.name.clone(), index, matched);
                rules.push(((precedence(matches), age), compiled(world, metadata, rule, matches, index, matched)));
            }
        }
    }
    rules.sort_by(|(one, _), (other, _)| one.cmp(other));
    rules.into_iter().map(|(_, rule)| rule).collect()
}

/// A resource not stored yet is the youngest. Without its `Z` a time sorts as text: `…:00` before `…:00.5`.
fn created(metadata: &Metadata) -> (bool, String) {
    (metadata.created_at.is_empty(), metadata.created_at.trim_end_matches('Z').to_owned())
}

/// Smaller comes first.
fn precedence(matches: &RouteMatch) -> (u8, Reverse<usize>, bool, Reverse<usize>, Reverse<usize>) {
    let (form, length) = match &matches.path {
        PathMatch::Exact(path) => (0, path.len()),
        // `/a/` takes what `/a` takes.
        PathMatch::Prefix(prefix) => (1, prefix.trim_end_matches('/').len()),
        PathMatch::Regex(pattern) => (2, pattern.as_str().len()),
    };
    (form, Reverse(length), matches.method.is_none(), Reverse(matches.headers.len()), Reverse(matches.query.len()))
}

fn compiled(world: &World<'_>, metadata: &Metadata, rule: &RouteRule, matches: &RouteMatch, index: usize, matched: usize) -> HttpRule {
    let number = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
    HttpRule {
        origin: Arc::new(Origin {
            kind: "HTTPRoute".to_owned(),
            namespace: metadata.namespace.to_string(),
            name: metadata.name.to_string(),
            generation: metadata.generation,
            rule: number(index),
            matched: number(matched),
        }),
        matches: matches.clone(),
        backends: rule.backends.iter().map(|backend| weighted(world, backend)).collect(),
        timeouts: Timeouts { request: rule.request_timeout, backend_request: rule.backend_request_timeout, ..Timeouts::default() },
    }
}

fn weighted(world: &World<'_>, backend: &BackendRef) -> WeightedBackend {
    let port = ServicePort { service: backend.service.clone(), port: backend.port };
    let exists = world.resources.service(&backend.service).is_some_and(|(_, service)| service.port(backend.port).is_some());
    let backend_ = if exists { Backend::Port(port) } else { Backend::Missing { name: port.to_string() } };
    WeightedBackend { weight: backend.weight, backend: backend_ }
}

fn default_rule(metadata: &Metadata, port: &ServicePort) -> HttpRule {
    HttpRule {
        origin: Arc::new(Origin {
            kind: "Service".to_owned(),
            namespace: metadata.namespace.to_string(),
            name: metadata.name.to_string(),
            // The rule follows from the service's being there; what else changes in it does not change the rule.
            generation: 0,
            rule: 0,
            matched: 0,
        }),
        matches: RouteMatch::any(),
        backends: vec![WeightedBackend { weight: 1, backend: Backend::Port(port.clone()) }],
        timeouts: Timeouts::default(),
    }
}

fn cluster(world: &World<'_>, port: &ServicePort, service: &Service, protocol: Protocol) -> Cluster {
    let registered = world.registry.workloads.values().filter(|workload| workload.service.as_ref() == Some(&port.service));
    let written = world.resources.workloads().filter(|(_, workload)| workload.service == port.service);
    let mut accounts: BTreeSet<_> = service.accounts.iter().cloned().collect();
    accounts.extend(registered.map(|workload| workload.account.clone()));
    accounts.extend(written.map(|(_, workload)| workload.account.clone().unwrap_or_else(|| port.service.name.clone())));
    if accounts.is_empty() {
        accounts.insert(port.service.name.clone());
    }
    let accepted = accounts.iter().map(|account| SpiffeId::of_account(world.trust_domain, &port.service.namespace, account)).collect();
    Cluster { port: port.clone(), protocol, accepted, connect_timeout: DEFAULT_CONNECT_TIMEOUT }
}
