//! How many requests may come, as written.

use std::ops::Range;
use std::time::Duration;

use super::ObjectRef;
use crate::name::ServicePort;
use crate::resource::Kind;
use crate::snapshot::{KeyPart, Quota, RouteMatch, Unavailable};

/// `RateLimitPolicy`: how many requests may come to services, gateways and routes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RateLimitPolicy {
    /// Whose requests it limits; none: those to every service of its namespace.
    pub targets: Vec<RateLimitTarget>,
    /// The limits. A request must pass all that are about it. Never empty.
    pub limits: Vec<WrittenLimit>,
    /// The rate limit service that limits of the scope `Service` ask.
    pub service: Option<WrittenService>,
    /// Whether requests past any of its limits are counted and passed on all the same.
    pub shadow: bool,
}

/// Whose requests a RateLimitPolicy limits: what is in its own namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RateLimitTarget {
    /// Service, Gateway, HTTPRoute or GRPCRoute.
    pub kind: Kind,
    /// The object.
    pub object: ObjectRef,
}

/// A limit of a policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrittenLimit {
    /// Its name, of its own in its policy.
    pub name: String,
    /// The place of its name.
    pub span: Range<usize>,
    /// What it counts, and who does.
    pub counted: WrittenCounted,
    /// What it counts apart.
    pub key: Vec<KeyPart>,
    /// The requests that it is about; none: all.
    pub matches: Option<RouteMatch>,
    /// Whether requests past it are counted and passed on all the same.
    pub shadow: bool,
}

/// What a limit counts, and who does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WrittenCounted {
    /// Requests, by each proxy for itself.
    Local(Quota),
    /// Requests at all proxies together.
    Global(Quota, Unavailable),
    /// Requests under way at once, by each proxy for itself.
    Concurrent(u32),
    /// What the policy's `service` counts.
    Service,
}

/// An existing rate limit service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrittenService {
    /// Where it is.
    pub port: ServicePort,
    /// The place of its name.
    pub span: Range<usize>,
    /// The place of its port.
    pub port_span: Range<usize>,
    /// The domain that it is asked about.
    pub domain: String,
    /// How long it may take to answer.
    pub timeout: Duration,
    /// Whether requests pass where it does not answer.
    pub fail_open: bool,
}
