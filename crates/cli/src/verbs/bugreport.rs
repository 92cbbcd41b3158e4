//! `lorica bugreport`: what is needed to find out what went wrong, in one file; no key and no Secret's data among it.
//!
//! What cannot be had is no reason to stop: its file says why.

use std::fmt::Display;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use flate2::Compression;
use flate2::write::GzEncoder;
use jiff::Timestamp;
use lorica_api::{ApiClient, Status};
use lorica_model::resource::Kind;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::check;
use crate::args::BugreportArgs;
use crate::places::Places;
use crate::printer::Printer;

/// How long a proxy may take to tell its metrics.
const METRICS_TIME: Duration = Duration::from_secs(2);
/// The most of a proxy's metrics that is taken, in bytes.
const METRICS_BYTES: u64 = 8 * 1024 * 1024;
/// The most of an access log that is taken, from its end, in bytes.
const LOG_BYTES: u64 = 256 * 1024;
/// How many proxies are asked for their metrics.
const PROXIES: usize = 100;

pub(super) async fn bugreport(
    client: impl FnOnce() -> anyhow::Result<ApiClient>,
    arguments: BugreportArgs,
    printer: &mut Printer,
) -> anyhow::Result<ExitCode> {
    let places = Places::from_environment();
    let now = Timestamp::now();
    let output = arguments.output.unwrap_or_else(|| PathBuf::from(format!("lorica-bugreport-{}.tar.gz", now.strftime("%Y%m%dT%H%M%SZ"))));
    // Whoever reads it learns what calls what.
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&output);
    let file = file.with_context(|| format!("{} cannot be written\nhint: --output names another file", output.display()))?;
    let mut report = Report { archive: tar::Builder::new(GzEncoder::new(file, Compression::default())), at: now };
    report.add("version.txt", concat!("lorica ", env!("CARGO_PKG_VERSION"), "\n").as_bytes())?;
    report.json("host.json", &host())?;
    match client() {
        Err(error) => report.add("control-plane.txt", error.to_string().as_bytes())?,
        Ok(client) => {
            printer.note("asking the control plane …");
            of_mesh(&client, &mut report, printer).await?;
        }
    }
    if arguments.access_logs {
        for log in access_logs(&places.proxy_state()) {
            let name = log.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let text = tail(&log).unwrap_or_else(|error| format!("{}: {error}\n", log.display()).into_bytes());
            report.add(&format!("access-logs/{name}"), &text)?;
        }
    }
    let written = report.archive.into_inner().and_then(GzEncoder::finish).and_then(|file| file.sync_all());
    written.with_context(|| format!("{} cannot be written to its end", output.display()))?;
    printer.data(&output.display().to_string());
    printer
        .note("look into it before you send it to anybody: names, addresses and policies are in it, keys and the data of Secrets are not");
    Ok(ExitCode::SUCCESS)
}

/// The file, while it is written.
struct Report {
    archive: tar::Builder<GzEncoder<File>>,
    at: Timestamp,
}

impl Report {
    fn add(&mut self, name: &str, bytes: &[u8]) -> anyhow::Result<()> {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(u64::try_from(self.at.as_second()).unwrap_or_default());
        self.archive.append_data(&mut header, Path::new("lorica-bugreport").join(name), bytes).with_context(|| name.to_owned())
    }

    fn json(&mut self, name: &str, value: &impl Serialize) -> anyhow::Result<()> {
        self.add(name, serde_json::to_string_pretty(value)?.as_bytes())
    }

    /// What was asked for, or why it cannot be had.
    fn asked<T: Serialize, E: Display>(&mut self, name: &str, asked: Result<T, E>) -> anyhow::Result<()> {
        match asked {
            Ok(value) => self.json(name, &value),
            Err(error) => self.add(&format!("{name}.error.txt"), error.to_string().as_bytes()),
        }
    }
}

