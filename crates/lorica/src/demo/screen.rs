//! What the demo shows while it runs: one live screen, or plain lines where there is no terminal.

use std::io::IsTerminal;
use std::time::Duration;

use contact_centre::report::Report;
use lorica_cli::printer::Printer;
use lorica_observe::summary::Rate;

use super::sight::Sight;

/// What the person at the terminal wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wish {
    GoOn,
    End,
}

/// Where it is shown.
pub(crate) enum View {
    /// A line now and then.
    Lines,
    /// The whole terminal.
    #[cfg(feature = "tui")]
    Screen(live::Screen),
}

impl View {
    /// A screen where there is one and it is wanted.
    pub(crate) fn open(headless: bool) -> anyhow::Result<Self> {
        let terminal = std::io::stdout().is_terminal() && std::io::stdin().is_terminal();
        #[cfg(feature = "tui")]
        if terminal && !headless {
            return Ok(Self::Screen(live::Screen::open()?));
        }
        let _ = (terminal, headless);
        Ok(Self::Lines)
    }

    /// How often it is shown.
    pub(crate) fn interval(&self) -> Duration {
        match self {
            Self::Lines => Duration::from_secs(10),
            #[cfg(feature = "tui")]
            Self::Screen(_) => Duration::from_secs(1),
        }
    }

    /// Shows what flows now.
    pub(crate) fn show(&mut self, sight: &Sight, report: Option<&Report>, printer: &mut Printer) -> anyhow::Result<Wish> {
        match self {
            Self::Lines => {
                printer.note(&calls(report));
                for (edge, rate) in sight.rates.iter().filter(|(_, rate)| rate.per_second > 0.0) {
                    printer.note(&format!("  {:<34} {}", format!("{} → {}", edge.source, edge.destination), cells(rate).join("  ")));
                }
                Ok(Wish::GoOn)
            }
            #[cfg(feature = "tui")]
            Self::Screen(screen) => screen.show(sight, report),
        }
    }
}

/// The customers' side in one line.
fn calls(report: Option<&Report>) -> String {
    report.map_or_else(
        || "no call has ended yet".to_owned(),
        |report| {
            format!(
                "calls {}  answered {}  failed {}  not recorded {}  p50 {:.1} ms  p99 {:.1} ms",
                report.calls, report.answered, report.failed, report.not_recorded, report.p50_ms, report.p99_ms
            )
        },
    )
}

/// Rate, success, p50, p99.
fn cells(rate: &Rate) -> [String; 4] {
    let milliseconds = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.1} ms"));
    let success = rate.success.map_or_else(|| "-".to_owned(), |success| format!("{:.1} %", success * 100.0));
    [
        format!("{:>7.1}/s", rate.per_second),
        format!("{success:>8}"),
        format!("{:>9}", milliseconds(rate.p50)),
        format!("{:>9}", milliseconds(rate.p99)),
    ]
}

#[cfg(feature = "tui")]
mod live {
    //! The live screen, on ratatui.

    use contact_centre::report::Report;
    use ratatui::DefaultTerminal;
    use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyModifiers};
    use ratatui::layout::{Constraint, Layout};
    use ratatui::style::{Color, Style, Stylize};
    use ratatui::text::Line;
    use ratatui::widgets::{Block, Row, Table};

    use super::{Wish, calls, cells};
    use crate::demo::sight::Sight;

    /// The terminal, given back when it is dropped.
    pub(crate) struct Screen(DefaultTerminal);

    impl Screen {
        pub(super) fn open() -> anyhow::Result<Self> {
            // Inline, so that the things to try stay readable above.
            let options = ratatui::TerminalOptions { viewport: ratatui::Viewport::Inline(20) };
            Ok(Self(ratatui::try_init_with_options(options)?))
        }

        pub(super) fn show(&mut self, sight: &Sight, report: Option<&Report>) -> anyhow::Result<Wish> {
            self.0.draw(|frame| {
                let [head, body] = Layout::vertical([Constraint::Length(1), Constraint::Min(3)]).areas(frame.area());
                frame.render_widget(Line::from(calls(report)).bold(), head);
                let rows = sight.rates.iter().map(|(edge, rate)| {
                    let failing = rate.success.is_some_and(|success| success < 0.995);
                    let style = if failing { Style::new().fg(Color::Red) } else { Style::new() };
                    let [per_second, success, p50, p99] = cells(rate);
                    Row::new([edge.source.clone(), edge.destination.clone(), edge.protocol.clone(), per_second, success, p50, p99])
                        .style(style)
                });
                let widths = [20, 20, 8, 10, 9, 10, 10].map(Constraint::Length);
                let title = format!(" {} proxies, mutual TLS between them all; q or Ctrl-C ends ", sight.proxies);
                let header = Row::new(["caller", "called", "protocol", "requests", "success", "p50", "p99"]).bold();
                frame.render_widget(Table::new(rows, widths).header(header).block(Block::bordered().title(title)), body);
            })?;
            while event::poll(std::time::Duration::ZERO)? {
                if let Event::Key(KeyEvent { code, modifiers, .. }) = event::read()?
                    && (code == KeyCode::Char('q') || (code == KeyCode::Char('c') && modifiers.contains(KeyModifiers::CONTROL)))
                {
                    return Ok(Wish::End);
                }
            }
            Ok(Wish::GoOn)
        }
    }

    impl Drop for Screen {
        fn drop(&mut self) {
            ratatui::restore();
        }
    }
}
