//! What a series is counted under: Istio's labels, by Istio's conventions, and which route decided.

use std::sync::Arc;

use crate::exposition::Labels;
use crate::record::{Called, OTHER, Party, Protocol, Record, Reporter, Route, Security, UNKNOWN};

/// The highest status that gRPC knows. What is above is `UNKNOWN` to gRPC, and so it is counted: a service that makes up
/// statuses makes no series.
const MAX_GRPC_STATUS: u32 = 16;
const GRPC_UNKNOWN: u32 = 2;

/// Codes that tell series of the same parties apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Codes {
    pub(super) reporter: Reporter,
    pub(super) protocol: Protocol,
    security: Security,
    flag: &'static str,
    status: u16,
    grpc_status: Option<u32>,
}

impl Codes {
    pub(super) fn of(record: &Record<'_>) -> Self {
        let (status, grpc_status) = record.http.as_ref().map_or((0, None), |http| {
            let grpc = http.grpc_status.map(|status| if status > MAX_GRPC_STATUS { GRPC_UNKNOWN } else { status });
            (http.status, grpc)
        });
        Self { reporter: record.reporter, protocol: record.protocol, security: record.security, flag: record.flag(), status, grpc_status }
    }

    /// What is counted together once the bound is reached: whoever it was; by class of status, as there are few of them.
    fn folded(self) -> Self {
        Self { status: self.status / 100 * 100, ..self }
    }
}

/// The labels under which a record counts.
pub(super) fn labels(record: &Record<'_>) -> Labels {
    let route = match &record.route {
        Some(Route::Rule(origin)) => [origin.kind.as_str(), &origin.namespace, &origin.name],
        Some(Route::Outside) | None => [UNKNOWN; 3],
    };
    written(&Codes::of(record), &record.source, &record.destination, &record.called, route)
}

/// Those under which it counts past the bound.
pub(super) fn folded(record: &Record<'_>) -> Labels {
    let other = Arc::new(Party::named(OTHER));
    written(&Codes::of(record).folded(), &other, &other, &Called::named(OTHER), [OTHER; 3])
}

/// Istio's labels in its order, and the route's among them. The cluster labels tell meshes of several sites apart; here there is one.
fn written(codes: &Codes, source: &Party, destination: &Party, called: &Called, route: [&str; 3]) -> Labels {
    let Codes { reporter, protocol, security, flag, status, grpc_status } = codes;
    let [route_kind, route_namespace, route_name] = route;
    let common = [
        ("reporter", reporter.word()),
        ("source_workload", &source.workload),
        ("source_canonical_service", &source.service),
        ("source_canonical_revision", source.revision()),
        ("source_workload_namespace", &source.namespace),
        ("source_principal", &source.principal),
        ("source_app", &source.service),
        ("source_version", &source.version),
        ("source_cluster", UNKNOWN),
        ("destination_service", &called.fqdn),
        ("destination_service_name", &called.name),
        ("destination_service_namespace", &called.namespace),
        ("destination_workload", &destination.workload),
        ("destination_canonical_service", &destination.service),
        ("destination_canonical_revision", destination.revision()),
        ("destination_workload_namespace", &destination.namespace),
        ("destination_principal", &destination.principal),
        ("destination_app", &destination.service),
        ("destination_version", &destination.version),
        ("destination_cluster", UNKNOWN),
        ("request_protocol", protocol.word()),
        ("response_flags", flag),
        ("connection_security_policy", security.word()),
        ("route_kind", route_kind),
        ("route_namespace", route_namespace),
        ("route_name", route_name),
    ];
    // Dashboards join on these: none is empty.
    let common = common.map(|(name, value)| (name, if value.is_empty() { UNKNOWN } else { value }));
    if *protocol == Protocol::Tcp {
        return Labels::new(common);
    }
    let (status, grpc_status) = (status.to_string(), grpc_status.map(|status| status.to_string()).unwrap_or_default());
    // Empty without one, as in Istio: the only label that may be.
    Labels::new(common.into_iter().chain([("response_code", status.as_str()), ("grpc_response_status", &grpc_status)]))
}
