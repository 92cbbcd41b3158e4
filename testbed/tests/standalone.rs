//! The data plane by itself: `lorica proxy` from files, in one hop and in two, changed while it runs, ended, and told wrongly.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use lorica_identity::files::IdentityFiles;
use lorica_identity::{Authority, Grant, KeyPair, Svid};
use lorica_model::spiffe::TrustDomain;
use rustix::process::Signal;
use testbed::{Echo, EchoServer, HttpConnection, Mesh, PATIENCE, Proxy, TcpEcho, eventually, http_get, send_raw};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// A service `web.shop` and its endpoints, each with its further fields.
fn shop(endpoints: &[(SocketAddr, &str)]) -> String {
    let mut text = "apiVersion: lorica.io/v1alpha1\nkind: Service\nmetadata: {name: web, namespace: shop}\nspec: {ports: [{port: 80, appProtocol: http}, {port: 25, appProtocol: tcp}]}\n".to_owned();
    for (number, (address, more)) in endpoints.iter().enumerate() {
        text += &format!(
            "---\napiVersion: lorica.io/v1alpha1\nkind: Workload\nmetadata: {{name: web-{number}, namespace: shop}}\nspec: {{service: web, address: {}, ports: [{{servicePort: 80, port: {}}}], {more}}}\n",
            address.ip(),
            address.port()
        );
    }
    text
}

const PLAINTEXT: &str = "transport: Plaintext";
const MUTUAL_TLS: &str = "transport: MutualTls";

/// The arguments of a proxy that calls `web.shop`.
fn calling(more: &[&str]) -> Vec<String> {
    ["--config", "mesh.yaml", "--upstream", "web.shop:80=127.0.0.1:0"].iter().chain(more).map(|word| (*word).to_owned()).collect()
}

fn get(path: &str) -> Request<Full<Bytes>> {
    Request::get(path).header("host", "web.shop").body(Full::default()).unwrap_or_default()
}

async fn reached(address: SocketAddr) -> anyhow::Result<Echo> {
    let reply = http_get(address, "web.shop", "/a").await?;
    anyhow::ensure!(reply.status == 200, "{} {}", reply.status, reply.text());
    reply.json()
}

#[tokio::test]
async fn a_call_passes_one_proxy_from_files() -> anyhow::Result<()> {
    let mesh = Mesh::options().without_control()?;
    let echo = EchoServer::start("web").await?;
    mesh.write("mesh.yaml", shop(&[(echo.address(), PLAINTEXT)]))?;
    let proxy = Proxy::start(&mesh, calling(&["--access-log", "stdout"])).await?;
    let told = reached(proxy.address()).await?;
    assert_eq!((told.server.as_str(), told.path.as_str(), told.host.as_str()), ("web", "/a", "web.shop"));
    assert!(told.header("x-request-id").is_some());
    proxy.running.line("\"path\":\"/a\"").await?;
    let metrics = http_get(proxy.metrics, "proxy", "/metrics").await?.text();
    let counted = metrics.lines().find(|line| line.starts_with("istio_requests_total{")).unwrap_or_default();
    assert!(counted.contains("destination_service=\"web.shop.mesh\"") && counted.ends_with(" 1"), "{metrics}");
    assert!(metrics.contains("lorica_configuration_behind 0") && !metrics.contains("lorica_control_plane_connected"), "{metrics}");
    let ready = http_get(proxy.metrics, "proxy", "/ready").await?;
    assert_eq!((ready.status.as_u16(), ready.text().as_str()), (200, "ready; configured by files, read 1 times\n"));
    assert_eq!(proxy.running.stop().await?.code(), 0);
    mesh.finish().await
}

