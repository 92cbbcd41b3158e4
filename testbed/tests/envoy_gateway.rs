//! A stock Envoy runs a Gateway under Lorica's control plane, with the bootstrap that `lorica envoy bootstrap --gateway` prints. In flow
//! resources and requests; out flow answers, certificates shown on both sides, what Envoy counted, and what the control plane says of it.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use testbed::{Echo, EchoServer, Envoy, Mesh, PATIENCE, Reply, eventually, http_get, http_send, https_send, service};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};

/// What Envoy must have asked for and not refused.
const KINDS: [&str; 3] = ["listener_manager.lds.", "cluster_manager.cds.", ".rds."];

/// A Gateway `edge.shop`; `spec`: what follows its class.
fn gateway(spec: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: edge, namespace: shop}}\nspec:\n  gatewayClassName: lorica\n{spec}---\n"
    )
}

/// All requests to `edge.shop` go to a service.
fn route(service: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: all, namespace: shop}}\nspec:\n  parentRefs: [{{name: edge}}]\n  rules: [{{backendRefs: [{{name: {service}, port: 80}}]}}]\n---\n"
    )
}

/// A root and what it signs.
struct Root {
    certificate: rcgen::Certificate,
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
}

/// A chain and its key, as PEM.
struct Issued {
    chain: String,
    key: String,
}

impl Root {
    fn new() -> anyhow::Result<Self> {
        let key = rcgen::KeyPair::generate()?;
        let mut params = rcgen::CertificateParams::new(Vec::new())?;
        // With one name for both, a leaf would look signed by itself.
        params.distinguished_name.push(rcgen::DnType::CommonName, "a root");
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key)?;
        Ok(Self { certificate, issuer: rcgen::Issuer::new(params, key) })
    }

    fn issue(&self, name: &str) -> anyhow::Result<Issued> {
        let key = rcgen::KeyPair::generate()?;
        let made = rcgen::CertificateParams::new(vec![name.to_owned()])?.signed_by(&key, &self.issuer)?;
        Ok(Issued { chain: made.pem(), key: key.serialize_pem() })
    }

    fn trusted(&self) -> CertificateDer<'static> {
        self.certificate.der().clone()
    }
}

fn indented(pem: &str) -> String {
    pem.lines().map(|line| format!("    {line}\n")).collect()
}

fn secret(name: &str, issued: &Issued) -> String {
    format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}, namespace: shop}}\ntype: kubernetes.io/tls\nstringData:\n  tls.crt: |\n{}  tls.key: |\n{}---\n",
        indented(&issued.chain),
        indented(&issued.key)
    )
}

async fn ask(address: SocketAddr, trusted: &CertificateDer<'static>, host: &str) -> anyhow::Result<Reply> {
    https_send(address, trusted, host, Request::get("/").header("host", host).body(Full::default())?).await
}

async fn status(mesh: &Mesh) -> anyhow::Result<Value> {
    let shown = mesh.lorica(["get", "gateway", "edge", "-n", "shop", "-o", "json"]).await?.success()?.json()?;
    Ok(shown["status"].clone())
}

#[tokio::test]
async fn envoy_runs_a_gateway() -> anyhow::Result<()> {
    let mesh = Mesh::start().await?;
    let (one, two) = (EchoServer::start("one").await?, EchoServer::start("two").await?);
    let listeners = "  listeners: [{name: http, port: 80, protocol: HTTP}]\n";
    mesh.apply(&(service("one", "http", one.address()) + &service("two", "http", two.address()) + &gateway(listeners) + &route("one")))
        .await?;
    let Some(envoy) = Envoy::start(&mesh, &["--gateway", "edge.shop", "--bind", "80=0", "--access-log", "envoy.log"]).await? else {
        return mesh.finish().await;
    };
    let at = envoy.bound(80)?;
    let request =
        Request::get("/x?y=z").header("host", "a.example:8080").header("x-request-id", "one-request").header("user-agent", "test");
    let echo: Echo = http_send(at, request.body(Full::default())?).await?.json()?;
    assert_eq!((echo.server.as_str(), echo.path.as_str(), echo.host.as_str()), ("one", "/x?y=z", "a.example:8080"));

    let told = status(&mesh).await?;
    assert_eq!((&told["conditions"][1]["status"], &told["addresses"][0]["value"]), (&"True".into(), &"127.0.0.1".into()), "{told:#}");

    // The log has the keys of Lorica's own.
    let line = eventually("the request is logged", PATIENCE, || async {
        let log = std::fs::read_to_string(mesh.home().join("envoy.log"))?;
        let line = log.lines().find(|line| line.contains("one-request")).context("no such line")?;
        Ok(serde_json::from_str::<Value>(line)?)
    })
    .await?;
    for (key, value) in [
        ("method", "GET".into()),
        ("path", "/x?y=z".into()),
        ("protocol", "HTTP/1.1".into()),
        ("response_code", 200.into()),
        ("response_flags", "-".into()),
        ("authority", "a.example:8080".into()),
        ("user_agent", "test".into()),
        ("upstream_host", one.address().to_string().into()),
        ("upstream_cluster", "one.shop.mesh:80".into()),
        ("route_name", "HTTPRoute/all.shop rule 0".into()),
        ("attempts", Value::from(1)),
    ] {
        assert_eq!(line[key], value, "{key}: {line:#}");
    }

    // Only what the gateway leads to is known to Envoy, and a route's change replaces no listener.
    let clusters = http_get(envoy.admin, "admin", "/clusters").await?.text();
    assert!(clusters.contains("one.shop.mesh:80::") && !clusters.contains("two.shop.mesh:80::"), "{clusters}");
    let receipt = mesh.apply(&route("two")).await?;
    assert!(receipt.stdout.contains("applied: 1 of 1"), "{}{}", receipt.stdout, receipt.stderr);
    eventually("requests go the new way", PATIENCE, || async {
        let echo: Echo = http_get(at, "a.example", "/").await?.json()?;
        ensure!(echo.server == "two", "{} answers", echo.server);
        Ok(())
    })
    .await?;
    assert_eq!(envoy.counter("listener_manager.listener_modified").await?, 0);
    envoy.refused_nothing(&mesh, &KINDS).await?;
    envoy.running.stop().await?;
    mesh.finish().await
}

