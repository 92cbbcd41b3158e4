//! What a scrape costs: the text of a page with many series, from the cells that workers count in to its last byte. And what it costs a worker
//! to count a request.

use std::borrow::Cow;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context as _;
use lorica_observe::Record;
use lorica_observe::exposition::{self, OPENMETRICS, Page};
use lorica_observe::metrics::{Budget, MetricsRegistry};
use lorica_observe::record::{Called, Http, Party, Protocol, Reporter, Security};

/// Series of a page that a proxy of a large mesh has, as Prometheus counts them: a line each.
const SERIES: usize = 10_000;
/// How often a page is made; the shortest time counts, as whatever else runs only makes it longer.
const TIMES: usize = 7;
/// How many requests a figure of counting is made of.
const REQUESTS: u32 = 2_000_000;

/// Prints a table: series, bytes, milliseconds to the first piece of a page and to its end.
pub(crate) fn run() -> anyhow::Result<()> {
    println!("| page | lines with a value | MB | ms to its first 64 KiB | ms to its end |\n|---|---|---|---|---|");
    let of_one = lines(&registry(1));
    let edges = SERIES.div_ceil(of_one);
    print(&format!("{SERIES} series ({edges} kinds of request)"), &registry(edges))?;
    print(&format!("the bound: {} kinds of request", Budget::SERIES), &registry(Budget::SERIES))?;
    println!("\ncounting a request: {:.0} ns", counting()?);
    Ok(())
}

fn page(registry: &MetricsRegistry) -> Page {
    exposition::encode(registry.families(), Some(OPENMETRICS)).1
}

fn lines(registry: &MetricsRegistry) -> usize {
    page(registry).map(|piece| piece.lines().filter(|line| !line.starts_with('#')).count()).sum()
}

fn print(what: &str, registry: &MetricsRegistry) -> anyhow::Result<()> {
    let once = || {
        let begun = Instant::now();
        let mut page = page(registry);
        let first = page.next().map(|piece| (piece.len(), begun.elapsed()));
        let rest: usize = page.map(|piece| black_box(piece).len()).sum();
        first.map(|(bytes, first)| (begun.elapsed(), first, bytes + rest))
    };
    let (end, first, bytes) = (0..TIMES).filter_map(|_| once()).min().context("the page is empty")?;
    let milliseconds = |time: Duration| time.as_secs_f64() * 1000.0;
    println!("| {what} | {} | {:.1} | {:.1} | {:.1} |", lines(registry), bytes as f64 / 1e6, milliseconds(first), milliseconds(end));
    Ok(())
}

/// A registry in which so many kinds of request were counted.
fn registry(kinds: usize) -> MetricsRegistry {
    let registry = Arc::new(MetricsRegistry::new(Budget { series: kinds.max(1), ..Budget::default() }));
    let worker = registry.worker();
    (0..kinds).for_each(|kind| worker.record(&record(kind)));
    drop(worker);
    Arc::into_inner(registry).unwrap_or_default()
}

/// Nanoseconds that a worker takes to count a request of a kind that it knows.
fn counting() -> anyhow::Result<f64> {
    let registry: Arc<MetricsRegistry> = Arc::default();
    let worker = registry.worker();
    let records: Vec<Record<'_>> = (0..64).map(record).collect();
    let once = || {
        let begun = Instant::now();
        records.iter().cycle().take(REQUESTS as usize).for_each(|record| worker.record(black_box(record)));
        begun.elapsed()
    };
    let shortest = (0..TIMES).map(|_| once()).min().context("nothing was timed")?;
    Ok(shortest.as_secs_f64() * 1e9 / f64::from(REQUESTS))
}

/// A request to one service of many.
fn record(kind: usize) -> Record<'static> {
    let party = |service: String| {
        Arc::new(Party {
            workload: format!("{service}-7f3a2c"),
            namespace: "shop".to_owned(),
            principal: format!("spiffe://mesh.local/ns/shop/sa/{service}"),
            version: "v2".to_owned(),
            service,
        })
    };
    let name = format!("service-{kind}");
    let called = Called { fqdn: format!("{name}.shop.mesh"), name: name.clone(), namespace: "shop".to_owned() };
    Record {
        reporter: Reporter::Source,
        source: party("front".to_owned()),
        destination: party(name),
        called: Arc::new(called),
        protocol: Protocol::Http,
        security: Security::Unknown,
        reason: None,
        detail: Cow::Borrowed(""),
        fault: None,
        start: SystemTime::UNIX_EPOCH,
        duration: Duration::from_micros(12_500),
        received: 20,
        sent: 3000,
        route: None,
        upstream: None,
        upstream_local: None,
        remote: None,
        local: None,
        server_name: None,
        http: Some(Http {
            version: "HTTP/1.1",
            method: "GET",
            path: "/",
            authority: "service",
            status: 200,
            attempts: 1,
            ..Http::default()
        }),
        rules: None,
    }
}
