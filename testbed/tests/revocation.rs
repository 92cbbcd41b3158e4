//! Revocation: who is revoked gets no certificate, reaches nobody and is reached by nobody, and what was open is closed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::ErrorKind;
use std::net::SocketAddr;

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use testbed::{Connection, EchoServer, Envoy, Mesh, PATIENCE, Port, TcpEcho, eventually, http_get, http2_send};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A connection of bytes that answers.
async fn open(address: SocketAddr) -> anyhow::Result<TcpStream> {
    let opened = eventually("bytes come back", PATIENCE, || async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(b"ping").await?;
        stream.read_exact(&mut [0; 4]).await?;
        Ok(stream)
    });
    opened.await
}

/// Waits until a connection is closed by the other side.
async fn closed(stream: &mut TcpStream) -> anyhow::Result<()> {
    let end = tokio::time::timeout(PATIENCE, stream.read(&mut [0])).await.context("the connection stays open")?;
    ensure!(matches!(end, Ok(0) | Err(_)), "bytes came: {end:?}");
    Ok(())
}

/// A new connection is closed, and nothing comes back on it.
async fn refused(address: SocketAddr) -> anyhow::Result<()> {
    // Whether the proxy resets it before its client looks, before the bytes or after them is open.
    let mut stream = match TcpStream::connect(address).await {
        Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(()),
        opened => opened?,
    };
    drop(stream.write_all(b"ping").await);
    closed(&mut stream).await
}

/// A call of HTTP/1 is answered, and one of HTTP/2.
async fn answers(address: SocketAddr) -> anyhow::Result<()> {
    let first = http_get(address, "echo.shop", "/").await?;
    let second = http2_send(address, Request::get("http://echo.shop/").body(Full::new(Bytes::new()))?).await?;
    for reply in [first, second] {
        ensure!(reply.status == 200, "{} {:?}", reply.status, reply.header("x-lorica-reason"));
    }
    Ok(())
}

/// Callers that are workloads of a mesh, and what they call.
#[tokio::test]
async fn a_revoked_caller_and_a_revoked_callee_are_cut_off_and_may_come_back() -> anyhow::Result<()> {
    let mesh = Mesh::start().await?;
    let (echo, bytes) = (EchoServer::start("echo").await?, TcpEcho::start("").await?);
    let run = |service: &str, port: String| mesh.service(service).no_capture().port(&port).start(["sleep", "1000"]);
    let _echo = run("echo.shop", format!("80:{}/http", echo.address().port()))?;
    let _bytes = run("bytes.shop", format!("7:{}/tcp", bytes.address().port()))?;
    mesh.announced("echo.shop", 1).await?;
    mesh.announced("bytes.shop", 1).await?;
    let [bad_http, bad_tcp, bad_late, good_http, good_tcp] = [Port::free()?, Port::free()?, Port::free()?, Port::free()?, Port::free()?];
    let client = |account: &str| mesh.client().option("--account").option(account);
    let _bad = client("bad")
        .upstream(&format!("echo.shop:80={}", bad_http.address()))
        .upstream(&format!("bytes.shop:7={}", bad_tcp.address()))
        .upstream(&format!("late.shop:7={}", bad_late.address()))
        .start(["sleep", "1000"])?;
    let _good = client("good")
        .upstream(&format!("echo.shop:80={}", good_http.address()))
        .upstream(&format!("bytes.shop:7={}", good_tcp.address()))
        .start(["sleep", "1000"])?;
    let (mut bad, mut good) = (open(bad_tcp.address()).await?, open(good_tcp.address()).await?);
    for port in [&bad_http, &good_http] {
        eventually("calls are answered", PATIENCE, || answers(port.address())).await.with_context(|| mesh.last_words())?;
    }
    // One that waits for the rest of its request.
    let mut waiting = Connection::open(bad_http.address()).await?;
    waiting.write(b"POST / HTTP/1.1\r\nhost: echo.shop\r\ncontent-length: 10\r\n\r\nfirst").await?;

    // A caller, by its identity.
    let identity = "spiffe://mesh.local/ns/default/sa/bad";
    let told = mesh.lorica(["ca", "revoke", identity, "--reason", "a test"]).await?.success()?;
    assert!(told.stdout.contains("revoked: 4 of 4 proxies concerned"), "{}{}", told.stdout, told.stderr);
    closed(&mut bad).await?;
    let ended = waiting.read_until(b"\r\n").await?;
    assert!(ended.starts_with(b"HTTP/1.1 5"), "{}", String::from_utf8_lossy(&ended));
    // The proxies keep TLS sessions and open connections of the revoked one: none of them leads anywhere.
    let reached = echo.requests();
    for _ in 0..3 {
        refused(bad_tcp.address()).await?;
        answers(bad_http.address()).await.unwrap_err();
    }
    assert_eq!(echo.requests(), reached, "a revoked caller reached the app");
    let again = mesh.lorica(["ca", "revoke", identity]).await?;
    assert!(again.code() == 1 && again.stderr.contains("is revoked already"), "{}", again.stderr);
    for verb in ["revocations", "status"] {
        let list = mesh.lorica(["ca", verb]).await?.success()?;
        assert!(list.stdout.contains(identity) && list.stdout.contains("a test"), "{}", list.stdout);
    }
    // Others are not touched.
    good.write_all(b"pong").await?;
    good.read_exact(&mut [0; 4]).await?;

    // After a restart as before: no certificate, and who starts now refuses it, too.
    mesh.stop_control().await?;
    mesh.start_control().await?;
    let _late = run("late.shop", format!("7:{}/tcp", bytes.address().port()))?;
    mesh.announced("late.shop", 1).await?;
    refused(bad_late.address()).await?;
    let no_certificate = client("bad").option("--no-capture").output(["true"]).await?;
    let why = format!("({identity}) is revoked");
    assert!(no_certificate.code() != 0 && no_certificate.stderr.contains(&why), "{} {}", no_certificate.stdout, no_certificate.stderr);
    let told = mesh.lorica(["ca", "reinstate", identity]).await?.success()?;
    assert!(told.stdout.contains("reinstated: "), "{}", told.stdout);
    eventually("calls are answered again", PATIENCE, || answers(bad_http.address())).await.with_context(|| mesh.last_words())?;
    drop(open(bad_late.address()).await?);

    // A callee, by its name.
    let status = mesh.status().await?;
    let ids = status["proxies"].as_array().into_iter().flatten().filter_map(|proxy| proxy["id"].as_str());
    let workload = ids.into_iter().find(|id| id.starts_with("bytes-")).context("there is no such workload")?.to_owned();
    mesh.lorica(["ca", "revoke", &workload]).await?.success()?;
    closed(&mut good).await?;
    refused(good_tcp.address()).await?;
    answers(good_http.address()).await?;
    let unknown = mesh.lorica(["ca", "reinstate", "nobody.shop"]).await?;
    assert!(unknown.code() == 1 && unknown.stderr.contains("nobody.shop is not revoked"), "{}", unknown.stderr);
    mesh.finish().await
}

