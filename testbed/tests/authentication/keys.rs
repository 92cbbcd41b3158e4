//! Key sets that are fetched: kept while their server is down, and asked for nowhere but where issuers are.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ::bytes::Bytes;
use http::Response;
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use testbed::{EchoServer, Mesh, PATIENCE, eventually, gateway, http_send, route, run_gateway};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;

use super::issuer::{ISSUER, Issuer};
use super::{bearer, policy, request, services};

/// An issuer's server, which answers one thing. It ends when dropped.
struct Server {
    address: SocketAddr,
    connections: Arc<AtomicU64>,
    certificate: String,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    async fn start(status: u16, location: Option<&'static str>, body: String) -> anyhow::Result<Self> {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
        let key = made.signing_key.serialize_der().try_into().map_err(|error| anyhow::anyhow!("{error}"))?;
        let config = ServerConfig::builder().with_no_client_auth().with_single_cert(vec![made.cert.der().clone()], key)?;
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let (address, connections) = (listener.local_addr()?, Arc::<AtomicU64>::default());
        let counted = connections.clone();
        let task = tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::Relaxed);
                let Ok(tls) = acceptor.accept(tcp).await else { continue };
                let answer = service_fn(|_| {
                    let mut answer = Response::builder().status(status);
                    if let Some(location) = location {
                        answer = answer.header("location", location);
                    }
                    let answer = answer.body(Full::<Bytes>::from(body.clone()));
                    async move { answer }
                });
                let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(tls), answer).await;
            }
        });
        Ok(Self { address, connections, certificate: made.cert.pem(), task })
    }

    fn url(&self) -> String {
        format!("https://localhost:{}/keys.json", self.address.port())
    }
}

fn fetching(url: &str, more: &str) -> String {
    policy(
        "users",
        &format!(
            "{{targetRefs: [{{kind: Gateway, name: edge}}], jwt: {{providers: [{{name: login, issuer: '{ISSUER}', audiences: [shop], jwks: {{url: '{url}'{more}}}}}]}}}}"
        ),
    )
}

fn edge(echo: &EchoServer) -> String {
    services(&[("web", echo.address())])
        + &gateway("  - {name: http, port: 80, protocol: HTTP}\n")
        + &route("HTTPRoute", "web", "  rules: [{backendRefs: [{name: web, port: 80}]}]\n")
}

async fn lets_in(at: SocketAddr, issuer: &Issuer) -> anyhow::Result<()> {
    let token = bearer(&issuer.token(json!({})));
    eventually("a token is taken", PATIENCE, || async {
        let reply = http_send(at, request("/", &[("authorization", &token)])?).await?;
        anyhow::ensure!(reply.status == 200, "{}", reply.text());
        Ok(())
    })
    .await
}

/// The condition of the policy that tells of its keys.
async fn keys_condition(mesh: &Mesh) -> anyhow::Result<Value> {
    let output = mesh.lorica(["get", "authn", "users", "-n", "shop", "-o", "json"]).await?;
    let text: Value = serde_json::from_str(&output.stdout)?;
    let item = text.get("items").and_then(|items| items.get(0)).unwrap_or(&text);
    let conditions = item["status"]["conditions"].as_array().cloned().unwrap_or_default();
    conditions.into_iter().find(|condition| condition["type"] == "KeysFetched").ok_or_else(|| anyhow::anyhow!("{}", output.stdout))
}

