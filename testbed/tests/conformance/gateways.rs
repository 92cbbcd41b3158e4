//! The gateways under test: a process for each, started when it is first needed, every listener port bound to any free one.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use anyhow::Context as _;
use serde_json::Value;
use testbed::{Mesh, PATIENCE, Running, eventually};
use tokio::sync::Mutex;

use super::data::{kind, named};

/// The processes by `name.namespace`.
pub(crate) struct Gateways<'m> {
    mesh: &'m Mesh,
    running: Mutex<BTreeMap<String, Running>>,
    /// Where each was seen to listen: of what a process says only the last is kept.
    places: Mutex<BTreeMap<String, BTreeMap<u16, SocketAddr>>>,
}

impl<'m> Gateways<'m> {
    /// None runs yet.
    pub(crate) fn new(mesh: &'m Mesh) -> Self {
        Self { mesh, running: Mutex::default(), places: Mutex::default() }
    }

    /// Starts a gateway unless it runs, and waits until its status names an address.
    pub(crate) async fn start(&self, name: &str, namespace: &str) -> anyhow::Result<()> {
        let key = format!("{name}.{namespace}");
        let mut running = self.running.lock().await;
        if !running.contains_key(&key) {
            // Listeners may come later: every port that the manifests use.
            let mut arguments = ["proxy", "--access-log", "off", "--drain", "1s", "--gateway", &key].map(str::to_owned).to_vec();
            let gateway = self.object(name, namespace).await?;
            let mut ports: Vec<u64> = [53, 80, 443, 8080, 8443, 9443].into();
            ports.extend(gateway["spec"]["listeners"].as_array().into_iter().flatten().filter_map(|listener| listener["port"].as_u64()));
            ports.extend(self.ports_of_sets(&key).await?);
            ports.sort_unstable();
            ports.dedup();
            arguments.extend(ports.iter().flat_map(|port| ["--bind".to_owned(), format!("{port}=0")]));
            running.insert(key.clone(), self.mesh.start_binary(&format!("gateway {key}"), arguments, Vec::new(), None)?);
        }
        eventually(&format!("{key} has an address"), PATIENCE, || async {
            let status = self.object(name, namespace).await?["status"].clone();
            anyhow::ensure!(status["addresses"].as_array().is_some_and(|addresses| !addresses.is_empty()), "{status}");
            Ok(())
        })
        .await
    }

    async fn object(&self, name: &str, namespace: &str) -> anyhow::Result<Value> {
        self.mesh.lorica(["get", "gateway", name, "-n", namespace, "-o", "json"]).await?.success()?.json()
    }

    /// The ports that ListenerSets add to a gateway.
    async fn ports_of_sets(&self, key: &str) -> anyhow::Result<Vec<u64>> {
        let sets: Value = self.mesh.lorica(["get", "listenersets", "-A", "-o", "json"]).await?.success()?.json()?;
        let all = sets.as_array().or_else(|| sets["items"].as_array()).cloned().unwrap_or_default();
        let of = |set: &&Value| {
            let parent = &set["spec"]["parentRef"];
            let namespace = parent["namespace"].as_str().or(set["metadata"]["namespace"].as_str()).unwrap_or_default();
            parent["name"].as_str().is_some_and(|name| format!("{name}.{namespace}") == key)
        };
        let listeners = all.iter().filter(of).filter_map(|set| set["spec"]["listeners"].as_array()).flatten();
        Ok(listeners.filter_map(|listener| listener["port"].as_u64()).collect())
    }

    /// Where a gateway's listener port is.
    pub(crate) async fn address(&self, name: &str, namespace: &str, port: u16) -> anyhow::Result<SocketAddr> {
        self.start(name, namespace).await?;
        let key = format!("{name}.{namespace}");
        eventually(&format!("{key} serves port {port}"), PATIENCE / 3, || self.place(&key, port)).await
    }

    /// Where a gateway's listener port is, if it is open now.
    pub(crate) async fn open(&self, name: &str, namespace: &str, port: u16) -> Option<SocketAddr> {
        self.place(&format!("{name}.{namespace}"), port).await.ok()
    }

    async fn place(&self, key: &str, port: u16) -> anyhow::Result<SocketAddr> {
        let running = self.running.lock().await;
        let process = running.get(key).context("it does not run")?;
        let said = process.stdout() + &process.stderr();
        let mut places = self.places.lock().await;
        // The last line tells all that is open.
        if let Some((_, line)) = said.lines().rev().find_map(|line| line.split_once("serving: ")) {
            let one = |place: &str| {
                let (port, address) = place.strip_prefix("port ")?.split_once(" on ")?;
                Some((port.parse().ok()?, address.parse().ok()?))
            };
            places.insert(key.to_owned(), line.split(", ").filter_map(one).collect());
        }
        let places = places.get(key).with_context(|| format!("it serves nothing: {said}"))?;
        places.get(&port).copied().with_context(|| format!("it serves {places:?}"))
    }

    /// Ends the gateways that a test brought.
    pub(crate) async fn forget(&self, documents: &[Value]) -> anyhow::Result<()> {
        for document in documents.iter().filter(|document| kind(document) == "Gateway") {
            let (name, namespace) = named(document);
            let running = self.running.lock().await.remove(&format!("{name}.{namespace}"));
            self.places.lock().await.remove(&format!("{name}.{namespace}"));
            if let Some(running) = running {
                running.stop().await?;
            }
        }
        Ok(())
    }

    /// Ends all of them.
    pub(crate) async fn stop(self) -> anyhow::Result<()> {
        for (_, running) in self.running.into_inner() {
            running.stop().await?;
        }
        Ok(())
    }
}
