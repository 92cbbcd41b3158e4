//! `lorica explain`: the story of one request, as people read it.

use std::process::ExitCode;
use std::time::Duration;

use lorica_api::ApiClient;
use lorica_api::explain::{Attempt, Decision, Hop, Place, Seen, Side, Story, Told, Who};

use super::PARTLY;
use crate::args::{ExplainArgs, Format};
use crate::printer::Printer;

/// Tells of a request that is over.
pub(super) async fn past(client: &ApiClient, arguments: &ExplainArgs, printer: &mut Printer) -> anyhow::Result<ExitCode> {
    let Some(request) = &arguments.request else { anyhow::bail!("name a request, or a command after `--`") };
    let story = client.explain(request).await?;
    if story.hops.is_empty() && arguments.output.format != Format::Json {
        unanswered(&story, printer);
        anyhow::bail!(
            "no proxy remembers the request {request}\nhint: each worker remembers its last 256; `lorica explain -- CMD` looks at one as it happens"
        );
    }
    print(&story, arguments.output.format, printer)
}

/// Tells of the requests with the token of this id, once the command that made them has ended.
///
/// # Errors
/// When the control plane does not answer.
pub async fn run(client: &ApiClient, id: &str, wait: Duration, format: Format, printer: &mut Printer) -> anyhow::Result<ExitCode> {
    let story = client.explained(id, wait).await?;
    if story.hops.is_empty() && format != Format::Json {
        printer.warning("no proxy has told of a request: the command made none by HTTP that went into the mesh, or none in a minute");
        return Ok(ExitCode::from(PARTLY));
    }
    print(&story, format, printer)
}

fn print(story: &Story, format: Format, printer: &mut Printer) -> anyhow::Result<ExitCode> {
    if format == Format::Json {
        printer.data(&serde_json::to_string_pretty(story)?);
    } else {
        printer.data(&told(story));
        for missing in &story.missing {
            printer.warning(&format!("{missing} answered, and its proxy has told nothing of it"));
        }
        unanswered(story, printer);
    }
    let whole = story.missing.is_empty() && story.unanswered.is_empty();
    Ok(if whole { ExitCode::SUCCESS } else { ExitCode::from(PARTLY) })
}

fn unanswered(story: &Story, printer: &mut Printer) {
    if !story.unanswered.is_empty() {
        printer.warning(&format!("these proxies did not answer in time: {}", story.unanswered.join(", ")));
    }
}

/// A story as it is printed.
fn told(story: &Story) -> String {
    let mut lines = Vec::new();
    let mut id = "";
    for told in &story.hops {
        let Told { depth, hop } = told;
        if hop.request_id != id {
            id = &hop.request_id;
            let trace = if hop.trace_id.is_empty() { String::new() } else { format!(", trace {}", hop.trace_id) };
            lines.push(format!("{} {}{}, request {id}{trace}", hop.method, hop.authority, hop.path));
        }
        let indent = "  ".repeat(*depth);
        let side = match hop.side {
            Side::Source => "calls",
            Side::Destination => "is called",
            Side::Gateway => "at the edge calls",
        };
        lines.push(format!("{indent}• {} {side} {} → {} in {}", hop.proxy, hop.called, outcome(hop), milliseconds(hop.took_us)));
        lines.extend(facts(hop).into_iter().map(|(label, text)| format!("{indent}    {label:<9} {text}").trim_end().to_owned()));
    }
    lines.join("\n")
}

fn outcome(hop: &Hop) -> String {
    let status = if hop.status == 0 { "no answer".to_owned() } else { hop.status.to_string() };
    let grpc = hop.grpc_status.map(|status| format!(", gRPC {status}")).unwrap_or_default();
    let reason = hop.reason.as_ref().map(|reason| format!(" ({reason})")).unwrap_or_default();
    format!("{status}{grpc}{reason}")
}

