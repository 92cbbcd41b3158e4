//! The supervisor: the process the user sees. It owns the listening sockets, the terminal, the
//! signals and the exit code; starts proxy, helper and app in that order; replaces a proxy that
//! crashed without closing a listener; and leaves nothing behind. One thread, no traffic.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal};

use crate::{
    ExitStatusCode, FromProxy, ListenerLabel, Mode, RunError, RunSpec,
    channel::Channel,
    children::{Children, Event, OwnProcess},
    kernel::{self, Signals},
    listeners,
    message::{AppListener, FromHelper, InteriorSpec, Setup, ToHelper, ToProxyText},
    processes, proxy_environment,
    spawn::{self, Own},
    terminal::Terminal,
};

/// The pause before a crashed proxy is started again, doubled each time up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// A proxy that served this long has not crashed for what the last one crashed for.
const STEADY: Duration = Duration::from_secs(10);
/// The proxy's own deadline comes first; this is for its answer's way.
const ANSWER_MARGIN: Duration = Duration::from_millis(250);
/// What the helper needs beyond the grace to end the app's processes.
const HELPER_PATIENCE: Duration = Duration::from_secs(6);

const SIGNALS: [i32; 9] =
    [libc::SIGCHLD, libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT, libc::SIGUSR1, libc::SIGUSR2, libc::SIGTSTP, libc::SIGCONT];

/// Runs the app under the mesh until it ends: what `lorica run` is. Call it before any thread is
/// started. `notice` gets lines for the user.
///
/// SIGTERM, SIGINT and SIGHUP let the proxy drain before the app gets them; a second one goes to
/// the app at once. Other signals are passed on.
///
/// # Errors
/// When the app could not be started, or its end could not be seen. No process is left then.
pub fn supervise(spec: RunSpec, notice: &mut dyn FnMut(&str)) -> Result<ExitStatusCode, RunError> {
    if spec.app.is_empty() {
        return Err(RunError::NoProgram);
    }
    let spared = processes::children();
    kernel::expect_children();
    // SIGTTOU is held so that the terminal can be taken back from the background.
    let signals = Signals::block(&SIGNALS, &[libc::SIGTTOU]).map_err(RunError::system("take over signals"))?;
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .map_err(io::Error::from)
        .map_err(RunError::system("become the parent of orphans"))?;
    let mut supervisor = Supervisor {
        spec,
        notice,
        children: Children::new(signals),
        terminal: Terminal::of_stdin(),
        listeners: Vec::new(),
        sockets: None,
        inside: None,
        listening: None,
        addresses: None,
        app: None,
    };
    let ended = supervisor.run();
    supervisor.end(&spared);
    match ended {
        Ok(code) => Ok(code),
        Err(Stop::Signalled(signal)) => Ok(ExitStatusCode(128u8.saturating_add(signal))),
        Err(Stop::Failed(error)) => Err(error),
    }
}

struct Supervisor<'a> {
    spec: RunSpec,
    notice: &'a mut dyn FnMut(&str),
    children: Children,
    terminal: Option<Terminal>,
    /// Those of the host; kept for as long as we live, whatever becomes of the proxy.
    listeners: Vec<(ListenerLabel, OwnedFd)>,
    /// The proxy's end of its channel to the helper.
    sockets: Option<Channel>,
    /// The namespace's listeners, once they are there.
    inside: Option<Vec<(ListenerLabel, OwnedFd)>>,
    /// What the helper last said.
    listening: Option<Vec<AppListener>>,
    /// The addresses that the app's namespace was built with.
    addresses: Option<(Ipv4Addr, Option<Ipv6Addr>)>,
    app: Option<Pid>,
}

/// Why the start was given up.
enum Stop {
    Failed(RunError),
    /// The user did not want to wait for it.
    Signalled(u8),
}

impl From<RunError> for Stop {
    fn from(error: RunError) -> Self {
        Self::Failed(error)
    }
}

/// What the proxy learned when it registered.
struct Prepared {
    virtual_v4: Ipv4Addr,
    virtual_v6: Option<Ipv6Addr>,
    known_names: Vec<String>,
}

/// How far the end is.
#[derive(Debug, Clone, Copy)]
enum Phase {
    Running,
    /// The proxy drains; then the app gets the signal.
    Draining {
        signal: i32,
        until: Instant,
    },
    /// The app has got it.
    Stopping,
}

