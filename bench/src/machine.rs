//! Processes on this machine: started on one core, looked at, ended. In: command lines. Out: CPU time, resident memory, and whether
//! a port answers.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

/// The core that proxies have for themselves.
pub(crate) const PROXY_CORE: usize = 0;
/// The core of load and backends.
pub(crate) const LOAD_CORE: usize = 1;

/// Keeps this process, and what it starts, on the load's core.
pub(crate) fn pin_to_load() -> anyhow::Result<()> {
    let mut cores = rustix::thread::CpuSet::new();
    cores.set(LOAD_CORE);
    rustix::thread::sched_setaffinity(None, &cores).context("a core of its own for the load: the machine has only one?")
}

/// A process that ends with this value.
pub(crate) struct Process {
    child: Child,
    name: String,
    log: std::path::PathBuf,
}

impl Process {
    /// Starts `program` on `core`; what it says goes to a file in `place`.
    pub(crate) fn start(place: &Path, core: usize, program: &Path, arguments: &[String]) -> anyhow::Result<Self> {
        let cores = core.to_string();
        Self::start_on(place, &cores, program, arguments)
    }

    /// As [`Self::start`], on several cores: `0,1`.
    pub(crate) fn start_on(place: &Path, cores: &str, program: &Path, arguments: &[String]) -> anyhow::Result<Self> {
        let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let log = place.join(format!("{name}.{}.log", free_port()?));
        let out = fs::File::create(&log)?;
        let child = Command::new("taskset")
            .args(["-c", cores])
            .arg(program)
            .args(arguments)
            .current_dir(place)
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .spawn()
            .with_context(|| format!("{} cannot be started", program.display()))?;
        Ok(Self { child, name, log })
    }

    /// Its id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it answers on `address`.
    pub(crate) fn wait_for(&mut self, address: SocketAddr) -> anyhow::Result<()> {
        let deadline = Instant::now() + Duration::from_secs(60);
        while TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_err() {
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended ({status}):\n{}", self.name, fs::read_to_string(&self.log).unwrap_or_default());
            }
            if Instant::now() > deadline {
                bail!("{} does not answer on {address}:\n{}", self.name, fs::read_to_string(&self.log).unwrap_or_default());
            }
            std::thread::sleep(Duration::from_micros(300));
        }
        Ok(())
    }

    /// The CPU time that all its threads have had.
    pub(crate) fn cpu(&self) -> anyhow::Result<Duration> {
        let mut nanoseconds = 0;
        for thread in fs::read_dir(format!("/proc/{}/task", self.id()))? {
            let text = fs::read_to_string(thread?.path().join("schedstat"))?;
            nanoseconds += text.split_whitespace().next().and_then(|number| number.parse::<u64>().ok()).context("schedstat")?;
        }
        Ok(Duration::from_nanos(nanoseconds))
    }

    /// Its resident memory in MiB.
    pub(crate) fn resident(&self) -> anyhow::Result<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        let kibibytes: f64 = line.trim().trim_end_matches("kB").trim().parse()?;
        Ok(kibibytes / 1024.0)
    }
}

impl Process {
    /// Asks it to end, and waits until it has.
    pub(crate) fn end(mut self) -> anyhow::Result<()> {
        let id = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(id, rustix::process::Signal::TERM)?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // A process that has ended already needs no signal.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A port that nobody has.
pub(crate) fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

/// A port of the loopback.
pub(crate) fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// What the figures were measured on.
pub(crate) fn description() -> String {
    let processor = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = processor.lines().find_map(|line| line.strip_prefix("model name")).and_then(|line| line.split_once(':'));
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    format!("{}, {cores} cores used, Linux {}", model.map_or("unknown processor", |(_, name)| name.trim()), kernel.trim())
}
