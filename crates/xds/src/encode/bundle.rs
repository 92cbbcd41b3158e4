//! The roots to trust, as Envoy's SPIFFE validator has them: trust domains, the mesh's own first, each with its certificates in PEM.
//!
//! A plain `trusted_ca` could not say whose roots they are. Who is revoked travels in the same text, so that nobody has the roots without:
//! revocation lists, which Envoy goes by, and a block of names, which it passes over and Lorica's proxies go by.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use envoy_types::pb::envoy::config::core::v3::{DataSource, TypedExtensionConfig, data_source::Specifier};
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, Secret, SpiffeCertValidatorConfig, secret::Type, spiffe_cert_validator_config::TrustDomain,
};
use lorica_model::snapshot::{TrustBundle, Version};

use super::BUNDLE;
use crate::resource::pack;
use crate::{Kind, Resource};

/// The label of a certificate in PEM.
pub(crate) const CERTIFICATE: &str = "CERTIFICATE";
/// The label of a certificate revocation list in PEM.
pub(crate) const REVOCATION_LIST: &str = "X509 CRL";
/// The label of the names of who is revoked, in JSON: Lorica's own.
pub(crate) const REVOKED: &str = "LORICA REVOKED";

/// The resource of `bundle`.
#[must_use]
pub fn bundle(bundle: &TrustBundle) -> Resource {
    let mut own = pem(CERTIFICATE, &bundle.roots);
    own.push_str(&pem(REVOCATION_LIST, &bundle.revocation_lists));
    if !bundle.revoked.is_empty() {
        // Names only, which JSON always takes.
        own.push_str(&pem(REVOKED, &[serde_json::to_vec(&bundle.revoked).unwrap_or_default()]));
    }
    let federated = bundle.federated.iter().map(|(name, roots)| (name, pem(CERTIFICATE, roots)));
    let trust_domains = std::iter::once((&bundle.trust_domain, own)).chain(federated).map(|(name, text)| {
        let roots = DataSource { specifier: Some(Specifier::InlineString(text)), ..DataSource::default() };
        TrustDomain { name: name.to_string(), trust_bundle: Some(roots), ..TrustDomain::default() }
    });
    let validator = SpiffeCertValidatorConfig { trust_domains: trust_domains.collect(), ..SpiffeCertValidatorConfig::default() };
    let context = CertificateValidationContext {
        custom_validator_config: Some(TypedExtensionConfig {
            name: "envoy.tls.cert_validator.spiffe".to_owned(),
            typed_config: Some(pack(&validator)),
        }),
        ..CertificateValidationContext::default()
    };
    let secret = Secret { name: BUNDLE.to_owned(), r#type: Some(Type::ValidationContext(context)) };
    Resource::new(Kind::Secret, BUNDLE, Version::of(bundle), &secret)
}

/// Blocks of one kind, one after another.
fn pem(label: &str, blocks: &[Vec<u8>]) -> String {
    let mut text = String::new();
    for block in blocks {
        text.push_str(&format!("-----BEGIN {label}-----\n"));
        let encoded = STANDARD.encode(block);
        let mut rest = encoded.as_str();
        while !rest.is_empty() {
            let (line, after) = rest.split_at(rest.len().min(64));
            text.push_str(line);
            text.push('\n');
            rest = after;
        }
        text.push_str(&format!("-----END {label}-----\n"));
    }
    text
}
