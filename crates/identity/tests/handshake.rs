//! TLS between two epochs, in memory: who gets through, who is refused and with which words, what resumption does.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::{Cursor, Read as _, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use lorica_identity::{
    AcceptedIdentities, Authority, AuthorityRecord, Bundle, CertificateDer, Grant, HandshakeFailure, KeyPair, PeerError, PeerIdentity,
    Svid, TlsEpoch, WorkloadFacts,
};
use lorica_model::spiffe::{SpiffeId, TrustDomain};
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyUsagePurpose, SanType};
use rustls::pki_types::{PrivateKeyDer, ServerName, UnixTime, pem::PemObject as _};
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, ClientConnection, HandshakeKind, NamedGroup, ProtocolVersion, ServerConfig, ServerConnection};

const START: u64 = 1_800_000_000;
const HOUR: u64 = 3600;

/// A clock that a test sets, in seconds after its begin.
#[derive(Debug, Default)]
struct Clock(AtomicU64);

impl Clock {
    fn set(&self, seconds: u64) {
        self.0.store(seconds, Ordering::Relaxed);
    }
    fn now(&self) -> SystemTime {
        at(self.0.load(Ordering::Relaxed))
    }
}

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs(START + self.0.load(Ordering::Relaxed))))
    }
}

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(START + seconds)
}

fn id(account: &str) -> SpiffeId {
    format!("spiffe://mesh.local/ns/contact/sa/{account}").parse().unwrap()
}

fn accept(accounts: &[&str]) -> AcceptedIdentities {
    AcceptedIdentities::new(accounts.iter().map(|account| id(account)))
}

fn facts() -> WorkloadFacts {
    WorkloadFacts {
        workload: "call-routing-1.contact".parse().unwrap(),
        service: None,
        version: Some("v1".into()),
        virtual_v4: Some([240, 0, 0, 7].into()),
        virtual_v6: None,
    }
}

/// A mesh of one CA and one clock.
struct Mesh {
    authority: Authority,
    clock: Arc<Clock>,
}

impl Mesh {
    fn new() -> Self {
        Self { authority: Authority::create(TrustDomain::default(), at(0)).unwrap(), clock: Arc::default() }
    }

    fn svid(&self, grant: &Grant) -> Arc<Svid> {
        let key = KeyPair::generate().unwrap();
        let chain = self.authority.sign(&key.request(&grant.id).unwrap(), grant, self.clock.now()).unwrap();
        Arc::new(Svid::new(&chain, key).unwrap())
    }

    fn epoch(&self, grant: &Grant) -> Arc<TlsEpoch> {
        self.epoch_of(self.svid(grant))
    }

    fn epoch_of(&self, svid: Arc<Svid>) -> Arc<TlsEpoch> {
        TlsEpoch::with_clock(svid, Arc::new(self.authority.bundle().clone()), self.clock.clone()).unwrap()
    }

    fn workload(&self, account: &str) -> Arc<TlsEpoch> {
        self.epoch(&Grant::new(id(account)))
    }

    /// A chain that this CA would never sign: with whatever URIs and rights.
    fn forged(&self, uris: &[&str], change: impl FnOnce(&mut CertificateParams)) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let record = self.authority.to_record();
        let read = |pem: &str| rcgen::KeyPair::try_from(&PrivateKeyDer::from_pem_slice(pem.as_bytes()).unwrap()).unwrap();
        let intermediate = CertificateDer::from_pem_slice(record.intermediate_certificate_pem.as_bytes()).unwrap();
        let issuer = Issuer::from_ca_cert_der(&intermediate, read(record.intermediate_key_pem.expose())).unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names = uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())).collect();
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        change(&mut params);
        let key = rcgen::KeyPair::generate().unwrap();
        let leaf = params.signed_by(&key, &issuer).unwrap().der().clone();
        (vec![leaf, intermediate], key.into())
    }
}

