//! Reading certificates: DER in, the few fields that identity needs out. Verifies no signature.

use std::time::{Duration, SystemTime};

use aws_lc_rs::digest;
use lorica_model::spiffe::SpiffeId;
use rustls_pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer as _;
use x509_parser::x509::X509Name;

use crate::facts::{self, WorkloadFacts};
use crate::peer::PeerError;

/// The most characters of a name in a certificate that an error repeats.
const SHOWN: usize = 120;

/// What identity reads from a certificate.
pub(crate) struct Fields {
    /// The URIs of the subject alternative name, in order.
    pub(crate) uris: Vec<String>,
    /// What the CA says of the workload; `None` without the extension, or if it is in no form known here.
    pub(crate) facts: Option<WorkloadFacts>,
    pub(crate) not_before: SystemTime,
    pub(crate) not_after: SystemTime,
    /// Its extended key usage names TLS servers.
    pub(crate) serves: bool,
    /// Its extended key usage names TLS clients.
    pub(crate) calls: bool,
    /// It may sign certificates, by its basic constraints or its key usage.
    pub(crate) signs: bool,
    /// Its basic constraints say CA.
    pub(crate) ca: bool,
    /// The public key, as a DER SubjectPublicKeyInfo.
    pub(crate) public_key: Vec<u8>,
    pub(crate) self_issued: bool,
}

impl Fields {
    /// Reads a certificate. The error says what is wrong with it.
    pub(crate) fn read(der: &[u8]) -> Result<Self, String> {
        let (rest, certificate) = X509Certificate::from_der(der).map_err(|error| format!("it is no X.509 certificate: {error}"))?;
        if !rest.is_empty() {
            return Err("bytes follow the certificate".to_owned());
        }
        let (mut uris, mut facts) = (Vec::new(), None);
        let (mut serves, mut calls, mut ca, mut signs) = (false, false, false, false);
        for extension in certificate.extensions() {
            match extension.parsed_extension() {
                ParsedExtension::SubjectAlternativeName(names) => {
                    for name in &names.general_names {
                        if let GeneralName::URI(uri) = name {
                            uris.push((*uri).to_owned());
                        }
                    }
                }
                ParsedExtension::BasicConstraints(constraints) => ca |= constraints.ca,
                ParsedExtension::ExtendedKeyUsage(usage) => (serves, calls) = (usage.server_auth, usage.client_auth),
                ParsedExtension::KeyUsage(usage) => signs |= usage.key_cert_sign() || usage.crl_sign(),
                ParsedExtension::ParseError { error } => return Err(format!("one of its extensions is malformed: {error}")),
                _ => {
                    if extension.oid.iter().is_some_and(|oid| oid.eq(facts::OID.iter().copied())) {
                        // In a form of the future they are unknown, which costs labels; to refuse would cut traffic.
                        facts = WorkloadFacts::decode(extension.value).ok();
                    }
                }
            }
        }
        Ok(Self {
            uris,
            facts,
            not_before: system_time(certificate.validity().not_before.timestamp()),
            not_after: system_time(certificate.validity().not_after.timestamp()),
            serves,
            calls,
            signs: signs || ca,
            ca,
            public_key: certificate.public_key().raw.to_vec(),
            self_issued: certificate.issuer().as_raw() == certificate.subject().as_raw(),
        })
    }

    /// The SPIFFE ID of a leaf: exactly one URI, no right to sign (X509-SVID sections 2 and 5.2).
    pub(crate) fn leaf_id(&self) -> Result<SpiffeId, PeerError> {
        if self.signs {
            return Err(PeerError::MaySign);
        }
        match &self.uris[..] {
            [uri] => uri.parse().map_err(PeerError::Id),
            uris => Err(PeerError::Uris { count: uris.len() }),
        }
    }
}

/// Whether `issuer` signed `certificate`: by name and by signature. The error says why not.
pub(crate) fn signed_by(certificate: &CertificateDer<'_>, issuer: &CertificateDer<'_>) -> Result<(), String> {
    let (_, certificate) = X509Certificate::from_der(certificate).map_err(|error| error.to_string())?;
    let (_, issuer) = X509Certificate::from_der(issuer).map_err(|error| error.to_string())?;
    if certificate.issuer().as_raw() != issuer.subject().as_raw() {
        return Err("it was issued by another root".to_owned());
    }
    certificate.verify_signature(Some(issuer.public_key())).map_err(|_| "it is not signed by the root".to_owned())
}

/// The name of a certificate's subject, for people.
pub(crate) fn subject(certificate: &CertificateDer<'_>) -> String {
    match X509Certificate::from_der(certificate) {
        Ok((_, certificate)) => printable(&certificate.subject().to_string()),
        Err(_) => "an unreadable name".to_owned(),
    }
}

/// The name in the DER of an X.501 name without its outer tag, for people.
pub(crate) fn name_text(content: &[u8]) -> String {
    let mut der = Vec::with_capacity(content.len() + 4);
    crate::der::put(&mut der, crate::der::SEQUENCE, content);
    match X509Name::from_der(&der) {
        Ok((_, name)) => printable(&name.to_string()),
        Err(_) => "an unreadable name".to_owned(),
    }
}

/// Text from a peer, safe to log: escaped and cut.
pub(crate) fn printable(text: &str) -> String {
    text.chars().take(SHOWN).flat_map(char::escape_debug).collect()
}

/// Seconds since 1970, as certificates count.
pub(crate) fn system_time(seconds: i64) -> SystemTime {
    u64::try_from(seconds).map_or(SystemTime::UNIX_EPOCH, |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
}

/// A time for people: `2026-11-20T19:24:40Z`.
pub(crate) fn time_text(time: SystemTime) -> String {
    let seconds = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
    jiff::Timestamp::from_second(seconds).map_or_else(|_| format!("{seconds} s after 1970"), |timestamp| timestamp.to_string())
}

/// The SHA-256 of bytes.
pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    out
}

/// Bytes as lower case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Copies of certificates that own their bytes.
pub(crate) fn owned(certificates: &[CertificateDer<'_>]) -> Vec<CertificateDer<'static>> {
    certificates.iter().map(|certificate| certificate.clone().into_owned()).collect()
}
