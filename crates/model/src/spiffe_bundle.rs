//! The bundle of a trust domain as SPIFFE writes it (SPIFFE Trust Domain and Bundle, 4): a JWK Set in, roots and keys out. Also plain roots in PEM.
//! Whether a certificate can be a root is not asked here.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::strict_json::{self, StrictJsonError};

/// The most bytes of a document.
pub const MAX_BUNDLE: usize = 256 * 1024;
/// The most roots of a trust domain.
pub const MAX_ROOTS: usize = 64;
/// The most keys of a document, roots among them.
pub const MAX_KEYS: usize = 200;

/// The bundle of a trust domain: of which one, who read it has to remember.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpiffeBundle {
    /// The text that it was read from.
    pub text: Arc<str>,
    /// Which of two is newer; none: it does not say.
    pub sequence: Option<u64>,
    /// How often it is to be fetched; none: it does not say.
    pub refresh: Option<Duration>,
    /// DER certificates. Never empty.
    pub roots: Vec<Vec<u8>>,
    /// The keys that verify tokens, as they were written.
    pub keys: Vec<Map<String, Value>>,
}

/// Why a text is no bundle.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpiffeBundleError {
    /// It is longer than what is read.
    #[error("the bundle is longer than {} KiB", MAX_BUNDLE / 1024)]
    TooLong,
    /// It is no JSON object.
    #[error("the bundle: {0}")]
    Json(#[from] StrictJsonError),
    /// A parameter is not of its type.
    #[error("the bundle's `{0}` is no {1}")]
    Parameter(&'static str, &'static str),
    /// It has too much in it.
    #[error("the bundle has more than {MAX_ROOTS} roots or {MAX_KEYS} keys")]
    TooMany,
    /// A key is not as it must be.
    #[error("key {number} of the bundle {why}")]
    Key {
        /// Its place, from 1.
        number: usize,
        /// What is wrong with it.
        why: &'static str,
    },
    /// It trusts nobody.
    #[error("the bundle has no root (a key with `use: x509-svid`)")]
    NoRoot,
    /// It is no PEM.
    #[error("the roots are no certificates in PEM (`-----BEGIN CERTIFICATE-----`)")]
    Pem,
}