#[tokio::test]
async fn a_renewed_certificate_ends_no_connection_of_envoy() -> anyhow::Result<()> {
    let mesh = Mesh::start().await?;
    let one = EchoServer::start("one").await?;
    let (root, other, files) = (Root::new()?, Root::new()?, Root::new()?);
    let filed = files.issue("files.example")?;
    let (chain, key) = (mesh.write("chain.pem", &filed.chain)?, mesh.write("key.pem", &filed.key)?);
    let listeners = "  listeners:
  - {name: a, port: 443, protocol: HTTPS, hostname: a.example, tls: {certificateRefs: [{name: a}]}}
  - {name: files, port: 443, protocol: HTTPS, hostname: files.example, tls: {certificateRefs: [{name: files}]}}
";
    let in_files = format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: files, namespace: shop}}\ntype: lorica.io/tls-files\nstringData: {{certificate: {}, key: {}}}\n---\n",
        chain.display(),
        key.display()
    );
    let certificate = secret("a", &root.issue("a.example")?);
    mesh.apply(&(service("one", "http", one.address()) + &certificate + &in_files + &gateway(listeners) + &route("one"))).await?;
    let Some(envoy) = Envoy::start(&mesh, &["--gateway", "edge.shop", "--bind", "443=0"]).await? else { return mesh.finish().await };
    let at = envoy.bound(443)?;
    assert_eq!(ask(at, &root.trusted(), "a.example").await?.status, 200);
    assert_eq!(ask(at, &files.trusted(), "files.example").await?.status, 200);

    let mut kept = kept(at, &root.trusted(), "a.example").await?;
    assert_eq!(again(&mut kept).await?, 200);
    let receipt = mesh.apply(&secret("a", &other.issue("a.example")?)).await?;
    assert!(receipt.stdout.contains("applied: 1 of 1"), "{}{}", receipt.stdout, receipt.stderr);
    let trusted = other.trusted();
    eventually("the renewed certificate is shown", PATIENCE, || ask(at, &trusted, "a.example")).await?;
    assert_eq!(again(&mut kept).await?, 200, "the connection from before goes on");
    for counter in ["listener_modified", "listener_in_place_updated"] {
        assert_eq!(envoy.counter(&format!("listener_manager.{counter}")).await?, 0, "{counter}");
    }
    // No private key is in the listener.
    let listeners = http_get(envoy.admin, "admin", "/config_dump?resource=dynamic_listeners").await?.text();
    assert!(listeners.contains("\"a.shop\"") && !listeners.contains("PRIVATE") && !listeners.contains("private_key"), "{listeners}");
    envoy.refused_nothing(&mesh, &KINDS).await?;
    envoy.running.stop().await?;
    mesh.finish().await
}

type Kept = hyper::client::conn::http1::SendRequest<Full<Bytes>>;

/// A connection by TLS on which several requests are sent.
async fn kept(address: SocketAddr, trusted: &CertificateDer<'static>, name: &str) -> anyhow::Result<Kept> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.clone())?;
    let config = tokio_rustls::rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let tls = tokio_rustls::TlsConnector::from(Arc::new(config))
        .connect(name.to_owned().try_into()?, tokio::net::TcpStream::connect(address).await?);
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(tls.await?)).await?;
    tokio::spawn(async move { drop(connection.await) });
    Ok(sender)
}

async fn again(kept: &mut Kept) -> anyhow::Result<u16> {
    kept.ready().await?;
    let answer = kept.send_request(Request::get("/").header("host", "a.example").body(Full::default())?).await?;
    let status = answer.status().as_u16();
    http_body_util::BodyExt::collect(answer.into_body()).await?;
    Ok(status)
}

