//! A stock Envoy joins the mesh with the bootstrap that `lorica envoy bootstrap` prints. In flow calls through its listeners and routes
//! applied meanwhile; out flow the answers, what Envoy counted, and what the control plane says of it. Envoy itself is not changed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::net::SocketAddr;

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use testbed::{Echo, EchoServer, Envoy, Mesh, PATIENCE, Peer, Port, Running, Who, app, can_namespaces, eventually};
use testbed::{http_get, http2_send, left_out, peer};

/// A workload of a service behind a Lorica proxy; its app answers as `name`.
fn workload(mesh: &Mesh, name: &str, service: &str, port: &Port) -> anyhow::Result<Running> {
    let app = mesh.program(app()?)?;
    let listen = port.address().to_string();
    let run = mesh.service(service).port(&format!("80:{}/http", port.number())).no_capture();
    run.start([app.as_os_str(), "http".as_ref(), "--listen".as_ref(), listen.as_ref(), "--name".as_ref(), name.as_ref()])
}

/// The answer of the app that a listener leads to, once there is one.
async fn answer(mesh: &Mesh, local: SocketAddr, path: &str) -> anyhow::Result<Echo> {
    let asked = eventually("the app answers through Envoy", PATIENCE, || async {
        let reply = http_get(local, "recording.contact", path).await?;
        ensure!(reply.status == 200, "{} {}", reply.status, reply.text());
        reply.json::<Echo>()
    });
    asked.await.with_context(|| mesh.last_words())
}

/// The app was told that this identity calls, and of no other.
#[track_caller]
fn assert_caller(echo: &Echo, identity: &str) {
    let told: Vec<_> = echo.headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case("x-forwarded-client-cert")).collect();
    let [(_, told)] = told.as_slice() else { panic!("the app was told {told:?}") };
    let callers: Vec<_> = told.split([';', ',']).filter_map(|part| part.strip_prefix("URI=")).collect();
    assert_eq!(callers, [identity], "{told}");
}

#[tokio::test]
async fn envoy_calls_a_workload_of_the_mesh() -> anyhow::Result<()> {
    let mesh = Mesh::start().await?;
    let (port, local) = (Port::free()?, Port::free()?);
    let _recording = workload(&mesh, "recording", "recording.contact", &port)?;
    mesh.announced("recording.contact", 1).await?;
    let upstream = format!("recording.contact:80={}", local.address());
    let Some(envoy) = Envoy::start(&mesh, &["--namespace", "shop", "--upstream", &upstream]).await? else { return mesh.finish().await };

    let echo = answer(&mesh, local.address(), "/one?x=y").await?;
    assert_eq!((echo.server.as_str(), echo.method.as_str(), echo.path.as_str()), ("recording", "GET", "/one?x=y"));
    assert_caller(&echo, "spiffe://mesh.local/ns/shop/sa/default");

    let request = Request::post("http://recording.contact/two").body(Full::new(Bytes::from_static(b"a body")))?;
    let reply = http2_send(local.address(), request).await?;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let echo: Echo = reply.json()?;
    assert_eq!((echo.method.as_str(), echo.path.as_str(), echo.body.as_str()), ("POST", "/two", "a body"));
    assert_caller(&echo, "spiffe://mesh.local/ns/shop/sa/default");

    envoy.refused_nothing(&mesh, &["listener_manager.lds.", "cluster_manager.cds.", ".rds."]).await?;
    // The workload behind the listener was called by mutual TLS, and by nothing else.
    let counters = envoy.counters().await?;
    let tls: Vec<_> = counters.iter().filter(|(name, _)| name.contains("recording.contact.mesh") && name.contains(".ssl.")).collect();
    // In the names of counters, Envoy writes `_` for `:`.
    let handshakes = tls.iter().find(|(name, _)| name == "cluster.recording.contact.mesh_80.ssl.handshake");
    assert!(handshakes.is_some_and(|(_, count)| *count > 0), "{tls:?}");
    envoy.running.stop().await?;
    mesh.finish().await
}

