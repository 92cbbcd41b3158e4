//! Tokens at a service's workloads.

use ::bytes::Bytes;
use http::Request;
use http_body_util::Full;
use serde_json::json;
use testbed::{Echo, EchoServer, Mesh, Proxy, http_get, http_send, http2_send};

use super::attacks;
use super::issuer::Issuer;
use super::{bearer, policy, request, services};

/// A proxy beside `echo`, the app of `web.shop`, that takes plaintext, under these policies.
pub(super) async fn beside(mesh: &Mesh, echo: &EchoServer, policies: &str) -> anyhow::Result<Proxy> {
    let open = policy("open", "{mtls: {mode: Permissive}}");
    mesh.write("mesh.yaml", services(&[("web", echo.address())]) + &open + policies)?;
    let port = echo.address().port();
    let (port, inbound) = (format!("80:{port}/http"), format!("{port}=127.0.0.1:0"));
    Proxy::start(mesh, ["--config", "mesh.yaml", "--service", "web.shop", "--port", &port, "--inbound", &inbound]).await
}

#[tokio::test]
async fn no_attack_reaches_the_app() -> anyhow::Result<()> {
    let mesh = Mesh::options().without_control()?;
    let (echo, issuer) = (EchoServer::start("web").await?, Issuer::new());
    let text = policy("users", &format!("{{targetRefs: [{{name: web}}], jwt: {{providers: [{}]}}}}", issuer.provider("")));
    let proxy = beside(&mesh, &echo, &text).await?;
    attacks::all_are_refused(proxy.address(), &issuer).await?;
    let let_in = attacks::all(&issuer, &Issuer::new()).iter().filter(|attack| attack.reason.is_none()).count();
    assert_eq!(echo.requests(), let_in as u64, "of all that was tried, the app saw what is good");
    let call = Request::post("http://shop.example/a.B/C").header("content-type", "application/grpc").body(Full::<Bytes>::default())?;
    let refused = http2_send(proxy.address(), call).await?;
    assert_eq!((refused.status.as_u16(), refused.header("grpc-status")), (200, Some("16")));
    mesh.finish().await
}

#[tokio::test]
async fn the_app_sees_what_the_token_says_and_nothing_that_a_caller_makes_up() -> anyhow::Result<()> {
    let mesh = Mesh::options().without_control()?;
    let (echo, issuer) = (EchoServer::start("web").await?, Issuer::new());
    let more = ", from: [{header: authorization}, {cookie: session}, {query: token}], claimsToHeaders: [{claim: sub, header: X-User}, {claim: realm_access.roles, header: x-roles}, {claim: bad, header: x-bad}]";
    let text = policy("users", &format!("{{jwt: {{optional: true, providers: [{}]}}}}", issuer.provider(more)));
    let proxy = beside(&mesh, &echo, &text).await?;
    let token = issuer.token(json!({"bad": "a\r\nx-admin: yes"}));
    let made_up = [("x-user", "root"), ("X_User", "root"), ("x-roles", "admin"), ("x-bad", "root")];
    let seen = async |path: &str, fields: &[(&str, &str)]| -> anyhow::Result<Echo> {
        let reply = http_send(proxy.address(), request(path, fields)?).await?;
        anyhow::ensure!(reply.status == 200, "{} {}", reply.status, reply.text());
        reply.json()
    };
    let authorization = bearer(&token);
    for (path, at, left) in [
        ("/a?x=1", ("authorization", authorization.as_str()), "/a?x=1"),
        ("/a?x=1", ("cookie", &format!("a=1; session={token}")), "/a?x=1"),
        (&format!("/a?token={token}&x=1"), ("x-other", "1"), "/a?x=1"),
    ] {
        let echo = seen(path, &[&[at][..], &made_up[..]].concat()).await?;
        let all = |name: &str| echo.headers.iter().filter(|(known, _)| known.replace('_', "-").eq_ignore_ascii_case(name)).count();
        assert_eq!((echo.header("x-user"), all("x-user")), (Some("ada"), 1), "{at:?}");
        assert_eq!((echo.header("x-roles"), echo.header("x-bad"), echo.header("x-admin")), (Some("reader,writer"), None, None));
        assert_eq!(echo.path, left);
        assert!(!format!("{:?}", echo.headers).contains(&token), "the token goes no further: {:?}", echo.headers);
    }
    // Nobody is somebody else by leaving the token out.
    let anonymous = seen("/", &made_up).await?;
    assert_eq!((anonymous.header("x-user"), anonymous.header("x-roles")), (None, None));
    // A wrong token is refused all the same, and so are two good ones in two places.
    let refused = http_send(proxy.address(), request("/", &[("authorization", "Bearer x")])?).await?;
    assert_eq!(refused.status, 401);
    let two = http_send(proxy.address(), request(&format!("/?token={token}"), &[("authorization", &authorization)])?).await?;
    assert_eq!((two.status.as_u16(), two.header("x-lorica-reason")), (401, Some("token_invalid")));
    let metrics = http_get(proxy.metrics, "proxy", "/metrics").await?.text();
    for (verdict, times) in [("accepted", 3), ("remembered", 2), ("anonymous", 1), ("missing", 0), ("refused", 2), ("would_refuse", 0)] {
        let line = format!("lorica_authentication_verdicts_total{{policy=\"users.shop\",verdict=\"{verdict}\"}} {times}\n");
        assert!(metrics.contains(&line), "{line}{metrics}");
    }
    mesh.finish().await
}

