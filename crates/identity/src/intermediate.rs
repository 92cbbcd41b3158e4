//! Intermediates: made by a root's key where it lies, asked for where it is offline, put into an authority. Keys and certificates in
//! PEM go in; what is wrong with them comes out by name.

use std::time::{Duration, SystemTime};

use lorica_model::spiffe::{SpiffeError, SpiffeId, TrustDomain};
use rcgen::{CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType, Issuer};
use rustls_pki_types::CertificateDer;

use crate::authority::{Authority, AuthorityError, AuthorityRecord, Grant, MIN_SVID_LIFETIME, new_intermediate, signing_params, text};
use crate::certificate::Fields;
use crate::pem::{self, SecretPem};
use crate::revocation_list::root_list;
use crate::signing::may_sign;
use crate::svid::{KeyPair, key_pem, read_key};

/// A root that users bring, in PEM.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct OwnCa {
    /// The root certificate, or whichever certificate is to be trusted.
    pub root_certificate: String,
    /// Its key; without it the intermediate has to be brought, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root_key: Option<SecretPem>,
    /// An intermediate, signed by the root; without it one is made by the root's key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub intermediate: Option<OwnIntermediate>,
}

/// An intermediate that users bring, in PEM.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct OwnIntermediate {
    /// Its certificate.
    pub certificate: String,
    /// Its key.
    pub key: SecretPem,
}

/// A request for an intermediate, to be signed where the root's key is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IntermediateRequest {
    /// The key, which stays here.
    pub key: SecretPem,
    /// The request, in PEM.
    pub request: String,
}

impl IntermediateRequest {
    /// Makes a key and a request for it.
    ///
    /// # Errors
    /// If the system has no randomness to give.
    pub fn new(trust_domain: &TrustDomain) -> Result<Self, AuthorityError> {
        let make = || -> Result<Self, String> {
            let key = rcgen::KeyPair::generate().map_err(text)?;
            let mut params = CertificateParams::default();
            let mut name = DistinguishedName::new();
            name.push(DnType::OrganizationName, trust_domain.as_str());
            params.distinguished_name = name;
            let request = pem::encode("CERTIFICATE REQUEST", params.serialize_request(&key).map_err(text)?.der());
            Ok(Self { key: key_pem(&key), request })
        };
        make().map_err(|why| AuthorityError::Make { trust_domain: trust_domain.clone(), why })
    }
}

/// Signs a request for an intermediate with a root's key, offline. Of the request only the public key is used. A certificate for a
/// year, or to the root's end, in PEM, and the root's list of revocations, where it may sign one.
///
/// # Errors
/// What is wrong with root, key or request.
pub fn sign_intermediate(
    trust_domain: &TrustDomain,
    root_certificate: &str,
    root_key: &SecretPem,
    request: &str,
    lifetime: Duration,
    now: SystemTime,
) -> Result<String, AuthorityError> {
    let part = |part: &'static str| move |why: String| AuthorityError::Part { trust_domain: trust_domain.clone(), part, why };
    let (root, key) = read_root(trust_domain, root_certificate, root_key, now)?;
    let der = pem::request(request).map_err(part("certificate request"))?;
    // Its signature is verified as it is read: who sent it has the key.
    let asked = CertificateSigningRequestParams::from_der(&der.as_slice().into()).map_err(text).map_err(part("certificate request"))?;
    let sign = || -> Result<String, String> {
        let end = (now + lifetime).min(Fields::read(&root)?.not_after);
        let mut params = signing_params(trust_domain, "intermediate", now, end, 0)?;
        params.use_authority_key_identifier_extension = true;
        let issuer = Issuer::from_ca_cert_der(&root, &key).map_err(text)?;
        let certificate = params.signed_by(&asked.public_key, &issuer).map_err(text)?;
        let revocations = root_list(&root, &key, now)?;
        let revocations = revocations.map(|list| pem::encode(pem::REVOCATION_LIST, &list)).unwrap_or_default();
        Ok(pem::encode("CERTIFICATE", certificate.der()) + &revocations)
    };
    sign().map_err(|why| AuthorityError::Make { trust_domain: trust_domain.clone(), why })
}

/// A root and its key, both checked.
fn read_root(
    trust_domain: &TrustDomain,
    certificate: &str,
    key: &SecretPem,
    now: SystemTime,
) -> Result<(CertificateDer<'static>, rcgen::KeyPair), AuthorityError> {
    let part = |part: &'static str| move |why: String| AuthorityError::Part { trust_domain: trust_domain.clone(), part, why };
    let root = one(certificate).map_err(part("root certificate"))?;
    may_sign(&root, trust_domain, 1, now).map_err(part("root certificate"))?;
    let key = read_key(key).map_err(part("root key"))?;
    let fields = Fields::read(&root).map_err(part("root certificate"))?;
    if rcgen::PublicKeyData::subject_public_key_info(&key) != fields.public_key {
        return Err(part("root key")("it is not the key of the root certificate".to_owned()));
    }
    Ok((root, key))
}

