//! The same attacks beside a stock Envoy under the same control plane.

use serde_json::json;
use testbed::{Echo, EchoServer, Envoy, Mesh, PATIENCE, eventually, gateway, http_send, route};

use super::attacks;
use super::issuer::Issuer;
use super::{bearer, policy, request, services};

/// Where an Envoy takes what Lorica's proxy refuses: its parser takes the last of a member that is there twice; it knows no extension of a
/// head and passes `crit` over; it looks at no `iss` where there is none.
const ENVOY_TAKES: [&str; 2] = ["a critical extension", "too long"];

#[tokio::test]
async fn an_envoy_refuses_what_we_refuse() -> anyhow::Result<()> {
    let mesh = Mesh::as_nobody().start().await?;
    let (echo, admin, issuer) = (EchoServer::start("web").await?, EchoServer::start("admin").await?, Issuer::new());
    let Some(envoy) = Envoy::start(&mesh, &["--gateway", "edge.shop", "--bind", "80=0"]).await? else { return mesh.finish().await };
    let more = ", claimsToHeaders: [{claim: role, header: x-role}]";
    let text = services(&[("web", echo.address()), ("admin", admin.address())])
        + &gateway("  - {name: http, port: 80, protocol: HTTP}\n")
        + &route(
            "HTTPRoute",
            "web",
            "  rules:\n  - backendRefs: [{name: web, port: 80}]\n  - matches: [{headers: [{name: x-role, value: admin}]}]\n    backendRefs: [{name: admin, port: 80}]\n",
        )
        + &policy("users", &format!("{{targetRefs: [{{kind: Gateway, name: edge}}], jwt: {{providers: [{}]}}}}", issuer.provider(more)));
    mesh.apply(&text).await?;
    let at = envoy.bound(80)?;
    let good = bearer(&issuer.token(json!({})));
    eventually("the Envoy serves", PATIENCE, || async {
        let reply = http_send(at, request("/", &[("authorization", &good)])?).await?;
        anyhow::ensure!(reply.status == 200, "{} {}", reply.status, reply.text());
        Ok(())
    })
    .await?;
    let (mut takes, mut refuses) = (Vec::new(), Vec::new());
    for attack in attacks::all(&issuer, &Issuer::new()) {
        match (attacks::tried(at, &attack).await?.0, attack.reason) {
            (200, Some(_)) => takes.push(attack.name),
            (401, None) => refuses.push(attack.name),
            (200, None) | (401, Some(_)) => {}
            // To Envoy such a token is a good one, which does not open this door.
            (403, Some(_)) if matches!(attack.name, "for another audience" | "for no audience") => {}
            (status, _) => panic!("{}: {status}", attack.name),
        }
    }
    assert_eq!((takes.as_slice(), refuses.as_slice()), (&ENVOY_TAKES[..], &[][..]));
    let boss = bearer(&issuer.token(json!({"role": "admin"})));
    for (fields, server) in [
        (&[("authorization", good.as_str())][..], "web"),
        (&[("authorization", &boss)], "admin"),
        (&[("authorization", &good), ("x-role", "admin")], "web"),
    ] {
        let reply = http_send(at, request("/", fields)?).await?;
        let echo: Echo = reply.json()?;
        assert_eq!((echo.server.as_str(), echo.header("authorization")), (server, None), "{fields:?}");
    }
    mesh.finish().await
}
