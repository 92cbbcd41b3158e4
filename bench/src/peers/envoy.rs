//! Envoy from static configuration.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::{Hop, Side, Speaks};
use crate::certificates::Identity;

/// Its arguments, and the file that they name.
pub(crate) fn arguments(hop: &Hop<'_>, place: &Path, in_mesh: bool) -> anyhow::Result<Vec<String>> {
    let certificates = hop.wanted.certificates;
    let http2 = hop.wanted.speaks == Speaks::Http2;
    let alpn = match hop.wanted.speaks {
        Speaks::Http1 => vec!["http/1.1"],
        Speaks::Http2 => vec!["h2"],
        Speaks::Tcp => vec![],
    };
    let tls = |identity: &Identity| {
        json!({
            "alpn_protocols": alpn,
            "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
            "tls_certificates": [{"certificate_chain": {"filename": identity.certificate}, "private_key": {"filename": identity.key}}],
            "validation_context": {"trusted_ca": {"filename": certificates.authority}}
        })
    };
    let mut cluster = json!({
        "name": "next", "type": "STATIC", "connect_timeout": "5s",
        "load_assignment": {"cluster_name": "next", "endpoints": [{"lb_endpoints": [{"endpoint": {"address": socket(hop.upstream)}}]}]}
    });
    if http2 {
        cluster["typed_extension_protocol_options"] = json!({"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": {"http2_protocol_options": {}}
        }});
    }
    if hop.side == Side::Caller {
        cluster["transport_socket"] = json!({"name": "tls", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
            "common_tls_context": tls(&certificates.client), "sni": "web.bench.mesh"
        }});
    }
    let log = if in_mesh {
        json!([{"name": "log", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
            "path": place.join("access.log"),
            "log_format": {"json_format": {
                "start_time": "%START_TIME%", "method": "%REQ(:METHOD)%", "path": "%REQ(:PATH)%", "protocol": "%PROTOCOL%", "response_code": "%RESPONSE_CODE%",
                "response_flags": "%RESPONSE_FLAGS%", "bytes_received": "%BYTES_RECEIVED%", "bytes_sent": "%BYTES_SENT%", "duration": "%DURATION%",
                "user_agent": "%REQ(USER-AGENT)%", "request_id": "%REQ(X-REQUEST-ID)%", "authority": "%REQ(:AUTHORITY)%", "upstream_host": "%UPSTREAM_HOST%",
                "upstream_cluster": "%UPSTREAM_CLUSTER%", "downstream_remote_address": "%DOWNSTREAM_REMOTE_ADDRESS%", "route_name": "%ROUTE_NAME%"
            }}
        }}])
    } else {
        json!([])
    };
    let mut filters = Vec::new();
    if in_mesh {
        filters.push(json!({"name": "rbac", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC",
            "rules": {"action": "ALLOW", "policies": {"all": {"permissions": [{"any": true}], "principals": [{"any": true}]}}}
        }}));
    }
    filters
        .push(json!({"name": "router", "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}));
    let filter = match hop.wanted.speaks {
        Speaks::Tcp => json!({"name": "tcp", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy", "stat_prefix": "in", "cluster": "next", "access_log": log
        }}),
        Speaks::Http1 | Speaks::Http2 => json!({"name": "http", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "in", "codec_type": "AUTO", "access_log": log, "http_filters": filters,
            "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "next"}}]}]}
        }}),
    };
    let mut chain = json!({"filters": [filter]});
    if hop.side == Side::Callee {
        chain["transport_socket"] = json!({"name": "tls", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
            "require_client_certificate": true, "common_tls_context": tls(&certificates.server)
        }});
    }
    let config = json!({"static_resources": {
        "listeners": [{"name": "in", "address": socket(hop.listen), "filter_chains": [chain]}],
        "clusters": [cluster]
    }});
    let path = place.join("envoy.json");
    fs::write(&path, serde_json::to_vec_pretty(&config)?)?;
    let words =
        ["--concurrency", &hop.wanted.workers.to_string(), "--disable-hot-restart", "--log-level", "error", "-c"].map(str::to_owned);
    Ok(words.into_iter().chain([path.display().to_string()]).collect())
}

fn socket(address: std::net::SocketAddr) -> Value {
    json!({"socket_address": {"address": address.ip().to_string(), "port_value": address.port()}})
}
