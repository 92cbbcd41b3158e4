//! The units of a gateway: one a listener port, with the rules of every route that attaches to its listeners.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::name::GatewayName;
use crate::resource::{Kind, ListenerProtocol, Metadata, TlsMode, TransportRoute as WrittenRoute};
use crate::snapshot::{
    Action, Certificate, Filters, GatewayUnit, HostPattern, Hosts, HttpRule, Listening, Origin, RouteMatch, RuleTable, ServerTls,
    Terminated, TlsAction, TlsChain, TransportRoute, VirtualHost, WeightedBackend,
};

use super::listeners::{Bound, Frame};
use super::rules::{self, Entrance, Route, age};
use super::{World, authentication, authorization, egress, fault, rate_limit, telemetry, tried};

/// The units of a gateway, ordered by port; none where the gateway does not exist or is not ours.
#[must_use]
pub fn gateway(world: &World<'_>, name: &GatewayName) -> Vec<GatewayUnit> {
    let Some(frame) = Frame::of(world, name) else { return Vec::new() };
    let told = telemetry::of_gateway(world, name);
    let taken = frame.listeners.iter().filter(|bound| bound.refused.is_none());
    let ports: BTreeSet<(u16, bool)> = taken.map(|bound| (bound.listener.port, bound.listener.protocol == ListenerProtocol::Udp)).collect();
    let unit = |(port, udp): (u16, bool)| {
        let of_port = |bound: &&Bound<'_>| {
            bound.listener.port == port && bound.refused.is_none() && (bound.listener.protocol == ListenerProtocol::Udp) == udp
        };
        let listeners: Vec<&Bound<'_>> = frame.listeners.iter().filter(of_port).collect();
        let entrance = |tls: bool| Entrance { port, tls, called: None };
        let listening = match listeners.first()?.listener.protocol {
            ListenerProtocol::Http => Listening::Http(Hosts::new(hosts(world, &frame, &listeners, entrance(false)))),
            ListenerProtocol::Https | ListenerProtocol::Tls => Listening::Tls(chains(world, &frame, &listeners, entrance(true))),
            ListenerProtocol::Tcp => Listening::Tcp(transport(world, &frame, listeners.first()?, Kind::TcpRoute)),
            ListenerProtocol::Udp => Listening::Udp(transport(world, &frame, listeners.first()?, Kind::UdpRoute)),
            ListenerProtocol::Egress => Listening::Egress(egress::through(world, name)),
            ListenerProtocol::Other(_) => return None,
        };
        Some(GatewayUnit { gateway: name.clone(), port, listening, telemetry: told.clone() })
    };
    ports.into_iter().filter_map(unit).collect()
}

/// The certificate that a gateway shows to backends, where it names one that is there.
#[must_use]
pub fn backend_certificate(world: &World<'_>, name: &GatewayName) -> Option<Certificate> {
    let frame = Frame::of(world, name)?;
    let named = frame.gateway.backend_certificate.as_ref()?;
    world.certificate((Kind::Gateway, frame.metadata), named, "InvalidClientCertificateRef").ok()
}

