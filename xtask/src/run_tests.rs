//! `cargo xtask test`: peers, one build, every test that this machine allows. In flow arguments for the runner; out flow its output, the
//! list of what was left out and why, and, last, the runner's summary. The exit code is the runner's.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::sync::mpsc::sync_channel;

use anyhow::Context as _;

use crate::metadata::{self, Metadata};
use crate::peers::{self, Peers};
use crate::runner_output::{Runner, Summary};

/// What is off by default and tested all the same.
pub(crate) const FEATURES: &str = "lorica/http3,lorica-proxy/http3";

/// The packages that the runner's arguments choose.
fn packages(arguments: &[String]) -> Vec<&str> {
    let mut chosen = Vec::new();
    let mut arguments = arguments.iter().map(String::as_str);
    while let Some(argument) = arguments.next() {
        match argument.split_once('=') {
            _ if ["-p", "--package"].contains(&argument) => chosen.extend(arguments.next()),
            Some(("--package", name)) => chosen.push(name),
            _ => {}
        }
    }
    chosen
}

pub(crate) fn run(mut arguments: Vec<String>) -> anyhow::Result<ExitCode> {
    let own = arguments.iter().position(|argument| argument == "--no-fetch");
    if let Some(place) = own {
        arguments.remove(place);
    }
    let metadata = Metadata::load(&metadata::root()?)?;
    let Peers { environment, left_out } = peers::gather(&metadata.target.join("peers"), own.is_none());

    println!("building the programs that tests start");
    let built = metadata::cargo(&metadata.root)
        .args(["build", "--workspace", "--bins", "--features", FEATURES])
        .status()
        .context("cargo cannot be started")?;
    anyhow::ensure!(built.success(), "the workspace does not build: see above");

    let list = metadata.target.join("left-out.txt");
    fs::write(&list, "").with_context(|| list.display().to_string())?;
    let nextest = metadata::cargo(&metadata.root).args(["nextest", "--version"]).output().is_ok_and(|output| output.status.success());
    let runner = if nextest { Runner::Nextest } else { Runner::CargoTest };
    let mut command = metadata::cargo(&metadata.root);
    match runner {
        Runner::Nextest => command.args(["nextest", "run"]),
        Runner::CargoTest => {
            println!("cargo-nextest is not installed (cargo install cargo-nextest --locked): cargo test takes its place");
            command.args(["test", "--no-fail-fast"])
        }
    };
    match packages(&arguments).as_slice() {
        [] if arguments.iter().any(|argument| argument == "--workspace") => drop(command.args(["--features", FEATURES])),
        [] => drop(command.args(["--workspace", "--features", FEATURES])),
        // Features can be named of packages that are chosen, and of no others.
        chosen => {
            for feature in FEATURES.split(',').filter(|feature| chosen.contains(&feature.split('/').next().unwrap_or_default())) {
                command.args(["--features", feature]);
            }
        }
    }
    command
        .args(&arguments)
        .envs(environment)
        .env("LORICA_LEFT_OUT", &list)
        .env("LORICA_TEST_BINARY", metadata.target.join("debug/lorica"));
    colour(&mut command);
    let (code, summary) = watch(command, Summary::of(runner))?;

    let left_out = all_left_out(left_out, &list)?;
    let mut out = std::io::stdout().lock();
    if !left_out.is_empty() {
        writeln!(out, "\nleft out on this machine:")?;
        for line in &left_out {
            writeln!(out, "  {line}")?;
        }
        writeln!(out)?;
    }
    for line in summary.last_lines() {
        writeln!(out, "{line}")?;
    }
    Ok(code)
}

/// The runner sees a pipe, and would go without colour.
fn colour(command: &mut Command) {
    use std::io::IsTerminal;
    if std::io::stdout().is_terminal() && std::env::var_os("CARGO_TERM_COLOR").is_none() && std::env::var_os("NO_COLOR").is_none() {
        command.env("CARGO_TERM_COLOR", "always");
    }
}

/// Runs the runner, printing as it goes all but its summary.
fn watch(mut command: Command, mut summary: Summary) -> anyhow::Result<(ExitCode, Summary)> {
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().context("the test runner cannot be started")?;
    // Few lines wait here: whoever prints is faster than any test.
    let (sender, lines) = sync_channel(256);
    let pipes: [Option<Box<dyn Read + Send>>; 2] =
        [child.stdout.take().map(|pipe| Box::new(pipe) as _), child.stderr.take().map(|pipe| Box::new(pipe) as _)];
    for pipe in pipes.into_iter().flatten() {
        let sender = sender.clone();
        std::thread::spawn(move || {
            let mut pipe = BufReader::new(pipe);
            let mut line = Vec::new();
            // Tests may print anything; what is no text is shown as well as it can be.
            while pipe.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
                let text = String::from_utf8_lossy(line.strip_suffix(b"\n").unwrap_or(&line)).into_owned();
                line.clear();
                if sender.send(text).is_err() {
                    break;
                }
            }
        });
    }
    drop(sender);
    for line in lines {
        if let Some(line) = summary.line(line) {
            println!("{line}");
        }
    }
    let status = child.wait().context("the test runner was lost")?;
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).and_then(|code| u8::try_from(code).ok()).unwrap_or(1);
    Ok((ExitCode::from(code), summary))
}

/// What the machine lacked, and what tests said while they ran, each once.
fn all_left_out(mut sentences: Vec<String>, list: &Path) -> anyhow::Result<Vec<String>> {
    let said = fs::read_to_string(list).with_context(|| list.display().to_string())?;
    let said: BTreeSet<&str> = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    sentences.extend(said.into_iter().map(str::to_owned));
    Ok(sentences)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_packages_chosen_are_those_named() {
        let arguments = ["--no-capture", "-p", "lorica", "--package=testbed", "--package", "xtask", "route"].map(str::to_owned);
        assert_eq!(packages(&arguments), ["lorica", "testbed", "xtask"]);
    }

    #[test]
    fn what_was_left_out_is_listed_once() {
        let directory = tempfile::tempdir().unwrap();
        let list = directory.path().join("list");
        fs::write(&list, "b: why\na: why\nb: why\n\n").unwrap();
        assert_eq!(all_left_out(vec!["curl: why".to_owned()], &list).unwrap(), ["curl: why", "a: why", "b: why"]);
    }

    #[test]
    fn the_runner_s_exit_code_and_summary_come_through() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo test output; echo '     Summary [ 0.1s] 1 test run'; echo trailer; exit 100"]);
        let (code, summary) = watch(command, Summary::of(Runner::Nextest)).unwrap();
        assert_eq!(format!("{code:?}"), format!("{:?}", ExitCode::from(100)));
        assert_eq!(summary.last_lines(), ["     Summary [ 0.1s] 1 test run", "trailer"]);
    }
}