#[tokio::test]
async fn a_trial_refuses_nothing_and_counts() -> anyhow::Result<()> {
    let mesh = Mesh::options().without_control()?;
    let (echo, issuer) = (EchoServer::start("web").await?, Issuer::new());
    let text = policy("trial", &format!("{{mode: Shadow, jwt: {{providers: [{}]}}}}", issuer.provider("")));
    let proxy = beside(&mesh, &echo, &text).await?;
    let good = bearer(&issuer.token(json!({})));
    for fields in [&[][..], &[("authorization", "Bearer x")], &[("authorization", &good)]] {
        let reply = http_send(proxy.address(), request("/", fields)?).await?;
        assert_eq!(reply.status, 200);
        let seen: Echo = reply.json()?;
        assert_eq!(seen.header("authorization"), fields.first().map(|(_, value)| *value), "a trial takes nothing away");
    }
    let metrics = http_get(proxy.metrics, "proxy", "/metrics").await?.text();
    assert!(metrics.contains("{policy=\"trial.shop\",verdict=\"would_refuse\"} 2\n"), "{metrics}");
    mesh.finish().await
}

#[tokio::test]
async fn limits_count_by_what_tokens_say() -> anyhow::Result<()> {
    let mesh = Mesh::options().without_control()?;
    let (echo, issuer) = (EchoServer::start("web").await?, Issuer::new());
    let text = policy("users", &format!("{{targetRefs: [{{name: web}}], jwt: {{providers: [{}]}}}}", issuer.provider("")))
        + "---\napiVersion: lorica.io/v1alpha1\nkind: RateLimitPolicy\nmetadata: {name: users, namespace: shop}\nspec: {targetRefs: [{name: web}], limits: [{name: each, requests: 2, per: 1h, key: [{claim: sub}]}]}\n";
    let proxy = beside(&mesh, &echo, &text).await?;
    let ask = async |user: &str| -> anyhow::Result<u16> {
        // Another token each time: the claim counts.
        let token = bearer(&issuer.token(json!({"sub": user, "jti": fastrand::u64(..).to_string()})));
        Ok(http_send(proxy.address(), request("/", &[("authorization", &token)])?).await?.status.as_u16())
    };
    for (user, status) in [("ada", 200), ("ada", 200), ("ada", 429), ("ben", 200), ("ben", 200), ("ben", 429)] {
        assert_eq!(ask(user).await?, status, "{user}");
    }
    mesh.finish().await
}
