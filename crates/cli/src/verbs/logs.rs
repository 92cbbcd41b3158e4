//! `lorica logs`: log records of proxies and apps, as lines; with `--follow`, as they come.

use std::process::ExitCode;

use lorica_api::{ApiClient, LogList, LogView};
use serde_json::{Map, Value};

use super::trace::{plain, visible};
use crate::args::{Format, LogsArgs};
use crate::printer::Printer;

/// How long the control plane may wait for something to come, before it is asked again.
const WAIT: &str = "30s";

pub(super) async fn logs(client: &ApiClient, arguments: LogsArgs, printer: &mut Printer) -> anyhow::Result<ExitCode> {
    let format = arguments.output.format;
    let mut words = query(&arguments);
    let first = client.logs(&words).await?;
    if !arguments.follow {
        match format {
            Format::Json => printer.data(&serde_json::to_string_pretty(&first)?),
            Format::Table if first.logs.is_empty() => printer.data("no log record"),
            Format::Table => print(&first, format, printer)?,
        }
        if let (Some(before), Format::Table) = (first.before, format) {
            printer.note(&format!("there are older ones: the same with --before {before}"));
        }
        return Ok(ExitCode::SUCCESS);
    }
    print(&first, format, printer)?;
    words.push(("wait", WAIT.to_owned()));
    let mut after = first.after;
    loop {
        let asked = words.iter().cloned().chain([("after", after.to_string())]).collect::<Vec<_>>();
        let found = client.logs(&asked).await?;
        print(&found, format, printer)?;
        after = found.after;
    }
}

fn query(arguments: &LogsArgs) -> Vec<(&'static str, String)> {
    let words = [
        ("service", &arguments.service),
        ("route", &arguments.route),
        ("status", &arguments.status),
        ("min_duration", &arguments.slower),
        ("max_duration", &arguments.faster),
        ("request_id", &arguments.request_id),
        ("trace_id", &arguments.trace_id),
        ("since", &arguments.since),
        ("until", &arguments.until),
    ];
    let said = words.into_iter().filter_map(|(key, value)| Some((key, value.clone()?)));
    let attributes = arguments.attributes.iter().map(|attribute| ("attribute", attribute.clone()));
    let before = arguments.before.map(|before| ("before", before.to_string()));
    said.chain(attributes).chain(before).chain([("limit", arguments.limit.to_string())]).collect()
}

/// Records, each a line; for scripts, an object each.
fn print(found: &LogList, format: Format, printer: &mut Printer) -> anyhow::Result<()> {
    for log in &found.logs {
        printer.data(&match format {
            Format::Json => serde_json::to_string(log)?,
            Format::Table => line(log),
        });
    }
    Ok(())
}

/// When, who, how bad, what. A proxy's record of an exchange says the most important of it; one without words of its own its attributes.
fn line(log: &LogView) -> String {
    let said = match &log.body {
        _ if log.attributes.contains_key("lorica.reporter") => exchange(&log.attributes),
        Value::Object(fields) => pairs(fields),
        Value::Null => pairs(&log.attributes),
        Value::String(text) if text.trim().is_empty() => pairs(&log.attributes),
        body => plain(body),
    };
    let words = [log.time.as_str(), &log.service, &log.severity, said.trim_end()];
    visible(&words.into_iter().filter(|word| !word.is_empty()).collect::<Vec<_>>().join("  "))
}

/// An exchange that a proxy tells of: what was asked of whom, how it ended, and by which rule.
fn exchange(attributes: &Map<String, Value>) -> String {
    let said = |key: &str| attributes.get(key).map(plain).filter(|text| !text.is_empty());
    let words = [
        said("lorica.reporter").map(|side| if side == "source" { "out".to_owned() } else { "in".to_owned() }),
        said("http.request.method"),
        said("server.address").map(|address| format!("{address}{}", said("url.path").unwrap_or_default())),
        said("http.response.status_code"),
        said("rpc.grpc.status_code").map(|status| format!("grpc {status}")),
        said("lorica.duration_ms").map(|milliseconds| format!("{milliseconds} ms")),
        said("lorica.reason"),
        said("lorica.route").map(|route| format!("({route})")),
    ];
    words.into_iter().flatten().collect::<Vec<_>>().join(" ")
}

fn pairs(fields: &Map<String, Value>) -> String {
    let one = |(key, value): (&String, &Value)| {
        let text = plain(value);
        if text.is_empty() || text.contains(char::is_whitespace) { format!("{key}={text:?}") } else { format!("{key}={text}") }
    };
    fields.iter().map(one).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_record_reads_as_a_line() {
        let log = |severity: &str, body: Value, attributes: Value| LogView {
            time: "2026-11-30T14:00:00.250000Z".to_owned(),
            service: "edge.contact".to_owned(),
            instance: None,
            severity: severity.to_owned(),
            body,
            attributes: attributes.as_object().cloned().unwrap_or_default(),
            trace_id: None,
            span_id: None,
        };
        for (log, expected) in [
            (log("INFO", json!("it began\n"), json!({"k": 1})), "2026-11-30T14:00:00.250000Z  edge.contact  INFO  it began"),
            (
                log("", Value::Null, json!({"method": "GET", "response_code": 200})),
                "2026-11-30T14:00:00.250000Z  edge.contact  method=GET response_code=200",
            ),
            (log("", json!({"a": "b c"}), json!({})), "2026-11-30T14:00:00.250000Z  edge.contact  a=\"b c\""),
            (
                log(
                    "ERROR",
                    json!({"start_time": "x"}),
                    json!({"lorica.reporter": "source", "http.request.method": "GET", "server.address": "recording.contact.mesh", "url.path": "/list",
                        "http.response.status_code": 504, "lorica.duration_ms": 15, "lorica.reason": "route_timeout", "lorica.route": "HTTPRoute/recording.contact rule 0"}),
                ),
                "2026-11-30T14:00:00.250000Z  edge.contact  ERROR  out GET recording.contact.mesh/list 504 15 ms route_timeout (HTTPRoute/recording.contact rule 0)",
            ),
            (log("", json!("\u{1b}[2J"), json!({})), "2026-11-30T14:00:00.250000Z  edge.contact  \\u{1b}[2J"),
        ] {
            assert_eq!(line(&log), expected);
        }
    }
}
