//! Tokens: what holds, and every way in which one may not.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{self, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use lorica_identity::jwt::{KeyError, KeySet, MAX_KEYS, MAX_TOKEN, Signed, TokenError, Verifier};
use lorica_model::snapshot::{TokenAlgorithm, TokenPlace, TokenProvider};
use proptest::prelude::*;
use serde_json::{Value, json};

const NOW: u64 = 1_800_000_000;

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(NOW)
}

fn encoded(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// An issuer with keys on two curves.
struct Issuer {
    edwards: Ed25519KeyPair,
    elliptic: EcdsaKeyPair,
}

impl Issuer {
    fn new() -> Self {
        let elliptic = EcdsaKeyPair::generate(&signature::ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        Self { edwards: Ed25519KeyPair::generate().unwrap(), elliptic }
    }

    fn edwards_key(&self) -> Value {
        json!({"kty": "OKP", "crv": "Ed25519", "kid": "ed", "x": encoded(self.edwards.public_key().as_ref())})
    }

    fn elliptic_key(&self) -> Value {
        let point = self.elliptic.public_key().as_ref();
        json!({"kty": "EC", "crv": "P-256", "kid": "ec", "alg": "ES256", "use": "sig", "x": encoded(&point[1..33]), "y": encoded(&point[33..])})
    }

    fn keys(&self) -> String {
        json!({"keys": [self.edwards_key(), self.elliptic_key()]}).to_string()
    }

    fn provider(&self) -> TokenProvider {
        TokenProvider {
            name: "login".to_owned(),
            issuer: "https://login.example".to_owned(),
            audiences: vec!["shop".to_owned(), "till".to_owned()],
            keys: Some(self.keys().into()),
            places: vec![TokenPlace::Query("token".to_owned())],
            algorithms: TokenAlgorithm::ALL.to_vec(),
            leeway: Duration::from_secs(30),
            forward: false,
            claim_headers: Vec::new(),
        }
    }

    /// A token with this head and payload as they are written, signed with the key on the Edwards curve.
    fn raw(&self, head: &str, payload: &str) -> String {
        let input = format!("{}.{}", encoded(head), encoded(payload));
        format!("{input}.{}", encoded(self.edwards.sign(input.as_bytes())))
    }

    fn token(&self, claims: &Value) -> String {
        self.raw(r#"{"alg":"EdDSA","kid":"ed"}"#, &claims.to_string())
    }

    fn verify(&self, token: &str) -> Result<Value, TokenError> {
        let verified = Verifier::new(&self.provider()).unwrap().verify(token.as_bytes(), now())?;
        Ok(Value::Object(verified.claims.as_object().clone()))
    }
}

/// The claims of a token that holds, with `changes`; null takes a claim away.
fn claims(changes: &Value) -> Value {
    let mut claims = json!({"iss": "https://login.example", "aud": "shop", "sub": "ada", "exp": NOW + 300, "iat": NOW - 10});
    for (name, value) in changes.as_object().unwrap() {
        match value {
            Value::Null => drop(claims.as_object_mut().unwrap().remove(name)),
            value => claims[name] = value.clone(),
        }
    }
    claims
}

#[test]
fn a_token_holds_and_says_until_when() {
    let issuer = Issuer::new();
    let verifier = Verifier::new(&issuer.provider()).unwrap();
    let verified = verifier.verify(issuer.token(&claims(&json!({}))).as_bytes(), now()).unwrap();
    assert_eq!(verified.claims.text("sub").as_deref(), Some("ada"));
    assert_eq!(verified.until, now() + Duration::from_secs(330), "with its leeway");
    let input = format!("{}.{}", encoded(r#"{"kid":"ec","alg":"ES256","typ":"at+jwt"}"#), encoded(claims(&json!({})).to_string()));
    let signature = issuer.elliptic.sign(&SystemRandom::new(), input.as_bytes()).unwrap();
    assert!(issuer.verify(&format!("{input}.{}", encoded(signature))).is_ok());
}

#[test]
fn every_claim_must_hold() {
    let issuer = Issuer::new();
    let found = |changes: Value| issuer.verify(&issuer.token(&claims(&changes))).map(|_| ());
    for good in [
        json!({"aud": ["other", "till"]}),
        json!({"exp": NOW - 29}),
        json!({"exp": 1_800_000_000.5}),
        json!({"nbf": NOW + 30}),
        json!({"iat": NOW + 30}),
        json!({"iat": null, "sub": null}),
    ] {
        assert_eq!(found(good.clone()), Ok(()), "{good}");
    }
    let later = |seconds| Duration::from_secs(seconds);
    for (bad, error) in [
        (json!({"exp": null}), TokenError::NoExpiry),
        (json!({"exp": NOW - 30}), TokenError::Expired(later(30))),
        (json!({"exp": (NOW + 300).to_string()}), TokenError::Claim("exp", "a date in seconds since 1970")),
        (json!({"exp": 1e300}), TokenError::Claim("exp", "a date in seconds since 1970")),
        (json!({"exp": -1}), TokenError::Claim("exp", "a date in seconds since 1970")),
        (json!({"nbf": NOW + 31}), TokenError::NotYet(later(31))),
        (json!({"nbf": "soon"}), TokenError::Claim("nbf", "a date in seconds since 1970")),
        (json!({"iat": NOW + 31}), TokenError::IssuedLater(later(31))),
        (json!({"iss": "https://login.example/"}), TokenError::Issuer("https://login.example/".to_owned())),
        (json!({"iss": null}), TokenError::Claim("iss", "a text")),
        (json!({"iss": ["https://login.example"]}), TokenError::Claim("iss", "a text")),
        (json!({"aud": "Shop"}), TokenError::Audience),
        (json!({"aud": null}), TokenError::Audience),
        (json!({"aud": []}), TokenError::Audience),
        (json!({"aud": ["shop", 7]}), TokenError::Claim("aud", "a text or a list of texts")),
        (json!({"aud": {"shop": 1}}), TokenError::Claim("aud", "a text or a list of texts")),
        (json!({"sub": 7}), TokenError::Claim("sub", "a text")),
    ] {
        assert_eq!(found(bad.clone()), Err(error), "{bad}");
    }
}

#[test]
fn heads_that_lead_elsewhere_are_refused_or_lead_nowhere() {
    let issuer = Issuer::new();
    let payload = claims(&json!({})).to_string();
    let found = |head: &str| issuer.verify(&issuer.raw(head, &payload)).map(|_| ());
    let other = Issuer::new();
    for (head, error) in [
        (r#"{"alg":"none"}"#, TokenError::Algorithm("none".to_owned())),
        (r#"{"alg":"None"}"#, TokenError::Algorithm("None".to_owned())),
        (r#"{"alg":"HS256","kid":"ed"}"#, TokenError::Algorithm("HS256".to_owned())),
        (r#"{"alg":"eddsa","kid":"ed"}"#, TokenError::Algorithm("eddsa".to_owned())),
        (r#"{"alg":["EdDSA"],"kid":"ed"}"#, TokenError::Member("alg")),
        (r#"{"kid":"ed"}"#, TokenError::Member("alg")),
        (r#"{"alg":"EdDSA","kid":7}"#, TokenError::Member("kid")),
        (r#"{"alg":"EdDSA","kid":"ed","crit":["exp"]}"#, TokenError::Extension("crit")),
        (r#"{"alg":"EdDSA","kid":"ed","crit":[]}"#, TokenError::Extension("crit")),
        (r#"{"alg":"EdDSA","kid":"ed","b64":false}"#, TokenError::Extension("b64")),
        (r#"{"alg":"EdDSA","kid":"../../etc/passwd"}"#, TokenError::UnknownKey("../../etc/passwd".to_owned())),
        (r#"{"alg":"EdDSA","kid":"' OR 1=1 --"}"#, TokenError::UnknownKey("' OR 1=1 --".to_owned())),
        (r#"{"alg":"ES256","kid":"ed"}"#, TokenError::OtherKey(TokenAlgorithm::Es256)),
        (r#"{"alg":"RS256","kid":"ed"}"#, TokenError::OtherKey(TokenAlgorithm::Rs256)),
        (r#"{"alg":"ES256","kid":"ec"}"#, TokenError::Signature),
    ] {
        assert_eq!(found(head), Err(error), "{head}");
    }
    assert!(matches!(found(r#"{"alg":"EdDSA","alg":"none","kid":"ed"}"#), Err(TokenError::Head(_))));
    assert_eq!(found(r#"{"alg":"EdDSA"}"#), Ok(()), "without a name every key of the algorithm is tried");
    // Keys that come with the token, and addresses of keys, are nothing.
    let brought = other.edwards_key();
    let head =
        json!({"alg": "EdDSA", "kid": "ed", "jwk": brought, "jku": "https://evil.example/keys", "x5u": "file:///etc/passwd"}).to_string();
    assert_eq!(issuer.verify(&other.raw(&head, &payload)), Err(TokenError::Signature));
    assert!(found(&head).is_ok());
}

/// A public key is no secret: whoever takes it for one lets everybody sign.
#[test]
fn a_public_key_signs_nothing() {
    let issuer = Issuer::new();
    for head in [r#"{"alg":"HS256","kid":"ed"}"#, r#"{"alg":"HS256","kid":"ec"}"#] {
        let input = format!("{}.{}", encoded(head), encoded(claims(&json!({})).to_string()));
        for secret in [issuer.edwards.public_key().as_ref(), issuer.elliptic.public_key().as_ref(), issuer.keys().as_bytes()] {
            let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, secret);
            let tag = aws_lc_rs::hmac::sign(&key, input.as_bytes());
            assert_eq!(issuer.verify(&format!("{input}.{}", encoded(tag))), Err(TokenError::Algorithm("HS256".to_owned())));
        }
    }
}

#[test]
fn forms_that_are_no_compact_token_are_refused() {
    let issuer = Issuer::new();
    let good = issuer.token(&claims(&json!({})));
    let [head, payload, signature] = good.split('.').collect::<Vec<_>>()[..] else { panic!() };
    for bad in [
        String::new(),
        ".".to_owned(),
        "..".to_owned(),
        format!("{head}.{payload}"),
        format!("{head}.{payload}."),
        format!("{good}."),
        format!("{good}.x.y"),
        format!(" {good}"),
        format!("{good}\n"),
        format!("{head}.{payload}.{signature}="),
        format!("{head}=.{payload}.{signature}"),
        format!("{head}.{payload}.{signature}A"),
        format!("{head}.{payload}.{}", &signature[1..]),
        format!("{head}.{payload}.{}", signature.replace(&signature[..1], "+")),
        issuer.raw(r#"{"alg":"EdDSA","kid":"ed"}"#, "[1]"),
        issuer.raw(r#"{"alg":"EdDSA","kid":"ed"}"#, &format!(r#"{{"exp":{},"exp":{}}}"#, NOW + 300, NOW + 300)),
        issuer.raw(r#"{"alg":"EdDSA","kid":"ed"}"#, &format!(r#"{{"a":{}1{}}}"#, "[".repeat(40), "]".repeat(40))),
        format!("{good}{}", "A".repeat(MAX_TOKEN)),
    ] {
        assert!(issuer.verify(&bad).is_err(), "{bad}");
    }
    assert!(issuer.verify(&good).is_ok());
}

#[test]
fn an_issuer_is_chosen_by_its_claim_and_held_to_its_own_keys() {
    let (one, other) = (Issuer::new(), Issuer::new());
    let of = |issuer: &Issuer, name: &str| Verifier::new(&TokenProvider { issuer: name.to_owned(), ..issuer.provider() }).unwrap();
    let (first, second) = (of(&one, "one"), of(&other, "other"));
    let both = [&first, &second];
    let token = |issuer: &Issuer, name: &str| issuer.token(&claims(&json!({"iss": name})));
    let found = |token: &str| Verifier::verify_any(&both, token.as_bytes(), now()).map(|(index, _)| index);
    assert_eq!(found(&token(&other, "other")), Ok(1));
    assert_eq!(found(&token(&other, "one")), Err(TokenError::Signature));
    assert_eq!(found(&token(&one, "third")), Err(TokenError::Issuer("third".to_owned())));
}

#[test]
fn without_keys_and_with_other_algorithms_nothing_is_taken() {
    let issuer = Issuer::new();
    let token = issuer.token(&claims(&json!({})));
    let found = |provider: TokenProvider| Verifier::new(&provider).unwrap().verify(token.as_bytes(), now()).map(|_| ());
    let error = found(TokenProvider { keys: None, ..issuer.provider() }).unwrap_err();
    assert!(error == TokenError::NoKeys && error.asks_for_keys());
    let error = found(TokenProvider { algorithms: vec![TokenAlgorithm::Es256], ..issuer.provider() }).unwrap_err();
    assert_eq!(error, TokenError::OtherAlgorithm(TokenAlgorithm::EdDsa));
}

#[test]
fn sets_of_keys_are_held_to_their_bounds() {
    let issuer = Issuer::new();
    let read = |keys: Value| KeySet::read(json!({ "keys": keys }).to_string().as_bytes());
    let with = |mut key: Value, name: &str, value: Value| {
        key[name] = value;
        key
    };
    let (edwards, elliptic) = (issuer.edwards_key(), issuer.elliptic_key());
    assert!(matches!(read(json!([with(edwards.clone(), "d", json!("AAAA"))])), Err(KeyError::Secret(0, "d"))));
    assert!(matches!(read(json!([edwards, {"kty": "oct", "k": "c2VjcmV0"}])), Err(KeyError::Secret(1, "k"))));
    assert!(matches!(read(json!(vec![edwards.clone(); MAX_KEYS + 1])), Err(KeyError::TooMany)));
    assert!(matches!(KeySet::read(&vec![b' '; 300 * 1024]), Err(KeyError::TooLong)));
    assert!(matches!(KeySet::read(b"{}"), Err(KeyError::NoList)));
    assert!(matches!(KeySet::read(b"<html>"), Err(KeyError::Json(_))));
    assert!(matches!(KeySet::read(br#"{"keys":[],"keys":[]}"#), Err(KeyError::Json(_))));
    assert!(matches!(read(json!([])), Err(KeyError::None(_))));
    let n = |bytes: usize| encoded(vec![0xff; bytes]);
    for (unusable, why) in [
        (with(edwards.clone(), "use", json!("enc")), "not for signatures"),
        (with(edwards.clone(), "key_ops", json!(["encrypt"])), "does not verify"),
        (with(edwards.clone(), "alg", json!("ES256")), "its `alg` is `ES256`"),
        (with(edwards.clone(), "x", json!("AAAA")), "no key of its kind"),
        (with(edwards.clone(), "x", json!("AA==")), "no base64url"),
        (with(edwards.clone(), "crv", json!("X25519")), "its kind `OKP`"),
        (with(elliptic.clone(), "y", json!(encoded([1; 32]))), "no key of its kind"),
        (with(elliptic.clone(), "x", json!(encoded([0; 33]))), "32 bytes"),
        (with(elliptic.clone(), "crv", json!("secp256k1")), "its curve `secp256k1`"),
        (json!({"kty": "RSA", "n": n(128), "e": "AQAB"}), "1024 bits"),
        (json!({"kty": "RSA", "n": n(2048), "e": "AQAB"}), "16384 bits"),
        (json!({"kty": "RSA", "n": n(256), "e": "AQ"}), "its exponent"),
        (json!({"kty": "RSA", "n": n(256), "e": "Aw"}), "its exponent"),
        (json!({"kty": "RSA", "n": format!("AA{}", n(256)), "e": "AQAB"}), "begins with zeros"),
        (json!({"kty": "RSA", "n": n(256), "e": "AQAB", "alg": "HS256"}), "its `alg` is `HS256`"),
        (json!({"kty": "EC2"}), "its kind `EC2`"),
        (json!(7), "no object"),
    ] {
        let read = read(json!([unusable, elliptic])).unwrap();
        assert_eq!((read.len(), read.skipped.len()), (1, 1), "{unusable}");
        assert!(read.skipped[0].contains(why), "{}", read.skipped[0]);
    }
    let many = read(json!(vec![with(edwards, "kid", Value::Null); 9]));
    assert!(matches!(many, Err(KeyError::None(_))), "a name that is no text");
}

#[test]
fn a_token_that_names_no_key_costs_few_signatures() {
    let issuer = Issuer::new();
    let token = issuer.raw(r#"{"alg":"EdDSA"}"#, &claims(&json!({})).to_string());
    let keys = |count: usize| KeySet::read(json!({"keys": vec![issuer.edwards_key(); count]}).to_string().as_bytes()).unwrap();
    assert_eq!(keys(8).verify(&Signed::read(token.as_bytes()).unwrap()), Ok(()));
    assert_eq!(keys(9).verify(&Signed::read(token.as_bytes()).unwrap()), Err(TokenError::AnyKey(8)));
}

proptest! {
    /// No bytes end the process, and no change of a token leaves it good.
    #[test]
    fn no_bytes_are_taken_that_nobody_signed(bytes in proptest::collection::vec(any::<u8>(), 0..400), at in any::<prop::sample::Index>(), bit in 0..8u8) {
        let issuer = Issuer::new();
        let verifier = Verifier::new(&issuer.provider()).unwrap();
        prop_assert!(verifier.verify(&bytes, now()).is_err());
        let _ = KeySet::read(&bytes);
        let mut token = issuer.token(&claims(&json!({}))).into_bytes();
        let at = at.index(token.len());
        token[at] ^= 1 << bit;
        prop_assert!(verifier.verify(&token, now()).is_err());
    }
}
