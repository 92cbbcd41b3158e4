//! `lorica fault`: calls that are made to fail for a while. It writes ordinary FaultPolicies, which `--print` shows.

use std::process::ExitCode;

use anyhow::bail;
use comfy_table::{Table, presets};
use jiff::{SignedDuration, Timestamp};
use lorica_api::{ApiClient, ApplyRequest, DeleteRequest, NamedText, Target};
use lorica_model::name::{Namespace, ObjectName, ServiceName};
use lorica_model::resource::{Kind, nearest};
use serde_json::{Map, Value, json};

use super::told;
use crate::args::{FaultAddArgs, FaultCommand, FaultListArgs, FaultRemoveArgs, Format};
use crate::printer::Printer;

pub(super) async fn fault(client: &ApiClient, command: FaultCommand, printer: &mut Printer) -> anyhow::Result<ExitCode> {
    match command {
        FaultCommand::Add(arguments) => add(client, *arguments, printer).await,
        FaultCommand::List(arguments) => list(client, arguments, printer).await,
        FaultCommand::Remove(arguments) => remove(client, arguments, printer).await,
    }
}

async fn add(client: &ApiClient, arguments: FaultAddArgs, printer: &mut Printer) -> anyhow::Result<ExitCode> {
    let ends = Timestamp::now().checked_add(SignedDuration::try_from(arguments.lasting)?)?;
    let document = document(&arguments, ends);
    let text = serde_saphyr::to_string(&document)?;
    if arguments.print {
        printer.data(text.trim_end());
        return Ok(ExitCode::SUCCESS);
    }
    let name = document.pointer("/metadata/name").map(text_of).unwrap_or_default();
    let before = client.list(Kind::FaultPolicy, Some(arguments.service.namespace.as_str())).await?.items;
    if let Some(before) = before.iter().find(|item| item.pointer("/metadata/name").is_some_and(|known| *known == name.as_str())) {
        printer.note(&format!("it takes the place of the FaultPolicy `{name}` that was there: {}", what(before).join(", ")));
    }
    let request = ApplyRequest { files: vec![NamedText { name: "fault".to_owned(), text }], ..ApplyRequest::default() };
    let reply = client.apply(&request, arguments.wait).await?;
    let code = told(&reply, "added", arguments.output.format, printer)?;
    let namespace = &arguments.service.namespace;
    printer.note(&format!(
        "it ends by itself in {}, at {ends:.0}; `lorica fault remove {name}.{namespace}` ends it now",
        left(arguments.lasting.as_secs())
    ));
    Ok(code)
}

/// The FaultPolicy that is asked for.
fn document(arguments: &FaultAddArgs, ends: Timestamp) -> Value {
    let FaultAddArgs { service, abort, abort_grpc, delay, reset, bandwidth, dns, percent, headers, callers, name, .. } = arguments;
    // Whole numbers are written as such.
    #[allow(clippy::cast_possible_truncation, reason = "from 0 to 100")]
    let percent = if percent.fract() == 0.0 { json!(*percent as i64) } else { json!(percent) };
    let with = |field: &str, value: Value| json!({ "percent": percent, field: value });
    let mut spec = Map::new();
    spec.insert("targetRefs".to_owned(), json!([{ "kind": "Service", "name": service.name }]));
    spec.insert("ends".to_owned(), format!("{ends:.0}").into());
    let mut matches = Map::new();
    if !headers.is_empty() {
        let headers = headers.iter().map(|header| json!({ "name": header.name, "value": header.value }));
        matches.insert("headers".to_owned(), headers.collect());
    }
    if !callers.is_empty() {
        let callers = callers.iter().map(|caller| {
            let namespace = caller.namespace.as_ref().unwrap_or(&service.namespace);
            json!({ "namespace": namespace, "account": caller.account })
        });
        matches.insert("callers".to_owned(), callers.collect());
    }
    if !matches.is_empty() {
        spec.insert("match".to_owned(), matches.into());
    }
    if let Some(delay) = delay {
        let delay = match &delay.to {
            None => with("fixed", delay.from.as_str().into()),
            Some(to) => with("uniform", json!({ "from": delay.from, "to": to })),
        };
        spec.insert("delay".to_owned(), delay);
    }
    if let Some(status) = abort {
        spec.insert("abort".to_owned(), with("httpStatus", (*status).into()));
    }
    if let Some(status) = abort_grpc {
        // A number is one in YAML, too.
        let status = status.parse::<u32>().map_or_else(|_| status.to_ascii_uppercase().into(), Value::from);
        spec.insert("abort".to_owned(), with("grpcStatus", status));
    }
    if *reset {
        spec.insert("reset".to_owned(), json!({ "percent": percent }));
    }
    if let Some(rate) = bandwidth {
        spec.insert("bandwidth".to_owned(), with("bytesPerSecond", rate.as_str().into()));
    }
    if let Some(answer) = dns {
        spec.insert("dns".to_owned(), with("answer", answer.word().into()));
    }
    let name = name.as_ref().map_or_else(|| service.name.to_string(), ToString::to_string);
    json!({
        "apiVersion": "lorica.io/v1alpha1",
        "kind": "FaultPolicy",
        "metadata": { "name": name, "namespace": service.namespace },
        "spec": spec,
    })
}

