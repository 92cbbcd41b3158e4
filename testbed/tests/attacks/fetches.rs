//! Where the control plane goes for keys because a policy says so: whoever may write policies cannot have it ask what only its host can reach.
//! Redirects and cloud addresses are tried in `testbed/tests/authentication/keys.rs`, the addresses one by one in
//! `crates/control/src/key_sets/reach.rs`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::Value;
use testbed::{Mesh, PATIENCE, eventually, gateway};
use tokio::net::TcpListener;

#[tokio::test]
async fn no_spelling_of_an_address_leads_the_control_plane_home() -> anyhow::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let port = listener.local_addr()?.port();
    let connections = Arc::new(AtomicU64::new(0));
    let counted = connections.clone();
    let task = tokio::spawn(async move {
        while listener.accept().await.is_ok() {
            counted.fetch_add(1, Ordering::Relaxed);
        }
    });
    let mesh = Mesh::start().await?;
    mesh.apply(&gateway("  - {name: http, port: 80, protocol: HTTP}\n")).await?;
    let hosts = [
        "127.0.0.1",
        "127.1",
        "127.0.1",
        "2130706433",
        "0x7f000001",
        "0x7f.1",
        "017700000001",
        "0177.0.0.1",
        "127.0.0.01",
        "0",
        "0.0.0.0",
        "localhost",
        "LOCALHOST",
        "localhost.",
        "[::1]",
        "[::]",
        "[0:0:0:0:0:0:0:1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[::127.0.0.1]",
        "[64:ff9b::7f00:1]",
        "[2002:7f00:1::]",
        "login.example@127.0.0.1",
        "login.example:443@127.0.0.1",
        "127.0.0.1%2f",
        "login.example#@127.0.0.1",
        "login.example\\\\@127.0.0.1",
    ];
    for (number, host) in hosts.iter().enumerate() {
        for scheme in ["https", "http"] {
            let name = format!("{scheme}-{number}");
            let url = format!("{scheme}://{host}:{port}/keys");
            let policy = format!(
                "apiVersion: lorica.io/v1alpha1\nkind: AuthenticationPolicy\nmetadata: {{name: {name}, namespace: shop}}\nspec: {{targetRefs: [{{kind: Gateway, name: edge}}], jwt: {{providers: [{{name: login, issuer: 'https://login.example', jwks: {{url: \"{url}\"}}}}]}}}}\n"
            );
            let applied = mesh.lorica_with_input(["apply", "-f", "-"], Some(&policy)).await?;
            if applied.code() != 0 {
                // Said where it was written.
                assert!(applied.stderr.contains("url"), "{url}: {}", applied.stderr);
                continue;
            }
            eventually("the status says that there are no keys", PATIENCE, || async {
                let output = mesh.lorica(["get", "authn", &name, "-n", "shop", "-o", "json"]).await?;
                let text: Value = serde_json::from_str(&output.stdout)?;
                let item = text.get("items").and_then(|items| items.get(0)).unwrap_or(&text);
                let conditions = item["status"]["conditions"].as_array().cloned().unwrap_or_default();
                let keys = conditions.iter().find(|condition| condition["type"] == "KeysFetched");
                anyhow::ensure!(
                    keys.is_some_and(|keys| keys["status"] == "False" && keys["reason"] == "KeysPending"),
                    "{url}: {conditions:?}"
                );
                Ok(())
            })
            .await?;
            mesh.lorica(["delete", "authn", &name, "-n", "shop"]).await?.success()?;
        }
    }
    assert_eq!(connections.load(Ordering::Relaxed), 0, "the host of the control plane was asked");
    task.abort();
    mesh.finish().await
}
