//! `cargo xtask bench`: Lorica and its peers side by side in one run. In: which peers and scenarios, how long. Out: a table, and
//! docs/performance with its plots. Proxies have one core, load and backends the other; peers take turns, round by round.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "its only purpose is to speak to the terminal")]

mod authorization;
mod certificates;
mod flame;
mod ingest;
mod instructions;
mod load;
mod machine;
mod peers;
mod plot;
mod report;
mod routes;
mod scenario;
mod scrape;
mod statistics;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use clap::{Parser, Subcommand};

use certificates::Certificates;
use peers::{Peer, Programs};
use report::{Results, Row};
use scenario::{Bench, Scenario};
use statistics::Spread;

/// Measures Lorica and its peers side by side.
#[derive(Debug, Parser)]
#[command(
    after_help = "Examples:\n  cargo xtask bench --quick\n  cargo xtask bench --scenarios http1-mtls --peers lorica,haproxy --rounds 5\n  cargo xtask bench instructions\n  cargo xtask bench flame\n  cargo xtask bench routes\n  cargo xtask bench authorization\n  cargo xtask bench ingest\n  cargo xtask bench scrape"
)]
struct Arguments {
    /// The `lorica` to measure.
    #[arg(long, env = "LORICA_BENCH_BINARY")]
    lorica: PathBuf,
    /// The Envoy to compare with.
    #[arg(long, env = "LORICA_TEST_ENVOY")]
    envoy: Option<PathBuf>,
    /// Where the repository is.
    #[arg(long, env = "LORICA_BENCH_ROOT", default_value = ".")]
    root: PathBuf,
    /// A look: one round of 1 s each. Nothing is written to docs.
    #[arg(long)]
    quick: bool,
    /// How many rounds.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// How long a window is, in seconds.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Only these peers.
    #[arg(long, value_delimiter = ',')]
    peers: Vec<String>,
    /// Only these scenarios.
    #[arg(long, value_delimiter = ',')]
    scenarios: Vec<String>,
    /// `json` in place of the table.
    #[arg(short, long)]
    output: Option<String>,
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Count instructions per request with callgrind, and keep the count in docs/performance/instructions.csv.
    Instructions,
    /// Sample where the CPU time goes, and keep flame graphs and shares in docs.
    Flame,
    /// Time the search for a request's rule among many, and write the table of docs/performance.md.
    Routes,
    /// Time the judgement of a request by many rules of AuthorizationPolicies, and write the table of docs/performance.md.
    Authorization,
    /// Send spans to a control plane on one core, and print how many a second it takes.
    Ingest,
    /// Time a scrape of many series, and print it.
    Scrape,
    /// The program of a cold start: one request.
    #[command(hide = true)]
    First {
        /// Where it is sent.
        entry: std::net::SocketAddr,
    },
    /// The backend for bytes.
    #[command(hide = true)]
    Echo {
        /// Where it listens.
        port: u16,
    },
}

fn main() -> ExitCode {
    // The backend and the program of a cold start are started by their verbs alone.
    let mut words = std::env::args().skip(1);
    match (words.next().as_deref(), words.next()) {
        (Some("echo"), Some(port)) => return ended(port.parse().context("a port").and_then(load::echo)),
        (Some("first"), Some(entry)) => return ended(entry.parse().context("an address").and_then(first)),
        _ => {}
    }
    ended(run(&Arguments::parse()))
}

/// A program whose only purpose is one answer.
fn first(entry: std::net::SocketAddr) -> anyhow::Result<()> {
    ensure!(load::first_answer(entry)?, "no 200");
    Ok(())
}

