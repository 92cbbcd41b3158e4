//! Operators: what a format can tell of an exchange.

use super::Wanted;
use super::time::TimeFormat;
use crate::cel::Expression;

/// What stands between percent signs.
#[derive(Debug, Clone, PartialEq)]
pub enum Operator {
    /// `START_TIME`: when the exchange began.
    StartTime(TimeFormat),
    /// `EMIT_TIME`: when the line is written.
    EmitTime(TimeFormat),
    /// `REQ`: a field of the request's head.
    Request(Field),
    /// `REQ_WITHOUT_QUERY`: the same, up to a question mark.
    RequestWithoutQuery(Field),
    /// `RESP`: a field of the answer's head.
    Response(Field),
    /// `TRAILER`: a field behind the answer's body.
    Trailer(Field),
    /// `PROTOCOL`.
    Protocol,
    /// `RESPONSE_CODE`: 0 where there was no answer.
    ResponseCode,
    /// `RESPONSE_CODE_DETAILS`: who answered, and why.
    ResponseCodeDetails {
        /// Whether spaces stay spaces.
        spaces: bool,
    },
    /// `RESPONSE_FLAGS`.
    ResponseFlags,
    /// `RESPONSE_FLAGS_LONG`: the same in whole words.
    ResponseFlagsLong,
    /// `CONNECTION_TERMINATION_DETAILS`: what closed a connection that had no answer.
    ConnectionTerminationDetails,
    /// `UPSTREAM_TRANSPORT_FAILURE_REASON`: why nobody could be connected to.
    UpstreamTransportFailureReason,
    /// `BYTES_RECEIVED`: the bytes of the request's body, or from the caller.
    BytesReceived,
    /// `BYTES_SENT`: the bytes of the answer's body, or to the caller.
    BytesSent,
    /// `DURATION`: milliseconds from the first byte to the end.
    Duration,
    /// `RESPONSE_DURATION`: milliseconds from the first byte to the head of the answer.
    ResponseDuration,
    /// `RESPONSE_TX_DURATION`: milliseconds from the head of the answer to the end.
    ResponseTxDuration,
    /// `GRPC_STATUS`, `GRPC_STATUS_NUMBER`.
    GrpcStatus(GrpcForm),
    /// An address or a part of one: `UPSTREAM_HOST`, `DOWNSTREAM_LOCAL_ADDRESS`, `DOWNSTREAM_REMOTE_PORT`, …
    Address(AddressOf, AddressPart),
    /// `UPSTREAM_CLUSTER`, `UPSTREAM_CLUSTER_RAW`: the service that was called.
    UpstreamCluster,
    /// `UPSTREAM_REQUEST_ATTEMPT_COUNT`: how often it was sent.
    Attempts,
    /// `UPSTREAM_PEER_URI_SAN`: the identity that the callee proved.
    UpstreamPeerUriSan,
    /// `UPSTREAM_LOCAL_URI_SAN`: the identity that was proved to it.
    UpstreamLocalUriSan,
    /// `DOWNSTREAM_PEER_URI_SAN`: the identity that the caller proved.
    DownstreamPeerUriSan,
    /// `DOWNSTREAM_LOCAL_URI_SAN`: the identity that was proved to it.
    DownstreamLocalUriSan,
    /// `REQUESTED_SERVER_NAME`: the SNI.
    RequestedServerName,
    /// `ROUTE_NAME`: the rule that decided.
    RouteName,
    /// `TRACE_ID`.
    TraceId,
    /// `HOSTNAME`: of the host that the proxy runs on.
    Hostname,
    /// `ENVIRONMENT`: a variable of the proxy's process.
    Environment(Box<str>),
    /// `CEL`: what an expression gives.
    Cel(Expression),
}

/// A field, and the one that stands in for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    /// Its name in lower case: `:path`, `x-request-id`.
    pub name: Box<str>,
    /// The name that is looked at where there is none of the first.
    pub fallback: Option<Box<str>>,
}

/// How a gRPC status is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GrpcForm {
    /// `InvalidArgument`.
    Camel,
    /// `INVALID_ARGUMENT`.
    Snake,
    /// `3`.
    Number,
}

