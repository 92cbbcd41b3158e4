//! Lists of revocations from outside, judged by webpki as a stranger: with a list of each authority a chain holds until it is named, through
//! replaced intermediates, restarts of the CA, and a root whose key is offline.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use lorica_identity::authority::{INTERMEDIATE_LIFETIME, MAX_SVID_LIFETIME};
use lorica_identity::intermediate::{IntermediateRequest, sign_intermediate};
use lorica_identity::revocation_list::serial_number;
use lorica_identity::{Authority, AuthorityRecord, CertificateDer, Grant, KeyPair, SecretPem};
use lorica_model::spiffe::{SpiffeId, TrustDomain};

type Chain = Vec<CertificateDer<'static>>;

/// 2027-01-15T08:00:00Z
fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fn signed(authority: &Authority) -> Chain {
    let id: SpiffeId = "spiffe://mesh.local/ns/contact/sa/recording".parse().unwrap();
    authority.sign(&KeyPair::generate().unwrap().request(&id).unwrap(), &Grant::new(id), now()).unwrap()
}

fn lists(authority: &Authority, by: &Authority, revoked: &[&Chain]) -> Option<Vec<Vec<u8>>> {
    let serials = revoked.iter().map(|chain| serial_number(&chain[0]).unwrap()).collect();
    authority.revocation_lists(&BTreeMap::from([(by.intermediate_id(), serials)]), now()).unwrap()
}

/// Verifies a chain by lists of all its authorities, as Envoy does.
fn verify(authority: &Authority, chain: &Chain, lists: &[Vec<u8>]) -> Result<(), webpki::Error> {
    let lists: Vec<webpki::CertRevocationList<'_>> =
        lists.iter().map(|list| webpki::BorrowedCertRevocationList::from_der(list).unwrap().into()).collect();
    let lists: Vec<_> = lists.iter().collect();
    let options = webpki::RevocationOptionsBuilder::new(&lists)
        .unwrap()
        .with_depth(webpki::RevocationCheckDepth::Chain)
        .with_status_policy(webpki::UnknownStatusPolicy::Deny)
        .with_expiration_policy(webpki::ExpirationPolicy::Enforce)
        .build();
    let anchor = webpki::anchor_from_trusted_cert(authority.root()).unwrap();
    let time = rustls_pki_types::UnixTime::since_unix_epoch(now().duration_since(SystemTime::UNIX_EPOCH).unwrap());
    let leaf = webpki::EndEntityCert::try_from(&chain[0])?;
    let usage = webpki::KeyUsage::client_auth();
    leaf.verify_for_usage(webpki::ALL_VERIFICATION_ALGS, &[anchor], &chain[1..], time, usage, Some(options), None).map(drop)
}

#[test]
fn who_is_named_is_refused_and_nobody_else() {
    let authority = Authority::create(TrustDomain::default(), now()).unwrap();
    let (good, bad) = (signed(&authority), signed(&authority));
    let lists = lists(&authority, &authority, &[&bad]).unwrap();
    assert_eq!(lists.len(), 2);
    verify(&authority, &good, &lists).unwrap();
    assert_eq!(verify(&authority, &bad, &lists), Err(webpki::Error::CertRevoked));
    // Without the root's list, the intermediate is unknown.
    assert_eq!(verify(&authority, &good, &lists[1..]), Err(webpki::Error::UnknownRevocationStatus));
}

#[test]
fn a_replaced_intermediate_signs_its_list_for_as_long_as_what_it_signed_may_hold() {
    let first = Authority::create(TrustDomain::default(), now()).unwrap();
    let (good, bad) = (signed(&first), signed(&first));
    let second = first.with_new_intermediate(now()).unwrap().unwrap().succeeding(&first, now()).unwrap();
    // As a control plane that starts again has it.
    let second = Authority::from_record(&second.to_record()).unwrap();
    let (newer, lists) = (signed(&second), lists(&second, &first, &[&bad]).unwrap());
    for chain in [&good, &newer] {
        verify(&second, chain, &lists).unwrap();
    }
    assert_eq!(verify(&second, &bad, &lists), Err(webpki::Error::CertRevoked));

    let after = now() + MAX_SVID_LIFETIME;
    let third = second.with_new_intermediate(now()).unwrap().unwrap().succeeding(&second, after).unwrap();
    assert_eq!(third.to_record().former.len(), 1, "the first one is over");
    // The same intermediate again is no former one.
    let same = Authority::from_record(&third.to_record()).unwrap().succeeding(&third, after).unwrap();
    assert_eq!(same.to_record(), third.to_record());
}

#[test]
fn a_root_signs_its_list_before_its_key_goes_offline_and_with_each_intermediate() {
    let authority = Authority::create(TrustDomain::default(), now()).unwrap();
    let record = authority.to_record();
    let root_key: SecretPem = record.root_key_pem.clone().unwrap();
    let without = Authority::from_record(&AuthorityRecord { root_key_pem: None, ..record.clone() }).unwrap();
    let chain = signed(&without);
    assert_eq!(lists(&without, &without, &[&chain]), None, "nobody has signed a list of the root");

    let root_revocations_pem = authority.root_revocations_pem(now()).unwrap();
    let offline = Authority::from_record(&AuthorityRecord { root_key_pem: None, root_revocations_pem, ..record.clone() }).unwrap();
    assert_eq!(verify(&offline, &chain, &lists(&offline, &offline, &[&chain]).unwrap()), Err(webpki::Error::CertRevoked));

    let request = IntermediateRequest::new(&TrustDomain::default()).unwrap();
    let root = &record.root_certificate_pem;
    let pem = sign_intermediate(&TrustDomain::default(), root, &root_key, &request.request, INTERMEDIATE_LIFETIME, now()).unwrap();
    let renewed = without.with_intermediate(&pem, &request.key, now()).unwrap().succeeding(&without, now()).unwrap();
    let (newer, lists) = (signed(&renewed), lists(&renewed, &without, &[&chain]).unwrap());
    verify(&renewed, &newer, &lists).unwrap();
    assert_eq!(verify(&renewed, &chain, &lists), Err(webpki::Error::CertRevoked));

    // A list of somebody else's is none of this root's.
    let other = Authority::create(TrustDomain::default(), now()).unwrap();
    let root_revocations_pem = other.root_revocations_pem(now()).unwrap();
    let error = Authority::from_record(&AuthorityRecord { root_revocations_pem, ..record }).unwrap_err().to_string();
    assert!(error.contains("revocation list of the root") && error.contains("not signed by the root"), "{error}");
}
