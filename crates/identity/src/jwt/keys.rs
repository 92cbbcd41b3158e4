//! A JWK Set (RFC 7517), its keys prepared once for all tokens that they will be held against.

use aws_lc_rs::signature::{
    self, EcdsaVerificationAlgorithm, ParsedPublicKey, RsaParameters, RsaPublicKeyComponents, VerificationAlgorithm,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use lorica_model::snapshot::TokenAlgorithm;
use lorica_model::strict_json::{self, StrictJsonError};
use serde_json::{Map, Value};

use super::{Signed, TokenError};
use crate::request::{MAX_RSA_BITS, MIN_RSA_BITS};

/// The most bytes of a set that are read.
pub const MAX_KEY_SET: usize = 256 * 1024;

/// The most keys of a set.
pub const MAX_KEYS: usize = 100;

/// The most keys that a token without a `kid` is held against: each costs a signature, which anybody could ask for.
const MAX_TRIED: usize = 8;

/// Why a set of keys is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// It is longer than what is read.
    #[error("the key set is longer than {} KiB", MAX_KEY_SET / 1024)]
    TooLong,
    /// It is no JSON object.
    #[error("the key set: {0}")]
    Json(#[from] StrictJsonError),
    /// It has no keys.
    #[error("the key set has no list `keys`")]
    NoList,
    /// It has too many.
    #[error("the key set has more than {MAX_KEYS} keys")]
    TooMany,
    /// A secret is in it.
    #[error("key {0} of the key set is a secret (it has `{1}`); whoever reads the set can issue tokens")]
    Secret(usize, &'static str),
    /// None can be used.
    #[error("no key of the key set can verify a token{0}")]
    None(String),
}

/// The keys of an issuer that can verify tokens.
#[derive(Debug, Clone)]
pub struct KeySet {
    keys: Vec<Key>,
    /// Why other keys of the set are passed over.
    pub skipped: Vec<String>,
}

#[derive(Debug, Clone)]
struct Key {
    id: Option<String>,
    prepared: Vec<(TokenAlgorithm, ParsedPublicKey)>,
}

impl KeySet {
    /// Reads a set. Keys for other purposes, and of kinds that are unknown, are passed over, as RFC 7517 has it (section 5).
    ///
    /// # Errors
    /// If it is no set, too large, has no key that can verify tokens, or has a secret in it: a private key, or one that both sides know.
    pub fn read(text: &[u8]) -> Result<Self, KeyError> {
        if text.len() > MAX_KEY_SET {
            return Err(KeyError::TooLong);
        }
        let set = strict_json::object(text)?;
        let Some(Value::Array(list)) = set.get("keys") else { return Err(KeyError::NoList) };
        if list.len() > MAX_KEYS {
            return Err(KeyError::TooMany);
        }
        let (mut keys, mut skipped) = (Vec::new(), Vec::new());
        for (index, key) in list.iter().enumerate() {
            let Value::Object(key) = key else {
                skipped.push(format!("key {index} is no object"));
                continue;
            };
            if let Some(secret) = ["d", "p", "q", "dp", "dq", "qi", "oth", "k"].into_iter().find(|name| key.contains_key(*name)) {
                return Err(KeyError::Secret(index, secret));
            }
            match prepared(key) {
                Ok(key) => keys.push(key),
                Err(why) => skipped.push(format!("key {index}: {why}")),
            }
        }
        if keys.is_empty() {
            let why = skipped.first().map(|why| format!(" ({why})")).unwrap_or_default();
            return Err(KeyError::None(why));
        }
        Ok(Self { keys, skipped })
    }

    /// How many keys can verify tokens.
    #[must_use]
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Never: a set without keys is not taken.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Whether one of the keys signed it.
    ///
    /// # Errors
    /// If none did, or none could have.
    pub fn verify(&self, signed: &Signed<'_>) -> Result<(), TokenError> {
        let named = |key: &&Key| match (&key.id, &signed.key) {
            (Some(id), Some(named)) => id == named,
            // A key without a name may be meant by any token, and a token without one may mean any key.
            (None, _) | (_, None) => true,
        };
        let meant: Vec<&Key> = self.keys.iter().filter(named).collect();
        if meant.is_empty() {
            return Err(TokenError::UnknownKey(signed.key.as_deref().unwrap_or_default().chars().take(64).collect()));
        }
        let prepared = meant.iter().flat_map(|key| &key.prepared).filter(|(algorithm, _)| *algorithm == signed.algorithm);
        let prepared: Vec<&ParsedPublicKey> = prepared.map(|(_, key)| key).collect();
        if prepared.is_empty() {
            return Err(TokenError::OtherKey(signed.algorithm));
        }
        if prepared.len() > MAX_TRIED {
            return Err(TokenError::AnyKey(MAX_TRIED));
        }
        let signs = |key: &&ParsedPublicKey| key.verify_sig(signed.input, &signed.signature).is_ok();
        prepared.iter().any(signs).then_some(()).ok_or(TokenError::Signature)
    }
}

/// A key for every algorithm that it may be used with; or why it is none for tokens.
fn prepared(key: &Map<String, Value>) -> Result<Key, String> {
    let text = |name: &str| match key.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.as_str())),
        Some(_) => Err(format!("`{name}` is no text")),
    };
    if text("use")?.is_some_and(|purpose| purpose != "sig") {
        return Err("it is not for signatures (`use`)".to_owned());
    }
    match key.get("key_ops") {
        None => {}
        Some(Value::Array(operations)) if operations.iter().any(|operation| operation == "verify") => {}
        Some(_) => return Err("it does not verify signatures (`key_ops`)".to_owned()),
    }
    let bytes = |name: &str| {
        let text = text(name)?.ok_or_else(|| format!("it has no `{name}`"))?;
        URL_SAFE_NO_PAD.decode(text).map_err(|_| format!("`{name}` is no base64url without padding"))
    };
    let named = text("alg")?;
    let curve = text("crv")?;
    let prepared = match text("kty")? {
        Some("RSA") => rsa(&bytes("n")?, &bytes("e")?, named)?,
        Some("EC") => {
            let (algorithm, parameters, length) = match curve {
                Some("P-256") => (TokenAlgorithm::Es256, &signature::ECDSA_P256_SHA256_FIXED, 32),
                Some("P-384") => (TokenAlgorithm::Es384, &signature::ECDSA_P384_SHA384_FIXED, 48),
                Some("P-521") => (TokenAlgorithm::Es512, &signature::ECDSA_P521_SHA512_FIXED, 66),
                other => return Err(format!("its curve `{}` is none of P-256, P-384, P-521", other.unwrap_or_default())),
            };
            // The curve alone decides. Published examples call the algorithm of P-521 by the number of the curve.
            let is_named = |named: &str| named == algorithm.as_str() || (named == "ES521" && algorithm == TokenAlgorithm::Es512);
            agrees(named, is_named)?;
            vec![(algorithm, point(parameters, &bytes("x")?, &bytes("y")?, length)?)]
        }
        Some("OKP") if curve == Some("Ed25519") => {
            agrees(named, |named| matches!(named, "EdDSA" | "Ed25519"))?;
            vec![(TokenAlgorithm::EdDsa, parsed(&signature::ED25519, &bytes("x")?)?)]
        }
        Some(other) => return Err(format!("its kind `{other}` is not taken")),
        None => return Err("it has no `kty`".to_owned()),
    };
    Ok(Key { id: text("kid")?.map(str::to_owned), prepared })
}

