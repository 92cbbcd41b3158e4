//! JWT-SVIDs: identities and audiences in, signed tokens out, and the public keys that verify them as a JWKS. Time is passed in.
//!
//! A token proves an identity where no TLS reaches: behind a load balancer, in a queue, to a cloud's API. Whoever sees it can use it until
//! it ends, so it is for named audiences and lives for minutes. Keys are P-256 (`ES256`) and sign nothing else. A new one is published a
//! day before it signs, and an old one stays for a day after, so that nobody meets a token whose key is unknown to them.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use lorica_model::spiffe::{SpiffeId, TrustDomain};
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject as _;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::certificate::{hex, sha256};
use crate::pem::{self, SecretPem};

/// How long a token lives: JWT-SVID asks for a short life, and five minutes is what its implementations take.
pub const TOKEN_LIFETIME: Duration = Duration::from_secs(5 * 60);
/// How long a key signs.
pub const SIGNS: Duration = Duration::from_secs(30 * 24 * 3600);
/// How long a key is published before it signs, and after another took its place.
pub const OVERLAP: Duration = Duration::from_secs(24 * 3600);

/// The most audiences of a token.
pub const MAX_AUDIENCES: usize = 16;
/// The most bytes of an audience.
pub const MAX_AUDIENCE: usize = 1024;
/// The most bytes of a token.
const MAX_TOKEN: usize = 32 * 1024;

/// Why there is no key or no token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// A key cannot be made or read.
    #[error("the key that signs JWT-SVIDs cannot be used: {0}")]
    Key(&'static str),
    /// The audiences are none that a token may have.
    #[error("a JWT-SVID is for 1 to {MAX_AUDIENCES} audiences, each of 1 to {MAX_AUDIENCE} bytes")]
    Audience,
    /// The identity is of another trust domain.
    #[error("the keys of {trust_domain} sign no token for {id}")]
    OtherTrustDomain {
        /// The keys' trust domain.
        trust_domain: TrustDomain,
        /// The identity.
        id: SpiffeId,
    },
}

/// Why a token is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenRefused {
    /// It is no JWT-SVID.
    #[error("it is no JWT-SVID: {0}")]
    Malformed(&'static str),
    /// No key of the trust domain signed it.
    #[error("it is not signed by a key of {0}")]
    Signature(TrustDomain),
    /// It is for others.
    #[error("it is not for the audience `{0}`")]
    Audience(String),
    /// Its life is over.
    #[error("its life is over")]
    Expired,
}

/// The claims of a token: those of SPIFFE's JWT-SVID, and no others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claims {
    /// Whose token it is.
    pub sub: SpiffeId,
    /// For whom it is.
    pub aud: Vec<String>,
    /// Its end, in seconds since 1970.
    pub exp: u64,
    /// When it was made, in seconds since 1970.
    pub iat: u64,
}

/// The head of a token.
#[derive(Deserialize)]
struct Head {
    alg: String,
    kid: String,
}

/// One key.
struct Key {
    id: String,
    pair: EcdsaKeyPair,
    pem: SecretPem,
    signs_from: SystemTime,
}

/// The keys as they are stored. They print as `[redacted]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenKeysRecord {
    /// Whose identities they sign.
    pub trust_domain: TrustDomain,
    /// The keys, oldest first.
    pub keys: Vec<TokenKeyRecord>,
}

/// A key as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenKeyRecord {
    /// The key.
    pub key_pem: SecretPem,
    /// From when it signs, in seconds since 1970.
    pub signs_from: u64,
}

/// The keys that sign the JWT-SVIDs of a trust domain.
#[derive(Clone)]
pub struct TokenKeys {
    trust_domain: TrustDomain,
    /// Oldest first; never empty.
    keys: Vec<Arc<Key>>,
}

impl fmt::Debug for TokenKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ids: Vec<&str> = self.keys.iter().map(|key| key.id.as_str()).collect();
        f.debug_struct("TokenKeys").field("trust_domain", &self.trust_domain).field("ids", &ids).finish_non_exhaustive()
    }
}

impl TokenKeys {
    /// Makes a first key, which signs at once: there is nobody yet who knows another.
    ///
    /// # Errors
    /// If the system has no randomness to give.
    pub fn create(trust_domain: TrustDomain, now: SystemTime) -> Result<Self, TokenError> {
        Ok(Self { trust_domain, keys: vec![Arc::new(Key::generate(now)?)] })
    }