/// What both sides say after a handshake.
struct Outcome {
    client: Result<ClientConnection, HandshakeFailure>,
    server: Result<ServerConnection, HandshakeFailure>,
}

impl Outcome {
    fn both(self) -> (ClientConnection, ServerConnection) {
        (self.client.unwrap(), self.server.unwrap())
    }
}

/// Passes bytes between the two until neither has any, or one fails and the other was told.
fn handshake(client: Arc<ClientConfig>, server: Arc<ServerConfig>) -> Outcome {
    let name = ServerName::try_from("80.recording.contact.mesh").unwrap();
    let mut client = ClientConnection::new(client, name).unwrap();
    let mut server = ServerConnection::new(server).unwrap();
    let (mut client_error, mut server_error) = (None, None);
    loop {
        let mut moved = false;
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes).unwrap();
        }
        moved |= !bytes.is_empty();
        let mut cursor = Cursor::new(&bytes[..]);
        while server_error.is_none() && cursor.position() < bytes.len() as u64 {
            server.read_tls(&mut cursor).unwrap();
            server_error = server.process_new_packets().err();
        }
        let mut bytes = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut bytes).unwrap();
        }
        moved |= !bytes.is_empty();
        let mut cursor = Cursor::new(&bytes[..]);
        while client_error.is_none() && cursor.position() < bytes.len() as u64 {
            client.read_tls(&mut cursor).unwrap();
            client_error = client.process_new_packets().err();
        }
        if !moved {
            break;
        }
    }
    let failed = |error: Option<rustls::Error>| error.map(|error| HandshakeFailure::of(&error));
    Outcome { client: failed(client_error).map_or(Ok(client), Err), server: failed(server_error).map_or(Ok(server), Err) }
}

fn refused(failure: Result<impl Sized, HandshakeFailure>) -> PeerError {
    match failure {
        Err(HandshakeFailure::Refused(error)) => error,
        Err(other) => panic!("failed otherwise: {other}"),
        Ok(_) => panic!("was let through"),
    }
}

fn peer(epoch: &TlsEpoch, connection: &rustls::CommonState, clock: &Clock) -> PeerIdentity {
    epoch.peer(connection.peer_certificates(), clock.now()).unwrap()
}

#[test]
fn two_workloads_know_each_other() {
    let mesh = Mesh::new();
    let caller = mesh.epoch(&Grant::new(id("call-routing")).with_facts(facts()));
    let callee = mesh.workload("recording");
    let (mut client, mut server) =
        handshake(caller.client_config(&[b"h2"], &accept(&["analytics", "recording"])), callee.server_config(&[b"h2", b"http/1.1"])).both();

    assert_eq!(client.protocol_version(), Some(ProtocolVersion::TLSv1_3));
    assert_eq!(client.negotiated_key_exchange_group().unwrap().name(), NamedGroup::X25519MLKEM768);
    assert_eq!(server.alpn_protocol(), Some(&b"h2"[..]));
    assert_eq!(server.server_name(), Some("80.recording.contact.mesh"));
    let seen = peer(&callee, &server, &mesh.clock);
    assert_eq!((&seen.id, seen.facts.as_ref(), seen.not_after), (&id("call-routing"), Some(&facts()), at(24 * HOUR)));
    let seen = peer(&caller, &client, &mesh.clock);
    assert_eq!((&seen.id, seen.facts), (&id("recording"), None));
    assert_ne!(seen.certificate_sha256, [0; 32]);

    client.writer().write_all(b"ping").unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    server.read_tls(&mut &bytes[..]).unwrap();
    server.process_new_packets().unwrap();
    let mut got = [0; 4];
    server.reader().read_exact(&mut got).unwrap();
    assert_eq!(&got, b"ping");
}

#[test]
fn epochs_are_numbered_upwards() {
    let mesh = Mesh::new();
    let (one, two) = (mesh.workload("recording"), mesh.workload("recording"));
    assert!(one.number() < two.number());
}

