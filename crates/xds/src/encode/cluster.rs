//! How the endpoints of a service port are reached.
//!
//! Each endpoint says by its metadata whether it takes mutual TLS or plaintext. Mutual TLS is the cluster's own transport
//! and plaintext the exception, so an endpoint that says nothing is never called in plaintext.

use envoy_types::pb::envoy::config::cluster::v3::{
    Cluster as EnvoyCluster,
    cluster::{ClusterDiscoveryType, DiscoveryType, EdsClusterConfig, TransportSocketMatch},
};
use envoy_types::pb::envoy::config::core::v3::{Http1ProtocolOptions, Http2ProtocolOptions, TransportSocket, transport_socket::ConfigType};
use envoy_types::pb::envoy::extensions::transport_sockets::raw_buffer::v3::RawBuffer;
use envoy_types::pb::envoy::extensions::upstreams::http::v3::{
    HttpProtocolOptions,
    http_protocol_options::{ExplicitHttpConfig, UpstreamProtocolOptions, UseDownstreamHttpConfig, explicit_http_config::ProtocolConfig},
};
use envoy_types::pb::google::protobuf::Struct;
use lorica_model::snapshot::{Cluster, Protocol, Traffic};

use super::traffic::{self, TrafficFields};
use super::{Context, ads, duration, tls};
use crate::facts::{ClusterFacts, metadata};
use crate::node::Dialect;
use crate::resource::pack;
use crate::value::to_struct;

/// The mark of an endpoint that takes mutual TLS.
pub(crate) const MUTUAL_TLS: &str = "mutual-tls";
/// The mark of an endpoint that takes plaintext.
pub(crate) const PLAINTEXT: &str = "plaintext";
const HTTP_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

pub(super) fn cluster(cluster: &Cluster, dialect: Dialect, context: Context<'_>) -> EnvoyCluster {
    let name = cluster.port.to_string();
    let mut out = EnvoyCluster {
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Eds.into())),
        eds_cluster_config: Some(EdsClusterConfig { eds_config: Some(ads()), service_name: name.clone() }),
        name,
        connect_timeout: Some(duration(cluster.connect_timeout)),
        metadata: Some(metadata(&ClusterFacts {
            protocol: cluster.protocol,
            server: Some(cluster.server.clone()).filter(|server| *server != cluster.port),
            traffic: Some(cluster.traffic.clone()).filter(|traffic| *traffic != Traffic::default()),
        })),
        transport_socket: Some(tls::upstream(cluster, dialect, context)),
        ..EnvoyCluster::default()
    };
    TrafficFields::of(cluster, dialect).write(&mut out);
    match dialect {
        Dialect::Lorica => out.transport_socket_matches = vec![plaintext(cluster, dialect)],
        Dialect::Envoy => {
            out.transport_socket_matches = vec![plaintext(cluster, dialect)];
            if let Some(options) = http_options(cluster, context) {
                out.typed_extension_protocol_options = [(HTTP_OPTIONS.to_owned(), pack(&options))].into();
            }
        }
        Dialect::Grpc => {
            if context.plaintext {
                out.transport_socket = None;
            }
        }
    }
    out
}

/// The metadata under `envoy.transport_socket_match` that marks an endpoint.
pub(crate) fn transport_match(transport: &str) -> Struct {
    to_struct(&serde_json::json!({ "transport": transport }))
}

/// The exception: plaintext, or TLS that knows nothing of the mesh.
fn plaintext(cluster: &Cluster, dialect: Dialect) -> TransportSocketMatch {
    if let Some(outside) = &cluster.tls {
        return TransportSocketMatch {
            name: PLAINTEXT.to_owned(),
            r#match: Some(transport_match(PLAINTEXT)),
            transport_socket: Some(tls::socket(ConfigType::TypedConfig(pack(&tls::outside(outside, dialect))))),
        };
    }
    TransportSocketMatch {
        name: PLAINTEXT.to_owned(),
        r#match: Some(transport_match(PLAINTEXT)),
        transport_socket: Some(TransportSocket {
            name: "envoy.transport_sockets.raw_buffer".to_owned(),
            config_type: Some(ConfigType::TypedConfig(pack(&RawBuffer {}))),
        }),
    }
}

/// What Envoy speaks with endpoints: HTTP/2 where the port is declared so, else what the caller does. What comes in at a gateway says nothing
/// of what stands behind it, except that gRPC is HTTP/2.
fn http_options(cluster: &Cluster, context: Context<'_>) -> Option<HttpProtocolOptions> {
    let explicit = |protocol| UpstreamProtocolOptions::ExplicitHttpConfig(ExplicitHttpConfig { protocol_config: Some(protocol) });
    let http2 = || explicit(ProtocolConfig::Http2ProtocolOptions(Http2ProtocolOptions::default()));
    let options = match cluster.protocol {
        Protocol::Tcp => return None,
        Protocol::Detect | Protocol::Http if context.node.gateway.is_none() => {
            UpstreamProtocolOptions::UseDownstreamProtocolConfig(UseDownstreamHttpConfig {
                http_protocol_options: Some(Http1ProtocolOptions::default()),
                http2_protocol_options: Some(Http2ProtocolOptions::default()),
                ..UseDownstreamHttpConfig::default()
            })
        }
        Protocol::Detect | Protocol::Http if context.grpc => http2(),
        Protocol::Detect | Protocol::Http => explicit(ProtocolConfig::HttpProtocolOptions(Http1ProtocolOptions::default())),
        Protocol::Http2 | Protocol::Grpc => http2(),
    };
    Some(HttpProtocolOptions {
        common_http_protocol_options: Some(traffic::connections(&cluster.traffic.connections)),
        upstream_protocol_options: Some(options),
        ..HttpProtocolOptions::default()
    })
}
