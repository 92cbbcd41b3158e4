//! A certificate request: hostile bytes in, a proved public key and the identities asked for out. Nothing else of
//! the request is kept, so nothing else of it can reach a certificate.

use rcgen::{PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256, PublicKeyData as _, SubjectPublicKeyInfo};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::cri_attributes::ParsedCriAttribute;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer as _;
use x509_parser::public_key::PublicKey;

use crate::certificate::printable;
use crate::pem;

/// The most bytes of a request that are read.
pub const MAX_REQUEST: usize = 16 * 1024;

/// The fewest bits of an RSA key (NIST SP 800-57: 112 bits of security).
pub const MIN_RSA_BITS: usize = 2048;

/// The most bits of an RSA key: what the TLS library verifies with.
pub const MAX_RSA_BITS: usize = 8192;

/// Why a certificate request is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// It cannot be read.
    #[error("the certificate request cannot be read: {0}")]
    Malformed(String),
    /// Whoever sent it did not prove to have the private key.
    #[error("the certificate request is not signed by the key that it is for")]
    Signature,
    /// Its key is of no accepted kind.
    #[error("the key of the certificate request is not accepted ({0}); P-256, P-384, Ed25519 and RSA from 2048 bits are")]
    Key(String),
}

/// A request whose sender proved to have the private key.
#[derive(Debug)]
pub struct CertificateRequest {
    key: SubjectPublicKeyInfo,
    uris: Vec<String>,
}

impl CertificateRequest {
    /// Reads a PKCS #10 request in DER and verifies its signature.
    ///
    /// # Errors
    /// If it is longer than 16 KiB, malformed, not signed by its own key, or its key is too weak or unknown.
    pub fn read(der: &[u8]) -> Result<Self, RequestError> {
        let malformed = |why: &str| RequestError::Malformed(why.to_owned());
        if der.len() > MAX_REQUEST {
            return Err(malformed("it is longer than 16 KiB"));
        }
        let (rest, request) =
            X509CertificationRequest::from_der(der).map_err(|error| RequestError::Malformed(printable(&error.to_string())))?;
        if !rest.is_empty() {
            return Err(malformed("bytes follow it"));
        }
        let key = key(&request)?;
        request.verify_signature().map_err(|_| RequestError::Signature)?;
        let mut uris = Vec::new();
        for attribute in request.certification_request_info.iter_attributes() {
            let ParsedCriAttribute::ExtensionRequest(requested) = attribute.parsed_attribute() else {
                continue;
            };
            for extension in &requested.extensions {
                match extension.parsed_extension() {
                    ParsedExtension::SubjectAlternativeName(names) => {
                        uris.extend(names.general_names.iter().filter_map(|name| match name {
                            GeneralName::URI(uri) => Some((*uri).to_owned()),
                            _ => None,
                        }));
                    }
                    // It might have been the identity that is asked for.
                    ParsedExtension::ParseError { .. } => return Err(malformed("an extension it asks for is malformed")),
                    _ => {}
                }
            }
        }
        Ok(Self { key, uris })
    }

    /// As [`CertificateRequest::read`], from PEM; gives the DER.
    ///
    /// # Errors
    /// If the text holds no certificate request. The request itself is not looked at.
    pub fn der_of_pem(text: &str) -> Result<Vec<u8>, RequestError> {
        pem::request(text).map_err(RequestError::Malformed)
    }

    /// The identities that it asks for. Whoever signs decides, and compares them only to find mistakes early.
    #[must_use]
    pub fn uris(&self) -> &[String] {
        &self.uris
    }

    pub(crate) fn key(&self) -> &SubjectPublicKeyInfo {
        &self.key
    }
}

fn key(request: &X509CertificationRequest<'_>) -> Result<SubjectPublicKeyInfo, RequestError> {
    let refuse = |why: &str| Err(RequestError::Key(why.to_owned()));
    let info = &request.certification_request_info.subject_pki;
    let Ok(key) = SubjectPublicKeyInfo::from_der(info.raw) else {
        return refuse("an unknown kind of key");
    };
    let algorithm = key.algorithm();
    let bytes = key.der_bytes();
    // Points are taken uncompressed, as TLS 1.3 peers expect them.
    let point = |length: usize| bytes.len() == length && bytes.first() == Some(&4);
    if algorithm == &PKCS_ECDSA_P256_SHA256 {
        return if point(65) { Ok(key) } else { refuse("no uncompressed P-256 point") };
    }
    if algorithm == &PKCS_ECDSA_P384_SHA384 {
        return if point(97) { Ok(key) } else { refuse("no uncompressed P-384 point") };
    }
    if algorithm == &PKCS_ED25519 {
        return if bytes.len() == 32 { Ok(key) } else { refuse("no Ed25519 key") };
    }
    if algorithm == &PKCS_RSA_SHA256 {
        let Ok(PublicKey::RSA(rsa)) = info.parsed() else {
            return refuse("a malformed RSA key");
        };
        return match rsa.key_size() {
            MIN_RSA_BITS..=MAX_RSA_BITS => Ok(key),
            bits => Err(RequestError::Key(format!("RSA with {bits} bits"))),
        };
    }
    refuse("an unknown kind of key")
}
