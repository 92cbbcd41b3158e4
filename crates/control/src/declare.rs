//! Services that workloads declare, where no resource does: `lorica run --service` needs no YAML. Pure.

use lorica_model::name::ServiceName;
use lorica_model::resource::{self, DECLARED_BY, LORICA_API, Resource, Resources};
use lorica_model::snapshot::Protocol;
use lorica_xds::NodePort;

/// The Service to be stored for a workload with these ports: a new one, or a declared one with more ports; none where all is there.
///
/// # Errors
/// A sentence, where the ports contradict what a user wrote.
pub fn declared(resources: &Resources, service: &ServiceName, ports: &[NodePort]) -> Result<Option<Resource>, String> {
    let Some((metadata, known)) = resources.service(service) else {
        return build(service, ports.iter().map(|port| (port.service_port, port.protocol)).collect(), 1).map(Some);
    };
    let by_workload = metadata.annotations.contains_key(DECLARED_BY);
    let mut all: Vec<(u16, Protocol)> = known.ports.iter().map(|port| (port.port, port.protocol)).collect();
    for port in ports {
        match known.port(port.service_port) {
            Some(spec) if port.protocol == Protocol::Detect || spec.protocol == port.protocol => {}
            Some(spec) => {
                let (ours, theirs) = (word(port.protocol), word(spec.protocol));
                return Err(format!(
                    "port {} of {service} speaks {theirs}, and the workload says {ours}; make --port agree with the Service",
                    port.service_port
                ));
            }
            None if by_workload => all.push((port.service_port, port.protocol)),
            None => {
                let has = known.ports.iter().map(|port| port.port.to_string()).collect::<Vec<_>>().join(", ");
                return Err(format!(
                    "the Service {service} has no port {} (it has {has}); add it there, or change --port",
                    port.service_port
                ));
            }
        }
    }
    if all.len() == known.ports.len() { Ok(None) } else { build(service, all, metadata.generation + 1).map(Some) }
}

fn build(service: &ServiceName, ports: Vec<(u16, Protocol)>, generation: u64) -> Result<Resource, String> {
    let port = |(port, protocol): (u16, Protocol)| match protocol {
        Protocol::Detect => serde_json::json!({ "port": port }),
        _ => serde_json::json!({ "port": port, "appProtocol": word(protocol) }),
    };
    let document = serde_json::json!({
        "apiVersion": LORICA_API,
        "kind": "Service",
        "metadata": {
            "name": service.name,
            "namespace": service.namespace,
            "generation": generation,
            "creationTimestamp": crate::timestamp(std::time::SystemTime::now()),
            "annotations": { DECLARED_BY: "workload" },
        },
        "spec": { "ports": ports.into_iter().map(port).collect::<Vec<_>>() },
    });
    resource::stored(&document).map_err(|found| found.first().map(|found| found.message.clone()).unwrap_or_default())
}

fn word(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Detect => "anything",
        Protocol::Http => "http",
        Protocol::Http2 => "http2",
        Protocol::Grpc => "grpc",
        Protocol::Tcp => "tcp",
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn port(service_port: u16, protocol: Protocol) -> NodePort {
        NodePort { service_port, app_port: service_port, protocol, address: ([127, 0, 0, 1], 1).into() }
    }

    #[test]
    fn a_workload_declares_what_nobody_wrote() {
        let service: ServiceName = "recording.contact".parse().unwrap();
        let mut resources = Resources::default();
        let first = declared(&resources, &service, &[port(80, Protocol::Http)]).unwrap().unwrap();
        assert!(first.is_declared());
        resources.insert(first);
        assert!(declared(&resources, &service, &[port(80, Protocol::Detect)]).unwrap().is_none());
        let second = declared(&resources, &service, &[port(81, Protocol::Grpc)]).unwrap().unwrap();
        assert_eq!(
            second.document["spec"]["ports"],
            serde_json::json!([{ "port": 80, "appProtocol": "http" }, { "port": 81, "appProtocol": "grpc" }])
        );
        resources.insert(second);
        let error = declared(&resources, &service, &[port(80, Protocol::Tcp)]).unwrap_err();
        assert!(error.contains("port 80 of recording.contact speaks http") && error.contains("tcp"), "{error}");
    }

    #[test]
    fn what_a_user_wrote_is_not_added_to() {
        let service: ServiceName = "recording.contact".parse().unwrap();
        let mut resources = Resources::default();
        let text =
            "apiVersion: lorica.io/v1alpha1\nkind: Service\nmetadata: {name: recording, namespace: contact}\nspec: {ports: [{port: 80}]}\n";
        resources.insert(resource::read("x", text).unwrap().remove(0).resource);
        let error = declared(&resources, &service, &[port(81, Protocol::Http)]).unwrap_err();
        assert!(error.contains("has no port 81 (it has 80)"), "{error}");
    }
}
