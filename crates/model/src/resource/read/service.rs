//! Services and workloads.

use std::net::IpAddr;

use super::port;
use crate::name::{Label, Namespace, ServiceName};
use crate::resource::kinds::{ForeignIdentity, Service, ServicePortSpec, Subset, Workload, WorkloadPort};
use crate::resource::reader::Reader;
use crate::resource::tree::Node;
use crate::snapshot::{Locality, Protocol, Transport};

/// What a port may be declared as: what it speaks, and whether in TLS.
const PROTOCOLS: [(&str, (Protocol, bool)); 8] = [
    ("http", (Protocol::Http, false)),
    ("http2", (Protocol::Http2, false)),
    ("h2", (Protocol::Http2, false)),
    ("kubernetes.io/h2c", (Protocol::Http2, false)),
    ("kubernetes.io/ws", (Protocol::Http, false)),
    ("kubernetes.io/wss", (Protocol::Http, true)),
    ("grpc", (Protocol::Grpc, false)),
    ("tcp", (Protocol::Tcp, false)),
];

pub(super) fn service(node: Node, own: &Namespace, reader: &mut Reader<'_>) -> Option<Service> {
    let mut object = reader.object(node, "a Service's `spec`")?;
    let subset = object.take("subset");
    let ports = if subset.is_some() { object.take("ports") } else { object.need("ports", reader) };
    let accounts = object.take("accounts");
    let known_as = if subset.is_some() { None } else { object.take("knownAs") };
    reader.end(object);
    let mut service = Service { known_as: known_as.and_then(|node| reader.parsed(&node, "`knownAs`")), ..Service::default() };
    if let Some(mut object) = subset.and_then(|node| reader.object(node, "`subset`")) {
        let (of, version) = (object.need("of", reader), object.need("version", reader));
        reader.end(object);
        if let Some(node) = &ports {
            reader.wrong_with(&node.span, "the ports of a subset are those of its service", "leave `ports` out");
        }
        let name = of.as_ref().and_then(|node| reader.parsed(node, "`of`"));
        let version = version.and_then(|node| reader.text(&node, "`version`"));
        if let (Some(name), Some(version), Some(node)) = (name, version, of) {
            service.subset = Some(Subset { of: ServiceName::new(own.clone(), name), version, span: node.span });
        }
        return Some(service);
    }
    let mut names: Vec<Label> = Vec::new();
    for node in ports.map(|node| reader.list(node, "`ports`")).unwrap_or_default() {
        let span = node.span.clone();
        let Some(mut object) = reader.object(node, "a port") else { continue };
        let number = object.need("port", reader);
        let protocol = object.take("appProtocol");
        let name = object.take("name");
        reader.end(object);
        let mut label = None;
        if let Some((node, name)) = name.and_then(|node| reader.parsed::<Label>(&node, "`name`").map(|name| (node, name))) {
            reader.bound(!names.contains(&name), &node.span, format!("another port is named `{name}`"));
            names.push(name.clone());
            label = Some(name);
        }
        let protocol = protocol.and_then(|node| reader.word(&node, "appProtocol", &PROTOCOLS));
        let (protocol, in_tls) = protocol.unwrap_or_default();
        let Some(port) = number.and_then(|node| port(&node, reader)) else { continue };
        if service.port(port).is_some() {
            reader.wrong(&span, format!("port {port} is there twice"));
            continue;
        }
        service.ports.push(ServicePortSpec { port, name: label, protocol, in_tls, span });
    }
    for node in accounts.map(|node| reader.list(node, "`accounts`")).unwrap_or_default() {
        service.accounts.extend(reader.parsed::<Label>(&node, "an account"));
    }
    Some(service)
}

pub(super) fn workload(node: Node, own: &Namespace, reader: &mut Reader<'_>) -> Option<Workload> {
    let mut object = reader.object(node, "a Workload's `spec`")?;
    let service = object.need("service", reader);
    let (account, identity) = (object.take("account"), object.take("identity"));
    let address = object.need("address", reader);
    let ports = object.need("ports", reader);
    let version = object.take("version");
    let weight = object.take("weight");
    let locality = object.take("locality");
    let transport = object.take("transport");
    reader.end(object);
    // All of it is looked at before a mistake ends it.
    let name: Option<Label> = service.as_ref().and_then(|node| reader.parsed(node, "`service`"));
    if let (Some(node), Some(_)) = (&identity, &account) {
        reader.wrong_with(&node.span, "a workload has an account of this mesh, or an identity of another", "leave one of both out");
    }
    let account = account.and_then(|node| reader.parsed(&node, "`account`"));
    let is_foreign = identity.is_some();
    let identity = identity.and_then(|node| Some(ForeignIdentity { id: reader.parsed(&node, "`identity`")?, span: node.span }));
    let address = address.and_then(|node| ip_address(&node, reader));
    let version = version.and_then(|node| reader.text(&node, "`version`"));
    let weight =
        weight.and_then(|node| reader.number(&node, "`weight`", 1..=1_000_000)).and_then(|weight| u32::try_from(weight).ok()).unwrap_or(1);
    let words = [("MutualTls", Transport::MutualTls), ("Lorica", Transport::Lorica), ("Plaintext", Transport::Plaintext)];
    let transport_span = transport.as_ref().map(|node| node.span.clone()).unwrap_or_default();
    let transport = transport.and_then(|node| reader.word(&node, "transport", &words)).unwrap_or(Transport::MutualTls);
    if is_foreign && transport == Transport::Plaintext {
        reader.wrong_with(&transport_span, "in plaintext nobody proves `identity`", "leave `transport` or `identity` out");
    }
    let locality = locality.and_then(|node| reader.object(node, "`locality`")).map_or_else(Locality::default, |mut object| {
        let (region, zone) = (object.take("region"), object.take("zone"));
        reader.end(object);
        let mut text = |node: Option<Node>| node.and_then(|node| reader.text(&node, "a locality's part")).unwrap_or_default();
        Locality { region: text(region), zone: text(zone) }
    });
    let ports = ports.map(|node| reader.list(node, "`ports`")).unwrap_or_default();
    let ports = ports.into_iter().filter_map(|node| workload_port(node, reader)).collect();
    if is_foreign && identity.is_none() {
        return None;
    }
    let service_span = service?.span;
    let service = ServiceName::new(own.clone(), name?);
    Some(Workload { service, service_span, account, identity, address: address?, ports, version, weight, locality, transport })
}

pub(super) fn workload_port(node: Node, reader: &mut Reader<'_>) -> Option<WorkloadPort> {
    let span = node.span.clone();
    let mut object = reader.object(node, "a port")?;
    let (service_port, number) = (object.need("servicePort", reader), object.take("port"));
    reader.end(object);
    let number = number.map(|node| port(&node, reader));
    let service_port = port(&service_port?, reader)?;
    Some(WorkloadPort { service_port, port: number.unwrap_or(Some(service_port))?, span })
}

pub(super) fn ip_address(node: &Node, reader: &mut Reader<'_>) -> Option<IpAddr> {
    let text = reader.text(node, "`address`")?;
    let parsed = text.parse().ok();
    if parsed.is_none() {
        reader.wrong_with(
            &node.span,
            format!("`{text}` is no IP address"),
            "write one such as `10.0.0.7` or `fd00::7`; names are not looked up",
        );
    }
    parsed
}