#[test]
fn another_ca_is_refused_by_both_sides() {
    let (mesh, stranger) = (Mesh::new(), Mesh::new());
    let ours = mesh.workload("recording");
    let theirs = stranger.workload("call-routing");
    let outcome = handshake(theirs.client_config(&[], &accept(&["recording"])), ours.server_config(&[]));
    let error = refused(outcome.client);
    assert!(
        matches!(&error, PeerError::UnknownAuthority { issuer, claimed, .. } if issuer.contains("Lorica intermediate") && claimed == &id("recording").to_string()),
        "{error}"
    );

    // A client that takes anybody's word does not get in either.
    let trusting = TlsEpoch::with_clock(
        theirs.svid().clone(),
        Arc::new(Bundle::new(TrustDomain::default(), vec![mesh.authority.root().clone()]).unwrap()),
        mesh.clock.clone(),
    )
    .unwrap();
    let outcome = handshake(trusting.client_config(&[], &accept(&["recording"])), ours.server_config(&[]));
    let error = refused(outcome.server);
    assert!(error.to_string().contains("which no authority of mesh.local stands behind"), "{error}");
    let told = outcome.client.unwrap_err();
    assert_eq!(told.word(), "refused_by_peer");
    assert!(told.to_string().contains("does not accept this workload's certificate"), "{told}");
}

#[test]
fn somebody_else_than_called_is_refused() {
    let mesh = Mesh::new();
    let outcome = handshake(
        mesh.workload("call-routing").client_config(&[], &accept(&["recording", "archive"])),
        mesh.workload("analytics").server_config(&[]),
    );
    let failure = outcome.client.unwrap_err();
    assert!(failure.is_wrong_identity() && failure.word() == "wrong_identity");
    assert_eq!(
        failure.to_string(),
        "the peer is spiffe://mesh.local/ns/contact/sa/analytics, expected was spiffe://mesh.local/ns/contact/sa/archive or spiffe://mesh.local/ns/contact/sa/recording"
    );
    let outcome = handshake(mesh.workload("call-routing").client_config(&[], &accept(&[])), mesh.workload("analytics").server_config(&[]));
    assert!(outcome.client.unwrap_err().to_string().contains("expected was nobody"));
}

#[test]
fn many_accepted_identities_are_named_in_part() {
    let many = AcceptedIdentities::new((0..9).map(|n| id(&format!("a{n}"))));
    assert!(many.to_string().ends_with("sa/a3 or 5 more"), "{many}");
}

/// What a server of the mesh says to a client with a forged certificate.
fn server_says(mesh: &Mesh, uris: &[&str], change: impl FnOnce(&mut CertificateParams)) -> PeerError {
    let (chain, key) = mesh.forged(uris, change);
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(mesh.authority.root().clone()).unwrap();
    let blind = rustls::client::WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build().unwrap();
    let config = ClientConfig::builder_with_details(provider, mesh.clock.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyName(blind)))
        .with_client_auth_cert(chain, key)
        .unwrap();
    refused(handshake(Arc::new(config), mesh.workload("recording").server_config(&[])).server)
}

/// Takes any server certificate: the tests of the server's side need a client that does not mind.
#[derive(Debug)]
struct AnyName(Arc<rustls::client::WebPkiServerVerifier>);

impl rustls::client::danger::ServerCertVerifier for AnyName {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, certificate, signed)
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, certificate, signed)
    }
    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

