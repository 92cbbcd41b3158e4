//! `lorica apply` and `lorica diff`.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use lorica_api::{ApiClient, ApplyRequest, NamedText};

use super::told;
use crate::args::{ApplyArgs, DiffArgs};
use crate::printer::Printer;

pub(super) async fn apply(client: &ApiClient, arguments: ApplyArgs, printer: &mut Printer) -> anyhow::Result<ExitCode> {
    let request = ApplyRequest { files: files(&arguments.files)?, dry_run: arguments.dry_run, allow_missing: arguments.allow_missing };
    let applying = client.apply(&request, arguments.wait);
    tokio::pin!(applying);
    let reply = tokio::select! {
        reply = &mut applying => reply?,
        () = tokio::time::sleep(Duration::from_secs(2)) => {
            printer.note(&format!("waiting for the proxies concerned, at most {:?} …", arguments.wait));
            applying.await?
        }
    };
    told(&reply, "applied", arguments.output.format, printer)
}

pub(super) async fn diff(client: &ApiClient, arguments: DiffArgs, printer: &mut Printer) -> anyhow::Result<ExitCode> {
    let request = ApplyRequest { files: files(&arguments.files)?, dry_run: true, allow_missing: arguments.allow_missing };
    told(&client.apply(&request, Duration::ZERO).await?, "checked", arguments.output.format, printer)
}

/// The texts of files, of directories' `.yaml`, `.yml` and `.json` files in order, and of standard input for `-`.
pub(super) fn files(paths: &[PathBuf]) -> anyhow::Result<Vec<NamedText>> {
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
