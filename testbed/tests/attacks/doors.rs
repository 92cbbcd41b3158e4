//! The three doors that an attacker may stand at, each with the same app behind it: the inbound side of a sidecar in mutual TLS, a gateway, and
//! the hop that an app calls out by.

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::{Context as _, ensure};
use lorica_identity::files::IdentityFiles;
use lorica_identity::{AcceptedIdentities, Authority, Grant, KeyPair, Svid, TlsEpoch};
use lorica_model::spiffe::{SpiffeId, TrustDomain};
use testbed::{Mesh, PATIENCE, Proxy, gateway, route, service};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;

use super::backend::{Backend, Seen};

/// Bytes both ways.
pub(super) trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Duplex for T {}

/// Where an attacker stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Door {
    /// A workload of the mesh before another's sidecar.
    Inbound,
    /// Anybody before a gateway.
    Gateway,
    /// An app before its own sidecar.
    Hop,
}

impl Door {
    pub(super) const ALL: [Self; 3] = [Self::Inbound, Self::Gateway, Self::Hop];
}

/// Who signs in these tests.
pub(super) struct Identities {
    pub(super) authority: Authority,
}

/// The identity of an account of `shop`.
pub(super) fn id(account: &str) -> SpiffeId {
    format!("spiffe://mesh.local/ns/shop/sa/{account}").parse().unwrap()
}

impl Identities {
    pub(super) fn new() -> anyhow::Result<Self> {
        Ok(Self { authority: Authority::create(TrustDomain::default(), SystemTime::now())? })
    }

    pub(super) fn svid(&self, account: &str) -> anyhow::Result<Svid> {
        let (key, grant) = (KeyPair::generate()?, Grant::new(id(account)));
        let chain = self.authority.sign(&key.request(&grant.id)?, &grant, SystemTime::now())?;
        Ok(Svid::new(&chain, key)?)
    }

    /// Writes the files of an identity into a directory.
    pub(super) fn give(&self, directory: &Path, account: &str) -> anyhow::Result<()> {
        let files = IdentityFiles::new(directory);
        files.save_bundle(self.authority.bundle())?;
        files.save_svid(&self.svid(account)?)?;
        Ok(())
    }

    /// How an honest workload calls `web.shop`.
    pub(super) fn honest(&self, account: &str, alpn: &[&[u8]]) -> anyhow::Result<Arc<ClientConfig>> {
        let epoch = TlsEpoch::new(Arc::new(self.svid(account)?), Arc::new(self.authority.bundle().clone()))?;
        Ok(epoch.client_config(alpn, &AcceptedIdentities::new([id("web")])))
    }
}

/// The app `web.shop`, and proxies before it.
pub(super) struct Doors {
    pub(super) mesh: Mesh,
    pub(super) backend: Backend,
    pub(super) identities: Identities,
    proxies: Vec<(Door, Proxy)>,
}

/// What comes last on a connection.
const LAST: &[u8] = b"GET /last HTTP/1.1\r\nhost: web.shop\r\nconnection: close\r\n\r\n";

/// What an attacker got: all bytes that came back, until the proxy closed.
pub(super) type Answer = Vec<u8>;

impl Doors {
    /// Opens these doors. `more`: what else users have written, beside service and routes.
    pub(super) async fn open(doors: &[Door], more: &str) -> anyhow::Result<Self> {
        let routes = route("HTTPRoute", "web", "  rules: [{backendRefs: [{name: web, port: 80}]}]\n");
        Self::with(doors, &(gateway("  - {name: http, port: 80, protocol: HTTP}\n") + &routes + more)).await
    }

