//! What breaks while calls go on, and what no caller should notice of it.

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use testbed::{HttpConnection, Mesh, PATIENCE, Port, Running, eventually, http_get, send_raw};

/// A service without capture, so that these tests run wherever a binary does.
async fn service(mesh: &Mesh) -> anyhow::Result<(Running, Port)> {
    let app = mesh.program(testbed::app()?)?;
    let port = Port::free()?;
    let listen = port.address().to_string();
    let arguments: [&OsStr; 4] = [app.as_os_str(), "http".as_ref(), "--listen".as_ref(), listen.as_ref()];
    let running = mesh.service("web.shop").no_capture().port(&format!("80:{}/http", port.number())).start(arguments)?;
    Ok((running, port))
}

/// A client whose proxy listens for calls to the service, and that address.
async fn client(mesh: &Mesh) -> anyhow::Result<(Running, Port)> {
    let port = Port::free()?;
    let running = mesh.client().upstream(&format!("web.shop:80={}", port.address())).start(["sleep", "600"])?;
    eventually("the first answer", PATIENCE, || async {
        let reply = http_get(port.address(), "web.shop", "/").await?;
        anyhow::ensure!(reply.status.as_u16() == 200, "{}", reply.text());
        Ok(())
    })
    .await?;
    Ok((running, port))
}

/// Calls one after another, until it is told to end.
struct Load {
    ending: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    calls: tokio::task::JoinHandle<Vec<String>>,
}

impl Load {
    fn start(address: SocketAddr) -> Self {
        let (ending, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (end, count) = (ending.clone(), answered.clone());
        let calls = tokio::spawn(async move {
            let mut failed = Vec::new();
            while !end.load(Ordering::Relaxed) {
                match http_get(address, "web.shop", "/").await {
                    Ok(reply) if reply.status.as_u16() == 200 => drop(count.fetch_add(1, Ordering::Relaxed)),
                    Ok(reply) => failed.push(format!("{} {}", reply.status, reply.text())),
                    Err(error) => failed.push(format!("{error:#}")),
                }
            }
            failed
        });
        Self { ending, answered, calls }
    }

    /// Waits for so many more answers: what was done before has then had its effect.
    async fn more(&self, answers: usize) -> anyhow::Result<()> {
        let wanted = self.answered.load(Ordering::Relaxed) + answers;
        eventually("more answers", PATIENCE, || async {
            anyhow::ensure!(self.answered.load(Ordering::Relaxed) >= wanted, "{} of {wanted}", self.answered.load(Ordering::Relaxed));
            Ok(())
        })
        .await
    }

    async fn end(self) -> anyhow::Result<Vec<String>> {
        self.ending.store(true, Ordering::Relaxed);
        Ok(self.calls.await?)
    }
}

#[tokio::test]
async fn a_killed_control_plane_costs_no_request_and_loses_nothing() -> anyhow::Result<()> {
    let mesh = Mesh::as_nobody().start().await?;
    mesh.apply("apiVersion: lorica.io/v1alpha1\nkind: Service\nmetadata: {name: kept, namespace: shop}\nspec: {ports: [{port: 80}]}\n")
        .await?
        .success()?;
    let (one, _listens) = service(&mesh).await?;
    mesh.announced("web.shop", 1).await?;
    let (calling, port) = client(&mesh).await?;
    let load = Load::start(port.address());
    load.more(50).await?;
    mesh.kill_control().await?;
    load.more(50).await?;
    mesh.start_control().await?;
    load.more(50).await?;
    // Proxies come back by themselves, what was acknowledged is there, and a change reaches them.
    mesh.announced("web.shop", 1).await?;
    let kept = mesh.lorica(["get", "service", "kept", "-n", "shop", "-o", "json"]).await?.success()?;
    assert!(kept.stdout.contains("\"kept\""), "{}", kept.stdout);
    let route = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: web, namespace: shop}\nspec:\n  parentRefs: [{kind: Service, name: web}]\n  rules: [{backendRefs: [{name: web, port: 80}]}]\n";
    eventually("a receipt from the client's proxy", PATIENCE, || async {
        let applied = mesh.apply(route).await?.success()?;
        anyhow::ensure!(applied.stdout.contains("proxies concerned") || applied.stdout.contains("nothing changed"), "{}", applied.stdout);
        Ok(())
    })
    .await?;
    load.more(50).await?;
    assert_eq!(load.end().await?, Vec::<String>::new());
    calling.stop().await?;
    one.stop().await?;
    mesh.finish().await
}

