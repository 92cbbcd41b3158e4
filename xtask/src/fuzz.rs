//! `cargo xtask fuzz`: in flow the targets in `fuzz/` and how long each runs; out flow what libFuzzer says, how often each ran, and an exit code.
//! What it finds stays in `fuzz/artifacts`, what it learns in `fuzz/corpus`; neither is kept with the sources.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context as _, bail, ensure};

use crate::metadata;

/// What is run, and for how long.
#[derive(Debug, PartialEq, Eq)]
struct Asked {
    targets: Vec<String>,
    seconds: u64,
}

/// How long a target runs where nothing else is said, in seconds.
const SECONDS: u64 = 60;
/// The longest that one run may take, in seconds: a parser that takes longer hangs.
const TIMEOUT: &str = "-timeout=20";
/// The most memory that a target may hold, in MiB.
const MEMORY: &str = "-rss_limit_mb=2048";

impl Asked {
    fn of(arguments: &[String], known: &[String]) -> anyhow::Result<Self> {
        let (mut targets, mut seconds) = (Vec::new(), SECONDS);
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            if argument == "--seconds" {
                let number = arguments.next().and_then(|number| number.parse().ok()).filter(|number| *number > 0);
                seconds = number.context("`--seconds` takes a number of seconds, 1 or more")?;
            } else if known.contains(argument) {
                targets.push(argument.clone());
            } else {
                bail!("`{argument}` is no target\nhint: targets are {}", known.join(", "));
            }
        }
        Ok(Self { targets: if targets.is_empty() { known.to_vec() } else { targets }, seconds })
    }
}

pub(crate) fn run(arguments: &[String]) -> anyhow::Result<ExitCode> {
    let root = metadata::root()?;
    let asked = Asked::of(arguments, &known(&root.join("fuzz/fuzz_targets"))?)?;
    let has = |arguments: &[&str]| Command::new("cargo").args(arguments).output().is_ok_and(|output| output.status.success());
    ensure!(has(&["+nightly", "--version"]), "there is no nightly compiler, which libFuzzer needs\nhint: rustup toolchain install nightly");
    ensure!(has(&["+nightly", "fuzz", "--version"]), "there is no cargo-fuzz\nhint: cargo install cargo-fuzz --locked");
    // What is fuzzed is what is built: the same versions of everything.
    fs::copy(root.join("Cargo.lock"), root.join("fuzz/Cargo.lock")).context("Cargo.lock cannot be copied")?;
    let mut failed = Vec::new();
    for target in &asked.targets {
        match one(&root, target, asked.seconds)? {
            (true, runs) => println!("{target}: {runs} runs, nothing found"),
            (false, runs) => {
                println!("{target}: FAILED after {runs} runs; what it met is in fuzz/artifacts/{target}");
                failed.push(target.as_str());
            }
        }
    }
    ensure!(
        failed.is_empty(),
        "{} met something\nhint: cargo +nightly fuzz run --fuzz-dir fuzz TARGET fuzz/artifacts/TARGET/FILE",
        failed.join(", ")
    );
    Ok(ExitCode::SUCCESS)
}

/// Runs one target; whether all went well, and how many runs there were.
fn one(root: &Path, target: &str, seconds: u64) -> anyhow::Result<(bool, u64)> {
    let corpus = root.join("fuzz/corpus").join(target);
    fs::create_dir_all(&corpus).with_context(|| corpus.display().to_string())?;
    let command = |last: &str| {
        let mut command = Command::new("cargo");
        command.current_dir(root).args(["+nightly", "fuzz", "run", "--fuzz-dir", "fuzz", target]).arg(&corpus);
        command.args(["--", TIMEOUT, MEMORY, last]);
        // A compiler that cargo chose for this program is not the one that is needed.
        command.env_remove("RUSTUP_TOOLCHAIN");
        command
    };
    // The samples are written before libFuzzer looks what there is.
    let begun =
        command("-runs=1").env("LORICA_FUZZ_SEEDS", &corpus).stderr(Stdio::inherit()).status().context("cargo cannot be started")?;
    if !begun.success() {
        return Ok((false, 0));
    }
    let mut running = command(&format!("-max_total_time={seconds}")).arg("-print_final_stats=1").stderr(Stdio::piped()).spawn()?;
    let mut runs = 0;
    for line in BufReader::new(running.stderr.take().context("its words are not heard")?).lines() {
        let line = line.context("what it says cannot be read")?;
        runs = number_of_runs(&line).unwrap_or(runs);
        eprintln!("{line}");
    }
    Ok((running.wait()?.success(), runs))
}

/// What libFuzzer counted: `stat::number_of_executed_units: 4711`, or `#4711 NEW …` on the way.
fn number_of_runs(line: &str) -> Option<u64> {
    let text = line.strip_prefix("stat::number_of_executed_units:").or_else(|| line.strip_prefix('#'))?;
    text.trim_start().split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// The targets, by the files that they have.
fn known(directory: &Path) -> anyhow::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory).with_context(|| directory.display().to_string())? {
        let path = entry?.path();
        names.extend(path.file_stem().and_then(|name| name.to_str()).map(str::to_owned));
    }
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn targets_and_seconds_are_read() {
        let known = ["dns", "json"].map(str::to_owned);
        let asked = |text: &str| Asked::of(&text.split_whitespace().map(str::to_owned).collect::<Vec<_>>(), &known);
        assert_eq!(asked("").unwrap(), Asked { targets: known.to_vec(), seconds: 60 });
        assert_eq!(asked("dns --seconds 5").unwrap(), Asked { targets: vec!["dns".to_owned()], seconds: 5 });
        assert!(asked("dsn").unwrap_err().to_string().contains("targets are dns, json"));
        assert!(asked("--seconds 0").is_err());
    }

    #[test]
    fn every_target_has_its_file_and_its_place() {
        let root = metadata::root().unwrap();
        let manifest = fs::read_to_string(root.join("fuzz/Cargo.toml")).unwrap();
        for name in known(&root.join("fuzz/fuzz_targets")).unwrap() {
            assert!(manifest.contains(&format!("[[bin]]\nname = \"{name}\"\npath = \"fuzz_targets/{name}.rs\"\n")), "{name}");
            let text = fs::read_to_string(root.join(format!("fuzz/fuzz_targets/{name}.rs"))).unwrap();
            assert!(text.contains(&format!("target!(\"{name}\")")), "{name}");
        }
    }

    #[test]
    fn runs_are_counted_as_libfuzzer_tells_them() {
        assert_eq!(number_of_runs("stat::number_of_executed_units: 4711"), Some(4711));
        assert_eq!(number_of_runs("#2048\tpulse  cov: 7"), Some(2048));
        assert_eq!(number_of_runs("INFO: seed corpus"), None);
    }
}
