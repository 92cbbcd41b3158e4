//! What the status of a resource says: whether its parents take it, and whether all that it names is there. Pure: the same world
//! gives the same status, so nothing stores it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::name::{GatewayName, ServicePort};
use crate::resource::{
    BackendRef, BackendTlsPolicy, GATEWAY_GROUP, Gateway, GatewayClass, HttpFilter, HttpRoute, Kind, Metadata, ParentRef, Resource, Spec,
    TransportRoute,
};
use crate::snapshot::{HostPattern, Protocol};

use super::listeners::{Bound, CONTROLLER, Frame, gateway_of};
use super::reference::Problem;
use super::{World, authentication, authorization, egress, federation, outbound, rate_limit, telemetry, tls};

/// A condition, with the Gateway API's reasons.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// `Accepted`, `ResolvedRefs`, `Programmed`, …
    #[serde(rename = "type")]
    pub kind: String,
    /// `True` or `False`.
    pub status: String,
    /// One of the specification's.
    pub reason: String,
    /// For people.
    pub message: String,
    /// The generation of the resource that it speaks of.
    pub observed_generation: u64,
}

impl Condition {
    fn new(kind: &str, holds: bool, reason: &str, message: impl Into<String>, metadata: &Metadata) -> Self {
        let status = if holds { "True" } else { "False" };
        Self {
            kind: kind.to_owned(),
            status: status.to_owned(),
            reason: reason.to_owned(),
            message: message.into(),
            observed_generation: metadata.generation,
        }
    }

    /// One that holds unless there is a problem.
    pub(super) fn of(kind: &str, problem: Option<&Problem>, metadata: &Metadata) -> Self {
        match problem {
            None => Self::new(kind, true, kind, "", metadata),
            Some(problem) => Self::new(kind, false, problem.reason, problem.message.clone(), metadata),
        }
    }
}

/// The status of a resource; none for kinds that have none, and for gateways and routes that are not ours.
#[must_use]
pub fn status(world: &World<'_>, resource: &Resource) -> Option<Value> {
    let metadata = &resource.metadata;
    match &resource.spec {
        Spec::HttpRoute(route) | Spec::GrpcRoute(route) => Some(http_route(world, resource.kind, metadata, route)),
        Spec::TcpRoute(route) | Spec::TlsRoute(route) | Spec::UdpRoute(route) => {
            Some(transport_route(world, resource.kind, metadata, route))
        }
        Spec::GatewayClass(class) => gateway_class(metadata, class),
        Spec::Gateway(gateway) => self::gateway(world, metadata, gateway),
        Spec::ListenerSet(set) => {
            let name = GatewayName::new(set.parent.namespace.clone(), set.parent.name.clone());
            listener_set(world, metadata, &Frame::of(world, &name)?)
        }
        Spec::BackendTlsPolicy(policy) => Some(backend_tls(world, metadata, policy)),
        Spec::EgressPolicy(policy) => {
            let unresolved = egress::unresolved(world, metadata, policy);
            let resolved = Condition::of("ResolvedRefs", unresolved.as_ref(), metadata);
            Some(json!({ "conditions": [Condition::of("Accepted", None, metadata), resolved] }))
        }
        Spec::AuthenticationPolicy(policy) => {
            let unresolved = authentication::unresolved(world, metadata, policy);
            let resolved = Condition::of("ResolvedRefs", unresolved.as_ref(), metadata);
            let keys = authentication::keys(world, policy);
            let keys = policy.jwt.as_ref().map(|_| Condition::of("KeysFetched", keys.as_ref(), metadata));
            let conditions: Vec<Condition> = [Condition::of("Accepted", None, metadata), resolved].into_iter().chain(keys).collect();
            Some(json!({ "conditions": conditions }))
        }
        Spec::TrustBundle(bundle) => Some(federation::status(world, metadata, bundle)),
        Spec::AuthorizationPolicy(policy) => {
            let unresolved = authorization::unresolved(world, metadata, policy);
            let resolved = Condition::of("ResolvedRefs", unresolved.as_ref(), metadata);
            Some(json!({ "conditions": [Condition::of("Accepted", None, metadata), resolved] }))
        }
        Spec::RateLimitPolicy(policy) => {
            let unresolved = rate_limit::unresolved(world, metadata, policy);
            let resolved = Condition::of("ResolvedRefs", unresolved.as_ref(), metadata);
            Some(json!({ "conditions": [Condition::of("Accepted", None, metadata), resolved] }))
        }
        Spec::TelemetryPolicy(policy) => {
            let unresolved = telemetry::unresolved(world, metadata, policy);
            let resolved = Condition::of("ResolvedRefs", unresolved.as_ref(), metadata);
            Some(json!({ "conditions": [Condition::of("Accepted", None, metadata), resolved] }))
        }
        Spec::FaultPolicy(_) => {
            // What is over is no part of the world.
            let active = match world.resources.get(&resource.key()) {
                Some(_) => Condition::of("Active", None, metadata),
                None => Condition::new("Active", false, "Ended", "it has ended and does nothing any more", metadata),
            };
            Some(json!({ "conditions": [Condition::of("Accepted", None, metadata), active] }))
        }
        _ => None,
    }
}

