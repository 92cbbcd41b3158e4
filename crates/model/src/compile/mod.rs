//! Resources and registry in, units out: one pure function, used by the control plane to push and by the command line to
//! check. Whatever is missing in the world is taken, with the Gateway API's answer to it: the world changes later.

mod authentication;
mod authorization;
mod egress;
mod fault;
mod federation;
mod gateway;
mod listeners;
mod outbound;
mod rate_limit;
mod reference;
mod registry;
mod rules;
mod status;
mod telemetry;
mod tls;
mod traffic;
mod tried;
mod whole;

pub use authentication::mtls;
pub use authorization::of_service as authorization;
pub use egress::{egress, egress_ports};
pub use federation::federated;
pub use gateway::{backend_certificate, gateway};
pub use listeners::{CLASS, CONTROLLER};
pub use outbound::outbound;
pub use rate_limit::global_limit;
pub use reference::{TLS_FILES, certificate};
pub use registry::{KnownBundle, KnownKeys, RegisteredGateway, RegisteredPort, RegisteredWorkload, Registry, VirtualAddresses};
pub use status::{Condition, status};
pub use traffic::{Effective, EffectiveRule, SaidBy, effective, traffic};
pub use whole::snapshot;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::name::{GatewayName, Namespace, ServicePort, WorkloadName};
use crate::resource::Resources;
use crate::snapshot::{Endpoint, EndpointSet, InboundPort, InboundUnit, MtlsMode, NameRecord, NameTable, Transport};
use crate::spiffe::{SpiffeId, TrustDomain};

/// All that units are made of.
#[derive(Debug, Clone, Copy)]
pub struct World<'w> {
    /// What users wrote.
    pub resources: &'w Resources,
    /// Who is there.
    pub registry: &'w Registry,
    /// Whose identities they have.
    pub trust_domain: &'w TrustDomain,
}

/// The names of every namespace.
#[must_use]
pub fn names(world: &World<'_>) -> BTreeMap<Namespace, NameTable> {
    let mut tables: BTreeMap<Namespace, NameTable> = BTreeMap::new();
    for (metadata, _) in world.resources.services() {
        let Some(name) = metadata.service() else { continue };
        if let Some(addresses) = world.registry.services.get(&name) {
            let table = tables
                .entry(name.namespace.clone())
                .or_insert_with(|| NameTable { namespace: name.namespace.clone(), records: Vec::new() });
            table.records.push(NameRecord { name: name.name, v4: addresses.v4, v6: addresses.v6 });
        }
    }
    tables
}

/// Every service port that there is.
pub fn outbound_ports<'w>(world: &'w World<'w>) -> impl Iterator<Item = ServicePort> + use<'w> {
    let named = world.resources.services().filter_map(|(metadata, service)| Some((metadata.service()?, service)));
    named.flat_map(|(name, service)| {
        let of = service.subset.as_ref().and_then(|subset| world.resources.service(&subset.of)).map_or(service, |(_, base)| base);
        of.ports.iter().map(move |port| ServicePort { service: name.clone(), port: port.port })
    })
}

/// The endpoints of a service port that may be called; none where the port does not exist.
#[must_use]
pub fn endpoints(world: &World<'_>, port: &ServicePort) -> Option<EndpointSet> {
    if let Some(gateway) = egress::gateway(world, port) {
        return Some(EndpointSet { port: port.clone(), endpoints: proxies(world, &gateway, port.port) });
    }
    let found = world.port(port)?;
    let of_version = |version: Option<&String>| found.version.is_none_or(|wanted| version.is_some_and(|version| version == wanted));
    let mut endpoints = Vec::new();
    for (name, workload) in &world.registry.workloads {
        if workload.service.as_ref() != Some(&found.workloads_of) || workload.draining || !of_version(workload.version.as_ref()) {
            continue;
        }
        let listening = workload.ports.iter().filter(|known| known.service_port == port.port && known.listening);
        endpoints.extend(listening.map(|known| Endpoint {
            workload: name.clone(),
            address: known.address,
            transport: workload.transport,
            weight: workload.weight.max(1),
            version: workload.version.clone(),
            virtual_address: Some(workload.addresses.v4),
            locality: workload.locality.clone(),
        }));
    }
    let written =
        world.resources.workloads().filter(|(_, workload)| workload.service == found.workloads_of && of_version(workload.version.as_ref()));
    for (metadata, workload) in written {
        let Some(label) = metadata.name.label() else { continue };
        let name = WorkloadName::new(metadata.namespace.clone(), label);
        endpoints.extend(workload.ports.iter().filter(|known| known.service_port == port.port).map(|known| Endpoint {
            workload: name.clone(),
            address: SocketAddr::new(workload.address, known.port),
            transport: workload.transport,
            weight: workload.weight,
            version: workload.version.clone(),
            virtual_address: None,
            locality: workload.locality.clone(),
        }));
    }
    endpoints.sort();
    Some(EndpointSet { port: port.clone(), endpoints })
}

/// The proxies of an egress gateway.
fn proxies(world: &World<'_>, gateway: &GatewayName, port: u16) -> Vec<Endpoint> {
    let running = world.proxies(gateway).filter(|(_, workload)| !workload.draining);
    let found = running.filter_map(|(name, workload)| {
        let address = *workload.gateway.as_ref()?.binds.get(&port)?;
        Some(Endpoint {
            workload: name.clone(),
            address,
            transport: Transport::MutualTls,
            weight: workload.weight.max(1),
            version: workload.version.clone(),
            virtual_address: Some(workload.addresses.v4),
            locality: workload.locality.clone(),
        })
    });
    found.collect()
}

/// The inbound of a registered workload.
#[must_use]
pub fn inbound(world: &World<'_>, name: &WorkloadName) -> Option<InboundUnit> {
    let workload = world.registry.workloads.get(name)?;
    let service = workload.service.as_ref();
    let mtls = service.map_or(MtlsMode::Strict, |service| authentication::mtls(world, service));
    let mut ports: Vec<_> = service
        .into_iter()
        .flat_map(|service| {
            workload.ports.iter().map(move |port| {
                let declared =
                    world.resources.service(service).and_then(|(_, spec)| spec.port(port.service_port)).map(|spec| spec.protocol);
                InboundPort {
                    service_port: ServicePort { service: service.clone(), port: port.service_port },
                    app_port: port.app_port,
                    protocol: declared.unwrap_or(port.protocol),
                    mtls,
                }
            })
        })
        .collect();
    ports.sort_by_key(|port| port.app_port);
    Some(InboundUnit {
        workload: name.clone(),
        service: workload.service.clone(),
        account: workload.account.clone(),
        identity: SpiffeId::of_account(world.trust_domain, &name.namespace, &workload.account),
        virtual_v4: workload.addresses.v4,
        virtual_v6: workload.addresses.v6,
        ports,
        withdrawn: workload.withdrawn,
        limits: service.map(|service| rate_limit::of_service(world, service)).unwrap_or_default(),
        authentication: service.and_then(|service| authentication::of_service(world, service)),
        authorization: Arc::new(service.map(|service| authorization::of_service(world, service)).unwrap_or_default()),
        tried: service.map(|service| authentication::tried_at_service(world, service)).unwrap_or_default(),
        telemetry: telemetry::of_workload(world, &name.namespace, service),
    })
}

#[cfg(test)]
mod tests;
