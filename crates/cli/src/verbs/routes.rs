//! `lorica routes`: where calls go.

use std::process::ExitCode;

use comfy_table::{Table, presets};
use lorica_api::{ApiClient, RouteEntry, RouteList};
use lorica_model::name::Namespace;

use crate::args::{Format, RoutedArg, RoutesArgs};
use crate::printer::Printer;

pub(super) async fn routes(client: &ApiClient, arguments: RoutesArgs, printer: &mut Printer) -> anyhow::Result<ExitCode> {
    let RoutesArgs { of: RoutedArg { gateway, name }, from, output } = arguments;
    let (namespace, short) = (name.namespace.as_str(), name.name.as_str());
    let routes = if gateway {
        anyhow::ensure!(from.is_none(), "what comes in at a gateway has no namespace of its own\nhint: leave --from out");
        client.routes_of_gateway(namespace, short).await?
    } else {
        client.routes_of_service(namespace, short, from.as_ref().map(Namespace::as_str)).await?
    };
    match output.format {
        Format::Json => printer.data(&serde_json::to_string_pretty(&routes.routes)?),
        Format::Table if routes.routes.is_empty() => {
            printer.note(&format!("{name} takes nothing: it has no ports, or nothing is attached to them"))
        }
        Format::Table => printer.data(&shown(&routes)),
    }
    Ok(ExitCode::SUCCESS)
}

fn shown(list: &RouteList) -> String {
    let hosts = list.routes.iter().any(|entry| entry.host.is_some());
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    let host = hosts.then_some("HOST");
    table.set_header(["PORT"].into_iter().chain(host).chain(["TAKES", "GOES TO", "WITH", "BY"]));
    for RouteEntry { port, host, takes, to, with, by } in &list.routes {
        let host = hosts.then(|| host.clone().unwrap_or_else(|| "-".to_owned()));
        let with = if with.is_empty() { "-".to_owned() } else { with.join(", ") };
        table.add_row([port.to_string()].into_iter().chain(host).chain([takes.clone(), to.clone(), with, by.clone()]));
    }
    table.to_string().lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(host: Option<&str>, with: &[&str]) -> RouteEntry {
        RouteEntry {
            port: 80,
            host: host.map(str::to_owned),
            takes: "GET /list/*".to_owned(),
            to: "recording.contact:80".to_owned(),
            with: with.iter().map(|with| (*with).to_owned()).collect(),
            by: "HTTPRoute/list.contact rule 0".to_owned(),
        }
    }

    #[test]
    fn routes_are_shown_in_order() {
        let text = shown(&RouteList { routes: vec![entry(None, &["timeout 2s", "CORS"]), entry(None, &[])] });
        let lines: Vec<Vec<&str>> =
            text.lines().map(|line| line.split("  ").map(str::trim).filter(|part| !part.is_empty()).collect()).collect();
        assert_eq!(lines[0], ["PORT", "TAKES", "GOES TO", "WITH", "BY"]);
        assert_eq!(lines[1], ["80", "GET /list/*", "recording.contact:80", "timeout 2s, CORS", "HTTPRoute/list.contact rule 0"]);
        assert_eq!(lines[2][3], "-");
        assert!(shown(&RouteList { routes: vec![entry(Some("*.example.com"), &[])] }).contains("*.example.com"));
    }
}