fn http_route(world: &World<'_>, kind: Kind, metadata: &Metadata, route: &HttpRoute) -> Value {
    let mirrors = |filters: &'_ [(HttpFilter, std::ops::Range<usize>)]| -> Vec<BackendRef> {
        let of =
            |(filter, _): &(HttpFilter, _)| if let HttpFilter::Mirror { backend, .. } = filter { Some((**backend).clone()) } else { None };
        filters.iter().filter_map(of).collect()
    };
    let filters = route.rules.iter().flat_map(|rule| rule.filters.iter().chain(rule.backends.iter().flat_map(|backend| &backend.filters)));
    let unknown = filters
        .filter_map(|(filter, _)| if let HttpFilter::Unknown { what } = filter { Some(what) } else { None })
        .next()
        .map(|what| Problem::new("IncompatibleFilters", format!("{what} is not known here: its rule answers with 500")));
    let backends = route.rules.iter().flat_map(|rule| {
        let own = rule.backends.iter().flat_map(|backend| mirrors(&backend.filters));
        rule.backends.iter().cloned().chain(mirrors(&rule.filters)).chain(own).collect::<Vec<_>>()
    });
    let backends: Vec<BackendRef> = backends.collect();
    parents(world, (kind, metadata), (&route.parents, &route.hostnames), &backends, unknown.as_ref())
}

fn transport_route(world: &World<'_>, kind: Kind, metadata: &Metadata, route: &TransportRoute) -> Value {
    let backends: Vec<BackendRef> = route.rules.iter().flat_map(|rule| rule.backends.clone()).collect();
    parents(world, (kind, metadata), (&route.parents, &route.hostnames), &backends, None)
}

fn parents(
    world: &World<'_>,
    (kind, metadata): (Kind, &Metadata),
    (parents, hostnames): (&[ParentRef], &[HostPattern]),
    backends: &[BackendRef],
    unacceptable: Option<&Problem>,
) -> Value {
    let mut frames: BTreeMap<GatewayName, Option<Frame<'_>>> = BTreeMap::new();
    let mut told = Vec::new();
    for parent in parents {
        let refused = if parent.object.is_service() {
            refused_by_service(world, (kind, metadata), parent)
        } else {
            match gateway_of(world, &parent.object) {
                Ok(name) => match frames.entry(name.clone()).or_insert_with(|| Frame::of(world, &name)) {
                    Some(frame) => frame.attach(world, (kind, metadata), parent, hostnames).err(),
                    // Somebody else's gateway: its controller tells.
                    None => continue,
                },
                Err(Some(missing)) => Some(missing),
                Err(None) => continue,
            }
        };
        let refused = refused.or_else(|| unacceptable.cloned());
        let home = parent.object.is_service().then_some(&parent.object.namespace);
        let unresolved = backends.iter().find_map(|backend| world.backend((kind, metadata), home, backend).err());
        told.push(json!({
            "parentRef": parent.written,
            "controllerName": CONTROLLER,
            "conditions": [Condition::of("Accepted", refused.as_ref(), metadata), Condition::of("ResolvedRefs", unresolved.as_ref(), metadata)],
        }));
    }
    json!({ "parents": told })
}

