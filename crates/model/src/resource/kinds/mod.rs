//! What each kind means, checked: the only form in which the rest of the program sees a resource.

mod authentication;
mod authorization;
mod egress;
mod fault;
mod gateway;
mod rate_limit;
mod route;
mod telemetry;
mod traffic;
mod trust_bundle;
mod workload_identity;

pub use authentication::{AuthenticationPolicy, AuthenticationTarget, KeySource, WrittenKeys, WrittenProvider, WrittenTokens};
pub use authorization::{
    AuthorizationPolicy, AuthorizationTarget, IdentityOf, WrittenAccessRule, WrittenAuthorizer, WrittenCondition, WrittenIdentity,
    WrittenOperation, WrittenSource,
};
pub use egress::{EgressAllow, EgressPolicy, EgressTarget};
pub use fault::{FaultPolicy, FaultTarget};
pub use gateway::{
    AllowedRoutes, BackendTlsPolicy, ConfigMap, EGRESS_PROTOCOL, Gateway, GatewayAddress, GatewayClass, Grant, GrantFrom, GrantTo,
    Listener, ListenerProtocol, ListenerSet, ListenerTls, NamespacesFrom, ReferenceGrant, Secret, TlsMode, TlsPolicyTarget, Validation,
};
pub use rate_limit::{RateLimitPolicy, RateLimitTarget, WrittenCounted, WrittenLimit, WrittenService};
pub use route::{
    BackendRef, HttpFilter, HttpRoute, ObjectRef, ParentRef, PathModifier, RouteRetry, RouteRule, TransportRoute, TransportRouteRule,
};
pub use telemetry::{TelemetryPolicy, TelemetryTarget, WrittenAccessLog, WrittenTracing};
pub use traffic::{About, Mode, Set, SettingNames, Settings, TrafficPolicy, TrafficTarget};
pub use trust_bundle::{BundleEndpoint, EndpointProfile, TrustBundle};
pub use workload_identity::WorkloadIdentity;

use std::net::IpAddr;
use std::ops::Range;

use crate::name::{Label, ServiceName};
use crate::snapshot::{Locality, Protocol, Transport};
use crate::spiffe::SpiffeId;

/// What a resource says.
#[derive(Debug, Clone)]
pub enum Spec {
    /// `Service`.
    Service(Service),
    /// `Workload`.
    Workload(Workload),
    /// `WorkloadIdentity`.
    WorkloadIdentity(WorkloadIdentity),
    /// `TrustBundle`.
    TrustBundle(TrustBundle),
    /// `AuthenticationPolicy`.
    AuthenticationPolicy(AuthenticationPolicy),
    /// `AuthorizationPolicy`.
    AuthorizationPolicy(AuthorizationPolicy),
    /// `TrafficPolicy`.
    TrafficPolicy(Box<TrafficPolicy>),
    /// `EgressPolicy`.
    EgressPolicy(EgressPolicy),
    /// `RateLimitPolicy`.
    RateLimitPolicy(RateLimitPolicy),
    /// `FaultPolicy`.
    FaultPolicy(FaultPolicy),
    /// `TelemetryPolicy`.
    TelemetryPolicy(Box<TelemetryPolicy>),
    /// `HTTPRoute`.
    HttpRoute(HttpRoute),
    /// `GRPCRoute`: its matches are those of the HTTP that gRPC is.
    GrpcRoute(HttpRoute),
    /// `TCPRoute`.
    TcpRoute(TransportRoute),
    /// `TLSRoute`.
    TlsRoute(TransportRoute),
    /// `UDPRoute`.
    UdpRoute(TransportRoute),
    /// `GatewayClass`.
    GatewayClass(GatewayClass),
    /// `Gateway`.
    Gateway(Box<Gateway>),
    /// `ListenerSet`.
    ListenerSet(ListenerSet),
    /// `ReferenceGrant`.
    ReferenceGrant(ReferenceGrant),
    /// `BackendTLSPolicy`.
    BackendTlsPolicy(BackendTlsPolicy),
    /// Kubernetes' `Namespace`: its labels are what selectors look at.
    Namespace,
    /// Kubernetes' `Secret`.
    Secret(Secret),
    /// Kubernetes' `ConfigMap`.
    ConfigMap(ConfigMap),
}

