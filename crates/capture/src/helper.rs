//! The helper: one thread that enters the namespaces, builds what is in them, makes sockets for the
//! proxy, starts the app and ends everything below it. It takes orders from the supervisor alone
//! and ends with it. It carries no traffic and knows no policy.

use std::{
    collections::VecDeque,
    io,
    net::{Ipv4Addr, SocketAddr},
    os::fd::{AsFd, OwnedFd},
    process::ExitCode,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags},
    process::{Pid, Signal, WaitOptions, WaitStatus},
};

use crate::{
    channel::{Channel, Received},
    interior, kernel,
    kernel::Signals,
    listening,
    message::{AppListener, FromHelper, MoreSockets, Setup, Sockets, ToHelper},
    missing::Missing,
    namespace::{self, Authority},
    processes,
    proxy_end::BATCH,
    spawn,
    watch::Watch,
};

/// How long the supervisor may take to say what to build; it has it ready.
const SETUP_PATIENCE: Duration = Duration::from_secs(10);
/// Requests of the proxy that wait here; more wait in the channel.
const WAITING_REQUESTS: usize = 8;

/// Runs the helper: what the hidden verb of the binary calls, before any thread is started.
///
/// The exit code only says whether it ended in order; what happened went to the supervisor. Called
/// without a supervisor it does nothing and gives 2.
pub fn helper_main() -> ExitCode {
    let Some(channel) = Channel::from_environment() else { return ExitCode::from(2) };
    let built = Helper::build(channel.try_clone().and_then(Channel::from_fd));
    let said = match built {
        Ok(Built::Ready(helper)) => return helper.run(),
        Ok(Built::Probed) => FromHelper::Ready { notices: Vec::new() },
        Err(Failure::Missing(missing)) => FromHelper::Missing(missing),
        Err(Failure::Said(message)) => FromHelper::Failed { message },
    };
    // If nobody reads it any more, nobody is left to tell.
    let _ = channel.send(&said, &[]);
    ExitCode::from(u8::from(!matches!(said, FromHelper::Ready { .. })))
}

enum Failure {
    Missing(Missing),
    Said(String),
}

impl From<Missing> for Failure {
    fn from(missing: Missing) -> Self {
        Self::Missing(missing)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Said(format!("the helper cannot go on: {error}"))
    }
}

enum Built {
    Ready(Box<Helper>),
    Probed,
}

struct Helper {
    channel: Channel,
    signals: Signals,
    setup: Setup,
    authority: Option<Authority>,
    /// Where the proxy's listeners are, which are not the app's.
    own_addresses: Vec<SocketAddr>,
    requests: Option<Requests>,
    app: Option<(Pid, Watch)>,
}

/// The proxy's requests for sockets.
struct Requests {
    channel: Channel,
    waiting: VecDeque<MoreSockets>,
    /// A batch that the channel had no room for.
    made: Option<(Sockets, Vec<OwnedFd>)>,
}

impl Helper {
    fn build(channel: io::Result<Channel>) -> Result<Built, Failure> {
        let channel = channel?;
        kernel::expect_children();
        let read = [libc::SIGCHLD, libc::SIGTERM];
        // The terminal's signals reach the helper with the supervisor's group; it waits for orders.
        let held = [libc::SIGINT, libc::SIGQUIT, libc::SIGHUP, libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU, libc::SIGUSR1, libc::SIGUSR2];
        let signals = Signals::block(&read, &held)?;
        rustix::process::set_child_subreaper(Some(rustix::process::getpid())).map_err(io::Error::from)?;
        let (message, mut descriptors) = channel.receive(SETUP_PATIENCE)?;
        let ToHelper::Setup(setup) = message else {
            return Err(Failure::Said("the helper was not told what to build".to_owned()));
        };
        let mut helper = Self { channel, signals, setup: *setup, authority: None, own_addresses: Vec::new(), requests: None, app: None };
        let mut notices = Vec::new();
        if let Some(spec) = &helper.setup.interior {
            refuse_hidden_directory(spec.masked_directories.iter())?;
            helper.authority = Some(namespace::enter()?);
            let built = interior::build(spec)?;
            notices = built.notices;
            helper.own_addresses = built.own_addresses;
            for (label, socket) in built.listeners {
                if !helper.setup.probe {
                    let message = FromHelper::Listener { label };
                    helper.channel.send(&message, &[socket.as_fd()])?;
                }
            }
            if let Some(end) = descriptors.pop() {
                let channel = Channel::from_fd(end)?;
                helper.requests = Some(Requests { channel, waiting: VecDeque::new(), made: None });
            }
        }
        if helper.setup.probe {
            return Ok(Built::Probed);
        }
        helper.channel.send(&FromHelper::Ready { notices }, &[])?;
        Ok(Built::Ready(Box::new(helper)))
    }

