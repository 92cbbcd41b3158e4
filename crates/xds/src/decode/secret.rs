//! The roots to trust, and who is revoked all the same.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use envoy_types::pb::envoy::config::core::v3::{DataSource, TypedExtensionConfig, data_source::Specifier};
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, Secret, SpiffeCertValidatorConfig, secret::Type, spiffe_cert_validator_config::TrustDomain as EnvoyDomain,
};
use envoy_types::pb::google::protobuf::Any;
use lorica_model::snapshot::{MOST_REVOKED, Revoked, TrustBundle};
use lorica_model::spiffe::TrustDomain;

use super::{At, Fault, Rejected, apart, open, present, unpack};
use crate::Kind;
use crate::encode::{CERTIFICATE, REVOCATION_LIST, REVOKED};

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
    let Some((trust_domain, Trusted { roots, revoked, revocation_lists })) = domains.next() else {
        return Err(at.field("trust_domains").fault("names no trust domain".to_owned()));
    };
    let mut federated = BTreeMap::new();
    for (other, Trusted { roots, revoked, revocation_lists }) in domains {
        if !revoked.is_empty() || !revocation_lists.is_empty() {
            return Err(at.field("trust_domains").fault(format!("says who is revoked of {other}, which is another mesh's")));
        }
        if other == trust_domain || federated.insert(other.clone(), roots).is_some() {
            return Err(at.field("trust_domains").fault(format!("names {other} twice")));
        }
    }
    Ok(TrustBundle { trust_domain, roots, federated, revoked, revocation_lists })
}

/// What is said of a trust domain.
#[derive(Default)]
struct Trusted {
    roots: Vec<Vec<u8>>,
    revocation_lists: Vec<Vec<u8>>,
    revoked: Revoked,
}

/// A trust domain and what is said of it.
fn domain_roots(at: &At<'_>, domain: EnvoyDomain) -> Result<(TrustDomain, Trusted), Fault> {
    apart!(at, domain => EnvoyDomain { name, trust_bundle } unset { workload_trust_domain });
    let trust_domain = TrustDomain::new(&name).map_err(|error| at.field("name").fault(error.to_string()))?;
    let at = at.field("trust_bundle");
    apart!(at, present(&at, trust_bundle)? => DataSource { specifier } unset { watched_directory });
    let Some(Specifier::InlineString(text)) = specifier else { return Err(at.fault("is no inline_string".to_owned())) };
    let at = at.field("inline_string");
    let blocks = pem(&text).ok_or_else(|| at.fault("is no list of blocks in PEM".to_owned()))?;
    let mut trusted = Trusted::default();
    for (label, block) in blocks {
        match label {
            CERTIFICATE => trusted.roots.push(block),
            REVOCATION_LIST => trusted.revocation_lists.push(block),
            REVOKED => trusted.revoked = revoked(&block).map_err(|why| at.fault(format!("has a block {REVOKED} {why}")))?,
            label => return Err(at.fault(format!("has a block {label:?}"))),
        }
    }
    Ok((trust_domain, trusted))
}

/// The names of who is revoked.
fn revoked(block: &[u8]) -> Result<Revoked, String> {
    let revoked: Revoked = serde_json::from_slice(block).map_err(|error| format!("that cannot be read: {error}"))?;
    if revoked.len() > MOST_REVOKED { Err(format!("of more than {MOST_REVOKED} names")) } else { Ok(revoked) }
}

/// The blocks of a PEM text that holds nothing else, each with its label.
fn pem(text: &str) -> Option<Vec<(&str, Vec<u8>)>> {
    let mut blocks = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let label = line.strip_prefix("-----BEGIN ")?.strip_suffix("-----")?;
        let mut encoded = String::new();
        loop {
            let line = lines.next()?;
            match line.strip_prefix("-----END ").and_then(|rest| rest.strip_suffix("-----")) {
                Some(end) if end == label => break,
                Some(_) => return None,
                None => encoded.push_str(line),
            }
        }
        blocks.push((label, STANDARD.decode(encoded).ok()?));
    }
    Some(blocks)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_whole_blocks_are_read() {
        let good = "-----BEGIN X509 CRL-----\nAAAA\nAAAA\n-----END X509 CRL-----\n-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n";
        assert_eq!(pem(good).unwrap(), [(REVOCATION_LIST, vec![0; 6]), (CERTIFICATE, Vec::new())]);
        for bad in [
            "-----BEGIN CERTIFICATE-----\nAAAA\n",
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END X509 CRL-----\n",
            "-----BEGIN CERTIFICATE-----\n-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n",
            "text\n",
            "-----BEGIN CERTIFICATE-----\n?\n-----END CERTIFICATE-----\n",
        ] {
            assert_eq!(pem(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_list_of_names_is_bounded_and_read_whole_or_not() {
        assert_eq!(revoked(br#"{"identities": [], "workloads": ["web-1.shop"]}"#).unwrap().len(), 1);
        assert!(revoked(br#"{"workloads": ["we b"]}"#).unwrap_err().contains("cannot be read"));
        assert!(revoked(br#"{"serials": []}"#).unwrap_err().contains("cannot be read"), "what is not understood is refused");
        let many: Vec<String> = (0..=MOST_REVOKED).map(|number| format!("web-{number}.shop")).collect();
        let many = serde_json::json!({ "workloads": many }).to_string();
        assert!(revoked(many.as_bytes()).unwrap_err().contains("of more than 10000 names"));
    }
}
