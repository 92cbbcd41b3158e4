//! The demo's processes: started, watched, and ended so that nothing is left.

use std::fs::File;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::cast::Part;

/// How long a process may take to end by itself before it is killed. More than a proxy's drain.
const END: Duration = Duration::from_secs(30);

/// The ports at which the control plane takes telemetry, on loopback.
pub(crate) struct Doors {
    /// OTLP over gRPC.
    pub(crate) otlp: u16,
    /// OTLP over HTTP.
    pub(crate) otlp_http: u16,
}

/// The demo's own directory: state, sockets, logs and the caller's report. Removed at the end.
pub(crate) struct Stage {
    directory: PathBuf,
}

impl Stage {
    /// A new directory that only this user may look into.
    pub(crate) fn new() -> anyhow::Result<Self> {
        let directory = std::env::temp_dir().join(format!("lorica-demo-{}", std::process::id()));
        lorica_cli::places::own_directory(&directory, "TMPDIR")?;
        let stage = Self { directory };
        for part in ["state", "run", "log", "report"] {
            lorica_cli::places::own_directory(&stage.directory.join(part), "TMPDIR")?;
        }
        Ok(stage)
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.directory.join("state/lorica")
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.join("run/lorica/control.sock")
    }

    pub(crate) fn logs(&self) -> PathBuf {
        self.directory.join("log")
    }

    pub(crate) fn report(&self) -> PathBuf {
        self.directory.join("report/calls.json")
    }

    fn command(&self, log: &str) -> anyhow::Result<Command> {
        let log = self.logs().join(format!("{}.log", log.replace(' ', "")));
        let output =
            File::options().create(true).append(true).open(&log).with_context(|| format!("{} cannot be written", log.display()))?;
        let mut command = Command::new("/proc/self/exe");
        command
            .env("XDG_STATE_HOME", self.directory.join("state"))
            .env("XDG_RUNTIME_DIR", self.directory.join("run"))
            .env_remove("LORICA_SERVER")
            .args(["--ends-with", &std::process::id().to_string()])
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            // Ctrl-C is for the demo alone, which then ends the others in order.
            .process_group(0)
            .kill_on_drop(true);
        Ok(command)
    }

    /// Starts the control plane.
    pub(crate) fn control(&self, doors: &Doors) -> anyhow::Result<Running> {
        let mut command = self.command("control")?;
        command.args(["control", "--telemetry", "127.0.0.1:0"]);
        for (word, port) in [("--otlp", doors.otlp), ("--otlp-http", doors.otlp_http)] {
            command.arg(word).arg(format!("127.0.0.1:{port}"));
        }
        Running::start("control plane", command)
    }

    /// Starts a workload.
    pub(crate) fn workload(&self, part: &Part) -> anyhow::Result<Running> {
        let mut command = self.command(&part.name)?;
        command.arg("run").args(&part.run).arg("--").arg(self_path()?).arg("contact-centre").args(&part.app);
        Running::start(&part.name, command)
    }

    /// What a process wrote last, to be shown when it ended unasked.
    pub(crate) fn last_words(&self, name: &str) -> String {
        let text = std::fs::read_to_string(self.logs().join(format!("{}.log", name.replace(' ', "")))).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(8)..].join("\n  ")
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.directory) {
            tracing::warn!(%error, directory = %self.directory.display(), "the demo's directory could not be removed");
        }
    }
}

/// This binary, as apps are started from it. Inside a mount namespace `/proc/self/exe` would be the helper's.
fn self_path() -> io::Result<PathBuf> {
    std::env::current_exe()
}

/// A process of the demo.
pub(crate) struct Running {
    pub(crate) name: String,
    child: Child,
}

impl Running {
    fn start(name: &str, mut command: Command) -> anyhow::Result<Self> {
        let child = command.spawn().with_context(|| format!("{name} could not be started"))?;
        Ok(Self { name: name.to_owned(), child })
    }

    /// Whether it has ended unasked; then how.
    pub(crate) fn ended(&mut self) -> Option<String> {
        match self.child.try_wait() {
            Ok(Some(status)) => Some(match (status.code(), status.signal()) {
                (Some(code), _) => format!("exit code {code}"),
                (None, Some(signal)) => format!("signal {signal}"),
                (None, None) => "an unknown end".to_owned(),
            }),
            Ok(None) => None,
            Err(error) => Some(error.to_string()),
        }
    }

    /// Asks it to end.
    pub(crate) fn ask(&self) {
        if let Some(pid) = self.child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw) {
            // It may have ended by itself just now.
            let _: rustix::io::Result<()> = kill_process(pid, Signal::TERM);
        }
    }

    /// Waits for its end; kills it if it takes too long. The exit code, if it ended by itself.
    pub(crate) async fn end(mut self) -> anyhow::Result<Option<i32>> {
        match timeout(END, self.child.wait()).await {
            Ok(status) => Ok(status?.code()),
            Err(_) => {
                self.child.kill().await?;
                anyhow::bail!("{} did not end within {} s and was killed", self.name, END.as_secs())
            }
        }
    }
}

/// Waits until something answers on a socket.
pub(crate) async fn answers(socket: &Path, process: &mut Running, within: Duration) -> Result<(), String> {
    let deadline = tokio::time::Instant::now() + within;
    loop {
        if tokio::net::UnixStream::connect(socket).await.is_ok() {
            return Ok(());
        }
        if let Some(how) = process.ended() {
            return Err(format!("{} ended with {how}", process.name));
        }
        if tokio::time::Instant::now() > deadline {
            return Err(format!("{} does not answer on {}", process.name, socket.display()));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
