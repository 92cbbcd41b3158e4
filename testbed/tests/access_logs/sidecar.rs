//! A policy about a service: its workloads' proxies log by it, what comes in and what goes out.

use testbed::{Mesh, PATIENCE, Port, eventually};

use super::{logged, policy};

#[tokio::test]
async fn a_workload_goes_by_its_services_policy_from_the_moment_it_is_applied() -> anyhow::Result<()> {
    let mesh = Mesh::start().await?;
    let app = Port::free()?;
    let echo = mesh.program(testbed::app()?)?;
    let arguments = [echo.display().to_string(), "http".to_owned(), "--listen".to_owned(), app.address().to_string()];
    let port = format!("80:{}/http", app.number());
    let log = mesh.home().join("web.log");
    let web =
        mesh.service("web.shop").port(&port).no_capture().option("--access-log").option(log.display().to_string()).start(arguments)?;
    mesh.announced("web.shop", 1).await?;
    let caller = Port::free()?;
    let upstream = format!("web.shop:80={}", caller.address());
    let client = mesh.client().no_capture().upstream(&upstream).option("--namespace").option("shop").start(["sleep", "600"])?;
    let at = caller.address();
    let ask = |id: &'static str| async move { super::ask(at, "/x?y", &[("x-request-id", id)]).await };
    eventually("the service answers", PATIENCE, || async {
        anyhow::ensure!(ask("before").await?.status == 200);
        Ok(())
    })
    .await?;
    // As the process was told: objects.
    let line: serde_json::Value = serde_json::from_str(&logged(&log, "before").await?)?;
    assert_eq!(line["reporter"], "destination", "{line}");

    let spec = "{targetRefs: [{name: web}], accessLog: {format: {text: '%REQ(X-REQUEST-ID)% by %DOWNSTREAM_PEER_URI_SAN% at %REQUESTED_SERVER_NAME% %RESPONSE_CODE%'}}}";
    let receipt = mesh.apply(&policy(spec)).await?;
    assert!(receipt.stdout.contains("applied: 1 of 1"), "{}{}", receipt.stdout, receipt.stderr);
    assert_eq!(ask("after").await?.status, 200);
    let line = logged(&log, "after by").await?;
    assert!(line.starts_with("after by spiffe://") && line.contains("/ns/shop/sa/") && line.ends_with(" 200"), "{line}");

    // And as it was told again once the policy is gone.
    mesh.lorica(["delete", "telemetrypolicy", "told", "-n", "shop"]).await?.success()?;
    assert_eq!(ask("again").await?.status, 200);
    let line: serde_json::Value = serde_json::from_str(&logged(&log, "again").await?)?;
    assert_eq!(line["request_id"], "again");
    client.stop().await?;
    web.stop().await?;
    mesh.finish().await
}