/// The routes for HTTP that attach to a listener, by the hosts that each is for there.
fn attached<'w>(world: &World<'w>, frame: &Frame<'w>, bound: &Bound<'w>) -> Vec<(HostPattern, Route<'w>)> {
    let mut found: Vec<(HostPattern, Route<'w>)> = Vec::new();
    for (kind, metadata, route) in world.resources.routes() {
        for parent in route.parents.iter().filter(|parent| frame.is_meant(&parent.object)) {
            let attached = frame.attach(world, (kind, metadata), parent, &route.hostnames).unwrap_or_default();
            for (_, patterns) in attached.into_iter().filter(|(other, _)| std::ptr::eq(other.listener, bound.listener)) {
                for pattern in patterns {
                    let again = |(known, (_, other, _)): &(HostPattern, Route<'w>)| *known == pattern && std::ptr::eq(*other, metadata);
                    if !found.iter().any(again) {
                        found.push((pattern, (kind, metadata, route)));
                    }
                }
            }
        }
    }
    found
}

/// The rules by host of listeners that share a port: a host belongs to the most specific listener that takes it, and to no other
/// (listener isolation). In a listener, rules of narrower hosts come before those of wider ones that take the host as well.
fn hosts<'w>(world: &World<'w>, frame: &Frame<'w>, listeners: &[&Bound<'w>], entrance: Entrance<'_>) -> Vec<VirtualHost> {
    let mut made: BTreeMap<HostPattern, RuleTable> = BTreeMap::new();
    for bound in listeners {
        let attached = attached(world, frame, bound);
        let mut patterns: BTreeSet<&HostPattern> = attached.iter().map(|(pattern, _)| pattern).collect();
        patterns.insert(&bound.listener.hostname);
        for pattern in &patterns {
            let elsewhere = listeners.iter().any(|other| {
                let (host, own) = (&other.listener.hostname, &bound.listener.hostname);
                host != own && own.covers(host) && host.covers(pattern)
            });
            if elsewhere || made.contains_key(pattern) {
                continue;
            }
            // Ordered from the most specific.
            let tiers = patterns.iter().filter(|wider| wider.covers(pattern));
            let rules = tiers.flat_map(|wider| {
                let routes: Vec<Route<'w>> = attached.iter().filter(|(known, _)| known == *wider).map(|(_, route)| *route).collect();
                rules::merged(world, &routes, entrance)
            });
            let mut rules: Vec<HttpRule> = rules.collect();
            let name = GatewayName::new(frame.metadata.namespace.clone(), frame.metadata.name.clone());
            rate_limit::at_gateway(world, &name, &mut rules);
            authentication::at_gateway(world, &name, &mut rules);
            authorization::at_gateway(world, &name, entrance.port, &mut rules);
            fault::meet(world, &frame.metadata.namespace, None, &mut rules);
            tried::of_requests(world, None, &mut rules);
            made.insert((*pattern).clone(), rules.into());
        }
    }
    made.into_iter().map(|(host, rules)| VirtualHost { host, rules }).collect()
}

/// What is done by server name on a port with TLS.
fn chains<'w>(world: &World<'w>, frame: &Frame<'w>, listeners: &[&Bound<'w>], entrance: Entrance<'_>) -> Vec<TlsChain> {
    let mut chains: BTreeMap<HostPattern, (TlsAction, bool)> = BTreeMap::new();
    let https: Vec<&Bound<'w>> = listeners.iter().copied().filter(|bound| bound.listener.protocol == ListenerProtocol::Https).collect();
    for bound in listeners.iter().copied().filter(|bound| bound.is_programmed()) {
        let tls = || ServerTls { certificates: bound.certificates.clone(), client: bound.client.clone() };
        if bound.listener.protocol == ListenerProtocol::Https {
            let mut hosts = hosts(world, frame, &[bound], entrance);
            // A host of another listener on a connection that was opened for this one was sent the wrong way (RFC 9110, 15.5.20).
            for other in https.iter().filter(|other| !std::ptr::eq(other.listener, bound.listener)) {
                let host = &other.listener.hostname;
                hosts.retain(|known| !(bound.listener.hostname.covers(host) && host.covers(&known.host)));
                if !hosts.iter().any(|known| known.host == *host) {
                    hosts.push(VirtualHost { host: host.clone(), rules: vec![misdirected(frame, other)].into() });
                }
            }
            let http3 = matches!(bound.http3, Some(Ok(())));
            let action = TlsAction::Terminate { tls: tls(), then: Terminated::Http(Hosts::new(hosts)) };
            chains.insert(bound.listener.hostname.clone(), (action, http3));
            continue;
        }
        for (pattern, route) in transport_by_host(world, frame, bound) {
            let elsewhere = listeners.iter().any(|other| {
                let (host, own) = (&other.listener.hostname, &bound.listener.hostname);
                host != own && own.covers(host) && host.covers(&pattern)
            });
            if elsewhere {
                continue;
            }
            let action = match bound.mode() {
                TlsMode::Passthrough => TlsAction::Passthrough(route),
                TlsMode::Terminate => TlsAction::Terminate { tls: tls(), then: Terminated::Tcp(Some(route)) },
            };
            chains.entry(pattern).or_insert((action, false));
        }
    }
    chains.into_iter().map(|(server_name, (action, http3))| TlsChain { server_name, action, http3 }).collect()
}

