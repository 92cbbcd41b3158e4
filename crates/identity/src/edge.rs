//! TLS at a gateway's edge, where the other side is no part of the mesh: certificates and roots that a user gave go in, rustls configurations
//! come out. TLS 1.2 and 1.3, as callers from outside may be old; inside the mesh it is 1.3 alone.

use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;

use lorica_model::snapshot::{BackendTls, Certificate, HostPattern, ServerTls};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, ParsedCertificate, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, ServerConfig, SignatureScheme,
    SupportedProtocolVersion,
};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

use crate::tls::provider;

const VERSIONS: &[&SupportedProtocolVersion] = &[&TLS13, &TLS12];
/// The most bytes of a file with a chain or a key.
const MAX_FILE: u64 = 512 * 1024;

/// Why certificates, keys or roots cannot be used. Says what to do; never a byte of a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EdgeError {
    /// There is none to show.
    #[error("there is no certificate to show; name one in the listener's `certificateRefs`")]
    NoCertificate,
    /// A chain cannot be read.
    #[error("the certificate cannot be read: {why}; it must be PEM, the leaf first")]
    Chain {
        /// What is wrong with it.
        why: String,
    },
    /// A key cannot be read or used.
    #[error("the private key cannot be used: {why}; it must be PEM (PKCS#8, PKCS#1 or SEC1), without a passphrase")]
    Key {
        /// What is wrong with it.
        why: String,
    },
    /// They do not belong together.
    #[error("the private key does not fit the certificate; take both from one issue")]
    Mismatch,
    /// Roots cannot be read.
    #[error("the roots cannot be read: {why}; they must be PEM certificates")]
    Roots {
        /// What is wrong with them.
        why: String,
    },
    /// The system has no roots.
    #[error("this system has no roots to trust; install its package of CA certificates, or name roots in `caCertificateRefs`")]
    NoSystemRoots,
    /// A name is none.
    #[error("`{name}` is no server name")]
    Name {
        /// The name.
        name: String,
    },
    /// A file cannot be used.
    #[error("{path}: {why}")]
    File {
        /// Its path.
        path: String,
        /// Why not.
        why: String,
    },
    /// TLS refuses the whole.
    #[error("TLS cannot be set up: {why}")]
    Tls {
        /// What rustls says.
        why: String,
    },
}

fn tls_error(error: &Error) -> EdgeError {
    EdgeError::Tls { why: error.to_string() }
}

/// How TLS ends at a gateway.
///
/// # Errors
/// Where certificates, keys or roots cannot be used.
pub fn server_config(tls: &ServerTls, alpn: &[&[u8]]) -> Result<Arc<ServerConfig>, EdgeError> {
    let certificates: Vec<_> = tls.certificates.iter().map(certified).collect::<Result<_, _>>()?;
    if certificates.is_empty() {
        return Err(EdgeError::NoCertificate);
    }
    let builder =
        ServerConfig::builder_with_provider(provider().clone()).with_protocol_versions(VERSIONS).map_err(|error| tls_error(&error))?;
    let builder = match &tls.client {
        None => builder.with_no_client_auth(),
        Some(client) => {
            let roots = Arc::new(roots(&client.roots)?);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider().clone()).build();
            let verifier = verifier.map_err(|error| EdgeError::Roots { why: error.to_string() })?;
            builder.with_client_cert_verifier(if client.optional { Arc::new(AnyClient(verifier)) } else { verifier })
        }
    };
    let mut config = builder.with_cert_resolver(Arc::new(ByName(certificates)));
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    Ok(Arc::new(config))
}

/// A server with a certificate of the user's, from PEM files of this host; nobody but their owner may read the key. It asks its clients for
/// nothing.
///
/// # Errors
/// Where certificate or key cannot be used.
pub fn server_config_of_files(chain: &Path, key: &Path, alpn: &[&[u8]]) -> Result<Arc<ServerConfig>, EdgeError> {
    let builder =
        ServerConfig::builder_with_provider(provider().clone()).with_protocol_versions(VERSIONS).map_err(|error| tls_error(&error))?;
    let (chain, key) = parsed(&file(&chain.to_string_lossy(), 0)?, &file(&key.to_string_lossy(), 0o077)?)?;
    let certified = certified_key(chain, key)?;
    let mut config = builder.with_no_client_auth().with_cert_resolver(Arc::new(ByName(vec![certified])));
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    Ok(Arc::new(config))
}

