//! Payments under kills and resets: a ledger counts each by its id, at the far end of two proxies. None may be counted twice, as the client sends
//! each once; none may be lost without an error told to it.
//!
//! `LORICA_LEDGER_CALLS` says how many payments each test makes; 100000 takes some minutes.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use testbed::{HttpConnection, Ledger, Mesh, PATIENCE, Port, Running, eventually, http_get};
use tokio::time::sleep;

/// How many payments a test makes unless it is said.
const CALLS: usize = 4000;
/// How many clients pay at once.
const CLIENTS: usize = 32;

fn calls() -> anyhow::Result<usize> {
    Ok(std::env::var("LORICA_LEDGER_CALLS").map_or(Ok(CALLS), |calls| calls.parse())?)
}

/// A ledger behind a proxy, and a way in by another.
struct Paying {
    mesh: Mesh,
    port: Port,
    entry: Port,
    moods: Vec<String>,
    _proxies: Vec<Running>,
}

impl Paying {
    async fn start(moods: &[&str]) -> anyhow::Result<Self> {
        let (mesh, port, entry) = (Mesh::start().await?, Port::free()?, Port::free()?);
        let workload = mesh.service("ledger.bank").no_capture().port(&format!("80:{}/http", port.address().port()));
        let mut proxies = vec![workload.start(["sleep", "100000"])?];
        proxies.push(mesh.client().upstream(&format!("ledger.bank:80={}", entry.address())).start(["sleep", "100000"])?);
        let moods = moods.iter().map(|word| (*word).to_owned()).collect();
        Ok(Self { mesh, port, entry, moods, _proxies: proxies })
    }

    fn file(&self) -> std::path::PathBuf {
        self.mesh.home().join("ledger")
    }

    async fn ledger(&self) -> anyhow::Result<Running> {
        let (listen, file) = (self.port.address().to_string(), self.file().display().to_string());
        let arguments = ["ledger", "--listen", &listen, "--file", &file].map(str::to_owned);
        let running = self.mesh.start_outside(testbed::app()?, arguments.iter().chain(&self.moods))?;
        running.line("listening on").await?;
        Ok(running)
    }

    /// Holds what clients were told against what the ledger counted.
    async fn settle(self, told: BTreeMap<String, Option<u16>>) -> anyhow::Result<()> {
        let counted = Ledger::at(&self.file()).counted()?;
        let taken = told.values().filter(|status| **status == Some(200)).count();
        let both = told.iter().filter(|(payment, status)| **status != Some(200) && counted.contains_key(*payment)).count();
        let repeated = repeated(&self.mesh).await?;
        println!(
            "{} payments: {taken} taken, {} told as failed, of which {both} were counted; repeated unseen: {repeated}",
            told.len(),
            told.len() - taken
        );
        let twice: Vec<_> = counted.iter().filter(|(_, times)| **times > 1).collect();
        assert!(twice.is_empty(), "counted more than once: {twice:?}");
        let lost: Vec<_> = told.iter().filter(|(payment, status)| **status == Some(200) && !counted.contains_key(*payment)).collect();
        assert!(lost.is_empty(), "told as taken, and not counted: {lost:?}");
        // Else nothing was put to the test.
        ensure!(taken > told.len() / 4 && taken < told.len(), "{taken} of {} were taken", told.len());
        self.mesh.finish().await
    }
}

/// How many requests all proxies have repeated unseen.
async fn repeated(mesh: &Mesh) -> anyhow::Result<u64> {
    let mut sum = 0;
    for proxy in mesh.status().await?["proxies"].as_array().into_iter().flatten() {
        let address = proxy["metrics"].as_str().with_context(|| format!("{proxy:#}"))?.parse()?;
        let metrics = http_get(address, "proxy", "/metrics").await?.text();
        let counted = metrics.lines().filter_map(|line| line.strip_prefix("lorica_pool_stale_repeats_total ")?.parse::<u64>().ok());
        sum += counted.sum::<u64>();
    }
    Ok(sum)
}

/// Makes payments, each once, and tells what became of each: the status, or none where the connection broke.
async fn pay(address: SocketAddr, calls: usize) -> anyhow::Result<BTreeMap<String, Option<u16>>> {
    let next = Arc::new(AtomicUsize::new(0));
    let clients = (0..CLIENTS).map(|_| tokio::spawn(client(address, next.clone(), calls)));
    let mut told = BTreeMap::new();
    for client in clients.collect::<Vec<_>>() {
        told.extend(client.await??);
    }
    ensure!(told.len() == calls, "{} of {calls} payments were made", told.len());
    Ok(told)
}

async fn client(address: SocketAddr, next: Arc<AtomicUsize>, calls: usize) -> anyhow::Result<Vec<(String, Option<u16>)>> {
    let mut told = Vec::new();
    let mut connection = HttpConnection::open(address).await?;
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        if number >= calls {
            return Ok(told);
        }
        let payment = format!("payment-{number}");
        let mut request = Request::post("/").header("host", "ledger.bank");
        if number % 2 == 0 {
            request = request.header("idempotency-key", &payment);
        }
        // Some are long, so that they leave in more than one piece.
        let length = if fastrand::u8(0..8) == 0 { fastrand::usize(1..100_000) } else { 0 };
        let body = format!("{payment}{}", ".".repeat(length));
        let status = match connection.send(request.body(Full::new(Bytes::from(body)))?).await {
            Ok(reply) => Some(reply.status.as_u16()),
            Err(_) => {
                connection = HttpConnection::open(address).await?;
                None
            }
        };
        told.push((payment, status));
        // Connections rest now and then, as long as servers that close them soon.
        if fastrand::u8(0..4) == 0 {
            sleep(Duration::from_millis(fastrand::u64(0..100))).await;
        }
    }
}

async fn ready(paying: &Paying) -> anyhow::Result<()> {
    paying.mesh.announced("ledger.bank", 1).await?;
    eventually("the ledger answers through the mesh", PATIENCE, || async {
        let request = Request::post("/").header("host", "ledger.bank").body(Full::new(Bytes::from_static(b"first")))?;
        let reply = testbed::http_send(paying.entry.address(), request).await?;
        ensure!(reply.status == 200, "{}", reply.status);
        Ok(())
    })
    .await
    .with_context(|| paying.mesh.last_words())?;
    // How often that was counted is not what is asked.
    std::fs::write(paying.file(), "").context("the ledger cannot be emptied")
}

#[tokio::test]
async fn no_payment_is_counted_twice_while_the_ledger_resets() -> anyhow::Result<()> {
    let paying = Paying::start(&["--share", "0.02", "--idle", "100"]).await?;
    let _ledger = paying.ledger().await?;
    ready(&paying).await?;
    let told = pay(paying.entry.address(), calls()?).await?;
    paying.settle(told).await
}

#[tokio::test]
async fn no_payment_is_counted_twice_while_the_ledger_is_killed() -> anyhow::Result<()> {
    let paying = Paying::start(&["--work", "5"]).await?;
    let mut ledger = paying.ledger().await?;
    ready(&paying).await?;
    let done = AtomicBool::new(false);
    let killing = async {
        while !done.load(Ordering::Relaxed) {
            sleep(Duration::from_millis(fastrand::u64(50..400))).await;
            ledger.kill().await?;
            ledger = paying.ledger().await?;
        }
        anyhow::Ok(())
    };
    let paid = async {
        let told = pay(paying.entry.address(), calls()?).await;
        done.store(true, Ordering::Relaxed);
        told
    };
    let (told, killed) = tokio::join!(paid, killing);
    killed?;
    let told = told?;
    paying.settle(told).await
}
