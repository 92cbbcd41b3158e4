//! The listener port of a gateway.

use envoy_types::pb::envoy::config::core::v3::{
    DataSource, Http3ProtocolOptions, TransportSocket, data_source::Specifier, transport_socket::ConfigType,
};
use envoy_types::pb::envoy::config::listener::v3::{Filter, FilterChain, FilterChainMatch, Listener};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, http_connection_manager::RouteSpecifier,
};
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::TcpProxy;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, CommonTlsContext, DownstreamTlsContext, SdsSecretConfig, TlsCertificate,
    certificate_validation_context::TrustChainVerification, common_tls_context::ValidationContextType,
};
use envoy_types::pb::google::protobuf::{Any, BoolValue};
use lorica_model::name::{GatewayName, SecretName};
use lorica_model::snapshot::{
    Certificate, ClientValidation, GatewayUnit, HostPattern, Hosts, Listening, PrivateKey, ServerTls, Telemetry, Terminated, TlsAction,
    TlsChain, TransportRoute, VirtualHost,
};

use super::listener::{only_filter, routes};
use super::{At, Fault, Rejected, address, apart, egress, facts, open, present, route, telemetry, unpack};
use crate::Kind;
use crate::encode::{GATEWAY_PREFIX, tcp_proxy};
use crate::facts::{DatagramFacts, GatewayFacts, TransportFacts};

/// Reads the listener of a gateway's port.
///
/// # Errors
/// Names the first field that is not understood.
pub fn gateway(name: &str, body: &Any) -> Result<GatewayUnit, Rejected> {
    open(Kind::Listener, name, body, |at, listener| read(at, name, listener))
}

fn read(at: &At<'_>, expected: &str, listener: Listener) -> Result<GatewayUnit, Fault> {
    apart!(at, listener => Listener { name, address: place, filter_chains, metadata, udp_listener_config, listener_filters } unset {
        additional_addresses, default_filter_chain, traffic_direction, bind_to_port, stat_prefix, stats_matcher, fcds_config,
        filter_chain_matcher, use_original_dst, per_connection_buffer_limit_bytes, per_connection_buffer_high_watermark_timeout,
        deprecated_v1, drain_type, listener_filters_timeout, continue_on_listener_filters_timeout, transparent, freebind, socket_options,
        tcp_fast_open_queue_length, api_listener, connection_balance_config, reuse_port, enable_reuse_port, access_log, tcp_backlog_size,
        max_connections_to_accept_per_socket_event, enable_mptcp, ignore_global_conn_limit, bypass_overload_manager, tcp_keepalive,
        listener_specifier,
    });
    at.equal("name", &name.as_str(), &expected)?;
    let at_name = at.field("name");
    let rest = name.strip_prefix(GATEWAY_PREFIX).ok_or_else(|| at_name.fault("names no gateway".to_owned()))?;
    let (rest, udp) = rest.strip_suffix("/udp").map_or((rest, false), |rest| (rest, true));
    let (gateway, port) = rest.rsplit_once(':').ok_or_else(|| at_name.fault("has no port".to_owned()))?;
    let gateway: GatewayName = gateway.parse().map_err(|error: lorica_model::name::NameError| at_name.fault(error.to_string()))?;
    let port: u16 = port.parse().map_err(|_| at_name.fault("has no port".to_owned()))?;
    if udp {
        present(&at.field("udp_listener_config"), udp_listener_config)?;
        at.equal("listener_filters", &listener_filters.len(), &1)?;
        let DatagramFacts { route, telemetry } = facts(at, metadata)?;
        return Ok(GatewayUnit { gateway, port, listening: Listening::Udp(route), telemetry });
    }
    let told = metadata.map(|metadata| facts(at, Some(metadata))).transpose()?;
    let GatewayFacts { rules, telemetry } = told.unwrap_or(GatewayFacts { rules: None, telemetry: None });
    if let Some(rules) = rules {
        egress::gateway(at, &name, &rules, &filter_chains)?;
        return Ok(GatewayUnit { gateway, port, listening: Listening::Egress(rules), telemetry });
    }
    let told = telemetry.as_deref();
    at.unset("udp_listener_config", &udp_listener_config)?;
    at.unset("listener_filters", &listener_filters)?;
    let bound = address(&at.field("address"), place)?;
    at.field("address").equal("port_value", &bound.port(), &port)?;
    let tls = filter_chains.iter().any(|chain| chain.filter_chain_match.is_some()) || filter_chains.is_empty();
    let listening = if tls {
        let chains = filter_chains.into_iter().enumerate().map(|(index, one)| chain(&at.index("filter_chains", index), &name, one, told));
        Listening::Tls(chains.collect::<Result<_, _>>()?)
    } else {
        let Ok([only]) = <[FilterChain; 1]>::try_from(filter_chains) else {
            return Err(at.field("filter_chains").fault("are several without server names".to_owned()));
        };
        plain(&at.index("filter_chains", 0), &name, only, told)?
    };
    Ok(GatewayUnit { gateway, port, listening, telemetry })
}

