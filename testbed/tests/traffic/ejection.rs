//! Ejection through real proxies.

use testbed::Mesh;

use super::app::App;
use super::rig::{PLAINTEXT, ask, caller, metric, resources, status, until};

const POLICY: &str = "ejection: {consecutiveGatewayErrors: 3, interval: 100ms, baseTime: 300ms, maxPercent: 100}, retries: {attempts: 0}, balancing: {algorithm: RoundRobin}";

/// Whether the endpoint at this address is left out, and why.
fn left_out(status: &serde_json::Value, app: &App) -> Vec<String> {
    let address = app.address().to_string();
    let endpoint = status["endpoints"].as_array().and_then(|endpoints| endpoints.iter().find(|endpoint| endpoint["address"] == address));
    let reasons = endpoint.and_then(|endpoint| endpoint["leftOut"].as_array()).cloned().unwrap_or_default();
    reasons.iter().filter_map(|reason| reason.as_str().map(str::to_owned)).collect()
}

#[tokio::test]
async fn who_answers_503_is_left_out_and_comes_back_by_one_request() -> anyhow::Result<()> {
    let mesh = Mesh::options().env("LORICA_LOG", "lorica_proxy=info").without_control()?;
    let (good, bad) = (App::start("good").await?, App::start("bad").await?);
    let text = resources("http", &[(good.address(), PLAINTEXT), (bad.address(), PLAINTEXT)], POLICY);
    // Two workers know of it as one.
    let proxy = caller(&mesh, &text, &["--workers", "2", "--access-log", "off"]).await?;
    bad.answer(503);
    while left_out(&status(&proxy).await?, &bad).is_empty() {
        ask(&proxy).await?;
    }
    assert_eq!(bad.requests(), 3, "as many as the policy says");
    proxy.running.line("an endpoint is left out").await?;
    assert_eq!(metric(&proxy, "lorica_ejections_total{reason=\"consecutive_gateway\"}").await?, 1);

    // Its time over, one request finds out that it is no better, and none after that one.
    until(&proxy, "probation", |status| left_out(status, &bad) == ["probation"]).await?;
    let before = bad.requests();
    assert_eq!(ask(&proxy).await?.status, 503);
    assert_eq!(left_out(&status(&proxy).await?, &bad), ["ejected"]);
    assert_eq!(bad.requests(), before + 1);
    assert_eq!(metric(&proxy, "lorica_ejections_total{reason=\"probation\"}").await?, 1);

    // While a request finds out, others go elsewhere.
    until(&proxy, "probation", |status| left_out(status, &bad) == ["probation"]).await?;
    bad.answer(200);
    bad.hold(true);
    let address = proxy.address();
    let finds_out = tokio::spawn(async move { testbed::http_get(address, "web.shop", "/").await });
    let reached = before + 2;
    testbed::eventually("the request reaches it", testbed::PATIENCE, || async {
        anyhow::ensure!(bad.requests() == reached);
        Ok(())
    })
    .await?;
    for _ in 0..10 {
        assert_eq!(ask(&proxy).await?.text(), "good");
    }
    bad.hold(false);
    assert_eq!(finds_out.await??.text(), "bad");
    assert_eq!(left_out(&status(&proxy).await?, &bad), [""; 0]);
    proxy.running.line("an endpoint is back").await?;
    mesh.finish().await
}

#[tokio::test]
async fn who_refuses_connections_is_left_out() -> anyhow::Result<()> {
    let mesh = Mesh::options().env("LORICA_LOG", "lorica_proxy=info").without_control()?;
    let (good, gone) = (App::start("good").await?, App::start("gone").await?);
    let policy = "ejection: {consecutiveLocalErrors: 1, interval: 60s, baseTime: 60s, maxPercent: 100}, balancing: {algorithm: RoundRobin}";
    let text = resources("http", &[(good.address(), PLAINTEXT), (gone.address(), PLAINTEXT)], policy);
    let gone_address = gone.address().to_string();
    drop(gone);
    let proxy = caller(&mesh, &text, &["--access-log", "off"]).await?;
    // Nobody notices: what could not be sent goes to the other.
    for _ in 0..50 {
        assert_eq!(ask(&proxy).await?.text(), "good");
    }
    let endpoints = status(&proxy).await?;
    let of = |endpoint: &&serde_json::Value| endpoint["address"] == gone_address.as_str();
    let endpoint = endpoints["endpoints"].as_array().and_then(|endpoints| endpoints.iter().find(of)).cloned().unwrap_or_default();
    assert_eq!(endpoint["leftOut"], serde_json::json!(["ejected"]));
    assert_eq!(endpoint["ejection"]["reason"], "consecutive_local");
    mesh.finish().await
}
