//! The control plane and its proxies, as they are now.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use lorica_api::{AuthorityStatus, PortStatus, ProxyStatus, Status};
use lorica_model::compile::{self, RegisteredWorkload, World};
use lorica_model::name::{ServicePort, WorkloadName};
use lorica_model::resource::Kind;

use crate::mesh::Proxy;
use crate::{ControlPlane, timestamp};

pub(super) async fn status(State(control): State<Arc<ControlPlane>>) -> Json<Status> {
    let seen = control.mesh.seen();
    let authority = control.ca.authority();
    let (root, intermediate) = (authority.root_end(), authority.intermediate_validity().1);
    Json(Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        started_at: timestamp(control.started_at),
        trust_domain: authority.trust_domain().to_string(),
        revision: seen.revision.0,
        state_directory: control.state_directory.display().to_string(),
        socket: control.socket.display().to_string(),
        authority: AuthorityStatus { root_not_after: timestamp(root), intermediate_not_after: timestamp(intermediate) },
        services: seen.published.resources.iter().filter(|resource| resource.kind == Kind::Service).count(),
        resources: seen.published.resources.len(),
        without_endpoints: without_endpoints(&seen.published.world()),
        proxies: seen.proxies.into_iter().map(proxy).collect(),
        held_back: seen.held_back.iter().map(ToString::to_string).collect(),
        telemetry: control.telemetry,
    })
}

/// Egress gateways aside, which are found by their proxies. A service whose routes lead to others needs no endpoint of its own.
fn without_endpoints(world: &World<'_>) -> Vec<ServicePort> {
    let known = |port: &ServicePort| world.resources.service(&port.service).is_some();
    let empty = |port: &ServicePort| compile::endpoints(world, port).is_none_or(|set| set.endpoints.is_empty());
    let needed = |port: &ServicePort| {
        let unit = compile::outbound(world, &port.service.namespace, port);
        unit.is_none_or(|unit| !unit.http_only || unit.rules.iter().any(|rule| rule.leads_to().any(|to| to == port)))
    };
    compile::outbound_ports(world).filter(|port| known(port) && empty(port) && needed(port)).collect()
}

fn proxy((id, workload, proxy): (WorkloadName, RegisteredWorkload, Proxy)) -> ProxyStatus {
    ProxyStatus {
        id,
        service: workload.service,
        account: workload.account,
        version_label: workload.version,
        locality: Some(workload.locality.to_string()).filter(|text| !text.is_empty()),
        software: proxy.software,
        connected: proxy.session.is_some(),
        since: timestamp(proxy.since),
        clock_ahead_ms: proxy.clock_ahead,
        listening: workload.ports.iter().filter(|port| port.listening).map(|port| port.app_port).collect(),
        ports: workload
            .ports
            .into_iter()
            .map(|port| PortStatus {
                service_port: port.service_port,
                app_port: port.app_port,
                protocol: port.protocol,
                address: port.address,
            })
            .collect(),
        draining: workload.draining,
        metrics: proxy.metrics,
        virtual_address: workload.addresses.v4,
        certificate_not_after: proxy.certificate_not_after.map(timestamp),
        last_ack: proxy.last_ack,
        last_nack: proxy.last_nack,
    }
}
