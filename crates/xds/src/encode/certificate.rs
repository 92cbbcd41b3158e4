//! A user's certificate with its key. Lorica's proxy gets it within what shows it, so that a unit changes as a whole; Envoy asks for it by
//! name as a secret of its own: a renewed certificate is then no other listener, and ends no connection.

use envoy_types::pb::envoy::config::core::v3::{DataSource, data_source::Specifier};
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{
    CommonTlsContext, SdsSecretConfig, Secret, TlsCertificate, secret::Type,
};
use lorica_model::snapshot::{Certificate, PrivateKey, Version};

use super::ads;
use crate::node::Dialect;
use crate::{Kind, Resource};

/// The secret of a certificate, for Envoy.
#[must_use]
pub fn certificate(certificate: &Certificate) -> Resource {
    let name = certificate.secret.to_string();
    let secret = Secret { name: name.clone(), r#type: Some(Type::TlsCertificate(message(certificate))) };
    Resource::new(Kind::Secret, name, Version::of(certificate), &secret)
}

/// What of certificates stands in a context that shows them: their names, and for Lorica's proxy themselves in the same order.
pub(super) fn shown<'c>(certificates: impl Iterator<Item = &'c Certificate> + Clone, dialect: Dialect) -> CommonTlsContext {
    let own = dialect == Dialect::Lorica;
    let named = |one: &Certificate| SdsSecretConfig { name: one.secret.to_string(), sds_config: (!own).then(ads) };
    CommonTlsContext {
        tls_certificates: certificates.clone().filter(|_| own).map(message).collect(),
        tls_certificate_sds_secret_configs: certificates.map(named).collect(),
        ..CommonTlsContext::default()
    }
}

/// All that what shows a certificate says of it to Envoy: its name.
pub(super) fn by_name(certificate: &Certificate) -> Certificate {
    let Certificate { secret, .. } = certificate;
    Certificate { secret: secret.clone(), chain: String::new(), key: PrivateKey(String::new()), in_files: false }
}

/// As text, or where both are on the proxy's host.
fn message(certificate: &Certificate) -> TlsCertificate {
    let source = |text: &str| {
        let file = || DataSource { specifier: Some(Specifier::Filename(text.to_owned())), ..DataSource::default() };
        Some(if certificate.in_files { file() } else { inline(text) })
    };
    TlsCertificate { certificate_chain: source(&certificate.chain), private_key: source(&certificate.key.0), ..TlsCertificate::default() }
}

pub(crate) fn inline(text: &str) -> DataSource {
    DataSource { specifier: Some(Specifier::InlineString(text.to_owned())), ..DataSource::default() }
}
