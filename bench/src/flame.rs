//! Flame graphs: where the CPU time of the proxies goes. In: scenarios whose rigs `perf` samples under load. Out: an SVG each in
//! docs/performance, and a table of shares in docs/performance.md.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, ensure};

use crate::peers::{Peer, Rig};
use crate::plot;
use crate::report;
use crate::scenario::{Bench, Scenario};

/// What is looked at.
const SCENARIOS: [Scenario; 4] = [Scenario::Http1Plain, Scenario::Http1Mtls, Scenario::Http2Mtls, Scenario::BulkMtls];
/// How long it is looked at, in seconds.
const SECONDS: u64 = 5;
/// Samples a second and thread. No multiple of the kernel's ticks, so that what ticks do is not seen each time.
const SAMPLES: &str = "997";
/// Frames with a smaller share are left out of the picture: nobody could read them.
const LEAST_SHARE: f64 = 0.002;

/// What stands between the markers of docs/performance.md.
const MARKERS: (&str, &str) = ("<!-- shares: written by `cargo xtask bench flame` -->\n", "<!-- end of shares -->\n");

/// Samples every scenario, writes the pictures and the table.
pub(crate) fn run(bench: &Bench, docs: &Path, commit: &str) -> anyhow::Result<()> {
    let perf = Command::new("perf").arg("--version").output();
    ensure!(perf.is_ok_and(|output| output.status.success()), "perf is missing: apt-get install linux-perf");
    let place = docs.join("performance");
    let mut shares = Vec::new();
    for scenario in SCENARIOS {
        eprintln!("{}: sampling …", scenario.name());
        let samples = scenario.under_load(bench, Peer::Lorica, Duration::from_secs(SECONDS + 3), |rig| sample(rig, &bench.place))?;
        ensure!(samples.len() > 100, "perf took {} samples of {}: is the machine busy?", samples.len(), scenario.name());
        let title = format!("{}: CPU time of Lorica's proxies, {} samples, commit {commit}", scenario.name(), samples.len());
        fs::write(place.join(format!("flame-{}.svg", scenario.name())), picture(&title, &samples))?;
        shares.push((scenario.name(), groups(&samples)));
    }
    let table = table(&shares);
    println!("{table}");
    let page = docs.join("performance.md");
    let text = fs::read_to_string(&page).with_context(|| page.display().to_string())?;
    let part = format!("Shares of CPU time, sampled at commit {commit}:\n\n{table}");
    fs::write(&page, report::replaced(&text, MARKERS, &part)?)?;
    println!("written: docs/performance.md, docs/performance/flame-*.svg");
    Ok(())
}

/// A sampled stack: frames from the outermost to the innermost.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Sample {
    frames: Vec<Frame>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Frame {
    name: String,
    group: Group,
}

/// Whose code a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Group {
    Kernel,
    Proxy,
    Tls,
    Runtime,
    Allocator,
    Libc,
    Other,
}

impl Group {
    const ALL: [Self; 7] = [Self::Kernel, Self::Proxy, Self::Tls, Self::Runtime, Self::Allocator, Self::Libc, Self::Other];

    fn of(name: &str, object: &str) -> Self {
        let starts = |words: &[&str]| words.iter().any(|word| name.starts_with(word) || name.starts_with(&format!("<{word}")));
        match () {
            () if object.contains("kernel") || object.contains("[k") => Self::Kernel,
            () if object.contains("libc") || object.contains("libm") || object.contains("vdso") => Self::Libc,
            () if starts(&["lorica_"]) => Self::Proxy,
            () if starts(&["rustls", "aws_lc", "tokio_rustls"]) => Self::Tls,
            () if starts(&["tokio", "mio"]) => Self::Runtime,
            () if starts(&["mi_", "_mi_"]) => Self::Allocator,
            () => Self::Other,
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::Proxy => "the proxy's own code",
            Self::Tls => "TLS",
            Self::Runtime => "tokio",
            Self::Allocator => "allocator",
            Self::Libc => "libc, clock",
            Self::Other => "other libraries, inlined std",
        }
    }

    fn colour(self) -> &'static str {
        match self {
            Self::Kernel => "#94a3b8",
            Self::Proxy => "#f59e0b",
            Self::Tls => "#a78bfa",
            Self::Runtime => "#7dd3fc",
            Self::Allocator => "#fca5a5",
            Self::Libc => "#86efac",
            Self::Other => "#fde68a",
        }
    }
}