impl SpiffeBundle {
    /// Reads a document. Keys of unknown types and uses are passed over, as SPIFFE has it (4.1.3).
    ///
    /// # Errors
    /// If it is no such document, too large, has a private key in it, or no root.
    pub fn read(text: &str) -> Result<Self, SpiffeBundleError> {
        if text.len() > MAX_BUNDLE {
            return Err(SpiffeBundleError::TooLong);
        }
        let document = strict_json::object(text.as_bytes())?;
        let number = |name: &'static str| match document.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => value.as_u64().map(Some).ok_or(SpiffeBundleError::Parameter(name, "whole number from 0")),
        };
        let (sequence, refresh) = (number("spiffe_sequence")?, number("spiffe_refresh_hint")?);
        let Some(Value::Array(list)) = document.get("keys") else { return Err(SpiffeBundleError::Parameter("keys", "list")) };
        let (mut roots, mut keys) = (Vec::new(), Vec::new());
        for (key, number) in list.iter().zip(1..) {
            if number > MAX_KEYS {
                return Err(SpiffeBundleError::TooMany);
            }
            let wrong = |why| SpiffeBundleError::Key { number, why };
            let Value::Object(key) = key else { return Err(wrong("is no object")) };
            if ["d", "p", "q", "dp", "dq", "qi", "oth", "k"].into_iter().any(|name| key.contains_key(name)) {
                return Err(wrong("is a secret: whoever reads the bundle can issue identities"));
            }
            match key.get("use").and_then(Value::as_str) {
                Some("x509-svid") => roots.push(certificate(key).ok_or_else(|| wrong("has no `x5c` with exactly one certificate"))?),
                // Without a name no token can mean it (JWT-SVID, 5.2).
                Some("jwt-svid") if key.get("kid").is_some_and(|id| id.as_str().is_some_and(|id| !id.is_empty())) => keys.push(key.clone()),
                _ => {}
            }
        }
        Self { text: text.into(), sequence, refresh: refresh.map(Duration::from_secs), roots, keys }.checked()
    }

    /// Roots in PEM as a bundle without a sequence and without keys for tokens.
    ///
    /// # Errors
    /// If it is no PEM of certificates and nothing else, or too much.
    pub fn of_pem(text: &str) -> Result<Self, SpiffeBundleError> {
        if text.len() > MAX_BUNDLE {
            return Err(SpiffeBundleError::TooLong);
        }
        let (mut roots, mut open): (_, Option<String>) = (Vec::new(), None);
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            match (line, open.as_mut()) {
                ("-----BEGIN CERTIFICATE-----", None) => open = Some(String::new()),
                ("-----END CERTIFICATE-----", Some(encoded)) => {
                    roots.push(base64(encoded).filter(|der| !der.is_empty()).ok_or(SpiffeBundleError::Pem)?);
                    open = None;
                }
                (line, Some(encoded)) if !line.starts_with('-') => encoded.push_str(line),
                _ => return Err(SpiffeBundleError::Pem),
            }
        }
        if open.is_some() || roots.is_empty() {
            return Err(SpiffeBundleError::Pem);
        }
        Self { text: text.into(), sequence: None, refresh: None, roots, keys: Vec::new() }.checked()
    }

    fn checked(mut self) -> Result<Self, SpiffeBundleError> {
        let mut seen = std::collections::BTreeSet::new();
        self.roots.retain(|root| seen.insert(root.clone()));
        if self.roots.is_empty() {
            return Err(SpiffeBundleError::NoRoot);
        }
        if self.roots.len() > MAX_ROOTS { Err(SpiffeBundleError::TooMany) } else { Ok(self) }
    }

    /// The keys that verify tokens as a JWK Set, for who knows SPIFFE's `use`.
    #[must_use]
    pub fn token_keys(&self) -> String {
        json!({ "keys": self.keys }).to_string()
    }

    /// Whether it is older than `other`, as far as both say.
    #[must_use]
    pub fn is_older_than(&self, other: &Self) -> bool {
        self.sequence.zip(other.sequence).is_some_and(|(own, other)| own < other)
    }
}

/// The one certificate of a key.
fn certificate(key: &Map<String, Value>) -> Option<Vec<u8>> {
    match key.get("x5c")?.as_array()?.as_slice() {
        [Value::String(one)] => base64(one).filter(|der| !der.is_empty()),
        _ => None,
    }
}

