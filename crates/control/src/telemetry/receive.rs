//! OTLP in: spans and log records, from the owner of the control plane's socket, from hosts and workloads over mutual TLS, and on a port.
//!
//! A peer over mutual TLS tells only of itself: a workload of its own service, a host of those that its token named, and nobody of a workload that
//! another was let in for. A port believes whoever reaches it; it is of this host alone unless its owner says otherwise.

use std::sync::Arc;

use lorica_model::name::{Namespace, ServiceName, WorkloadName};
use lorica_observe::store::Kind;
use lorica_observe::store::intake::{self, Checked};
use lorica_xds::server::Peer;
use opentelemetry_proto::tonic::collector::logs::v1::logs_service_server::{LogsService, LogsServiceServer};
use opentelemetry_proto::tonic::collector::logs::v1::{ExportLogsPartialSuccess, ExportLogsServiceRequest, ExportLogsServiceResponse};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::logs::v1::ResourceLogs;
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::ResourceSpans;
use tonic::codec::CompressionEncoding;
use tonic::{Request, Response, Status};

use super::kept::Kept;
use crate::claims::Claimant;
use crate::hosts::Hosts;

/// The largest message, in bytes, also once it is unpacked: gRPC's own default.
pub(crate) const MAX_MESSAGE: usize = 4 * 1024 * 1024;

/// Takes OTLP.
#[derive(Clone)]
pub(crate) struct Receiver {
    kept: Arc<Kept>,
    /// Who judges what peers tell; none: whoever is heard is believed.
    hosts: Option<Arc<Hosts>>,
}

/// How much of a message was not taken, and why.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Rejected {
    pub(crate) count: u64,
    pub(crate) why: String,
}

impl Rejected {
    fn add(&mut self, count: u64, why: impl FnOnce() -> String) {
        if count > 0 && self.count == 0 {
            self.why = why();
        }
        self.count += count;
    }

    /// As OTLP counts.
    fn signed(&self) -> i64 {
        i64::try_from(self.count).unwrap_or(i64::MAX)
    }
}

impl Receiver {
    /// One that lets a peer tell of itself only.
    pub(crate) fn judging(kept: Arc<Kept>, hosts: Arc<Hosts>) -> Self {
        Self { kept, hosts: Some(hosts) }
    }

    /// One that believes whoever reaches it.
    pub(crate) fn believing(kept: Arc<Kept>) -> Self {
        Self { kept, hosts: None }
    }

    /// The gRPC services.
    pub(crate) fn services(&self) -> (TraceServiceServer<Self>, LogsServiceServer<Self>) {
        let traces = TraceServiceServer::new(self.clone());
        let logs = LogsServiceServer::new(self.clone());
        (
            traces.accept_compressed(CompressionEncoding::Gzip).max_decoding_message_size(MAX_MESSAGE),
            logs.accept_compressed(CompressionEncoding::Gzip).max_decoding_message_size(MAX_MESSAGE),
        )
    }

    /// Takes spans that somebody may tell of.
    pub(crate) fn take_spans(&self, spans: Vec<ResourceSpans>, mut rejected: Rejected) -> Rejected {
        let checked = intake::check_spans(spans);
        let (kept, store) = (checked.kept, self.kept.store());
        self.refused(Kind::Spans, &checked, &mut rejected);
        if !store.offer_spans(checked) {
            rejected.add(kept, overflow);
        }
        rejected
    }

    /// Takes log records that somebody may tell of.
    pub(crate) fn take_logs(&self, logs: Vec<ResourceLogs>, mut rejected: Rejected) -> Rejected {
        let checked = intake::check_logs(logs);
        let (kept, store) = (checked.kept, self.kept.store());
        self.refused(Kind::Logs, &checked, &mut rejected);
        if !store.offer_logs(checked) {
            rejected.add(kept, overflow);
        }
        rejected
    }

    fn refused<T>(&self, kind: Kind, checked: &Checked<T>, rejected: &mut Rejected) {
        rejected.add(checked.refused, || checked.why.clone().unwrap_or_default());
        self.kept.refuse(kind, rejected.count);
    }