fn refused_by_service(world: &World<'_>, (kind, metadata): (Kind, &Metadata), parent: &ParentRef) -> Option<Problem> {
    if !matches!(kind, Kind::HttpRoute | Kind::GrpcRoute) {
        return Some(Problem::new("NotAllowedByListeners", format!("a {kind} attaches to gateways only")));
    }
    let found = parent.object.service().and_then(|service| Some((world.resources.service(&service)?.1, service)));
    let Some((spec, service)) = found else {
        let named = format!("{}.{}", parent.object.name, parent.object.namespace);
        return Some(Problem::new("NoMatchingParent", format!("there is no service {named}")));
    };
    let of = |number: u16| {
        let port = ServicePort { service: service.clone(), port: number };
        world.port(&port).map(|found| (port, found))
    };
    let ports: Vec<_> = match parent.port {
        Some(number) => of(number).into_iter().collect(),
        None => spec.ports.iter().filter_map(|port| of(port.port)).collect(),
    };
    if ports.is_empty() && parent.port.is_some() {
        return Some(Problem::new("NoMatchingParent", format!("{service} has no such port")));
    }
    if !ports.is_empty() && ports.iter().all(|(_, found)| found.port.protocol == Protocol::Tcp) {
        return Some(Problem::new("NotAllowedByListeners", format!("{service} is declared as tcp there: no request is looked at")));
    }
    if kind != Kind::HttpRoute {
        return None;
    }
    let grpc = |port: &ServicePort| {
        outbound::attached(world, &metadata.namespace, port).into_iter().find(|(other, _, _)| *other == Kind::GrpcRoute)
    };
    let mut by = ports.iter().map(|(port, _)| grpc(port));
    let (_, first, _) = by.next()??;
    by.all(|other| other.is_some()).then(|| {
        let message = format!(
            "GRPCRoute {}.{} routes the calls of this service, and an HTTPRoute never shares one with it",
            first.name, first.namespace
        );
        Problem::new("Conflicted", message)
    })
}

fn gateway_class(metadata: &Metadata, class: &GatewayClass) -> Option<Value> {
    let problem = class.has_parameters.then(|| Problem::new("InvalidParameters", "gateways of this controller take no parameters"));
    (class.controller == CONTROLLER).then(|| {
        let features = FEATURES.iter().map(|feature| json!({ "name": feature })).collect::<Vec<_>>();
        json!({ "conditions": [Condition::of("Accepted", problem.as_ref(), metadata)], "supportedFeatures": features })
    })
}

