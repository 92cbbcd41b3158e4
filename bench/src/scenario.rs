//! The scenarios: what each rig is, and which figures come out of one round on it.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};

use crate::certificates::Certificates;
use crate::load;
use crate::machine::{self, LOAD_CORE, Process};
use crate::peers::{self, Peer, Programs, Rig, Speaks, Wanted};
use crate::statistics::percentile;

/// A scenario.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scenario {
    /// HTTP/1, one plain hop.
    Http1Plain,
    /// HTTP/1, two hops with mutual TLS between.
    Http1Mtls,
    /// The same with answers of 10 KiB.
    Http1Mtls10k,
    /// HTTP/2, two hops with mutual TLS between.
    Http2Mtls,
    /// Round trips of bytes through two hops with mutual TLS between.
    TcpMtls,
    /// New connections through the same.
    ConnectMtls,
    /// TLS handshakes, both certificates verified, with the callee's proxy alone; one request each.
    Handshakes,
    /// Bulk through the same.
    BulkMtls,
    /// Resident memory, idle and with 1,000 connections.
    Memory,
    /// From start to the first answer.
    ColdStart,
    /// Latency at a fixed rate.
    Latency,
    /// One worker and two.
    Workers,
}

/// All of them.
pub(crate) const ALL: [Scenario; 12] = [
    Scenario::Http1Plain,
    Scenario::Http1Mtls,
    Scenario::Http1Mtls10k,
    Scenario::Http2Mtls,
    Scenario::TcpMtls,
    Scenario::ConnectMtls,
    Scenario::Handshakes,
    Scenario::BulkMtls,
    Scenario::Memory,
    Scenario::ColdStart,
    Scenario::Latency,
    Scenario::Workers,
];

/// The requests a second at which latency is measured: a third of what the slowest peer takes.
const RATE: f64 = 2000.0;
/// How many connections memory is measured with.
const KEPT: usize = 1000;

