//! The inbound of one workload: what its proxy takes in, and how.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Authentication, AuthenticationTrial, Authorization, Protocol, RateLimit, Telemetry};
use crate::name::{Label, ServiceName, ServicePort, WorkloadName};
use crate::spiffe::SpiffeId;

/// The inbound of one workload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InboundUnit {
    /// The workload.
    pub workload: WorkloadName,
    /// The service that it is an instance of; none for a mere client.
    pub service: Option<ServiceName>,
    /// The account whose identity it has.
    pub account: Label,
    /// The identity that its SVID carries.
    pub identity: SpiffeId,
    /// Its own virtual address, by which callees see it.
    pub virtual_v4: Ipv4Addr,
    /// The same for IPv6.
    pub virtual_v6: Ipv6Addr,
    /// One entry an app port, ordered by it.
    pub ports: Vec<InboundPort>,
    /// Whether every caller's proxy has acknowledged that this workload is no endpoint any more, so that a drain may go on.
    pub withdrawn: bool,
    /// How many requests may come to its ports for HTTP.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub limits: Vec<RateLimit>,
    /// Which tokens are asked for at its ports; none: nobody looks at tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authentication: Option<Arc<Authentication>>,
    /// Who may do what at its ports. Shared, as what callers may do refers to it.
    #[serde(default, skip_serializing_if = "is_open")]
    pub authorization: Arc<Authorization>,
    /// What policies that are tried ask of callers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tried: Vec<AuthenticationTrial>,
    /// What its proxy tells of exchanges, those that its app begins among them; none: what the proxy was told at its start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub telemetry: Option<Arc<Telemetry>>,
}

fn is_open(authorization: &Arc<Authorization>) -> bool {
    authorization.is_empty()
}

/// One app port of a workload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InboundPort {
    /// The service port that leads here; its SNI is the only mesh name taken.
    pub service_port: ServicePort,
    /// The port that the app listens on.
    pub app_port: u16,
    /// What the port speaks.
    pub protocol: Protocol,
    /// Whether callers must prove who they are.
    pub mtls: MtlsMode,
}

/// Whether callers must prove who they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MtlsMode {
    /// Mutual TLS only. The default.
    #[default]
    Strict,
    /// Mutual TLS or plaintext, for a migration.
    Permissive,
}
