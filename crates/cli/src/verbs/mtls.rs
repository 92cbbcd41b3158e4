//! `lorica mtls status`: who still sends plaintext.

use std::process::ExitCode;

use comfy_table::{Table, presets};
use lorica_api::{ApiClient, MtlsStatus};
use lorica_model::name::Namespace;

use crate::args::{Format, MtlsStatusArgs};
use crate::printer::Printer;

pub(super) async fn status(client: &ApiClient, arguments: MtlsStatusArgs, printer: &mut Printer) -> anyhow::Result<ExitCode> {
    let services = client.mtls(arguments.namespace.as_ref().map(Namespace::as_str)).await?;
    if arguments.output.format == Format::Json {
        printer.data(&serde_json::to_string_pretty(&services)?);
    } else {
        printer.data(&shown(&services));
        if services.iter().any(|service| service.mode == "Permissive" && service.plaintext.is_empty()) {
            printer.note("hint: what is Permissive and has no plaintext callers can be made strict: delete its AuthenticationPolicy");
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn shown(services: &[MtlsStatus]) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["SERVICE", "MTLS", "PLAINTEXT CALLER", "PORT", "TIMES", "LAST"]);
    for MtlsStatus { service, mode, plaintext } in services {
        if plaintext.is_empty() {
            table.add_row([service.to_string(), mode.clone(), "none".to_owned()]);
        }
        for (index, caller) in plaintext.iter().enumerate() {
            let first = index == 0;
            let name = if first { service.to_string() } else { String::new() };
            let mode = if first { mode.clone() } else { String::new() };
            table.add_row([name, mode, caller.address.to_string(), caller.port.to_string(), caller.times.to_string(), caller.last.clone()]);
        }
    }
    table.to_string().lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use lorica_api::PlaintextCaller;

    #[test]
    fn services_and_their_plaintext_callers_are_shown() {
        let caller = |last: u8| PlaintextCaller {
            address: [10, 0, 0, last].into(),
            port: 80,
            times: 3,
            first: "2026-11-30T06:00:00Z".to_owned(),
            last: "2026-11-30T07:00:00Z".to_owned(),
        };
        let services = [
            MtlsStatus { service: "a.shop".parse().unwrap(), mode: "Strict".to_owned(), plaintext: Vec::new() },
            MtlsStatus { service: "b.shop".parse().unwrap(), mode: "Permissive".to_owned(), plaintext: vec![caller(7), caller(8)] },
        ];
        let lines: Vec<String> = shown(&services).lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        assert_eq!(
            lines,
            [
                "SERVICE MTLS PLAINTEXT CALLER PORT TIMES LAST",
                "a.shop Strict none",
                "b.shop Permissive 10.0.0.7 80 3 2026-11-30T07:00:00Z",
                "10.0.0.8 80 3 2026-11-30T07:00:00Z",
            ]
        );
    }
}
