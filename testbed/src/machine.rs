//! What this machine offers and allows. In flow its programs, its kernel and what `cargo xtask test` fetched; out flow paths, or sentences that
//! say what is missing and are listed at the end of the run. Nothing here fails a test.

use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::binary;
use crate::place::Place;

/// As whom a test runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Who {
    /// As whoever runs the tests.
    Me,
    /// As an unprivileged user. Where root runs the tests: uid and gid 65534; else the same as [`Who::Me`].
    Nobody,
}

impl Who {
    /// The ones that differ here: a test loops over them.
    #[must_use]
    pub fn all() -> &'static [Self] {
        if is_root() { &[Self::Me, Self::Nobody] } else { &[Self::Me] }
    }

    /// The uid to change to, if it is another's.
    pub(crate) fn other_uid(self) -> Option<u32> {
        (self == Self::Nobody && is_root()).then_some(65534)
    }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Whether this machine lets apps be captured: the product's own probe, run as that user. Asked once.
///
/// # Errors
/// What is missing, as the product would say it, in one line.
pub fn can_namespaces(who: Who) -> Result<(), String> {
    static ME: OnceLock<Result<(), String>> = OnceLock::new();
    static NOBODY: OnceLock<Result<(), String>> = OnceLock::new();
    let cell = if who.other_uid().is_some() { &NOBODY } else { &ME };
    cell.get_or_init(|| probe(who).map_err(|error| format!("{error:#}")).and_then(|answer| answer)).clone()
}

fn probe(who: Who) -> anyhow::Result<Result<(), String>> {
    let place = Place::new(who)?;
    let app = place.program(binary::app()?)?;
    let output = place.command(&app).arg("probe").output()?;
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).split_whitespace().collect::<Vec<_>>().join(" ");
    match output.status.code() {
        Some(0) => Ok(Ok(())),
        Some(3) => Ok(Err(said(&output.stdout))),
        _ => anyhow::bail!("the probe ended with {}: {}", output.status, said(&output.stderr)),
    }
}

/// Says that a test, or a part of one, was left out, and why: printed, and listed at the end of `cargo xtask test`.
pub fn left_out(reason: &str) {
    let line = reason.split_whitespace().collect::<Vec<_>>().join(" ");
    report(&mut std::io::stderr(), std::env::var_os("LORICA_LEFT_OUT").as_deref().map(Path::new), &line);
}

fn report(terminal: &mut dyn Write, list: Option<&Path>, line: &str) {
    // Where neither can be written, there is nobody to tell.
    drop(writeln!(terminal, "left out: {line}"));
    if let Some(list) = list
        && let Ok(mut list) = OpenOptions::new().append(true).create(true).open(list)
    {
        // One write, since many tests write at once.
        drop(list.write_all(format!("{line}\n").as_bytes()));
    }
}

/// A program by others that tests use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// A stock Envoy.
    Envoy,
    /// curl.
    Curl,
    /// Node.
    Node,
    /// Python 3.
    Python,
    /// nginx.
    Nginx,
    /// Wireshark's program for terminals.
    Tshark,
    /// The nftables program.
    Nft,
    /// Prometheus.
    Prometheus,
    /// Prometheus' tool that checks what is scraped.
    Promtool,
}

impl Peer {
    fn variable_and_name(self) -> (&'static str, &'static str) {
        match self {
            Self::Envoy => ("LORICA_TEST_ENVOY", "envoy"),
            Self::Curl => ("LORICA_TEST_CURL", "curl"),
            Self::Node => ("LORICA_TEST_NODE", "node"),
            Self::Python => ("LORICA_TEST_PYTHON", "python3"),
            Self::Nginx => ("LORICA_TEST_NGINX", "nginx"),
            Self::Tshark => ("LORICA_TEST_TSHARK", "tshark"),
            Self::Nft => ("LORICA_TEST_NFT", "nft"),
            Self::Prometheus => ("LORICA_TEST_PROMETHEUS", "prometheus"),
            Self::Promtool => ("LORICA_TEST_PROMTOOL", "promtool"),
        }
    }
}

/// An address of this machine that is none of its loopback, if it has one: what listens there is outside of every app's namespace.
#[must_use]
pub fn own_address() -> Option<std::net::IpAddr> {
    // A connected socket finds out which address leads elsewhere, without sending anything.
    let socket = std::net::UdpSocket::bind(("0.0.0.0", 0)).ok()?;
    socket.connect(("203.0.113.1", 9)).ok()?;
    socket.local_addr().ok().map(|address| address.ip()).filter(|address| !address.is_loopback())
}

/// Where a peer is: as `cargo xtask test` said; else as it fetched it before; else on the path.
///
/// # Errors
/// It is not there; a sentence for [`left_out`].
pub fn peer(peer: Peer) -> Result<PathBuf, String> {
    let (variable, name) = peer.variable_and_name();
    if let Some(path) = std::env::var_os(variable) {
        return Ok(path.into());
    }
    let fetched = ["envoy/envoy/_bin", "prometheus/usr/bin"].map(|place| binary::root().join("target/peers").join(place));
    let mut places: Vec<PathBuf> = fetched.to_vec();
    // The system's own come first: those of a user's directory may be that user's alone.
    places.extend(["/usr/bin", "/usr/sbin"].map(PathBuf::from));
    places.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
    let found = places.into_iter().map(|place| place.join(name)).find(|path| executable(path));
    found.ok_or_else(|| format!("{name} is not on this machine (`cargo xtask test` fetches it where it may)"))
}

