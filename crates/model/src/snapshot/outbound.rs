//! The outbound of a service port as seen from one namespace: where its calls go, and what holds on the way.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{BackendTls, Fault, RuleTable, Traffic};
use crate::name::ServicePort;
use crate::spiffe::SpiffeId;

/// How long connecting to an endpoint may take, TLS included, unless a policy says otherwise. Envoy's and Consul's default;
/// a healthy endpoint of a mesh answers in milliseconds, a lost SYN is sent again after one second and three.
pub const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an exchange may be silent in both directions before it is ended. Envoy's stream idle timeout.
pub const DEFAULT_IDLE_TIMEOUT: Duration = Duration::from_secs(300);
/// How long an idle pooled connection is kept. Shorter than the idle timeouts of common servers (Node.js 5 s, uvicorn 5 s), as a
/// connection reused while its server closes it is the best known source of 503s; Linkerd's default.
pub const DEFAULT_POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(3);

/// What a port speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// Nothing was declared: the first bytes decide.
    #[default]
    Detect,
    /// HTTP/1.1 or HTTP/2, as the caller speaks it.
    Http,
    /// HTTP/2 only; HTTP/1 callers are spoken for.
    Http2,
    /// gRPC, on HTTP/2.
    Grpc,
    /// Bytes.
    Tcp,
}

impl Protocol {
    /// Whether requests are looked at.
    #[must_use]
    pub const fn is_http(self) -> bool {
        matches!(self, Self::Http | Self::Http2 | Self::Grpc)
    }
}

/// The outbound of a service port as seen from one namespace.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OutboundUnit {
    /// The service port: the unit's key, together with the namespace of the session that it is sent to.
    pub port: ServicePort,
    /// The service's virtual address.
    pub virtual_v4: Ipv4Addr,
    /// The same for IPv6.
    pub virtual_v6: Ipv6Addr,
    /// What the port speaks.
    pub protocol: Protocol,
    /// The rules for HTTP in the order in which they are tried. Never empty: without a route there is one rule for all.
    pub rules: RuleTable,
    /// Whether a user wrote HTTP rules: then bytes that are no HTTP are refused, as they would pass the rules by.
    pub http_only: bool,
    /// The faults that connections meet whose bytes are not looked at. Those of requests stand with the rules.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub faults: Vec<Fault>,
    /// How the service port itself is reached, by TCP and by rules that name it. Other backends have units of their own.
    pub cluster: Cluster,
}

/// How the endpoints of a service port are reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cluster {
    /// The service port whose endpoints they are.
    pub port: ServicePort,
    /// What the port speaks.
    pub protocol: Protocol,
    /// The identities that its endpoints may prove: those of the accounts of the service's workloads.
    pub accepted: BTreeSet<SpiffeId>,
    /// How long connecting may take, TLS included.
    pub connect_timeout: Duration,
    /// The service port whose name is sent as SNI: its own, or that of the service whose subset it is.
    pub server: ServicePort,
    /// TLS towards endpoints that are reached in plaintext otherwise: what a BackendTLSPolicy says.
    pub tls: Option<BackendTls>,
    /// What holds for calls to them.
    pub traffic: Traffic,
}
