//! Stories: of requests that are recorded in full, and of those that proxies remember.

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use serde_json::Value;
use testbed::{PATIENCE, eventually, http_get, http_send};

use super::rig::{Shop, hops, short};

const ROUTE: &str = "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: back, namespace: shop}
spec:
  parentRefs: [{kind: Service, group: '', name: back}]
  rules:
    - matches: [{path: {type: Exact, value: /list}, method: POST}]
      backendRefs: [{name: back, port: 80}]
    - backendRefs: [{name: back, port: 80}]
";

const DENY: &str = "apiVersion: lorica.io/v1alpha1
kind: AuthorizationPolicy
metadata: {name: private, namespace: shop}
spec:
  targetRefs: [{kind: Service, name: back}]
  action: Deny
  rules:
    - name: others
      to: [{paths: [/others]}]
    - name: secrets
      to: [{paths: [/secret]}]
";

const RETRY: &str = "apiVersion: lorica.io/v1alpha1
kind: TrafficPolicy
metadata: {name: back, namespace: shop}
spec: {targetRefs: [{kind: Service, name: back}], retries: {attempts: 2, on: [GatewayError], backoff: {base: 1ms, max: 2ms}}, ejection: {mode: Disabled}}
";

const FAULT: &str = "apiVersion: lorica.io/v1alpha1
kind: FaultPolicy
metadata: {name: broken, namespace: shop}
spec:
  targetRefs: [{kind: Service, name: back}]
  ends: 2100-01-01T00:00:00Z
  match: {headers: [{name: x-test, value: faulty}]}
  abort: {httpStatus: 418}
";

#[tokio::test]
async fn every_proxy_tells_its_part_and_the_token_reaches_no_app() -> anyhow::Result<()> {
    let shop = Shop::start().await?;
    shop.mesh.write("route.yaml", ROUTE)?;
    shop.mesh.lorica(["apply", "-f", "route.yaml"]).await?.success()?;
    let output = shop.explain("front", "/list", "json", &["-H", "x-request-id: request-of-a-test"]).await?.success()?;
    // What the command says is beside the story.
    ensure!(output.stderr.contains("200 OK"), "{}", output.stderr);
    let story = output.json()?;
    assert_eq!(
        short(&story),
        ["0 curl source 200", "1 front destination 200", "2 front source 200", "3 back destination 200"],
        "{story:#}"
    );
    let hops = hops(&story);
    for hop in &hops {
        ensure!(hop["full"] == true && hop["request_id"] == "request-of-a-test", "{hop:#}");
        ensure!(hop["own_identity"].as_str().is_some_and(|id| id.starts_with("spiffe://mesh.local/ns/")), "{hop:#}");
        ensure!(hop["steps"].as_array().is_some_and(|steps| steps.len() >= 4), "{hop:#}");
        ensure!(hop["attempts"][0]["status"] == 200, "{hop:#}");
    }
    // Which rules there were, in which file, and why one of them was not taken.
    let call = hops[2];
    assert_eq!(call["candidates"][0]["why_not"], "another method than POST", "{call:#}");
    assert_eq!(call["candidates"][1]["by"]["path"], "spec.rules[1]", "{call:#}");
    assert_eq!(call["rule"]["file"], "route.yaml:3", "{call:#}");
    // Who could have been asked, who was, and who that proved to be.
    let attempt = &call["attempts"][0];
    assert_eq!(attempt["endpoints"][0]["picked"], true, "{call:#}");
    ensure!(attempt["endpoints"][0]["score"].is_number(), "{call:#}");
    assert_eq!(attempt["identity"], "spiffe://mesh.local/ns/shop/sa/back", "{call:#}");
    assert_eq!(hops[3]["caller"]["principal"], "spiffe://mesh.local/ns/shop/sa/front", "{story:#}");
    assert_eq!(hops[3]["security"], "mutual_tls", "{story:#}");
    for app in [&shop.front, &shop.back] {
        assert_eq!(app.saw("x-request-id"), ["request-of-a-test"]);
        assert_eq!(app.saw("x-lorica-explain"), [""; 0]);
    }
    // The same is remembered: less of it, and by all whose proxies still live.
    let remembered = shop.mesh.lorica(["explain", "request-of-a-test", "-o", "json"]).await?.success()?.json()?;
    assert_eq!(short(&remembered), ["0 front destination 200", "1 front source 200", "2 back destination 200"], "{remembered:#}");
    let call = &remembered["hops"][1];
    ensure!(call["full"] == false && call["rule"]["name"] == "back" && call["attempts"][0]["status"] == 200, "{call:#}");
    let told = shop.mesh.lorica(["explain", "request-of-a-test"]).await?.success()?.stdout;
    ensure!(told.contains("is called front.shop.mesh → 200") && told.contains("route.yaml:3"), "{told}");
    let unknown = shop.mesh.lorica(["explain", "no-such-request"]).await?;
    ensure!(unknown.code() == 1 && unknown.stderr.contains("no proxy remembers"), "{unknown:?}");
    shop.finish().await
}

