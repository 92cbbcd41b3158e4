//! Calls in both directions, by both profiles of endpoints, while both meshes replace their roots.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use anyhow::{Context as _, ensure};
use http::Request;
use http_body_util::Full;
use serde_json::Value;
use testbed::{EchoServer, HttpConnection, Mesh, PATIENCE, Port, Running, eventually, http_get};
use tokio::task::JoinHandle;

use super::meshes::{BANK, SHOP, allow, answers, at_bank, bundle, fetched, inbound, of, shown, shows, trust};

/// Calls over one kept connection and over new ones, without end. What failed comes out.
struct Load {
    ends: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    tasks: Vec<JoinHandle<anyhow::Result<()>>>,
}

async fn call(at: SocketAddr, kept: Option<&mut HttpConnection>) -> anyhow::Result<()> {
    let request = Request::get("/").header("host", "ledger").body(Full::default())?;
    let reply = match kept {
        Some(connection) => connection.send(request).await?,
        None => http_get(at, "ledger", "/").await?,
    };
    ensure!(reply.status == 200, "{} {:?} {}", reply.status, reply.header("x-lorica-reason"), reply.text());
    Ok(())
}

impl Load {
    fn start(targets: &[SocketAddr]) -> Self {
        let mut load = Self { ends: Arc::default(), answered: Arc::default(), tasks: Vec::new() };
        for (at, keeps) in targets.iter().flat_map(|at| [(*at, true), (*at, false)]) {
            let (ends, answered) = (load.ends.clone(), load.answered.clone());
            load.tasks.push(tokio::spawn(async move {
                let mut kept = if keeps { Some(HttpConnection::open(at).await?) } else { None };
                while !ends.load(Ordering::SeqCst) {
                    call(at, kept.as_mut()).await?;
                    answered.fetch_add(1, Ordering::SeqCst);
                    // A call each few milliseconds: enough to meet every moment, and the machine has other work.
                    tokio::time::sleep(std::time::Duration::from_millis(10)).await;
                }
                Ok(())
            }));
        }
        load
    }

    async fn more(&self, calls: u64) -> anyhow::Result<()> {
        let so_far = self.answered.load(Ordering::SeqCst);
        eventually("calls go on", PATIENCE, || async {
            ensure!(self.answered.load(Ordering::SeqCst) > so_far + calls);
            Ok(())
        })
        .await
    }

    async fn end(self) -> anyhow::Result<()> {
        self.ends.store(true, Ordering::SeqCst);
        for task in self.tasks {
            task.await??;
        }
        Ok(())
    }
}

/// A client with a way to a service.
fn client(mesh: &Mesh, namespace: &str, account: &str, upstream: &str, at: &Port) -> anyhow::Result<Running> {
    let upstream = format!("{upstream}={}", at.address());
    let client = mesh.client().no_capture().upstream(&upstream).option("--namespace").option(namespace);
    client.option("--account").option(account).start(["sleep", "1000"])
}

async fn phase(mesh: &Mesh, phase: &str) -> anyhow::Result<Value> {
    let what = format!("the rotation is {phase}");
    let reached = eventually(&what, PATIENCE * 4, || async {
        let status: Value = mesh.lorica(["ca", "status", "-o", "json"]).await?.success()?.json()?;
        ensure!(status["phase"] == phase, "{status:#}");
        Ok(status)
    });
    reached.await.with_context(|| mesh.last_words())
}

