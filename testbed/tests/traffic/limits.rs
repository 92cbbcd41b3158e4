//! Limits and queues through real proxies, with exact counts.

use rustix::process::Signal;
use testbed::{HttpConnection, Mesh, PATIENCE, eventually};

use super::app::App;
use super::rig::{Identities, PLAINTEXT, ask, burst, callee, caller, count, metric, outcomes, request, resources, status, until};

#[tokio::test]
async fn no_more_requests_at_once_than_allowed() -> anyhow::Result<()> {
    let mesh = Mesh::options().without_control()?;
    let app = App::start("web").await?;
    let text = resources("http", &[(app.address(), PLAINTEXT)], "limits: {requests: 10}");
    let proxy = caller(&mesh, &text, &["--workers", "2", "--access-log", "stdout"]).await?;
    app.hold(true);
    let requests = burst(proxy.address(), 50).await?;
    eventually("the others are answered", PATIENCE, || async {
        anyhow::ensure!(requests.iter().filter(|request| request.is_finished()).count() == 40);
        Ok(())
    })
    .await?;
    assert_eq!(status(&proxy).await?["requests"], 10);
    app.hold(false);
    let outcomes = outcomes(requests).await?;
    assert_eq!((count(&outcomes, 200, ""), count(&outcomes, 503, "overflow")), (10, 40), "{outcomes:?}");
    assert_eq!((app.requests(), app.connections()), (10, 10));
    assert_eq!(metric(&proxy, "lorica_limits_reached_total{limit=\"requests\"}").await?, 40);
    proxy.running.line("limits.requests: 10").await?;
    // What was taken is given back.
    assert_eq!(ask(&proxy).await?.status, 200);
    mesh.finish().await
}

#[tokio::test]
async fn requests_wait_in_line_for_one_of_few_connections() -> anyhow::Result<()> {
    for (transport, protocol) in [(PLAINTEXT, "http"), ("MutualTls", "http"), ("Lorica", "http")] {
        let mesh = Mesh::options().without_control()?;
        let (app, identities) = (App::start("web").await?, Identities::new()?);
        ["web", "cart"].iter().try_for_each(|account| identities.give(&mesh, account))?;
        let beside = callee(&mesh, app.address(), protocol).await?;
        let to = if transport == PLAINTEXT { app.address() } else { beside.address() };
        let text = resources(protocol, &[(to, transport)], "limits: {connections: 3, pending: 5}");
        let proxy = caller(&mesh, &text, &["--identity", "cart", "--access-log", "off"]).await?;
        app.hold(true);
        let requests = burst(proxy.address(), 20).await?;
        eventually("three are under way, five wait, and the others are answered", PATIENCE, || async {
            let finished = requests.iter().filter(|request| request.is_finished()).count();
            let status = status(&proxy).await?;
            anyhow::ensure!(finished == 12 && app.requests() == 3 && status["pending"] == 5, "{finished}, {status:#}");
            Ok(())
        })
        .await?;
        app.hold(false);
        let outcomes = outcomes(requests).await?;
        assert_eq!((count(&outcomes, 200, ""), count(&outcomes, 503, "overflow")), (8, 12), "{transport}: {outcomes:?}");
        assert_eq!(app.connections(), 3, "{transport}: who waits takes over a connection");
        assert_eq!(status(&proxy).await?["connections"], 3);
        mesh.finish().await?;
    }
    Ok(())
}

