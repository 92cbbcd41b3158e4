//! `cargo xtask check`: in flows the workspace; out flows every breach of its rules, each with the file and what to do. All checks run,
//! also after one failed. It changes no file.

mod dependencies;
mod licences;
mod links;
mod texts;

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::Context as _;

use crate::metadata::{self, Metadata};
use crate::run_tests::FEATURES;

/// A breach of a rule: where, what, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Breach {
    pub(crate) place: String,
    pub(crate) what: String,
    pub(crate) hint: String,
}

impl Breach {
    pub(crate) fn new(place: &Path, what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { place: place.display().to_string(), what: what.into(), hint: hint.into() }
    }
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}\n  hint: {}", self.place, self.what, self.hint)
    }
}

pub(crate) fn run() -> anyhow::Result<ExitCode> {
    let metadata = Metadata::load(&metadata::root()?)?;
    let mut failed = Vec::new();
    let mut step = |name: &'static str, check: &mut dyn FnMut() -> anyhow::Result<Vec<Breach>>| -> anyhow::Result<()> {
        let started = Instant::now();
        println!("check: {name}");
        let breaches = check()?;
        for breach in &breaches {
            println!("{breach}");
        }
        let result = if breaches.is_empty() { "ok".to_owned() } else { format!("{} to mend", breaches.len()) };
        println!("check: {name}: {result} ({:.1} s)", started.elapsed().as_secs_f64());
        if !breaches.is_empty() {
            failed.push(name);
        }
        Ok(())
    };
    let cargo = |arguments: &[&str], hint: &str| cargo(metadata::cargo(&metadata.root).args(arguments), hint);
    step("format", &mut || format(&metadata))?;
    step("dependencies", &mut || Ok(dependencies::breaches(&metadata)))?;
    step("dashboards", &mut || crate::dashboards::breaches(&metadata.root))?;
    step("licences", &mut || licences::breaches(&metadata))?;
    let files = files(&metadata.root)?;
    step("texts", &mut || texts::breaches(&metadata.root, &files))?;
    step("links", &mut || links::breaches(&metadata.root, &files))?;
    let lint = |what: &[&str]| cargo(&[&["clippy"], what, &["--", "--deny", "warnings"]].concat(), "mend what clippy names above");
    let tested = format!("--features={FEATURES}");
    step("lints", &mut || lint(&["--workspace", "--all-targets", &tested]))?;
    step("lints without what is off by default", &mut || lint(&["-p", "lorica"]))?;
    if failed.is_empty() {
        println!("check: all passed");
        return Ok(ExitCode::SUCCESS);
    }
    println!("check: failed: {}", failed.join(", "));
    Ok(ExitCode::FAILURE)
}

/// The files that rustfmt would change.
fn format(metadata: &Metadata) -> anyhow::Result<Vec<Breach>> {
    let arguments = ["fmt", "--all", "--", "--check", "--files-with-diff"];
    let output = metadata::cargo(&metadata.root).args(arguments).output().context("cargo cannot be started")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let files: BTreeSet<&Path> = text.lines().map(Path::new).filter(|file| file.is_absolute()).collect();
    let breach = |file: &Path| Breach::new(metadata.relative(file), "it is not formatted", "run `cargo fmt --all`");
    if output.status.success() || !files.is_empty() {
        return Ok(files.into_iter().map(breach).collect());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Ok(vec![Breach::new(Path::new("workspace"), format!("rustfmt cannot read it:\n{said}"), "mend the syntax that it names")])
}

/// Runs cargo with its output on the terminal; its failure is one breach.
fn cargo(command: &mut Command, hint: &str) -> anyhow::Result<Vec<Breach>> {
    let status = command.status().context("cargo cannot be started")?;
    let arguments: Vec<_> = command.get_args().map(std::ffi::OsStr::to_string_lossy).collect();
    let breach = || Breach::new(Path::new("workspace"), format!("`cargo {}` failed ({status})", arguments.join(" ")), hint);
    Ok(if status.success() { Vec::new() } else { vec![breach()] })
}

/// Every file of the tree, without what is built and without git's own, as paths relative to the root, in order.
fn files(root: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut directories = vec![PathBuf::new()];
    while let Some(directory) = directories.pop() {
        let here = root.join(&directory);
        for entry in here.read_dir().with_context(|| here.display().to_string())? {
            let entry = entry?;
            let path = directory.join(entry.file_name());
            let kind = entry.file_type()?;
            // A second working tree has a file named `.git`.
            if kind.is_file() && !path.ends_with(".git") {
                files.push(path);
            } else if kind.is_dir() && !["target", ".git", "node_modules"].iter().any(|skipped| path.ends_with(skipped)) {
                directories.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_found_without_what_is_built() {
        let root = tempfile::tempdir().unwrap();
        for file in ["b/two.rs", "a.md", "target/debug/x", ".git/config", ".ci/run"] {
            let file = root.path().join(file);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, "").unwrap();
        }
        let expected: Vec<PathBuf> = [".ci/run", "a.md", "b/two.rs"].map(PathBuf::from).into();
        assert_eq!(files(root.path()).unwrap(), expected);
    }

    #[test]
    fn a_breach_names_place_and_way_out() {
        let breach = Breach::new(Path::new("a/b.rs"), "it is too long", "split it");
        assert_eq!(breach.to_string(), "a/b.rs: it is too long\n  hint: split it");
    }
}
