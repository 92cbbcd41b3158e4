//! The Workload API of a host that joined, as programs use it that know nothing of Lorica.

use std::path::PathBuf;

use anyhow::{Context as _, ensure};
use rustix::process::geteuid;
use testbed::{Mesh, PATIENCE, Peer, Running, Who, eventually, left_out, peer, spiffe_path};

use super::{Host, path, token};

/// SPIFFE's client for Python; none where it is not here.
struct Client {
    python: PathBuf,
    packages: PathBuf,
    script: PathBuf,
}

impl Client {
    fn of(mesh: &Mesh) -> anyhow::Result<Option<Self>> {
        match (peer(Peer::Python), spiffe_path()) {
            (Ok(python), Ok(packages)) => {
                let script = mesh.write("workload_api.py", include_str!("../workload_api.py"))?;
                Ok(Some(Self { python: python.canonicalize()?, packages, script }))
            }
            (Err(why), _) | (_, Err(why)) => {
                left_out(&format!("the Workload API of a host by a client of others: {why}"));
                Ok(None)
            }
        }
    }

    /// What a program is started with that asks at `socket`.
    fn words(&self, socket: &std::path::Path, command: &str) -> Vec<PathBuf> {
        let environment =
            [format!("PYTHONPATH={}", self.packages.display()), format!("SPIFFE_ENDPOINT_SOCKET=unix://{}", socket.display())];
        // Without the system's own packages: an older one of them does not go with a newer one of ours.
        let program = [self.python.clone(), "-S".into(), self.script.clone(), command.into()];
        environment.map(PathBuf::from).into_iter().chain(program).collect()
    }

    fn start(&self, mesh: &Mesh, socket: &std::path::Path, command: &str) -> anyhow::Result<Running> {
        mesh.start_outside("/usr/bin/env", self.words(socket, command))
    }
}

fn identity(name: &str, host: &str, uid: u32) -> String {
    format!(
        "apiVersion: lorica.io/v1alpha1\nkind: WorkloadIdentity\nmetadata: {{name: {name}, namespace: contact}}\nspec: {{account: {name}, host: {host}, attributes: {{uid: {uid}}}}}\n"
    )
}

/// The user of a mesh of nobody's.
fn nobody() -> u32 {
    if geteuid().is_root() { 65534 } else { geteuid().as_raw() }
}

pub(super) async fn mesh(lifetime: &str) -> anyhow::Result<Mesh> {
    let options = ["--listen", "127.0.0.1:0", "--svid-lifetime", lifetime];
    options.into_iter().fold(Mesh::as_nobody(), |mesh, option| mesh.control_option(option)).start().await
}

#[tokio::test]
async fn a_process_of_a_host_gets_what_is_registered_there_and_keeps_it() -> anyhow::Result<()> {
    let mesh = mesh("20s").await?;
    let Some(client) = Client::of(&mesh)? else { return mesh.finish().await };
    let host = Host::new(&mesh, "web-1").await?;
    let (file, _) = token(&mesh, "web-1", &["--service", "recording.contact", "--service", "agents.contact"]).await?;
    let agent = host.agent(&mesh, &["--token-file", path(&file)?])?;
    agent.line("host web-1 joined").await?;
    for (name, place) in [("recording", "web-1"), ("agents", "web-2"), ("billing", "web-1")] {
        mesh.apply(&identity(name, place, nobody())).await?.success()?;
    }

    // Of the three that fit the process one is of another host, and one the token did not name.
    let told = client.start(&mesh, &host.workload_socket(), "keep")?.output(PATIENCE * 2).await?.json()?;
    let id = "spiffe://mesh.local/ns/contact/sa/recording";
    ensure!(told["all"] == serde_json::json!([id]), "{told}");
    ensure!(told["token"] == id && told["validated"] == id && told["verified"] == true && told["roots"] == true, "{told}");
    ensure!(told["renewed"] == serde_json::json!({"id": id, "verified": true, "later": true, "another key": true}), "{told}");
    // Beside the control plane the same process is nobody.
    let elsewhere = client.start(&mesh, &mesh.socket().with_file_name("workload.sock"), "watch")?.output(PATIENCE).await?;
    ensure!(elsewhere.stdout.starts_with("ended PERMISSION_DENIED no WorkloadIdentity fits"), "{}", elsewhere.stdout);

    // What is taken back is gone there, too.
    let watching = client.start(&mesh, &host.workload_socket(), "watch")?;
    watching.line(&format!("has {id}")).await?;
    mesh.lorica(["delete", "workloadidentity", "recording", "-n", "contact"]).await?.success()?;
    watching.line("ended PERMISSION_DENIED").await?;
    agent.stop().await?;
    mesh.finish().await
}

