//! Why the mesh itself answered, closed or gave up: one closed list. One match turns a reason into status,
//! gRPC code, response flag and word; logs, metrics, traces and the `x-lorica-reason` header use no other.

/// Whose fault a failure is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// The caller's.
    Client,
    /// The called service's.
    Upstream,
    /// The mesh's own, or its configuration's.
    Mesh,
}

/// Why a proxy ended an exchange otherwise than by passing on an upstream's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// No rule of the service port's routes matches the request.
    NoRoute,
    /// The matching rule has only backends that do not exist or have no weight.
    NoBackend,
    /// The name is known, but the service has no such port.
    NoSuchPort,
    /// The configuration for the service port did not arrive in time.
    NoConfiguration,
    /// No endpoint of the service is ready.
    NoEndpoint,
    /// A bound on connections, requests or queues was reached.
    Overflow,
    /// The service became slower, and as many requests are under way as it can do at once.
    Overloaded,
    /// The connection to the endpoint was refused, reset or could not be routed.
    ConnectFailed,
    /// The connection to the endpoint took longer than the connect timeout.
    ConnectTimeout,
    /// The TLS handshake with the endpoint failed.
    UpstreamTls,
    /// The endpoint proved an identity that the service does not have.
    UpstreamIdentity,
    /// The endpoint closed the connection before it had answered.
    UpstreamClosed,
    /// The endpoint reset the stream.
    UpstreamReset,
    /// The endpoint sent what is no valid answer.
    UpstreamProtocol,
    /// The request took longer than its timeout.
    RequestTimeout,
    /// The time that the caller gave the request, or a request before it, is over.
    DeadlineExceeded,
    /// The stream lasted longer than it may.
    StreamTimeout,
    /// The exchange was silent longer than the stream idle timeout.
    IdleTimeout,
    /// The caller closed or reset before the answer was complete.
    ClientClosed,
    /// The caller sent what is no valid request.
    BadRequest,
    /// The head of the request is larger than the proxy takes.
    HeadTooLarge,
    /// The caller took longer than the head timeout to send the head of its request.
    HeadTimeout,
    /// The method or upgrade is none that the proxy passes on (CONNECT from an app).
    NotImplemented,
    /// Plaintext came to a port that takes mutual TLS only.
    PlaintextRefused,
    /// The caller's TLS handshake failed, or its certificate is not of this mesh.
    ClientTls,
    /// The caller meant another service: its SNI names a port that is not this workload's.
    WrongService,
    /// Bytes that are no HTTP came to a port that has HTTP rules.
    NotHttp,
    /// The host is outside the mesh and could not be reached.
    OutsideFailed,
    /// The host is outside the mesh, and no EgressPolicy lets the caller call it.
    EgressDenied,
    /// An AuthenticationPolicy asks for a token, and there is none.
    TokenMissing,
    /// The token is not one that the AuthenticationPolicy takes.
    TokenInvalid,
    /// The keys that the token would be verified with were not fetched yet.
    TokenKeysMissing,
    /// An AuthorizationPolicy denies it, or none allows it.
    AccessDenied,
    /// The path can be read in several ways, and AuthorizationPolicies look at paths.
    AmbiguousPath,
    /// The service that an AuthorizationPolicy has asked did not answer, and then nothing may pass.
    AuthorizerFailed,
    /// The body is longer than what the service is shown that an AuthorizationPolicy has asked.
    BodyTooLarge,
    /// More requests came than a RateLimitPolicy lets through.
    RateLimited,
    /// A limit could not be asked for, and its policy lets nothing through then.
    RateLimitFailed,
    /// A FaultPolicy asks for it: nothing is broken.
    FaultInjected,
    /// The proxy is ending.
    Draining,
}

/// What a reason means on every surface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Meaning {
    /// The word in logs, metrics and `x-lorica-reason`.
    pub word: &'static str,
    /// Envoy's response flag.
    pub flag: &'static str,
    /// The HTTP status of the answer; 0 where none can be sent any more.
    pub status: u16,
    /// The gRPC status of the answer.
    pub grpc: u32,
    /// Whose fault it is.
    pub side: Side,
    /// Whether the request certainly did not reach the service's app, so that another try cannot repeat anything.
    pub unsent: bool,
    /// One sentence for people.
    pub text: &'static str,
}

const INVALID_ARGUMENT: u32 = 3;
const DEADLINE_EXCEEDED: u32 = 4;
const PERMISSION_DENIED: u32 = 7;
const RESOURCE_EXHAUSTED: u32 = 8;
const UNIMPLEMENTED: u32 = 12;
const INTERNAL: u32 = 13;
const UNAVAILABLE: u32 = 14;
const UNAUTHENTICATED: u32 = 16;
const CANCELLED: u32 = 1;

