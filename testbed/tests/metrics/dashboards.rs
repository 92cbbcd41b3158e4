//! Each query of each panel of the dashboards parses and gives data, at a real Prometheus that finds the proxies by the control plane and
//! scrapes the contact centre at work.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::Value;
use testbed::{Connection, Mesh, Peer, eventually, http_get, left_out, peer};

use crate::centre::{Centre, HOSTILE};
use crate::prometheus::{Prometheus, deployed};
use crate::scrape;

/// For Prometheus to have scraped what rates are made of, on a busy machine.
const WITHIN: Duration = Duration::from_secs(90);
/// How many panels there may be without a query that fails unnoticed.
const LEAST_QUERIES: usize = 60;

/// Where the test's own program finds its listeners.
struct Calls {
    nobody: SocketAddr,
    analytics: SocketAddr,
    history: SocketAddr,
}

impl Calls {
    /// What the customers do not do: a call that fails, a connection that ends, and a resource that changes.
    async fn make(&self, mesh: &Mesh, turn: usize) -> anyhow::Result<()> {
        let failed = http_get(self.nobody, "nobody.contact", "/").await?;
        ensure!(failed.status == 503, "{failed:?}");
        let found = http_get(self.history, "customer-history.contact", "/customers/c0001").await?;
        ensure!(found.status == 200, "{found:?}");
        let mut connection = Connection::open(self.analytics).await?;
        connection.write(b"EVENT queue=billing call=c seconds=1\n").await?;
        connection.read_until(b"\n").await?;
        drop(connection);
        let changed = format!(
            "apiVersion: lorica.io/v1alpha1\nkind: TrafficPolicy\nmetadata: {{name: changing, namespace: contact}}\nspec: {{targetRefs: [{{kind: Service, name: recording}}], timeouts: {{request: {}s}}}}\n",
            20 + turn % 2
        );
        mesh.apply(&changed).await?.success()?;
        Ok(())
    }
}

/// A query of a dashboard, with what was chosen above it.
struct Query {
    panel: String,
    expression: String,
}

#[tokio::test]
async fn every_query_of_every_panel_gives_data() -> anyhow::Result<()> {
    if let Err(why) = peer(Peer::Prometheus) {
        left_out(&format!("the dashboards at a real Prometheus: {why}"));
        return Ok(());
    }
    let mesh = Mesh::as_nobody().control_option("--telemetry").control_option("127.0.0.1:0").start().await?;
    let mut centre = Centre::start(&mesh).await?;
    let (_customers, _) = centre.customers(10, 3600)?;
    let calls = Calls { nobody: centre.port()?, analytics: centre.port()?, history: centre.port()? };
    let client = centre.client("probe").upstream(&format!("nobody.contact:80={}", calls.nobody));
    let client = client.upstream(&format!("analytics.contact:7000={}", calls.analytics));
    let _client = client.upstream(&format!("customer-history.contact:80={}", calls.history)).start(["sleep", "3600"])?;
    eventually("the first call", WITHIN, || calls.make(&mesh, 0)).await?;
    let telemetry = scrape::telemetry(&mesh).await?;
    let prometheus = Prometheus::start(&mesh, telemetry).await?;

    let mut turn = 0;
    let asked = eventually("every query gives data", WITHIN, || {
        turn += 1;
        let (mesh, calls, prometheus) = (&mesh, &calls, &prometheus);
        async move {
            calls.make(mesh, turn).await?;
            let queries = queries()?;
            ensure!(queries.len() >= LEAST_QUERIES, "there are {} queries", queries.len());
            let chosen = chosen(prometheus).await?;
            let mut empty = Vec::new();
            for Query { panel, expression } in &queries {
                let expression = chosen.iter().fold(expression.clone(), |text, (name, value)| text.replace(&format!("${name}"), value));
                ensure!(!expression.contains('$'), "{panel}: something is not chosen in {expression}");
                let values = prometheus.query(&expression).await?;
                if !values.iter().any(|(_, value)| value.is_finite()) {
                    empty.push(format!("{panel}: {expression}"));
                }
            }
            ensure!(empty.is_empty(), "{} of {} give no data:\n{}", empty.len(), queries.len(), empty.join("\n"));
            Ok(())
        }
    });
    asked.await?;
    every_target_is_found(&mesh, &prometheus).await?;
    examples_lead_to_traces(&prometheus).await?;
    let strange = prometheus
        .query("count by (destination_version) (istio_requests_total{destination_canonical_service=\"customer-history\"})")
        .await?;
    ensure!(strange.iter().any(|(labels, _)| labels["destination_version"] == HOSTILE), "{strange:?}");
    mesh.finish().await
}