#[tokio::test]
async fn bytes_pass_and_a_port_without_endpoints_says_so() -> anyhow::Result<()> {
    let mesh = Mesh::options().without_control()?;
    let (echo, other) = (TcpEcho::start("220 ready").await?, EchoServer::start("web").await?);
    let text = shop(&[(other.address(), PLAINTEXT)]).replace("servicePort: 80, port", "servicePort: 25, port");
    mesh.write("mesh.yaml", text.replace(&other.address().port().to_string(), &echo.address().port().to_string()))?;
    let proxy = Proxy::start(&mesh, calling(&["--upstream", "web.shop:25=127.0.0.1:0"])).await?;
    let greeted = send_raw(proxy.addresses[1], b"hello").await;
    assert!(greeted.as_ref().is_ok_and(|bytes| bytes.starts_with(b"220 ready")), "{greeted:?}");
    let reply = http_get(proxy.address(), "web.shop", "/").await?;
    assert_eq!((reply.status.as_u16(), reply.header("x-lorica-reason")), (503, Some("no_endpoint")));
    mesh.finish().await
}

/// One authority, and directories of identities that it signs.
struct Identities {
    authority: Authority,
}

impl Identities {
    fn new() -> anyhow::Result<Self> {
        Ok(Self { authority: Authority::create(TrustDomain::default(), SystemTime::now())? })
    }

    fn give(&self, directory: &PathBuf, account: &str) -> anyhow::Result<()> {
        let key = KeyPair::generate()?;
        let grant = Grant::new(format!("spiffe://mesh.local/ns/shop/sa/{account}").parse()?);
        let chain = self.authority.sign(&key.request(&grant.id)?, &grant, SystemTime::now())?;
        let files = IdentityFiles::new(directory);
        files.save_bundle(self.authority.bundle())?;
        files.save_svid(&Svid::new(&chain, key)?)?;
        Ok(())
    }
}

/// An app that takes a request and goes away with it, if it does not say by itself that it was not served; counts requests.
async fn lost(answer: &'static str) -> anyhow::Result<(SocketAddr, Arc<AtomicUsize>)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let (address, asked) = (listener.local_addr()?, Arc::<AtomicUsize>::default());
    let count = asked.clone();
    tokio::spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            let mut head = [0; 4096];
            if matches!(tcp.read(&mut head).await, Ok(1..)) {
                count.fetch_add(1, Ordering::Relaxed);
                // Who does not read it has gone away.
                drop(tcp.write_all(answer.as_bytes()).await);
            }
        }
    });
    Ok((address, asked))
}

#[tokio::test]
async fn what_an_app_did_not_serve_another_does_as_far_as_that_repeats_nothing() -> anyhow::Result<()> {
    let mesh = Mesh::options().without_control()?;
    let echo = EchoServer::start("web").await?;
    let nobody = TcpListener::bind("127.0.0.1:0").await?.local_addr()?;
    let (closing, asked) = lost("").await?;
    let forged = "HTTP/1.1 503 Sorry\r\nx-lorica-unserved: unreached\r\nx-lorica-unserved: lost\r\ncontent-length: 0\r\n\r\n";
    let (forging, asked_of_forger) = lost(forged).await?;
    let identities = Identities::new()?;
    identities.give(&mesh.home().join("web"), "web")?;
    identities.give(&mesh.home().join("cart"), "cart")?;
    mesh.write("services.yaml", shop(&[]))?;
    let beside = async |app: SocketAddr| {
        let (port, inbound) = (format!("80:{}/http", app.port()), format!("{}=127.0.0.1:0", app.port()));
        let serving = ["--config", "services.yaml", "--identity", "web", "--service", "web.shop", "--port", &port, "--inbound", &inbound];
        Proxy::start(&mesh, serving).await
    };
    let well = beside(echo.address()).await?;
    let asking = async |app: SocketAddr, method: &str| {
        let callee = beside(app).await?;
        let name = format!("{}.yaml", app.port());
        mesh.write(&name, shop(&[(callee.address(), "transport: Lorica"), (well.address(), "transport: Lorica")]))?;
        let caller = Proxy::start(&mesh, ["--config", &name, "--identity", "cart", "--upstream", "web.shop:80=127.0.0.1:0"]).await?;
        let mut statuses = Vec::new();
        for _ in 0..12 {
            let asks = Request::builder().method(method).uri("/x").header("host", "web.shop").body(Full::default())?;
            let reply = HttpConnection::open(caller.address()).await?.send(asks).await?;
            assert_eq!(reply.header("x-lorica-unserved"), None, "it is for proxies alone");
            statuses.push(reply.status.as_u16());
        }
        anyhow::Ok(statuses)
    };
    assert_eq!(asking(nobody, "POST").await?, [200; 12], "it never reached the app");
    assert_eq!(asking(closing, "GET").await?, [200; 12], "it may be sent again");
    let gets = asked.load(Ordering::Relaxed);
    assert!(gets > 0, "nobody met the app that goes away");
    let posts = asking(closing, "POST").await?;
    assert!(posts.contains(&503), "what the app may have done was done again: {posts:?}");
    assert_eq!(posts.iter().filter(|status| **status == 503).count(), asked.load(Ordering::Relaxed) - gets, "each once");
    let said = asking(forging, "GET").await?;
    assert!(asked_of_forger.load(Ordering::Relaxed) > 0 && said.contains(&503), "an app says it: {said:?}");
    mesh.finish().await
}

