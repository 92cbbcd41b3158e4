//! `lorica split`: a canary in one line. It writes ordinary resources, which `--print` shows.

use std::process::ExitCode;

use anyhow::bail;
use lorica_api::{ApiClient, ApplyRequest, NamedText};
use lorica_model::name::ServiceName;
use lorica_model::resource::Kind;
use serde_json::{Value, json};

use super::told;
use crate::args::{ShareArg, SplitArgs};
use crate::printer::Printer;

pub(super) async fn split(client: &ApiClient, arguments: SplitArgs, printer: &mut Printer) -> anyhow::Result<ExitCode> {
    let service = &arguments.service;
    if arguments.shares.iter().all(|share| share.weight == 0) {
        bail!("all shares are 0: nobody would answer\nhint: give at least one version a share, as in `lorica split {service} v1=95 v2=5`");
    }
    for (index, share) in arguments.shares.iter().enumerate() {
        if arguments.shares[..index].iter().any(|other| other.version == share.version) {
            bail!("the version `{}` is there twice", share.version);
        }
    }
    let resource = client.resource(Kind::Service, service.namespace.as_str(), service.name.as_str()).await?;
    let ports = ports(&resource, service, arguments.port)?;
    let documents = documents(service, &ports, &arguments.shares);
    let text = documents.iter().map(serde_saphyr::to_string).collect::<Result<Vec<_>, _>>()?;
    let text = text.iter().map(|document| document.trim_end()).collect::<Vec<_>>().join("\n---\n");
    if arguments.print {
        printer.data(&text);
        return Ok(ExitCode::SUCCESS);
    }
    absent(client, service, &arguments.shares, printer).await?;
    let request = ApplyRequest { files: vec![NamedText { name: "split".to_owned(), text }], ..ApplyRequest::default() };
    told(&client.apply(&request, arguments.wait).await?, "split", arguments.output.format, printer)
}

/// The ports whose requests are split: the one asked for, or all that may speak HTTP.
fn ports(resource: &Value, service: &ServiceName, asked: Option<u16>) -> anyhow::Result<Vec<u16>> {
    let listed = resource.pointer("/spec/ports").and_then(Value::as_array).cloned().unwrap_or_default();
    let number = |port: &Value| port["port"].as_u64().and_then(|port| u16::try_from(port).ok());
    let all: Vec<u16> = listed.iter().filter_map(number).collect();
    let http: Vec<u16> = listed.iter().filter(|port| port["appProtocol"] != "tcp").filter_map(number).collect();
    match asked {
        Some(port) if http.contains(&port) => Ok(vec![port]),
        Some(port) if all.contains(&port) => bail!("port {port} of {service} is declared as tcp: there are no requests to split"),
        Some(port) => bail!("{service} has no port {port}\nhint: it has {}", all.iter().map(u16::to_string).collect::<Vec<_>>().join(", ")),
        None if http.is_empty() => bail!("{service} has no port for HTTP: there are no requests to split"),
        None => Ok(http),
    }
}

/// A Service for each version, and a route for each port.
fn documents(service: &ServiceName, ports: &[u16], shares: &[ShareArg]) -> Vec<Value> {
    let subset = |share: &ShareArg| format!("{}-{}", service.name, share.version);
    let services = shares.iter().map(|share| {
        json!({
            "apiVersion": "lorica.io/v1alpha1",
            "kind": "Service",
            "metadata": { "name": subset(share), "namespace": service.namespace },
            "spec": { "subset": { "of": service.name, "version": share.version } },
        })
    });
    let routes = ports.iter().map(|port| {
        let backends: Vec<Value> =
            shares.iter().map(|share| json!({ "name": subset(share), "port": port, "weight": share.weight })).collect();
        let name = if ports.len() == 1 { format!("{}-split", service.name) } else { format!("{}-split-{port}", service.name) };
        json!({
            "apiVersion": "gateway.networking.k8s.io/v1",
            "kind": "HTTPRoute",
            "metadata": { "name": name, "namespace": service.namespace },
            "spec": {
                "parentRefs": [{ "group": "", "kind": "Service", "name": service.name, "port": port }],
                "rules": [{ "backendRefs": backends }],
            },
        })
    });
    services.chain(routes).collect()
}

/// Warns of versions that no workload has: their share would be answered with 503.
async fn absent(client: &ApiClient, service: &ServiceName, shares: &[ShareArg], printer: &mut Printer) -> anyhow::Result<()> {
    let status = client.status().await?;
    let listed = client.list(Kind::Workload, Some(service.namespace.as_str())).await?;
    let registered =
        status.proxies.iter().filter(|proxy| proxy.service.as_ref() == Some(service)).filter_map(|proxy| proxy.version_label.clone());
    let written = listed.items.iter().filter(|item| item.pointer("/spec/service").and_then(Value::as_str) == Some(service.name.as_str()));
    let written = written.filter_map(|item| item.pointer("/spec/version").and_then(Value::as_str).map(str::to_owned));
    let known: Vec<String> = registered.chain(written).collect();
    for share in shares.iter().filter(|share| share.weight > 0 && !known.iter().any(|known| known == share.version.as_str())) {
        printer.warning(&format!(
            "no workload of {service} has the version `{0}` yet: its share is answered with 503\nhint: lorica run --service {service} --version-label {0} …",
            share.version
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_split_is_resources_that_can_be_read() {
        let service: ServiceName = "recording.contact".parse().unwrap();
        let shares = ["v1=95", "v2=5"].map(|text| text.parse().unwrap());
        let written = documents(&service, &[80], &shares);
        let text = written.iter().map(|document| serde_saphyr::to_string(document).unwrap()).collect::<Vec<_>>().join("---\n");
        let read = lorica_model::resource::read("split", &text).unwrap();
        assert_eq!(
            read.iter().map(|document| document.resource.key().to_string()).collect::<Vec<_>>(),
            ["Service recording-v1.contact", "Service recording-v2.contact", "HTTPRoute recording-split.contact"]
        );
        assert_eq!(written[2].pointer("/spec/rules/0/backendRefs/1/weight"), Some(&json!(5)));
    }

    #[test]
    fn only_ports_with_requests_are_split() {
        let service: ServiceName = "recording.contact".parse().unwrap();
        let resource =
            json!({ "spec": { "ports": [{ "port": 80, "appProtocol": "http" }, { "port": 5432, "appProtocol": "tcp" }, { "port": 90 }] } });
        assert_eq!(ports(&resource, &service, None).unwrap(), [80, 90]);
        assert_eq!(ports(&resource, &service, Some(90)).unwrap(), [90]);
        assert!(ports(&resource, &service, Some(5432)).unwrap_err().to_string().contains("declared as tcp"));
        assert!(ports(&resource, &service, Some(81)).unwrap_err().to_string().contains("80, 5432, 90"));
    }
}
