//! TLS at the control plane's TCP door: the server's side, which lets clients without a certificate in so that they can join; and the side of
//! a host that joins, which knows nothing yet but the SHA-256 of the root's key.
//!
//! What a client without a certificate may do is decided behind the door. A host that has joined uses its [`TlsEpoch`] like everybody else.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use lorica_model::spiffe::{SpiffeId, TrustDomain};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::verify_tls13_signature;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::version::TLS13;
use rustls::{ClientConfig, DigitallySignedStruct, DistinguishedName, Error, PeerIncompatible, ServerConfig, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::authority::{Authority, Grant, SignError};
use crate::bundle::{Bundle, BundleError};
use crate::join_token::RootPin;
use crate::svid::{KeyPair, Svid, SvidError};
use crate::tls::{EpochError, TlsEpoch, provider};
use crate::verify::{AnyPeer, Role, verify};

/// What the door speaks: gRPC.
const ALPN: &[u8] = b"h2";

/// Why the door has no identity.
#[derive(Debug, thiserror::Error)]
pub enum DoorError {
    /// There is no key, or no SVID of it.
    #[error(transparent)]
    Svid(#[from] SvidError),
    /// The CA signs it not.
    #[error(transparent)]
    Sign(#[from] SignError),
    /// There are no roots.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// SVID and roots do not go together.
    #[error(transparent)]
    Epoch(#[from] EpochError),
    /// TLS cannot be configured.
    #[error("TLS cannot be configured: {0}")]
    Tls(#[from] Error),
}

/// Makes an identity for the control plane itself: a key, signed by its own CA. Its chain ends with the root, so that a host that joins can
/// tell it by the root's key. Clients are verified against `trusted`.
///
/// # Errors
/// If there is no key, or the CA does not sign.
pub fn own_epoch(authority: &Authority, trusted: Bundle, lifetime: Duration, now: SystemTime) -> Result<Arc<TlsEpoch>, DoorError> {
    let key = KeyPair::generate()?;
    let id = SpiffeId::of_control_plane(authority.trust_domain());
    let request = key.request(&id)?;
    let mut grant = Grant::new(id);
    grant.lifetime = lifetime;
    let mut chain = authority.sign(&request, &grant, now)?;
    chain.push(authority.root().clone());
    Ok(TlsEpoch::new(Arc::new(Svid::new(&chain, key)?), Arc::new(trusted))?)
}

/// The server's side of the door. A client may have no certificate; one that it shows must be good.
#[must_use]
pub fn server_config(epoch: &TlsEpoch) -> Arc<ServerConfig> {
    let verifier = Arc::new(PeerOrNobody(AnyPeer(epoch.trust().clone())));
    let mut config = epoch.server_builder().with_client_cert_verifier(verifier).with_cert_resolver(epoch.certified().clone());
    config.alpn_protocols = vec![ALPN.to_vec()];
    // A connection stays for hours: nothing is gained by resuming one, and each is to prove itself anew.
    config.send_tls13_tickets = 0;
    Arc::new(config)
}

/// The side of a host that joins: it has no certificate, and takes the control plane of `trust_domain` whose chain leads to a root of `pins`.
///
/// # Errors
/// If TLS cannot be configured.
pub fn joining_config(trust_domain: TrustDomain, pins: Vec<RootPin>) -> Result<Arc<ClientConfig>, DoorError> {
    let builder = ClientConfig::builder_with_provider(provider().clone()).with_protocol_versions(&[&TLS13])?;
    let verifier = Arc::new(PinnedRoot { trust_domain, pins });
    let mut config = builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth();
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(Arc::new(config))
}

#[derive(Debug)]
struct PeerOrNobody(AnyPeer);

impl ClientCertVerifier for PeerOrNobody {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.0.verify_client_cert(leaf, intermediates, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

#[derive(Debug)]
struct PinnedRoot {
    trust_domain: TrustDomain,
    pins: Vec<RootPin>,
}

impl PinnedRoot {
    /// The root that the server showed, where it is one of those that are known.
    fn root<'c>(&self, shown: &'c [CertificateDer<'c>]) -> Option<&'c CertificateDer<'c>> {
        shown.iter().find(|certificate| RootPin::of(certificate).is_ok_and(|pin| self.pins.contains(&pin)))
    }
}

impl ServerCertVerifier for PinnedRoot {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let fail = |why: String| Error::General(why);
        let Some(root) = self.root(intermediates) else {
            return Err(fail(
                "it does not have the root that is known here: it is another control plane, or somebody in between".to_owned(),
            ));
        };
        let bundle = Bundle::new(self.trust_domain.clone(), vec![root.clone().into_owned()]).map_err(|error| fail(error.to_string()))?;
        let peer = verify(&bundle, provider(), leaf, intermediates, now, Role::Server).map_err(|error| fail(error.to_string()))?;
        if peer.id != SpiffeId::of_control_plane(&self.trust_domain) {
            return Err(fail(format!("it is {}, and no control plane", peer.id)));
        }
        Ok(ServerCertVerified::assertion())
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
        verify_tls13_signature(message, certificate, signed, &provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn verified(authority: &Authority, pin: RootPin) -> Result<(), String> {
        let epoch = own_epoch(authority, authority.bundle().clone(), Duration::from_secs(3600), SystemTime::now()).unwrap();
        let verifier = PinnedRoot { trust_domain: TrustDomain::default(), pins: vec![pin] };
        let (leaf, rest) = epoch.svid().chain().split_first().unwrap();
        let name = ServerName::try_from("control.lorica").unwrap();
        verifier.verify_server_cert(leaf, rest, &name, &[], UnixTime::now()).map(drop).map_err(|error| error.to_string())
    }

    #[test]
    fn a_host_knows_the_control_plane_by_the_root_of_its_token() {
        let authority = Authority::create(TrustDomain::default(), SystemTime::now()).unwrap();
        verified(&authority, RootPin::of(authority.root()).unwrap()).unwrap();
        let other = Authority::create(TrustDomain::default(), SystemTime::now()).unwrap();
        let refused = verified(&other, RootPin::of(authority.root()).unwrap()).unwrap_err();
        assert!(refused.contains("another control plane"), "{refused}");
    }

    #[test]
    fn a_workload_is_no_control_plane() {
        let authority = Authority::create(TrustDomain::default(), SystemTime::now()).unwrap();
        let key = KeyPair::generate().unwrap();
        let grant = Grant::new("spiffe://mesh.local/ns/contact/sa/recording".parse().unwrap());
        let mut chain = authority.sign(&key.request(&grant.id).unwrap(), &grant, SystemTime::now()).unwrap();
        chain.push(authority.root().clone());
        let verifier = PinnedRoot { trust_domain: TrustDomain::default(), pins: vec![RootPin::of(authority.root()).unwrap()] };
        let (leaf, rest) = chain.split_first().unwrap();
        let name = ServerName::try_from("control.lorica").unwrap();
        let refused = verifier.verify_server_cert(leaf, rest, &name, &[], UnixTime::now()).unwrap_err().to_string();
        assert!(refused.contains("no control plane"), "{refused}");
    }

    #[test]
    fn a_root_shown_by_somebody_who_has_not_its_key_is_no_proof() {
        let (ours, theirs) = (
            Authority::create(TrustDomain::default(), SystemTime::now()).unwrap(),
            Authority::create(TrustDomain::default(), SystemTime::now()).unwrap(),
        );
        let epoch = own_epoch(&theirs, theirs.bundle().clone(), Duration::from_secs(3600), SystemTime::now()).unwrap();
        let mut chain = epoch.svid().chain().to_vec();
        chain.push(ours.root().clone());
        let verifier = PinnedRoot { trust_domain: TrustDomain::default(), pins: vec![RootPin::of(ours.root()).unwrap()] };
        let (leaf, rest) = chain.split_first().unwrap();
        let name = ServerName::try_from("control.lorica").unwrap();
        verifier.verify_server_cert(leaf, rest, &name, &[], UnixTime::now()).unwrap_err();
    }
}
