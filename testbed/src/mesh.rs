//! A mesh under test: a control plane in directories of its own, the workloads that a test starts, and the certainty that nothing is left of
//! them. In flow the options of a test; out flow the answers of the real command line. What goes wrong is shown with what all processes said.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use rustix::process::Signal;
use serde_json::Value;
use tokio::net::UnixStream;

use crate::place::Place;
use crate::process::{Output, Running, Shared};
use crate::{PATIENCE, Run, Who, binary, eventually, tree};

/// How a mesh is started.
#[derive(Debug, Clone)]
#[must_use = "nothing runs before `start`"]
pub struct MeshOptions {
    who: Who,
    control: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
}

impl MeshOptions {
    /// As whom all of it runs.
    pub fn run_as(mut self, who: Who) -> Self {
        self.who = who;
        self
    }

    /// An option of `lorica control`.
    pub fn control_option(mut self, option: impl Into<OsString>) -> Self {
        self.control.push(option.into());
        self
    }

    /// A variable for every process of the mesh.
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// Starts the control plane; ends when it answers.
    ///
    /// # Errors
    /// It does not start, or does not answer; the error shows what it said.
    pub async fn start(self) -> anyhow::Result<Mesh> {
        let mesh = self.without_control()?;
        mesh.start_control().await?;
        Ok(mesh)
    }

    /// A mesh without a control plane, for tests of what works without one.
    ///
    /// # Errors
    /// The binary is not there, or there is no directory for it.
    pub fn without_control(self) -> anyhow::Result<Mesh> {
        tree::adopt_orphans().context("orphans cannot be adopted")?;
        let place = Place::new(self.who)?;
        let binary = place.program(binary::lorica()?)?;
        Ok(Mesh { options: self, binary, started: Mutex::default(), control: Mutex::default(), finished: false, place })
    }
}

/// A mesh under test. When dropped, all of its processes are killed; if the test failed, what they said is printed.
#[derive(Debug)]
pub struct Mesh {
    options: MeshOptions,
    binary: PathBuf,
    /// All that were ever started, to tell what they said and which process groups are the mesh's.
    started: Mutex<Vec<Arc<Shared>>>,
    control: Mutex<Option<Running>>,
    finished: bool,
    place: Place,
}

impl Mesh {
    /// Starts a mesh as whoever runs the test.
    ///
    /// # Errors
    /// As [`MeshOptions::start`].
    pub async fn start() -> anyhow::Result<Self> {
        Self::options().start().await
    }

    /// Options of a mesh that runs as whoever runs the test.
    pub fn options() -> MeshOptions {
        MeshOptions { who: Who::Me, control: Vec::new(), environment: Vec::new() }
    }

    /// Options of a mesh that runs without privileges, whoever runs the test.
    pub fn as_nobody() -> MeshOptions {
        Self::options().run_as(Who::Nobody)
    }

    /// Starts the control plane, also again after [`kill_control`](Self::kill_control); ends when it answers.
    ///
    /// # Errors
    /// It runs already, does not start, or does not answer; the error shows what it said.
    pub async fn start_control(&self) -> anyhow::Result<()> {
        ensure!(lock(&self.control).as_ref().is_none_or(|control| control.ended().is_some()), "the control plane runs already");
        let arguments = [OsString::from("control")].into_iter().chain(self.options.control.iter().cloned());
        let control = self.start_binary("lorica control", arguments, Vec::new(), None)?;
        let (shared, socket) = (control.shared(), self.socket());
        *lock(&self.control) = Some(control);
        let answered = eventually("the control plane answers", PATIENCE, || async {
            if let Some(status) = shared.ended() {
                shared.said_all().await;
                // No further question: it will not answer any more.
                return Ok(Err(anyhow::anyhow!("the control plane ended with {status}{}", shared.last_words())));
            }
            UnixStream::connect(&socket).await.with_context(|| socket.display().to_string())?;
            Ok(Ok(()))
        });
        answered.await.with_context(|| shared.last_words())?
    }

    /// Stops the control plane in order (SIGTERM).
    ///
    /// # Errors
    /// It does not run, or runs on.
    pub async fn stop_control(&self) -> anyhow::Result<Output> {
        self.take_control()?.stop().await
    }

