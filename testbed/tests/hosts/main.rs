//! Hosts join with a token, once; their workloads then run as they do beside the control plane, as far as the token allows.

mod kubernetes;
mod networks;
mod processes;
mod rotation;

use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::{Context as _, ensure};
use serde_json::Value;
use testbed::{Mesh, PATIENCE, Port, Running, app, eventually};

/// A control plane that lets hosts join, on a port of loopback.
async fn mesh() -> anyhow::Result<Mesh> {
    Mesh::options().control_option("--listen").control_option("127.0.0.1:0").start().await
}

/// Another host, as far as files and sockets go.
struct Host {
    directory: PathBuf,
}

impl Host {
    async fn new(mesh: &Mesh, name: &str) -> anyhow::Result<Self> {
        let directory = mesh.home().join(name);
        let parts = [directory.join("state"), directory.join("run")];
        mesh.start_outside("/usr/bin/mkdir", ["-p".into()].into_iter().chain(parts))?.output(PATIENCE).await?.success()?;
        Ok(Self { directory })
    }

    fn state(&self) -> PathBuf {
        self.directory.join("state")
    }

    fn workload_socket(&self) -> PathBuf {
        self.directory.join("run/lorica/workload.sock")
    }

    fn environment(&self) -> [(OsString, OsString); 2] {
        [("XDG_STATE_HOME", "state"), ("XDG_RUNTIME_DIR", "run")].map(|(name, part)| (name.into(), self.directory.join(part).into()))
    }

    /// Starts its agent.
    fn agent(&self, mesh: &Mesh, options: &[&str]) -> anyhow::Result<Running> {
        mesh.start_binary("agent", ["proxy", "--node"].iter().chain(options), self.environment().to_vec(), None)
    }

    /// Starts an app that serves there, and its port, which is its own as long as it is held.
    fn serve(&self, mesh: &Mesh, service: &str) -> anyhow::Result<(Running, Port)> {
        let port = Port::free()?;
        let serving = [mesh.program(app()?)?.into_os_string(), "http".into(), "--listen".into(), port.address().to_string().into()];
        Ok((self.run(mesh, service).port(&format!("80:{}/http", port.number())).no_capture().start(serving)?, port))
    }

    fn run<'a>(&self, mesh: &'a Mesh, service: &str) -> testbed::Run<'a> {
        self.environment().into_iter().fold(mesh.service(service), |run, (name, value)| run.env(name, value))
    }
}

/// Makes a token: its file, and what is listed of it.
async fn token(mesh: &Mesh, host: &str, options: &[&str]) -> anyhow::Result<(PathBuf, Value)> {
    let words = ["token", "create", "--host", host, "-o", "json"];
    let made = mesh.lorica(words.iter().chain(options)).await?.json()?;
    let text = made["token"].as_str().context("no token")?;
    Ok((mesh.write(&format!("{host}.token"), text)?, made["listed"].clone()))
}

fn path(file: &std::path::Path) -> anyhow::Result<&str> {
    file.to_str().context("a path that is no text")
}

#[tokio::test]
async fn a_host_joins_and_its_workloads_are_called() -> anyhow::Result<()> {
    let mesh = mesh().await?;
    let host = Host::new(&mesh, "web-1").await?;
    let (file, listed) = token(&mesh, "web-1", &["--service", "recording.contact"]).await?;
    ensure!(listed["state"] == "open", "{listed}");
    let agent = host.agent(&mesh, &["--token-file", path(&file)?])?;
    agent.line("host web-1 joined mesh.local").await?;

    let (recording, _port) = host.serve(&mesh, "recording.contact")?;
    mesh.announced("recording.contact", 1).await?;
    let local = Port::free()?;
    let url = format!("http://{}/", local.address());
    let called =
        mesh.client().upstream(&format!("recording.contact:80={}", local.address())).output(["curl", "-sS", &url]).await?.success()?;
    ensure!(called.stdout.contains("\"method\":\"GET\""), "{}", called.stdout);

    // It is itself again without its token, and its workload is found again without having been told anything.
    agent.stop().await?;
    std::fs::remove_file(&file)?;
    let agent = host.agent(&mesh, &[])?;
    agent.line("host web-1 is of mesh.local").await?;
    mesh.announced("recording.contact", 1).await?;
    for name in ["svid.pem", "bundle.pem", "host.json"] {
        let file = host.state().join("lorica/host").join(name);
        let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&file)?.permissions());
        ensure!(mode & 0o777 == 0o600, "{}: {mode:o}", file.display());
    }
    // REST is the control plane's own.
    let refused = mesh.start_binary("status", ["status"], host.environment().to_vec(), None)?.output(PATIENCE).await?;
    ensure!(refused.code() == 1 && refused.stderr.contains("not its control plane"), "{}", refused.stderr);
    recording.stop().await?;
    agent.stop().await?;
    mesh.finish().await
}

