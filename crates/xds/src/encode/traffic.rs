//! What holds for calls to endpoints, in Envoy's words. What these leave out (peak EWMA, probation, limits that follow latency, …) stands in the
//! cluster's metadata, and a Lorica proxy holds both against each other.

use std::time::Duration;

use envoy_types::pb::envoy::config::cluster::v3::{
    CircuitBreakers, Cluster as EnvoyCluster, OutlierDetection,
    circuit_breakers::{Thresholds, thresholds::RetryBudget},
    cluster::{
        CommonLbConfig, LbConfig, LbPolicy, LeastRequestLbConfig, MaglevLbConfig, RingHashLbConfig, RoundRobinLbConfig, SlowStartConfig,
    },
};
use envoy_types::pb::envoy::config::core::v3::{
    HealthCheck as EnvoyHealthCheck, HttpProtocolOptions as CommonHttpOptions,
    health_check::{GrpcHealthCheck, HealthChecker, HttpHealthCheck, TcpHealthCheck, TlsOptions},
};
use envoy_types::pb::envoy::extensions::filters::http::adaptive_concurrency::v3::{
    AdaptiveConcurrency, GradientControllerConfig,
    adaptive_concurrency::ConcurrencyControllerConfig,
    gradient_controller_config::{ConcurrencyLimitCalculationParams, MinimumRttCalculationParams},
};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{HttpFilter, http_filter};
use envoy_types::pb::envoy::r#type::v3::{CodecClientType, Int64Range, Percent};
use envoy_types::pb::google::protobuf::{BoolValue, UInt32Value, UInt64Value};
use lorica_model::snapshot::{
    Algorithm, Cluster, Connections, Ejection, HealthCheck, HealthQuestion, Limits, Protocol, RetryLimit, SlowStart,
};

use super::{duration, number};
use crate::node::Dialect;
use crate::resource::pack;

/// Envoy's share of healthy endpoints below which all are called, where nothing is said.
const PANIC: u32 = 50;

/// How often Envoy lets few requests through to learn the least latency: the interval of its documentation's example.
const LEAST_LATENCY_ASKED: Duration = Duration::from_secs(60);

/// The fields of a cluster that say what holds for calls to its endpoints.
pub(crate) struct TrafficFields {
    pub(crate) lb_policy: i32,
    pub(crate) lb_config: Option<LbConfig>,
    pub(crate) common_lb_config: Option<CommonLbConfig>,
    pub(crate) circuit_breakers: Option<CircuitBreakers>,
    pub(crate) outlier_detection: Option<OutlierDetection>,
    pub(crate) health_checks: Vec<EnvoyHealthCheck>,
}

impl TrafficFields {
    pub(crate) fn of(cluster: &Cluster, dialect: Dialect) -> Self {
        let traffic = &cluster.traffic;
        let balancing = &traffic.balancing;
        let slow_start = balancing.slow_start.map(slow_start);
        let (policy, config) = match balancing.algorithm {
            // Not every gRPC has the policy, and those without refuse the cluster.
            Algorithm::PeakEwma | Algorithm::LeastRequest | Algorithm::Maglev { .. } | Algorithm::Random if dialect == Dialect::Grpc => {
                (LbPolicy::RoundRobin, None)
            }
            Algorithm::PeakEwma | Algorithm::LeastRequest => {
                let config = slow_start
                    .map(|slow_start| LeastRequestLbConfig { slow_start_config: Some(slow_start), ..LeastRequestLbConfig::default() });
                (LbPolicy::LeastRequest, config.map(LbConfig::LeastRequestLbConfig))
            }
            Algorithm::RoundRobin => {
                let config = slow_start.filter(|_| dialect != Dialect::Grpc);
                let config = config.map(|slow_start| RoundRobinLbConfig { slow_start_config: Some(slow_start) });
                (LbPolicy::RoundRobin, config.map(LbConfig::RoundRobinLbConfig))
            }
            Algorithm::Random => (LbPolicy::Random, None),
            Algorithm::RingHash { minimum_size } => {
                let minimum_ring_size = Some(UInt64Value { value: minimum_size.into() });
                let config = RingHashLbConfig { minimum_ring_size, ..RingHashLbConfig::default() };
                (LbPolicy::RingHash, Some(LbConfig::RingHashLbConfig(config)))
            }
            Algorithm::Maglev { table_size } => {
                let config = MaglevLbConfig { table_size: Some(UInt64Value { value: table_size.into() }) };
                (LbPolicy::Maglev, Some(LbConfig::MaglevLbConfig(config)))
            }
        };
        let panic = (balancing.panic_percent != PANIC && dialect != Dialect::Grpc).then(|| CommonLbConfig {
            healthy_panic_threshold: Some(Percent { value: balancing.panic_percent.into() }),
            ..CommonLbConfig::default()
        });
        Self {
            lb_policy: policy.into(),
            lb_config: config,
            common_lb_config: panic,
            circuit_breakers: Some(circuit_breakers(&traffic.limits)),
            outlier_detection: traffic.ejection.as_ref().map(outlier_detection),
            health_checks: traffic
                .health_check
                .iter()
                .filter(|_| dialect != Dialect::Grpc)
                .map(|check| health_check(check, cluster.protocol, &cluster.port.service.to_string()))
                .collect(),
        }
    }

