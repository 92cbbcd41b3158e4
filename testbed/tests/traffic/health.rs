//! Health checks of the three kinds, through mutual TLS.

use testbed::{Mesh, PATIENCE, Proxy, TcpEcho, eventually};

use super::app::{App, HEALTH};
use super::rig::{Identities, ask, callee, caller, metric, resources, until};

/// Two apps with a proxy each, and the proxy of a caller who has them checked.
struct Rig {
    mesh: Mesh,
    apps: [App; 2],
    callees: Vec<Proxy>,
    caller: Proxy,
}

const OFTEN: &str = "interval: 500ms, timeout: 500ms, unhealthyThreshold: 2, healthyThreshold: 1";

impl Rig {
    async fn start(protocol: &str, transport: &str, question: &str) -> anyhow::Result<Self> {
        let (mesh, identities) = (Mesh::options().env("LORICA_LOG", "lorica_proxy=info").without_control()?, Identities::new()?);
        ["web", "cart"].iter().try_for_each(|account| identities.give(&mesh, account))?;
        let apps = [App::start("first").await?, App::start("second").await?];
        let mut callees = Vec::new();
        for app in &apps {
            callees.push(callee(&mesh, app.address(), protocol).await?);
        }
        let endpoints: Vec<_> = callees.iter().map(|callee| (callee.address(), transport)).collect();
        let policy = format!("healthCheck: {{{question}, {OFTEN}}}, balancing: {{algorithm: RoundRobin}}");
        let text = resources(protocol, &endpoints, &policy);
        let caller = caller(&mesh, &text, &["--identity", "cart", "--workers", "2", "--access-log", "off"]).await?;
        Ok(Self { mesh, apps, callees, caller })
    }

    /// Waits until so many endpoints are left out.
    async fn left_out(&self, expected: usize) -> anyhow::Result<()> {
        let is_out = |endpoint: &&serde_json::Value| endpoint["leftOut"] == serde_json::json!(["health_check"]);
        until(&self.caller, "so many are left out", |status| {
            status["endpoints"].as_array().is_some_and(|endpoints| endpoints.iter().filter(is_out).count() == expected)
        })
        .await
    }

    /// Who answers.
    async fn who(&self) -> anyhow::Result<Vec<String>> {
        let mut names = Vec::new();
        for _ in 0..20 {
            let reply = ask(&self.caller).await?;
            anyhow::ensure!(reply.status == 200, "{} {}", reply.status, reply.text());
            names.push(reply.text());
        }
        names.sort();
        names.dedup();
        Ok(names)
    }
}

async fn goes_and_comes(rig: Rig) -> anyhow::Result<()> {
    rig.left_out(0).await?;
    assert_eq!(rig.who().await?, ["first", "second"]);
    rig.apps[1].be_well(503);
    rig.left_out(1).await?;
    assert_eq!(rig.who().await?, ["first"]);
    assert_eq!(metric(&rig.caller, "lorica_endpoints_left_out{reason=\"health_check\"}").await?, 1);
    rig.caller.running.line("its health checks fail").await?;
    rig.apps[1].be_well(200);
    rig.left_out(0).await?;
    rig.caller.running.line("its health checks go well").await?;
    assert_eq!(rig.who().await?, ["first", "second"]);
    assert!(metric(&rig.caller, "lorica_health_checks_total{result=\"failed\"}").await? >= 2);
    drop(rig.callees);
    rig.mesh.finish().await
}

#[tokio::test]
async fn endpoints_are_asked_by_http() -> anyhow::Result<()> {
    for transport in ["MutualTls", "Lorica"] {
        goes_and_comes(Rig::start("http", transport, &format!("http: {{path: {HEALTH}}}")).await?).await?;
    }
    Ok(())
}

#[tokio::test]
async fn endpoints_are_asked_by_grpc() -> anyhow::Result<()> {
    goes_and_comes(Rig::start("grpc", "Lorica", "grpc: {}").await?).await
}

#[tokio::test]
async fn endpoints_are_asked_by_tcp() -> anyhow::Result<()> {
    for transport in ["MutualTls", "Lorica"] {
        let (mesh, identities) = (Mesh::options().env("LORICA_LOG", "lorica_proxy=info").without_control()?, Identities::new()?);
        ["web", "cart"].iter().try_for_each(|account| identities.give(&mesh, account))?;
        let (silent, gone) = (TcpEcho::start("").await?, TcpEcho::start("").await?);
        let callees = [callee(&mesh, silent.address(), "tcp").await?, callee(&mesh, gone.address(), "tcp").await?];
        let endpoints: Vec<_> = callees.iter().map(|callee| (callee.address(), transport)).collect();
        let policy = "healthCheck: {tcp: {}, interval: 500ms, timeout: 500ms}";
        let caller = caller(&mesh, &resources("tcp", &endpoints, policy), &["--identity", "cart", "--access-log", "off"]).await?;
        let out = |status: &serde_json::Value| -> Vec<String> {
            let endpoints = status["endpoints"].as_array().cloned().unwrap_or_default();
            let is_out = |endpoint: &&serde_json::Value| endpoint["leftOut"] != serde_json::json!([]);
            endpoints.iter().filter(is_out).filter_map(|endpoint| endpoint["address"].as_str().map(str::to_owned)).collect()
        };
        until(&caller, "both are well", |status| out(status).is_empty()).await?;
        // The proxy beside it still takes connections.
        drop(gone);
        until(&caller, "one is left out", |status| out(status) == [callees[1].address().to_string()]).await?;
        for _ in 0..20 {
            assert_eq!(testbed::send_raw(caller.address(), b"hello").await?, b"hello");
        }
        mesh.finish().await?;
    }
    Ok(())
}

#[tokio::test]
async fn checks_end_with_the_policy_and_one_worker_makes_them() -> anyhow::Result<()> {
    let rig = Rig::start("http", "MutualTls", &format!("http: {{path: {HEALTH}}}")).await?;
    rig.left_out(0).await?;
    let endpoints: Vec<_> = rig.callees.iter().map(|callee| (callee.address(), "MutualTls")).collect();
    rig.apps[1].be_well(500);
    rig.left_out(1).await?;
    rig.mesh.write("mesh.yaml", resources("http", &endpoints, "balancing: {algorithm: RoundRobin}"))?;
    rig.caller.running.signal(rustix::process::Signal::HUP)?;
    rig.left_out(0).await?;
    assert_eq!(rig.who().await?, ["first", "second"]);
    // What was under way may still arrive; after that none does.
    let counts = || (rig.apps[0].checks(), rig.apps[1].checks());
    eventually("no check comes", PATIENCE, || async {
        let before = counts();
        tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
        anyhow::ensure!(counts() == before);
        Ok(())
    })
    .await?;
    drop(rig.callees);
    rig.mesh.finish().await
}