/// One figure of one round.
pub(crate) type Figure = (&'static str, f64);

/// What scenarios are run with.
pub(crate) struct Bench {
    /// Where the programs are.
    pub(crate) programs: Programs,
    /// The identities.
    pub(crate) certificates: Certificates,
    /// How long a window is.
    pub(crate) window: Duration,
    /// A directory for all that a run writes.
    pub(crate) place: PathBuf,
    /// This program, which is also the backend for bytes.
    pub(crate) own: PathBuf,
}

impl Scenario {
    /// Its name on the command line and in results.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Http1Plain => "http1-plain",
            Self::Http1Mtls => "http1-mtls",
            Self::Http1Mtls10k => "http1-mtls-10k",
            Self::Http2Mtls => "http2-mtls",
            Self::TcpMtls => "tcp-mtls",
            Self::ConnectMtls => "connect-mtls",
            Self::Handshakes => "handshakes",
            Self::BulkMtls => "bulk-mtls",
            Self::Memory => "memory",
            Self::ColdStart => "cold-start",
            Self::Latency => "latency",
            Self::Workers => "workers",
        }
    }

    fn speaks(self) -> Speaks {
        match self {
            Self::Http2Mtls => Speaks::Http2,
            Self::TcpMtls | Self::ConnectMtls | Self::BulkMtls => Speaks::Tcp,
            _ => Speaks::Http1,
        }
    }

    /// What it is loaded with, where it has a load of its own: it says how many calls there were.
    fn load(self, entry: SocketAddr, window: Duration) -> anyhow::Result<u64> {
        match self {
            Self::Http1Mtls10k => load::wrk(entry, "/10k", window),
            Self::Http2Mtls => load::h2load(entry, "/small", window),
            Self::TcpMtls => load::round_trips(entry, window),
            Self::ConnectMtls => load::connections(entry, window),
            Self::BulkMtls => load::bulk(entry, window),
            _ => load::wrk(entry, "/", window),
        }
    }

    /// One round; none where the peer cannot do it.
    pub(crate) fn round(self, bench: &Bench, peer: Peer) -> anyhow::Result<Option<Vec<Figure>>> {
        self.on_a_rig(bench, peer, |wanted| {
            let start = |wanted: &Wanted<'_>| -> anyhow::Result<Rig> {
                let rig = peer.start(&bench.programs, wanted)?;
                sane(&rig, wanted)?;
                Ok(rig)
            };
            let window = bench.window;
            Ok(Some(match self {
                Self::Http1Plain | Self::Http1Mtls | Self::Http1Mtls10k | Self::Http2Mtls | Self::TcpMtls | Self::ConnectMtls => {
                    cost(&start(wanted)?, window, 1e6, |entry, window| self.load(entry, window))?
                }
                // Their callers' proxies are what captured programs call.
                Self::Handshakes if peer == Peer::Captured => return Ok(None),
                Self::Handshakes => handshakes(&start(wanted)?, wanted.certificates, window)?,
                Self::BulkMtls => bulk(&start(wanted)?, window)?,
                Self::Memory if peer == Peer::Captured => {
                    let mut figures = memory(&start(wanted)?)?;
                    figures.push(("bytes per known service", known_services(bench, &start(wanted)?, wanted)?));
                    figures
                }
                Self::Memory => memory(&start(wanted)?)?,
                Self::ColdStart => cold_start(bench, peer, wanted)?,
                Self::Latency => latency(&start(wanted)?, wanted.backend, window)?,
                Self::Workers if peer == Peer::Captured => return Ok(None),
                Self::Workers => {
                    let wanted = Wanted { two: false, ..*wanted };
                    let mut figures = Vec::new();
                    for (workers, throughput, cpu) in
                        [(1, "1 worker, requests/s", "1 worker, CPU µs"), (2, "2 workers, requests/s", "2 workers, CPU µs")]
                    {
                        let rig = start(&Wanted { workers, ..wanted })?;
                        let measured = cost(&rig, window, 1e6, |entry, window| self.load(entry, window))?;
                        figures.extend(measured.iter().map(|(name, value)| (if *name == RATE_NAME { throughput } else { cpu }, *value)));
                    }
                    figures
                }
            }))
        })
        .map(Option::flatten)
    }

    /// Does something to a rig of its that is loaded for `window`; `during` begins a second later.
    pub(crate) fn under_load<T>(
        self,
        bench: &Bench,
        peer: Peer,
        window: Duration,
        during: impl FnOnce(&Rig) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let done = self.on_a_rig(bench, peer, |wanted| {
            let rig = peer.start(&bench.programs, wanted)?;
            sane(&rig, wanted)?;
            std::thread::scope(|scope| {
                let entry = rig.entry;
                let loading = scope.spawn(move || self.load(entry, window));
                std::thread::sleep(Duration::from_secs(1));
                let done = during(&rig);
                ensure!(loading.join().ok().context("the load panicked")?? > 0, "nothing was answered");
                done
            })
        });
        done?.with_context(|| format!("{} cannot do {}", peer.title(), self.name()))
    }

    /// Starts the backend, and does something with what a rig before it is made of; none where the peer cannot do it.
    fn on_a_rig<T>(self, bench: &Bench, peer: Peer, act: impl FnOnce(&Wanted<'_>) -> anyhow::Result<T>) -> anyhow::Result<Option<T>> {
        let place = bench.place.join(format!("{}-{}", self.name(), peer.name()));
        if place.exists() {
            fs::remove_dir_all(&place)?;
        }
        fs::create_dir_all(&place)?;
        let (mut backend, address, command) = bench.backend(self.speaks(), &place)?;
        backend.wait_for(address)?;
        let wanted = Wanted {
            speaks: self.speaks(),
            two: self != Self::Http1Plain,
            backend: address,
            command: &command,
            certificates: &bench.certificates,
            place: &place,
            workers: 1,
        };
        if peer.can(&wanted) { act(&wanted).map(Some) } else { Ok(None) }
    }
}

/// The name of a throughput.
pub(crate) const RATE_NAME: &str = "requests/s";
/// The name of the figure that matters.
pub(crate) const COST_NAME: &str = "CPU µs";

