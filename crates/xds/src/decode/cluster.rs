//! How the endpoints of a service port are reached.

use std::collections::BTreeSet;

use envoy_types::pb::envoy::config::cluster::v3::{
    Cluster as EnvoyCluster,
    cluster::{ClusterDiscoveryType, DiscoveryType, EdsClusterConfig, TransportSocketMatch},
};
use envoy_types::pb::envoy::config::core::v3::{TransportSocket, transport_socket::ConfigType};
use envoy_types::pb::envoy::extensions::transport_sockets::raw_buffer::v3::RawBuffer;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, CommonTlsContext, SdsSecretConfig, SubjectAltNameMatcher, UpstreamTlsContext,
    common_tls_context::{CombinedCertificateValidationContext, ValidationContextType},
    subject_alt_name_matcher::SanType,
    tls_parameters::TlsProtocol,
};
use envoy_types::pb::envoy::r#type::matcher::v3::{StringMatcher, string_matcher::MatchPattern};
use envoy_types::pb::google::protobuf::Any;
use lorica_model::name::ServicePort;
use lorica_model::snapshot::{BackendTls, Cluster, Protocol};
use lorica_model::spiffe::{SpiffeError, SpiffeId};
use prost::Name as _;

use super::{At, Fault, Rejected, apart, duration, facts, from_ads, gateway, open, present, service_port, unpack};
use crate::Kind;
use crate::encode::{self, BUNDLE, NOBODY, PLAINTEXT, SVID, TrafficFields, alpn, tls_parameters, transport_match};
use crate::facts::ClusterFacts;
use crate::node::Dialect;

/// Reads a cluster.
///
/// # Errors
/// Names the first field that is not understood.
pub fn cluster(name: &str, body: &Any) -> Result<Cluster, Rejected> {
    open(Kind::Cluster, name, body, read)
}

fn read(at: &At<'_>, cluster: EnvoyCluster) -> Result<Cluster, Fault> {
    apart!(at, cluster => EnvoyCluster {
        transport_socket_matches, name, eds_cluster_config, connect_timeout, lb_policy, transport_socket, metadata, cluster_discovery_type,
        lb_config, common_lb_config, circuit_breakers, outlier_detection, health_checks,
    } unset {
        transport_socket_matcher, alt_stat_name, stats_matcher, per_connection_buffer_limit_bytes,
        per_connection_buffer_high_watermark_timeout, load_assignment, max_requests_per_connection,
        upstream_http_protocol_options, common_http_protocol_options, http_protocol_options, http2_protocol_options,
        typed_extension_protocol_options, dns_refresh_rate, dns_jitter, dns_failure_refresh_rate, respect_dns_ttl, dns_lookup_family,
        dns_resolvers, use_tcp_for_dns_lookups, dns_resolution_config, typed_dns_resolver_config, wait_for_warm_on_init,
        cleanup_interval, upstream_bind_config, lb_subset_config, protocol_selection, upstream_connection_options,
        close_connections_on_host_health_failure, ignore_health_on_host_removal, filters, load_balancing_policy, lrs_server,
        lrs_report_endpoint_metrics, track_timeout_budgets, upstream_config, track_cluster_stats, preconnect_policy,
        connection_pool_per_downstream_connection, queuing_policies,
    });
    let port = service_port(&at.field("name"), &name)?;
    let ClusterFacts { protocol, server, traffic } = facts(at, metadata)?;
    let server = server.unwrap_or_else(|| port.clone());
    let eds = ClusterDiscoveryType::Type(DiscoveryType::Eds.into());
    at.equal("type", &cluster_discovery_type, &Some(eds))?;
    let at_eds = at.field("eds_cluster_config");
    let EdsClusterConfig { eds_config, service_name } = present(&at_eds, eds_cluster_config)?;
    from_ads(&at_eds.field("eds_config"), eds_config)?;
    at_eds.equal("service_name", &service_name, &name)?;
    let at_timeout = at.field("connect_timeout");
    let connect_timeout = duration(&at_timeout, present(&at_timeout, connect_timeout)?)?;
    let tls = plaintext_exception(at, transport_socket_matches)?;
    let accepted = transport(&at.field("transport_socket"), transport_socket, &server, protocol)?;
    let cluster = Cluster { port, protocol, accepted, connect_timeout, server, tls, traffic: traffic.unwrap_or_default() };
    let said = TrafficFields::of(&cluster, Dialect::Lorica);
    at.equal("lb_policy", &lb_policy, &said.lb_policy)?;
    at.equal("lb_config", &lb_config, &said.lb_config)?;
    at.equal("common_lb_config", &common_lb_config, &said.common_lb_config)?;
    at.equal("circuit_breakers", &circuit_breakers, &said.circuit_breakers)?;
    at.equal("outlier_detection", &outlier_detection, &said.outlier_detection)?;
    at.equal("health_checks", &health_checks, &said.health_checks)?;
    Ok(cluster)
}

