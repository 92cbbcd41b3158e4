//! `cargo xtask bench`: peers and load installed where that is allowed, the product and the bench built in release, then run.
//! In flow arguments for the bench; out flow its output and its exit code.

use std::process::ExitCode;

use anyhow::Context as _;

use crate::metadata::{self, Metadata};
use crate::peers;

pub(crate) fn run(arguments: Vec<String>) -> anyhow::Result<ExitCode> {
    let metadata = Metadata::load(&metadata::root()?)?;
    let envoy = peers::for_benches(&metadata.target.join("peers"));
    println!("building lorica and the bench in release: some minutes, the first time");
    let built = metadata::cargo(&metadata.root).args(["build", "--release", "-p", "lorica", "-p", "lorica-bench"]).status();
    anyhow::ensure!(built.context("cargo cannot be started")?.success(), "the workspace does not build: see above");
    let release = metadata.target.join("release");
    let mut command = std::process::Command::new(release.join("lorica-bench"));
    command.args(arguments).env("LORICA_BENCH_BINARY", release.join("lorica")).env("LORICA_BENCH_ROOT", &metadata.root);
    match envoy {
        Ok(envoy) => drop(command.env("LORICA_TEST_ENVOY", envoy)),
        Err(why) => println!("left out: Envoy: {why}"),
    }
    let status = command.status().context("the bench cannot be started")?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
