//! Service accounts of Kubernetes: the token that kubelet gives to a pod goes in, the account that it is of comes out.

use std::time::SystemTime;

use lorica_model::claims::Claims;
use lorica_model::name::{Label, Namespace};
use lorica_model::snapshot::{DEFAULT_LEEWAY, TokenAlgorithm, TokenProvider};

use crate::jwt::{KeyError, Signed, TokenError, Verifier};

/// What `sub` begins with.
const PREFIX: &str = "system:serviceaccount:";

/// Why a token proves no account.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum AccountError {
    /// It does not hold.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// It is of somebody else than a service account.
    #[error("`sub` is `{0}`, and no service account: system:serviceaccount:NAMESPACE:NAME")]
    Subject(String),
    /// It is of an account that has no place in a mesh.
    #[error("the service account `{0}` cannot be one of the mesh: its names have at most 63 letters, digits and hyphens")]
    Name(String),
}

/// A service account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceAccount {
    /// Its namespace.
    pub namespace: Namespace,
    /// Its name.
    pub name: Label,
}

impl ServiceAccount {
    /// The account that a token claims to be of. Nothing is verified: this is for whoever has the token, to know what to ask for.
    ///
    /// # Errors
    /// If it is no token of a service account.
    pub fn claimed(token: &str) -> Result<Self, AccountError> {
        let signed = Signed::read(token.as_bytes())?;
        Self::of(&Claims::read(&signed.payload).map_err(TokenError::Claims)?)
    }

    fn of(claims: &Claims) -> Result<Self, AccountError> {
        let subject = claims.as_object().get("sub").and_then(|subject| subject.as_str()).unwrap_or_default();
        let shown = || subject.chars().take(128).collect();
        let account = subject.strip_prefix(PREFIX).and_then(|account| account.split_once(':'));
        let (namespace, name) = account.ok_or_else(|| AccountError::Subject(shown()))?;
        match (Namespace::new(namespace), Label::new(name)) {
            (Ok(namespace), Ok(name)) => Ok(Self { namespace, name }),
            _ => Err(AccountError::Name(shown())),
        }
    }
}

/// Verifies tokens of service accounts: issuer, audience, times and signature, all of it.
#[derive(Debug)]
pub struct ServiceAccountVerifier(Verifier);

impl ServiceAccountVerifier {
    /// One for the tokens that `issuer` gives for `audience`, signed by a key of the JWK Set `keys`.
    ///
    /// # Errors
    /// If the keys cannot be read.
    pub fn new(issuer: &str, audience: &str, keys: &str) -> Result<Self, KeyError> {
        let provider = TokenProvider {
            name: "kubernetes".to_owned(),
            issuer: issuer.to_owned(),
            audiences: vec![audience.to_owned()],
            keys: Some(keys.into()),
            places: Vec::new(),
            algorithms: TokenAlgorithm::ALL.to_vec(),
            leeway: DEFAULT_LEEWAY,
            forward: false,
            claim_headers: Vec::new(),
        };
        Verifier::new(&provider).map(Self)
    }

    /// The account that `token` proves at `now`.
    ///
    /// # Errors
    /// The first thing about it that does not hold.
    pub fn verify(&self, token: &str, now: SystemTime) -> Result<ServiceAccount, AccountError> {
        ServiceAccount::of(&self.0.verify(token.as_bytes(), now)?.claims)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::{Duration, UNIX_EPOCH};

    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use serde_json::{Value, json};

    use super::*;

    const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

    struct Cluster(EcdsaKeyPair);

    impl Cluster {
        fn new() -> Self {
            let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new()).unwrap();
            Self(EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref()).unwrap())
        }

        fn keys(&self) -> String {
            let point = self.0.public_key().as_ref();
            let (x, y) = (URL_SAFE_NO_PAD.encode(&point[1..33]), URL_SAFE_NO_PAD.encode(&point[33..65]));
            json!({"keys": [{"kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": "k", "x": x, "y": y}]}).to_string()
        }

