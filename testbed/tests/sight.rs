//! What the command line shows of a mesh that runs: its health, its routes, a report.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::Read as _;

use anyhow::Context as _;
use testbed::{EchoServer, Mesh};

const ROUTE: &str = "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: list, namespace: shop}
spec:
  parentRefs: [{kind: Service, group: '', name: web}]
  rules:
    - matches: [{path: {type: PathPrefix, value: /list}, method: GET}]
      timeouts: {request: 2s}
      backendRefs: [{name: web, port: 80, weight: 9}, {name: gone, port: 80, weight: 1}]
";

const ALIAS: &str = "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: alias, namespace: shop}
spec:
  parentRefs: [{kind: Service, group: '', name: alias}]
  rules: [{backendRefs: [{name: web, port: 80}]}]
";

/// The check of this number, as scripts read it.
async fn check(mesh: &Mesh, number: u64) -> anyhow::Result<(String, String)> {
    let said = mesh.lorica(["check", "-o", "json"]).await?;
    let all: serde_json::Value = serde_json::from_str(&said.stdout).with_context(|| said.stderr.clone())?;
    let found = all.as_array().into_iter().flatten().find(|line| line["check"] == number).context("there is no such check")?;
    let text = |key: &str| found[key].as_str().unwrap_or_default().to_owned();
    Ok((text("level"), text("message")))
}

#[tokio::test]
async fn a_mesh_is_checked_its_routes_are_shown_and_a_report_is_made() -> anyhow::Result<()> {
    let mesh = Mesh::start().await?;
    let echo = EchoServer::start("echo").await?;
    let web = mesh.service("web.shop").no_capture().port(&format!("80:{}/http", echo.address().port())).start(["sleep", "1000"])?;
    mesh.announced("web.shop", 1).await?;
    let good = mesh.lorica(["check"]).await?.success()?;
    assert!(good.stdout.contains("\nthe mesh\n") && good.stdout.ends_with(" 0 failed\n"), "{}", good.stdout);
    let (level, message) = check(&mesh, 9).await?;
    assert_eq!((level.as_str(), message.as_str()), ("ok", "within 30 s of the control plane's"));

    // A rule that leads in part to nowhere.
    let file = mesh.write("route.yaml", ROUTE)?.display().to_string();
    mesh.lorica(["apply", "--allow-missing", "-f", &file]).await?.success()?;
    let routes = mesh.lorica(["routes", "web.shop"]).await?.success()?.stdout;
    let rule = routes.lines().find(|line| line.contains("GET /list/*")).context("the rule is not shown")?;
    for part in ["80", "web.shop.mesh:80 90 %, gone.shop.mesh:80 (missing) 10 %", "timeout 2s", "HTTPRoute/list.shop rule 0"] {
        assert!(rule.contains(part), "{part}: {rule}");
    }
    let wrong = mesh.lorica(["routes", "wep.shop"]).await?;
    assert!(wrong.code() == 1 && wrong.stderr.contains("did you mean `web`?"), "{}", wrong.stderr);
    let (level, message) = check(&mesh, 13).await?;
    assert!(level == "failed" && message.contains("HTTPRoute list.shop ("), "{message}");
    let bad = mesh.lorica(["check"]).await?;
    assert!(bad.code() == 1 && bad.stdout.contains("hint: 13: "), "{}", bad.stdout);

    // A service whose routes lead to another needs no endpoint of its own; one that is called itself does.
    for (name, expected) in [("alias", "all of "), ("lonely", "have none: lonely.shop.mesh:80")] {
        let service = format!(
            "apiVersion: lorica.io/v1alpha1\nkind: Service\nmetadata: {{name: {name}, namespace: shop}}\nspec: {{ports: [{{port: 80, appProtocol: http}}]}}\n---\n"
        );
        let file = mesh.write("service.yaml", service + &ALIAS.replace("alias", name).repeat(usize::from(name == "alias")))?;
        mesh.lorica(["apply", "-f", &file.display().to_string()]).await?.success()?;
        let (_, message) = check(&mesh, 11).await?;
        assert!(message.contains(expected), "{message}");
    }

    let report = mesh.state().join("report.tar.gz").display().to_string();
    mesh.lorica(["bugreport", "--output", &report, "--access-logs"]).await?.success()?;
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(std::fs::File::open(&report)?));
    let mut found = std::collections::BTreeMap::new();
    for entry in archive.entries()? {
        let mut entry = entry?;
        let mut text = String::new();
        entry.read_to_string(&mut text)?;
        found.insert(entry.path()?.display().to_string(), text);
    }
    let text =
        |name: &str| found.get(&format!("lorica-bugreport/{name}")).with_context(|| format!("{name} is not among {:?}", found.keys()));
    assert!(text("status.json")?.contains("web-") && text("resources/httproutes.json")?.contains("/list"));
    assert!(text("check.json")?.contains("\"failed\"") && text("host.json")?.contains("kernel"));
    let metrics = found.iter().find(|(name, _)| name.starts_with("lorica-bugreport/proxies/web-")).context("no proxy's metrics")?;
    assert!(metrics.1.contains("lorica_svid_expiry_seconds"), "{}", metrics.1);
    let again = mesh.lorica(["bugreport", "--output", &report]).await?;
    assert!(again.code() == 1 && again.stderr.contains("--output names another file"), "{}", again.stderr);

    // Without anybody left.
    drop(web);
    mesh.stop_control().await?;
    let nobody = mesh.lorica(["check"]).await?;
    assert!(nobody.code() == 1 && nobody.stdout.contains("FAILED") && nobody.stdout.contains("hint: 5: start one"), "{}", nobody.stdout);
    let preflight = mesh.lorica(["check", "--preflight"]).await?.success()?;
    assert!(!preflight.stdout.contains("the mesh"), "{}", preflight.stdout);
    Ok(())
}
