//! `lorica delete`.

use std::process::ExitCode;

use anyhow::{Context as _, bail};
use lorica_api::{ApiClient, DeleteRequest, Target};
use lorica_model::name::{Namespace, ObjectName};

use super::told;
use crate::args::DeleteArgs;
use crate::files::files;
use crate::printer::Printer;

pub(super) async fn delete(client: &ApiClient, arguments: DeleteArgs, printer: &mut Printer) -> anyhow::Result<ExitCode> {
    let mut request = DeleteRequest { force: arguments.force, ..DeleteRequest::default() };
    match (arguments.target.as_slice(), arguments.files.is_empty()) {
        ([], false) => request.files = files(&arguments.files)?,
        ([kind, name], true) => request.targets.push(target(kind, &arguments.namespace, name)?),
        _ => bail!("say what to delete\nhint: `lorica delete httproute NAME -n NAMESPACE`, or `lorica delete -f FILE`"),
    }
    told(&client.delete(&request, arguments.wait).await?, "deleted", arguments.output.format, printer)
}

fn target(kind: &str, namespace: &str, name: &str) -> anyhow::Result<Target> {
    Ok(Target { kind: super::get::kind(kind)?, namespace: Namespace::new(namespace).context("-n")?, name: ObjectName::new(name)? })
}
