//! Certificate revocation lists (RFC 5280), for peers that know of revocations by nothing else: serial numbers go in, a signed list of each
//! authority comes out. Such a peer demands a list of every authority of a chain, so there are all of them or none.
//!
//! An intermediate that was replaced is kept for as long as what it signed may hold: nobody else can sign its list. The list of a root
//! whose key goes offline is signed before; it is empty, as intermediates are replaced and not revoked.

use std::collections::BTreeMap;
use std::time::SystemTime;

use rcgen::{CertificateRevocationListParams, Issuer, KeyIdMethod, RevokedCertParams, SerialNumber, SigningKey};
use rustls_pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::FromDer as _;
use x509_parser::revocation_list::CertificateRevocationList;

use crate::authority::{Authority, AuthorityError, BACKDATE, MAX_SVID_LIFETIME, since_1970, text};
use crate::certificate::{Fields, hex, sha256};
use crate::pem::{self, SecretPem};
use crate::svid::{key_pem, read_key};

/// The most replaced intermediates that are kept, the latest ones.
const MOST_FORMER: usize = 16;

/// A replaced intermediate as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FormerRecord {
    /// Its certificate.
    pub certificate_pem: String,
    /// Its key, by which it signs lists of revocations and nothing else.
    pub key_pem: SecretPem,
    /// When the last that it signed is over, at most.
    pub until: SystemTime,
}

/// A replaced intermediate.
pub(crate) struct Former {
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, rcgen::KeyPair>,
    until: SystemTime,
}

impl Former {
    pub(crate) fn read(record: &FormerRecord) -> Result<Self, String> {
        let certificate = pem::certificates(&record.certificate_pem)?.into_iter().next().ok_or("it has no certificate")?;
        let issuer = Issuer::from_ca_cert_der(&certificate, read_key(&record.key_pem)?).map_err(text)?;
        Ok(Self { certificate, issuer, until: record.until })
    }

    pub(crate) fn record(&self) -> FormerRecord {
        FormerRecord {
            certificate_pem: pem::encode("CERTIFICATE", &self.certificate),
            key_pem: key_pem(self.issuer.key()),
            until: self.until,
        }
    }
}

/// The serial number of a certificate.
///
/// # Errors
/// What is wrong with the certificate.
pub fn serial_number(certificate: &CertificateDer<'_>) -> Result<Vec<u8>, String> {
    let (_, certificate) = X509Certificate::from_der(certificate).map_err(|error| format!("it is no X.509 certificate: {error}"))?;
    Ok(certificate.tbs_certificate.raw_serial().to_vec())
}

impl Authority {
    /// What the intermediate that signs is called for short: the SHA-256 of its certificate, in 64 hexadecimal digits.
    #[must_use]
    pub fn intermediate_id(&self) -> String {
        id(&self.intermediate)
    }

    /// Takes over what `before`, an authority of the same root, has to answer for: its intermediate if that is another, those from
    /// before, and the root's list of revocations.
    ///
    /// # Errors
    /// If a key cannot be read back.
    pub fn succeeding(mut self, before: &Self, now: SystemTime) -> Result<Self, AuthorityError> {
        let (_, end) = before.intermediate_validity();
        let last = Former::read(&FormerRecord {
            certificate_pem: pem::encode("CERTIFICATE", &before.intermediate),
            key_pem: key_pem(before.issuer.key()),
            until: end.min(now + MAX_SVID_LIFETIME),
        });
        let earlier = before.former.iter().map(|former| Former::read(&former.record()));
        let all: Result<Vec<_>, _> = earlier.chain([last]).collect();
        let mut former = all.map_err(|why| self.part("former intermediate", why))?;
        former.retain(|former| former.until > now && former.certificate != self.intermediate);
        let surplus = former.len().saturating_sub(MOST_FORMER);
        self.former = former.split_off(surplus);
        if self.root_revocations.is_none() {
            self.root_revocations.clone_from(&before.root_revocations);
        }
        Ok(self)
    }

