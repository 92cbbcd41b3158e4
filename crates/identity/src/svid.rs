//! A workload's key and certificate: a key is made here, its certificate request goes out, the CA's chain comes
//! in. The private key leaves the process only into a file of mode 0600.

use std::fmt;
use std::time::SystemTime;

use lorica_model::spiffe::SpiffeId;
use rcgen::{CertificateParams, DistinguishedName, PublicKeyData as _, SanType};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::certificate::{Fields, owned, signed_by};
use crate::facts::WorkloadFacts;
use crate::peer::PeerError;
use crate::pem::{self, SecretPem};

/// The most certificates in the chain of an SVID.
const MAX_CHAIN: usize = 8;

/// Why a key or an SVID cannot be made or read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SvidError {
    /// The system gave no key or signature.
    #[error("no key could be made: {0}")]
    Key(String),
    /// A stored key cannot be read.
    #[error("the private key cannot be read: {0}")]
    UnreadableKey(String),
    /// A chain is empty, too long or malformed.
    #[error("the certificate chain cannot be read: {0}")]
    Chain(String),
    /// The leaf is no SVID.
    #[error("the certificate is no SVID: {0}")]
    Leaf(PeerError),
    /// The certificate is for another key.
    #[error("the certificate of {id} is for another key than the one at hand; ask for a new one")]
    OtherKey {
        /// Whose certificate it is.
        id: SpiffeId,
    },
}

/// A private key with its public half. Prints as `[redacted]`.
pub struct KeyPair(rcgen::KeyPair);

impl KeyPair {
    /// Makes a new P-256 key.
    ///
    /// # Errors
    /// If the system has no randomness to give.
    pub fn generate() -> Result<Self, SvidError> {
        rcgen::KeyPair::generate().map(Self).map_err(|error| SvidError::Key(error.to_string()))
    }

    /// Reads a key from PEM (PKCS #8, SEC 1 or PKCS #1).
    ///
    /// # Errors
    /// If the text holds no private key of a kind that TLS can use. The error does not repeat the text.
    pub fn from_pem(text: &SecretPem) -> Result<Self, SvidError> {
        read_key(text).map(Self).map_err(SvidError::UnreadableKey)
    }

    /// The key as PKCS #8 PEM: for a file of mode 0600.
    #[must_use]
    pub fn to_pem(&self) -> SecretPem {
        key_pem(&self.0)
    }

    /// A certificate request (PKCS #10, DER) for `id`, signed with this key. The CA takes only the key from it and
    /// refuses it if it may not give that identity.
    ///
    /// # Errors
    /// If the request cannot be signed.
    pub fn request(&self, id: &SpiffeId) -> Result<Vec<u8>, SvidError> {
        let fail = |error: rcgen::Error| SvidError::Key(error.to_string());
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(id.to_string().try_into().map_err(fail)?)];
        Ok(params.serialize_request(&self.0).map_err(fail)?.der().as_ref().to_vec())
    }

    /// As [`KeyPair::request`], as PEM.
    ///
    /// # Errors
    /// If the request cannot be signed.
    pub fn request_pem(&self, id: &SpiffeId) -> Result<String, SvidError> {
        Ok(pem::encode("CERTIFICATE REQUEST", &self.request(id)?))
    }

    pub(crate) fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.0.serialize_der()).into()
    }

    fn public_key(&self) -> Vec<u8> {
        self.0.subject_public_key_info()
    }
}

impl fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// A key of any kind that certificates are signed with or made for.
pub(crate) fn read_key(text: &SecretPem) -> Result<rcgen::KeyPair, String> {
    let key = PrivateKeyDer::from_pem_slice(text.expose().as_bytes()).map_err(|error| match error {
        // Other errors of the reader may quote the text.
        rustls_pki_types::pem::Error::NoItemsFound => "it has no private key (`-----BEGIN PRIVATE KEY-----`)".to_owned(),
        _ => "it is no PEM of a private key".to_owned(),
    })?;
    rcgen::KeyPair::try_from(&key).map_err(|_| "it is of a kind that is not supported (P-256, P-384, Ed25519, RSA are)".to_owned())
}

pub(crate) fn key_pem(key: &rcgen::KeyPair) -> SecretPem {
    SecretPem::new(pem::encode("PRIVATE KEY", &key.serialize_der()))
}

/// A workload's certificate chain with its key.
#[derive(Debug)]
pub struct Svid {
    id: SpiffeId,
    chain: Vec<CertificateDer<'static>>,
    key: KeyPair,
    not_before: SystemTime,
    not_after: SystemTime,
    facts: Option<WorkloadFacts>,
}

impl Svid {
    /// Joins a chain, leaf first and without the root, with the key that it was asked for.
    ///
    /// # Errors
    /// If the leaf is no SVID or is for another key. Whether the chain leads to a root is not asked here.
    pub fn new(chain: &[CertificateDer<'_>], key: KeyPair) -> Result<Self, SvidError> {
        let Some(leaf) = chain.first().filter(|_| chain.len() <= MAX_CHAIN) else {
            return Err(SvidError::Chain(format!("it has {} certificates; 1 to {MAX_CHAIN} are expected", chain.len())));
        };
        let fields = Fields::read(leaf).map_err(SvidError::Chain)?;
        let id = fields.leaf_id().map_err(SvidError::Leaf)?;
        if fields.public_key != key.public_key() {
            return Err(SvidError::OtherKey { id });
        }
        Ok(Self { id, chain: owned(chain), key, not_before: fields.not_before, not_after: fields.not_after, facts: fields.facts })
    }

    /// Reads key and chain from one PEM text, as [`Svid::to_pem`] writes it.
    ///
    /// # Errors
    /// As [`Svid::new`], and if the text holds no key or chain.
    pub fn from_pem(text: &SecretPem) -> Result<Self, SvidError> {
        let key = KeyPair::from_pem(text)?;
        Self::new(&pem::certificates(text.expose()).map_err(SvidError::Chain)?, key)
    }

    /// Key and chain as one PEM text: for a file of mode 0600.
    #[must_use]
    pub fn to_pem(&self) -> SecretPem {
        SecretPem::new(self.key.to_pem().expose().to_owned() + &self.chain_pem())
    }

    /// The chain as PEM, leaf first.
    #[must_use]
    pub fn chain_pem(&self) -> String {
        pem::encode_certificates(&self.chain)
    }

    /// The SPIFFE ID.
    #[must_use]
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// Whether it comes from this root: whether the last certificate of its chain is signed by it.
    #[must_use]
    pub fn is_from(&self, root: &CertificateDer<'_>) -> bool {
        self.chain.last().is_some_and(|last| signed_by(last, root).is_ok())
    }

    /// The chain as DER, leaf first, without the root.
    #[must_use]
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    /// The key.
    #[must_use]
    pub fn key(&self) -> &KeyPair {
        &self.key
    }

    /// The begin of its life.
    #[must_use]
    pub fn not_before(&self) -> SystemTime {
        self.not_before
    }

    /// The end of its life.
    #[must_use]
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// What the CA says of the workload.
    #[must_use]
    pub fn facts(&self) -> Option<&WorkloadFacts> {
        self.facts.as_ref()
    }
}
