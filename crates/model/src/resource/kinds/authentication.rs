//! How callers prove who they are, as written.

use std::ops::Range;
use std::time::Duration;

use super::ObjectRef;
use crate::resource::Kind;
use crate::snapshot::{ClaimHeader, MtlsMode, TokenAlgorithm, TokenPlace};

/// `AuthenticationPolicy`: how callers prove who they are, by mutual TLS and by tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthenticationPolicy {
    /// What it holds for; none: every service of its namespace.
    pub targets: Vec<AuthenticationTarget>,
    /// What it says of mutual TLS.
    pub mtls: Option<MtlsMode>,
    /// What it says of tokens.
    pub jwt: Option<WrittenTokens>,
    /// Whether it is only counted what it would refuse.
    pub shadow: bool,
}

/// What an AuthenticationPolicy holds for, in its own namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthenticationTarget {
    /// Service, Gateway, HTTPRoute or GRPCRoute.
    pub kind: Kind,
    /// The object.
    pub object: ObjectRef,
}

/// Which tokens are asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrittenTokens {
    /// Its place.
    pub span: Range<usize>,
    /// Whether a request without one passes.
    pub optional: bool,
    /// Whose tokens are taken. Never empty; each issuer is there once.
    pub providers: Vec<WrittenProvider>,
}

/// Whoever issues tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrittenProvider {
    /// Its name, of its own in its policy.
    pub name: String,
    /// Its place.
    pub span: Range<usize>,
    /// The claim `iss` of its tokens.
    pub issuer: String,
    /// One of these must be in the claim `aud`; none: any.
    pub audiences: Vec<String>,
    /// Where its keys are.
    pub keys: WrittenKeys,
    /// The place of that.
    pub keys_span: Range<usize>,
    /// Where tokens stand. Never empty.
    pub places: Vec<TokenPlace>,
    /// The algorithms that are taken. Never empty.
    pub algorithms: Vec<TokenAlgorithm>,
    /// By how much clocks may differ.
    pub leeway: Duration,
    /// Whether the token is passed on.
    pub forward: bool,
    /// Claims that are passed on in header fields.
    pub claim_headers: Vec<ClaimHeader>,
}

/// Where keys are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WrittenKeys {
    /// Here, as a JWK Set.
    Inline(String),
    /// At an address, to be fetched again and again.
    Url(KeySource),
}

/// Where a key set is fetched from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeySource {
    /// `https://…`
    pub url: String,
    /// How long a set is used before it is fetched again.
    pub refresh: Duration,
    /// Whether the host may have an address that is not of the public internet.
    pub allow_private: bool,
}

impl KeySource {
    /// How long a set is used unless said otherwise: as long as issuers publish a key before they sign with it, at least.
    pub const REFRESH: Duration = Duration::from_secs(20 * 60);
}
