//! `lorica proxy`: what was typed and what the files say become a data plane that runs by itself.

mod configuration;
mod keys;
mod node;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use lorica_cli::args::{Global, PortArg, ProxyArgs};
use lorica_cli::places::Places;
use lorica_cli::printer::Printer;
use lorica_identity::files::{IdentityFiles, SVID_FILE};
use lorica_model::name::{GatewayName, Label, Namespace, ServicePort, WorkloadName};
use lorica_model::spiffe::SpiffeId;
use lorica_proxy::config::{DEFAULT_START_DEADLINE, Own, ProxyConfig};
use lorica_proxy::gateway::{Binds, GatewayConfig};
use lorica_proxy::standalone::{self, Identity, Notice, Standalone};

pub(crate) use configuration::Refused;
use configuration::{Asked, compiled};

use crate::telemetry::telemetry;

/// Runs a proxy until SIGTERM or SIGINT.
pub(crate) fn proxy(arguments: ProxyArgs, global: &Global, printer: &mut Printer) -> anyhow::Result<ExitCode> {
    crate::logging::start("warn", global.verbose);
    if arguments.node {
        return node::node(arguments, global, printer);
    }
    if let Some(gateway) = arguments.gateway.clone().filter(|_| arguments.config.is_empty()) {
        return self::gateway(gateway, arguments, global, printer);
    }
    consistent(&arguments)?;
    let identity = match &arguments.identity {
        Some(directory) => Some(Identity::load(IdentityFiles::new(directory)).context("--identity")?),
        None => None,
    };
    let id = identity.as_ref().map(|identity| identity.epoch.svid().id().clone());
    let own = own(&arguments, id.as_ref())?;
    let reread = std::sync::Arc::new(tokio::sync::Notify::new());
    let asked = Asked {
        own: own.clone(),
        upstreams: arguments.upstreams.iter().map(|upstream| upstream.port.clone()).collect(),
        gateway: arguments.gateway.clone(),
        ports: arguments.ports.clone(),
        identity: id.zip(arguments.identity.as_ref().map(|directory| directory.join(SVID_FILE).display().to_string())),
        keys: keys::Keys::new(reread.clone()),
        colours: printer.colours(),
    };
    let first = compiled(&lorica_cli::files::files(&arguments.config)?, &asked)?;
    if let Some(warnings) = &first.warnings {
        printer.note(warnings);
    }
    for warning in unproven(&arguments, &first.snapshot) {
        printer.warning(&warning);
    }
    let data_to_stdout = arguments.access_log != "stdout";
    let binds = binds(&arguments);
    let proxy = Standalone {
        own,
        snapshot: first.snapshot,
        identity,
        upstreams: arguments.upstreams.into_iter().map(|upstream| (upstream.port, upstream.local)).collect(),
        binds,
        inbound: inbound(&arguments.inbound, &arguments.ports, arguments.service.as_ref()),
        metrics: arguments.metrics,
        telemetry: telemetry(arguments.access_log, &arguments.traces, arguments.budget),
        workers: arguments.workers.count(),
        drain_deadline: arguments.drain,
        reread,
    };
    let config = arguments.config;
    let again = move || match read_again(&config, &asked) {
        Ok(next) => {
            let warnings = next.warnings.map(|text| text + "\n").unwrap_or_default();
            Ok((next.snapshot, format!("{warnings}the configuration was read again: {} resources in force", next.resources)))
        }
        Err(error) => Err(format!("{error:#}")),
    };
    standalone::run(proxy, again, move |notice| tell(notice, data_to_stdout))?;
    Ok(ExitCode::SUCCESS)
}

fn tell(notice: Notice, data_to_stdout: bool) {
    let mut printer = Printer::terminal();
    match notice {
        // The access log's lines are data too, and have a form of their own.
        Notice::Serving(line) if data_to_stdout => printer.data(&line),
        Notice::Serving(line) | Notice::Note(line) => printer.note(&line),
    }
}

/// Runs a Gateway that the control plane has.
fn gateway(gateway: GatewayName, arguments: ProxyArgs, global: &Global, printer: &mut Printer) -> anyhow::Result<ExitCode> {
    let places = Places::from_environment();
    places.make()?;
    let control_socket = lorica_cli::server::socket(global.server.as_deref(), &places)?;
    if std::os::unix::net::UnixStream::connect(&control_socket).is_err() {
        let limit = DEFAULT_START_DEADLINE.as_secs();
        printer.note(&format!("waiting up to {limit} s for a control plane on {} …", control_socket.display()));
    }
    let data_to_stdout = arguments.access_log != "stdout";
    let config = GatewayConfig {
        binds: binds(&arguments),
        metrics: arguments.metrics,
        workers: arguments.workers.count(),
        proxy: ProxyConfig {
            control_socket,
            workload: WorkloadName::new(gateway.namespace.clone(), crate::run::unique(gateway.name.as_str())?),
            namespace: gateway.namespace.clone(),
            service: None,
            account: gateway.account(),
            version: arguments.version_label,
            locality: arguments.locality.unwrap_or_default(),
            ports: Vec::new(),
            upstreams: Vec::new(),
            advertise: arguments.listen,
            telemetry: telemetry(arguments.access_log, &arguments.traces, arguments.budget),
            start_deadline: DEFAULT_START_DEADLINE,
            drain_deadline: arguments.drain,
            explain: None,
        },
        gateway,
    };
    lorica_proxy::gateway::run(config, move |notice| tell(notice, data_to_stdout))?;
    Ok(ExitCode::SUCCESS)
}

