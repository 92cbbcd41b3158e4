//! A stock Envoy under test. In flow the options of `lorica envoy bootstrap`; out flow where Envoy listens, what it counted, and whether it or
//! the control plane knows of anything refused. Envoy itself is not changed.

use std::net::SocketAddr;

use anyhow::{Context as _, ensure};
use serde_json::Value;

use crate::process::Running;
use crate::{Mesh, Network, PATIENCE, Peer, Port, eventually, http_get, left_out, peer};

/// A stock Envoy in a mesh.
#[derive(Debug)]
pub struct Envoy {
    /// The process.
    pub running: Running,
    /// Where it answers questions about itself.
    pub admin: SocketAddr,
    /// What it was started with.
    pub bootstrap: Value,
    network: Option<Network>,
    _port: Port,
}

impl Envoy {
    /// Starts one with these options of `lorica envoy bootstrap`; ends when it has all that it waits for. None: there is no Envoy here.
    ///
    /// # Errors
    /// It does not start, or never has all; the error shows what all processes said.
    pub async fn start(mesh: &Mesh, options: &[&str]) -> anyhow::Result<Option<Self>> {
        Self::start_in(mesh, None, options).await
    }

    /// The same in a network of its own.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub async fn start_within(mesh: &Mesh, network: &Network, options: &[&str]) -> anyhow::Result<Option<Self>> {
        Self::start_in(mesh, Some(network), options).await
    }

    async fn start_in(mesh: &Mesh, network: Option<&Network>, options: &[&str]) -> anyhow::Result<Option<Self>> {
        let binary = match peer(Peer::Envoy) {
            Ok(binary) => binary,
            Err(why) => {
                left_out(&format!("an Envoy in the mesh: {why}"));
                return Ok(None);
            }
        };
        let port = Port::free()?;
        let admin = port.address();
        let address = admin.to_string();
        let arguments = ["envoy", "bootstrap", "--admin", &address].into_iter().chain(options.iter().copied());
        let printed = if options.contains(&"--watch") {
            // It stays, to renew the certificate.
            let watching = mesh.start_binary("lorica envoy bootstrap --watch", arguments, Vec::new(), None)?;
            let printed = eventually("the bootstrap is printed", PATIENCE, || async {
                let printed = watching.stdout();
                serde_json::from_str::<Value>(&printed)?;
                Ok(printed)
            });
            printed.await.with_context(|| mesh.last_words())?
        } else {
            mesh.lorica(arguments).await?.success()?.stdout
        };
        let bootstrap: Value = serde_json::from_str(&printed)?;
        let file = mesh.write(&format!("envoy-{}.yaml", port.number()), &printed)?;
        let file = file.to_str().context("the path of the bootstrap is not UTF-8")?;
        // Two Envoys of one machine would otherwise share memory. Its log is looked at while it runs.
        let own = ["--disable-hot-restart", "--concurrency", "1", "--log-level", "warning", "--file-flush-interval-msec", "20"];
        let arguments = ["-c", file].into_iter().chain(own);
        let running = match network {
            Some(network) => network.start_inside(mesh, mesh.program(binary)?, arguments)?,
            None => mesh.start_outside(binary, arguments)?,
        };
        let envoy = Self { running, admin, bootstrap, network: network.cloned(), _port: port };
        eventually("Envoy is ready", PATIENCE, || envoy.ask("/ready")).await.with_context(|| mesh.last_words())?;
        Ok(Some(envoy))
    }

    /// What it says of itself.
    async fn ask(&self, path: &str) -> anyhow::Result<String> {
        if let Some(network) = &self.network {
            return network.get(self.admin, path).await;
        }
        let reply = http_get(self.admin, "admin", path).await?;
        ensure!(reply.status == 200, "{}", reply.text());
        Ok(reply.text())
    }

    /// Its name in the mesh.
    ///
    /// # Errors
    /// The bootstrap has none.
    pub fn name(&self) -> anyhow::Result<&str> {
        self.bootstrap["node"]["id"].as_str().context("the bootstrap has no node")
    }

    /// Where a listener port of its gateway is bound, as `--bind` said.
    ///
    /// # Errors
    /// Nothing was said of the port.
    pub fn bound(&self, port: u16) -> anyhow::Result<SocketAddr> {
        let binds = &self.bootstrap["node"]["metadata"]["lorica"]["gateway_binds"];
        let bound = binds[port.to_string()].as_str().with_context(|| format!("nothing is said of port {port}: {binds}"))?;
        Ok(bound.parse()?)
    }

    /// Its counters, by name.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn counters(&self) -> anyhow::Result<Vec<(String, u64)>> {
        let text = self.ask("/stats?type=Counters").await?;
        let one = |line: &str| line.rsplit_once(": ").and_then(|(name, value)| Some((name.to_owned(), value.parse().ok()?)));
        Ok(text.lines().filter_map(one).collect())
    }

    /// One of its counters.
    ///
    /// # Errors
    /// It does not answer, or has no such counter.
    pub async fn counter(&self, name: &str) -> anyhow::Result<u64> {
        let counters = self.counters().await?;
        counters.into_iter().find(|(known, _)| known == name).map(|(_, count)| count).with_context(|| format!("there is no counter {name}"))
    }

    /// Neither Envoy nor the control plane knows of anything refused. `kinds`: parts of the names of counters that must be there, as one that
    /// is not there would say nothing.
    ///
    /// # Errors
    /// Something was refused.
    pub async fn refused_nothing(&self, mesh: &Mesh, kinds: &[&str]) -> anyhow::Result<()> {
        let counters = self.counters().await?;
        let rejected: Vec<_> = counters.iter().filter(|(name, _)| name.ends_with(".update_rejected")).collect();
        for kind in kinds {
            ensure!(rejected.iter().any(|(name, _)| name.contains(kind)), "Envoy does not count what it refuses of {kind}: {rejected:?}");
        }
        ensure!(rejected.iter().all(|(_, count)| *count == 0), "Envoy refused {rejected:?}\n{}", mesh.last_words());
        let status = mesh.status().await?;
        let name = self.name()?;
        let proxies = status["proxies"].as_array().context("no proxies")?;
        let mine = proxies.iter().find(|proxy| proxy["id"] == name).with_context(|| format!("no {name}: {status:#}"))?;
        ensure!(mine.get("last_nack").is_some_and(Value::is_null), "{mine:#}");
        Ok(())
    }
}
