//! TLS at a gateway's edge, in memory: which certificate is shown to whom, which clients are let in, which backends are trusted.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::Arc;

use lorica_identity::edge::{self, EdgeError};
use lorica_identity::secrets;
use lorica_model::resource::Severity;
use lorica_model::snapshot::{BackendTls, Certificate, ClientValidation, PrivateKey, ServerTls};
use rcgen::{CertificateParams, IsCa, Issuer, KeyPair, SanType};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, SupportedProtocolVersion};

/// A root and what it signs.
struct Root {
    pem: String,
    der: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

fn root() -> Root {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let made = params.self_signed(&key).unwrap();
    Root { pem: made.pem(), der: made.der().clone(), issuer: Issuer::new(params, key) }
}

impl Root {
    fn issue(&self, names: &[&str]) -> Certificate {
        let key = KeyPair::generate().unwrap();
        let (uris, hosts): (Vec<&str>, Vec<&str>) = names.iter().partition(|name| name.contains("://"));
        let mut params = CertificateParams::new(hosts.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap();
        params.subject_alt_names.extend(uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())));
        let made = params.signed_by(&key, &self.issuer).unwrap();
        Certificate { secret: "a.shop".parse().unwrap(), chain: made.pem(), key: PrivateKey(key.serialize_pem()), in_files: false }
    }
}

fn server(certificates: &[&Certificate], client: Option<ClientValidation>) -> Result<Arc<ServerConfig>, EdgeError> {
    let tls = ServerTls { certificates: certificates.iter().map(|one| (*one).clone()).collect(), client };
    edge::server_config(&tls, &[b"h2", b"http/1.1"])
}

/// A client that knows nothing of ours.
fn stranger(root: &Root, versions: &[&'static SupportedProtocolVersion], shows: Option<&Certificate>) -> Arc<ClientConfig> {
    use rustls::pki_types::pem::PemObject as _;
    let mut roots = RootCertStore::empty();
    roots.add(root.der.clone()).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()));
    let builder = builder.with_protocol_versions(versions).unwrap().with_root_certificates(roots);
    Arc::new(match shows {
        None => builder.with_no_client_auth(),
        Some(shown) => {
            let chain = CertificateDer::pem_slice_iter(shown.chain.as_bytes()).collect::<Result<_, _>>().unwrap();
            builder.with_client_auth_cert(chain, rustls::pki_types::PrivateKeyDer::from_pem_slice(shown.key.0.as_bytes()).unwrap()).unwrap()
        }
    })
}

/// Shakes hands; both ends, or what the first of them that failed said.
fn shake(
    client: Arc<ClientConfig>,
    name: ServerName<'static>,
    server: Arc<ServerConfig>,
) -> Result<(ClientConnection, ServerConnection), rustls::Error> {
    let mut client = ClientConnection::new(client, name)?;
    let mut server = ServerConnection::new(server)?;
    for _ in 0..8 {
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes).unwrap();
        }
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            server.read_tls(&mut rest).unwrap();
            server.process_new_packets()?;
        }
        let mut bytes = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut bytes).unwrap();
        }
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            client.read_tls(&mut rest).unwrap();
            client.process_new_packets()?;
        }
    }
    assert!(!client.is_handshaking() && !server.is_handshaking());
    Ok((client, server))
}

fn name(text: &str) -> ServerName<'static> {
    ServerName::try_from(text.to_owned()).unwrap()
}

#[test]
fn the_certificate_of_the_name_is_shown_in_both_versions() {
    let root = root();
    let (a, b) = (root.issue(&["a.example"]), root.issue(&["*.b.example"]));
    for version in [&TLS12, &TLS13] {
        for (host, shown) in [("a.example", &a), ("x.b.example", &b)] {
            let (client, _) = shake(stranger(&root, &[version], None), name(host), server(&[&a, &b], None).unwrap()).unwrap();
            use rustls::pki_types::pem::PemObject as _;
            assert_eq!(client.peer_certificates().unwrap()[0], CertificateDer::from_pem_slice(shown.chain.as_bytes()).unwrap());
            assert_eq!(client.protocol_version(), Some(version.version));
        }
    }
    // For a name that none has, the first is shown, and the client decides.
    shake(stranger(&root, &[&TLS13], None), name("c.example"), server(&[&a, &b], None).unwrap()).unwrap_err();
}

#[test]
fn clients_show_what_is_asked_of_them() {
    let (root, other) = (root(), self::root());
    let own = root.issue(&["a.example"]);
    let (good, bad) = (root.issue(&["client"]), other.issue(&["client"]));
    let asks = |optional| server(&[&own], Some(ClientValidation { roots: root.pem.clone(), optional })).unwrap();
    let enters = |shows: Option<&Certificate>, optional| {
        shake(stranger(&root, &[&TLS13, &TLS12], shows), name("a.example"), asks(optional))
            .map(|(_, server)| server.peer_certificates().is_some())
    };
    assert_eq!(enters(Some(&good), false), Ok(true));
    assert!(enters(Some(&bad), false).is_err() && enters(None, false).is_err());
    assert_eq!((enters(Some(&good), true), enters(Some(&bad), true), enters(None, true)), (Ok(true), Ok(true), Ok(false)));
}

