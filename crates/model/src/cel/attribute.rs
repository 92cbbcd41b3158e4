//! What expressions can ask about: attributes by Envoy's names, so that an expression means the same to an Envoy.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use super::types::Kind;
use crate::claims::Claims;
use crate::head::{Fields, RequestHead};
use crate::spiffe::SpiffeId;

/// What an expression can ask about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Attribute {
    /// `request.path`: the path with its query.
    Path,
    /// `request.url_path`: the path without its query.
    UrlPath,
    /// `request.query`: what follows the question mark; empty without one.
    Query,
    /// `request.host`: the host as asked for, with its port if it has one.
    Host,
    /// `request.method`.
    Method,
    /// `request.protocol`: `HTTP/1.0`, `HTTP/1.1`, `HTTP/2`, `HTTP/3`.
    Protocol,
    /// `request.time`: when it came.
    Time,
    /// `request.headers`: a map that can only be asked for names.
    Headers,
    /// `source.address`: address and port that the connection came from.
    SourceAddress,
    /// `source.port`.
    SourcePort,
    /// `connection.mtls`: whether the caller proved an identity.
    MutualTls,
    /// `connection.requested_server_name`: the SNI; empty without one.
    RequestedServerName,
    /// `connection.uri_san_peer_certificate`, and `source.identity`, which is the same: the SPIFFE ID that the caller proved.
    PeerUri,
    /// `claims`: those of a verified token; an empty map where none was verified.
    Claims,
    /// `request.id`: its `x-request-id`, as it went on.
    RequestId,
    /// `request.size`: the bytes of its body.
    RequestSize,
    /// `request.duration`: from its beginning to the end of the exchange.
    RequestDuration,
    /// `response.code`: the status; 0 where there was no answer.
    ResponseCode,
    /// `response.code_details`: who answered, and why.
    ResponseCodeDetails,
    /// `response.flags`: a bit for each of Envoy's response flags.
    ResponseFlags,
    /// `response.grpc_status`.
    ResponseGrpcStatus,
    /// `response.headers`: a map that can only be asked for names.
    ResponseHeaders,
    /// `response.trailers`: the same.
    ResponseTrailers,
    /// `response.size`: the bytes of its body.
    ResponseSize,
    /// `response.backend_latency`: from the last attempt's beginning to the head of the answer.
    BackendLatency,
    /// `destination.address`: address and port that were called.
    DestinationAddress,
    /// `destination.port`.
    DestinationPort,
    /// `upstream.address`: address and port that took it.
    UpstreamAddress,
    /// `upstream.port`.
    UpstreamPort,
    /// `upstream.transport_failure_reason`: why nobody could be connected to; empty where somebody was.
    TransportFailure,
    /// `upstream.request_attempt_count`: how often it was sent.
    Attempts,
    /// `xds.route_name`: the rule that decided; empty where none did.
    RouteName,
}

impl Attribute {
    /// Whether only a request of HTTP has it.
    #[must_use]
    pub fn is_of_http(self) -> bool {
        match self {
            Self::Path
            | Self::UrlPath
            | Self::Query
            | Self::Host
            | Self::Method
            | Self::Protocol
            | Self::Time
            | Self::Headers
            | Self::Claims
            | Self::RequestId
            | Self::ResponseCodeDetails
            | Self::ResponseGrpcStatus
            | Self::ResponseHeaders
            | Self::ResponseTrailers
            | Self::BackendLatency
            | Self::Attempts => true,
            Self::SourceAddress
            | Self::SourcePort
            | Self::MutualTls
            | Self::RequestedServerName
            | Self::PeerUri
            | Self::RequestSize
            | Self::RequestDuration
            | Self::ResponseCode
            | Self::ResponseFlags
            | Self::ResponseSize
            | Self::DestinationAddress
            | Self::DestinationPort
            | Self::UpstreamAddress
            | Self::UpstreamPort
            | Self::TransportFailure
            | Self::RouteName => false,
        }
    }

