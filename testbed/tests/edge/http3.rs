//! HTTP/3: a client on aioquic through the gateway's QUIC.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use serde_json::{Value, json};
use testbed::{
    Echo, EchoServer, Mesh, PATIENCE, Peer, Running, aioquic_path, eventually, gateway, https_send, left_out, peer, route, run_gateway,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::{Trusted, service};

/// Listeners that serve HTTP/3 for `a.example`, and do not for any other name.
pub(crate) const LISTENERS: &str = "  - {name: https, port: 443, protocol: HTTPS, hostname: a.example, tls: {certificateRefs: [{name: a}], options: {lorica.io/http3: \"true\"}}}
  - {name: other, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: a}]}}
";

/// A client that has begun to carry out commands; none where there is none here.
fn client(mesh: &Mesh, at: SocketAddr, trusted: &Trusted, commands: &[Value]) -> anyhow::Result<Option<Running>> {
    let (python, packages) = match (peer(Peer::Python), aioquic_path()) {
        (Ok(python), Ok(packages)) => (python, packages),
        (Err(why), _) | (_, Err(why)) => {
            left_out(&format!("HTTP/3 by a client of others: {why}"));
            return Ok(None);
        }
    };
    let script = mesh.write("http3.py", include_str!("http3.py"))?;
    let path = format!("PYTHONPATH={}", packages.display());
    let mut command: Vec<PathBuf> = vec![path.into(), python, script];
    command.extend([at.ip().to_string().into(), at.port().to_string().into(), trusted.file(mesh)?]);
    command.extend(commands.iter().map(|command| PathBuf::from(command.to_string())));
    Ok(Some(mesh.start_outside("/usr/bin/env", command)?))
}

/// What a client tells of commands.
async fn told(running: &Running) -> anyhow::Result<Vec<Value>> {
    let output = running.output(PATIENCE).await?.success()?;
    Ok(output.stdout.lines().map(serde_json::from_str).collect::<Result<_, _>>()?)
}

fn resources(one: SocketAddr, raw: SocketAddr, trusted: &Trusted) -> String {
    let rules = "  rules:
  - matches: [{path: {value: /raw}}]
    backendRefs: [{name: raw, port: 80}]
  - matches: [{path: {value: /moved}}]
    filters: [{type: RequestRedirect, requestRedirect: {path: {type: ReplaceFullPath, replaceFullPath: /here}}}]
  - matches: [{path: {value: /}}]
    filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {add: [{name: X-Told, value: by the rule}]}}]
    backendRefs: [{name: one, port: 80}]
";
    service("one", "http", one)
        + &service("raw", "http", raw)
        + &trusted.secret("a")
        + &gateway(LISTENERS)
        + &route("HTTPRoute", "rules", &format!("  hostnames: [a.example]\n{rules}"))
}

/// A server that answers with all that HTTP has, and counts callers that leave `/raw/never` before they are answered.
async fn raw() -> anyhow::Result<(SocketAddr, Arc<AtomicUsize>)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let left = Arc::<AtomicUsize>::default();
    let count = left.clone();
    tokio::spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            let left = count.clone();
            tokio::spawn(async move {
                let mut asked = Vec::new();
                while !asked.ends_with(b"\r\n\r\n") {
                    asked.push(tcp.read_u8().await?);
                }
                if asked.starts_with(b"GET /raw/never") {
                    tcp.write_all(b"HTTP/1.1 103 Early Hints\r\n\r\n").await?;
                    let end = tcp.read(&mut [0]).await;
                    left.fetch_add(1, Ordering::Relaxed);
                    end?;
                }
                // The head of a request with trailers is chunked; its end is the second empty line.
                if asked.windows(7).any(|part| part == b"chunked") {
                    let head = asked.len();
                    while !asked[head..].ends_with(b"\r\n\r\n") {
                        asked.push(tcp.read_u8().await?);
                    }
                }
                let trailers = asked.windows(11).any(|part| part == b"x-last: one\r"[..11].as_ref());
                let answer = format!(
                    "HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\nHTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nx-after: {trailers}\r\n\r\n"
                );
                tcp.write_all(answer.as_bytes()).await?;
                anyhow::Ok(())
            });
        }
    });
    Ok((address, left))
}

