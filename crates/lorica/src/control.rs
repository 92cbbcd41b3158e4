//! `lorica control`: a control plane in the foreground.

use std::process::ExitCode;

use anyhow::Context as _;
use lorica_cli::args::{ControlArgs, Global};
use lorica_cli::places::Places;
use lorica_cli::printer::Printer;
use lorica_control::ControlConfig;
use lorica_control::federation::endpoint::{EndpointCertificate, EndpointConfig};
use lorica_control::kubernetes::{ClusterKeys, KubernetesConfig};
use lorica_control::telemetry::kept::KeptConfig;
use lorica_model::resource::KeySource;
use tokio::signal::unix::{SignalKind, signal};

/// Runs a control plane until SIGINT or SIGTERM.
pub(crate) fn control(arguments: ControlArgs, global: &Global, printer: &mut Printer) -> anyhow::Result<ExitCode> {
    crate::logging::start("lorica_control=info,warn", global.verbose);
    let places = Places::from_environment();
    places.make()?;
    let trust_domain = arguments.trust_domain.as_deref().map(str::parse).transpose().context("--trust-domain")?;
    let own_ca = crate::ca::own(&arguments)?;
    let kubernetes = kubernetes(&arguments)?;
    let socket = arguments.socket.unwrap_or_else(|| places.control_socket());
    let config = ControlConfig {
        state_directory: arguments.state.unwrap_or_else(|| places.control_state()),
        socket: socket.clone(),
        workload_socket: arguments.workload_socket.unwrap_or_else(|| socket.with_file_name("workload.sock")),
        trust_domain,
        svid_lifetime: arguments.svid_lifetime,
        own_ca,
        kept: KeptConfig {
            bytes: arguments.telemetry_bytes.0,
            age: arguments.telemetry_age,
            otlp: arguments.otlp,
            otlp_http: arguments.otlp_http,
        },
        telemetry: arguments.telemetry,
        listen: arguments.listen,
        kubernetes,
        bundle_endpoint: arguments.bundle_endpoint.map(|address| EndpointConfig {
            address,
            certificate: arguments
                .bundle_endpoint_cert
                .zip(arguments.bundle_endpoint_key)
                .map(|(chain, key)| EndpointCertificate { chain, key }),
        }),
        bundle_refresh: arguments.bundle_refresh,
    };
    let state = config.state_directory.display().to_string();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        let shutdown = async move {
            tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
        };
        let default = socket == places.control_socket();
        let ready = |ready: &lorica_control::Ready| {
            let door = ready.listening.map(|address| format!(", hosts join on {address}")).unwrap_or_default();
            let telemetry = ready.telemetry.map(|address| format!(", telemetry on http://{address}")).unwrap_or_default();
            printer.data(&format!(
                "control plane ready: trust domain {}, socket unix://{}, state {state}{door}{telemetry}",
                ready.trust_domain,
                socket.display()
            ));
            for (address, what) in ready.otlp.iter().zip(["gRPC", "HTTP"]).filter_map(|(address, what)| Some(((*address)?, what))) {
                printer.note(&format!("OTLP over {what} is taken on {address}"));
            }
            let server = if default { String::new() } else { format!(" --server unix://{}", socket.display()) };
            printer.note(&format!("next: lorica{server} run --service web.shop --port 80/http -- CMD"));
        };
        lorica_control::run(config, ready, shutdown).await
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Whose service accounts are believed.
fn kubernetes(arguments: &ControlArgs) -> anyhow::Result<Option<KubernetesConfig>> {
    let (Some(issuer), Some(keys)) = (&arguments.kubernetes_issuer, &arguments.kubernetes_keys) else { return Ok(None) };
    if keys.starts_with("http://") {
        anyhow::bail!(
            "--kubernetes-keys {keys}: whoever is in between could put keys of their own there\nhint: an https:// address, or a file"
        );
    }
    let keys = match keys.starts_with("https://") {
        // Who names it here says where it is: a cluster's own address is rarely of the public internet.
        true => ClusterKeys::Url(KeySource { url: keys.clone(), refresh: KeySource::REFRESH, allow_private: true }),
        false => ClusterKeys::File(keys.into()),
    };
    Ok(Some(KubernetesConfig { issuer: issuer.clone(), audience: arguments.kubernetes_audience.clone(), keys }))
}
