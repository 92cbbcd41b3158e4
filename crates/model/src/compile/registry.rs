//! Who is there: services with their addresses and workloads with what they registered, as the control plane knows them.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::name::{GatewayName, Label, ServiceName, WorkloadName};
use crate::resource::Resources;
use crate::snapshot::{Locality, Protocol, Transport};
use crate::spiffe::TrustDomain;
use crate::spiffe_bundle::SpiffeBundle;

/// A virtual address of each family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct VirtualAddresses {
    /// In 240.0.0.0/12.
    pub v4: Ipv4Addr,
    /// In the mesh's ULA range.
    pub v6: Ipv6Addr,
}

impl VirtualAddresses {
    /// Those of who has none: 0.0.0.0 and ::.
    pub const NONE: Self = Self { v4: Ipv4Addr::UNSPECIFIED, v6: Ipv6Addr::UNSPECIFIED };
}

/// Who is there.
#[derive(Debug, Clone, Default)]
pub struct Registry {
    /// The addresses of every service.
    pub services: BTreeMap<ServiceName, VirtualAddresses>,
    /// The workloads that registered.
    pub workloads: BTreeMap<WorkloadName, RegisteredWorkload>,
    /// The key sets that policies name, by their address, as far as they were fetched.
    pub key_sets: BTreeMap<String, KnownKeys>,
    /// The bundles of other trust domains that are fetched, as far as they were.
    pub bundles: BTreeMap<TrustDomain, KnownBundle>,
}

/// What is known of a bundle that is fetched.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KnownBundle {
    /// The bundle that was fetched last.
    pub bundle: Option<Arc<SpiffeBundle>>,
    /// Why the last attempt to fetch it failed.
    pub problem: Option<String>,
}

/// What is known of a key set that is fetched.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KnownKeys {
    /// The set that was fetched last.
    pub keys: Option<Arc<str>>,
    /// Why the last attempt to fetch it failed.
    pub problem: Option<String>,
}

impl Registry {
    /// The services of `resources` without addresses, for a mesh that nobody looks names up in, and nobody registered.
    #[must_use]
    pub fn without_addresses(resources: &Resources) -> Self {
        let named = resources.services().filter_map(|(metadata, _)| metadata.service());
        let services = named.map(|name| (name, VirtualAddresses::NONE)).collect();
        Self { services, ..Self::default() }
    }
}

/// A workload that registered by its proxy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegisteredWorkload {
    /// The service that it is an instance of; none for a mere client.
    pub service: Option<ServiceName>,
    /// The account whose identity it has.
    pub account: Label,
    /// Its version label.
    pub version: Option<String>,
    /// Its share of calls among equals.
    pub weight: u32,
    /// How its proxy is reached.
    pub transport: Transport,
    /// Where it runs.
    pub locality: Locality,
    /// Its own virtual addresses.
    pub addresses: VirtualAddresses,
    /// Its ports.
    pub ports: Vec<RegisteredPort>,
    /// The gateway that it runs; none for a workload with an app.
    #[serde(default)]
    pub gateway: Option<RegisteredGateway>,
    /// Whether it is about to end.
    pub draining: bool,
    /// Whether every caller's proxy has acknowledged that it is no endpoint any more.
    pub withdrawn: bool,
}

/// A gateway that a workload runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegisteredGateway {
    /// The gateway.
    pub name: GatewayName,
    /// Where the proxies of the mesh reach each of its listener ports.
    #[serde(default)]
    pub binds: BTreeMap<u16, SocketAddr>,
    /// The address of those that `binds` does not name: an Envoy says so ahead, a Lorica proxy binds before it tells.
    #[serde(default)]
    pub elsewhere: Option<IpAddr>,
}

impl RegisteredGateway {
    /// Where a listener port is bound.
    #[must_use]
    pub fn address(&self, port: u16) -> Option<IpAddr> {
        self.binds.get(&port).map(SocketAddr::ip).or(self.elsewhere)
    }
}

/// A port of a registered workload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegisteredPort {
    /// The port that callers use.
    pub service_port: u16,
    /// The port that the app listens on.
    pub app_port: u16,
    /// What it speaks.
    pub protocol: Protocol,
    /// Where its proxy takes calls for it.
    pub address: SocketAddr,
    /// Whether the app listens now: only then is it an endpoint.
    pub listening: bool,
}
