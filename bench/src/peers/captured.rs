//! Lorica as sidecars of captured programs: a control plane, the backend as a workload, and callers in a namespace of their own.
//!
//! What counts are all processes of ours that a call needs: both proxies, and the two beside each that keep the namespace.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use serde_json::Value;

use super::{Programs, Rig, Speaks, Wanted};
use crate::machine::{LOAD_CORE, PROXY_CORE, Process};

/// How long anything may take to come up.
const PATIENCE: Duration = Duration::from_secs(30);

/// Starts control plane, backend and caller. With one hop the backend is outside the mesh.
pub(super) fn start(programs: &Programs, wanted: &Wanted<'_>) -> anyhow::Result<Rig> {
    let mesh = Mesh { lorica: &programs.lorica, place: wanted.place };
    let control = mesh.start("control", &LOAD_CORE.to_string(), &["control".to_owned()])?;
    let answering = mesh.until("the control plane answers", || mesh.ask(&["status", "-o", "json"]));
    answering.with_context(|| control.said())?;
    let protocol = match wanted.speaks {
        Speaks::Http1 => "http",
        Speaks::Http2 => "h2",
        Speaks::Tcp => "tcp",
    };
    let (mut proxies, mut places) = (Vec::new(), Vec::new());
    let app_protocol = if protocol == "h2" { "http2" } else { protocol };
    let mut resources = format!(
        "apiVersion: lorica.io/v1alpha1\nkind: Service\nmetadata: {{name: web, namespace: bench}}\nspec: {{ports: [{{port: 80, appProtocol: {app_protocol}}}]}}\n"
    );
    let port = wanted.backend.port();
    if !wanted.two {
        resources += &format!(
            "---\napiVersion: lorica.io/v1alpha1\nkind: Workload\nmetadata: {{name: web-1, namespace: bench}}\nspec: {{service: web, address: 127.0.0.1, ports: [{{servicePort: 80, port: {port}}}], transport: Plaintext}}\n"
        );
    }
    fs::write(wanted.place.join("mesh.yaml"), resources)?;
    mesh.ask(&["apply", "-o", "json", "-f", "mesh.yaml"])?;
    if wanted.two {
        let (program, arguments) = wanted.command;
        let own = ["run", "--service", "web.bench", "--access-log", "access.log", "--port", &format!("80:{port}/{protocol}"), "--"];
        let words = own.iter().map(|word| (*word).to_owned()).chain(["taskset".to_owned(), "-c".to_owned(), LOAD_CORE.to_string()]);
        let words: Vec<String> = words.chain([program.display().to_string()]).chain(arguments.iter().cloned()).collect();
        let callee = mesh.start("callee", &PROXY_CORE.to_string(), &words)?.counting("lorica");
        let listening = mesh.until("the backend is announced", || {
            let status = mesh.ask(&["status", "-o", "json"])?;
            let proxies = status["proxies"].as_array().map(Vec::as_slice).unwrap_or_default();
            ensure!(proxies.iter().any(|proxy| proxy["listening"].as_array().is_some_and(|ports| !ports.is_empty())), "{status}");
            Ok(())
        });
        listening.with_context(|| callee.said())?;
        places.push(wanted.place.join("callee"));
        proxies.push(callee);
    }
    let caller = caller(&mesh)?;
    let (within, entry) = (app(&mesh, &caller)?, entry(&mesh)?);
    places.insert(0, wanted.place.join("caller"));
    proxies.insert(0, caller);
    Ok(Rig { entry, middle: None, proxies, places, _besides: vec![control], within: Some(within) })
}

/// A program that does nothing, in whose namespace the load is.
fn caller(mesh: &Mesh<'_>) -> anyhow::Result<Process> {
    let words =
        ["run", "--namespace", "bench", "--access-log", "access.log", "--", "taskset", "-c", &LOAD_CORE.to_string(), "sleep", "100000"];
    Ok(mesh.start("caller", &PROXY_CORE.to_string(), &words.map(str::to_owned))?.counting("lorica"))
}

/// The captured program of a caller.
fn app(mesh: &Mesh<'_>, caller: &Process) -> anyhow::Result<u32> {
    let found = mesh.until("the caller's program runs", || caller.running("sleep").first().copied().context("it does not run yet"));
    found.with_context(|| caller.said())
}