/// The protocol that a client of HTTP/3 asks for in its handshake.
pub const HTTP3: &[u8] = b"h3";

/// How TLS ends inside QUIC on a port: by server name, as the chains say, the most specific of which holds. A name whose chain gives nothing
/// is refused. TLS 1.3 alone, without early data, as whoever records that can send it again.
///
/// # Errors
/// Where certificates or keys cannot be used.
pub fn quic_server_config<'c>(
    chains: impl IntoIterator<Item = (&'c HostPattern, Option<&'c [Certificate]>)>,
) -> Result<Arc<ServerConfig>, EdgeError> {
    let mut by_chain = Vec::new();
    for (pattern, certificates) in chains {
        let certified = |certificates: &[Certificate]| certificates.iter().map(certified).collect::<Result<Vec<_>, _>>();
        let known = certificates.map(certified).transpose()?;
        if known.as_ref().is_some_and(Vec::is_empty) {
            return Err(EdgeError::NoCertificate);
        }
        by_chain.push((pattern.clone(), known.map(ByName)));
    }
    let builder = ServerConfig::builder_with_provider(provider().clone()).with_protocol_versions(&[&TLS13]);
    let mut config = builder.map_err(|error| tls_error(&error))?.with_no_client_auth().with_cert_resolver(Arc::new(ByChain(by_chain)));
    config.alpn_protocols = vec![HTTP3.to_vec()];
    Ok(Arc::new(config))
}

/// How a backend that is no part of the mesh is called, and the name that is asked for.
///
/// # Errors
/// Where names, certificates or roots cannot be used.
pub fn client_config(tls: &BackendTls, alpn: &[&[u8]]) -> Result<(Arc<ClientConfig>, ServerName<'static>), EdgeError> {
    let name = |text: &String| ServerName::try_from(text.clone()).map_err(|_| EdgeError::Name { name: text.clone() });
    let server_name = name(&tls.server_name)?;
    let (uris, hosts): (Vec<String>, Vec<String>) = tls.names.iter().cloned().partition(|name| name.contains("://"));
    let hosts = if tls.names.is_empty() { vec![server_name.clone()] } else { hosts.iter().map(name).collect::<Result<_, _>>()? };
    let roots = match &tls.roots {
        Some(pem) => roots(pem)?,
        None => system_roots()?,
    };
    let verifier = Arc::new(OneOf { roots, hosts, uris });
    let builder =
        ClientConfig::builder_with_provider(provider().clone()).with_protocol_versions(VERSIONS).map_err(|error| tls_error(&error))?;
    let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
    let mut config = match &tls.certificate {
        None => builder.with_no_client_auth(),
        Some(certificate) => {
            let (chain, key) = read(certificate)?;
            builder.with_client_auth_cert(chain, key).map_err(|error| tls_error(&error))?
        }
    };
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    Ok((Arc::new(config), server_name))
}

/// Whether a chain can be read and fits its key.
///
/// # Errors
/// Why not.
pub fn check(certificate: &Certificate) -> Result<(), EdgeError> {
    certified(certificate).map(drop)
}

fn certified(certificate: &Certificate) -> Result<Arc<CertifiedKey>, EdgeError> {
    let (chain, key) = read(certificate)?;
    certified_key(chain, key)
}

fn certified_key(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Result<Arc<CertifiedKey>, EdgeError> {
    CertifiedKey::from_der(chain, key, provider()).map(Arc::new).map_err(|error| match error {
        Error::InconsistentKeys(_) => EdgeError::Mismatch,
        Error::InvalidCertificate(error) => EdgeError::Chain { why: error.to_string() },
        error => EdgeError::Key { why: error.to_string() },
    })
}

fn read(certificate: &Certificate) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), EdgeError> {
    let (chain, key) = if certificate.in_files {
        (file(&certificate.chain, 0)?, file(&certificate.key.0, 0o077)?)
    } else {
        (certificate.chain.clone(), certificate.key.0.clone())
    };
    parsed(&chain, &key)
}

fn parsed(chain: &str, key: &str) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), EdgeError> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(chain.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|error| EdgeError::Chain { why: error.to_string() })?;
    if chain.is_empty() {
        return Err(EdgeError::Chain { why: "there is no certificate in it".to_owned() });
    }
    // The error of a reader of keys may hold what it read; only its kind is told.
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|_| EdgeError::Key { why: "there is no key in it".to_owned() })?;
    Ok((chain, key))
}

