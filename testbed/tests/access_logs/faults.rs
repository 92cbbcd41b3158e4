//! A log that cannot be written, and clients that would like to write it: no request is harmed, and no line forged.

use std::process::Command;

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use testbed::{Connection, EchoServer, HttpConnection, Mesh, PATIENCE, eventually, http_get, run_gateway};

use super::{edge, logged, policy};

async fn dropped(metrics: std::net::SocketAddr) -> anyhow::Result<u64> {
    let text = http_get(metrics, "metrics", "/metrics").await?.text();
    let line = text.lines().find_map(|line| line.strip_prefix("lorica_access_log_dropped_total ")).unwrap_or_default();
    Ok(line.parse()?)
}

#[tokio::test]
async fn a_full_disk_harms_no_request() -> anyhow::Result<()> {
    let mesh = Mesh::options().without_control()?;
    let web = EchoServer::start("web").await?;
    let text = edge(web.address()) + &policy("{accessLog: {format: {text: '%REQ(:PATH)%'}}}");
    let (proxy, at) = run_gateway(&mesh, &text, &[80], &["--workers", "1", "--access-log", "/dev/full"]).await?;
    let mut connection = HttpConnection::open(at[0]).await?;
    for _ in 0..20 {
        let request = Request::get("/").header("host", "web.shop").body(Full::<Bytes>::default())?;
        assert_eq!(connection.send(request).await?.status, 200);
    }
    eventually("what cannot be written is counted", PATIENCE, || async {
        let dropped = dropped(proxy.metrics).await?;
        ensure!(dropped == 20, "{dropped} lines were dropped");
        Ok(())
    })
    .await?;
    proxy.running.stop().await?;
    mesh.finish().await
}

#[tokio::test]
async fn a_reader_that_stands_still_holds_up_no_request() -> anyhow::Result<()> {
    const SENT: u64 = 3_000;
    let mesh = Mesh::options().without_control()?;
    let web = EchoServer::start("web").await?;
    let pipe = mesh.home().join("log.pipe");
    ensure!(Command::new("mkfifo").arg(&pipe).status()?.success(), "no pipe could be made");
    // Somebody has it open and reads nothing.
    let _reader = std::fs::OpenOptions::new().read(true).write(true).open(&pipe)?;
    let text = edge(web.address()) + &policy(&format!("{{accessLog: {{format: {{text: '{}'}}}}}}", "x".repeat(4000)));
    let (proxy, at) = run_gateway(&mesh, &text, &[80], &["--workers", "1", "--access-log", &pipe.display().to_string()]).await?;
    let mut connection = HttpConnection::open(at[0]).await?;
    for _ in 0..SENT {
        let request = Request::get("/").header("host", "web.shop").body(Full::<Bytes>::default())?;
        assert_eq!(connection.send(request).await?.status, 200);
    }
    // 12 MB of lines, of which 4 MiB may wait, and one buffer is being written.
    eventually("what finds no room is counted", PATIENCE, || async {
        let dropped = dropped(proxy.metrics).await?;
        ensure!(dropped > SENT / 2, "{dropped} lines were dropped");
        Ok(())
    })
    .await?;
    proxy.running.kill().await?;
    mesh.finish().await
}

#[tokio::test]
async fn no_client_forges_a_line() -> anyhow::Result<()> {
    let mesh = Mesh::options().without_control()?;
    let web = EchoServer::start("web").await?;
    let text =
        edge(web.address()) + &policy("{accessLog: {format: {text: '[%REQ(X-REQUEST-ID)%] \"%REQ(USER-AGENT)%\" \"%REQ(:PATH)%\" end'}}}");
    let (proxy, at) = run_gateway(&mesh, &text, &[80], &["--workers", "1", "--access-log", "lorica.log"]).await?;
    let log = mesh.home().join("lorica.log");
    for (id, agent, expected) in [
        ("quote", &b"a\" \"/forged\" end"[..], r#"[quote] "a\" \"/forged\" end" "/" end"#),
        ("tab", b"a\tb", r#"[tab] "a\x09b" "/" end"#),
        ("bytes", b"\xff\xfe", r#"[bytes] "\xff\xfe" "/" end"#),
        ("unicode", "\u{85}\u{2028}é".as_bytes(), r#"[unicode] "\xc2\x85\xe2\x80\xa8é" "/" end"#),
    ] {
        let mut request =
            format!("GET / HTTP/1.1\r\nhost: web.shop\r\nconnection: close\r\nx-request-id: {id}\r\nuser-agent: ").into_bytes();
        request.extend_from_slice(agent);
        request.extend_from_slice(b"\r\n\r\n");
        // Who says that no more comes counts as gone.
        let mut connection = Connection::open(at[0]).await?;
        connection.write(&request).await?;
        let answer = connection.read_to_end().await.context(id)?;
        ensure!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
        assert_eq!(logged(&log, &format!("[{id}]")).await?, expected);
    }
    // What no field may hold is no request at all, and is told of without it.
    let mut odd = Connection::open(at[0]).await?;
    odd.write(b"GET /forged HTTP/1.1\r\nhost: web.shop\r\nconnection: close\r\nuser-agent: a\rb\r\n\r\n").await?;
    odd.cut_off().await?;
    proxy.running.stop().await?;
    let lines = std::fs::read_to_string(&log)?;
    assert!(!lines.contains("/forged HTTP"), "{lines}");
    assert!(lines.lines().all(|line| line.starts_with('[') && line.ends_with("end")), "{lines}");
    mesh.finish().await
}