    /// Whether it is asked for in this scope.
    pub(super) fn is_in(self, scope: Scope) -> bool {
        match self {
            // Nobody tells the log what stood in a token.
            Self::Claims => scope == Scope::Request,
            Self::RequestId
            | Self::RequestSize
            | Self::RequestDuration
            | Self::ResponseCode
            | Self::ResponseCodeDetails
            | Self::ResponseFlags
            | Self::ResponseGrpcStatus
            | Self::ResponseHeaders
            | Self::ResponseTrailers
            | Self::ResponseSize
            | Self::BackendLatency
            | Self::DestinationAddress
            | Self::DestinationPort
            | Self::UpstreamAddress
            | Self::UpstreamPort
            | Self::TransportFailure
            | Self::Attempts
            | Self::RouteName => scope == Scope::Exchange,
            Self::Path
            | Self::UrlPath
            | Self::Query
            | Self::Host
            | Self::Method
            | Self::Protocol
            | Self::Time
            | Self::Headers
            | Self::SourceAddress
            | Self::SourcePort
            | Self::MutualTls
            | Self::RequestedServerName
            | Self::PeerUri => true,
        }
    }

    /// Whether it is a map of header fields.
    pub(super) fn is_fields(self) -> bool {
        self.kind() == Kind::Headers
    }

    pub(super) fn kind(self) -> Kind {
        match self {
            Self::Headers | Self::ResponseHeaders | Self::ResponseTrailers => Kind::Headers,
            Self::Time => Kind::Timestamp,
            Self::RequestDuration | Self::BackendLatency => Kind::Duration,
            Self::SourcePort
            | Self::RequestSize
            | Self::ResponseCode
            | Self::ResponseFlags
            | Self::ResponseGrpcStatus
            | Self::ResponseSize
            | Self::DestinationPort
            | Self::UpstreamPort
            | Self::Attempts => Kind::Int,
            Self::MutualTls => Kind::Bool,
            Self::Claims => Kind::Map,
            Self::Path
            | Self::UrlPath
            | Self::Query
            | Self::Host
            | Self::Method
            | Self::Protocol
            | Self::SourceAddress
            | Self::RequestedServerName
            | Self::PeerUri
            | Self::RequestId
            | Self::ResponseCodeDetails
            | Self::DestinationAddress
            | Self::UpstreamAddress
            | Self::TransportFailure
            | Self::RouteName => Kind::Text,
        }
    }
}

/// When an expression is evaluated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// When a request or connection has come.
    Request,
    /// When it is over, with its answer.
    Exchange,
}

/// Every attribute by its name. `claims` has no dot.
pub(super) const ATTRIBUTES: [(&str, Attribute); 33] = [
    ("request.path", Attribute::Path),
    ("request.url_path", Attribute::UrlPath),
    ("request.query", Attribute::Query),
    ("request.host", Attribute::Host),
    ("request.method", Attribute::Method),
    ("request.protocol", Attribute::Protocol),
    ("request.time", Attribute::Time),
    ("request.headers", Attribute::Headers),
    ("source.address", Attribute::SourceAddress),
    ("source.port", Attribute::SourcePort),
    ("source.identity", Attribute::PeerUri),
    ("connection.mtls", Attribute::MutualTls),
    ("connection.requested_server_name", Attribute::RequestedServerName),
    ("connection.uri_san_peer_certificate", Attribute::PeerUri),
    ("claims", Attribute::Claims),
    ("request.id", Attribute::RequestId),
    ("request.size", Attribute::RequestSize),
    ("request.duration", Attribute::RequestDuration),
    ("response.code", Attribute::ResponseCode),
    ("response.code_details", Attribute::ResponseCodeDetails),
    ("response.flags", Attribute::ResponseFlags),
    ("response.grpc_status", Attribute::ResponseGrpcStatus),
    ("response.headers", Attribute::ResponseHeaders),
    ("response.trailers", Attribute::ResponseTrailers),
    ("response.size", Attribute::ResponseSize),
    ("response.backend_latency", Attribute::BackendLatency),
    ("destination.address", Attribute::DestinationAddress),
    ("destination.port", Attribute::DestinationPort),
    ("upstream.address", Attribute::UpstreamAddress),
    ("upstream.port", Attribute::UpstreamPort),
    ("upstream.transport_failure_reason", Attribute::TransportFailure),
    ("upstream.request_attempt_count", Attribute::Attempts),
    ("xds.route_name", Attribute::RouteName),
];

