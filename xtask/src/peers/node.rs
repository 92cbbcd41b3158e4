//! Node packages in directories of their own below the target directory. In flows a pinned requirement; out flows the directory that holds
//! it. What was installed is written beside it, so a second run installs nothing. No script of a package runs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::peers::programs;
use crate::progress::quietly;

const DEADLINE: Duration = Duration::from_secs(120);
/// The file that says what a directory holds.
const STAMP: &str = ".installed";

/// The directory with `requirement` (`NAME@VERSION`) installed, for `NODE_PATH`.
pub(crate) fn package(requirement: &str, place: &Path, fetch: bool) -> Result<PathBuf, String> {
    let modules = place.join("node_modules");
    if fs::read_to_string(place.join(STAMP)).is_ok_and(|found| found == requirement) {
        return Ok(modules);
    }
    if !fetch {
        return Err(format!("{requirement} is not installed, and --no-fetch was given"));
    }
    let npm = programs::find("npm").ok_or("there is no npm (Debian: apt-get install npm)")?;
    let unwritable = |error: std::io::Error| format!("{}: {error}", place.display());
    fs::create_dir_all(place).map_err(unwritable)?;
    let mut install = Command::new(npm);
    install.args(["install", "--no-audit", "--no-fund", "--no-save", "--ignore-scripts", "--fetch-retries", "1"]);
    install.arg("--prefix").arg(place).arg(requirement);
    quietly(&format!("fetching {requirement} from npm's registry"), &mut install, DEADLINE)
        .map_err(|error| format!("{requirement} cannot be fetched: {error}"))?;
    fs::write(place.join(STAMP), requirement).map_err(unwritable)?;
    Ok(modules)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_fetched_where_that_is_not_allowed() {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().join("thing");
        let error = package("thing@1.0", &place, false).unwrap_err();
        assert_eq!(error, "thing@1.0 is not installed, and --no-fetch was given");
        assert!(!place.exists());
        fs::create_dir(&place).unwrap();
        fs::write(place.join(STAMP), "thing@1.0").unwrap();
        assert_eq!(package("thing@1.0", &place, false).unwrap(), place.join("node_modules"));
    }
}
