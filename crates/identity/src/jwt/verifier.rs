//! What the tokens of one provider must be, all of it at once.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lorica_model::claims::Claims;
use lorica_model::snapshot::{TokenAlgorithm, TokenProvider};
use serde_json::Value;

use super::{KeyError, KeySet, Signed, TokenError};

/// The last second that people can write (RFC 3339): later dates are mistakes.
const LAST_SECOND: f64 = 253_402_300_799.0;

/// What the tokens of one provider are held against.
#[derive(Debug)]
pub struct Verifier {
    issuer: String,
    audiences: Vec<String>,
    algorithms: Vec<TokenAlgorithm>,
    leeway: f64,
    keys: Option<KeySet>,
}

/// A token that holds.
#[derive(Debug, Clone, PartialEq)]
pub struct Verified {
    /// What it says.
    pub claims: Claims,
    /// Until when it holds, leeway and all.
    pub until: SystemTime,
}

impl Verifier {
    /// Prepares the keys of a provider.
    ///
    /// # Errors
    /// If its keys cannot be read. Without any it takes no token.
    pub fn new(provider: &TokenProvider) -> Result<Self, KeyError> {
        Ok(Self {
            issuer: provider.issuer.clone(),
            audiences: provider.audiences.clone(),
            algorithms: provider.algorithms.clone(),
            leeway: provider.leeway.as_secs_f64(),
            keys: provider.keys.as_ref().map(|keys| KeySet::read(keys.as_bytes())).transpose()?,
        })
    }

    /// The issuer whose tokens it takes.
    #[must_use]
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// Whether `token` holds at `now`.
    ///
    /// # Errors
    /// The first thing about it that does not hold.
    pub fn verify(&self, token: &[u8], now: SystemTime) -> Result<Verified, TokenError> {
        let signed = Signed::read(token)?;
        let claims = Claims::read(&signed.payload).map_err(TokenError::Claims)?;
        self.verify_read(&signed, claims, now)
    }

    /// The same for one of several providers: that of the issuer which the token claims, as its signature will tell.
    ///
    /// # Errors
    /// The same, and where nobody takes tokens of that issuer.
    pub fn verify_any(verifiers: &[&Self], token: &[u8], now: SystemTime) -> Result<(usize, Verified), TokenError> {
        let signed = Signed::read(token)?;
        let claims = Claims::read(&signed.payload).map_err(TokenError::Claims)?;
        let issuer = issuer(&claims)?;
        let Some(found) = verifiers.iter().position(|verifier| verifier.issuer == issuer) else {
            return Err(TokenError::Issuer(issuer.chars().take(128).collect()));
        };
        let Some(verifier) = verifiers.get(found) else { return Err(TokenError::NoKeys) };
        Ok((found, verifier.verify_read(&signed, claims, now)?))
    }

    fn verify_read(&self, signed: &Signed<'_>, claims: Claims, now: SystemTime) -> Result<Verified, TokenError> {
        if issuer(&claims)? != self.issuer {
            return Err(TokenError::Issuer(issuer(&claims)?.chars().take(128).collect()));
        }
        if !self.algorithms.contains(&signed.algorithm) {
            return Err(TokenError::OtherAlgorithm(signed.algorithm));
        }
        self.keys.as_ref().ok_or(TokenError::NoKeys)?.verify(signed)?;
        let until = self.times(&claims, now)?;
        self.audience(&claims)?;
        for name in ["sub", "jti"] {
            if claims.as_object().get(name).is_some_and(|value| !value.is_string()) {
                return Err(TokenError::Claim(name, "a text"));
            }
        }
        Ok(Verified { claims, until })
    }

    /// Until when it holds, where it holds now.
    fn times(&self, claims: &Claims, now: SystemTime) -> Result<SystemTime, TokenError> {
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        let seconds = |seconds: f64| Duration::try_from_secs_f64(seconds).unwrap_or_default();
        let ends = date(claims, "exp")?.ok_or(TokenError::NoExpiry)? + self.leeway;
        // On its last second it is over (RFC 7519, 4.1.4).
        if now >= ends {
            return Err(TokenError::Expired(seconds(now - ends + self.leeway)));
        }
        let begins = date(claims, "nbf")?.unwrap_or_default();
        if begins > now + self.leeway {
            return Err(TokenError::NotYet(seconds(begins - now)));
        }
        let issued = date(claims, "iat")?.unwrap_or_default();
        if issued > now + self.leeway {
            return Err(TokenError::IssuedLater(seconds(issued - now)));
        }
        Ok(UNIX_EPOCH.checked_add(seconds(ends)).unwrap_or(UNIX_EPOCH))
    }

    fn audience(&self, claims: &Claims) -> Result<(), TokenError> {
        const TYPE: TokenError = TokenError::Claim("aud", "a text or a list of texts");
        let known = |audience: &str| self.audiences.iter().any(|own| own == audience);
        let meant = match claims.as_object().get("aud") {
            None => false,
            Some(Value::String(audience)) => known(audience),
            Some(Value::Array(list)) => {
                let texts: Vec<&str> = list.iter().map(|value| value.as_str().ok_or(TYPE)).collect::<Result<_, _>>()?;
                texts.into_iter().any(known)
            }
            Some(_) => return Err(TYPE),
        };
        (meant || self.audiences.is_empty()).then_some(()).ok_or(TokenError::Audience)
    }
}

fn issuer(claims: &Claims) -> Result<&str, TokenError> {
    claims.as_object().get("iss").and_then(Value::as_str).ok_or(TokenError::Claim("iss", "a text"))
}

/// A date in seconds since 1970 (RFC 7519, 2), which may have parts of a second.
fn date(claims: &Claims, name: &'static str) -> Result<Option<f64>, TokenError> {
    let Some(value) = claims.as_object().get(name) else { return Ok(None) };
    let seconds = value.as_f64().filter(|seconds| (0.0..=LAST_SECOND).contains(seconds));
    seconds.map(Some).ok_or(TokenError::Claim(name, "a date in seconds since 1970"))
}
