//! What each kind means, checked: the only form in which the rest of the program sees a resource.

use std::net::IpAddr;
use std::ops::Range;
use std::time::Duration;

use crate::name::{Label, Namespace, ServiceName};
use crate::snapshot::{Locality, MtlsMode, Protocol, RouteMatch, Transport};

/// What a resource says.
#[derive(Debug, Clone)]
pub enum Spec {
    /// `Service`.
    Service(Service),
    /// `Workload`.
    Workload(Workload),
    /// `AuthenticationPolicy`.
    AuthenticationPolicy(AuthenticationPolicy),
    /// `HTTPRoute`.
    HttpRoute(HttpRoute),
}

/// A named set of endpoints with ports.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Service {
    /// Its ports.
    pub ports: Vec<ServicePortSpec>,
    /// The accounts under which its workloads run, besides those registered.
    pub accounts: Vec<Label>,
}

/// A port of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePortSpec {
    /// The port that callers use.
    pub port: u16,
    /// What it speaks.
    pub protocol: Protocol,
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

/// How callers prove who they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthenticationPolicy {
    /// The services that it holds for; none: all of its namespace.
    pub targets: Vec<PolicyTarget>,
    /// The mode.
    pub mtls: MtlsMode,
}

/// A service that a policy holds for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyTarget {
    /// Its name, in the policy's namespace.
    pub name: Label,
    /// Its place, for diagnostics.
    pub span: Range<usize>,
}

/// The Gateway API's route for HTTP, attached to services.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpRoute {
    /// The services whose calls it routes.
    pub parents: Vec<ParentRef>,
    /// Its rules.
    pub rules: Vec<RouteRule>,
}

/// A service whose calls a route takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParentRef {
    /// The service.
    pub service: ServiceName,
    /// One of its ports; none: all.
    pub port: Option<u16>,
    /// The place of its name, for diagnostics.
    pub span: Range<usize>,
    /// The place of its port, or of its name where it names none.
    pub port_span: Range<usize>,
}

/// A rule of a route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteRule {
    /// What it takes; any of them. Never empty.
    pub matches: Vec<(RouteMatch, Range<usize>)>,
    /// Where it leads.
    pub backends: Vec<BackendRef>,
    /// How long a request may take.
    pub request_timeout: Option<Duration>,
    /// How long one attempt may take.
    pub backend_request_timeout: Option<Duration>,
}

impl RouteRule {
    /// The rule of a route that writes none: the specification's default, every request and no backend.
    pub(super) fn of_default(span: Range<usize>) -> Self {
        Self { matches: vec![(RouteMatch::any(), span)], backends: Vec::new(), request_timeout: None, backend_request_timeout: None }
    }
}

/// Where a share of a rule's requests goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackendRef {
    /// The service.
    pub service: ServiceName,
    /// Its port.
    pub port: u16,
    /// Its share.
    pub weight: u32,
    /// The place of its name, for diagnostics.
    pub span: Range<usize>,
    /// The place of its port.
    pub port_span: Range<usize>,
}

/// The namespace of a reference that names none: its resource's own.
pub(super) fn in_namespace(name: Label, namespace: Option<Namespace>, own: &Namespace) -> ServiceName {
    ServiceName::new(namespace.unwrap_or_else(|| own.clone()), name)
}
