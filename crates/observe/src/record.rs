//! The record of an exchange: all that is said of it afterwards, written once when its later direction has ended.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use lorica_model::reason::Reason;

use crate::trace::Span;

/// What a label says where nothing is known. Never empty: dashboards join on it.
pub const UNKNOWN: &str = "unknown";

/// Which side of a call tells of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reporter {
    /// The caller's proxy.
    Source,
    /// The callee's proxy.
    Destination,
}

impl Reporter {
    /// The value of the `reporter` label.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Destination => "destination",
        }
    }
}

/// What an exchange spoke, as `request_protocol` says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// HTTP.
    Http,
    /// gRPC.
    Grpc,
    /// Bytes.
    Tcp,
}

impl Protocol {
    /// The value of the `request_protocol` label.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Grpc => "grpc",
            Self::Tcp => "tcp",
        }
    }
}

/// How the connection to the caller was secured, as its callee saw it. The caller's proxy reports `unknown`, as Istio's does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Security {
    /// Mutual TLS.
    MutualTls,
    /// Plaintext.
    None,
    /// Not for this side to say.
    Unknown,
}

impl Security {
    /// The value of the `connection_security_policy` label.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::MutualTls => "mutual_tls",
            Self::None => "none",
            Self::Unknown => UNKNOWN,
        }
    }
}

/// One side of a call. Shared by all records that speak of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Party {
    /// The workload's name: `recording-7f3a2c`.
    pub workload: String,
    /// Its namespace.
    pub namespace: String,
    /// The service that it is an instance of.
    pub service: String,
    /// Its version label.
    pub version: String,
    /// Its SPIFFE ID.
    pub principal: String,
}

impl Default for Party {
    fn default() -> Self {
        let unknown = || UNKNOWN.to_owned();
        Self { workload: unknown(), namespace: unknown(), service: unknown(), version: unknown(), principal: unknown() }
    }
}

/// The service that was called. Known even where nothing was reached.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Called {
    /// `recording.contact.mesh`; the host as named, outside the mesh.
    pub fqdn: String,
    /// `recording`.
    pub name: String,
    /// `contact`.
    pub namespace: String,
}

/// The record of an exchange.
#[derive(Debug, Clone)]
pub struct Record {
    /// Which side tells it.
    pub reporter: Reporter,
    /// Who called.
    pub source: Arc<Party>,
    /// Who answered.
    pub destination: Arc<Party>,
    /// The service that was called.
    pub called: Arc<Called>,
    /// What was spoken.
    pub protocol: Protocol,
    /// How the caller's connection was secured.
    pub security: Security,
    /// Why the mesh itself answered or closed, if it did.
    pub reason: Option<Reason>,
    /// What exactly happened then.
    pub detail: String,
    /// When it began.
    pub start: SystemTime,
    /// From its first byte to its end.
    pub duration: Duration,
    /// Bytes of the request's body, or from the caller.
    pub received: u64,
    /// Bytes of the answer's body, or to the caller.
    pub sent: u64,
    /// The rule that decided, as `HTTPRoute/recording.contact rule 0`.
    pub route: Option<Arc<str>>,
    /// The address that took it.
    pub upstream: Option<SocketAddr>,
    /// The caller's address.
    pub remote: Option<SocketAddr>,
    /// The address that was called.
    pub local: Option<SocketAddr>,
    /// The SNI that the caller sent.
    pub server_name: Option<String>,
    /// What only HTTP has.
    pub http: Option<Http>,
}

/// What only HTTP has.
#[derive(Debug, Clone, Default)]
pub struct Http {
    /// The version: `HTTP/1.1`.
    pub version: &'static str,
    /// The method.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// Host and port as named.
    pub authority: String,
    /// The status; 0 where the caller went away without an answer.
    pub status: u16,
    /// The gRPC status, where there was one.
    pub grpc_status: Option<u32>,
    /// The caller's `user-agent`.
    pub user_agent: Option<String>,
    /// The caller's `x-forwarded-for`.
    pub forwarded_for: Option<String>,
    /// `x-request-id`.
    pub request_id: String,
    /// How often it was sent.
    pub attempts: u32,
    /// From the last attempt's begin to the head of the answer.
    pub upstream_time: Option<Duration>,
    /// The span, where the exchange is traced.
    pub span: Option<Span>,
}

impl Record {
    /// Envoy's response flag; `-` where the mesh had nothing to say.
    #[must_use]
    pub fn flag(&self) -> &'static str {
        self.reason.map_or("-", |reason| reason.meaning().flag)
    }
}
