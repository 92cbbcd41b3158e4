//! Policies about who calls, and how often: tokens, mutual TLS, rate limits, access; at workloads and at a gateway.

use serde_json::json;
use testbed::{EchoServer, Mesh, PATIENCE, eventually};

use super::{all_pass, ann, ask, examples, policy, trial, web};

const ANN: &str = "spiffe://mesh.local/ns/shop/sa/ann";
/// A public key that signs nothing here (RFC 7517, A.1).
const KEYS: &str = r#"{"keys":[{"kty":"EC","crv":"P-256","x":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4","y":"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM","kid":"1"}]}"#;

#[tokio::test]
async fn tokens_that_are_asked_for_in_a_trial_refuse_nobody() -> anyhow::Result<()> {
    let mesh = Mesh::as_nobody().start().await?;
    let (_web, _listens) = web(&mesh).await?;
    let (_ann, ann, _port) = ann(&mesh).await?;
    let spec = format!(
        "{{mode: Shadow, targetRefs: [{{name: web}}], jwt: {{providers: [{{name: login, issuer: 'https://login.example', audiences: [shop], jwks: {{inline: '{KEYS}'}}, claimsToHeaders: [{{claim: sub, header: x-user}}]}}]}}}}"
    );
    mesh.apply(&policy("AuthenticationPolicy", "users", &spec)).await?;
    all_pass(ann, &["/a", "/a"]).await?;
    let told = trial(&mesh, "users", 2).await?;
    assert_eq!(told["would"], json!({"refused": 2}), "{told:#}");
    assert_eq!(examples(&told), [(ANN.to_owned(), "web.shop.mesh:80/a".to_owned(), "no token".to_owned())]);
    let text = mesh.lorica(["policy", "shadow", "authn/users", "-n", "shop"]).await?.success()?.stdout;
    assert!(text.starts_with("users.shop: would have refused 2 of 2 calls since "), "{text}");
    assert!(text.contains(&format!("GET /a  by {ANN}  (no token)")), "{text}");
    let table = mesh.lorica(["get", "authn", "-n", "shop"]).await?.success()?.stdout;
    assert!(table.contains("Shadow"), "{table}");
    mesh.finish().await
}

#[tokio::test]
async fn mutual_tls_that_is_asked_for_in_a_trial_refuses_no_plaintext() -> anyhow::Result<()> {
    let mesh = Mesh::as_nobody().start().await?;
    let (_web, _listens) = web(&mesh).await?;
    let (_ann, ann, _port) = ann(&mesh).await?;
    let strict = policy("AuthenticationPolicy", "strict", "{mode: Shadow, targetRefs: [{name: web}], mtls: {mode: Strict}}");
    mesh.apply(&(policy("AuthenticationPolicy", "moving", "{mtls: {mode: Permissive}}") + &strict)).await?;
    let status = mesh.status().await?;
    let proxy = status["proxies"].as_array().and_then(|proxies| proxies.iter().find(|proxy| proxy["service"] == "web.shop")).cloned();
    let inbound = proxy.and_then(|proxy| proxy["ports"][0]["address"].as_str()?.parse().ok());
    let inbound = inbound.ok_or_else(|| anyhow::anyhow!("no port of web.shop: {status:#}"))?;
    all_pass(ann, &["/a"]).await?;
    all_pass(inbound, &["/b"]).await?;
    let told = trial(&mesh, "strict", 2).await?;
    assert_eq!(told["would"], json!({"refused": 1}), "who proves an identity would pass: {told:#}");
    assert_eq!(examples(&told), [("127.0.0.1".to_owned(), "web.shop.mesh:80/b".to_owned(), "it sends plaintext".to_owned())]);
    mesh.finish().await
}

#[tokio::test]
async fn limits_that_are_tried_let_all_through_whoever_counts() -> anyhow::Result<()> {
    let mesh = Mesh::as_nobody().start().await?;
    let (_web, _listens) = web(&mesh).await?;
    let (_ann, ann, _port) = ann(&mesh).await?;
    let here = "{mode: Shadow, limits: [{name: few, requests: 1, per: 1h, match: {path: {value: /here}}}, {name: more, requests: 3, per: 1h, match: {path: {value: /here}}}]}";
    let everywhere = "{mode: Shadow, limits: [{name: all, scope: Global, requests: 2, per: 1h, match: {path: {value: /everywhere}}}]}";
    mesh.apply(&(policy("RateLimitPolicy", "here", here) + &policy("RateLimitPolicy", "everywhere", everywhere))).await?;
    all_pass(ann, &["/here"; 5]).await?;
    all_pass(ann, &["/everywhere"; 3]).await?;
    let told = trial(&mesh, "here", 5).await?;
    assert_eq!(told["would"], json!({"limited": 4}), "a request is one call, however many limits it is past: {told:#}");
    let called = "web.shop.mesh:80/here".to_owned();
    assert_eq!(examples(&told).len(), 1, "{told:#}");
    assert!(examples(&told)[0].1 == called && examples(&told)[0].2.contains("past few"), "{told:#}");
    let told = trial(&mesh, "everywhere", 3).await?;
    assert_eq!(told["would"], json!({"limited": 1}), "{told:#}");
    assert_eq!(examples(&told), [(ANN.to_owned(), "web.shop.mesh:80/everywhere".to_owned(), "past all".to_owned())]);
    mesh.finish().await
}

#[tokio::test]
async fn a_gateway_tells_of_its_trials_too() -> anyhow::Result<()> {
    let mesh = Mesh::as_nobody().start().await?;
    let app = EchoServer::start("web").await?;
    let edge = testbed::service("web", "http", app.address())
        + &testbed::gateway("  - {name: http, port: 80, protocol: HTTP}\n")
        + &testbed::route("HTTPRoute", "all", "  rules: [{backendRefs: [{name: web, port: 80}]}]\n");
    mesh.apply(&edge).await?;
    let running = mesh.start_binary("a gateway", ["proxy", "--gateway", "edge.shop", "--bind", "80=0"], Vec::new(), None)?;
    let line = running.line("serving: port 80 on ").await?;
    let at = line.rsplit(" on ").next().unwrap_or_default().parse()?;
    eventually("the gateway serves", PATIENCE, || async {
        anyhow::ensure!(ask(at, "/first").await?.status == 200);
        Ok(())
    })
    .await?;
    let target = "targetRefs: [{kind: Gateway, name: edge}]";
    let denies = policy("AuthorizationPolicy", "nobody", &format!("{{mode: Shadow, {target}, action: Deny, rules: [{{name: all}}]}}"));
    let limits = policy("RateLimitPolicy", "few", &format!("{{mode: Shadow, {target}, limits: [{{name: one, requests: 1, per: 1h}}]}}"));
    mesh.apply(&(denies + &limits)).await?;
    all_pass(at, &["/a", "/a"]).await?;
    let example = |why: &str| [("127.0.0.1".to_owned(), "edge.shop:80/a".to_owned(), why.to_owned())];
    let told = trial(&mesh, "nobody", 2).await?;
    assert_eq!((&told["would"], examples(&told).as_slice()), (&json!({"denied": 2}), &example("the rule all")[..]), "{told:#}");
    let told = trial(&mesh, "few", 2).await?;
    assert_eq!((&told["would"], examples(&told).as_slice()), (&json!({"limited": 1}), &example("past one")[..]), "{told:#}");
    mesh.finish().await
}
