//! The endpoints of a service port: live, beside the units, so that what a proxy knows of them outlives a route's change.

use std::net::{Ipv4Addr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::name::{ServicePort, WorkloadName};

/// The endpoints of one service port that may be called.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointSet {
    /// The service port.
    pub port: ServicePort,
    /// Ordered by workload, then address.
    pub endpoints: Vec<Endpoint>,
}

/// One address:port for exactly one workload and one of its app ports.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Endpoint {
    /// The workload.
    pub workload: WorkloadName,
    /// Where its proxy (or, in plaintext, its app) is reached.
    pub address: SocketAddr,
    /// How it is reached: the registry's word, from which nothing falls back.
    pub transport: Transport,
    /// Its share of calls among equals; 1 unless said otherwise, never 0.
    pub weight: u32,
    /// The version label of the workload: `v2`.
    pub version: Option<String>,
    /// The workload's own virtual address.
    pub virtual_address: Option<Ipv4Addr>,
    /// Where it runs.
    pub locality: Locality,
}

/// How an endpoint is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Transport {
    /// Mutual TLS, with the identity checked on both sides.
    MutualTls,
    /// The same, by a Lorica proxy: it takes HTTP/1 and TCP as streams of one connection, so that a new stream costs no handshake.
    Lorica,
    /// Plaintext: the service is declared so, or the endpoint is outside the mesh.
    Plaintext,
}

/// Where an endpoint runs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Locality {
    /// `eu-central`.
    pub region: String,
    /// `eu-central-1a`.
    pub zone: String,
}
