//! The endpoints of a service port, grouped by locality. Lorica's proxy puts near ones first by itself; an Envoy is told by priorities.

use std::collections::{BTreeMap, BTreeSet};

use envoy_types::pb::envoy::config::core::v3::{Locality as EnvoyLocality, Metadata};
use envoy_types::pb::envoy::config::endpoint::v3::{
    ClusterLoadAssignment, Endpoint as EnvoyEndpoint, LbEndpoint, LocalityLbEndpoints, cluster_load_assignment::Policy,
    lb_endpoint::HostIdentifier,
};
use lorica_model::snapshot::{Balancing, Endpoint, EndpointSet, Locality, Transport, Version};

use super::{MUTUAL_TLS, PLAINTEXT, address, number, transport_match};
use crate::facts::{EndpointFacts, TRANSPORT_MATCH, metadata};
use crate::node::Dialect;
use crate::{Kind, Resource};

/// The resource of `set`.
#[must_use]
pub fn endpoints(set: &EndpointSet, dialect: Dialect) -> Resource {
    assigned(set, assignment(set, dialect), Version::of(set))
}

/// The resource of `set` for an Envoy at `own`: what is nearer has a higher priority, as far as the policy prefers near ones.
#[must_use]
pub fn endpoints_near(set: &EndpointSet, own: &Locality, balancing: &Balancing) -> Resource {
    let mut out = assignment(set, Dialect::Envoy);
    let distance = |group: &LocalityLbEndpoints| {
        let of = group.locality.as_ref().map(|of| Locality { region: of.region.clone(), zone: of.zone.clone() });
        own.distance(&of.unwrap_or_default(), balancing.prefer)
    };
    let distances: BTreeSet<u32> = out.endpoints.iter().map(distance).collect();
    for group in &mut out.endpoints {
        // Priorities have no gaps.
        group.priority = (0..).zip(&distances).find(|(_, known)| **known == distance(group)).map_or(0, |(rank, _)| rank);
    }
    let factor = balancing.overprovisioning_percent;
    if factor != OVERPROVISIONING {
        out.policy = Some(Policy { overprovisioning_factor: number(factor), ..Policy::default() });
    }
    let priorities: Vec<u32> = out.endpoints.iter().map(|group| group.priority).collect();
    let version = if out.policy.is_none() && priorities.iter().all(|priority| *priority == 0) {
        Version::of(set)
    } else {
        Version::of(&(set, priorities, factor))
    };
    assigned(set, out, version)
}

/// Envoy's over-provisioning where nothing is said, in percent.
const OVERPROVISIONING: u32 = 140;

fn assigned(set: &EndpointSet, assignment: ClusterLoadAssignment, version: Version) -> Resource {
    Resource::new(Kind::Endpoints, set.port.to_string(), version, &assignment)
}

fn assignment(set: &EndpointSet, dialect: Dialect) -> ClusterLoadAssignment {
    let mut localities: BTreeMap<&Locality, Vec<LbEndpoint>> = BTreeMap::new();
    for one in &set.endpoints {
        localities.entry(&one.locality).or_default().push(endpoint(one));
    }
    ClusterLoadAssignment {
        cluster_name: set.port.to_string(),
        endpoints: localities.into_iter().map(|(locality, endpoints)| group(locality, endpoints, dialect)).collect(),
        ..ClusterLoadAssignment::default()
    }
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
