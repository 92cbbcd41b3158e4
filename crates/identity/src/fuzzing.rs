//! Certificates, requests for them, keys and tokens as fuzzers call what reads them: bytes of anybody's in, nothing out. They may be refused, and
//! nothing else.
//!
//! Compiled for tests, which run it on bytes by chance, and for `fuzz/` (`cargo xtask fuzz`), which runs it for longer.

#![allow(clippy::panic, reason = "a mistake that is found ends the run")]

use std::pin::Pin;
use std::sync::OnceLock;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, SystemTime};

use lorica_model::spiffe::TrustDomain;
use prost::Message;
use rustls_pki_types::CertificateDer;
use tokio::io::{AsyncRead as _, ReadBuf};

use crate::jwt::{KeySet, Signed};
use crate::pem::SecretPem;
use crate::request::CertificateRequest;
use crate::workload_api::{JwtSvidRequest, Readable, ValidateJwtSvidRequest};
use crate::{Authority, Bundle, Grant, KeyPair, Svid, WorkloadFacts, peer_identity};

/// A name, what is run on bytes, and bytes to begin with.
pub type Target = (&'static str, fn(&[u8]), fn() -> Vec<Vec<u8>>);

/// All of this crate.
pub const TARGETS: [Target; 5] = [
    ("certificates", certificates, certificate_samples),
    ("certificate_requests", requests, request_samples),
    ("pem", pem, pem_samples),
    ("tokens", tokens, token_samples),
    ("workload_api", workload_api, workload_api_samples),
];

/// A certificate that a peer shows, and what is said in it.
pub fn certificates(bytes: &[u8]) {
    drop(peer_identity(&[CertificateDer::from(bytes)]));
    if let Ok(facts) = WorkloadFacts::decode(bytes) {
        // Numbers of several spellings are one; what was read is written so that it reads the same.
        let again = facts.encode().map(|bytes| WorkloadFacts::decode(&bytes));
        assert_eq!(again.ok().and_then(Result::ok).as_ref(), Some(&facts));
    }
}

fn authority() -> &'static Authority {
    static AUTHORITY: OnceLock<Authority> = OnceLock::new();
    AUTHORITY.get_or_init(|| match Authority::create(TrustDomain::default(), SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)) {
        Ok(authority) => authority,
        Err(error) => panic!("{error}"),
    })
}

fn grant() -> Grant {
    match "spiffe://mesh.local/ns/shop/sa/web".parse() {
        Ok(id) => Grant::new(id),
        Err(error) => panic!("{error}"),
    }
}

/// A request for a certificate.
pub fn requests(bytes: &[u8]) {
    drop(CertificateRequest::read(bytes));
    drop(authority().sign(bytes, &grant(), SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_100)));
    if let Ok(text) = std::str::from_utf8(bytes) {
        drop(CertificateRequest::der_of_pem(text).map(|der| CertificateRequest::read(&der).is_ok()));
    }
}

/// Files of roots, of a workload's identity, and Secrets that users write.
pub fn pem(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(bundle) = Bundle::from_pem(TrustDomain::default(), text) {
        let again = Bundle::from_pem(TrustDomain::default(), &bundle.to_pem());
        assert!(again.is_ok_and(|again| again.version() == bundle.version()));
    }
    drop(Svid::from_pem(&SecretPem::new(text.to_owned())));
    drop(KeyPair::from_pem(&SecretPem::new(text.to_owned())));
}

/// A set of keys, then after an empty line a token.
pub fn tokens(bytes: &[u8]) {
    let at = bytes.windows(2).position(|two| two == b"\n\n");
    let (set, token) = at.map_or((bytes, bytes), |at| (&bytes[..at], &bytes[at + 2..]));
    let signed = Signed::read(token);
    if let (Ok(keys), Ok(signed)) = (KeySet::read(set), &signed) {
        drop(keys.verify(signed));
    }
}

/// What a program says to the Workload API, from its first bytes on.
pub fn workload_api(bytes: &[u8]) {
    drop(JwtSvidRequest::decode(bytes));
    drop(ValidateJwtSvidRequest::decode(bytes));
    let mut readable = Readable::new(bytes);
    let mut buffer = [0; 64];
    let mut came = 0;
    let mut context = Context::from_waker(Waker::noop());
    loop {
        let mut read = ReadBuf::new(&mut buffer);
        match Pin::new(&mut readable).poll_read(&mut context, &mut read) {
            Poll::Ready(Ok(())) if !read.filled().is_empty() => came += read.filled().len(),
            _ => break,
        }
    }
    assert_eq!(came, bytes.len(), "a client's bytes are neither more nor less for being mended");
}

fn certificate_samples() -> Vec<Vec<u8>> {
    let record = authority();
    vec![
        record.root().to_vec(),
        record.intermediate().to_vec(),
        leaf().map(|svid| svid.chain()[0].to_vec()).unwrap_or_default(),
        facts_sample(),
    ]
}

fn facts_sample() -> Vec<u8> {
    let Ok(workload) = "web-1.shop".parse() else { return Vec::new() };
    let facts = WorkloadFacts {
        workload,
        service: "web.shop".parse().ok(),
        version: Some("v1".into()),
        virtual_v4: Some([240, 0, 0, 7].into()),
        virtual_v6: None,
    };
    facts.encode().unwrap_or_default()
}

fn leaf() -> Option<Svid> {
    let key = KeyPair::generate().ok()?;
    let grant = grant();
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_100);
    let chain = authority().sign(&key.request(&grant.id).ok()?, &grant, now).ok()?;
    Svid::new(&chain, key).ok()
}

fn request_samples() -> Vec<Vec<u8>> {
    let key = KeyPair::generate().ok();
    let id = grant().id;
    key.and_then(|key| Some(vec![key.request(&id).ok()?, key.request_pem(&id).ok()?.into()])).unwrap_or_default()
}

fn pem_samples() -> Vec<Vec<u8>> {
    let svid = leaf().map(|svid| svid.to_pem().expose().as_bytes().to_vec());
    vec![authority().bundle().to_pem().into(), svid.unwrap_or_default()]
}

fn token_samples() -> Vec<Vec<u8>> {
    let keys = r#"{"keys":[{"kty":"EC","crv":"P-256","kid":"a","x":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4","y":"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM"},{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;
    let token = "eyJhbGciOiJFUzI1NiIsImtpZCI6ImEifQ.eyJpc3MiOiJqb2UiLCJleHAiOjQxMDI0NDQ4MDB9.DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q";
    vec![keys.into(), token.into(), format!("{keys}\n\n{token}").into_bytes()]
}

fn workload_api_samples() -> Vec<Vec<u8>> {
    let mut call =
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\0\0\x1c\x01\x04\0\0\0\x01@\x0a:authority\x0erun%2Fapi.sock\x83".to_vec();
    call.extend(b"\0\0\0\0\x01\0\0\0\x01");
    vec![call, JwtSvidRequest { audience: vec!["shop".to_owned()], spiffe_id: String::new() }.encode_to_vec()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_bytes_break_a_reader(noise in prop::collection::vec(any::<u8>(), 0..200), which in any::<prop::sample::Index>(), at in any::<prop::sample::Index>()) {
            for (_, run, samples) in TARGETS {
                run(&noise);
                let mut bytes = which.get(&samples()).clone();
                let at = at.index(bytes.len());
                let end = (at + noise.len() % 9).min(bytes.len());
                bytes.splice(at..end, noise.iter().copied().take(8));
                run(&bytes);
            }
        }
    }
}
