//! Tokens of users and programs: a compact JWS goes in (RFC 7515, RFC 7519), its claims come out if a known key signed it and everything
//! about it holds.
//!
//! | module | noun |
//! | --- | --- |
//! | `signed` | a token taken apart: head, payload, signature |
//! | `keys` | a JWK Set (RFC 7517), its keys prepared once |
//! | `verifier` | what one provider's tokens must be |
//!
//! What can be read in two ways is refused. The key decides the algorithm, the head may only agree; a key that comes with the token, or an
//! address of one, is nothing. The time is passed in, and nothing here opens a socket.

mod keys;
mod mistakes;
mod signed;
mod verifier;

pub use keys::{KeyError, KeySet, MAX_KEY_SET, MAX_KEYS};
pub use mistakes::mistakes;
pub use signed::{MAX_TOKEN, Signed};
pub use verifier::{Verified, Verifier};

use std::time::Duration;

use lorica_model::snapshot::TokenAlgorithm;
use lorica_model::strict_json::StrictJsonError;

/// Why a token is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It is longer than what is read.
    #[error("the token is longer than {MAX_TOKEN} bytes")]
    TooLong,
    /// It is not three parts.
    #[error("a token is three parts with dots between them")]
    Parts,
    /// A part is not base64url as RFC 7515 has it.
    #[error("the token's {0} is no base64url without padding")]
    Encoding(&'static str),
    /// Its head is not what it must be.
    #[error("the token's head: {0}")]
    Head(StrictJsonError),
    /// A member of its head is not what it must be.
    #[error("the token's head: `{0}` is no text")]
    Member(&'static str),
    /// It asks for extensions.
    #[error("the token's head has `{0}`, an extension that is not taken")]
    Extension(&'static str),
    /// It is signed by nobody, by a shared secret, or by what is unknown.
    #[error("the token's algorithm is `{0}`, which is not taken")]
    Algorithm(String),
    /// Its algorithm is known and not among those of its provider.
    #[error("the token's algorithm is {0}, which its provider does not use")]
    OtherAlgorithm(TokenAlgorithm),
    /// There are no keys yet.
    #[error("the keys of the issuer are not there yet")]
    NoKeys,
    /// No key of its provider has its `kid`.
    #[error("the issuer has no key `{0}`")]
    UnknownKey(String),
    /// The keys that it could mean are for other algorithms.
    #[error("the issuer has no such key for {0}")]
    OtherKey(TokenAlgorithm),
    /// It names no key, and it could be any of many.
    #[error("the token names no key (`kid`), and more than {0} could have signed it")]
    AnyKey(usize),
    /// Its signature is not that of any key that it could mean.
    #[error("the token's signature is not that of the issuer's key")]
    Signature,
    /// Its payload is not what it must be.
    #[error("the token's claims: {0}")]
    Claims(StrictJsonError),
    /// A claim is not of its type.
    #[error("the token's claim `{0}` is not {1}")]
    Claim(&'static str, &'static str),
    /// It says not when it ends.
    #[error("the token has no `exp`: it would be good for ever")]
    NoExpiry,
    /// It is over.
    #[error("the token ended {} s ago", .0.as_secs())]
    Expired(Duration),
    /// It is not good yet.
    #[error("the token begins in {} s", .0.as_secs())]
    NotYet(Duration),
    /// It was issued in the future.
    #[error("the token was issued {} s in the future", .0.as_secs())]
    IssuedLater(Duration),
    /// It is of another issuer.
    #[error("nobody here takes tokens of the issuer `{0}`")]
    Issuer(String),
    /// It is for others.
    #[error("the token is for other audiences")]
    Audience,
}

impl TokenError {
    /// What its sender may be told: nothing that it wrote itself.
    #[must_use]
    pub const fn told(&self) -> &'static str {
        match self {
            Self::Expired(_) => "the token has expired",
            Self::NotYet(_) | Self::IssuedLater(_) => "the token is not valid yet",
            Self::NoExpiry => "the token has no expiry",
            Self::Issuer(_) => "tokens of this issuer are not taken",
            Self::Audience => "the token is for another audience",
            Self::Signature | Self::UnknownKey(_) | Self::OtherKey(_) | Self::AnyKey(_) => "the token is not signed by a known key",
            Self::Algorithm(_) | Self::OtherAlgorithm(_) => "the algorithm of the token is not taken",
            Self::NoKeys => "the keys of the issuer are not known yet",
            Self::TooLong
            | Self::Parts
            | Self::Encoding(_)
            | Self::Head(_)
            | Self::Member(_)
            | Self::Extension(_)
            | Self::Claims(_)
            | Self::Claim(..) => "the token is malformed",
        }
    }

    /// Whether newer keys could make the token good.
    #[must_use]
    pub const fn asks_for_keys(&self) -> bool {
        matches!(self, Self::UnknownKey(_) | Self::NoKeys)
    }
}