#[test]
fn certificates_that_are_no_svids_are_refused() {
    let mesh = Mesh::new();
    let mine = "spiffe://mesh.local/ns/contact/sa/call-routing";
    assert_eq!(server_says(&mesh, &[mine, "spiffe://mesh.local/ns/contact/sa/recording"], |_| {}), PeerError::Uris { count: 2 });
    assert_eq!(server_says(&mesh, &[], |_| {}), PeerError::Uris { count: 0 });
    let error = server_says(&mesh, &["https://mesh.local/ns/contact"], |_| {});
    assert!(error.to_string().contains("`https://mesh.local/ns/contact` is no SPIFFE ID"), "{error}");
    let error = server_says(&mesh, &["spiffe://other.example/ns/contact/sa/call-routing"], |_| {});
    assert_eq!(
        error.to_string(),
        "the peer spiffe://other.example/ns/contact/sa/call-routing is of trust domain other.example, not of mesh.local"
    );
    assert_eq!(
        server_says(&mesh, &[mine], |params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]),
        PeerError::Purpose { role: "client" }
    );
    assert_eq!(server_says(&mesh, &[mine], |params| params.extended_key_usages.clear()), PeerError::Purpose { role: "client" });
    assert_eq!(server_says(&mesh, &[mine], |params| params.key_usages.push(KeyUsagePurpose::KeyCertSign)), PeerError::MaySign);
    assert_eq!(server_says(&mesh, &[mine], |params| params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained)), PeerError::MaySign);
}

#[test]
fn a_client_without_a_certificate_is_refused() {
    let mesh = Mesh::new();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(mesh.authority.root().clone()).unwrap();
    let blind = rustls::client::WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build().unwrap();
    let config = ClientConfig::builder_with_details(provider, mesh.clock.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyName(blind)))
        .with_no_client_auth();
    let outcome = handshake(Arc::new(config), mesh.workload("recording").server_config(&[]));
    assert_eq!(refused(outcome.server), PeerError::NoCertificate);
    assert!(outcome.client.unwrap_err().to_string().contains("it demands a certificate"));
}

#[test]
fn what_is_over_or_not_yet_begun_is_refused_with_its_time() {
    let mesh = Mesh::new();
    let old = mesh.workload("recording");
    mesh.clock.set(25 * HOUR);
    let new = mesh.workload("call-routing");
    let outcome = handshake(new.client_config(&[], &accept(&["recording"])), old.server_config(&[]));
    assert_eq!(
        outcome.client.unwrap_err().to_string(),
        "the peer's certificate expired at 2027-01-16T08:00:00Z; it is 2027-01-16T09:00:00Z here"
    );
    let told = outcome.server.unwrap_err();
    assert!(told.to_string().contains("expired or not yet valid"), "{told}");

    let outcome = handshake(old.client_config(&[], &accept(&["call-routing"])), new.server_config(&[]));
    assert!(matches!(refused(outcome.server), PeerError::Expired { not_after, now } if not_after == at(24 * HOUR) && now == at(25 * HOUR)));

    mesh.clock.set(HOUR);
    let outcome = handshake(old.client_config(&[], &accept(&["call-routing"])), new.server_config(&[]));
    assert!(matches!(refused(outcome.client), PeerError::NotYetValid { .. }));
}

#[test]
fn svid_and_bundle_are_of_one_trust_domain() {
    let mesh = Mesh::new();
    let bundle = Bundle::new(TrustDomain::new("other.example").unwrap(), vec![mesh.authority.root().clone()]).unwrap();
    let error = TlsEpoch::new(mesh.svid(&Grant::new(id("recording"))), Arc::new(bundle)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the SVID of spiffe://mesh.local/ns/contact/sa/recording cannot be used with the trust bundle of other.example"
    );
}

