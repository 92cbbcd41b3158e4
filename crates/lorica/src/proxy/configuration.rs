//! The configuration of a stand-alone proxy: texts and what was asked for go in, the snapshot comes out, or what is wrong.
//!
//! The same reader, checks and compiler as a control plane's; pure, so that a change is tried before the one in force is let go.

use lorica_api::NamedText;
use lorica_cli::args::PortArg;
use lorica_model::compile::{self, RegisteredPort, RegisteredWorkload, Registry, VirtualAddresses, World};
use lorica_model::name::{GatewayName, Label, ServiceName, ServicePort};
use lorica_model::resource::{self, Diagnostic, Kind, Options, Resources, Service, Severity, nearest};
use lorica_model::snapshot::{MtlsMode, Snapshot, Transport};
use lorica_model::spiffe::{SpiffeId, TrustDomain};
use lorica_proxy::config::Own;

use super::keys::Keys;

/// What the command line asks of the configuration.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    /// Whom the proxy stands for.
    pub(crate) own: Own,
    /// Service ports that it calls.
    pub(crate) upstreams: Vec<ServicePort>,
    /// The gateway that it runs.
    pub(crate) gateway: Option<GatewayName>,
    /// App ports that it takes calls for.
    pub(crate) ports: Vec<PortArg>,
    /// The identity that it has, and the directory that it is from.
    pub(crate) identity: Option<(SpiffeId, String)>,
    /// What is known of key sets, and which are wanted.
    pub(crate) keys: Keys,
    /// Whether diagnostics may have colours.
    pub(crate) colours: bool,
}

/// Why a configuration is not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refused {
    /// Mistakes in the files, as they are shown to people.
    #[error("{0}")]
    Files(String),
    /// The files are good, and do not have what the command line asks for.
    #[error("{0}")]
    Asked(String),
    /// Key sets are wanted, and the system gives no thread to fetch them.
    #[error("the key sets of AuthenticationPolicies cannot be fetched")]
    KeySets(#[from] std::io::Error),
}

/// What was read.
#[derive(Debug)]
pub(crate) struct Configuration {
    /// What the proxy runs.
    pub(crate) snapshot: Snapshot,
    /// How many resources there are.
    pub(crate) resources: usize,
    /// What does not keep it from running, as it is shown to people.
    pub(crate) warnings: Option<String>,
}

/// The snapshot of `texts`.
pub(crate) fn compiled(texts: &[NamedText], asked: &Asked) -> Result<Configuration, Refused> {
    let (resources, warnings) = resources(texts, asked.colours)?;
    let from = texts.iter().map(|text| text.name.as_str()).collect::<Vec<_>>().join(", ");
    let found = Found { resources: &resources, from: &from };
    for port in &asked.upstreams {
        found.port(port, &format!("--upstream {}:{}", port.service, port.port))?;
    }
    let key_sets = asked.keys.known(lorica_control::mesh::sources(&resources))?;
    let mut registry = Registry { key_sets, ..Registry::without_addresses(&resources) };
    if let Some(service) = &asked.own.service {
        let spec = found.service(service, &format!("--service {service}"))?;
        for port in &asked.ports {
            let port = ServicePort { service: service.clone(), port: port.service_port };
            found.port(&port, &format!("--port {}", port.port))?;
        }
        if let Some((id, directory)) = &asked.identity {
            belongs(id, directory, service, spec, &resources)?;
        }
        registry.workloads.insert(asked.own.workload.clone(), own(asked));
    }
    let trust_domain = asked.identity.as_ref().map_or_else(TrustDomain::default, |(id, _)| id.trust_domain().clone());
    let world = World { resources: &resources, registry: &registry, trust_domain: &trust_domain };
    let workload = asked.own.service.as_ref().map(|_| &asked.own.workload);
    if let Some(gateway) = &asked.gateway {
        found.gateway(&world, gateway)?;
    }
    let snapshot = compile::snapshot(&world, &asked.own.namespace, &asked.upstreams, workload, asked.gateway.as_ref());
    if asked.identity.is_none()
        && let Some(port) = snapshot.inbound.iter().flat_map(|inbound| &inbound.ports).find(|port| port.mtls == MtlsMode::Strict)
    {
        let service = &port.service_port.service;
        return Err(Refused::Asked(format!(
            "{service} takes mutual TLS only, and there is no --identity\nhint: give --identity DIR, or let callers in without proof: an AuthenticationPolicy in the namespace `{}` with `mtls: {{mode: Permissive}}`",
            service.namespace
        )));
    }
    Ok(Configuration { snapshot, resources: resources.len(), warnings })
}

/// The resources of all texts, held against each other, and what people should know of them.
fn resources(texts: &[NamedText], colours: bool) -> Result<(Resources, Option<String>), Refused> {
    let text = |file: &str| texts.iter().find(|text| text.name == file).map(|text| text.text.as_str()).unwrap_or_default();
    let shown = |found: &[Diagnostic]| found.iter().map(|found| found.render(text(&found.file), colours)).collect::<Vec<_>>().join("\n\n");
    let (mut documents, mut wrong) = (Vec::new(), Vec::new());
    for text in texts {
        match resource::read(&text.name, &text.text) {
            Ok(read) => documents.extend(read),
            Err(found) => wrong.extend(found),
        }
    }
    if !wrong.is_empty() {
        return Err(Refused::Files(shown(&wrong)));
    }
    let mut found = resource::check(&documents, &Resources::default(), Options::default(), |file| text(file).to_owned());
    found.extend(lorica_identity::jwt::mistakes(&documents, |file| text(file).to_owned()));
    found.extend(lorica_identity::secrets::mistakes(&documents, |file| text(file).to_owned()));
    let (errors, warnings): (Vec<_>, Vec<_>) = found.into_iter().partition(|found| found.severity == Severity::Error);
    if !errors.is_empty() {
        return Err(Refused::Files(shown(&errors)));
    }
    let mut resources = Resources::default();
    documents.into_iter().for_each(|document| drop(resources.insert(document.resource)));
    Ok((resources, Some(shown(&warnings)).filter(|text| !text.is_empty())))
}

