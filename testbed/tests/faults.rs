//! Bad input and faults against the real binary. In flow broken requests, strangers at the inbound port, killed processes and a full disk; out
//! flow answers, closed connections, and the certainty that the mesh goes on. Nothing here looks inside the mesh.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::Full;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
use testbed::{AnyServer, Connection, EchoServer, HttpConnection, Mesh, PATIENCE, Port, Running, eventually, http_get, left_out, send_raw};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};

/// A workload of `web.shop` whose app is a program of its own, without capture.
fn workload(mesh: &Mesh, app_port: u16) -> anyhow::Result<Running> {
    let app = mesh.program(testbed::app()?)?;
    let listen = format!("127.0.0.1:{app_port}");
    let run = mesh.service("web.shop").no_capture().port(&format!("80:{app_port}/http"));
    run.start([app.as_os_str(), "http".as_ref(), "--listen".as_ref(), listen.as_ref()])
}

/// A local listener that leads into the mesh, to `web.shop`; ends when the app answers through it.
async fn way_in(mesh: &Mesh, port: &Port) -> anyhow::Result<Running> {
    let client = mesh.client().upstream(&format!("web.shop:80={}", port.address())).start(["sleep", "1000"])?;
    served(mesh, port.address()).await?;
    Ok(client)
}

/// The app answers at `address`, once whatever was started just now has got so far.
async fn served(mesh: &Mesh, address: SocketAddr) -> anyhow::Result<()> {
    let answered = eventually("the app answers", PATIENCE, || async {
        let reply = http_get(address, "web.shop", "/").await?;
        ensure!(reply.status == StatusCode::OK, "{} {}", reply.status, reply.text());
        Ok(())
    });
    answered.await.with_context(|| mesh.last_words())
}

/// The answer that the proxy gave by itself: its status and its reason.
fn refusal(answer: &[u8]) -> (String, String) {
    let text = String::from_utf8_lossy(answer).to_ascii_lowercase();
    let status = text.split(' ').nth(1).unwrap_or_default().to_owned();
    let reason = text.lines().find_map(|line| line.strip_prefix("x-lorica-reason: ")).unwrap_or_default();
    (status, reason.trim().to_owned())
}

#[tokio::test]
async fn malformed_requests_are_refused_and_the_proxy_serves_on() -> anyhow::Result<()> {
    let mesh = Mesh::as_nobody().start().await?;
    let (app, port) = (EchoServer::start("web").await?, Port::free()?);
    let _web = mesh.service("web.shop").no_capture().port(&format!("80:{}/http", app.address().port())).start(["sleep", "1000"])?;
    mesh.announced("web.shop", 1).await?;
    let _client = way_in(&mesh, &port).await?;
    let before = app.requests();
    let malformed: [&[u8]; 7] = [
        b"GET / HTTP/1.1\r\nhost: web.shop\r\nno colon\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: web.shop\r\na\0b: c\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: web.shop\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
        b"POST / HTTP/1.1\r\nhost: web.shop\r\ncontent-length: 1x\r\n\r\na",
        b"POST / HTTP/1.1\r\nhost: web.shop\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n",
        b"GET /a b HTTP/1.1\r\nhost: web.shop\r\n\r\n",
    ];
    for request in malformed {
        let shown = String::from_utf8_lossy(request).into_owned();
        let answer = send_raw(port.address(), request).await.with_context(|| shown.clone())?;
        assert_eq!(refusal(&answer), ("400".to_owned(), "bad_request".to_owned()), "{shown:?}: {}", String::from_utf8_lossy(&answer));
    }
    assert_eq!(app.requests(), before, "the app saw a malformed request");
    served(&mesh, port.address()).await?;
    mesh.finish().await
}

