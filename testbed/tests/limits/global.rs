//! Limits across proxies: ten gateways with uneven load, held against the written bound; and what holds while no control plane answers.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use http::Request;
use http_body_util::Full;
use testbed::{EchoServer, HttpConnection, Mesh, PATIENCE, eventually};

use super::{ask, edge, gateway, passed, policy};

const RATE: u64 = 200;
const BURST: u64 = 20;
/// The most that is lent at once: a tenth of what passes in a second.
const LENT: u64 = RATE / 10;

/// Calls one after another until `until` requests have passed anywhere.
async fn calls(at: SocketAddr, passed: Arc<AtomicU64>, refused: Arc<AtomicU64>, done: Arc<AtomicBool>) -> anyhow::Result<()> {
    let mut connection = HttpConnection::open(at).await?;
    while !done.load(Ordering::Relaxed) {
        let reply = connection.send(Request::get("/").header("host", "web.shop").body(Full::default())?).await?;
        match reply.status.as_u16() {
            200 => passed.fetch_add(1, Ordering::Relaxed),
            429 => refused.fetch_add(1, Ordering::Relaxed),
            status => anyhow::bail!("{status} {}", reply.text()),
        };
    }
    Ok(())
}

#[tokio::test]
async fn ten_proxies_let_no_more_through_than_the_written_bound() -> anyhow::Result<()> {
    let mesh = Mesh::as_nobody().start().await?;
    let web = EchoServer::start("web").await?;
    let limits = format!(
        "{{targetRefs: [{{kind: Gateway, name: edge}}], limits: [{{name: all, scope: Global, requests: {RATE}, per: 1s, burst: {BURST}, match: {{path: {{type: Exact, value: /}}}}}}]}}"
    );
    mesh.apply(&(edge(web.address()) + &policy("edge", &limits))).await?;
    let mut gateways = Vec::new();
    for _ in 0..10 {
        gateways.push(gateway(&mesh).await?);
    }
    let (passed, refused, done) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let begun = Instant::now();
    let mut callers = Vec::new();
    for (number, (_, at)) in gateways.iter().enumerate() {
        // The first has as many callers as all others together.
        for _ in 0..if number == 0 { 9 } else { 1 } {
            callers.push(tokio::spawn(calls(*at, passed.clone(), refused.clone(), done.clone())));
        }
    }
    // Three gateways go in the middle, with what they hold.
    let through = async |count: u64| {
        eventually("requests pass", PATIENCE, || async {
            let now = passed.load(Ordering::Relaxed);
            anyhow::ensure!(now >= count, "{now} of {count}");
            Ok(())
        })
        .await
    };
    through(RATE).await?;
    for (gateway, _) in gateways.drain(7..) {
        gateway.kill().await?;
    }
    through(4 * RATE).await?;
    done.store(true, Ordering::Relaxed);
    for (number, caller) in callers.into_iter().enumerate() {
        let ended = caller.await?;
        // Callers of those that were killed have seen the end of their connections.
        assert!(ended.is_ok() || number >= 9 + 6, "{ended:?}");
    }
    let most = BURST + LENT + u64::try_from(u128::from(RATE) * begun.elapsed().as_millis() / 1000)? + 1;
    let (through, turned_away) = (passed.load(Ordering::Relaxed), refused.load(Ordering::Relaxed));
    assert!(through <= most, "{through} of at most {most} passed");
    assert!(turned_away > 0, "there was not enough load to tell: {through} passed in {:?}", begun.elapsed());
    assert!(web.requests() <= most, "{} of at most {most} came through", web.requests());
    mesh.finish().await
}

/// Calls ten times a second.
async fn paced_calls(at: SocketAddr, passed: Arc<AtomicU64>, refused: Arc<AtomicU64>) -> anyhow::Result<Infallible> {
    let mut connection = HttpConnection::open(at).await?;
    let mut turn = tokio::time::interval(Duration::from_millis(100));
    loop {
        turn.tick().await;
        let reply = connection.send(Request::get("/").header("host", "web.shop").body(Full::default())?).await?;
        match reply.status.as_u16() {
            200 => passed.fetch_add(1, Ordering::Relaxed),
            429 => refused.fetch_add(1, Ordering::Relaxed),
            status => anyhow::bail!("{status} {}", reply.text()),
        };
    }
}