    /// Kills the control plane (SIGKILL), as a fault would.
    ///
    /// # Errors
    /// It does not run.
    pub async fn kill_control(&self) -> anyhow::Result<Output> {
        self.take_control()?.kill().await
    }

    fn take_control(&self) -> anyhow::Result<Running> {
        lock(&self.control).take().context("no control plane runs")
    }

    /// The control plane's socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.place.runtime().join("control.sock")
    }

    /// Lorica's state in this mesh.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.place.state()
    }

    /// The directory in which commands and apps run.
    #[must_use]
    pub fn home(&self) -> PathBuf {
        self.place.home()
    }

    /// Writes a file that commands and apps find by its name.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> anyhow::Result<PathBuf> {
        self.place.write(name, content.as_ref())
    }

    /// A path at which the mesh's user may run a program: its own, else that of a copy.
    ///
    /// # Errors
    /// It cannot be copied.
    pub fn program(&self, program: impl AsRef<Path>) -> anyhow::Result<PathBuf> {
        self.place.program(program.as_ref())
    }

    /// Runs a verb of the command line to its end.
    ///
    /// # Errors
    /// The binary cannot be started, or runs on. An exit code other than 0 is no error: see [`Output::success`].
    pub async fn lorica(&self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> anyhow::Result<Output> {
        self.lorica_with_input(arguments, None).await
    }

    /// As [`lorica`](Self::lorica), with an input.
    ///
    /// # Errors
    /// As [`lorica`](Self::lorica).
    pub async fn lorica_with_input(
        &self,
        arguments: impl IntoIterator<Item = impl AsRef<OsStr>>,
        input: Option<&str>,
    ) -> anyhow::Result<Output> {
        let arguments: Vec<OsString> = arguments.into_iter().map(|argument| argument.as_ref().to_owned()).collect();
        let name = format!("lorica {}", arguments.join(OsStr::new(" ")).display());
        let running = self.start_binary(&name, arguments, Vec::new(), input.map(|input| input.as_bytes().to_vec()))?;
        running.output(PATIENCE * 2).await
    }

    /// Applies resources and waits for their receipt.
    ///
    /// # Errors
    /// They were refused, or not acknowledged by all.
    pub async fn apply(&self, resources: &str) -> anyhow::Result<Output> {
        self.lorica_with_input(["apply", "-f", "-"], Some(resources)).await?.success()
    }

    /// What `lorica status -o json` says.
    ///
    /// # Errors
    /// The control plane does not answer.
    pub async fn status(&self) -> anyhow::Result<Value> {
        self.lorica(["status", "-o", "json"]).await?.json()
    }

    /// Waits until a service (`recording.contact`) has exactly so many workloads whose app listens.
    ///
    /// # Errors
    /// It does not come to that; the error shows the last status.
    pub async fn announced(&self, service: &str, workloads: usize) -> anyhow::Result<()> {
        let what = format!("{workloads} workloads of {service} announced");
        let asked = eventually(&what, PATIENCE, || async {
            let status = self.status().await?;
            let found = announced(&status, service);
            ensure!(found == workloads, "there are {found}: {status:#}");
            Ok(())
        });
        asked.await.with_context(|| self.last_words())
    }

    /// A workload of a service.
    pub fn service(&self, service: &str) -> Run<'_> {
        Run::new(self, &format!("run {service}")).option("--service").option(service)
    }

    /// A program in the mesh that nobody calls.
    pub fn client(&self) -> Run<'_> {
        Run::new(self, "run a client")
    }

    /// Starts any other program in this mesh's place and as its user, outside of the mesh: an Envoy, say.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start_outside(
        &self,
        program: impl AsRef<Path>,
        arguments: impl IntoIterator<Item = impl AsRef<OsStr>>,
    ) -> anyhow::Result<Running> {
        let program = self.program(program)?;
        let mut command = self.place.command(&program);
        command.envs(self.options.environment.iter().cloned()).args(arguments);
        let running = Running::start(&program.display().to_string(), command, None)?;
        lock(&self.started).push(running.shared());
        Ok(running)
    }

    /// Starts the binary; it ends with this test, however that ends.
    pub fn start_binary(
        &self,
        name: &str,
        arguments: impl IntoIterator<Item = impl AsRef<OsStr>>,
        environment: Vec<(OsString, OsString)>,
        input: Option<Vec<u8>>,
    ) -> anyhow::Result<Running> {
        let mut command = self.place.command(&self.binary);
        command.envs(self.options.environment.iter().cloned()).envs(environment);
        command.arg("--ends-with").arg(std::process::id().to_string()).args(arguments);
        let running = Running::start(name, command, input)?;
        lock(&self.started).push(running.shared());
        Ok(running)
    }

    /// Ends the mesh in order: workloads, then the control plane. Nothing may be left: no process, no socket, no mount.
    ///
    /// # Errors
    /// Something ran on, or was left; the error names all of it.
    pub async fn finish(mut self) -> anyhow::Result<()> {
        self.finished = true;
        let mut faults = Vec::new();
        let control = lock(&self.control).take();
        let control_pid = control.as_ref().map(Running::pid);
        let workloads: Vec<Arc<Shared>> =
            lock(&self.started).iter().filter(|process| Some(process.pid()) != control_pid).cloned().collect();
        for workload in &workloads {
            // Those that have ended are asked in vain.
            drop(workload.signal(Signal::TERM));
        }
        for workload in &workloads {
            if let Err(error) = workload.wait(PATIENCE).await {
                faults.push(format!("{error:#}"));
            }
        }
        if let Some(control) = control {
            if let Some(status) = control.ended() {
                faults.push(format!("the control plane had ended with {status}"));
            }
            match control.stop().await {
                Ok(output) if output.code() != 0 => faults.push(format!("the control plane ended with {}", output.status)),
                Ok(_) => {}
                Err(error) => faults.push(format!("{error:#}")),
            }
        }
        faults.extend(self.left_behind().await);
        if faults.is_empty() {
            return Ok(());
        }
        let said = self.last_words();
        tree::kill_all(self.place.path(), &self.groups(), PATIENCE);
        bail!("the mesh did not end as it should:\n  {}\n{said}", faults.join("\n  "))
    }

    async fn left_behind(&self) -> Vec<String> {
        let (directory, groups) = (self.place.path(), self.groups());
        // Those that end with their parent get a moment to do so.
        let gone = eventually("all processes end", Duration::from_secs(5), || async {
            let members = tree::members(directory, &groups);
            ensure!(members.is_empty());
            Ok(())
        });
        let mut left = Vec::new();
        if gone.await.is_err() {
            left.extend(tree::members(directory, &groups).iter().map(|member| format!("left running: {member}")));
        }
        left.extend(sockets(directory).iter().map(|socket| format!("left: socket {}", socket.display())));
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let named = directory.display().to_string();
        left.extend(mounts.lines().filter(|line| line.contains(&named)).map(|line| format!("left: mount {line}")));
        left
    }

    /// The process groups that were made for this mesh.
    fn groups(&self) -> BTreeSet<i32> {
        lock(&self.started).iter().map(|process| process.pid()).collect()
    }

    /// What all processes said last, for whoever looks for the reason of a failure.
    #[must_use]
    pub fn last_words(&self) -> String {
        let one = |process: &Arc<Shared>| {
            let end = process.ended().map_or_else(|| "runs".to_owned(), |status| format!("ended with {status}"));
            format!("{} (pid {}, {end}){}", process.name(), process.pid(), process.last_words())
        };
        let started = lock(&self.started);
        // Of the many short verbs, the last ones tell most.
        started[started.len().saturating_sub(24)..].iter().map(one).collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let _ = std::io::Write::write_all(&mut std::io::stderr(), format!("{}\n", self.last_words()).as_bytes());
        }
        if !self.finished {
            tree::kill_all(self.place.path(), &self.groups(), PATIENCE);
        }
    }
}

