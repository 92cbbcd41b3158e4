//! `lorica explain -- CMD`: a command in the mesh, as `lorica run` has it, whose first request every proxy records in full; then the story.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use lorica_api::{ApiClient, Server};
use lorica_cli::args::{ExplainArgs, Global, MetricsArgs, RunArgs, TracingArgs};
use lorica_cli::places::Places;
use lorica_cli::printer::Printer;
use lorica_observe::metrics::Budget;

/// Runs the command, and tells what became of its first request. Ends with the command's exit code, where that is not 0.
pub(crate) fn explain(arguments: ExplainArgs, global: &Global, printer: &mut Printer) -> anyhow::Result<ExitCode> {
    let places = Places::from_environment();
    let client = ApiClient::new(Server::Unix(lorica_cli::server::socket(global.server.as_deref(), &places)?));
    let asking = || tokio::runtime::Builder::new_current_thread().enable_all().build();
    let token = asking()?.block_on(client.explain_token())?;
    let (wait, format) = (arguments.wait, arguments.output.format);
    // A command that runs in its own namespaces is forked: no other thread may live by then.
    let code = {
        let _aside = Aside::begin()?;
        crate::run::run_explained(run_arguments(arguments), Some(token.token), global, printer)?
    };
    let told = asking()?.block_on(lorica_cli::verbs::explain::run(&client, &token.id, wait, format, printer))?;
    Ok(if code == ExitCode::SUCCESS { told } else { code })
}

/// A mere client, unless said otherwise.
fn run_arguments(arguments: ExplainArgs) -> RunArgs {
    let ExplainArgs { request: _, namespace, account, upstreams, wait: _, output: _, command } = arguments;
    let budget = Budget::default();
    RunArgs {
        service: None,
        account,
        ports: Vec::new(),
        namespace,
        version_label: None,
        locality: None,
        advertise: None,
        upstreams,
        no_capture: false,
        publish: Vec::new(),
        host_ports: Vec::new(),
        inbound_ports: None,
        access_log: Some("off".to_owned()),
        traces: TracingArgs { trace_sampling: 1.0, ..TracingArgs::default() },
        metrics: MetricsArgs { metrics_series: budget.series, metrics_idle: budget.idle },
        drain: Duration::from_secs(5),
        command,
    }
}

/// What is written to stdout goes to stderr while this lives: the command's talk is beside the story, which alone a script reads.
struct Aside(std::os::fd::OwnedFd);

impl Aside {
    fn begin() -> anyhow::Result<Self> {
        let kept = rustix::io::fcntl_dupfd_cloexec(std::io::stdout(), 3).context("stdout cannot be kept")?;
        rustix::stdio::dup2_stdout(std::io::stderr()).context("stdout cannot be led to stderr")?;
        Ok(Self(kept))
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        if let Err(error) = rustix::stdio::dup2_stdout(&self.0) {
            tracing::warn!(%error, "stdout cannot be had back");
        }
    }
}
