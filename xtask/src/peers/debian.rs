//! Debian packages, where this user may install them. In flow package names; out flows success, or why not, as the end of a sentence.

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