#[tokio::test]
async fn heads_that_are_too_large_or_too_slow_are_answered() -> anyhow::Result<()> {
    let mesh = Mesh::as_nobody().start().await?;
    let (app, port) = (EchoServer::start("web").await?, Port::free()?);
    let _web = mesh.service("web.shop").no_capture().port(&format!("80:{}/http", app.address().port())).start(["sleep", "1000"])?;
    mesh.announced("web.shop", 1).await?;
    let _client = way_in(&mesh, &port).await?;
    let before = app.requests();

    // Begun first, so that its time runs out while the others are looked at.
    let mut slow = Connection::open(port.address()).await?;
    slow.write(b"GET / HTTP/1.1\r\nhost: web.shop\r\nslow: ").await?;
    let mut slow_line = Connection::open(port.address()).await?;
    slow_line.write(b"GET / HTT").await?;
    // One that said it would send no more, without having sent a whole head, and one that leaves its body unfinished and stays.
    let mut half_open = Connection::open(port.address()).await?;
    half_open.write(b"GET / HTTP/1.1\r\nhost: web.shop\r\n").await?;
    half_open.close_write().await?;
    half_open.read_to_end().await?;
    let mut half_body = Connection::open(port.address()).await?;
    half_body.write(b"POST / HTTP/1.1\r\nhost: web.shop\r\ncontent-length: 5\r\n\r\nab").await?;

    let mut large = b"GET / HTTP/1.1\r\nhost: web.shop\r\nlarge: ".to_vec();
    large.resize(256 << 10, b'x');
    let mut connection = Connection::open(port.address()).await?;
    // The proxy need not take all of it.
    drop(connection.write(&large).await);
    let answer = connection.read_until(b"\r\n\r\n").await?;
    assert_eq!(refusal(&answer), ("431".to_owned(), "head_too_large".to_owned()), "{}", String::from_utf8_lossy(&answer));

    for connection in [&mut slow, &mut slow_line] {
        let answer = connection.read_to_end().await?;
        assert_eq!(refusal(&answer), ("408".to_owned(), "head_timeout".to_owned()), "{}", String::from_utf8_lossy(&answer));
    }
    served(&mesh, port.address()).await?;
    // Of all these, at most the one with a whole head may have got to the app, besides the last.
    ensure!(app.requests() <= before + 2, "the app saw {} requests", app.requests() - before);
    drop(half_body);
    mesh.finish().await
}

/// Where the proxy of `web.shop` takes calls for it.
async fn inbound(mesh: &Mesh) -> anyhow::Result<SocketAddr> {
    let status = mesh.status().await?;
    let proxies = status["proxies"].as_array().context("no proxies")?;
    let web = proxies.iter().find(|proxy| proxy["service"].as_str().is_some_and(|service| service.starts_with("web.shop")));
    let address = web.and_then(|web| web["ports"][0]["address"].as_str()).with_context(|| format!("no inbound port: {status:#}"))?;
    Ok(address.parse()?)
}

#[tokio::test]
async fn plaintext_is_taken_only_where_a_policy_says_so() -> anyhow::Result<()> {
    let mesh = Mesh::as_nobody().start().await?;
    let app = EchoServer::start("web").await?;
    let _web = mesh.service("web.shop").no_capture().port(&format!("80:{}/http", app.address().port())).start(["sleep", "1000"])?;
    mesh.announced("web.shop", 1).await?;
    let address = inbound(&mesh).await?;
    for bytes in [&b"GET / HTTP/1.1\r\nhost: web.shop\r\n\r\n"[..], b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"hello\n"] {
        let mut connection = Connection::open(address).await?;
        connection.write(bytes).await?;
        // Closed or reset: either way without a word.
        let closed = format!("{:#}", connection.read_until(b"\n").await.unwrap_err());
        assert!(closed.contains("after \"\"") && !closed.contains("nothing came"), "{closed}");
    }
    assert_eq!(app.requests(), 0, "the app saw plaintext");
    let policy = "apiVersion: lorica.io/v1alpha1\nkind: AuthenticationPolicy\nmetadata: {name: web, namespace: shop}\nspec:\n  targetRefs: [{kind: Service, name: web}]\n  mtls: {mode: Permissive}\n";
    let applied = mesh.apply(policy).await?;
    assert!(applied.stdout.contains("applied: 1 of 1"), "{}", applied.stdout);
    let reply = http_get(address, "web.shop", "/").await?;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text());
    assert_eq!(app.requests(), 1);
    mesh.finish().await
}

type Certified = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// What comes back to a TLS client that asks for `/`. An error: it was refused, in the handshake or right after.
async fn ask_by_tls(address: SocketAddr, server_name: &str, certified: Option<&Certified>) -> anyhow::Result<String> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions()?;
    let builder = builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyServer(provider)));
    let mut config = match certified {
        Some((chain, key)) => builder.with_client_auth_cert(chain.clone(), key.clone_key())?,
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let asked = async {
        let tcp = TcpStream::connect(address).await?;
        let name = ServerName::try_from(server_name.to_owned())?;
        let mut tls = TlsConnector::from(Arc::new(config)).connect(name, tcp).await?;
        tls.write_all(b"GET / HTTP/1.1\r\nhost: web.shop\r\nconnection: close\r\n\r\n").await?;
        let mut answer = String::new();
        tls.read_to_string(&mut answer).await?;
        ensure!(!answer.is_empty(), "closed without an answer");
        Ok(answer)
    };
    timeout(PATIENCE, asked).await.context("neither an answer nor a refusal came")?
}

