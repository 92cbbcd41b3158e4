//! Hedging through real proxies.

use std::net::SocketAddr;

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use testbed::{Mesh, Proxy, http_send};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::app::App;
use super::rig::{PLAINTEXT, ask, caller, metric, resources, status};

#[tokio::test]
async fn a_second_attempt_answers_for_one_that_hangs() -> anyhow::Result<()> {
    let mesh = Mesh::options().without_control()?;
    let (slow, quick) = (App::start("slow").await?, App::start("quick").await?);
    let policy = "hedging: {after: 50ms}, balancing: {algorithm: RoundRobin}";
    let text = resources("http", &[(slow.address(), PLAINTEXT), (quick.address(), PLAINTEXT)], policy);
    let proxy = caller(&mesh, &text, &["--workers", "1", "--access-log", "off"]).await?;
    slow.hold(true);
    for _ in 0..6 {
        assert_eq!(ask(&proxy).await?.text(), "quick");
    }
    // What began at the slow one was answered elsewhere.
    assert_eq!(quick.requests(), 6);
    assert!(slow.requests() > 0);
    assert_eq!(metric(&proxy, "lorica_hedges_total").await?, slow.requests());
    mesh.finish().await
}

#[tokio::test]
async fn what_may_not_be_repeated_is_not_hedged() -> anyhow::Result<()> {
    let mesh = Mesh::options().without_control()?;
    let (one, other) = (App::start("one").await?, App::start("other").await?);
    let policy = "hedging: {after: 20ms, attempts: 3}, timeouts: {request: 500ms}, balancing: {algorithm: RoundRobin}";
    let text = resources("http", &[(one.address(), PLAINTEXT), (other.address(), PLAINTEXT)], policy);
    let proxy = caller(&mesh, &text, &["--workers", "1", "--access-log", "off"]).await?;
    for app in [&one, &other] {
        app.hold(true);
    }
    let post = |key: Option<&str>| {
        let request = Request::post("/").header("host", "web.shop");
        key.into_iter().fold(request, |request, key| request.header("idempotency-key", key)).body(Full::<Bytes>::default())
    };
    assert_eq!(http_send(proxy.address(), post(None)?).await?.status, 504);
    assert_eq!(one.requests() + other.requests(), 1);
    // The app knows the second by its key. No endpoint is asked twice.
    assert_eq!(http_send(proxy.address(), post(Some("7"))?).await?.status, 504);
    assert_eq!(one.requests() + other.requests(), 1 + 2);
    mesh.finish().await
}

#[tokio::test]
async fn no_more_than_the_limit_of_retries_allows() -> anyhow::Result<()> {
    let mesh = Mesh::options().without_control()?;
    let (one, other, third) = (App::start("one").await?, App::start("other").await?, App::start("third").await?);
    let policy = "hedging: {after: 20ms, attempts: 3}, limits: {retries: {atMost: 1}}, timeouts: {request: 500ms}";
    let text = resources("http", &[(one.address(), PLAINTEXT), (other.address(), PLAINTEXT), (third.address(), PLAINTEXT)], policy);
    let proxy = caller(&mesh, &text, &["--workers", "1", "--access-log", "off"]).await?;
    for app in [&one, &other, &third] {
        app.hold(true);
    }
    assert_eq!(ask(&proxy).await?.status, 504);
    assert_eq!(one.requests() + other.requests() + third.requests(), 2);
    assert_eq!(metric(&proxy, "lorica_limits_reached_total{limit=\"retries\"}").await?, 1);
    mesh.finish().await
}

/// One failure of the connection is enough to be left out.
const STRICT: &str = "ejection: {consecutiveLocalErrors: 1, interval: 60s, baseTime: 60s, maxPercent: 100}, retries: {attempts: 0}";

/// Why each endpoint is left out.
async fn left_out(proxy: &Proxy) -> anyhow::Result<Vec<serde_json::Value>> {
    let status = status(proxy).await?;
    Ok(status["endpoints"].as_array().into_iter().flatten().map(|endpoint| endpoint["leftOut"].clone()).collect())
}

/// Reads a request without a body and answers it.
async fn answer(stream: &mut TcpStream) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read_buf(&mut head).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await
}

/// A server that answers one request on each of two connections. Another on the first meets its end.
async fn closes_what_was_kept(listener: TcpListener) -> std::io::Result<()> {
    let (mut first, _) = listener.accept().await?;
    answer(&mut first).await?;
    // Closed with a request unread: its sender meets a reset.
    first.peek(&mut [0]).await?;
    drop(first);
    let (mut second, _) = listener.accept().await?;
    answer(&mut second).await?;
    second.peek(&mut [0]).await.map(drop)
}

#[tokio::test]
async fn a_kept_connection_that_was_closed_is_nobodys_failure() -> anyhow::Result<()> {
    // Whether it is hedged or not.
    for hedging in ["", "hedging: {after: 60s}, "] {
        let mesh = Mesh::options().without_control()?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address: SocketAddr = listener.local_addr()?;
        let server = tokio::spawn(closes_what_was_kept(listener));
        let text = resources("http", &[(address, PLAINTEXT)], &format!("{hedging}{STRICT}"));
        let proxy = caller(&mesh, &text, &["--workers", "1", "--access-log", "off"]).await?;
        for _ in 0..2 {
            assert_eq!(ask(&proxy).await?.text(), "ok");
        }
        assert_eq!(metric(&proxy, "lorica_pool_stale_repeats_total").await?, 1);
        assert_eq!(left_out(&proxy).await?, [serde_json::json!([])]);
        mesh.finish().await?;
        server.await??;
    }
    Ok(())
}

#[tokio::test]
async fn all_that_were_asked_in_vain_took_too_long() -> anyhow::Result<()> {
    let mesh = Mesh::options().without_control()?;
    let (one, other) = (App::start("one").await?, App::start("other").await?);
    let policy = format!("hedging: {{after: 20ms}}, timeouts: {{request: 500ms}}, {STRICT}");
    let text = resources("http", &[(one.address(), PLAINTEXT), (other.address(), PLAINTEXT)], &policy);
    let proxy = caller(&mesh, &text, &["--workers", "1", "--access-log", "off"]).await?;
    for app in [&one, &other] {
        app.hold(true);
    }
    assert_eq!(ask(&proxy).await?.status, 504);
    assert_eq!((one.requests(), other.requests()), (1, 1));
    assert_eq!(left_out(&proxy).await?, [serde_json::json!(["ejected"]), serde_json::json!(["ejected"])]);
    mesh.finish().await
}
