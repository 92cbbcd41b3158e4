//! Where calls to a service or into a gateway go: the rules that the compiler makes, as people read them, in the order in which they are tried.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use lorica_api::{RouteEntry, RouteList};
use lorica_model::compile::{self, World};
use lorica_model::name::{GatewayName, Label, Namespace, ServiceName};
use lorica_model::resource::{Kind, Resource, nearest};
use lorica_model::snapshot::{
    Backend, EgressRule, GatewayUnit, Hosts, HttpRule, Listening, Origin, Terminated, TlsAction, TransportRoute, shown_backends,
};
use serde::Deserialize;

use super::Failure;
use super::request::{Path, Query};
use crate::ControlPlane;

/// Whose routes count.
#[derive(Deserialize)]
pub(super) struct From {
    /// The namespace of the caller; none: the service's own.
    from: Option<String>,
}

pub(super) async fn of_service(
    State(control): State<Arc<ControlPlane>>,
    Path((namespace, name)): Path<(String, String)>,
    Query(From { from }): Query<From>,
) -> Result<Json<RouteList>, Failure> {
    let service = ServiceName::new(Namespace::new(&namespace).map_err(bad)?, Label::new(&name).map_err(bad)?);
    let viewer = from.as_deref().map(Namespace::new).transpose().map_err(bad)?.unwrap_or_else(|| service.namespace.clone());
    let published = control.mesh.seen().published;
    let world = published.world();
    if world.resources.service(&service).is_none() {
        let known = world.resources.services().filter(|(metadata, _)| metadata.namespace == service.namespace);
        let near = nearest(service.name.as_str(), known.map(|(metadata, _)| metadata.name.as_str()));
        return Err(missing(format!("there is no service `{service}`"), near, "services"));
    }
    let mut routes = Vec::new();
    for port in compile::outbound_ports(&world).filter(|port| port.service == service) {
        let Some(unit) = compile::outbound(&world, &viewer, &port) else { continue };
        routes.extend(unit.rules.iter().map(|rule| of_rule(port.port, None, rule)));
        if !unit.http_only {
            let with = unit.faults.iter().map(|fault| named(&fault.origin)).collect();
            let by = format!("{}/{service}", Kind::Service);
            routes.push(RouteEntry { port: port.port, host: None, takes: BYTES.to_owned(), to: port.to_string(), with, by });
        }
    }
    Ok(Json(RouteList { routes }))
}

pub(super) async fn of_gateway(
    State(control): State<Arc<ControlPlane>>,
    Path((namespace, name)): Path<(String, String)>,
) -> Result<Json<RouteList>, Failure> {
    let gateway: GatewayName = format!("{name}.{namespace}").parse().map_err(bad)?;
    let published = control.mesh.seen().published;
    let world: World<'_> = published.world();
    let own = |resource: &&Resource| resource.kind == Kind::Gateway && resource.metadata.namespace == gateway.namespace;
    let known: Vec<&str> = world.resources.iter().filter(own).map(|resource| resource.metadata.name.as_str()).collect();
    if !known.contains(&name.as_str()) {
        let near = nearest(&name, known);
        return Err(missing(format!("there is no gateway `{gateway}`"), near, "gateways"));
    }
    Ok(Json(RouteList { routes: compile::gateway(&world, &gateway).iter().flat_map(of_unit).collect() }))
}

/// What a match says of what nobody looks into.
const BYTES: &str = "bytes";

fn bad(error: impl std::fmt::Display) -> Failure {
    Failure::new(StatusCode::BAD_REQUEST, error.to_string(), None)
}

fn missing(message: String, near: Option<&str>, kinds: &str) -> Failure {
    let hint = near.map_or_else(|| format!("`lorica get {kinds} -A` lists what there is"), |near| format!("did you mean `{near}`?"));
    Failure::new(StatusCode::NOT_FOUND, message, Some(&hint))
}

fn of_rule(port: u16, host: Option<String>, rule: &HttpRule) -> RouteEntry {
    RouteEntry { port, host, takes: rule.matches.to_string(), to: rule.action.to_string(), with: with(rule), by: rule.origin.to_string() }
}

