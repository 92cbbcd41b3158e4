//! The directories of one mesh under test, and the commands that run in them. In flows as whom; out flow commands with an environment of their
//! own: nothing of the developer's shell reaches them but the path, the language and what Rust's own diagnostics read. Removed when dropped.

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Context as _;
use tempfile::TempDir;

use crate::Who;

/// What commands keep of the test's own environment.
const KEPT: [&str; 8] = ["PATH", "LANG", "LC_ALL", "TZ", "RUST_BACKTRACE", "RUST_LOG", "LD_LIBRARY_PATH", "LLVM_PROFILE_FILE"];

#[derive(Debug)]
pub(crate) struct Place {
    directory: TempDir,
    who: Who,
}

impl Place {
    pub(crate) fn new(who: Who) -> anyhow::Result<Self> {
        // Short: sockets below it have paths of at most 107 bytes.
        let directory = tempfile::Builder::new().prefix("lorica-").permissions(Permissions::from_mode(0o700)).tempdir();
        let place = Self { directory: directory.context("no directory for the test")?, who };
        for part in ["state", "run", "home"] {
            fs::create_dir(place.path().join(part))?;
            place.give(&place.path().join(part))?;
        }
        place.give(place.path())?;
        Ok(place)
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn home(&self) -> PathBuf {
        self.path().join("home")
    }

    /// The directory in which Lorica keeps its sockets.
    pub(crate) fn runtime(&self) -> PathBuf {
        self.path().join("run/lorica")
    }

    /// The directory in which Lorica keeps its state.
    pub(crate) fn state(&self) -> PathBuf {
        self.path().join("state/lorica")
    }

    /// Makes a file or directory the user's own.
    fn give(&self, path: &Path) -> anyhow::Result<()> {
        if let Some(uid) = self.who.other_uid() {
            chown(path, Some(uid), Some(uid)).with_context(|| path.display().to_string())?;
        }
        if path.is_dir() {
            fs::set_permissions(path, Permissions::from_mode(0o700))?;
        }
        Ok(())
    }

    /// Writes a file into the home directory.
    pub(crate) fn write(&self, name: &str, content: &[u8]) -> anyhow::Result<PathBuf> {
        let path = self.home().join(name);
        fs::write(&path, content).with_context(|| path.display().to_string())?;
        self.give(&path)?;
        Ok(path)
    }

    /// A path at which the user may run a program: its own, else that of a copy.
    pub(crate) fn program(&self, program: &Path) -> anyhow::Result<PathBuf> {
        if self.who.other_uid().is_none() || for_everyone(program) {
            return Ok(program.to_owned());
        }
        let copy = self.path().join(program.file_name().unwrap_or(OsStr::new("program")));
        if !copy.exists() {
            fs::copy(program, &copy).with_context(|| format!("{} cannot be copied", program.display()))?;
            fs::set_permissions(&copy, Permissions::from_mode(0o755))?;
        }
        Ok(copy)
    }

    /// A command in this place, as its user, in a process group of its own, without input.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.env_clear();
        command.envs(KEPT.iter().filter_map(|name| std::env::var_os(name).map(|value| (name, value))));
        command.env("HOME", self.home()).env("XDG_STATE_HOME", self.path().join("state")).env("XDG_RUNTIME_DIR", self.path().join("run"));
        command.current_dir(self.home()).stdin(Stdio::null()).process_group(0);
        if let Some(uid) = self.who.other_uid() {
            // Also gives up root's further groups.
            command.uid(uid).gid(uid);
        }
        command
    }
}

/// Whether any user may run it: the file itself, and every directory on the way to it.
fn for_everyone(program: &Path) -> bool {
    program.canonicalize().is_ok_and(|path| path.ancestors().all(|part| part.metadata().is_ok_and(|part| part.mode() & 0o001 != 0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_its_user_s_alone() {
        for who in Who::all() {
            let place = Place::new(*who).unwrap();
            let file = place.write("a.yaml", b"x").unwrap();
            let output = place
                .command("sh")
                .args(["-c", "cat a.yaml; echo; id -u; stat -c %u:%a . ..; pwd; echo $XDG_RUNTIME_DIR; env | wc -l"])
                .output()
                .unwrap();
            let text = String::from_utf8(output.stdout).unwrap();
            let uid = who.other_uid().unwrap_or_else(|| rustix::process::geteuid().as_raw());
            let (home, run) = (place.home(), place.path().join("run"));
            assert!(text.starts_with(&format!("x\n{uid}\n{uid}:700\n{uid}:700\n{}\n{}\n", home.display(), run.display())), "{text}");
            assert_eq!(file.metadata().unwrap().uid(), uid);
        }
    }

    #[test]
    fn a_program_is_copied_for_a_user_who_cannot_reach_it() {
        let directory = tempfile::Builder::new().permissions(Permissions::from_mode(0o700)).tempdir().unwrap();
        let program = directory.path().join("hello");
        fs::write(&program, "#!/bin/sh\necho hello\n").unwrap();
        fs::set_permissions(&program, Permissions::from_mode(0o700)).unwrap();
        let place = Place::new(Who::Nobody).unwrap();
        let path = place.program(&program).unwrap();
        assert_eq!(path == program, Who::Nobody.other_uid().is_none());
        assert_eq!(place.command(path).output().unwrap().stdout, b"hello\n");
        assert_eq!(place.program(Path::new("/bin/sh")).unwrap(), Path::new("/bin/sh"));
    }
}