/// A rate needs a machine that has time for it, so that the usual run holds the bound alone. `LORICA_GLOBAL_LIMIT_SECONDS=60` asks for this one.
#[tokio::test]
#[expect(clippy::print_stdout, reason = "whoever asks for it wants the figures")]
async fn a_thousand_a_second_pass_ten_proxies_with_uneven_load() -> anyhow::Result<()> {
    let Ok(seconds) = std::env::var("LORICA_GLOBAL_LIMIT_SECONDS") else { return Ok(()) };
    let (rate, time) = (1000_u64, Duration::from_secs(seconds.parse()?));
    let mesh = Mesh::as_nobody().start().await?;
    let web = EchoServer::start("web").await?;
    let limits = format!(
        "{{targetRefs: [{{kind: Gateway, name: edge}}], limits: [{{name: all, scope: Global, requests: {rate}, per: 1s, burst: 100, match: {{path: {{type: Exact, value: /}}}}}}]}}"
    );
    mesh.apply(&(edge(web.address()) + &policy("edge", &limits))).await?;
    let mut gateways = Vec::new();
    for _ in 0..10 {
        gateways.push(gateway(&mesh).await?);
    }
    let (passed, refused) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let mut callers = tokio::task::JoinSet::new();
    for (number, (_, at)) in gateways.iter().enumerate() {
        // Half of the load comes to the first; 1,800 a second are asked for in all.
        for _ in 0..if number == 0 { 90 } else { 10 } {
            let (at, passed, refused) = (*at, passed.clone(), refused.clone());
            callers.spawn(paced_calls(at, passed, refused));
        }
    }
    tokio::time::sleep(Duration::from_secs(5)).await;
    let (begun, before) = (Instant::now(), passed.load(Ordering::Relaxed));
    tokio::time::sleep(time).await;
    let (took, count) = (begun.elapsed(), passed.load(Ordering::Relaxed) - before);
    #[allow(clippy::cast_precision_loss, reason = "some thousands")]
    let measured = count as f64 / took.as_secs_f64();
    println!("{count} passed in {took:?}: {measured:.1} a second of {rate}; {} refused", refused.load(Ordering::Relaxed));
    assert!((measured - 1000.0).abs() <= 20.0, "{measured:.1} a second");
    assert!(callers.try_join_next().is_none(), "a caller has ended");
    callers.abort_all();
    mesh.finish().await
}

#[tokio::test]
async fn a_slow_limit_is_exact_and_its_share_holds_without_a_control_plane() -> anyhow::Result<()> {
    let mesh = Mesh::as_nobody().start().await?;
    let web = EchoServer::start("web").await?;
    let limits = "{targetRefs: [{kind: Gateway, name: edge}], limits: [
      {name: few, scope: Global, requests: 20, per: 1h, key: [{header: x-user}], match: {path: {value: /few}}},
      {name: none, scope: Global, requests: 20, per: 1h, whenUnavailable: Deny, match: {path: {value: /none}}},
      {name: any, scope: Global, requests: 1, per: 1h, whenUnavailable: Allow, match: {path: {value: /any}}}]}";
    mesh.apply(&(edge(web.address()) + &policy("edge", limits))).await?;
    let ((_one, one), (_two, two)) = (gateway(&mesh).await?, gateway(&mesh).await?);
    // Each token that was lent passes one request somewhere: those that were not spent go back after a second.
    let mut through = 0;
    eventually("all twenty pass", PATIENCE, || async {
        Ok(passed(one, 3, "/few", &[("x-user", "ann")]).await? + passed(two, 3, "/few", &[("x-user", "ann")]).await?)
    })
    .await
    .map(|count| through += count)?;
    let deadline = Instant::now() + PATIENCE;
    while through < 20 && Instant::now() < deadline {
        through += passed(one, 2, "/few", &[("x-user", "ann")]).await? + passed(two, 1, "/few", &[("x-user", "ann")]).await?;
    }
    assert_eq!(through, 20);
    assert_eq!(passed(one, 5, "/few", &[("x-user", "ann")]).await? + passed(two, 5, "/few", &[("x-user", "ann")]).await?, 0);
    assert_eq!(ask(one, "/none", &[]).await?.status, 200);
    assert_eq!(ask(two, "/any", &[]).await?.status, 200);
    assert_eq!((ask(one, "/any", &[]).await?.status.as_u16(), ask(one, "/none", &[]).await?.status.as_u16()), (429, 200));

    mesh.kill_control().await?;
    // Two share it, and each goes by half, for a key that it has not met as for one that it has.
    for at in [one, two] {
        assert_eq!(passed(at, 15, "/few", &[("x-user", "ben")]).await?, 10, "{at}");
    }
    assert_eq!(passed(one, 3, "/any", &[]).await?, 3);
    let denied = eventually("what was lent is spent", PATIENCE, || async {
        let reply = ask(one, "/none", &[]).await?;
        anyhow::ensure!(reply.status == 500, "{}", reply.status);
        Ok(reply)
    });
    assert_eq!(denied.await?.header("x-lorica-reason"), Some("rate_limit_failed"));

    mesh.start_control().await?;
    eventually("the control plane lends again", PATIENCE, || async {
        let reply = ask(one, "/none", &[]).await?;
        anyhow::ensure!(reply.status == 200, "{}", reply.status);
        Ok(())
    })
    .await?;
    mesh.finish().await
}
