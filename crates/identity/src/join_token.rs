//! Join tokens: what a new host needs to find the control plane, to know it, and to be known by it, in one line of text.
//!
//! A token carries a secret, so it prints as `[redacted]`. It carries no root certificate, only the SHA-256 of the root's key, by which the host
//! knows the root that the control plane shows: nobody in between can take the secret.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::rand;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use lorica_model::name::Label;
use lorica_model::spiffe::TrustDomain;
use rustls_pki_types::CertificateDer;
use serde::{Deserialize, Serialize};

use crate::certificate::{Fields, hex, sha256};

/// What a token begins with.
const PREFIX: &str = "lorica-join-1.";
/// The most characters of a token that are read.
const MAX_TOKEN: usize = 4096;

/// Why a text is no join token. Never repeats the text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("it is no join token: {0}")]
pub struct JoinTokenError(&'static str);

/// The SHA-256 of a root's public key (its DER SubjectPublicKeyInfo).
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootPin([u8; 32]);

impl RootPin {
    /// The pin of a root.
    ///
    /// # Errors
    /// Says why it cannot be read.
    pub fn of(root: &CertificateDer<'_>) -> Result<Self, String> {
        Ok(Self(sha256(&Fields::read(root)?.public_key)))
    }
}

impl fmt::Debug for RootPin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

/// A secret that is shown once and stored as its digest.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Draws one of 256 bits.
    ///
    /// # Errors
    /// If the system has no randomness to give.
    pub fn draw() -> Result<Self, JoinTokenError> {
        Ok(Self(random::<32>()?))
    }

    /// Its SHA-256, by which it is known again. It has as many bits as the digest, so there is nothing to guess.
    #[must_use]
    pub fn digest(&self) -> String {
        hex(&sha256(self.0.as_bytes()))
    }

    /// The secret itself, to be sent to the control plane that proved to have the root's key.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// A token, taken apart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinToken {
    /// By which it is listed and revoked. No secret.
    pub id: String,
    /// The name that the host will have.
    pub host: Label,
    /// Where the control plane is reached: `10.0.0.1:15012`, one or more.
    pub addresses: Vec<String>,
    /// The trust domain that the host joins.
    pub trust_domain: TrustDomain,
    /// The root that the control plane's certificate leads to.
    pub root: RootPin,
    /// What proves the host to the control plane.
    pub secret: Secret,
}

impl JoinToken {
    /// A new id: 8 hexadecimal digits.
    ///
    /// # Errors
    /// If the system has no randomness to give.
    pub fn draw_id() -> Result<String, JoinTokenError> {
        let mut bytes = [0; 4];
        rand::fill(&mut bytes).map_err(|_| JoinTokenError("the system has no randomness to give"))?;
        Ok(hex(&bytes))
    }

    /// The token as one word of text: to be shown once, and to be kept from others.
    #[must_use]
    pub fn encode(&self) -> String {
        // Its fields are texts and lists of texts, which JSON has.
        let json = serde_json::to_vec(self).unwrap_or_default();
        format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(json))
    }
}

impl FromStr for JoinToken {
    type Err = JoinTokenError;

    fn from_str(text: &str) -> Result<Self, JoinTokenError> {
        let text = text.trim();
        if text.len() > MAX_TOKEN {
            return Err(JoinTokenError("it is too long"));
        }
        let body = text.strip_prefix(PREFIX).ok_or(JoinTokenError("it begins with `lorica-join-1.`"))?;
        let json = URL_SAFE_NO_PAD.decode(body).map_err(|_| JoinTokenError("a part of it is missing or changed"))?;
        let token: Self = serde_json::from_slice(&json).map_err(|_| JoinTokenError("a part of it is missing or changed"))?;
        if token.addresses.is_empty() { Err(JoinTokenError("it names no address")) } else { Ok(token) }
    }
}

fn random<const N: usize>() -> Result<String, JoinTokenError> {
    let mut bytes = [0; N];
    rand::fill(&mut bytes).map_err(|_| JoinTokenError("the system has no randomness to give"))?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn token() -> JoinToken {
        JoinToken {
            id: JoinToken::draw_id().unwrap(),
            host: Label::new("web-1").unwrap(),
            addresses: vec!["10.0.0.1:15012".to_owned()],
            trust_domain: TrustDomain::default(),
            root: RootPin([7; 32]),
            secret: Secret::draw().unwrap(),
        }
    }

    #[test]
    fn a_token_reads_as_it_was_written() {
        let token = token();
        let text = token.encode();
        assert_eq!(format!(" {text}\n").parse::<JoinToken>().unwrap(), token);
        assert!(!text.contains(char::is_whitespace));
    }

    #[test]
    fn a_secret_does_not_print() {
        let token = token();
        assert!(!format!("{token:?}").contains(token.secret.expose()));
        let error = token.encode()[..100].parse::<JoinToken>().unwrap_err().to_string();
        assert!(!error.contains("ey"), "{error}");
    }

    #[test]
    fn what_is_no_token_is_refused() {
        let text = token().encode();
        for bad in ["", "lorica-join-1.", &text[1..], &text[..text.len() - 1], &"x".repeat(10_000)] {
            bad.parse::<JoinToken>().unwrap_err();
        }
    }
}