fn ended(outcome: anyhow::Result<()>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let docs = arguments.root.join("docs");
    match arguments.verb {
        Some(Verb::Routes) => return routes::run(&docs),
        Some(Verb::Authorization) => return authorization::run(&docs),
        Some(Verb::Scrape) => return scrape::run(),
        _ => {}
    }
    machine::pin_to_load()?;
    if let Some(Verb::Ingest) = arguments.verb {
        let window = Duration::from_secs(if arguments.quick { 1 } else { arguments.seconds });
        return ingest::run(&std::path::absolute(&arguments.lorica)?, window);
    }
    let place = tempfile::tempdir()?;
    let bench = Bench {
        programs: Programs {
            lorica: std::path::absolute(&arguments.lorica)?,
            envoy: arguments.envoy.as_ref().map(std::path::absolute).transpose()?,
        },
        certificates: Certificates::make(place.path())?,
        window: Duration::from_secs(if arguments.quick { 1 } else { arguments.seconds }),
        place: place.path().to_owned(),
        own: std::env::current_exe()?,
    };
    let commit = commit(&arguments.root);
    match arguments.verb {
        Some(Verb::Instructions) => {
            let file = arguments.root.join("docs/performance/instructions.csv");
            instructions::run(&bench.programs, &bench.certificates, &bench, &file, &commit)
        }
        Some(Verb::Flame) => flame::run(&bench, &docs, &commit),
        _ => compare(arguments, &bench, commit),
    }
}

fn compare(arguments: &Arguments, bench: &Bench, commit: String) -> anyhow::Result<()> {
    let rounds = if arguments.quick { 1 } else { arguments.rounds };
    let scenarios = chosen(&arguments.scenarios, &scenario::ALL, Scenario::name, "scenario")?;
    let (mut versions, mut failed, mut peers) = (Vec::new(), Vec::new(), Vec::new());
    for peer in chosen(&arguments.peers, &peers::ALL, Peer::name, "peer")? {
        match peer.version(&bench.programs) {
            Ok(version) => {
                versions.push((peer.name().to_owned(), version));
                peers.push(peer);
            }
            Err(why) => failed.push(format!("{}: {why}", peer.title())),
        }
    }
    let mut rows = Vec::new();
    for scenario in scenarios {
        let mut samples: BTreeMap<(usize, usize), (Peer, &str, Vec<f64>)> = BTreeMap::new();
        for round in 1..=rounds {
            for (turn, peer) in peers.iter().enumerate() {
                eprint!("\r\x1b[K{}, round {round} of {rounds}: {} …", scenario.name(), peer.title());
                match scenario.round(bench, *peer) {
                    Ok(figures) => {
                        for (place, (name, value)) in figures.into_iter().flatten().enumerate() {
                            samples.entry((place, turn)).or_insert_with(|| (*peer, name, Vec::new())).2.push(value);
                        }
                    }
                    Err(error) => failed.push(format!(
                        "{}, {}: {}",
                        scenario.name(),
                        peer.title(),
                        format!("{error:#}").lines().next().unwrap_or_default()
                    )),
                }
            }
        }
        rows.extend(samples.into_values().filter_map(|(peer, figure, samples)| {
            let value = Spread::of(&samples)?;
            Some(Row { scenario: scenario.name().to_owned(), figure: figure.to_owned(), peer: peer.name().to_owned(), value })
        }));
    }
    eprint!("\r\x1b[K");
    let results = Results { machine: machine::description(), commit, rounds: (rounds, bench.window.as_secs_f64()), versions, rows, failed };
    if arguments.output.as_deref() == Some("json") {
        println!("{}", serde_json::to_string_pretty(&results)?);
    } else {
        println!("{}", results.table());
        results.failed.iter().for_each(|line| println!("not measured: {line}"));
    }
    // A part of a run must not take the place of a whole one.
    if !arguments.quick && arguments.peers.is_empty() && arguments.scenarios.is_empty() {
        results.write(&arguments.root.join("docs"))?;
        println!("written: docs/performance.md, docs/performance/");
    }
    ensure!(results.rows.iter().any(|row| row.peer == Peer::Lorica.name()), "nothing of Lorica's could be measured");
    Ok(())
}

/// Those of `all` that are named; all where none is.
fn chosen<T: Copy>(named: &[String], all: &[T], name: fn(T) -> &'static str, what: &str) -> anyhow::Result<Vec<T>> {
    if named.is_empty() {
        return Ok(all.to_vec());
    }
    let known = || all.iter().map(|one| name(*one)).collect::<Vec<_>>().join(", ");
    let find = |wanted: &String| all.iter().copied().find(|one| name(*one) == wanted);
    named.iter().map(|wanted| find(wanted).with_context(|| format!("`{wanted}` is no {what}\nhint: {}", known()))).collect()
}

fn commit(root: &std::path::Path) -> String {
    let output = Command::new("git").args(["describe", "--always", "--dirty"]).current_dir(root).output();
    output.map_or_else(|_| "unknown".to_owned(), |output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