#[tokio::test]
async fn two_proxies_speak_mutual_tls_by_files() -> anyhow::Result<()> {
    let mesh = Mesh::options().without_control()?;
    let echo = EchoServer::start("web").await?;
    let (web, cart, identities) = (mesh.home().join("web"), mesh.home().join("cart"), Identities::new()?);
    identities.give(&web, "web")?;
    identities.give(&cart, "cart")?;
    mesh.write("services.yaml", shop(&[]))?;
    let port = format!("80:{}/http", echo.address().port());
    let inbound = format!("{}=127.0.0.1:0", echo.address().port());
    let serving = ["--config", "services.yaml", "--identity", "web", "--service", "web.shop", "--port", &port, "--inbound", &inbound];
    let callee = Proxy::start(&mesh, serving).await?;
    mesh.write("mesh.yaml", shop(&[(callee.address(), MUTUAL_TLS)]))?;
    let caller = Proxy::start(&mesh, calling(&["--identity", "cart"])).await?;
    let told = reached(caller.address()).await?;
    let client = told.header("x-forwarded-client-cert").unwrap_or_default();
    assert!(client.contains("URI=spiffe://mesh.local/ns/shop/sa/cart"), "{told:?}");
    let metrics = http_get(caller.metrics, "proxy", "/metrics").await?.text();
    assert!(metrics.contains("lorica_svid_expiry_seconds"), "{metrics}");

    // Without proof nobody gets in, and without an identity nobody gets there.
    let plain = http_get(callee.address(), "web.shop", "/").await;
    assert!(plain.is_err(), "{plain:?}");
    let nobody = Proxy::start(&mesh, calling(&["--access-log", "stdout"])).await?;
    assert!(nobody.running.stderr().contains("there is no --identity"), "{}", nobody.running.stderr());
    let refused = http_get(nobody.address(), "web.shop", "/").await?;
    assert_eq!((refused.status.as_u16(), refused.header("x-lorica-reason")), (503, Some("upstream_tls")));
    nobody.running.line("this proxy was started without --identity").await?;

    // A renewed identity is taken, another's is not.
    identities.give(&cart, "cart")?;
    caller.running.line("the identity was renewed: spiffe://mesh.local/ns/shop/sa/cart").await?;
    reached(caller.address()).await?;
    identities.give(&cart, "mallory")?;
    caller.running.line("it is now the identity of spiffe://mesh.local/ns/shop/sa/mallory").await?;
    assert!(reached(caller.address()).await?.header("x-forwarded-client-cert").is_some_and(|client| client.contains("sa/cart")));

    // An endpoint that proves to be another is not called.
    let wrong = shop(&[(callee.address(), "account: front")]);
    mesh.write("mesh.yaml", wrong)?;
    caller.running.signal(Signal::HUP)?;
    caller.running.line("the configuration was read again").await?;
    // The worker takes it up in its own time, which is short.
    eventually("the endpoint is refused", PATIENCE, || async {
        let refused = http_get(caller.address(), "web.shop", "/").await?;
        let reason = refused.header("x-lorica-reason");
        anyhow::ensure!(refused.status == 503 && reason == Some("upstream_identity"), "{} {reason:?}", refused.status);
        Ok(())
    })
    .await?;
    mesh.finish().await
}

