//! Metrics as an app tells them, by OTLP.

use std::path::Path;

use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_client::MetricsServiceClient;
use opentelemetry_proto::tonic::collector::metrics::v1::{ExportMetricsPartialSuccess, ExportMetricsServiceRequest};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value as Number;
use opentelemetry_proto::tonic::metrics::v1::{Gauge, Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics};

/// A value of a series at a time.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Point {
    pub(crate) name: &'static str,
    pub(crate) labels: Vec<(&'static str, String)>,
    /// Milliseconds since 1970.
    pub(crate) at: i64,
    pub(crate) value: f64,
}

/// Tells the control plane of points, as gauges: nothing is added to their names.
pub(crate) async fn tell(socket: &Path, points: &[Point]) -> anyhow::Result<Option<ExportMetricsPartialSuccess>> {
    let channel = tonic::transport::Endpoint::try_from(format!("unix://{}", socket.display()))?.connect().await?;
    let mut client = MetricsServiceClient::new(channel);
    let mut refused = None;
    for points in points.chunks(1000) {
        let metric = |point: &Point| {
            let attribute = |(name, value): &(&str, String)| KeyValue {
                key: (*name).to_owned(),
                value: Some(AnyValue { value: Some(Value::StringValue(value.clone())) }),
                ..KeyValue::default()
            };
            let data = NumberDataPoint {
                attributes: point.labels.iter().map(attribute).collect(),
                time_unix_nano: u64::try_from(point.at).unwrap_or_default() * 1_000_000,
                value: Some(Number::AsDouble(point.value)),
                ..NumberDataPoint::default()
            };
            Metric { name: point.name.to_owned(), data: Some(Data::Gauge(Gauge { data_points: vec![data] })), ..Metric::default() }
        };
        let scope_metrics = vec![ScopeMetrics { metrics: points.iter().map(metric).collect(), ..ScopeMetrics::default() }];
        let resource_metrics = vec![ResourceMetrics { scope_metrics, ..ResourceMetrics::default() }];
        let answer = client.export(ExportMetricsServiceRequest { resource_metrics }).await?.into_inner();
        refused = refused.or(answer.partial_success);
    }
    Ok(refused)
}
