//! `lorica trace`: traces that were kept, as a list, or one as a tree with times.

use std::process::ExitCode;

use comfy_table::{Table, presets};
use lorica_api::{ApiClient, SpanView, TraceList, TraceView};
use serde_json::Value;

use crate::args::{Format, TraceArgs};
use crate::printer::Printer;

/// How wide the drawn times are, in cells.
const BAR: u64 = 24;
/// The longest name in a tree, in characters.
const NAME: usize = 72;

pub(super) async fn trace(client: &ApiClient, arguments: TraceArgs, printer: &mut Printer) -> anyhow::Result<ExitCode> {
    let format = arguments.output.format;
    if let Some(id) = &arguments.id {
        let found = client.trace(id).await?;
        printer.data(&match format {
            Format::Json => serde_json::to_string_pretty(&found)?,
            Format::Table => tree(&found),
        });
        return Ok(ExitCode::SUCCESS);
    }
    let found = client.traces(&query(&arguments)).await?;
    match format {
        Format::Json => printer.data(&serde_json::to_string_pretty(&found)?),
        Format::Table if found.traces.is_empty() => {
            printer.data("no trace");
            printer.note("a trace is kept where it was sampled, where it failed, and where it was slow");
        }
        Format::Table => printer.data(&list(&found)),
    }
    if let (Some(next), Format::Table) = (&found.next, format) {
        printer.note(&format!("there are more: the same with --page {next}"));
    }
    Ok(ExitCode::SUCCESS)
}

fn query(arguments: &TraceArgs) -> Vec<(&'static str, String)> {
    let words = [
        ("service", &arguments.service),
        ("operation", &arguments.operation),
        ("route", &arguments.route),
        ("status", &arguments.status),
        ("min_duration", &arguments.slower),
        ("max_duration", &arguments.faster),
        ("request_id", &arguments.request_id),
        ("since", &arguments.since),
        ("until", &arguments.until),
        ("page", &arguments.page),
    ];
    let said = words.into_iter().filter_map(|(key, value)| Some((key, value.clone()?)));
    let attributes = arguments.attributes.iter().map(|attribute| ("attribute", attribute.clone()));
    said.chain(attributes).chain([("limit", arguments.limit.to_string())]).collect()
}

fn list(found: &TraceList) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["BEGAN", "TRACE", "ROOT", "TOOK", "SPANS", "FAILED"]);
    for trace in &found.traces {
        table.add_row([
            trace.start.clone(),
            trace.trace_id.clone(),
            shortened(&visible(&format!("{} {}", trace.service, trace.name))),
            took(trace.duration_us),
            trace.spans.to_string(),
            if trace.failures == 0 { "-".to_owned() } else { trace.failures.to_string() },
        ]);
    }
    lines(&table)
}

fn tree(trace: &TraceView) -> String {
    let failed = trace.spans.iter().filter(|span| span.failed).count();
    let more = if trace.cut { " (there are more)" } else { "" };
    let failed = if failed == 0 { String::new() } else { format!(", {failed} failed") };
    let mut text =
        format!("trace {}  {}\n{} in {} spans{more}{failed}\n\n", trace.trace_id, trace.start, took(trace.duration_us), trace.spans.len());
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["SPAN", "SIDE", "ENDED", "BEGAN", "TOOK", ""]);
    for (span, branch) in trace.spans.iter().zip(branches(&trace.spans)) {
        let name = shortened(&visible(&format!("{}  {}", span.service, span.name)));
        table.add_row([
            format!("{branch}{name}"),
            span.kind.clone(),
            ended(span),
            format!("+{}", took(span.offset_us)),
            took(span.duration_us),
            bar(span, trace.duration_us),
        ]);
    }
    text.push_str(&lines(&table));
    for span in trace.spans.iter().filter(|span| span.failed && !span.message.is_empty()) {
        text.push_str(&format!("\n{} {}: {}", visible(&span.service), visible(&span.name), visible(&span.message)));
    }
    text
}

/// What stands before each span: `│  └─ `.
fn branches(spans: &[SpanView]) -> Vec<String> {
    let last = |number: usize, depth: usize| {
        // Whether nothing else stands at this depth below the same one.
        spans.iter().skip(number + 1).take_while(|span| span.depth >= depth).all(|span| span.depth > depth)
    };
    let mut open: Vec<bool> = Vec::new();
    let one = |(number, span): (usize, &SpanView)| {
        open.truncate(span.depth.saturating_sub(1));
        let mut branch: String = open.iter().map(|open| if *open { "│  " } else { "   " }).collect();
        if span.depth > 0 {
            let last = last(number, span.depth);
            branch.push_str(if last { "└─ " } else { "├─ " });
            open.push(!last);
        }
        branch
    };
    spans.iter().enumerate().map(one).collect()
}

/// How a span ended: its status, what the mesh says of it, and how often it was tried.
fn ended(span: &SpanView) -> String {
    let said = |keys: &[&str]| keys.iter().find_map(|key| span.attributes.get(*key)).map(plain);
    let status = said(&["http.response.status_code", "http.status_code"]);
    let grpc = said(&["rpc.grpc.status_code"]).map(|status| format!("grpc {status}"));
    let reason = said(&["lorica.reason", "error.type"]);
    let attempts = said(&["lorica.attempts"]).and_then(|attempts| attempts.parse::<u64>().ok()).filter(|attempts| *attempts > 1);
    let attempts = attempts.map(|attempts| format!("{attempts} attempts"));
    let mut words: Vec<String> = [status, grpc, reason, attempts].into_iter().flatten().collect();
    words.dedup();
    if words.is_empty() && span.failed {
        words.push("failed".to_owned());
    }
    visible(&words.join(", "))
}

