//! What endpoints are believed, and what is made of those that lie, are silent, or are somebody else.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use ::bytes::Bytes;
use anyhow::ensure;
use http::Response;
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use testbed::{PATIENCE, Port, eventually};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;

use super::meshes::{BANK, SHOP, bundle, fetched, of, shows, trust};

/// A server of the web that tells whatever document it is given. It ends when dropped.
struct Server {
    address: SocketAddr,
    tells: Arc<Mutex<String>>,
    certificate: String,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    async fn start(document: String) -> anyhow::Result<Self> {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
        let key = made.signing_key.serialize_der().try_into().map_err(|error| anyhow::anyhow!("{error}"))?;
        let config = ServerConfig::builder().with_no_client_auth().with_single_cert(vec![made.cert.der().clone()], key)?;
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let (address, tells) = (listener.local_addr()?, Arc::new(Mutex::new(document)));
        let told = tells.clone();
        let task = tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let Ok(tls) = acceptor.accept(tcp).await else { continue };
                let answer = service_fn(|_| {
                    let answer = Response::new(Full::<Bytes>::from(told.lock().unwrap().clone()));
                    async move { Ok::<_, std::convert::Infallible>(answer) }
                });
                let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(tls), answer).await;
            }
        });
        Ok(Self { address, tells, certificate: made.cert.pem(), task })
    }

    fn tell(&self, document: &Value) {
        *self.tells.lock().unwrap() = document.to_string();
    }

    fn endpoint(&self) -> String {
        format!("endpoint: {{url: 'https://localhost:{}/', profile: Web, allowPrivateAddresses: true}}", self.address.port())
    }
}

/// A bundle of the bank's with another sequence, to be fetched again at once.
fn with_sequence(bundle: &Value, sequence: u64) -> Value {
    let mut bundle = bundle.clone();
    bundle["spiffe_sequence"] = sequence.into();
    bundle["spiffe_refresh_hint"] = 1.into();
    bundle
}

#[tokio::test]
async fn an_older_bundle_and_an_empty_one_are_not_taken_and_the_last_one_survives_a_restart() -> anyhow::Result<()> {
    let bank = of(BANK).start().await?;
    let document = bundle(&bank).await?;
    let server = Server::start(with_sequence(&document, 7).to_string()).await?;
    let place = tempfile::tempdir()?;
    let trusted = place.path().join("web.pem");
    std::fs::write(&trusted, &server.certificate)?;
    let shop = of(SHOP).env("SSL_CERT_FILE", &trusted).start().await?;
    shop.apply(&trust(BANK, &server.endpoint())).await?;
    shows(&shop, BANK, "the bundle is fetched", |status| status["sequence"] == 7 && fetched(status).0 == "True").await?;
    for (told, why) in [
        (with_sequence(&document, 6), "its sequence is 6, and that of the bundle in force is 7: it is older"),
        (json!({"keys": [], "spiffe_sequence": 8}), "the bundle has no root"),
        (json!({"keys": [{"kty": "EC", "use": "x509-svid", "x5c": ["AQID"]}], "spiffe_sequence": 8}), "is no root"),
    ] {
        server.tell(&told);
        let said = shows(&shop, BANK, why, |status| fetched(status).0 == "False" && fetched(status).1.contains(why)).await?;
        assert_eq!((&said["status"]["sequence"], &said["status"]["roots"]), (&json!(7), &json!(1)));
        assert!(said["status"]["failingSince"].is_string() && said["status"]["nextFetchAt"].is_string(), "{said:#}");
    }
    server.tell(&with_sequence(&document, 9));
    shows(&shop, BANK, "a newer one is taken", |status| status["sequence"] == 9 && fetched(status).0 == "True").await?;

    drop(server);
    shows(&shop, BANK, "the endpoint is gone", |status| fetched(status).0 == "False").await?;
    shop.kill_control().await?;
    shop.start_control().await?;
    let said = shows(&shop, BANK, "and still is", |status| fetched(status).0 == "False").await?;
    assert_eq!((&said["status"]["sequence"], &said["status"]["roots"]), (&json!(9), &json!(1)));
    shop.finish().await?;
    bank.finish().await
}

