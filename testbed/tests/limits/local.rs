//! Limits that each proxy counts by itself: at a service's workloads, at gateways, by key, of requests and of what is under way.

use std::ffi::OsStr;
use std::net::SocketAddr;

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use testbed::{Connection, EchoServer, Mesh, PATIENCE, Port, Running, eventually, http_get, http2_send, run_gateway};

use super::{ask, edge, passed, policy, statuses};

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

/// A caller of `web.shop`, and where it calls.
async fn caller(mesh: &Mesh, account: &str) -> anyhow::Result<(Running, SocketAddr, Port)> {
    let port = Port::free()?;
    let upstream = format!("web.shop:80={}", port.address());
    let running = mesh.client().upstream(&upstream).option("--account").option(account).start(["sleep", "600"])?;
    eventually("the first answer", PATIENCE, || async {
        let reply = ask(port.address(), "/free", &[]).await?;
        anyhow::ensure!(reply.status == 200, "{}", reply.text());
        Ok(())
    })
    .await?;
    Ok((running, port.address(), port))
}

#[tokio::test]
async fn requests_count_by_who_calls_what_they_carry_and_where_they_go() -> anyhow::Result<()> {
    let mesh = Mesh::as_nobody().start().await?;
    let (_web, _listens) = web(&mesh).await?;
    let (_ann, ann, _ann_port) = caller(&mesh, "ann").await?;
    let (_ben, ben, _ben_port) = caller(&mesh, "ben").await?;
    let limits = "{targetRefs: [{kind: Service, name: web}], limits: [
      {name: by-caller, requests: 3, per: 1h, key: [{caller: true}], match: {path: {value: /caller}}},
      {name: by-header, requests: 2, per: 1h, key: [{header: X-User}], match: {path: {value: /header}}},
      {name: by-path, requests: 1, per: 1h, key: [{path: true}], match: {path: {value: /path}, method: GET}},
      {name: by-both, requests: 1, per: 1h, burst: 2, key: [{caller: true}, {header: x-user}], match: {path: {value: /both}}},
      {name: by-source, requests: 2, per: 1h, key: [{source: Address}], match: {path: {value: /source}}}]}";
    mesh.apply(&policy("web", limits)).await?;

    assert_eq!(statuses(ann, 4, "/caller", &[]).await?, [200, 200, 200, 429]);
    assert_eq!(statuses(ben, 4, "/caller/x?y", &[]).await?, [200, 200, 200, 429]);
    let user = |name| [("x-user", name)];
    assert_eq!(statuses(ann, 3, "/header", &user("1")).await?, [200, 200, 429]);
    assert_eq!(statuses(ben, 1, "/header", &user("1")).await?, [429], "the header counts, not the caller");
    assert_eq!(statuses(ben, 1, "/header", &user("2")).await?, [200]);
    // Who leaves the header out escapes nothing.
    assert_eq!(statuses(ben, 3, "/header", &[]).await?, [200, 200, 429]);
    assert_eq!(statuses(ann, 2, "/path/a", &[]).await?, [200, 429]);
    assert_eq!(statuses(ann, 2, "/path/b?c", &[]).await?, [200, 429]);
    assert_eq!(statuses(ann, 3, "/both", &user("1")).await?, [200, 200, 429]);
    assert_eq!((statuses(ann, 1, "/both", &user("2")).await?, statuses(ben, 1, "/both", &user("1")).await?), (vec![200], vec![200]));
    // Workloads of the mesh have addresses of their own, though they are on one host.
    assert_eq!((passed(ann, 3, "/source", &[]).await?, passed(ben, 3, "/source", &[]).await?), (2, 2));
    assert_eq!(passed(ann, 9, "/free", &[]).await?, 9, "nothing is said of other paths");

    let refused = ask(ann, "/caller", &[]).await?;
    assert_eq!(refused.status, 429);
    assert_eq!(refused.header("x-lorica-reason"), Some("rate_limited"));
    assert_eq!(refused.header("ratelimit-policy"), Some("\"by-caller\";q=3;w=3600"));
    let wait: u64 = refused.header("retry-after").unwrap_or_default().parse()?;
    assert!((1..=1200).contains(&wait), "{wait} s, of 1,200 between two");
    assert_eq!(refused.header("ratelimit"), Some(format!("\"by-caller\";r=0;t={wait}").as_str()));
    // gRPC is told in its own words.
    let call = Request::post("http://web.shop/caller/x").header("content-type", "application/grpc").body(Full::<Bytes>::default())?;
    let refused = http2_send(ann, call).await?;
    assert_eq!((refused.status.as_u16(), refused.header("grpc-status"), refused.header("retry-after").is_some()), (200, Some("8"), true));

    let table = mesh.lorica(["get", "rl", "-n", "shop"]).await?.success()?.stdout;
    assert!(table.contains("by-caller 3/1h Local") && table.contains("Accepted"), "{table}");
    // Without the policy nothing is limited any more.
    mesh.lorica(["delete", "rl", "web", "-n", "shop"]).await?.success()?;
    assert_eq!(passed(ann, 5, "/caller", &[]).await?, 5);
    mesh.finish().await
}

