//! The roots to trust, as Envoy's SPIFFE validator has them: trust domains, the mesh's own first, each with its certificates in PEM.
//!
//! A plain `trusted_ca` could not say whose roots they are.

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

/// The resource of `bundle`.
#[must_use]
pub fn bundle(bundle: &TrustBundle) -> Resource {
    let domains = std::iter::once((&bundle.trust_domain, &bundle.roots)).chain(&bundle.federated);
    let trust_domains = domains.map(|(name, roots)| {
        let roots = DataSource { specifier: Some(Specifier::InlineString(pem(roots))), ..DataSource::default() };
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

fn pem(certificates: &[Vec<u8>]) -> String {
    let mut text = String::new();
    for certificate in certificates {
        text.push_str("-----BEGIN CERTIFICATE-----\n");
        let encoded = STANDARD.encode(certificate);
        let mut rest = encoded.as_str();
        while !rest.is_empty() {
            let (line, after) = rest.split_at(rest.len().min(64));
            text.push_str(line);
            text.push('\n');
            rest = after;
        }
        text.push_str("-----END CERTIFICATE-----\n");
    }
    text
}
