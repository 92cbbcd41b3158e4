//! RateLimitPolicy at real proxies: which requests pass, what those are told that do not, and who counts.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod envoy;
mod global;
mod local;
mod service;

use std::net::SocketAddr;

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use testbed::{Mesh, Reply, Running, http_send};

/// A policy of `shop`; `spec`: what it says.
fn policy(name: &str, spec: &str) -> String {
    format!("apiVersion: lorica.io/v1alpha1\nkind: RateLimitPolicy\nmetadata: {{name: {name}, namespace: shop}}\nspec: {spec}\n---\n")
}

/// `edge.shop` with one listener for HTTP, all of whose requests go to `web`.
fn edge(web: SocketAddr) -> String {
    testbed::service("web", "http", web)
        + &testbed::gateway("  - {name: http, port: 80, protocol: HTTP}\n")
        + &testbed::route("HTTPRoute", "all", "  rules: [{backendRefs: [{name: web, port: 80}]}]\n")
}

/// A Lorica proxy that runs `edge.shop` under the control plane, and where.
async fn gateway(mesh: &Mesh) -> anyhow::Result<(Running, SocketAddr)> {
    let arguments = ["proxy", "--gateway", "edge.shop", "--bind", "80=0", "--workers", "2"];
    let running = mesh.start_binary("a gateway", arguments, Vec::new(), None)?;
    let line = running.line("serving: port 80 on ").await?;
    let at = line.rsplit(" on ").next().unwrap_or_default().parse()?;
    Ok((running, at))
}

/// One request with these fields.
async fn ask(at: SocketAddr, path: &str, fields: &[(&str, &str)]) -> anyhow::Result<Reply> {
    let request = fields.iter().fold(Request::get(path).header("host", "web.shop"), |request, (name, value)| request.header(*name, *value));
    http_send(at, request.body(Full::<Bytes>::default())?).await
}

/// The statuses of so many requests, one after another.
async fn statuses(at: SocketAddr, count: usize, path: &str, fields: &[(&str, &str)]) -> anyhow::Result<Vec<u16>> {
    let mut statuses = Vec::new();
    for _ in 0..count {
        statuses.push(ask(at, path, fields).await?.status.as_u16());
    }
    Ok(statuses)
}

/// How many of so many requests pass; all others are past a limit.
async fn passed(at: SocketAddr, count: usize, path: &str, fields: &[(&str, &str)]) -> anyhow::Result<usize> {
    let statuses = statuses(at, count, path, fields).await?;
    anyhow::ensure!(statuses.iter().all(|status| matches!(status, 200 | 429)), "{statuses:?}");
    Ok(statuses.iter().filter(|status| **status == 200).count())
}
