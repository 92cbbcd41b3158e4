//! The root is replaced while a host is connected: the rotation waits for its agent, and the agent gets through.

use anyhow::ensure;
use serde_json::Value;
use testbed::{Mesh, PATIENCE, eventually};

use super::{Host, path, processes, token};

/// What `lorica ca status` says, once `holds` holds of it.
async fn status(mesh: &Mesh, what: &str, holds: impl Fn(&Value) -> bool) -> anyhow::Result<Value> {
    let reached = eventually(what, PATIENCE * 3, || async {
        let status = mesh.lorica(["ca", "status", "-o", "json"]).await?.json()?;
        ensure!(holds(&status), "{status:#}");
        Ok(status)
    });
    reached.await
}

#[tokio::test]
async fn a_rotation_of_the_root_waits_for_the_agent_of_a_host_and_leaves_it_connected() -> anyhow::Result<()> {
    let mesh = processes::mesh("20s").await?;
    let host = Host::new(&mesh, "web-1").await?;
    let (file, _) = token(&mesh, "web-1", &[]).await?;
    let agent = host.agent(&mesh, &["--token-file", path(&file)?])?;
    agent.line("host web-1 joined").await?;
    let pin = async || -> anyhow::Result<String> { Ok(std::fs::read_to_string(host.state().join("lorica/host/bundle.pem"))?) };
    let before = pin().await?;

    // An agent that does not answer holds the rotation up, by name.
    agent.signal(rustix::process::Signal::STOP)?;
    mesh.lorica(["ca", "rotate"]).await?.success()?;
    let held =
        |status: &Value| status["held_up_by"].as_array().is_some_and(|held| held.iter().any(|held| held["workload"] == "host/web-1"));
    status(&mesh, "the rotation waits for the host", |status| status["phase"] == "distributing" && held(status)).await?;
    agent.signal(rustix::process::Signal::CONT)?;
    status(&mesh, "the rotation is done", |status| status["phase"] == "done").await?;
    ensure!(pin().await? != before, "the agent has the roots of before");

    // It calls the control plane by the new root, with an SVID of the new root, on connections old and new.
    let (run, _port) = host.serve(&mesh, "recording.contact")?;
    mesh.announced("recording.contact", 1).await?;
    agent.stop().await?;
    let agent = host.agent(&mesh, &[])?;
    agent.line("host web-1 is of mesh.local").await?;
    mesh.announced("recording.contact", 1).await?;
    run.stop().await?;
    agent.stop().await?;
    mesh.finish().await
}
