//! The sidecar role: started by `lorica run`, never by hand.

use std::process::ExitCode;

use anyhow::Context as _;
use lorica_capture::ProxyChannel;
use lorica_cli::args::Global;
use lorica_proxy::config::ProxyConfig;

/// Runs the data plane beside one app.
pub(crate) fn sidecar(configuration: &str, global: &Global) -> anyhow::Result<ExitCode> {
    crate::logging::start("warn", global.verbose);
    let channel = ProxyChannel::from_env().context("this verb is started by `lorica run`\nhint: `lorica run --help`")?;
    let configuration: ProxyConfig = serde_json::from_str(configuration).context("the proxy's configuration cannot be read")?;
    lorica_proxy::sidecar::run(configuration, channel)?;
    Ok(ExitCode::SUCCESS)
}