/// Two workloads under load; one of them ends, and no caller notices.
async fn one_of_two_ends(end: impl AsyncFnOnce(Running) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let mesh = Mesh::as_nobody().start().await?;
    let ((one, _one_listens), (two, _two_listens)) = (service(&mesh).await?, service(&mesh).await?);
    mesh.announced("web.shop", 2).await?;
    let (calling, port) = client(&mesh).await?;
    let load = Load::start(port.address());
    load.more(50).await?;
    end(one).await?;
    load.more(100).await?;
    assert_eq!(load.end().await?, Vec::<String>::new());
    calling.stop().await?;
    two.stop().await?;
    mesh.finish().await
}

#[tokio::test]
async fn a_killed_workload_costs_no_request_that_may_be_repeated() -> anyhow::Result<()> {
    // Its supervisor is killed outright; proxy and app go with it, and nobody says goodbye.
    one_of_two_ends(async |one| one.kill().await.map(drop)).await
}

#[tokio::test]
async fn a_workload_that_ends_in_order_costs_no_request() -> anyhow::Result<()> {
    one_of_two_ends(async |one| one.stop().await.map(drop)).await
}

#[tokio::test]
async fn certificates_are_renewed_under_load_and_no_connection_notices() -> anyhow::Result<()> {
    // The shortest life there is: renewed within half a minute.
    let mesh = Mesh::as_nobody().control_option("--svid-lifetime").control_option("1m").start().await?;
    let (one, _listens) = service(&mesh).await?;
    mesh.announced("web.shop", 1).await?;
    let (calling, port) = client(&mesh).await?;
    let ends = async || -> anyhow::Result<Vec<String>> {
        let status = mesh.status().await?;
        let proxies = status["proxies"].as_array().cloned().unwrap_or_default();
        Ok(proxies.iter().map(|proxy| proxy["certificate_not_after"].as_str().unwrap_or_default().to_owned()).collect())
    };
    let before = ends().await?;
    // One connection is kept through it all, and others come and go.
    let mut kept = HttpConnection::open(port.address()).await?;
    let ask = || http::Request::get("/").header("host", "web.shop").body(Default::default());
    assert_eq!(kept.send(ask()?).await?.status.as_u16(), 200);
    let load = Load::start(port.address());
    eventually("new certificates on both sides", PATIENCE * 2, || async {
        let after = ends().await?;
        anyhow::ensure!(after.len() == 2 && after.iter().zip(&before).all(|(after, before)| after > before), "{before:?} {after:?}");
        Ok(())
    })
    .await?;
    load.more(100).await?;
    assert_eq!(kept.send(ask()?).await?.status.as_u16(), 200);
    assert_eq!(load.end().await?, Vec::<String>::new());
    calling.stop().await?;
    one.stop().await?;
    mesh.finish().await
}

