//! Traces at real proxies: what they read and pass on, which spans they make, and where these go.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod apps;
mod collector;
mod destinations;
mod propagation;
mod trace_context;

use std::net::SocketAddr;

use testbed::{Mesh, Proxy, Reply, http_get};

/// A service `web.shop`, which is at this address.
fn shop(web: SocketAddr) -> String {
    testbed::service("web", "http", web)
}

/// A proxy by itself that calls `web.shop`.
async fn proxy(mesh: &Mesh, web: SocketAddr, more: &[&str]) -> anyhow::Result<Proxy> {
    mesh.write("mesh.yaml", shop(web))?;
    let calls = ["--config", "mesh.yaml", "--upstream", "web.shop:80=127.0.0.1:0"];
    Proxy::start(mesh, calls.iter().chain(more)).await
}

/// The value of a metric, with the labels as they stand in it; none while it has not been counted.
async fn metric(proxy: &Proxy, series: &str) -> anyhow::Result<Option<u64>> {
    let Reply { body, .. } = http_get(proxy.metrics, "proxy", "/metrics").await?;
    let text = String::from_utf8_lossy(&body).into_owned();
    text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok().map(Ok)).transpose()
}