/// Reads a file that is not `forbidden` to others.
fn file(path: &str, forbidden: u32) -> Result<String, EdgeError> {
    let fail = |why: String| EdgeError::File { path: path.to_owned(), why };
    let io = |error: std::io::Error| fail(error.to_string());
    let file = std::fs::File::open(Path::new(path)).map_err(io)?;
    let metadata = file.metadata().map_err(io)?;
    if !metadata.is_file() {
        return Err(fail("it is no regular file".to_owned()));
    }
    if metadata.mode() & forbidden != 0 {
        return Err(fail(format!("others could read it (mode {:03o}); run `chmod 600 {path}`", metadata.mode() & 0o777)));
    }
    let mut text = String::new();
    file.take(MAX_FILE).read_to_string(&mut text).map_err(io)?;
    Ok(text)
}

/// The roots in a text. An empty one trusts nobody.
fn roots(pem: &str) -> Result<RootCertStore, EdgeError> {
    let mut store = RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let root = root.map_err(|error| EdgeError::Roots { why: error.to_string() })?;
        store.add(root).map_err(|error| EdgeError::Roots { why: error.to_string() })?;
    }
    Ok(store)
}

fn system_roots() -> Result<RootCertStore, EdgeError> {
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if store.is_empty() { Err(EdgeError::NoSystemRoots) } else { Ok(store) }
}

/// Shows the certificate that has the name asked for and a key that the client's algorithms can use; else the first.
#[derive(Debug)]
struct ByName(Vec<Arc<CertifiedKey>>);

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let usable = |key: &&Arc<CertifiedKey>| key.key.choose_scheme(hello.signature_schemes()).is_some();
        let named = |key: &&Arc<CertifiedKey>| hello.server_name().is_some_and(|name| has_name(key, name));
        let found = self.0.iter().filter(named).find(usable).or_else(|| self.0.iter().find(usable));
        found.or_else(|| self.0.first()).cloned()
    }
}

/// Shows the certificate of the chain that takes the name asked for.
#[derive(Debug)]
struct ByChain(Vec<(HostPattern, Option<ByName>)>);

impl ResolvesServerCert for ByChain {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name().unwrap_or_default().to_ascii_lowercase();
        let taking = self.0.iter().filter(|(pattern, _)| pattern.takes(&name));
        let (_, certificates) = taking.max_by_key(|(pattern, _)| pattern.specificity())?;
        certificates.as_ref()?.resolve(hello)
    }
}

fn has_name(key: &CertifiedKey, name: &str) -> bool {
    let (Some(leaf), Ok(name)) = (key.cert.first(), ServerName::try_from(name)) else { return false };
    ParsedCertificate::try_from(leaf).is_ok_and(|leaf| verify_server_name(&leaf, &name).is_ok())
}

/// Lets everybody in, with a certificate that leads to a root, with another, or without one (`AllowInsecureFallback`). Whoever shows one
/// still proves that the key is theirs.
#[derive(Debug)]
struct AnyClient(Arc<dyn ClientCertVerifier>);

impl ClientCertVerifier for AnyClient {
    fn client_auth_mandatory(&self) -> bool {
        false
    }
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // A client that is told no roots shows what it has.
        &[]
    }
    fn verify_client_cert(&self, _: &CertificateDer<'_>, _: &[CertificateDer<'_>], _: UnixTime) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, leaf, signed)
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, leaf, signed)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

/// Trusts who leads to a root and has one of the names.
#[derive(Debug)]
struct OneOf {
    roots: RootCertStore,
    hosts: Vec<ServerName<'static>>,
    uris: Vec<String>,
}

impl ServerCertVerifier for OneOf {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let parsed = ParsedCertificate::try_from(leaf)?;
        let algorithms = provider().signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&parsed, &self.roots, intermediates, now, algorithms)?;
        let by_host = self.hosts.iter().any(|name| verify_server_name(&parsed, name).is_ok());
        let by_uri = || {
            let leaf = webpki::EndEntityCert::try_from(leaf);
            leaf.is_ok_and(|leaf| leaf.valid_uri_names().any(|uri| self.uris.iter().any(|wanted| wanted == uri)))
        };
        if by_host || by_uri() {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(Error::InvalidCertificate(CertificateError::NotValidForName))
        }
    }
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, leaf, signed, &provider().signature_verification_algorithms)
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, leaf, signed, &provider().signature_verification_algorithms)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}