#[tokio::test]
async fn a_process_of_another_user_gets_nothing() -> anyhow::Result<()> {
    if Who::all().len() < 2 {
        left_out("the Workload API of a host asked by another user: that needs root");
        return Ok(());
    }
    let mesh = mesh("24h").await?;
    let Some(client) = Client::of(&mesh)? else { return mesh.finish().await };
    let host = Host::new(&mesh, "web-1").await?;
    let (file, _) = token(&mesh, "web-1", &[]).await?;
    let agent = host.agent(&mesh, &["--token-file", path(&file)?])?;
    agent.line("host web-1 joined").await?;
    mesh.apply(&identity("recording", "web-1", nobody())).await?.success()?;
    let watching = client.start(&mesh, &host.workload_socket(), "watch")?;
    watching.line("has spiffe://mesh.local/ns/contact/sa/recording").await?;
    let mut asked = tokio::process::Command::new("/usr/bin/env");
    asked.args(client.words(&host.workload_socket(), "watch")).kill_on_drop(true);
    let told = tokio::time::timeout(PATIENCE, asked.output()).await??;
    let told = String::from_utf8(told.stdout)?;
    ensure!(told.starts_with("ended PERMISSION_DENIED no WorkloadIdentity fits this process: uid 0, gid 0, "), "{told}");
    agent.stop().await?;
    mesh.finish().await
}

#[tokio::test]
async fn a_stolen_identity_of_a_host_is_good_for_nothing_of_another_and_ends_with_its_token() -> anyhow::Result<()> {
    let mesh = mesh("24h").await?;
    let Some(client) = Client::of(&mesh)? else { return mesh.finish().await };
    let (first, thief) = (Host::new(&mesh, "web-1").await?, Host::new(&mesh, "thief").await?);
    let (file, listed) = token(&mesh, "web-1", &["--service", "agents.contact"]).await?;
    let agent = first.agent(&mesh, &["--token-file", path(&file)?])?;
    agent.line("host web-1 joined").await?;
    agent.stop().await?;
    mesh.apply(&identity("agents", "web-2", nobody())).await?.success()?;
    mesh.start_outside("/usr/bin/cp", ["-aT", path(&first.state())?, path(&thief.state())?])?.output(PATIENCE).await?.success()?;

    let stolen = thief.agent(&mesh, &[])?;
    stolen.line("host web-1 is of mesh.local").await?;
    let denied = eventually("the agent was told", PATIENCE, || async {
        let told = client.start(&mesh, &thief.workload_socket(), "watch")?.output(PATIENCE).await?.stdout;
        ensure!(!told.starts_with("ended UNAVAILABLE"), "{told}");
        Ok(told)
    });
    let denied = denied.await?;
    ensure!(denied.starts_with("ended PERMISSION_DENIED no WorkloadIdentity fits"), "{denied}");
    let refused = thief.run(&mesh, "billing.contact").port("80:1/http").no_capture().output(["sleep", "infinity"]).await?;
    ensure!(refused.stderr.contains("the host web-1 joined for agents.contact"), "{}", refused.stderr);

    let id = listed["id"].as_str().context("no id")?;
    mesh.lorica(["token", "revoke", id]).await?.success()?;
    let (file, _) = token(&mesh, "web-1", &["--service", "agents.contact"]).await?;
    let agent = first.agent(&mesh, &["--token-file", path(&file)?])?;
    // Another token lets the host join anew, and only itself.
    agent.line("host web-1 joined").await?;
    let outcast = thief.run(&mesh, "agents.contact").port("80:1/http").no_capture().output(["sleep", "infinity"]).await?;
    ensure!(outcast.code() != 0, "{}", outcast.stderr);
    stolen.stop().await?;
    agent.stop().await?;
    mesh.finish().await
}
