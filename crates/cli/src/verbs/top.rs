//! `lorica top`: what is called most, shown anew every two seconds on a terminal.

use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::time::Duration;

use comfy_table::{Table, presets};
use lorica_api::{ApiClient, Top, TopBy, TopRow};
use lorica_model::name::Namespace;

use super::graph::{COLUMNS, aligned, cells};
use crate::args::{Format, TopArgs, TopByArg};
use crate::printer::Printer;

/// How often it is shown.
const PAUSE: Duration = Duration::from_secs(2);
/// How many lines there are where the terminal does not say.
const LINES: usize = 24;

pub(super) async fn top(client: &ApiClient, arguments: TopArgs, printer: &mut Printer) -> anyhow::Result<ExitCode> {
    let by = match arguments.by {
        TopByArg::Services => TopBy::Service,
        TopByArg::Routes => TopBy::Route,
    };
    let ask = async || client.top(by, &arguments.window, arguments.namespace.as_ref().map(Namespace::as_str)).await;
    if arguments.output.format == Format::Json {
        printer.data(&serde_json::to_string_pretty(&ask().await?)?);
        return Ok(ExitCode::SUCCESS);
    }
    if arguments.once || !std::io::stdout().is_terminal() {
        printer.data(&shown(&ask().await?, usize::MAX));
        return Ok(ExitCode::SUCCESS);
    }
    loop {
        let top = ask().await?;
        let lines = rustix::termios::tcgetwinsize(std::io::stdout()).map_or(LINES, |size| usize::from(size.ws_row).max(4));
        printer.screen(&shown(&top, lines - 3));
        tokio::time::sleep(PAUSE).await;
    }
}

/// A table of at most so many rows, with what it is of.
fn shown(top: &Top, most: usize) -> String {
    let Top { window_seconds, by, rows } = top;
    let (what, all) = match by {
        TopBy::Service => ("SERVICE", "services"),
        TopBy::Route => ("ROUTE", "routes"),
    };
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header([what].into_iter().chain(COLUMNS));
    for TopRow { name, traffic } in rows.iter().take(most) {
        let [calls, success, p50, p99, received, sent] = cells(traffic);
        table.add_row([name.clone(), calls, success, p50, p99, received, sent]);
    }
    let left_out = match rows.len().saturating_sub(most) {
        0 => String::new(),
        left_out => format!(", {left_out} more are not shown"),
    };
    format!("{} {all} called in the last {window_seconds} s{left_out}\n{}", rows.len(), aligned(table, 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use lorica_api::Traffic;

    #[test]
    fn the_foremost_are_shown() {
        let row = |name: &str, per_second, failures| TopRow {
            name: name.to_owned(),
            traffic: Traffic { calls: 600, failures, per_second, p50_ms: Some(1.0), p99_ms: Some(9.0), ..Traffic::default() },
        };
        let mut top = Top {
            window_seconds: 60.0,
            by: TopBy::Service,
            rows: vec![row("recording.contact", 10.0, 0), row("crm.contact", 1.5, 300), row("ledger.contact", 0.1, 0)],
        };
        assert_eq!(
            shown(&top, 2),
            "3 services called in the last 60 s, 1 more are not shown
 SERVICE            CALLS/S  SUCCESS     P50     P99  IN/S  OUT/S
 recording.contact     10.0  100.0 %  1.0 ms  9.0 ms   0 B    0 B
 crm.contact            1.5   50.0 %  1.0 ms  9.0 ms   0 B    0 B"
        );
        top = Top { by: TopBy::Route, rows: Vec::new(), ..top };
        assert_eq!(shown(&top, 2), "0 routes called in the last 60 s\n ROUTE  CALLS/S  SUCCESS  P50  P99  IN/S  OUT/S");
    }
}