/// Waits until the policy's keys have failed to come for this reason.
async fn fails(mesh: &Mesh, why: &str) -> anyhow::Result<()> {
    eventually("the status says why", PATIENCE, || async {
        let condition = keys_condition(mesh).await?;
        let message = condition["message"].as_str().unwrap_or_default();
        anyhow::ensure!(condition["status"] == "False" && condition["reason"] == "KeysPending" && message.contains(why), "{condition}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_proxy_from_files_fetches_keys_and_keeps_them() -> anyhow::Result<()> {
    let (echo, issuer) = (EchoServer::start("web").await?, Issuer::new());
    let server = Server::start(200, None, issuer.keys()).await?;
    let roots = tempfile::NamedTempFile::new()?;
    std::fs::write(roots.path(), &server.certificate)?;
    let mesh = Mesh::options().env("SSL_CERT_FILE", roots.path()).without_control()?;
    let text = edge(&echo) + &fetching(&server.url(), ", allowPrivateAddresses: true");
    let (_proxy, at) = run_gateway(&mesh, &text, &[80], &[]).await?;
    lets_in(at[0], &issuer).await?;
    drop(server);
    let reply = http_send(at[0], request("/", &[("authorization", &bearer(&issuer.token(json!({"jti": "another"}))))])?).await?;
    assert_eq!(reply.status, 200, "keys outlive their server");
    mesh.finish().await
}

#[tokio::test]
async fn keys_outlive_their_server_and_the_control_plane() -> anyhow::Result<()> {
    let (echo, issuer) = (EchoServer::start("web").await?, Issuer::new());
    let server = Server::start(200, None, issuer.keys()).await?;
    let roots = tempfile::NamedTempFile::new()?;
    std::fs::write(roots.path(), &server.certificate)?;
    let mesh = Mesh::options().env("SSL_CERT_FILE", roots.path()).start().await?;
    mesh.apply(&(edge(&echo) + &fetching(&server.url(), ", allowPrivateAddresses: true"))).await?;
    let lorica = mesh.start_binary("a gateway", ["proxy", "--gateway", "edge.shop", "--bind", "80=0"], Vec::new(), None)?;
    let line = lorica.line("serving: ").await?;
    let place = line.split(" on ").nth(1).and_then(|rest| rest.split([',', ';']).next()).unwrap_or_default();
    let at: SocketAddr = place.trim().parse()?;
    lets_in(at, &issuer).await?;
    assert_eq!(keys_condition(&mesh).await?["status"], "True");
    drop(server);
    // One that starts while nobody has the keys to give knows them from before.
    mesh.stop_control().await?;
    lets_in(at, &issuer).await?;
    mesh.start_control().await?;
    eventually("the control plane tells of old keys", PATIENCE, || async {
        let condition = keys_condition(&mesh).await?;
        anyhow::ensure!(condition["reason"] == "KeysNotRenewed", "{condition}");
        Ok(())
    })
    .await?;
    lets_in(at, &issuer).await?;
    mesh.finish().await
}

#[tokio::test]
async fn keys_are_asked_for_nowhere_but_where_issuers_are() -> anyhow::Result<()> {
    let (echo, issuer) = (EchoServer::start("web").await?, Issuer::new());
    let moved = Server::start(302, Some("http://169.254.169.254/latest/meta-data"), String::new()).await?;
    let server = Server::start(200, None, issuer.keys()).await?;
    let large = Server::start(200, None, format!("{{\"keys\":[],\"more\":\"{}\"}}", "x".repeat(300 * 1024))).await?;
    let secret = Server::start(200, None, r#"{"keys":[{"kty":"oct","k":"c2VjcmV0"}]}"#.to_owned()).await?;
    let roots = tempfile::NamedTempFile::new()?;
    std::fs::write(roots.path(), [&*moved.certificate, &server.certificate, &large.certificate, &secret.certificate].concat())?;
    let mesh = Mesh::options().env("SSL_CERT_FILE", roots.path()).start().await?;
    mesh.apply(&(edge(&echo) + &fetching(&server.url(), ""))).await?;
    fails(&mesh, "which is of this host or of a private network").await?;
    assert_eq!(server.connections.load(Ordering::Relaxed), 0, "it was not even connected to");
    for (url, why) in [
        ("https://169.254.169.254/keys", "where no issuer is"),
        ("https://[::ffff:169.254.169.254]/keys", "where no issuer is"),
        ("https://0.0.0.0/keys", "where no issuer is"),
    ] {
        mesh.apply(&fetching(url, ", allowPrivateAddresses: true")).await?;
        fails(&mesh, why).await?;
    }
    for (server, why) in [
        (&moved, "the server answers 302: nobody follows it elsewhere"),
        (&large, "the answer is longer than 256 KiB"),
        (&secret, "is a secret"),
    ] {
        mesh.apply(&fetching(&server.url(), ", allowPrivateAddresses: true")).await?;
        fails(&mesh, why).await?;
    }
    mesh.finish().await
}