    pub(super) fn write(self, out: &mut EnvoyCluster) {
        let Self { lb_policy, lb_config, common_lb_config, circuit_breakers, outlier_detection, health_checks } = self;
        out.lb_policy = lb_policy;
        out.lb_config = lb_config;
        out.common_lb_config = common_lb_config;
        out.circuit_breakers = circuit_breakers;
        out.outlier_detection = outlier_detection;
        out.health_checks = health_checks;
    }
}

/// How long Envoy keeps connections.
pub(super) fn connections(connections: &Connections) -> CommonHttpOptions {
    CommonHttpOptions {
        idle_timeout: Some(duration(connections.idle)),
        max_connection_duration: connections.max_age.map(duration),
        ..CommonHttpOptions::default()
    }
}

/// Holds back requests to a service port that answers more slowly than it can. An Envoy beside an app has a listener for each, so that its filter
/// knows one service; a gateway's would hold back all.
pub(super) fn adaptive_filter(limits: &Limits) -> Option<HttpFilter> {
    let adaptive = limits.adaptive?;
    let percent = |value: u32| Some(Percent { value: value.into() });
    let controller = GradientControllerConfig {
        sample_aggregate_percentile: percent(50),
        concurrency_limit_params: Some(ConcurrencyLimitCalculationParams {
            max_concurrency_limit: number(adaptive.maximum),
            concurrency_update_interval: Some(duration(adaptive.interval)),
            ..ConcurrencyLimitCalculationParams::default()
        }),
        min_rtt_calc_params: Some(MinimumRttCalculationParams {
            interval: Some(duration(LEAST_LATENCY_ASKED)),
            min_concurrency: number(adaptive.minimum),
            buffer: percent(adaptive.tolerance_percent),
            ..MinimumRttCalculationParams::default()
        }),
    };
    let config = AdaptiveConcurrency {
        concurrency_controller_config: Some(ConcurrencyControllerConfig::GradientControllerConfig(controller)),
        ..AdaptiveConcurrency::default()
    };
    Some(HttpFilter {
        name: "envoy.filters.http.adaptive_concurrency".to_owned(),
        config_type: Some(http_filter::ConfigType::TypedConfig(pack(&config))),
        ..HttpFilter::default()
    })
}

fn slow_start(slow_start: SlowStart) -> SlowStartConfig {
    SlowStartConfig {
        slow_start_window: Some(duration(slow_start.window)),
        min_weight_percent: Some(Percent { value: slow_start.minimum_percent.into() }),
        ..SlowStartConfig::default()
    }
}

/// Unset would mean Envoy's 1,024 connections and requests, and 3 retries.
fn circuit_breakers(limits: &Limits) -> CircuitBreakers {
    let (max_retries, retry_budget) = match limits.retries {
        RetryLimit::AtMost(most) => (number(most), None),
        RetryLimit::Budget { percent, minimum } => {
            let budget = RetryBudget {
                budget_percent: Some(Percent { value: percent.into() }),
                min_retry_concurrency: number(minimum),
                ..RetryBudget::default()
            };
            (None, Some(budget))
        }
    };
    let thresholds = Thresholds {
        max_connections: number(limits.connections.unwrap_or(u32::MAX)),
        max_pending_requests: number(limits.pending),
        max_requests: number(limits.requests.unwrap_or(u32::MAX)),
        max_retries,
        retry_budget,
        ..Thresholds::default()
    };
    CircuitBreakers { thresholds: vec![thresholds], ..CircuitBreakers::default() }
}

