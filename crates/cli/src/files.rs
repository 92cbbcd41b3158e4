//! Files that hold resources: paths as typed go in, their texts under the names that diagnostics show come out.

use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use lorica_api::NamedText;

/// The texts of files, of directories' `.yaml`, `.yml` and `.json` files in order, and of standard input for `-`.
///
/// # Errors
/// Where one of them cannot be read, or a directory has none.
pub fn files(paths: &[PathBuf]) -> anyhow::Result<Vec<NamedText>> {
    let mut texts = Vec::new();
    for path in paths {
        if path == Path::new("-") {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).context("standard input cannot be read")?;
            texts.push(NamedText { name: "standard input".to_owned(), text });
        } else if path.is_dir() {
            let entries = std::fs::read_dir(path).with_context(|| format!("{} cannot be read", path.display()))?;
            let mut inside: Vec<PathBuf> = entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>()?;
            inside.retain(|file| file.extension().is_some_and(|ending| ["yaml", "yml", "json"].iter().any(|known| ending == *known)));
            inside.sort();
            anyhow::ensure!(!inside.is_empty(), "{} has no .yaml, .yml or .json file", path.display());
            for file in inside {
                texts.push(file_text(&file)?);
            }
        } else {
            texts.push(file_text(path)?);
        }
    }
    Ok(texts)
}

fn file_text(path: &Path) -> anyhow::Result<NamedText> {
    let text = std::fs::read_to_string(path).with_context(|| format!("{} cannot be read", path.display()))?;
    Ok(NamedText { name: path.display().to_string(), text })
}
