//! TLS epochs: one SVID and one bundle in, rustls configurations out. TLS 1.3 only, both sides authenticated,
//! hybrid post-quantum key exchange preferred. Never a socket, never a policy: which identities may do what is
//! decided after the handshake, by whom the handshake proved.
//!
//! A renewed SVID or a changed bundle makes a new epoch: new connections use it, old ones drain.
//!
//! # Resumption
//! Sessions belong to an epoch. A server keeps them in memory (at most 1024, so nothing is left when the epoch is
//! gone), a client keeps them in each of its configurations, and uses none with another verifier or another SVID.
//! rustls does not look at certificates again when it resumes, so a session could outlive the certificate that it
//! began with: after each handshake, both sides ask [`TlsEpoch::peer`], which refuses a peer whose certificate is
//! over by then.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::SystemTime;

use lorica_model::snapshot::Revoked;
use lorica_model::spiffe::{SpiffeId, TrustDomain};
use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::ServerSessionMemoryCache;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::time_provider::{DefaultTimeProvider, TimeProvider};
use rustls::version::TLS13;
use rustls::{ClientConfig, ConfigBuilder, ServerConfig, WantsVerifier};
use rustls_pki_types::CertificateDer;

use crate::bundle::Bundle;
use crate::certificate::Fields;
use crate::peer::{AcceptedIdentities, PeerError, PeerIdentity, peer_identity};
use crate::svid::Svid;
use crate::verify::{AnyPeer, OnlyPeers, Trust};

/// The most sessions that the servers of one epoch keep for resumption, some 2 KiB each.
pub const SERVER_SESSIONS: usize = 1024;

/// The most server names that one client configuration keeps sessions for; it is made for one service port, which
/// has one name.
pub const CLIENT_SESSIONS: usize = 8;

/// Why SVID and bundle make no epoch.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EpochError {
    /// They belong to different trust domains.
    #[error("the SVID of {id} cannot be used with the trust bundle of {trust_domain}")]
    TrustDomain {
        /// The SVID's identity.
        id: SpiffeId,
        /// The bundle's trust domain.
        trust_domain: TrustDomain,
    },
    /// TLS cannot use the SVID.
    #[error("TLS cannot use the SVID of {id}: {why}")]
    Svid {
        /// The SVID's identity.
        id: SpiffeId,
        /// What TLS says.
        why: String,
    },
}

static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
    use aws_lc_rs::kx_group::{SECP256R1, SECP384R1, X25519, X25519MLKEM768};
    Arc::new(CryptoProvider { kx_groups: vec![X25519MLKEM768, X25519, SECP256R1, SECP384R1], ..aws_lc_rs::default_provider() })
});

/// The cryptography of every TLS connection: aws-lc-rs, the hybrid key exchange first.
pub(crate) fn provider() -> &'static Arc<CryptoProvider> {
    &PROVIDER
}

/// One SVID with the bundle that peers are verified against. A clone is the same epoch, with the same sessions.
#[derive(Clone)]
pub struct TlsEpoch {
    number: u64,
    svid: Arc<Svid>,
    trust: Arc<Trust>,
    certified: Arc<SingleCertAndKey>,
    sessions: Arc<ServerSessionMemoryCache>,
    revoked: Arc<Revoked>,
    server: ConfigBuilder<ServerConfig, WantsVerifier>,
    client: ConfigBuilder<ClientConfig, WantsVerifier>,
}

impl fmt::Debug for TlsEpoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsEpoch")
            .field("number", &self.number)
            .field("id", self.svid.id())
            .field("trust", &self.trust)
            .finish_non_exhaustive()
    }
}

impl TlsEpoch {
    /// Joins SVID and bundle, with the system's clock. An SVID that is over makes an epoch too: a peer will say so.
    ///
    /// # Errors
    /// If they are of different trust domains, or TLS cannot use the key.
    pub fn new(svid: Arc<Svid>, bundle: Arc<Bundle>) -> Result<Arc<Self>, EpochError> {
        Self::with_clock(svid, bundle, Arc::new(DefaultTimeProvider))
    }

    /// As [`TlsEpoch::new`], with a clock of the caller's.
    ///
    /// # Errors
    /// As [`TlsEpoch::new`].
    pub fn with_clock(svid: Arc<Svid>, bundle: Arc<Bundle>, time: Arc<dyn TimeProvider>) -> Result<Arc<Self>, EpochError> {
        static NUMBER: AtomicU64 = AtomicU64::new(1);
        if svid.id().trust_domain() != bundle.trust_domain() {
            return Err(EpochError::TrustDomain { id: svid.id().clone(), trust_domain: bundle.trust_domain().clone() });
        }
        let provider = provider().clone();
        let fail = |error: rustls::Error| EpochError::Svid { id: svid.id().clone(), why: error.to_string() };
        let certified = CertifiedKey::from_der(svid.chain().to_vec(), svid.key().private_key(), &provider).map_err(fail)?;
        let server = ServerConfig::builder_with_details(provider.clone(), time.clone()).with_protocol_versions(&[&TLS13]).map_err(fail)?;
        let client = ClientConfig::builder_with_details(provider.clone(), time).with_protocol_versions(&[&TLS13]).map_err(fail)?;
        Ok(Arc::new(Self {
            number: NUMBER.fetch_add(1, Ordering::Relaxed),
            svid,
            trust: Arc::new(Trust { bundle, provider }),
            certified: Arc::new(SingleCertAndKey::from(certified)),
            sessions: ServerSessionMemoryCache::new(SERVER_SESSIONS),
            revoked: Arc::default(),
            server,
            client,
        }))
    }

