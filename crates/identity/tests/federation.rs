//! Bundles between trust domains: what is written is what others read, and tokens are held against the keys of their own trust domain.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use lorica_identity::federation::{self, ForeignTokenError, claimed_trust_domain, validate_token};
use lorica_identity::jwt_svid::{TOKEN_LIFETIME, TokenKeys};
use lorica_identity::{Authority, Bundle, CertificateDer};
use lorica_model::resource;
use lorica_model::spiffe::TrustDomain;
use lorica_model::spiffe_bundle::SpiffeBundle;
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
use serde_json::Value;

fn domain(name: &str) -> TrustDomain {
    TrustDomain::new(name).unwrap()
}

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

/// A trust domain's document, by an authority and keys of its own.
fn document(domain: &TrustDomain) -> (SpiffeBundle, Authority, TokenKeys) {
    let authority = Authority::create(domain.clone(), now()).unwrap();
    let tokens = TokenKeys::create(domain.clone(), now()).unwrap();
    let keys = federation::keys(authority.bundle(), &tokens.jwks()).unwrap();
    (SpiffeBundle::read(&federation::document(&keys, 7, Duration::from_secs(300))).unwrap(), authority, tokens)
}

#[test]
fn a_document_has_what_spiffe_asks_for_and_reads_back() {
    let (bundle, authority, tokens) = document(&domain("bank.example"));
    assert_eq!((bundle.sequence, bundle.refresh), (Some(7), Some(Duration::from_secs(300))));
    assert_eq!(federation::bundle(&domain("bank.example"), &bundle).unwrap().roots(), authority.bundle().roots());
    assert_eq!(bundle.token_keys(), tokens.jwks());
    let document: Value = serde_json::from_str(&bundle.text).unwrap();
    let root = &document["keys"][0];
    assert_eq!((&root["use"], &root["kty"], &root["crv"]), (&"x509-svid".into(), &"EC".into(), &"P-256".into()));
    assert_eq!(root["x5c"], serde_json::json!([STANDARD.encode(authority.root())]));
    // A root has no name, a key for tokens has one.
    assert!(root.get("kid").is_none() && document["keys"][1]["kid"].is_string() && document["keys"][1]["use"] == "jwt-svid");
}

#[test]
fn roots_of_every_kind_of_key_are_told_with_their_key() {
    for (algorithm, kind, curve, lengths) in [
        (&rcgen::PKCS_ECDSA_P256_SHA256, "EC", Some("P-256"), vec![("x", 32), ("y", 32)]),
        (&rcgen::PKCS_ECDSA_P384_SHA384, "EC", Some("P-384"), vec![("x", 48), ("y", 48)]),
        (&rcgen::PKCS_ECDSA_P521_SHA512, "EC", Some("P-521"), vec![("x", 66), ("y", 66)]),
        (&rcgen::PKCS_ED25519, "OKP", Some("Ed25519"), vec![("x", 32)]),
        (&rcgen::PKCS_RSA_SHA256, "RSA", None, vec![("n", 256), ("e", 3)]),
    ] {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root: CertificateDer<'static> = params.self_signed(&key).unwrap().der().clone();
        let bundle = Bundle::new(domain("bank.example"), vec![root]).unwrap();
        let jwk = federation::keys(&bundle, r#"{"keys": []}"#).unwrap().remove(0);
        assert_eq!((jwk["kty"].as_str(), jwk["crv"].as_str()), (Some(kind), curve), "{jwk}");
        for (name, length) in lengths {
            assert_eq!(URL_SAFE_NO_PAD.decode(jwk[name].as_str().unwrap()).unwrap().len(), length, "{name} of {jwk}");
        }
    }
}

#[test]
fn a_token_is_held_against_the_keys_of_its_own_trust_domain_and_no_others() {
    let (bank, shop) = (domain("bank.example"), domain("shop.example"));
    let (bundle, _, tokens) = document(&bank);
    let (of_shop, _, shop_tokens) = document(&shop);
    let id = "spiffe://bank.example/ns/core/sa/ledger".parse().unwrap();
    let token = tokens.sign(&id, &["till".to_owned()], TOKEN_LIFETIME, now()).unwrap();
    assert_eq!(claimed_trust_domain(&token).unwrap(), bank);
    let claims = validate_token(&bank, &bundle, &token, "till", now()).unwrap();
    assert_eq!((claims.sub, claims.aud, claims.exp), (id, vec!["till".to_owned()], 1_800_000_300));
    let refused = |domain, bundle, token: &str, audience, after| {
        validate_token(domain, bundle, token, audience, now() + Duration::from_secs(after)).unwrap_err()
    };
    assert_eq!(refused(&bank, &bundle, &token, "other", 0), ForeignTokenError::Audience("other".to_owned()));
    validate_token(&bank, &bundle, &token, "till", now() + Duration::from_secs(359)).unwrap();
    assert_eq!(refused(&bank, &bundle, &token, "till", 360), ForeignTokenError::Expired);
    assert_eq!(validate_token(&bank, &bundle, &token, "till", now() - Duration::from_secs(61)), Err(ForeignTokenError::NotYet));
    // A key of the shop stands behind nobody of the bank, and the other way round.
    assert!(matches!(refused(&shop, &of_shop, &token, "till", 0), ForeignTokenError::Token(_)));
    assert_eq!(refused(&shop, &bundle, &token, "till", 0), ForeignTokenError::Unknown(bank.clone()));
    let of_shop_itself =
        shop_tokens.sign(&"spiffe://shop.example/a".parse().unwrap(), &["till".to_owned()], TOKEN_LIFETIME, now()).unwrap();
    assert!(matches!(refused(&bank, &bundle, &of_shop_itself, "till", 0), ForeignTokenError::Token(_)));
    let (no_keys, _, _) = document(&bank);
    let no_keys = SpiffeBundle { keys: Vec::new(), ..no_keys };
    assert!(matches!(refused(&bank, &no_keys, &token, "till", 0), ForeignTokenError::Keys(..)));
    for bad in ["", "a.b", "a.b.c"] {
        claimed_trust_domain(bad).unwrap_err();
    }
}

#[test]
fn what_is_no_root_and_who_speaks_for_the_mesh_itself_is_told_at_its_place() {
    let resource = |spec: &str| {
        format!(
            "apiVersion: lorica.io/v1alpha1\nkind: TrustBundle\nmetadata: {{name: bank}}\nspec: {{trustDomain: bank.example, {spec}}}\n"
        )
    };
    let told = |text: &str, own: &str| -> Vec<String> {
        let documents = resource::read("x.yaml", text).unwrap();
        federation::mistakes(&documents, &domain(own), |_| text.to_owned()).into_iter().map(|found| found.message).collect()
    };
    let (bundle, ..) = document(&domain("bank.example"));
    assert_eq!(told(&resource(&format!("bundle: {}", bundle.text)), "shop.example"), <[String; 0]>::default());
    let own = told(&resource(&format!("bundle: '{}'", bundle.text)), "bank.example");
    assert_eq!(own, ["bank.example is the mesh's own trust domain: nobody else speaks for it"]);
    let no_root = told(&resource(r#"bundle: {keys: [{use: x509-svid, x5c: [AQID]}]}"#), "shop.example");
    assert!(no_root.len() == 1 && no_root[0].contains("certificate 1 of the trust bundle of bank.example is no root"), "{no_root:?}");
}
