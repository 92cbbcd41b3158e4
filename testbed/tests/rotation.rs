//! Rotation under load: certificates of workloads, the intermediate and the root are replaced while calls go on. In flow requests over kept and
//! new connections and bytes over one that stays; out flow their answers, of which not one may be missing, and what `lorica ca status` says.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use anyhow::{Context as _, ensure};
use http::Request;
use http_body_util::Full;
use serde_json::Value;
use testbed::{EchoServer, Envoy, HttpConnection, Mesh, PATIENCE, Port, Running, TcpEcho, eventually, http_get};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

/// What `lorica ca status` says.
async fn ca(mesh: &Mesh) -> anyhow::Result<Value> {
    mesh.lorica(["ca", "status", "-o", "json"]).await?.success()?.json()
}

/// Waits until a rotation is in a phase.
async fn phase(mesh: &Mesh, phase: &str) -> anyhow::Result<Value> {
    let what = format!("the rotation is {phase}");
    let reached = eventually(&what, PATIENCE * 3, || async {
        let status = ca(mesh).await?;
        ensure!(status["phase"] == phase, "{status:#}");
        Ok(status)
    });
    reached.await.with_context(|| mesh.last_words())
}

/// The root that certificates come from.
fn issuing(status: &Value) -> String {
    let roots = status["roots"].as_array().cloned().unwrap_or_default();
    roots.iter().find(|root| root["issuing"] == true).and_then(|root| root["id"].as_str()).unwrap_or_default().to_owned()
}

fn roots(status: &Value) -> usize {
    status["roots"].as_array().map_or(0, Vec::len)
}

/// Waits until every workload has another certificate than it has now.
async fn renewed(mesh: &Mesh) -> anyhow::Result<()> {
    let ends = |status: &Value| -> Vec<String> {
        let proxies = status["proxies"].as_array().cloned().unwrap_or_default();
        proxies.iter().map(|proxy| proxy["certificate_not_after"].as_str().unwrap_or_default().to_owned()).collect()
    };
    let before = ends(&mesh.status().await?);
    eventually("every workload renews its certificate", PATIENCE, || async {
        let now = ends(&mesh.status().await?);
        ensure!(now.len() == before.len() && now.iter().zip(&before).all(|(now, before)| now > before), "{before:?} {now:?}");
        Ok(())
    })
    .await
}

/// Calls without end, and what became of them.
struct Load {
    ends: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    failed: Arc<Mutex<Vec<String>>>,
    tasks: Vec<JoinHandle<()>>,
}

impl Load {
    /// Kept connections to `http`, new ones, and one to `tcp` that stays.
    fn start(http: SocketAddr, tcp: Option<SocketAddr>) -> Self {
        let mut load = Self { ends: Arc::default(), answered: Arc::default(), failed: Arc::default(), tasks: Vec::new() };
        for _ in 0..2 {
            load.spawn(kept(http));
        }
        load.spawn(fresh(http));
        if let Some(tcp) = tcp {
            load.spawn(bytes(tcp));
        }
        load
    }

    fn spawn<C: Caller>(&mut self, caller: C) {
        let (ends, answered, failed) = (self.ends.clone(), self.answered.clone(), self.failed.clone());
        self.tasks.push(tokio::spawn(async move {
            let mut caller = caller;
            while !ends.load(Ordering::SeqCst) {
                match caller.call().await {
                    Ok(()) => drop(answered.fetch_add(1, Ordering::SeqCst)),
                    Err(error) => failed.lock().unwrap().push(format!("{error:#}")),
                }
                // A call each few milliseconds: enough to meet every moment, and the machine has other work.
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        }));
    }

    fn answered(&self) -> u64 {
        self.answered.load(Ordering::SeqCst)
    }

    /// Ends it. How many calls were answered; not one was not.
    async fn end(self, mesh: &Mesh) -> anyhow::Result<u64> {
        self.ends.store(true, Ordering::SeqCst);
        for task in self.tasks {
            task.await?;
        }
        let failed = self.failed.lock().unwrap().clone();
        ensure!(failed.is_empty(), "{} calls failed, among them {:?}\n{}", failed.len(), failed.first(), mesh.last_words());
        Ok(self.answered.load(Ordering::SeqCst))
    }
}

/// Somebody who calls again and again.
trait Caller: Send + 'static {
    fn call(&mut self) -> impl Future<Output = anyhow::Result<()>> + Send;
}

/// One connection for all requests. It is opened once: one that is closed fails all that come after.
struct Kept(SocketAddr, Option<HttpConnection>);

fn kept(address: SocketAddr) -> Kept {
    Kept(address, None)
}