#[tokio::test]
async fn retries_denials_and_faults_say_who_decided() -> anyhow::Result<()> {
    let shop = Shop::start().await?;
    shop.mesh.apply(&[ROUTE, DENY, RETRY, FAULT].join("---\n")).await?;
    // An answer that was given up for another.
    shop.back.statuses.lock().unwrap().push_back(503);
    let story = shop.explain("back", "/again", "json", &[]).await?.success()?.json()?;
    assert_eq!(short(&story), ["0 curl source 200", "1 back destination 503", "1 back destination 200"], "{story:#}");
    let attempts = story["hops"][0]["attempts"].as_array().context("there are attempts")?;
    assert_eq!(attempts.iter().map(|attempt| attempt["status"].as_u64()).collect::<Vec<_>>(), [Some(503), Some(200)], "{story:#}");
    ensure!(attempts[1]["endpoints"].as_array().is_some_and(|seen| !seen.is_empty()), "{story:#}");

    // A denial, by the callee's proxy, with all that its policies say.
    let story = shop.explain("back", "/secret", "json", &[]).await?.success()?.json()?;
    assert_eq!(short(&story), ["0 curl source 403", "1 back destination 403"], "{story:#}");
    let denied = &story["hops"][1];
    assert_eq!(denied["reason"], "access_denied", "{denied:#}");
    let decision = &denied["policies"][0];
    assert_eq!((&decision["said"], &decision["rule"]), (&"denies it".into(), &"secrets".into()), "{denied:#}");
    assert_eq!(decision["by"]["path"], "spec.rules[1]", "{denied:#}");
    ensure!(denied["detail"].as_str().is_some_and(|why| why.contains("private.shop")), "{denied:#}");
    // The same, as it is remembered and read by people.
    let id = denied["request_id"].as_str().context("an id")?.to_owned();
    let told = shop.mesh.lorica(["explain", &id]).await?.success()?.stdout;
    ensure!(told.contains("AuthorizationPolicy/private.shop spec.rules[1]") && told.contains("denies it by its rule secrets"), "{told}");

    // A fault, made by the caller's proxy: nobody is asked.
    let story = shop.explain("back", "/faulty", "json", &["-H", "x-test: faulty"]).await?.success()?.json()?;
    assert_eq!(short(&story), ["0 curl source 418"], "{story:#}");
    let met = &story["hops"][0];
    assert_eq!((&met["reason"], &met["policies"][0]["by"]["kind"]), (&"fault_injected".into(), &"FaultPolicy".into()), "{met:#}");
    shop.finish().await
}

#[tokio::test]
async fn a_false_token_is_taken_away_and_counted() -> anyhow::Result<()> {
    let mut shop = Shop::start().await?;
    shop.client().await?;
    for (token, name) in [("nonsense", "x-lorica-explain"), ("a.b.c.d.e", "X-Lorica-Explain")] {
        let request = Request::get("/").header("host", "front.shop").header(name, token).body(Full::<Bytes>::default())?;
        assert_eq!(http_send(shop.to_front.address(), request).await?.status, 200);
    }
    assert_eq!((shop.front.saw("x-lorica-explain"), shop.back.saw("x-lorica-explain")), (Vec::new(), Vec::new()));
    let status = shop.mesh.status().await?;
    let clients = status["proxies"].as_array().context("proxies")?.iter().filter(|proxy| proxy["service"].is_null());
    let metrics: Vec<&str> = clients.filter_map(|proxy| proxy["metrics"].as_str()).collect();
    let [metrics] = metrics.as_slice() else { anyhow::bail!("one client tells where its metrics are: {status:#}") };
    eventually("they are counted", PATIENCE, || async {
        let text = http_get(metrics.parse()?, "proxy", "/metrics").await?.text();
        ensure!(text.contains("lorica_explain_tokens_refused_total{why=\"false\"} 2"), "{text}");
        Ok(())
    })
    .await?;
    shop.finish().await
}

#[tokio::test]
async fn a_command_that_calls_nobody_has_no_story() -> anyhow::Result<()> {
    let shop = Shop::start().await?;
    let upstream = format!("back.shop:80={}", shop.to_back.address());
    let arguments = ["explain", "--upstream", &upstream, "--wait", "10ms", "--", "sh", "-c", "exit 0"];
    let output = shop.mesh.lorica(arguments).await?;
    ensure!(output.code() == 3 && output.stderr.contains("no proxy has told of a request"), "{output:?}");
    // The exit code of a command that failed is its own.
    let arguments = ["explain", "--upstream", &upstream, "--wait", "10ms", "-o", "json", "--", "sh", "-c", "exit 7"];
    let output = shop.mesh.lorica(arguments).await?;
    let story: Value = serde_json::from_str(&output.stdout)?;
    ensure!(output.code() == 7 && hops(&story).is_empty(), "{output:?}");
    shop.finish().await
}