/// A certificate that says what one of this mesh says, signed by an authority that is not the mesh's.
fn forged() -> anyhow::Result<Certified> {
    let mut root = CertificateParams::default();
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let issuer = Issuer::new(root, KeyPair::generate()?);
    let key = KeyPair::generate()?;
    let mut leaf = CertificateParams::default();
    leaf.subject_alt_names = vec![SanType::URI("spiffe://mesh.local/ns/shop/sa/default".try_into()?)];
    let certificate = leaf.signed_by(&key, &issuer)?;
    Ok((vec![certificate.der().clone()], PrivatePkcs8KeyDer::from(key.serialize_der()).into()))
}

#[tokio::test]
async fn only_callers_of_the_mesh_that_mean_this_service_are_let_in() -> anyhow::Result<()> {
    let mesh = Mesh::as_nobody().start().await?;
    let app = EchoServer::start("web").await?;
    let _web = mesh.service("web.shop").no_capture().port(&format!("80:{}/http", app.address().port())).start(["sleep", "1000"])?;
    mesh.announced("web.shop", 1).await?;
    let address = inbound(&mesh).await?;
    let directory = mesh.home().join("member");
    let options = ["envoy", "bootstrap", "--namespace", "shop", "--directory"].map(Into::into);
    mesh.lorica(options.into_iter().chain([directory.clone().into_os_string()])).await?.success()?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_file_iter(directory.join("svid.pem"))?.collect();
    let member: Certified = (chain?, PrivateKeyDer::from_pem_file(directory.join("key.pem"))?);

    let (right, forged) = ("80.web.shop.mesh", forged()?);
    let strangers = [
        ("of another authority", right, Some(&forged)),
        ("without a certificate", right, None),
        ("of the mesh, that means another service", "80.other.shop.mesh", Some(&member)),
        ("of the mesh, that means another port", "81.web.shop.mesh", Some(&member)),
    ];
    for (who, server_name, certified) in strangers {
        let answer = ask_by_tls(address, server_name, certified).await;
        let refused = format!("{:#}", answer.err().with_context(|| format!("a caller {who} got an answer"))?);
        assert!(!refused.contains("neither"), "a caller {who}: {refused}");
    }
    assert_eq!(app.requests(), 0, "the app saw a stranger");
    let answer = ask_by_tls(address, right, Some(&member)).await?;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(app.requests(), 1);
    mesh.finish().await
}

/// Callers that ask one request after another, each on a connection that it keeps, until told to stop.
struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    callers: Vec<JoinHandle<Asked>>,
}

/// What callers got.
#[derive(Debug, Default)]
struct Asked {
    sent: u64,
    /// Of each request that got another answer than 200, what came instead.
    failures: Vec<String>,
    /// The most that failed of any one caller.
    most_of_one: usize,
}

/// So many callers at once.
const CALLERS: usize = 6;

impl Load {
    fn start(address: SocketAddr, method: &Method) -> Self {
        let (stop, answered) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let caller = |_| tokio::spawn(call(address, method.clone(), Arc::clone(&stop), Arc::clone(&answered)));
        Self { callers: (0..CALLERS).map(caller).collect(), stop, answered }
    }

    /// Waits until so many more were answered.
    async fn goes_on(&self, count: u64) -> anyhow::Result<()> {
        let goal = self.answered.load(Ordering::Relaxed) + count;
        let reached = || async {
            let now = self.answered.load(Ordering::Relaxed);
            ensure!(now >= goal, "{now} of {goal}");
            Ok(())
        };
        eventually("requests are answered", PATIENCE, reached).await
    }

    async fn stop(self) -> anyhow::Result<Asked> {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Asked::default();
        for caller in self.callers {
            let one = caller.await?;
            all.sent += one.sent;
            all.most_of_one = all.most_of_one.max(one.failures.len());
            all.failures.extend(one.failures);
        }
        Ok(all)
    }
}

async fn call(address: SocketAddr, method: Method, stop: Arc<AtomicBool>, answered: Arc<AtomicU64>) -> Asked {
    let mut asked = Asked::default();
    let mut kept = None;
    while !stop.load(Ordering::Relaxed) {
        asked.sent += 1;
        match ask(address, &method, &mut kept).await {
            Ok(()) => drop(answered.fetch_add(1, Ordering::Relaxed)),
            Err(error) => {
                asked.failures.push(format!("{error:#}"));
                kept = None;
            }
        }
    }
    asked
}

