//! A stock Envoy holds to the same policies: what it counts by itself, and what the control plane counts for it.

use http::Request;
use http_body_util::Full;
use testbed::{EchoServer, Envoy, Mesh, PATIENCE, Port, eventually, http2_send};

use super::{ask, edge, gateway, policy, statuses};

const LIMITS: &str = "{targetRefs: [{kind: Gateway, name: edge}], limits: [
  {name: by-header, requests: 2, per: 1h, key: [{header: x-user}], match: {path: {value: /header}}},
  {name: by-path, requests: 1, per: 1h, key: [{path: true}], match: {path: {value: /path}, method: GET}},
  {name: by-source, requests: 3, per: 1h, key: [{source: Address}], match: {path: {type: Exact, value: /source}}},
  {name: seen, requests: 1, per: 1h, mode: Shadow, match: {path: {value: /seen}}},
  {name: all, scope: Global, requests: 3, per: 1h, key: [{header: x-user}], match: {path: {value: /global}}},
  {name: all-seen, scope: Global, requests: 1, per: 1h, mode: Shadow, match: {path: {value: /shadow}}}]}";

#[tokio::test]
async fn envoy_at_a_gateway_counts_as_lorica_does() -> anyhow::Result<()> {
    let mesh = Mesh::start().await?;
    let web = EchoServer::start("web").await?;
    let rules = "  rules:\n  - backendRefs: [{name: web, port: 80}]\n  - matches: [{path: {value: /header/two}}]\n    backendRefs: [{name: web, port: 80}]\n";
    mesh.apply(&(edge(web.address()) + &policy("edge", LIMITS))).await?;
    mesh.apply(&testbed::route("HTTPRoute", "all", rules)).await?;
    let Some(envoy) = Envoy::start(&mesh, &["--gateway", "edge.shop", "--bind", "80=0"]).await? else { return mesh.finish().await };
    let (lorica, other) = gateway(&mesh).await?;
    for at in [envoy.bound(80)?, other] {
        eventually("the gateway serves", PATIENCE, || async {
            let reply = ask(at, "/free", &[]).await?;
            anyhow::ensure!(reply.status == 200, "{}", reply.status);
            Ok(())
        })
        .await?;
        let user = |name| [("x-user", name)];
        // All rules of a gateway count together.
        assert_eq!(statuses(at, 1, "/header", &user("ann")).await?, [200]);
        assert_eq!(statuses(at, 2, "/header/two?x", &user("ann")).await?, [200, 429]);
        assert_eq!(statuses(at, 3, "/header", &user("ben")).await?, [200, 200, 429]);
        assert_eq!(statuses(at, 3, "/header", &[]).await?, [200, 200, 429]);
        assert_eq!((statuses(at, 2, "/path/a?b", &[]).await?, statuses(at, 2, "/path/c", &[]).await?), (vec![200, 429], vec![200, 429]));
        assert_eq!(statuses(at, 4, "/source", &[]).await?, [200, 200, 200, 429]);
        assert_eq!(statuses(at, 3, "/source/x", &[]).await?, [200; 3], "not the whole path");
        assert_eq!((statuses(at, 3, "/seen", &[]).await?, statuses(at, 3, "/shadow", &[]).await?), (vec![200; 3], vec![200; 3]));
        let refused = ask(at, "/header", &user("ann")).await?;
        assert_eq!((refused.status.as_u16(), refused.header("x-lorica-reason")), (429, Some("rate_limited")));
        let wait: u64 = refused.header("retry-after").unwrap_or_default().parse()?;
        assert!((1..=1800).contains(&wait), "{wait} s, of 1,800 between two");
        let call = Request::post("http://web.shop/header").header("content-type", "application/grpc").body(Full::default())?;
        let refused = http2_send(at, call).await?;
        assert_eq!((refused.status.as_u16(), refused.header("grpc-status")), (200, Some("8")));
    }
    // What Envoy does not do, whoever applies it is told.
    let concurrent =
        "{targetRefs: [{kind: Gateway, name: edge}], limits: [{name: at-once, concurrent: 1, match: {path: {value: /never}}}]}";
    let told = mesh.apply(&policy("more", concurrent)).await?.stderr;
    assert!(told.contains("does not hold to `at-once`: it counts nothing under way"), "{told}");
    // What the control plane counts, it counts for both.
    let user = [("x-user", "ann")];
    assert_eq!(statuses(envoy.bound(80)?, 2, "/global", &user).await?, [200, 200]);
    assert_eq!(statuses(other, 2, "/global", &user).await?, [200, 429]);
    let refused = ask(envoy.bound(80)?, "/global", &user).await?;
    assert_eq!((refused.status.as_u16(), refused.header("ratelimit-policy")), (429, Some("\"all\";q=3;w=3600")));
    assert_eq!((refused.header("x-lorica-reason"), refused.header("retry-after").is_some()), (Some("rate_limited"), true));
    envoy.refused_nothing(&mesh, &["listener_manager.lds.", "cluster_manager.cds.", ".rds."]).await?;
    envoy.running.stop().await?;
    lorica.stop().await?;
    mesh.finish().await
}