/// How many workloads of a service are connected, not about to leave, and have an app that listens.
fn announced(status: &Value, service: &str) -> usize {
    let is_it = |proxy: &&Value| {
        let name = proxy["service"].as_str().unwrap_or_default();
        let named = name.strip_suffix(".mesh").unwrap_or(name) == service;
        let there = proxy["connected"] == true && proxy["draining"] != true;
        named && there && proxy["listening"].as_array().is_some_and(|ports| !ports.is_empty())
    };
    status["proxies"].as_array().into_iter().flatten().filter(is_it).count()
}

/// The sockets below a directory.
fn sockets(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut directories = vec![directory.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_socket() => found.push(entry.path()),
                Ok(kind) if kind.is_dir() => directories.push(entry.path()),
                _ => {}
            }
        }
    }
    found
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workloads_that_take_calls_are_counted() {
        let proxy = |service: &str, listening: &[u16], draining: bool| serde_json::json!({"service": service, "listening": listening, "draining": draining, "connected": true});
        let mut gone = proxy("a.shop", &[80], false);
        gone["connected"] = false.into();
        let proxies = [
            proxy("a.shop", &[80], false),
            proxy("a.shop.mesh", &[80], false),
            proxy("a.shop", &[], false),
            proxy("a.shop", &[80], true),
            proxy("b.shop", &[80], false),
            gone,
        ];
        let status = serde_json::json!({ "proxies": proxies });
        assert_eq!(announced(&status, "a.shop"), 2);
        assert_eq!(announced(&serde_json::json!({}), "a.shop"), 0);
    }

    /// A stand-in for the binary, so that the harness is tested also while the binary is not.
    fn mesh_of(script: &str) -> Mesh {
        let options = Mesh::as_nobody();
        let place = Place::new(options.who).unwrap();
        let binary = place.write("lorica", format!("#!/bin/sh\nshift 2\n{script}\n").as_bytes()).unwrap();
        fs::set_permissions(&binary, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        Mesh { options, binary, started: Mutex::default(), control: Mutex::default(), finished: false, place }
    }

    #[tokio::test]
    async fn verbs_run_to_their_end() {
        let mesh = mesh_of("echo \"$@\"; cat; exit 4");
        let output = mesh.lorica_with_input(["apply", "-f", "-"], Some("kind: Service\n")).await.unwrap();
        assert_eq!((output.code(), output.stdout.as_str()), (4, "apply -f -\nkind: Service\n"));
        assert_eq!(output.name, "lorica apply -f -");
        let output = mesh.client().upstream("a:80=127.0.0.1:9").env("X", "y").output(["curl", "-s"]).await.unwrap();
        assert_eq!(output.stdout, "run --upstream a:80=127.0.0.1:9 -- curl -s\n");
        mesh.finish().await.unwrap();
    }

    #[tokio::test]
    async fn a_control_plane_that_ends_is_told_at_once() {
        let mesh = mesh_of("echo no room >&2; exit 1");
        let error = format!("{:#}", mesh.start_control().await.unwrap_err());
        assert!(error.contains("the control plane ended with exit status: 1; it said:\n  2> no room"), "{error}");
    }

    #[tokio::test]
    async fn what_is_left_behind_fails_the_test() {
        let mesh = mesh_of("setsid sleep 600 & echo left; exit 0");
        mesh.lorica(["run"]).await.unwrap();
        let socket = mesh.home().join("left.sock");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let directory = mesh.place.path().to_owned();
        let error = mesh.finish().await.unwrap_err().to_string();
        assert!(error.contains("left running: ") && error.contains("sleep 600"), "{error}");
        assert!(error.contains(&format!("left: socket {}", socket.display())), "{error}");
        assert!(tree::members(&directory, &BTreeSet::new()).is_empty());
        assert!(!directory.exists());
    }

    #[tokio::test]
    async fn a_dropped_mesh_leaves_nothing() {
        let mesh = mesh_of("setsid sleep 600 & echo started; wait");
        let workload = mesh.service("a.shop").port("80").start(["x"]).unwrap();
        workload.line("started").await.unwrap();
        let directory = mesh.place.path().to_owned();
        drop(mesh);
        assert!(tree::members(&directory, &BTreeSet::from([workload.pid()])).is_empty());
        assert!(!directory.exists());
    }
}
