//! Time series: what proxies and apps tell the control plane, what it keeps of that, and what it answers. In flow metrics by OTLP and calls through
//! the mesh; out flow the answers of Prometheus' API, of `lorica graph` and of `lorica top`, held against a real Prometheus and against what was done.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod api;
mod chance;
mod flows;
mod kept;
mod otlp;
mod prometheus;

use std::path::Path;

use anyhow::{Context as _, ensure};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

/// What the control plane answers on its socket: status and body.
async fn get(socket: &Path, path: &str) -> anyhow::Result<(u16, Value)> {
    send(socket, &format!("GET {path} HTTP/1.1\r\nhost: control\r\nconnection: close\r\n\r\n")).await
}

async fn send(socket: &Path, request: &str) -> anyhow::Result<(u16, Value)> {
    let mut stream = UnixStream::connect(socket).await?;
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no answer")?;
    let status = head.split(' ').nth(1).context("no status")?.parse()?;
    Ok((status, serde_json::from_str(body).with_context(|| answer.clone())?))
}

/// What a question is answered with now.
async fn ask(socket: &Path, query: &str) -> anyhow::Result<Vec<(Value, f64)>> {
    let (status, answer) = get(socket, &format!("/api/v1/query?query={}", encoded(query))).await?;
    ensure!(status == 200, "{query}: {answer}");
    let result = answer["data"]["result"].as_array().cloned().unwrap_or_default();
    let value = |sample: &Value| Ok((sample["metric"].clone(), sample["value"][1].as_str().context("no value")?.parse()?));
    result.iter().map(value).collect()
}

/// A value of a query, as addresses are written.
fn encoded(text: &str) -> String {
    let byte = |byte: u8| if byte.is_ascii_alphanumeric() { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    text.bytes().map(byte).collect()
}
