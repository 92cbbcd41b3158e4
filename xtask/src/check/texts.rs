//! Rules for text: how long a source file may be, how it opens, and what no file may name. In flow the tree's files; out flow breaches.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::check::Breach;

/// Lines that a source file may have.
const LONGEST: usize = 800;

/// Directories that exist on one machine only. Put together here, so that this file does not hold them itself.
const MACHINE_PATHS: [&str; 2] = [concat!("/", "work", "/"), concat!("/", "root", "/")];

pub(crate) fn breaches(root: &Path, files: &[PathBuf]) -> anyhow::Result<Vec<Breach>> {
    let mut breaches = Vec::new();
    for file in files {
        let bytes = fs::read(root.join(file)).with_context(|| file.display().to_string())?;
        // Pictures and the like have no lines.
        if let Ok(text) = std::str::from_utf8(&bytes) {
            breaches.extend(of_file(file, text));
        }
    }
    Ok(breaches)
}

fn of_file(file: &Path, text: &str) -> Vec<Breach> {
    let mut breaches = Vec::new();
    let in_source = file.extension() == Some(OsStr::new("rs")) && file.components().any(|part| part.as_os_str() == "src");
    if in_source {
        let lines = text.lines().count();
        if lines > LONGEST {
            breaches.push(Breach::new(file, format!("{lines} lines, more than {LONGEST}"), "split it: one module, one noun"));
        }
        if !text.starts_with("//!") {
            breaches.push(Breach::new(
                file,
                "it does not begin with `//!`",
                "open it with what flows in, what flows out, and what it never does",
            ));
        }
    }
    for (number, line) in text.lines().enumerate() {
        if let Some(path) = machine_path(line) {
            let what = format!("line {} names a path of one machine: `{path}`", number + 1);
            breaches.push(Breach::new(file, what, "name a path relative to the repository, or an example such as /srv/app"));
        }
    }
    breaches
}

/// The first machine path of a line; `a/work/b` is none.
fn machine_path(line: &str) -> Option<&str> {
    let inside = |character: char| character.is_alphanumeric() || "._-}*)$~".contains(character);
    MACHINE_PATHS.iter().find_map(|path| {
        let (at, _) = line.match_indices(path).find(|(at, _)| !line[..*at].ends_with(inside))?;
        let rest = &line[at..];
        let end = rest.find(|character: char| character.is_whitespace() || "\"'`)>]".contains(character)).unwrap_or(rest.len());
        Some(&rest[..end])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(file: &str, text: &str, expected: &[&str]) {
        let breaches: Vec<String> = of_file(Path::new(file), text).into_iter().map(|breach| breach.what).collect();
        assert_eq!(breaches, expected);
    }

    #[test]
    fn source_files_open_with_what_they_hold() {
        check("crates/a/src/b.rs", "//! Things.\n", &[]);
        check("crates/a/src/b.rs", "use a;\n", &["it does not begin with `//!`"]);
        check("crates/a/tests/b.rs", "use a;\n", &[]);
        check("docs/a.md", "A text\n", &[]);
    }

    #[test]
    fn source_files_stay_short() {
        let text = |lines: usize| "//!\n".repeat(lines);
        check("crates/a/src/b.rs", &text(800), &[]);
        check("crates/a/src/b.rs", &text(801), &["801 lines, more than 800"]);
    }

    #[test]
    fn machine_paths_are_found() {
        let [first, second] = MACHINE_PATHS;
        check("a.md", &format!("see\n`{first}main/x`\n"), &[&format!("line 2 names a path of one machine: `{first}main/x`")]);
        check("a.toml", &format!("x = \"{second}y\""), &[&format!("line 1 names a path of one machine: `{second}y`")]);
        check("a.md", &format!("home{first}x, crates{second}y"), &[]);
    }
}