fn one(text: &str) -> Result<CertificateDer<'static>, String> {
    match &pem::certificates(text)?[..] {
        [certificate] => Ok(certificate.clone()),
        several => Err(format!("it has {} certificates instead of one", several.len())),
    }
}

impl Authority {
    /// An authority of what a user brings, with everything checked that would let its SVIDs be refused.
    ///
    /// # Errors
    /// The first thing that is wrong, and with which part.
    pub fn own(trust_domain: &TrustDomain, own: &OwnCa, now: SystemTime) -> Result<Self, AuthorityError> {
        let part = |part: &'static str, why: &str| AuthorityError::Part { trust_domain: trust_domain.clone(), part, why: why.to_owned() };
        let intermediate = match (&own.intermediate, &own.root_key) {
            (Some(intermediate), _) => intermediate.clone(),
            (None, Some(key)) => {
                let (root, key) = read_root(trust_domain, &own.root_certificate, key, now)?;
                let make = |why| AuthorityError::Make { trust_domain: trust_domain.clone(), why };
                let (certificate, key) = new_intermediate(trust_domain, &root, &key, now).map_err(make)?;
                OwnIntermediate { certificate: pem::encode("CERTIFICATE", &certificate), key: key_pem(&key) }
            }
            (None, None) => return Err(part("root key", "without it an intermediate certificate with its key is needed")),
        };
        let made = Self::from_record(&AuthorityRecord {
            trust_domain: trust_domain.clone(),
            root_certificate_pem: own.root_certificate.clone(),
            root_key_pem: own.root_key.clone(),
            // Beside the certificate may stand the root's list of revocations, as `sign_intermediate` writes it.
            root_revocations_pem: Some(intermediate.certificate.clone()),
            intermediate_certificate_pem: intermediate.certificate,
            intermediate_key_pem: intermediate.key,
            former: Vec::new(),
        })?;
        made.check(now)?;
        Ok(made)
    }

    /// Whether peers take what it signs at `now`.
    ///
    /// # Errors
    /// What is wrong, and with which part.
    pub fn check(&self, now: SystemTime) -> Result<(), AuthorityError> {
        let part = |part: &'static str| move |why: String| AuthorityError::Part { trust_domain: self.trust_domain().clone(), part, why };
        may_sign(self.root(), self.trust_domain(), 1, now).map_err(part("root certificate"))?;
        may_sign(self.intermediate(), self.trust_domain(), 0, now).map_err(part("intermediate certificate"))?;
        // Whatever else a verifier may find is found by one SVID that is thrown away.
        let probe = || -> Result<(), String> {
            let id: SpiffeId =
                format!("{}/lorica/control", self.trust_domain().uri()).parse().map_err(|error: SpiffeError| error.to_string())?;
            let request = KeyPair::generate().and_then(|key| key.request(&id)).map_err(|error| error.to_string())?;
            self.sign(&request, &Grant { lifetime: MIN_SVID_LIFETIME, ..Grant::new(id) }, now).map(drop).map_err(|error| error.to_string())
        };
        probe().map_err(part("intermediate certificate"))
    }

    /// The same root with another intermediate, from [`sign_intermediate`] or a CA of the user's.
    ///
    /// # Errors
    /// If the certificate is for another key, not signed by the root, or may not sign.
    pub fn with_intermediate(&self, certificate: &str, key: &SecretPem, now: SystemTime) -> Result<Self, AuthorityError> {
        let record = self.to_record();
        let own = OwnCa {
            root_certificate: record.root_certificate_pem,
            root_key: record.root_key_pem,
            intermediate: Some(OwnIntermediate { certificate: certificate.to_owned(), key: key.clone() }),
        };
        Self::own(self.trust_domain(), &own, now)
    }

    /// The same root with an intermediate made now by the root's key; none where that key is offline.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn with_new_intermediate(&self, now: SystemTime) -> Result<Option<Self>, AuthorityError> {
        let record = self.to_record();
        let own = OwnCa { root_certificate: record.root_certificate_pem, root_key: record.root_key_pem, intermediate: None };
        if own.root_key.is_none() { Ok(None) } else { Self::own(self.trust_domain(), &own, now).map(Some) }
    }
}
