//! `lorica`: one binary in several roles. This file is the table of contents; each role is a file of its own.

mod ca;
mod control;
#[cfg(feature = "demo")]
mod demo;
mod envoy;
mod explain;
mod logging;
mod proxy;
mod run;
mod sidecar;
mod telemetry;

use std::process::ExitCode;

use clap::Parser;
use lorica_cli::args::{CaCommand, Cli, Command, EnvoyCommand};
use lorica_cli::printer::Printer;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let Cli { command, global } = Cli::parse();
    let mut printer = Printer::terminal();
    if let Err(error) = global.ends_with.map_or(Ok(()), end_with) {
        printer.error(&format!("{error:#}"));
        return ExitCode::FAILURE;
    }
    if matches!(command, Command::Control(_) | Command::Proxy(_) | Command::Sidecar { .. }) {
        take_descriptors();
    }
    let done = match command {
        Command::Control(arguments) => control::control(arguments, &global, &mut printer),
        Command::Run(arguments) => run::run(arguments, &global, &mut printer),
        Command::Explain(arguments) if !arguments.command.is_empty() => explain::explain(arguments, &global, &mut printer),
        Command::Proxy(arguments) => proxy::proxy(*arguments, &global, &mut printer),
        Command::Sidecar { configuration } => sidecar::sidecar(&configuration, &global),
        Command::CaptureHelper => return lorica_capture::helper_main(),
        Command::Ca(CaCommand::SignIntermediate(arguments)) => ca::sign_intermediate(&arguments, &mut printer),
        Command::Envoy(EnvoyCommand::Bootstrap(arguments)) => envoy::bootstrap(arguments, &global, &mut printer),
        #[cfg(feature = "demo")]
        Command::Demo(arguments) => demo::demo(arguments, &mut printer),
        #[cfg(feature = "demo")]
        Command::ContactCentre { arguments } => return contact_centre::main(arguments),
        #[cfg(not(feature = "demo"))]
        Command::Demo(_) | Command::ContactCentre { .. } => {
            Err(anyhow::anyhow!("this binary was built without the demo\nhint: build it with `--features demo`"))
        }
        Command::Apply(_)
        | Command::Delete(_)
        | Command::Diff(_)
        | Command::Split(_)
        | Command::Fault(_)
        | Command::Authz(_)
        | Command::Mtls(_)
        | Command::Policy(_)
        | Command::Ca(_)
        | Command::Check(_)
        | Command::Trace(_)
        | Command::Logs(_)
        | Command::Routes(_)
        | Command::Bugreport(_)
        | Command::Token(_)
        | Command::Explain(_)
        | Command::Tap(_)
        | Command::Top(_)
        | Command::Get(_)
        | Command::Graph(_)
        | Command::Status(_)
        | Command::Completions(_) => lorica_cli::verbs::execute(command, &global, &mut printer),
    };
    done.unwrap_or_else(|error| {
        // Diagnostics come with labels and places of their own.
        let diagnostics = matches!(error.downcast_ref(), Some(lorica_api::ApiError::Refused(_)))
            || matches!(error.downcast_ref(), Some(proxy::Refused::Files(_)));
        if diagnostics {
            printer.note(&format!("{error}"));
        } else {
            printer.error(&format!("{error:#}"));
        }
        ExitCode::FAILURE
    })
}

/// As many descriptors as a process may have: the usual limit of 1,024, meant for programs that call select(2), is two a connection here.
/// Apps keep theirs, as no process in which this is called starts one.
fn take_descriptors() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "the number of open files cannot be raised");
    }
}

/// Lets this process end with its parent, so that even a killed demo leaves nothing behind.
fn end_with(parent: i32) -> anyhow::Result<()> {
    use rustix::process::{Signal, getppid, set_parent_process_death_signal};
    set_parent_process_death_signal(Some(Signal::TERM))?;
    // It may have ended before it could be watched.
    anyhow::ensure!(getppid().is_some_and(|found| found.as_raw_nonzero().get() == parent), "the process that started this one has ended");
    Ok(())
}