/// Envoy goes by lists of serial numbers. Each connection of bytes is one of mutual TLS, which may go on from an earlier one's session.
#[tokio::test]
async fn a_stock_envoy_refuses_a_revoked_caller_and_a_revoked_callee() -> anyhow::Result<()> {
    let mesh = Mesh::start().await?;
    let (behind, app) = (TcpEcho::start("").await?, EchoServer::start("echo").await?);
    let _echo = mesh.service("echo.shop").no_capture().port(&format!("80:{}/http", app.address().port())).start(["sleep", "1000"])?;
    mesh.announced("echo.shop", 1).await?;
    let [inbound, local, bad, good, later] = [Port::free()?, Port::free()?, Port::free()?, Port::free()?, Port::free()?];
    let port = format!("7:{}/tcp", behind.address().port());
    let (address, upstream) = (inbound.address().to_string(), format!("echo.shop:80={}", local.address()));
    let options = ["--service", "bytes.shop", "--port", &port, "--inbound", &address, "--upstream", &upstream];
    let Some(envoy) = Envoy::start(&mesh, &options).await? else { return mesh.finish().await };
    mesh.announced("bytes.shop", 1).await?;
    let client = |account: &str, port: &Port| {
        let upstream = format!("bytes.shop:7={}", port.address());
        mesh.client().option("--account").option(account).upstream(&upstream).start(["sleep", "1000"])
    };
    let (_bad, _good) = (client("bad", &bad)?, client("good", &good)?);
    for port in [&bad, &good] {
        drop(open(port.address()).await.with_context(|| mesh.last_words())?);
    }

    let identity = "spiffe://mesh.local/ns/default/sa/bad";
    let told = mesh.lorica(["ca", "revoke", identity]).await?.success()?;
    assert!(told.stdout.contains("revoked: 4 of 4 proxies concerned"), "{}{}", told.stdout, told.stderr);
    assert!(!told.stderr.contains("cannot be told"), "{}", told.stderr);
    // Envoy acknowledges before its worker has it.
    let cut_off = eventually("Envoy refuses the revoked one", PATIENCE, || async {
        refused(bad.address()).await?;
        let counters = envoy.counters().await?;
        let failed = counters.iter().find(|(name, _)| name.starts_with("listener.") && name.ends_with(".ssl.fail_verify_error"));
        ensure!(failed.is_some_and(|(_, count)| *count > 0), "{failed:?}");
        Ok(())
    });
    cut_off.await.with_context(|| mesh.last_words())?;
    refused(bad.address()).await?;
    drop(open(good.address()).await?);
    // A certificate that is signed now is by an authority that Envoy has a list of, also after the intermediate is another.
    mesh.lorica(["ca", "replace-intermediate"]).await?.success()?;
    let _later = client("good", &later)?;
    drop(open(later.address()).await.with_context(|| mesh.last_words())?);
    drop(open(good.address()).await?);
    refused(bad.address()).await?;
    mesh.lorica(["ca", "reinstate", identity]).await?.success()?;
    drop(open(bad.address()).await?);

    // As the caller.
    let callee = "spiffe://mesh.local/ns/shop/sa/echo";
    mesh.lorica(["ca", "revoke", callee]).await?.success()?;
    let cut_off = eventually("Envoy refuses the revoked callee", PATIENCE, || async {
        let reply = http_get(local.address(), "echo.shop", "/").await?;
        ensure!(reply.status == 503, "{} {}", reply.status, reply.text());
        let failed = envoy.counter("cluster.echo.shop.mesh_80.ssl.fail_verify_error").await?;
        ensure!(failed > 0, "no certificate failed");
        Ok(())
    });
    cut_off.await?;
    mesh.lorica(["ca", "reinstate", callee]).await?.success()?;
    let back = eventually("Envoy calls it again", PATIENCE, || answers(local.address()));
    back.await.with_context(|| mesh.last_words())?;
    envoy.running.stop().await?;
    mesh.finish().await
}
