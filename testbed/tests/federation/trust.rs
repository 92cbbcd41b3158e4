//! Who gets in, who does not, and how trust ends. Bundles are carried by hand.

use std::sync::Arc;
use std::time::SystemTime;

use anyhow::{Context as _, ensure};
use lorica_identity::intermediate::OwnCa;
use lorica_identity::{AcceptedIdentities, Authority, Bundle, Grant, KeyPair, SecretPem, Svid, TlsEpoch};
use lorica_model::spiffe::{SpiffeId, TrustDomain};
use testbed::{Connection, EchoServer, Mesh, PATIENCE, Port, Running, TcpEcho, eventually, http_get};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;

use super::meshes::{BANK, SHOP, allow, answers, at_bank, bundle, inbound, of, trust};

/// Two meshes that know each other's roots, a ledger and a wire of the bank, and a buyer and a thief in the shop.
struct Both {
    bank: Mesh,
    shop: Mesh,
    /// The ways of buyer and thief to the ledger.
    ledger: [Port; 2],
    /// The buyer's way to the wire.
    wire: Port,
    _running: Vec<Running>,
    _ledger: EchoServer,
    _wire: TcpEcho,
}

impl Both {
    async fn start(shop: Mesh) -> anyhow::Result<Self> {
        let bank = of(BANK).start().await?;
        let (echo, bytes) = (EchoServer::start("ledger").await?, TcpEcho::start("").await?);
        let run = |service: &str, port: String| bank.service(service).no_capture().port(&port).start(["sleep", "1000"]);
        let mut running = vec![
            run("ledger.core", format!("80:{}/http", echo.address().port()))?,
            run("wire.core", format!("7:{}/tcp", bytes.address().port()))?,
        ];
        bank.announced("ledger.core", 1).await?;
        bank.announced("wire.core", 1).await?;
        let services = at_bank("ledger", "80/http", inbound(&bank, "ledger.core", 80).await?)
            + &at_bank("wire", "7/tcp", inbound(&bank, "wire.core", 7).await?);
        shop.apply(&(trust(BANK, &format!("bundle: {}", bundle(&bank).await?)) + &services)).await?;
        bank.apply(&trust(SHOP, &format!("bundle: '{}'", bundle(&shop).await?))).await?;
        let (ledger, wire) = ([Port::free()?, Port::free()?], Port::free()?);
        for (account, at) in [("buyer", &ledger[0]), ("thief", &ledger[1])] {
            let client = shop.client().no_capture().upstream(&format!("their-ledger.shop:80={}", at.address()));
            let client = client.option("--namespace").option("shop").option("--account").option(account);
            let client = if account == "buyer" { client.upstream(&format!("their-wire.shop:7={}", wire.address())) } else { client };
            running.push(client.start(["sleep", "1000"])?);
        }
        Ok(Self { bank, shop, ledger, wire, _running: running, _ledger: echo, _wire: bytes })
    }

    fn both(&self) -> [&Mesh; 2] {
        [&self.bank, &self.shop]
    }

    fn buyer() -> String {
        format!("'spiffe://{SHOP}/ns/shop/sa/buyer'")
    }

