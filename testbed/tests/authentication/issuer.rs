//! Whoever issues tokens in these tests, and whoever only says so.

use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

/// The issuer's name in policies.
pub(super) const ISSUER: &str = "https://login.example";

/// One with a key of P-256 named `key-1`.
pub(super) struct Issuer(EcdsaKeyPair);

fn encoded(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Seconds since 1970.
pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

impl Issuer {
    pub(super) fn new() -> Self {
        Self(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap())
    }

    /// Its public keys.
    pub(super) fn keys(&self) -> String {
        let point = self.0.public_key().as_ref();
        let key =
            json!({"kty": "EC", "crv": "P-256", "kid": "key-1", "use": "sig", "x": encoded(&point[1..33]), "y": encoded(&point[33..])});
        json!({"keys": [key]}).to_string()
    }

    /// Its keys as a provider of a policy has them, with more fields.
    pub(super) fn provider(&self, more: &str) -> String {
        format!("{{name: login, issuer: '{ISSUER}', audiences: [shop], jwks: {{inline: '{}'}}{more}}}", self.keys())
    }

    /// A token with this head and payload as they are written.
    pub(super) fn raw(&self, head: &str, payload: &str) -> String {
        let input = format!("{}.{}", encoded(head), encoded(payload));
        let signature = self.0.sign(&SystemRandom::new(), input.as_bytes()).unwrap();
        format!("{input}.{}", encoded(signature))
    }

    /// A token that holds for five minutes, with `changes`; null takes a claim away.
    pub(super) fn token(&self, changes: Value) -> String {
        self.raw(r#"{"alg":"ES256","kid":"key-1"}"#, &claims(changes).to_string())
    }

    /// A token that is signed with its public key as if that were a secret.
    pub(super) fn confused(&self, secret: &[u8]) -> String {
        let input = format!("{}.{}", encoded(r#"{"alg":"HS256","kid":"key-1"}"#), encoded(claims(json!({})).to_string()));
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), input.as_bytes());
        format!("{input}.{}", encoded(tag))
    }

    /// Its public key as bytes of a point.
    pub(super) fn point(&self) -> &[u8] {
        self.0.public_key().as_ref()
    }
}

/// The claims of a token that holds for five minutes, with `changes`; null takes a claim away.
pub(super) fn claims(changes: Value) -> Value {
    let mut claims =
        json!({"iss": ISSUER, "aud": "shop", "sub": "ada", "exp": now() + 300, "realm_access": {"roles": ["reader", "writer"]}});
    for (name, value) in changes.as_object().unwrap() {
        match value {
            Value::Null => drop(claims.as_object_mut().unwrap().remove(name)),
            value => claims[name] = value.clone(),
        }
    }
    claims
}
