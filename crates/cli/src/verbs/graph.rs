//! `lorica graph`: who calls whom, and how that goes.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::process::ExitCode;

use comfy_table::{CellAlignment, Table, presets};
use lorica_api::{ApiClient, Graph, GraphEdge, Traffic};
use lorica_model::name::Namespace;

use crate::args::{GraphArgs, GraphFormat};
use crate::printer::Printer;

pub(super) async fn graph(client: &ApiClient, arguments: GraphArgs, printer: &mut Printer) -> anyhow::Result<ExitCode> {
    let graph = client.graph(&arguments.window, arguments.namespace.as_ref().map(Namespace::as_str)).await?;
    match arguments.format {
        GraphFormat::Json => printer.data(&serde_json::to_string_pretty(&graph)?),
        GraphFormat::Dot => printer.data(&dot(&graph)),
        GraphFormat::Table if graph.edges.is_empty() => {
            printer.note(&format!("no call in the last {} s; proxies tell of calls within ten seconds", graph.window_seconds));
        }
        GraphFormat::Table => printer.data(&table(&graph)),
    }
    Ok(ExitCode::SUCCESS)
}

fn table(graph: &Graph) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["FROM", "TO", "PROTOCOL"].into_iter().chain(COLUMNS).chain(["MTLS"]));
    for GraphEdge { source, destination, protocol, traffic } in &graph.edges {
        let [calls, success, p50, p99, received, sent] = cells(traffic);
        table.add_row([
            source.clone(),
            destination.clone(),
            protocol.clone(),
            calls,
            success,
            p50,
            p99,
            received,
            sent,
            mutual_tls(traffic),
        ]);
    }
    aligned(table, 3)
}

/// What is said of traffic, by column.
pub(super) const COLUMNS: [&str; 6] = ["CALLS/S", "SUCCESS", "P50", "P99", "IN/S", "OUT/S"];

/// The cells of these columns.
pub(super) fn cells(traffic: &Traffic) -> [String; 6] {
    let milliseconds = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.1} ms"));
    [
        format!("{:.1}", traffic.per_second),
        success(traffic),
        milliseconds(traffic.p50_ms),
        milliseconds(traffic.p99_ms),
        bytes(traffic.received_per_second),
        bytes(traffic.sent_per_second),
    ]
}

#[allow(clippy::cast_precision_loss, reason = "a share is a float")]
fn success(traffic: &Traffic) -> String {
    if traffic.calls == 0 {
        return "-".to_owned();
    }
    let share = 1.0 - traffic.failures.min(traffic.calls) as f64 / traffic.calls as f64;
    // Some failures are never shown as none.
    let share = if traffic.failures > 0 { (share * 1000.0).floor() / 10.0 } else { 100.0 };
    format!("{share:.1} %")
}

fn bytes(count: f64) -> String {
    const UNITS: [&str; 4] = ["B", "KB", "MB", "GB"];
    let mut count = count;
    let mut unit = 0;
    while count >= 999.95 && unit + 1 < UNITS.len() {
        count /= 1000.0;
        unit += 1;
    }
    if unit == 0 { format!("{count:.0} B") } else { format!("{count:.1} {}", UNITS[unit]) }
}

fn mutual_tls(traffic: &Traffic) -> String {
    match traffic.mutual_tls {
        None => "-".to_owned(),
        Some(share) if share >= 1.0 => "yes".to_owned(),
        Some(share) if share <= 0.0 => "no".to_owned(),
        Some(share) => format!("{:.0} %", share * 100.0),
    }
}