/// Whose address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressOf {
    /// Whoever took the call.
    Upstream,
    /// The proxy's own, towards whoever took the call.
    UpstreamLocal,
    /// What was called.
    DownstreamLocal,
    /// The caller.
    DownstreamRemote,
}

/// Which part of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressPart {
    /// Address and port.
    Whole,
    /// The address alone.
    Ip,
    /// The port alone.
    Port,
}

/// The field that tells how long the callee took, in milliseconds. Envoy's router adds it to answers, so that formats ask for it there.
pub(super) const UPSTREAM_SERVICE_TIME: &str = "x-envoy-upstream-service-time";

impl Field {
    /// Its names, in the order in which they are looked at.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        std::iter::once(&*self.name).chain(self.fallback.as_deref())
    }
}

impl Operator {
    /// Whether what it gives is a number in JSON.
    #[must_use]
    pub fn is_number(&self) -> bool {
        matches!(
            self,
            Self::ResponseCode
                | Self::BytesReceived
                | Self::BytesSent
                | Self::Duration
                | Self::ResponseDuration
                | Self::ResponseTxDuration
                | Self::GrpcStatus(GrpcForm::Number)
                | Self::Address(_, AddressPart::Port)
                | Self::Attempts
        )
    }

    /// What of an answer it looks at.
    pub(super) fn wanted(&self) -> Wanted {
        match self {
            Self::Response(field) => Wanted { headers: field.names().any(|name| name != UPSTREAM_SERVICE_TIME), trailers: false },
            Self::Trailer(_) => Wanted { headers: false, trailers: true },
            Self::Cel(expression) => expression.wanted(),
            _ => Wanted::default(),
        }
    }

    /// What is wrong with what it asks for, though it is well formed.
    pub(super) fn objection(&self) -> Option<(String, &'static str)> {
        let (field, known, hint): (&Field, &[&str], _) = match self {
            Self::Request(field) | Self::RequestWithoutQuery(field) => {
                (field, &[":method", ":path", ":authority"], "there are `:METHOD`, `:PATH` and `:AUTHORITY`")
            }
            Self::Response(field) => (field, &[":status"], "there is `:STATUS`"),
            Self::Trailer(field) => (field, &[], "trailers have none"),
            _ => return None,
        };
        let odd = field.names().find(|name| name.starts_with(':') && !known.contains(name))?;
        let message = format!("there is no field `{}` to look at", odd.to_ascii_uppercase());
        Some((message, hint))
    }
}

