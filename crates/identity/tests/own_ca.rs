//! A CA of the user's own: what is taken, and what is wrong with what is not.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::time::{Duration, SystemTime};

use lorica_identity::intermediate::{IntermediateRequest, OwnCa, OwnIntermediate, sign_intermediate};
use lorica_identity::{Authority, Grant, KeyPair, SecretPem, Svid};
use lorica_model::spiffe::TrustDomain;
use rcgen::{BasicConstraints, CertificateParams, CustomExtension, DnType, GeneralSubtree, IsCa, Issuer, KeyUsagePurpose, NameConstraints};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// 2027-01-15T08:00:00Z
fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fn domain() -> TrustDomain {
    TrustDomain::new("shop.example").unwrap()
}

/// A signing certificate of somebody else's making.
fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.not_before = rcgen::date_time_ymd(2027, 1, 1);
    params.not_after = rcgen::date_time_ymd(2030, 1, 1);
    params
}

struct Made {
    certificate: String,
    key: SecretPem,
    pair: rcgen::KeyPair,
    params: CertificateParams,
}

fn root(change: impl FnOnce(&mut CertificateParams)) -> Made {
    let mut params = params("Their root");
    change(&mut params);
    let pair = rcgen::KeyPair::generate().unwrap();
    let certificate = params.self_signed(&pair).unwrap().pem();
    Made { certificate, key: SecretPem::new(pair.serialize_pem()), pair, params }
}

fn below(root: &Made, change: impl FnOnce(&mut CertificateParams)) -> OwnIntermediate {
    let mut params = params("Their intermediate");
    change(&mut params);
    let pair = rcgen::KeyPair::generate().unwrap();
    let issuer = Issuer::from_params(&root.params, &root.pair);
    OwnIntermediate { certificate: params.signed_by(&pair, &issuer).unwrap().pem(), key: SecretPem::new(pair.serialize_pem()) }
}

fn own(root: &Made, intermediate: Option<OwnIntermediate>) -> OwnCa {
    let root_key = intermediate.is_none().then(|| root.key.clone());
    OwnCa { root_certificate: root.certificate.clone(), root_key, intermediate }
}

#[track_caller]
fn refused(own: &OwnCa, words: &str) {
    let error = Authority::own(&domain(), own, now()).unwrap_err().to_string();
    assert!(error.contains(words), "{error}");
}

fn signs(authority: &Authority) {
    let key = KeyPair::generate().unwrap();
    let id = "spiffe://shop.example/ns/shop/sa/web".parse().unwrap();
    let chain = authority.sign(&key.request(&id).unwrap(), &Grant::new(id.clone()), now()).unwrap();
    assert!(Svid::new(&chain, key).unwrap().is_from(authority.root()));
}

#[test]
fn a_root_with_its_key_and_one_without_are_taken() {
    let with_key = root(|_| {});
    let authority = Authority::own(&domain(), &own(&with_key, None), now()).unwrap();
    assert!(authority.has_root_key());
    signs(&authority);
    let other = authority.with_new_intermediate(now()).unwrap().unwrap();
    assert_ne!(other.intermediate(), authority.intermediate());
    signs(&other);

    let authority = Authority::own(&domain(), &own(&with_key, Some(below(&with_key, |_| {}))), now()).unwrap();
    assert!(!authority.has_root_key());
    assert!(authority.with_new_intermediate(now()).unwrap().is_none());
    signs(&authority);
}