#[tokio::test]
async fn so_many_are_under_way_and_no_more() -> anyhow::Result<()> {
    let mesh = Mesh::options().without_control()?;
    let web = EchoServer::start("web").await?;
    let limits = "{targetRefs: [{kind: Gateway, name: edge}], limits: [{name: at-once, concurrent: 2, key: [{header: x-user}]}]}";
    let (proxy, at) = run_gateway(&mesh, &(edge(web.address()) + &policy("edge", limits)), &[80], &["--workers", "2"]).await?;
    // The app answers once it has the whole body, so that these stay under way.
    let begun = b"POST / HTTP/1.1\r\nhost: web.shop\r\nx-user: ann\r\ncontent-length: 4\r\n\r\nab";
    let mut open = Vec::new();
    for _ in 0..2 {
        let mut connection = Connection::open(at[0]).await?;
        connection.write(begun).await?;
        open.push(connection);
    }
    eventually("two are under way", PATIENCE, || async {
        anyhow::ensure!(web.requests() == 2, "{}", web.requests());
        Ok(())
    })
    .await?;
    let refused = ask(at[0], "/", &[("x-user", "ann")]).await?;
    assert_eq!(refused.status, 429);
    assert_eq!(refused.header("ratelimit-policy"), Some("\"at-once\";q=2;qu=\"concurrent-requests\""));
    assert_eq!(ask(at[0], "/", &[("x-user", "ben")]).await?.status, 200, "another key");
    // One ends by its answer, one by its caller.
    let mut first = open.remove(0);
    first.write(b"cd").await?;
    let answer = first.read_until(b"\r\n").await?;
    assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
    drop(open);
    let both = async || -> anyhow::Result<()> {
        let (one, two) = tokio::join!(ask(at[0], "/delay/50", &[("x-user", "ann")]), ask(at[0], "/delay/50", &[("x-user", "ann")]));
        let statuses = [one?.status.as_u16(), two?.status.as_u16()];
        anyhow::ensure!(statuses == [200, 200], "{statuses:?}");
        Ok(())
    };
    eventually("there is room for two again", PATIENCE, both).await?;
    proxy.running.stop().await?;
    mesh.finish().await
}

#[tokio::test]
async fn a_shadow_counts_and_a_refusal_costs_nothing_elsewhere() -> anyhow::Result<()> {
    let mesh = Mesh::options().without_control()?;
    let web = EchoServer::start("web").await?;
    let of_gateway = "{targetRefs: [{kind: Gateway, name: edge}], limits: [
      {name: all, requests: 4, per: 1h},
      {name: seen, requests: 1, per: 1h, mode: Shadow}]}";
    let of_route =
        "{targetRefs: [{kind: HTTPRoute, name: all}], limits: [{name: per-user, requests: 2, per: 1h, key: [{header: x-user}]}]}";
    let text = edge(web.address()) + &policy("edge", of_gateway) + &policy("route", of_route);
    // What workers count, they count together.
    let (proxy, at) = run_gateway(&mesh, &text, &[80], &["--workers", "2"]).await?;
    assert_eq!(statuses(at[0], 5, "/", &[("x-user", "ann")]).await?, [200, 200, 429, 429, 429]);
    // What the limit of the route refused took nothing of the gateway's.
    assert_eq!(statuses(at[0], 3, "/", &[("x-user", "ben")]).await?, [200, 200, 429]);
    let refused = ask(at[0], "/", &[("x-user", "cem")]).await?;
    assert_eq!((refused.status.as_u16(), refused.header("ratelimit-policy")), (429, Some("\"all\";q=4;w=3600")));
    assert_eq!(web.requests(), 4);
    let scraped = http_get(proxy.metrics, "metrics", "/metrics").await?.text();
    for line in [
        "lorica_rate_limit_requests_total{policy=\"edge.shop\",limit=\"seen\",result=\"shadowed\"}",
        "lorica_rate_limit_requests_total{policy=\"route.shop\",limit=\"per-user\",result=\"limited\"} 3",
        "lorica_rate_limit_requests_total{policy=\"edge.shop\",limit=\"all\",result=\"limited\"} 2",
        "lorica_exchanges_failed_total{reason=\"rate_limited\"} 5",
    ] {
        assert!(scraped.contains(line), "{line}\n{}", scraped.lines().filter(|line| line.contains("limit")).collect::<Vec<_>>().join("\n"));
    }
    proxy.running.stop().await?;
    mesh.finish().await
}