    /// Opens these doors. `text`: what users have written, beside the service.
    pub(super) async fn with(doors: &[Door], text: &str) -> anyhow::Result<Self> {
        let mesh = Mesh::options().without_control()?;
        let (backend, identities) = (Backend::start().await?, Identities::new()?);
        identities.give(&mesh.home().join("web"), "web")?;
        let at = backend.address();
        mesh.write("mesh.yaml", service("web", "http", at) + text)?;
        let (port, inbound) = (format!("80:{}/http", at.port()), format!("{}=127.0.0.1:0", at.port()));
        let mut proxies = Vec::new();
        for door in doors {
            let arguments: Vec<&str> = match door {
                Door::Inbound => vec!["--identity", "web", "--service", "web.shop", "--port", &port, "--inbound", &inbound],
                Door::Gateway => vec!["--gateway", "edge.shop", "--bind", "80=0"],
                Door::Hop => vec!["--upstream", "web.shop:80=127.0.0.1:0"],
            };
            let arguments = ["--config", "mesh.yaml"].into_iter().chain(arguments);
            proxies.push((*door, Proxy::start(&mesh, arguments).await?));
        }
        Ok(Self { mesh, backend, identities, proxies })
    }

    pub(super) fn proxy(&self, door: Door) -> &Proxy {
        let found = self.proxies.iter().find(|(at, _)| *at == door);
        found.map(|(_, proxy)| proxy).unwrap()
    }

    /// A connection to a door, as an honest caller makes it.
    pub(super) async fn connect(&self, door: Door, alpn: &[u8]) -> anyhow::Result<Box<dyn Duplex>> {
        let tcp = TcpStream::connect(self.proxy(door).address()).await?;
        if door != Door::Inbound {
            return Ok(Box::new(tcp));
        }
        let config = self.identities.honest("cart", &[alpn])?;
        Ok(Box::new(TlsConnector::from(config).connect(ServerName::try_from("80.web.shop.mesh")?, tcp).await?))
    }

    /// Sends bytes as HTTP/1, and gives what came back.
    pub(super) async fn send(&self, door: Door, bytes: &[u8]) -> anyhow::Result<Answer> {
        let mut stream = self.connect(door, b"http/1.1").await?;
        stream.write_all(bytes).await?;
        until_closed(&mut stream).await
    }

    /// Sends an attack, and behind it on its connection the last request; then an honest request by another connection. Gives the attack's
    /// answer and what the app saw. That nothing else was seen, and the last request as it was meant if at all, proves that the app and the
    /// proxy agree where the attack ended; and the honest one, that nothing of it is left on a connection that others use.
    pub(super) async fn attack(&self, door: Door, bytes: &[u8]) -> anyhow::Result<(Answer, Vec<Seen>)> {
        let answer = self.send(door, &[bytes, LAST].concat()).await?;
        Ok((answer, self.seen(door).await?))
    }

    /// What the app saw since this was last asked.
    pub(super) async fn seen(&self, door: Door) -> anyhow::Result<Vec<Seen>> {
        let honest = self.send(door, b"GET /honest HTTP/1.1\r\nhost: web.shop\r\nconnection: close\r\n\r\n").await?;
        let honest = text(&honest);
        ensure!(honest.starts_with("HTTP/1.1 200") && honest.ends_with("GET /honest HTTP/1.1"), "the next caller got {honest:?}");
        let seen = self.backend.take().into_iter().collect::<Result<Vec<_>, _>>();
        let mut seen = seen.map_err(|why| anyhow::anyhow!("the app could not read what came: {why}"))?;
        let last = seen.pop().context("the honest request did not reach the app")?;
        ensure!(last.path() == "/honest", "{seen:?} {last:?}");
        Ok(seen)
    }
}

/// Reads until the other side closes or resets.
pub(super) async fn until_closed(stream: &mut (impl AsyncRead + Unpin + ?Sized)) -> anyhow::Result<Answer> {
    let mut answer = Vec::new();
    let reading = async { while matches!(stream.read_buf(&mut answer).await, Ok(1..)) {} };
    let closed = timeout(PATIENCE, reading).await.is_ok();
    ensure!(closed, "the proxy neither answered nor closed, after {:?}", text(&answer));
    Ok(answer)
}

/// Bytes as text.
pub(super) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The status of the first answer; none where there is no answer.
pub(super) fn status(answer: &[u8]) -> Option<u16> {
    text(answer).strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()
}