/// What is told of a hop, a line each.
fn facts(hop: &Hop) -> Vec<(&'static str, String)> {
    let mut facts = Vec::new();
    if hop.side == Side::Destination {
        let how = match hop.security.as_str() {
            "mutual_tls" => "by mutual TLS",
            "none" => "in plaintext",
            _ => "",
        };
        let who = if hop.caller.principal == UNKNOWN { "nobody known".to_owned() } else { hop.caller.principal.clone() };
        facts.push(("caller", format!("{who} {how}")));
    } else if let Some(own) = &hop.own_identity {
        facts.push(("identity", own.clone()));
    }
    facts.extend(hop.left_us.map(|left| ("time left", format!("{} when it came", milliseconds(left)))));
    facts.extend(hop.rule.as_ref().map(|rule| ("rule", place(rule))));
    for (at, candidate) in hop.candidates.iter().filter(|candidate| candidate.why_not.is_some()).enumerate() {
        let why = candidate.why_not.as_deref().unwrap_or_default();
        facts.push((if at == 0 { "not by" } else { "" }, format!("{}: {why}", place(&candidate.by))));
    }
    if hop.more_candidates > 0 {
        facts.push(("", format!("and {} rules more", hop.more_candidates)));
    }
    for (at, decision) in hop.policies.iter().enumerate() {
        facts.push((if at == 0 { "policies" } else { "" }, policy(decision)));
    }
    for (number, attempt) in (1..).zip(&hop.attempts) {
        for (at, seen) in attempt.endpoints.iter().enumerate() {
            facts.push((if at == 0 { "endpoints" } else { "" }, endpoint(seen)));
        }
        if attempt.more_endpoints > 0 {
            facts.push(("", format!("and {} more", attempt.more_endpoints)));
        }
        facts.push(("attempt", format!("{number}: {}", tried(attempt, hop))));
    }
    if !hop.detail.is_empty() {
        facts.push(("why", hop.detail.clone()));
    }
    let steps: Vec<String> = hop.steps.iter().map(|step| format!("{} {}", step.name, milliseconds(step.took_us))).collect();
    if !steps.is_empty() {
        facts.push(("time", steps.join(", ")));
    }
    facts
}

/// What labels say where nothing is known.
const UNKNOWN: &str = "unknown";

fn place(place: &Place) -> String {
    let mut text = format!("{}/{}.{}", place.kind, place.name, place.namespace);
    if let Some(path) = &place.path {
        text.push_str(&format!(" {path}"));
    }
    if place.generation > 0 {
        text.push_str(&format!(", generation {}", place.generation));
    }
    match place.now {
        Some(0) if place.generation > 0 => text.push_str(" (gone by now)"),
        Some(now) if now > 0 => text.push_str(&format!(" (generation {now} by now)")),
        _ => {}
    }
    if let Some(file) = &place.file {
        text.push_str(&format!(", from {file}"));
    }
    text
}

fn policy(decision: &Decision) -> String {
    let rule = decision.rule.as_ref().map(|rule| format!(" by its rule {rule}")).unwrap_or_default();
    format!("{} {}{rule}", place(&decision.by), decision.said)
}

fn endpoint(seen: &Seen) -> String {
    let Seen { workload, address, weight, active, expected_us, score, left_out, picked } = seen;
    let address = address.map(|address| format!(" {address}")).unwrap_or_default();
    let score = score.map(|score| format!(", score {score:.2}")).unwrap_or_default();
    let verdict = match (picked, left_out.as_slice()) {
        (true, _) => ": picked".to_owned(),
        (false, []) => String::new(),
        (false, why) => format!(": left out, {}", why.join("; ")),
    };
    format!("{workload}{address}, weight {weight}, {active} under way, expected {}{score}{verdict}", milliseconds(*expected_us))
}

fn tried(attempt: &Attempt, hop: &Hop) -> String {
    let who = match (&attempt.address, attempt.workload.as_str()) {
        (None, _) => "nobody was asked".to_owned(),
        (Some(address), _) if hop.side == Side::Destination => format!("the app at {address}"),
        (Some(address), workload) => format!("{workload} {address}"),
    };
    let end = match (&attempt.reason, attempt.status) {
        (Some(reason), 0) => format!("failed, {reason}"),
        (Some(reason), status) => format!("answered {status}, then {reason}"),
        (None, 0) => "no answer".to_owned(),
        (None, status) => format!("answered {status}"),
    };
    let mut text = format!("{who}: {end} after {}", milliseconds(attempt.took_us));
    if !attempt.detail.is_empty() {
        text.push_str(&format!(" ({})", attempt.detail));
    }
    if let Some(identity) = &attempt.identity {
        text.push_str(&format!(", proved {identity}"));
    }
    if let Some(kept) = attempt.kept_connection {
        text.push_str(if kept { ", on a kept connection" } else { ", on a new connection" });
    }
    text
}

/// A party by its workload.
pub(super) fn named(who: &Who) -> String {
    if who.workload == UNKNOWN { "somebody".to_owned() } else { format!("{}.{}", who.workload, who.namespace) }
}

/// A time as people read it.
#[allow(clippy::cast_precision_loss, reason = "no request takes so long")]
pub(super) fn milliseconds(micros: u64) -> String {
    match micros {
        0..10_000 => format!("{:.2} ms", micros as f64 / 1000.0),
        10_000..1_000_000 => format!("{:.1} ms", micros as f64 / 1000.0),
        _ => format!("{:.2} s", micros as f64 / 1_000_000.0),
    }
}

#[cfg(test)]
mod tests;