#[test]
fn what_would_be_refused_later_is_refused_at_once() {
    let good = root(|_| {});
    refused(
        &OwnCa { root_key: Some(root(|_| {}).key), ..own(&good, None) },
        "the root key of the CA of shop.example cannot be used: it is not the key of the root",
    );
    refused(&OwnCa { root_key: None, ..own(&good, None) }, "without it an intermediate certificate with its key is needed");
    refused(&own(&root(|params| params.is_ca = IsCa::NoCa), None), "CA:TRUE");
    refused(&own(&root(|params| params.key_usages = vec![KeyUsagePurpose::CrlSign]), None), "keyCertSign");
    refused(&own(&root(|params| params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0))), None), "path length of 0");
    refused(&own(&root(|params| params.not_after = rcgen::date_time_ymd(2027, 1, 14)), None), "it ended at 2027-01-14T00:00:00Z");
    refused(&own(&root(|params| params.not_before = rcgen::date_time_ymd(2027, 1, 16)), None), "it begins at 2027-01-16T00:00:00Z");
    refused(&own(&good, Some(below(&root(|_| {}), |_| {}))), "not signed by the root");
    refused(&own(&good, Some(OwnIntermediate { key: good.key.clone(), ..below(&good, |_| {}) })), "not the key of the intermediate");
    refused(&own(&good, Some(below(&good, |params| params.is_ca = IsCa::NoCa))), "intermediate certificate");
    refused(&own(&good, Some(below(&good, |params| params.not_after = rcgen::date_time_ymd(2027, 1, 2)))), "it ended at");
    refused(&OwnCa { root_certificate: "nothing".to_owned(), ..own(&good, None) }, "no certificate");
}

/// A critical extension that names the hosts of URIs (RFC 5280, 4.2.1.10).
fn uris_of(host: &str) -> CustomExtension {
    let mut subtree = vec![0x86, u8::try_from(host.len()).unwrap()];
    subtree.extend(host.as_bytes());
    let wrap = |tag: u8, content: Vec<u8>| [vec![tag, u8::try_from(content.len()).unwrap()], content].concat();
    let constraints = wrap(0x30, wrap(0xa0, wrap(0x30, subtree)));
    let mut extension = CustomExtension::from_oid_content(&[2, 5, 29, 30], constraints);
    extension.set_criticality(true);
    extension
}

#[test]
fn name_constraints_have_to_allow_the_trust_domain() {
    refused(&own(&root(|params| params.custom_extensions = vec![uris_of("other.example")]), None), "allow URIs of `other.example` only");
    refused(&own(&root(|params| params.custom_extensions = vec![uris_of(".shop.example")]), None), "allow URIs of `.shop.example` only");
    let allowed = root(|params| params.custom_extensions = vec![uris_of("shop.example")]);
    refused(&own(&allowed, None), "its name constraints speak of URIs");
    // Of DNS names an SVID has none.
    let dns = NameConstraints { permitted_subtrees: vec![GeneralSubtree::DnsName("other.example".into())], excluded_subtrees: vec![] };
    Authority::own(&domain(), &own(&root(|params| params.name_constraints = Some(dns)), None), now()).unwrap();
}

#[test]
fn an_intermediate_is_made_of_a_request_alone() {
    let root = root(|_| {});
    let authority = Authority::own(&domain(), &own(&root, Some(below(&root, |_| {}))), now()).unwrap();
    let asked = IntermediateRequest::new(&domain()).unwrap();
    assert!(asked.request.contains("CERTIFICATE REQUEST") && !asked.request.contains("PRIVATE"));
    let certificate = sign_intermediate(&domain(), &root.certificate, &root.key, &asked.request, 30 * DAY, now()).unwrap();
    let renewed = authority.with_intermediate(&certificate, &asked.key, now()).unwrap();
    assert_eq!(renewed.bundle(), authority.bundle());
    assert_eq!(renewed.intermediate_validity().1, now() + 30 * DAY);
    signs(&renewed);

    let other = IntermediateRequest::new(&domain()).unwrap();
    let error = authority.with_intermediate(&certificate, &other.key, now()).unwrap_err().to_string();
    assert!(error.contains("not the key of the intermediate"), "{error}");
    let error = sign_intermediate(&domain(), &root.certificate, &other.key, &asked.request, DAY, now()).unwrap_err().to_string();
    assert!(error.contains("not the key of the root"), "{error}");
    let error = sign_intermediate(&domain(), &root.certificate, &root.key, "nothing", DAY, now()).unwrap_err().to_string();
    assert!(error.contains("certificate request"), "{error}");
}