#[tokio::test]
async fn an_endpoint_must_be_who_it_is_said_to_be() -> anyhow::Result<()> {
    let end = Port::free()?;
    let bank = of(BANK).control_option("--bundle-endpoint").control_option(end.address().to_string()).start().await?;
    let shop = of(SHOP).start().await?;
    let document = bundle(&bank).await?;
    let spiffe = |document: &Value, id: &str, private: bool| {
        let url = format!("https://127.0.0.1:{}/", end.number());
        format!("bundle: {document}, endpoint: {{url: '{url}', profile: Spiffe, spiffeId: '{id}', allowPrivateAddresses: {private}}}")
    };
    let good = format!("spiffe://{BANK}/lorica/control");
    let others = bundle(&shop).await?;
    for (spec, why) in [
        (spiffe(&document, &format!("spiffe://{BANK}/other"), true), "expected was spiffe://bank.example/other".to_owned()),
        // Verified by the roots of somebody else.
        (spiffe(&others, &good, true), format!("which no authority of {BANK} stands behind")),
        (spiffe(&document, &good, false), "allowPrivateAddresses".to_owned()),
        (
            spiffe(&document, &good, true).replace(&format!("{}/", end.number()), &format!("{}/other", end.number())),
            "answers 404".to_owned(),
        ),
    ] {
        shop.apply(&trust(BANK, &spec)).await?;
        shows(&shop, BANK, &why, |status| fetched(status).0 == "False" && fetched(status).1.contains(&why)).await?;
    }
    shop.apply(&trust(BANK, &spiffe(&document, &good, true))).await?;
    let said = shows(&shop, BANK, "the right one is believed", |status| fetched(status).0 == "True").await?;
    assert_eq!(said["status"]["sequence"], document["spiffe_sequence"]);
    shop.finish().await?;
    bank.finish().await
}

#[tokio::test]
async fn the_endpoint_is_read_only_and_its_sequence_survives_a_restart() -> anyhow::Result<()> {
    let web = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
    let end = Port::free()?;
    let place = tempfile::tempdir()?;
    let (chain, key) = (place.path().join("web.pem"), place.path().join("web.key"));
    std::fs::write(&chain, web.cert.pem())?;
    std::fs::write(&key, web.signing_key.serialize_pem())?;
    std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    let options = of(BANK).control_option("--bundle-endpoint").control_option(end.address().to_string());
    let options = options.control_option("--bundle-endpoint-cert").control_option(&chain).control_option("--bundle-endpoint-key");
    let mesh = options.control_option(&key).start().await?;
    let ask = async |method: &str, path: &str| {
        let request = http::Request::builder().method(method).uri(path).header("host", "localhost").body(Full::default())?;
        testbed::https_send(end.address(), web.cert.der(), "localhost", request).await
    };
    let served = ask("GET", "/").await?;
    assert_eq!((served.status.as_u16(), served.header("content-type")), (200, Some("application/json")));
    let document: Value = served.json()?;
    assert_eq!(document, bundle(&mesh).await?);
    assert_eq!(document["spiffe_refresh_hint"], 300);
    assert_eq!(ask("GET", "/other").await?.status, 404);
    assert_eq!(ask("POST", "/").await?.status, 405);
    mesh.kill_control().await?;
    mesh.start_control().await?;
    eventually("it is served again, as it was", PATIENCE, || async {
        let again: Value = ask("GET", "/").await?.json()?;
        ensure!(again == document, "{again:#}");
        Ok(())
    })
    .await?;
    mesh.lorica(["ca", "rotate"]).await?.success()?;
    let rotating: Value = ask("GET", "/").await?.json()?;
    assert!(rotating["spiffe_sequence"].as_u64() > document["spiffe_sequence"].as_u64(), "{rotating:#}");
    assert_eq!(roots(&rotating), 2);
    mesh.lorica(["ca", "rotate", "--rollback"]).await?.success()?;
    let back: Value = ask("GET", "/").await?.json()?;
    assert!(back["spiffe_sequence"].as_u64() > rotating["spiffe_sequence"].as_u64() && roots(&back) == 1, "{back:#}");
    mesh.finish().await
}

fn roots(document: &Value) -> usize {
    document["keys"].as_array().into_iter().flatten().filter(|key| key["use"] == "x509-svid").count()
}
