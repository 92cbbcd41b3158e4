//! From what is seen to what is allowed: suggested policies, their trial, and the way from plaintext to mutual TLS.

use testbed::{Mesh, PATIENCE, eventually};

use super::{answers, ask, caller, policy, web};

#[tokio::test]
async fn what_was_seen_becomes_a_policy_that_is_tried_and_then_in_force() -> anyhow::Result<()> {
    let mesh = Mesh::as_nobody().start().await?;
    let (_web, _listens) = web(&mesh, "http").await?;
    let (_ann, ann, _ann_port) = caller(&mesh, "shop", "ann")?;
    let (_ben, ben, _ben_port) = caller(&mesh, "till", "ben")?;
    answers(ann, "/items/7").await?;
    answers(ben, "/list").await?;
    assert_eq!(ask(ann, "GET", "/items/8?all").await?.status, 200);
    let suggested = || async {
        let said = mesh.lorica(["authz", "suggest", "-n", "shop"]).await?.success()?.stdout;
        anyhow::ensure!(said.contains("# ann:") && said.contains("# ben.till:"), "{said}");
        anyhow::Ok(said)
    };
    let suggested = eventually("both were seen", PATIENCE, suggested).await?;
    for part in ["paths: [\"/items/{id}\"]", "paths: [\"/list\"]", "identities: [ben.till]", "mode: Shadow"] {
        assert!(suggested.contains(part), "{part}\n{suggested}");
    }
    mesh.apply(&suggested).await?;
    for (at, path) in [(ann, "/items/9"), (ann, "/list"), (ben, "/items/7"), (ben, "/list")] {
        assert_eq!(ask(at, "GET", path).await?.status, 200, "a trial denies nothing");
    }
    eventually("the trial is told of", PATIENCE, || async {
        let trial = mesh.lorica(["policy", "shadow", "web", "-n", "shop"]).await?.success()?.stdout;
        anyhow::ensure!(trial.starts_with("web.shop: would have denied 2 of 4 calls since"), "{trial}");
        anyhow::ensure!(trial.contains("GET /list  by spiffe://mesh.local/ns/shop/sa/ann"), "{trial}");
        Ok(())
    })
    .await?;
    mesh.apply(&suggested.replace("mode: Shadow", "mode: Enforce")).await?;
    for (at, path, status) in [(ann, "/items/9", 200), (ann, "/list", 403), (ben, "/items/7", 403), (ben, "/list", 200)] {
        assert_eq!(ask(at, "GET", path).await?.status, status, "{path}");
    }
    let refused = mesh.lorica(["policy", "shadow", "web", "-n", "shop"]).await?;
    assert!(refused.stderr.contains("is in force: it is not tried"), "{}", refused.stderr);
    mesh.finish().await
}

#[tokio::test]
async fn mutual_tls_is_not_asked_for_while_somebody_sends_plaintext() -> anyhow::Result<()> {
    let mesh = Mesh::as_nobody().start().await?;
    let (_web, _listens) = web(&mesh, "http").await?;
    let permissive = "apiVersion: lorica.io/v1alpha1\nkind: AuthenticationPolicy\nmetadata: {name: moving, namespace: shop}\nspec: {mtls: {mode: Permissive}}\n";
    mesh.apply(permissive).await?;
    let status = mesh.status().await?;
    let proxy = status["proxies"].as_array().and_then(|proxies| proxies.iter().find(|proxy| proxy["service"] == "web.shop")).cloned();
    let inbound = proxy.and_then(|proxy| proxy["ports"][0]["address"].as_str()?.parse().ok());
    let inbound = inbound.ok_or_else(|| anyhow::anyhow!("no port of web.shop: {status:#}"))?;
    // Plaintext is taken.
    answers(inbound, "/").await?;
    eventually("it is told of", PATIENCE, || async {
        let shown = mesh.lorica(["mtls", "status", "-n", "shop"]).await?.success()?.stdout;
        anyhow::ensure!(shown.contains("Permissive") && shown.contains("127.0.0.1"), "{shown}");
        Ok(())
    })
    .await?;
    let refused = mesh.lorica(["delete", "authn", "moving", "-n", "shop"]).await?;
    assert!(
        refused.stderr.contains("callers still send plaintext") && refused.stderr.contains("web.shop: 1 callers"),
        "{}",
        refused.stderr
    );
    let strict = permissive.replace("Permissive", "Strict");
    let file = mesh.write("strict.yaml", &strict)?;
    let file = file.to_str().unwrap_or_default();
    assert_eq!(mesh.lorica(["apply", "-f", file]).await?.code(), 1);
    assert_eq!(ask(inbound, "GET", "/").await?.status, 200, "nothing was changed");
    mesh.lorica(["apply", "-f", file, "--force"]).await?.success()?;
    assert!(ask(inbound, "GET", "/").await.is_err(), "plaintext is refused");
    // A policy says nothing of what nobody sends.
    mesh.apply(&policy("none", "{}")).await?;
    mesh.finish().await
}
