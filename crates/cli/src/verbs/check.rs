//! `lorica check`: what is going to fail, while there is time. Each check is a function of what the API gives and the time; the list below is
//! all there is to a new one.

use std::process::ExitCode;

use comfy_table::{Table, presets};
use jiff::{SignedDuration, Timestamp};
use lorica_api::{ApiClient, CaStatus, Status, SvidList};
use serde_json::json;

use super::status::between;
use crate::args::{CheckArgs, Format};
use crate::printer::Printer;

/// How long before the end of a root or an intermediate it is to be replaced.
const AHEAD: SignedDuration = SignedDuration::from_hours(30 * 24);
/// How many workloads a finding names.
const NAMED: usize = 10;

/// What the checks look at.
struct Seen {
    status: Status,
    ca: CaStatus,
    svids: SvidList,
    now: Timestamp,
}

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Found {
    /// Whether all is well.
    good: bool,
    /// What there is to know.
    message: String,
    /// What to do.
    hint: Option<&'static str>,
}

impl Found {
    fn good(message: String) -> Self {
        Self { good: true, message, hint: None }
    }

    fn bad(message: String, hint: &'static str) -> Self {
        Self { good: false, message, hint: Some(hint) }
    }
}

/// A check: its number never changes, whatever comes or goes.
struct Check {
    number: u32,
    name: &'static str,
    look: fn(&Seen) -> Found,
}

const CHECKS: [Check; 4] = [
    Check { number: 1, name: "root certificate", look: root },
    Check { number: 2, name: "intermediate certificate", look: intermediate },
    Check { number: 3, name: "certificates of workloads", look: workloads },
    Check { number: 4, name: "rotation of the root", look: rotation },
];