#[test]
fn a_peer_is_verified_by_the_roots_of_its_own_trust_domain() {
    let ours = Mesh::new();
    let other = TrustDomain::new("other.example").unwrap();
    let theirs = Authority::create(other.clone(), at(0)).unwrap();
    let foreign: SpiffeId = "spiffe://other.example/ns/contact/sa/recording".parse().unwrap();
    let svid_of = |authority: &Authority, id: &SpiffeId| {
        let key = KeyPair::generate().unwrap();
        let chain = authority.sign(&key.request(id).unwrap(), &Grant::new(id.clone()), ours.clock.now()).unwrap();
        Arc::new(Svid::new(&chain, key).unwrap())
    };
    let epoch = |svid, bundle| TlsEpoch::with_clock(svid, Arc::new(bundle), ours.clock.clone()).unwrap();
    let both = || ours.authority.bundle().clone().federated_with([theirs.bundle().clone()]);
    let mine = epoch(ours.svid(&Grant::new(id("call-routing"))), both());
    let peer = epoch(svid_of(&theirs, &foreign), theirs.bundle().clone().federated_with([ours.authority.bundle().clone()]));
    let accepted = AcceptedIdentities::new([foreign.clone()]);
    let (client, server) = handshake(mine.client_config(&[], &accepted), peer.server_config(&[])).both();
    assert_eq!(mine.peer(client.peer_certificates(), at(1)).unwrap().id, foreign);
    assert_eq!(peer.peer(server.peer_certificates(), at(1)).unwrap().id, id("call-routing"));

    // The other mesh's CA says that its workload is one of ours.
    let forger = Authority::from_record(&AuthorityRecord { trust_domain: TrustDomain::default(), ..theirs.to_record() }).unwrap();
    let forged = epoch(svid_of(&forger, &id("recording")), forger.bundle().clone().federated_with([]));
    let outcome = handshake(mine.client_config(&[], &accept(&["recording"])), forged.server_config(&[]));
    let error = refused(outcome.client);
    assert!(matches!(&error, PeerError::UnknownAuthority { trust_domain, .. } if *trust_domain == TrustDomain::default()), "{error}");

    // Ours says so of theirs.
    let forger = Authority::from_record(&AuthorityRecord { trust_domain: other.clone(), ..ours.authority.to_record() }).unwrap();
    let forged = epoch(svid_of(&forger, &foreign), forger.bundle().clone());
    let error = refused(handshake(mine.client_config(&[], &accepted), forged.server_config(&[])).client);
    assert!(matches!(&error, PeerError::UnknownAuthority { trust_domain, .. } if *trust_domain == other), "{error}");

    // Without a bundle of theirs nobody of the other mesh gets in.
    let alone = epoch(ours.svid(&Grant::new(id("call-routing"))), ours.authority.bundle().clone());
    let error = refused(handshake(alone.client_config(&[], &accepted), peer.server_config(&[])).client);
    assert!(matches!(&error, PeerError::UnknownAuthority { .. }), "{error}");
    let error = alone.peer(client.peer_certificates(), at(1)).unwrap_err();
    assert!(matches!(&error, PeerError::TrustDomain { .. }), "{error}");
    assert_ne!(both().version(), ours.authority.bundle().version());
}

/// The first message of a client that has TLS 1.2 at most.
fn hello_of_tls12() -> Vec<u8> {
    let extensions: &[&[u8]] = &[
        &[0, 10, 0, 4, 0, 2, 0, 23],      // supported_groups: secp256r1
        &[0, 11, 0, 2, 1, 0],             // ec_point_formats: uncompressed
        &[0, 13, 0, 6, 0, 4, 4, 3, 8, 4], // signature_algorithms: ecdsa_secp256r1_sha256, rsa_pss_rsae_sha256
        &[0, 23, 0, 0],                   // extended_master_secret
        &[0xff, 1, 0, 1, 0],              // renegotiation_info
    ];
    let extensions = extensions.concat();
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend([0, 0, 4, 0xc0, 0x2b, 0xc0, 0x2f, 1, 0]);
    body.extend(u16::try_from(extensions.len()).unwrap().to_be_bytes());
    body.extend(extensions);
    let mut message = vec![1, 0];
    message.extend(u16::try_from(body.len()).unwrap().to_be_bytes());
    message.extend(body);
    let mut record = vec![22, 3, 1];
    record.extend(u16::try_from(message.len()).unwrap().to_be_bytes());
    record.extend(message);
    record
}