/// What a class of ours can do, in the specification's words (its `pkg/features`), in order, as it asks for.
const FEATURES: [&str; 60] = [
    "BackendTLSPolicy",
    "BackendTLSPolicySANValidation",
    "GRPCRoute",
    "GRPCRouteNamedRouteRule",
    "GRPCRouteRequestMirror",
    "Gateway",
    "GatewayAddressEmpty",
    "GatewayBackendClientCertificate",
    "GatewayFrontendClientCertificateValidation",
    "GatewayFrontendClientCertificateValidationInsecureFallback",
    "GatewayHTTPListenerIsolation",
    "GatewayHTTPSListenerDetectMisdirectedRequests",
    "GatewayPort8080",
    "GatewayStaticAddresses",
    "HTTPRoute",
    "HTTPRoute303RedirectStatusCode",
    "HTTPRoute307RedirectStatusCode",
    "HTTPRoute308RedirectStatusCode",
    "HTTPRouteBackendProtocolH2C",
    "HTTPRouteBackendProtocolWebSocket",
    "HTTPRouteBackendRequestHeaderModification",
    "HTTPRouteBackendRequestRedirect",
    "HTTPRouteBackendTimeout",
    "HTTPRouteBackendURLRewrite",
    "HTTPRouteCORS",
    "HTTPRouteDestinationPortMatching",
    "HTTPRouteHostRewrite",
    "HTTPRouteMethodMatching",
    "HTTPRouteNamedRouteRule",
    "HTTPRouteParentRefPort",
    "HTTPRoutePathRedirect",
    "HTTPRoutePathRewrite",
    "HTTPRoutePortRedirect",
    "HTTPRouteQueryParamMatching",
    "HTTPRouteRequestMirror",
    "HTTPRouteRequestMultipleMirrors",
    "HTTPRouteRequestPercentageMirror",
    "HTTPRouteRequestTimeout",
    "HTTPRouteResponseHeaderModification",
    "HTTPRouteRetry",
    "HTTPRouteRetryBackendTimeout",
    "HTTPRouteRetryConnectionError",
    "HTTPRouteSchemeRedirect",
    "ListenerSet",
    "Mesh",
    "MeshClusterIPMatching",
    "MeshConsumerRoute",
    "MeshHTTPRouteBackendRequestHeaderModification",
    "MeshHTTPRouteNamedRouteRule",
    "MeshHTTPRouteQueryParamMatching",
    "MeshHTTPRouteRedirectPath",
    "MeshHTTPRouteRedirectPort",
    "MeshHTTPRouteRewritePath",
    "MeshHTTPRouteSchemeRedirect",
    "ReferenceGrant",
    "TCPRoute",
    "TLSRoute",
    "TLSRouteModeMixed",
    "TLSRouteModeTerminate",
    "UDPRoute",
];

fn gateway(world: &World<'_>, metadata: &Metadata, gateway: &Gateway) -> Option<Value> {
    let name = GatewayName::new(metadata.namespace.clone(), metadata.name.clone());
    let frame = Frame::of(world, &name)?;
    let addresses: Vec<IpAddr> = addresses(world, &name, &frame);
    let own: Vec<&Bound<'_>> = frame.listeners.iter().filter(|bound| bound.owner.0 == Kind::Gateway).collect();
    let unsupported = gateway
        .addresses
        .iter()
        .find(|address| address.kind != "IPAddress")
        .map(|address| Problem::new("UnsupportedAddress", format!("an address of type {} cannot be given", address.kind)));
    let parameters = gateway
        .parameters
        .as_ref()
        .map(|named| Problem::new("InvalidParameters", format!("{} {} is no parameter of a gateway of ours", named.kind, named.name)));
    let valid = own.iter().filter(|bound| bound.refused.is_none()).count();
    let accepted = match parameters.as_ref().or(unsupported.as_ref()) {
        Some(problem) => Condition::of("Accepted", Some(problem), metadata),
        None if valid == own.len() => Condition::new("Accepted", true, "Accepted", "", metadata),
        None => Condition::new("Accepted", valid > 0, "ListenersNotValid", "a listener of it is not taken; its status says why", metadata),
    };
    let unusable = gateway
        .addresses
        .iter()
        .filter_map(|address| address.value.as_ref())
        .find(|value| !value.parse::<IpAddr>().is_ok_and(|address| addresses.contains(&address)));
    let unprogrammed = if accepted.status == "False" {
        Some(Problem::new("Invalid", accepted.message.clone()))
    } else if addresses.is_empty() {
        Some(Problem::new("AddressNotAssigned", format!("no proxy runs it; start one with `lorica proxy --gateway {name}`")))
    } else {
        unusable.map(|address| Problem::new("AddressNotUsable", format!("no proxy of it listens on {address}")))
    };
    let backend = gateway
        .backend_certificate
        .as_ref()
        .and_then(|named| world.certificate((Kind::Gateway, metadata), named, "InvalidClientCertificateRef").err());
    let mut conditions = vec![
        accepted,
        Condition::of("Programmed", unprogrammed.as_ref(), metadata),
        Condition::of("ResolvedRefs", backend.as_ref(), metadata),
    ];
    let validations = gateway.client_validation.iter().chain(gateway.port_client_validation.iter().map(|(_, validation)| validation));
    if validations.into_iter().any(|validation| validation.optional) {
        let message = "clients without a valid certificate are let in";
        conditions.push(Condition::new("InsecureFrontendValidationMode", true, "ConfigurationChanged", message, metadata));
    }
    let sets = frame.sets.iter().filter(|(set, _, allowed)| *allowed && valid_in_set(&frame, set)).count();
    let addresses: Vec<_> = addresses.iter().map(|address| json!({ "type": "IPAddress", "value": address })).collect();
    Some(json!({
        "addresses": addresses,
        "attachedListenerSets": sets,
        "conditions": conditions,
        "listeners": listeners(world, &frame, &own),
    }))
}

