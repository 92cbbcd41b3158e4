//! Signed texts of Wycheproof: ours takes what must be taken, and refuses the rest.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeSet;

use lorica_identity::jwt::{KeyError, KeySet, Signed, TokenError};
use serde_json::{Value, json};

const VECTORS: &str = include_str!("data/wycheproof/json-web-signature.json");

/// Both are signed with PS384 by a key whose `alg` is PS256, and the file has them valid, while it has case 338 invalid, which is signed
/// with PS256 by a key whose `alg` is PS512. Only one of these can be right: a key that names its algorithm is for no other (RFC 7517, 4.4).
const OF_ANOTHER_ALGORITHM: [u64; 2] = [346, 350];

fn verifies(keys: &KeySet, jws: &str) -> Result<Vec<u8>, TokenError> {
    let signed = Signed::read(jws.as_bytes())?;
    keys.verify(&signed)?;
    Ok(signed.payload)
}

/// A set of one key. A key that is for nothing leaves its cases without any; then another's stands in.
fn keys(key: &Value) -> KeySet {
    let read = |key: &Value| KeySet::read(json!({ "keys": [key] }).to_string().as_bytes());
    match read(key) {
        Ok(keys) => keys,
        Err(KeyError::Secret(..) | KeyError::None(_)) => {
            let other = json!({"kty": "OKP", "crv": "Ed25519", "kid": key["kid"], "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"});
            read(&other).unwrap()
        }
        Err(error) => panic!("{key}: {error}"),
    }
}

#[test]
fn every_case_that_applies_is_decided_as_wycheproof_has_it() {
    let vectors: Value = serde_json::from_str(VECTORS).unwrap();
    let (mut cases, mut not_ours) = (0, BTreeSet::new());
    for group in vectors["testGroups"].as_array().unwrap() {
        let key = group.get("public").unwrap_or(&group["private"]);
        let keys = keys(key);
        // A secret that both sides know: nothing here takes such keys.
        let is_shared = key["kty"] == "oct";
        for case in group["tests"].as_array().unwrap() {
            cases += 1;
            let id = case["tcId"].as_u64().unwrap();
            let must = case["result"] == "valid";
            let found = verifies(&keys, case["jws"].as_str().unwrap_or(&case["jws"].to_string()));
            if must && (is_shared || OF_ANOTHER_ALGORITHM.contains(&id)) {
                assert!(found.is_err(), "case {id}");
                not_ours.insert(id);
            } else {
                assert_eq!(found.is_ok(), must, "case {id}: {} {found:?}", case["comment"]);
            }
        }
    }
    assert_eq!(cases, 401);
    assert_eq!(not_ours, BTreeSet::from([1, 346, 348, 350, 352, 357, 358, 359, 372, 373, 376, 377]));
}

#[test]
fn what_is_refused_for_the_name_of_its_keys_algorithm_holds_without_it() {
    let vectors: Value = serde_json::from_str(VECTORS).unwrap();
    for group in vectors["testGroups"].as_array().unwrap() {
        for case in group["tests"].as_array().unwrap() {
            if !OF_ANOTHER_ALGORITHM.contains(&case["tcId"].as_u64().unwrap()) {
                continue;
            }
            let jws = case["jws"].as_str().unwrap();
            let mut key = group["public"].clone();
            assert!(matches!(verifies(&keys(&key), jws), Err(TokenError::OtherKey(_))));
            key.as_object_mut().unwrap().remove("alg");
            assert!(verifies(&keys(&key), jws).is_ok());
        }
    }
}
