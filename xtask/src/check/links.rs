//! Links between documents: in flow Markdown files; out flow those that lead nowhere: relative links, and paths of this repository in
//! `code` that begin with one of its directories. Addresses on the web are not asked for.

use std::ffi::OsStr;
use std::fs;
use std::path::{Component, Path, PathBuf};

use anyhow::Context as _;

use crate::check::Breach;

/// Directories whose paths are checked where they stand in `code`.
const NAMED: [&str; 8] = ["crates/", "bench/", "contact-centre/", "docs/", "testbed/", "xtask/", "deploy/", "web/"];

pub(crate) fn breaches(root: &Path, files: &[PathBuf]) -> anyhow::Result<Vec<Breach>> {
    let mut breaches = Vec::new();
    for file in files.iter().filter(|file| file.extension() == Some(OsStr::new("md"))) {
        let text = fs::read_to_string(root.join(file)).with_context(|| file.display().to_string())?;
        let directory = file.parent().unwrap_or(Path::new(""));
        for (number, target) in targets(&text) {
            let path = match &target {
                Target::Link(link) => match link.strip_prefix('/') {
                    Some(from_root) => PathBuf::from(from_root),
                    None => directory.join(link),
                },
                Target::Code(path) => PathBuf::from(path),
            };
            let path = plain(&path);
            if path.as_ref().is_none_or(|path| !root.join(path).exists()) {
                let (Target::Link(shown) | Target::Code(shown)) = &target;
                let what = format!("line {number}: `{shown}` does not exist");
                breaches.push(Breach::new(file, what, "name what is there, or remove the reference"));
            }
        }
    }
    Ok(breaches)
}

#[derive(Debug, PartialEq, Eq)]
enum Target {
    /// Relative to the document.
    Link(String),
    /// Relative to the repository.
    Code(String),
}

/// What the text refers to in this repository, with line numbers; nothing from fenced blocks.
fn targets(text: &str) -> Vec<(usize, Target)> {
    let mut found = Vec::new();
    let mut fenced = false;
    for (index, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
            continue;
        }
        if fenced {
            continue;
        }
        // Between backticks is code, outside of them links are.
        for (part, text) in line.split('`').enumerate() {
            if part % 2 == 1 {
                let path = text.split_once('#').map_or(text, |(path, _)| path);
                let checked = NAMED.iter().any(|start| path.starts_with(start)) && !path.contains([' ', '*', '{', '<', '…']);
                found.extend(checked.then(|| (index + 1, Target::Code(path.to_owned()))));
            }
        }
        for link in links(line) {
            let path = link.split_once('#').map_or(link, |(path, _)| path);
            if !path.is_empty() && !path.contains("://") && !path.starts_with("mailto:") {
                found.push((index + 1, Target::Link(path.to_owned())));
            }
        }
    }
    found
}

/// `[text](target)` and `[name]: target`.
fn links(line: &str) -> Vec<&str> {
    let mut found: Vec<&str> = line
        .match_indices("](")
        // An even number of backticks before it: not in code.
        .filter(|(at, _)| line[..*at].matches('`').count().is_multiple_of(2))
        .filter_map(|(at, _)| line[at + 2..].split_once(')'))
        .filter_map(|(inside, _)| inside.split_whitespace().next())
        .collect();
    if line.starts_with('[')
        && let Some((_, target)) = line.split_once("]: ")
    {
        found.extend(target.split_whitespace().next());
    }
    found
}

/// The path without `.` and `..`; `None` if it leads out of the repository.
fn plain(path: &Path) -> Option<PathBuf> {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => plain.push(name),
            Component::ParentDir => {
                if !plain.pop() {
                    return None;
                }
            }
            Component::CurDir => {}
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_and_paths_are_found() {
        let link = |target: &str| Target::Link(target.to_owned());
        let code = |target: &str| Target::Code(target.to_owned());
        let text = "[a](docs/a.md#part) and [`b`](../b.rs \"title\"), [web](https://example.org/x.md), [here](#x)\n\
                    ```\n[c](no.md) `crates/no.rs`\n```\n`[d](no.md)` `crates/x/src/y.rs` `crates/*/src` `cargo run`\n[e]: e.md\n";
        let expected = [(1, link("docs/a.md")), (1, link("../b.rs")), (5, code("crates/x/src/y.rs")), (6, link("e.md"))];
        assert_eq!(targets(text), expected);
    }

    #[test]
    fn what_leads_nowhere_is_a_breach() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("docs")).unwrap();
        fs::write(root.path().join("README.md"), "[docs](docs) [one](docs/one.md) [two](docs/two.md)\n").unwrap();
        fs::write(root.path().join("docs/one.md"), "[up](../README.md) [out](../../x.md)\n`docs/one.md` `docs/gone.md`\n").unwrap();
        let files = ["README.md", "docs/one.md"].map(PathBuf::from);
        let found: Vec<String> =
            breaches(root.path(), &files).unwrap().into_iter().map(|breach| format!("{}: {}", breach.place, breach.what)).collect();
        assert_eq!(
            found,
            [
                "README.md: line 1: `docs/two.md` does not exist",
                "docs/one.md: line 1: `../../x.md` does not exist",
                "docs/one.md: line 2: `docs/gone.md` does not exist"
            ]
        );
    }
}
