//! What the store has survives the death of its process; without room on the disk it drops, says so, and harms nobody.

use testbed::left_out;

use super::*;

fn one(trace: u128) -> ResourceSpans {
    of("web.shop", vec![span(trace, 1, None, SpanKind::Server, "GET", (now(), Duration::from_millis(1)))])
}

async fn count(told: &Told, sample: &str) -> anyhow::Result<u64> {
    let page = told.get("/metrics").await?.text();
    let line = page.lines().find_map(|line| line.strip_prefix(sample)).with_context(|| format!("{sample} is missing: {page}"))?;
    Ok(line.trim().parse()?)
}

const STORED: &str = "lorica_telemetry_stored_total{kind=\"spans\"}";
const RECORDS: &str = "lorica_telemetry_records{kind=\"spans\"}";
const UNWRITTEN: &str = "lorica_telemetry_dropped_total{kind=\"spans\",reason=\"unwritten\"}";

#[tokio::test]
async fn what_was_stored_survives_a_kill() -> anyhow::Result<()> {
    let told = Told::start(Mesh::options()).await?;
    let (mut last, mut before): (u128, u64) = (0, 0);
    for round in 0..5 {
        let until = last + 40;
        while last < until {
            last += 1;
            told.spans(vec![one(last)]).await?;
        }
        // What the page counts is written. What was sent last may or may not be.
        let stored = eventually("most is written", PATIENCE, || async {
            let stored = count(&told, STORED).await?;
            ensure!(stored >= 30, "{stored} of 40");
            Ok(stored)
        });
        let stored = stored.await?;
        told.logs(vec![logs_of("web.shop", vec![log(&format!("round {round}"), Vec::new())])]).await?;
        told.mesh.kill_control().await?;
        // As if it had died within a write, and left half of one.
        let directory = told.mesh.state().join("control/telemetry/spans");
        let segment = std::fs::read_dir(&directory)?.filter_map(Result::ok).map(|entry| entry.path()).max().context("no segment")?;
        let mut file = std::fs::OpenOptions::new().append(true).open(&segment)?;
        std::io::Write::write_all(&mut file, b"\x40\x00\x00\x00half of a frame")?;
        told.mesh.start_control().await?;
        let there = count(&told, RECORDS).await?;
        ensure!(there >= before + stored && u128::from(there) <= last, "round {round}: {there} of {stored} stored and {last} sent");
        for trace in 1..=30 {
            told.trace(&id(until - 40 + trace), 1).await?;
        }
        before = there;
    }
    told.mesh.finish().await
}

#[tokio::test]
async fn it_stays_within_its_bytes_and_keeps_the_newest() -> anyhow::Result<()> {
    let told = Told::start(Mesh::options().control_option("--telemetry-bytes").control_option("4MiB")).await?;
    let mut newest = 0_u128;
    for _ in 0..40 {
        let spans = (0..500).map(|_| {
            newest += 1;
            let mut span = span(newest, 1, None, SpanKind::Server, "GET", (now(), Duration::from_millis(1)));
            span.attributes.push(text("padding", &"x".repeat(200)));
            span
        });
        told.spans(vec![of("web.shop", spans.collect())]).await?;
    }
    told.trace(&id(newest), 1).await?;
    let bytes = count(&told, "lorica_telemetry_bytes{kind=\"spans\"}").await?;
    let on_disk: u64 = std::fs::read_dir(told.mesh.state().join("control/telemetry/spans"))?
        .filter_map(|entry| entry.ok()?.metadata().ok())
        .map(|file| file.len())
        .sum();
    assert_eq!(bytes, on_disk);
    ensure!(bytes <= 2 * 1024 * 1024 && bytes > 1024 * 1024, "{bytes} bytes");
    assert_eq!(count(&told, STORED).await?, 20_000);
    let gone = told.mesh.lorica(["trace", &id(1)]).await?;
    ensure!(gone.code() == 1, "{}", gone.stdout);
    told.mesh.finish().await
}

#[tokio::test]
async fn a_full_disk_drops_with_a_count_and_then_it_goes_on() -> anyhow::Result<()> {
    let mesh = Mesh::as_nobody().without_control()?;
    let (binary, state) = (mesh.program(testbed::lorica()?)?, mesh.home().join("disk"));
    let [grpc, http, scraped] = [Port::free()?, Port::free()?, Port::free()?];
    // A file system of its own for the telemetry, seen by the control plane alone; it ends with the process.
    let script = "mkdir -p \"$2/telemetry\" && mount -t tmpfs -o size=512k,mode=700 tmpfs \"$2/telemetry\" && echo mounted && exec \"$1\" --ends-with \"$3\" control --state \"$2\" --otlp \"$4\" --telemetry \"$5\"";
    let own = std::process::id().to_string();
    let doors = [grpc.address().to_string(), scraped.address().to_string()];
    let words = [
        "-Urm".as_ref(),
        "sh".as_ref(),
        "-c".as_ref(),
        script.as_ref(),
        "sh".as_ref(),
        binary.as_os_str(),
        state.as_os_str(),
        own.as_ref(),
    ];
    let control = mesh.start_outside("/usr/bin/unshare", words.into_iter().chain(doors.iter().map(AsRef::as_ref)))?;
    if control.line("mounted").await.is_err() {
        left_out(&format!("a full disk: no file system may be mounted here: {}", control.stderr()));
        return mesh.finish().await;
    }
    eventually("the control plane answers", PATIENCE, || mesh.status()).await.with_context(|| mesh.last_words())?;
    let told = Told { mesh, grpc, http, scraped };
    told.spans(vec![one(1)]).await?;
    told.trace(&id(1), 1).await?;

    let filler = format!("/proc/{}/root{}", control.pid(), state.join("telemetry/filler").display());
    let filled = told.mesh.start_outside("/bin/sh", ["-c", "exec head -c 8M /dev/zero > \"$1\"", "sh", &filler])?.output(PATIENCE).await?;
    ensure!(filled.code() != 0 && filled.stderr.contains("No space"), "the disk took all: {filled:?}");
    // Within the page that the file has already, some fit; not as many as this. All are answered: nobody is made to wait or to try again.
    for trace in 2..200 {
        ensure!(told.spans(vec![one(trace)]).await?.partial_success.is_none());
    }
    let counted = eventually("all are counted", PATIENCE, || async {
        let (stored, unwritten) = (count(&told, STORED).await?, count(&told, UNWRITTEN).await?);
        ensure!(stored + unwritten == 199 && unwritten > 0, "{stored} stored, {unwritten} unwritten");
        Ok(stored)
    });
    let stored = counted.await?;
    ensure!(control.stderr().contains("telemetry cannot be written; it is dropped until it can"), "{}", control.stderr());
    assert_eq!(count(&told, RECORDS).await?, stored);
    told.trace(&id(1), 1).await?;

    told.mesh.start_outside("/bin/rm", [&filler])?.output(PATIENCE).await?.success()?;
    told.spans(vec![one(1000)]).await?;
    told.trace(&id(1000), 1).await?;
    assert_eq!(count(&told, STORED).await?, stored + 1);
    control.stop().await?;
    told.mesh.finish().await
}