pub(super) async fn check(client: &ApiClient, arguments: CheckArgs, printer: &mut Printer) -> anyhow::Result<ExitCode> {
    let (status, ca, svids) = (client.status().await?, client.ca().await?, client.svids().await?);
    let seen = Seen { status, ca, svids, now: Timestamp::now() };
    let found: Vec<(&Check, Found)> = CHECKS.iter().map(|check| (check, (check.look)(&seen))).collect();
    printer.data(&match arguments.output.format {
        Format::Json => listed(&found)?,
        Format::Table => shown(&found),
    });
    Ok(if found.iter().all(|(_, found)| found.good) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn listed(found: &[(&Check, Found)]) -> anyhow::Result<String> {
    let line = |(check, found): &(&Check, Found)| json!({ "check": check.number, "name": check.name, "good": found.good, "message": found.message, "hint": found.hint });
    let lines: Vec<_> = found.iter().map(line).collect();
    Ok(serde_json::to_string_pretty(&lines)?)
}

fn shown(found: &[(&Check, Found)]) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    for (check, found) in found {
        let word = if found.good { "ok" } else { "FAILED" };
        table.add_row([&check.number.to_string(), check.name, word, &found.message]);
    }
    let mut text = table.to_string().lines().map(str::trim_end).collect::<Vec<_>>().join("\n");
    for (check, hint) in found.iter().filter_map(|(check, found)| Some((check, found.hint?))) {
        text.push_str(&format!("\nhint: {}: {hint}", check.number));
    }
    text
}

/// Whether a time is less than [`AHEAD`] away. What cannot be read is.
fn ends_soon(at: &str, now: Timestamp) -> bool {
    at.parse::<Timestamp>().map_or(true, |at| now.duration_until(at) < AHEAD)
}

fn ends(at: &str, now: Timestamp) -> String {
    if at.parse::<Timestamp>().is_ok_and(|at| at <= now) {
        format!("ended {} ago", between(at, now))
    } else {
        format!("ends in {}", between(at, now))
    }
}

fn root(seen: &Seen) -> Found {
    let Some(root) = seen.ca.roots.iter().find(|root| root.issuing) else {
        return Found::bad("there is none".to_owned(), "`lorica ca status` shows what there is");
    };
    let message = format!("{} {}", root.name, ends(&root.not_after, seen.now));
    if ends_soon(&root.not_after, seen.now) {
        return Found::bad(message, "`lorica ca rotate` replaces it without a failed call; it takes two lives of a workload's certificate");
    }
    Found::good(message)
}

fn intermediate(seen: &Seen) -> Found {
    let message = format!("it {}", ends(&seen.ca.intermediate_not_after, seen.now));
    if !ends_soon(&seen.ca.intermediate_not_after, seen.now) {
        return Found::good(message);
    }
    let here = seen.ca.roots.iter().any(|root| root.issuing && root.key_here);
    Found::bad(
        message,
        if here {
            "`lorica ca replace-intermediate` makes another"
        } else {
            "`lorica ca request-intermediate` makes a request, to be signed where the root's key is"
        },
    )
}

/// Workloads that are there and did not renew: two thirds of a life are over, and they ought to have before half of it.
fn workloads(seen: &Seen) -> Found {
    let connected = |name: &str| seen.status.proxies.iter().any(|proxy| proxy.connected && proxy.id.to_string() == name);
    let late: Vec<&str> = seen
        .svids
        .svids
        .iter()
        .filter(|svid| connected(&svid.workload) && is_late(&svid.not_before, &svid.not_after, seen.now))
        .map(|svid| svid.workload.as_str())
        .collect();
    if late.is_empty() {
        return Found::good(format!("{} hold, none is past two thirds of its life", seen.svids.svids.len()));
    }
    let more = late.len().saturating_sub(NAMED);
    let named = late.iter().take(NAMED).copied().collect::<Vec<_>>().join(", ");
    let rest = if more == 0 { String::new() } else { format!(" and {more} more") };
    Found::bad(
        format!("{} past two thirds of their lives: {named}{rest}", late.len()),
        "the proxy's log says why it could not renew; an Envoy needs `lorica envoy bootstrap --watch`",
    )
}

fn is_late(not_before: &str, not_after: &str, now: Timestamp) -> bool {
    let (Ok(begin), Ok(end)) = (not_before.parse::<Timestamp>(), not_after.parse::<Timestamp>()) else { return true };
    begin.duration_until(now) * 3 >= begin.duration_until(end) * 2
}

/// A rotation that somebody holds up goes on for ever unless it is seen.
fn rotation(seen: &Seen) -> Found {
    let phase = match seen.ca.phase.as_deref() {
        None | Some("done") => return Found::good("none is under way".to_owned()),
        Some(phase) => phase,
    };
    let lost = seen.ca.held_up_by.iter().filter(|held| !held.connected).count();
    if lost == 0 {
        return Found::good(format!("{phase}: {} of {}", seen.ca.acknowledged, seen.ca.concerned));
    }
    Found::bad(
        format!("{phase}, and held up by {lost} workloads that are lost"),
        "`lorica ca status` names them; `--waive` does not wait for one",
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use lorica_api::{RootStatus, SvidStatus};

    use super::*;

    fn seen(now: &str) -> Seen {
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
        Seen { status: serde_json::from_value(status).unwrap(), ca, svids, now: now.parse().unwrap() }
    }

    fn good(now: &str) -> [bool; 4] {
        let seen = seen(now);
        CHECKS.each_ref().map(|check| (check.look)(&seen).good)
    }

    #[test]
    fn what_ends_within_thirty_days_fails() {
        assert_eq!(good("2028-01-01T01:00:00Z"), [true; 4]);
        assert_eq!(good("2028-12-31T23:59:59Z")[..2], [true, true]);
        assert_eq!(good("2029-01-01T00:00:01Z")[..2], [true, false]);
        assert_eq!(good("2030-01-01T00:00:01Z")[..2], [false, false]);
        let found = intermediate(&seen("2029-02-02T00:00:00Z"));
        assert_eq!((found.message.as_str(), found.hint.unwrap().contains("request-intermediate")), ("it ended 2 days ago", true));
    }

    #[test]
    fn a_workload_that_does_not_renew_fails_if_it_is_there() {
        assert!(good("2028-01-01T15:59:59Z")[2]);
        assert!(!good("2028-01-01T16:00:00Z")[2]);
        let late = workloads(&seen("2028-01-01T16:00:00Z")).message;
        assert_eq!(late, "1 past two thirds of their lives: web-1.shop");
    }

    #[test]
    fn numbers_are_each_checks_own() {
        let numbers: std::collections::BTreeSet<u32> = CHECKS.iter().map(|check| check.number).collect();
        assert_eq!(numbers.len(), CHECKS.len());
    }

    #[test]
    fn findings_read_well() {
        let seen = seen("2029-01-15T00:00:00Z");
        let found: Vec<_> = CHECKS.iter().map(|check| (check, (check.look)(&seen))).collect();
        let text = shown(&found);
        assert!(text.contains("FAILED") && text.contains("hint: 2: `lorica ca request-intermediate`"), "{text}");
        assert!(listed(&found).unwrap().contains("\"check\": 2"));
    }
}
