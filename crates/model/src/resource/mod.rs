//! What users write: YAML or JSON in, checked resources out, or diagnostics that point at what is wrong.
//!
//! `tree` reads text with the place of every value, `reader` takes objects apart strictly (at the door) or leniently (from
//! the store), `kinds` holds what a resource means, `check` what only all resources together can tell. Nothing behind
//! this folder checks a resource again.

mod check;
mod diagnostic;
mod kinds;
mod nearest;
mod read;
mod reader;
mod tree;

pub use check::{Options, beyond_envoy, check, over};
pub use diagnostic::{Diagnostic, Severity};
pub use kinds::{
    About, AllowedRoutes, AuthenticationPolicy, AuthenticationTarget, AuthorizationPolicy, AuthorizationTarget, BackendRef,
    BackendTlsPolicy, BundleEndpoint, ConfigMap, EGRESS_PROTOCOL, EgressAllow, EgressPolicy, EgressTarget, EndpointProfile, FaultPolicy,
    FaultTarget, ForeignIdentity, Gateway, GatewayAddress, GatewayClass, Grant, GrantFrom, GrantTo, HttpFilter, HttpRoute, IdentityOf,
    KeySource, Listener, ListenerProtocol, ListenerSet, ListenerTls, Mode, NamespacesFrom, ObjectRef, ParentRef, PathModifier,
    RateLimitPolicy, RateLimitTarget, ReferenceGrant, RouteRetry, RouteRule, Secret, Service, ServicePortSpec, Set, SettingNames, Settings,
    Spec, Subset, TelemetryPolicy, TelemetryTarget, TlsMode, TlsPolicyTarget, TrafficPolicy, TrafficTarget, TransportRoute,
    TransportRouteRule, TrustBundle, Validation, Workload, WorkloadIdentity, WorkloadPort, WrittenAccessLog, WrittenAccessRule,
    WrittenAuthorizer, WrittenCondition, WrittenCounted, WrittenIdentity, WrittenKeys, WrittenLimit, WrittenOperation, WrittenProvider,
    WrittenService, WrittenSource, WrittenTokens, WrittenTracing,
};
pub use nearest::nearest;
pub use read::{ANY_SERVICE, Document, read, stored};

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::name::{Namespace, ObjectName, ServiceName};

macro_rules! kinds {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, $api:expr, $plural:literal, $short:literal;)+) => {
        /// The kinds of resources, in the order in which a change set stores them: what is referred to first.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum Kind {
            $($(#[$doc])* #[serde(rename = $name)] $variant,)+
        }

        impl Kind {
            /// Every kind.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The kind's name in resources.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }

            /// The apiVersion of its resources.
            #[must_use]
            pub const fn api_version(self) -> &'static str {
                match self { $(Self::$variant => $api),+ }
            }

            /// The plural, in lower case.
            #[must_use]
            pub const fn plural(self) -> &'static str {
                match self { $(Self::$variant => $plural),+ }
            }

            /// The short form, for those who type it often.
            #[must_use]
            pub const fn short(self) -> &'static str {
                match self { $(Self::$variant => $short),+ }
            }
        }
    };
}

impl Kind {
    /// The policies that can be tried.
    pub const POLICIES: [Self; 6] = [
        Self::AuthenticationPolicy,
        Self::AuthorizationPolicy,
        Self::TrafficPolicy,
        Self::EgressPolicy,
        Self::RateLimitPolicy,
        Self::FaultPolicy,
    ];
}

/// Our own API group and version.
pub const LORICA_API: &str = "lorica.io/v1alpha1";
/// The Gateway API's.
pub const GATEWAY_API: &str = "gateway.networking.k8s.io/v1";
/// The Gateway API's group.
pub const GATEWAY_GROUP: &str = "gateway.networking.k8s.io";
/// Kubernetes' own.
pub const CORE_API: &str = "v1";