impl Bench {
    /// A backend on the load's core, where it listens, and how it was started.
    pub(crate) fn backend(&self, speaks: Speaks, place: &Path) -> anyhow::Result<(Process, SocketAddr, (PathBuf, Vec<String>))> {
        let port = machine::free_port()?;
        let www = place.join("www");
        fs::create_dir_all(&www)?;
        fs::write(www.join("small"), "ok")?;
        fs::write(www.join("10k"), "x".repeat(10 * 1024))?;
        let (program, arguments) = match speaks {
            Speaks::Http1 => {
                let text = place.display();
                let config = format!(
                    "daemon off; master_process off; worker_processes 1; pid {text}/b.pid; error_log {text}/b.log;\nevents {{ worker_connections 8192; }}\n\
                     http {{ access_log off; sendfile on; open_file_cache max=16; keepalive_requests 100000000; keepalive_timeout 600s;\n\
                     server {{ listen 127.0.0.1:{port} backlog=4096; default_type text/plain; root {text}/www; location = / {{ return 200 ok; }} }} }}\n"
                );
                fs::write(place.join("backend.conf"), config)?;
                (
                    PathBuf::from("nginx"),
                    vec!["-c".to_owned(), place.join("backend.conf").display().to_string(), "-p".to_owned(), text.to_string()],
                )
            }
            Speaks::Http2 => {
                let root = www.display().to_string();
                // More streams than there are calls at once: who opens all of them before it has read the settings is else refused some.
                let words = ["--no-tls", "-n1", "--max-concurrent-streams=1024", "-d", &root, &port.to_string()];
                ("nghttpd".into(), words.map(str::to_owned).to_vec())
            }
            Speaks::Tcp => (self.own.clone(), vec!["echo".to_owned(), port.to_string()]),
        };
        let backend = Process::start(place, LOAD_CORE, &program, &arguments)?;
        Ok((backend, machine::local(port), (program, arguments)))
    }
}

/// Whether the rig does what it is said to do.
fn sane(rig: &Rig, wanted: &Wanted<'_>) -> anyhow::Result<()> {
    let entry = rig.entry;
    match wanted.speaks {
        Speaks::Http1 => ensure!(rig.call(|| load::first_answer(entry))?, "the rig does not answer with 200"),
        Speaks::Http2 => {
            ensure!(rig.call(|| load::h2load(entry, "/small", Duration::from_secs(1)))? > 0, "the rig answers nothing");
        }
        Speaks::Tcp => ensure!(rig.call(|| load::round_trips(entry, Duration::from_millis(100)))? > 0, "the rig passes nothing"),
    }
    if let Some(middle) = rig.middle {
        ensure!(!load::first_answer(middle).unwrap_or(false), "the hop between the two proxies takes plaintext");
    }
    Ok(())
}

/// The CPU time of all proxies together.
fn cpu(rig: &Rig) -> anyhow::Result<f64> {
    rig.proxies.iter().map(|proxy| Ok(proxy.cpu()?.as_secs_f64())).sum()
}

/// CPU time per call, and how many calls a second there were.
fn cost(
    rig: &Rig,
    window: Duration,
    unit: f64,
    load: impl Fn(SocketAddr, Duration) -> anyhow::Result<u64> + Sync,
) -> anyhow::Result<Vec<Figure>> {
    // Connections, pools and caches are made before anything counts.
    rig.call(|| load(rig.entry, Duration::from_secs(1)))?;
    let (before, begin) = (cpu(rig)?, Instant::now());
    let count = rig.call(|| load(rig.entry, window))?;
    let (used, taken) = (cpu(rig)? - before, begin.elapsed().as_secs_f64());
    ensure!(count > 0, "nothing was answered");
    #[allow(clippy::cast_precision_loss, reason = "far fewer calls than a float counts")]
    let count = count as f64;
    Ok(vec![(COST_NAME, used / count * unit), (RATE_NAME, count / taken)])
}

