//! JWT-SVIDs of other trust domains: a token, an audience and the keys of its trust domain in; what it says out.

use std::time::{Duration, SystemTime};

use lorica_model::claims::Claims as Said;
use lorica_model::spiffe::{SpiffeId, TrustDomain};
use lorica_model::spiffe_bundle::SpiffeBundle;
use lorica_model::strict_json::StrictJsonError;
use serde_json::{Value, json};

use crate::jwt::{KeyError, KeySet, Signed, TokenError};
use crate::jwt_svid::Claims;

/// By how much the clock of another mesh may differ from ours.
const LEEWAY: Duration = Duration::from_secs(60);

/// Why a token of another trust domain is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ForeignTokenError {
    /// It is no token, or not signed by a key of its trust domain.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// Its trust domain has no keys for tokens.
    #[error("the bundle of {0} has no key that verifies tokens: {1}")]
    Keys(TrustDomain, KeyError),
    /// It is of none of the trust domains that are known.
    #[error("it is of the trust domain {0}, which this mesh does not federate with")]
    Unknown(TrustDomain),
    /// A claim is not as SPIFFE has it.
    #[error("its claim `{0}` is not {1}")]
    Claim(&'static str, &'static str),
    /// Its life is over.
    #[error("its life is over")]
    Expired,
    /// It was made in the future.
    #[error("it begins in the future: compare the clocks of both meshes")]
    NotYet,
    /// It is for others.
    #[error("it is not for the audience `{0}`")]
    Audience(String),
}

/// The trust domain that a token claims to be of. Nothing is believed yet: it only says whose keys tell.
///
/// # Errors
/// If it is no token, or has no SPIFFE ID as its subject.
pub fn claimed_trust_domain(token: &str) -> Result<TrustDomain, ForeignTokenError> {
    let signed = Signed::read(token.as_bytes())?;
    Ok(subject(&claims(&signed)?)?.trust_domain().clone())
}

fn claims(signed: &Signed<'_>) -> Result<Said, ForeignTokenError> {
    Said::read(&signed.payload).map_err(|error: StrictJsonError| TokenError::Claims(error).into())
}

fn subject(claims: &Said) -> Result<SpiffeId, ForeignTokenError> {
    let id = claims.as_object().get("sub").and_then(Value::as_str).and_then(|id| id.parse().ok());
    id.ok_or(ForeignTokenError::Claim("sub", "a SPIFFE ID"))
}

/// What a token says, if a key of `trust_domain` signed it, and it is of that trust domain, for `audience` and not over at `now`.
///
/// # Errors
/// Why it is not believed.
pub fn validate_token(
    trust_domain: &TrustDomain,
    bundle: &SpiffeBundle,
    token: &str,
    audience: &str,
    now: SystemTime,
) -> Result<Claims, ForeignTokenError> {
    let signed = Signed::read(token.as_bytes())?;
    // SPIFFE takes none without the name of its key (JWT-SVID, 2.2).
    if signed.key.is_none() {
        return Err(TokenError::Member("kid").into());
    }
    keys(bundle).map_err(|error| ForeignTokenError::Keys(trust_domain.clone(), error))?.verify(&signed)?;
    let claims = claims(&signed)?;
    let sub = subject(&claims)?;
    if sub.trust_domain() != trust_domain {
        return Err(ForeignTokenError::Unknown(sub.trust_domain().clone()));
    }
    let date = |name: &'static str| match claims.as_object().get(name) {
        None => Ok(None),
        Some(value) => seconds(value).map(Some).ok_or(ForeignTokenError::Claim(name, "a date in seconds since 1970")),
    };
    let at = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let exp = date("exp")?.ok_or(ForeignTokenError::Claim("exp", "there"))?;
    if at >= exp.saturating_add(LEEWAY.as_secs()) {
        return Err(ForeignTokenError::Expired);
    }
    let iat = date("iat")?;
    let begins = date("nbf")?.max(iat).unwrap_or_default();
    if begins > at.saturating_add(LEEWAY.as_secs()) {
        return Err(ForeignTokenError::NotYet);
    }
    let aud = audiences(claims.as_object().get("aud")).ok_or(ForeignTokenError::Claim("aud", "a text or a list of texts"))?;
    if !aud.iter().any(|known| known == audience) {
        return Err(ForeignTokenError::Audience(audience.chars().take(120).collect()));
    }
    Ok(Claims { sub, aud, exp, iat: iat.unwrap_or_default() })
}

/// The keys of a bundle that verify tokens. What SPIFFE says of their use, the reader of keys does not know.
fn keys(bundle: &SpiffeBundle) -> Result<KeySet, KeyError> {
    let keys = bundle.keys.iter().map(|key| {
        let mut key = key.clone();
        key.remove("use");
        Value::Object(key)
    });
    KeySet::read(json!({ "keys": keys.collect::<Vec<_>>() }).to_string().as_bytes())
}

/// A date, which may have parts of a second (RFC 7519, 2): they do not matter here.
fn seconds(value: &Value) -> Option<u64> {
    let whole = || value.as_f64().filter(|seconds| (0.0..253_402_300_800.0).contains(seconds));
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is in the range")]
    value.as_u64().or_else(|| whole().map(|seconds| seconds as u64))
}

fn audiences(value: Option<&Value>) -> Option<Vec<String>> {
    match value? {
        Value::String(one) => Some(vec![one.clone()]),
        Value::Array(list) => list.iter().map(|one| one.as_str().map(str::to_owned)).collect(),
        _ => None,
    }
}
