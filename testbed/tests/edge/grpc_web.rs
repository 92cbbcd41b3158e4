//! gRPC-Web: the client library of browsers, in Node, calls a service written with tonic.

use std::ffi::OsStr;
use std::net::SocketAddr;

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use http::{Method, Request};
use http_body_util::Full;
use serde_json::{Value, json};
use testbed::{
    Mesh, PATIENCE, Peer, Port, Reply, Running, eventually, gateway, http_send, http2_send, https_send, left_out, node_path, peer, route,
    run_gateway,
};

use crate::{Trusted, deserted, service};

/// The contact centre's service for agents, which tonic serves.
async fn agents(mesh: &Mesh) -> anyhow::Result<(Running, Port)> {
    let (port, lorica) = (Port::free()?, mesh.program(testbed::lorica()?)?);
    let address = port.address().to_string();
    let running = mesh.start_outside(lorica, ["contact-centre", "agent-assignment", "--listen", &address])?;
    let up = eventually("the service listens", PATIENCE, || async { Ok(tokio::net::TcpStream::connect(port.address()).await.map(drop)?) });
    up.await.with_context(|| mesh.last_words())?;
    Ok((running, port))
}

/// What the client of browsers tells of `calls`, a line each; none where there is none here.
async fn node(mesh: &Mesh, ca: Option<&Trusted>, arguments: &[&str]) -> anyhow::Result<Option<Vec<Value>>> {
    let (node, packages) = match (peer(Peer::Node), node_path()) {
        (Ok(node), Ok(packages)) => (node, packages),
        (Err(why), _) | (_, Err(why)) => {
            left_out(&format!("gRPC-Web by the client of browsers: {why}"));
            return Ok(None);
        }
    };
    let script = mesh.write("grpc_web.cjs", include_str!("grpc_web.cjs"))?;
    let mut variables = vec![format!("NODE_PATH={}", packages.display())];
    if let Some(ca) = ca {
        variables.push(format!("NODE_EXTRA_CA_CERTS={}", ca.file(mesh)?.display()));
    }
    let command = variables.iter().map(OsStr::new).chain([node.as_os_str(), script.as_os_str()]).chain(arguments.iter().map(OsStr::new));
    let output = mesh.start_outside("/usr/bin/env", command)?.output(PATIENCE).await?.success()?;
    Ok(Some(output.stdout.lines().map(serde_json::from_str).collect::<Result<_, _>>()?))
}

/// The listeners and routes of these tests: `a.example` leads to the service, `gone.example` to nobody, `page.example` lets pages of others call.
fn resources(agents: SocketAddr, certificate: &Trusted) -> String {
    let to = |host: &str, service: &str, filters: &str| {
        format!("  hostnames: [{host}]\n  rules: [{{{filters}backendRefs: [{{name: {service}, port: 80}}]}}]\n")
    };
    let cors = "filters: [{type: CORS, cors: {allowOrigins: ['https://*.example'], allowMethods: [POST], allowHeaders: [content-type, x-grpc-web], exposeHeaders: [grpc-status, grpc-message]}}], ";
    service("agents", "grpc", agents)
        + &deserted("gone", "grpc")
        + &certificate.secret("a")
        + &gateway(
            "  - {name: http, port: 80, protocol: HTTP}\n  - {name: https, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: a}]}}\n",
        )
        + &route("GRPCRoute", "agents", &to("a.example", "agents", ""))
        + &route("GRPCRoute", "gone", &to("gone.example", "gone", ""))
        + &route("HTTPRoute", "page", &to("page.example", "agents", cors))
        + &route("HTTPRoute", "page-gone", &to("page-gone.example", "gone", cors))
}

