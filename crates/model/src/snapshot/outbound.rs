//! The outbound of a service port as seen from one namespace: where its calls go, and what holds on the way.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use regex::Regex;
use serde::{Deserialize, Serialize};

use super::Origin;
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
    pub rules: Vec<HttpRule>,
    /// Whether a user wrote HTTP rules: then bytes that are no HTTP are refused, as they would pass the rules by.
    pub http_only: bool,
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
}

/// One rule: the first that matches decides.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HttpRule {
    /// The place it was written in. Shared, as every record of an exchange names it.
    pub origin: Arc<Origin>,
    /// What it takes.
    pub matches: RouteMatch,
    /// Where it leads. Empty, or of no weight: 500, as the Gateway API has it.
    pub backends: Vec<WeightedBackend>,
    /// How long it may take.
    pub timeouts: Timeouts,
}

/// What a rule takes: all of it must hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteMatch {
    /// The path.
    pub path: PathMatch,
    /// The method.
    pub method: Option<String>,
    /// Header fields, by lower-case name.
    pub headers: Vec<FieldMatch>,
    /// Query parameters.
    pub query: Vec<FieldMatch>,
}

impl RouteMatch {
    /// Takes every request.
    #[must_use]
    pub fn any() -> Self {
        Self { path: PathMatch::Prefix("/".to_owned()), method: None, headers: Vec::new(), query: Vec::new() }
    }
}

/// How a path is matched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PathMatch {
    /// The path is this.
    Exact(String),
    /// The path begins with this, whole elements only: `/a` takes `/a` and `/a/b`, not `/ab`.
    Prefix(String),
    /// The whole path matches this.
    Regex(Pattern),
}

/// A named value that must be there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldMatch {
    /// The field's name, in lower case for headers.
    pub name: String,
    /// What its value must be.
    pub value: ValueMatch,
}

/// How a value is matched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ValueMatch {
    /// The value is this.
    Exact(String),
    /// The whole value matches this.
    Regex(Pattern),
}

/// A regular expression that is matched against a whole text, in time linear in it.
#[derive(Clone)]
pub struct Pattern(Regex);

impl Pattern {
    /// Compiles `text`. A pattern may take at most 64 KiB when compiled, so that no route fills a proxy's memory.
    ///
    /// # Errors
    /// The expression's own error.
    pub fn new(text: &str) -> Result<Self, regex::Error> {
        // Checked on its own first, so that `a)(b` cannot close the anchor's group.
        regex::RegexBuilder::new(text).size_limit(64 * 1024).build()?;
        regex::RegexBuilder::new(&format!("^(?:{text})$")).size_limit(128 * 1024).build().map(Self)
    }

    /// Whether the whole of `text` matches.
    #[must_use]
    pub fn matches(&self, text: &str) -> bool {
        self.0.is_match(text)
    }

    /// The expression as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        let anchored = self.0.as_str();
        anchored.strip_prefix("^(?:").and_then(|rest| rest.strip_suffix(")$")).unwrap_or(anchored)
    }
}
impl std::fmt::Debug for Pattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "/{}/", self.as_str())
    }
}
impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}
impl Eq for Pattern {}
impl Serialize for Pattern {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}
impl<'de> Deserialize<'de> for Pattern {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::new(&text).map_err(serde::de::Error::custom)
    }
}

/// A backend and its share.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WeightedBackend {
    /// Its share of the rule's requests, relative to the others'. 0: none.
    pub weight: u32,
    /// Where it leads.
    pub backend: Backend,
}

/// Where a share of a rule's requests goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Backend {
    /// To a service port.
    Port(ServicePort),
    /// Nowhere: what was named does not exist (any more). Its share is answered with 500, as the Gateway API has it.
    Missing {
        /// What was named.
        name: String,
    },
}

/// How long a rule's requests may take. `None`: no limit, as long as something moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timeouts {
    /// From the end of the request's head to the end of the answer, all attempts together.
    pub request: Option<Duration>,
    /// The same for one attempt.
    pub backend_request: Option<Duration>,
    /// How long neither side may send a byte.
    pub idle: Option<Duration>,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { request: None, backend_request: None, idle: Some(DEFAULT_IDLE_TIMEOUT) }
    }
}
