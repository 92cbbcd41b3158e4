//! `lorica graph` and `lorica top` as typed.

use clap::Args;
use lorica_model::name::Namespace;

use super::Output;

/// `lorica graph`.
#[derive(Debug, Args)]
#[command(after_help = "Proxies tell their metrics each ten seconds; what is newer is not in it yet.

Examples:
  lorica graph
  lorica graph -n contact --window 10m
  lorica graph -o dot | dot -Tsvg > mesh.svg")]
pub struct GraphArgs {
    /// Only calls from or to this namespace.
    #[arg(short, long)]
    pub namespace: Option<Namespace>,
    /// Over which time, until now: 10s to 24h.
    #[arg(long, value_name = "TIME", default_value = "1m", value_parser = window)]
    pub window: String,
    /// `table` for people, `json` for scripts, `dot` for Graphviz.
    #[arg(short = 'o', long = "output", default_value = "table", value_name = "FORMAT")]
    pub format: GraphFormat,
}

/// The forms of a graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum GraphFormat {
    /// For people.
    Table,
    /// For scripts.
    Json,
    /// For Graphviz.
    Dot,
}

/// `lorica top`.
#[derive(Debug, Args)]
#[command(after_help = "On a terminal it is shown anew every two seconds until Ctrl-C; else once.

Examples:
  lorica top
  lorica top routes -n contact
  lorica top -o json | jq '.rows[0]'")]
pub struct TopArgs {
    /// What calls are grouped by: the services that were called, or the routes that took them.
    #[arg(default_value = "services", value_name = "services|routes")]
    pub by: TopByArg,
    /// Only calls to this namespace.
    #[arg(short, long)]
    pub namespace: Option<Namespace>,
    /// Over which time, until now: 10s to 24h.
    #[arg(long, value_name = "TIME", default_value = "1m", value_parser = window)]
    pub window: String,
    /// Show it once, also on a terminal.
    #[arg(long)]
    pub once: bool,
    /// How to print.
    #[command(flatten)]
    pub output: Output,
}

/// What calls are grouped by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum TopByArg {
    /// The service that was called.
    #[value(alias = "service")]
    Services,
    /// The route that took them.
    #[value(alias = "route")]
    Routes,
}

/// A window of time as the API reads it: it goes into a URL, and is held against its bounds there.
fn window(text: &str) -> Result<String, String> {
    let is_one = text.starts_with(|c: char| c.is_ascii_digit()) && text.chars().all(|c| c.is_ascii_digit() || "smhd".contains(c));
    if is_one { Ok(text.to_owned()) } else { Err(format!("`{text}` is no window of time: write 30s, 5m or 1h30m")) }
}
