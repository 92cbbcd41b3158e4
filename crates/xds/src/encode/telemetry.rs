//! Which exchanges are traced, in Envoy's words: the share that is drawn at random, and to whom spans go.

use envoy_types::pb::envoy::config::core::v3::{
    GrpcService,
    grpc_service::{EnvoyGrpc, TargetSpecifier},
};
use envoy_types::pb::envoy::config::trace::v3::{OpenTelemetryConfig, tracing::Http, tracing::http::ConfigType};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::Tracing;
use envoy_types::pb::envoy::r#type::v3::Percent;
use lorica_model::snapshot::Telemetry;

use super::CONTROL_CLUSTER;
use crate::resource::pack;

/// What a connection manager says of traces; none where no policy says which share is sampled. What else is kept, Lorica's proxies have from the
/// metadata: an Envoy decides before it knows what becomes of a request.
pub(crate) fn tracing(telemetry: Option<&Telemetry>) -> Option<Tracing> {
    let share = telemetry?.tracing?.sampling?;
    let service = GrpcService {
        target_specifier: Some(TargetSpecifier::EnvoyGrpc(EnvoyGrpc { cluster_name: CONTROL_CLUSTER.to_owned(), ..EnvoyGrpc::default() })),
        ..GrpcService::default()
    };
    let config = OpenTelemetryConfig { grpc_service: Some(service), ..OpenTelemetryConfig::default() };
    Some(Tracing {
        random_sampling: Some(Percent { value: f64::from(share.0) / 10_000.0 }),
        provider: Some(Http { name: "envoy.tracers.opentelemetry".to_owned(), config_type: Some(ConfigType::TypedConfig(pack(&config))) }),
        ..Tracing::default()
    })
}
