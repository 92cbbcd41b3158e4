//! Routes: which requests, connections or datagrams go where. The Gateway API's, as written.

use std::ops::Range;
use std::time::Duration;

use crate::name::{Namespace, ObjectName, ServiceName};
use crate::snapshot::{Cors, HeaderEdits, HostPattern, RouteMatch, Share};

/// `HTTPRoute` and `GRPCRoute`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpRoute {
    /// Whose requests it routes.
    pub parents: Vec<ParentRef>,
    /// The hosts that it is for; none: all that its parents take.
    pub hostnames: Vec<HostPattern>,
    /// Its rules.
    pub rules: Vec<RouteRule>,
}

/// `TCPRoute`, `TLSRoute` and `UDPRoute`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransportRoute {
    /// Whose connections it routes.
    pub parents: Vec<ParentRef>,
    /// `TLSRoute`: the server names that it is for; none: all that its parents take.
    pub hostnames: Vec<HostPattern>,
    /// Its rules. Nothing tells them apart, so only the first counts.
    pub rules: Vec<TransportRouteRule>,
}

/// A rule for bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransportRouteRule {
    /// Where they go.
    pub backends: Vec<BackendRef>,
    /// Its place.
    pub span: Range<usize>,
}

/// A reference to an object by group, kind and name. Nothing says that it exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectRef {
    /// The group; empty for Kubernetes' core, and for Services of `lorica.io`.
    pub group: String,
    /// The kind: `Service`, `Secret`.
    pub kind: String,
    /// The namespace: the resource's own where none is written.
    pub namespace: Namespace,
    /// The name.
    pub name: ObjectName,
    /// The place of the name, for diagnostics.
    pub span: Range<usize>,
}

impl ObjectRef {
    /// Whether a Service is meant: Kubernetes' or ours, which are one to routes.
    #[must_use]
    pub fn is_service(&self) -> bool {
        self.kind == "Service" && self.group.is_empty()
    }

    /// The service that is meant, if it is one and any can have its name.
    #[must_use]
    pub fn service(&self) -> Option<ServiceName> {
        self.is_service().then(|| self.name.label()).flatten().map(|name| ServiceName::new(self.namespace.clone(), name))
    }
}

/// What a route is attached to: a Service (calls inside the mesh), a Gateway, or a ListenerSet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParentRef {
    /// The object.
    pub object: ObjectRef,
    /// One of its ports; none: all.
    pub port: Option<u16>,
    /// The name of one of its listeners; none: all.
    pub section: Option<String>,
    /// The place of its port, or of its name where it names none.
    pub port_span: Range<usize>,
    /// The reference as it was written, with the API's defaults, for the status: it is told back the same.
    pub written: serde_json::Value,
}

/// A rule of a route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteRule {
    /// Its name, where it has one.
    pub name: Option<String>,
    /// What it takes; any of them. Never empty.
    pub matches: Vec<(RouteMatch, Range<usize>)>,
    /// What is done with the requests that it takes.
    pub filters: Vec<(HttpFilter, Range<usize>)>,
    /// Where it leads.
    pub backends: Vec<BackendRef>,
    /// How long a request may take; 0: for ever. None: as policies have it.
    pub request_timeout: Option<Duration>,
    /// The same for one attempt.
    pub backend_request_timeout: Option<Duration>,
    /// When a request is tried again.
    pub retry: Option<RouteRetry>,
}

/// When a rule's requests are tried again, in the Gateway API's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteRetry {
    /// How often, the first try not counted.
    pub attempts: u32,
    /// The answers after which it is.
    pub codes: Vec<u16>,
    /// How long to wait before each, at least.
    pub backoff: Option<Duration>,
}

impl RouteRule {
    /// The rule of a route that writes none: the specification's default, every request and no backend.
    pub(in crate::resource) fn of_default(span: Range<usize>) -> Self {
        Self {
            name: None,
            matches: vec![(RouteMatch::any(), span)],
            filters: Vec::new(),
            backends: Vec::new(),
            request_timeout: None,
            backend_request_timeout: None,
            retry: None,
        }
    }
}

/// What is done with a request before it goes on, or in place of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HttpFilter {
    /// `RequestHeaderModifier`.
    RequestHeaders(HeaderEdits),
    /// `ResponseHeaderModifier`.
    ResponseHeaders(HeaderEdits),
    /// `RequestMirror`.
    Mirror {
        /// Where copies go. Its weight and filters say nothing.
        backend: Box<BackendRef>,
        /// Which share of requests is copied.
        share: Share,
    },
    /// `RequestRedirect`.
    Redirect {
        /// `http` or `https`.
        scheme: Option<String>,
        /// The host.
        host: Option<String>,
        /// The port as written; what is right without one depends on the listener.
        port: Option<u16>,
        /// The path.
        path: Option<PathModifier>,
        /// The answer's status.
        status: u16,
    },
    /// `URLRewrite`.
    Rewrite {
        /// The host.
        host: Option<String>,
        /// The path.
        path: Option<PathModifier>,
    },
    /// `CORS`.
    Cors(Cors),
    /// `ExtensionRef`, and what this version does not know: such a rule answers with 500, as the specification has it.
    Unknown {
        /// What was named: `ExtensionRef example.com/Filter x`.
        what: String,
    },
}

/// Another path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PathModifier {
    /// `ReplaceFullPath`.
    Full(String),
    /// `ReplacePrefixMatch`: in place of the prefix that the match names.
    Prefix(String),
}

/// Where a share of a rule's requests goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackendRef {
    /// The object: a Service, or what leads nowhere.
    pub object: ObjectRef,
    /// Its port. A Service's must be named.
    pub port: Option<u16>,
    /// Its share.
    pub weight: u32,
    /// What is done with the requests of its share.
    pub filters: Vec<(HttpFilter, Range<usize>)>,
    /// The place of its port.
    pub port_span: Range<usize>,
}
