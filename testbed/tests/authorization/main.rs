//! AuthorizationPolicy at real proxies: who gets in, who is told why not, and what becomes of what is under way.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod bytes;
mod envoy;
mod external;
mod gateways;
mod learning;
mod requests;

use std::ffi::OsStr;
use std::net::SocketAddr;

use bytes_crate::Bytes;
use http::Request;
use http_body_util::Full;
use testbed::{Mesh, PATIENCE, Port, Reply, Running, eventually, http_send};

extern crate bytes as bytes_crate;

/// A policy of `shop`; `spec`: what it says.
fn policy(name: &str, spec: &str) -> String {
    format!("apiVersion: lorica.io/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {{name: {name}, namespace: shop}}\nspec: {spec}\n---\n")
}

/// A workload of `web.shop`, whose app serves `kind` at its port 80.
async fn web(mesh: &Mesh, kind: &str) -> anyhow::Result<(Running, Port)> {
    let app = mesh.program(testbed::app()?)?;
    let port = Port::free()?;
    let listen = port.address().to_string();
    let arguments: [&OsStr; 4] = [app.as_os_str(), kind.as_ref(), "--listen".as_ref(), listen.as_ref()];
    let running = mesh.service("web.shop").no_capture().port(&format!("80:{}/{kind}", port.number())).start(arguments)?;
    mesh.announced("web.shop", 1).await?;
    Ok((running, port))
}

/// Lorica's proxy at `edge.shop`, with one listener port.
async fn gateway(mesh: &Mesh, port: u16) -> anyhow::Result<(Running, SocketAddr)> {
    let bind = format!("{port}=0");
    let running = mesh.start_binary("a gateway", ["proxy", "--gateway", "edge.shop", "--bind", &bind], Vec::new(), None)?;
    let line = running.line(&format!("serving: port {port} on ")).await?;
    let at = line.rsplit(" on ").next().unwrap_or_default().parse()?;
    Ok((running, at))
}

/// A caller of `web.shop` under an account of a namespace, and where it calls.
fn caller(mesh: &Mesh, namespace: &str, account: &str) -> anyhow::Result<(Running, SocketAddr, Port)> {
    let port = Port::free()?;
    let upstream = format!("web.shop:80={}", port.address());
    let client = mesh.client().upstream(&upstream).option("--namespace").option(namespace).option("--account").option(account);
    Ok((client.start(["sleep", "600"])?, port.address(), port))
}

/// One request.
async fn ask(at: SocketAddr, method: &str, path: &str) -> anyhow::Result<Reply> {
    http_send(at, Request::builder().method(method).uri(path).header("host", "web.shop").body(Full::<Bytes>::default())?).await
}

/// Waits until a request is answered well.
async fn answers(at: SocketAddr, path: &str) -> anyhow::Result<()> {
    eventually("an answer", PATIENCE, || async {
        let reply = ask(at, "GET", path).await?;
        anyhow::ensure!(reply.status == 200, "{} {}", reply.status, reply.text());
        Ok(())
    })
    .await
}

/// What the proxy of `web.shop` counted.
async fn scraped(mesh: &Mesh) -> anyhow::Result<String> {
    let status = mesh.status().await?;
    let proxies = status["proxies"].as_array().cloned().unwrap_or_default();
    let address = proxies.iter().find(|proxy| proxy["service"] == "web.shop").and_then(|proxy| proxy["metrics"].as_str());
    let address = address.ok_or_else(|| anyhow::anyhow!("no proxy of web.shop says where its metrics are: {status}"))?.parse()?;
    Ok(testbed::http_get(address, "proxy", "/metrics").await?.text())
}
