//! What comes over the wire to a proxy or to the control plane, as fuzzers call it: bytes in, nothing out. It may be refused, and nothing else.
//!
//! Compiled for tests, which run it on bytes by chance, and for `fuzz/` (`cargo xtask fuzz`), which runs it for longer.

#![allow(clippy::panic, reason = "a mistake that is found ends the run")]

use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::accesslog::v3::StreamAccessLogsMessage;
use envoy_types::pb::envoy::service::accesslog::v3::stream_access_logs_message::LogEntries;
use envoy_types::pb::envoy::service::ratelimit::v3::RateLimitRequest;
use envoy_types::pb::google::protobuf::Any;
use lorica_model::compile::{self, RegisteredPort, RegisteredWorkload, Registry, VirtualAddresses, World};
use lorica_model::name::{GatewayName, ServiceName, WorkloadName};
use lorica_model::resource::{Resources, read};
use lorica_model::snapshot::{Locality, Protocol, Transport};
use lorica_model::spiffe::TrustDomain;
use prost::Message;

use crate::rate_limit::{Ask, Descriptor, Grant, Ledger, Taken};
use crate::{Dialect, Kind, NodeMetadata, Resource, decode, encode, observed, rate_limit, refused};

/// A name, what is run on bytes, and bytes to begin with.
pub type Target = (&'static str, fn(&[u8]), fn() -> Vec<Vec<u8>>);

/// All of this crate.
pub const TARGETS: [Target; 3] = [("xds", xds, xds_samples), ("access_log", access_log, Vec::new), ("rate_limit", limits, limit_samples)];

/// A resource for Lorica's proxy. The first byte says which.
pub fn xds(bytes: &[u8]) {
    let Some((which, value)) = bytes.split_first() else { return };
    let any = |kind: Kind| Any { type_url: kind.type_url().to_owned(), value: value.to_vec() };
    match which % 9 {
        0 => drop(decode::bundle("bundle", &any(Kind::Secret))),
        1 => drop(decode::cluster("web.shop.mesh:80", &any(Kind::Cluster))),
        2 => drop(decode::endpoints("web.shop.mesh:80", &any(Kind::Endpoints))),
        3 => drop(decode::outbound_listener("web.shop.mesh:80", &any(Kind::Listener))),
        4 => drop(decode::inbound("inbound/web.shop", &any(Kind::Listener))),
        5 => drop(decode::gateway("gateway/edge.shop:80", &any(Kind::Listener))),
        6 => drop(decode::egress("egress/web.shop", &any(Kind::Listener))),
        7 => drop(decode::rules("web.shop.mesh:80", &any(Kind::Route))),
        _ => drop(decode::names("shop", &any(Kind::Names))),
    }
}

/// What proxies, stock Envoys among them, tell the control plane: who they are and what they saw.
pub fn access_log(bytes: &[u8]) {
    if let Ok(node) = Node::decode(bytes) {
        drop(NodeMetadata::of(&node));
    }
    let Ok(message) = StreamAccessLogsMessage::decode(bytes) else { return };
    match message.log_entries {
        Some(LogEntries::HttpLogs(logs)) => logs.log_entry.into_iter().for_each(|entry| {
            drop(observed::of_http(entry.clone()));
            drop(refused::of_http(entry));
        }),
        Some(LogEntries::TcpLogs(logs)) => logs.log_entry.into_iter().for_each(|entry| {
            drop(observed::of_tcp(entry.clone()));
            drop(refused::of_tcp(entry));
        }),
        None => {}
    }
}

struct Nothing;

impl Ledger for Nothing {
    fn take(&self, _: &Descriptor, hits: u64) -> Taken {
        Taken::Passes(hits)
    }
    fn lend(&self, _: &WorkloadName, ask: &Ask) -> Grant {
        Grant { tokens: Some(ask.wanted), wait: std::time::Duration::MAX, proxies: 1 }
    }
}

/// The messages of the rate limit protocol, both ways.
pub fn limits(bytes: &[u8]) {
    drop(rate_limit::said(bytes));
    let Ok(RateLimitRequest { descriptors, hits_addend, .. }) = RateLimitRequest::decode(bytes) else { return };
    drop(rate_limit::counted(&Nothing, descriptors.clone(), hits_addend));
    let Ok(proxy) = "web-1.shop".parse() else { return };
    drop(rate_limit::lent(&Nothing, &proxy, descriptors));
}

fn limit_samples() -> Vec<Vec<u8>> {
    let of = Descriptor { limit: "p.n/l".to_owned(), key: vec![("header/x-team".to_owned(), "a".to_owned())] };
    let question = rate_limit::question("lorica", &[of]);
    vec![question.to_vec(), question.slice(5..).to_vec()]
}

/// What sample resources compile to, as it is sent.
fn xds_samples() -> Vec<Vec<u8>> {
    let written = include_str!("../../model/src/fuzzing/sample.yaml");
    let mut resources = Resources::default();
    for document in read("sample.yaml", written).unwrap_or_default() {
        resources.insert(document.resource);
    }
    let (trust_domain, mut registry) = (TrustDomain::default(), Registry::without_addresses(&resources));
    let (Ok(web), Ok(edge)) = ("web.shop".parse::<ServiceName>(), "edge.shop".parse::<GatewayName>()) else { return Vec::new() };
    let name = WorkloadName::new(web.namespace.clone(), web.name.clone());
    let app =
        RegisteredPort { service_port: 80, app_port: 8080, protocol: Protocol::Http, address: ([10, 0, 0, 1], 80).into(), listening: true };
    let workload = RegisteredWorkload {
        service: Some(web.clone()),
        account: web.name.clone(),
        version: None,
        weight: 1,
        transport: Transport::Lorica,
        locality: Locality::default(),
        addresses: VirtualAddresses::NONE,
        ports: vec![app],
        gateway: None,
        draining: false,
        withdrawn: false,
    };
    registry.workloads.insert(name.clone(), workload);
    let world = World { resources: &resources, registry: &registry, trust_domain: &trust_domain };
    let ports: Vec<_> = compile::outbound_ports(&world).collect();
    let snapshot = compile::snapshot(&world, &web.namespace, &ports, Some(&name), Some(&edge));
    let metadata = NodeMetadata::client(web.namespace.clone(), web.name.clone());
    let context = || encode::Context::of(&metadata);
    let mut sent = Vec::new();
    for unit in snapshot.outbound.values() {
        sent.extend(encode::outbound(unit, Dialect::Lorica, context()));
    }
    for unit in snapshot.gateway.values() {
        sent.extend(encode::gateway(unit, Dialect::Lorica, context()));
    }
    sent.extend(snapshot.endpoints.values().map(|endpoints| encode::endpoints(endpoints, Dialect::Lorica)));
    sent.extend(snapshot.inbound.iter().map(|inbound| encode::inbound(inbound)));
    sent.push(encode::egress(&compile::egress(&world, &name, &web.name)));
    sent.extend(compile::names(&world).values().map(encode::names));
    let which = |resource: &Resource| match resource.kind {
        Kind::Secret | Kind::Extension => 0,
        Kind::Cluster => 1,
        Kind::Endpoints => 2,
        Kind::Listener if resource.name.starts_with("inbound/") => 4,
        Kind::Listener if resource.name.starts_with("gateway/") => 5,
        Kind::Listener if resource.name.starts_with("egress/") => 6,
        Kind::Listener => 3,
        Kind::Route => 7,
        Kind::Names => 8,
    };
    sent.iter().map(|resource| [vec![which(resource)], resource.body.value.clone()].concat()).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_bytes_break_a_decoder(noise in prop::collection::vec(any::<u8>(), 0..200), which in any::<prop::sample::Index>(), at in any::<prop::sample::Index>()) {
            for (_, run, samples) in TARGETS {
                run(&noise);
                let samples = samples();
                if samples.is_empty() {
                    continue;
                }
                let mut bytes = which.get(&samples).clone();
                let at = at.index(bytes.len());
                let end = (at + noise.len() % 9).min(bytes.len());
                bytes.splice(at..end, noise.iter().copied().take(8));
                run(&bytes);
            }
        }
    }

    #[test]
    fn there_is_a_good_sample_of_every_message() {
        let mut samples: Vec<u8> = xds_samples().iter().map(|sample| sample[0]).collect();
        samples.sort_unstable();
        samples.dedup();
        assert_eq!(samples, [1, 2, 3, 4, 5, 6, 7, 8]);
        for sample in xds_samples().iter().filter(|sample| sample[0] == 5) {
            let any = Any { type_url: Kind::Listener.type_url().to_owned(), value: sample[1..].to_vec() };
            decode::gateway("gateway/edge.shop:80", &any).unwrap();
        }
    }
}