#[test]
fn a_backend_has_one_of_the_names_and_leads_to_a_root() {
    let root = root();
    let shown = root.issue(&["a.example", "*.b.example", "spiffe://mesh/a"]);
    let reaches = |server_name: &str, names: &[&str], roots: &str| {
        let tls = BackendTls {
            server_name: server_name.to_owned(),
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            roots: Some(roots.to_owned()),
            certificate: None,
        };
        let (config, name) = edge::client_config(&tls, &[b"h2"]).unwrap();
        shake(config, name, server(&[&shown], None).unwrap()).map(|(client, _)| client.alpn_protocol().map(<[u8]>::to_vec))
    };
    assert_eq!(reaches("a.example", &[], &root.pem), Ok(Some(b"h2".to_vec())));
    assert!(reaches("c.example", &[], &root.pem).is_err(), "the name asked for counts where no other is given");
    for names in [&["x.b.example"][..], &["c.example", "spiffe://mesh/a"]] {
        assert!(reaches("c.example", names, &root.pem).is_ok(), "{names:?}");
    }
    assert!(reaches("a.example", &["c.example"], &root.pem).is_err() && reaches("a.example", &["spiffe://mesh/b"], &root.pem).is_err());
    assert!(reaches("a.example", &[], &self::root().pem).is_err(), "another root");
    assert!(reaches("a.example", &[], "").is_err(), "no root trusts nobody");
}

#[test]
fn what_cannot_be_used_says_why_and_shows_no_key() {
    let root = root();
    let (good, other) = (root.issue(&["a.example"]), root.issue(&["b.example"]));
    assert_eq!(edge::check(&good), Ok(()));
    assert_eq!(edge::check(&Certificate { key: other.key, ..good.clone() }), Err(EdgeError::Mismatch));
    let swapped = Certificate { chain: "x".to_owned(), ..good.clone() };
    assert!(edge::check(&swapped).unwrap_err().to_string().contains("there is no certificate in it"));
    let keyless = Certificate { key: PrivateKey("top secret".to_owned()), ..good };
    let told = edge::check(&keyless).unwrap_err().to_string();
    assert!(told.contains("no key in it") && !told.contains("secret"), "{told}");
    assert_eq!(server(&[], None).unwrap_err(), EdgeError::NoCertificate);
}

#[test]
fn files_are_read_and_keys_must_be_private() {
    use std::os::unix::fs::PermissionsExt as _;
    let place = tempfile::tempdir().unwrap();
    let made = root().issue(&["a.example"]);
    let path = |name: &str| place.path().join(name).to_string_lossy().into_owned();
    std::fs::write(path("chain.pem"), &made.chain).unwrap();
    std::fs::write(path("key.pem"), &made.key.0).unwrap();
    let mode = |bits| std::fs::set_permissions(path("key.pem"), std::fs::Permissions::from_mode(bits)).unwrap();
    let filed = Certificate { chain: path("chain.pem"), key: PrivateKey(path("key.pem")), in_files: true, ..made };
    mode(0o644);
    assert!(edge::check(&filed).unwrap_err().to_string().contains("chmod 600"));
    mode(0o600);
    assert_eq!(edge::check(&filed), Ok(()));
    let gone = Certificate { chain: path("gone.pem"), ..filed };
    assert!(edge::check(&gone).unwrap_err().to_string().contains("gone.pem"));
}

#[test]
fn a_secret_whose_key_does_not_fit_is_refused_at_its_name() {
    let root = root();
    let (one, other) = (root.issue(&["a.example"]), root.issue(&["b.example"]));
    let secret = |kind: &str, chain: &str, key: &str| {
        let indented = |text: &str| text.replace('\n', "\n    ");
        format!(
            "apiVersion: v1\nkind: Secret\nmetadata: {{name: shown, namespace: shop}}\ntype: {kind}\nstringData:\n  tls.crt: |\n    {}\n  tls.key: |\n    {}\n",
            indented(chain),
            indented(key)
        )
    };
    let told = |text: &str| {
        let documents = lorica_model::resource::read("secret.yaml", text).unwrap();
        let found = secrets::mistakes(&documents, |_| text.to_owned());
        found.into_iter().map(|found| (found.severity, text[found.span.clone()].to_owned(), found.render(text, false))).collect::<Vec<_>>()
    };
    assert_eq!(told(&secret("kubernetes.io/tls", &one.chain, &one.key.0)), []);
    let swapped = told(&secret("kubernetes.io/tls", &one.chain, &other.key.0));
    assert_eq!((swapped[0].0, swapped[0].1.as_str()), (Severity::Error, "shown"));
    assert!(swapped[0].2.contains("the private key does not fit the certificate") && !swapped[0].2.contains("PRIVATE KEY"), "{swapped:?}");
    let empty = told(&secret("kubernetes.io/tls", "no certificate", "no key"));
    assert_eq!((empty.len(), empty[0].0), (1, Severity::Warning));
    assert_eq!(told(&secret("Opaque", "whatever", "else")), []);
}