    /// Until the app has ended, or the supervisor is gone.
    fn run(mut self: Box<Self>) -> ExitCode {
        let code = match self.serve() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                let message = format!("the helper cannot go on: {error}");
                let _ = self.channel.send(&FromHelper::Failed { message }, &[]);
                ExitCode::FAILURE
            }
        };
        processes::end_descendants(&[], Duration::from_millis(self.setup.kill_grace_ms));
        code
    }

    fn serve(&mut self) -> io::Result<()> {
        loop {
            self.wait()?;
            while let Some(signal) = self.signals.next() {
                if signal == libc::SIGTERM {
                    return Ok(());
                }
            }
            if let Some(code) = self.reap()? {
                return self.channel.send(&FromHelper::Ended { code }, &[]);
            }
            loop {
                match self.channel.try_receive()? {
                    Received::Message(order, _) => self.obey(order)?,
                    Received::Nothing => break,
                    Received::Closed => return Ok(()),
                }
            }
            if self.requests.as_mut().is_some_and(|requests| requests.serve().is_err()) {
                tracing::debug!("the proxy's socket channel is closed");
                self.requests = None;
            }
            self.look_where_the_app_listens()?;
        }
    }

    fn wait(&self) -> io::Result<()> {
        let mut polled =
            vec![PollFd::new(&self.channel, PollFlags::IN), PollFd::from_borrowed_fd(self.signals.descriptor(), PollFlags::IN)];
        if let Some(requests) = &self.requests {
            let mut flags = PollFlags::empty();
            flags.set(PollFlags::OUT, requests.made.is_some());
            flags.set(PollFlags::IN, requests.waiting.len() < WAITING_REQUESTS);
            polled.push(PollFd::new(&requests.channel, flags));
        }
        let patience = self.app.as_ref().map(|(_, watch)| watch.next().saturating_duration_since(Instant::now()));
        kernel::poll(&mut polled, patience).map(drop)
    }

    fn obey(&mut self, order: ToHelper) -> io::Result<()> {
        match order {
            ToHelper::Setup(_) => Ok(()),
            ToHelper::Start { foreground } => self.start(foreground),
            ToHelper::Signal { number } => {
                if let (Some((pid, _)), Some(signal)) = (&self.app, Signal::from_named_raw(number))
                    && let Err(error) = rustix::process::kill_process_group(*pid, signal)
                {
                    tracing::debug!(%error, "the app's group cannot be signalled");
                }
                Ok(())
            }
        }
    }

    fn start(&mut self, foreground: bool) -> io::Result<()> {
        if self.app.is_some() {
            return Ok(());
        }
        let Setup { app, environment, .. } = &self.setup;
        let said = match spawn::app(app, environment, foreground, self.authority) {
            Ok(pid) => {
                self.app = Some((pid, Watch::new(&self.setup.app_ports, Instant::now())));
                FromHelper::Started { pid: pid.as_raw_pid() }
            }
            Err(error) => FromHelper::Failed { message: not_started(app, &error) },
        };
        self.channel.send(&said, &[])
    }

    /// Takes what children became; the app's exit code if it has ended.
    fn reap(&mut self) -> io::Result<Option<u8>> {
        let options = WaitOptions::NOHANG | WaitOptions::UNTRACED;
        while let Ok(Some((pid, status))) = rustix::process::wait(options) {
            if self.app.as_ref().is_none_or(|(app, _)| *app != pid) {
                continue;
            }
            if let Some(code) = exit_code(status) {
                return Ok(Some(code));
            }
            let by_terminal = [libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU];
            if status.stopping_signal().is_some_and(|signal| by_terminal.contains(&signal)) {
                self.channel.send(&FromHelper::Stopped, &[])?;
            }
        }
        Ok(None)
    }

    fn look_where_the_app_listens(&mut self) -> io::Result<()> {
        let Some((_, watch)) = &mut self.app else { return Ok(()) };
        let now = Instant::now();
        if now < watch.next() {
            return Ok(());
        }
        let found = match listening::listening() {
            Ok(found) => reachable(&self.setup, &self.own_addresses, &found),
            Err(error) => {
                tracing::debug!(%error, "where the app listens cannot be read");
                Vec::new()
            }
        };
        if let Some(listeners) = watch.found(now, found) {
            self.channel.send(&FromHelper::Listening { listeners }, &[])?;
        }
        Ok(())
    }
}