impl Scope {
    /// What stands before the dot of attributes.
    pub(super) fn roots(self) -> &'static [&'static str] {
        match self {
            Self::Request => &["request", "source", "connection"],
            Self::Exchange => &["request", "source", "connection", "response", "destination", "upstream", "xds"],
        }
    }

    /// The attributes that there are, by name.
    pub(super) fn attributes(self) -> impl Iterator<Item = (&'static str, Attribute)> {
        ATTRIBUTES.into_iter().filter(move |(_, attribute)| attribute.is_in(self))
    }
}

/// What an expression is evaluated over. To ask for what is not there is an error, which never allows.
#[derive(Clone, Copy)]
pub struct Attributes<'a> {
    /// The request; none of a connection whose bytes are not looked at.
    pub head: Option<&'a RequestHead>,
    /// When it came.
    pub time: SystemTime,
    /// The claims of its verified token.
    pub claims: Option<&'a Claims>,
    /// Where the connection came from.
    pub source: SocketAddr,
    /// The SPIFFE ID that the caller proved.
    pub identity: Option<&'a SpiffeId>,
    /// The SNI.
    pub server_name: Option<&'a str>,
    /// What became of it; none while it is not over.
    pub exchange: Option<Exchange<'a>>,
}

/// What is known of an exchange once it is over.
#[derive(Clone, Copy)]
pub struct Exchange<'a> {
    /// Its `x-request-id`.
    pub request_id: Option<&'a str>,
    /// The bytes of the request's body.
    pub request_size: u64,
    /// From its beginning to its end.
    pub duration: Duration,
    /// The status; 0 without an answer.
    pub code: u16,
    /// Who answered, and why.
    pub code_details: Option<&'a str>,
    /// Envoy's response flags, joined by commas; `-` for none.
    pub flags: &'a str,
    /// The gRPC status.
    pub grpc_status: Option<u32>,
    /// The header fields of the answer.
    pub headers: Option<&'a Fields>,
    /// The fields behind its body.
    pub trailers: Option<&'a Fields>,
    /// The bytes of its body.
    pub response_size: u64,
    /// From the last attempt's beginning to the head of the answer.
    pub backend_latency: Option<Duration>,
    /// What was called.
    pub destination: Option<SocketAddr>,
    /// What took it.
    pub upstream: Option<SocketAddr>,
    /// Why nobody could be connected to.
    pub transport_failure: Option<&'a str>,
    /// How often it was sent.
    pub attempts: u32,
    /// The rule that decided.
    pub route: Option<&'a dyn std::fmt::Display>,
}

/// Envoy's response flags in the order of their bits.
const FLAGS: [&str; 30] = [
    "LH", "UH", "UT", "LR", "UR", "UF", "UC", "UO", "NR", "DI", "FI", "RL", "UAEX", "RLSE", "DC", "URX", "SI", "IH", "DPE", "UMSDR",
    "RFCF", "NFCF", "DT", "UPE", "NC", "OM", "DF", "DO", "DR", "UDO",
];

/// Flags joined by commas, as a number in which each has its bit.
pub(super) fn flag_bits(flags: &str) -> i64 {
    flags.split(',').filter_map(|flag| FLAGS.iter().position(|known| *known == flag)).fold(0, |bits, place| bits | 1 << place)
}