/// What base64 (RFC 4648) stands for; line breaks are passed over.
#[must_use]
pub fn base64(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| match byte {
        b'A'..=b'Z' => Some(byte - b'A'),
        b'a'..=b'z' => Some(byte - b'a' + 26),
        b'0'..=b'9' => Some(byte - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    };
    let text: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    let body = text.strip_suffix(b"==").or_else(|| text.strip_suffix(b"=")).unwrap_or(&text);
    if !text.len().is_multiple_of(4) {
        return None;
    }
    let mut out = Vec::with_capacity(text.len() / 4 * 3);
    for chunk in body.chunks(4) {
        let mut bits = 0_u32;
        for byte in chunk {
            bits = bits << 6 | u32::from(digit(*byte)?);
        }
        let missing = 4 - chunk.len();
        bits <<= 6 * missing;
        out.extend_from_slice(&bits.to_be_bytes()[1..4 - missing]);
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn root(certificate: &str) -> Value {
        json!({"kty": "EC", "use": "x509-svid", "x5c": [certificate]})
    }

    fn read(keys: &[Value]) -> Result<SpiffeBundle, SpiffeBundleError> {
        SpiffeBundle::read(&json!({"keys": keys, "spiffe_sequence": 7, "spiffe_refresh_hint": 60}).to_string())
    }

    #[test]
    fn a_document_tells_roots_keys_sequence_and_how_often_to_come_again() {
        let token = json!({"kty": "EC", "use": "jwt-svid", "kid": "a", "crv": "P-256", "x": "x", "y": "y"});
        let bundle = read(&[root("AQID"), token.clone(), root("BAUG"), root("AQID")]).unwrap();
        assert_eq!((bundle.sequence, bundle.refresh), (Some(7), Some(Duration::from_secs(60))));
        assert_eq!(bundle.roots, [[1, 2, 3], [4, 5, 6]]);
        assert_eq!(bundle.token_keys(), json!({"keys": [token]}).to_string());
    }

    #[test]
    fn what_is_unknown_is_passed_over_and_what_is_wrong_is_not() {
        let others = [json!({"kty": "EC", "use": "other"}), json!({"kty": "EC"}), json!({"kty": "EC", "use": "jwt-svid"})];
        let bundle = read(&[&others[..], &[root("AQID")]].concat()).unwrap();
        assert!(bundle.keys.is_empty() && bundle.roots.len() == 1);
        assert_eq!(read(&[]).unwrap_err(), SpiffeBundleError::NoRoot);
        assert_eq!(read(&others).unwrap_err(), SpiffeBundleError::NoRoot);
        for (key, why) in [
            (json!({"use": "x509-svid"}), "no `x5c`"),
            (json!({"use": "x509-svid", "x5c": ["AQID", "AQID"]}), "exactly one"),
            (json!({"use": "x509-svid", "x5c": ["?"]}), "exactly one"),
            (json!({"use": "jwt-svid", "kid": "a", "d": "secret"}), "is a secret"),
            (json!("text"), "no object"),
        ] {
            let error = read(&[root("AQID"), key]).unwrap_err().to_string();
            assert!(error.contains("key 2 of the bundle") && error.contains(why), "{error}");
        }
        for (text, why) in [
            ("[]", "no JSON object"),
            ("{}", "`keys` is no list"),
            (r#"{"keys": [], "keys": []}"#, "no JSON that is taken"),
            (r#"{"keys": [], "spiffe_sequence": -1}"#, "`spiffe_sequence` is no whole number"),
            (r#"{"keys": [], "spiffe_refresh_hint": "5m"}"#, "`spiffe_refresh_hint` is no whole number"),
        ] {
            let error = SpiffeBundle::read(text).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
        assert_eq!(SpiffeBundle::read(&" ".repeat(MAX_BUNDLE + 1)).unwrap_err(), SpiffeBundleError::TooLong);
        let many: Vec<Value> = (0..=u8::try_from(MAX_ROOTS).unwrap()).map(|n| root(&format!("AA{}=", char::from(b'A' + n % 26)))).collect();
        assert!(read(&many).unwrap().roots.len() <= 26);
        assert_eq!(read(&vec![root("AQID"); MAX_KEYS + 1]).unwrap_err(), SpiffeBundleError::TooMany);
    }

    #[test]
    fn roots_in_pem_are_a_bundle_without_a_sequence() {
        let one = "-----BEGIN CERTIFICATE-----\nAQ\nID\n-----END CERTIFICATE-----\n";
        let bundle = SpiffeBundle::of_pem(&format!("# the bank's\n{one}\n{one}")).unwrap();
        assert_eq!((bundle.roots, bundle.sequence), (vec![vec![1, 2, 3]], None));
        let key = "-----BEGIN PRIVATE KEY-----\nAQID\n-----END PRIVATE KEY-----\n";
        for bad in ["", "AQID", &one[..40], &format!("{one}{key}"), &one.replace("AQ", "??")] {
            assert_eq!(SpiffeBundle::of_pem(bad).unwrap_err(), SpiffeBundleError::Pem, "{bad}");
        }
    }

    #[test]
    fn of_two_bundles_the_sequence_tells_which_is_older() {
        let of = |sequence| SpiffeBundle { sequence, ..read(&[root("AQID")]).unwrap() };
        assert!(of(Some(6)).is_older_than(&of(Some(7))));
        for (one, other) in [(Some(7), Some(7)), (Some(8), Some(7)), (None, Some(7)), (Some(7), None)] {
            assert!(!of(one).is_older_than(&of(other)), "{one:?} {other:?}");
        }
    }
}
