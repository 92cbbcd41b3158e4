//! The processes below this one, found in /proc by their parents, and how they are ended: SIGTERM,
//! a grace, SIGKILL, until none is left. A process that is a child subreaper gets those whose
//! parents have died as children of its own, so nothing escapes by forking twice.

use std::{
    collections::HashMap,
    fs,
    time::{Duration, Instant},
};

use rustix::{
    io::Errno,
    process::{Pid, Signal, WaitOptions},
};

/// How often the end is looked for while processes are being ended.
const TURN: Duration = Duration::from_millis(5);
/// A process that does not die of SIGKILL in this time hangs in the kernel; it is left.
const KILL_PATIENCE: Duration = Duration::from_secs(5);

/// The children that this process has now.
pub(crate) fn children() -> Vec<Pid> {
    parents_to_children().remove(&rustix::process::getpid()).unwrap_or_default()
}

/// Ends every descendant of this process but `spared` ones and what is below them.
pub(crate) fn end_descendants(spared: &[Pid], grace: Duration) {
    let first = descendants(spared);
    if first.is_empty() {
        reap(spared);
        return;
    }
    for pid in first {
        signal(pid, Signal::TERM);
        // A stopped process would not see it.
        signal(pid, Signal::CONT);
    }
    let graceful_until = Instant::now() + grace;
    let given_up = graceful_until + KILL_PATIENCE;
    loop {
        reap(spared);
        let left = descendants(spared);
        let now = Instant::now();
        if left.is_empty() || now >= given_up {
            return;
        }
        if now >= graceful_until {
            for pid in left {
                signal(pid, Signal::KILL);
            }
        }
        std::thread::sleep(TURN);
    }
}

/// A process may be gone by now; nothing to do then.
fn signal(pid: Pid, signal: Signal) {
    match rustix::process::kill_process(pid, signal) {
        Ok(()) | Err(Errno::SRCH) => {}
        Err(error) => tracing::debug!(%error, pid = pid.as_raw_pid(), "cannot be signalled"),
    }
}

/// Takes the exit codes of children that have ended.
fn reap(spared: &[Pid]) {
    for pid in children() {
        if !spared.contains(&pid) {
            let _ = rustix::process::waitpid(Some(pid), WaitOptions::NOHANG);
        }
    }
}

fn descendants(spared: &[Pid]) -> Vec<Pid> {
    let tree = parents_to_children();
    let mut found = Vec::new();
    let mut open = vec![rustix::process::getpid()];
    while let Some(parent) = open.pop() {
        for &child in tree.get(&parent).into_iter().flatten() {
            if !spared.contains(&child) && !found.contains(&child) {
                found.push(child);
                open.push(child);
            }
        }
    }
    found
}

fn parents_to_children() -> HashMap<Pid, Vec<Pid>> {
    let mut tree: HashMap<Pid, Vec<Pid>> = HashMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(parse_pid) else { continue };
        let Ok(stat) = fs::read(entry.path().join("stat")) else { continue };
        if let Some(parent) = parent_in(&stat) {
            tree.entry(parent).or_default().push(pid);
        }
    }
    tree
}

fn parse_pid(text: &str) -> Option<Pid> {
    text.parse().ok().and_then(Pid::from_raw)
}

/// The parent in /proc/PID/stat: the second field after the name, which stands in parentheses and
/// may contain anything.
fn parent_in(stat: &[u8]) -> Option<Pid> {
    let end_of_name = stat.iter().rposition(|&byte| byte == b')')?;
    let rest = std::str::from_utf8(stat.get(end_of_name + 1..)?).ok()?;
    rest.split_whitespace().nth(1).and_then(parse_pid)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_parent_is_found_behind_any_name() {
        assert_eq!(parent_in(b"7 (a) S 3) R 42 7 7 0"), Pid::from_raw(42));
        assert_eq!(parent_in(b"7 (x) S 0 7"), None);
        assert_eq!(parent_in(b"7"), None);
    }

    #[test]
    fn a_child_is_seen() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pid = Pid::from_child(&child);
        assert!(children().contains(&pid));
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