#[tokio::test]
async fn a_service_without_identity_takes_plaintext_where_a_policy_says_so() -> anyhow::Result<()> {
    let mesh = Mesh::options().without_control()?;
    let echo = EchoServer::start("web").await?;
    let policy = "---\napiVersion: lorica.io/v1alpha1\nkind: AuthenticationPolicy\nmetadata: {name: open, namespace: shop}\nspec: {mtls: {mode: Permissive}}\n";
    mesh.write("mesh.yaml", shop(&[]) + policy)?;
    let port = format!("80:{}/http", echo.address().port());
    let inbound = format!("{}=127.0.0.1:0", echo.address().port());
    let proxy = Proxy::start(&mesh, ["--config", "mesh.yaml", "--service", "web.shop", "--port", &port, "--inbound", &inbound]).await?;
    assert_eq!(reached(proxy.address()).await?.server, "web");
    mesh.finish().await
}

#[tokio::test]
async fn changed_files_hold_from_the_next_request_on_and_bad_ones_do_not() -> anyhow::Result<()> {
    let mesh = Mesh::options().without_control()?;
    let (one, two) = (EchoServer::start("one").await?, EchoServer::start("two").await?);
    mesh.write("mesh.yaml", shop(&[(one.address(), PLAINTEXT)]))?;
    let proxy = Proxy::start(&mesh, calling(&["--workers", "2"])).await?;
    let mut kept = HttpConnection::open(proxy.address()).await?;
    assert_eq!(kept.send(get("/")).await?.json::<Echo>()?.server, "one");

    mesh.write("mesh.yaml", shop(&[(two.address(), PLAINTEXT)]).replace("service: web,", "service: wbe,"))?;
    proxy.running.signal(Signal::HUP)?;
    proxy.running.line("the configuration was not changed").await?;
    assert!(proxy.running.stderr().contains("mesh.yaml:9:17"), "{}", proxy.running.stderr());
    assert_eq!(kept.send(get("/")).await?.json::<Echo>()?.server, "one");
    let ready = http_get(proxy.metrics, "proxy", "/ready").await?;
    assert!(ready.status == 200 && ready.text().contains("refused, the last good ones stay in force"), "{}", ready.text());

    mesh.write("mesh.yaml", shop(&[(two.address(), PLAINTEXT)]))?;
    proxy.running.signal(Signal::HUP)?;
    proxy.running.line("the configuration was read again: 2 resources in force").await?;
    // The worker takes it up in its own time, which is short.
    eventually("the new endpoint is called", PATIENCE, || async {
        let told = reached(proxy.address()).await?;
        anyhow::ensure!(told.server == "two", "{}", told.server);
        Ok(())
    })
    .await?;
    // What an upstream needs cannot be taken away under it.
    mesh.write("mesh.yaml", shop(&[]).replace("name: web,", "name: shop,"))?;
    proxy.running.signal(Signal::HUP)?;
    proxy.running.line("--upstream web.shop:80: no Service `web.shop`").await?;
    assert_eq!(reached(proxy.address()).await?.server, "two");
    mesh.finish().await
}

#[tokio::test]
async fn what_is_under_way_is_finished_and_nothing_new_begins() -> anyhow::Result<()> {
    let mesh = Mesh::options().without_control()?;
    let echo = EchoServer::start("web").await?;
    mesh.write("mesh.yaml", shop(&[(echo.address(), PLAINTEXT)]))?;
    let proxy = Proxy::start(&mesh, calling(&["--workers", "2"])).await?;
    let address = proxy.address();
    let mut idle = HttpConnection::open(address).await?;
    idle.send(get("/")).await?;
    let slow = tokio::spawn(async move { http_get(address, "web.shop", "/delay/1500").await });
    eventually("the slow request arrives", PATIENCE, || async {
        anyhow::ensure!(echo.requests() == 2);
        Ok(())
    })
    .await?;
    proxy.running.signal(Signal::TERM)?;
    proxy.running.line("ending: no new connections; 1 under way may take up to 20 s").await?;
    assert!(TcpStream::connect(address).await.is_err(), "a listener is still open");
    assert_eq!(slow.await??.status, 200);
    let ended = proxy.running.output(PATIENCE).await?;
    assert_eq!(ended.code(), 0);
    assert!(!ended.stderr.contains("cut off"), "{}", ended.stderr);
    mesh.finish().await
}