/// Endpoints that are marked so are called in plaintext, or by TLS that knows nothing of the mesh; there is no other exception.
fn plaintext_exception(at: &At<'_>, matches: Vec<TransportSocketMatch>) -> Result<Option<BackendTls>, Fault> {
    let mut matches = matches.into_iter();
    let (Some(TransportSocketMatch { name: _, r#match: mark, transport_socket }), None) = (matches.next(), matches.next()) else {
        return Err(at.field("transport_socket_matches").fault("is not the one for plaintext".to_owned()));
    };
    let at = at.index("transport_socket_matches", 0);
    at.equal("match", &mark, &Some(transport_match(PLAINTEXT)))?;
    let at = at.field("transport_socket");
    let config = typed_config(&at, transport_socket)?;
    let at = at.field("typed_config");
    if config.type_url == UpstreamTlsContext::type_url() {
        return outside(&at, unpack(&at, &config)?).map(Some);
    }
    let RawBuffer {} = unpack(&at, &config)?;
    Ok(None)
}

/// TLS towards endpoints that are no part of the mesh. What its fields do not say must be what the encoder makes of it.
fn outside(at: &At<'_>, context: UpstreamTlsContext) -> Result<BackendTls, Fault> {
    let common = present(&at.field("common_tls_context"), context.common_tls_context.clone())?;
    let Some(ValidationContextType::ValidationContext(validation)) = common.validation_context_type else {
        return Err(at.field("common_tls_context").fault("has no `validation_context`".to_owned()));
    };
    let text = |name: SubjectAltNameMatcher| match name.matcher.and_then(|matcher| matcher.match_pattern) {
        Some(MatchPattern::Exact(text)) => Ok(text),
        _ => Err(at.field("match_typed_subject_alt_names").fault("is not `exact`".to_owned())),
    };
    let names: Vec<String> = validation.match_typed_subject_alt_names.into_iter().map(text).collect::<Result<_, _>>()?;
    let roots = validation.trusted_ca.map(|roots| gateway::text(&at.field("trusted_ca"), Some(roots))).transpose()?.map(|(text, _)| text);
    let certificates = gateway::certificates(at, common.tls_certificates, common.tls_certificate_sds_secret_configs)?;
    let tls = BackendTls {
        names: if *names == [context.sni.as_str()] { Vec::new() } else { names },
        server_name: context.sni.clone(),
        roots,
        certificate: certificates.into_iter().next(),
    };
    if encode::outside(&tls, Dialect::Lorica) == context { Ok(tls) } else { Err(at.fault("is not understood by this proxy".to_owned())) }
}

fn typed_config(at: &At<'_>, socket: Option<TransportSocket>) -> Result<Any, Fault> {
    let TransportSocket { name: _, config_type } = present(at, socket)?;
    match config_type {
        Some(ConfigType::TypedConfig(config)) => Ok(config),
        None => Err(at.fault("has no typed_config".to_owned())),
    }
}

fn transport(at: &At<'_>, socket: Option<TransportSocket>, port: &ServicePort, protocol: Protocol) -> Result<BTreeSet<SpiffeId>, Fault> {
    let config = typed_config(at, socket)?;
    let at = at.field("typed_config");
    apart!(at, unpack::<UpstreamTlsContext>(&at, &config)? => UpstreamTlsContext { common_tls_context, sni } unset {
        auto_host_sni, auto_sni_san_validation, allow_renegotiation, max_session_keys, enforce_rsa_key_usage,
    });
    at.equal("sni", &sni, &port.sni())?;
    let at = at.field("common_tls_context");
    apart!(at, present(&at, common_tls_context)? => CommonTlsContext {
        tls_params, tls_certificate_sds_secret_configs, alpn_protocols, validation_context_type,
    } unset {
        tls_certificates, tls_certificate_provider_instance, custom_tls_certificate_selector, tls_certificate_certificate_provider,
        tls_certificate_certificate_provider_instance, custom_handshaker, key_log,
    });
    let named = |name: &str| SdsSecretConfig { name: name.to_owned(), sds_config: None };
    at.equal("tls_params", &tls_params, &Some(tls_parameters(TlsProtocol::TlSv13)))?;
    at.equal("tls_certificate_sds_secret_configs", &tls_certificate_sds_secret_configs, &vec![named(SVID)])?;
    at.equal("alpn_protocols", &alpn_protocols, &alpn(protocol, Dialect::Lorica))?;
    let Some(ValidationContextType::CombinedValidationContext(combined)) = validation_context_type else {
        return Err(at.field("validation_context_type").fault("is not `combined_validation_context`".to_owned()));
    };
    let at = at.field("combined_validation_context");
    apart!(at, combined => CombinedCertificateValidationContext { default_validation_context, validation_context_sds_secret_config } unset {
        validation_context_certificate_provider, validation_context_certificate_provider_instance,
    });
    at.equal("validation_context_sds_secret_config", &validation_context_sds_secret_config, &Some(named(BUNDLE)))?;
    accepted(&at.field("default_validation_context"), default_validation_context)
}

fn accepted(at: &At<'_>, context: Option<CertificateValidationContext>) -> Result<BTreeSet<SpiffeId>, Fault> {
    apart!(at, present(at, context)? => CertificateValidationContext { match_typed_subject_alt_names } unset {
        trusted_ca, ca_certificate_provider_instance, system_root_certs, watched_directory, verify_certificate_spki,
        verify_certificate_hash, match_subject_alt_names, require_signed_certificate_timestamp, crl, allow_expired_certificate,
        trust_chain_verification, custom_validator_config, only_verify_leaf_cert_crl, max_verify_depth, suppress_client_ca_list,
    });
    if match_typed_subject_alt_names.is_empty() {
        return Err(at.field("match_typed_subject_alt_names").fault("is empty, which would accept any identity".to_owned()));
    }
    let mut ids = BTreeSet::new();
    for (index, name) in match_typed_subject_alt_names.into_iter().enumerate() {
        let at = at.index("match_typed_subject_alt_names", index);
        apart!(at, name => SubjectAltNameMatcher { san_type, matcher } unset { oid });
        at.equal("san_type", &san_type, &SanType::Uri.into())?;
        let at = at.field("matcher");
        apart!(at, present(&at, matcher)? => StringMatcher { match_pattern } unset { ignore_case });
        let Some(MatchPattern::Exact(text)) = match_pattern else { return Err(at.fault("is not `exact`".to_owned())) };
        if text != NOBODY {
            ids.insert(text.parse().map_err(|error: SpiffeError| at.field("exact").fault(error.to_string()))?);
        }
    }
    Ok(ids)
}
