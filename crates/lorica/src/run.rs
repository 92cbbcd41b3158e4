//! `lorica run`: what was typed becomes what the supervisor starts and what the proxy is told.

use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use lorica_capture::{Mode, Publish, RunSpec, Upstream};
use lorica_cli::args::{Global, RunArgs};
use lorica_cli::places::Places;
use lorica_cli::printer::Printer;
use lorica_model::name::{Label, Namespace, ServiceName, WorkloadName};
use lorica_proxy::config::{DEFAULT_START_DEADLINE, DeclaredPort, ProxyConfig};

use crate::telemetry::telemetry;

/// How long until it is asked again which host this is.
const AGAIN: Duration = Duration::from_millis(100);
/// How long the proxy may try all the same when nobody answered that.
const LAST_TRY: Duration = Duration::from_secs(1);

/// Runs a program in the mesh and ends with its exit code.
pub(crate) fn run(arguments: RunArgs, global: &Global, printer: &mut Printer) -> anyhow::Result<ExitCode> {
    run_explained(arguments, None, global, printer)
}

/// The same; the program's first request carries the token, if there is one.
pub(crate) fn run_explained(arguments: RunArgs, token: Option<String>, global: &Global, printer: &mut Printer) -> anyhow::Result<ExitCode> {
    crate::logging::start("lorica_capture=warn,warn", global.verbose);
    let places = Places::from_environment();
    places.make()?;
    let mut configuration = configuration(&arguments, global, &places)?;
    configuration.explain = token;
    if std::os::unix::net::UnixStream::connect(&configuration.control_socket).is_err() {
        let (socket, limit) = (configuration.control_socket.display(), configuration.start_deadline.as_secs());
        printer.note(&format!("waiting up to {limit} s for a control plane on {socket} …"));
    }
    configuration.advertise = match arguments.advertise {
        Some(address) => address,
        None => {
            let asked = Instant::now();
            let address = advertised(&configuration)?;
            // Whoever waited for an answer has waited for the control plane.
            configuration.start_deadline = configuration.start_deadline.saturating_sub(asked.elapsed()).max(LAST_TRY);
            address
        }
    };
    let spec = spec(arguments, &configuration, &places, global.verbose)?;
    match lorica_capture::supervise(spec, &mut |notice| printer.note(notice)) {
        Ok(code) => Ok(ExitCode::from(code.0)),
        Err(error) => bail!("{error}"),
    }
}

fn configuration(arguments: &RunArgs, global: &Global, places: &Places) -> anyhow::Result<ProxyConfig> {
    let (namespace, account) = belonging(arguments.service.as_ref(), arguments.namespace.as_ref(), arguments.account.as_ref())?;
    let stem = match &arguments.service {
        Some(service) => service.name.as_str().to_owned(),
        None => program_label(arguments.command.first().map_or(Path::new(""), Path::new)),
    };
    let workload = WorkloadName::new(namespace.clone(), unique(&stem)?);
    if arguments.ports.iter().any(|port| arguments.ports.iter().filter(|other| other.app_port == port.app_port).count() > 1) {
        bail!("two --port name the same app port\nhint: each port of the program belongs to one service port");
    }
    if arguments.service.is_none() && !arguments.ports.is_empty() {
        bail!("--port without --service: nobody could call it\nhint: add --service NAME[.NAMESPACE]");
    }
    let access_log = match &arguments.access_log {
        Some(target) => target.clone(),
        None => places.proxy_state().join(format!("{workload}.access.log")).to_string_lossy().into_owned(),
    };
    Ok(ProxyConfig {
        control_socket: lorica_cli::server::socket(global.server.as_deref(), places)?,
        workload,
        namespace,
        service: arguments.service.clone(),
        account,
        version: arguments.version_label.clone(),
        locality: arguments.locality.clone().unwrap_or_default(),
        ports: arguments
            .ports
            .iter()
            .map(|port| DeclaredPort { service_port: port.service_port, app_port: port.app_port, protocol: port.protocol })
            .collect(),
        upstreams: arguments.upstreams.iter().map(|upstream| upstream.port.clone()).collect(),
        advertise: IpAddr::V4(Ipv4Addr::LOCALHOST),
        telemetry: telemetry(access_log, &arguments.traces, arguments.metrics),
        start_deadline: DEFAULT_START_DEADLINE,
        drain_deadline: arguments.drain,
        explain: None,
    })
}

