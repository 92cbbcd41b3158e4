//! The record of an exchange: all that is said of it afterwards, written once when its later direction has ended.

use std::borrow::Cow;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use lorica_model::head::{Fields, RequestHead};
use lorica_model::reason::Reason;
use lorica_model::snapshot::Origin;

use crate::rules::Rules;
use crate::trace::Span;

/// What a label says where nothing is known. Never empty: dashboards join on it.
pub const UNKNOWN: &str = "unknown";
/// What labels say of exchanges that came past the bound on series.
pub const OTHER: &str = "other";

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
        Self::named(UNKNOWN)
    }
}

impl Party {
    /// A party of which every part is `word`.
    pub(crate) fn named(word: &str) -> Self {
        let word = || word.to_owned();
        Self { workload: word(), namespace: word(), service: word(), version: word(), principal: word() }
    }

    /// `latest` where a workload has no version label, as Istio says it.
    pub(crate) fn revision(&self) -> &str {
        if self.version == UNKNOWN && self.workload != UNKNOWN { "latest" } else { &self.version }
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

impl Called {
    /// A service of which every part is `word`.
    pub(crate) fn named(word: &str) -> Self {
        Self { fqdn: word.to_owned(), name: word.to_owned(), namespace: word.to_owned() }
    }
}

/// What decided where an exchange went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// A rule.
    Rule(Arc<Origin>),
    /// None: the host is outside the mesh.
    Outside,
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rule(origin) => origin.fmt(f),
            Self::Outside => f.write_str("outside"),
        }
    }
}

/// A fault that an exchange met.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FaultMet {
    /// The policy that made it.
    pub by: Arc<Origin>,
    /// Whether it delayed the exchange.
    pub delayed: bool,
}

impl fmt::Display for FaultMet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}.{}", self.by.kind, self.by.name, self.by.namespace)
    }
}

/// The record of an exchange. It borrows what the exchange has, as it is told before the exchange lets go of it.
#[derive(Debug, Clone)]
pub struct Record<'x> {
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
    pub detail: Cow<'x, str>,
    /// The fault that it met, made on purpose.
    pub fault: Option<FaultMet>,
    /// When it began.
    pub start: SystemTime,
    /// From its first byte to its end.
    pub duration: Duration,
    /// Bytes of the request's body, or from the caller.
    pub received: u64,
    /// Bytes of the answer's body, or to the caller.
    pub sent: u64,
    /// What decided, as `HTTPRoute/recording.contact rule 0`.
    pub route: Option<Route>,
    /// The address that took it.
    pub upstream: Option<SocketAddr>,
    /// The proxy's own address towards it.
    pub upstream_local: Option<SocketAddr>,
    /// The caller's address.
    pub remote: Option<SocketAddr>,
    /// The address that was called.
    pub local: Option<SocketAddr>,
    /// The SNI that the caller sent.
    pub server_name: Option<&'x str>,
    /// What only HTTP has.
    pub http: Option<Http<'x>>,
    /// What policies say is told of it; none: what the process was told at its start. Those that held when it began.
    pub rules: Option<Arc<Rules>>,
}

/// What only HTTP has.
#[derive(Debug, Clone, Default)]
pub struct Http<'x> {
    /// The version: `HTTP/1.1`.
    pub version: &'static str,
    /// The method.
    pub method: &'x str,
    /// Path and query.
    pub path: &'x str,
    /// Host and port as named.
    pub authority: &'x str,
    /// The status; 0 where the caller went away without an answer.
    pub status: u16,
    /// The gRPC status, where there was one.
    pub grpc_status: Option<u32>,
    /// The caller's `user-agent`.
    pub user_agent: Option<&'x str>,
    /// The caller's `x-forwarded-for`.
    pub forwarded_for: Option<&'x str>,
    /// `x-request-id`.
    pub request_id: Cow<'x, str>,
    /// How often it was sent.
    pub attempts: u32,
    /// From the last attempt's begin to the head of the answer.
    pub upstream_time: Option<Duration>,
    /// From the request's first byte to the head of the answer, all attempts and delays in it; none where no head came.
    pub answered_after: Option<Duration>,
    /// gRPC messages from the caller.
    pub request_messages: u64,
    /// gRPC messages to the caller.
    pub response_messages: u64,
    /// The request's head, as it came.
    pub head: Option<&'x RequestHead>,
    /// The fields of the answer's head, where the log asks for them.
    pub response: Option<Box<Fields>>,
    /// The fields behind the answer's body, where the log asks for them.
    pub trailers: Option<Box<Fields>>,
    /// The span, where the exchange is traced.
    pub span: Option<Span>,
}

impl Record<'_> {
    /// Envoy's response flag; `-` where the mesh had nothing to say.
    #[must_use]
    pub fn flag(&self) -> &'static str {
        match (self.reason, self.fault.as_ref().is_some_and(|fault| fault.delayed)) {
            (Some(Reason::FaultInjected), true) => "DI,FI",
            (Some(reason), _) => reason.meaning().flag,
            (None, true) => "DI",
            (None, false) => "-",
        }
    }

    /// Whether the exchange was traced and is to be told to the collector.
    #[must_use]
    pub fn is_sampled(&self) -> bool {
        self.http.as_ref().and_then(|http| http.span).is_some_and(|span| span.context.sampled)
    }
}

/// Records for tests.
#[cfg(test)]
pub(crate) mod sample {
    use super::*;

    pub(crate) fn party(service: &str) -> Arc<Party> {
        Arc::new(Party {
            workload: format!("{service}-1"),
            namespace: "contact".to_owned(),
            service: service.to_owned(),
            version: "v2".to_owned(),
            principal: format!("spiffe://mesh/ns/contact/sa/{service}"),
        })
    }

    /// routing calls recording, and it answers 200.
    pub(crate) fn http() -> Record<'static> {
        let called = Called { fqdn: "recording.contact.mesh".to_owned(), name: "recording".to_owned(), namespace: "contact".to_owned() };
        let origin = Origin {
            kind: "HTTPRoute".to_owned(),
            namespace: "contact".to_owned(),
            name: "recording".to_owned(),
            generation: 1,
            rule: 0,
            matched: 0,
        };
        Record {
            reporter: Reporter::Source,
            source: party("routing"),
            destination: party("recording"),
            called: Arc::new(called),
            protocol: Protocol::Http,
            security: Security::Unknown,
            reason: None,
            detail: Cow::default(),
            fault: None,
            start: SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_250),
            duration: Duration::from_micros(12_500),
            received: 20,
            sent: 3000,
            route: Some(Route::Rule(Arc::new(origin))),
            upstream: Some(([127, 0, 0, 1], 9001).into()),
            upstream_local: None,
            remote: Some(([240, 0, 0, 7], 40_000).into()),
            local: Some(([240, 0, 0, 9], 80).into()),
            server_name: None,
            http: Some(Http {
                version: "HTTP/1.1",
                method: "GET",
                path: "/recordings?of=7",
                authority: "recording.contact",
                status: 200,
                user_agent: Some("curl/8"),
                request_id: "4b1d".into(),
                attempts: 1,
                upstream_time: Some(Duration::from_millis(11)),
                ..Http::default()
            }),
            rules: None,
        }
    }

    /// routing's bytes to recording.
    pub(crate) fn tcp() -> Record<'static> {
        Record { protocol: Protocol::Tcp, route: None, http: None, ..http() }
    }

    /// The HTTP exchange with its own part changed.
    pub(crate) fn with(change: impl FnOnce(&mut Http<'static>)) -> Record<'static> {
        let mut record = http();
        if let Some(http) = &mut record.http {
            change(http);
        }
        record
    }
}
