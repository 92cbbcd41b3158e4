//! What a proxy runs: units, each complete in itself, and the pure decisions on them.
//!
//! `compile` makes units of resources; `lorica-xds` writes them as Envoy's types and reads them back; a proxy keeps
//! the newest complete one of each key. Endpoints are no part of units: they are live sets per service port.
//! Nothing here knows where a resource was stored, or what time it is.

mod attempt;
mod authentication;
mod authorization;
mod authorizer;
mod egress;
mod endpoint;
mod evasion;
mod fault;
mod gateway;
mod inbound;
mod names;
mod origin;
mod outbound;
mod pattern;
mod rate_limit;
mod revoked;
mod rule;
mod shown;
mod table;
mod telemetry;
mod traffic;
mod trial;
mod version;

pub mod hash;
pub mod lease;
pub mod route;

pub use attempt::{Affinity, HashOn, Hedge, Pause, Retry, RetryOn, Timeouts};
pub use authentication::{Authentication, ClaimHeader, DEFAULT_LEEWAY, TokenAlgorithm, TokenPlace, TokenProvider};
pub(crate) use authorization::method_of;
pub use authorization::{
    Access, AccessAction, AccessCaller, AccessPolicy, AccessRule, Among, Authorization, ByPolicy, ClaimMatch, Denial, IdentityPattern,
    Noted, Operation, PathPattern, PathPatternError, Permissions, PolicySay, Reading, Source, each_policy,
};
pub use authorizer::{Authorizer, AuthorizerProtocol, ShownBody, is_beyond_authorizers};
pub use egress::{EgressCaller, EgressHost, EgressRule, EgressUnit, Unlisted, Verdict, is_special, listed};
pub use endpoint::{Endpoint, EndpointSet, Locality, LocalityError, Transport};
pub use evasion::evades;
pub use fault::{
    Abort, AbortAnswer, Bandwidth, Delay, DelayTime, Fault, FaultCall, FaultCaller, Injected, InjectedEnd, NameAnswer, NameFault, inject,
    inject_name, tried_faults, tried_names,
};
pub use gateway::{
    BackendTls, Certificate, ClientValidation, GatewayUnit, HostPattern, Hosts, Listening, PrivateKey, ServerTls, Terminated, TlsAction,
    TlsChain, TransportRoute, VirtualHost, without_port,
};
pub use inbound::{InboundPort, InboundUnit, MtlsMode};
pub use names::{NameRecord, NameTable};
pub use origin::Origin;
pub use outbound::{Cluster, DEFAULT_CONNECT_TIMEOUT, DEFAULT_IDLE_TIMEOUT, DEFAULT_POOL_IDLE_TIMEOUT, OutboundUnit, Protocol};
pub use pattern::{Pattern, PatternError, PatternSet};
pub use rate_limit::{Asking, Counted, KeyPart, LimitService, NO_VALUE, Quota, Rate, RateLimit, Unavailable, told, whole_seconds};
pub use revoked::{MOST_REVOKED, Revoked};
pub use rule::{
    Action, Backend, Cors, FieldMatch, Filters, Forward, HeaderEdits, HttpRule, Mirror, OriginMatch, PathEdit, PathMatch, Redirect,
    RouteMatch, Share, ValueMatch, WeightedBackend,
};
pub use shown::backends as shown_backends;
pub use table::RuleTable;
pub use telemetry::{AccessLog, AccessLogFormat, LogTarget, Slow, Telemetry, Tracing};
pub use traffic::{
    Adaptive, Algorithm, Balancing, Connections, Ejection, FailurePercentage, HealthCheck, HealthQuestion, Limits, Nearness, RetryLimit,
    SlowStart, SuccessRate, Traffic,
};
pub use trial::{AttemptTrial, AuthenticationTrial, Effect, Effects, EgressTrial, TrafficTrial};
pub use version::Version;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::name::{Namespace, ServicePort};
use crate::spiffe::TrustDomain;

