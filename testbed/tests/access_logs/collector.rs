//! Log records to a collector: what a policy sends there, and a collector that is gone.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use testbed::{EchoServer, Mesh, PATIENCE, Port, eventually, http_get, run_gateway};
use tokio::net::TcpListener;

use super::{ask, edge, policy};

/// What came, by path.
type Came = Arc<Mutex<Vec<(String, Bytes)>>>;

/// Takes OTLP over HTTP.
async fn collector() -> anyhow::Result<(String, Came)> {
    let came = Came::default();
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}/otlp", listener.local_addr()?);
    let kept = came.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let kept = kept.clone();
            let take = service_fn(move |request: Request<Incoming>| {
                let kept = kept.clone();
                async move {
                    let path = request.uri().path().to_owned();
                    if let Ok(body) = request.into_body().collect().await {
                        kept.lock().unwrap().push((path, body.to_bytes()));
                    }
                    Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
                }
            });
            tokio::spawn(
                hyper_util::server::conn::auto::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), take)
                    .into_owned(),
            );
        }
    });
    Ok((url, came))
}

fn holds(body: &[u8], text: &str) -> bool {
    body.windows(text.len()).any(|window| window == text.as_bytes())
}

#[tokio::test]
async fn a_policy_sends_records_to_collectors() -> anyhow::Result<()> {
    let mesh = Mesh::options().without_control()?;
    let web = EchoServer::start("web").await?;
    let (url, came) = collector().await?;
    let text = edge(web.address())
        + &policy(
            "{accessLog: {format: {text: 'line of %REQ(X-REQUEST-ID)%: %RESPONSE_CODE%'}, when: \"request.path != '/quiet'\", to: [Otlp]}}",
        );
    let options = ["--workers", "1", "--access-log", "lorica.log", "--otlp", &url];
    let (proxy, at) = run_gateway(&mesh, &text, &[80], &options).await?;
    ask(at[0], "/quiet", &[("x-request-id", "unheard")]).await?;
    ask(at[0], "/", &[("x-request-id", "heard")]).await?;
    let body = eventually("the record came", PATIENCE, || async {
        let came = came.lock().unwrap();
        let record = came.iter().find(|(path, body)| path == "/otlp/v1/logs" && holds(body, "line of heard: 200"));
        record.map(|(_, body)| body.clone()).context("it has not come")
    })
    .await?;
    for told in ["service.name", "lorica.exchange", "http.response.status_code", "http.request.header.x-request-id", "INFO"] {
        assert!(holds(&body, told), "{told}");
    }
    proxy.running.stop().await?;
    assert!(!came.lock().unwrap().iter().any(|(_, body)| holds(body, "unheard")));
    // It goes where the policy says, and nowhere else.
    assert_eq!(std::fs::read_to_string(mesh.home().join("lorica.log"))?, "");
    mesh.finish().await
}

#[tokio::test]
async fn a_collector_that_is_gone_harms_no_request() -> anyhow::Result<()> {
    let mesh = Mesh::options().without_control()?;
    let web = EchoServer::start("web").await?;
    let nobody = Port::free()?;
    let text = edge(web.address()) + &policy("{accessLog: {to: [Otlp, Stdout]}}");
    let url = format!("http://{}", nobody.address());
    let options = ["--workers", "1", "--access-log", "lorica.log", "--otlp", &url];
    let (proxy, at) = run_gateway(&mesh, &text, &[80], &options).await?;
    // More than may wait for the collector.
    for _ in 0..2_200 {
        ensure!(ask(at[0], "/", &[]).await?.status == 200, "a request was harmed");
    }
    eventually("what finds no room is counted", PATIENCE, || async {
        let text = http_get(proxy.metrics, "metrics", "/metrics").await?.text();
        let count = text.lines().find_map(|line| line.strip_prefix("lorica_log_records_dropped_total{")).context("no such counter")?;
        ensure!(count.rsplit(' ').next().unwrap_or_default().parse::<u64>()? > 0, "{count}");
        Ok(())
    })
    .await?;
    proxy.running.stop().await?;
    assert_eq!(std::fs::read_to_string(mesh.home().join("lorica.log"))?.lines().count(), 2_200);
    mesh.finish().await
}
