//! Hosts that joined: their proxies attend through the host's agent, as what they are, and as nothing else.

use std::ffi::OsString;

use anyhow::{Context as _, ensure};
use lorica_model::name::{Label, Namespace};
use lorica_xds::NodeMetadata;
use lorica_xds::diagnostics::{FromProxy, Said, attend};
use testbed::{Mesh, PATIENCE, Port, app};
use tonic::transport::Endpoint;

#[tokio::test]
async fn proxies_of_a_host_attend_through_its_agent_and_only_as_themselves() -> anyhow::Result<()> {
    let mesh = Mesh::options().control_option("--listen").control_option("127.0.0.1:0").start().await?;
    let directory = mesh.home().join("web-1");
    let (state, run) = (directory.join("state"), directory.join("run"));
    mesh.start_outside("/usr/bin/mkdir", ["-p".as_ref(), state.as_os_str(), run.as_os_str()])?.output(PATIENCE).await?.success()?;
    let environment: Vec<(OsString, OsString)> =
        vec![("XDG_STATE_HOME".into(), state.into()), ("XDG_RUNTIME_DIR".into(), run.clone().into())];
    let made = mesh.lorica(["token", "create", "--host", "web-1", "--service", "back.shop", "-o", "json"]).await?.json()?;
    let token = mesh.write("web-1.token", made["token"].as_str().context("no token")?)?;
    let arguments = ["proxy".as_ref(), "--node".as_ref(), "--token-file".as_ref(), token.as_os_str()];
    let agent = mesh.start_binary("agent", arguments, environment.clone(), None)?;
    agent.line("host web-1 joined").await?;

    let port = Port::free()?;
    let serving = [mesh.program(app()?)?.into_os_string(), "http".into(), "--listen".into(), port.address().to_string().into()];
    let back = environment.iter().fold(mesh.service("back.shop"), |run, (name, value)| run.env(name, value));
    let back = back.port(&format!("80:{}/http", port.number())).no_capture().start(serving)?;
    mesh.announced("back.shop", 1).await?;
    let (local, id) = (Port::free()?, "request-of-another-host");
    let (upstream, url) = (format!("back.shop:80={}", local.address()), format!("http://{}/", local.address()));
    let field = format!("x-request-id: {id}");
    let words = ["explain", "--upstream", &upstream, "--wait", "20s", "-o", "json", "--", "curl", "-sS", "-H", &field, &url];
    let story = mesh.lorica(words).await?.success()?.json()?;
    ensure!(story["hops"][1]["side"] == "destination" && story["hops"][1]["full"] == true, "{story:#}");
    let remembered = mesh.lorica(["explain", id, "-o", "json"]).await?.success()?.json()?;
    ensure!(remembered["hops"][0]["side"] == "destination", "{remembered:#}");

    // Whoever may use the agent's socket attends as the workloads that the host's token names, and as no others.
    let socket = run.join("lorica/control.sock");
    let channel = Endpoint::from_shared(format!("unix://{}", socket.display()))?.connect().await?;
    let (said, says) = tokio::sync::mpsc::channel(1);
    let metadata = NodeMetadata::client(Namespace::new("shop")?, Label::new("billing")?);
    let node = lorica_xds::node("billing-1.shop", "0", &metadata);
    said.send(FromProxy { said: Some(Said::Node(node)) }).await?;
    let mut asked = attend(channel, says).await?;
    let refused = asked.message().await.err().context("it was not refused")?;
    ensure!(refused.code() == tonic::Code::PermissionDenied, "{refused}");
    ensure!(refused.message().contains("the host web-1 joined for back.shop"), "{refused}");
    back.stop().await?;
    agent.stop().await?;
    mesh.finish().await
}
