//! `lorica policy refused`.

use std::process::ExitCode;

use comfy_table::{Table, presets};
use lorica_api::{ApiClient, RefusedCall, RefusedCalls};

use crate::args::{RefusedArgs, ResourceFormat};
use crate::printer::Printer;

pub(super) async fn refused(client: &ApiClient, arguments: RefusedArgs, printer: &mut Printer) -> anyhow::Result<ExitCode> {
    let refused = client.refused(arguments.namespace.as_ref().map(lorica_model::name::Namespace::as_str)).await?;
    match arguments.output {
        ResourceFormat::Json => printer.data(&serde_json::to_string_pretty(&refused)?),
        ResourceFormat::Yaml => {
            let documents = refused.allow.iter().map(serde_saphyr::to_string).collect::<Result<Vec<_>, _>>()?;
            printer.data(&documents.iter().map(|document| document.trim_end()).collect::<Vec<_>>().join("\n---\n"));
        }
        ResourceFormat::Table | ResourceFormat::Wide if refused.calls.is_empty() => {
            printer.data("nothing was refused that is still refused");
        }
        form => {
            printer.data(&shown(&refused, form == ResourceFormat::Wide));
            printer.note("hint: `lorica policy refused -o yaml` prints the policies that would let these calls out");
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn shown(refused: &RefusedCalls, wide: bool) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    let mut header = vec!["CALLER", "CALLED", "TIMES", "LAST", "REFUSED BY"];
    header.extend(wide.then_some(["ADDRESS", "FIRST", "PROXY"]).into_iter().flatten());
    table.set_header(header);
    for call in &refused.calls {
        let RefusedCall { namespace, account, proxy, host, address, port, times, first, last, policy } = call;
        let mut row = vec![format!("{namespace}/{account}"), format!("{host}:{port}"), times.to_string(), last.clone(), policy.clone()];
        if wide {
            row.extend([address.map_or_else(|| "-".to_owned(), |address| address.to_string()), first.clone(), proxy.clone()]);
        }
        table.add_row(row);
    }
    table.to_string().lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}
