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
    /// What counts as it: the process itself, or those below it whose command lines begin so.
    counted: Option<&'static str>,
}

impl Process {
    /// Starts `program` on `core`; what it says goes to a file in `place`.
    pub(crate) fn start(place: &Path, core: usize, program: &Path, arguments: &[String]) -> anyhow::Result<Self> {
        let cores = core.to_string();
        Self::start_on(place, &cores, program, arguments)
    }

    /// As [`Self::start`], on several cores: `0,1`.
    pub(crate) fn start_on(place: &Path, cores: &str, program: &Path, arguments: &[String]) -> anyhow::Result<Self> {
        Self::start_with(place, cores, program, arguments, &[])
    }

    /// As [`Self::start_on`], with variables for it and all below it.
    pub(crate) fn start_with(
        place: &Path,
        cores: &str,
        program: &Path,
        arguments: &[String],
        environment: &[(String, String)],
    ) -> anyhow::Result<Self> {
        let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let log = place.join(format!("{name}.{}.log", free_port()?));
        let out = fs::File::create(&log)?;
        let child = Command::new("taskset")
            .args(["-c", cores])
            .arg(program)
            .args(arguments)
            .envs(environment.iter().cloned())
            .current_dir(place)
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .spawn()
            .with_context(|| format!("{} cannot be started", program.display()))?;
        Ok(Self { child, name, log, counted: None })
    }

    /// Lets those processes count that are below it, itself among them, and are run from this program.
    pub(crate) fn counting(mut self, program: &'static str) -> Self {
        self.counted = Some(program);
        self
    }

    /// The processes below it, itself among them.
    pub(crate) fn family(&self) -> Vec<u32> {
        let mut parents = Vec::new();
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let Some(id) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
            // Behind the name, which may hold anything: the state, then the parent.
            let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
            let parent = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse().ok());
            parents.extend(parent.map(|parent: u32| (id, parent)));
        }
        let mut family = vec![self.id()];
        let mut at = 0;
        while let Some(parent) = family.get(at).copied() {
            family.extend(parents.iter().filter(|(_, of)| *of == parent).map(|(id, _)| *id));
            at += 1;
        }
        family
    }

    /// Those of its family that run this program.
    pub(crate) fn running(&self, program: &str) -> Vec<u32> {
        let runs = |id: &u32| {
            let line = fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
            let first = line.split(|byte| *byte == 0).next().unwrap_or_default();
            Path::new(&*String::from_utf8_lossy(first)).file_name().is_some_and(|name| name == program)
        };
        self.family().into_iter().filter(runs).collect()
    }

    fn counted(&self) -> Vec<u32> {
        self.counted.map_or_else(|| vec![self.id()], |program| self.running(program))
    }

    /// What it has said.
    pub(crate) fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
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
        for process in self.counted() {
            for thread in fs::read_dir(format!("/proc/{process}/task"))? {
                let text = fs::read_to_string(thread?.path().join("schedstat"))?;
                nanoseconds += text.split_whitespace().next().and_then(|number| number.parse::<u64>().ok()).context("schedstat")?;
            }
        }
        Ok(Duration::from_nanos(nanoseconds))
    }

    /// Its resident memory in MiB; of several processes the largest's.
    pub(crate) fn resident(&self) -> anyhow::Result<f64> {
        let mut most = 0.0;
        for process in self.counted() {
            let status = fs::read_to_string(format!("/proc/{process}/status"))?;
            let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
            let kibibytes: f64 = line.trim().trim_end_matches("kB").trim().parse()?;
            most = f64::max(most, kibibytes / 1024.0);
        }
        Ok(most)
    }
}

impl Process {
    /// Asks it to end, and waits until it has.
    pub(crate) fn end(mut self) -> anyhow::Result<()> {
        self.ask()?;
        self.child.wait()?;
        Ok(())
    }

    fn ask(&self) -> anyhow::Result<()> {
        let id = rustix::process::Pid::from_child(&self.child);
        Ok(rustix::process::kill_process(id, rustix::process::Signal::TERM)?)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.counted.is_some() {
            // Those below it are its own to end, if it is let; one that has ended already is not there to be asked.
            drop(self.ask());
            let deadline = Instant::now() + Duration::from_secs(5);
            while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
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