async fn list(client: &ApiClient, arguments: FaultListArgs, printer: &mut Printer) -> anyhow::Result<ExitCode> {
    let items = client.list(Kind::FaultPolicy, arguments.namespace.as_ref().map(Namespace::as_str)).await?.items;
    match arguments.output.format {
        Format::Json => printer.data(&serde_json::to_string_pretty(&items)?),
        Format::Table if items.is_empty() => printer.data("nothing is made to fail"),
        Format::Table => {
            printer.data(&shown(&items, Timestamp::now()));
            if items.iter().any(|item| remaining(item, Timestamp::now()).is_none()) {
                printer.note("hint: what has ended does nothing any more; `lorica fault remove NAME` clears it away");
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn shown(items: &[Value], now: Timestamp) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["NAMESPACE", "NAME", "ABOUT", "WHAT", "FOR", "LEFT"]);
    for item in items {
        let at = |pointer: &str| item.pointer(pointer).map(text_of).unwrap_or_default();
        let left = remaining(item, now).map_or_else(|| "ended".to_owned(), left);
        table.add_row([at("/metadata/namespace"), at("/metadata/name"), about(item), what(item).join(", "), whom(item), left]);
    }
    table.to_string().lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}

/// Whose calls a FaultPolicy is about.
pub(super) fn about(item: &Value) -> String {
    let target = |target: &Value| match target.get("kind").and_then(Value::as_str) {
        None | Some("Service") => text_of(&target["name"]),
        Some(kind) => format!("{kind} {}", text_of(&target["name"])),
    };
    let targets: Vec<String> = each(item, "/spec/targetRefs").iter().map(target).collect();
    if targets.is_empty() { "its namespace".to_owned() } else { targets.join(", ") }
}

/// What it does: `20% abort 503`.
pub(super) fn what(item: &Value) -> Vec<String> {
    let part = |name: &str, word: &dyn Fn(&Value) -> String| {
        let part = item.pointer("/spec")?.get(name)?;
        let percent = part.get("percent").map_or_else(|| "100".to_owned(), text_of);
        Some(format!("{percent}% {}", word(part)))
    };
    let delay = |part: &Value| match (part.get("fixed"), part.get("uniform"), part.get("exponential")) {
        (Some(fixed), ..) => format!("delay {}", text_of(fixed)),
        (_, Some(uniform), _) => format!("delay {}..{}", text_of(&uniform["from"]), text_of(&uniform["to"])),
        (_, _, Some(drawn)) => format!("delay about {}, at most {}", text_of(&drawn["mean"]), text_of(&drawn["most"])),
        _ => "delay".to_owned(),
    };
    let abort = |part: &Value| match (part.get("httpStatus"), part.get("grpcStatus")) {
        (Some(status), _) => format!("abort {}", text_of(status)),
        (_, Some(status)) => format!("abort gRPC {}", text_of(status)),
        _ => "abort".to_owned(),
    };
    let parts = [
        part("delay", &delay),
        part("reset", &|_| "reset".to_owned()),
        part("abort", &abort),
        part("bandwidth", &|part| format!("{}/s", text_of(&part["bytesPerSecond"]))),
        part("dns", &|part| format!("DNS {}", text_of(&part["answer"]))),
    ];
    parts.into_iter().flatten().collect()
}

/// Whom it meets.
fn whom(item: &Value) -> String {
    let header = |header: &Value| format!("{}={}", text_of(&header["name"]), text_of(&header["value"]));
    let caller = |caller: &Value| {
        let part = |name: &str| caller.get(name).map_or_else(|| "*".to_owned(), text_of);
        let own = item.pointer("/metadata/namespace").map(text_of).unwrap_or_default();
        format!("{}.{}", part("account"), caller.get("namespace").map_or(own, text_of))
    };
    let headers = each(item, "/spec/match/headers").iter().map(header);
    let all: Vec<String> = headers.chain(each(item, "/spec/match/callers").iter().map(caller)).collect();
    if all.is_empty() { "everybody".to_owned() } else { all.join(", ") }
}

/// How many seconds are left of it; none: it has ended.
pub(super) fn remaining(item: &Value, now: Timestamp) -> Option<u64> {
    let ends = item.pointer("/spec/ends")?.as_str()?.parse::<Timestamp>().ok()?;
    let left = now.duration_until(ends);
    // The last second is one.
    if left.is_positive() { Some(left.as_secs().unsigned_abs() + u64::from(left.subsec_nanos() > 0)) } else { None }
}

/// A time left, as people say it.
pub(super) fn left(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds.div_ceil(60)),
        7200..172_800 => format!("{} h", seconds.div_ceil(3600)),
        _ => format!("{} days", seconds.div_ceil(86_400)),
    }
}

