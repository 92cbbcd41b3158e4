//! `lorica get trafficpolicy --effective SERVICE`.

use std::process::ExitCode;

use comfy_table::{Table, presets};
use lorica_api::{ApiClient, EffectivePort, EffectiveSetting, EffectiveTraffic};

use crate::args::ResourceFormat;
use crate::printer::Printer;

pub(super) async fn effective(
    client: &ApiClient,
    service: &str,
    namespace: &str,
    output: ResourceFormat,
    printer: &mut Printer,
) -> anyhow::Result<ExitCode> {
    // As everywhere, a service may bring its namespace along: `recording.contact`.
    let (name, namespace) = service.split_once('.').unwrap_or((service, namespace));
    let traffic = client.effective_traffic(namespace, name).await?;
    match output {
        ResourceFormat::Json => printer.data(&serde_json::to_string_pretty(&traffic)?),
        ResourceFormat::Yaml => printer.data(serde_saphyr::to_string(&traffic)?.trim_end()),
        ResourceFormat::Table | ResourceFormat::Wide => printer.data(&shown(&traffic)),
    }
    Ok(ExitCode::SUCCESS)
}

/// Ports for which the same holds share a table.
fn shown(traffic: &EffectiveTraffic) -> String {
    let mut groups: Vec<(Vec<u16>, &EffectivePort)> = Vec::new();
    for port in &traffic.ports {
        match groups.iter_mut().find(|(_, known)| known.settings == port.settings && known.rules == port.rules) {
            Some((ports, _)) => ports.push(port.port),
            None => groups.push((vec![port.port], port)),
        }
    }
    let mut parts = Vec::new();
    for (ports, port) in groups {
        let ports = ports.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        parts.push(format!("calls to {}, port {ports}\n{}", traffic.service, table(&port.settings)));
        for rule in &port.rules {
            parts.push(format!("otherwise by {}, rule {}\n{}", rule.route, rule.rule, table(&rule.settings)));
        }
    }
    parts.join("\n\n")
}

fn table(settings: &[EffectiveSetting]) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["SETTING", "VALUE", "FROM"]);
    for EffectiveSetting { setting, value, from } in settings {
        table.add_row([setting, value, from]);
    }
    table.to_string().lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}