/// Where listener ports are bound.
fn binds(arguments: &ProxyArgs) -> Binds {
    let place = |bind: &lorica_cli::args::BindArg| (bind.port, SocketAddr::new(bind.address.unwrap_or(arguments.listen), bind.bound));
    Binds { address: arguments.listen, ports: arguments.binds.iter().map(place).collect() }
}

fn read_again(config: &[PathBuf], asked: &Asked) -> anyhow::Result<configuration::Configuration> {
    Ok(compiled(&lorica_cli::files::files(config)?, asked)?)
}

/// Whether the options go together.
fn consistent(arguments: &ProxyArgs) -> anyhow::Result<()> {
    if arguments.config.iter().any(|path| path == Path::new("-")) {
        bail!("--config -: standard input cannot be read again on SIGHUP\nhint: write the resources into a file");
    }
    if arguments.upstreams.is_empty() && arguments.inbound.is_empty() && arguments.gateway.is_none() {
        bail!(
            "there is nothing to serve\nhint: --upstream NAME:PORT=LOCAL for calls to a service; --service, --port and --inbound for calls to an app; --gateway NAME for a Gateway"
        );
    }
    for (index, port) in arguments.ports.iter().enumerate() {
        if arguments.ports[..index].iter().any(|other| other.app_port == port.app_port) {
            bail!("two --port name the app port {}\nhint: each port of the app belongs to one service port", port.app_port);
        }
        if !arguments.inbound.iter().any(|inbound| inbound.app_port == port.app_port) {
            bail!("--port names the app port {0}, and nobody can call it\nhint: say where: --inbound {0}=127.0.0.1:9443", port.app_port);
        }
    }
    for (index, inbound) in arguments.inbound.iter().enumerate() {
        if !arguments.ports.iter().any(|port| port.app_port == inbound.app_port) {
            bail!(
                "--inbound {0}={1} names an app port of which nothing is known\nhint: say which service port it is: --port 80:{0}/http",
                inbound.app_port,
                inbound.address
            );
        }
        if arguments.inbound[..index].iter().any(|other| other.app_port == inbound.app_port) {
            bail!("two --inbound name the app port {}\nhint: one address takes its calls; 0.0.0.0 is all of them", inbound.app_port);
        }
    }
    Ok(())
}

/// Whom the proxy stands for.
fn own(arguments: &ProxyArgs, id: Option<&SpiffeId>) -> anyhow::Result<Own> {
    let proven = match id.and_then(SpiffeId::account) {
        Some((namespace, account)) => Some((Namespace::new(namespace)?, Label::new(account)?)),
        None => None,
    };
    let (of_identity, account) = proven.unzip();
    let namespace = match (&arguments.service, &arguments.gateway) {
        (Some(service), _) => service.namespace.clone(),
        (None, Some(gateway)) => gateway.namespace.clone(),
        (None, None) => arguments.namespace.clone().or(of_identity).unwrap_or_default(),
    };
    let of_service = || arguments.service.as_ref().map(|service| service.name.clone());
    let account = match account.or_else(of_service) {
        Some(account) => account,
        None => Label::new("default")?,
    };
    let stem = match (&arguments.service, &arguments.gateway) {
        (Some(service), _) => service.name.as_str(),
        (None, Some(gateway)) => gateway.name.as_str(),
        (None, None) => "proxy",
    };
    let workload = WorkloadName::new(namespace.clone(), crate::run::unique(stem)?);
    let locality = arguments.locality.clone().unwrap_or_default();
    Ok(Own { workload, namespace, service: arguments.service.clone(), account, version: arguments.version_label.clone(), locality })
}

/// Each address at which calls are taken, with the app port and the service port that it leads to.
fn inbound(
    inbound: &[lorica_cli::args::InboundArg],
    ports: &[PortArg],
    service: Option<&lorica_model::name::ServiceName>,
) -> Vec<(u16, ServicePort, std::net::SocketAddr)> {
    let found = inbound.iter().filter_map(|inbound| {
        let port = ports.iter().find(|port| port.app_port == inbound.app_port)?;
        let port = ServicePort { service: service?.clone(), port: port.service_port };
        Some((inbound.app_port, port, inbound.address))
    });
    found.collect()
}

/// What can only fail for want of an identity, told before a call does.
fn unproven(arguments: &ProxyArgs, snapshot: &lorica_model::snapshot::Snapshot) -> Vec<String> {
    if arguments.identity.is_some() {
        return Vec::new();
    }
    let mut ports: Vec<&ServicePort> = snapshot
        .endpoints
        .values()
        .filter(|set| set.endpoints.iter().any(|endpoint| endpoint.transport == lorica_model::snapshot::Transport::MutualTls))
        .map(|set| &set.port)
        .collect();
    ports.sort();
    let told = |port: &ServicePort| {
        format!(
            "{}:{} has endpoints with mutual TLS, which will fail: there is no --identity\nhint: give --identity DIR, or write `transport: Plaintext` into the Workloads that are outside the mesh",
            port.service, port.port
        )
    };
    ports.into_iter().map(told).collect()
}
