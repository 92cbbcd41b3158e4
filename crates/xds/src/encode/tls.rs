//! Mutual TLS in the words of each dialect. No key is ever written: Lorica's proxy has its own, Envoy and gRPC read files.

#![allow(deprecated, reason = "gRPC reads a field that Envoy replaced")]

use envoy_types::pb::envoy::config::core::v3::{
    AggregatedConfigSource, ApiVersion, ConfigSource, PathConfigSource, TransportSocket, WatchedDirectory,
    config_source::ConfigSourceSpecifier, transport_socket::ConfigType,
};
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{
    CertificateProviderPluginInstance, CertificateValidationContext, CommonTlsContext, DownstreamTlsContext, SdsSecretConfig,
    SubjectAltNameMatcher, TlsParameters, UpstreamTlsContext,
    certificate_validation_context::SystemRootCerts,
    common_tls_context::{CombinedCertificateValidationContext, ValidationContextType},
    subject_alt_name_matcher::SanType,
    tls_parameters::TlsProtocol,
};
use lorica_model::snapshot::{BackendTls, Cluster, Protocol};
use lorica_model::spiffe::SpiffeId;

use super::certificate::{inline, shown};
use super::route::exact;
use super::{Context, yes};
use crate::node::Dialect;
use crate::resource::pack;

/// The secret that is the proxy's own certificate. It has a name only; it never travels.
pub(crate) const SVID: &str = "svid";
/// The secret that holds the roots to trust.
pub(crate) const BUNDLE: &str = "bundle";
/// Accepted where no identity is: an empty list would mean "any", and no certificate can carry this.
pub(crate) const NOBODY: &str = "none";
/// The name that gRPC's bootstrap gives to the files of certificate and roots.
const PROVIDER: &str = "default";

/// How the endpoints of `cluster` are called by mutual TLS.
pub(super) fn upstream(cluster: &Cluster, dialect: Dialect, context: Context<'_>) -> TransportSocket {
    let mut common = common(dialect, context);
    let validation = match &mut common.validation_context_type {
        Some(ValidationContextType::CombinedValidationContext(combined)) => combined.default_validation_context.get_or_insert_default(),
        _ => return TransportSocket::default(),
    };
    let nobody = || vec![exact(NOBODY)];
    let accepted: Vec<_> = cluster.accepted.iter().map(|id: &SpiffeId| exact(&id.to_string())).collect();
    let accepted = if accepted.is_empty() { nobody() } else { accepted };
    if dialect == Dialect::Grpc {
        // gRPC reads the older field, in which the type of the name is not told.
        validation.match_subject_alt_names = accepted;
    } else {
        let uri =
            |matcher| SubjectAltNameMatcher { san_type: SanType::Uri.into(), matcher: Some(matcher), ..SubjectAltNameMatcher::default() };
        validation.match_typed_subject_alt_names = accepted.into_iter().map(uri).collect();
    }
    common.alpn_protocols = alpn(cluster.protocol, dialect);
    let tls = UpstreamTlsContext { common_tls_context: Some(common), sni: cluster.server.sni(), ..UpstreamTlsContext::default() };
    socket(ConfigType::TypedConfig(pack(&tls)))
}

/// TLS towards endpoints that are no part of the mesh.
pub(crate) fn outside(tls: &BackendTls, dialect: Dialect) -> UpstreamTlsContext {
    let names: &[String] = if tls.names.is_empty() { std::slice::from_ref(&tls.server_name) } else { &tls.names };
    let name = |name: &String| SubjectAltNameMatcher {
        san_type: if name.contains("://") { SanType::Uri } else { SanType::Dns }.into(),
        matcher: Some(exact(name)),
        ..SubjectAltNameMatcher::default()
    };
    let validation = CertificateValidationContext {
        trusted_ca: tls.roots.as_deref().map(inline),
        system_root_certs: tls.roots.is_none().then(SystemRootCerts::default),
        match_typed_subject_alt_names: names.iter().map(name).collect(),
        ..CertificateValidationContext::default()
    };
    UpstreamTlsContext {
        common_tls_context: Some(CommonTlsContext {
            // Left alone, Envoy calls with TLS 1.2 at most.
            tls_params: (dialect == Dialect::Envoy).then(|| tls_parameters(TlsProtocol::TlSv12)),
            validation_context_type: Some(ValidationContextType::ValidationContext(validation)),
            ..shown(tls.certificate.iter(), dialect)
        }),
        sni: tls.server_name.clone(),
        ..UpstreamTlsContext::default()
    }
}