/// All that a proxy knows: replaced as a whole by whoever receives units, read by workers. An exchange keeps the
/// units that it began with by their `Arc`s.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// The names of every namespace.
    pub names: BTreeMap<Namespace, Arc<NameTable>>,
    /// The service ports that the app has called, and those that their routes lead to.
    pub outbound: HashMap<ServicePort, Arc<OutboundUnit>>,
    /// Service ports that were asked for and do not exist.
    pub absent: BTreeSet<ServicePort>,
    /// The endpoints of the service ports, and of those that their routes lead to.
    pub endpoints: HashMap<ServicePort, Arc<EndpointSet>>,
    /// The workload's own inbound.
    pub inbound: Option<Arc<InboundUnit>>,
    /// What the app may call outside the mesh.
    pub egress: Option<Arc<EgressUnit>>,
    /// The listener ports of the gateway that this proxy runs.
    pub gateway: BTreeMap<u16, Arc<GatewayUnit>>,
    /// The roots to trust.
    pub bundle: Option<Arc<TrustBundle>>,
}

impl Snapshot {
    /// What is told of exchanges here: at a gateway what its ports say, which is the same at all, else what the workload's inbound does.
    #[must_use]
    pub fn telemetry(&self) -> Option<&Arc<Telemetry>> {
        let of_gateway = self.gateway.values().find_map(|unit| unit.telemetry.as_ref());
        of_gateway.or_else(|| self.inbound.as_ref()?.telemetry.as_ref())
    }

    /// The same in memory of its own: threads that each read one never meet at a count of references.
    #[must_use]
    pub fn unshared(&self) -> Self {
        let own = |unit: &Arc<OutboundUnit>| Arc::new((**unit).clone());
        Self {
            names: self.names.iter().map(|(name, table)| (name.clone(), Arc::new((**table).clone()))).collect(),
            outbound: self.outbound.iter().map(|(port, unit)| (port.clone(), own(unit))).collect(),
            absent: self.absent.clone(),
            endpoints: self.endpoints.iter().map(|(port, set)| (port.clone(), Arc::new((**set).clone()))).collect(),
            inbound: self.inbound.as_ref().map(|inbound| Arc::new((**inbound).clone())),
            egress: self.egress.as_ref().map(|egress| Arc::new((**egress).clone())),
            gateway: self.gateway.iter().map(|(port, unit)| (*port, Arc::new((**unit).clone()))).collect(),
            bundle: self.bundle.as_ref().map(|bundle| Arc::new((**bundle).clone())),
        }
    }
}

/// The roots that a proxy of this trust domain trusts, as DER certificates: each for identities of its own trust domain and no other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrustBundle {
    /// Whose roots they are.
    pub trust_domain: TrustDomain,
    /// DER certificates. SVIDs are issued from the first; one from another root is renewed at once.
    pub roots: Vec<Vec<u8>>,
    /// The roots of the trust domains that this one federates with.
    #[serde(default)]
    pub federated: BTreeMap<TrustDomain, Vec<Vec<u8>>>,
    /// Whose certificates are refused although they hold.
    #[serde(default)]
    pub revoked: Revoked,
    /// The same for a stock Envoy: DER revocation lists of every authority of the mesh's own roots; empty: it looks for none.
    #[serde(default)]
    pub revocation_lists: Vec<Vec<u8>>,
}

impl TrustBundle {
    /// The roots of a trust domain, where nobody is revoked.
    #[must_use]
    pub fn new(trust_domain: TrustDomain, roots: Vec<Vec<u8>>) -> Self {
        Self { trust_domain, roots, federated: BTreeMap::new(), revoked: Revoked::default(), revocation_lists: Vec::new() }
    }

    /// Whether another bundle has the same roots, whoever is revoked.
    #[must_use]
    pub fn has_roots_of(&self, other: &Self) -> bool {
        self.trust_domain == other.trust_domain && self.roots == other.roots && self.federated == other.federated
    }
}