impl Reason {
    /// Every reason, for documentation and tests.
    pub const ALL: [Self; 40] = [
        Self::NoRoute,
        Self::NoBackend,
        Self::NoSuchPort,
        Self::NoConfiguration,
        Self::NoEndpoint,
        Self::Overflow,
        Self::Overloaded,
        Self::ConnectFailed,
        Self::ConnectTimeout,
        Self::UpstreamTls,
        Self::UpstreamIdentity,
        Self::UpstreamClosed,
        Self::UpstreamReset,
        Self::UpstreamProtocol,
        Self::RequestTimeout,
        Self::DeadlineExceeded,
        Self::StreamTimeout,
        Self::IdleTimeout,
        Self::ClientClosed,
        Self::BadRequest,
        Self::HeadTooLarge,
        Self::HeadTimeout,
        Self::NotImplemented,
        Self::PlaintextRefused,
        Self::ClientTls,
        Self::WrongService,
        Self::NotHttp,
        Self::OutsideFailed,
        Self::EgressDenied,
        Self::TokenMissing,
        Self::TokenInvalid,
        Self::TokenKeysMissing,
        Self::AccessDenied,
        Self::AmbiguousPath,
        Self::AuthorizerFailed,
        Self::BodyTooLarge,
        Self::RateLimited,
        Self::RateLimitFailed,
        Self::FaultInjected,
        Self::Draining,
    ];

    /// Whether no connection to the endpoint came about, or it broke: another endpoint might do.
    #[must_use]
    pub const fn is_of_connection(self) -> bool {
        matches!(
            self,
            Self::ConnectFailed
                | Self::ConnectTimeout
                | Self::UpstreamTls
                | Self::UpstreamIdentity
                | Self::UpstreamClosed
                | Self::UpstreamReset
        )
    }