    /// Loads stored keys.
    ///
    /// # Errors
    /// If there is none, or one cannot be read.
    pub fn from_record(record: &TokenKeysRecord) -> Result<Self, TokenError> {
        let read = |record: &TokenKeyRecord| {
            Key::read(record.key_pem.clone(), SystemTime::UNIX_EPOCH + Duration::from_secs(record.signs_from)).map(Arc::new)
        };
        let keys: Vec<_> = record.keys.iter().map(read).collect::<Result<_, _>>()?;
        if keys.is_empty() { Err(TokenError::Key("there is none")) } else { Ok(Self { trust_domain: record.trust_domain.clone(), keys }) }
    }

    /// The keys as they are stored.
    #[must_use]
    pub fn to_record(&self) -> TokenKeysRecord {
        let key = |key: &Arc<Key>| TokenKeyRecord { key_pem: key.pem.clone(), signs_from: seconds(key.signs_from) };
        TokenKeysRecord { trust_domain: self.trust_domain.clone(), keys: self.keys.iter().map(key).collect() }
    }

    /// Whose identities they sign.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The keys as they should be at `now`: a new one a day before the last one has signed for 30 days, and none that was replaced more than
    /// a day ago. `None`: they are as they should be.
    ///
    /// # Errors
    /// If the system has no randomness to give.
    pub fn rotated(&self, now: SystemTime) -> Result<Option<Self>, TokenError> {
        let replaced = |next: Option<&Arc<Key>>| next.is_some_and(|next| next.signs_from + OVERLAP <= now);
        let kept = self.keys.iter().enumerate().filter(|(index, _)| !replaced(self.keys.get(index + 1)));
        let mut keys: Vec<Arc<Key>> = kept.map(|(_, key)| key.clone()).collect();
        let ends = self.keys.last().map_or(now, |newest| newest.signs_from + SIGNS);
        if ends <= now + OVERLAP {
            // Where this was not asked for long, the new one is published before it signs all the same.
            keys.push(Arc::new(Key::generate(ends.max(now + OVERLAP))?));
        }
        let same = keys.len() == self.keys.len() && keys.iter().zip(&self.keys).all(|(a, b)| Arc::ptr_eq(a, b));
        Ok((!same).then(|| Self { trust_domain: self.trust_domain.clone(), keys }))
    }

    /// The public keys as a JWKS, in the form of a SPIFFE bundle's keys.
    #[must_use]
    pub fn jwks(&self) -> String {
        let keys: Vec<_> = self.keys.iter().map(|key| key.public()).collect();
        json!({ "keys": keys }).to_string()
    }

    /// A token for `id` and `audience` that begins at `now`. A life of more than a day is cut to a day.
    ///
    /// # Errors
    /// If the audiences are none, too many or too long, or the identity is of another trust domain.
    pub fn sign(&self, id: &SpiffeId, audience: &[String], lifetime: Duration, now: SystemTime) -> Result<String, TokenError> {
        if *id.trust_domain() != self.trust_domain {
            return Err(TokenError::OtherTrustDomain { trust_domain: self.trust_domain.clone(), id: id.clone() });
        }
        let whole = |audience: &String| !audience.is_empty() && audience.len() <= MAX_AUDIENCE;
        if audience.is_empty() || audience.len() > MAX_AUDIENCES || !audience.iter().all(whole) {
            return Err(TokenError::Audience);
        }
        let key = self.keys.iter().rev().find(|key| key.signs_from <= now).or_else(|| self.keys.first());
        let key = key.ok_or(TokenError::Key("there is none"))?;
        let claims = Claims { sub: id.clone(), aud: audience.to_vec(), exp: seconds(now + lifetime.min(OVERLAP)), iat: seconds(now) };
        let head = json!({ "alg": "ES256", "kid": key.id, "typ": "JWT" });
        let claims = serde_json::to_vec(&claims).map_err(|_| TokenError::Key("its claims cannot be written"))?;
        let text = format!("{}.{}", URL_SAFE_NO_PAD.encode(head.to_string()), URL_SAFE_NO_PAD.encode(claims));
        let signature = key.pair.sign(&SystemRandom::new(), text.as_bytes()).map_err(|_| TokenError::Key("it does not sign"))?;
        Ok(format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }

    /// What a token of these keys says, if it is for `audience` and not over at `now`. There is no allowance for clocks: it was made by the
    /// one that is asked.
    ///
    /// # Errors
    /// Why it is not believed.
    pub fn validate(&self, token: &str, audience: &str, now: SystemTime) -> Result<Claims, TokenRefused> {
        let mut parts = token.split('.');
        let (Some(head), Some(claims), Some(signature), None, true) =
            (parts.next(), parts.next(), parts.next(), parts.next(), token.len() <= MAX_TOKEN)
        else {
            return Err(TokenRefused::Malformed("it has not three parts"));
        };
        let decoded = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| TokenRefused::Malformed("a part of it is no base64url"));
        let read: Head = serde_json::from_slice(&decoded(head)?).map_err(|_| TokenRefused::Malformed("its head cannot be read"))?;
        let unsigned = || TokenRefused::Signature(self.trust_domain.clone());
        // The key says the algorithm; what the token says must only not contradict.
        let key = self.keys.iter().find(|key| key.id == read.kid && read.alg == "ES256").ok_or_else(unsigned)?;
        let public = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, key.pair.public_key().as_ref());
        let signed = token.get(..head.len() + 1 + claims.len()).unwrap_or_default();
        public.verify(signed.as_bytes(), &decoded(signature)?).map_err(|_| unsigned())?;
        let claims: Claims = serde_json::from_slice(&decoded(claims)?).map_err(|_| TokenRefused::Malformed("its claims cannot be read"))?;
        if claims.sub.trust_domain() != &self.trust_domain {
            return Err(unsigned());
        }
        if seconds(now) >= claims.exp {
            return Err(TokenRefused::Expired);
        }
        if !claims.aud.iter().any(|known| known == audience) {
            return Err(TokenRefused::Audience(audience.chars().take(120).collect()));
        }
        Ok(claims)
    }
}