/// The bank is known to the shop by SPIFFE's profile, the shop to the bank by that of the web.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_meshes_call_each_other_by_both_profiles_while_both_replace_their_roots() -> anyhow::Result<()> {
    let web = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
    let ends = [Port::free()?, Port::free()?];
    let options = |trust_domain, end: &Port| {
        let options = of(trust_domain).control_option("--bundle-endpoint").control_option(end.address().to_string());
        let options = options.control_option("--bundle-refresh").control_option("5s");
        options.control_option("--svid-lifetime").control_option("12s")
    };
    let place = tempfile::tempdir()?;
    let (chain, key) = (place.path().join("web.pem"), place.path().join("web.key"));
    std::fs::write(&chain, web.cert.pem())?;
    std::fs::write(&key, web.signing_key.serialize_pem())?;
    std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    let bank = options(BANK, &ends[0]).env("SSL_CERT_FILE", &chain).start().await?;
    let shop = options(SHOP, &ends[1]).control_option("--bundle-endpoint-cert").control_option(&chain);
    let shop = shop.control_option("--bundle-endpoint-key").control_option(&key).start().await?;

    let echoes = [EchoServer::start("ledger").await?, EchoServer::start("till").await?];
    let serves = |mesh: &Mesh, service: &str, echo: &EchoServer| {
        mesh.service(service).no_capture().port(&format!("80:{}/http", echo.address().port())).start(["sleep", "1000"])
    };
    let _serving = [serves(&bank, "ledger.core", &echoes[0])?, serves(&shop, "till.shop", &echoes[1])?];
    bank.announced("ledger.core", 1).await?;
    shop.announced("till.shop", 1).await?;

    let spiffe = format!(
        "bundle: {}, endpoint: {{url: 'https://127.0.0.1:{}/', profile: Spiffe, spiffeId: 'spiffe://{BANK}/lorica/control', allowPrivateAddresses: true}}",
        bundle(&bank).await?,
        ends[0].number()
    );
    shop.apply(&(trust(BANK, &spiffe) + &at_bank("ledger", "80/http", inbound(&bank, "ledger.core", 80).await?))).await?;
    let of_web = format!("endpoint: {{url: 'https://localhost:{}/', profile: Web, allowPrivateAddresses: true}}", ends[1].number());
    let till = inbound(&shop, "till.shop", 80).await?;
    let back = format!(
        "---\napiVersion: lorica.io/v1alpha1\nkind: Service\nmetadata: {{name: till, namespace: shop}}\nspec: {{ports: [{{port: 80, appProtocol: http}}]}}\n\
         ---\napiVersion: lorica.io/v1alpha1\nkind: Workload\nmetadata: {{name: till-1, namespace: shop}}\nspec: {{service: till, identity: 'spiffe://{SHOP}/ns/shop/sa/till', address: {}, ports: [{{servicePort: 80, port: {}}}]}}\n",
        till.ip(),
        till.port()
    );
    bank.apply(&(trust(SHOP, &of_web) + &back + &allow("ledger", &format!("'spiffe://{SHOP}/ns/shop/sa/buyer'")))).await?;
    let names_bank = allow("till", &format!("'spiffe://{BANK}/*'")).replace("core", "shop");
    shop.apply(&names_bank).await?;

    let before = [
        shows(&shop, BANK, "the bank's bundle is fetched", |status| fetched(status).0 == "True").await?,
        shows(&bank, SHOP, "the shop's bundle is fetched", |status| fetched(status).0 == "True").await?,
    ];
    let ways = [Port::free()?, Port::free()?];
    let _clients =
        [client(&shop, "shop", "buyer", "their-ledger.shop:80", &ways[0])?, client(&bank, "core", "auditor", "till.shop:80", &ways[1])?];
    let reply = answers([&shop, &bank], ways[0].address(), 200).await?;
    assert!(reply.text().contains(&format!("URI=spiffe://{SHOP}/ns/shop/sa/buyer")), "{}", reply.text());
    let reply = answers([&bank, &shop], ways[1].address(), 200).await?;
    assert!(reply.text().contains(&format!("URI=spiffe://{BANK}/ns/core/sa/auditor")), "{}", reply.text());

    let load = Load::start(&[ways[0].address(), ways[1].address()]);
    for mesh in [&bank, &shop] {
        mesh.lorica(["ca", "rotate"]).await?.success()?;
        let status: Value = mesh.lorica(["ca", "status", "-o", "json"]).await?.success()?.json()?;
        assert!(status["phase"] == "distributing" && status["distributes_until"].is_string(), "{status:#}");
    }
    for (mesh, other, trust_domain) in [(&bank, &shop, BANK), (&shop, &bank, SHOP)] {
        shows(other, trust_domain, "both roots are known", |status| status["roots"] == 2).await?;
        assert_eq!(bundle(mesh).await?["keys"].as_array().map(Vec::len), Some(3));
    }
    for mesh in [&bank, &shop] {
        phase(mesh, "done").await?;
    }
    for (other, trust_domain, before) in [(&shop, BANK, &before[0]), (&bank, SHOP, &before[1])] {
        let after = shows(other, trust_domain, "the old root is known no more", |status| status["roots"] == 1).await?;
        assert!(after["status"]["sequence"].as_u64() > before["status"]["sequence"].as_u64(), "{after:#} {before:#}");
    }
    load.more(200).await?;
    load.end().await.with_context(|| [&bank, &shop].map(Mesh::last_words).join("\n"))?;
    // What was fetched is shown.
    let table = shop.lorica(["get", "trustbundles"]).await?.success()?.stdout;
    let sequence = shown(&shop, BANK).await?["status"]["sequence"].to_string();
    for part in ["TRUST DOMAIN", "bank.example", "https://127.0.0.1", sequence.as_str(), "Accepted"] {
        assert!(table.contains(part), "{part}\n{table}");
    }
    shop.finish().await?;
    bank.finish().await
}