/// When it was under way, drawn: as long as its share of the whole, and never nothing.
fn bar(span: &SpanView, whole: u64) -> String {
    let whole = whole.max(1);
    let cell = |time: u64| u128::from(time.min(whole)) * u128::from(BAR) / u128::from(whole);
    let begin = usize::try_from(cell(span.offset_us)).unwrap_or(0).min(BAR as usize - 1);
    let end = u128::from(span.offset_us.saturating_add(span.duration_us).min(whole)) * u128::from(BAR);
    let end = usize::try_from(end.div_ceil(u128::from(whole))).unwrap_or(0).clamp(begin + 1, BAR as usize);
    format!("{}{}{}", "·".repeat(begin), "█".repeat(end - begin), "·".repeat(BAR as usize - end))
}

/// Microseconds, as people read them.
pub(super) fn took(microseconds: u64) -> String {
    #[allow(clippy::cast_precision_loss, reason = "for people")]
    let number = microseconds as f64;
    match microseconds {
        0..1000 => format!("{microseconds} µs"),
        1000..1_000_000 => format!("{:.2} ms", number / 1e3),
        1_000_000..120_000_000 => format!("{:.2} s", number / 1e6),
        _ => format!("{:.1} min", number / 6e7),
    }
}

/// A value without the quotes of JSON.
pub(super) fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// What others wrote, as a terminal may have it: nothing in it moves the cursor.
pub(super) fn visible(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect::<Vec<_>>() } else { vec![c] }).collect()
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(NAME) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}

fn lines(table: &Table) -> String {
    table.to_string().lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use lorica_api::TraceSummary;
    use serde_json::json;

    use super::*;

    fn span(depth: usize, service: &str, name: &str, kind: &str, times: (u64, u64), attributes: Value) -> SpanView {
        SpanView {
            span_id: String::new(),
            parent_id: None,
            depth,
            service: service.to_owned(),
            instance: None,
            kind: kind.to_owned(),
            name: name.to_owned(),
            offset_us: times.0,
            duration_us: times.1,
            failed: false,
            message: String::new(),
            attributes: attributes.as_object().cloned().unwrap_or_default(),
            events: Vec::new(),
            links: Vec::new(),
        }
    }

    #[test]
    fn a_trace_is_drawn_as_a_tree_with_times() {
        let mut spans = vec![
            span(0, "edge.contact", "GET HTTPRoute/edge.contact rule 0", "server", (0, 12_000), json!({"http.response.status_code": 503})),
            span(1, "edge.contact", "GET", "client", (200, 5000), json!({"http.response.status_code": 200, "lorica.attempts": 2})),
            span(2, "routing.contact", "GET", "server", (1000, 4000), json!({"http.response.status_code": 200})),
            span(2, "app", "\u{1b}[2Jhostile", "internal", (1200, 3), json!({})),
            span(
                1,
                "edge.contact",
                "POST",
                "client",
                (6000, 6000),
                json!({"lorica.reason": "upstream_timeout", "error.type": "upstream_timeout"}),
            ),
            span(2, "recording.contact", "contact.Recording/Put", "server", (6100, 900), json!({"rpc.grpc.status_code": 4})),
        ];
        spans[4].failed = true;
        spans[4].message = "no answer within 6 s".to_owned();
        let trace = TraceView {
            trace_id: "0af7651916cd43dd8448eb211c80319c".to_owned(),
            start: "2026-11-30T14:00:00.250000Z".to_owned(),
            duration_us: 12_000,
            cut: false,
            spans,
        };
        let expected = "\
trace 0af7651916cd43dd8448eb211c80319c  2026-11-30T14:00:00.250000Z
12.00 ms in 6 spans, 1 failed

 SPAN                                             SIDE      ENDED             BEGAN     TOOK
 edge.contact  GET HTTPRoute/edge.contact rule 0  server    503               +0 µs     12.00 ms  ████████████████████████
 ├─ edge.contact  GET                             client    200, 2 attempts   +200 µs   5.00 ms   ███████████·············
 │  ├─ routing.contact  GET                       server    200               +1.00 ms  4.00 ms   ··████████··············
 │  └─ app  \\u{1b}[2Jhostile                      internal                    +1.20 ms  3 µs      ··█·····················
 └─ edge.contact  POST                            client    upstream_timeout  +6.00 ms  6.00 ms   ············████████████
    └─ recording.contact  contact.Recording/Put   server    grpc 4            +6.10 ms  900 µs    ············██··········
edge.contact POST: no answer within 6 s";
        assert_eq!(tree(&trace), expected, "\n{}", tree(&trace));
    }

    #[test]
    fn traces_are_listed() {
        let one = |id: &str, failures| TraceSummary {
            trace_id: id.repeat(32),
            start: "2026-11-30T14:00:00.250000Z".to_owned(),
            duration_us: 1_234_567,
            service: "edge.contact".to_owned(),
            name: "GET".to_owned(),
            spans: 4,
            failures,
            services: std::collections::BTreeMap::new(),
        };
        let found = TraceList { traces: vec![one("a", 0), one("b", 2)], next: None };
        let expected = "\
\x20BEGAN                        TRACE                             ROOT              TOOK    SPANS  FAILED
 2026-11-30T14:00:00.250000Z  aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa  edge.contact GET  1.23 s  4      -
 2026-11-30T14:00:00.250000Z  bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb  edge.contact GET  1.23 s  4      2";
        assert_eq!(list(&found), expected, "\n{}", list(&found));
    }

    #[test]
    fn times_read_well() {
        assert_eq!([0, 999, 1000, 59_400_000, 180_000_000].map(took), ["0 µs", "999 µs", "1.00 ms", "59.40 s", "3.0 min"]);
    }
}
