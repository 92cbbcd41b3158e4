//! Real proxies on both sides: affinity by cookie, and failover by place and by service.

use std::collections::BTreeSet;

use anyhow::{Context as _, ensure};
use testbed::{HttpConnection, Mesh, PATIENCE, Port, Running, app, eventually};

use super::{asked, service};

/// A workload of a service behind a Lorica proxy at `locality`; its app answers as `name`.
fn serving(mesh: &Mesh, name: &str, service: &str, locality: &str, port: &Port) -> anyhow::Result<Running> {
    let app = mesh.program(app()?)?;
    let listen = port.address().to_string();
    let run = mesh.service(service).port(&format!("80:{}/http", port.number())).option("--locality").option(locality).no_capture();
    run.start([app.as_os_str(), "http".as_ref(), "--listen".as_ref(), listen.as_ref(), "--name".as_ref(), name.as_ref()])
}

/// A client at eu/a whose calls to `service` come in at `port`.
fn calling(mesh: &Mesh, service: &str, port: &Port) -> anyhow::Result<Running> {
    let run = mesh.client().option("--namespace").option("shop").env("LORICA_LOCALITY", "eu/a");
    run.upstream(&format!("{service}:80={}", port.address())).start(["sleep", "600"])
}

/// Waits until a call is answered by one of `servers`, and then makes some more: nobody else answers them.
async fn answered_by(mesh: &Mesh, port: &Port, servers: &[&str]) -> anyhow::Result<()> {
    let met = eventually("the right ones answer", PATIENCE, || async {
        let mut connection = HttpConnection::open(port.address()).await?;
        let server = asked(&mut connection, "/", &[]).await?.0.server;
        ensure!(servers.contains(&server.as_str()), "{server} answers");
        Ok(())
    });
    met.await.with_context(|| mesh.last_words())?;
    let mut connection = HttpConnection::open(port.address()).await?;
    let mut seen = BTreeSet::new();
    for _ in 0..60 {
        seen.insert(asked(&mut connection, "/", &[]).await?.0.server);
    }
    assert_eq!(seen, servers.iter().map(|server| (*server).to_owned()).collect(), "{}", mesh.last_words());
    Ok(())
}

#[tokio::test]
async fn a_cookie_keeps_a_caller_with_its_endpoint() -> anyhow::Result<()> {
    let mesh = Mesh::start().await?;
    let policy = "balancing: {algorithm: RoundRobin, affinity: {cookie: stay, ttl: 1h, path: /shop}}";
    mesh.apply(&service("web", policy)).await?;
    let ports = [Port::free()?, Port::free()?, Port::free()?];
    let mut serving = ["one", "two", "three"]
        .iter()
        .zip(&ports)
        .map(|(name, port)| Ok((*name, self::serving(&mesh, name, "web.shop", "eu/a", port)?)))
        .collect::<anyhow::Result<Vec<_>>>()?;
    mesh.announced("web.shop", 3).await?;
    let local = Port::free()?;
    let client = calling(&mesh, "web.shop", &local)?;
    answered_by(&mesh, &local, &["one", "two", "three"]).await?;

    let mut connection = HttpConnection::open(local.address()).await?;
    let (first, reply) = asked(&mut connection, "/", &[]).await?;
    let given = reply.header("set-cookie").context("no cookie")?.to_owned();
    let (cookie, attributes) = given.split_once("; ").context("a cookie without attributes")?;
    assert_eq!(attributes, "Max-Age=3600; Path=/shop; HttpOnly");
    assert!(!cookie.contains("127.0.0.1"), "{cookie}");
    for _ in 0..30 {
        let (echo, reply) = asked(&mut connection, "/", &[("cookie", &format!("other=1; {cookie}"))]).await?;
        assert_eq!((echo.server.as_str(), reply.header("set-cookie")), (first.server.as_str(), None));
    }
    // A cookie that names nobody is replaced.
    let (_, reply) = asked(&mut connection, "/", &[("cookie", "stay=0123456789abcdef")]).await?;
    assert!(reply.header("set-cookie").is_some_and(|value| value.starts_with("stay=")));

    let at = serving.iter().position(|(name, _)| *name == first.server).context("nobody is called so")?;
    serving.remove(at).1.stop().await?;
    mesh.announced("web.shop", 2).await?;
    let moved = eventually("another takes over", PATIENCE, || async {
        let mut connection = HttpConnection::open(local.address()).await?;
        let (echo, reply) = asked(&mut connection, "/", &[("cookie", cookie)]).await?;
        ensure!(echo.server != first.server, "{} answers still", echo.server);
        Ok((echo.server, reply.header("set-cookie").context("no new cookie")?.to_owned()))
    });
    let (second, given) = moved.await.with_context(|| mesh.last_words())?;
    let cookie = given.split_once("; ").map_or(given.as_str(), |(cookie, _)| cookie);
    let mut connection = HttpConnection::open(local.address()).await?;
    for _ in 0..30 {
        assert_eq!(asked(&mut connection, "/", &[("cookie", cookie)]).await?.0.server, second);
    }
    drop(client);
    mesh.finish().await
}