/// How an inbound of Lorica's proxy takes mutual TLS.
pub(super) fn downstream(protocol: Protocol, context: Context<'_>) -> TransportSocket {
    let mut common = common(Dialect::Lorica, context);
    common.alpn_protocols = match protocol {
        Protocol::Tcp => Vec::new(),
        Protocol::Detect | Protocol::Http | Protocol::Http2 | Protocol::Grpc => vec!["h2".to_owned(), "http/1.1".to_owned()],
    };
    let tls =
        DownstreamTlsContext { common_tls_context: Some(common), require_client_certificate: yes(), ..DownstreamTlsContext::default() };
    socket(ConfigType::TypedConfig(pack(&tls)))
}

/// How an egress gateway takes the calls of the mesh's workloads: HTTP/2 in mutual TLS.
pub(super) fn egress(dialect: Dialect, context: Context<'_>) -> TransportSocket {
    let mut common = common(dialect, context);
    common.alpn_protocols = vec!["h2".to_owned()];
    let tls =
        DownstreamTlsContext { common_tls_context: Some(common), require_client_certificate: yes(), ..DownstreamTlsContext::default() };
    socket(ConfigType::TypedConfig(pack(&tls)))
}

/// What is offered by ALPN. For Envoy nothing where the caller's version is kept: a list would hold for every connection,
/// whereas without one Envoy offers what the connection's pool speaks. For bytes nothing.
pub(crate) fn alpn(protocol: Protocol, dialect: Dialect) -> Vec<String> {
    let names: &[&str] = match (protocol, dialect) {
        (_, Dialect::Grpc) | (Protocol::Tcp | Protocol::Detect, _) | (Protocol::Http, Dialect::Envoy) => &[],
        (Protocol::Http2 | Protocol::Grpc, _) => &["h2"],
        (Protocol::Http, Dialect::Lorica) => &["h2", "http/1.1"],
    };
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// From this version to the newest.
pub(crate) fn tls_parameters(oldest: TlsProtocol) -> TlsParameters {
    TlsParameters {
        tls_minimum_protocol_version: oldest.into(),
        tls_maximum_protocol_version: TlsProtocol::TlSv13.into(),
        ..TlsParameters::default()
    }
}

fn common(dialect: Dialect, context: Context<'_>) -> CommonTlsContext {
    let mut common = CommonTlsContext::default();
    let mut combined = CombinedCertificateValidationContext {
        default_validation_context: Some(CertificateValidationContext::default()),
        ..CombinedCertificateValidationContext::default()
    };
    if dialect == Dialect::Grpc {
        let provider =
            || CertificateProviderPluginInstance { instance_name: PROVIDER.to_owned(), ..CertificateProviderPluginInstance::default() };
        common.tls_certificate_provider_instance = Some(provider());
        combined.default_validation_context.get_or_insert_default().ca_certificate_provider_instance = Some(provider());
    } else {
        common.tls_params = Some(tls_parameters(TlsProtocol::TlSv13));
        common.tls_certificate_sds_secret_configs = vec![secret(SVID, dialect, context)];
        combined.validation_context_sds_secret_config = Some(secret(BUNDLE, dialect, context));
    }
    common.validation_context_type = Some(ValidationContextType::CombinedValidationContext(combined));
    common
}

fn secret(name: &str, dialect: Dialect, context: Context<'_>) -> SdsSecretConfig {
    let directory = context.secrets_directory();
    let file = || {
        ConfigSourceSpecifier::PathConfigSource(PathConfigSource {
            path: directory.join(format!("{name}.yaml")).to_string_lossy().into_owned(),
            watched_directory: Some(WatchedDirectory { path: directory.to_string_lossy().into_owned(), ..WatchedDirectory::default() }),
            ..PathConfigSource::default()
        })
    };
    // The key stays in Envoy's files. The roots come by the stream, so that Envoy acknowledges what it trusts.
    let source = || if name == BUNDLE { ConfigSourceSpecifier::Ads(AggregatedConfigSource::default()) } else { file() };
    let sds_config = (dialect == Dialect::Envoy).then(|| ConfigSource {
        resource_api_version: ApiVersion::V3.into(),
        config_source_specifier: Some(source()),
        ..ConfigSource::default()
    });
    SdsSecretConfig { name: name.to_owned(), sds_config }
}

pub(super) fn socket(config: ConfigType) -> TransportSocket {
    TransportSocket { name: "envoy.transport_sockets.tls".to_owned(), config_type: Some(config) }
}
