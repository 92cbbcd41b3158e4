//! The roots to trust.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use envoy_types::pb::envoy::config::core::v3::{DataSource, TypedExtensionConfig, data_source::Specifier};
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, Secret, SpiffeCertValidatorConfig, secret::Type, spiffe_cert_validator_config::TrustDomain as EnvoyDomain,
};
use envoy_types::pb::google::protobuf::Any;
use lorica_model::snapshot::TrustBundle;
use lorica_model::spiffe::TrustDomain;

use super::{At, Fault, Rejected, apart, open, present, unpack};
use crate::Kind;

/// Reads a trust bundle. The certificates themselves are not looked into.
///
/// # Errors
/// Names the first field that is not understood.
pub fn bundle(name: &str, body: &Any) -> Result<TrustBundle, Rejected> {
    open(Kind::Secret, name, body, |at, secret: Secret| {
        let Secret { name: written, r#type: secret } = secret;
        at.equal("name", &written.as_str(), &name)?;
        match secret {
            Some(Type::ValidationContext(context)) => read(&at.field("validation_context"), context),
            // Keys never travel.
            Some(Type::TlsCertificate(_) | Type::SessionTicketKeys(_) | Type::GenericSecret(_)) | None => {
                Err(at.field("type").fault("is no validation_context".to_owned()))
            }
        }
    })
}

fn read(at: &At<'_>, context: CertificateValidationContext) -> Result<TrustBundle, Fault> {
    apart!(at, context => CertificateValidationContext { custom_validator_config } unset {
        trusted_ca, ca_certificate_provider_instance, system_root_certs, watched_directory, verify_certificate_spki,
        verify_certificate_hash, match_typed_subject_alt_names, match_subject_alt_names, require_signed_certificate_timestamp, crl,
        allow_expired_certificate, trust_chain_verification, only_verify_leaf_cert_crl, max_verify_depth, suppress_client_ca_list,
    });
    let at = at.field("custom_validator_config");
    let TypedExtensionConfig { name: _, typed_config } = present(&at, custom_validator_config)?;
    let at = at.field("typed_config");
    let config = unpack::<SpiffeCertValidatorConfig>(&at, &present(&at, typed_config)?)?;
    apart!(at, config => SpiffeCertValidatorConfig { trust_domains } unset { trust_bundles });
    let mut domains = Vec::with_capacity(trust_domains.len());
    for (index, domain) in trust_domains.into_iter().enumerate() {
        domains.push(domain_roots(&at.index("trust_domains", index), domain)?);
    }
    let mut domains = domains.into_iter();
    let Some((trust_domain, roots)) = domains.next() else {
        return Err(at.field("trust_domains").fault("names no trust domain".to_owned()));
    };
    let mut federated = BTreeMap::new();
    for (other, roots) in domains {
        if other == trust_domain || federated.insert(other.clone(), roots).is_some() {
            return Err(at.field("trust_domains").fault(format!("names {other} twice")));
        }
    }
    Ok(TrustBundle { trust_domain, roots, federated })
}

/// A trust domain and its roots.
fn domain_roots(at: &At<'_>, domain: EnvoyDomain) -> Result<(TrustDomain, Vec<Vec<u8>>), Fault> {
    apart!(at, domain => EnvoyDomain { name, trust_bundle } unset { workload_trust_domain });
    let trust_domain = TrustDomain::new(&name).map_err(|error| at.field("name").fault(error.to_string()))?;
    let at = at.field("trust_bundle");
    apart!(at, present(&at, trust_bundle)? => DataSource { specifier } unset { watched_directory });
    let Some(Specifier::InlineString(text)) = specifier else { return Err(at.fault("is no inline_string".to_owned())) };
    let roots = pem(&text).ok_or_else(|| at.field("inline_string").fault("is no list of certificates in PEM".to_owned()))?;
    Ok((trust_domain, roots))
}

/// The certificates of a PEM text that holds nothing else.
fn pem(text: &str) -> Option<Vec<Vec<u8>>> {
    let mut certificates = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if line != "-----BEGIN CERTIFICATE-----" {
            return None;
        }
        let mut encoded = String::new();
        loop {
            match lines.next()? {
                "-----END CERTIFICATE-----" => break,
                line => encoded.push_str(line),
            }
        }
        certificates.push(STANDARD.decode(encoded).ok()?);
    }
    Some(certificates)
}
