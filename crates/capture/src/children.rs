//! The supervisor's two processes and the user's signals, as one stream of events. It reads what
//! comes and tells who is gone; what to do about it is the supervisor's.

use std::{
    collections::VecDeque,
    io,
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags},
    process::{Pid, Signal, WaitOptions, WaitStatus},
};

use crate::{
    FromProxy,
    channel::{Channel, Received},
    kernel::{self, Signals},
    message::FromHelper,
};

/// How long a process that has closed its channel may take to end by itself.
const LAST_WORDS: Duration = Duration::from_millis(500);
const TURN: Duration = Duration::from_millis(2);

#[derive(Debug)]
pub(crate) enum Event {
    FromProxy(FromProxy),
    /// How it ended.
    ProxyGone(String),
    FromHelper(FromHelper, Vec<OwnedFd>),
    /// How it ended.
    HelperGone(String),
    Signal(i32),
    Timeout,
}

/// A process of ours and the channel to it.
#[derive(Debug)]
pub(crate) struct OwnProcess {
    pub pid: Pid,
    pub channel: Channel,
}

pub(crate) struct Children {
    pub signals: Signals,
    pub proxy: Option<OwnProcess>,
    pub helper: Option<OwnProcess>,
    pending: VecDeque<Event>,
}

impl Children {
    pub(crate) fn new(signals: Signals) -> Self {
        Self { signals, proxy: None, helper: None, pending: VecDeque::new() }
    }

    /// The next event; `Timeout` at `until`.
    pub(crate) fn next(&mut self, until: Option<Instant>) -> io::Result<Event> {
        loop {
            if let Some(event) = self.pending.pop_front() {
                return Ok(event);
            }
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return Ok(Event::Timeout);
            }
            let mut polled = vec![PollFd::from_borrowed_fd(self.signals.descriptor(), PollFlags::IN)];
            for process in self.proxy.iter().chain(&self.helper) {
                polled.push(PollFd::new(&process.channel, PollFlags::IN));
            }
            kernel::poll(&mut polled, left)?;
            drop(polled);
            let mut children_changed = false;
            while let Some(signal) = self.signals.next() {
                if signal == libc::SIGCHLD {
                    children_changed = true;
                } else {
                    self.pending.push_back(Event::Signal(signal));
                }
            }
            self.read_proxy();
            self.read_helper();
            if children_changed {
                self.reap();
            }
        }
    }

    fn read_proxy(&mut self) {
        while let Some(proxy) = &self.proxy {
            let how = match proxy.channel.try_receive() {
                Ok(Received::Message(message, _)) => {
                    self.pending.push_back(Event::FromProxy(message));
                    continue;
                }
                Ok(Received::Nothing) => return,
                Ok(Received::Closed) => end(proxy.pid, LAST_WORDS),
                Err(error) => format!("{error}; {}", end(proxy.pid, Duration::ZERO)),
            };
            self.proxy = None;
            self.pending.push_back(Event::ProxyGone(how));
        }
    }

    fn read_helper(&mut self) {
        while let Some(helper) = &self.helper {
            let how = match helper.channel.try_receive() {
                Ok(Received::Message(message, descriptors)) => {
                    self.pending.push_back(Event::FromHelper(message, descriptors));
                    continue;
                }
                Ok(Received::Nothing) => return,
                // It may be ending the app's processes: whoever drops the rest waits for that.
                Ok(Received::Closed) => end(helper.pid, LAST_WORDS),
                Err(error) => format!("{error}; {}", end(helper.pid, Duration::ZERO)),
            };
            self.helper = None;
            self.pending.push_back(Event::HelperGone(how));
        }
    }

    /// Takes the exit codes of all that has ended: ours, and orphans that came to us.
    fn reap(&mut self) {
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            // What an ended process said last is still in its channel, and was read just before
            // unless it came in between.
            if self.proxy.as_ref().is_some_and(|proxy| proxy.pid == pid) {
                if let Some(OwnProcess { channel, .. }) = self.proxy.take() {
                    while let Ok(Received::Message(message, _)) = channel.try_receive() {
                        self.pending.push_back(Event::FromProxy(message));
                    }
                }
                self.pending.push_back(Event::ProxyGone(describe(status)));
            } else if self.helper.as_ref().is_some_and(|helper| helper.pid == pid) {
                if let Some(OwnProcess { channel, .. }) = self.helper.take() {
                    while let Ok(Received::Message(message, descriptors)) = channel.try_receive() {
                        self.pending.push_back(Event::FromHelper(message, descriptors));
                    }
                }
                self.pending.push_back(Event::HelperGone(describe(status)));
            }
        }
    }

    /// Closes both channels, which both take as the order to end, and waits until they have.
    pub(crate) fn end(&mut self, helper_patience: Duration) {
        let [proxy, helper] = [self.proxy.take(), self.helper.take()].map(|process| process.map(|OwnProcess { pid, channel: _ }| pid));
        if let Some(pid) = helper {
            end(pid, helper_patience);
        }
        if let Some(pid) = proxy {
            end(pid, LAST_WORDS);
        }
    }
}

/// Waits for a child to end; kills it after `patience`. Returns how it ended.
pub(crate) fn end(pid: Pid, patience: Duration) -> String {
    let until = Instant::now() + patience;
    while Instant::now() < until {
        match rustix::process::waitpid(Some(pid), WaitOptions::NOHANG) {
            Ok(None) => std::thread::sleep(TURN),
            Ok(Some((_, status))) => return describe(status),
            Err(error) => return error.to_string(),
        }
    }
    let _ = rustix::process::kill_process(pid, Signal::KILL);
    match rustix::process::waitpid(Some(pid), WaitOptions::empty()) {
        Ok(Some((_, status))) => describe(status),
        Ok(None) => "it did not end".to_owned(),
        Err(error) => error.to_string(),
    }
}

fn describe(status: WaitStatus) -> String {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "stopped".to_owned(),
    }
}