#[tokio::test]
async fn the_client_of_browsers_calls_a_service() -> anyhow::Result<()> {
    let mesh = Mesh::options().without_control()?;
    let (agents, port) = agents(&mesh).await?;
    let certificate = Trusted::new(&["a.example", "gone.example"])?;
    let (proxy, at) = run_gateway(&mesh, &resources(port.address(), &certificate), &[80, 443], &[]).await?;
    for (scheme, at) in [("http", at[0]), ("https", at[1])] {
        let url = |host: &str| format!("{scheme}://{host}:{}", at.port());
        let ca = (scheme == "https").then_some(&certificate);
        for format in ["text", "binary"] {
            // A stream is text for this client: it can look at no bytes before the last has come.
            let calls = if format == "text" {
                &["assign:billing:1", "assign:juggling:2", "watch:sales:3"][..]
            } else {
                &["assign:billing:1", "assign:juggling:2"]
            };
            let origin = url("a.example");
            let Some(told) = node(&mesh, ca, &[&[origin.as_str(), format][..], calls].concat()).await? else { return mesh.finish().await };
            ensure!(told[0]["agent"].as_str().is_some_and(|agent| !agent.is_empty()), "{scheme} {format}: {told:?}\n{}", mesh.last_words());
            assert_eq!(told[1]["code"], 3, "INVALID_ARGUMENT comes with the head alone: {told:?}");
            assert!(told[1]["message"].as_str().is_some_and(|message| message.contains("juggling")), "{told:?}");
            if format == "text" {
                assert_eq!(told[2], json!({"messages": 2}), "the second came only after the first was there: {told:?}");
            }
            let origin = url("gone.example");
            let told = node(&mesh, ca, &[&origin, format, "assign:billing:1"]).await?.context("there was a Node just now")?;
            // The mesh's own answer.
            assert_eq!(told[0]["code"], 14, "{told:?}");
            assert!(told[0]["message"].as_str().is_some_and(|message| message.contains("no endpoint")), "{told:?}");
        }
    }
    // Browsers are counted as what they came to be.
    let metrics = testbed::http_get(proxy.metrics, "metrics", "/metrics").await?.text();
    let counted = |part: &str| {
        metrics
            .lines()
            .any(|line| line.starts_with("istio_requests_total") && line.contains(part) && line.contains("request_protocol=\"grpc\""))
    };
    assert!(
        counted("grpc_response_status=\"0\"") && counted("grpc_response_status=\"3\"") && counted("grpc_response_status=\"14\""),
        "{metrics}"
    );
    proxy.running.stop().await?;
    agents.stop().await?;
    mesh.finish().await
}

/// A call of `Assign` for billing, as it goes over the wire.
const ASSIGN: &[u8] = b"\0\0\0\0\x0c\x0a\x07billing\x12\x011";

fn call(uri: &str) -> http::request::Builder {
    Request::post(uri).header("content-type", "application/grpc-web+proto").header("x-grpc-web", "1")
}

const METHOD: &str = "/contact.agents.v1.AgentAssignment/Assign";

/// The frames of a body: the flag of each, and what it holds.
fn frames(mut body: &[u8]) -> anyhow::Result<Vec<(u8, Bytes)>> {
    let mut frames = Vec::new();
    while let [flag, a, b, c, d, rest @ ..] = body {
        let length = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
        frames.push((*flag, Bytes::copy_from_slice(rest.get(..length).context("a frame is cut off")?)));
        body = &rest[length..];
    }
    ensure!(body.is_empty(), "bytes are left: {body:?}");
    Ok(frames)
}

/// One message, then trailers that say OK.
fn is_answer(reply: &Reply) -> anyhow::Result<()> {
    ensure!(reply.status == 200 && reply.header("content-type") == Some("application/grpc-web+proto"), "{reply:?}");
    ensure!(reply.trailers.is_empty() && reply.header("grpc-status").is_none(), "{reply:?}");
    match frames(&reply.body)?.as_slice() {
        [(0, message), (0x80, trailers)] => {
            ensure!(message.starts_with(b"\x0a"), "{message:?}");
            ensure!(trailers.starts_with(b"grpc-status: 0\r\n") || trailers.starts_with(b"grpc-status:0\r\n"), "{trailers:?}");
            Ok(())
        }
        other => anyhow::bail!("{other:?}"),
    }
}

