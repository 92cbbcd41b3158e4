//! What is written of a run: a table for people, JSON for programs, and the generated part of docs/performance.md with its plot.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, ensure};
use serde::{Deserialize, Serialize};

use crate::peers::{self, Peer};
use crate::plot;
use crate::statistics::Spread;

/// The markers between which docs/performance.md is written anew.
const MARKERS: (&str, &str) = ("<!-- results: written by `cargo xtask bench` -->\n", "<!-- end of results -->\n");

/// All results of a run.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Results {
    /// What they were measured on.
    pub(crate) machine: String,
    /// Which commit of this project.
    pub(crate) commit: String,
    /// How many rounds, and how long a window was in seconds.
    pub(crate) rounds: (usize, f64),
    /// Name and version of each peer.
    pub(crate) versions: Vec<(String, String)>,
    /// The figures.
    pub(crate) rows: Vec<Row>,
    /// What could not be measured, and why.
    pub(crate) failed: Vec<String>,
}

/// One figure of one peer.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Row {
    /// The scenario's name.
    pub(crate) scenario: String,
    /// The figure's name.
    pub(crate) figure: String,
    /// The peer's name.
    pub(crate) peer: String,
    /// What its rounds say.
    pub(crate) value: Spread,
}

impl Results {
    fn value(&self, scenario: &str, figure: &str, peer: Peer) -> Option<Spread> {
        let row = self.rows.iter().find(|row| row.scenario == scenario && row.figure == figure && row.peer == peer.name());
        row.map(|row| row.value)
    }

    /// Scenario and figure, in the order in which they were measured.
    fn figures(&self) -> Vec<(&str, &str)> {
        let mut all: Vec<(&str, &str)> = Vec::new();
        for row in &self.rows {
            let one = (row.scenario.as_str(), row.figure.as_str());
            if !all.contains(&one) {
                all.push(one);
            }
        }
        all
    }

    /// Markdown: a line a figure, a column a peer; median, and the spread in brackets; for others the ratio to Lorica's.
    pub(crate) fn table(&self) -> String {
        let present: Vec<Peer> = peers::ALL.into_iter().filter(|peer| self.rows.iter().any(|row| row.peer == peer.name())).collect();
        let mut out = String::from("| scenario | figure |");
        for peer in &present {
            let version = self.versions.iter().find(|(name, _)| name == peer.name()).map_or("", |(_, version)| version);
            let _: std::fmt::Result = write!(out, " {} {version} |", peer.title());
        }
        out.push_str("\n|---|---|");
        out.push_str(&"---|".repeat(present.len()));
        out.push('\n');
        for (scenario, figure) in self.figures() {
            let _: std::fmt::Result = write!(out, "| {scenario} | {figure} |");
            let own = self.value(scenario, figure, Peer::Lorica);
            for peer in &present {
                match self.value(scenario, figure, *peer) {
                    None => out.push_str(" |"),
                    Some(value) => {
                        let _: std::fmt::Result = write!(out, " {} ({} to {})", shown(value.median), shown(value.least), shown(value.most));
                        if let Some(own) = own.filter(|own| *peer != Peer::Lorica && own.median > 0.0) {
                            let _: std::fmt::Result = write!(out, ", {:.2} ×", value.median / own.median);
                        }
                        out.push_str(" |");
                    }
                }
            }
            out.push('\n');
        }
        out
    }

    /// Writes JSON, plots and the generated part of the page into `docs`.
    pub(crate) fn write(&self, docs: &Path) -> anyhow::Result<()> {
        let place = docs.join("performance");
        fs::create_dir_all(&place)?;
        fs::write(place.join("results.json"), serde_json::to_string_pretty(self)? + "\n")?;
        let mut charts = Vec::new();
        for (scenario, figure, title) in [
            ("http1-plain", "CPU µs", "HTTP/1, one plain hop"),
            ("http1-mtls", "CPU µs", "HTTP/1, two hops, mutual TLS"),
            ("http1-mtls-10k", "CPU µs", "the same, 10 KiB answers"),
            ("http2-mtls", "CPU µs", "HTTP/2, two hops, mutual TLS"),
            ("tcp-mtls", "CPU µs", "TCP round trip, two hops, mutual TLS"),
            ("connect-mtls", "CPU µs", "new connection, two hops, mutual TLS"),
        ] {
            let bars: Vec<_> = peers::ALL
                .into_iter()
                .filter_map(|peer| Some((peer.title().to_owned(), self.value(scenario, figure, peer)?.median)))
                .collect();
            if !bars.is_empty() {
                charts.push((title.to_owned(), bars));
            }
        }
        fs::write(place.join("cpu.svg"), plot::bars("CPU time of the proxies per request, µs (less is better)", &charts))?;
        let page = docs.join("performance.md");
        let text = fs::read_to_string(&page).with_context(|| page.display().to_string())?;
        let mut part = format!(
            "Measured on {}; {} rounds of {} s in alternation, commit {}. Median (least to most); for peers, how many times Lorica's.\n\n{}",
            self.machine,
            self.rounds.0,
            self.rounds.1,
            self.commit,
            self.table()
        );
        if !self.failed.is_empty() {
            part.push_str("\nNot measured:\n\n");
            self.failed.iter().for_each(|line| part.push_str(&format!("- {line}\n")));
        }
        part.push_str("\n![CPU time per request](performance/cpu.svg)\n");
        fs::write(&page, replaced(&text, MARKERS, &part)?)?;
        Ok(())
    }
}

/// `text` with `part` between these markers.
pub(crate) fn replaced(text: &str, markers: (&str, &str), part: &str) -> anyhow::Result<String> {
    let lost = |marker: &str| format!("docs/performance.md has lost `{}`", marker.trim());
    let (before, rest) = text.split_once(markers.0).with_context(|| lost(markers.0))?;
    let (_, after) = rest.split_once(markers.1).with_context(|| lost(markers.1))?;
    ensure!(!after.contains(markers.0), "docs/performance.md has its markers twice");
    Ok(format!("{before}{}\n{part}\n{}{after}", markers.0, markers.1))
}

fn shown(value: f64) -> String {
    match value.abs() {
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_what_stands_between_the_markers_is_written_anew() {
        let text = format!("before\n{}old\n{}after\n", MARKERS.0, MARKERS.1);
        let once = replaced(&text, MARKERS, "new").unwrap();
        assert!(once.starts_with("before\n") && once.ends_with("after\n") && once.contains("new") && !once.contains("old"));
        assert_eq!(replaced(&once, MARKERS, "new").unwrap(), once);
        assert!(replaced("no markers", MARKERS, "new").is_err());
    }

    #[test]
    fn a_table_names_ratios_to_our_own() {
        let spread = |median| Spread { median, least: median, most: median };
        let row = |peer: Peer, median| Row {
            scenario: "http1-plain".into(),
            figure: "CPU µs".into(),
            peer: peer.name().into(),
            value: spread(median),
        };
        let results = Results {
            machine: String::new(),
            commit: String::new(),
            rounds: (1, 1.0),
            versions: vec![("nginx".into(), "1.22".into())],
            rows: vec![row(Peer::Lorica, 10.0), row(Peer::Nginx, 12.5)],
            failed: Vec::new(),
        };
        let table = results.table();
        assert!(table.contains("| http1-plain | CPU µs | 10.0 (10.0 to 10.0) | 12.5 (12.5 to 12.5), 1.25 × |"), "{table}");
    }
}
