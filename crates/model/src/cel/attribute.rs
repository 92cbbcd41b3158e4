//! What expressions can ask about: attributes by Envoy's names, so that an expression means the same to an Envoy.

use std::net::SocketAddr;
use std::time::SystemTime;

use super::types::Kind;
use crate::claims::Claims;
use crate::head::RequestHead;
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
            | Self::Claims => true,
            Self::SourceAddress | Self::SourcePort | Self::MutualTls | Self::RequestedServerName | Self::PeerUri => false,
        }
    }

    pub(super) fn kind(self) -> Kind {
        match self {
            Self::Headers => Kind::Headers,
            Self::Time => Kind::Timestamp,
            Self::SourcePort => Kind::Int,
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
            | Self::PeerUri => Kind::Text,
        }
    }
}

/// Every attribute by its name. `claims` has no dot.
pub(super) const ATTRIBUTES: [(&str, Attribute); 15] = [
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
];

/// What stands before the dot of attributes.
pub(super) const ROOTS: [&str; 3] = ["request", "source", "connection"];

/// What an expression is evaluated over. To ask for what is not there is an error, which never allows.
#[derive(Debug, Clone, Copy)]
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
}