    async fn finish(self) -> anyhow::Result<()> {
        self.shop.finish().await?;
        self.bank.finish().await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_foreign_caller_gets_in_where_a_policy_names_it_and_as_long_as_its_mesh_is_trusted() -> anyhow::Result<()> {
    let both = Both::start(of(SHOP).start().await?).await?;
    let [buyer, thief] = both.ledger.each_ref().map(Port::address);
    // Known, and named by nobody.
    let reply = answers(both.both(), buyer, 403).await?;
    assert_eq!((reply.header("x-lorica-reason"), reply.header("x-lorica-policy")), (Some("access_denied"), None));
    // `*` means the mesh's own.
    both.bank.apply(&allow("ledger", "'*'")).await?;
    answers(both.both(), buyer, 403).await?;
    both.bank.apply(&(allow("ledger", &Both::buyer()) + &allow("wire", &Both::buyer()))).await?;
    answers(both.both(), buyer, 200).await?;
    let denied = answers(both.both(), thief, 403).await?;
    // Another mesh learns nothing of how it is protected.
    assert_eq!(denied.header("x-lorica-policy"), None);

    let mut bytes = eventually("bytes come back", PATIENCE, || async {
        let mut connection = Connection::open(both.wire.address()).await?;
        connection.write(b"one\n").await?;
        ensure!(connection.read_until(b"\n").await? == b"one\n");
        Ok(connection)
    })
    .await
    .with_context(|| both.bank.last_words())?;
    both.bank.lorica(["delete", "trustbundle", "shop"]).await?.success()?;
    // What was open is judged again, and what is new is not verified.
    assert!(bytes.cut_off().await?.is_empty());
    let refused = eventually("calls are refused", PATIENCE, || async {
        // By TLS where the connection is new, and where it was open by who is called.
        let reply = http_get(buyer, "ledger", "/").await?;
        ensure!(matches!(reply.status.as_u16(), 403 | 503), "{} {}", reply.status, reply.text());
        let mut connection = Connection::open(both.wire.address()).await?;
        connection.write(b"one\n").await?;
        ensure!(connection.cut_off().await?.is_empty());
        Ok(())
    });
    refused.await.with_context(|| both.bank.last_words())?;
    both.bank.apply(&trust(SHOP, &format!("bundle: '{}'", bundle(&both.shop).await?))).await?;
    answers(both.both(), buyer, 200).await?;

    // And the other way round: who is not known is not called.
    both.shop.lorica(["delete", "trustbundle", "bank"]).await?.success()?;
    answers(both.both(), buyer, 503).await?;
    both.finish().await
}

#[tokio::test]
async fn nobody_speaks_for_another_trust_domain() -> anyhow::Result<()> {
    let root = Authority::create(TrustDomain::new(SHOP)?, SystemTime::now())?.to_record();
    let own = OwnCa { root_certificate: root.root_certificate_pem.clone(), root_key: root.root_key_pem.clone(), intermediate: None };
    let place = tempfile::tempdir()?;
    let (certificate, key) = (place.path().join("root.pem"), place.path().join("root.key"));
    std::fs::write(&certificate, &own.root_certificate)?;
    std::fs::write(&key, own.root_key.as_ref().map(SecretPem::expose).unwrap_or_default())?;
    std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    let shop = of(SHOP).control_option("--ca-root-cert").control_option(&certificate).control_option("--ca-root-key").control_option(&key);
    let both = Both::start(shop.start().await?).await?;
    both.bank.apply(&(allow("ledger", &Both::buyer()) + &allow("wire", &format!("{}, ledger, '*'", Both::buyer())))).await?;
    answers(both.both(), both.ledger[0].address(), 200).await?;

    let wire = inbound(&both.bank, "wire.core", 7).await?;
    let bank_roots = Bundle::from_pem(TrustDomain::new(BANK)?, both.root(&both.bank).await?.as_str())?;
    // The shop's CA makes what it likes: of itself, it is believed; of the bank, it is not.
    let said = async |id: &str| -> anyhow::Result<Vec<u8>> {
        let id: SpiffeId = id.parse()?;
        let forger = Authority::own(id.trust_domain(), &own, SystemTime::now())?;
        let key = KeyPair::generate()?;
        let chain = forger.sign(&key.request(&id)?, &Grant::new(id.clone()), SystemTime::now())?;
        let svid = Arc::new(Svid::new(&chain, key)?);
        let trusts = if id.trust_domain() == bank_roots.trust_domain() {
            bank_roots.clone()
        } else {
            forger.bundle().clone().federated_with([bank_roots.clone()])
        };
        let epoch = TlsEpoch::new(svid, Arc::new(trusts))?;
        let config = epoch.client_config(&[], &AcceptedIdentities::new([format!("spiffe://{BANK}/ns/core/sa/wire").parse()?]));
        let name = ServerName::try_from("7.wire.core.mesh")?;
        let mut stream = TlsConnector::from(config).connect(name, TcpStream::connect(wire).await?).await?;
        stream.write_all(b"one").await?;
        let mut answer = vec![0; 3];
        stream.read_exact(&mut answer).await?;
        Ok(answer)
    };
    assert_eq!(said(&format!("spiffe://{SHOP}/ns/shop/sa/buyer")).await.with_context(|| both.bank.last_words())?, b"one");
    for forged in ["spiffe://bank.example/ns/core/sa/ledger", "spiffe://bank.example/lorica/control"] {
        assert!(said(forged).await.is_err(), "{forged}");
    }
    both.finish().await
}

impl Both {
    /// The root of a mesh in PEM.
    async fn root(&self, mesh: &Mesh) -> anyhow::Result<String> {
        let status: serde_json::Value = mesh.lorica(["ca", "status", "-o", "json"]).await?.success()?.json()?;
        Ok(status["roots"][0]["certificate"].as_str().context("no root")?.to_owned())
    }
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_where_it_is_written() -> anyhow::Result<()> {
    let mesh = of(BANK).start().await?;
    let own = trust(BANK, &format!("bundle: {}", bundle(&mesh).await?));
    let refused = mesh.lorica_with_input(["apply", "-f", "-"], Some(&own)).await?;
    assert!(refused.code() == 1 && refused.stderr.contains("bank.example is the mesh's own trust domain"), "{}", refused.stderr);
    let good = trust(SHOP, &format!("bundle: {}", bundle(&mesh).await?));
    mesh.apply(&good).await?;
    let twice = mesh.lorica_with_input(["apply", "-f", "-"], Some(&good.replace("name: shop", "name: other"))).await?;
    assert!(twice.code() == 1 && twice.stderr.contains("the TrustBundle `shop` is of shop.example already"), "{}", twice.stderr);
    let shown = mesh.lorica(["get", "tb"]).await?.success()?.stdout;
    assert!(shown.contains("shop.example") && shown.contains("written"), "{shown}");
    mesh.finish().await
}