    /// What the reason means on every surface.
    #[must_use]
    pub const fn meaning(self) -> Meaning {
        use Side::{Client, Mesh, Upstream};
        let (word, flag, status, grpc, side, unsent, text) = match self {
            Self::NoRoute => ("no_route", "NR", 404, UNIMPLEMENTED, Mesh, true, "no rule of the service's routes matches this request"),
            Self::NoBackend => ("no_backend", "NC", 500, UNAVAILABLE, Mesh, true, "the matching rule has no backend that exists"),
            Self::NoSuchPort => ("no_such_port", "NC", 503, UNAVAILABLE, Mesh, true, "the service has no such port"),
            Self::NoConfiguration => (
                "no_configuration",
                "NC",
                503,
                UNAVAILABLE,
                Mesh,
                true,
                "the control plane has not sent the configuration of this service yet",
            ),
            Self::NoEndpoint => ("no_endpoint", "UH", 503, UNAVAILABLE, Upstream, true, "no endpoint of the service is ready"),
            Self::Overflow => ("overflow", "UO", 503, RESOURCE_EXHAUSTED, Mesh, true, "a limit on connections or requests is reached"),
            Self::Overloaded => {
                ("overloaded", "UO", 503, RESOURCE_EXHAUSTED, Upstream, true, "the service became slower and is not sent more at once")
            }
            Self::ConnectFailed => ("connect_failed", "UF", 503, UNAVAILABLE, Upstream, true, "the endpoint could not be connected to"),
            Self::ConnectTimeout => (
                "connect_timeout",
                "UF",
                503,
                UNAVAILABLE,
                Upstream,
                true,
                "connecting to the endpoint took longer than the connect timeout",
            ),
            Self::UpstreamTls => ("upstream_tls", "UF", 503, UNAVAILABLE, Upstream, true, "the TLS handshake with the endpoint failed"),
            Self::UpstreamIdentity => {
                ("upstream_identity", "UF", 503, UNAVAILABLE, Upstream, true, "the endpoint has an identity that the service does not have")
            }
            Self::UpstreamClosed => {
                ("upstream_closed", "UC", 503, UNAVAILABLE, Upstream, false, "the endpoint closed the connection before it answered")
            }
            Self::UpstreamReset => ("upstream_reset", "UR", 503, UNAVAILABLE, Upstream, false, "the endpoint reset the stream"),
            Self::UpstreamProtocol => {
                ("upstream_protocol", "UPE", 502, INTERNAL, Upstream, false, "the endpoint's answer is not valid HTTP")
            }
            Self::RequestTimeout => {
                ("request_timeout", "UT", 504, DEADLINE_EXCEEDED, Upstream, false, "the request took longer than its timeout")
            }
            Self::DeadlineExceeded => {
                ("deadline_exceeded", "UMSDR", 504, DEADLINE_EXCEEDED, Client, false, "the time that the caller gave the request is over")
            }
            Self::StreamTimeout => {
                ("stream_timeout", "UMSDR", 504, DEADLINE_EXCEEDED, Mesh, false, "the stream lasted longer than its stream timeout")
            }
            Self::IdleTimeout => (
                "idle_timeout",
                "SI",
                504,
                DEADLINE_EXCEEDED,
                Upstream,
                false,
                "the exchange was silent longer than the stream idle timeout",
            ),
            Self::ClientClosed => {
                ("client_closed", "DC", 0, CANCELLED, Client, false, "the caller went away before the answer was complete")
            }
            Self::BadRequest => ("bad_request", "DPE", 400, INVALID_ARGUMENT, Client, true, "the request is not valid HTTP"),
            Self::HeadTooLarge => (
                "head_too_large",
                "DPE",
                431,
                RESOURCE_EXHAUSTED,
                Client,
                true,
                "the head of the request has more than 64 KiB or 128 fields",
            ),
            Self::HeadTimeout => {
                ("head_timeout", "DPE", 408, DEADLINE_EXCEEDED, Client, true, "the head of the request did not arrive in time")
            }
            Self::NotImplemented => ("not_implemented", "DPE", 501, UNIMPLEMENTED, Client, true, "the proxy does not pass on this method"),
            Self::PlaintextRefused => ("plaintext_refused", "DPE", 0, UNAUTHENTICATED, Client, true, "the port takes mutual TLS only"),
            Self::ClientTls => ("client_tls", "DPE", 0, UNAUTHENTICATED, Client, true, "the caller's TLS handshake failed"),
            Self::WrongService => ("wrong_service", "NR", 421, UNAVAILABLE, Client, true, "the caller meant another service"),
            Self::NotHttp => {
                ("not_http", "DPE", 400, INVALID_ARGUMENT, Client, true, "the port has HTTP rules and these bytes are no HTTP")
            }
            Self::OutsideFailed => {
                ("outside_failed", "UF", 503, UNAVAILABLE, Upstream, true, "the host outside the mesh could not be reached")
            }
            Self::EgressDenied => {
                ("egress_denied", "UAEX", 403, PERMISSION_DENIED, Mesh, true, "no EgressPolicy lets this workload call that host")
            }
            Self::TokenMissing => ("token_missing", "UAEX", 401, UNAUTHENTICATED, Client, true, "a token is asked for, and there is none"),
            Self::TokenInvalid => ("token_invalid", "UAEX", 401, UNAUTHENTICATED, Client, true, "the token is not taken here"),
            Self::TokenKeysMissing => (
                "token_keys_missing",
                "UAEX",
                401,
                UNAUTHENTICATED,
                Mesh,
                true,
                "the issuer's keys could not be fetched yet, so no token of it is taken",
            ),
            Self::AccessDenied => {
                ("access_denied", "UAEX", 403, PERMISSION_DENIED, Client, true, "no AuthorizationPolicy lets this caller do that")
            }
            Self::AmbiguousPath => (
                "ambiguous_path",
                "UAEX",
                403,
                PERMISSION_DENIED,
                Client,
                true,
                "the path can be read in several ways, and policies look at it",
            ),
            Self::AuthorizerFailed => (
                "authorizer_failed",
                "UAEX",
                403,
                PERMISSION_DENIED,
                Mesh,
                true,
                "who is asked for leave did not answer, and then none may pass",
            ),
            Self::BodyTooLarge => {
                ("body_too_large", "DPE", 413, RESOURCE_EXHAUSTED, Client, true, "the body is longer than who is asked for leave takes")
            }
            Self::RateLimited => {
                ("rate_limited", "RL", 429, RESOURCE_EXHAUSTED, Client, true, "more requests came than a RateLimitPolicy lets through")
            }
            Self::RateLimitFailed => {
                ("rate_limit_failed", "RLSE", 500, UNAVAILABLE, Mesh, true, "who counts requests did not answer, and then none may pass")
            }
            Self::FaultInjected => ("fault_injected", "FI", 503, UNAVAILABLE, Mesh, true, "a FaultPolicy answers in place of the service"),
            Self::Draining => ("draining", "LR", 503, UNAVAILABLE, Mesh, true, "the proxy is ending"),
        };
        Meaning { word, flag, status, grpc, side, unsent, text }
    }
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.meaning().word)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_a_word_of_its_own() {
        let words: std::collections::BTreeSet<_> = Reason::ALL.iter().map(|reason| reason.meaning().word).collect();
        assert_eq!(words.len(), Reason::ALL.len());
    }
}
