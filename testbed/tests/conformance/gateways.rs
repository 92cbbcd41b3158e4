//! The gateways under test: a process for each, started when its first request is due, every listener port bound to any free one.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use anyhow::Context as _;
use serde_json::Value;
use testbed::{Mesh, Running};

use super::data::{kind, named};

/// The processes by `name.namespace`.
pub(crate) struct Gateways<'m> {
    mesh: &'m Mesh,
    running: BTreeMap<String, (Running, BTreeMap<u16, SocketAddr>)>,
}

impl<'m> Gateways<'m> {
    /// None runs yet.
    pub(crate) fn new(mesh: &'m Mesh) -> Self {
        Self { mesh, running: BTreeMap::new() }
    }

    /// Where a gateway's listener port is.
    pub(crate) async fn address(&mut self, name: &str, namespace: &str, port: u16) -> anyhow::Result<SocketAddr> {
        let key = format!("{name}.{namespace}");
        if !self.running.contains_key(&key) {
            let gateway = self.mesh.lorica(["get", "gateway", name, "-n", namespace, "-o", "json"]).await?.success()?.json()?;
            let ports = gateway["spec"]["listeners"].as_array().cloned().unwrap_or_default();
            let ports = ports.iter().filter_map(|listener| listener["port"].as_u64());
            let mut arguments = vec!["proxy".to_owned(), "--gateway".to_owned(), key.clone()];
            arguments.extend(ports.flat_map(|port| ["--bind".to_owned(), format!("{port}=0")]));
            let running = self.mesh.start_binary(&format!("gateway {key}"), arguments, Vec::new(), None)?;
            let line = running.line("serving: ").await?;
            let places = line.trim_start_matches("serving: ").split(", ").filter_map(|place| {
                let (port, address) = place.strip_prefix("port ")?.split_once(" on ")?;
                Some((port.parse().ok()?, address.parse().ok()?))
            });
            self.running.insert(key.clone(), (running, places.collect()));
        }
        let (_, places) = &self.running[&key];
        places.get(&port).copied().with_context(|| format!("{key} does not serve port {port}: {places:?}"))
    }

    /// Ends the gateways that a test brought.
    pub(crate) async fn forget(&mut self, documents: &[Value]) -> anyhow::Result<()> {
        for document in documents.iter().filter(|document| kind(document) == "Gateway") {
            let (name, namespace) = named(document);
            if let Some((running, _)) = self.running.remove(&format!("{name}.{namespace}")) {
                running.stop().await?;
            }
        }
        Ok(())
    }

    /// Ends all of them.
    pub(crate) async fn stop(self) -> anyhow::Result<()> {
        for (running, _) in self.running.into_values() {
            running.stop().await?;
        }
        Ok(())
    }
}
