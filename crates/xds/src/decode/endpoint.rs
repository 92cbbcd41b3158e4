//! The endpoints of a service port.

use envoy_types::pb::envoy::config::core::v3::{Locality as EnvoyLocality, Metadata};
use envoy_types::pb::envoy::config::endpoint::v3::{
    ClusterLoadAssignment, Endpoint as EnvoyEndpoint, LbEndpoint, LocalityLbEndpoints, lb_endpoint::HostIdentifier,
};
use envoy_types::pb::google::protobuf::Any;
use lorica_model::snapshot::{Endpoint, EndpointSet, Locality, Transport};

use super::{At, Fault, Rejected, address, apart, facts, open, present, service_port};
use crate::Kind;
use crate::encode::{MUTUAL_TLS, PLAINTEXT, transport_match};
use crate::facts::{EndpointFacts, TRANSPORT_MATCH};

/// Reads the endpoints of a service port, in a set's order.
///
/// # Errors
/// Names the first field that is not understood.
pub fn endpoints(name: &str, body: &Any) -> Result<EndpointSet, Rejected> {
    open(Kind::Endpoints, name, body, read)
}

fn read(at: &At<'_>, assignment: ClusterLoadAssignment) -> Result<EndpointSet, Fault> {
    apart!(at, assignment => ClusterLoadAssignment { cluster_name, endpoints: groups } unset { named_endpoints, policy });
    let port = service_port(&at.field("cluster_name"), &cluster_name)?;
    let mut endpoints = Vec::new();
    for (index, group) in groups.into_iter().enumerate() {
        let at = at.index("endpoints", index);
        apart!(at, group => LocalityLbEndpoints { locality, lb_endpoints } unset { metadata, load_balancing_weight, priority, proximity, lb_config });
        let at_locality = at.field("locality");
        apart!(at_locality, present(&at_locality, locality)? => EnvoyLocality { region, zone } unset { sub_zone });
        let locality = Locality { region, zone };
        for (index, one) in lb_endpoints.into_iter().enumerate() {
            endpoints.push(endpoint(&at.index("lb_endpoints", index), one, &locality)?);
        }
    }
    endpoints.sort();
    Ok(EndpointSet { port, endpoints })
}

fn endpoint(at: &At<'_>, one: LbEndpoint, locality: &Locality) -> Result<Endpoint, Fault> {
    apart!(at, one => LbEndpoint { metadata, load_balancing_weight, host_identifier } unset { health_status });
    let at_metadata = at.field("metadata");
    let mut metadata: Metadata = present(&at_metadata, metadata)?;
    let mark = metadata.filter_metadata.remove(TRANSPORT_MATCH);
    let transport = if mark == Some(transport_match(MUTUAL_TLS)) {
        Transport::MutualTls
    } else if mark == Some(transport_match(PLAINTEXT)) {
        Transport::Plaintext
    } else {
        return Err(at_metadata.fault(format!("`{TRANSPORT_MATCH}` is neither `{MUTUAL_TLS}` nor `{PLAINTEXT}`")));
    };
    let EndpointFacts { workload, version, virtual_address, streams } = facts(at, Some(metadata))?;
    let transport = match (transport, streams) {
        (Transport::MutualTls, true) => Transport::Lorica,
        (Transport::Plaintext, true) => return Err(at_metadata.fault("has streams without mutual TLS".to_owned())),
        (transport, _) => transport,
    };
    let at_weight = at.field("load_balancing_weight");
    let weight = present(&at_weight, load_balancing_weight)?.value;
    if weight == 0 {
        return Err(at_weight.fault("is 0".to_owned()));
    }
    let Some(HostIdentifier::Endpoint(host)) = host_identifier else {
        return Err(at.field("host_identifier").fault("is no endpoint".to_owned()));
    };
    let at = at.field("endpoint");
    apart!(at, host => EnvoyEndpoint { address: socket } unset { health_check_config, hostname, additional_addresses, observability_name });
    let address = address(&at.field("address"), socket)?;
    Ok(Endpoint { workload, address, transport, weight, version, virtual_address, locality: locality.clone() })
}
