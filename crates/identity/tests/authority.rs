//! The CA from outside: what it signs, what it refuses, how it is stored and renewed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::net::Ipv4Addr;
use std::time::{Duration, SystemTime};

use lorica_identity::authority::{BACKDATE, INTERMEDIATE_LIFETIME, MIN_SVID_LIFETIME, ROOT_LIFETIME};
use lorica_identity::request::{CertificateRequest, RequestError};
use lorica_identity::{
    Authority, AuthorityRecord, Bundle, CertificateDer, Grant, KeyPair, PeerError, Renewal, SecretPem, SignError, Svid, SvidError,
    WorkloadFacts, peer_identity,
};
use lorica_model::spiffe::{SpiffeId, TrustDomain};
use proptest::prelude::*;
use rcgen::{CertificateParams, SanType};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::{FromDer as _, GeneralName, ParsedExtension, X509Certificate};

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// 2027-01-15T08:00:00Z
fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fn authority() -> Authority {
    Authority::create(TrustDomain::default(), now()).unwrap()
}

fn id(account: &str) -> SpiffeId {
    format!("spiffe://mesh.local/ns/contact/sa/{account}").parse().unwrap()
}

fn facts() -> WorkloadFacts {
    WorkloadFacts {
        workload: "recording-7f3a2c.contact".parse().unwrap(),
        service: Some("recording.contact".parse().unwrap()),
        version: Some("v2".into()),
        virtual_v4: Some(Ipv4Addr::new(240, 1, 2, 3)),
        virtual_v6: None,
    }
}

/// Verifies as a stranger with webpki would: for both roles, at `time`.
fn verifies(bundle: &Bundle, chain: &[CertificateDer<'_>], time: SystemTime) -> Result<(), webpki::Error> {
    let anchors: Vec<_> = bundle.roots().iter().map(|root| webpki::anchor_from_trusted_cert(root).unwrap()).collect();
    let leaf = webpki::EndEntityCert::try_from(&chain[0])?;
    let time = rustls_pki_types::UnixTime::since_unix_epoch(time.duration_since(SystemTime::UNIX_EPOCH).unwrap());
    for usage in [webpki::KeyUsage::server_auth(), webpki::KeyUsage::client_auth()] {
        leaf.verify_for_usage(webpki::ALL_VERIFICATION_ALGS, &anchors, &chain[1..], time, usage, None, None)?;
    }
    Ok(())
}

#[test]
fn a_request_becomes_an_svid() {
    let authority = authority();
    let key = KeyPair::generate().unwrap();
    let grant = Grant::new(id("recording")).with_facts(facts());
    let chain = authority.sign(&key.request(&grant.id).unwrap(), &grant, now()).unwrap();
    assert_eq!(chain.len(), 2);
    verifies(authority.bundle(), &chain, now()).unwrap();
    verifies(authority.bundle(), &chain, now() + 23 * HOUR).unwrap();
    verifies(authority.bundle(), &chain, now() + 25 * HOUR).unwrap_err();
    verifies(authority.bundle(), &chain, now() - HOUR).unwrap_err();

    let svid = Svid::new(&chain, key).unwrap();
    assert_eq!(svid.id(), &grant.id);
    assert_eq!(svid.facts(), Some(&facts()));
    assert_eq!((svid.not_before(), svid.not_after()), (now() - BACKDATE, now() + DAY));
    assert_eq!(Svid::from_pem(&svid.to_pem()).unwrap().chain(), svid.chain());
}

#[test]
fn the_leaf_has_the_form_of_an_svid() {
    let authority = authority();
    let grant = Grant::new(id("recording")).with_facts(facts());
    let csr = KeyPair::generate().unwrap().request(&grant.id).unwrap();
    let chain = authority.sign(&csr, &grant, now()).unwrap();
    let (_, leaf) = X509Certificate::from_der(&chain[0]).unwrap();
    assert_eq!(leaf.subject().iter().count(), 0);
    let serial = leaf.raw_serial();
    assert!(serial.len() == 16 && serial[0] & 0x80 == 0 && serial[0] & 0x40 != 0);
    let mut seen = 0;
    for extension in leaf.extensions() {
        match extension.parsed_extension() {
            ParsedExtension::SubjectAlternativeName(names) => {
                assert!(extension.critical);
                assert!(matches!(&names.general_names[..], [GeneralName::URI("spiffe://mesh.local/ns/contact/sa/recording")]));
            }
            ParsedExtension::BasicConstraints(constraints) => assert!(extension.critical && !constraints.ca),
            ParsedExtension::KeyUsage(usage) => assert!(extension.critical && usage.flags == 1, "{usage}"),
            ParsedExtension::ExtendedKeyUsage(usage) => {
                assert!(usage.server_auth && usage.client_auth && !usage.any && usage.other.is_empty())
            }
            ParsedExtension::UnsupportedExtension { oid } => assert!(!extension.critical && oid.to_id_string() == "2.25.1594306218.1.1"),
            _ => continue,
        }
        seen += 1;
    }
    assert_eq!(seen, 5);
    let again = authority.sign(&csr, &grant, now()).unwrap();
    assert_ne!(X509Certificate::from_der(&again[0]).unwrap().1.raw_serial(), serial);

    let (_, intermediate) = X509Certificate::from_der(&chain[1]).unwrap();
    assert_eq!(intermediate.basic_constraints().unwrap().unwrap().value.path_len_constraint, Some(0));
    for signing in [&chain[1], authority.root()] {
        let (_, signing) = X509Certificate::from_der(signing).unwrap();
        assert!(signing.is_ca() && signing.key_usage().unwrap().unwrap().value.key_cert_sign());
        let names = &signing.subject_alternative_name().unwrap().unwrap().value.general_names;
        assert!(matches!(&names[..], [GeneralName::URI("spiffe://mesh.local")]));
    }
}

#[test]
fn nothing_of_the_request_but_its_key_is_used() {
    let authority = authority();
    let grant = Grant::new(id("recording"));
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["bank.example".to_owned()]).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
    let csr = params.serialize_request(&key).unwrap();
    let chain = authority.sign(csr.der(), &grant, now()).unwrap();
    let (_, leaf) = X509Certificate::from_der(&chain[0]).unwrap();
    assert!(!leaf.is_ca() && leaf.subject().iter().count() == 0);
    assert!(
        matches!(&leaf.subject_alternative_name().unwrap().unwrap().value.general_names[..], [GeneralName::URI(uri)] if *uri == grant.id.to_string())
    );
}