    /// The same epoch with another list of who is revoked: connections and sessions of everybody else go on. Whoever uses it holds each
    /// peer against the list after the handshake, as a resumed session looks at no certificate.
    #[must_use]
    pub fn revoking(&self, revoked: Arc<Revoked>) -> Arc<Self> {
        Arc::new(Self { revoked, ..self.clone() })
    }

    /// Whose certificates are refused although they hold.
    #[must_use]
    pub fn revoked(&self) -> &Arc<Revoked> {
        &self.revoked
    }

    /// Its number: unique in this process, a later epoch has a higher one. Part of a connection pool's key.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The SVID that it presents.
    #[must_use]
    pub fn svid(&self) -> &Arc<Svid> {
        &self.svid
    }

    /// The bundle that it verifies peers against.
    #[must_use]
    pub fn bundle(&self) -> &Arc<Bundle> {
        &self.trust.bundle
    }

    /// When the first intermediate of the SVID's chain ends; none: the root signed the SVID itself.
    #[must_use]
    pub fn intermediate_end(&self) -> Option<SystemTime> {
        self.svid.chain().iter().skip(1).filter_map(|certificate| Some(Fields::read(certificate).ok()?.not_after)).min()
    }

    /// When the root ends that the SVID comes from; none: it is of a root that is not in the bundle.
    #[must_use]
    pub fn root_end(&self) -> Option<SystemTime> {
        let root = self.bundle().roots().iter().find(|root| self.svid.is_from(root))?;
        Fields::read(root).ok().map(|fields| fields.not_after)
    }

    /// A server that demands a certificate of every client and takes any identity of the bundle's trust domains. `alpn` in
    /// the server's order of preference; empty for none. All servers of an epoch share its sessions.
    #[must_use]
    pub fn server_config(&self, alpn: &[&[u8]]) -> Arc<ServerConfig> {
        let verifier = Arc::new(AnyPeer(self.trust.clone()));
        let mut config = self.server.clone().with_client_cert_verifier(verifier).with_cert_resolver(self.certified.clone());
        config.alpn_protocols = protocols(alpn);
        config.session_storage = self.sessions.clone();
        // Each session holds the client's chain; one is enough for a peer that comes back.
        config.send_tls13_tickets = 1;
        Arc::new(config)
    }

    /// A client that presents the SVID and takes only `accepted` identities. The name it sends in SNI is not
    /// compared with the server's certificate. Costs a few allocations; the caller caches it, for the sessions.
    #[must_use]
    pub fn client_config(&self, alpn: &[&[u8]], accepted: &AcceptedIdentities) -> Arc<ClientConfig> {
        let verifier = Arc::new(OnlyPeers { trust: self.trust.clone(), accepted: accepted.clone() });
        let mut config =
            self.client.clone().dangerous().with_custom_certificate_verifier(verifier).with_client_cert_resolver(self.certified.clone());
        config.alpn_protocols = protocols(alpn);
        config.resumption = Resumption::in_memory_sessions(CLIENT_SESSIONS);
        Arc::new(config)
    }

    pub(crate) fn trust(&self) -> &Arc<Trust> {
        &self.trust
    }

    pub(crate) fn certified(&self) -> &Arc<SingleCertAndKey> {
        &self.certified
    }

    pub(crate) fn server_builder(&self) -> ConfigBuilder<ServerConfig, WantsVerifier> {
        self.server.clone()
    }

    /// Who is on the other side of an established connection, from `peer_certificates()`. Both sides ask this after
    /// every handshake: a resumed one has not looked at the certificates again.
    ///
    /// # Errors
    /// If there is no certificate, it is over at `now`, or it is of a trust domain that the bundle has no roots of.
    pub fn peer(&self, certificates: Option<&[CertificateDer<'_>]>, now: SystemTime) -> Result<PeerIdentity, PeerError> {
        let peer = peer_identity(certificates.unwrap_or_default())?;
        if self.trust.bundle.of(peer.id.trust_domain()).is_none() {
            return Err(PeerError::TrustDomain { expected: self.trust.bundle.trust_domain().clone(), id: peer.id });
        }
        if now >= peer.not_after {
            return Err(PeerError::Expired { not_after: peer.not_after, now });
        }
        // What another CA says of its workloads, it says of its own mesh: names and addresses there mean others here.
        let facts = peer.facts.filter(|_| peer.id.trust_domain() == self.trust.bundle.trust_domain());
        Ok(PeerIdentity { facts, ..peer })
    }
}

fn protocols(alpn: &[&[u8]]) -> Vec<Vec<u8>> {
    alpn.iter().map(|protocol| protocol.to_vec()).collect()
}