/// The text of a table: names to the left, figures to the right.
pub(super) fn aligned(mut table: Table, names: usize) -> String {
    for index in names..names + COLUMNS.len() {
        if let Some(column) = table.column_mut(index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.to_string().lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}

/// In Graphviz's language. What fails is red; what comes without mutual TLS is dashed.
fn dot(graph: &Graph) -> String {
    let mut text = "digraph mesh {\n  rankdir=LR;\n  node [shape=box, style=rounded];\n".to_owned();
    let nodes: BTreeSet<&str> = graph.edges.iter().flat_map(|edge| [edge.source.as_str(), edge.destination.as_str()]).collect();
    // Writing to memory does not fail.
    for node in nodes {
        let _: std::fmt::Result = writeln!(text, "  {};", quoted(node));
    }
    for GraphEdge { source, destination, protocol, traffic } in &graph.edges {
        let p99 = traffic.p99_ms.map(|p99| format!(", p99 {p99:.1} ms")).unwrap_or_default();
        let label = format!("{protocol} {:.1}/s, {}{p99}", traffic.per_second, success(traffic));
        let colour = if traffic.failures > 0 { ", color=red" } else { "" };
        let style = if traffic.mutual_tls.is_some_and(|share| share < 1.0) { ", style=dashed" } else { "" };
        let (source, destination, label) = (quoted(source), quoted(destination), quoted(&label));
        let _: std::fmt::Result = writeln!(text, "  {source} -> {destination} [label={label}{colour}{style}];");
    }
    text + "}"
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph() -> Graph {
        let traffic = |calls, failures, p50_ms: Option<f64>, mutual_tls| Traffic {
            calls,
            failures,
            per_second: 12.34,
            p50_ms,
            p99_ms: p50_ms.map(|p50| p50 * 10.0),
            received_per_second: 999.96,
            sent_per_second: 1_234_567.0,
            mutual_tls,
        };
        let edge = |source: &str, destination: &str, protocol: &str, traffic| GraphEdge {
            source: source.to_owned(),
            destination: destination.to_owned(),
            protocol: protocol.to_owned(),
            traffic,
        };
        Graph {
            window_seconds: 60.0,
            edges: vec![
                edge("routing.contact", "recording.contact", "http", traffic(740, 0, Some(1.25), Some(1.0))),
                edge("routing.contact", "crm.contact", "grpc", traffic(100_000, 1, Some(20.0), Some(0.5))),
                edge("unknown", "ledger.contact", "tcp", traffic(3, 3, None, Some(0.0))),
                edge("crm.contact", "api.ex\"ample.com", "http", traffic(0, 0, None, None)),
            ],
        }
    }

    #[test]
    fn edges_are_shown_as_a_table() {
        assert_eq!(
            table(&graph()),
            " FROM             TO                 PROTOCOL  CALLS/S  SUCCESS      P50       P99    IN/S   OUT/S  MTLS
 routing.contact  recording.contact  http         12.3  100.0 %   1.2 ms   12.5 ms  1.0 KB  1.2 MB  yes
 routing.contact  crm.contact        grpc         12.3   99.9 %  20.0 ms  200.0 ms  1.0 KB  1.2 MB  50 %
 unknown          ledger.contact     tcp          12.3    0.0 %        -         -  1.0 KB  1.2 MB  no
 crm.contact      api.ex\"ample.com   http         12.3        -        -         -  1.0 KB  1.2 MB  -"
        );
    }

    #[test]
    fn edges_are_shown_to_graphviz() {
        assert_eq!(
            dot(&graph()),
            r#"digraph mesh {
  rankdir=LR;
  node [shape=box, style=rounded];
  "api.ex\"ample.com";
  "crm.contact";
  "ledger.contact";
  "recording.contact";
  "routing.contact";
  "unknown";
  "routing.contact" -> "recording.contact" [label="http 12.3/s, 100.0 %, p99 12.5 ms"];
  "routing.contact" -> "crm.contact" [label="grpc 12.3/s, 99.9 %, p99 200.0 ms", color=red, style=dashed];
  "unknown" -> "ledger.contact" [label="tcp 12.3/s, 0.0 %", color=red, style=dashed];
  "crm.contact" -> "api.ex\"ample.com" [label="http 12.3/s, -"];
}"#
        );
    }

    #[test]
    fn bytes_have_units() {
        for (count, expected) in [(0.0, "0 B"), (999.4, "999 B"), (1000.0, "1.0 KB"), (1.5e6, "1.5 MB"), (2e12, "2000.0 GB")] {
            assert_eq!(bytes(count), expected);
        }
    }
}
