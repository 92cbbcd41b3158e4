//! One `lorica run` under test: started as someone, watched by the lines its processes write to
//! their common standard error, and by that pipe's end, which comes when the last of them is gone.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::SocketAddr,
    os::unix::{
        fs::PermissionsExt,
        process::{CommandExt, ExitStatusExt},
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        atomic::{AtomicU32, Ordering},
        mpsc::{Receiver, RecvTimeoutError, channel},
    },
    time::{Duration, Instant},
};

/// Far beyond what anything here takes: a test that waits so long hangs.
const PATIENCE: Duration = Duration::from_secs(30);
const NOBODY: u32 = 65534;

/// As whom a test runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Who {
    Me,
    Nobody,
}

impl Who {
    pub(crate) fn all() -> Vec<Self> {
        if is_root() { vec![Self::Me, Self::Nobody] } else { vec![Self::Me] }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Me => "me",
            Self::Nobody => "nobody",
        }
    }

    pub(crate) fn uid(self) -> u32 {
        match self {
            Self::Me => rustix::process::geteuid().as_raw(),
            Self::Nobody => NOBODY,
        }
    }

    /// Whether the app runs without a user namespace.
    pub(crate) fn is_root(self) -> bool {
        self == Self::Me && is_root()
    }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Whether this machine lets `who` do it; else why not.
pub(crate) fn allowed(who: Who) -> Result<(), String> {
    let place = Place::new(who);
    let output = place.command("role-probe", &[]).output().unwrap();
    match output.status.code() {
        Some(0) => Ok(()),
        Some(3) => Err(String::from_utf8_lossy(&output.stdout).into_owned()),
        other => panic!("probe: {other:?} {}", String::from_utf8_lossy(&output.stderr)),
    }
}

/// A directory of the test's own, with this binary where `who` may execute it.
pub(crate) struct Place {
    pub(crate) directory: PathBuf,
    pub(crate) binary: PathBuf,
    who: Who,
}

