//! The SPIFFE Workload API as programs use it that know nothing of Lorica: SPIFFE's client for Python gets its identity, keeps it, and loses it.

use std::path::PathBuf;

use rustix::process::geteuid;
use testbed::{Mesh, PATIENCE, Peer, Running, Who, left_out, peer, spiffe_path};

/// Without the system's own packages: an older one of them does not go with a newer one of ours.
const ALONE: &str = "-S";

/// The program, run in the mesh's place; none where SPIFFE's client is not here.
struct Client {
    python: PathBuf,
    packages: PathBuf,
    script: PathBuf,
}

impl Client {
    fn of(mesh: &Mesh) -> anyhow::Result<Option<Self>> {
        match (peer(Peer::Python), spiffe_path()) {
            (Ok(python), Ok(packages)) => {
                let script = mesh.write("workload_api.py", include_str!("workload_api.py"))?;
                Ok(Some(Self { python: python.canonicalize()?, packages, script }))
            }
            (Err(why), _) | (_, Err(why)) => {
                left_out(&format!("the Workload API by a client of others: {why}"));
                Ok(None)
            }
        }
    }

    /// What its environment is.
    fn environment(&self, mesh: &Mesh) -> [String; 2] {
        let socket = mesh.socket().with_file_name("workload.sock");
        [format!("PYTHONPATH={}", self.packages.display()), format!("SPIFFE_ENDPOINT_SOCKET=unix://{}", socket.display())]
    }

    fn start(&self, mesh: &Mesh, command: &str) -> anyhow::Result<Running> {
        let mut words: Vec<PathBuf> = self.environment(mesh).map(PathBuf::from).into();
        words.extend([self.python.clone(), ALONE.into(), self.script.clone(), command.into()]);
        mesh.start_outside("/usr/bin/env", words)
    }
}

fn identity(name: &str, attributes: &str) -> String {
    format!(
        "apiVersion: lorica.io/v1alpha1\nkind: WorkloadIdentity\nmetadata: {{name: {name}, namespace: contact}}\nspec: {{account: {name}, attributes: {{{attributes}}}}}\n"
    )
}

/// The user of a mesh of nobody's.
fn nobody() -> u32 {
    if geteuid().is_root() { 65534 } else { geteuid().as_raw() }
}

#[tokio::test]
async fn a_program_gets_an_identity_and_tokens_and_keeps_it_through_a_renewal() -> anyhow::Result<()> {
    let mesh = Mesh::as_nobody().control_option("--svid-lifetime").control_option("1m").start().await?;
    let Some(client) = Client::of(&mesh)? else { return mesh.finish().await };
    let hash = mesh.start_outside("/usr/bin/sha256sum", [&client.python])?.output(PATIENCE).await?.success()?.stdout;
    let hash = hash.split_whitespace().next().unwrap_or_default();
    let python = client.python.display();
    mesh.apply(&identity("user", &format!("uid: {}", nobody()))).await?;
    mesh.apply(&identity("recording", &format!("uid: {}, executable: {python}, sha256: {hash}", nobody()))).await?;
    mesh.apply(&identity("other", "executable: /usr/bin/sha256sum")).await?;
    let told = client.start(&mesh, "keep")?.output(PATIENCE * 2).await?.json()?;
    let id = "spiffe://mesh.local/ns/contact/sa/recording";
    assert_eq!(told["all"], serde_json::json!([id, "spiffe://mesh.local/ns/contact/sa/user"]));
    assert_eq!((&told["id"], &told["token"], &told["validated"]), (&id.into(), &id.into(), &id.into()));
    assert_eq!((&told["verified"], &told["roots"]), (&true.into(), &true.into()));
    assert_eq!(told["renewed"], serde_json::json!({"id": id, "verified": true, "later": true, "another key": true}));
    let refused: Vec<&str> = told["refused"].as_array().into_iter().flatten().filter_map(|why| why.as_str()).collect();
    assert!(refused[0].contains("it is not for the audience `another`"), "{refused:?}");
    assert!(refused[1].contains("it is not signed by a key of mesh.local"), "{refused:?}");
    assert!(refused[2].contains("it has not three parts"), "{refused:?}");
    mesh.finish().await
}