#[tokio::test]
async fn a_route_change_is_acknowledged_by_envoy() -> anyhow::Result<()> {
    let mesh = Mesh::start().await?;
    let (one, two, local) = (Port::free()?, Port::free()?, Port::free()?);
    let _one = workload(&mesh, "one", "recording.contact", &one)?;
    let _two = workload(&mesh, "two", "recording-next.contact", &two)?;
    mesh.announced("recording.contact", 1).await?;
    mesh.announced("recording-next.contact", 1).await?;
    let upstream = format!("recording.contact:80={}", local.address());
    let Some(envoy) = Envoy::start(&mesh, &["--namespace", "shop", "--upstream", &upstream]).await? else { return mesh.finish().await };
    assert_eq!(answer(&mesh, local.address(), "/").await?.server, "one");

    let receipt = mesh.apply(ROUTE).await?;
    // No app calls through the two workloads' own proxies, so the change concerns Envoy alone.
    assert!(receipt.stdout.contains("applied: 1 of 1"), "{}{}\n{}", receipt.stdout, receipt.stderr, mesh.last_words());
    // Envoy acknowledges once it has accepted a route; its workers take it a moment later.
    let moved = eventually("calls go the new way", PATIENCE, || async {
        let echo = answer(&mesh, local.address(), "/").await?;
        ensure!(echo.server == "two", "{} answers", echo.server);
        Ok(())
    });
    moved.await?;
    // There is one worker, and it has the route: a backend of weight 0 gets nothing any more.
    for _ in 0..10 {
        assert_eq!(answer(&mesh, local.address(), "/").await?.server, "two");
    }
    envoy.refused_nothing(&mesh, &["listener_manager.lds.", "cluster_manager.cds.", ".rds."]).await?;
    envoy.running.stop().await?;
    mesh.finish().await
}

#[tokio::test]
async fn a_captured_app_calls_a_service_behind_envoy() -> anyhow::Result<()> {
    let mesh = Mesh::as_nobody().start().await?;
    let (inbound, local, own) = (Port::free()?, Port::free()?, Port::free()?);
    let app = EchoServer::start("analytics").await?;
    let port = format!("80:{}/http", app.address().port());
    let address = inbound.address().to_string();
    // With a listener of its own, Envoy does without the fixed port at which it else takes captured connections.
    let upstream = format!("analytics.shop:80={}", own.address());
    let options = ["--service", "analytics.shop", "--port", &port, "--inbound", &address, "--upstream", &upstream];
    let Some(envoy) = Envoy::start(&mesh, &options).await? else { return mesh.finish().await };
    let curl = match peer(Peer::Curl) {
        Ok(curl) => mesh.program(curl)?,
        Err(why) => {
            left_out(&format!("calls to a service behind Envoy: {why}"));
            return mesh.finish().await;
        }
    };

    let captured = can_namespaces(Who::Nobody);
    if let Err(why) = &captured {
        left_out(&format!("a captured call to a service behind Envoy: {why}"));
    }
    let called = eventually("the service behind Envoy answers", PATIENCE, || async {
        let (client, url) = match &captured {
            Ok(()) => (mesh.client(), "http://analytics.shop/in".to_owned()),
            Err(_) => (mesh.client().upstream(&format!("analytics.shop:80={}", local.address())), format!("http://{}/in", local.address())),
        };
        let output = client.output([curl.as_os_str(), "-sS".as_ref(), "--fail-with-body".as_ref(), url.as_ref()]).await?.success()?;
        Ok(serde_json::from_str::<Echo>(&output.stdout)?)
    });
    let echo = called.await.with_context(|| mesh.last_words())?;
    assert_eq!((echo.server.as_str(), echo.path.as_str()), ("analytics", "/in"));
    assert_caller(&echo, "spiffe://mesh.local/ns/default/sa/default");

    // Envoy calls Envoy: both ends of the mutual TLS are the bootstrap's.
    let echo = answer(&mesh, own.address(), "/own").await?;
    assert_eq!((echo.server.as_str(), echo.path.as_str()), ("analytics", "/own"));
    assert_caller(&echo, "spiffe://mesh.local/ns/shop/sa/analytics");

    // The same listener, by TLS with the right name, but without a certificate; then without TLS.
    let answered = app.requests();
    let sni = "80.analytics.shop.mesh";
    let url = format!("https://{sni}:{}/", inbound.number());
    let resolve = format!("{sni}:{}:127.0.0.1", inbound.number());
    let stranger = mesh.start_outside(&curl, ["-sSk", "--http1.1", "--resolve", &resolve, &url])?.output(PATIENCE).await?;
    assert_ne!(stranger.code(), 0, "{}{}", stranger.stdout, stranger.stderr);
    assert!(http_get(inbound.address(), "analytics.shop", "/").await.is_err());
    assert_eq!(app.requests(), answered, "a call without a certificate reached the app");
    let counters = envoy.counters().await?;
    let tls: Vec<_> = counters.iter().filter(|(name, _)| name.starts_with("listener.") && name.contains(".ssl.")).collect();
    assert!(tls.iter().any(|(name, count)| name.ends_with(".ssl.fail_verify_no_cert") && *count > 0), "{tls:?}\n{}", stranger.stderr);
    envoy.refused_nothing(&mesh, &["listener_manager.lds.", "cluster_manager.cds.", ".rds."]).await?;
    envoy.running.stop().await?;
    mesh.finish().await
}

/// All calls of `recording` lead to `recording-next`.
const ROUTE: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: recording, namespace: contact}
spec:
  parentRefs: [{kind: Service, group: '', name: recording}]
  rules:
  - backendRefs:
    - {name: recording, port: 80, weight: 0}
    - {name: recording-next, port: 80, weight: 1}
";