async fn remove(client: &ApiClient, arguments: FaultRemoveArgs, printer: &mut Printer) -> anyhow::Result<ExitCode> {
    let namespace = arguments.name.as_ref().map(|name| name.namespace.as_str());
    let items = client.list(Kind::FaultPolicy, namespace).await?.items;
    let targets = match &arguments.name {
        Some(name) => named(&items, name)?,
        None => items.iter().filter_map(target).collect(),
    };
    if targets.is_empty() {
        printer.data("nothing is made to fail");
        return Ok(ExitCode::SUCCESS);
    }
    let request = DeleteRequest { targets, ..DeleteRequest::default() };
    told(&client.delete(&request, arguments.wait).await?, "removed", arguments.output.format, printer)
}

/// The policy of a name, else those about the service of that name alone.
fn named(items: &[Value], name: &ServiceName) -> anyhow::Result<Vec<Target>> {
    let is_named = |item: &&Value| item.pointer("/metadata/name").is_some_and(|known| *known == name.name.as_str());
    if let Some(item) = items.iter().find(is_named) {
        return Ok(target(item).into_iter().collect());
    }
    let about: Vec<Target> = items.iter().filter(|item| about(item) == name.name.as_str()).filter_map(target).collect();
    if !about.is_empty() {
        return Ok(about);
    }
    let known: Vec<String> = items.iter().filter_map(|item| item.pointer("/metadata/name").map(text_of)).collect();
    match nearest(name.name.as_str(), known.iter().map(String::as_str)) {
        Some(near) => bail!("there is no FaultPolicy `{name}`, and none about such a service\nhint: did you mean `{near}`?"),
        None => bail!("there is no FaultPolicy `{name}`, and none about such a service\nhint: `lorica fault list` shows what there is"),
    }
}

fn target(item: &Value) -> Option<Target> {
    let namespace = Namespace::new(item.pointer("/metadata/namespace")?.as_str()?).ok()?;
    let name = ObjectName::new(item.pointer("/metadata/name")?.as_str()?).ok()?;
    Some(Target { kind: Kind::FaultPolicy, namespace, name })
}

fn each<'i>(item: &'i Value, pointer: &str) -> &'i [Value] {
    item.pointer(pointer).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

