//! The messages of the SPIFFE Workload API, as in its `workload.proto`. What holds a key or a token does not print it.

use std::collections::BTreeMap;
use std::fmt;

/// `X509SVIDRequest`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct X509SvidRequest {}

/// `X509SVIDResponse`: all that the caller has, each time.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct X509SvidResponse {
    /// The SVIDs, the default one first.
    #[prost(message, repeated, tag = "1")]
    pub svids: Vec<X509Svid>,
    /// Revocation lists, DER.
    #[prost(bytes = "vec", repeated, tag = "2")]
    pub crl: Vec<Vec<u8>>,
    /// Roots of other trust domains by their SPIFFE IDs, DER one after another.
    #[prost(btree_map = "string, bytes", tag = "3")]
    pub federated_bundles: BTreeMap<String, Vec<u8>>,
}

/// `X509SVID`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
#[prost(skip_debug)]
pub struct X509Svid {
    /// The SPIFFE ID.
    #[prost(string, tag = "1")]
    pub spiffe_id: String,
    /// The chain without the root, leaf first: DER one after another.
    #[prost(bytes = "vec", tag = "2")]
    pub x509_svid: Vec<u8>,
    /// The key, PKCS #8 DER.
    #[prost(bytes = "vec", tag = "3")]
    pub x509_svid_key: Vec<u8>,
    /// The roots of its trust domain, DER one after another.
    #[prost(bytes = "vec", tag = "4")]
    pub bundle: Vec<u8>,
    /// Which one to use, where there are several.
    #[prost(string, tag = "5")]
    pub hint: String,
}

impl fmt::Debug for X509Svid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("X509Svid").field("spiffe_id", &self.spiffe_id).field("x509_svid_key", &"[redacted]").finish_non_exhaustive()
    }
}

/// `X509BundlesRequest`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct X509BundlesRequest {}

/// `X509BundlesResponse`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct X509BundlesResponse {
    /// Revocation lists, DER.
    #[prost(bytes = "vec", repeated, tag = "1")]
    pub crl: Vec<Vec<u8>>,
    /// Roots of trust domains by their SPIFFE IDs, DER one after another.
    #[prost(btree_map = "string, bytes", tag = "2")]
    pub bundles: BTreeMap<String, Vec<u8>>,
}

/// `JWTSVIDRequest`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct JwtSvidRequest {
    /// For whom the token is.
    #[prost(string, repeated, tag = "1")]
    pub audience: Vec<String>,
    /// Which of its identities the caller means; empty: all.
    #[prost(string, tag = "2")]
    pub spiffe_id: String,
}

/// `JWTSVIDResponse`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct JwtSvidResponse {
    /// The tokens, the default one first.
    #[prost(message, repeated, tag = "1")]
    pub svids: Vec<JwtSvid>,
}

/// `JWTSVID`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
#[prost(skip_debug)]
pub struct JwtSvid {
    /// The SPIFFE ID.
    #[prost(string, tag = "1")]
    pub spiffe_id: String,
    /// The token.
    #[prost(string, tag = "2")]
    pub svid: String,
    /// Which one to use, where there are several.
    #[prost(string, tag = "3")]
    pub hint: String,
}

impl fmt::Debug for JwtSvid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JwtSvid").field("spiffe_id", &self.spiffe_id).field("svid", &"[redacted]").finish_non_exhaustive()
    }
}

/// `JWTBundlesRequest`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct JwtBundlesRequest {}

/// `JWTBundlesResponse`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct JwtBundlesResponse {
    /// The JWKS of trust domains by their SPIFFE IDs.
    #[prost(btree_map = "string, bytes", tag = "1")]
    pub bundles: BTreeMap<String, Vec<u8>>,
}

/// `ValidateJWTSVIDRequest`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
#[prost(skip_debug)]
pub struct ValidateJwtSvidRequest {
    /// For whom the token has to be.
    #[prost(string, tag = "1")]
    pub audience: String,
    /// The token.
    #[prost(string, tag = "2")]
    pub svid: String,
}

impl fmt::Debug for ValidateJwtSvidRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ValidateJwtSvidRequest").field("audience", &self.audience).field("svid", &"[redacted]").finish()
    }
}

/// `ValidateJWTSVIDResponse`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ValidateJwtSvidResponse {
    /// Whose token it is.
    #[prost(string, tag = "1")]
    pub spiffe_id: String,
    /// All that it says.
    #[prost(message, optional, tag = "2")]
    pub claims: Option<prost_types::Struct>,
}