#[test]
fn a_request_for_somebody_else_is_refused() {
    let authority = authority();
    let csr = KeyPair::generate().unwrap().request(&id("analytics")).unwrap();
    let error = authority.sign(&csr, &Grant::new(id("recording")), now()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the certificate request asks for `spiffe://mesh.local/ns/contact/sa/analytics`, but its sender is spiffe://mesh.local/ns/contact/sa/recording"
    );

    // Not even beside the right one.
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.subject_alt_names = ["recording", "analytics"].map(|account| SanType::URI(id(account).to_string().try_into().unwrap())).into();
    let csr = params.serialize_request(&key).unwrap();
    assert!(matches!(authority.sign(csr.der(), &Grant::new(id("recording")), now()), Err(SignError::OtherIdentity { .. })));
}

#[test]
fn a_request_that_was_tampered_with_is_refused() {
    let authority = authority();
    let grant = Grant::new(id("recording"));
    let good = KeyPair::generate().unwrap().request(&grant.id).unwrap();
    let (_, parsed) = X509CertificationRequest::from_der(&good).unwrap();
    let (info, signature) = (parsed.certification_request_info.raw, parsed.signature_value.data.as_ref());
    let place = |part: &[u8]| part.as_ptr() as usize - good.as_ptr() as usize;
    for at in (place(info)..place(info) + info.len()).chain(place(signature)..good.len()) {
        let mut bad = good.clone();
        bad[at] ^= 1;
        assert!(authority.sign(&bad, &grant, now()).is_err(), "byte {at} of {}", good.len());
    }
    let mut bad = good.clone();
    let last = bad.len() - 1;
    bad[last] ^= 1;
    assert_eq!(authority.sign(&bad, &grant, now()).unwrap_err(), SignError::Request(RequestError::Signature));
    for bad in [&good[..good.len() - 1], &[&good[..], &[0]].concat(), b"", &vec![0x30; 20_000]] {
        assert!(matches!(authority.sign(bad, &grant, now()), Err(SignError::Request(RequestError::Malformed(_)))));
    }
}

#[test]
fn only_keys_that_tls_can_rest_on_are_signed() {
    let authority = authority();
    let grant = Grant::new(id("recording"));
    let sign = |key: &rcgen::KeyPair| authority.sign(CertificateParams::default().serialize_request(key).unwrap().der(), &grant, now());
    for good in [
        &rcgen::PKCS_ECDSA_P256_SHA256,
        &rcgen::PKCS_ECDSA_P384_SHA384,
        &rcgen::PKCS_ED25519,
        &rcgen::PKCS_RSA_SHA256,
        &rcgen::PKCS_RSA_SHA512,
    ] {
        let chain = sign(&rcgen::KeyPair::generate_for(good).unwrap()).unwrap_or_else(|error| panic!("{good:?}: {error}"));
        verifies(authority.bundle(), &chain, now()).unwrap();
    }
    let error = sign(&rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P521_SHA512).unwrap()).unwrap_err();
    assert!(matches!(error, SignError::Request(RequestError::Key(_))), "{error}");
}