fn agrees(named: Option<&str>, is: impl Fn(&str) -> bool) -> Result<(), String> {
    match named {
        Some(named) if !is(named) => Err(format!("its `alg` is `{named}`, which its kind cannot be used with")),
        _ => Ok(()),
    }
}

/// The key of RSA, for the algorithm that it names, or for all that RSA has.
fn rsa(n: &[u8], e: &[u8], named: Option<&str>) -> Result<Vec<(TokenAlgorithm, ParsedPublicKey)>, String> {
    let parameters: [(TokenAlgorithm, &'static RsaParameters); 6] = [
        (TokenAlgorithm::Rs256, &signature::RSA_PKCS1_2048_8192_SHA256),
        (TokenAlgorithm::Rs384, &signature::RSA_PKCS1_2048_8192_SHA384),
        (TokenAlgorithm::Rs512, &signature::RSA_PKCS1_2048_8192_SHA512),
        (TokenAlgorithm::Ps256, &signature::RSA_PSS_2048_8192_SHA256),
        (TokenAlgorithm::Ps384, &signature::RSA_PSS_2048_8192_SHA384),
        (TokenAlgorithm::Ps512, &signature::RSA_PSS_2048_8192_SHA512),
    ];
    agrees(named, |named| parameters.iter().any(|(algorithm, _)| algorithm.as_str() == named))?;
    if n.first() == Some(&0) || e.first() == Some(&0) {
        return Err("a number of it begins with zeros (RFC 7518, 6.3.1.1)".to_owned());
    }
    let bits = n.len() * 8 - n.first().map_or(0, |first| first.leading_zeros() as usize);
    if !(MIN_RSA_BITS..=MAX_RSA_BITS).contains(&bits) {
        return Err(format!("it has {bits} bits; keys of RSA from {MIN_RSA_BITS} to {MAX_RSA_BITS} are taken"));
    }
    // With an exponent of 1 every message would be its own signature; below 65537 forgeries of sloppy encodings become possible.
    if e.len() < 3 || e.len() > 4 || e.last().is_none_or(|last| last % 2 == 0) {
        return Err("its exponent is not an odd number from 65537 to 2³² (`AQAB` is usual)".to_owned());
    }
    let of_name = parameters.into_iter().filter(|(algorithm, _)| named.is_none_or(|named| named == algorithm.as_str()));
    let components = RsaPublicKeyComponents { n, e };
    let prepare = |(algorithm, parameters)| {
        let key = components.to_parsed_public_key(parameters).map_err(|error| format!("it is no key of RSA: {error}"))?;
        Ok((algorithm, key))
    };
    of_name.map(prepare).collect()
}

/// The key of a curve, whose coordinates have exactly its length (RFC 7518, 6.2.1.2).
fn point(parameters: &'static EcdsaVerificationAlgorithm, x: &[u8], y: &[u8], length: usize) -> Result<ParsedPublicKey, String> {
    if x.len() != length || y.len() != length {
        return Err(format!("a coordinate of it has not the {length} bytes of its curve"));
    }
    parsed(parameters, &[&[4], x, y].concat())
}

fn parsed(parameters: &'static dyn VerificationAlgorithm, bytes: &[u8]) -> Result<ParsedPublicKey, String> {
    ParsedPublicKey::new(parameters, bytes).map_err(|error| format!("it is no key of its kind: {error}"))
}