/// What a page of another origin is told before it calls, and by the answer.
async fn page(at: SocketAddr) -> anyhow::Result<()> {
    let from = "https://b.example";
    let asks = Request::builder().method(Method::OPTIONS).uri(METHOD).header("host", "page.example").header("origin", from);
    let asks = asks.header("access-control-request-method", "POST").header("access-control-request-headers", "content-type,x-grpc-web");
    let told = http_send(at, asks.body(Full::default())?).await?;
    ensure!(told.status.is_success() && told.header("access-control-allow-origin") == Some(from), "{told:?}");
    ensure!(told.header("access-control-allow-methods") == Some("POST"), "{told:?}");
    ensure!(told.header("access-control-allow-headers") == Some("content-type, x-grpc-web"), "{told:?}");
    for (host, answered) in [("page.example", true), ("page-gone.example", false)] {
        let asks = call(METHOD).header("host", host).header("origin", from).body(Full::from(ASSIGN))?;
        let reply = http_send(at, asks).await?;
        ensure!(reply.header("access-control-allow-origin") == Some(from), "{reply:?}");
        ensure!(reply.header("access-control-expose-headers").is_some_and(|names| names.contains("grpc-status")), "{reply:?}");
        if answered {
            is_answer(&reply)?;
        } else {
            ensure!(
                reply.header("grpc-status") == Some("14") && reply.header("content-type") == Some("application/grpc-web+proto"),
                "{reply:?}"
            );
        }
    }
    Ok(())
}

/// A call in text is answered in text where the caller accepts it, whatever its own form.
async fn text(at: SocketAddr) -> anyhow::Result<()> {
    for (content_type, body) in [("application/grpc-web-text", "AAAAAAwKB2JpbGxpbmcSATE=".as_bytes()), ("application/grpc-web", ASSIGN)] {
        let asks = Request::post(METHOD).header("host", "a.example").header("content-type", content_type);
        let reply = http_send(at, asks.header("accept", "application/grpc-web-text").body(Full::from(body))?).await?;
        ensure!(reply.header("content-type") == Some("application/grpc-web-text+proto"), "{reply:?}");
        // Flags and length of a message, in base64.
        ensure!(reply.text().starts_with("AAAAA"), "{}", reply.text());
    }
    Ok(())
}

#[tokio::test]
async fn a_page_of_another_origin_may_call() -> anyhow::Result<()> {
    let mesh = Mesh::options().without_control()?;
    let (agents, port) = agents(&mesh).await?;
    let certificate = Trusted::new(&["a.example"])?;
    let (proxy, at) = run_gateway(&mesh, &resources(port.address(), &certificate), &[80, 443], &[]).await?;
    page(at[0]).await?;
    text(at[0]).await?;
    // By every version of HTTP.
    let asks = || call(METHOD).header("host", "a.example").body(Full::from(ASSIGN));
    is_answer(&http_send(at[0], asks()?).await?)?;
    is_answer(&https_send(at[1], &certificate.der, "a.example", asks()?).await?)?;
    is_answer(&http2_send(at[0], call(&format!("http://a.example{METHOD}")).body(Full::from(ASSIGN))?).await?)?;
    // What is no base64 is the caller's mistake.
    let broken =
        Request::post(METHOD).header("host", "a.example").header("content-type", "application/grpc-web-text").body(Full::from("AAA"))?;
    let reply = http_send(at[0], broken).await?;
    assert_eq!((reply.header("grpc-status"), reply.header("x-lorica-reason")), (Some("3"), Some("bad_request")), "{reply:?}");
    proxy.running.stop().await?;
    agents.stop().await?;
    mesh.finish().await
}

#[tokio::test]
async fn a_stock_envoy_translates_alike() -> anyhow::Result<()> {
    let mesh = Mesh::start().await?;
    let (agents, port) = agents(&mesh).await?;
    let certificate = Trusted::new(&["a.example"])?;
    mesh.apply(&resources(port.address(), &certificate)).await?;
    let Some(envoy) = crate::envoy(&mesh).await? else { return mesh.finish().await };
    let up = eventually("the service answers through Envoy", PATIENCE, || async {
        is_answer(&http_send(envoy.bound(80)?, call(METHOD).header("host", "a.example").body(Full::from(ASSIGN))?).await?)
    });
    up.await.with_context(|| mesh.last_words())?;
    page(envoy.bound(80)?).await?;
    text(envoy.bound(80)?).await?;
    crate::end(envoy, &mesh).await?;
    agents.stop().await?;
    mesh.finish().await
}
