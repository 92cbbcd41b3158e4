//! A record as what expressions ask about.

use std::net::{Ipv4Addr, SocketAddr};

use lorica_model::cel::{Attributes, Exchange};
use lorica_model::spiffe::SpiffeId;

use super::format::downstream_identity;
use super::line::{details, failed_to_connect, known};
use crate::record::Record;

/// Evaluates something over a record.
pub fn with_attributes<T>(record: &Record<'_>, evaluate: impl FnOnce(&Attributes<'_>) -> T) -> T {
    let http = record.http.as_ref();
    let identity: Option<SpiffeId> = downstream_identity(record).and_then(|identity| identity.parse().ok());
    let exchange = Exchange {
        request_id: http.map(|http| &*http.request_id).and_then(known),
        request_size: record.received,
        duration: record.duration,
        code: http.map_or(0, |http| http.status),
        code_details: details(record),
        flags: record.flag(),
        grpc_status: http.and_then(|http| http.grpc_status),
        headers: http.and_then(|http| http.response.as_deref()),
        trailers: http.and_then(|http| http.trailers.as_deref()),
        response_size: record.sent,
        backend_latency: http.and_then(|http| http.upstream_time),
        destination: record.local,
        upstream: record.upstream,
        transport_failure: known(&record.detail).filter(|_| failed_to_connect(record)),
        attempts: http.map_or(0, |http| http.attempts),
        route: record.route.as_ref().map(|route| route as &dyn std::fmt::Display),
    };
    evaluate(&Attributes {
        head: http.and_then(|http| http.head),
        time: record.start,
        claims: None,
        source: record.remote.unwrap_or(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))),
        identity: identity.as_ref(),
        server_name: record.server_name,
        exchange: Some(exchange),
    })
}
