//! Bad input and faults against the real binary. In flow broken requests, strangers at the inbound port, killed processes and a full disk; out
//! flow answers, closed connections, and the certainty that the mesh goes on. Nothing here looks inside the mesh.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::Full;
use rustix::process::Signal;
use testbed::{Connection, EchoServer, HttpConnection, Mesh, PATIENCE, Port, Running, Who, eventually, http_get, send_raw};
use tokio::task::JoinHandle;

/// A workload of `web.shop` whose app is a program of its own, without capture.
fn workload(mesh: &Mesh, app_port: u16) -> anyhow::Result<Running> {
    let app = mesh.program(testbed::app()?)?;
    let listen = format!("127.0.0.1:{app_port}");
    let run = mesh.service("web.shop").no_capture().port(&format!("80:{app_port}/http"));
    run.start([app.as_os_str(), "http".as_ref(), "--listen".as_ref(), listen.as_ref()])
}

/// A local listener that leads into the mesh, to `web.shop`; ends when the app answers through it.
async fn way_in(mesh: &Mesh, port: &Port) -> anyhow::Result<Running> {
    let client = mesh.client().upstream(&format!("web.shop:80={}", port.address())).start(["sleep", "1000"])?;
    served(mesh, port.address()).await?;
    Ok(client)
}

/// The app answers at `address`, once whatever was started just now has got so far.
async fn served(mesh: &Mesh, address: SocketAddr) -> anyhow::Result<()> {
    let answered = eventually("the app answers", PATIENCE, || async {
        let reply = http_get(address, "web.shop", "/").await?;
        ensure!(reply.status == StatusCode::OK, "{} {}", reply.status, reply.text());
        Ok(())
    });
    answered.await.with_context(|| mesh.last_words())
}

/// The answer that the proxy gave by itself: its status and its reason.
fn refusal(answer: &[u8]) -> (String, String) {
    let text = String::from_utf8_lossy(answer).to_ascii_lowercase();
    let status = text.split(' ').nth(1).unwrap_or_default().to_owned();
    let reason = text.lines().find_map(|line| line.strip_prefix("x-lorica-reason: ")).unwrap_or_default();
    (status, reason.trim().to_owned())
}

#[tokio::test]
async fn malformed_requests_are_refused_and_the_proxy_serves_on() -> anyhow::Result<()> {
    let mesh = Mesh::as_nobody().start().await?;
    let (app, port) = (EchoServer::start("web").await?, Port::free()?);
    let _web = mesh.service("web.shop").no_capture().port(&format!("80:{}/http", app.address().port())).start(["sleep", "1000"])?;
    mesh.announced("web.shop", 1).await?;
    let _client = way_in(&mesh, &port).await?;
    let before = app.requests();
    let malformed: [&[u8]; 7] = [
        b"GET / HTTP/1.1\r\nhost: web.shop\r\nno colon\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: web.shop\r\na\0b: c\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: web.shop\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
        b"POST / HTTP/1.1\r\nhost: web.shop\r\ncontent-length: 1x\r\n\r\na",
        b"POST / HTTP/1.1\r\nhost: web.shop\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n",
        b"GET /a b HTTP/1.1\r\nhost: web.shop\r\n\r\n",
    ];
    for request in malformed {
        let shown = String::from_utf8_lossy(request).into_owned();
        let answer = send_raw(port.address(), request).await.with_context(|| shown.clone())?;
        assert_eq!(refusal(&answer), ("400".to_owned(), "bad_request".to_owned()), "{shown:?}: {}", String::from_utf8_lossy(&answer));
    }
    assert_eq!(app.requests(), before, "the app saw a malformed request");
    served(&mesh, port.address()).await?;
    mesh.finish().await
}