/// A chain without TLS: HTTP, or bytes where metadata says whose.
fn plain(at: &At<'_>, listener: &str, chain: FilterChain, told: Option<&Telemetry>) -> Result<Listening, Fault> {
    apart!(at, chain => FilterChain { filters, metadata } unset {
        filter_chain_match, name, use_proxy_proto, transport_socket, transport_socket_connect_timeout,
    });
    match metadata {
        None => match hosts(at, listener, filters, told)? {
            (hosts, false) => Ok(Listening::Http(hosts)),
            (_, true) => Err(at.field("filters").fault("has HTTP/3 without TLS".to_owned())),
        },
        Some(_) => {
            let TransportFacts { route } = facts(at, metadata)?;
            bytes(at, listener, filters, route.as_ref(), told)?;
            Ok(Listening::Tcp(route))
        }
    }
}

fn chain(at: &At<'_>, listener: &str, chain: FilterChain, told: Option<&Telemetry>) -> Result<TlsChain, Fault> {
    apart!(at, chain => FilterChain { filter_chain_match, filters, metadata, transport_socket, name } unset {
        use_proxy_proto, transport_socket_connect_timeout,
    });
    let server_name = server_name(at, filter_chain_match)?;
    let expected = format!("{listener}/{server_name}");
    at.equal("name", &name, &expected)?;
    let tls = transport_socket.map(|socket| server_tls(&at.field("transport_socket"), socket)).transpose()?;
    let mut http3 = false;
    let action = match (tls, metadata) {
        (Some((tls, alpn)), None) => {
            at.equal("alpn_protocols", &alpn, &vec!["h2".to_owned(), "http/1.1".to_owned()])?;
            let (hosts, asked) = hosts(at, &name, filters, told)?;
            http3 = asked;
            TlsAction::Terminate { tls, then: Terminated::Http(hosts) }
        }
        (tls, metadata) => {
            let TransportFacts { route } = facts(at, metadata)?;
            bytes(at, &name, filters, route.as_ref(), told)?;
            match (tls, route) {
                (Some((tls, alpn)), route) => {
                    at.equal("alpn_protocols", &alpn, &Vec::new())?;
                    TlsAction::Terminate { tls, then: Terminated::Tcp(route) }
                }
                (None, Some(route)) => TlsAction::Passthrough(route),
                (None, None) => return Err(at.fault("passes TLS through to nowhere".to_owned())),
            }
        }
    };
    Ok(TlsChain { server_name, action, http3 })
}

fn server_name(at: &At<'_>, wanted: Option<FilterChainMatch>) -> Result<HostPattern, Fault> {
    let at = at.field("filter_chain_match");
    apart!(at, present(&at, wanted)? => FilterChainMatch { server_names, transport_protocol } unset {
        destination_port, prefix_ranges, address_suffix, suffix_len, direct_source_prefix_ranges, source_type, source_prefix_ranges,
        source_ports, application_protocols,
    });
    at.equal("transport_protocol", &transport_protocol.as_str(), &"tls")?;
    match server_names.as_slice() {
        [] => Ok(HostPattern::Any),
        [name] => Ok(HostPattern::of(name)),
        _ => Err(at.field("server_names").fault("are several".to_owned())),
    }
}

/// The rules by host, and whether HTTP/3 serves them, too.
fn hosts(at: &At<'_>, name: &str, filters: Vec<Filter>, told: Option<&Telemetry>) -> Result<(Hosts, bool), Fault> {
    let mut manager: HttpConnectionManager = only_filter(at, filters)?;
    let at_filter = at.index("filters", 0);
    let at = at_filter.field("typed_config");
    telemetry::of_manager(&at, &mut manager, told)?;
    let http3 = manager.http3_protocol_options.take();
    if let Some(options) = &http3 {
        at.equal("http3_protocol_options", options, &Http3ProtocolOptions::default())?;
    }
    let Some(RouteSpecifier::RouteConfig(configuration)) = routes(&at, manager)? else {
        return Err(at.field("route_specifier").fault("is not `route_config`".to_owned()));
    };
    let hosts = route::hosts(&at.field("route_config"), name, configuration)?;
    let hosts = hosts.into_iter().map(|(domain, rules)| VirtualHost { host: HostPattern::of(&domain), rules: rules.into() });
    Ok((Hosts::new(hosts.collect()), http3.is_some()))
}

/// Metadata says where bytes go, and the filter must say the same.
fn bytes(at: &At<'_>, name: &str, filters: Vec<Filter>, route: Option<&TransportRoute>, told: Option<&Telemetry>) -> Result<(), Fault> {
    let mut proxy: TcpProxy = only_filter(at, filters)?;
    let at = at.index("filters", 0);
    telemetry::logs(&at.field("typed_config"), std::mem::take(&mut proxy.access_log), told)?;
    at.equal("typed_config", &proxy, &tcp_proxy(name, route))
}

