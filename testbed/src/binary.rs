//! The programs under test: where they are, built anew if their sources are younger. In flow this test's own place and the sources' times; out
//! flow paths. Under `cargo xtask test` all is built already, and nothing is looked at.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::SystemTime;

use anyhow::{Context as _, bail};

/// The `lorica` under test.
///
/// # Errors
/// It is not there and cannot be built.
pub fn lorica() -> anyhow::Result<&'static Path> {
    static PATH: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    once(&PATH, || match std::env::var_os("LORICA_TEST_BINARY") {
        Some(path) => Ok(path.into()),
        None => built("lorica", "lorica", &["crates", "contact-centre", "Cargo.lock"]),
    })
}

/// `testbed-app`: an app for tests that need one without Python, Node or curl. Its first argument says what it is: `http`, `tcp`, `get`.
///
/// # Errors
/// It is not there and cannot be built.
pub fn app() -> anyhow::Result<&'static Path> {
    static PATH: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    once(&PATH, || {
        // Cargo builds it with the tests that are started from beside it.
        let beside = directory()?.join("testbed-app");
        if std::env::var_os("LORICA_TEST_BINARY").is_some() && beside.exists() {
            return Ok(beside);
        }
        built("testbed", "testbed-app", &["testbed", "crates/capture", "Cargo.lock"])
    })
}

fn once(cell: &'static OnceLock<Result<PathBuf, String>>, find: impl FnOnce() -> anyhow::Result<PathBuf>) -> anyhow::Result<&'static Path> {
    match cell.get_or_init(|| find().map_err(|error| format!("{error:#}"))) {
        Ok(path) => Ok(path),
        Err(error) => bail!("{error}"),
    }
}

/// The directory that cargo puts programs into: this one's, or above its `deps`.
fn directory() -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe().context("this program does not know where it is")?;
    let directory = own.parent().context("this program is in no directory")?;
    let directory = if directory.ends_with("deps") { directory.parent().context("`deps` is in no directory")? } else { directory };
    Ok(directory.to_owned())
}

/// The repository.
pub(crate) fn root() -> PathBuf {
    // Cargo and nextest say where it is now; it may have moved since this was compiled.
    let manifest = std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    manifest.ancestors().find(|directory| directory.join("Cargo.lock").exists()).unwrap_or(&manifest).to_owned()
}

/// Builds a program unless it is younger than its sources. Of the tests that run at once, one builds and the others wait.
fn built(package: &str, program: &str, sources: &[&str]) -> anyhow::Result<PathBuf> {
    let directory = directory()?;
    let root = root();
    let path = directory.join(program);
    // Cargo may find nothing to do though a source is younger; the stamp says that it looked.
    let stamp = directory.join(format!(".{program}.built"));
    let fresh = || {
        let youngest = sources.iter().map(|source| youngest(&root.join(source))).max();
        path.exists() && [&path, &stamp].into_iter().filter_map(|file| changed(file)).max() >= youngest.flatten()
    };
    if fresh() {
        return Ok(path);
    }
    let lock = directory.join(".testbed.lock");
    let lock = File::create(&lock).with_context(|| lock.display().to_string())?;
    lock.lock().context("the lock for building cannot be had")?;
    if !fresh() {
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.current_dir(&root).args(["build", "--quiet", "--package", package, "--bin", program]);
        if package == "lorica" {
            // What packages have, too.
            cargo.args(["--features", "http3"]);
        }
        if directory.ends_with("release") {
            cargo.arg("--release");
        }
        let output = cargo.output().context("cargo cannot be started")?;
        if !output.status.success() {
            bail!("{program} does not build:\n{}", String::from_utf8_lossy(&output.stderr));
        }
        fs::write(&stamp, "").with_context(|| stamp.display().to_string())?;
    }
    if path.exists() { Ok(path) } else { bail!("cargo built no {}", path.display()) }
}

fn changed(file: &Path) -> Option<SystemTime> {
    file.metadata().and_then(|file| file.modified()).ok()
}

/// When the youngest source below a path changed.
fn youngest(path: &Path) -> Option<SystemTime> {
    if !path.is_dir() {
        return changed(path);
    }
    let entries = fs::read_dir(path).ok()?.flatten().map(|entry| entry.path());
    let is_source = |path: &PathBuf| {
        path.is_dir() || path.extension().is_some_and(|extension| ["rs", "toml", "proto"].iter().any(|source| extension == *source))
    };
    entries.filter(is_source).filter(|path| !path.ends_with("tests")).filter_map(|path| youngest(&path)).max()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_repository_is_found() {
        assert!(root().join("testbed/src/binary.rs").exists());
        assert!(directory().unwrap().join("deps").exists());
    }

    #[test]
    fn the_youngest_source_counts() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str, seconds: u64| {
            let path = directory.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            let time = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
            File::create(&path).unwrap().set_modified(time).unwrap();
            time
        };
        let expected = at("a/src/x.rs", 200);
        at("a/Cargo.toml", 100);
        at("a/notes.md", 300);
        at("a/tests/y.rs", 300);
        assert_eq!(youngest(directory.path()), Some(expected));
    }
}
