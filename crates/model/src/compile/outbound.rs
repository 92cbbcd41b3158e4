//! The outbound of a service port as seen from one namespace: its routes merged, in the order in which they are tried.

use std::sync::Arc;

use crate::name::{GatewayName, Namespace, ServicePort};
use crate::resource::Kind;
use crate::snapshot::{
    Action, Backend, Cluster, DEFAULT_CONNECT_TIMEOUT, Filters, HttpRule, Origin, OutboundUnit, Protocol, RouteMatch, Traffic,
    WeightedBackend,
};
use crate::spiffe::SpiffeId;

use super::reference::Found;
use super::rules::{self, Entrance, Route};
use super::traffic::{Attempts, Policies};
use super::{VirtualAddresses, World, egress, fault, tls};

/// The unit of a service port for callers in `viewer`; none where the service or the port does not exist.
#[must_use]
pub fn outbound(world: &World<'_>, viewer: &Namespace, port: &ServicePort) -> Option<OutboundUnit> {
    if let Some(gateway) = egress::gateway(world, port) {
        return Some(through(world, port, &gateway));
    }
    let found = world.port(port)?;
    let protocol = found.port.protocol;
    let addresses = world.registry.services.get(&port.service)?;
    let routes = routes(world, viewer, port);
    let policies = Policies::of(world, port, None);
    let http_only = protocol.is_http() || !routes.is_empty();
    let mut rules = match routes.as_slice() {
        [] => vec![default_rule(Kind::Service, port, policies.attempts(None))],
        routes => rules::merged(world, routes, Entrance { port: port.port, tls: false, called: Some(port) }),
    };
    let http_only = http_only && protocol != Protocol::Tcp;
    fault::meet(world, viewer, Some(&port.service), &mut rules);
    Some(OutboundUnit {
        port: port.clone(),
        virtual_v4: addresses.v4,
        virtual_v6: addresses.v6,
        protocol,
        rules: rules.into(),
        http_only,
        faults: if http_only { Vec::new() } else { fault::of_bytes(world, viewer, &port.service) },
        cluster: cluster(world, port, &found, &policies),
    })
}

/// How workloads reach an egress gateway: what they say to it are CONNECT requests, of HTTP/2. It has no name that an app could call.
fn through(world: &World<'_>, port: &ServicePort, gateway: &GatewayName) -> OutboundUnit {
    let accounts = world.proxies(gateway).map(|(_, workload)| workload.account.clone());
    let accepted = accounts.map(|account| SpiffeId::of_account(world.trust_domain, &gateway.namespace, &account)).collect();
    OutboundUnit {
        port: port.clone(),
        virtual_v4: VirtualAddresses::NONE.v4,
        virtual_v6: VirtualAddresses::NONE.v6,
        protocol: Protocol::Http2,
        rules: vec![default_rule(Kind::Gateway, port, Policies::none().attempts(None))].into(),
        http_only: true,
        faults: Vec::new(),
        cluster: Cluster {
            port: port.clone(),
            protocol: Protocol::Http2,
            accepted,
            connect_timeout: DEFAULT_CONNECT_TIMEOUT,
            server: port.clone(),
            tls: None,
            traffic: Traffic::default(),
        },
    }
}

/// The routes that hold: those of the callers' namespace, if there are any, in place of the service's own (GAMMA).
fn routes<'w>(world: &World<'w>, viewer: &Namespace, port: &ServicePort) -> Vec<Route<'w>> {
    let consumer = if *viewer == port.service.namespace { Vec::new() } else { attached(world, viewer, port) };
    let mut routes = if consumer.is_empty() { attached(world, &port.service.namespace, port) } else { consumer };
    if routes.iter().any(|(kind, _, _)| *kind == Kind::GrpcRoute) {
        routes.retain(|(kind, _, _)| *kind == Kind::GrpcRoute);
    }
    routes
}

/// The routes of a namespace that name a service port as their parent. Where GRPCRoutes are among them, those alone hold: kinds are never
/// merged, and the more specific goes first (GEP-1294).
pub(super) fn attached<'w>(world: &World<'w>, namespace: &Namespace, port: &ServicePort) -> Vec<Route<'w>> {
    let attaches = |(_, metadata, route): &Route<'w>| {
        let meant = |parent: &&crate::resource::ParentRef| parent.object.service().as_ref() == Some(&port.service);
        metadata.namespace == *namespace
            && route.parents.iter().filter(meant).any(|parent| parent.port.is_none_or(|number| number == port.port))
    };
    world.resources.routes().filter(attaches).collect()
}

fn default_rule(kind: Kind, port: &ServicePort, attempts: Attempts) -> HttpRule {
    HttpRule {
        origin: Arc::new(Origin {
            kind: kind.to_string(),
            namespace: port.service.namespace.to_string(),
            name: port.service.name.to_string(),
            // The rule follows from its being there; what else changes in it does not change the rule.
            generation: 0,
            rule: 0,
            matched: 0,
        }),
        matches: RouteMatch::any(),
        filters: Filters::default(),
        action: Action::Forward(attempts.forward(vec![WeightedBackend::plain(1, Backend::Port(port.clone()))])),
    }
}

fn cluster(world: &World<'_>, port: &ServicePort, found: &Found<'_>, policies: &Policies<'_>) -> Cluster {
    let service = &found.workloads_of;
    let accepted = world.accounts(service, found.accounts);
    let own = accepted.iter().map(|account| SpiffeId::of_account(world.trust_domain, &service.namespace, account));
    let accepted = own.chain(world.foreign(service)).collect();
    // A service that is known by another name in its own mesh is called by that.
    let known_as = world.resources.service(service).and_then(|(_, service)| service.known_as.as_ref());
    Cluster {
        port: port.clone(),
        protocol: found.port.protocol,
        accepted,
        connect_timeout: policies.connect_timeout(),
        server: ServicePort { service: known_as.unwrap_or(service).clone(), port: port.port },
        tls: tls::towards(world, port, found),
        traffic: policies.endpoints(),
    }
}