fn server_tls(at: &At<'_>, socket: TransportSocket) -> Result<(ServerTls, Vec<String>), Fault> {
    let TransportSocket { name: _, config_type } = socket;
    let Some(ConfigType::TypedConfig(config)) = config_type else { return Err(at.fault("has no typed_config".to_owned())) };
    let at = at.field("typed_config");
    apart!(at, unpack::<DownstreamTlsContext>(&at, &config)? => DownstreamTlsContext { common_tls_context, require_client_certificate } unset {
        require_sni, disable_stateful_session_resumption, session_timeout, ocsp_staple_policy, full_scan_certs_on_sni_mismatch,
        prefer_client_ciphers, session_ticket_keys_type,
    });
    let at = at.field("common_tls_context");
    apart!(at, present(&at, common_tls_context)? => CommonTlsContext {
        tls_certificates, tls_certificate_sds_secret_configs, alpn_protocols, validation_context_type,
    } unset {
        tls_params, tls_certificate_provider_instance, custom_tls_certificate_selector, tls_certificate_certificate_provider,
        tls_certificate_certificate_provider_instance, custom_handshaker, key_log,
    });
    let certificates = certificates(&at, tls_certificates, tls_certificate_sds_secret_configs)?;
    let client = match validation_context_type {
        None => {
            at.equal("require_client_certificate", &require_client_certificate, &None)?;
            None
        }
        Some(ValidationContextType::ValidationContext(context)) => {
            Some(client(&at.field("validation_context"), context, require_client_certificate)?)
        }
        Some(_) => return Err(at.field("validation_context_type").fault("is not understood by this proxy".to_owned())),
    };
    Ok((ServerTls { certificates, client }, alpn_protocols))
}

fn client(at: &At<'_>, context: CertificateValidationContext, required: Option<BoolValue>) -> Result<ClientValidation, Fault> {
    apart!(at, context => CertificateValidationContext { trusted_ca, trust_chain_verification } unset {
        match_typed_subject_alt_names, ca_certificate_provider_instance, system_root_certs, watched_directory, verify_certificate_spki,
        verify_certificate_hash, match_subject_alt_names, require_signed_certificate_timestamp, crl, allow_expired_certificate,
        custom_validator_config, only_verify_leaf_cert_crl, max_verify_depth, suppress_client_ca_list,
    });
    let optional = trust_chain_verification == i32::from(TrustChainVerification::AcceptUntrusted);
    at.equal("require_client_certificate", &required, &Some(BoolValue { value: !optional }))?;
    let (roots, false) = text(&at.field("trusted_ca"), trusted_ca)? else {
        return Err(at.field("trusted_ca").fault("is not inline".to_owned()));
    };
    Ok(ClientValidation { roots, optional })
}

/// Certificates, and beside them the names of their Secrets.
pub(super) fn certificates(at: &At<'_>, certificates: Vec<TlsCertificate>, names: Vec<SdsSecretConfig>) -> Result<Vec<Certificate>, Fault> {
    at.equal("tls_certificate_sds_secret_configs", &names.len(), &certificates.len())?;
    let one = |(index, (one, named)): (usize, (TlsCertificate, SdsSecretConfig))| {
        let at_name = at.index("tls_certificate_sds_secret_configs", index);
        apart!(at_name, named => SdsSecretConfig { name } unset { sds_config });
        let secret = name.parse().map_err(|error: lorica_model::name::NameError| at_name.field("name").fault(error.to_string()))?;
        certificate(&at.index("tls_certificates", index), secret, one)
    };
    certificates.into_iter().zip(names).enumerate().map(one).collect()
}

fn certificate(at: &At<'_>, secret: SecretName, one: TlsCertificate) -> Result<Certificate, Fault> {
    apart!(at, one => TlsCertificate { certificate_chain, private_key } unset {
        pkcs12, watched_directory, private_key_provider, password, ocsp_staple, signed_certificate_timestamp, tls_params,
    });
    let (chain, in_files) = text(&at.field("certificate_chain"), certificate_chain)?;
    let (key, key_in_file) = text(&at.field("private_key"), private_key)?;
    at.equal("private_key", &key_in_file, &in_files)?;
    Ok(Certificate { secret, chain, key: PrivateKey(key), in_files })
}

/// A text, or a file's path, and which of the two.
pub(super) fn text(at: &At<'_>, source: Option<DataSource>) -> Result<(String, bool), Fault> {
    apart!(at, present(at, source)? => DataSource { specifier } unset { watched_directory });
    match specifier {
        Some(Specifier::InlineString(text)) => Ok((text, false)),
        Some(Specifier::Filename(path)) => Ok((path, true)),
        _ => Err(at.field("specifier").fault("is neither `inline_string` nor `filename`".to_owned())),
    }
}
