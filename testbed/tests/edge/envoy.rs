//! A stock Envoy that runs the gateway of a control plane.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use testbed::{Mesh, PATIENCE, Peer, Port, Running, eventually, http_get, left_out, peer};

/// An Envoy that runs `edge.shop`.
pub(crate) struct Envoy {
    running: Running,
    admin: SocketAddr,
    /// Where each listener port is.
    pub(crate) at: BTreeMap<u16, SocketAddr>,
    _ports: Vec<Port>,
}

impl Envoy {
    /// Starts one; ends when it listens. None: there is no Envoy here, and `what` was left out.
    pub(crate) async fn start(mesh: &Mesh, what: &str, ports: &[u16]) -> anyhow::Result<Option<Self>> {
        let binary = match peer(Peer::Envoy) {
            Ok(binary) => binary,
            Err(why) => {
                left_out(&format!("{what} through a stock Envoy: {why}"));
                return Ok(None);
            }
        };
        let admin = Port::free()?;
        let printed =
            mesh.lorica(["envoy", "bootstrap", "--namespace", "shop", "--admin", &admin.address().to_string()]).await?.success()?;
        let mut bootstrap: Value = serde_json::from_str(&printed.stdout)?;
        let held: Vec<Port> = ports.iter().map(|_| Port::free()).collect::<Result<_, _>>()?;
        let at: BTreeMap<u16, SocketAddr> = ports.iter().copied().zip(held.iter().map(Port::address)).collect();
        let node = &mut bootstrap["node"]["metadata"]["lorica"];
        ensure!(node.is_object(), "the bootstrap says nothing of its node: {}", printed.stdout);
        node["gateway"] = json!("edge.shop");
        node["gateway_binds"] =
            at.iter().map(|(port, address)| (port.to_string(), json!(address))).collect::<serde_json::Map<_, _>>().into();
        let file = mesh.write("envoy.json", bootstrap.to_string())?;
        let file = file.to_str().context("the path of the bootstrap is not UTF-8")?;
        // Two Envoys of one machine would otherwise share memory.
        let running = mesh.start_outside(binary, ["-c", file, "--disable-hot-restart", "--concurrency", "1", "--log-level", "warning"])?;
        let envoy = Self { running, admin: admin.address(), at, _ports: held.into_iter().chain([admin]).collect() };
        let ready = eventually("Envoy listens", PATIENCE, || async {
            let reply = http_get(envoy.admin, "admin", "/ready").await?;
            ensure!(reply.status == 200, "{}", reply.text());
            for address in envoy.at.values() {
                tokio::net::TcpStream::connect(address).await?;
            }
            Ok(())
        });
        ready.await.with_context(|| mesh.last_words())?;
        Ok(Some(envoy))
    }

    /// Ends it; it has refused nothing that it was sent.
    pub(crate) async fn end(self, mesh: &Mesh) -> anyhow::Result<()> {
        let text = http_get(self.admin, "admin", "/stats?type=Counters").await?.text();
        let rejected: Vec<&str> = text.lines().filter(|line| line.contains("update_rejected: ")).collect();
        ensure!(
            rejected.iter().any(|line| line.contains("lds")) && rejected.iter().all(|line| line.ends_with(": 0")),
            "{rejected:?}\n{}",
            mesh.last_words()
        );
        self.running.stop().await?;
        Ok(())
    }
}
