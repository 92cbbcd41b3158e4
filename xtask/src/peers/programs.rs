//! Programs on this machine's path. In flows a name; out flows where it is. It runs nothing.

use std::ffi::OsStr;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Where a program is. Of several, one that every user may run is preferred, as tests run by root also run as nobody.
pub(crate) fn find(name: &str) -> Option<PathBuf> {
    let all = all(name);
    all.iter().find(|path| for_everyone(path)).or_else(|| all.first()).cloned()
}

/// All programs of that name, in the path's order; the system's directories count even where the path lacks them, as for users other than root.
pub(crate) fn all(name: &str) -> Vec<PathBuf> {
    among(name, &std::env::var_os("PATH").unwrap_or_default())
}

fn among(name: &str, path: &OsStr) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = Vec::new();
    for directory in std::env::split_paths(path).chain(["/usr/bin", "/usr/sbin", "/sbin"].map(PathBuf::from)) {
        let program = directory.join(name);
        if directory.is_absolute() && executable(&program) && !found.contains(&program) {
            found.push(program);
        }
    }
    found
}

fn executable(path: &Path) -> bool {
    path.metadata().is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
}

/// Whether any user may run it: the file itself, and every directory on the way to it.
fn for_everyone(path: &Path) -> bool {
    path.canonicalize().is_ok_and(|path| path.ancestors().all(|part| part.metadata().is_ok_and(|part| part.mode() & 0o001 != 0)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_program_is_an_executable_file_on_the_path() {
        let directory = tempfile::tempdir().unwrap();
        for (file, mode) in [("a/tool-of-this-test", 0o644), ("b/tool-of-this-test", 0o755), ("c/tool-of-this-test", 0o755)] {
            let file = directory.path().join(file);
            fs::create_dir(file.parent().unwrap()).unwrap();
            fs::write(&file, "").unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        }
        let at = |part: &str| directory.path().join(part);
        let path = std::env::join_paths([at("missing"), at("a"), at("b"), at("c"), at("b")]).unwrap();
        assert_eq!(among("tool-of-this-test", &path), [at("b/tool-of-this-test"), at("c/tool-of-this-test")]);
        assert_eq!(among("another-tool-of-this-test", &path), Vec::<PathBuf>::new());
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o700)).unwrap();
        assert!(!for_everyone(&at("b/tool-of-this-test")));
        assert!(for_everyone(Path::new("/bin/sh")));
    }
}
