//! `lorica status`.

use std::process::ExitCode;

use comfy_table::{Table, presets};
use jiff::Timestamp;
use lorica_api::{ApiClient, ProxyStatus, Status};

use crate::args::{Format, StatusArgs};
use crate::printer::Printer;

pub(super) async fn status(client: &ApiClient, arguments: StatusArgs, printer: &mut Printer) -> anyhow::Result<ExitCode> {
    let status = client.status().await?;
    match arguments.output.format {
        Format::Json => printer.data(&serde_json::to_string_pretty(&status)?),
        Format::Table => printer.data(&shown(&status, Timestamp::now())),
    }
    Ok(ExitCode::SUCCESS)
}

fn shown(status: &Status, now: Timestamp) -> String {
    let mut text = format!(
        "control plane {}, trust domain {}, up {}\n  {} resources, {} services, revision {}\n  root certificate ends in {}, the intermediate in {}\n  state {}\n",
        status.version,
        status.trust_domain,
        between(&status.started_at, now),
        status.resources,
        status.services,
        status.revision,
        between(&status.authority.root_not_after, now),
        between(&status.authority.intermediate_not_after, now),
        status.state_directory,
    );
    for service in &status.held_back {
        text.push_str(&format!("  all proxies of {service} were lost at once; its last known endpoints are kept\n"));
    }
    if status.proxies.is_empty() {
        text.push_str("\nno proxy has registered yet\nhint: `lorica run --service NAME --port 80 -- CMD` starts a program with one");
        return text;
    }
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    // Most meshes run in one place, and need no column for it.
    let placed = status.proxies.iter().any(|proxy| proxy.locality.is_some());
    let locality = placed.then(|| "LOCALITY".to_owned());
    table.set_header(
        ["PROXY", "SERVICE", "SOFTWARE", "STATE", "PORTS", "CERTIFICATE", "LAST ACK"].map(str::to_owned).into_iter().chain(locality),
    );
    for proxy in &status.proxies {
        let locality = placed.then(|| proxy.locality.clone().unwrap_or_else(|| "-".to_owned()));
        table.add_row(row(proxy, now).into_iter().chain(locality));
    }
    text.push('\n');
    text.push_str(&table.to_string().lines().map(str::trim_end).collect::<Vec<_>>().join("\n"));
    for (proxy, refused) in status.proxies.iter().filter_map(|proxy| Some((proxy, proxy.last_nack.as_ref()?))) {
        text.push_str(&format!("\n{} refused {}: {}", proxy.id, refused.resource, refused.message));
    }
    text
}

fn row(proxy: &ProxyStatus, now: Timestamp) -> [String; 7] {
    let state = match (proxy.connected, proxy.draining) {
        (_, true) => "ending".to_owned(),
        (true, false) => format!("connected {}", between(&proxy.since, now)),
        (false, false) => format!("lost {}", between(&proxy.since, now)),
    };
    let port = |port: &lorica_api::PortStatus| {
        let up = if proxy.listening.contains(&port.app_port) { "" } else { " (not listening)" };
        format!("{}→{}{up}", port.service_port, port.app_port)
    };
    [
        proxy.id.to_string(),
        proxy.service.as_ref().map_or_else(|| "-".to_owned(), |service| service.name.to_string()),
        proxy.software.clone(),
        state,
        proxy.ports.iter().map(port).collect::<Vec<_>>().join(", "),
        proxy.certificate_not_after.as_deref().map_or_else(|| "-".to_owned(), |end| format!("ends in {}", between(end, now))),
        proxy.last_ack.as_ref().map_or_else(|| "-".to_owned(), |ack| format!("{}, {} ago", ack.revision, between(&ack.at, now))),
    ]
}

/// The time between two moments, as people say it.
pub(super) fn between(at: &str, now: Timestamp) -> String {
    let Ok(at) = at.parse::<Timestamp>() else { return "an unknown time".to_owned() };
    lasting(at.duration_until(now).as_secs().unsigned_abs())
}

/// A number of seconds, as people say it.
pub(super) fn lasting(seconds: u64) -> String {
    let (number, unit) = match seconds {
        0..120 => (seconds, "s"),
        120..7200 => (seconds / 60, "min"),
        7200..172_800 => (seconds / 3600, "h"),
        172_800..63_072_000 => (seconds / 86_400, "days"),
        _ => (seconds / 31_536_000, "years"),
    };
    format!("{number} {unit}")
}
