//! What of a bundle is taken, and when it is asked for again.
#![allow(clippy::unwrap_used)]

use lorica_identity::Authority;
use lorica_model::resource::{self, Spec};

use super::*;
use crate::store::Embedded;

fn domain() -> TrustDomain {
    TrustDomain::new("bank.example").unwrap()
}

fn document(sequence: Option<u64>) -> String {
    let authority = Authority::create(domain(), SystemTime::now()).unwrap();
    let keys = federation::keys(authority.bundle(), r#"{"keys": []}"#).unwrap();
    match sequence {
        Some(sequence) => federation::document(&keys, sequence, Duration::from_secs(60)),
        None => serde_json::json!({ "keys": keys }).to_string(),
    }
}

/// A TrustBundle with this bundle written, and an endpoint.
fn source(written: &str) -> TrustBundle {
    let resource = serde_json::json!({
        "apiVersion": "lorica.io/v1alpha1", "kind": "TrustBundle", "metadata": {"name": "bank"},
        "spec": {
            "trustDomain": "bank.example", "bundle": written,
            "endpoint": {"url": "https://bank.example/", "profile": "Spiffe", "spiffeId": "spiffe://bank.example/lorica/control"},
        },
    });
    let Spec::TrustBundle(bundle) = resource::stored(&resource).unwrap().spec else { panic!("no TrustBundle") };
    bundle
}

#[test]
fn a_bundle_that_is_older_than_the_one_in_force_is_not_taken() {
    let of = |sequence| SpiffeBundle::read(&document(sequence)).unwrap();
    let take = |sequence, known: &SpiffeBundle| taken(&domain(), &document(sequence), Some(known));
    assert!(matches!(take(Some(6), &of(Some(7))), Err(NotTaken::Older(6, 7))));
    for (sequence, known) in [(Some(7), Some(7)), (Some(8), Some(7)), (None, Some(7)), (Some(1), None)] {
        assert!(take(sequence, &of(known)).is_ok(), "{sequence:?} {known:?}");
    }
}

#[test]
fn what_proxies_could_not_use_is_not_taken() {
    let no_root = serde_json::json!({"keys": [{"kty": "EC", "use": "x509-svid", "x5c": ["AQID"]}]}).to_string();
    assert!(matches!(taken(&domain(), &no_root, None), Err(NotTaken::Root(_))));
    assert!(matches!(taken(&domain(), r#"{"keys": []}"#, None), Err(NotTaken::Bundle(SpiffeBundleError::NoRoot))));
    assert!(matches!(taken(&domain(), "<html>", None), Err(NotTaken::Bundle(SpiffeBundleError::Json(_)))));
}

#[test]
fn it_is_fetched_as_often_as_it_asks_for_within_bounds_and_more_rarely_after_failures() {
    let seconds = |failures, refresh, random| pause(failures, Duration::from_secs(refresh), random).as_secs_f64();
    assert_eq!((seconds(0, 60, 0.0), seconds(0, 60, 1.0)), (54.0, 60.0));
    assert_eq!((seconds(0, 0, 1.0), seconds(0, 1_000_000, 1.0)), (5.0, 3600.0));
    assert_eq!([1, 2, 3, 4, 5, 64, u32::MAX].map(|failures| seconds(failures, 60, 1.0)), [5.0, 10.0, 20.0, 40.0, 60.0, 60.0, 60.0]);
}

#[test]
fn a_failure_leaves_what_was_there_and_says_since_when() {
    let mut held = Held::new(source(&document(Some(7))), None);
    let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    assert_eq!(held.in_force().unwrap().sequence, Some(7));
    held.tried(Ok(SpiffeBundle::read(&document(Some(8))).unwrap()), at(100));
    for seconds in [200, 300] {
        held.tried(Err(NotTaken::Older(3, 8)), at(seconds));
    }
    assert_eq!((held.in_force().unwrap().sequence, held.times.fetched, held.times.failing), (Some(8), Some(at(100)), Some(at(200))));
    assert_eq!(held.problem.as_deref(), Some("its sequence is 3, and that of the bundle in force is 8: it is older"));
    held.tried(Ok(SpiffeBundle::read(&document(Some(9))).unwrap()), at(400));
    assert_eq!((held.problem, held.times.failing, held.failures), (None, None, 0));
}

#[test]
fn what_was_fetched_is_there_after_a_restart_unless_another_was_written_since() {
    let directory = tempfile::tempdir().unwrap();
    let store = Embedded::open(directory.path()).unwrap();
    let first = source(&document(Some(7)));
    let mut held = Held::new(first.clone(), None);
    assert!(record(&store, &first).unwrap().is_none());
    held.tried(Ok(SpiffeBundle::read(&document(Some(8))).unwrap()), SystemTime::UNIX_EPOCH + Duration::from_secs(100));
    let write = Write { table: Table::Bundles, key: domain().to_string(), value: stored(&held), expected: Expected::Anything };
    store.write(&[write]).unwrap();
    let (bundle, at) = record(&store, &first).unwrap().unwrap();
    assert_eq!((bundle.sequence, at), (Some(8), SystemTime::UNIX_EPOCH + Duration::from_secs(100)));
    assert!(record(&store, &source(&document(Some(1)))).unwrap().is_none());
}