#[test]
fn a_grant_has_to_fit() {
    let authority = authority();
    let csr = KeyPair::generate().unwrap().request(&"spiffe://other.example/ns/contact/sa/recording".parse().unwrap()).unwrap();
    let other = Grant::new("spiffe://other.example/ns/contact/sa/recording".parse().unwrap());
    assert!(matches!(authority.sign(&csr, &other, now()), Err(SignError::OtherTrustDomain { .. })));

    let csr = KeyPair::generate().unwrap().request(&id("recording")).unwrap();
    let mut elsewhere = facts();
    elsewhere.workload = "recording-7f3a2c.default".parse().unwrap();
    assert!(matches!(
        authority.sign(&csr, &Grant::new(id("recording")).with_facts(elsewhere), now()),
        Err(SignError::OtherNamespace { .. })
    ));

    let life = |lifetime| {
        let key = KeyPair::generate().unwrap();
        let grant = Grant { lifetime, ..Grant::new(id("recording")) };
        let svid = Svid::new(&authority.sign(&key.request(&grant.id).unwrap(), &grant, now()).unwrap(), key).unwrap();
        svid.not_after().duration_since(now()).unwrap()
    };
    assert_eq!([Duration::ZERO, HOUR, 365 * DAY].map(life), [MIN_SVID_LIFETIME, HOUR, 7 * DAY]);
}

#[test]
fn a_stored_authority_is_the_same_and_hides_its_keys() {
    let authority = authority();
    let record = authority.to_record();
    let stored = serde_json::to_string(&record).unwrap();
    let read: AuthorityRecord = serde_json::from_str(&stored).unwrap();
    assert_eq!(read, record);
    let loaded = Authority::from_record(&read).unwrap();
    assert_eq!(loaded.bundle(), authority.bundle());
    assert_eq!(loaded.to_record(), record);
    let grant = Grant::new(id("recording"));
    let chain = loaded.sign(&KeyPair::generate().unwrap().request(&grant.id).unwrap(), &grant, now()).unwrap();
    verifies(authority.bundle(), &chain, now()).unwrap();

    for shown in [format!("{record:?}"), format!("{authority:?}"), format!("{:?}", KeyPair::generate().unwrap())] {
        assert!(shown.contains("[redacted]") && !shown.contains("PRIVATE KEY"), "{shown}");
    }
}

#[test]
fn an_authority_that_does_not_fit_together_is_refused() {
    let (one, other) = (authority().to_record(), authority().to_record());
    let refused = |record: AuthorityRecord| Authority::from_record(&record).unwrap_err().to_string();
    let text = refused(AuthorityRecord { intermediate_certificate_pem: other.intermediate_certificate_pem.clone(), ..one.clone() });
    assert!(text.contains("intermediate certificate") && text.contains("another root"), "{text}");
    let text = refused(AuthorityRecord { intermediate_key_pem: other.intermediate_key_pem.clone(), ..one.clone() });
    assert!(text.contains("intermediate key"), "{text}");
    let text = refused(AuthorityRecord { root_key_pem: other.root_key_pem, ..one.clone() });
    assert!(text.contains("root key"), "{text}");
    let text = refused(AuthorityRecord { root_certificate_pem: "x".into(), ..one.clone() });
    assert!(text.contains("root certificate") && text.contains("no certificate"), "{text}");
    let text = refused(AuthorityRecord {
        intermediate_key_pem: SecretPem::new("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n".into()),
        ..one
    });
    assert!(!text.contains("AAAA"), "{text}");
}