/// A backend that speaks TLS 1.3 only, and takes nobody without a certificate of `clients`. It answers with the names that were asked for and shown.
async fn tls_backend(shown: &Issued, clients: &Root) -> anyhow::Result<SocketAddr> {
    let mut roots = RootCertStore::empty();
    roots.add(clients.trusted())?;
    let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).build()?;
    let chain = CertificateDer::pem_slice_iter(shown.chain.as_bytes()).collect::<Result<_, _>>()?;
    let config = ServerConfig::builder_with_protocol_versions(&[&tokio_rustls::rustls::version::TLS13]);
    let config =
        config.with_client_cert_verifier(verifier).with_single_cert(chain, PrivateKeyDer::from_pem_slice(shown.key.as_bytes())?)?;
    let (acceptor, listener) = (TlsAcceptor::from(Arc::new(config)), TcpListener::bind("127.0.0.1:0").await?);
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                // What a peer does wrong shows in the answer that it gets.
                let Ok(tls) = acceptor.accept(stream).await else { return };
                let name = tls.get_ref().1.server_name().unwrap_or_default().to_owned();
                let service = service_fn(move |_| {
                    let name = name.clone();
                    async move { Ok::<_, std::convert::Infallible>(http::Response::new(Full::new(Bytes::from(name)))) }
                });
                drop(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(tls), service).await);
            });
        }
    });
    Ok(address)
}

#[tokio::test]
async fn backends_by_tls_are_held_to_their_policy_by_both_proxies() -> anyhow::Result<()> {
    let mesh = Mesh::start().await?;
    let (root, clients) = (Root::new()?, Root::new()?);
    let (good, wrong) =
        (tls_backend(&root.issue("inner.example")?, &clients).await?, tls_backend(&root.issue("other.example")?, &clients).await?);
    let policy = |name: &str| {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: BackendTLSPolicy\nmetadata: {{name: {name}, namespace: shop}}\nspec:\n  targetRefs: [{{group: '', kind: Service, name: {name}}}]\n  validation: {{hostname: inner.example, caCertificateRefs: [{{group: '', kind: ConfigMap, name: roots}}]}}\n---\n"
        )
    };
    let roots = format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: roots, namespace: shop}}\ndata:\n  ca.crt: |\n{}---\n",
        indented(&root.certificate.pem())
    );
    let rules = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: all, namespace: shop}\nspec:\n  parentRefs: [{name: edge}]\n  rules:\n  - matches: [{path: {value: /wrong}}]\n    backendRefs: [{name: wrong, port: 80}]\n  - backendRefs: [{name: good, port: 80}]\n---\n";
    let listeners = "  listeners: [{name: http, port: 80, protocol: HTTP}]\n";
    let shows = |name: &str| gateway(&format!("{listeners}  tls: {{backend: {{clientCertificateRef: {{name: {name}}}}}}}\n"));
    let text = service("good", "http", good)
        + &service("wrong", "http", wrong)
        + &policy("good")
        + &policy("wrong")
        + &roots
        + &secret("own", &clients.issue("edge.example")?)
        + &secret("strange", &root.issue("edge.example")?)
        + &shows("own")
        + rules;
    mesh.apply(&text).await?;
    let Some(envoy) = Envoy::start(&mesh, &["--gateway", "edge.shop", "--bind", "80=0"]).await? else { return mesh.finish().await };
    let lorica = mesh.start_binary("a gateway", ["proxy", "--gateway", "edge.shop", "--bind", "80=0"], Vec::new(), None)?;
    let line = lorica.line("serving: port 80 on ").await?;
    let places = [envoy.bound(80)?, line.rsplit(" on ").next().unwrap_or_default().parse()?];
    for at in places {
        let reply = http_get(at, "a", "/").await?;
        assert_eq!((reply.status.as_u16(), reply.text().as_str()), (200, "inner.example"), "{at}");
        // Its certificate has another name.
        assert_eq!(http_get(at, "a", "/wrong").await?.status, 503, "{at}");
    }
    // Another certificate of the gateway's, which backends do not take.
    mesh.apply(&shows("strange")).await?;
    for at in places {
        eventually("the other certificate is shown", PATIENCE, || async {
            let reply = http_get(at, "a", "/").await?;
            ensure!(reply.status == 503, "{at}: {} {}", reply.status, reply.text());
            Ok(())
        })
        .await?;
    }
    // It is changed within its Secret: to one that they take.
    mesh.apply(&secret("strange", &clients.issue("edge.example")?)).await?;
    for at in places {
        eventually("the renewed certificate is shown", PATIENCE, || async {
            let reply = http_get(at, "a", "/").await?;
            ensure!(reply.status == 200, "{at}: {} {}", reply.status, reply.text());
            Ok(())
        })
        .await?;
    }
    envoy.refused_nothing(&mesh, &KINDS).await?;
    lorica.stop().await?;
    envoy.running.stop().await?;
    mesh.finish().await
}