        fn sign(&self, algorithm: &str, claims: &Value) -> String {
            let head = URL_SAFE_NO_PAD.encode(json!({"alg": algorithm, "kid": "k"}).to_string());
            let text = format!("{head}.{}", URL_SAFE_NO_PAD.encode(claims.to_string()));
            let signature = self.0.sign(&SystemRandom::new(), text.as_bytes()).unwrap();
            format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature))
        }
    }

    fn now() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_800_000_000)
    }

    /// The claims of a token as kubelet gets it, with others in place of some.
    fn claims(other: &Value) -> Value {
        let mut claims = json!({
            "aud": ["lorica"], "iss": ISSUER, "sub": "system:serviceaccount:shop:cart", "exp": 1_800_003_600, "iat": 1_800_000_000,
            "nbf": 1_800_000_000, "jti": "9d0b2b1e", "kubernetes.io": {"namespace": "shop", "serviceaccount": {"name": "cart", "uid": "1"}},
        });
        for (name, value) in other.as_object().into_iter().flatten() {
            claims[name] = value.clone();
        }
        claims
    }

    #[test]
    fn a_token_of_a_service_account_proves_that_account() {
        let cluster = Cluster::new();
        let token = cluster.sign("ES256", &claims(&json!({})));
        let account = ServiceAccount { namespace: Namespace::new("shop").unwrap(), name: Label::new("cart").unwrap() };
        let verifier = ServiceAccountVerifier::new(ISSUER, "lorica", &cluster.keys()).unwrap();
        assert_eq!(verifier.verify(&token, now()).as_ref(), Ok(&account));
        assert_eq!(ServiceAccount::claimed(&token), Ok(account));
    }

    #[test]
    fn what_does_not_hold_proves_nothing() {
        let (cluster, other) = (Cluster::new(), Cluster::new());
        let verifier = ServiceAccountVerifier::new(ISSUER, "lorica", &cluster.keys()).unwrap();
        let refused = |token: String| verifier.verify(&token, now()).unwrap_err().to_string();
        let with = |other: Value| refused(cluster.sign("ES256", &claims(&other)));
        assert!(matches!(
            verifier.verify(&cluster.sign("ES256", &claims(&json!({"aud": "kubernetes"}))), now()),
            Err(AccountError::Token(TokenError::Audience))
        ));
        assert!(matches!(
            verifier.verify(&cluster.sign("ES256", &claims(&json!({"iss": "https://other"}))), now()),
            Err(AccountError::Token(TokenError::Issuer(_)))
        ));
        assert!(matches!(
            verifier.verify(&cluster.sign("ES256", &claims(&json!({"exp": 1_799_990_000}))), now()),
            Err(AccountError::Token(TokenError::Expired(_)))
        ));
        assert!(matches!(
            verifier.verify(&cluster.sign("ES256", &claims(&json!({"nbf": 1_800_010_000}))), now()),
            Err(AccountError::Token(TokenError::NotYet(_)))
        ));
        // Tokens of old, which are in Secrets, have no end.
        let mut endless = claims(&json!({}));
        endless.as_object_mut().unwrap().remove("exp");
        assert!(matches!(verifier.verify(&cluster.sign("ES256", &endless), now()), Err(AccountError::Token(TokenError::NoExpiry))));
        assert!(with(json!({"sub": "cart@example.com"})).contains("no service account"));
        assert!(with(json!({"sub": "system:serviceaccount:shop"})).contains("no service account"));
        assert!(with(json!({"sub": "system:serviceaccount:shop:cart:other"})).contains("cannot be one of the mesh"));
        assert!(with(json!({"sub": "system:serviceaccount:shop:../control"})).contains("cannot be one of the mesh"));
        // Signed by another cluster, by nobody, or said to be signed by nobody.
        refused(other.sign("ES256", &claims(&json!({}))));
        let none = cluster.sign("none", &claims(&json!({})));
        refused(none.clone());
        refused(format!("{}.", none.rsplit_once('.').unwrap().0));
        let token = cluster.sign("ES256", &claims(&json!({})));
        let (signed, signature) = token.rsplit_once('.').unwrap();
        let (head, _) = signed.split_once('.').unwrap();
        let forged = URL_SAFE_NO_PAD.encode(claims(&json!({"sub": "system:serviceaccount:shop:ledger"})).to_string());
        refused(format!("{head}.{forged}.{signature}"));
    }
}
