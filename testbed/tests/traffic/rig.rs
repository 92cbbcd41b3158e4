//! A service `web.shop` with a policy, and the proxy of an app that calls it.

use std::net::SocketAddr;
use std::time::SystemTime;

use anyhow::ensure;
use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use lorica_identity::files::IdentityFiles;
use lorica_identity::{Authority, Grant, KeyPair, Svid};
use lorica_model::spiffe::TrustDomain;
use testbed::{HttpConnection, Mesh, PATIENCE, Proxy, Reply, eventually, http_get};

/// How an endpoint is reached.
pub(crate) const PLAINTEXT: &str = "Plaintext";

/// The service and its endpoints, whose port speaks `protocol`, with what a policy says.
pub(crate) fn resources(protocol: &str, endpoints: &[(SocketAddr, &str)], policy: &str) -> String {
    let mut text = format!(
        "apiVersion: lorica.io/v1alpha1\nkind: Service\nmetadata: {{name: web, namespace: shop}}\nspec: {{ports: [{{port: 80, appProtocol: {protocol}}}]}}\n"
    );
    for (number, (address, transport)) in endpoints.iter().enumerate() {
        text += &format!(
            "---\napiVersion: lorica.io/v1alpha1\nkind: Workload\nmetadata: {{name: web-{number}, namespace: shop}}\nspec: {{service: web, address: {}, ports: [{{servicePort: 80, port: {}}}], transport: {transport}}}\n",
            address.ip(),
            address.port()
        );
    }
    text + &format!(
        "---\napiVersion: lorica.io/v1alpha1\nkind: TrafficPolicy\nmetadata: {{name: web, namespace: shop}}\nspec: {{targetRefs: [{{name: web}}], {policy}}}\n"
    )
}

/// The proxy of a caller.
pub(crate) async fn caller(mesh: &Mesh, text: &str, more: &[&str]) -> anyhow::Result<Proxy> {
    mesh.write("mesh.yaml", text)?;
    Proxy::start(mesh, ["--config", "mesh.yaml", "--upstream", "web.shop:80=127.0.0.1:0"].iter().chain(more)).await
}

/// One authority, and directories of identities that it signs.
pub(crate) struct Identities {
    authority: Authority,
}

impl Identities {
    pub(crate) fn new() -> anyhow::Result<Self> {
        Ok(Self { authority: Authority::create(TrustDomain::default(), SystemTime::now())? })
    }

    /// Gives an account of the namespace `shop` an identity, in a directory of its name.
    pub(crate) fn give(&self, mesh: &Mesh, account: &str) -> anyhow::Result<()> {
        let key = KeyPair::generate()?;
        let grant = Grant::new(format!("spiffe://mesh.local/ns/shop/sa/{account}").parse()?);
        let chain = self.authority.sign(&key.request(&grant.id)?, &grant, SystemTime::now())?;
        let files = IdentityFiles::new(mesh.home().join(account));
        files.save_bundle(self.authority.bundle())?;
        files.save_svid(&Svid::new(&chain, key)?)?;
        Ok(())
    }
}

/// The proxy beside an app at `app`, whose port speaks `protocol`.
pub(crate) async fn callee(mesh: &Mesh, app: SocketAddr, protocol: &str) -> anyhow::Result<Proxy> {
    mesh.write("callee.yaml", resources(protocol, &[], ""))?;
    let (port, inbound) = (format!("80:{}/{protocol}", app.port()), format!("{}=127.0.0.1:0", app.port()));
    let serving = ["--config", "callee.yaml", "--identity", "web", "--service", "web.shop", "--port", &port, "--inbound", &inbound];
    Proxy::start(mesh, serving).await
}

pub(crate) fn request(path: &str) -> Request<Full<Bytes>> {
    Request::get(path).header("host", "web.shop").body(Full::default()).unwrap_or_default()
}

/// Many requests at once, each on a connection of its own.
pub(crate) async fn burst(address: SocketAddr, count: usize) -> anyhow::Result<Vec<tokio::task::JoinHandle<anyhow::Result<Reply>>>> {
    let mut connections = Vec::new();
    for _ in 0..count {
        connections.push(HttpConnection::open(address).await?);
    }
    Ok(connections.into_iter().map(|mut connection| tokio::spawn(async move { connection.send(request("/")).await })).collect())
}

/// The statuses of answers, with the reasons of those that the mesh gave.
pub(crate) async fn outcomes(requests: Vec<tokio::task::JoinHandle<anyhow::Result<Reply>>>) -> anyhow::Result<Vec<(u16, String)>> {
    let mut outcomes = Vec::new();
    for request in requests {
        let reply = request.await??;
        outcomes.push((reply.status.as_u16(), reply.header("x-lorica-reason").unwrap_or_default().to_owned()));
    }
    outcomes.sort();
    Ok(outcomes)
}

/// How often an outcome is among them.
pub(crate) fn count(outcomes: &[(u16, String)], status: u16, reason: &str) -> usize {
    outcomes.iter().filter(|(is, why)| (*is, why.as_str()) == (status, reason)).count()
}

/// One request's answer.
pub(crate) async fn ask(proxy: &Proxy) -> anyhow::Result<Reply> {
    http_get(proxy.address(), "web.shop", "/").await
}

/// What the proxy says of the service port on its page of endpoints.
pub(crate) async fn status(proxy: &Proxy) -> anyhow::Result<serde_json::Value> {
    let all: Vec<serde_json::Value> = http_get(proxy.metrics, "proxy", "/endpoints").await?.json()?;
    let web = all.into_iter().find(|port| port["servicePort"] == "web.shop.mesh:80");
    web.ok_or_else(|| anyhow::anyhow!("the page of endpoints does not have the service port"))
}

/// Waits until something on the page of endpoints holds.
pub(crate) async fn until(proxy: &Proxy, what: &str, holds: impl Fn(&serde_json::Value) -> bool) -> anyhow::Result<()> {
    eventually(what, PATIENCE, || async {
        let status = status(proxy).await?;
        ensure!(holds(&status), "{status:#}");
        Ok(())
    })
    .await
}

/// A sample of the proxy's metrics; 0 where nothing was counted.
pub(crate) async fn metric(proxy: &Proxy, sample: &str) -> anyhow::Result<u64> {
    let text = http_get(proxy.metrics, "proxy", "/metrics").await?.text();
    let line = text.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
    Ok(line.map(str::parse).transpose()?.unwrap_or(0))
}