/// Has perf sample all proxies of a rig.
fn sample(rig: &Rig, place: &Path) -> anyhow::Result<Vec<Sample>> {
    let data = place.join("perf.data");
    let ids: Vec<String> = rig.proxies.iter().map(|proxy| proxy.id().to_string()).collect();
    let mut record = Command::new("perf");
    record.args(["record", "-q", "-e", "cpu-clock", "-F", SAMPLES, "--call-graph", "dwarf,32768", "-p", &ids.join(","), "-o"]);
    record.arg(&data).args(["--", "sleep", &SECONDS.to_string()]);
    let recorded = record.stdout(Stdio::null()).output().context("perf cannot be started")?;
    ensure!(recorded.status.success(), "perf record failed: {}", String::from_utf8_lossy(&recorded.stderr));
    let script = Command::new("perf").args(["script", "-F", "comm,ip,sym,dso", "-i"]).arg(&data).output()?;
    ensure!(script.status.success(), "perf script failed: {}", String::from_utf8_lossy(&script.stderr));
    Ok(samples(&String::from_utf8_lossy(&script.stdout)))
}

/// The stacks in what `perf script` says: a line with the thread, a line a frame from the innermost out, an empty line.
fn samples(text: &str) -> Vec<Sample> {
    let mut all = Vec::new();
    for block in text.split("\n\n") {
        let mut lines = block.lines().filter(|line| !line.trim().is_empty());
        let Some(thread) = lines.next() else { continue };
        let mut frames: Vec<Frame> = lines.filter_map(frame).collect();
        frames.reverse();
        // What every stack of a thread begins with says nothing.
        let first = frames.iter().position(|frame| !is_base(&frame.name)).unwrap_or(frames.len());
        frames.drain(..first);
        frames.dedup_by(|next, before| next.name == before.name);
        frames.insert(0, Frame { name: thread.trim().to_owned(), group: Group::Other });
        all.push(Sample { frames });
    }
    all
}

/// `    d65322 lorica_proxy::path::relay::relay::{{closure}} (/usr/bin/lorica)`
fn frame(line: &str) -> Option<Frame> {
    let (_, rest) = line.trim().split_once(' ')?;
    let (name, object) = rest.rsplit_once(" (").unwrap_or((rest, ""));
    let name = name.trim_end_matches("(inlined)").trim().replace("::{{closure}}", "");
    let name = name.split_once("+0x").map_or(name.as_str(), |(name, _)| name).to_owned();
    let group = Group::of(&name, object);
    Some(Frame { name, group })
}

/// Frames that a runtime and a thread begin with.
fn is_base(name: &str) -> bool {
    const BASE: [&str; 10] = [
        "[unknown]",
        "LocalSet::",
        "runtime::task",
        "thread_start",
        "start_thread",
        "clone",
        "call_once",
        "short_backtrace",
        "lorica_proxy::workers::work",
        "block_on",
    ];
    BASE.iter().any(|word| name.contains(word))
}

/// The share of each group, by the innermost frame.
fn groups(samples: &[Sample]) -> BTreeMap<Group, f64> {
    let mut shares = BTreeMap::new();
    for group in samples.iter().filter_map(|sample| sample.frames.last()).map(|frame| frame.group) {
        *shares.entry(group).or_insert(0.0) += 1.0 / count(samples.len());
    }
    shares
}

fn table(shares: &[(&str, BTreeMap<Group, f64>)]) -> String {
    let mut out = String::from("| |");
    shares.iter().for_each(|(scenario, _)| _ = write!(out, " [{scenario}](performance/flame-{scenario}.svg) |"));
    out.push_str("\n|---|");
    out.push_str(&"---|".repeat(shares.len()));
    for group in Group::ALL {
        _ = write!(out, "\n| {} |", group.title());
        for (_, shares) in shares {
            _ = write!(out, " {:.0} % |", shares.get(&group).copied().unwrap_or_default() * 100.0);
        }
    }
    out.push('\n');
    out
}

/// A place in the tree of stacks.
#[derive(Debug, Default)]
struct Node {
    count: usize,
    below: BTreeMap<String, (Option<Group>, Node)>,
}

impl Node {
    fn of(samples: &[Sample]) -> Self {
        let mut root = Self::default();
        for sample in samples {
            root.count += 1;
            let mut at = &mut root;
            for frame in &sample.frames {
                let (group, node) = at.below.entry(frame.name.clone()).or_default();
                *group = Some(frame.group);
                node.count += 1;
                at = node;
            }
        }
        root
    }

