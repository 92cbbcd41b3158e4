//! Policies about how calls go: their times and attempts, who takes them, and what fails on purpose.

use http::Request;
use http_body_util::Full;
use serde_json::json;
use testbed::{EchoServer, HttpConnection, Mesh, PATIENCE, eventually};

use super::{all_pass, ann, ask, examples, policy, trial};

/// `web.shop`, whose one endpoint is in the test.
async fn served(mesh: &Mesh) -> anyhow::Result<EchoServer> {
    let app = EchoServer::start("web").await?;
    mesh.apply(&testbed::service("web", "http", app.address())).await?;
    Ok(app)
}

#[tokio::test]
async fn a_traffic_policy_that_is_tried_times_repeats_refuses_and_ejects_nothing() -> anyhow::Result<()> {
    let mesh = Mesh::as_nobody().start().await?;
    let app = served(&mesh).await?;
    let (_ann, ann, _port) = ann(&mesh).await?;
    let real = "{targetRefs: [{name: web}], timeouts: {request: 120s}, retries: {attempts: 1}}";
    let strict = "{mode: Shadow, targetRefs: [{name: web}], timeouts: {request: 50ms}, retries: {attempts: 3, statusCodes: [503]}, limits: {requests: 1}, ejection: {consecutiveGatewayErrors: 2}}";
    mesh.apply(&(policy("TrafficPolicy", "real", real) + &policy("TrafficPolicy", "strict", strict))).await?;
    let effective = mesh.lorica(["get", "trafficpolicy", "--effective", "web", "-n", "shop"]).await?.success()?.stdout;
    let said = |setting: &str| effective.lines().map(str::trim).find(|line| line.starts_with(setting)).unwrap_or_default().to_owned();
    assert!(
        said("timeouts.request ").contains("TrafficPolicy real.shop") && said("retries.attempts ").contains("real.shop"),
        "{effective}"
    );
    assert!(!effective.contains("strict"), "what is tried holds nowhere: {effective}");

    let before = app.requests();
    all_pass(ann, &["/delay/200"]).await?;
    for _ in 0..2 {
        assert_eq!(ask(ann, "/status/503").await?.status, 503);
    }
    assert_eq!(app.requests() - before, 3, "nothing was sent twice");
    // One is under way while another comes.
    let mut waiting = HttpConnection::open(ann).await?;
    let request = Request::get("/delay/600000").header("host", "web.shop").body(Full::default())?;
    let under_way = tokio::spawn(async move { waiting.send(request).await.map(drop) });
    eventually("it is under way", PATIENCE, || async {
        anyhow::ensure!(app.requests() - before == 4);
        Ok(())
    })
    .await?;
    all_pass(ann, &["/beside"]).await?;
    let told = trial(&mesh, "strict", 4).await?;
    let would = |what: &str| told["would"][what].as_u64().unwrap_or_default();
    assert!(would("timed out") >= 1, "{told:#}");
    assert_eq!((would("tried again"), would("refused as too many were under way"), would("ejected")), (2, 1, 1), "{told:#}");
    let example =
        |path: &str, why: &str| examples(&told).iter().any(|(_, called, because)| called.ends_with(path) && because.contains(why));
    assert!(example("/delay/{id}", "timeouts.request: it took ") && example("/status/{id}", "answered with 503"), "{told:#}");
    assert!(example("/beside", "limits.requests: 1") && example(":80", ": consecutive_gateway"), "{told:#}");
    // Its one endpoint goes on being called.
    all_pass(ann, &["/after"]).await?;
    under_way.abort();
    let table = mesh.lorica(["get", "trafficpolicy", "-n", "shop"]).await?.success()?.stdout;
    assert!(table.lines().any(|line| line.contains("strict") && line.ends_with("Shadow")), "{table}");
    assert!(table.lines().any(|line| line.contains("real") && line.ends_with("Enforce")), "{table}");
    mesh.finish().await
}

