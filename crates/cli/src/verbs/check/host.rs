//! Whether this host has what a mesh needs, before anything runs.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::process::{Resource, geteuid, getrlimit};

use super::{Check, Found};
use crate::places::Places;

/// How many descriptors a busy proxy may need: two a connection.
const DESCRIPTORS: u64 = 4096;
/// How much room there is to be for state and logs, in bytes.
const ROOM: u64 = 512 * 1024 * 1024;

/// What the checks of a host look at.
pub(super) struct Host {
    /// Why programs cannot be captured here, if they cannot.
    uncaptured: Option<String>,
    /// How many descriptors a process may have; none: any number.
    descriptors: Option<u64>,
    state: Directory,
    runtime: Directory,
}

/// A directory of ours, as it is or would be.
struct Directory {
    path: String,
    /// What is wrong with it.
    wrong: Option<String>,
    /// How many bytes there is room for where it is or would be; none where the system does not say.
    room: Option<u64>,
}

impl Host {
    pub(super) fn look(places: &Places) -> Self {
        Self {
            uncaptured: lorica_capture::probe(&[lorica_capture::HELPER.into()]).err().map(|missing| missing.to_string()),
            descriptors: getrlimit(Resource::Nofile).maximum,
            state: Directory::look(&places.state),
            runtime: Directory::look(&places.runtime),
        }
    }
}

impl Directory {
    fn look(path: &Path) -> Self {
        let wrong = match fs::symlink_metadata(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => Some(error.to_string()),
            Ok(found) if !found.is_dir() => Some("it is no directory".to_owned()),
            Ok(found) if found.uid() != geteuid().as_raw() => Some(format!("it belongs to user {}", found.uid())),
            Ok(found) if found.mode() & 0o022 != 0 => Some(format!("others may write to it (mode {:o})", found.mode() & 0o777)),
            Ok(_) => None,
        };
        // Where it is not there yet, what it will be in.
        let there = path.ancestors().find(|path| path.exists()).unwrap_or(path);
        let room = rustix::fs::statvfs(there).ok().map(|found| found.f_bavail.saturating_mul(found.f_frsize));
        Self { path: path.display().to_string(), wrong, room }
    }
}

/// The checks of a host.
pub(super) const CHECKS: [Check<Host>; 4] = [
    Check { number: 15, name: "programs can be captured", look: capture },
    Check { number: 16, name: "open files", look: descriptors },
    Check { number: 17, name: "directory of state", look: state },
    Check { number: 18, name: "directory of sockets", look: runtime },
];

fn capture(host: &Host) -> Found {
    let Some(missing) = &host.uncaptured else {
        return Found::good("without privileges");
    };
    // What to do stands in the hint.
    let why = missing.lines().take_while(|line| !line.trim_start().starts_with("hint:")).map(str::trim).collect::<Vec<_>>().join("; ");
    Found::warning(why, "`lorica run --upstream NAME:PORT=LOCAL_ADDR` needs no privilege")
}

fn descriptors(host: &Host) -> Found {
    match host.descriptors {
        Some(limit) if limit < DESCRIPTORS => Found::warning(
            format!("at most {limit} a process; a proxy takes two a connection"),
            "raise it: `ulimit -Hn`, `LimitNOFILE=` of a systemd unit, or limits.conf",
        ),
        Some(limit) => Found::good(format!("up to {limit} a process")),
        None => Found::good("any number"),
    }
}

fn state(host: &Host) -> Found {
    directory(&host.state, "set XDG_STATE_HOME to a directory of your own with room")
}

fn runtime(host: &Host) -> Found {
    directory(&host.runtime, "set XDG_RUNTIME_DIR to a directory of your own with room")
}

fn directory(directory: &Directory, hint: &'static str) -> Found {
    let path = &directory.path;
    match (&directory.wrong, directory.room) {
        (Some(wrong), _) => Found::bad(format!("{path}: {wrong}"), hint),
        (None, Some(room)) if room < ROOM => Found::warning(format!("{path}: room for {} MiB more", room >> 20), hint),
        (None, Some(room)) => Found::good(format!("{path}, with room for {} GiB", room >> 30)),
        (None, None) => Found::good(path.clone()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::PermissionsExt;

    use super::super::Level;
    use super::*;

    fn host(directory: &Path) -> Host {
        Host { uncaptured: None, descriptors: None, state: Directory::look(directory), runtime: Directory::look(directory) }
    }

    #[test]
    fn what_a_host_lacks_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let mut host = host(folder.path());
        assert_eq!(capture(&host).level, Level::Good);
        host.uncaptured = Some("cannot make a user namespace: EPERM\n  likely cause: a sysctl\n  hint: do".to_owned());
        assert_eq!(capture(&host).message, "cannot make a user namespace: EPERM; likely cause: a sysctl");
        assert_eq!(descriptors(&host).level, Level::Good);
        host.descriptors = Some(1024);
        assert_eq!(descriptors(&host).level, Level::Warning);
    }

    #[test]
    fn a_directory_is_to_be_ones_own_and_to_have_room() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        let level = |path: &Path| state(&host(path)).level;
        // One that is not there yet is made where there is room.
        assert!(level(&path) < Level::Bad);
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
        let found = state(&host(&path));
        assert_eq!(found.level, Level::Bad);
        assert!(found.message.ends_with("others may write to it (mode 777)"), "{}", found.message);
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(state(&host(&file)).message.ends_with("it is no directory"));
        let full = Directory { path: "/x".to_owned(), wrong: None, room: Some(3 << 20) };
        assert_eq!(directory(&full, "").message, "/x: room for 3 MiB more");
    }
}