/// How an operator is read.
#[derive(Debug, Clone, Copy)]
pub(super) enum Takes {
    /// Nothing.
    Nothing(fn() -> Operator),
    /// The name of a field, perhaps with another for where there is none.
    Field(fn(Field) -> Operator),
    /// The form of a time, or nothing.
    Time(fn(TimeFormat) -> Operator),
    /// A word, or nothing; which, the function tells. The words for people stand beside it.
    Word(fn(Option<&str>) -> Option<Operator>, &'static str),
    /// The name of a variable.
    Variable,
    /// An expression.
    Expression,
}

impl Takes {
    /// Whether what it gives may be cut to a length.
    pub(super) fn may_be_cut(self) -> bool {
        matches!(self, Self::Field(_) | Self::Variable | Self::Expression)
    }
}

fn grpc_status(form: Option<&str>) -> Option<Operator> {
    Some(Operator::GrpcStatus(match form {
        None | Some("CAMEL_STRING") => GrpcForm::Camel,
        Some("SNAKE_STRING") => GrpcForm::Snake,
        Some("NUMBER") => GrpcForm::Number,
        Some(_) => return None,
    }))
}

fn code_details(word: Option<&str>) -> Option<Operator> {
    match word {
        None => Some(Operator::ResponseCodeDetails { spaces: false }),
        Some("ALLOW_WHITESPACES") => Some(Operator::ResponseCodeDetails { spaces: true }),
        Some(_) => None,
    }
}

macro_rules! address {
    ($of:ident, $part:ident) => {
        Takes::Nothing(|| Operator::Address(AddressOf::$of, AddressPart::$part))
    };
}

/// Every operator by its name.
pub(super) const OPERATORS: [(&str, Takes); 52] = [
    ("START_TIME", Takes::Time(Operator::StartTime)),
    ("EMIT_TIME", Takes::Time(Operator::EmitTime)),
    ("REQ", Takes::Field(Operator::Request)),
    ("REQ_WITHOUT_QUERY", Takes::Field(Operator::RequestWithoutQuery)),
    ("RESP", Takes::Field(Operator::Response)),
    ("TRAILER", Takes::Field(Operator::Trailer)),
    ("PROTOCOL", Takes::Nothing(|| Operator::Protocol)),
    ("RESPONSE_CODE", Takes::Nothing(|| Operator::ResponseCode)),
    ("RESPONSE_CODE_DETAILS", Takes::Word(code_details, "`(ALLOW_WHITESPACES)`")),
    ("RESPONSE_FLAGS", Takes::Nothing(|| Operator::ResponseFlags)),
    ("RESPONSE_FLAGS_LONG", Takes::Nothing(|| Operator::ResponseFlagsLong)),
    ("CONNECTION_TERMINATION_DETAILS", Takes::Nothing(|| Operator::ConnectionTerminationDetails)),
    ("UPSTREAM_TRANSPORT_FAILURE_REASON", Takes::Nothing(|| Operator::UpstreamTransportFailureReason)),
    ("BYTES_RECEIVED", Takes::Nothing(|| Operator::BytesReceived)),
    ("BYTES_SENT", Takes::Nothing(|| Operator::BytesSent)),
    ("DURATION", Takes::Nothing(|| Operator::Duration)),
    ("RESPONSE_DURATION", Takes::Nothing(|| Operator::ResponseDuration)),
    ("RESPONSE_TX_DURATION", Takes::Nothing(|| Operator::ResponseTxDuration)),
    ("GRPC_STATUS", Takes::Word(grpc_status, "`(CAMEL_STRING)`, `(SNAKE_STRING)` or `(NUMBER)`")),
    ("GRPC_STATUS_NUMBER", Takes::Nothing(|| Operator::GrpcStatus(GrpcForm::Number))),
    ("UPSTREAM_HOST", address!(Upstream, Whole)),
    ("UPSTREAM_REMOTE_ADDRESS", address!(Upstream, Whole)),
    ("UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT", address!(Upstream, Ip)),
    ("UPSTREAM_REMOTE_PORT", address!(Upstream, Port)),
    ("UPSTREAM_LOCAL_ADDRESS", address!(UpstreamLocal, Whole)),
    ("UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT", address!(UpstreamLocal, Ip)),
    ("UPSTREAM_LOCAL_PORT", address!(UpstreamLocal, Port)),
    ("UPSTREAM_CLUSTER", Takes::Nothing(|| Operator::UpstreamCluster)),
    ("UPSTREAM_CLUSTER_RAW", Takes::Nothing(|| Operator::UpstreamCluster)),
    ("UPSTREAM_REQUEST_ATTEMPT_COUNT", Takes::Nothing(|| Operator::Attempts)),
    ("UPSTREAM_PEER_URI_SAN", Takes::Nothing(|| Operator::UpstreamPeerUriSan)),
    ("UPSTREAM_LOCAL_URI_SAN", Takes::Nothing(|| Operator::UpstreamLocalUriSan)),
    ("DOWNSTREAM_LOCAL_ADDRESS", address!(DownstreamLocal, Whole)),
    ("DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT", address!(DownstreamLocal, Ip)),
    ("DOWNSTREAM_LOCAL_PORT", address!(DownstreamLocal, Port)),
    ("DOWNSTREAM_DIRECT_LOCAL_ADDRESS", address!(DownstreamLocal, Whole)),
    ("DOWNSTREAM_DIRECT_LOCAL_ADDRESS_WITHOUT_PORT", address!(DownstreamLocal, Ip)),
    ("DOWNSTREAM_DIRECT_LOCAL_PORT", address!(DownstreamLocal, Port)),
    ("DOWNSTREAM_REMOTE_ADDRESS", address!(DownstreamRemote, Whole)),
    ("DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT", address!(DownstreamRemote, Ip)),
    ("DOWNSTREAM_REMOTE_PORT", address!(DownstreamRemote, Port)),
    ("DOWNSTREAM_DIRECT_REMOTE_ADDRESS", address!(DownstreamRemote, Whole)),
    ("DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT", address!(DownstreamRemote, Ip)),
    ("DOWNSTREAM_DIRECT_REMOTE_PORT", address!(DownstreamRemote, Port)),
    ("DOWNSTREAM_PEER_URI_SAN", Takes::Nothing(|| Operator::DownstreamPeerUriSan)),
    ("DOWNSTREAM_LOCAL_URI_SAN", Takes::Nothing(|| Operator::DownstreamLocalUriSan)),
    ("REQUESTED_SERVER_NAME", Takes::Nothing(|| Operator::RequestedServerName)),
    ("ROUTE_NAME", Takes::Nothing(|| Operator::RouteName)),
    ("TRACE_ID", Takes::Nothing(|| Operator::TraceId)),
    ("HOSTNAME", Takes::Nothing(|| Operator::Hostname)),
    ("ENVIRONMENT", Takes::Variable),
    ("CEL", Takes::Expression),
];

/// What Envoy has besides: of filters, metadata and certificates that no proxy of ours has, or of times and sizes that it does not take.
pub(super) const OF_ENVOY: [&str; 60] = [
    "ACCESS_LOG_TYPE",
    "BYTES_RETRANSMITTED",
    "CLUSTER_METADATA",
    "COALESCE",
    "COMMON_DURATION",
    "CONNECTION_ID",
    "CUSTOM_FLAGS",
    "DOWNSTREAM_DETECTED_CLOSE_TYPE",
    "DOWNSTREAM_HEADER_BYTES_RECEIVED",
    "DOWNSTREAM_HEADER_BYTES_SENT",
    "DOWNSTREAM_HANDSHAKE_DURATION",
    "DOWNSTREAM_LOCAL_CLOSE_REASON",
    "DOWNSTREAM_LOCAL_DNS_SAN",
    "DOWNSTREAM_LOCAL_EMAIL_SAN",
    "DOWNSTREAM_LOCAL_IP_SAN",
    "DOWNSTREAM_LOCAL_SUBJECT",
    "DOWNSTREAM_PEER_CERT",
    "DOWNSTREAM_PEER_CERT_V_END",
    "DOWNSTREAM_PEER_CERT_V_START",
    "DOWNSTREAM_PEER_CHAIN_FINGERPRINTS_1",
    "DOWNSTREAM_PEER_CHAIN_FINGERPRINTS_256",
    "DOWNSTREAM_PEER_CHAIN_SERIALS",
    "DOWNSTREAM_PEER_DNS_SAN",
    "DOWNSTREAM_PEER_EMAIL_SAN",
    "DOWNSTREAM_PEER_FINGERPRINT_1",
    "DOWNSTREAM_PEER_FINGERPRINT_256",
    "DOWNSTREAM_PEER_IP_SAN",
    "DOWNSTREAM_PEER_ISSUER",
    "DOWNSTREAM_PEER_SERIAL",
    "DOWNSTREAM_PEER_SUBJECT",
    "DOWNSTREAM_TLS_CIPHER",
    "DOWNSTREAM_TLS_SESSION_ID",
    "DOWNSTREAM_TLS_VERSION",
    "DOWNSTREAM_TRANSPORT_FAILURE_REASON",
    "DOWNSTREAM_WIRE_BYTES_RECEIVED",
    "DOWNSTREAM_WIRE_BYTES_SENT",
    "DYNAMIC_METADATA",
    "EMIT_TIME_LOCAL",
    "FILTER_CHAIN_NAME",
    "FILTER_STATE",
    "LOCAL_REPLY_BODY",
    "METADATA",
    "PACKETS_RETRANSMITTED",
    "PATH",
    "QUERY_PARAM",
    "QUERY_PARAMS",
    "REQUEST_DURATION",
    "REQUEST_HEADERS_BYTES",
    "REQUEST_TX_DURATION",
    "RESPONSE_HEADERS_BYTES",
    "RESPONSE_TRAILERS_BYTES",
    "ROUNDTRIP_DURATION",
    "START_TIME_LOCAL",
    "STREAM_ID",
    "UNIQUE_ID",
    "UPSTREAM_HOST_NAME",
    "UPSTREAM_METADATA",
    "UPSTREAM_PROTOCOL",
    "VIRTUAL_CLUSTER_NAME",
    "TYPED_CEL",
];