impl Caller for Kept {
    async fn call(&mut self) -> anyhow::Result<()> {
        if self.1.is_none() {
            self.1 = Some(HttpConnection::open(self.0).await?);
        }
        let connection = self.1.as_mut().context("no connection")?;
        let reply = connection.send(Request::get("/kept").header("host", "echo.shop").body(Full::default())?).await?;
        ensure!(reply.status == 200, "{} {}", reply.status, reply.text());
        Ok(())
    }
}

/// A connection for each request.
struct Fresh(SocketAddr);

fn fresh(address: SocketAddr) -> Fresh {
    Fresh(address)
}

impl Caller for Fresh {
    async fn call(&mut self) -> anyhow::Result<()> {
        let reply = http_get(self.0, "echo.shop", "/fresh").await?;
        ensure!(reply.status == 200, "{} {}", reply.status, reply.text());
        Ok(())
    }
}

/// Bytes over one connection.
struct Bytes(SocketAddr, Option<TcpStream>);

fn bytes(address: SocketAddr) -> Bytes {
    Bytes(address, None)
}

impl Caller for Bytes {
    async fn call(&mut self) -> anyhow::Result<()> {
        if self.1.is_none() {
            self.1 = Some(TcpStream::connect(self.0).await?);
        }
        let stream = self.1.as_mut().context("no connection")?;
        stream.write_all(b"ping").await?;
        let mut answer = [0; 4];
        stream.read_exact(&mut answer).await.context("the connection of bytes")?;
        ensure!(&answer == b"ping", "{answer:?}");
        Ok(())
    }
}

/// A mesh with a service over HTTP and one over TCP, and a client with a way to each.
struct Shop {
    mesh: Mesh,
    http: Port,
    tcp: Port,
    running: Vec<Running>,
    _echo: EchoServer,
    _bytes: TcpEcho,
}

