//! Instructions per request, counted by callgrind: a figure that no neighbour on the machine disturbs, kept for each commit.
//!
//! A proxy runs twice, for N and for 3 N requests; the difference over 2 N leaves out its start and its end. Kernel time is no
//! part of it.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, ensure};

use crate::certificates::Certificates;
use crate::load;
use crate::peers::{Peer, Programs, Speaks, Wanted};

/// Requests of the shorter run.
const REQUESTS: u64 = 1500;
/// The most that a figure may grow from one commit to the next, as a share.
const MOST_GROWTH: f64 = 0.05;
/// The first line of the file.
const HEAD: &str = "commit,scenario,proxy,instructions per request\n";

/// What is counted: name, what is spoken, whether there are two proxies.
const SCENARIOS: [(&str, Speaks, bool); 4] = [
    ("http1-plain", Speaks::Http1, false),
    ("http1-mtls", Speaks::Http1, true),
    ("http2-mtls", Speaks::Http2, true),
    ("tcp-mtls", Speaks::Tcp, true),
];

/// Counts, appends to `file`, and says what changed. An error if anything grew by more than a twentieth.
pub(crate) fn run(
    programs: &Programs,
    certificates: &Certificates,
    backends: &crate::scenario::Bench,
    file: &Path,
    commit: &str,
) -> anyhow::Result<()> {
    let version = Command::new("valgrind").arg("--version").output();
    ensure!(version.is_ok_and(|output| output.status.success()), "valgrind is missing: apt-get install valgrind");
    let known = fs::read_to_string(file).unwrap_or_else(|_| HEAD.to_owned());
    let (mut text, mut grown) = (known.clone(), Vec::new());
    for (name, speaks, two) in SCENARIOS {
        eprintln!("{name}: counting …");
        let mut totals = Vec::new();
        for times in [1, 3] {
            let place = backends.place.join(format!("instructions-{name}-{times}"));
            fs::create_dir_all(&place)?;
            let (mut backend, address, command) = backends.backend(speaks, &place)?;
            backend.wait_for(address)?;
            let wanted = Wanted { speaks, two, backend: address, command: &command, certificates, place: &place, workers: 1 };
            totals.push(count(programs, &wanted, REQUESTS * times)?);
        }
        for (proxy, (less, more)) in totals[0].iter().zip(&totals[1]).enumerate() {
            let instructions = (more - less) / (2 * REQUESTS);
            let proxy = if !two {
                "alone"
            } else if proxy == 0 {
                "caller's"
            } else {
                "callee's"
            };
            let before = last(&known, name, proxy);
            let change =
                before.map_or_else(|| "first count".to_owned(), |before| format!("{:+.1} %", growth(before, instructions) * 100.0));
            println!("{name:<12} {proxy:<10} {instructions:>8} instructions a request  {change}");
            text.push_str(&format!("{commit},{name},{proxy},{instructions}\n"));
            if before.is_some_and(|before| growth(before, instructions) > MOST_GROWTH) {
                grown.push(format!("{name} {proxy} {change}"));
            }
        }
    }
    fs::create_dir_all(file.parent().context("no directory")?)?;
    fs::write(file, text)?;
    ensure!(grown.is_empty(), "requests became dearer by more than 5 %: {}", grown.join(", "));
    Ok(())
}

#[allow(clippy::cast_precision_loss, reason = "a count of instructions a request is small")]
fn growth(before: u64, now: u64) -> f64 {
    now as f64 / before as f64 - 1.0
}

/// The last count of a proxy in a scenario.
fn last(csv: &str, scenario: &str, proxy: &str) -> Option<u64> {
    let of = |line: &str| {
        let mut fields = line.split(',').skip(1);
        (fields.next()? == scenario && fields.next()? == proxy).then(|| fields.next()?.parse().ok()).flatten()
    };
    csv.lines().filter_map(of).next_back()
}

/// The instructions of each proxy of a rig from its start to its end, `requests` in between.
fn count(programs: &Programs, wanted: &Wanted<'_>, requests: u64) -> anyhow::Result<Vec<u64>> {
    let rig = Peer::Lorica.start_under(programs, wanted, &["valgrind", "--tool=callgrind", "--callgrind-out-file=callgrind.out"])?;
    match wanted.speaks {
        Speaks::Http1 => http1(rig.entry, requests)?,
        Speaks::Http2 => drop(load::h2load_count(rig.entry, "/small", requests)?),
        Speaks::Tcp => tcp(rig.entry, requests)?,
    }
    let mut all = Vec::new();
    for (proxy, place) in rig.proxies.into_iter().zip(&rig.places) {
        proxy.end()?;
        let text = fs::read_to_string(place.join("callgrind.out")).context("callgrind wrote nothing")?;
        let total = text.lines().rev().find_map(|line| line.strip_prefix("totals:")).and_then(|number| number.trim().parse().ok());
        all.push(total.context("callgrind counted nothing")?);
    }
    Ok(all)
}

fn http1(entry: SocketAddr, requests: u64) -> anyhow::Result<()> {
    let mut stream = std::net::TcpStream::connect(entry)?;
    let mut buffer = [0; 4096];
    for _ in 0..requests {
        stream.write_all(b"GET / HTTP/1.1\r\nHost: web.bench\r\nUser-Agent: bench\r\n\r\n")?;
        let count = stream.read(&mut buffer)?;
        ensure!(buffer[..count].starts_with(b"HTTP/1.1 200"), "no 200");
    }
    Ok(())
}

fn tcp(entry: SocketAddr, messages: u64) -> anyhow::Result<()> {
    let mut stream = std::net::TcpStream::connect(entry)?;
    stream.set_nodelay(true)?;
    let mut buffer = [b'x'; 100];
    for _ in 0..messages {
        stream.write_all(&buffer)?;
        stream.read_exact(&mut buffer)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_count_of_the_same_kind_is_compared_with() {
        let csv = format!("{HEAD}a,http1-plain,alone,100\nb,http1-mtls,alone,7\nb,http1-plain,alone,90\n");
        assert_eq!(last(&csv, "http1-plain", "alone"), Some(90));
        assert_eq!(last(&csv, "http1-plain", "caller's"), None);
        assert!(growth(100, 106) > MOST_GROWTH && growth(100, 104) < MOST_GROWTH);
    }
}