#[derive(PartialEq, Eq)]
enum By {
    Lorica,
    Envoy,
}

/// What every proxy does alike.
async fn exchanges(mesh: &Mesh, at: SocketAddr, trusted: &Trusted, by: By) -> anyhow::Result<bool> {
    let commands = [
        json!({"get": "/x?y=1", "headers": [["cookie", "a=1"], ["cookie", "b=2"]]}),
        json!({"get": "/post", "method": "POST", "body": 1000}),
        json!({"many": 50, "path": "/bytes/20000", "method": "POST", "body": 20000}),
        json!({"get": "/bytes/20000000"}),
        json!({"get": "/status/503"}),
        json!({"get": "/raw/x", "method": "POST", "body": 10, "trailers": [["x-last", "one"]]}),
        json!({"get": "/moved"}),
    ];
    let Some(running) = client(mesh, at, trusted, &commands)? else { return Ok(false) };
    let told = told(&running).await.with_context(|| mesh.last_words())?;
    let echo: Echo = serde_json::from_str(told[0]["text"].as_str().context("no text")?)?;
    ensure!((echo.path.as_str(), echo.host.as_str(), echo.header("cookie")) == ("/x?y=1", "a.example", Some("a=1; b=2")), "{echo:?}");
    ensure!(echo.header("x-forwarded-proto") == Some("https"), "{echo:?}");
    ensure!(told[0]["headers"]["x-told"] == "by the rule" && told[0]["headers"].get("alt-svc").is_none(), "{}", told[0]);
    let echo: Echo = serde_json::from_str(told[1]["text"].as_str().context("no text")?)?;
    ensure!(echo.body.len() == 1000 && echo.header("content-length").is_none_or(|length| length == "1000"), "{echo:?}");
    ensure!(told[2] == json!({"statuses": ["200"], "bodies": 50 * 20_000}), "{}", told[2]);
    ensure!((&told[3]["status"], &told[3]["body"]) == (&json!(200), &json!(20_000_000)), "{}", told[3]);
    ensure!(told[4]["status"] == 503, "{}", told[4]);
    ensure!((&told[5]["status"], &told[5]["body"]) == (&json!(200), &json!(5)), "{}", told[5]);
    if by == By::Lorica {
        // Envoy takes neither from a backend of HTTP/1.
        ensure!((&told[5]["trailers"]["x-after"], &told[5]["interim"]) == (&json!("true"), &json!([103])), "{}", told[5]);
    }
    ensure!((&told[6]["status"], &told[6]["headers"]["location"]) == (&json!(302), &json!("https://a.example/here")), "{}", told[6]);
    Ok(true)
}

