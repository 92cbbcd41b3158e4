//! A trust bundle: root certificates in, trust anchors out. It holds no key and trusts nothing by itself.
//! The roots of a trust domain stand behind identities of that trust domain alone, also where bundles are joined.

use std::collections::BTreeMap;

use lorica_model::spiffe::TrustDomain;
use rustls_pki_types::{CertificateDer, TrustAnchor};

use crate::certificate::{Fields, hex, sha256};
use crate::pem;

/// Why certificates make no bundle.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BundleError {
    /// The text cannot be read.
    #[error("the trust bundle of {trust_domain} cannot be read: {why}")]
    Pem {
        /// Whose bundle it was to be.
        trust_domain: TrustDomain,
        /// What is wrong with the text.
        why: String,
    },
    /// A certificate is no root.
    #[error("certificate {number} of the trust bundle of {trust_domain} is no root: {why}")]
    Root {
        /// Whose bundle it was to be.
        trust_domain: TrustDomain,
        /// Its place, from 1.
        number: usize,
        /// What is wrong with it.
        why: String,
    },
    /// There is no certificate, or too many.
    #[error("the trust bundle of {trust_domain} has {count} certificates; it needs 1 to 64")]
    Count {
        /// Whose bundle it was to be.
        trust_domain: TrustDomain,
        /// How many there are.
        count: usize,
    },
}

/// The roots that a trust domain is verified against, and those of the trust domains that it federates with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bundle {
    trust_domain: TrustDomain,
    /// Sorted and without repeats, so that the same roots are the same bundle.
    roots: Vec<CertificateDer<'static>>,
    anchors: Vec<TrustAnchor<'static>>,
    federated: BTreeMap<TrustDomain, Bundle>,
    version: String,
}

impl Bundle {
    /// Makes a bundle of 1 to 64 root certificates, in any order.
    ///
    /// # Errors
    /// If there are none or too many, or one is no CA certificate.
    pub fn new(trust_domain: TrustDomain, roots: Vec<CertificateDer<'static>>) -> Result<Self, BundleError> {
        if roots.is_empty() || roots.len() > pem::MAX_CERTIFICATES {
            return Err(BundleError::Count { trust_domain, count: roots.len() });
        }
        let mut both = Vec::with_capacity(roots.len());
        for (index, root) in roots.into_iter().enumerate() {
            match anchor(&root) {
                Ok(anchor) => both.push((root, anchor)),
                Err(why) => return Err(BundleError::Root { trust_domain, number: index + 1, why }),
            }
        }
        both.sort_unstable_by(|(a, _), (b, _)| a.as_ref().cmp(b.as_ref()));
        both.dedup_by(|(a, _), (b, _)| a == b);
        let (roots, anchors): (Vec<_>, Vec<_>) = both.into_iter().unzip();
        let hashes: Vec<u8> = roots.iter().flat_map(|root| sha256(root)).collect();
        let version = hex(&sha256(&[trust_domain.as_str().as_bytes(), &[0], &hashes].concat())[..16]);
        Ok(Self { trust_domain, roots, anchors, federated: BTreeMap::new(), version })
    }

    /// Takes peers of other trust domains, too: each is verified against the roots of its own. A bundle of this very trust domain
    /// adds nothing, as nobody else speaks for it; of two for one trust domain the last holds.
    #[must_use]
    pub fn federated_with(mut self, others: impl IntoIterator<Item = Bundle>) -> Self {
        self.federated = others
            .into_iter()
            .filter(|other| other.trust_domain != self.trust_domain)
            .map(|other| (other.trust_domain.clone(), other))
            .collect();
        if !self.federated.is_empty() {
            let versions = self.federated.values().map(|other| other.version.as_str()).collect::<Vec<_>>().join(",");
            self.version = hex(&sha256(format!("{},{versions}", self.version).as_bytes())[..16]);
        }
        self
    }

    /// The roots that identities of a trust domain are verified against; none: its peers are refused.
    #[must_use]
    pub fn of(&self, trust_domain: &TrustDomain) -> Option<&Bundle> {
        if *trust_domain == self.trust_domain { Some(self) } else { self.federated.get(trust_domain) }
    }

    /// Reads a bundle from PEM certificates.
    ///
    /// # Errors
    /// If the text holds no certificate or the certificates make no bundle.
    pub fn from_pem(trust_domain: TrustDomain, text: &str) -> Result<Self, BundleError> {
        match pem::certificates(text) {
            Ok(roots) => Self::new(trust_domain, roots),
            Err(why) => Err(BundleError::Pem { trust_domain, why }),
        }
    }

    /// The bundle as PEM certificates.
    #[must_use]
    pub fn to_pem(&self) -> String {
        pem::encode_certificates(&self.roots)
    }

    /// Whose identities it verifies.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The root certificates, sorted by their bytes.
    #[must_use]
    pub fn roots(&self) -> &[CertificateDer<'static>] {
        &self.roots
    }

    /// A hash of trust domains and roots, equal wherever they are: 32 hexadecimal digits.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    pub(crate) fn anchors(&self) -> &[TrustAnchor<'static>] {
        &self.anchors
    }
}

fn anchor(root: &CertificateDer<'_>) -> Result<TrustAnchor<'static>, String> {
    if !Fields::read(root)?.ca {
        return Err("its basic constraints do not say CA".to_owned());
    }
    webpki::anchor_from_trusted_cert(root).map(|anchor| anchor.to_owned()).map_err(|error| error.to_string())
}