impl Shop {
    async fn start(lifetime: &str) -> anyhow::Result<Self> {
        let mesh = Mesh::options().control_option("--svid-lifetime").control_option(lifetime).start().await?;
        let (echo, bytes) = (EchoServer::start("echo").await?, TcpEcho::start("").await?);
        let (http, tcp) = (Port::free()?, Port::free()?);
        let run = |service: &str, port: String| mesh.service(service).no_capture().port(&port).start(["sleep", "1000"]);
        let mut running = vec![
            run("echo.shop", format!("80:{}/http", echo.address().port()))?,
            run("bytes.shop", format!("7:{}/tcp", bytes.address().port()))?,
        ];
        mesh.announced("echo.shop", 1).await?;
        mesh.announced("bytes.shop", 1).await?;
        let client =
            mesh.client().upstream(&format!("echo.shop:80={}", http.address())).upstream(&format!("bytes.shop:7={}", tcp.address()));
        running.push(client.start(["sleep", "1000"])?);
        let way_in = eventually("there is a way in", PATIENCE, || async {
            let reply = http_get(http.address(), "echo.shop", "/").await?;
            ensure!(reply.status == 200, "{}", reply.text());
            Ok(())
        });
        way_in.await.with_context(|| mesh.last_words())?;
        Ok(Self { mesh, http, tcp, running, _echo: echo, _bytes: bytes })
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leaf_intermediate_and_root_are_replaced_without_a_failed_call() -> anyhow::Result<()> {
    let shop = Shop::start("12s").await?;
    let mesh = &shop.mesh;
    let load = Load::start(shop.http.address(), Some(shop.tcp.address()));
    let before = ca(mesh).await?;

    renewed(mesh).await?;
    let replaced: Value = ca(mesh).await?;
    mesh.lorica(["ca", "replace-intermediate"]).await?.success()?;
    assert_ne!(ca(mesh).await?["intermediate_not_before"], replaced["intermediate_not_before"]);
    renewed(mesh).await?;

    mesh.lorica(["ca", "rotate"]).await?.success()?;
    let twice = mesh.lorica(["ca", "rotate"]).await?;
    assert!(twice.code() == 1 && twice.stderr.contains("a rotation is under way"), "{}", twice.stderr);
    // The next phase begins once all have the new root; a control plane that dies goes on where it was.
    phase(mesh, "withdrawing").await?;
    mesh.kill_control().await?;
    mesh.start_control().await?;
    let withdrawing = ca(mesh).await?;
    assert_eq!((withdrawing["phase"].as_str(), roots(&withdrawing)), (Some("withdrawing"), 2), "{withdrawing:#}");
    assert_ne!(issuing(&withdrawing), issuing(&before));
    let done = phase(mesh, "done").await?;
    assert_eq!((roots(&done), issuing(&done)), (1, issuing(&withdrawing)));
    // And still, once nobody trusts the old one any more.
    let so_far = load.answered();
    eventually("calls go on", PATIENCE, || async {
        ensure!(load.answered() > so_far + 50);
        Ok(())
    })
    .await?;
    renewed(mesh).await?;
    let answered = load.end(mesh).await?;
    assert!(answered > 1000, "only {answered} calls were made");
    shop.mesh.finish().await
}

#[tokio::test]
async fn who_holds_a_rotation_up_is_named_and_waived_and_every_phase_leads_back() -> anyhow::Result<()> {
    let shop = Shop::start("1h").await?;
    let mesh = &shop.mesh;
    let old = issuing(&ca(mesh).await?);
    // One workload is gone without a word: it might come back, with a certificate that holds for an hour.
    shop.running[1].kill().await?;
    eventually("it is lost", PATIENCE, || async {
        let status = mesh.status().await?;
        let bytes = |proxy: &Value| proxy["service"].as_str().is_some_and(|service| service.starts_with("bytes.shop"));
        ensure!(!status["proxies"].as_array().into_iter().flatten().any(|proxy| bytes(proxy) && proxy["connected"] == true), "{status:#}");
        Ok(())
    })
    .await?;
    mesh.lorica(["ca", "rotate"]).await?.success()?;
    let held = eventually("the others have acknowledged", PATIENCE, || async {
        let status = ca(mesh).await?;
        ensure!(status["phase"] == "distributing" && status["held_up_by"].as_array().is_some_and(|held| held.len() == 1), "{status:#}");
        Ok(status)
    })
    .await?;
    let name = held["held_up_by"][0]["workload"].as_str().unwrap().to_owned();
    assert!(name.starts_with("bytes-") && held["held_up_by"][0]["connected"] == false, "{held:#}");
    assert_eq!((issuing(&held), held["acknowledged"].as_u64(), held["concerned"].as_u64()), (old.clone(), Some(2), Some(3)));

    // Back, before anything was issued from the new root.
    let back: Value = mesh.lorica(["ca", "rotate", "--rollback", "-o", "json"]).await?.success()?.json()?;
    assert_eq!((back["phase"].as_str(), roots(&back), issuing(&back)), (Some("done"), 1, old.clone()));
    assert!(mesh.lorica(["ca", "rotate", "--rollback"]).await?.stderr.contains("the old root is withdrawn already"));

    mesh.lorica(["ca", "rotate"]).await?.success()?;
    let wrong = mesh.lorica(["ca", "rotate", "--waive", "nobody.shop"]).await?;
    assert!(wrong.code() == 1 && wrong.stderr.contains("does not wait for nobody.shop"), "{}", wrong.stderr);
    mesh.lorica(["ca", "rotate", "--waive", &name]).await?.success()?;
    let withdrawing = phase(mesh, "withdrawing").await?;
    assert_eq!((roots(&withdrawing), &withdrawing["waived"][0]), (2, &Value::from(name.as_str())), "{withdrawing:#}");
    assert_ne!(issuing(&withdrawing), old);

    // Back, when all have certificates from the new root already.
    let load = Load::start(shop.http.address(), None);
    let back: Value = mesh.lorica(["ca", "rotate", "--rollback", "-o", "json"]).await?.success()?.json()?;
    assert_eq!((issuing(&back), roots(&back), back["rolled_back"].as_bool()), (old.clone(), 2, Some(true)), "{back:#}");
    let back = phase(mesh, "withdrawing").await?;
    assert_eq!((issuing(&back), roots(&back)), (old, 2));
    load.end(mesh).await?;
    shop.mesh.finish().await
}

#[tokio::test]
async fn an_intermediate_is_signed_where_the_roots_key_is_offline() -> anyhow::Result<()> {
    let mesh = Mesh::start().await?;
    let exported = mesh.lorica(["ca", "export-root-key", "--out", "root.pem"]).await?.success()?;
    assert!(exported.stdout.contains("root.pem"), "{}", exported.stdout);
    let kept = std::fs::read_to_string(mesh.home().join("root.pem"))?;
    assert!(kept.contains("BEGIN CERTIFICATE") && kept.contains("PRIVATE KEY"));
    assert_eq!(ca(&mesh).await?["roots"][0]["key_here"], false);
    let again = mesh.lorica(["ca", "export-root-key", "--out", "again.pem"]).await?;
    assert!(again.code() == 1 && again.stderr.contains("offline already"), "{}", again.stderr);
    assert!(!mesh.home().join("again.pem").exists());
    assert!(mesh.lorica(["ca", "replace-intermediate"]).await?.stderr.contains("lorica ca request-intermediate"));

    let request = mesh.lorica(["ca", "request-intermediate"]).await?.success()?;
    mesh.write("request.pem", &request.stdout)?;
    let signed = mesh.lorica(["ca", "sign-intermediate", "--root", "root.pem", "--lifetime", "1000h", "request.pem"]).await?.success()?;
    mesh.write("ca.pem", &signed.stdout)?;
    let before = ca(&mesh).await?;
    mesh.lorica(["ca", "install-intermediate", "ca.pem"]).await?.success()?;
    let after = ca(&mesh).await?;
    assert_eq!(before["roots"], after["roots"]);
    assert_ne!(before["intermediate_not_after"], after["intermediate_not_after"]);
    // Once: the key of the request is in use.
    assert!(mesh.lorica(["ca", "install-intermediate", "ca.pem"]).await?.stderr.contains("no intermediate was requested"));
    // A control plane that starts again has it.
    mesh.stop_control().await?;
    mesh.start_control().await?;
    assert_eq!(ca(&mesh).await?["intermediate_not_after"], after["intermediate_not_after"]);
    mesh.finish().await
}

#[tokio::test]
async fn what_is_going_to_end_is_told_ahead() -> anyhow::Result<()> {
    let metrics = Port::free()?;
    let mesh = Mesh::options().control_option("--telemetry").control_option(metrics.address().to_string()).start().await?;
    let good = mesh.lorica(["check"]).await?.success()?;
    assert!(!good.stdout.contains("FAILED"), "{}", good.stdout);
    let seconds = async |name: &str| -> anyhow::Result<u64> {
        let page = http_get(metrics.address(), "control", "/metrics").await?.text();
        let value = page.lines().find_map(|line| line.strip_prefix(name)).with_context(|| page.clone())?;
        Ok(value.trim().parse()?)
    };
    assert!(seconds("lorica_root_expiry_seconds").await? > 9 * 365 * 86_400);
    assert!(seconds("lorica_intermediate_expiry_seconds").await? > 364 * 86_400);

    // An intermediate for 700 hours is due at once.
    mesh.lorica(["ca", "export-root-key", "--out", "root.pem"]).await?.success()?;
    let request = mesh.lorica(["ca", "request-intermediate"]).await?.success()?;
    mesh.write("request.pem", &request.stdout)?;
    let signed = mesh.lorica(["ca", "sign-intermediate", "--root", "root.pem", "--lifetime", "700h", "request.pem"]).await?.success()?;
    mesh.write("ca.pem", &signed.stdout)?;
    mesh.lorica(["ca", "install-intermediate", "ca.pem"]).await?.success()?;
    let bad = mesh.lorica(["check"]).await?;
    assert!(bad.code() == 1 && bad.stdout.contains("FAILED"), "{}", bad.stdout);
    assert!(bad.stdout.contains("hint: 2: `lorica ca request-intermediate`"), "{}", bad.stdout);
    let left = seconds("lorica_intermediate_expiry_seconds").await?;
    assert!(left <= 700 * 3600, "{left}");
    mesh.finish().await
}

/// An Envoy whose certificate `lorica envoy bootstrap --watch` renews.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stock_envoy_takes_part_in_a_rotation() -> anyhow::Result<()> {
    let mesh = Mesh::options().control_option("--svid-lifetime").control_option("12s").start().await?;
    let echo = EchoServer::start("echo").await?;
    let port = format!("80:{}/http", echo.address().port());
    let _echo = mesh.service("echo.shop").no_capture().port(&port).start(["sleep", "1000"])?;
    mesh.announced("echo.shop", 1).await?;
    let local = Port::free()?;
    let upstream = format!("echo.shop:80={}", local.address());
    let Some(envoy) = Envoy::start(&mesh, &["--namespace", "shop", "--upstream", &upstream, "--watch"]).await? else {
        return mesh.finish().await;
    };
    eventually("calls go through Envoy", PATIENCE, || async {
        let reply = http_get(local.address(), "echo.shop", "/").await?;
        ensure!(reply.status == 200, "{}", reply.text());
        Ok(())
    })
    .await
    .with_context(|| mesh.last_words())?;
    let load = Load::start(local.address(), None);
    mesh.lorica(["ca", "rotate"]).await?.success()?;
    let done = phase(&mesh, "done").await?;
    assert_eq!(roots(&done), 1, "{done:#}");
    let so_far = load.answered();
    eventually("calls go on", PATIENCE, || async {
        ensure!(load.answered() > so_far + 50);
        Ok(())
    })
    .await?;
    load.end(&mesh).await?;
    envoy.refused_nothing(&mesh, &[]).await?;
    envoy.running.stop().await?;
    mesh.finish().await
}
