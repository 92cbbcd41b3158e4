//! Metrics in: OTLP's `MetricsService`, from proxies and apps. What is taken can be asked for once it is answered.

use std::sync::Arc;
use std::time::SystemTime;

use lorica_model::name::ServiceName;
use lorica_observe::exposition::Family;
use lorica_observe::series::otlp::{self, Intake};
use lorica_observe::series::{SeriesStore, Stats, WriteError, milliseconds};
use lorica_xds::server::Peer;
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_server::{MetricsService, MetricsServiceServer};
use opentelemetry_proto::tonic::collector::metrics::v1::{ExportMetricsServiceRequest, ExportMetricsServiceResponse};
use opentelemetry_proto::tonic::metrics::v1::ResourceMetrics;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::resource::v1::Resource;
use tonic::codec::CompressionEncoding;
use tonic::{Request, Response, Status};

use crate::claims::Claimant;
use crate::hosts::Hosts;

/// Takes metrics.
#[derive(Clone)]
pub struct MetricsReceiver {
    series: SeriesStore,
    /// Who says what a peer may tell; none: whoever is heard is believed.
    hosts: Option<Arc<Hosts>>,
}

impl MetricsReceiver {
    /// One that lets a peer tell of itself only.
    #[must_use]
    pub fn judging(series: SeriesStore, hosts: Arc<Hosts>) -> Self {
        Self { series, hosts: Some(hosts) }
    }

    /// One that believes whoever reaches it.
    #[must_use]
    pub fn believing(series: SeriesStore) -> Self {
        Self { series, hosts: None }
    }

    /// The gRPC service.
    #[must_use]
    pub fn service(&self) -> MetricsServiceServer<Self> {
        MetricsServiceServer::new(self.clone()).accept_compressed(CompressionEncoding::Gzip)
    }

    /// Takes metrics that somebody may tell of. `refused` of them were not his, and why.
    ///
    /// # Errors
    /// `UNAVAILABLE` where they cannot be written now: OTLP's senders come again.
    pub async fn take(
        &self,
        request: &ExportMetricsServiceRequest,
        (refused, why_refused): (u64, Option<String>),
    ) -> Result<ExportMetricsServiceResponse, Status> {
        let Intake { incoming, abouts, rejected, why } = otlp::read(request, milliseconds(SystemTime::now()));
        let taken = self.series.write(incoming, abouts).await.map_err(|error| match error {
            WriteError::Busy | WriteError::Disk(_) | WriteError::Ended => Status::unavailable(error.to_string()),
        })?;
        let partial_success = otlp::partial_success(refused + rejected, why_refused.or(why), taken);
        Ok(ExportMetricsServiceResponse { partial_success })
    }

    /// Leaves out what the peer may not tell of: how many points, and why.
    async fn judge(&self, peer: Option<Peer>, request: &mut ExportMetricsServiceRequest) -> Result<(u64, Option<String>), Status> {
        let Some(hosts) = &self.hosts else { return Ok((0, None)) };
        let hosts = hosts.clone();
        // Off the runtime's threads, as it reads the store.
        let judged = tokio::task::spawn_blocking(move || hosts.claimant(peer.as_ref()));
        let claimant = judged.await.map_err(|error| Status::internal(error.to_string()))??;
        let (mut refused, mut why) = (0, None);
        request.resource_metrics.retain(|metrics| match may_tell(&claimant, metrics.resource.as_ref()) {
            Ok(()) => true,
            Err(reason) => {
                refused += points(metrics);
                why.get_or_insert(reason);
                false
            }
        });
        Ok((refused, why))
    }
}

/// How the store stands.
pub(crate) fn families(series: &SeriesStore) -> [Family; 5] {
    let Stats { series, bytes, samples, refused, dropped } = series.stats();
    #[allow(clippy::cast_precision_loss, reason = "a gauge is a float")]
    let gauge = |name, help, value: u64| Family::gauge(name, help, value as f64);
    [
        gauge("lorica_series", "Time series that are kept", series),
        gauge("lorica_series_bytes", "Bytes of the segments of time series", bytes),
        Family::counter("lorica_samples_total", "Samples of time series that were taken", samples),
        Family::counter("lorica_samples_refused_total", "Samples that were late, untimely, or of further series than are kept", refused),
        Family::counter("lorica_samples_dropped_total", "Samples that could not be written, as the queue or the disk was full", dropped),
    ]
}