/// The directory with the Python packages that tests use (grpcio), for `PYTHONPATH`.
///
/// # Errors
/// They were not fetched; a sentence for [`left_out`].
pub fn python_path() -> Result<PathBuf, String> {
    let given = std::env::var_os("LORICA_TEST_PYTHONPATH").map(PathBuf::from);
    let path = given.unwrap_or_else(|| binary::root().join("target/peers/python"));
    if path.join("grpc").exists() { Ok(path) } else { Err("the Python package grpcio is not fetched (`cargo xtask test` does)".to_owned()) }
}

/// The directory with the Python package aioquic, an HTTP/3 client, for `PYTHONPATH`.
///
/// # Errors
/// It was not fetched; a sentence for [`left_out`].
pub fn aioquic_path() -> Result<PathBuf, String> {
    let given = std::env::var_os("LORICA_TEST_AIOQUIC").map(PathBuf::from);
    let path = given.unwrap_or_else(|| binary::root().join("target/peers/aioquic"));
    if path.join("aioquic").exists() {
        Ok(path)
    } else {
        Err("the Python package aioquic is not fetched (`cargo xtask test` does)".to_owned())
    }
}

/// The directory with the Python package spiffe, SPIFFE's own client, for `PYTHONPATH`.
///
/// # Errors
/// It was not fetched; a sentence for [`left_out`].
pub fn spiffe_path() -> Result<PathBuf, String> {
    let given = std::env::var_os("LORICA_TEST_SPIFFE").map(PathBuf::from);
    let path = given.unwrap_or_else(|| binary::root().join("target/peers/spiffe"));
    if path.join("spiffe").exists() {
        Ok(path)
    } else {
        Err("the Python package spiffe is not fetched (`cargo xtask test` does)".to_owned())
    }
}

/// The directory with the Python package jaeger-mcp, which has a client of Jaeger's query API, for `PYTHONPATH`.
///
/// # Errors
/// It was not fetched; a sentence for [`left_out`].
pub fn jaeger_path() -> Result<PathBuf, String> {
    let given = std::env::var_os("LORICA_TEST_JAEGER").map(PathBuf::from);
    let path = given.unwrap_or_else(|| binary::root().join("target/peers/jaeger"));
    if path.join("jaeger_mcp").exists() {
        Ok(path)
    } else {
        Err("the Python package jaeger-mcp is not fetched (`cargo xtask test` does)".to_owned())
    }
}

/// The directory with a Python package that tests run as an app or in one (`uvicorn`, `gunicorn`, `opentelemetry`, `py_zipkin`), for
/// `PYTHONPATH`.
///
/// # Errors
/// It was not fetched; a sentence for [`left_out`].
pub fn python_server_path(name: &str) -> Result<PathBuf, String> {
    let given = std::env::var_os(format!("LORICA_TEST_{}", name.to_uppercase())).map(PathBuf::from);
    let path = given.unwrap_or_else(|| binary::root().join("target/peers").join(name));
    if path.join(name).exists() { Ok(path) } else { Err(format!("the Python package {name} is not fetched (`cargo xtask test` does)")) }
}

/// The directory with the Node packages that tests use (grpc-web), for `NODE_PATH`.
///
/// # Errors
/// They were not fetched; a sentence for [`left_out`].
pub fn node_path() -> Result<PathBuf, String> {
    let given = std::env::var_os("LORICA_TEST_NODE_PATH").map(PathBuf::from);
    let path = given.unwrap_or_else(|| binary::root().join("target/peers/node/node_modules"));
    if path.join("grpc-web").exists() {
        Ok(path)
    } else {
        Err("the Node package grpc-web is not fetched (`cargo xtask test` does)".to_owned())
    }
}

fn executable(path: &Path) -> bool {
    path.file_name() != Some(OsStr::new("")) && path.metadata().is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_is_printed_and_listed() {
        let directory = tempfile::tempdir().unwrap();
        let list = directory.path().join("list");
        let mut terminal = Vec::new();
        report(&mut terminal, Some(&list), "a: why");
        report(&mut terminal, Some(&list), "b: why");
        report(&mut terminal, None, "c: why");
        assert_eq!(std::fs::read_to_string(&list).unwrap(), "a: why\nb: why\n");
        assert_eq!(String::from_utf8(terminal).unwrap(), "left out: a: why\nleft out: b: why\nleft out: c: why\n");
    }

    #[test]
    fn only_root_can_be_somebody_else() {
        assert_eq!(Who::Nobody.other_uid().is_some(), is_root());
        assert_eq!(Who::Me.other_uid(), None);
    }
}