async fn of_mesh(client: &ApiClient, report: &mut Report, printer: &mut Printer) -> anyhow::Result<()> {
    let status = client.status().await;
    report.asked("check.json", check::look_and_list(client).await)?;
    report.asked("certificates.json", client.ca().await)?;
    report.asked("mtls.json", client.mtls(None).await)?;
    report.asked("refused-to-leave.json", client.refused(None).await)?;
    for kind in Kind::ALL {
        let found = client.list(*kind, None).await.map(|list| list.items.into_iter().map(without_secrets).collect::<Vec<Value>>());
        if !found.as_ref().is_ok_and(Vec::is_empty) {
            report.asked(&format!("resources/{}.json", kind.plural()), found)?;
        }
    }
    let counted = client.metrics().await.unwrap_or_else(|error| error.to_string());
    report.add("control-plane-metrics.txt", counted.as_bytes())?;
    if let Ok(status) = &status {
        printer.note(&format!("asking {} proxies …", status.proxies.len().min(PROXIES)));
        for (name, address) in scraped(status) {
            let text = tokio::time::timeout(METRICS_TIME, metrics(address)).await;
            let text = text.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()));
            let text = text
                .unwrap_or_else(|error| format!("{address}: {error}\nProxies of other hosts are reached from there alone.\n").into_bytes());
            report.add(&format!("proxies/{name}.txt"), &text)?;
        }
    }
    report.asked("status.json", status)
}

fn scraped(status: &Status) -> impl Iterator<Item = (String, SocketAddr)> + use<'_> {
    let proxies = status.proxies.iter().filter(|proxy| proxy.connected);
    proxies.filter_map(|proxy| Some((proxy.id.to_string(), proxy.metrics?))).take(PROXIES)
}

/// A proxy's metrics as they are scraped.
async fn metrics(address: SocketAddr) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(format!("GET /metrics HTTP/1.0\r\nhost: {address}\r\n\r\n").as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(METRICS_BYTES).read_to_end(&mut answer).await?;
    Ok(answer)
}

/// The resource with the data of a Secret left out: what stays is its keys, and how long each value is.
fn without_secrets(mut resource: Value) -> Value {
    if resource["kind"] == "Secret" {
        for part in ["data", "stringData"] {
            if let Some(values) = resource.get_mut(part).and_then(Value::as_object_mut) {
                values
                    .values_mut()
                    .for_each(|value| *value = json!(format!("left out, {} characters", value.as_str().map_or(0, str::len))));
            }
        }
    }
    resource
}

fn host() -> Value {
    let text = |path: &str| fs::read_to_string(path).map_or_else(|error| error.to_string(), |text| text.trim().to_owned());
    let system = rustix::system::uname();
    let name = |text: &std::ffi::CStr| text.to_string_lossy().into_owned();
    json!({
        "kernel": { "system": name(system.sysname()), "release": name(system.release()), "version": name(system.version()), "machine": name(system.machine()) },
        "distribution": text("/etc/os-release"),
        "processors": std::thread::available_parallelism().map_or(0, usize::from),
        "memory": text("/proc/meminfo").lines().take(3).collect::<Vec<_>>(),
        "pressure": { "processor": text("/proc/pressure/cpu"), "memory": text("/proc/pressure/memory"), "disk": text("/proc/pressure/io") },
        "limits": text("/proc/self/limits"),
        "user": rustix::process::geteuid().as_raw(),
        "userNamespaces": text("/proc/sys/user/max_user_namespaces"),
    })
}

/// The newest logs come last; there may be hundreds, of which these are taken.
fn access_logs(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let logs = paths.filter(|path| path.to_string_lossy().ends_with(".access.log"));
    let mut logs: Vec<_> = logs.map(|path| (fs::metadata(&path).and_then(|found| found.modified()).ok(), path)).collect();
    logs.sort();
    let skipped = logs.len().saturating_sub(PROXIES);
    logs.into_iter().skip(skipped).map(|(_, path)| path).collect()
}

/// The end of a file.
fn tail(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LOG_BYTES)))?;
    let mut text = Vec::new();
    file.take(LOG_BYTES).read_to_end(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_data_of_a_secret_is_left_out() {
        let secret = without_secrets(json!({ "kind": "Secret", "data": { "tls.key": "c2VjcmV0" }, "stringData": { "a": "secret" } }));
        assert!(!secret.to_string().contains("ecret\"}") && !secret.to_string().contains("c2VjcmV0"), "{secret}");
        assert_eq!(secret["data"]["tls.key"], "left out, 8 characters");
        let other = json!({ "kind": "HTTPRoute", "data": { "a": "b" } });
        assert_eq!(without_secrets(other.clone()), other);
    }

    #[test]
    fn of_a_long_log_the_end_is_taken() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("web.access.log");
        fs::write(&log, [vec![b'a'; 10], vec![b'b'; usize::try_from(LOG_BYTES).unwrap()]].concat()).unwrap();
        fs::write(folder.path().join("other.txt"), "").unwrap();
        assert_eq!(access_logs(folder.path()), std::slice::from_ref(&log));
        let end = tail(&log).unwrap();
        assert!(end.len() as u64 == LOG_BYTES && end.iter().all(|byte| *byte == b'b'));
    }
}