#[tokio::test]
async fn exchanges_of_every_kind_pass() -> anyhow::Result<()> {
    let mesh = Mesh::options().without_control()?;
    let one = EchoServer::start("one").await?;
    let (raw, left) = raw().await?;
    let trusted = Trusted::new(&["a.example", "b.example"])?;
    let (proxy, at) = run_gateway(&mesh, &resources(one.address(), raw, &trusted), &[443], &["--access-log", "stdout"]).await?;
    // Callers by TCP are told of it, on the port that they use.
    for path in ["/", "/moved"] {
        let asks = Request::get(path).header("host", format!("a.example:{}", at[0].port())).body(Full::default())?;
        let reply = https_send(at[0], &trusted.der, "a.example", asks).await?;
        assert_eq!(reply.header("alt-svc"), Some(format!("h3=\":{}\"; ma=86400", at[0].port()).as_str()), "{path}");
    }
    let asks = |host: &str| Request::get("/").header("host", host).body(Full::new(Bytes::new()));
    let reply = https_send(at[0], &trusted.der, "a.example", asks("a.example")?).await?;
    assert_eq!(reply.header("alt-svc"), Some("h3=\":443\"; ma=86400"));
    let other = https_send(at[0], &trusted.der, "b.example", asks("b.example")?).await?;
    assert_eq!(other.header("alt-svc"), None, "its listener serves none");

    if !exchanges(&mesh, at[0], &trusted, By::Lorica).await? {
        return mesh.finish().await;
    }
    let commands = [json!({"get": "/", "host": "b.example"}), json!({"reset": "/raw/never"}), json!({"get": "/"})];
    let running = client(&mesh, at[0], &trusted, &commands)?.context("there was a client just now")?;
    let told = told(&running).await.with_context(|| mesh.last_words())?;
    assert_eq!(told[0]["status"], 421, "another listener's host: {}", told[0]);
    assert_eq!(told[2]["status"], 200, "{}", told[2]);
    eventually("the backend sees that its caller left", PATIENCE, || async {
        ensure!(left.load(Ordering::Relaxed) == 1, "it has not");
        Ok(())
    })
    .await?;
    // A name whose listener serves none is not even shown a certificate.
    let refused = client(&mesh, at[0], &trusted, &[json!({"get": "/", "server_name": "b.example"})])?;
    let refused = refused.context("there was a client just now")?.output(PATIENCE).await?;
    assert_ne!(refused.code(), 0, "{}", refused.stdout);

    let log = proxy.running.stop().await?;
    let of_http3 = |path: &str| log.stdout.lines().any(|line| line.contains("\"HTTP/3\"") && line.contains(path));
    assert!(of_http3("/x?y=1") && of_http3("/moved") && of_http3("/raw/never"), "{}", log.stdout);
    mesh.finish().await
}

#[tokio::test]
async fn heads_that_are_none_are_refused() -> anyhow::Result<()> {
    let mesh = Mesh::options().without_control()?;
    let one = EchoServer::start("one").await?;
    let trusted = Trusted::new(&["a.example"])?;
    let (proxy, at) = run_gateway(&mesh, &resources(one.address(), one.address(), &trusted), &[443], &[]).await?;
    let whole = [(":method", "GET"), (":scheme", "https"), (":authority", "a.example"), (":path", "/")];
    let with = |more: &[(&str, &str)]| json!({"raw": whole.iter().chain(more).collect::<Vec<_>>()});
    let many: Vec<(&str, &str)> = vec![("x-field", "y"); 130];
    let part = "x".repeat(16_000);
    let large: Vec<(&str, &str)> = vec![("x-large", &part); 4];
    let larger: Vec<(&str, &str)> = vec![("x-large", &part); 8];
    let commands = [
        with(&[("connection", "close")]),
        with(&[("transfer-encoding", "chunked")]),
        with(&[("X-Upper", "y")]),
        with(&[("x-field", "a\r\nb")]),
        with(&[("te", "gzip")]),
        with(&[("x-field", "y"), (":path", "/other")]),
        with(&[(":path", "/twice")]),
        json!({"raw": &whole[..3]}),
        with(&many),
        with(&[large.as_slice(), &[("x-more", &part[..1500])]].concat()),
        with(&larger),
        with(&[("content-length", "5")]),
        json!({"raw": [(":method", "CONNECT"), (":authority", "a.example")]}),
        with(&[("content-length", "5,6")]),
        with(&[]),
    ];
    let Some(running) = client(&mesh, at[0], &trusted, &commands)? else { return mesh.finish().await };
    let told = told(&running).await.with_context(|| mesh.last_words())?;
    let before = one.requests();
    for (command, told) in commands[..8].iter().zip(&told) {
        // H3_MESSAGE_ERROR.
        assert!(told["status"].is_null() && told["reset"] == 0x10e, "{command}: {told}");
    }
    for (told, status) in told[8..].iter().zip([431, 431, 431, 400, 501, 400, 200]) {
        assert_eq!(told["status"], status, "{told}");
    }
    // One was begun whose body is shorter than it says: the backend may have seen that.
    assert!((1..=2).contains(&before), "{before}");
    proxy.running.stop().await?;
    mesh.finish().await
}