async fn ask(address: SocketAddr, method: &Method, kept: &mut Option<HttpConnection>) -> anyhow::Result<()> {
    let connection = match kept {
        Some(connection) => connection,
        None => kept.insert(HttpConnection::open(address).await?),
    };
    let body = if method == Method::POST { Bytes::from_static(b"one payment") } else { Bytes::new() };
    // A little time in the app, so that there are always some under way.
    let request = Request::builder().method(method).uri("/delay/5").header("host", "web.shop").body(Full::new(body))?;
    let reply = connection.send(request).await?;
    ensure!(reply.status == StatusCode::OK, "{} {:?} {}", reply.status, reply.headers.get("x-lorica-reason"), reply.text());
    Ok(())
}

#[tokio::test]
async fn requests_go_on_while_the_control_plane_is_gone() -> anyhow::Result<()> {
    let mesh = Mesh::as_nobody().start().await?;
    let (app, port, later) = (Port::free()?, Port::free()?, Port::free()?);
    let _web = workload(&mesh, app.number())?;
    mesh.announced("web.shop", 1).await?;
    let _client = way_in(&mesh, &port).await?;
    let load = Load::start(port.address(), &Method::GET);
    load.goes_on(100).await?;
    mesh.kill_control().await?;
    load.goes_on(100).await?;
    mesh.start_control().await?;
    load.goes_on(100).await?;
    mesh.announced("web.shop", 1).await?;
    let _second = way_in(&mesh, &later).await?;
    load.goes_on(100).await?;
    let asked = load.stop().await?;
    assert!(asked.failures.is_empty(), "{asked:?}\n{}", mesh.last_words());
    // A proxy waits a little before it connects again; a receipt concerns those that are there.
    let back = eventually("all three proxies are back", PATIENCE, || async {
        let status = mesh.status().await?;
        let proxies = status["proxies"].as_array().context("no proxies")?;
        let there = proxies.iter().filter(|proxy| proxy["connected"] == true && !proxy["last_ack"].is_null()).count();
        ensure!(there == 3, "{there} are: {status:#}");
        Ok(())
    });
    back.await.with_context(|| mesh.last_words())?;
    let route = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: web, namespace: shop}\nspec:\n  parentRefs: [{kind: Service, name: web}]\n  rules:\n  - matches: [{path: {value: /}}]\n    backendRefs: [{name: web, port: 80}]\n";
    let applied = mesh.apply(route).await?;
    assert!(applied.stdout.contains("applied: 2 of 2"), "{}", applied.stdout);
    served(&mesh, port.address()).await?;
    mesh.finish().await
}

/// Two workloads of `web.shop` that both take calls, a way in, and the port that leads there.
async fn pair(mesh: &Mesh, ports: &[Port; 3]) -> anyhow::Result<[Running; 3]> {
    let (one, two) = (workload(mesh, ports[0].number())?, workload(mesh, ports[1].number())?);
    mesh.announced("web.shop", 2).await?;
    let client = way_in(mesh, &ports[2]).await?;
    Ok([one, two, client])
}

#[tokio::test]
async fn no_get_fails_when_a_workload_is_killed() -> anyhow::Result<()> {
    let mesh = Mesh::as_nobody().start().await?;
    let ports = [Port::free()?, Port::free()?, Port::free()?];
    let [one, _two, _client] = pair(&mesh, &ports).await?;
    let load = Load::start(ports[2].address(), &Method::GET);
    load.goes_on(100).await?;
    one.kill().await?;
    load.goes_on(300).await?;
    let asked = load.stop().await?;
    assert!(asked.failures.is_empty(), "{asked:?}\n{}", mesh.last_words());
    mesh.finish().await
}

#[tokio::test]
async fn when_a_workload_is_killed_only_posts_in_flight_fail() -> anyhow::Result<()> {
    let mesh = Mesh::as_nobody().start().await?;
    let ports = [Port::free()?, Port::free()?, Port::free()?];
    let [one, _two, _client] = pair(&mesh, &ports).await?;
    let load = Load::start(ports[2].address(), &Method::POST);
    load.goes_on(100).await?;
    one.kill().await?;
    load.goes_on(300).await?;
    let asked = load.stop().await?;
    // A caller waits for each answer, so it has at most one in flight.
    assert!(asked.most_of_one <= 1, "{asked:?}\n{}", mesh.last_words());
    assert!(asked.failures.iter().all(|failure| failure.starts_with("503 ")), "{asked:?}");
    mesh.finish().await
}