    /// Who sends.
    async fn teller(&self, peer: Option<Peer>) -> Result<Teller, Status> {
        let Some(hosts) = &self.hosts else { return Ok(Teller(None)) };
        let judge = hosts.clone();
        // Off the runtime's threads, as it reads the store.
        let judged = tokio::task::spawn_blocking(move || judge.claimant(peer.as_ref()));
        let claimant = judged.await.map_err(|error| Status::internal(error.to_string()))??;
        Ok(Teller(Some((hosts.clone(), claimant))))
    }
}

fn overflow() -> String {
    "more waits to be written than there is room for".to_owned()
}

/// Who sends, and who knows what that one may tell of; none: whoever is heard is believed.
struct Teller(Option<(Arc<Hosts>, Claimant)>);

impl Teller {
    /// Lets it tell of a resource, or says why not.
    fn judge(&self, resource: &mut Option<Resource>) -> Result<(), String> {
        match &self.0 {
            Some((hosts, claimant)) => judge(resource, claimant, |workload| hosts.is_anothers(claimant, workload)),
            None => Ok(()),
        }
    }
}

/// Lets a peer tell of a resource, or says why not. A workload that does not say who it is, is itself.
fn judge(resource: &mut Option<Resource>, claimant: &Claimant, is_anothers: impl Fn(&WorkloadName) -> bool) -> Result<(), String> {
    let own = |key: &str| resource.as_ref().and_then(|resource| intake::text(&resource.attributes, key)).filter(|text| !text.is_empty());
    let (name, namespace) = (own("service.name"), own("service.namespace"));
    let service = match (name, namespace) {
        (Some(name), Some(namespace)) => format!("{name}.{namespace}").parse::<ServiceName>().ok(),
        _ => None,
    };
    let told = || intake::service(resource.as_ref());
    let instance = own("service.instance.id").and_then(|instance| instance.parse().ok());
    if instance.as_ref().is_some_and(is_anothers) {
        return Err(format!("{} tells of a workload of {} that another was let in for", claimant.word(), told()));
    }
    match claimant {
        Claimant::Owner => Ok(()),
        Claimant::Host { services, .. } if services.is_empty() => Ok(()),
        Claimant::Host { name: host, services } => match service {
            Some(service) if services.contains(&service) => Ok(()),
            _ => Err(format!("the host {host} tells of {}, for which it did not join", told())),
        },
        Claimant::Workload { namespace: its, account } => match (&service, name, namespace) {
            (_, None, None) => {
                let resource = resource.get_or_insert_with(Resource::default);
                resource.attributes.retain(|attribute| attribute.key != "service.name" && attribute.key != "service.namespace");
                resource.attributes.extend([text("service.name", account.as_str()), text("service.namespace", its.as_str())]);
                Ok(())
            }
            (Some(service), ..) if is(service, its, account.as_str()) => Ok(()),
            _ => Err(format!("the caller is {account}.{its}, and tells of {}", told())),
        },
    }
}

fn is(service: &ServiceName, namespace: &Namespace, name: &str) -> bool {
    service.namespace == *namespace && service.name.as_str() == name
}

fn text(key: &str, value: &str) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(Value::StringValue(value.to_owned())) }), ..KeyValue::default() }
}

#[tonic::async_trait]
impl TraceService for Receiver {
    async fn export(&self, request: Request<ExportTraceServiceRequest>) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let teller = self.teller(request.extensions().get().cloned()).await?;
        let mut spans = request.into_inner().resource_spans;
        let mut rejected = Rejected::default();
        spans.retain_mut(|spans| match teller.judge(&mut spans.resource) {
            Ok(()) => true,
            Err(why) => {
                rejected.add(spans.scope_spans.iter().map(|scope| scope.spans.len() as u64).sum(), || why);
                false
            }
        });
        Ok(Response::new(spans_taken(self.take_spans(spans, rejected))))
    }
}

