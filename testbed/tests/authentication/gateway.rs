//! Tokens at a gateway: for all of it, for a route, and as what rules are chosen by.

use serde_json::json;
use testbed::{Echo, EchoServer, Mesh, gateway, http_send, route, run_gateway};

use super::issuer::Issuer;
use super::{attacks, bearer, policy, request, services};

const EDGE: &str = "targetRefs: [{kind: Gateway, name: edge}]";

fn at_80() -> String {
    gateway("  - {name: http, port: 80, protocol: HTTP}\n")
}

#[tokio::test]
async fn no_attack_passes_a_gateway() -> anyhow::Result<()> {
    let mesh = Mesh::options().without_control()?;
    let (echo, issuer) = (EchoServer::start("web").await?, Issuer::new());
    let text = services(&[("web", echo.address())])
        + &at_80()
        + &route("HTTPRoute", "web", "  rules: [{backendRefs: [{name: web, port: 80}]}]\n")
        + &policy("users", &format!("{{{EDGE}, jwt: {{providers: [{}]}}}}", issuer.provider("")));
    let (_proxy, at) = run_gateway(&mesh, &text, &[80], &[]).await?;
    attacks::all_are_refused(at[0], &issuer).await?;
    mesh.finish().await
}

#[tokio::test]
async fn rules_are_chosen_by_what_tokens_say() -> anyhow::Result<()> {
    let mesh = Mesh::options().without_control()?;
    let (all, admin, open) = (EchoServer::start("all").await?, EchoServer::start("admin").await?, EchoServer::start("open").await?);
    let (issuer, other) = (Issuer::new(), Issuer::new());
    let more = ", claimsToHeaders: [{claim: role, header: x-role}, {claim: sub, header: x-user}]";
    let text = services(&[("all", all.address()), ("admin", admin.address()), ("open", open.address())])
        + &at_80()
        + &route(
            "HTTPRoute",
            "web",
            "  rules:\n  - backendRefs: [{name: all, port: 80}]\n  - matches: [{headers: [{name: x-role, value: admin}]}]\n    backendRefs: [{name: admin, port: 80}]\n",
        )
        + &route("HTTPRoute", "open", "  rules:\n  - matches: [{path: {value: /open}}]\n    backendRefs: [{name: open, port: 80}]\n")
        + &policy("users", &format!("{{{EDGE}, jwt: {{providers: [{}]}}}}", issuer.provider(more)))
        + &policy(
            "open",
            &format!("{{targetRefs: [{{kind: HTTPRoute, name: open}}], jwt: {{optional: true, providers: [{}]}}}}", other.provider("")),
        );
    let (_proxy, at) = run_gateway(&mesh, &text, &[80], &[]).await?;
    let (user, boss) = (bearer(&issuer.token(json!({}))), bearer(&issuer.token(json!({"role": "admin"}))));
    let strange = bearer(&other.token(json!({"role": "admin"})));
    for (path, fields, status, server) in [
        ("/", &[("authorization", user.as_str())][..], 200, "all"),
        ("/", &[("authorization", &boss)], 200, "admin"),
        // Whoever says itself what it is gets nowhere by it.
        ("/", &[("authorization", &user), ("x-role", "admin")], 200, "all"),
        ("/", &[("authorization", &user), ("X_Role", "admin")], 200, "all"),
        ("/", &[("authorization", &strange)], 401, ""),
        ("/", &[("x-role", "admin")], 401, ""),
        // A route's own policy holds in place of its gateway's.
        ("/open", &[], 200, "open"),
        ("/open", &[("authorization", &strange)], 200, "open"),
        ("/open", &[("authorization", &user)], 401, ""),
    ] {
        let reply = http_send(at[0], request(path, fields)?).await?;
        assert_eq!(reply.status.as_u16(), status, "{path} {fields:?}");
        if status == 200 {
            let echo: Echo = reply.json()?;
            let told = if server == "admin" { Some("admin") } else { None };
            assert_eq!((echo.server.as_str(), echo.header("x-role")), (server, told), "{path} {fields:?}");
            assert_eq!(echo.header("authorization"), None);
        }
    }
    // As many fields as a head may have, so that there is no room for claims: what a caller says of itself does not count in their place.
    let mut crowded = request("/", &[("authorization", &bearer(&issuer.token(json!({"role": "user"})))), ("x-role", "admin")])?;
    for number in 0..125 {
        crowded.headers_mut().insert(http::HeaderName::try_from(format!("x-{number}"))?, http::HeaderValue::from_static("1"));
    }
    let refused = http_send(at[0], crowded).await?;
    assert_eq!((refused.status.as_u16(), refused.header("x-lorica-reason")), (431, Some("head_too_large")));
    assert_eq!(admin.requests(), 1);
    mesh.finish().await
}

/// A script asks before it sends a token, and may read why it was refused.
#[tokio::test]
async fn scripts_ask_without_a_token_and_read_the_refusal() -> anyhow::Result<()> {
    let mesh = Mesh::options().without_control()?;
    let (echo, issuer) = (EchoServer::start("web").await?, Issuer::new());
    let cors = "filters: [{type: CORS, cors: {allowOrigins: ['https://app.example'], allowMethods: [GET], allowHeaders: [authorization]}}]";
    let text = services(&[("web", echo.address())])
        + &at_80()
        + &route("HTTPRoute", "web", &format!("  rules: [{{{cors}, backendRefs: [{{name: web, port: 80}}]}}]\n"))
        + &policy("users", &format!("{{{EDGE}, jwt: {{providers: [{}]}}}}", issuer.provider("")));
    let (_proxy, at) = run_gateway(&mesh, &text, &[80], &[]).await?;
    let origin = ("origin", "https://app.example");
    let mut asks = request("/", &[origin, ("access-control-request-method", "GET")])?;
    *asks.method_mut() = http::Method::OPTIONS;
    let asked = http_send(at[0], asks).await?;
    assert!(asked.status.is_success(), "{}", asked.status);
    let refused = http_send(at[0], request("/", &[origin])?).await?;
    assert_eq!((refused.status.as_u16(), refused.header("access-control-allow-origin")), (401, Some("https://app.example")));
    mesh.finish().await
}