#[tokio::test]
async fn what_cannot_be_told_without_doing_it_is_not_tried() -> anyhow::Result<()> {
    let mesh = Mesh::as_nobody().start().await?;
    let _app = served(&mesh).await?;
    let apply = async |kind: &str, spec: &str| {
        let file = mesh.write("tried.yaml", policy(kind, "tried", spec))?;
        mesh.lorica(["apply", "-f", file.to_str().unwrap_or_default()]).await
    };
    for (kind, spec, why, hint) in [
        (
            "TrafficPolicy",
            "{mode: Shadow, balancing: {algorithm: Random}}",
            "`balancing.algorithm` would change cannot be told",
            "help: try `timeouts.request`",
        ),
        ("EgressPolicy", "{mode: Shadow, default: Allow}", "this policy refuses nothing", "help: write `default: Deny`"),
        ("AuthenticationPolicy", "{mode: Shadow, mtls: {mode: Permissive}}", "this refuses nobody", "help: try `mtls: {mode: Strict}`"),
        ("FaultPolicy", "{mode: Never, ends: 2100-01-01T00:00:00Z, reset: {}}", "`Never` is no mode", "help: "),
    ] {
        let refused = apply(kind, spec).await?;
        assert_eq!(refused.code(), 1, "{refused:?}");
        assert!(refused.stderr.contains(why) && refused.stderr.contains(hint), "{}", refused.stderr);
    }
    let warned = apply("TrafficPolicy", "{mode: Shadow, timeouts: {request: 1s}, balancing: {algorithm: Random}}").await?.success()?;
    assert!(
        warned.stderr.contains("`balancing.algorithm` would change cannot be told without doing it: it is not tried"),
        "{}",
        warned.stderr
    );
    mesh.finish().await
}

#[tokio::test]
async fn faults_that_are_tried_are_met_by_nobody_and_a_name_may_need_its_kind() -> anyhow::Result<()> {
    let mesh = Mesh::as_nobody().start().await?;
    let app = served(&mesh).await?;
    let (_ann, ann, _port) = ann(&mesh).await?;
    let fault = "{mode: Shadow, ends: 2100-01-01T00:00:00Z, targetRefs: [{name: web}], delay: {fixed: 300s}, abort: {httpStatus: 418}}";
    mesh.apply(&policy("FaultPolicy", "trial", fault)).await?;
    let before = app.requests();
    all_pass(ann, &["/a", "/b", "/c"]).await?;
    assert_eq!(app.requests() - before, 3);
    let told = trial(&mesh, "trial", 3).await?;
    assert_eq!(told["would"], json!({"delayed": 3, "aborted": 3}), "{told:#}");
    assert_eq!(told["examples"][0]["would"], json!(["delayed", "aborted"]), "{told:#}");
    assert_eq!(
        examples(&told).iter().map(|(_, called, _)| called.as_str()).collect::<Vec<_>>(),
        ["web.shop.mesh:80/a", "web.shop.mesh:80/b", "web.shop.mesh:80/c"]
    );

    mesh.apply(&policy("TrafficPolicy", "trial", "{mode: Shadow, timeouts: {request: 1h}}")).await?;
    let ambiguous = mesh.lorica(["policy", "shadow", "trial", "-n", "shop"]).await?;
    assert_eq!(ambiguous.code(), 1);
    assert!(ambiguous.stderr.contains("several policies are named trial.shop: TrafficPolicy, FaultPolicy"), "{}", ambiguous.stderr);
    assert!(
        ambiguous.stderr.contains("hint: name the kind, as in `lorica policy shadow TrafficPolicy/trial -n shop`"),
        "{}",
        ambiguous.stderr
    );
    all_pass(ann, &["/a"]).await?;
    let told = trial(&mesh, "trafficpolicy/trial", 1).await?;
    assert_eq!((&told["kind"], &told["would"]), (&json!("TrafficPolicy"), &json!({})), "{told:#}");
    // A change of a policy begins its trial anew.
    mesh.apply(&policy("FaultPolicy", "trial", &fault.replace("418", "503"))).await?;
    all_pass(ann, &["/d"]).await?;
    assert_eq!(trial(&mesh, "faultpolicy/trial", 1).await?["would"], json!({"delayed": 1, "aborted": 1}));
    mesh.finish().await
}