#[tokio::test]
async fn no_post_is_sent_twice_when_a_proxy_is_killed() -> anyhow::Result<()> {
    let mesh = Mesh::as_nobody().start().await?;
    // Apps that outlive their proxies, and so can be asked what they saw.
    let (apps, port) = ([EchoServer::start("one").await?, EchoServer::start("two").await?], Port::free()?);
    let run = |app: &EchoServer| {
        mesh.service("web.shop").no_capture().port(&format!("80:{}/http", app.address().port())).start(["sleep", "1000"])
    };
    let (one, _two) = (run(&apps[0])?, run(&apps[1])?);
    mesh.announced("web.shop", 2).await?;
    let _client = way_in(&mesh, &port).await?;
    let seen = || apps.iter().map(EchoServer::requests).sum::<u64>();
    let before = seen();
    let load = Load::start(port.address(), &Method::POST);
    load.goes_on(100).await?;
    one.kill().await?;
    load.goes_on(300).await?;
    let asked = load.stop().await?;
    assert!(asked.most_of_one <= 1, "{asked:?}\n{}", mesh.last_words());
    assert!(seen() - before <= asked.sent, "{} were seen of {} sent", seen() - before, asked.sent);
    mesh.finish().await
}

#[tokio::test]
async fn no_request_fails_when_a_workload_is_stopped() -> anyhow::Result<()> {
    for method in [Method::GET, Method::POST] {
        let mesh = Mesh::as_nobody().start().await?;
        let ports = [Port::free()?, Port::free()?, Port::free()?];
        let [one, _two, _client] = pair(&mesh, &ports).await?;
        let load = Load::start(ports[2].address(), &method);
        load.goes_on(100).await?;
        one.stop().await?;
        load.goes_on(100).await?;
        let asked = load.stop().await?;
        assert!(asked.failures.is_empty(), "{method}: {asked:?}\n{}", mesh.last_words());
        mesh.finish().await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_full_disk_is_told_and_loses_nothing() -> anyhow::Result<()> {
    let mesh = Mesh::as_nobody().without_control()?;
    let (binary, state) = (mesh.program(testbed::lorica()?)?, mesh.home().join("disk"));
    // A file system of its own, seen by the control plane alone; it ends with the process.
    let script = "mkdir -p \"$2\" && mount -t tmpfs -o size=3m,mode=700 tmpfs \"$2\" && echo mounted && exec \"$1\" --ends-with \"$3\" control --state \"$2\"";
    let own = std::process::id().to_string();
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
    let control = mesh.start_outside("/usr/bin/unshare", words)?;
    if control.line("mounted").await.is_err() {
        left_out(&format!("a full disk: no file system may be mounted here: {}", control.stderr()));
        return mesh.finish().await;
    }
    eventually("the control plane answers", PATIENCE, || mesh.status()).await.with_context(|| mesh.last_words())?;
    let service = |name: &str| {
        format!(
            "apiVersion: lorica.io/v1alpha1\nkind: Service\nmetadata: {{name: {name}, namespace: shop}}\nspec: {{ports: [{{port: 80, appProtocol: http}}]}}\n"
        )
    };
    mesh.apply(&service("first")).await?;

    // As the mesh's user: nobody else is known in that file system.
    let filler = format!("/proc/{}/root{}", control.pid(), state.join("filler").display());
    let filled = mesh.start_outside("/bin/sh", ["-c", "exec head -c 8M /dev/zero > \"$1\"", "sh", &filler])?.output(PATIENCE).await?;
    ensure!(filled.code() != 0 && filled.stderr.contains("No space"), "the disk took all: {filled:?}");
    // What the store has set aside may take some more; not as much as this.
    let many = |round: usize| (0..400).map(|number| service(&format!("more-{round}-{number}"))).collect::<Vec<_>>().join("---\n");
    let mut refused = None;
    for round in 0..20 {
        let applied = mesh.lorica_with_input(["apply", "-f", "-"], Some(&many(round))).await?;
        if applied.code() != 0 {
            refused = Some((round, applied));
            break;
        }
    }
    let (round, refused) = refused.context("a full disk took all that was applied")?;
    assert!(refused.code() == 1 && refused.stderr.contains("is full"), "{refused:?}\n{}", mesh.last_words());
    let listed = mesh.lorica(["get", "service", "--namespace", "shop", "-o", "json"]).await?.success()?.stdout;
    assert!(listed.contains("first"), "{listed}");
    assert!(!listed.contains(&format!("more-{round}-")), "some of what was refused is there");

    mesh.start_outside("/bin/rm", [&filler])?.output(PATIENCE).await?.success()?;
    mesh.apply(&service("last")).await?;
    let listed = mesh.lorica(["get", "service", "--namespace", "shop", "-o", "json"]).await?.success()?.stdout;
    assert!(listed.contains("first") && listed.contains("last"), "{listed}");
    control.stop().await?;
    mesh.finish().await
}
