//! What proxies tell of exchanges, as written.

use std::ops::Range;

use super::ObjectRef;
use crate::name::{GatewayName, ServiceName};
use crate::resource::Kind;
use crate::snapshot::{AccessLog, Tracing};

/// `TelemetryPolicy`: which exchanges are kept whole, and what is logged of which.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TelemetryPolicy {
    /// Whose proxies it is about; none: those of every workload and gateway of its namespace.
    pub targets: Vec<TelemetryTarget>,
    /// Which exchanges are kept whole.
    pub tracing: Option<WrittenTracing>,
    /// What is logged.
    pub access_log: Option<WrittenAccessLog>,
}

/// Whose proxies a TelemetryPolicy is about, in its own namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TelemetryTarget {
    /// Service or Gateway.
    pub kind: Kind,
    /// The object.
    pub object: ObjectRef,
}

/// What a policy says of traces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrittenTracing {
    /// Which exchanges are kept.
    pub tracing: Tracing,
    /// Its place.
    pub span: Range<usize>,
}

/// What a policy says of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrittenAccessLog {
    /// What is logged.
    pub log: AccessLog,
    /// Its place.
    pub span: Range<usize>,
}

impl TelemetryPolicy {
    /// Whether it names the service.
    #[must_use]
    pub fn names_service(&self, service: &ServiceName) -> bool {
        self.targets.iter().any(|target| target.kind == Kind::Service && target.object.name == service.name)
    }

    /// Whether it names the gateway.
    #[must_use]
    pub fn names_gateway(&self, gateway: &GatewayName) -> bool {
        self.targets.iter().any(|target| target.kind == Kind::Gateway && target.object.name == gateway.name)
    }
}