#[test]
fn older_tls_and_plaintext_are_named() {
    let mesh = Mesh::new();
    let says = |bytes: &[u8]| {
        let mut server = ServerConnection::new(mesh.workload("recording").server_config(&[])).unwrap();
        server.read_tls(&mut &bytes[..]).unwrap();
        let failure = HandshakeFailure::of(&server.process_new_packets().unwrap_err());
        let mut alert = Vec::new();
        server.write_tls(&mut alert).unwrap();
        (failure, alert)
    };
    let (failure, alert) = says(&hello_of_tls12());
    assert_eq!(failure, HandshakeFailure::OldVersion);
    // protocol_version
    assert_eq!(alert.last(), Some(&70));
    let (failure, _) = says(b"GET / HTTP/1.1\r\nhost: recording.contact\r\n\r\n");
    assert_eq!(failure, HandshakeFailure::NotTls);
}

#[test]
fn no_common_protocol_is_named_by_both_sides() {
    let mesh = Mesh::new();
    let outcome = handshake(
        mesh.workload("call-routing").client_config(&[b"h2"], &accept(&["recording"])),
        mesh.workload("recording").server_config(&[b"http/1.1"]),
    );
    assert_eq!(outcome.server.unwrap_err(), HandshakeFailure::Protocol);
    assert_eq!(outcome.client.unwrap_err(), HandshakeFailure::Protocol);
}

#[test]
fn a_session_is_resumed_within_an_epoch_only() {
    let mesh = Mesh::new();
    let (caller, callee) = (mesh.workload("call-routing"), mesh.workload("recording"));
    let client = caller.client_config(&[b"h2"], &accept(&["recording"]));
    let kind = |client: &Arc<ClientConfig>, server: Arc<ServerConfig>| {
        let (client, server) = handshake(client.clone(), server).both();
        assert_eq!(client.handshake_kind(), server.handshake_kind());
        assert_eq!(peer(&callee, &server, &mesh.clock).id, id("call-routing"));
        client.handshake_kind().unwrap()
    };
    assert_eq!(kind(&client, callee.server_config(&[b"h2"])), HandshakeKind::Full);
    // Another configuration of the same epoch knows the session.
    assert_eq!(kind(&client, callee.server_config(&[b"h2", b"http/1.1"])), HandshakeKind::Resumed);
    // A new epoch of the server, even with the same SVID, does not.
    let renewed = mesh.epoch_of(callee.svid().clone());
    assert_eq!(kind(&client, renewed.server_config(&[b"h2"])), HandshakeKind::Full);
    assert_eq!(kind(&client, renewed.server_config(&[b"h2"])), HandshakeKind::Resumed);
    // Nor is a session of the client carried into its next epoch, or to other accepted identities.
    let next = mesh.epoch_of(caller.svid().clone());
    assert_eq!(kind(&next.client_config(&[b"h2"], &accept(&["recording"])), renewed.server_config(&[b"h2"])), HandshakeKind::Full);
    assert_eq!(
        kind(&caller.client_config(&[b"h2"], &accept(&["recording", "archive"])), renewed.server_config(&[b"h2"])),
        HandshakeKind::Full
    );
}

#[test]
fn a_resumed_session_does_not_outlive_the_certificate_it_began_with() {
    let mesh = Mesh::new();
    let short = |account| mesh.epoch(&Grant { lifetime: Duration::from_secs(HOUR), ..Grant::new(id(account)) });
    let (caller, callee) = (short("call-routing"), short("recording"));
    let (client, server) = (caller.client_config(&[], &accept(&["recording"])), callee.server_config(&[]));
    handshake(client.clone(), server.clone()).both();
    mesh.clock.set(HOUR + 1);
    let (client, server) = handshake(client, server).both();
    assert_eq!(server.handshake_kind(), Some(HandshakeKind::Resumed));
    for (epoch, certificates) in [(&callee, server.peer_certificates()), (&caller, client.peer_certificates())] {
        let error = epoch.peer(certificates, mesh.clock.now()).unwrap_err();
        assert!(matches!(error, PeerError::Expired { not_after, .. } if not_after == at(HOUR)), "{error}");
    }
    assert_eq!(callee.peer(None, mesh.clock.now()), Err(PeerError::NoCertificate));
}