#[tokio::test]
async fn a_renewed_certificate_ends_no_connection() -> anyhow::Result<()> {
    let mesh = Mesh::options().without_control()?;
    let one = EchoServer::start("one").await?;
    let trusted = Trusted::new(&["a.example"])?;
    let (proxy, at) = run_gateway(&mesh, &resources(one.address(), one.address(), &trusted), &[443], &[]).await?;
    let again = mesh.home().join("renewed");
    let commands = [json!({"until": again, "path": "/bytes/1000"}), json!({"get": "/"})];
    let Some(running) = client(&mesh, at[0], &trusted, &commands)? else { return mesh.finish().await };
    running.line("begun").await?;
    let renewed = Trusted::new(&["a.example"])?;
    mesh.write("gateway.yaml", resources(one.address(), one.address(), &renewed))?;
    proxy.running.signal(rustix::process::Signal::HUP)?;
    eventually("the renewed certificate is shown", PATIENCE, || async {
        let running = client(&mesh, at[0], &renewed, &[json!({"get": "/"})])?.context("there was a client just now")?;
        ensure!(told(&running).await?[0]["status"] == 200);
        Ok(())
    })
    .await?;
    std::fs::write(&again, "")?;
    let told = told(&running).await.with_context(|| mesh.last_words())?;
    assert_eq!(told[1], json!({"statuses": ["200"], "several": true}), "the connection from before goes on");
    assert_eq!(told[2]["status"], 200, "{}", told[2]);
    proxy.running.stop().await?;
    mesh.finish().await
}

#[tokio::test]
async fn a_gateway_that_ends_finishes_what_is_under_way() -> anyhow::Result<()> {
    let mesh = Mesh::options().without_control()?;
    let one = EchoServer::start("one").await?;
    let trusted = Trusted::new(&["a.example"])?;
    let (proxy, at) = run_gateway(&mesh, &resources(one.address(), one.address(), &trusted), &[443], &[]).await?;
    let commands = [json!({"get": "/"}), json!({"get": "/delay/1500"}), json!({"goaway": true})];
    let Some(running) = client(&mesh, at[0], &trusted, &commands)? else { return mesh.finish().await };
    eventually("the slow request is under way", PATIENCE, || async {
        ensure!(one.requests() == 2, "{} have come", one.requests());
        Ok(())
    })
    .await?;
    let ended = proxy.running.stop().await?;
    assert_eq!(ended.code(), 0, "{}", ended.stderr);
    let told = told(&running).await.with_context(|| mesh.last_words())?;
    assert_eq!((&told[1]["status"], &told[2]["goaway"]), (&json!(200), &json!(true)), "{told:?}");
    mesh.finish().await
}

#[tokio::test]
async fn a_stock_envoy_serves_http3_alike() -> anyhow::Result<()> {
    let mesh = Mesh::start().await?;
    let one = EchoServer::start("one").await?;
    let (raw, _) = raw().await?;
    let trusted = Trusted::new(&["a.example"])?;
    mesh.apply(&resources(one.address(), raw, &trusted)).await?;
    let Some(envoy) = crate::envoy(&mesh).await? else { return mesh.finish().await };
    let up = eventually("the service answers through Envoy", PATIENCE, || async {
        let asks = Request::get("/").header("host", "a.example").body(Full::new(Bytes::new()))?;
        let reply = https_send(envoy.bound(443)?, &trusted.der, "a.example", asks).await?;
        ensure!(reply.status == 200, "{}", reply.status);
        Ok(reply)
    });
    let reply = up.await.with_context(|| mesh.last_words())?;
    assert_eq!(reply.header("alt-svc"), Some("h3=\":443\"; ma=86400"));
    exchanges(&mesh, envoy.bound(443)?, &trusted, By::Envoy).await?;
    crate::end(envoy, &mesh).await?;
    mesh.finish().await
}