#[tonic::async_trait]
impl LogsService for Receiver {
    async fn export(&self, request: Request<ExportLogsServiceRequest>) -> Result<Response<ExportLogsServiceResponse>, Status> {
        let teller = self.teller(request.extensions().get().cloned()).await?;
        let mut logs = request.into_inner().resource_logs;
        let mut rejected = Rejected::default();
        logs.retain_mut(|logs| match teller.judge(&mut logs.resource) {
            Ok(()) => true,
            Err(why) => {
                rejected.add(logs.scope_logs.iter().map(|scope| scope.log_records.len() as u64).sum(), || why);
                false
            }
        });
        Ok(Response::new(logs_taken(self.take_logs(logs, rejected))))
    }
}

/// The answer to spans. What was rejected must not be sent again.
pub(crate) fn spans_taken(rejected: Rejected) -> ExportTraceServiceResponse {
    let some = rejected.count > 0;
    let partial = ExportTracePartialSuccess { rejected_spans: rejected.signed(), error_message: rejected.why };
    ExportTraceServiceResponse { partial_success: some.then_some(partial) }
}

/// The answer to log records.
pub(crate) fn logs_taken(rejected: Rejected) -> ExportLogsServiceResponse {
    let some = rejected.count > 0;
    let partial = ExportLogsPartialSuccess { rejected_log_records: rejected.signed(), error_message: rejected.why };
    ExportLogsServiceResponse { partial_success: some.then_some(partial) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn named(attributes: &[(&str, &str)]) -> Option<Resource> {
        Some(Resource { attributes: attributes.iter().map(|(key, value)| text(key, value)).collect(), ..Resource::default() })
    }

    fn check(claimant: &Claimant, attributes: &[(&str, &str)], expected: Result<&str, &str>) {
        let mut resource = named(attributes);
        let judged = judge(&mut resource, claimant, |workload| workload.to_string() == "theirs.shop");
        match (judged, expected) {
            (Ok(()), Ok(service)) => assert_eq!(intake::service(resource.as_ref()), service, "{attributes:?}"),
            (Err(why), Err(said)) => assert!(why.contains(said), "{why}"),
            (judged, _) => panic!("{attributes:?}: {judged:?}"),
        }
    }

    #[test]
    fn a_peer_tells_of_itself_only() {
        let web = [("service.name", "web"), ("service.namespace", "shop")];
        let other = [("service.name", "billing"), ("service.namespace", "shop")];
        let half = [("service.name", "web")];
        let theirs = [web.as_slice(), &[("service.instance.id", "theirs.shop")]].concat();
        let workload = Claimant::Workload { namespace: Namespace::new("shop").unwrap(), account: "web".parse().unwrap() };
        check(&workload, &web, Ok("web.shop"));
        // It is itself, whatever else it says.
        check(&workload, &[("service.name", ""), ("k", "v")], Ok("web.shop"));
        check(&workload, &other, Err("the caller is web.shop, and tells of billing.shop"));
        check(&workload, &half, Err("the caller is web.shop, and tells of web"));
        check(&workload, &theirs, Err("a workload of web.shop that another was let in for"));
        let mut none = None;
        judge(&mut none, &workload, |_| false).unwrap();
        assert_eq!(intake::service(none.as_ref()), "web.shop");

        let host = |services: &[&str]| Claimant::Host {
            name: "web-1".parse().unwrap(),
            services: services.iter().map(|service| service.parse().unwrap()).collect(),
        };
        check(&host(&["web.shop"]), &web, Ok("web.shop"));
        check(&host(&["web.shop"]), &other, Err("the host web-1 tells of billing.shop, for which it did not join"));
        check(&host(&["web.shop"]), &half, Err("the host web-1 tells of web, for which it did not join"));
        check(&host(&["web.shop"]), &[], Err("the host web-1 tells of unknown_service"));
        check(&host(&[]), &other, Ok("billing.shop"));
        check(&host(&[]), &theirs, Err("another was let in for"));
        check(&Claimant::Owner, &other, Ok("billing.shop"));
    }
}