    fn depth(&self, least: usize) -> usize {
        self.below.values().filter(|(_, node)| node.count >= least).map(|(_, node)| 1 + node.depth(least)).max().unwrap_or(0)
    }
}

const WIDTH: f64 = 1200.0;
const ROW: f64 = 17.0;
/// The width of a letter.
const LETTER: f64 = 6.6;

/// Draws the tree, the threads below and the innermost frames on top.
fn picture(title: &str, samples: &[Sample]) -> String {
    let root = Node::of(samples);
    let least = ((count(samples.len()) * LEAST_SHARE) as usize).max(1);
    let height = count(root.depth(least)) * ROW + 64.0;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"monospace\" font-size=\"11\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n<text x=\"8\" y=\"18\" font-size=\"14\" fill=\"#222\">{}</text>\n",
        plot::escaped(title)
    );
    let mut x = 8.0;
    for group in Group::ALL {
        _ = writeln!(
            out,
            "<rect x=\"{x}\" y=\"26\" width=\"12\" height=\"12\" fill=\"{}\"/><text x=\"{}\" y=\"36\" fill=\"#222\">{}</text>",
            group.colour(),
            x + 16.0,
            group.title()
        );
        x += 40.0 + count(group.title().len()) * LETTER;
    }
    draw(&mut out, &root, (0.0, height - ROW - 4.0), samples.len(), least);
    out.push_str("</svg>\n");
    out
}

fn draw(out: &mut String, node: &Node, (mut x, y): (f64, f64), total: usize, least: usize) {
    for (name, (group, below)) in &node.below {
        let width = count(below.count) / count(total) * WIDTH;
        if below.count >= least {
            let share = count(below.count) / count(total) * 100.0;
            let letters = ((width - 4.0) / LETTER).max(0.0) as usize;
            let label: String = if letters < 4 { String::new() } else { short(name).chars().take(letters).collect() };
            _ = writeln!(
                out,
                "<g><title>{name}: {share:.1} %</title><rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"{}\"/>\
                 <text x=\"{:.1}\" y=\"{:.1}\" fill=\"#111\">{}</text></g>",
                (width - 0.4).max(0.3),
                ROW - 1.0,
                group.unwrap_or(Group::Other).colour(),
                x + 2.0,
                y + 12.0,
                plot::escaped(&label),
                name = plot::escaped(name),
            );
            draw(out, below, (x, y - ROW), total, least);
        }
        x += width;
    }
}

/// The last parts of a path, which say most.
fn short(name: &str) -> &str {
    let start = name.rmatch_indices("::").nth(1).map_or(0, |(at, _)| at + 2);
    if name.contains('<') { name } else { &name[start..] }
}

#[allow(clippy::cast_precision_loss, reason = "far fewer samples than a float counts")]
fn count(number: usize) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "worker-0 
\tffffffff813a2413 finish_task_switch.isra.0 ([kernel.kallsyms])
\t          10aba4 __libc_send (inlined) (/lib/libc.so.6)
\t          d65322 lorica_proxy::path::send::attempt::{{closure}} (/usr/bin/lorica)
\t          e8a49d tokio::runtime::task::raw::poll (/usr/bin/lorica)
\tffffffffffffffff [unknown] ([unknown])

access-log 
\t          d65322 mi_free (/usr/bin/lorica)
";

    #[test]
    fn stacks_are_read_from_the_outermost_frame_on() {
        let samples = samples(TEXT);
        let names = |sample: &Sample| sample.frames.iter().map(|frame| frame.name.clone()).collect::<Vec<_>>();
        assert_eq!(names(&samples[0]), ["worker-0", "lorica_proxy::path::send::attempt", "__libc_send", "finish_task_switch.isra.0"]);
        assert_eq!(groups(&samples), BTreeMap::from([(Group::Kernel, 0.5), (Group::Allocator, 0.5)]));
    }

    #[test]
    fn a_picture_holds_every_frame_with_its_share() {
        let svg = picture("a < b", &samples(TEXT));
        assert!(svg.contains("<title>mi_free: 50.0 %</title>") && svg.contains("a &lt; b"), "{svg}");
        assert_eq!(svg.matches("<title>").count(), 6);
    }

    #[test]
    fn a_table_has_a_column_a_scenario() {
        let table = table(&[("http1-plain", BTreeMap::from([(Group::Kernel, 0.625)]))]);
        assert!(table.contains("| kernel | 62 % |") || table.contains("| kernel | 63 % |"), "{table}");
    }
}
