//! `lorica apply` and `lorica diff`.

use std::process::ExitCode;
use std::time::Duration;

use lorica_api::{ApiClient, ApplyRequest};

use super::told;
use crate::args::{ApplyArgs, DiffArgs};
use crate::files::files;
use crate::printer::Printer;

pub(super) async fn apply(client: &ApiClient, arguments: ApplyArgs, printer: &mut Printer) -> anyhow::Result<ExitCode> {
    let request = ApplyRequest {
        files: files(&arguments.files)?,
        dry_run: arguments.dry_run,
        allow_missing: arguments.allow_missing,
        force: arguments.force,
    };
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
    let request = ApplyRequest { files: files(&arguments.files)?, dry_run: true, allow_missing: arguments.allow_missing, force: false };
    told(&client.apply(&request, Duration::ZERO).await?, "checked", arguments.output.format, printer)
}
