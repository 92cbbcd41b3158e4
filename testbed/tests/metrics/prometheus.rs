//! A real Prometheus that scrapes a mesh, with the configuration that users are given.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context as _, ensure};
use serde_json::Value;
use testbed::{Mesh, PATIENCE, Peer, Port, Running, eventually, http_get, peer};

/// Prometheus, running.
pub(crate) struct Prometheus {
    address: SocketAddr,
    _port: Port,
    _running: Running,
}

impl Prometheus {
    /// Starts one that finds a mesh where its control plane serves telemetry, by deploy/prometheus.yaml with shorter times.
    pub(crate) async fn start(mesh: &Mesh, telemetry: SocketAddr) -> anyhow::Result<Self> {
        let program = peer(Peer::Prometheus).map_err(anyhow::Error::msg)?;
        let given = std::fs::read_to_string(deployed().join("prometheus.yaml"))?;
        ensure!(given.contains("127.0.0.1:15014") && given.contains("15s"), "{given}");
        let config = given.replace("127.0.0.1:15014", &telemetry.to_string()).replace("15s", "1s");
        let config = mesh.write("prometheus.yaml", config)?;
        let port = Port::free()?;
        let arguments = [
            format!("--config.file={}", config.display()),
            format!("--storage.tsdb.path={}", mesh.home().join("prometheus").display()),
            format!("--web.listen-address={}", port.address()),
            "--enable-feature=exemplar-storage".to_owned(),
        ];
        let running = mesh.start_outside(program, arguments)?;
        let prometheus = Self { address: port.address(), _port: port, _running: running };
        eventually("Prometheus is ready", PATIENCE, || async {
            let reply = http_get(prometheus.address, "prometheus", "/-/ready").await?;
            ensure!(reply.status == 200, "{}", reply.text());
            Ok(())
        })
        .await?;
        Ok(prometheus)
    }

    /// What its API answers.
    pub(crate) async fn ask(&self, path: &str, query: &[(&str, &str)]) -> anyhow::Result<Value> {
        let query: Vec<String> = query.iter().map(|(name, value)| format!("{name}={}", encoded(value))).collect();
        let reply = http_get(self.address, "prometheus", &format!("/api/v1/{path}?{}", query.join("&"))).await?;
        let answer: Value = reply.json()?;
        ensure!(answer["status"] == "success", "{answer:#}");
        Ok(answer["data"].clone())
    }

    /// What an expression gives now: labels and values.
    pub(crate) async fn query(&self, expression: &str) -> anyhow::Result<Vec<(Value, f64)>> {
        let data = self.ask("query", &[("query", expression)]).await.with_context(|| expression.to_owned())?;
        let result = data["result"].as_array().cloned().unwrap_or_default();
        let value = |sample: &Value| Ok((sample["metric"].clone(), sample["value"][1].as_str().context("no value")?.parse()?));
        result.iter().map(value).collect()
    }

    /// Its targets: labels that discovery gave, and whether the last scrape was good.
    pub(crate) async fn targets(&self) -> anyhow::Result<Vec<(Value, bool)>> {
        let data = self.ask("targets", &[]).await?;
        let targets = data["activeTargets"].as_array().cloned().unwrap_or_default();
        Ok(targets.iter().map(|target| (target["discoveredLabels"].clone(), target["health"] == "up")).collect())
    }
}

/// Where what users are given stands.
pub(crate) fn deployed() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../deploy")
}

/// A value of a query, as addresses are written.
fn encoded(text: &str) -> String {
    let byte = |byte: u8| if byte.is_ascii_alphanumeric() { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    text.bytes().map(byte).collect()
}