#[tokio::test]
async fn what_takes_too_long_is_cut_off_at_the_end() -> anyhow::Result<()> {
    let mesh = Mesh::options().without_control()?;
    let echo = EchoServer::start("web").await?;
    mesh.write("mesh.yaml", shop(&[(echo.address(), PLAINTEXT)]))?;
    let proxy = Proxy::start(&mesh, calling(&["--drain", "100ms"])).await?;
    let address = proxy.address();
    let endless = tokio::spawn(async move { http_get(address, "web.shop", "/delay/600000").await });
    eventually("the request arrives", PATIENCE, || async {
        anyhow::ensure!(echo.requests() == 1);
        Ok(())
    })
    .await?;
    proxy.running.signal(Signal::INT)?;
    let ended = proxy.running.output(PATIENCE).await?;
    assert!(ended.code() == 0 && ended.stderr.contains("warning: 1 under way were cut off"), "{}", ended.stderr);
    let _ = endless.await?;
    mesh.finish().await
}

#[tokio::test]
async fn each_worker_has_a_thread_and_a_listener_of_its_own() -> anyhow::Result<()> {
    let mesh = Mesh::options().without_control()?;
    let echo = EchoServer::start("web").await?;
    mesh.write("mesh.yaml", shop(&[(echo.address(), PLAINTEXT)]))?;
    let proxy = Proxy::start(&mesh, calling(&["--workers", "2"])).await?;
    let mut threads = Vec::new();
    for task in std::fs::read_dir(format!("/proc/{}/task", proxy.running.pid()))? {
        threads.push(std::fs::read_to_string(task?.path().join("comm"))?.trim().to_owned());
    }
    threads.sort();
    assert_eq!(threads, ["lorica", "worker-0", "worker-1"]);
    let listening = format!(":{:04X} 00000000:0000 0A", proxy.address().port());
    let sockets = std::fs::read_to_string("/proc/net/tcp")?;
    assert_eq!(sockets.lines().filter(|line| line.contains(&listening)).count(), 2, "{sockets}");
    for _ in 0..20 {
        reached(proxy.address()).await?;
    }
    // Both workers' counts are one proxy's.
    eventually("all are counted", PATIENCE, || async {
        let metrics = http_get(proxy.metrics, "proxy", "/metrics").await?.text();
        let counted: Vec<&str> = metrics.lines().filter(|line| line.starts_with("istio_requests_total{")).collect();
        anyhow::ensure!(counted.len() == 1 && counted[0].ends_with(" 20"), "{counted:?}");
        Ok(())
    })
    .await?;
    mesh.finish().await
}

/// How a proxy that cannot start says why, with its exit code.
async fn refused(mesh: &Mesh, arguments: &[&str]) -> anyhow::Result<String> {
    let output = mesh.lorica(["proxy"].iter().chain(arguments)).await?;
    anyhow::ensure!(output.code() != 0 && !output.stdout.contains("serving"), "it served: {}", output.stdout);
    Ok(output.stderr)
}