#[tokio::test]
async fn envoy_beside_an_app_counts_its_callers() -> anyhow::Result<()> {
    let mesh = Mesh::start().await?;
    let (inbound, app) = (Port::free()?, EchoServer::start("web").await?);
    let limits = "{targetRefs: [{kind: Service, name: web}], limits: [
      {name: by-caller, requests: 2, per: 1h, key: [{caller: true}], match: {path: {value: /caller}}},
      {name: all, scope: Global, requests: 2, per: 1h, match: {path: {value: /global}}}]}";
    let web = "apiVersion: lorica.io/v1alpha1\nkind: Service\nmetadata: {name: web, namespace: shop}\nspec: {ports: [{port: 80, appProtocol: http}]}\n---\n";
    mesh.apply(&(web.to_owned() + &policy("web", limits))).await?;
    let (port, address, own) = (format!("80:{}/http", app.address().port()), inbound.address().to_string(), Port::free()?);
    let upstream = format!("web.shop:80={}", own.address());
    let options = ["--service", "web.shop", "--port", &port, "--inbound", &address, "--upstream", &upstream];
    let Some(envoy) = Envoy::start(&mesh, &options).await? else { return mesh.finish().await };
    let mut callers = Vec::new();
    for account in ["ann", "ben"] {
        let port = Port::free()?;
        let upstream = format!("web.shop:80={}", port.address());
        let running = mesh.client().no_capture().upstream(&upstream).option("--account").option(account).start(["sleep", "600"])?;
        eventually("the service behind Envoy answers", PATIENCE, || async {
            let reply = ask(port.address(), "/free", &[]).await?;
            anyhow::ensure!(reply.status == 200, "{} {}", reply.status, reply.text());
            Ok(())
        })
        .await?;
        callers.push((running, port));
    }
    for (_, port) in &callers {
        assert_eq!(statuses(port.address(), 3, "/caller", &[]).await?, [200, 200, 429]);
    }
    let (ann, ben) = (callers[0].1.address(), callers[1].1.address());
    assert_eq!((statuses(ann, 1, "/global", &[]).await?, statuses(ben, 2, "/global", &[]).await?), (vec![200], vec![200, 429]));
    // A change reaches the listener that the bootstrap has.
    mesh.apply(&policy(
        "web",
        "{targetRefs: [{kind: Service, name: web}], limits: [{name: none, requests: 1, per: 1h, match: {path: {value: /new}}}]}",
    ))
    .await?;
    eventually("the new limit holds", PATIENCE, || async {
        let reply = ask(ann, "/new", &[]).await?;
        anyhow::ensure!(reply.status == 429, "{}", reply.status);
        Ok(())
    })
    .await?;
    assert_eq!(statuses(ann, 3, "/caller", &[]).await?, [200; 3]);
    envoy.refused_nothing(&mesh, &["listener_manager.lds.", ".rds."]).await?;
    envoy.running.stop().await?;
    mesh.finish().await
}
