//! Debian packages, installed where this user may, or only unpacked. In flow package names; out flows success, or why not, as the end of a
//! sentence.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::peers::programs;
use crate::progress::quietly;

/// Installing is not broken off lightly.
const DEADLINE: Duration = Duration::from_secs(600);

/// Installs packages with what they need and no more.
pub(crate) fn install(packages: &[&str]) -> Result<(), String> {
    let wanted = packages.join(" ");
    let by_hand = format!("not installed; install it by hand (Debian: apt-get install {wanted})");
    if programs::find("apt-get").is_none() {
        return Err(format!("{by_hand}: this machine has no apt-get"));
    }
    if !is_root() {
        return Err(format!("{by_hand}: only root may"));
    }
    let mut update = apt_get();
    update.arg("update");
    // With old lists the installation may still succeed, so only its result counts.
    let lists = quietly("fetching Debian's package lists", &mut update, DEADLINE);
    let mut install = apt_get();
    install.args(["install", "--yes", "--no-install-recommends"]).args(packages);
    match (quietly(&format!("installing {wanted}"), &mut install, DEADLINE), lists) {
        (Ok(_), _) => Ok(()),
        (Err(error), Ok(_)) | (Err(_), Err(error)) => Err(format!("not installed, and apt-get could not: {error}")),
    }
}

/// Unpacks a package into `directory` without installing it: what it brings is not started as a service, and needs nothing else. Anybody may.
pub(crate) fn unpack(package: &str, directory: &Path) -> Result<(), String> {
    let failed = |what: String| format!("not unpacked: {what}");
    if programs::find("apt-get").is_none() || programs::find("dpkg-deb").is_none() {
        return Err(format!("not unpacked; put it on the path by hand (Debian: apt-get install {package}): this machine has no apt-get"));
    }
    std::fs::create_dir_all(directory).map_err(|error| failed(error.to_string()))?;
    // With old lists the download may still succeed, so only its result counts; only root may fetch new ones.
    let lists = if is_root() { quietly("fetching Debian's package lists", apt_get().arg("update"), DEADLINE).map(drop) } else { Ok(()) };
    let download = quietly(&format!("fetching {package}"), apt_get().args(["download", package]).current_dir(directory), DEADLINE);
    if let Err(error) = download {
        return Err(failed(lists.err().map_or_else(|| error.clone(), |lists| format!("{error}; {lists}"))));
    }
    let files = std::fs::read_dir(directory).map_err(|error| failed(error.to_string()))?;
    let archives = files.filter_map(Result::ok).map(|file| file.path()).filter(|path| path.extension().is_some_and(|end| end == "deb"));
    for archive in archives {
        let mut unpack = Command::new("dpkg-deb");
        unpack.arg("--extract").arg(&archive).arg(directory);
        quietly(&format!("unpacking {package}"), &mut unpack, DEADLINE).map_err(failed)?;
        std::fs::remove_file(&archive).map_err(|error| failed(error.to_string()))?;
    }
    Ok(())
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command.args(["--quiet", "-o", "Acquire::Retries=1", "-o", "Acquire::http::Timeout=15", "-o", "Acquire::https::Timeout=15"]);
    // Some packages ask questions otherwise (tshark: who may capture).
    command.env("DEBIAN_FRONTEND", "noninteractive");
    command
}

/// Whether this process runs as root.
fn is_root() -> bool {
    // The owner of a process's directory is its effective user.
    std::fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0)
}