#[tokio::test]
async fn requests_wait_in_line_for_a_stream_of_the_one_connection() -> anyhow::Result<()> {
    let mesh = Mesh::options().without_control()?;
    let app = App::with_streams("web", 4).await?;
    let text = resources("http2", &[(app.address(), PLAINTEXT)], "limits: {connections: 1, pending: 5}");
    let proxy = caller(&mesh, &text, &["--access-log", "off"]).await?;
    // Then it is known how many streams there may be.
    assert_eq!(ask(&proxy).await?.status, 200);
    app.hold(true);
    let requests = burst(proxy.address(), 20).await?;
    eventually("four are under way, five wait, and the others are answered", PATIENCE, || async {
        let finished = requests.iter().filter(|request| request.is_finished()).count();
        let status = status(&proxy).await?;
        anyhow::ensure!(finished == 11 && app.requests() == 5 && status["pending"] == 5, "{finished}, {status:#}");
        Ok(())
    })
    .await?;
    app.hold(false);
    let outcomes = outcomes(requests).await?;
    assert_eq!((count(&outcomes, 200, ""), count(&outcomes, 503, "overflow")), (9, 11), "{outcomes:?}");
    assert_eq!(app.connections(), 1);
    mesh.finish().await
}

#[tokio::test]
async fn who_goes_away_waits_no_more() -> anyhow::Result<()> {
    let mesh = Mesh::options().without_control()?;
    let app = App::start("web").await?;
    let text = resources("http", &[(app.address(), PLAINTEXT)], "limits: {connections: 1, pending: 1}");
    let proxy = caller(&mesh, &text, &["--access-log", "off"]).await?;
    app.hold(true);
    let first = burst(proxy.address(), 1).await?;
    until(&proxy, "it is under way", |status| status["requests"] == 1).await?;
    let waits = burst(proxy.address(), 1).await?;
    until(&proxy, "it waits", |status| status["pending"] == 1).await?;
    waits.iter().for_each(tokio::task::JoinHandle::abort);
    until(&proxy, "nobody waits", |status| status["pending"] == 0).await?;
    let next = burst(proxy.address(), 1).await?;
    until(&proxy, "another waits", |status| status["pending"] == 1).await?;
    app.hold(false);
    let outcomes = outcomes(first.into_iter().chain(next).collect()).await?;
    assert_eq!(count(&outcomes, 200, ""), 2, "{outcomes:?}");
    assert_eq!(app.requests(), 2);
    mesh.finish().await
}

#[tokio::test]
async fn workers_make_room_for_each_other() -> anyhow::Result<()> {
    let mesh = Mesh::options().without_control()?;
    let app = App::start("web").await?;
    let text = resources("http", &[(app.address(), PLAINTEXT)], "limits: {connections: 1}");
    let proxy = caller(&mesh, &text, &["--workers", "4", "--access-log", "off"]).await?;
    // Whichever worker has the one connection idle, the others get theirs.
    for _ in 0..40 {
        assert_eq!(ask(&proxy).await?.status, 200);
    }
    assert_eq!(status(&proxy).await?["connections"], 1);
    mesh.finish().await
}

#[tokio::test]
async fn tcp_connections_are_limited_too() -> anyhow::Result<()> {
    let mesh = Mesh::options().without_control()?;
    let echo = testbed::TcpEcho::start("").await?;
    let text = resources("tcp", &[(echo.address(), PLAINTEXT)], "limits: {connections: 1, pending: 1}");
    let proxy = caller(&mesh, &text, &["--access-log", "stdout"]).await?;
    let mut first = testbed::Connection::open(proxy.address()).await?;
    first.write(b"one").await?;
    first.read_until(b"one").await?;
    let mut second = testbed::Connection::open(proxy.address()).await?;
    second.write(b"two").await?;
    until(&proxy, "the second waits", |status| status["pending"] == 1).await?;
    let third = testbed::send_raw(proxy.address(), b"three").await;
    assert!(!third.is_ok_and(|bytes| bytes.starts_with(b"three")));
    proxy.running.line("limits.pending: 1").await?;
    drop(first);
    second.read_until(b"two").await?;
    drop(second);
    mesh.finish().await
}

