//! `lorica proxy --node`: the agent of a host in the foreground.

use std::io::Read as _;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use lorica_cli::args::{Global, ProxyArgs};
use lorica_cli::places::Places;
use lorica_cli::printer::Printer;
use lorica_identity::Bundle;
use lorica_identity::join_token::JoinToken;
use lorica_proxy::node::{self, NodeConfig, Proof, Ready};
use tokio::signal::unix::{SignalKind, signal};

/// The most bytes of a token's file.
const MAX_FILE: u64 = 64 * 1024;

/// Runs the agent until SIGINT or SIGTERM.
pub(super) fn node(arguments: ProxyArgs, global: &Global, printer: &mut Printer) -> anyhow::Result<ExitCode> {
    // What a host does is worth a line, as with a control plane.
    crate::logging::start("lorica_proxy::node=info,warn", global.verbose);
    let places = Places::from_environment();
    places.make()?;
    let proof = proof(&arguments)?;
    let socket = lorica_cli::server::socket(global.server.as_deref(), &places)?;
    let config = NodeConfig {
        state_directory: places.host_state(),
        socket: socket.clone(),
        workload_socket: arguments.workload_socket.unwrap_or_else(|| socket.with_file_name("workload.sock")),
        addresses: arguments.xds,
        proof,
        advertise: arguments.advertise,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        let shutdown = async move {
            tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
        };
        let ready = |Ready { member, trust_domain, joined, used_up }: &Ready| {
            let how = if *joined { "joined" } else { "is of" };
            printer.data(&format!("{member} {how} {trust_domain}, socket unix://{}", socket.display()));
            if *used_up {
                printer.note("the token is used up; its file can be removed");
            }
        };
        node::run(config, ready, shutdown).await
    })?;
    Ok(ExitCode::SUCCESS)
}

/// How the agent proves itself.
fn proof(arguments: &ProxyArgs) -> anyhow::Result<Proof> {
    if let (Some(token_file), Some(roots)) = (&arguments.service_account_token_file, &arguments.root_file) {
        let roots = std::fs::read_to_string(roots).with_context(|| format!("--root-file {}", roots.display()))?;
        let roots = Bundle::from_pem(arguments.trust_domain.clone(), &roots).context("--root-file")?;
        return Ok(Proof::ServiceAccount { token_file: token_file.clone(), roots });
    }
    let token = match &arguments.token_file {
        Some(file) => Some(read(file).with_context(|| format!("--token-file {}", file.display()))?),
        None => None,
    };
    Ok(Proof::JoinToken(token))
}

fn read(file: &std::path::Path) -> anyhow::Result<JoinToken> {
    let mut text = String::new();
    if file.as_os_str() == "-" {
        std::io::stdin().take(MAX_FILE).read_to_string(&mut text)?;
    } else {
        std::fs::File::open(file)?.take(MAX_FILE).read_to_string(&mut text)?;
    }
    if text.trim().is_empty() {
        bail!("it is empty");
    }
    Ok(text.parse()?)
}