kinds! {
    /// Kubernetes' namespace: its labels are what selectors look at.
    Namespace = "Namespace", CORE_API, "namespaces", "ns";
    /// Kubernetes' secret: certificates with their keys.
    Secret = "Secret", CORE_API, "secrets", "secret";
    /// Kubernetes' map of texts: roots to trust.
    ConfigMap = "ConfigMap", CORE_API, "configmaps", "cm";
    /// A named set of endpoints.
    Service = "Service", LORICA_API, "services", "svc";
    /// A workload that no proxy registers by itself.
    Workload = "Workload", LORICA_API, "workloads", "wl";
    /// Which processes of a host may have which identity.
    WorkloadIdentity = "WorkloadIdentity", LORICA_API, "workloadidentities", "wlid";
    /// The roots and keys of another trust domain.
    TrustBundle = "TrustBundle", LORICA_API, "trustbundles", "tb";
    /// How callers of services prove who they are.
    AuthenticationPolicy = "AuthenticationPolicy", LORICA_API, "authenticationpolicies", "authn";
    /// Who may do what.
    AuthorizationPolicy = "AuthorizationPolicy", LORICA_API, "authorizationpolicies", "authz";
    /// How calls are balanced, limited, timed and tried again.
    TrafficPolicy = "TrafficPolicy", LORICA_API, "trafficpolicies", "tp";
    /// What may leave the mesh.
    EgressPolicy = "EgressPolicy", LORICA_API, "egresspolicies", "egress";
    /// How many requests may come.
    RateLimitPolicy = "RateLimitPolicy", LORICA_API, "ratelimitpolicies", "rl";
    /// What is made to fail, for a test.
    FaultPolicy = "FaultPolicy", LORICA_API, "faultpolicies", "fault";
    /// What is told of exchanges.
    TelemetryPolicy = "TelemetryPolicy", LORICA_API, "telemetrypolicies", "telemetry";
    /// Who may refer to resources of another namespace.
    ReferenceGrant = "ReferenceGrant", GATEWAY_API, "referencegrants", "refgrant";
    /// TLS towards backends that are no part of the mesh.
    BackendTlsPolicy = "BackendTLSPolicy", GATEWAY_API, "backendtlspolicies", "btlspolicy";
    /// Who carries gateways out.
    GatewayClass = "GatewayClass", GATEWAY_API, "gatewayclasses", "gc";
    /// Where calls from outside come in, or go out.
    Gateway = "Gateway", GATEWAY_API, "gateways", "gtw";
    /// More listeners for a gateway.
    ListenerSet = "ListenerSet", GATEWAY_API, "listenersets", "lset";
    /// The Gateway API's route for HTTP.
    HttpRoute = "HTTPRoute", GATEWAY_API, "httproutes", "route";
    /// The same for gRPC.
    GrpcRoute = "GRPCRoute", GATEWAY_API, "grpcroutes", "grpcroute";
    /// The same for TLS by server name.
    TlsRoute = "TLSRoute", GATEWAY_API, "tlsroutes", "tlsroute";
    /// The same for TCP.
    TcpRoute = "TCPRoute", GATEWAY_API, "tcproutes", "tcproute";
    /// The same for UDP.
    UdpRoute = "UDPRoute", GATEWAY_API, "udproutes", "udproute";
}

impl Kind {
    /// Whether its resources are of the whole mesh. They are kept in the namespace `default`.
    #[must_use]
    pub const fn is_mesh_wide(self) -> bool {
        matches!(self, Self::Namespace | Self::GatewayClass | Self::TrustBundle)
    }

    /// The kind that a person means: in any case, singular, plural or short.
    #[must_use]
    pub fn named(text: &str) -> Option<Self> {
        let text = text.to_ascii_lowercase();
        Self::ALL.iter().copied().find(|kind| {
            let name = kind.as_str().to_ascii_lowercase();
            text == name || text == kind.plural() || text == kind.short()
        })
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What every resource has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metadata {
    /// Its name in its namespace.
    pub name: ObjectName,
    /// Its namespace.
    pub namespace: Namespace,
    /// Counted up by each change of its spec; 0 before it is stored.
    pub generation: u64,
    /// When it was first stored, RFC 3339; empty before.
    pub created_at: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
}

impl Metadata {
    /// The name as a service's; none where no service can have it.
    #[must_use]
    pub fn service(&self) -> Option<ServiceName> {
        Some(ServiceName::new(self.namespace.clone(), self.name.label()?))
    }
}

/// The annotation of a Service that a workload declared, because no resource did.
pub const DECLARED_BY: &str = "lorica.io/declared-by";

/// A resource.
#[derive(Debug, Clone)]
pub struct Resource {
    /// Its kind.
    pub kind: Kind,
    /// What every resource has.
    pub metadata: Metadata,
    /// What it says.
    pub spec: Spec,
    /// The document as it was written, fields of later versions among it, so that they are written back.
    pub document: serde_json::Value,
}

/// What tells resources apart.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Key {
    /// The kind.
    pub kind: Kind,
    /// The namespace.
    pub namespace: Namespace,
    /// The name.
    pub name: ObjectName,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}.{}", self.kind, self.name, self.namespace)
    }
}

