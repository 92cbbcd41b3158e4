//! Where state and sockets live: the environment in, checked directories out. Read once, at the start of a command.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// The directories of one user's mesh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    /// What must survive: `$XDG_STATE_HOME/lorica`, else `~/.local/state/lorica`; for root `/var/lib/lorica`.
    pub state: PathBuf,
    /// Sockets: `$XDG_RUNTIME_DIR/lorica`; for root `/run/lorica`; without either `/tmp/lorica-UID`.
    pub runtime: PathBuf,
}

/// Why a directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// It could not be made or looked at.
    #[error("{path}: {error}\nhint: set {variable} to a directory that you may write to")]
    Unusable {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
        /// The variable that moves it.
        variable: &'static str,
    },
    /// Somebody else could put sockets or keys into it.
    #[error("{path} belongs to user {owner} or may be written by others\nhint: remove it, or set {variable} to a directory of your own")]
    NotOurs {
        /// The directory.
        path: PathBuf,
        /// The uid that owns it.
        owner: u32,
        /// The variable that moves it.
        variable: &'static str,
    },
}

impl Places {
    /// The directories that the environment names. `variable` reads one of its variables; an empty or relative value counts as absent.
    #[must_use]
    pub fn of(uid: u32, variable: impl Fn(&str) -> Option<PathBuf>) -> Self {
        let absolute = |name| variable(name).filter(|path| path.is_absolute());
        let given = |name| absolute(name).map(|path| path.join("lorica"));
        let root = |path: &str| (uid == 0).then(|| PathBuf::from(path));
        let home = || absolute("HOME").map(|home| home.join(".local/state/lorica"));
        let fallback = PathBuf::from(format!("/tmp/lorica-{uid}"));
        Self {
            state: given("XDG_STATE_HOME").or_else(|| root("/var/lib/lorica")).or_else(home).unwrap_or_else(|| fallback.join("state")),
            runtime: given("XDG_RUNTIME_DIR").or_else(|| root("/run/lorica")).unwrap_or(fallback),
        }
    }

    /// The directories of this process's user.
    #[must_use]
    pub fn from_environment() -> Self {
        let uid = rustix::process::geteuid().as_raw();
        Self::of(uid, |name| std::env::var_os(name).map(PathBuf::from))
    }

    /// The control plane's socket.
    #[must_use]
    pub fn control_socket(&self) -> PathBuf {
        self.runtime.join("control.sock")
    }

    /// The control plane's state.
    #[must_use]
    pub fn control_state(&self) -> PathBuf {
        self.state.join("control")
    }

    /// Where proxies keep what they need to start, and their access logs.
    #[must_use]
    pub fn proxy_state(&self) -> PathBuf {
        self.state.join("proxy")
    }

    /// Where the agent of a host keeps the host's identity.
    #[must_use]
    pub fn host_state(&self) -> PathBuf {
        self.state.join("host")
    }

    /// Makes both directories, for the owner alone.
    ///
    /// # Errors
    /// [`PlaceError`] names the directory and what to do.
    pub fn make(&self) -> Result<(), PlaceError> {
        own_directory(&self.state, "XDG_STATE_HOME")?;
        own_directory(&self.runtime, "XDG_RUNTIME_DIR")
    }
}

/// Makes `path` for the owner alone, and refuses it if anybody else could write there: in /tmp, others may have been first.
///
/// # Errors
/// [`PlaceError`] names the directory and what to do.
pub fn own_directory(path: &Path, variable: &'static str) -> Result<(), PlaceError> {
    let unusable = |error| PlaceError::Unusable { path: path.to_owned(), error, variable };
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(unusable)?;
    let found = fs::symlink_metadata(path).map_err(unusable)?;
    if !found.is_dir() || found.uid() != rustix::process::geteuid().as_raw() {
        return Err(PlaceError::NotOurs { path: path.to_owned(), owner: found.uid(), variable });
    }
    if found.mode() & 0o077 != 0 {
        fs::set_permissions(path, fs::Permissions::from_mode(0o700)).map_err(unusable)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[track_caller]
    fn check(uid: u32, environment: &[(&str, &str)], state: &str, runtime: &str) {
        let variable = |name: &str| environment.iter().find(|(known, _)| *known == name).map(|(_, value)| PathBuf::from(value));
        assert_eq!(Places::of(uid, variable), Places { state: state.into(), runtime: runtime.into() });
    }

    #[test]
    fn places_follow_the_environment() {
        check(0, &[("HOME", "/root")], "/var/lib/lorica", "/run/lorica");
        check(7, &[("HOME", "/home/a"), ("XDG_RUNTIME_DIR", "/run/user/7")], "/home/a/.local/state/lorica", "/run/user/7/lorica");
        check(7, &[("XDG_STATE_HOME", "/s"), ("XDG_RUNTIME_DIR", "/r")], "/s/lorica", "/r/lorica");
        check(7, &[("XDG_STATE_HOME", "relative"), ("XDG_RUNTIME_DIR", "")], "/tmp/lorica-7/state", "/tmp/lorica-7");
    }

    #[test]
    fn a_directory_is_made_for_its_owner_alone() {
        let directory = tempfile::tempdir().unwrap();
        let places = Places { state: directory.path().join("a/state"), runtime: directory.path().join("run") };
        places.make().unwrap();
        assert_eq!(fs::metadata(&places.state).unwrap().mode() & 0o777, 0o700);
        fs::set_permissions(&places.runtime, fs::Permissions::from_mode(0o755)).unwrap();
        places.make().unwrap();
        assert_eq!(fs::metadata(&places.runtime).unwrap().mode() & 0o777, 0o700);
    }
}