/// Where the proxies of a gateway listen.
fn addresses(world: &World<'_>, name: &GatewayName, frame: &Frame<'_>) -> Vec<IpAddr> {
    let of = world.registry.workloads.values().filter_map(|workload| workload.gateway.as_ref()).filter(|gateway| gateway.name == *name);
    let taken = || frame.listeners.iter().filter(|bound| bound.refused.is_none()).map(|bound| bound.listener.port);
    let mut addresses: Vec<IpAddr> = of.flat_map(|gateway| taken().filter_map(|port| gateway.address(port))).collect();
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}

fn is_of(bound: &Bound<'_>, kind: Kind, metadata: &Metadata) -> bool {
    bound.owner.0 == kind && bound.owner.1.name == metadata.name && bound.owner.1.namespace == metadata.namespace
}

fn valid_in_set(frame: &Frame<'_>, set: &Metadata) -> bool {
    frame.listeners.iter().any(|bound| is_of(bound, Kind::ListenerSet, set) && bound.is_programmed())
}

fn listener_set(world: &World<'_>, metadata: &Metadata, frame: &Frame<'_>) -> Option<Value> {
    let (_, _, allowed) = frame.sets.iter().find(|(set, _, _)| set.name == metadata.name && set.namespace == metadata.namespace)?;
    if !allowed {
        let problem = Problem::new("NotAllowed", format!("Gateway {} lets no ListenerSet of this namespace in", frame.metadata.name));
        let both = ["Accepted", "Programmed"].map(|kind| Condition::of(kind, Some(&problem), metadata));
        return Some(json!({ "conditions": both }));
    }
    let own: Vec<&Bound<'_>> = frame.listeners.iter().filter(|bound| is_of(bound, Kind::ListenerSet, metadata)).collect();
    let (valid, all) = (own.iter().filter(|bound| bound.is_programmed()).count(), own.len());
    let message = "a listener of it does not hold; its status says why";
    let conditions = ["Accepted", "Programmed"].map(|kind| match valid {
        0 => Condition::new(kind, false, "ListenersNotValid", message, metadata),
        some if some < all && kind == "Accepted" => Condition::new(kind, true, "ListenersNotValid", message, metadata),
        _ => Condition::of(kind, None, metadata),
    });
    Some(json!({ "conditions": conditions, "listeners": listeners(world, frame, &own) }))
}