impl Place {
    pub(crate) fn new(who: Who) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("lorica-capture-{}-{number}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        fs::create_dir(&directory).unwrap();
        let mut binary = std::env::current_exe().unwrap();
        if who == Who::Nobody {
            fs::set_permissions(&directory, fs::Permissions::from_mode(0o755)).unwrap();
            let copy = directory.join("binary");
            fs::copy(&binary, &copy).unwrap();
            fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).unwrap();
            binary = copy;
            std::os::unix::fs::chown(&directory, Some(NOBODY), Some(NOBODY)).unwrap();
        }
        Self { directory, binary, who }
    }

    pub(crate) fn command(&self, role: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command.arg(role).args(arguments).current_dir("/").stdin(Stdio::null());
        if self.who == Who::Nobody {
            command.uid(NOBODY).gid(NOBODY);
        }
        command
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// What to start.
pub(crate) struct Plan {
    place: Place,
    options: Vec<String>,
    environment: Vec<(String, String)>,
    terminal: Option<std::os::fd::OwnedFd>,
    role: &'static str,
}

impl Plan {
    pub(crate) fn new(who: Who) -> Self {
        Self { place: Place::new(who), options: Vec::new(), environment: Vec::new(), terminal: None, role: "role-supervise" }
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.place.directory
    }

    /// An option of `role-supervise`.
    pub(crate) fn with(mut self, option: &str, value: &str) -> Self {
        self.options.extend([option.to_owned(), value.to_owned()]);
        self
    }

    pub(crate) fn variable(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Makes it leader of a session whose terminal this is.
    pub(crate) fn on_terminal(mut self, terminal: std::os::fd::OwnedFd) -> Self {
        self.terminal = Some(terminal);
        self
    }

    /// Makes it the job of a shell.
    pub(crate) fn under_shell(mut self) -> Self {
        self.role = "role-shell";
        self
    }

    /// Starts it with a shell line as the app. `$ME` is this binary.
    pub(crate) fn shell(self, line: &str) -> Run {
        self.start(&["sh", "-c", line])
    }

    /// Starts it with one of the app roles.
    pub(crate) fn app(self, role: &str, arguments: &[&str]) -> Run {
        let binary = self.place.binary.to_str().unwrap().to_owned();
        self.start(&[&[binary.as_str(), role], arguments].concat())
    }

    pub(crate) fn start(self, app: &[&str]) -> Run {
        let mut arguments: Vec<&str> = self.options.iter().map(String::as_str).collect();
        arguments.push("--");
        arguments.extend(app);
        let mut command = self.place.command(self.role, &arguments);
        command.env("ME", &self.place.binary).envs(self.environment);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        if let Some(terminal) = self.terminal {
            command.stdin(terminal);
            // SAFETY: two system calls, no allocation.
            unsafe {
                command.pre_exec(|| {
                    rustix::process::setsid()?;
                    rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())?;
                    Ok(())
                });
            }
        }
        let mut child = command.spawn().unwrap();
        // The command holds our end of what it gave the child.
        drop(command);
        let (said, lines) = channel();
        let errors = BufReader::new(child.stderr.take().unwrap());
        std::thread::spawn(move || {
            for line in errors.lines() {
                let _ = said.send(line.unwrap());
            }
        });
        let output = BufReader::new(child.stdout.take().unwrap());
        Run { child, lines, seen: Vec::new(), output, _place: self.place }
    }
}

/// Under way.
pub(crate) struct Run {
    child: Child,
    lines: Receiver<String>,
    seen: Vec<String>,
    output: BufReader<std::process::ChildStdout>,
    _place: Place,
}

impl Run {
    pub(crate) fn pid(&self) -> i32 {
        self.child.id().try_into().unwrap()
    }

    pub(crate) fn signal(&self, number: i32) {
        kill(self.pid(), number);
    }

    /// Writes a line to the app.
    pub(crate) fn tell(&mut self, line: &str) {
        writeln!(self.child.stdin.as_mut().unwrap(), "{line}").unwrap();
    }

    /// The app's next line.
    pub(crate) fn answer(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// Waits for a line that begins so; returns the rest. Each line is taken once.
    pub(crate) fn line(&mut self, beginning: &str) -> String {
        let given_up = Instant::now() + PATIENCE;
        loop {
            let found = self.seen.iter().position(|line| line.starts_with(beginning));
            if let Some(found) = found {
                return self.seen.remove(found)[beginning.len()..].trim().to_owned();
            }
            match self.lines.recv_timeout(given_up.saturating_duration_since(Instant::now())) {
                Ok(line) => self.seen.push(line),
                Err(error) => panic!("no line `{beginning}` ({error}); came: {:#?}", self.seen),
            }
        }
    }

    /// Waits until the last process that could write is gone.
    pub(crate) fn all_gone(&mut self) {
        let given_up = Instant::now() + PATIENCE;
        loop {
            match self.lines.recv_timeout(given_up.saturating_duration_since(Instant::now())) {
                Ok(line) => self.seen.push(line),
                Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => panic!("a process is left: {:#?}", self.seen),
            }
        }
    }

    /// Its exit code and what the app wrote, once everything is gone.
    pub(crate) fn end(mut self) -> (i32, String, Vec<String>) {
        drop(self.child.stdin.take());
        self.all_gone();
        let mut output = String::new();
        self.output.read_to_string(&mut output).unwrap();
        let status = self.child.wait().unwrap();
        let code = status.code().unwrap_or_else(|| 1000 + status.signal().unwrap());
        (code, output, std::mem::take(&mut self.seen))
    }

    /// What the app wrote; it must have ended well.
    pub(crate) fn output(self) -> String {
        let (code, output, seen) = self.end();
        assert_eq!(code, 0, "{output}\n{seen:#?}");
        output.trim_end().to_owned()
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn kill(pid: i32, number: i32) {
    // SAFETY: kill takes numbers only.
    let done = unsafe { libc::kill(pid, number) };
    assert_eq!(done, 0, "kill {pid} {number}");
}

pub(crate) fn address(text: &str) -> SocketAddr {
    text.parse().unwrap_or_else(|_| panic!("no address: {text}"))
}
