//! Hedging through real proxies.

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use testbed::{Mesh, http_send};

use super::app::App;
use super::rig::{PLAINTEXT, ask, caller, metric, resources};

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