impl Supervisor<'_> {
    fn run(&mut self) -> Result<ExitStatusCode, Stop> {
        self.listeners = listeners::of_host(&self.spec)?;
        self.start_proxy()?;
        let prepared = self.expect(|event| match event {
            Event::FromProxy(FromProxy::Prepared { virtual_v4, virtual_v6, known_names }) => {
                Some(Prepared { virtual_v4, virtual_v6, known_names })
            }
            _ => None,
        })?;
        self.start_helper(prepared)?;
        let mut inside = Vec::new();
        let notices = self.expect(|event| match event {
            Event::FromHelper(FromHelper::Listener { label }, descriptors) => {
                inside.extend(descriptors.into_iter().map(|descriptor| (label.clone(), descriptor)));
                None
            }
            Event::FromHelper(FromHelper::Ready { notices }, _) => Some(notices),
            _ => None,
        })?;
        for line in notices {
            (self.notice)(&line);
        }
        self.inside = Some(inside);
        self.send_inside();
        self.expect(|event| matches!(event, Event::FromProxy(FromProxy::Serving)).then_some(()))?;
        let foreground = self.terminal.as_ref().is_some_and(Terminal::is_ours);
        self.tell_helper(&ToHelper::Start { foreground });
        let code = self.watch()?;
        self.finish()?;
        Ok(ExitStatusCode(code))
    }

    /// Waits for one event of the start. Whatever ends the start ends the waiting.
    fn expect<T>(&mut self, mut wanted: impl FnMut(Event) -> Option<T>) -> Result<T, Stop> {
        loop {
            let event = self.children.next(None).map_err(RunError::system("wait for the start"))?;
            match event {
                Event::Signal(signal @ (libc::SIGTERM | libc::SIGINT | libc::SIGHUP | libc::SIGQUIT)) => {
                    return Err(Stop::Signalled(u8::try_from(signal).unwrap_or_default()));
                }
                Event::Signal(libc::SIGTSTP) => self.children.signals.stop_here(),
                Event::FromProxy(FromProxy::Failed { message }) => {
                    return Err(RunError::Proxy(message).into());
                }
                Event::ProxyGone(how) => return Err(RunError::ProxyEnded(how).into()),
                Event::FromHelper(FromHelper::Missing(missing), _) => {
                    return Err(RunError::Namespaces(missing).into());
                }
                Event::FromHelper(FromHelper::Failed { message }, _) => {
                    return Err(RunError::Helper(message).into());
                }
                Event::HelperGone(how) => {
                    let message = format!("the helper ended before the app was started: {how}");
                    return Err(RunError::Helper(message).into());
                }
                event => {
                    if let Some(value) = wanted(event) {
                        return Ok(value);
                    }
                }
            }
        }
    }

    fn start_proxy(&mut self) -> Result<(), RunError> {
        let failed = |source| RunError::Spawn { who: "proxy", source };
        let (ours, theirs) = Channel::pair().map_err(failed)?;
        let pid = spawn::own(Own::Proxy, &self.spec.proxy_arguments, &theirs).map_err(failed)?;
        self.children.proxy = Some(OwnProcess { pid, channel: ours });
        for (label, socket) in &self.listeners {
            let message = ToProxyText::Listener { label: label.clone() };
            self.tell_proxy(&message, &[socket.as_fd()]);
        }
        self.tell_proxy(&ToProxyText::HostListenersSent, &[]);
        self.send_inside();
        Ok(())
    }

    /// Sends what exists only since the namespaces do.
    fn send_inside(&self) {
        let Some(inside) = &self.inside else { return };
        if let Some(sockets) = &self.sockets {
            self.tell_proxy(&ToProxyText::SocketChannel, &[sockets.as_fd()]);
        }
        for (label, socket) in inside {
            let message = ToProxyText::Listener { label: label.clone() };
            self.tell_proxy(&message, &[socket.as_fd()]);
        }
        self.tell_proxy(&ToProxyText::AllListenersSent, &[]);
        if let Some(listeners) = self.listening.clone() {
            self.tell_proxy(&ToProxyText::Listening { listeners }, &[]);
        }
    }

    fn start_helper(&mut self, prepared: Prepared) -> Result<(), RunError> {
        let failed = |source| RunError::Spawn { who: "helper", source };
        let Prepared { virtual_v4, virtual_v6, known_names } = prepared;
        self.addresses = Some((virtual_v4, virtual_v6));
        let captured = self.spec.mode == Mode::Namespaces;
        let mut environment = Vec::new();
        // Explicit listeners are local addresses that the app calls by themselves.
        if captured && let Some((variables, line)) = proxy_environment::no_proxy(|name| std::env::var_os(name), &known_names) {
            environment = variables;
            (self.notice)(&line);
        }
        let setup = Setup {
            app: self.spec.app.clone(),
            environment,
            interior: captured.then(|| InteriorSpec {
                virtual_v4,
                virtual_v6,
                host_ports: self.spec.host_ports.clone(),
                masked_directories: self.spec.masked_directories.clone(),
                outbound_sockets: self.spec.outbound_sockets,
            }),
            app_ports: self.spec.app_ports.clone(),
            kill_grace_ms: milliseconds(self.spec.kill_grace),
            probe: false,
        };
        let (ours, theirs) = Channel::pair().map_err(failed)?;
        let pid = spawn::own(Own::Helper, &self.spec.helper_arguments, &theirs).map_err(failed)?;
        self.children.helper = Some(OwnProcess { pid, channel: ours });
        let mut helpers_end = None;
        if captured {
            let (for_proxy, for_helper) = Channel::pair().map_err(failed)?;
            self.sockets = Some(for_proxy);
            helpers_end = Some(for_helper);
        }
        let descriptors: Vec<BorrowedFd<'_>> = helpers_end.iter().map(AsFd::as_fd).collect();
        match &self.children.helper {
            Some(helper) => helper.channel.send(&ToHelper::Setup(Box::new(setup)), &descriptors).map_err(failed),
            None => Ok(()),
        }
    }

    /// From the order to start the app to its end; its exit code. Signals that come before the app
    /// has started reach it afterwards, as the helper takes its orders one by one.
    fn watch(&mut self) -> Result<u8, Stop> {
        let mut phase = Phase::Running;
        let mut pause = FIRST_PAUSE;
        let mut served_from = Instant::now();
        let mut restart_at: Option<Instant> = None;
        loop {
            let draining_until = match phase {
                Phase::Draining { until, .. } => Some(until),
                Phase::Running | Phase::Stopping => None,
            };
            let until = [draining_until, restart_at].into_iter().flatten().min();
            let event = self.children.next(until).map_err(RunError::system("watch over the app"))?;
            match event {
                Event::Signal(signal @ (libc::SIGTERM | libc::SIGINT | libc::SIGHUP)) => {
                    phase = self.end_wanted(phase, signal);
                }
                Event::Signal(libc::SIGCONT) => self.go_on(),
                Event::Signal(number) => self.tell_helper(&ToHelper::Signal { number }),
                Event::FromProxy(FromProxy::Drained) => phase = self.pass_on(phase),
                Event::FromProxy(FromProxy::Serving) => served_from = Instant::now(),
                Event::FromProxy(FromProxy::Failed { message }) => (self.notice)(&message),
                Event::FromProxy(FromProxy::Prepared { virtual_v4, virtual_v6, .. }) => {
                    self.compare_addresses(virtual_v4, virtual_v6);
                }
                Event::ProxyGone(how) => {
                    phase = self.pass_on(phase);
                    if served_from.elapsed() >= STEADY {
                        pause = FIRST_PAUSE;
                    }
                    (self.notice)(&format!("the proxy ended ({how}); it is started again in {} ms", pause.as_millis()));
                    restart_at = Some(Instant::now() + pause);
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
                Event::FromHelper(FromHelper::Listening { listeners }, _) => {
                    self.listening = Some(listeners.clone());
                    self.tell_proxy(&ToProxyText::Listening { listeners }, &[]);
                }
                Event::FromHelper(FromHelper::Ended { code }, _) => return Ok(code),
                Event::FromHelper(FromHelper::Started { pid }, _) => self.app = Pid::from_raw(pid),
                Event::FromHelper(FromHelper::Stopped, _) => self.stop_too(),
                Event::FromHelper(FromHelper::Failed { message }, _) => {
                    return Err(RunError::Helper(message).into());
                }
                Event::FromHelper(_, _) => {}
                Event::HelperGone(how) => return Err(RunError::HelperEnded(how).into()),
                Event::Timeout => {}
            }
            let now = Instant::now();
            if let Phase::Draining { until, .. } = phase
                && now >= until
            {
                (self.notice)("the proxy did not drain in time; the app gets the signal now");
                phase = self.pass_on(phase);
            }
            if restart_at.is_some_and(|at| now >= at) {
                restart_at = None;
                served_from = now;
                if let Err(error) = self.start_proxy() {
                    (self.notice)(&format!("{error}; next attempt in {} ms", pause.as_millis()));
                    restart_at = Some(now + pause);
                    pause = (pause * 2).min(LONGEST_PAUSE);
                } else if matches!(phase, Phase::Stopping) {
                    // Callers must not be invited again.
                    self.tell_proxy(&ToProxyText::Drain { deadline_ms: 0 }, &[]);
                }
            }
        }
    }

    /// A proxy that was started again may have been given other addresses than the app has.
    fn compare_addresses(&mut self, v4: Ipv4Addr, v6: Option<Ipv6Addr>) {
        if self.spec.mode != Mode::Namespaces {
            return;
        }
        if let Some((before, _)) = self.addresses.replace((v4, v6)).filter(|own| *own != (v4, v6)) {
            (self.notice)(&format!(
                "the workload's virtual address is {v4} now; the app keeps {before} until it is \
                 started again"
            ));
        }
    }

    /// The user wants the app to end.
    fn end_wanted(&mut self, phase: Phase, signal: i32) -> Phase {
        match phase {
            Phase::Running if self.children.proxy.is_some() => {
                let deadline_ms = milliseconds(self.spec.drain_deadline);
                self.tell_proxy(&ToProxyText::Drain { deadline_ms }, &[]);
                let until = Instant::now() + self.spec.drain_deadline + ANSWER_MARGIN;
                Phase::Draining { signal, until }
            }
            Phase::Running | Phase::Draining { .. } | Phase::Stopping => {
                self.tell_helper(&ToHelper::Signal { number: signal });
                Phase::Stopping
            }
        }
    }

    /// The proxy has drained, or will not: the app gets its signal.
    fn pass_on(&mut self, phase: Phase) -> Phase {
        if let Phase::Draining { signal, .. } = phase {
            self.tell_helper(&ToHelper::Signal { number: signal });
            return Phase::Stopping;
        }
        phase
    }

    /// The terminal stopped the app: so stops what the shell knows as the job.
    fn stop_too(&mut self) {
        let (Some(terminal), Some(app)) = (&self.terminal, self.app) else { return };
        terminal.take_back_from(app);
        self.children.signals.stop_here();
        // Continued, or never stopped since no shell would have continued us.
        self.go_on();
    }

    /// The shell continues the job, in the foreground or not.
    fn go_on(&mut self) {
        if let (Some(terminal), Some(app)) = (&self.terminal, self.app)
            && terminal.is_ours()
        {
            terminal.give_to(app);
        }
        self.tell_helper(&ToHelper::Signal { number: libc::SIGCONT });
    }

    /// The app has ended: the proxy sends what is still in flight.
    fn finish(&mut self) -> Result<(), RunError> {
        self.return_terminal();
        self.tell_proxy(&ToProxyText::AppEnded, &[]);
        let until = Instant::now() + self.spec.finish_deadline;
        while self.children.proxy.is_some() {
            match self.children.next(Some(until)).map_err(RunError::system("wait for the end"))? {
                Event::Timeout
                | Event::ProxyGone(_)
                | Event::FromProxy(FromProxy::Drained)
                | Event::Signal(libc::SIGTERM | libc::SIGINT | libc::SIGHUP | libc::SIGQUIT) => {
                    break;
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn return_terminal(&self) {
        if let (Some(terminal), Some(app)) = (&self.terminal, self.app) {
            terminal.take_back_from(app);
        }
    }

    /// Ends everything that is left.
    fn end(mut self, spared: &[Pid]) {
        self.children.end(self.spec.kill_grace + HELPER_PATIENCE);
        processes::end_descendants(spared, Duration::ZERO);
        self.return_terminal();
    }

    /// A proxy that cannot be told is gone, which comes as an event, or hangs, and is replaced.
    fn tell_proxy(&self, message: &ToProxyText, descriptors: &[BorrowedFd<'_>]) {
        let Some(proxy) = &self.children.proxy else { return };
        if let Err(error) = proxy.channel.send(message, descriptors) {
            tracing::debug!(%error, "the proxy cannot be told {message:?}");
            if error.kind() == io::ErrorKind::TimedOut {
                let _ = rustix::process::kill_process(proxy.pid, Signal::KILL);
            }
        }
    }

    /// A helper that cannot be told is gone, which comes as an event.
    fn tell_helper(&self, message: &ToHelper) {
        let Some(helper) = &self.children.helper else { return };
        if let Err(error) = helper.channel.send(message, &[]) {
            tracing::debug!(%error, "the helper cannot be told {message:?}");
        }
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
