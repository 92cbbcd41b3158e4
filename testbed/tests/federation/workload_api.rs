//! What programs with a library of SPIFFE's get of other trust domains.

use std::path::PathBuf;

use rustix::process::geteuid;
use serde_json::{Value, json};
use testbed::{Mesh, PATIENCE, Peer, Who, left_out, peer, spiffe_path};

use super::meshes::{BANK, SHOP, bundle, of, trust};

/// Runs the program in a mesh's place.
async fn told(mesh: &Mesh, python: &PathBuf, packages: &std::path::Path, words: &[&str]) -> anyhow::Result<String> {
    let script = mesh.write("workload_api.py", include_str!("workload_api.py"))?;
    let socket = mesh.socket().with_file_name("workload.sock");
    let environment = [format!("PYTHONPATH={}", packages.display()), format!("SPIFFE_ENDPOINT_SOCKET=unix://{}", socket.display())];
    let mut all: Vec<PathBuf> = environment.map(PathBuf::from).into();
    // Without the system's own packages: an older one of them does not go with a newer one of ours.
    all.extend([python.clone(), "-S".into(), script]);
    all.extend(words.iter().map(PathBuf::from));
    Ok(mesh.start_outside("/usr/bin/env", all)?.output(PATIENCE).await?.success()?.stdout)
}

#[tokio::test]
async fn programs_get_the_bundles_of_other_meshes_and_have_their_tokens_validated() -> anyhow::Result<()> {
    let (python, packages) = match (peer(Peer::Python), spiffe_path()) {
        (Ok(python), Ok(packages)) => (python.canonicalize()?, packages),
        (Err(why), _) | (_, Err(why)) => {
            left_out(&format!("federation by a client of others: {why}"));
            return Ok(());
        }
    };
    let uid = if geteuid().is_root() { 65534 } else { geteuid().as_raw() };
    let identity = format!(
        "---\napiVersion: lorica.io/v1alpha1\nkind: WorkloadIdentity\nmetadata: {{name: till, namespace: shop}}\nspec: {{account: till, attributes: {{uid: {uid}}}}}\n"
    );
    let (bank, shop) = (of(BANK).run_as(Who::Nobody).start().await?, of(SHOP).run_as(Who::Nobody).start().await?);
    bank.apply(&identity).await?;
    shop.apply(&identity).await?;
    let token = told(&bank, &python, &packages, &["token", "ledger"]).await?;
    let federated = async || -> anyhow::Result<Value> {
        Ok(serde_json::from_str(&told(&shop, &python, &packages, &["federated", "ledger", token.trim()]).await?)?)
    };
    let alone = federated().await?;
    assert_eq!(alone["federated"], json!([]));
    assert!(alone["validated"].as_str().unwrap().contains("which this mesh does not federate with"), "{alone:#}");

    shop.apply(&trust(BANK, &format!("bundle: {}", bundle(&bank).await?))).await?;
    let both = json!([format!("spiffe://{BANK}"), format!("spiffe://{SHOP}")]);
    let known = federated().await?;
    assert_eq!((&known["federated"], &known["roots"], &known["keys"]), (&json!([format!("spiffe://{BANK}")]), &both, &both));
    assert_eq!((&known["same"], &known["validated"]), (&json!(true), &json!(format!("spiffe://{BANK}/ns/shop/sa/till"))));

    // The roots of others say nothing of this mesh's own identities, and a bundle of another mesh nothing of the bank's.
    shop.apply(&trust(BANK, &format!("bundle: {}", bundle(&shop).await?))).await?;
    let other = federated().await?;
    assert!(other["validated"].as_str().unwrap().contains("the token is not believed"), "{other:#}");
    shop.finish().await?;
    bank.finish().await
}
