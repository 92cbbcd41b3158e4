//! Files of the app's mount namespace that make name resolution go straight to the proxy:
//! resolv.conf, nsswitch.conf, and the doors of resolvers that answer past any network namespace.
//! A courtesy: the redirect of port 53 is what holds, so what fails here is logged and left.
//! Nothing is written on the host.

use std::{
    fs,
    path::{Path, PathBuf},
};

use rustix::{
    io::Errno,
    mount::{MountFlags, UnmountFlags},
};

const RESOLV: &str = "/etc/resolv.conf";
const NSSWITCH: &str = "/etc/nsswitch.conf";
/// Sockets of nscd and systemd-resolved.
const PAST_THE_NETWORK: [&str; 3] = ["/run/nscd", "/var/run/nscd", "/run/systemd/resolve"];
/// Directories that exist nearly everywhere; one is covered for a moment, in this namespace only.
const SCRATCH: [&str; 4] = ["/mnt", "/tmp", "/var", "/dev"];

/// Puts them in place.
pub(crate) fn install() {
    // Read before anything is covered: the link may lead into a directory that will be.
    let mut files: Vec<(PathBuf, String)> = Vec::new();
    for (path, rewrite) in [(RESOLV, rewrite_resolv_conf as fn(&str) -> String), (NSSWITCH, rewrite_nsswitch_conf)] {
        match fs::canonicalize(path).and_then(|target| Ok((fs::read_to_string(&target)?, target))) {
            Ok((text, target)) => files.push((target, rewrite(&text))),
            Err(error) => tracing::debug!(%error, "{path} is left as it is"),
        }
    }
    let mut covered: Vec<PathBuf> = Vec::new();
    for directory in PAST_THE_NETWORK {
        let Ok(directory) = fs::canonicalize(directory) else { continue };
        if covered.contains(&directory) || !directory.is_dir() {
            continue;
        }
        match empty_mount(&directory, MountFlags::empty()) {
            Ok(()) => covered.push(directory),
            Err(error) => tracing::debug!(%error, "{} stays visible", directory.display()),
        }
    }
    let (inside, outside): (Vec<_>, Vec<_>) =
        files.into_iter().partition(|(target, _)| covered.iter().any(|directory| target.starts_with(directory)));
    for (target, text) in inside {
        let written = match target.parent() {
            Some(parent) => fs::create_dir_all(parent).and_then(|()| fs::write(&target, text)),
            None => Ok(()),
        };
        if let Err(error) = written {
            tracing::debug!(%error, "{} is missing inside", target.display());
        }
    }
    if let Err(error) = bind_files(&outside) {
        tracing::debug!(%error, "the host's files stay visible");
    }
}

/// Binds each text over its target, by way of a tmpfs that is gone afterwards: the bound files
/// keep it alive.
fn bind_files(files: &[(PathBuf, String)]) -> std::io::Result<()> {
    let is_free = |scratch: &Path| scratch.is_dir() && !files.iter().any(|(target, _)| target.starts_with(scratch));
    let Some(scratch) = SCRATCH.iter().map(Path::new).find(|scratch| is_free(scratch)) else {
        return Err(Errno::NOENT.into());
    };
    empty_mount(scratch, MountFlags::empty())?;
    for (number, (target, text)) in files.iter().enumerate() {
        let source = scratch.join(number.to_string());
        let bound = fs::write(&source, text).and_then(|()| Ok(rustix::mount::mount_bind(&source, target)?));
        if let Err(error) = bound {
            tracing::debug!(%error, "{} stays as on the host", target.display());
        }
    }
    Ok(rustix::mount::unmount(scratch, UnmountFlags::DETACH)?)
}

/// Covers a directory with an empty one.
pub(crate) fn empty_mount(directory: &Path, more: MountFlags) -> Result<(), Errno> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC | more;
    rustix::mount::mount("lorica", directory, "tmpfs", flags, c"size=256k,mode=755")
}

/// The host's search list and options with one name server: any would do, as port 53 is
/// redirected wherever it is.
fn rewrite_resolv_conf(text: &str) -> String {
    let mut written = String::from("nameserver 127.0.0.1\n");
    for line in text.lines() {
        let keyword = line.split_whitespace().next().unwrap_or_default();
        if matches!(keyword, "search" | "domain" | "options" | "sortlist") {
            written.push_str(line);
            written.push('\n');
        }
    }
    written
}

/// Host names from files and DNS alone; every other database as on the host.
fn rewrite_nsswitch_conf(text: &str) -> String {
    let mut written = String::new();
    for line in text.lines() {
        let database = line.split_once(':').map(|(database, _)| database.trim());
        if database != Some("hosts") {
            written.push_str(line);
            written.push('\n');
        }
    }
    written.push_str("hosts: files dns\n");
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolv_conf_keeps_search_and_options() {
        let host = "# made by hand\nnameserver 10.0.0.2\nsearch corp.example svc.example\n\
                    options ndots:5 edns0\nnameserver ::1\n";
        assert_eq!(rewrite_resolv_conf(host), "nameserver 127.0.0.1\nsearch corp.example svc.example\noptions ndots:5 edns0\n");
        assert_eq!(rewrite_resolv_conf(""), "nameserver 127.0.0.1\n");
    }

    #[test]
    fn nsswitch_changes_hosts_alone() {
        let host = "passwd: files systemd\nhosts:  files resolve [!UNAVAIL=return] dns\n\
                    # hosts: a comment\nservices: db files\n";
        assert_eq!(rewrite_nsswitch_conf(host), "passwd: files systemd\n# hosts: a comment\nservices: db files\nhosts: files dns\n");
    }
}