#[test]
fn the_intermediate_is_renewed_in_its_second_half() {
    let mut authority = authority();
    assert!(matches!(authority.renew_intermediate(now() + INTERMEDIATE_LIFETIME.mul_f64(0.4)).unwrap(), Renewal::NotDue));
    let later = now() + INTERMEDIATE_LIFETIME.mul_f64(0.6);
    let Renewal::Renewed(renewed) = authority.renew_intermediate(later).unwrap() else { panic!("not renewed") };
    assert_eq!(renewed.bundle(), authority.bundle());
    assert_eq!(renewed.intermediate_validity().1, later + INTERMEDIATE_LIFETIME);
    let grant = Grant::new(id("recording"));
    let csr = KeyPair::generate().unwrap().request(&grant.id).unwrap();
    for signer in [&authority, &*renewed] {
        verifies(authority.bundle(), &signer.sign(&csr, &grant, later).unwrap(), later).unwrap();
    }

    // Without the root key, signing goes on to the end of the intermediate and no further.
    let key = authority.take_root_key().unwrap();
    assert!(authority.to_record().root_key_pem.is_none());
    let (_, end) = authority.intermediate_validity();
    assert!(matches!(authority.renew_intermediate(later).unwrap(), Renewal::RootKeyAbsent { not_after } if not_after == end));
    let chain = authority.sign(&csr, &grant, end - HOUR).unwrap();
    verifies(authority.bundle(), &chain, end - HOUR).unwrap();
    let (_, leaf) = X509Certificate::from_der(&chain[0]).unwrap();
    assert_eq!(
        leaf.validity().not_after.timestamp(),
        i64::try_from(end.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs()).unwrap()
    );
    for late in [end - Duration::from_secs(4), end, end + DAY] {
        assert!(matches!(authority.sign(&csr, &grant, late), Err(SignError::IntermediateEnds { .. })));
    }
    let back = Authority::from_record(&AuthorityRecord { root_key_pem: Some(key), ..authority.to_record() }).unwrap();
    assert!(matches!(back.renew_intermediate(end + DAY).unwrap(), Renewal::Renewed(_)));

    // The last intermediate ends with the root.
    let late = now() + ROOT_LIFETIME - 30 * DAY;
    let Renewal::Renewed(last) = back.renew_intermediate(late).unwrap() else { panic!("not renewed") };
    assert_eq!(last.intermediate_validity().1, now() + ROOT_LIFETIME);
    assert!(matches!(last.renew_intermediate(late + 20 * DAY).unwrap(), Renewal::NotDue));
    assert!(back.renew_intermediate(now() + ROOT_LIFETIME).unwrap_err().to_string().contains("root certificate ended"));
}

#[test]
fn a_bundle_is_known_by_its_content() {
    let (one, other) = (authority(), authority());
    let roots = |authorities: &[&Authority]| authorities.iter().map(|authority| authority.root().clone()).collect::<Vec<_>>();
    let bundle = |authorities: &[&Authority]| Bundle::new(TrustDomain::default(), roots(authorities)).unwrap();
    let both = bundle(&[&one, &other]);
    assert_eq!(both, bundle(&[&other, &one, &other]));
    assert_eq!(both.roots().len(), 2);
    assert_eq!(Bundle::from_pem(TrustDomain::default(), &both.to_pem()).unwrap().version(), both.version());
    assert_ne!(both.version(), one.bundle().version());
    assert_ne!(Bundle::new(TrustDomain::new("other.example").unwrap(), roots(&[&one])).unwrap().version(), one.bundle().version());

    let grant = Grant::new(id("recording"));
    let chain = one.sign(&KeyPair::generate().unwrap().request(&grant.id).unwrap(), &grant, now()).unwrap();
    assert!(Bundle::new(TrustDomain::default(), vec![]).is_err());
    let error = Bundle::new(TrustDomain::default(), vec![one.root().clone(), chain[0].clone()]).unwrap_err();
    assert_eq!(error.to_string(), "certificate 2 of the trust bundle of mesh.local is no root: its basic constraints do not say CA");
}

#[test]
fn a_chain_with_another_key_is_no_svid() {
    let authority = authority();
    let grant = Grant::new(id("recording"));
    let chain = authority.sign(&KeyPair::generate().unwrap().request(&grant.id).unwrap(), &grant, now()).unwrap();
    assert!(matches!(Svid::new(&chain, KeyPair::generate().unwrap()), Err(SvidError::OtherKey { .. })));
    assert!(matches!(Svid::new(&[], KeyPair::generate().unwrap()), Err(SvidError::Chain(_))));
    assert!(matches!(Svid::new(&chain[1..], KeyPair::generate().unwrap()), Err(SvidError::Leaf(PeerError::MaySign))));
}

/// A few bytes of `good` replaced, and the end cut off.
fn damaged(good: &[u8]) -> impl Strategy<Value = Vec<u8>> + use<> {
    let good = good.to_vec();
    let changes = proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6);
    (changes, any::<prop::sample::Index>(), any::<bool>()).prop_map(move |(changes, end, cut)| {
        let mut bytes = good.clone();
        for (place, value) in changes {
            let place = place.index(bytes.len());
            bytes[place] = value;
        }
        bytes.truncate(if cut { end.index(bytes.len()) } else { bytes.len() });
        bytes
    })
}

/// Requests and certificates are read from whoever connects: any bytes give a value or an error.
#[test]
fn damaged_bytes_are_read_or_refused() {
    let authority = authority();
    let grant = Grant::new(id("recording")).with_facts(facts());
    let csr = KeyPair::generate().unwrap().request(&grant.id).unwrap();
    let leaf = authority.sign(&csr, &grant, now()).unwrap()[0].to_vec();
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    runner
        .run(&(damaged(&csr), damaged(&leaf)), |(csr, leaf)| {
            let _ = CertificateRequest::read(&csr);
            let _ = peer_identity(&[CertificateDer::from(&leaf[..])]);
            let _ = Bundle::new(TrustDomain::default(), vec![CertificateDer::from(leaf)]);
            Ok(())
        })
        .unwrap();
}
