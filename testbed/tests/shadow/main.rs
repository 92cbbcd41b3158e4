//! Policies that are tried (`mode: Shadow`): of each kind, that it changes nothing of what happens to calls, and that what it would have done is
//! counted and told with examples.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod callers;
mod leaving;
mod traffic;

use std::ffi::OsStr;
use std::net::SocketAddr;

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use serde_json::Value;
use testbed::{Mesh, PATIENCE, Port, Reply, Running, eventually, http_send};

/// A policy of `shop`; `spec`: what it says.
fn policy(kind: &str, name: &str, spec: &str) -> String {
    format!("apiVersion: lorica.io/v1alpha1\nkind: {kind}\nmetadata: {{name: {name}, namespace: shop}}\nspec: {spec}\n---\n")
}

/// A workload of `web.shop`.
async fn web(mesh: &Mesh) -> anyhow::Result<(Running, Port)> {
    let app = mesh.program(testbed::app()?)?;
    let port = Port::free()?;
    let listen = port.address().to_string();
    let arguments: [&OsStr; 4] = [app.as_os_str(), "http".as_ref(), "--listen".as_ref(), listen.as_ref()];
    let running = mesh.service("web.shop").no_capture().port(&format!("80:{}/http", port.number())).start(arguments)?;
    mesh.announced("web.shop", 1).await?;
    Ok((running, port))
}

/// A caller of `web.shop` with the account `ann`, and where it calls.
async fn ann(mesh: &Mesh) -> anyhow::Result<(Running, SocketAddr, Port)> {
    let port = Port::free()?;
    let upstream = format!("web.shop:80={}", port.address());
    let client = mesh.client().upstream(&upstream).option("--namespace").option("shop").option("--account").option("ann");
    let running = client.start(["sleep", "600"])?;
    answers(port.address()).await?;
    Ok((running, port.address(), port))
}

/// Waits until a request is answered well.
async fn answers(at: SocketAddr) -> anyhow::Result<()> {
    eventually("an answer", PATIENCE, || async {
        let reply = ask(at, "/first").await?;
        anyhow::ensure!(reply.status == 200, "{} {}", reply.status, reply.text());
        Ok(())
    })
    .await
}

/// One request.
async fn ask(at: SocketAddr, path: &str) -> anyhow::Result<Reply> {
    http_send(at, Request::get(path).header("host", "web.shop").body(Full::<Bytes>::default())?).await
}

/// Makes requests, each of which is to be answered as if nothing were tried.
async fn all_pass(at: SocketAddr, paths: &[&str]) -> anyhow::Result<()> {
    for path in paths {
        let reply = ask(at, path).await?;
        anyhow::ensure!(reply.status == 200 && reply.header("x-lorica-reason").is_none(), "{path}: {} {}", reply.status, reply.text());
    }
    Ok(())
}

/// What a policy would have done, once it was held against so many calls.
async fn trial(mesh: &Mesh, policy: &str, calls: u64) -> anyhow::Result<Value> {
    eventually("the control plane knows of it", PATIENCE, || async {
        let told: Value = mesh.lorica(["policy", "shadow", policy, "-n", "shop", "-o", "json"]).await?.success()?.json()?;
        anyhow::ensure!(told["calls"] == calls, "{told:#}");
        Ok(told)
    })
    .await
}

/// The examples of a trial: who called what, by which path, and why that is one.
fn examples(trial: &Value) -> Vec<(String, String, String)> {
    let text = |example: &Value, field: &str| example[field].as_str().unwrap_or_default().to_owned();
    let examples = trial["examples"].as_array().expect("examples").iter();
    let mut all: Vec<_> = examples
        .map(|example| (text(example, "caller"), format!("{}{}", text(example, "called"), text(example, "path")), text(example, "why")))
        .collect();
    all.sort();
    all
}