#[tokio::test]
async fn near_endpoints_take_calls_while_there_are_any() -> anyhow::Result<()> {
    let mesh = Mesh::start().await?;
    mesh.apply(&service("web", "balancing: {algorithm: RoundRobin, prefer: Zone}")).await?;
    let ports = [Port::free()?, Port::free()?, Port::free()?, Port::free()?];
    let [own, also_own, region, far] = ["eu/a", "eu/a", "eu/b", "us/a"];
    let (one, two) = (serving(&mesh, "one", "web.shop", own, &ports[0])?, serving(&mesh, "two", "web.shop", also_own, &ports[1])?);
    let (three, _four) = (serving(&mesh, "three", "web.shop", region, &ports[2])?, serving(&mesh, "four", "web.shop", far, &ports[3])?);
    mesh.announced("web.shop", 4).await?;
    let status = mesh.status().await?;
    let places: BTreeSet<&str> =
        status["proxies"].as_array().into_iter().flatten().filter_map(|proxy| proxy["locality"].as_str()).collect();
    assert_eq!(places, BTreeSet::from(["eu/a", "eu/b", "us/a"]));
    let local = Port::free()?;
    let _client = calling(&mesh, "web.shop", &local)?;
    answered_by(&mesh, &local, &["one", "two"]).await?;
    two.stop().await?;
    answered_by(&mesh, &local, &["one"]).await?;
    one.stop().await?;
    answered_by(&mesh, &local, &["three"]).await?;
    three.stop().await?;
    answered_by(&mesh, &local, &["four"]).await?;
    let _one = serving(&mesh, "one", "web.shop", own, &ports[0])?;
    answered_by(&mesh, &local, &["one"]).await?;
    mesh.finish().await
}

#[tokio::test]
async fn another_service_takes_over_with_its_own_identity() -> anyhow::Result<()> {
    let mesh = Mesh::start().await?;
    let ports = [Port::free()?, Port::free()?];
    let one = serving(&mesh, "one", "web.shop", "eu/a", &ports[0])?;
    let two = serving(&mesh, "two", "spare.shop", "eu/a", &ports[1])?;
    mesh.announced("web.shop", 1).await?;
    mesh.announced("spare.shop", 1).await?;
    let local = Port::free()?;
    let _client = calling(&mesh, "web.shop", &local)?;
    answered_by(&mesh, &local, &["one"]).await?;
    mesh.apply(&service("web", "failover: [{name: spare, port: 80}]")).await?;
    answered_by(&mesh, &local, &["one"]).await?;
    one.stop().await?;
    // Whoever answered would be refused if it were to prove that it is web.shop.
    answered_by(&mesh, &local, &["two"]).await?;
    let one = serving(&mesh, "one", "web.shop", "eu/a", &ports[0])?;
    answered_by(&mesh, &local, &["one"]).await?;
    two.stop().await?;
    answered_by(&mesh, &local, &["one"]).await?;
    one.stop().await?;
    let nobody = eventually("nobody is left", PATIENCE, || async {
        let reply = HttpConnection::open(local.address()).await?.send(super::get("/", &[])?).await?;
        ensure!((reply.status.as_u16(), reply.header("x-lorica-reason")) == (503, Some("no_endpoint")), "{}", reply.status);
        Ok(())
    });
    nobody.await.with_context(|| mesh.last_words())?;
    mesh.finish().await
}
