//! The store under fire: killed at any moment, and on a full disk. What was acknowledged is there afterwards.
//!
//! Both tests run this very binary again as another process; told by the environment, it plays that part.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::env;
use std::io::{BufRead, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use lorica_control::store::{Embedded, Expected, Store, StoreError, Table, Write};

const PART: &str = "LORICA_TEST_STORE";
const ROUNDS: usize = 20;

fn write(key: String, value: Vec<u8>) -> Write {
    Write { table: Table::Resources, key, value: Some(value), expected: Expected::Anything }
}

fn say(line: &str) {
    let mut out = std::io::stdout();
    writeln!(out, "{line}").unwrap();
    out.flush().unwrap();
}

/// The part that this process is to play, if it is not the test itself.
fn part() -> Option<PathBuf> {
    env::var_os(PART).map(PathBuf::from)
}

fn record(round: &str, number: usize) -> Vec<u8> {
    // Sizes from a few bytes to several pages.
    format!("{round}/{number}/").repeat(1 + number * 37 % 700).into_bytes()
}

/// Writes until it is killed, saying each batch once it is acknowledged.
fn write_for_ever(directory: &Path) {
    let store = Embedded::open(directory).unwrap();
    let round = store.revision().unwrap().0.to_string();
    for number in 0.. {
        let batch =
            [write(format!("{round}-{number}-a"), record(&round, number)), write(format!("{round}-{number}-b"), record(&round, number))];
        store.write(&batch).unwrap();
        say(&format!("acknowledged {round} {number}"));
    }
}

#[test]
fn what_was_acknowledged_survives_a_kill() {
    if let Some(directory) = part() {
        return write_for_ever(&directory);
    }
    let directory = tempfile::tempdir().unwrap();
    let mut acknowledged: Vec<(String, usize)> = Vec::new();
    for round in 0..ROUNDS {
        let mut child = Command::new(env::current_exe().unwrap())
            .args(["what_was_acknowledged_survives_a_kill", "--exact", "--nocapture"])
            .env(PART, directory.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut until_killed = 1 + round * 7 % 40;
        // What it said before it died counts, wherever the kill found it.
        while let Some(Ok(line)) = lines.next() {
            let Some(said) = line.strip_prefix("acknowledged ") else { continue };
            let (revision, number) = said.split_once(' ').unwrap();
            acknowledged.push((revision.to_owned(), number.parse().unwrap()));
            until_killed = until_killed.saturating_sub(1);
            if until_killed == 0 {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        let store = Embedded::open(directory.path()).unwrap();
        for (revision, number) in &acknowledged {
            for half in ["a", "b"] {
                let found = store.get(Table::Resources, &format!("{revision}-{number}-{half}")).unwrap();
                assert_eq!(found.as_ref(), Some(&record(revision, *number)), "round {round}: {revision}-{number}-{half}");
            }
        }
        let halves = store.list(Table::Resources).unwrap().len();
        assert_eq!(halves % 2, 0, "a batch is there as a whole or not at all");
        assert!(halves / 2 <= acknowledged.len() + round + 1, "at most one batch a round was written and not yet said");
        assert!(store.revision().unwrap().0 >= acknowledged.len() as u64);
    }
}

/// Fills a disk of its own, and makes room again.
fn fill_the_disk(directory: &Path) {
    use rustix::mount::{MountFlags, mount, mount_remount};
    let mounted = mount("tmpfs", directory, "tmpfs", MountFlags::empty(), Some(c"size=6m,mode=0700"));
    if let Err(error) = mounted {
        return say(&format!("left out: a tmpfs cannot be mounted here: {error}"));
    }
    let store = Embedded::open(directory).unwrap();
    let mut kept = 0;
    let refused = loop {
        match store.write(&[write(format!("{kept}"), vec![7; 64 * 1024])]) {
            Ok(_) => kept += 1,
            Err(error) => break error,
        }
        assert!(kept < 1000, "the disk was never full");
    };
    assert!(matches!(refused, StoreError::Full { .. }), "{refused}");
    let all_there = |kept: usize| {
        let found = store.list(Table::Resources).unwrap();
        assert_eq!(found.len(), kept);
        assert!(found.iter().all(|(_, value)| *value == vec![7; 64 * 1024]));
    };
    // It goes on: reads are answered, further writes are refused as clearly, nothing is lost.
    for _ in 0..3 {
        all_there(kept);
        let again = store.write(&[write("again".to_owned(), vec![7; 64 * 1024])]).unwrap_err();
        assert!(matches!(again, StoreError::Full { .. }), "{again}");
    }
    mount_remount(directory, MountFlags::empty(), c"size=32m,mode=0700").unwrap();
    store.write(&[write("again".to_owned(), vec![7; 64 * 1024])]).unwrap();
    all_there(kept + 1);
    drop(store);
    assert_eq!(Embedded::open(directory).unwrap().list(Table::Resources).unwrap().len(), kept + 1);
    say(&format!("filled with {kept} records"));
}

#[test]
fn a_full_disk_refuses_and_loses_nothing() {
    if let Some(directory) = part() {
        return fill_the_disk(&directory);
    }
    let directory = tempfile::tempdir().unwrap();
    let child = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "--"])
        .arg(env::current_exe().unwrap())
        .args(["a_full_disk_refuses_and_loses_nothing", "--exact", "--nocapture"])
        .env(PART, directory.path())
        .output();
    let output = match child {
        Ok(output) => output,
        Err(error) => return say(&format!("left out: unshare cannot be started: {error}")),
    };
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if let Some(why) = out.lines().find(|line| line.starts_with("left out")) {
        return say(why);
    }
    if err.starts_with("unshare:") {
        return say(&format!("left out: this machine makes no user namespace: {err}"));
    }
    assert!(output.status.success() && out.contains("filled with"), "{out}\n{err}");
}

#[test]
fn a_second_control_plane_is_kept_out_and_its_file_is_its_owners() {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("control");
    let store = Embedded::open(&state).unwrap();
    let second = Embedded::open(&state).map(drop).unwrap_err();
    assert!(matches!(second, StoreError::InUse { .. }), "{second}");
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&state), mode(&state.join("store.redb"))), (0o700, 0o600));
    drop(store);
    Embedded::open(&state).unwrap();
}