#[tokio::test]
async fn a_stream_follows_what_its_process_may_have() -> anyhow::Result<()> {
    let mesh = Mesh::as_nobody().start().await?;
    let Some(client) = Client::of(&mesh)? else { return mesh.finish().await };
    let denied = client.start(&mesh, "watch")?.output(PATIENCE).await?.success()?.stdout;
    let why = format!("ended PERMISSION_DENIED no WorkloadIdentity fits this process: uid {}, ", nobody());
    assert!(denied.starts_with(&why) && denied.contains(&format!("executable {}", client.python.display())), "{denied}");

    let uid = format!("uid: {}", nobody());
    mesh.apply(&identity("recording", &uid)).await?;
    let watching = client.start(&mesh, "watch")?;
    watching.line("has spiffe://mesh.local/ns/contact/sa/recording").await?;
    mesh.apply(&identity("analytics", &uid)).await?;
    watching.line("has spiffe://mesh.local/ns/contact/sa/analytics spiffe://mesh.local/ns/contact/sa/recording").await?;
    for name in ["recording", "analytics"] {
        mesh.lorica(["delete", "workloadidentity", name, "-n", "contact"]).await?.success()?;
    }
    watching.line("ended PERMISSION_DENIED").await?;
    let bare = client.start(&mesh, "bare")?.output(PATIENCE).await?.success()?.stdout;
    assert!(bare.starts_with("ended INVALID_ARGUMENT the metadata `workload.spiffe.io: true` is missing"), "{bare}");
    mesh.finish().await
}

#[tokio::test]
async fn a_revoked_identity_is_taken_away_and_given_back() -> anyhow::Result<()> {
    let mesh = Mesh::as_nobody().start().await?;
    let Some(client) = Client::of(&mesh)? else { return mesh.finish().await };
    let uid = format!("uid: {}", nobody());
    mesh.apply(&identity("recording", &uid)).await?;
    mesh.apply(&identity("analytics", &uid)).await?;
    let watching = client.start(&mesh, "watch")?;
    watching.line("has spiffe://mesh.local/ns/contact/sa/analytics spiffe://mesh.local/ns/contact/sa/recording").await?;
    let revoked = "spiffe://mesh.local/ns/contact/sa/analytics";
    mesh.lorica(["ca", "revoke", revoked]).await?.success()?;
    watching.line("has spiffe://mesh.local/ns/contact/sa/recording").await?;
    mesh.lorica(["ca", "revoke", "spiffe://mesh.local/ns/contact/sa/recording"]).await?.success()?;
    watching.line("ended PERMISSION_DENIED").await?;
    let denied = client.start(&mesh, "watch")?.output(PATIENCE).await?.success()?.stdout;
    assert!(denied.starts_with(&format!("ended PERMISSION_DENIED {revoked} is revoked")), "{denied}");
    mesh.lorica(["ca", "reinstate", revoked]).await?.success()?;
    client.start(&mesh, "watch")?.line(&format!("has {revoked}")).await?;
    mesh.finish().await
}

#[tokio::test]
async fn a_process_of_another_user_gets_nothing() -> anyhow::Result<()> {
    if Who::all().len() < 2 {
        left_out("the Workload API asked by another user: that needs root");
        return Ok(());
    }
    let mesh = Mesh::as_nobody().start().await?;
    let Some(client) = Client::of(&mesh)? else { return mesh.finish().await };
    mesh.apply(&identity("recording", &format!("uid: {}", nobody()))).await?;
    let mut asked = tokio::process::Command::new("/usr/bin/env");
    asked.args(client.environment(&mesh)).arg(&client.python).arg(ALONE).arg(&client.script).arg("watch").kill_on_drop(true);
    let told = tokio::time::timeout(PATIENCE, asked.output()).await??;
    let told = String::from_utf8(told.stdout)?;
    assert!(told.starts_with("ended PERMISSION_DENIED no WorkloadIdentity fits this process: uid 0, gid 0, "), "{told}");
    mesh.finish().await
}