    /// A list of revocations of each authority that may stand in a chain to the root: of the root, the intermediate, and those from
    /// before that have not ended. `revoked`: serial numbers, as
    /// [`serial_number`] gives them, by [`Authority::intermediate_id`] of who signed. None where one of them has no list: the root
    /// whose key was taken away before it had signed one, or an authority of a user's that may not sign lists, as its key usage says.
    ///
    /// # Errors
    /// If one cannot be made.
    pub fn revocation_lists(
        &self,
        revoked: &BTreeMap<String, Vec<Vec<u8>>>,
        now: SystemTime,
    ) -> Result<Option<Vec<Vec<u8>>>, AuthorityError> {
        let Some(root) = self.root_revocations(now)? else { return Ok(None) };
        let of = |certificate: &CertificateDer<'_>| revoked.get(&id(certificate)).map_or(&[][..], Vec::as_slice);
        let mut lists = vec![root];
        let former = self.former.iter().filter(|former| former.until > now).map(|former| (&former.certificate, &former.issuer));
        for (certificate, issuer) in std::iter::once((&self.intermediate, &self.issuer)).chain(former) {
            let list = list(certificate, issuer, of(certificate), now).map_err(|why| self.part("intermediate certificate", why))?;
            let Some(list) = list else { return Ok(None) };
            lists.push(list);
        }
        Ok(Some(lists))
    }

    /// The root's list in PEM, to be kept where its key is not; none: that key is not here and it has signed none, or it may not.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn root_revocations_pem(&self, now: SystemTime) -> Result<Option<String>, AuthorityError> {
        Ok(self.root_revocations(now)?.map(|list| pem::encode(pem::REVOCATION_LIST, &list)))
    }

    fn root_revocations(&self, now: SystemTime) -> Result<Option<Vec<u8>>, AuthorityError> {
        match &self.root_key {
            Some(key) => root_list(&self.root, key, now).map_err(|why| self.part("root certificate", why)),
            None => Ok(self.root_revocations.clone()),
        }
    }

    /// The root's list in a PEM text that may have one. It has to be the root's.
    pub(crate) fn read_root_list(&self, text: &str) -> Result<Option<Vec<u8>>, AuthorityError> {
        let Some(der) = pem::revocation_list(text).map_err(|why| self.part("revocation list of the root", why))? else { return Ok(None) };
        let verified = || -> Result<(), String> {
            let (_, list) = CertificateRevocationList::from_der(&der).map_err(|error| error.to_string())?;
            let (_, root) = X509Certificate::from_der(&self.root).map_err(|error| error.to_string())?;
            list.verify_signature(root.public_key()).map_err(|_| "it is not signed by the root".to_owned())
        };
        verified().map_err(|why| self.part("revocation list of the root", why))?;
        Ok(Some(der))
    }

    fn part(&self, part: &'static str, why: String) -> AuthorityError {
        AuthorityError::Part { trust_domain: self.trust_domain().clone(), part, why }
    }
}

/// The list of a root: nobody is on it. None where it may not sign one.
pub(crate) fn root_list(root: &CertificateDer<'static>, key: &rcgen::KeyPair, now: SystemTime) -> Result<Option<Vec<u8>>, String> {
    list(root, &Issuer::from_ca_cert_der(root, key).map_err(text)?, &[], now)
}

/// The list of an authority; none where it may not sign one, as its key usage says. It holds as long as the authority does: whoever is
/// cut off from the control plane goes by the last one.
fn list(
    certificate: &CertificateDer<'_>,
    issuer: &Issuer<'_, impl SigningKey>,
    revoked: &[Vec<u8>],
    now: SystemTime,
) -> Result<Option<Vec<u8>>, String> {
    let date = |time: SystemTime| rcgen::date_time_ymd(1970, 1, 1) + since_1970(time);
    let one = |serial: &Vec<u8>| RevokedCertParams {
        serial_number: SerialNumber::from_slice(serial),
        revocation_time: date(now),
        reason_code: None,
        invalidity_date: None,
    };
    let params = CertificateRevocationListParams {
        this_update: date(now.checked_sub(BACKDATE).unwrap_or(now)),
        next_update: date(Fields::read(certificate)?.not_after),
        crl_number: SerialNumber::from(since_1970(now).as_secs()),
        issuing_distribution_point: None,
        revoked_certs: revoked.iter().map(one).collect(),
        key_identifier_method: key_identifier(certificate)?,
    };
    match params.signed_by(issuer) {
        Ok(list) => Ok(Some(list.der().to_vec())),
        Err(rcgen::Error::IssuerNotCrlSigner) => Ok(None),
        Err(error) => Err(text(error)),
    }
}

/// How an authority's own certificate names its key: its list has to name it in the same way.
fn key_identifier(certificate: &CertificateDer<'_>) -> Result<KeyIdMethod, String> {
    let (_, certificate) = X509Certificate::from_der(certificate).map_err(|error| error.to_string())?;
    let named = certificate.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::SubjectKeyIdentifier(identifier) => Some(KeyIdMethod::PreSpecified(identifier.0.to_vec())),
        _ => None,
    });
    Ok(named.unwrap_or(KeyIdMethod::Sha256))
}

fn id(certificate: &CertificateDer<'_>) -> String {
    hex(&sha256(certificate))
}