/// The namespace and the account of a workload: those of its service unless said otherwise; a client's are `default`.
pub(crate) fn belonging(
    service: Option<&ServiceName>,
    namespace: Option<&Namespace>,
    account: Option<&Label>,
) -> anyhow::Result<(Namespace, Label)> {
    let of_service = service.map(|service| (service.namespace.clone(), service.name.clone()));
    let (own_namespace, own_account) = match of_service {
        Some(own) => own,
        None => (Namespace::default(), Label::new("default")?),
    };
    Ok((namespace.cloned().unwrap_or(own_namespace), account.cloned().unwrap_or(own_account)))
}

/// Where workloads of other hosts reach those of this one, as whoever serves the socket says; loopback while nobody does.
fn advertised(configuration: &ProxyConfig) -> anyhow::Result<IpAddr> {
    let client = lorica_api::ApiClient::new(lorica_api::Server::Unix(configuration.control_socket.clone()));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let asked = async {
        loop {
            match client.this_host().await {
                Ok(host) => return host.advertise,
                Err(error) => tracing::debug!(%error, "which host this is was not answered yet"),
            }
            tokio::time::sleep(AGAIN).await;
        }
    };
    let answered = runtime.block_on(async { tokio::time::timeout(configuration.start_deadline, asked).await });
    // The proxy tells why nobody answers.
    Ok(answered.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)))
}

fn spec(arguments: RunArgs, configuration: &ProxyConfig, places: &Places, verbose: u8) -> anyhow::Result<RunSpec> {
    let configuration_text = serde_json::to_string(configuration).context("the proxy's configuration cannot be written")?;
    let mut proxy = vec!["sidecar".into(), configuration_text.into()];
    proxy.extend((0..verbose).map(|_| "--verbose".into()));
    let mut spec = RunSpec::new(arguments.command, proxy, vec![lorica_capture::HELPER.into()]);
    if arguments.no_capture || !arguments.upstreams.is_empty() {
        let upstream = |upstream: lorica_cli::args::UpstreamArg| Upstream {
            name: upstream.port.service.fqdn(),
            port: upstream.port.port,
            local_addr: upstream.local,
        };
        spec.mode = Mode::Explicit { upstreams: arguments.upstreams.into_iter().map(upstream).collect() };
    }
    spec.app_ports = configuration.ports.iter().map(|port| port.app_port).collect();
    spec.inbound_address = configuration.advertise;
    spec.inbound_ports = arguments.inbound_ports.map(|range| range.0);
    spec.publish = arguments.publish.iter().map(|text| text.parse::<Publish>()).collect::<Result<_, _>>()?;
    spec.host_ports = arguments.host_ports;
    spec.masked_directories = vec![places.state.clone(), places.runtime.clone()];
    spec.drain_deadline = arguments.drain;
    Ok(spec)
}

/// A workload's name: what it is, and six random digits.
pub(crate) fn unique(stem: &str) -> anyhow::Result<Label> {
    let mut random = [0; 3];
    getrandom(&mut random)?;
    let stem: String = stem.replace('.', "-").chars().take(50).collect();
    Ok(Label::new(&format!("{}-{:02x}{:02x}{:02x}", stem.trim_end_matches('-'), random[0], random[1], random[2]))?)
}

fn getrandom(buffer: &mut [u8]) -> anyhow::Result<()> {
    let filled = rustix::rand::getrandom(&mut *buffer, rustix::rand::GetRandomFlags::empty()).context("no random numbers")?;
    anyhow::ensure!(filled == buffer.len(), "no random numbers");
    Ok(())
}

/// The program's file name as far as it makes a label: `curl`, `python3`.
fn program_label(program: &Path) -> String {
    let name = program.file_name().unwrap_or_default().as_bytes();
    let label: String = name.iter().map(|byte| byte.to_ascii_lowercase()).filter(u8::is_ascii_alphanumeric).map(char::from).collect();
    if label.is_empty() { "client".to_owned() } else { label }
}
