//! `lorica check`: what is wrong or going to fail, while there is time. Each check is a function of what was seen; the lists in these modules are
//! all there is to a new one.
//!
//! | module | about |
//! | --- | --- |
//! | `host` | this host, before anything runs |
//! | `mesh` | the control plane, its proxies, services and resources |
//! | `certificates` | what ends when |

mod certificates;
mod host;
mod mesh;

use std::process::ExitCode;

use comfy_table::{Table, presets};
use jiff::Timestamp;
use lorica_api::{ApiClient, ApiError, CaStatus, MtlsStatus, Status, SvidList};
use lorica_model::resource::Kind;
use serde_json::{Value, json};

use self::host::Host;
use crate::args::{CheckArgs, Format};
use crate::places::Places;
use crate::printer::Printer;

/// How many of several a finding names.
const NAMED: usize = 10;

/// What the checks of a mesh look at.
struct Seen {
    status: Status,
    ca: CaStatus,
    svids: SvidList,
    mtls: Vec<MtlsStatus>,
    /// Every resource, as the API gives it.
    resources: Vec<Value>,
    now: Timestamp,
}

/// How a check went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    /// All is well.
    Good,
    /// It works, and will not always, or not for everybody.
    Warning,
    /// It does not work, or soon will not.
    Bad,
}

impl Level {
    const fn word(self) -> &'static str {
        match self {
            Self::Good => "ok",
            Self::Warning => "warning",
            Self::Bad => "FAILED",
        }
    }
}

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Found {
    level: Level,
    /// What there is to know.
    message: String,
    /// What to do.
    hint: Option<&'static str>,
}

impl Found {
    fn good(message: impl Into<String>) -> Self {
        Self { level: Level::Good, message: message.into(), hint: None }
    }

    fn warning(message: impl Into<String>, hint: &'static str) -> Self {
        Self { level: Level::Warning, message: message.into(), hint: Some(hint) }
    }

    fn bad(message: impl Into<String>, hint: &'static str) -> Self {
        Self { level: Level::Bad, message: message.into(), hint: Some(hint) }
    }
}

/// A check: its number never changes, whatever comes or goes.
struct Check<S = Seen> {
    number: u32,
    name: &'static str,
    look: fn(&S) -> Found,
}

/// A check's answer.
struct Line {
    about: &'static str,
    number: u32,
    name: &'static str,
    found: Found,
}

