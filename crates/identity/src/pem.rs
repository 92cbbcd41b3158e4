//! PEM: DER in, text out, and back; keys stay in a type that never prints itself.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, CertificateSigningRequestDer};
use serde::{Deserialize, Serialize};

/// The most certificates read from one PEM text; more is no chain or bundle that anybody meant.
pub(crate) const MAX_CERTIFICATES: usize = 64;

/// The label of a certificate revocation list.
pub(crate) const REVOCATION_LIST: &str = "X509 CRL";

/// A private key as PEM. Prints as `[redacted]`; serialises in the clear, for a store that is itself protected.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SecretPem(String);

impl SecretPem {
    /// Wraps a key.
    #[must_use]
    pub fn new(pem: String) -> Self {
        Self(pem)
    }

    /// The key itself: to be written to a file of mode 0600 or a protected store, and nowhere else.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SecretPem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// Writes one PEM section with lines of 64 characters (RFC 7468).
pub(crate) fn encode(label: &str, der: &[u8]) -> String {
    let body = STANDARD.encode(der);
    let mut text = String::with_capacity(body.len() + body.len() / 64 + 2 * label.len() + 40);
    text.push_str("-----BEGIN ");
    text.push_str(label);
    text.push_str("-----\n");
    let mut rest = body.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(64));
        text.push_str(line);
        text.push('\n');
        rest = after;
    }
    text.push_str("-----END ");
    text.push_str(label);
    text.push_str("-----\n");
    text
}

/// Writes certificates one after the other.
pub(crate) fn encode_certificates(certificates: &[CertificateDer<'_>]) -> String {
    certificates.iter().map(|certificate| encode("CERTIFICATE", certificate)).collect()
}

/// Reads every certificate of `text`, skipping other sections. The error says what is wrong with the text.
pub(crate) fn certificates(text: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let mut found = Vec::new();
    for item in CertificateDer::pem_slice_iter(text.as_bytes()) {
        found.push(item.map_err(|error| format!("it is no PEM: {error}"))?);
        if found.len() > MAX_CERTIFICATES {
            return Err(format!("it has more than {MAX_CERTIFICATES} certificates"));
        }
    }
    if found.is_empty() {
        return Err("it has no certificate (`-----BEGIN CERTIFICATE-----`)".to_owned());
    }
    Ok(found)
}

/// Reads the first certificate request of `text`.
pub(crate) fn request(text: &str) -> Result<Vec<u8>, String> {
    CertificateSigningRequestDer::from_pem_slice(text.as_bytes())
        .map(|der| der.as_ref().to_vec())
        .map_err(|error| format!("it is no PEM of a certificate request: {error}"))
}

/// Reads the first certificate revocation list of `text`; none: it has none.
pub(crate) fn revocation_list(text: &str) -> Result<Option<Vec<u8>>, String> {
    let first = CertificateRevocationListDer::pem_slice_iter(text.as_bytes()).next();
    first.transpose().map(|list| list.map(|list| list.as_ref().to_vec())).map_err(|error| format!("it is no PEM: {error}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn certificates_read_back_in_order() {
        let chain: Vec<_> = (0..3u8).map(|n| CertificateDer::from(vec![n; 40 + usize::from(n)])).collect();
        let text = encode_certificates(&chain);
        assert!(text.lines().all(|line| line.len() <= 64));
        assert_eq!(certificates(&text).unwrap(), chain);
        assert!(certificates("").unwrap_err().contains("no certificate"));
        assert!(certificates(&text.repeat(30)).unwrap_err().contains("more than 64"));
    }

    #[test]
    fn a_key_does_not_print() {
        assert_eq!(format!("{:?}", SecretPem::new("abc".into())), "[redacted]");
    }
}