/// Every kind is said to be on or off: unset, some are on.
fn outlier_detection(ejection: &Ejection) -> OutlierDetection {
    let enforced = |on: bool| number(if on { 100 } else { 0 });
    let rate = ejection.success_rate;
    let failures = ejection.failure_percentage;
    OutlierDetection {
        consecutive_5xx: ejection.consecutive_5xx.and_then(number),
        enforcing_consecutive_5xx: enforced(ejection.consecutive_5xx.is_some()),
        consecutive_gateway_failure: ejection.consecutive_gateway.and_then(number),
        enforcing_consecutive_gateway_failure: enforced(ejection.consecutive_gateway.is_some()),
        split_external_local_origin_errors: true,
        consecutive_local_origin_failure: ejection.consecutive_local.and_then(number),
        enforcing_consecutive_local_origin_failure: enforced(ejection.consecutive_local.is_some()),
        interval: Some(duration(ejection.interval)),
        base_ejection_time: Some(duration(ejection.base_time)),
        max_ejection_time: Some(duration(ejection.max_time)),
        max_ejection_percent: number(ejection.max_percent),
        always_eject_one_host: Some(BoolValue { value: true }),
        enforcing_success_rate: enforced(rate.is_some()),
        enforcing_local_origin_success_rate: enforced(false),
        success_rate_minimum_hosts: rate.and_then(|rate| number(rate.minimum_hosts)),
        success_rate_request_volume: rate.and_then(|rate| number(rate.request_volume)),
        success_rate_stdev_factor: rate.and_then(|rate| number(rate.stdev_factor)),
        enforcing_failure_percentage: enforced(failures.is_some()),
        enforcing_failure_percentage_local_origin: enforced(false),
        failure_percentage_threshold: failures.and_then(|failures| number(failures.threshold)),
        failure_percentage_minimum_hosts: failures.and_then(|failures| number(failures.minimum_hosts)),
        failure_percentage_request_volume: failures.and_then(|failures| number(failures.request_volume)),
        ..OutlierDetection::default()
    }
}

fn health_check(check: &HealthCheck, protocol: Protocol, service: &str) -> EnvoyHealthCheck {
    let http2 = matches!(protocol, Protocol::Http2 | Protocol::Grpc);
    let alpn = |http2: bool| Some(TlsOptions { alpn_protocols: vec![if http2 { "h2" } else { "http/1.1" }.to_owned()] });
    let (checker, tls_options) = match &check.ask {
        HealthQuestion::Http { path, host, expected } => {
            let range =
                |range: &std::ops::RangeInclusive<u16>| Int64Range { start: (*range.start()).into(), end: i64::from(*range.end()) + 1 };
            let codec = if http2 { CodecClientType::Http2 } else { CodecClientType::Http1 };
            let http = HttpHealthCheck {
                host: host.clone().unwrap_or_else(|| service.to_owned()),
                path: path.clone(),
                expected_statuses: expected.iter().map(range).collect(),
                // Any other answer counts to the threshold; by itself Envoy would leave the endpoint out at once.
                retriable_statuses: vec![Int64Range { start: 100, end: 600 }],
                codec_client_type: codec.into(),
                ..HttpHealthCheck::default()
            };
            (HealthChecker::HttpHealthCheck(http), alpn(http2))
        }
        HealthQuestion::Grpc { service } => {
            let grpc = GrpcHealthCheck { service_name: service.clone(), ..GrpcHealthCheck::default() };
            (HealthChecker::GrpcHealthCheck(grpc), alpn(true))
        }
        HealthQuestion::Tcp => (HealthChecker::TcpHealthCheck(TcpHealthCheck::default()), None),
    };
    let count = |value: u32| Some(UInt32Value { value });
    EnvoyHealthCheck {
        timeout: Some(duration(check.timeout)),
        interval: Some(duration(check.interval)),
        interval_jitter_percent: 10,
        unhealthy_threshold: count(check.unhealthy_threshold),
        healthy_threshold: count(check.healthy_threshold),
        health_checker: Some(checker),
        tls_options,
        ..EnvoyHealthCheck::default()
    }
}
