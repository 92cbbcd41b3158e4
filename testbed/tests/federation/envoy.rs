//! A stock Envoy on either side: beside an app of the bank, whose callers are the shop's, and beside a caller in the shop.

use testbed::{EchoServer, Envoy, PATIENCE, Port, eventually};

use super::meshes::{BANK, SHOP, allow, answers, at_bank, bundle, of, trust};

#[tokio::test]
async fn envoys_hold_to_the_same_trust_on_both_sides() -> anyhow::Result<()> {
    let (bank, shop) = (of(BANK).start().await?, of(SHOP).start().await?);
    let echo = EchoServer::start("ledger").await?;
    let service = "---\napiVersion: lorica.io/v1alpha1\nkind: Service\nmetadata: {name: ledger, namespace: core}\nspec: {ports: [{port: 80, appProtocol: http}]}\n";
    bank.apply(service).await?;
    let takes = Port::free()?;
    let port = format!("80:{}/http", echo.address().port());
    let options = ["--service", "ledger.core", "--port", &port, "--inbound", &takes.address().to_string()];
    let Some(callee) = Envoy::start(&bank, &options).await? else { return bank.finish().await };
    shop.apply(&(trust(BANK, &format!("bundle: {}", bundle(&bank).await?)) + &at_bank("ledger", "80/http", takes.address()))).await?;
    let ways = [Port::free()?, Port::free()?];
    let upstreams = ways.each_ref().map(|way| format!("their-ledger.shop:80={}", way.address()));
    let client =
        shop.client().no_capture().upstream(&upstreams[0]).option("--namespace").option("shop").option("--account").option("buyer");
    let _client = client.start(["sleep", "1000"])?;
    let Some(caller) = Envoy::start(&shop, &["--namespace", "shop", "--account", "buyer", "--upstream", &upstreams[1]]).await? else {
        return bank.finish().await;
    };
    let [lorica, envoy] = ways.each_ref().map(Port::address);
    for way in [lorica, envoy] {
        answers([&bank, &shop], way, 503).await?;
    }
    bank.apply(&trust(SHOP, &format!("bundle: {}", bundle(&shop).await?))).await?;
    for way in [lorica, envoy] {
        answers([&bank, &shop], way, 403).await?;
    }
    for (from, status) in [
        ("'*'".to_owned(), 403),
        (format!("'*', 'spiffe://{SHOP}/ns/shop/sa/other'"), 403),
        (format!("'*', 'spiffe://{SHOP}/ns/shop/sa/buyer'"), 200),
        (format!("'spiffe://{SHOP}/*'"), 200),
    ] {
        bank.apply(&allow("ledger", &from)).await?;
        for way in [lorica, envoy] {
            answers([&bank, &shop], way, status).await?;
        }
    }
    // Callers of its own mesh get in as before.
    let own = Port::free()?;
    let upstream = format!("ledger.core:80={}", own.address());
    let client = bank.client().no_capture().upstream(&upstream).option("--namespace").option("core").option("--account").option("desk");
    let _own = client.start(["sleep", "1000"])?;
    bank.lorica(["delete", "authorizationpolicy", "ledger", "-n", "core"]).await?.success()?;
    answers([&bank, &shop], own.address(), 200).await?;
    for way in [lorica, envoy] {
        answers([&bank, &shop], way, 403).await?;
    }
    bank.lorica(["delete", "trustbundle", "shop"]).await?.success()?;
    eventually("neither Envoy has refused anything", PATIENCE, || async {
        callee.refused_nothing(&bank, &["listener_manager.lds.", ".rds."]).await?;
        caller.refused_nothing(&shop, &["cluster_manager.cds."]).await
    })
    .await?;
    callee.running.stop().await?;
    caller.running.stop().await?;
    shop.finish().await?;
    bank.finish().await
}