pub(super) async fn check(
    client: impl FnOnce() -> anyhow::Result<ApiClient>,
    arguments: CheckArgs,
    printer: &mut Printer,
) -> anyhow::Result<ExitCode> {
    let host = Host::look(&Places::from_environment());
    let mut lines = lines("this host", &host::CHECKS, &host);
    if !arguments.preflight {
        match look(&client()?).await {
            Ok(seen) => lines.extend(of_mesh(&seen)),
            Err(error @ (ApiError::Unreachable { .. } | ApiError::Forbidden { .. })) => lines.push(mesh::nobody(&error)),
            Err(error) => return Err(error.into()),
        }
    }
    printer.data(&match arguments.output.format {
        Format::Json => serde_json::to_string_pretty(&listed(&lines))?,
        Format::Table => shown(&lines),
    });
    Ok(if lines.iter().all(|line| line.found.level < Level::Bad) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The checks of a mesh as scripts read them.
pub(super) async fn look_and_list(client: &ApiClient) -> Result<Value, ApiError> {
    Ok(listed(&of_mesh(&look(client).await?)))
}

fn of_mesh(seen: &Seen) -> Vec<Line> {
    let mut lines = lines("the mesh", &mesh::CHECKS, seen);
    lines.extend(self::lines("certificates", &certificates::CHECKS, seen));
    lines
}

fn lines<S>(about: &'static str, checks: &[Check<S>], seen: &S) -> Vec<Line> {
    checks.iter().map(|check| Line { about, number: check.number, name: check.name, found: (check.look)(seen) }).collect()
}

async fn look(client: &ApiClient) -> Result<Seen, ApiError> {
    let (status, ca, svids, mtls) = (client.status().await?, client.ca().await?, client.svids().await?, client.mtls(None).await?);
    let mut resources = Vec::new();
    for kind in Kind::ALL {
        resources.extend(client.list(*kind, None).await?.items);
    }
    Ok(Seen { status, ca, svids, mtls, resources, now: Timestamp::now() })
}

fn listed(lines: &[Line]) -> Value {
    let line = |Line { about, number, name, found }: &Line| json!({ "about": about, "check": number, "name": name, "level": found.level.word().to_lowercase(), "good": found.level == Level::Good, "message": found.message, "hint": found.hint });
    lines.iter().map(line).collect()
}

fn shown(lines: &[Line]) -> String {
    let mut parts = Vec::new();
    for group in lines.chunk_by(|one, other| one.about == other.about) {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        for Line { number, name, found, .. } in group {
            table.add_row([&number.to_string(), *name, found.level.word(), &found.message]);
        }
        let rows = table.to_string().lines().map(str::trim_end).collect::<Vec<_>>().join("\n");
        parts.push(format!("{}\n{rows}", group.first().map_or("", |line| line.about)));
    }
    let mut text = parts.join("\n\n");
    for (line, hint) in lines.iter().filter_map(|line| Some((line, line.found.hint?))) {
        text.push_str(&format!("\nhint: {}: {hint}", line.number));
    }
    let count = |level| lines.iter().filter(|line| line.found.level == level).count();
    text.push_str(&format!("\n\n{} good, {} warnings, {} failed", count(Level::Good), count(Level::Warning), count(Level::Bad)));
    text
}

/// Some of several, by name: `a, b and 7 more`.
fn some(names: &[String]) -> String {
    let named = names.iter().take(NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(NAMED) {
        0 => named,
        more => format!("{named} and {more} more"),
    }
}

#[cfg(test)]
mod sample {
    #![allow(clippy::unwrap_used)]
    use lorica_api::{RootStatus, SvidStatus};

    use super::*;

    pub(super) fn seen(now: &str) -> Seen {
        let status = serde_json::json!({
            "version": "1", "started_at": "", "trust_domain": "mesh.local", "revision": 1, "state_directory": "", "socket": "",
            "authority": {"root_not_after": "", "intermediate_not_after": ""}, "services": 0, "resources": 0,
            "proxies": [{
                "id": "web-1.shop", "service": null, "account": "web", "version_label": null, "software": "lorica", "connected": true, "since": "",
                "ports": [], "listening": [], "draining": false, "metrics": null, "virtual_address": "240.0.0.1",
                "certificate_not_after": null, "last_ack": null, "last_nack": null,
            }],
        });
        let root = RootStatus {
            id: "a".repeat(64),
            name: "O=mesh.local".to_owned(),
            certificate: String::new(),
            issuing: true,
            not_after: "2030-01-31T00:00:00Z".to_owned(),
            key_here: false,
        };
        let svid = |workload: &str| SvidStatus {
            workload: workload.to_owned(),
            identity: "spiffe://mesh.local/ns/shop/sa/web".to_owned(),
            not_before: "2028-01-01T00:00:00Z".to_owned(),
            not_after: "2028-01-02T00:00:00Z".to_owned(),
        };
        let ca = CaStatus { roots: vec![root], intermediate_not_after: "2029-01-31T00:00:00Z".to_owned(), ..CaStatus::default() };
        let svids = SvidList { svids: vec![svid("web-1.shop"), svid("gone-1.shop")] };
        Seen {
            status: serde_json::from_value(status).unwrap(),
            ca,
            svids,
            mtls: Vec::new(),
            resources: Vec::new(),
            now: now.parse().unwrap(),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::sample::seen;
    use super::*;

    #[test]
    fn numbers_are_each_checks_own() {
        let numbers =
            host::CHECKS.iter().map(|check| check.number).chain(mesh::CHECKS.iter().chain(&certificates::CHECKS).map(|check| check.number));
        let all: Vec<u32> = numbers.collect();
        let apart: std::collections::BTreeSet<u32> = all.iter().copied().collect();
        assert_eq!(apart.len(), all.len());
    }

    #[test]
    fn findings_read_well() {
        let lines = of_mesh(&seen("2029-01-15T00:00:00Z"));
        let text = shown(&lines);
        assert!(text.contains("FAILED") && text.contains("hint: 2: `lorica ca request-intermediate`"), "{text}");
        assert!(text.starts_with("the mesh\n") && text.contains("\n\ncertificates\n"), "{text}");
        assert!(listed(&lines).to_string().contains("\"check\":2"));
    }

    #[test]
    fn of_many_some_are_named() {
        let names: Vec<String> = (0..12).map(|number| format!("p{number}")).collect();
        assert_eq!(some(&names[..2]), "p0, p1");
        assert!(some(&names).ends_with("p9 and 2 more"));
    }
}