#[test]
fn a_batch_holds_as_a_whole_or_not_at_all() {
    let directory = tempfile::tempdir().unwrap();
    let store = Embedded::open(directory.path()).unwrap();
    let first = store.write(&[write("a".to_owned(), b"1".to_vec())]).unwrap();
    let expecting = |key: &str, value: &[u8], expected| Write { expected, ..write(key.to_owned(), value.to_vec()) };
    let refused = store.write(&[write("b".to_owned(), b"2".to_vec()), expecting("a", b"2", Expected::Absent)]).unwrap_err();
    assert!(matches!(refused, StoreError::Conflict { ref key } if key == "a"), "{refused}");
    let refused = store.write(&[expecting("a", b"2", Expected::Value(b"0".to_vec()))]).unwrap_err();
    assert!(matches!(refused, StoreError::Conflict { .. }), "{refused}");
    let refused = store.write(&[write("c".to_owned(), vec![0; 1024 * 1024 + 1])]).unwrap_err();
    assert!(matches!(refused, StoreError::TooLarge { .. }), "{refused}");
    assert_eq!((store.list(Table::Resources).unwrap().len(), store.revision().unwrap()), (1, first));
    let mut watched = store.watch();
    let second = store.write(&[expecting("a", b"2", Expected::Value(b"1".to_vec()))]).unwrap();
    let seen = watched.try_recv().unwrap();
    assert!(second > first && seen.revision == second && seen.keys == [(Table::Resources, "a".to_owned())]);
}
