//! Who the other side of a connection is: its verified certificates in, a [`PeerIdentity`] or the exact reason of
//! a refusal out. Whether the certificates are to be trusted was decided in the handshake, before.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use lorica_model::spiffe::{SpiffeError, SpiffeId, TrustDomain};
use rustls_pki_types::CertificateDer;

use crate::certificate::{Fields, sha256, time_text};
use crate::facts::WorkloadFacts;

/// Who a peer proved to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerIdentity {
    /// Its SPIFFE ID: what authorization decides by.
    pub id: SpiffeId,
    /// What its CA says of the workload. `None` if the certificate does not say, or in a form not known here; a TLS epoch believes
    /// the CA of its own trust domain alone.
    pub facts: Option<WorkloadFacts>,
    /// The begin of its certificate's life.
    pub not_before: SystemTime,
    /// The end of its certificate's life.
    pub not_after: SystemTime,
    /// The SHA-256 of its certificate.
    pub certificate_sha256: [u8; 32],
}

/// Why a peer was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// It presented no certificate.
    #[error("the peer presented no certificate")]
    NoCertificate,
    /// A certificate cannot be read.
    #[error("the peer's certificate is malformed: {0}")]
    Malformed(String),
    /// Its certificate, or one that signed it, is over.
    #[error("the peer's certificate expired at {}; it is {} here", time_text(*.not_after), time_text(*.now))]
    Expired {
        /// When its life ended.
        not_after: SystemTime,
        /// The time it was judged by.
        now: SystemTime,
    },
    /// Its certificate, or one that signed it, has not begun: one of the two clocks is wrong.
    #[error("the peer's certificate is valid from {}, but it is {} here: compare the clocks of the two hosts", time_text(*.not_before), time_text(*.now))]
    NotYetValid {
        /// When its life begins.
        not_before: SystemTime,
        /// The time it was judged by.
        now: SystemTime,
    },
    /// No root of the bundle stands behind it.
    #[error("the peer's certificate (which claims {claimed}) was issued by `{issuer}`, which no authority of {trust_domain} stands behind")]
    UnknownAuthority {
        /// The name of its issuer, as the certificate says.
        issuer: String,
        /// The identity that it claims, unproved.
        claimed: String,
        /// The trust domain whose bundle was asked.
        trust_domain: TrustDomain,
    },
    /// It is trusted, but of another trust domain.
    #[error("the peer {id} is of trust domain {}, not of {expected}", .id.trust_domain())]
    TrustDomain {
        /// The trust domain that was expected.
        expected: TrustDomain,
        /// Who the peer proved to be.
        id: SpiffeId,
    },
    /// It is somebody else than was called.
    #[error("the peer is {got}, expected was {expected}")]
    Identity {
        /// Whom the caller accepts.
        expected: AcceptedIdentities,
        /// Who the peer proved to be.
        got: SpiffeId,
    },
    /// It carries no SPIFFE ID, or more than one.
    #[error("the peer's certificate has {count} URIs in its subject alternative name; an SVID has exactly one")]
    Uris {
        /// How many URIs it has.
        count: usize,
    },
    /// Its URI is no SPIFFE ID.
    #[error("the peer's certificate carries no identity: {0}")]
    Id(SpiffeError),
    /// It is a signing certificate, which is no SVID.
    #[error("the peer's certificate may sign others; an SVID of a workload may not")]
    MaySign,
    /// It is not made for this side of TLS.
    #[error("the peer's certificate is not made for TLS {role} authentication (extended key usage)")]
    Purpose {
        /// `server` or `client`.
        role: &'static str,
    },
    /// Anything else that the verification of its chain found.
    #[error("the peer's certificate chain does not verify: {0}")]
    Chain(String),
}

/// The identities that a caller accepts for one service, exact, sorted, without repeats.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct AcceptedIdentities(Arc<[SpiffeId]>);

impl AcceptedIdentities {
    /// Collects identities. None at all accepts nobody.
    #[must_use]
    pub fn new(ids: impl IntoIterator<Item = SpiffeId>) -> Self {
        let mut ids: Vec<_> = ids.into_iter().collect();
        ids.sort_unstable();
        ids.dedup();
        Self(ids.into())
    }

    /// Whether `id` is one of them.
    #[must_use]
    pub fn contains(&self, id: &SpiffeId) -> bool {
        self.0.binary_search(id).is_ok()
    }

    /// The identities, sorted.
    #[must_use]
    pub fn as_slice(&self) -> &[SpiffeId] {
        &self.0
    }
}

impl fmt::Display for AcceptedIdentities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const NAMED: usize = 4;
        if self.0.is_empty() {
            return f.write_str("nobody (no identity of the service is known)");
        }
        for (index, id) in self.0.iter().take(NAMED).enumerate() {
            write!(f, "{}{id}", if index == 0 { "" } else { " or " })?;
        }
        match self.0.len().saturating_sub(NAMED) {
            0 => Ok(()),
            more => write!(f, " or {more} more"),
        }
    }
}

impl fmt::Debug for AcceptedIdentities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter()).finish()
    }
}

/// Reads who a peer is from its chain, leaf first, as rustls gives it after the handshake. Verifies no signature:
/// the handshake did.
///
/// # Errors
/// If there is no leaf, or it is no SVID.
pub fn peer_identity(certificates: &[CertificateDer<'_>]) -> Result<PeerIdentity, PeerError> {
    let leaf = certificates.first().ok_or(PeerError::NoCertificate)?;
    PeerIdentity::of(leaf, Fields::read(leaf).map_err(PeerError::Malformed)?)
}

impl PeerIdentity {
    pub(crate) fn of(leaf: &CertificateDer<'_>, fields: Fields) -> Result<Self, PeerError> {
        Ok(Self {
            id: fields.leaf_id()?,
            facts: fields.facts,
            not_before: fields.not_before,
            not_after: fields.not_after,
            certificate_sha256: sha256(leaf),
        })
    }
}
