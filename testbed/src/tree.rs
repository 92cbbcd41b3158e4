//! Which processes belong to a mesh under test, by what the kernel tells of all. In flow the mesh's directory and the process groups that were
//! started for it; out flow those alive. A process belongs if its environment or command line names the directory, if it is in such a group, or
//! if one that belongs is above it: one of these holds for programs that hide their environment, and for those that left their group.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags, Signal};

/// A process that belongs to the mesh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) pid: i32,
    pub(crate) command: String,
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.pid, self.command)
    }
}

/// What /proc says about a process.
#[derive(Debug, Clone)]
struct Seen {
    parent: i32,
    group: i32,
    names_directory: bool,
    command: String,
}

/// The living processes of a mesh, without this one and without those that have ended and wait to be reaped.
pub(crate) fn members(directory: &Path, groups: &BTreeSet<i32>) -> Vec<Member> {
    let own = rustix::process::getpid().as_raw_nonzero().get();
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    // One that ends meanwhile is none.
    let seen: BTreeMap<i32, Seen> = pids.filter(|pid| *pid != own).filter_map(|pid| Some((pid, look(pid, directory)?))).collect();
    choose(&seen, groups)
}

fn choose(seen: &BTreeMap<i32, Seen>, groups: &BTreeSet<i32>) -> Vec<Member> {
    seen.iter()
        .filter(|(_, process)| belongs(process, seen, groups))
        .map(|(pid, process)| Member { pid: *pid, command: process.command.clone() })
        .collect()
}

fn belongs<'a>(mut process: &'a Seen, seen: &'a BTreeMap<i32, Seen>, groups: &BTreeSet<i32>) -> bool {
    // Parents cannot go round in a circle, but pids reused while reading might seem to.
    for _ in 0..64 {
        if process.names_directory || groups.contains(&process.group) {
            return true;
        }
        match seen.get(&process.parent) {
            Some(parent) => process = parent,
            None => return false,
        }
    }
    false
}

fn look(pid: i32, directory: &Path) -> Option<Seen> {
    let directory = directory.as_os_str().as_encoded_bytes();
    let read = |file: &str| fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
    let names = |bytes: &[u8]| bytes.windows(directory.len()).any(|window| window == directory);
    let mut looks = 0;
    let (process, command_line, environment) = loop {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let process = Stat::read(&stat)?;
        if matches!(process.state, 'Z' | 'X') || process.flags & KERNEL_THREAD != 0 {
            return None;
        }
        let (command_line, environment) = (read("cmdline"), read("environ"));
        // In the moment in which a process takes up another program, it has neither: look again.
        looks += 1;
        if !command_line.is_empty() || !environment.is_empty() || looks == 100 {
            break (process, command_line, environment);
        }
        std::thread::yield_now();
    };
    let command: String = String::from_utf8_lossy(&command_line).replace('\0', " ").trim().chars().take(200).collect();
    Some(Seen {
        parent: process.parent,
        group: process.group,
        names_directory: names(&command_line) || names(&environment),
        command: if command.is_empty() { format!("({})", process.name) } else { command },
    })
}

/// `PF_KTHREAD` of the kernel's `sched.h`.
const KERNEL_THREAD: u32 = 0x0020_0000;

/// Fields of /proc/PID/stat.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    name: String,
    state: char,
    parent: i32,
    group: i32,
    flags: u32,
}

impl Stat {
    fn read(text: &str) -> Option<Self> {
        // The name may contain anything, parentheses too.
        let (before, after) = text.rsplit_once(')')?;
        let (_, name) = before.split_once('(')?;
        let fields: Vec<&str> = after.split_whitespace().take(7).collect();
        let [state, parent, group, _session, _terminal, _foreground, flags] = fields.as_slice() else { return None };
        let state = state.chars().next()?;
        Some(Self { name: name.to_owned(), state, parent: parent.parse().ok()?, group: group.parse().ok()?, flags: flags.parse().ok()? })
    }
}

/// Kills all members, and those that they start meanwhile, until none is left. What still lives at the deadline is given back.
pub(crate) fn kill_all(directory: &Path, groups: &BTreeSet<i32>, within: Duration) -> Vec<Member> {
    let deadline = Instant::now() + within;
    loop {
        let members = members(directory, groups);
        let left = deadline.saturating_duration_since(Instant::now());
        if members.is_empty() || left.is_zero() {
            return members;
        }
        // First all are opened, so that a number reused since cannot hit another.
        let open: Vec<OwnedFd> =
            members.iter().filter_map(|member| rustix::process::pidfd_open(Pid::from_raw(member.pid)?, PidfdFlags::empty()).ok()).collect();
        for process in &open {
            // It ended by itself.
            let _ = rustix::process::pidfd_send_signal(process, Signal::KILL);
        }
        wait_for_end(&open, left.min(Duration::from_millis(200)));
    }
}

/// Returns when the processes have ended, or time is up.
fn wait_for_end(processes: &[OwnedFd], within: Duration) {
    let deadline = Instant::now() + within;
    for process in processes {
        let left = deadline.saturating_duration_since(Instant::now());
        let wait = Timespec { tv_sec: 0, tv_nsec: left.subsec_nanos().into() };
        // Time is up, or a signal came: the caller looks again.
        let _ = rustix::event::poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&wait));
    }
}

/// Makes this process the parent of those that lose theirs, so that none of them escapes from being seen as a descendant.
pub(crate) fn adopt_orphans() -> io::Result<()> {
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{PATIENCE, Running, Who, eventually, place::Place};

    #[test]
    fn a_process_is_read() {
        let expected = Stat { name: "a) b (c".to_owned(), state: 'S', parent: 3, group: 4, flags: 8 };
        assert_eq!(Stat::read("12 (a) b (c) S 3 4 5 6 7 8 9"), Some(expected));
        assert_eq!(Stat::read("12 x"), None);
    }

    #[test]
    fn members_are_chosen_by_environment_group_and_descent() {
        let process = |parent, group, names_directory| Seen { parent, group, names_directory, command: String::new() };
        let seen = BTreeMap::from([
            (10, process(1, 10, true)),
            (11, process(10, 11, false)),
            (12, process(11, 12, false)),
            (20, process(1, 99, false)),
            (30, process(1, 30, false)),
            (31, process(30, 30, false)),
        ]);
        let pids: Vec<i32> = choose(&seen, &BTreeSet::from([99])).iter().map(|member| member.pid).collect();
        assert_eq!(pids, [10, 11, 12, 20]);
    }

    #[tokio::test]
    async fn those_who_left_group_session_and_environment_are_found_and_killed() {
        adopt_orphans().unwrap();
        let place = Place::new(Who::Nobody).unwrap();
        let mut command = place.command("sh");
        // One keeps the environment, in a session of its own, without a parent; one has lost the environment too, in the first one's group.
        command.args(["-c", "setsid sleep 600 & env -i sleep 601 & echo started; wait"]);
        let running = Running::start("script", command, None).unwrap();
        running.line("started").await.unwrap();
        let groups = BTreeSet::from([running.pid()]);
        let sleeping = || members(place.path(), &groups).iter().filter(|member| member.command.contains("sleep 60")).count();
        eventually("both sleep", PATIENCE, || async {
            anyhow::ensure!(sleeping() >= 2 && running.ended().is_none());
            Ok(())
        })
        .await
        .unwrap();
        running.kill().await.unwrap();
        let left = members(place.path(), &groups);
        assert_eq!(left.len(), 2, "{left:?}");
        assert_eq!(kill_all(place.path(), &groups, PATIENCE), []);
        assert_eq!(members(place.path(), &groups), []);
    }
}