#[tokio::test]
async fn what_is_wrong_is_named_as_it_was_typed_with_what_to_do() -> anyhow::Result<()> {
    let mesh = Mesh::options().without_control()?;
    mesh.write("mesh.yaml", shop(&[("127.0.0.1:9".parse()?, PLAINTEXT)]))?;
    mesh.write("bad.yaml", shop(&[]).replace("ports:", "prots:"))?;
    Identities::new()?.give(&mesh.home().join("cart"), "cart")?;
    let taken = std::net::TcpListener::bind("127.0.0.1:0")?;
    let port = taken.local_addr()?.port().to_string();
    let (upstream, inbound) = (format!("web.shop:80=127.0.0.1:{port}"), format!("8080=127.0.0.1:{port}"));
    let serving = ["--service", "web.shop", "--port", "80:8080/http", "--inbound", "8080=127.0.0.1:0"];
    let with = |first: &[&'static str], more: &[&'static str]| -> Vec<&'static str> { first.iter().chain(more).copied().collect() };
    let cases: Vec<(Vec<&str>, Vec<&str>)> = vec![
        (vec!["--config", "mesh.yaml"], vec!["error: there is nothing to serve", "hint: --upstream NAME:PORT=LOCAL"]),
        (vec!["--config", "-", "--upstream", "web.shop:80=0"], vec!["`0` is no local address"]),
        (vec!["--config", "-", "--upstream", "web.shop:80=1"], vec!["standard input cannot be read again on SIGHUP"]),
        (vec!["--config", "gone.yaml", "--upstream", "web.shop:80=1"], vec!["gone.yaml cannot be read"]),
        (vec!["--config", "bad.yaml", "--upstream", "web.shop:80=1"], vec!["bad.yaml:4:8", "did you mean `ports`?"]),
        (
            vec!["--config", "mesh.yaml", "--upstream", "wep.shop:80=127.0.0.1:0"],
            vec!["error: --upstream wep.shop:80: no Service `wep.shop` in mesh.yaml", "hint: did you mean `web.shop`?"],
        ),
        (vec!["--config", "mesh.yaml", "--upstream", &upstream], vec!["for --upstream web.shop:80=127.0.0.1:", "in use", "ss -ltnp"]),
        (vec!["--config", "mesh.yaml", "--upstream", &upstream, "--workers", "2"], vec!["for --upstream web.shop:80=", "in use"]),
        (
            vec!["--config", "mesh.yaml", "--identity", "none", "--upstream", "web.shop:80=127.0.0.1:0"],
            vec!["none/svid.pem: No such file", "hint: none holds svid.pem", "and bundle.pem"],
        ),
        (
            with(&["--config", "mesh.yaml"], &serving),
            vec!["web.shop takes mutual TLS only, and there is no --identity", "mode: Permissive"],
        ),
        (
            with(&["--config", "mesh.yaml", "--identity", "cart"], &serving),
            vec!["cart/svid.pem is of spiffe://mesh.local/ns/shop/sa/cart, which is none of web.shop", "hint: use the identity of"],
        ),
        (
            vec!["--config", "mesh.yaml", "--service", "web.shop", "--port", "80:8080", "--upstream", "web.shop:80=127.0.0.1:0"],
            vec!["the app port 8080, and nobody can call it", "--inbound 8080="],
        ),
        (
            vec!["--config", "mesh.yaml", "--service", "web.shop", "--inbound", &inbound],
            vec!["names an app port of which nothing is known", "--port 80:8080/http"],
        ),
        (vec!["--config", "mesh.yaml", "--upstream", "web.shop:80=1", "--workers", "0"], vec!["`0` is no number of workers"]),
    ];
    for (arguments, told) in cases {
        let said = refused(&mesh, &arguments).await?;
        for part in told {
            assert!(said.contains(part), "{arguments:?} should say {part:?}, and says:\n{said}");
        }
    }
    std::fs::remove_file(mesh.home().join("cart/bundle.pem"))?;
    let said = refused(&mesh, &["--config", "mesh.yaml", "--identity", "cart", "--upstream", "web.shop:80=127.0.0.1:0"]).await?;
    assert!(said.contains("cart/bundle.pem: No such file"), "{said}");
    mesh.finish().await
}

#[tokio::test]
async fn help_tells_what_a_hangup_does() -> anyhow::Result<()> {
    let mesh = Mesh::options().without_control()?;
    let help = mesh.lorica(["proxy", "--help"]).await?.success()?.stdout;
    assert!(help.contains("On SIGHUP all files are read again") && help.contains("Examples:"), "{help}");
    mesh.finish().await
}
