//! Verification of a peer's chain in a handshake: certificates, bundle and time in; the peer's identity or the
//! exact reason of a refusal out. The rustls verifiers of both sides end here.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use lorica_model::spiffe::TrustDomain;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, PeerIncompatible, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use webpki::{EndEntityCert, KeyUsage};

use crate::bundle::Bundle;
use crate::certificate::{Fields, name_text, printable};
use crate::peer::{AcceptedIdentities, PeerError, PeerIdentity};

/// What a certificate has to be made for.
#[derive(Clone, Copy)]
pub(crate) enum Role {
    Server,
    Client,
}

impl Role {
    /// Along the chain a usage is honoured where it is present, as signing certificates often have none.
    fn usage(self) -> KeyUsage {
        match self {
            Self::Server => KeyUsage::server_auth(),
            Self::Client => KeyUsage::client_auth(),
        }
    }

    /// A leaf has to name it.
    fn is_named(self, leaf: &Fields) -> bool {
        match self {
            Self::Server => leaf.serves,
            Self::Client => leaf.calls,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Client => "client",
        }
    }
}

/// Verifies the chain of `leaf` at `now` and reads who it is: against the roots of the trust domain that it claims, and no others.
/// A claim of a trust domain without roots here is judged by the bundle's own, which no such peer passes.
pub(crate) fn verify(
    bundle: &Bundle,
    provider: &CryptoProvider,
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    now: UnixTime,
    role: Role,
) -> Result<PeerIdentity, PeerError> {
    let certificate = EndEntityCert::try_from(leaf).map_err(|error| PeerError::Malformed(error.to_string()))?;
    let fields = Fields::read(leaf).map_err(PeerError::Malformed)?;
    let claimed = fields.leaf_id().ok().and_then(|id| bundle.of(id.trust_domain()));
    let bundle = claimed.unwrap_or(bundle);
    certificate
        .verify_for_usage(provider.signature_verification_algorithms.all, bundle.anchors(), intermediates, now, role.usage(), None, None)
        .map_err(|error| chain_error(error, &certificate, bundle.trust_domain(), role))?;
    if !role.is_named(&fields) {
        return Err(PeerError::Purpose { role: role.word() });
    }
    let peer = PeerIdentity::of(leaf, fields)?;
    if peer.id.trust_domain() != bundle.trust_domain() {
        return Err(PeerError::TrustDomain { expected: bundle.trust_domain().clone(), id: peer.id });
    }
    Ok(peer)
}

fn chain_error(error: webpki::Error, certificate: &EndEntityCert<'_>, trust_domain: &TrustDomain, role: Role) -> PeerError {
    match error {
        webpki::Error::CertExpired { time, not_after } => PeerError::Expired { not_after: system(not_after), now: system(time) },
        webpki::Error::CertNotValidYet { time, not_before } => PeerError::NotYetValid { not_before: system(not_before), now: system(time) },
        // A CA of the same name with another key fails by its signature; it is as unknown as any other.
        webpki::Error::UnknownIssuer | webpki::Error::InvalidSignatureForPublicKey => PeerError::UnknownAuthority {
            issuer: name_text(certificate.issuer()),
            claimed: certificate.valid_uri_names().next().map_or_else(|| "no identity".to_owned(), printable),
            trust_domain: trust_domain.clone(),
        },
        webpki::Error::RequiredEkuNotFoundContext(_) => PeerError::Purpose { role: role.word() },
        webpki::Error::CaUsedAsEndEntity => PeerError::MaySign,
        error => PeerError::Chain(error.to_string()),
    }
}

fn system(time: UnixTime) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(time.as_secs())
}

/// The refusal as rustls carries it: with the alert that tells the peer as much as alerts can, and the reason
/// inside where the alert does not depend on it.
fn refusal(error: PeerError, now: UnixTime) -> Error {
    let unix = |time: SystemTime| UnixTime::since_unix_epoch(time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default());
    Error::InvalidCertificate(match error {
        PeerError::Expired { not_after, .. } => CertificateError::ExpiredContext { time: now, not_after: unix(not_after) },
        PeerError::NotYetValid { not_before, .. } => CertificateError::NotValidYetContext { time: now, not_before: unix(not_before) },
        error => CertificateError::Other(OtherError(Arc::new(error))),
    })
}

/// What both verifiers know.
pub(crate) struct Trust {
    pub(crate) bundle: Arc<Bundle>,
    pub(crate) provider: Arc<CryptoProvider>,
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Trust({}, {})", self.bundle.trust_domain(), self.bundle.version())
    }
}

impl Trust {
    fn tls13(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// The server's side: any identity of the trust domains may connect; authorization comes after the handshake.
#[derive(Debug)]
pub(crate) struct AnyPeer(pub(crate) Arc<Trust>);

impl ClientCertVerifier for AnyPeer {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // A workload has one SVID, so there is nothing to choose by hints.
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let trust = &self.0;
        verify(&trust.bundle, &trust.provider, leaf, intermediates, now, Role::Client)
            .map(|_| ClientCertVerified::assertion())
            .map_err(|error| refusal(error, now))
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.tls13(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.schemes()
    }
}

/// The client's side: only identities of the called service. The name in SNI says which port is meant, not who
/// answers, so it is not compared with the certificate.
#[derive(Debug)]
pub(crate) struct OnlyPeers {
    pub(crate) trust: Arc<Trust>,
    pub(crate) accepted: AcceptedIdentities,
}

impl ServerCertVerifier for OnlyPeers {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let peer = verify(&self.trust.bundle, &self.trust.provider, leaf, intermediates, now, Role::Server)
            .map_err(|error| refusal(error, now))?;
        if self.accepted.contains(&peer.id) {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(refusal(PeerError::Identity { expected: self.accepted.clone(), got: peer.id }, now))
        }
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.trust.tls13(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.trust.schemes()
    }
}
