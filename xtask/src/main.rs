//! The verbs of a developer: `cargo xtask test`, `check`, `bench`, `dashboards` and `fuzz`. In flow the workspace and what the machine offers; out flow
//! text for whoever sits at the terminal and an exit code. It is no part of the product, and changes nothing outside the target directory,
//! except that it lets apt-get install programs where it may.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "its only purpose is to speak to the terminal")]

mod bench;
mod check;
mod dashboards;
mod fuzz;
mod metadata;
mod peers;
mod progress;
mod run_tests;
mod runner_output;

use std::process::ExitCode;

const HELP: &str = "cargo xtask check                 format, lints, dependency rules, licences, rules for text
cargo xtask test [OPTIONS] [ARGS]   fetch the peers that tests need, build, run every test that this machine allows
cargo xtask bench [OPTIONS] [instructions|routes|scrape|ingest]   measure Lorica and its peers side by side (--help: how)
cargo xtask dashboards              write Grafana's dashboards from the tables in xtask/src/dashboards
cargo xtask fuzz [TARGET ...] [--seconds N]   run the parsers that anybody can reach on bytes by chance, each for a minute (docs/security-tests.md)

Options of test:
  --no-fetch   fetch nothing; use what is there
Everything else goes to the test runner: cargo xtask test -p lorica-model route";

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let verb = arguments.next();
    let rest: Vec<String> = arguments.collect();
    let done = match (verb.as_deref(), rest.as_slice()) {
        (Some("check"), []) => check::run(),
        (Some("check"), [first, ..]) => Err(anyhow::anyhow!("`check` takes no arguments, and got `{first}`")),
        (Some("test"), _) => run_tests::run(rest),
        (Some("bench"), _) => bench::run(rest),
        (Some("dashboards"), []) => dashboards::run(),
        (Some("dashboards"), [first, ..]) => Err(anyhow::anyhow!("`dashboards` takes no arguments, and got `{first}`")),
        (Some("fuzz"), arguments) => fuzz::run(arguments),
        (None | Some("help" | "--help" | "-h"), _) => {
            println!("{HELP}");
            return ExitCode::SUCCESS;
        }
        (Some(other), _) => {
            eprintln!("error: `{other}` is no verb here\n\n{HELP}");
            return ExitCode::from(2);
        }
    };
    done.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