/// The address of the service in the mesh.
fn entry(mesh: &Mesh<'_>) -> anyhow::Result<SocketAddr> {
    let output = mesh.command().args(["run", "--namespace", "bench", "--", "getent", "ahostsv4", "web.bench"]).output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let address: Option<IpAddr> = text.split_whitespace().next().and_then(|word| word.parse().ok());
    let address = address.with_context(|| format!("web.bench has no address: {text}{}", String::from_utf8_lossy(&output.stderr)))?;
    Ok(SocketAddr::new(address, 80))
}

/// From the start of a caller to its first answer, in a mesh that runs.
pub(crate) fn first_answer(programs: &Programs, place: &Path, own: &Path, entry: SocketAddr) -> anyhow::Result<Duration> {
    let mesh = Mesh { lorica: &programs.lorica, place };
    let begin = Instant::now();
    let mut command = mesh.command();
    command.args(["run", "--namespace", "bench", "--access-log", "off", "--"]).arg(own).args(["first", &entry.to_string()]);
    let output = command.output()?;
    let taken = begin.elapsed();
    ensure!(output.status.success(), "no first answer: {}", String::from_utf8_lossy(&output.stderr));
    Ok(taken)
}

/// Adds services to a mesh that runs; ends when every proxy knows them.
pub(crate) fn add_services(programs: &Programs, place: &Path, count: u32) -> anyhow::Result<()> {
    let mesh = Mesh { lorica: &programs.lorica, place };
    let service = |number: u32| {
        format!(
            "apiVersion: lorica.io/v1alpha1\nkind: Service\nmetadata: {{name: known-{number}, namespace: bench}}\nspec: {{ports: [{{port: 80, appProtocol: http}}]}}\n---\n"
        )
    };
    fs::write(place.join("services.yaml"), (0..count).map(service).collect::<String>())?;
    let reply = mesh.ask(&["apply", "-o", "json", "-f", "services.yaml"])?;
    let receipt = &reply["receipt"];
    ensure!(
        receipt["concerned"].as_u64() > Some(0) && receipt["concerned"] == receipt["acknowledged"],
        "not every proxy has them: {receipt}"
    );
    Ok(())
}

/// A mesh with state and sockets of its own.
struct Mesh<'m> {
    lorica: &'m Path,
    place: &'m Path,
}

impl Mesh<'_> {
    fn environment(&self) -> Vec<(String, String)> {
        let directory = |name: &str| self.place.join(name).display().to_string();
        vec![
            ("XDG_STATE_HOME".to_owned(), directory("state")),
            ("XDG_RUNTIME_DIR".to_owned(), directory("run")),
            ("LORICA_SERVER".to_owned(), format!("unix://{}", directory("run/control.sock"))),
        ]
    }

    fn start(&self, name: &str, cores: &str, arguments: &[String]) -> anyhow::Result<Process> {
        let place = self.place.join(name);
        fs::create_dir_all(&place)?;
        fs::create_dir_all(self.place.join("run"))?;
        let mut arguments = arguments.to_vec();
        if name == "control" {
            let socket = self.place.join("run/control.sock").display().to_string();
            arguments.extend(["--socket".to_owned(), socket, "--state".to_owned(), self.place.join("state").display().to_string()]);
        }
        Process::start_with(&place, cores, self.lorica, &arguments, &self.environment())
    }

    fn command(&self) -> Command {
        let mut command = Command::new(self.lorica);
        command.envs(self.environment()).current_dir(self.place);
        command
    }

    /// What a verb says, in JSON.
    fn ask(&self, arguments: &[&str]) -> anyhow::Result<Value> {
        let output = self.command().args(arguments).output()?;
        if !output.status.success() {
            bail!("lorica {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr));
        }
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    fn until<T>(&self, what: &str, ask: impl Fn() -> anyhow::Result<T>) -> anyhow::Result<T> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match ask() {
                Ok(found) => return Ok(found),
                Err(error) if Instant::now() > deadline => {
                    return Err(error.context(format!("{what}: not within {} s", PATIENCE.as_secs())));
                }
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    }
}