fn misdirected(frame: &Frame<'_>, owner: &Bound<'_>) -> HttpRule {
    let (_, metadata) = owner.owner;
    let position = frame.listeners.iter().position(|bound| std::ptr::eq(bound.listener, owner.listener)).unwrap_or_default();
    HttpRule {
        origin: Arc::new(Origin {
            kind: owner.owner.0.to_string(),
            namespace: metadata.namespace.to_string(),
            name: metadata.name.to_string(),
            generation: 0,
            rule: u32::try_from(position).unwrap_or(u32::MAX),
            matched: 0,
        }),
        matches: RouteMatch::any(),
        filters: Filters::default(),
        action: Action::Respond(421),
    }
}

/// Where a listener for bytes leads: to what the oldest route that attaches says.
fn transport<'w>(world: &World<'w>, frame: &Frame<'w>, bound: &Bound<'w>, kind: Kind) -> Option<TransportRoute> {
    transport_routes(world, frame, bound, kind).into_iter().next().map(|(_, route)| route)
}

/// The same for TLS, by server name.
fn transport_by_host<'w>(world: &World<'w>, frame: &Frame<'w>, bound: &Bound<'w>) -> Vec<(HostPattern, TransportRoute)> {
    transport_routes(world, frame, bound, Kind::TlsRoute)
}

/// What attaches to a listener for bytes, the oldest first: each host once.
fn transport_routes<'w>(world: &World<'w>, frame: &Frame<'w>, bound: &Bound<'w>, wanted: Kind) -> Vec<(HostPattern, TransportRoute)> {
    let mut routes: Vec<(Kind, &Metadata, &WrittenRoute)> =
        world.resources.transport_routes().filter(|(kind, _, _)| *kind == wanted).collect();
    routes.sort_by(|(_, one, _), (_, other, _)| age(one).cmp(&age(other)));
    let mut found: Vec<(HostPattern, TransportRoute)> = Vec::new();
    for (kind, metadata, route) in routes {
        for parent in route.parents.iter().filter(|parent| frame.is_meant(&parent.object)) {
            let attached = frame.attach(world, (kind, metadata), parent, &route.hostnames).unwrap_or_default();
            for (_, patterns) in attached.into_iter().filter(|(other, _)| std::ptr::eq(other.listener, bound.listener)) {
                let fresh: Vec<_> = patterns.into_iter().filter(|host| !found.iter().any(|(known, _)| known == host)).collect();
                found.extend(fresh.into_iter().map(|host| (host, compiled(world, frame, bound, (kind, metadata, route)))));
            }
        }
    }
    found
}

fn compiled(
    world: &World<'_>,
    frame: &Frame<'_>,
    bound: &Bound<'_>,
    (kind, metadata, route): (Kind, &Metadata, &WrittenRoute),
) -> TransportRoute {
    let backends = route.rules.first().map(|rule| rule.backends.as_slice()).unwrap_or_default();
    let origin = Origin {
        kind: kind.to_string(),
        namespace: metadata.namespace.to_string(),
        name: metadata.name.to_string(),
        generation: metadata.generation,
        rule: 0,
        matched: 0,
    };
    let backends =
        backends.iter().map(|backend| WeightedBackend::plain(backend.weight, rules::led(world, (kind, metadata), None, backend))).collect();
    let gateway = GatewayName::new(frame.metadata.namespace.clone(), frame.metadata.name.clone());
    let judged = bound.listener.protocol != ListenerProtocol::Udp;
    let authorization = judged.then(|| authorization::of_route(world, &gateway, bound.listener.port, &origin)).flatten();
    TransportRoute { origin: Arc::new(origin), backends, authorization }
}
