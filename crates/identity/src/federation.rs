//! Bundles of trust domains between meshes: roots and keys in, SPIFFE's document for others out; a document of others in, what verifies
//! their identities out. Beside them the TLS of bundle endpoints.

mod tokens;

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use lorica_model::resource::{Diagnostic, Document, Spec};
use lorica_model::spiffe::{SpiffeId, TrustDomain};
use lorica_model::spiffe_bundle::SpiffeBundle;
use rustls::version::TLS13;
use rustls::{ClientConfig, ServerConfig};
use rustls_pki_types::CertificateDer;
use serde_json::{Map, Value, json};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;
use x509_parser::public_key::PublicKey;

pub use tokens::{ForeignTokenError, claimed_trust_domain, validate_token};

use crate::bundle::{Bundle, BundleError};
use crate::peer::AcceptedIdentities;
use crate::svid::Svid;
use crate::tls::provider;
use crate::verify::{OnlyPeers, Trust};

/// How often others are asked to fetch a bundle unless said otherwise, as SPIFFE recommends (Federation, 4.1).
pub const REFRESH: Duration = Duration::from_secs(5 * 60);

/// Why a root cannot be written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a root cannot be told to other meshes: {0}")]
pub struct Unwritten(String);

/// The keys of a document: each root, then the keys that verify tokens (`jwks`: a JWK Set with SPIFFE's `use`).
///
/// # Errors
/// If a root is of a kind that JWK has no words for, or `jwks` is no JWK Set.
pub fn keys(bundle: &Bundle, jwks: &str) -> Result<Vec<Value>, Unwritten> {
    let mut keys = bundle.roots().iter().map(|root| jwk(root).map(Value::Object)).collect::<Result<Vec<_>, _>>()?;
    let jwks: Value = serde_json::from_str(jwks).map_err(|error| Unwritten(error.to_string()))?;
    keys.extend(jwks["keys"].as_array().cloned().unwrap_or_default());
    Ok(keys)
}

/// The document (SPIFFE Trust Domain and Bundle, 4) of these keys.
#[must_use]
pub fn document(keys: &[Value], sequence: u64, refresh: Duration) -> String {
    json!({ "keys": keys, "spiffe_sequence": sequence, "spiffe_refresh_hint": refresh.as_secs() }).to_string()
}

/// A root as a JWK. Readers hold the key against the certificate, so it has both.
fn jwk(root: &CertificateDer<'_>) -> Result<Map<String, Value>, Unwritten> {
    let (_, certificate) = X509Certificate::from_der(root).map_err(|error| Unwritten(error.to_string()))?;
    let key = certificate.public_key();
    let encoded = |bytes: &[u8]| Value::from(URL_SAFE_NO_PAD.encode(bytes));
    // Numbers of DER have a leading zero where they would else be negative; those of JWK have none.
    let number = |bytes: &[u8]| encoded(bytes.iter().position(|byte| *byte != 0).and_then(|at| bytes.get(at..)).unwrap_or_default());
    let unknown = || Unwritten("its key is neither of RSA, P-256, P-384, P-521 nor Ed25519".to_owned());
    let parameters = match key.parsed().map_err(|error| Unwritten(error.to_string()))? {
        PublicKey::RSA(rsa) => vec![("kty", "RSA".into()), ("n", number(rsa.modulus)), ("e", number(rsa.exponent))],
        PublicKey::EC(point) => {
            let (curve, length) = match point.key_size() {
                256 => ("P-256", 32),
                384 => ("P-384", 48),
                // The coordinates are of whole bytes.
                521 | 528 => ("P-521", 66),
                _ => return Err(unknown()),
            };
            let (Some([4]), Some(x), Some(y)) =
                (point.data().get(..1), point.data().get(1..=length), point.data().get(1 + length..=2 * length))
            else {
                return Err(unknown());
            };
            vec![("kty", "EC".into()), ("crv", curve.into()), ("x", encoded(x)), ("y", encoded(y))]
        }
        // RFC 8410, RFC 8037.
        PublicKey::Unknown(bytes) if key.algorithm.algorithm.to_id_string() == "1.3.101.112" => {
            vec![("kty", "OKP".into()), ("crv", "Ed25519".into()), ("x", encoded(bytes))]
        }
        _ => return Err(unknown()),
    };
    let shown = [("use", "x509-svid".into()), ("x5c", json!([STANDARD.encode(root)]))];
    Ok(parameters.into_iter().chain(shown).map(|(name, value)| (name.to_owned(), value)).collect())
}

/// What verifies the certificates of a trust domain, by its bundle.
///
/// # Errors
/// If one of the roots is none.
pub fn bundle(trust_domain: &TrustDomain, bundle: &SpiffeBundle) -> Result<Bundle, BundleError> {
    Bundle::new(trust_domain.clone(), bundle.roots.iter().map(|root| CertificateDer::from(root.clone())).collect())
}

/// What is wrong with the roots of the TrustBundles among `documents`, and with whom they speak for in the mesh of `own`. `source` gives the
/// text of a file.
#[must_use]
pub fn mistakes(documents: &[Document], own: &TrustDomain, source: impl Fn(&str) -> String) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    for document in documents {
        let at = |span: &std::ops::Range<usize>, message: String| {
            Diagnostic::error(&document.file, &source(&document.file), span.clone(), message)
        };
        match &document.resource.spec {
            Spec::TrustBundle(other) => {
                if other.trust_domain == *own {
                    let message = format!("{own} is the mesh's own trust domain: nobody else speaks for it");
                    found.push(at(&other.trust_domain_span, message).hint("`lorica ca rotate` replaces the mesh's own root"));
                }
                if let Some(Err(error)) = other.written.as_ref().map(|written| bundle(&other.trust_domain, written)) {
                    found.push(at(&other.written_span, error.to_string()));
                }
            }
            Spec::Workload(workload) => {
                if let Some(identity) = workload.identity.as_ref().filter(|identity| identity.id.trust_domain() == own) {
                    let message = format!("`{}` is of this mesh, not of another", identity.id);
                    found.push(at(&identity.span, message).hint("write `account` for a workload of this mesh"));
                }
            }
            _ => {}
        }
    }
    found
}

/// The TLS of a client that fetches a bundle by the profile `https_spiffe`: it takes nobody but `id`, verified by what is known of its trust
/// domain, and shows no certificate.
///
/// # Errors
/// If TLS cannot be set up.
pub fn client_config(known: Bundle, id: &SpiffeId) -> Result<Arc<ClientConfig>, rustls::Error> {
    let trust = Arc::new(Trust { bundle: Arc::new(known), provider: provider().clone() });
    let verifier = Arc::new(OnlyPeers { trust, accepted: AcceptedIdentities::new([id.clone()]) });
    let builder = ClientConfig::builder_with_provider(provider().clone()).with_protocol_versions(&[&TLS13])?;
    let mut config = builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // It is asked once in minutes, and each time by what is known then.
    config.resumption = rustls::client::Resumption::disabled();
    Ok(Arc::new(config))
}

/// The TLS of a bundle endpoint by the profile `https_spiffe`: it shows its SVID, and asks its clients for nothing.
///
/// # Errors
/// If TLS cannot use the SVID.
pub fn server_config(svid: &Svid) -> Result<Arc<ServerConfig>, rustls::Error> {
    let builder = ServerConfig::builder_with_provider(provider().clone()).with_protocol_versions(&[&TLS13])?;
    let mut config = builder.with_no_client_auth().with_single_cert(svid.chain().to_vec(), svid.key().private_key())?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