fn listeners(world: &World<'_>, frame: &Frame<'_>, of: &[&Bound<'_>]) -> Vec<Value> {
    let one = |bound: &&Bound<'_>| {
        let (_, owner) = bound.owner;
        let unprogrammed = (!bound.is_programmed()).then(|| {
            let reason = bound.refused.as_ref().filter(|_| bound.conflicted).map_or("Invalid", |problem| problem.reason);
            Problem::new(reason, "it takes no connections until its other conditions hold")
        });
        let mut programmed = Condition::of("Programmed", unprogrammed.as_ref(), owner);
        if let (None, Some(Err(problem))) = (&unprogrammed, &bound.http3) {
            programmed.message.clone_from(&problem.message);
        }
        let mut conditions = vec![
            Condition::of("Accepted", bound.refused.as_ref(), owner),
            programmed,
            Condition::of("ResolvedRefs", bound.unresolved.as_ref(), owner),
        ];
        conditions.push(match bound.refused.as_ref().filter(|_| bound.conflicted) {
            Some(problem) => Condition::new("Conflicted", true, problem.reason, problem.message.clone(), owner),
            None => Condition::new("Conflicted", false, "NoConflicts", "", owner),
        });
        let kinds: Vec<_> = bound.kinds.iter().map(|kind| json!({ "group": GATEWAY_GROUP, "kind": kind.as_str() })).collect();
        json!({
            "name": bound.listener.name,
            "port": bound.listener.port,
            "supportedKinds": kinds,
            "attachedRoutes": attached(world, frame, bound),
            "conditions": conditions,
        })
    };
    of.iter().map(one).collect()
}

/// How many routes attach to a listener. How it stands, or how they do, makes no difference.
fn attached(world: &World<'_>, frame: &Frame<'_>, bound: &Bound<'_>) -> usize {
    let attaches = |kind: Kind, metadata: &Metadata, parents: &[ParentRef], hostnames: &[HostPattern]| {
        parents.iter().filter(|parent| frame.is_meant(&parent.object)).any(|parent| {
            let found = frame.selected(world, (kind, metadata), parent, hostnames).unwrap_or_default();
            found.iter().any(|(other, _)| std::ptr::eq(other.listener, bound.listener))
        })
    };
    let http = world.resources.routes().filter(|(kind, metadata, route)| attaches(*kind, metadata, &route.parents, &route.hostnames));
    let bytes =
        world.resources.transport_routes().filter(|(kind, metadata, route)| attaches(*kind, metadata, &route.parents, &route.hostnames));
    http.count() + bytes.count()
}

/// Policies tell how they stand with each gateway through which their targets are reached.
fn backend_tls(world: &World<'_>, metadata: &Metadata, policy: &BackendTlsPolicy) -> Value {
    let (refused, unresolved) = tls::standing(world, metadata, policy);
    let targeted = |backend: &BackendRef| {
        let of = |target: &crate::resource::TlsPolicyTarget| target.object.name == backend.object.name;
        backend.object.is_service() && backend.object.namespace == metadata.namespace && policy.targets.iter().any(of)
    };
    let mut ancestors: Vec<&ParentRef> = Vec::new();
    let http = world.resources.routes().filter(|(_, _, route)| route.rules.iter().flat_map(|rule| &rule.backends).any(targeted));
    let bytes = world.resources.transport_routes().filter(|(_, _, route)| route.rules.iter().flat_map(|rule| &rule.backends).any(targeted));
    let parents = http.flat_map(|(_, _, route)| &route.parents).chain(bytes.flat_map(|(_, _, route)| &route.parents));
    for parent in parents.filter(|parent| gateway_of(world, &parent.object).is_ok()) {
        if !ancestors.iter().any(|known| known.object.name == parent.object.name && known.object.namespace == parent.object.namespace) {
            ancestors.push(parent);
        }
    }
    let told = ancestors.iter().map(|parent| {
        json!({
            "ancestorRef": {
                "group": parent.object.group,
                "kind": parent.object.kind,
                "namespace": parent.object.namespace,
                "name": parent.object.name,
            },
            "controllerName": CONTROLLER,
            "conditions": [Condition::of("Accepted", refused.as_ref(), metadata), Condition::of("ResolvedRefs", unresolved.as_ref(), metadata)],
        })
    });
    json!({ "ancestors": told.collect::<Vec<_>>() })
}
