//! Who a request is from, by a token (RFC 7519): which tokens are taken, from where, and what becomes of them. What a token must be is
//! told here as values; `lorica-identity` verifies, as the model knows no cryptography.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Origin;

/// The tokens that are asked for at one place: the calls to a service, or those of a rule at a gateway.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Authentication {
    /// The policy that says so.
    pub origin: Arc<Origin>,
    /// Whose tokens are taken. Each issuer is there once.
    pub providers: Vec<TokenProvider>,
    /// Whether a request without a token passes. One with a wrong token never does.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub optional: bool,
}

impl Authentication {
    /// Every header field that tells of claims: what callers send under these names is removed.
    pub fn claim_headers(&self) -> impl Iterator<Item = &str> {
        self.providers.iter().flat_map(|provider| &provider.claim_headers).map(|header| header.name.as_str())
    }
}

/// Whoever issues tokens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenProvider {
    /// Its name in the policy.
    pub name: String,
    /// The claim `iss` of its tokens.
    pub issuer: String,
    /// One of these must be in the claim `aud`; none: any token of the issuer is taken.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub audiences: Vec<String>,
    /// Its keys as a JWK Set (RFC 7517); none where they could not be fetched yet, and no token is taken.
    pub keys: Option<Arc<str>>,
    /// Where tokens stand. Never empty.
    pub places: Vec<TokenPlace>,
    /// The algorithms that are taken. Never empty.
    pub algorithms: Vec<TokenAlgorithm>,
    /// By how much clocks may differ.
    pub leeway: Duration,
    /// Whether the token is passed on.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub forward: bool,
    /// Claims that are passed on in header fields.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub claim_headers: Vec<ClaimHeader>,
}

/// Where a token stands in a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum TokenPlace {
    /// In a header field, after a prefix that may be empty.
    Header {
        /// The field, in lower case.
        name: String,
        /// What stands before the token. Compared without regard to case, as the scheme of `authorization` is (RFC 9110, 11.1).
        prefix: String,
    },
    /// In a cookie.
    Cookie(String),
    /// In a parameter of the query.
    Query(String),
}

impl fmt::Display for TokenPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header { name, .. } => write!(f, "the header `{name}`"),
            Self::Cookie(name) => write!(f, "the cookie `{name}`"),
            Self::Query(name) => write!(f, "the query parameter `{name}`"),
        }
    }
}

/// A claim that is passed on in a header field.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClaimHeader {
    /// The field, in lower case.
    pub name: String,
    /// The path of the claim.
    pub claim: String,
}

macro_rules! algorithms {
    ($($(#[$doc:meta])* $variant:ident = $name:literal;)+) => {
        /// A signature algorithm (RFC 7518, 3.1; RFC 8037). None of them has a key that both sides know.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum TokenAlgorithm {
            $($(#[$doc])* #[serde(rename = $name)] $variant,)+
        }

        impl TokenAlgorithm {
            /// All of them.
            pub const ALL: [Self; 10] = [$(Self::$variant),+];

            /// Its name in heads of tokens and in keys.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }
        }
    };
}

algorithms! {
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    Rs256 = "RS256";
    /// RSASSA-PKCS1-v1_5 with SHA-384.
    Rs384 = "RS384";
    /// RSASSA-PKCS1-v1_5 with SHA-512.
    Rs512 = "RS512";
    /// RSASSA-PSS with SHA-256.
    Ps256 = "PS256";
    /// RSASSA-PSS with SHA-384.
    Ps384 = "PS384";
    /// RSASSA-PSS with SHA-512.
    Ps512 = "PS512";
    /// ECDSA with P-256 and SHA-256.
    Es256 = "ES256";
    /// ECDSA with P-384 and SHA-384.
    Es384 = "ES384";
    /// ECDSA with P-521 and SHA-512.
    Es512 = "ES512";
    /// Ed25519.
    EdDsa = "EdDSA";
}

impl TokenAlgorithm {
    /// The algorithm of a name, which is compared exactly.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| algorithm.as_str() == name)
    }
}

impl fmt::Display for TokenAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// By how much clocks may differ, where nobody says otherwise. Hosts that keep time are within a second of each other; 30 s also covers
/// virtual machines that were just resumed, and is little beside the minutes that a token lives. Envoy takes 60 s.
pub const DEFAULT_LEEWAY: Duration = Duration::from_secs(30);
