//! Callers in the mesh: for each namespace a real sidecar, with a local listener for every service port that there is.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use anyhow::Context as _;
use serde_json::Value;
use testbed::{Connection, Mesh, PATIENCE, Port, Running, eventually};
use tokio::sync::Mutex;

/// The callers by namespace.
pub(crate) struct Callers<'m> {
    mesh: &'m Mesh,
    running: Mutex<BTreeMap<String, Caller>>,
}

/// A caller, and where each `NAME.NAMESPACE:PORT` is for it.
struct Caller {
    running: Running,
    places: BTreeMap<String, SocketAddr>,
    /// Lent for as long as it runs.
    _ports: Vec<Port>,
}

impl<'m> Callers<'m> {
    pub(crate) fn new(mesh: &'m Mesh) -> Self {
        Self { mesh, running: Mutex::default() }
    }

    /// Where a caller of this namespace reaches a host: `echo`, `echo:7070`, `echo.other`.
    pub(crate) async fn address(&self, namespace: &str, host: &str) -> anyhow::Result<SocketAddr> {
        let (name, port) = host.rsplit_once(':').unwrap_or((host, "80"));
        let full = if name.contains('.') { format!("{name}:{port}") } else { format!("{name}.{namespace}:{port}") };
        let mut running = self.running.lock().await;
        if !running.contains_key(namespace) {
            running.insert(namespace.to_owned(), self.start(namespace).await?);
        }
        running[namespace].places.get(&full).copied().with_context(|| format!("no service port {full} is there"))
    }

    async fn start(&self, namespace: &str) -> anyhow::Result<Caller> {
        let services: Value = self.mesh.lorica(["get", "services", "-A", "-o", "json"]).await?.success()?.json()?;
        let all = services.as_array().or_else(|| services["items"].as_array()).cloned().unwrap_or_default();
        let mut caller = self.mesh.client().option("--namespace").option(namespace);
        let (mut places, mut taken) = (BTreeMap::new(), Vec::new());
        for service in all.iter().filter(|service| service["metadata"]["namespace"].as_str().is_some_and(|own| own.contains("mesh"))) {
            let text = |field: &str| service["metadata"][field].as_str().unwrap_or_default();
            for port in service["spec"]["ports"].as_array().into_iter().flatten() {
                let name = format!("{}.{}:{}", text("name"), text("namespace"), port["port"]);
                let local = Port::free()?;
                caller = caller.upstream(&format!("{name}={}", local.address()));
                places.insert(name, local.address());
                taken.push(local);
            }
        }
        let running = caller.start(["sleep", "600"])?;
        for address in places.values() {
            eventually("a listener of the caller's", PATIENCE, || Connection::open(*address)).await?;
        }
        Ok(Caller { running, places, _ports: taken })
    }

    /// Ends all of them.
    pub(crate) async fn stop(self) -> anyhow::Result<()> {
        for caller in self.running.into_inner().into_values() {
            caller.running.stop().await?;
        }
        Ok(())
    }
}