/// One job found every proxy and the control plane, and says who they are.
async fn every_target_is_found(mesh: &Mesh, prometheus: &Prometheus) -> anyhow::Result<()> {
    let targets = prometheus.targets().await?;
    let status = mesh.status().await?;
    let proxies = status["proxies"].as_array().context("no proxies")?;
    ensure!(targets.len() == proxies.len() + 1 && targets.iter().all(|(_, up)| *up), "{targets:#?}");
    let label = |labels: &Value, name: &str| labels[format!("__meta_lorica_{name}")].as_str().unwrap_or_default().to_owned();
    let found: BTreeSet<String> =
        targets.iter().map(|(labels, _)| format!("{}.{}", label(labels, "workload"), label(labels, "namespace"))).collect();
    for proxy in proxies {
        let id = proxy["id"].as_str().unwrap_or_default();
        ensure!(found.contains(id), "{id} is not among {found:?}");
    }
    let kinds: BTreeSet<String> = targets.iter().map(|(labels, _)| label(labels, "kind")).collect();
    ensure!(kinds == ["client", "control-plane", "sidecar"].map(str::to_owned).into(), "{kinds:?}");
    let services: BTreeSet<String> = targets.iter().map(|(labels, _)| label(labels, "service")).collect();
    ensure!(services.contains("call-routing") && services.contains("recording-v1"), "{services:?}");
    Ok(())
}

/// Prometheus keeps the examples of durations, with trace ids.
async fn examples_lead_to_traces(prometheus: &Prometheus) -> anyhow::Result<()> {
    let query = [("query", "istio_request_duration_milliseconds_bucket"), ("start", "0"), ("end", "4000000000")];
    let data = prometheus.ask("query_exemplars", &query).await?;
    let examples = data.as_array().into_iter().flatten().flat_map(|series| series["exemplars"].as_array().cloned().unwrap_or_default());
    let traces: BTreeSet<String> = examples.filter_map(|example| Some(example["labels"]["trace_id"].as_str()?.to_owned())).collect();
    ensure!(!traces.is_empty() && traces.iter().all(|id| id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit())), "{data:#}");
    Ok(())
}

/// Every query of the dashboards, with the ranges that Grafana fills in.
fn queries() -> anyhow::Result<Vec<Query>> {
    let mut queries = Vec::new();
    for file in std::fs::read_dir(deployed().join("grafana"))? {
        let path = file?.path();
        let dashboard: Value = serde_json::from_str(&std::fs::read_to_string(&path)?).with_context(|| path.display().to_string())?;
        for panel in dashboard["panels"].as_array().context("no panels")? {
            for target in panel["targets"].as_array().with_context(|| panel.to_string())? {
                let expression = target["expr"].as_str().with_context(|| target.to_string())?;
                queries.push(Query {
                    panel: format!("{} / {}", dashboard["title"], panel["title"]),
                    expression: expression.replace("$__rate_interval", "15s").replace("$__range", "5m"),
                });
            }
        }
    }
    Ok(queries)
}

/// Values of what is chosen above the dashboards: those of call-routing, which is called and calls. Each is among those that are offered.
async fn chosen(prometheus: &Prometheus) -> anyhow::Result<Vec<(String, String)>> {
    let workloads =
        "count by (destination_workload) (istio_requests_total{reporter=\"destination\",destination_canonical_service=\"call-routing\"})";
    let workloads = prometheus.query(workloads).await?;
    let workload = workloads.first().context("nobody has called call-routing yet")?.0["destination_workload"].as_str().unwrap_or_default();
    let chosen = [("namespace", "contact"), ("workload", workload), ("service", "call-routing.contact.mesh")];
    let chosen: Vec<(String, String)> = chosen.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    for file in std::fs::read_dir(deployed().join("grafana"))? {
        let dashboard: Value = serde_json::from_str(&std::fs::read_to_string(file?.path())?)?;
        for variable in dashboard["templating"]["list"].as_array().into_iter().flatten().filter(|variable| variable["type"] == "query") {
            let definition = variable["definition"].as_str().unwrap_or_default();
            let inside = definition.strip_prefix("label_values(").and_then(|rest| rest.strip_suffix(')'));
            let (series, label) = inside.and_then(|inside| inside.rsplit_once(", ")).with_context(|| definition.to_owned())?;
            let series = series.replace("$namespace", "contact");
            let offered = prometheus.query(&format!("count by ({label}) ({series})")).await?;
            let name = variable["name"].as_str().unwrap_or_default();
            let value = chosen.iter().find(|(known, _)| known == name).map(|(_, value)| value).with_context(|| name.to_owned())?;
            ensure!(offered.iter().any(|(labels, _)| labels[label] == value.as_str()), "{name}: {value} is not offered: {offered:?}");
        }
    }
    Ok(chosen)
}
