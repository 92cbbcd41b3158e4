//! What is made to fail, as written.

use std::ops::Range;
use std::time::SystemTime;

use crate::name::{Label, ObjectName};
use crate::resource::Kind;
use crate::snapshot::{Abort, Bandwidth, Delay, EgressCaller, FieldMatch, NameAnswer, Share};

/// `FaultPolicy`: what calls are made to meet, for a test, until a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FaultPolicy {
    /// Whose calls; none: those of every service of its namespace.
    pub targets: Vec<FaultTarget>,
    /// When it stops. There is no default: what nobody remembers must end by itself.
    pub ends: SystemTime,
    /// The place of that time, for diagnostics.
    pub ends_span: Range<usize>,
    /// Only requests with these header fields.
    pub headers: Vec<FieldMatch>,
    /// Only calls of these; none: all.
    pub callers: Vec<EgressCaller>,
    /// How long calls wait.
    pub delay: Option<Delay>,
    /// Which share is reset.
    pub reset: Option<Share>,
    /// What is answered in place of the service.
    pub abort: Option<Abort>,
    /// The place of that answer, for diagnostics.
    pub abort_span: Range<usize>,
    /// How slowly answers come.
    pub bandwidth: Option<Bandwidth>,
    /// What questions for the service's name are answered with, and which share of them.
    pub dns: Option<(Share, NameAnswer)>,
    /// The place of that answer, for diagnostics.
    pub dns_span: Range<usize>,
    /// Whether it is only counted what it would do.
    pub shadow: bool,
}

/// Whose calls a FaultPolicy is about: things of its namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FaultTarget {
    /// Calls of a service.
    Service {
        /// Its name.
        name: Label,
        /// The place of the name, for diagnostics.
        span: Range<usize>,
    },
    /// Requests that the rules of a route take.
    Route {
        /// `HTTPRoute` or `GRPCRoute`.
        kind: Kind,
        /// Its name.
        name: ObjectName,
        /// The place of the name, for diagnostics.
        span: Range<usize>,
    },
}

impl FaultPolicy {
    /// Whether requests or connections meet something, not only questions for names.
    #[must_use]
    pub fn has_faults(&self) -> bool {
        self.delay.is_some() || self.reset.is_some() || self.abort.is_some() || self.bandwidth.is_some()
    }

    /// Whether calls of the services named so are meant.
    #[must_use]
    pub fn is_about(&self, service: &Label) -> bool {
        self.targets.is_empty() || self.targets.iter().any(|target| matches!(target, FaultTarget::Service { name, .. } if name == service))
    }

    /// Whether requests are meant that the rules of this route take.
    #[must_use]
    pub fn is_about_route(&self, route: (&str, &str)) -> bool {
        self.targets.iter().any(|target| matches!(target, FaultTarget::Route { kind, name, .. } if (kind.as_str(), name.as_str()) == route))
    }
}
