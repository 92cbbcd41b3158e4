//! The endpoints of a service port, grouped by locality.

use std::collections::BTreeMap;

use envoy_types::pb::envoy::config::core::v3::{Locality as EnvoyLocality, Metadata};
use envoy_types::pb::envoy::config::endpoint::v3::{
    ClusterLoadAssignment, Endpoint as EnvoyEndpoint, LbEndpoint, LocalityLbEndpoints, lb_endpoint::HostIdentifier,
};
use lorica_model::snapshot::{Endpoint, EndpointSet, Locality, Transport, Version};

use super::{MUTUAL_TLS, PLAINTEXT, address, number, transport_match};
use crate::facts::{EndpointFacts, TRANSPORT_MATCH, metadata};
use crate::node::Dialect;
use crate::{Kind, Resource};

/// The resource of `set`.
#[must_use]
pub fn endpoints(set: &EndpointSet, dialect: Dialect) -> Resource {
    let mut localities: BTreeMap<&Locality, Vec<LbEndpoint>> = BTreeMap::new();
    for one in &set.endpoints {
        localities.entry(&one.locality).or_default().push(endpoint(one));
    }
    let name = set.port.to_string();
    let assignment = ClusterLoadAssignment {
        cluster_name: name.clone(),
        endpoints: localities.into_iter().map(|(locality, endpoints)| group(locality, endpoints, dialect)).collect(),
        ..ClusterLoadAssignment::default()
    };
    Resource::new(Kind::Endpoints, name, Version::of(set), &assignment)
}

fn group(locality: &Locality, lb_endpoints: Vec<LbEndpoint>, dialect: Dialect) -> LocalityLbEndpoints {
    let share = |endpoint: &LbEndpoint| endpoint.load_balancing_weight.map_or(1, |weight| weight.value);
    let total = lb_endpoints.iter().map(share).fold(0u32, u32::saturating_add);
    LocalityLbEndpoints {
        locality: Some(EnvoyLocality { region: locality.region.clone(), zone: locality.zone.clone(), ..EnvoyLocality::default() }),
        // gRPC passes a locality by that has no weight.
        load_balancing_weight: if dialect == Dialect::Grpc { number(total) } else { None },
        lb_endpoints,
        ..LocalityLbEndpoints::default()
    }
}

fn endpoint(endpoint: &Endpoint) -> LbEndpoint {
    let facts = EndpointFacts {
        workload: endpoint.workload.clone(),
        version: endpoint.version.clone(),
        virtual_address: endpoint.virtual_address,
        streams: endpoint.transport == Transport::Lorica,
    };
    let mut marks: Metadata = metadata(&facts);
    let transport = match endpoint.transport {
        Transport::MutualTls | Transport::Lorica => MUTUAL_TLS,
        Transport::Plaintext => PLAINTEXT,
    };
    marks.filter_metadata.insert(TRANSPORT_MATCH.to_owned(), transport_match(transport));
    let host = EnvoyEndpoint { address: Some(address(endpoint.address)), ..EnvoyEndpoint::default() };
    LbEndpoint {
        metadata: Some(marks),
        load_balancing_weight: number(endpoint.weight.max(1)),
        host_identifier: Some(HostIdentifier::Endpoint(host)),
        ..LbEndpoint::default()
    }
}
