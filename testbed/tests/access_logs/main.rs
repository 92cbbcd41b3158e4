//! What proxies log of exchanges by a TelemetryPolicy, at Lorica's proxy and at a stock Envoy.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod collector;
mod envoy;
mod faults;
mod sidecar;

use std::net::SocketAddr;
use std::path::Path;

use anyhow::Context as _;
use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use testbed::{Mesh, PATIENCE, Reply, Running, eventually, http_send};

/// What Istio's proxies write where nobody says otherwise, as it stands in its source.
const ISTIO: &str = r#"[%START_TIME%] "%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%" %RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% "%UPSTREAM_TRANSPORT_FAILURE_REASON%" %BYTES_RECEIVED% %BYTES_SENT% %DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% "%REQ(X-FORWARDED-FOR)%" "%REQ(USER-AGENT)%" "%REQ(X-REQUEST-ID)%" "%REQ(:AUTHORITY)%" "%UPSTREAM_HOST%" %UPSTREAM_CLUSTER_RAW% %UPSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS% %REQUESTED_SERVER_NAME% %ROUTE_NAME%\n"#;

/// A policy of `shop`; `spec`: what it says, in YAML's flow form.
fn policy(spec: &str) -> String {
    format!("apiVersion: lorica.io/v1alpha1\nkind: TelemetryPolicy\nmetadata: {{name: told, namespace: shop}}\nspec: {spec}\n---\n")
}

/// A format as a text of YAML in double quotes, whose `\n` is an end of a line.
fn in_quotes(format: &str) -> String {
    format!("\"{}\"", format.replace('"', "\\\""))
}

/// `edge.shop` with one listener for HTTP, all of whose requests go to `web`.
fn edge(web: SocketAddr) -> String {
    testbed::service("web", "http", web)
        + &testbed::gateway("  - {name: http, port: 80, protocol: HTTP}\n")
        + &testbed::route("HTTPRoute", "all", "  rules: [{backendRefs: [{name: web, port: 80}]}]\n")
}

/// A Lorica proxy that runs `edge.shop` under the control plane, and where.
async fn gateway(mesh: &Mesh, options: &[&str]) -> anyhow::Result<(Running, SocketAddr)> {
    let arguments = ["proxy", "--gateway", "edge.shop", "--bind", "80=0", "--workers", "1"];
    let running = mesh.start_binary("a gateway", arguments.iter().chain(options).copied(), Vec::new(), None)?;
    let line = running.line("serving: port 80 on ").await?;
    let at = line.rsplit(" on ").next().unwrap_or_default().parse()?;
    Ok((running, at))
}

/// One request with these fields.
async fn ask(at: SocketAddr, path: &str, fields: &[(&str, &str)]) -> anyhow::Result<Reply> {
    let request = fields.iter().fold(Request::get(path).header("host", "web.shop"), |request, (name, value)| request.header(*name, *value));
    http_send(at, request.body(Full::<Bytes>::default())?).await
}

/// The line of a log that holds `word`, once it is there.
async fn logged(log: &Path, word: &str) -> anyhow::Result<String> {
    eventually(&format!("{word} is logged in {}", log.display()), PATIENCE, || async {
        let text = std::fs::read_to_string(log)?;
        Ok(text.lines().find(|line| line.contains(word)).with_context(|| format!("it is not in:\n{text}"))?.to_owned())
    })
    .await
}