impl Resource {
    /// What tells it apart.
    #[must_use]
    pub fn key(&self) -> Key {
        Key { kind: self.kind, namespace: self.metadata.namespace.clone(), name: self.metadata.name.clone() }
    }

    /// Whether a workload declared it, because no resource did.
    #[must_use]
    pub fn is_declared(&self) -> bool {
        self.metadata.annotations.contains_key(DECLARED_BY)
    }
}

/// All resources of a mesh, in order.
#[derive(Debug, Clone, Default)]
pub struct Resources(BTreeMap<Key, Resource>);

impl Resources {
    /// Adds a resource, in place of the one of its key.
    pub fn insert(&mut self, resource: Resource) -> Option<Resource> {
        self.0.insert(resource.key(), resource)
    }

    /// Takes a resource out.
    pub fn remove(&mut self, key: &Key) -> Option<Resource> {
        self.0.remove(key)
    }

    /// The resource of a key.
    #[must_use]
    pub fn get(&self, key: &Key) -> Option<&Resource> {
        self.0.get(key)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Resource> {
        self.0.values()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The service of a name.
    #[must_use]
    pub fn service(&self, name: &crate::name::ServiceName) -> Option<(&Metadata, &Service)> {
        let key = Key { kind: Kind::Service, namespace: name.namespace.clone(), name: name.name.clone().into() };
        match self.0.get(&key) {
            Some(Resource { metadata, spec: Spec::Service(service), .. }) => Some((metadata, service)),
            _ => None,
        }
    }

    /// All services.
    pub fn services(&self) -> impl Iterator<Item = (&Metadata, &Service)> {
        self.iter()
            .filter_map(|resource| if let Spec::Service(service) = &resource.spec { Some((&resource.metadata, service)) } else { None })
    }

    /// All routes for HTTP and gRPC.
    pub fn routes(&self) -> impl Iterator<Item = (Kind, &Metadata, &HttpRoute)> {
        self.iter().filter_map(|resource| match &resource.spec {
            Spec::HttpRoute(route) | Spec::GrpcRoute(route) => Some((resource.kind, &resource.metadata, route)),
            _ => None,
        })
    }

    /// All routes for bytes: TCP, TLS, UDP.
    pub fn transport_routes(&self) -> impl Iterator<Item = (Kind, &Metadata, &TransportRoute)> {
        self.iter().filter_map(|resource| match &resource.spec {
            Spec::TcpRoute(route) | Spec::TlsRoute(route) | Spec::UdpRoute(route) => Some((resource.kind, &resource.metadata, route)),
            _ => None,
        })
    }

    /// The resource of a kind and name.
    #[must_use]
    pub fn of(&self, kind: Kind, namespace: &Namespace, name: &ObjectName) -> Option<&Resource> {
        self.0.get(&Key { kind, namespace: namespace.clone(), name: name.clone() })
    }

    /// The resources of a kind, in order.
    pub fn of_kind(&self, kind: Kind) -> impl Iterator<Item = &Resource> {
        self.iter().filter(move |resource| resource.kind == kind)
    }

    /// The gateway of a name.
    #[must_use]
    pub fn gateway(&self, namespace: &Namespace, name: &ObjectName) -> Option<(&Metadata, &Gateway)> {
        match self.of(Kind::Gateway, namespace, name) {
            Some(Resource { metadata, spec: Spec::Gateway(gateway), .. }) => Some((metadata, gateway)),
            _ => None,
        }
    }

    /// The labels of a namespace.
    #[must_use]
    pub fn namespace_labels(&self, namespace: &Namespace) -> Option<&BTreeMap<String, String>> {
        let name = ObjectName::new(namespace.as_str()).ok()?;
        self.of(Kind::Namespace, &Namespace::default(), &name).map(|resource| &resource.metadata.labels)
    }

    /// Whether resources of `from` (group, kind, namespace) may refer to `to`: those of their own namespace, and what a ReferenceGrant allows.
    #[must_use]
    pub fn grants(&self, from: (&str, Kind, &Namespace), to: &ObjectRef) -> bool {
        let (group, kind, namespace) = from;
        namespace == &to.namespace
            || self.of_kind(Kind::ReferenceGrant).filter(|resource| resource.metadata.namespace == to.namespace).any(|resource| {
                let Spec::ReferenceGrant(ReferenceGrant { grant }) = &resource.spec else { return false };
                grant.from.iter().any(|from| from.group == group && from.kind == kind.as_str() && from.namespace == *namespace)
                    && grant.to.iter().any(|known| {
                        known.group == to.group && known.kind == to.kind && known.name.as_ref().is_none_or(|name| *name == to.name)
                    })
            })
    }

    /// All workloads that no proxy registers.
    pub fn workloads(&self) -> impl Iterator<Item = (&Metadata, &Workload)> {
        self.iter()
            .filter_map(|resource| if let Spec::Workload(workload) = &resource.spec { Some((&resource.metadata, workload)) } else { None })
    }

    /// Which processes may have which identity.
    pub fn workload_identities(&self) -> impl Iterator<Item = (&Metadata, &WorkloadIdentity)> {
        self.of_kind(Kind::WorkloadIdentity).filter_map(|resource| {
            if let Spec::WorkloadIdentity(identity) = &resource.spec { Some((&resource.metadata, identity)) } else { None }
        })
    }

    /// Which other trust domains are verified.
    pub fn trust_bundles(&self) -> impl Iterator<Item = (&Metadata, &TrustBundle)> {
        self.of_kind(Kind::TrustBundle)
            .filter_map(|resource| if let Spec::TrustBundle(bundle) = &resource.spec { Some((&resource.metadata, bundle)) } else { None })
    }

    /// All traffic policies.
    pub fn traffic(&self) -> impl Iterator<Item = (&Metadata, &TrafficPolicy)> {
        self.of_kind(Kind::TrafficPolicy).filter_map(|resource| {
            if let Spec::TrafficPolicy(policy) = &resource.spec { Some((&resource.metadata, &**policy)) } else { None }
        })
    }

    /// All authorization policies.
    pub fn authorization(&self) -> impl Iterator<Item = (&Metadata, &AuthorizationPolicy)> {
        self.of_kind(Kind::AuthorizationPolicy).filter_map(|resource| {
            if let Spec::AuthorizationPolicy(policy) = &resource.spec { Some((&resource.metadata, policy)) } else { None }
        })
    }

    /// All egress policies.
    pub fn egress(&self) -> impl Iterator<Item = (&Metadata, &EgressPolicy)> {
        self.of_kind(Kind::EgressPolicy)
            .filter_map(|resource| if let Spec::EgressPolicy(policy) = &resource.spec { Some((&resource.metadata, policy)) } else { None })
    }

    /// All rate limit policies.
    pub fn rate_limits(&self) -> impl Iterator<Item = (&Metadata, &RateLimitPolicy)> {
        self.of_kind(Kind::RateLimitPolicy).filter_map(|resource| {
            if let Spec::RateLimitPolicy(policy) = &resource.spec { Some((&resource.metadata, policy)) } else { None }
        })
    }

    /// All fault policies.
    pub fn faults(&self) -> impl Iterator<Item = (&Metadata, &FaultPolicy)> {
        self.of_kind(Kind::FaultPolicy)
            .filter_map(|resource| if let Spec::FaultPolicy(policy) = &resource.spec { Some((&resource.metadata, policy)) } else { None })
    }

    /// All telemetry policies.
    pub fn telemetry(&self) -> impl Iterator<Item = (&Metadata, &TelemetryPolicy)> {
        self.of_kind(Kind::TelemetryPolicy).filter_map(|resource| {
            if let Spec::TelemetryPolicy(policy) = &resource.spec { Some((&resource.metadata, &**policy)) } else { None }
        })
    }

    /// What of them is in force at `now`: all but the faults that are over.
    #[must_use]
    pub fn in_force(self: &Arc<Self>, now: SystemTime) -> Arc<Self> {
        let is_over = |resource: &Resource| matches!(&resource.spec, Spec::FaultPolicy(policy) if policy.ends <= now);
        if !self.of_kind(Kind::FaultPolicy).any(is_over) {
            return self.clone();
        }
        let left = self.0.iter().filter(|(_, resource)| !is_over(resource));
        Arc::new(Self(left.map(|(key, resource)| (key.clone(), resource.clone())).collect()))
    }

    /// All authentication policies.
    pub fn authentication(&self) -> impl Iterator<Item = (&Metadata, &AuthenticationPolicy)> {
        self.iter().filter_map(|resource| {
            if let Spec::AuthenticationPolicy(policy) = &resource.spec { Some((&resource.metadata, policy)) } else { None }
        })
    }
}

#[cfg(test)]
mod tests;
