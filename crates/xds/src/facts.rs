//! What Lorica's proxy needs and Envoy's types have no field for, written into `metadata.filter_metadata["lorica"]`
//! of the resource concerned. Other clients pass it over; Lorica's refuses a field that it does not know.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::Metadata;
use lorica_model::name::{Label, ServiceName, ServicePort, WorkloadName};
use lorica_model::snapshot::{
    Affinity, AttemptTrial, Authentication, AuthenticationTrial, Authorization, Cors, EgressRule, Fault, Forward, HashOn, Hedge, MtlsMode,
    Origin, PathEdit, Protocol, RateLimit, Retry, Telemetry, Traffic, TransportRoute,
};
use lorica_model::spiffe::SpiffeId;
use serde::{Deserialize, Serialize};

use crate::node::KEY;
use crate::value::to_struct;

/// Where Envoy looks up by which transport an endpoint is reached.
pub(crate) const TRANSPORT_MATCH: &str = "envoy.transport_socket_match";

/// Of an outbound listener.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ListenerFacts {
    pub(crate) protocol: Protocol,
    pub(crate) http_only: bool,
    /// What connections meet whose bytes are not looked at.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) faults: Vec<Fault>,
}

/// Of a route.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RouteFacts {
    pub(crate) origin: Origin,
    /// The prefix as written, where Envoy's matcher takes another spelling.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) prefix: Option<String>,
    /// How the path is replaced: Envoy's expressions have no exact inverse.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) path: Option<PathEdit>,
    /// Whose scripts may read answers: Envoy's lists have no exact inverse.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) cors: Option<Cors>,
    /// What a rule of no weight says, which Envoy is told to answer with 500 by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) unanswered: Option<Forward>,
    /// How many requests may come: Envoy's fields say it apart.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) limits: Vec<RateLimit>,
    /// How requests are tried again, and to which endpoint they belong: Envoy's fields say less.
    #[serde(default, skip_serializing_if = "AttemptFacts::is_default")]
    pub(crate) attempt: AttemptFacts,
    /// What requests meet first: Envoy's filter says less.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) faults: Vec<Fault>,
    /// Which tokens are asked for: Envoy's filter says it apart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) authentication: Option<Arc<Authentication>>,
    /// Who may ask: Envoy's filter says it otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) authorization: Option<Arc<Authorization>>,
    /// What policies that are tried ask of callers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) tried: Vec<AuthenticationTrial>,
}

/// What a rule says of attempts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct AttemptFacts {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) limit: Option<Duration>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) stream: Option<Duration>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) retry: Option<Retry>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) hedge: Option<Hedge>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) hash: Vec<HashOn>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) affinity: Option<Affinity>,
    /// What policies that are tried say of them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) tried: Vec<AttemptTrial>,
}

impl AttemptFacts {
    pub(crate) fn of(forward: &Forward) -> Self {
        Self {
            limit: forward.timeouts.backend_request,
            stream: forward.timeouts.stream,
            retry: Some(forward.retry.clone()).filter(|retry| *retry != Retry::default()),
            hedge: forward.hedge,
            hash: forward.hash.clone(),
            affinity: forward.affinity.clone(),
            tried: forward.tried.clone(),
        }
    }

    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// Of a chain that passes bytes on: whose route says where to.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TransportFacts {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) route: Option<TransportRoute>,
}

/// Of the listener of a gateway.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct GatewayFacts {
    /// Of one for calls that leave the mesh: what may.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) rules: Option<Vec<EgressRule>>,
    /// What is told of exchanges: Envoy's fields say less, and apart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) telemetry: Option<Arc<Telemetry>>,
}

/// Of the listener of a gateway that takes datagrams.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DatagramFacts {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) route: Option<TransportRoute>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) telemetry: Option<Arc<Telemetry>>,
}

/// Of a cluster.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ClusterFacts {
    pub(crate) protocol: Protocol,
    /// The service port whose name is sent as SNI, where it is another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) server: Option<ServicePort>,
    /// What holds for calls to the endpoints, where it is not what holds without a policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) traffic: Option<Traffic>,
}

/// Of an endpoint.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct EndpointFacts {
    pub(crate) workload: WorkloadName,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) version: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) virtual_address: Option<Ipv4Addr>,
    /// Whether it takes streams: what Envoy need not know.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) streams: bool,
}

/// Of an inbound listener.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct InboundFacts {
    pub(crate) workload: WorkloadName,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) service: Option<ServiceName>,
    pub(crate) account: Label,
    pub(crate) identity: SpiffeId,
    pub(crate) virtual_v4: Ipv4Addr,
    pub(crate) virtual_v6: Ipv6Addr,
    pub(crate) withdrawn: bool,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) limits: Vec<RateLimit>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) authentication: Option<Arc<Authentication>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) authorization: Option<Arc<Authorization>>,
    /// What policies that are tried ask of callers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) tried: Vec<AuthenticationTrial>,
    /// What is told of exchanges: Envoy's fields say less.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) telemetry: Option<Arc<Telemetry>>,
}

/// Of one app port, on its filter chain for mutual TLS.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct InboundPortFacts {
    pub(crate) service_port: ServicePort,
    pub(crate) app_port: u16,
    pub(crate) protocol: Protocol,
    pub(crate) mtls: MtlsMode,
}

/// Metadata that holds `facts` alone.
pub(crate) fn metadata(facts: &impl Serialize) -> Metadata {
    Metadata { filter_metadata: [(KEY.to_owned(), to_struct(facts))].into(), ..Metadata::default() }
}