fn reachable(setup: &Setup, own_addresses: &[SocketAddr], found: &[listening::Listening]) -> Vec<AppListener> {
    match &setup.interior {
        Some(spec) => listening::reachable(found, spec.virtual_v4, spec.virtual_v6, own_addresses),
        // The host has listeners of others too: only what was declared is taken for the app's.
        None => {
            let mut found = listening::reachable(found, Ipv4Addr::LOCALHOST, None, &[]);
            found.retain(|listener| setup.app_ports.contains(&listener.port));
            found
        }
    }
}

/// 128 + n for an app that signal n killed, as shells have it.
fn exit_code(status: WaitStatus) -> Option<u8> {
    let code = match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => code,
        (None, Some(signal)) => 128 + signal,
        (None, None) => return None,
    };
    Some(u8::try_from(code).unwrap_or(u8::MAX))
}

fn not_started(app: &[std::ffi::OsString], error: &io::Error) -> String {
    let program = app.first().map(|program| program.to_string_lossy()).unwrap_or_default();
    let hint = match error.kind() {
        io::ErrorKind::NotFound if program.contains('/') => "see whether the file exists",
        // Also what a directory of PATH that may not be read gives.
        io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied if !program.contains('/') => {
            "no program of that name that you may run is in PATH; give its path"
        }
        io::ErrorKind::PermissionDenied => "the file must be executable: chmod +x",
        _ if error.raw_os_error() == Some(libc::ENOEXEC) => "the file is no program of this machine, or a script without `#!` line",
        _ => "try it without lorica",
    };
    format!("cannot start `{program}`: {error}\n  hint: {hint}")
}

/// A masked directory that the app already stands in would stay open to it.
fn refuse_hidden_directory<'a>(masked: impl Iterator<Item = &'a std::path::PathBuf>) -> Result<(), Failure> {
    let Ok(current) = std::env::current_dir().and_then(std::fs::canonicalize) else {
        return Ok(());
    };
    for directory in masked {
        if std::fs::canonicalize(directory).is_ok_and(|directory| current.starts_with(directory)) {
            return Err(Failure::Said(format!(
                "the working directory {} is inside {}, which the app may not see\n  hint: run it from another directory",
                current.display(),
                directory.display()
            )));
        }
    }
    Ok(())
}

impl Requests {
    /// Serves what can be served without waiting.
    fn serve(&mut self) -> io::Result<()> {
        loop {
            while self.waiting.len() < WAITING_REQUESTS {
                match self.channel.try_receive()? {
                    Received::Message(request, _) => self.waiting.push_back(request),
                    Received::Nothing => break,
                    Received::Closed => return Err(io::ErrorKind::UnexpectedEof.into()),
                }
            }
            let (message, sockets) = match self.made.take() {
                Some(made) => made,
                None => match self.waiting.pop_front() {
                    Some(request) => make(request),
                    None => return Ok(()),
                },
            };
            let borrowed: Vec<_> = sockets.iter().map(AsFd::as_fd).collect();
            match self.channel.try_send(&message, &borrowed) {
                Ok(()) => {}
                // Sockets in flight count against RLIMIT_NOFILE: with too many, the kernel refuses
                // them. Told so, the proxy asks again when it has read what is on its way.
                Err(error) if error.raw_os_error() == Some(libc::ETOOMANYREFS) => {
                    let refused = Some("too many sockets are on their way".to_owned());
                    self.made = Some((Sockets { refused, ..message }, Vec::new()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.made = Some((message, sockets));
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
    }
}

fn make(request: MoreSockets) -> (Sockets, Vec<OwnedFd>) {
    let MoreSockets { family, count } = request;
    let mut sockets = Vec::new();
    let mut refused = None;
    for _ in 0..count.min(BATCH) {
        match interior::inbound_socket(family) {
            Ok(socket) => sockets.push(socket),
            Err(error) => {
                refused = Some(error.to_string());
                break;
            }
        }
    }
    (Sockets { family, refused }, sockets)
}