impl Spec {
    /// Whether it is a policy that is tried, or that tries a part of what it says: it is only counted what that would do.
    #[must_use]
    pub fn is_tried(&self) -> bool {
        match self {
            Self::AuthenticationPolicy(policy) => policy.shadow,
            Self::AuthorizationPolicy(policy) => policy.shadow,
            Self::TrafficPolicy(policy) => policy.shadow,
            Self::EgressPolicy(policy) => policy.shadow,
            Self::RateLimitPolicy(policy) => policy.shadow || policy.limits.iter().any(|limit| limit.shadow),
            Self::FaultPolicy(policy) => policy.shadow,
            Self::TelemetryPolicy(_)
            | Self::Service(_)
            | Self::Workload(_)
            | Self::WorkloadIdentity(_)
            | Self::TrustBundle(_)
            | Self::HttpRoute(_)
            | Self::GrpcRoute(_)
            | Self::TcpRoute(_)
            | Self::TlsRoute(_)
            | Self::UdpRoute(_)
            | Self::GatewayClass(_)
            | Self::Gateway(_)
            | Self::ListenerSet(_)
            | Self::ReferenceGrant(_)
            | Self::BackendTlsPolicy(_)
            | Self::Namespace
            | Self::Secret(_)
            | Self::ConfigMap(_) => false,
        }
    }
}

/// A named set of endpoints with ports.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Service {
    /// Its ports.
    pub ports: Vec<ServicePortSpec>,
    /// The accounts under which its workloads run, besides those registered.
    pub accounts: Vec<Label>,
    /// The service of which it is the workloads of one version. Its ports are then that one's.
    pub subset: Option<Subset>,
    /// The name that it has in the mesh of its workloads, where that is another mesh and another name.
    pub known_as: Option<ServiceName>,
}

/// The workloads of one version of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subset {
    /// The service, in the same namespace.
    pub of: ServiceName,
    /// The version label.
    pub version: String,
    /// The place of the service's name, for diagnostics.
    pub span: Range<usize>,
}

/// A port of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePortSpec {
    /// The port that callers use.
    pub port: u16,
    /// Its name, where it has one.
    pub name: Option<Label>,
    /// What it speaks.
    pub protocol: Protocol,
    /// Whether it speaks that in TLS of its own: a BackendTLSPolicy says whom to trust there.
    pub in_tls: bool,
    /// Its place, for diagnostics.
    pub span: Range<usize>,
}

impl Service {
    /// The port of a number.
    #[must_use]
    pub fn port(&self, port: u16) -> Option<&ServicePortSpec> {
        self.ports.iter().find(|spec| spec.port == port)
    }
}

/// A workload that no proxy registers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workload {
    /// The service that it is an instance of.
    pub service: ServiceName,
    /// Where `service` stands, for diagnostics.
    pub service_span: Range<usize>,
    /// The account whose identity it has; none: the service's name.
    pub account: Option<Label>,
    /// The identity that it has in another mesh; none: it is of this one.
    pub identity: Option<ForeignIdentity>,
    /// Where it is reached.
    pub address: IpAddr,
    /// Its ports.
    pub ports: Vec<WorkloadPort>,
    /// Its version label.
    pub version: Option<String>,
    /// Its share of calls among equals.
    pub weight: u32,
    /// Where it runs.
    pub locality: Locality,
    /// How it is reached.
    pub transport: Transport,
}

/// The identity of a workload of another mesh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForeignIdentity {
    /// The identity.
    pub id: SpiffeId,
    /// Its place, for diagnostics.
    pub span: Range<usize>,
}

/// A port of a workload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkloadPort {
    /// The service port that leads to it.
    pub service_port: u16,
    /// The port at its address.
    pub port: u16,
    /// Its place, for diagnostics.
    pub span: Range<usize>,
}
