//! Two hosts with networks of their own and a cable between them: nothing of one's loopback is the other's.

use std::ffi::{OsStr, OsString};

use anyhow::{Context as _, ensure};
use testbed::{Mesh, PATIENCE, Peer, Running, Who, app, can_namespaces, left_out, lorica, peer};

use super::{Host, path};

/// Makes a network and stays, so that others can enter it.
const NETWORK: &str = "ip link set lo up && echo ready && exec sleep infinity";

/// A host's network.
struct Network(Running);

impl Network {
    fn words(&self) -> Vec<OsString> {
        let target = format!("--target={}", self.0.pid());
        ["--preserve-credentials", "--user", "--net", "--mount", &target, "--"].map(OsString::from).to_vec()
    }

    fn start(&self, mesh: &Mesh, words: impl IntoIterator<Item = impl AsRef<OsStr>>) -> anyhow::Result<Running> {
        mesh.start_outside("/usr/bin/nsenter", self.words().into_iter().chain(words.into_iter().map(|word| word.as_ref().to_owned())))
    }

    async fn does(&self, mesh: &Mesh, script: &str) -> anyhow::Result<()> {
        self.start(mesh, ["sh", "-ec", script])?.output(PATIENCE).await?.success().map(drop)
    }
}

/// Two networks; the first is 10.77.0.1, the second 10.77.0.2. None: they cannot be had here, which is said.
async fn cabled(mesh: &Mesh) -> anyhow::Result<Option<(Network, Network)>> {
    if let Err(why) = can_namespaces(Who::Me).and_then(|()| peer(Peer::Curl).map(drop)) {
        left_out(&format!("two hosts with networks of their own: {why}"));
        return Ok(None);
    }
    let first = Network(mesh.start_outside("/usr/bin/unshare", ["-Urnm", "sh", "-c", NETWORK])?);
    if first.0.line("ready").await.is_err() {
        left_out(&format!("two hosts with networks of their own: {}", first.0.stderr()));
        return Ok(None);
    }
    let second = Network(first.start(mesh, ["unshare", "-n", "sh", "-c", NETWORK])?);
    second.0.line("ready").await?;
    let cable = format!("ip link add cable type veth peer name cable netns {}", second.0.pid());
    if let Err(error) = first.does(mesh, &cable).await {
        left_out(&format!("two hosts with networks of their own: {error:#}"));
        return Ok(None);
    }
    for (network, address) in [(&first, "10.77.0.1"), (&second, "10.77.0.2")] {
        network.does(mesh, &format!("ip address add {address}/24 dev cable && ip link set cable up")).await?;
    }
    Ok(Some((first, second)))
}

fn words(words: &[&str]) -> Vec<OsString> {
    words.iter().map(OsString::from).collect()
}

#[tokio::test]
async fn workloads_of_two_hosts_call_each_other() -> anyhow::Result<()> {
    let mesh = Mesh::options().without_control()?;
    let Some((here, there)) = cabled(&mesh).await? else { return mesh.finish().await };
    let binary = mesh.program(lorica()?)?.into_os_string();
    let app = mesh.program(app()?)?.into_os_string();
    let serving = |name: &str| [app.clone(), "http".into(), "--listen".into(), "127.0.0.1:8080".into(), "--name".into(), name.into()];
    let control = here.start(&mesh, [vec![binary.clone()], words(&["control", "--listen", "10.77.0.1:15012"])].concat())?;
    control.line("hosts join on 10.77.0.1:15012").await?;

    let host = Host::new(&mesh, "web-1").await?;
    let made = mesh.lorica(["token", "create", "--host", "web-1", "-o", "json"]).await?.json()?;
    let file = mesh.write("web-1.token", made["token"].as_str().context("no token")?)?;
    // On the other host every program has that host's places.
    let env = host.environment().map(|(name, value)| [name, value].join(OsStr::new("=")));
    let other = |words: Vec<OsString>| there.start(&mesh, [vec!["env".into()], env.to_vec(), vec![binary.clone()], words].concat());
    let agent = other(words(&["proxy", "--node", "--token-file", path(&file)?]))?;
    agent.line("host web-1 joined mesh.local").await?;

    let run = words(&["run", "--no-capture", "--service"]);
    let port = words(&["--port", "80:8080/http", "--"]);
    let _recording = other([run.clone(), words(&["recording.contact"]), port.clone(), serving("there").to_vec()].concat())?;
    let agents = [vec![binary.clone()], run, words(&["agents.contact"]), port, serving("here").to_vec()].concat();
    let _agents = here.start(&mesh, agents)?;
    mesh.announced("recording.contact", 1).await?;
    mesh.announced("agents.contact", 1).await?;

    let call = |upstream: &str| {
        words(&["run", "--upstream", upstream, "--", "curl", "-sS", "--fail", "--max-time", "10", "http://127.0.0.1:9000/"])
    };
    let from_here = here.start(&mesh, [vec![binary.clone()], call("recording.contact:80=127.0.0.1:9000")].concat())?;
    let from_there = other(call("agents.contact:80=127.0.0.1:9000"))?;
    for (client, server) in [(from_here, "there"), (from_there, "here")] {
        let answer = client.output(PATIENCE * 2).await?.success()?;
        ensure!(answer.stdout.contains(&format!("\"server\":\"{server}\"")), "{}", answer.stdout);
    }
    mesh.finish().await
}