/// Whether a peer may tell of a resource: a workload of its own service, a host of those that it joined for.
fn may_tell(claimant: &Claimant, resource: Option<&Resource>) -> Result<(), String> {
    let own = |key: &str| resource.and_then(|resource| otlp::attribute(resource, key)).unwrap_or_default();
    let told = format!("{}.{}", own("service.name"), own("service.namespace"));
    let service = told.parse::<ServiceName>().ok();
    match claimant {
        Claimant::Owner => Ok(()),
        Claimant::Host { services, .. } if services.is_empty() => Ok(()),
        Claimant::Host { services, .. } if service.as_ref().is_some_and(|service| services.contains(service)) => Ok(()),
        Claimant::Host { name, .. } => Err(format!("the host {name} tells of {told}, for which it did not join")),
        Claimant::Workload { namespace, account } if service == Some(ServiceName::new(namespace.clone(), account.clone())) => Ok(()),
        Claimant::Workload { namespace, account } => Err(format!("the caller is {account}.{namespace}, and tells of {told}")),
    }
}

fn points(metrics: &ResourceMetrics) -> u64 {
    let of = |data: &Data| match data {
        Data::Gauge(gauge) => gauge.data_points.len(),
        Data::Sum(sum) => sum.data_points.len(),
        Data::Histogram(histogram) => histogram.data_points.len(),
        Data::ExponentialHistogram(histogram) => histogram.data_points.len(),
        Data::Summary(summary) => summary.data_points.len(),
    };
    let metrics = metrics.scope_metrics.iter().flat_map(|scope| &scope.metrics);
    metrics.filter_map(|metric| metric.data.as_ref()).map(|data| of(data) as u64).sum()
}

#[tonic::async_trait]
impl MetricsService for MetricsReceiver {
    async fn export(&self, request: Request<ExportMetricsServiceRequest>) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        let peer = Peer::of(request.extensions());
        let mut request = request.into_inner();
        let refused = self.judge(peer, &mut request).await?;
        Ok(Response::new(self.take(&request, refused).await?))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that fails says where by panicking")]
    use super::*;
    use opentelemetry_proto::tonic::common::v1::any_value::Value;
    use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};

    fn resource(service: &str, namespace: &str) -> Resource {
        let text = |key: &str, value: &str| KeyValue {
            key: key.to_owned(),
            value: Some(AnyValue { value: Some(Value::StringValue(value.to_owned())) }),
            ..KeyValue::default()
        };
        let attributes = vec![text("service.name", service), text("service.namespace", namespace)];
        Resource { attributes, ..Resource::default() }
    }

    #[test]
    fn a_peer_tells_of_itself_only() {
        let workload = Claimant::Workload { namespace: "shop".parse().unwrap(), account: "web".parse().unwrap() };
        let host = |services: &[&str]| Claimant::Host {
            name: "a".parse().unwrap(),
            services: services.iter().map(|service| service.parse().unwrap()).collect(),
        };
        for (claimant, told, expected) in [
            (Claimant::Owner, ("any", "where"), true),
            (workload.clone(), ("web", "shop"), true),
            (workload.clone(), ("db", "shop"), false),
            (workload.clone(), ("web", "other"), false),
            (workload.clone(), ("", ""), false),
            (host(&[]), ("db", "shop"), true),
            (host(&["web.shop"]), ("web", "shop"), true),
            (host(&["web.shop"]), ("db", "shop"), false),
        ] {
            assert_eq!(may_tell(&claimant, Some(&resource(told.0, told.1))).is_ok(), expected, "{claimant:?} {told:?}");
        }
        assert!(may_tell(&workload, None).is_err());
    }
}