#[tokio::test]
async fn a_token_admits_once_in_time_and_until_it_is_revoked() -> anyhow::Result<()> {
    let mesh = mesh().await?;
    let (first, second) = (Host::new(&mesh, "first").await?, Host::new(&mesh, "second").await?);
    let (file, listed) = token(&mesh, "web-1", &[]).await?;
    let agent = first.agent(&mesh, &["--token-file", path(&file)?])?;
    agent.line("host web-1 joined").await?;

    let stolen = second.agent(&mesh, &["--token-file", path(&file)?])?.output(PATIENCE).await?;
    ensure!(stolen.code() == 1 && stolen.stderr.contains("the join token was used at"), "{}", stolen.stderr);
    let loud = eventually("the second use is told", PATIENCE, || async {
        let said = mesh.last_words();
        ensure!(said.contains("a join token was shown a second time"), "{said}");
        Ok(())
    });
    loud.await?;

    let (late, expiring) = token(&mesh, "web-2", &["--for", "1s"]).await?;
    let over = eventually("the token is over", PATIENCE, || async {
        let list = mesh.lorica(["token", "list", "-o", "json"]).await?.json()?;
        let tokens = list["tokens"].as_array().context("no list")?;
        ensure!(tokens.iter().any(|token| token["id"] == expiring["id"] && token["state"] == "expired"), "{list}");
        Ok(())
    });
    over.await?;
    let refused = second.agent(&mesh, &["--token-file", path(&late)?])?.output(PATIENCE).await?;
    ensure!(refused.code() == 1 && refused.stderr.contains("the join token ended at"), "{}", refused.stderr);

    // Once it is let go of, nothing of it is taken any more, on the connection that it has or on another.
    let id = listed["id"].as_str().context("no id")?;
    let revoked = mesh.lorica(["token", "revoke", id]).await?.success()?;
    ensure!(revoked.stdout.contains("the host web-1 is let go of"), "{}", revoked.stdout);
    let run = first.run(&mesh, "recording.contact").port("80:1/http").no_capture().output(["sleep", "infinity"]).await?;
    ensure!(run.code() != 0, "{}", run.stderr);
    agent.stop().await?;
    mesh.finish().await
}

#[tokio::test]
async fn a_host_claims_only_what_its_token_named() -> anyhow::Result<()> {
    let mesh = mesh().await?;
    let host = Host::new(&mesh, "web-1").await?;
    let (file, _) = token(&mesh, "web-1", &["--service", "agents.contact"]).await?;
    let agent = host.agent(&mesh, &["--token-file", path(&file)?])?;
    agent.line("host web-1 joined").await?;
    for options in [&[][..], &["--account", "billing"]] {
        let service = if options.is_empty() { "billing.contact" } else { "agents.contact" };
        let run = options.iter().fold(host.run(&mesh, service).port("80:1/http").no_capture(), |run, option| run.option(*option));
        let refused = run.output(["sleep", "infinity"]).await?;
        ensure!(refused.code() != 0, "{service}: {}", refused.stderr);
        ensure!(refused.stderr.contains("the host web-1 joined for agents.contact"), "{service}: {}", refused.stderr);
    }
    agent.stop().await?;
    mesh.finish().await
}

#[tokio::test]
async fn a_control_plane_of_one_host_makes_no_tokens() -> anyhow::Result<()> {
    let mesh = Mesh::start().await?;
    let refused = mesh.lorica(["token", "create", "--host", "web-1"]).await?;
    ensure!(refused.code() == 1 && refused.stderr.contains("lorica control --listen"), "{}", refused.stderr);
    let host = Host::new(&mesh, "web-1").await?;
    let alone = host.agent(&mesh, &[])?.output(PATIENCE).await?;
    ensure!(alone.code() == 1 && alone.stderr.contains("this host has not joined a mesh"), "{}", alone.stderr);
    mesh.finish().await
}