fn text_of(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use clap::Parser;

    use super::*;
    use crate::args::{Cli, Command};

    fn typed(words: &str) -> FaultAddArgs {
        let words = ["lorica", "fault", "add"].into_iter().chain(words.split_whitespace());
        match Cli::try_parse_from(words).unwrap().command {
            Command::Fault(FaultCommand::Add(arguments)) => *arguments,
            other => panic!("{other:?}"),
        }
    }

    fn made(words: &str) -> Value {
        document(&typed(words), "2026-11-30T12:00:00Z".parse().unwrap())
    }

    #[test]
    fn what_is_typed_becomes_a_policy_that_can_be_read() {
        for words in [
            "recording.contact --abort 503 --percent 20 --for 5m",
            "recording --abort-grpc unavailable --delay 100ms..2s --reset --bandwidth 50KiB --percent 0.5",
            "recording.contact --abort-grpc 14 --header x-test=1 --caller routing --caller web.shop",
            "recording.contact --dns no-such-name --delay 2s --name names.1",
        ] {
            let document = made(words);
            let text = serde_saphyr::to_string(&document).unwrap();
            let read = lorica_model::resource::read("fault", &text).unwrap_or_else(|found| panic!("{text}\n{found:?}"));
            assert_eq!(read[0].resource.document, document, "{text}");
        }
        let document = made("recording.contact --abort 503 --percent 20");
        let spec = json!({
            "targetRefs": [{ "kind": "Service", "name": "recording" }],
            "ends": "2026-11-30T12:00:00Z",
            "abort": { "percent": 20, "httpStatus": 503 },
        });
        assert_eq!((&document["metadata"]["name"], &document["spec"]), (&json!("recording"), &spec));
    }

    #[test]
    fn what_cannot_be_meant_is_refused_at_once() {
        for words in [
            "recording",
            "recording --abort 600",
            "recording --reset --percent 101",
            "recording --reset --for 25h",
            "recording --abort 503 --abort-grpc 14",
        ] {
            let words = ["lorica", "fault", "add"].into_iter().chain(words.split_whitespace());
            assert!(Cli::try_parse_from(words.clone()).is_err(), "{words:?}");
        }
    }

    #[test]
    fn a_list_says_what_whom_and_how_long() {
        let items = [
            made("recording.contact --abort 503 --percent 20 --delay 100ms..2s --header x-test=1 --caller routing"),
            made("agents.contact --dns timeout --reset --name other"),
        ];
        let at = |time: &str| shown(&items, time.parse().unwrap());
        let table = at("2026-11-30T11:55:30Z");
        let lines: Vec<Vec<&str>> =
            table.lines().map(|line| line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect()).collect();
        assert_eq!(lines[0], ["NAMESPACE", "NAME", "ABOUT", "WHAT", "FOR", "LEFT"]);
        assert_eq!(
            lines[1],
            ["contact", "recording", "recording", "20% delay 100ms..2s, 20% abort 503", "x-test=1, routing.contact", "5 min"]
        );
        assert_eq!(lines[2], ["contact", "other", "agents", "100% reset, 100% DNS Timeout", "everybody", "5 min"]);
        assert!(at("2026-11-30T11:59:59.5Z").lines().skip(1).all(|line| line.ends_with("1 s")));
        assert!(at("2026-11-30T12:00:00Z").lines().skip(1).all(|line| line.ends_with("ended")));
    }

    #[test]
    fn a_policy_is_meant_by_its_name_or_its_service() {
        let items =
            [made("recording.contact --reset"), made("agents.contact --reset --name a"), made("agents.contact --dns timeout --name b")];
        let names =
            |name: &str| named(&items, &name.parse().unwrap()).map(|all| all.iter().map(|one| one.name.to_string()).collect::<Vec<_>>());
        assert_eq!(names("recording.contact").unwrap(), ["recording"]);
        assert_eq!(names("a.contact").unwrap(), ["a"]);
        assert_eq!(names("agents.contact").unwrap(), ["a", "b"]);
        let error = names("recordng.contact").unwrap_err().to_string();
        assert!(error.contains("did you mean `recording`?"), "{error}");
    }
}