/// What the files have, asked in the words of the command line.
struct Found<'r> {
    resources: &'r Resources,
    from: &'r str,
}

impl<'r> Found<'r> {
    fn service(&self, name: &ServiceName, option: &str) -> Result<&'r Service, Refused> {
        if let Some((_, service)) = self.resources.service(name) {
            return Ok(service);
        }
        let known: Vec<String> =
            self.resources.services().map(|(metadata, _)| format!("{}.{}", metadata.name, metadata.namespace)).collect();
        let written = name.to_string();
        let hint = match nearest(&written, known.iter().map(String::as_str)) {
            Some(near) => format!("did you mean `{near}`?"),
            None if known.is_empty() => "write a resource of kind Service, and its endpoints as Workloads".to_owned(),
            None => format!("there is {}", known.iter().take(10).map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")),
        };
        Err(Refused::Asked(format!("{option}: no Service `{name}` in {}\nhint: {hint}", self.from)))
    }

    /// A gateway that is there and takes something.
    fn gateway(&self, world: &World<'_>, name: &GatewayName) -> Result<(), Refused> {
        if self.resources.gateway(&name.namespace, &name.name).is_none() {
            let known: Vec<String> = self
                .resources
                .of_kind(Kind::Gateway)
                .map(|found| format!("{}.{}", found.metadata.name, found.metadata.namespace))
                .collect();
            let hint = match known.as_slice() {
                [] => "write a resource of kind Gateway".to_owned(),
                known => format!("there is {}", known.join(", ")),
            };
            return Err(Refused::Asked(format!("--gateway {name}: no Gateway `{name}` in {}\nhint: {hint}", self.from)));
        }
        if compile::gateway(world, name).is_empty() {
            let hint =
                "its gatewayClassName must be `lorica`, or a GatewayClass of `lorica.io/gateway`, and it needs a listener that holds";
            return Err(Refused::Asked(format!("--gateway {name}: there is nothing to serve\nhint: {hint}")));
        }
        Ok(())
    }

    fn port(&self, port: &ServicePort, option: &str) -> Result<(), Refused> {
        let service = self.service(&port.service, option)?;
        if service.port(port.port).is_some() {
            return Ok(());
        }
        let known = service.ports.iter().map(|port| port.port.to_string()).collect::<Vec<_>>().join(", ");
        let hint = if known.is_empty() { "it has no port".to_owned() } else { format!("it has {known}") };
        Err(Refused::Asked(format!("{option}: the Service `{}` in {} has no port {}\nhint: {hint}", port.service, self.from, port.port)))
    }
}

/// Whether callers of `service` take `id` for one of its workloads.
fn belongs(id: &SpiffeId, directory: &str, service: &ServiceName, spec: &Service, resources: &Resources) -> Result<(), Refused> {
    let written = resources.workloads().filter(|(_, workload)| workload.service == *service);
    let mut accounts: Vec<Label> = spec.accounts.clone();
    accounts.extend(written.map(|(_, workload)| workload.account.clone().unwrap_or_else(|| service.name.clone())));
    if accounts.is_empty() {
        accounts.push(service.name.clone());
    }
    accounts.sort();
    accounts.dedup();
    let accepted: Vec<SpiffeId> =
        accounts.iter().map(|account| SpiffeId::of_account(id.trust_domain(), &service.namespace, account)).collect();
    if accepted.contains(id) {
        return Ok(());
    }
    let accepted = accepted.iter().map(SpiffeId::to_string).collect::<Vec<_>>().join(" or ");
    let hint = match id.account().filter(|(namespace, _)| *namespace == service.namespace.as_str()) {
        Some((_, account)) => format!("use the identity of {accepted}, or add `accounts: [{account}]` to the Service"),
        None => format!("use the identity of {accepted}"),
    };
    Err(Refused::Asked(format!("the SVID in {directory} is of {id}, which is none of {service}\nhint: {hint}")))
}

/// The workload that the proxy stands beside. It is no endpoint of the files': whoever calls it has files of their own.
fn own(asked: &Asked) -> RegisteredWorkload {
    let port = |port: &PortArg| RegisteredPort {
        service_port: port.service_port,
        app_port: port.app_port,
        protocol: port.protocol,
        address: std::net::SocketAddr::from(([0, 0, 0, 0], 0)),
        listening: false,
    };
    RegisteredWorkload {
        service: asked.own.service.clone(),
        account: asked.own.account.clone(),
        version: asked.own.version.clone(),
        weight: 1,
        transport: Transport::Lorica,
        locality: asked.own.locality.clone(),
        addresses: VirtualAddresses::NONE,
        ports: asked.ports.iter().map(port).collect(),
        gateway: None,
        draining: false,
        withdrawn: false,
    }
}

#[cfg(test)]
mod tests;