/// What holds for the requests of a rule besides.
fn with(rule: &HttpRule) -> Vec<String> {
    let mut with = Vec::new();
    let filters = &rule.filters;
    if let Some(forward) = rule.forward() {
        with.extend(forward.timeouts.request.map(|time| format!("timeout {time:?}")));
        with.extend(forward.timeouts.backend_request.map(|time| format!("timeout of an attempt {time:?}")));
        with.extend(forward.faults.iter().map(|fault| named(&fault.origin)));
    }
    with.extend(filters.limits.iter().map(|limit| named(&limit.origin)));
    with.extend(filters.authentication.iter().map(|authentication| named(&authentication.origin)));
    with.extend(filters.authorization.iter().flat_map(|authorization| &authorization.policies).map(|policy| named(&policy.origin)));
    let edits = [("requests", &filters.request), ("answers", &filters.response)];
    with.extend(edits.into_iter().filter(|(_, edits)| !edits.is_empty()).map(|(of, _)| format!("header edits of {of}")));
    with.extend(filters.cors.as_ref().map(|_| "CORS".to_owned()));
    with.extend(filters.grpc_web.then(|| "gRPC-Web".to_owned()));
    with.dedup();
    with
}

/// A policy as its users call it.
fn named(origin: &Origin) -> String {
    format!("{}/{}.{}", origin.kind, origin.name, origin.namespace)
}

fn of_unit(unit: &GatewayUnit) -> Vec<RouteEntry> {
    let port = unit.port;
    match &unit.listening {
        Listening::Http(hosts) => of_hosts(port, hosts).collect(),
        Listening::Tcp(route) => route.iter().map(|route| of_bytes(port, None, BYTES, route)).collect(),
        Listening::Udp(route) => route.iter().map(|route| of_bytes(port, None, "datagrams", route)).collect(),
        Listening::Egress(rules) => rules.iter().map(|rule| of_egress(port, rule)).collect(),
        Listening::Tls(chains) => {
            let of_chain = |chain: &lorica_model::snapshot::TlsChain| -> Vec<RouteEntry> {
                let name = || Some(chain.server_name.to_string());
                match &chain.action {
                    TlsAction::Passthrough(route) => vec![of_bytes(port, name(), "TLS, passed through", route)],
                    TlsAction::Terminate { then: Terminated::Http(hosts), .. } => of_hosts(port, hosts).collect(),
                    TlsAction::Terminate { then: Terminated::Tcp(route), .. } => {
                        route.iter().map(|route| of_bytes(port, name(), "bytes in TLS", route)).collect()
                    }
                }
            };
            chains.iter().flat_map(of_chain).collect()
        }
    }
}

fn of_hosts(port: u16, hosts: &Hosts) -> impl Iterator<Item = RouteEntry> {
    hosts.all().iter().flat_map(move |host| host.rules.iter().map(move |rule| of_rule(port, Some(host.host.to_string()), rule)))
}

fn of_bytes(port: u16, host: Option<String>, takes: &str, route: &TransportRoute) -> RouteEntry {
    let policies = route.authorization.iter().flat_map(|authorization| &authorization.policies);
    RouteEntry {
        port,
        host,
        takes: takes.to_owned(),
        to: shown_backends(&route.backends),
        with: policies.map(|policy| named(&policy.origin)).collect(),
        by: route.origin.to_string(),
    }
}

fn of_egress(port: u16, rule: &EgressRule) -> RouteEntry {
    let to = match &rule.via {
        Some(Backend::Port(port)) => format!("through {port}"),
        Some(Backend::Missing { name }) => format!("through {name} (missing)"),
        None => "outside".to_owned(),
    };
    let ports = rule.ports.iter().map(u16::to_string).collect::<Vec<_>>().join(", ");
    let takes = if ports.is_empty() { "calls".to_owned() } else { format!("calls to port {ports}") };
    RouteEntry { port, host: Some(rule.host.to_string()), takes, to, with: Vec::new(), by: rule.origin.to_string() }
}