#[tokio::test]
async fn what_is_no_http_is_refused_with_a_reason_and_harms_nobody() -> anyhow::Result<()> {
    let mesh = Mesh::as_nobody().start().await?;
    let (one, _listens) = service(&mesh).await?;
    mesh.announced("web.shop", 1).await?;
    let (calling, port) = client(&mesh).await?;
    let large = format!("GET / HTTP/1.1\r\nHost: web.shop\r\na: {}\r\n\r\n", "b".repeat(70_000));
    for (bytes, status, reason) in [
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "HTTP/1.1 400", "bad_request"),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", "HTTP/1.1 400", "bad_request"),
        ("CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n", "HTTP/1.1 501", "not_implemented"),
        (large.as_str(), "HTTP/1.1 431", "head_too_large"),
    ] {
        let answer = send_raw(port.address(), bytes.as_bytes()).await?;
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.starts_with(status) && answer.contains(&format!("x-lorica-reason: {reason}")), "{answer}");
    }
    // Bytes that are no HTTP at all would pass the port's rules by.
    let refused = send_raw(port.address(), b"\0\0\0\x08nonsense").await.unwrap_or_default();
    assert!(refused.is_empty(), "{}", refused.escape_ascii());
    assert_eq!(http_get(port.address(), "web.shop", "/").await?.status.as_u16(), 200);
    calling.stop().await?;
    one.stop().await?;
    mesh.finish().await
}

#[tokio::test]
async fn plaintext_is_let_in_only_where_a_policy_says_so() -> anyhow::Result<()> {
    let mesh = Mesh::as_nobody().start().await?;
    let (one, _listens) = service(&mesh).await?;
    mesh.announced("web.shop", 1).await?;
    let status = mesh.status().await?;
    let inbound: SocketAddr = status["proxies"][0]["ports"][0]["address"].as_str().unwrap_or_default().parse()?;
    let answer = send_raw(inbound, b"GET / HTTP/1.1\r\nHost: web.shop\r\nConnection: close\r\n\r\n").await.unwrap_or_default();
    assert!(answer.is_empty(), "{}", answer.escape_ascii());
    let policy = "apiVersion: lorica.io/v1alpha1\nkind: AuthenticationPolicy\nmetadata: {name: open, namespace: shop}\nspec: {mtls: {mode: Permissive}}\n";
    let applied = mesh.apply(policy).await?.success()?;
    assert!(applied.stdout.contains("applied: 1 of 1 proxies concerned"), "{}", applied.stdout);
    assert_eq!(http_get(inbound, "web.shop", "/").await?.status.as_u16(), 200);
    one.stop().await?;
    mesh.finish().await
}

#[tokio::test]
async fn a_certificate_of_another_mesh_is_refused() -> anyhow::Result<()> {
    let (mesh, other) = (Mesh::as_nobody().start().await?, Mesh::as_nobody().start().await?);
    let (one, _listens) = service(&mesh).await?;
    mesh.announced("web.shop", 1).await?;
    let status = mesh.status().await?;
    let inbound = status["proxies"][0]["ports"][0]["address"].as_str().unwrap_or_default().to_owned();
    // The other mesh believes that this workload is its own; neither side takes the other's certificate.
    let (address, port) = inbound.split_once(':').unwrap_or_default();
    let foreign = format!(
        "apiVersion: lorica.io/v1alpha1\nkind: Service\nmetadata: {{name: web, namespace: shop}}\nspec: {{ports: [{{port: 80, appProtocol: http}}]}}\n---\napiVersion: lorica.io/v1alpha1\nkind: Workload\nmetadata: {{name: web-1, namespace: shop}}\nspec: {{service: web, address: {address}, ports: [{{servicePort: 80, port: {port}}}]}}\n"
    );
    other.apply(&foreign).await?.success()?;
    let listens = Port::free()?;
    let calling = other.client().upstream(&format!("web.shop:80={}", listens.address())).start(["sleep", "600"])?;
    let reply = eventually("an answer of the other mesh's proxy", PATIENCE, || http_get(listens.address(), "web.shop", "/")).await?;
    assert_eq!((reply.status.as_u16(), reply.header("x-lorica-reason")), (503, Some("upstream_tls")), "{}", reply.text());
    calling.stop().await?;
    one.stop().await?;
    other.finish().await?;
    mesh.finish().await
}
