//! A token taken apart. Nothing of it is believed yet.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use lorica_model::snapshot::TokenAlgorithm;
use lorica_model::strict_json;
use serde_json::Value;

use super::TokenError;

/// The most bytes of a token that are read: as much as servers take of a header line.
pub const MAX_TOKEN: usize = 8 * 1024;

/// A signed text: a JWS in its compact form.
#[derive(Debug)]
pub struct Signed<'t> {
    /// How it says to be signed.
    pub algorithm: TokenAlgorithm,
    /// The name of its key. Only ever compared.
    pub key: Option<String>,
    /// What is signed.
    pub payload: Vec<u8>,
    /// The bytes that the signature is over.
    pub(super) input: &'t [u8],
    pub(super) signature: Vec<u8>,
}

impl<'t> Signed<'t> {
    /// Takes `token` apart.
    ///
    /// # Errors
    /// If it is not a JWS in its compact form, asks for extensions, or names an algorithm that proves nothing here: `none`, or one with a
    /// shared secret.
    pub fn read(token: &'t [u8]) -> Result<Self, TokenError> {
        if token.len() > MAX_TOKEN {
            return Err(TokenError::TooLong);
        }
        let mut parts = token.split(|byte| *byte == b'.');
        let (Some(head), Some(payload), Some(signature), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
            return Err(TokenError::Parts);
        };
        let input = token.get(..head.len() + 1 + payload.len()).ok_or(TokenError::Parts)?;
        let decoded = |part: &[u8], what| URL_SAFE_NO_PAD.decode(part).map_err(|_| TokenError::Encoding(what));
        let mut head = strict_json::object(&decoded(head, "head")?).map_err(TokenError::Head)?;
        // An extension may change what the signature is over, or what the claims mean (RFC 7515, 4.1.11; `b64`: RFC 7797).
        for name in ["crit", "b64"] {
            if head.contains_key(name) {
                return Err(TokenError::Extension(name));
            }
        }
        let mut text = |name: &'static str| match head.remove(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(TokenError::Member(name)),
        };
        let (named, key) = (text("alg")?.ok_or(TokenError::Member("alg"))?, text("kid")?);
        text("typ")?;
        // `jku`, `x5u`, `jwk` and `x5c` tell where the sender would like keys to come from: they are left where they are.
        let algorithm = TokenAlgorithm::named(&named).ok_or(TokenError::Algorithm(named))?;
        Ok(Self { algorithm, key, payload: decoded(payload, "payload")?, input, signature: decoded(signature, "signature")? })
    }
}