/// Handshakes a second of the CPU time of the callee's proxy, with which load speaks directly.
fn handshakes(rig: &Rig, certificates: &Certificates, window: Duration) -> anyhow::Result<Vec<Figure>> {
    let callee = (rig.middle.context("no callee's proxy")?, rig.proxies.last().context("no callee's proxy")?);
    let client = load::HandshakeClient::new(certificates)?;
    client.handshakes(callee.0, Duration::from_secs(1))?;
    let before = callee.1.cpu()?;
    let count = client.handshakes(callee.0, window)?;
    let used = (callee.1.cpu()? - before).as_secs_f64();
    ensure!(count > 0, "nothing was answered");
    #[allow(clippy::cast_precision_loss, reason = "far fewer than a float counts")]
    let count = count as f64;
    Ok(vec![("handshakes per CPU second", count / used), ("CPU µs a handshake", used / count * 1e6)])
}

fn bulk(rig: &Rig, window: Duration) -> anyhow::Result<Vec<Figure>> {
    let figures = cost(rig, window, 1024.0, load::bulk)?;
    Ok(figures.into_iter().map(|(name, value)| (if name == COST_NAME { "CPU s/GiB" } else { "MiB/s" }, value)).collect())
}

fn memory(rig: &Rig) -> anyhow::Result<Vec<Figure>> {
    // What only a start needs may go first.
    std::thread::sleep(Duration::from_secs(2));
    let idle = resident(rig)?;
    let _kept = rig.call(|| load::keep_open(rig.entry, KEPT))?;
    std::thread::sleep(Duration::from_secs(1));
    Ok(vec![("idle MiB", idle), ("1,000 connections MiB", resident(rig)?)])
}

/// Resident memory of the largest process, in MiB.
fn resident(rig: &Rig) -> anyhow::Result<f64> {
    rig.proxies.iter().map(Process::resident).try_fold(0.0, |most, one| Ok(f64::max(most, one?)))
}

/// By how much a sidecar grows with each service that the mesh has and its app does not call: names and virtual addresses.
fn known_services(bench: &Bench, rig: &Rig, wanted: &Wanted<'_>) -> anyhow::Result<f64> {
    const SERVICES: u32 = 1000;
    std::thread::sleep(Duration::from_secs(2));
    let before = resident(rig)?;
    peers::add_services(&bench.programs, wanted.place, SERVICES)?;
    Ok((resident(rig)? - before) * 1024.0 * 1024.0 / f64::from(SERVICES))
}

/// From the start of the caller's proxy (the callee's runs) or of the only one, and of both.
fn cold_start(bench: &Bench, peer: Peer, wanted: &Wanted<'_>) -> anyhow::Result<Vec<Figure>> {
    let mut figures = Vec::new();
    if peer == Peer::Captured {
        // The mesh runs; what starts is a program in it, with its namespace and its proxy.
        let rig = peer.start(&bench.programs, wanted)?;
        let taken = peers::first_answer(&bench.programs, wanted.place, &bench.own, rig.entry)?;
        return Ok(vec![("two hops with mTLS, ms", taken.as_secs_f64() * 1e3)]);
    }
    for (two, name) in [(false, "one plain hop, ms"), (true, "two hops with mTLS, ms")] {
        let begin = Instant::now();
        let rig = peer.start(&bench.programs, &Wanted { two, ..*wanted })?;
        while !load::first_answer(rig.entry).unwrap_or(false) {
            ensure!(begin.elapsed() < Duration::from_secs(10), "no answer within 10 s");
            std::thread::sleep(Duration::from_micros(300));
        }
        figures.push((name, begin.elapsed().as_secs_f64() * 1e3));
    }
    Ok(figures)
}

fn latency(rig: &Rig, backend: SocketAddr, window: Duration) -> anyhow::Result<Vec<Figure>> {
    rig.call(|| load::latencies(rig.entry, RATE, Duration::from_secs(1)))?;
    let direct = load::latencies(backend, RATE, window)?;
    let through = rig.call(|| load::latencies(rig.entry, RATE, window))?;
    let added = |share: f64| -> anyhow::Result<f64> {
        let of = |samples: &[f64]| percentile(samples, share).context("no samples");
        Ok(of(&through)? - of(&direct)?)
    };
    Ok(vec![("p50 added, µs", added(0.5)?), ("p99 added, µs", added(0.99)?), ("p99.9 added, µs", added(0.999)?)])
}