impl Key {
    fn generate(signs_from: SystemTime) -> Result<Self, TokenError> {
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new());
        let pkcs8 = pkcs8.map_err(|_| TokenError::Key("the system has no randomness to give"))?;
        Self::read(SecretPem::new(pem::encode("PRIVATE KEY", pkcs8.as_ref())), signs_from)
    }

    fn read(pem: SecretPem, signs_from: SystemTime) -> Result<Self, TokenError> {
        // The reader's own errors may quote the text.
        let der = PrivatePkcs8KeyDer::from_pem_slice(pem.expose().as_bytes());
        let der = der.map_err(|_| TokenError::Key("it is no PEM of a private key"))?;
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der.secret_pkcs8_der());
        let pair = pair.map_err(|_| TokenError::Key("it is no key of P-256"))?;
        let id = hex(&sha256(pair.public_key().as_ref())[..16]);
        Ok(Self { id, pair, pem, signs_from })
    }

    /// The public key as JWK. The point is `04 || x || y`.
    fn public(&self) -> serde_json::Value {
        let point = self.pair.public_key().as_ref();
        let part = |range: std::ops::Range<usize>| URL_SAFE_NO_PAD.encode(point.get(range).unwrap_or_default());
        json!({ "kty": "EC", "use": "jwt-svid", "alg": "ES256", "kid": self.id, "crv": "P-256", "x": part(1..33), "y": part(33..65) })
    }
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const AUDIENCE: &str = "https://ledger.example";

    fn start() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
    }

    fn keys() -> TokenKeys {
        TokenKeys::create(TrustDomain::default(), start()).unwrap()
    }

    fn id() -> SpiffeId {
        "spiffe://mesh.local/ns/contact/sa/recording".parse().unwrap()
    }

    fn token(keys: &TokenKeys, now: SystemTime) -> String {
        keys.sign(&id(), &[AUDIENCE.to_owned()], TOKEN_LIFETIME, now).unwrap()
    }

    fn key_ids(jwks: &str) -> Vec<String> {
        let jwks: serde_json::Value = serde_json::from_str(jwks).unwrap();
        jwks["keys"].as_array().unwrap().iter().map(|key| key["kid"].as_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn a_token_has_the_claims_of_spiffe_and_no_others() {
        let keys = keys();
        let token = token(&keys, start());
        let part = |index| -> serde_json::Value {
            serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token.split('.').nth(index).unwrap()).unwrap()).unwrap()
        };
        assert_eq!(part(0), json!({ "alg": "ES256", "typ": "JWT", "kid": key_ids(&keys.jwks())[0] }));
        assert_eq!(part(1), json!({ "sub": id(), "aud": [AUDIENCE], "iat": 1_800_000_000, "exp": 1_800_000_300 }));
        assert_eq!(keys.validate(&token, AUDIENCE, start()).unwrap().sub, id());
    }

    #[test]
    fn a_token_is_believed_for_its_audience_in_its_life_as_it_was_signed() {
        let (keys, other) = (keys(), keys());
        let token = token(&keys, start());
        let refused = |token: &str, audience, after| keys.validate(token, audience, start() + Duration::from_secs(after)).unwrap_err();
        assert_eq!(refused(&token, "other", 0), TokenRefused::Audience("other".to_owned()));
        keys.validate(&token, AUDIENCE, start() + Duration::from_secs(299)).unwrap();
        assert_eq!(refused(&token, AUDIENCE, 300), TokenRefused::Expired);
        assert_eq!(other.validate(&token, AUDIENCE, start()).unwrap_err(), TokenRefused::Signature(TrustDomain::default()));
        let parts: Vec<&str> = token.split('.').collect();
        let none = URL_SAFE_NO_PAD.encode(json!({ "alg": "none", "kid": key_ids(&keys.jwks())[0] }).to_string());
        for forged in [format!("{none}.{}.", parts[1]), format!("{none}.{}.{}", parts[1], parts[2])] {
            assert_eq!(refused(&forged, AUDIENCE, 0), TokenRefused::Signature(TrustDomain::default()));
        }
        let claims = json!({ "sub": "spiffe://mesh.local/ns/contact/sa/other", "aud": [AUDIENCE], "iat": 0, "exp": 2_000_000_000_u64 });
        let forged = format!("{}.{}.{}", parts[0], URL_SAFE_NO_PAD.encode(claims.to_string()), parts[2]);
        assert_eq!(refused(&forged, AUDIENCE, 0), TokenRefused::Signature(TrustDomain::default()));
        for broken in ["", "a.b", "a.b.c.d", "!.!.!"] {
            assert!(matches!(refused(broken, AUDIENCE, 0), TokenRefused::Malformed(_)), "{broken}");
        }
    }

    #[test]
    fn a_new_key_is_known_before_it_signs_and_an_old_one_after() {
        let day = |days: u64| start() + Duration::from_secs(days * 24 * 3600);
        let first = keys();
        assert!(first.rotated(day(28)).unwrap().is_none());
        let second = first.rotated(day(29)).unwrap().unwrap();
        assert!(second.rotated(day(29)).unwrap().is_none());
        let old = key_ids(&first.jwks())[0].clone();
        let ids = key_ids(&second.jwks());
        assert_eq!((ids.len(), &ids[0]), (2, &old));
        // Who knows the new bundle believes the tokens of both, and nobody has to know the new key yet.
        first.validate(&token(&second, day(29)), AUDIENCE, day(29)).unwrap();
        let before_the_end = day(30) - Duration::from_secs(1);
        let last = token(&second, before_the_end);
        first.validate(&last, AUDIENCE, before_the_end).unwrap();
        first.validate(&token(&second, day(30)), AUDIENCE, day(30)).unwrap_err();
        second.validate(&last, AUDIENCE, day(30)).unwrap();
        assert!(second.rotated(day(31) - Duration::from_secs(1)).unwrap().is_none());
        assert_eq!(key_ids(&second.rotated(day(31)).unwrap().unwrap().jwks()), [ids[1].clone()]);
    }

    #[test]
    fn keys_that_nobody_rotated_for_long_overlap_all_the_same() {
        let late = start() + SIGNS * 5;
        let rotated = keys().rotated(late).unwrap().unwrap();
        keys().validate(&token(&rotated, late), AUDIENCE, late).unwrap_err();
        let soon = late + OVERLAP;
        assert_eq!(key_ids(&rotated.jwks()).len(), 2);
        rotated.validate(&token(&rotated, soon), AUDIENCE, soon).unwrap();
    }

    #[test]
    fn keys_read_back_and_do_not_print() {
        let keys = keys();
        let text = serde_json::to_string(&keys.to_record()).unwrap();
        let read = TokenKeys::from_record(&serde_json::from_str(&text).unwrap()).unwrap();
        assert_eq!(read.jwks(), keys.jwks());
        read.validate(&token(&keys, start()), AUDIENCE, start()).unwrap();
        assert!(!format!("{keys:?}{:?}", keys.to_record()).contains("PRIVATE"));
        assert!(TokenKeys::from_record(&TokenKeysRecord { trust_domain: TrustDomain::default(), keys: Vec::new() }).is_err());
    }

    #[test]
    fn what_no_token_may_say_is_not_signed() {
        let keys = keys();
        let sign = |id: SpiffeId, audience: &[String]| keys.sign(&id, audience, TOKEN_LIFETIME, start()).unwrap_err();
        assert_eq!(sign(id(), &[]), TokenError::Audience);
        assert_eq!(sign(id(), &[String::new()]), TokenError::Audience);
        assert_eq!(sign(id(), &vec!["a".to_owned(); MAX_AUDIENCES + 1]), TokenError::Audience);
        assert_eq!(sign(id(), &["a".repeat(MAX_AUDIENCE + 1)]), TokenError::Audience);
        assert!(matches!(sign("spiffe://other/a".parse().unwrap(), &["a".to_owned()]), TokenError::OtherTrustDomain { .. }));
    }
}