#[tokio::test]
async fn once_one_has_waited_in_vain_others_are_answered_at_once() -> anyhow::Result<()> {
    let mesh = Mesh::options().without_control()?;
    let app = App::start("web").await?;
    // Whoever waits, waits for good.
    let policy = "limits: {queueTimeout: 1h, pending: 2}";
    let proxy = caller(&mesh, &resources("http", &[], policy), &["--access-log", "off"]).await?;
    let waiting = burst(proxy.address(), 2).await?;
    until(&proxy, "both wait", |status| status["pending"] == 2).await?;
    let reply = ask(&proxy).await?;
    assert_eq!((reply.status.as_u16(), reply.header("x-lorica-reason")), (503, Some("overflow")), "there is no room for a third");
    // An endpoint comes: both are served.
    mesh.write("mesh.yaml", resources("http", &[(app.address(), PLAINTEXT)], policy))?;
    proxy.running.signal(Signal::HUP)?;
    let served = outcomes(waiting).await?;
    assert_eq!(count(&served, 200, ""), 2, "{served:?}");

    // It goes again, and one waits in vain.
    let policy = "limits: {queueTimeout: 1ms}";
    mesh.write("mesh.yaml", resources("http", &[], policy))?;
    proxy.running.signal(Signal::HUP)?;
    eventually("nobody is there", PATIENCE, || async {
        anyhow::ensure!(ask(&proxy).await?.header("x-lorica-reason") == Some("no_endpoint"));
        Ok(())
    })
    .await?;
    assert_eq!(status(&proxy).await?["failsFast"], true);
    mesh.write("mesh.yaml", resources("http", &[], "limits: {queueTimeout: 1h}"))?;
    proxy.running.signal(Signal::HUP)?;
    proxy.running.line("the configuration was read again").await?;
    let mut kept = HttpConnection::open(proxy.address()).await?;
    for _ in 0..10 {
        // An hour, if it waited.
        assert_eq!(kept.send(request("/")).await?.header("x-lorica-reason"), Some("no_endpoint"));
    }
    mesh.write("mesh.yaml", resources("http", &[(app.address(), PLAINTEXT)], policy))?;
    proxy.running.signal(Signal::HUP)?;
    eventually("it is back", PATIENCE, || async {
        anyhow::ensure!(ask(&proxy).await?.status == 200);
        Ok(())
    })
    .await?;
    assert_eq!(kept.send(request("/")).await?.status, 200);
    assert_eq!(status(&proxy).await?["failsFast"], false);
    mesh.finish().await
}

#[tokio::test]
async fn a_connection_that_is_too_old_takes_no_new_request() -> anyhow::Result<()> {
    for protocol in ["http", "http2"] {
        let mesh = Mesh::options().without_control()?;
        let app = App::start("web").await?;
        let text = resources(protocol, &[(app.address(), PLAINTEXT)], "timeouts: {connectionAge: 1ms}");
        let proxy = caller(&mesh, &text, &["--access-log", "off"]).await?;
        for _ in 0..5 {
            assert_eq!(ask(&proxy).await?.status, 200);
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
        assert_eq!(app.connections(), 5, "{protocol}");
        mesh.finish().await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_service_that_became_slower_is_not_sent_more_at_once() -> anyhow::Result<()> {
    let mesh = Mesh::options().without_control()?;
    let app = App::start("web").await?;
    let policy = "limits: {adaptive: {mode: Enabled, minimum: 4, maximum: 8}}";
    let proxy =
        caller(&mesh, &resources("http", &[(app.address(), PLAINTEXT)], policy), &["--workers", "2", "--access-log", "off"]).await?;
    until(&proxy, "it begins within its bounds", |status| status["adaptiveLimit"] == 8).await?;
    app.hold(true);
    let requests = burst(proxy.address(), 20).await?;
    eventually("the others are answered", PATIENCE, || async {
        anyhow::ensure!(requests.iter().filter(|request| request.is_finished()).count() == 12);
        Ok(())
    })
    .await?;
    app.hold(false);
    let outcomes = outcomes(requests).await?;
    assert_eq!((count(&outcomes, 200, ""), count(&outcomes, 503, "overloaded")), (8, 12), "{outcomes:?}");
    assert_eq!(metric(&proxy, "lorica_limits_reached_total{limit=\"adaptive\"}").await?, 12);
    mesh.finish().await
}
