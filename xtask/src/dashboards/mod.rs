//! Grafana's dashboards, made from tables of panels: `cargo xtask dashboards` writes deploy/grafana, and `check` holds that what stands there
//! is what the tables say. That each query gives data is held by a test (testbed/tests/metrics), with a real Prometheus.

mod control_plane;
mod mesh;
mod service;
mod workload;

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;
use serde_json::{Value, json};

use crate::check::Breach;
use crate::metadata;

/// All of them. Failures are what `lorica` itself counts as such: no answer, a status of 500 and above, or one of gRPC's that is the callee's
/// fault.
const ALL: [Dashboard; 4] = [mesh::MESH, service::SERVICE, workload::WORKLOAD, control_plane::CONTROL_PLANE];

/// Where they stand.
const PLACE: &str = "deploy/grafana";
/// Grafana's grid is so wide.
const GRID: u32 = 24;
/// The format of dashboards that is written: what Grafana 10 writes, and later ones read.
const SCHEMA: u32 = 39;

/// A dashboard.
pub(super) struct Dashboard {
    /// The file's name without its end, and what it is known by in addresses.
    name: &'static str,
    title: &'static str,
    description: &'static str,
    variables: &'static [Variable],
    rows: &'static [&'static [Panel]],
}

/// What is chosen above a dashboard.
pub(super) struct Variable {
    name: &'static str,
    label: &'static str,
    query: &'static str,
}

/// A panel. Those of one row share its width.
pub(super) struct Panel {
    title: &'static str,
    description: &'static str,
    kind: Look,
    /// Grafana's word for the unit.
    unit: &'static str,
    queries: &'static [Query],
}

/// A query and what its series are called: `{{label}}` is the value of a label.
pub(super) struct Query(&'static str, &'static str);

/// A panel of one number.
const fn number(title: &'static str, description: &'static str, unit: &'static str, queries: &'static [Query]) -> Panel {
    Panel { title, description, kind: Look::Number, unit, queries }
}

/// A panel of lines over time.
const fn lines(title: &'static str, description: &'static str, unit: &'static str, queries: &'static [Query]) -> Panel {
    Panel { title, description, kind: Look::Lines, unit, queries }
}

/// A panel of durations, in which examples lead to traces.
const fn durations(title: &'static str, description: &'static str, unit: &'static str, queries: &'static [Query]) -> Panel {
    Panel { title, description, kind: Look::Durations, unit, queries }
}

/// How a panel looks.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Look {
    /// Lines over time.
    Lines,
    /// Lines over time, with examples that lead to traces.
    Durations,
    /// One number.
    Number,
}

/// Writes them all.
pub(crate) fn run() -> anyhow::Result<ExitCode> {
    let root = metadata::root()?;
    let place = root.join(PLACE);
    fs::create_dir_all(&place).with_context(|| place.display().to_string())?;
    for dashboard in &ALL {
        let path = place.join(format!("{}.json", dashboard.name));
        fs::write(&path, text(dashboard)?).with_context(|| path.display().to_string())?;
        println!("written: {PLACE}/{}.json", dashboard.name);
    }
    Ok(ExitCode::SUCCESS)
}

/// Files that are not as the tables say.
pub(crate) fn breaches(root: &Path) -> anyhow::Result<Vec<Breach>> {
    let mut breaches = Vec::new();
    for dashboard in &ALL {
        let path = Path::new(PLACE).join(format!("{}.json", dashboard.name));
        let there = fs::read_to_string(root.join(&path)).unwrap_or_default();
        if there != text(dashboard)? {
            breaches.push(Breach::new(&path, "is not what xtask/src/dashboards says", "cargo xtask dashboards"));
        }
    }
    Ok(breaches)
}

fn text(dashboard: &Dashboard) -> anyhow::Result<String> {
    Ok(serde_json::to_string_pretty(&written(dashboard))? + "\n")
}

fn written(Dashboard { name, title, description, variables, rows }: &Dashboard) -> Value {
    let source = json!({ "name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus" });
    let variables = variables.iter().map(|Variable { name, label, query }| {
        json!({
            "name": name, "label": label, "type": "query", "datasource": datasource(), "definition": query,
            "query": { "query": query, "refId": name }, "refresh": 2, "sort": 1,
        })
    });
    let variables: Vec<Value> = std::iter::once(source).chain(variables).collect();
    let (mut panels, mut top) = (Vec::new(), 0);
    for row in *rows {
        let width = GRID / u32::try_from(row.len()).unwrap_or(GRID).max(1);
        let height = if row.iter().all(|panel| panel.kind == Look::Number) { 4 } else { 8 };
        for (panel, left) in row.iter().zip((0..).step_by(width as usize)) {
            let place = json!({ "h": height, "w": width, "x": left, "y": top });
            panels.push(panel.written(panels.len() + 1, &place));
        }
        top += height;
    }
    json!({
        "uid": format!("lorica-{name}"), "title": title, "description": description, "tags": ["lorica"], "schemaVersion": SCHEMA,
        "editable": true, "refresh": "30s", "time": { "from": "now-30m", "to": "now" }, "timezone": "browser",
        "templating": { "list": variables }, "panels": panels,
    })
}

/// The one that is chosen above the dashboard.
fn datasource() -> Value {
    json!({ "type": "prometheus", "uid": "${datasource}" })
}

impl Panel {
    fn written(&self, id: usize, place: &Value) -> Value {
        let targets = self.queries.iter().zip('A'..).map(|(Query(query, legend), letter)| {
            let mut target = json!({ "refId": letter, "datasource": datasource(), "expr": query, "legendFormat": legend, "range": true });
            if self.kind == Look::Durations {
                target["exemplar"] = json!(true);
            }
            target
        });
        let mut panel = json!({
            "id": id, "title": self.title, "description": self.description, "gridPos": place, "datasource": datasource(),
            "fieldConfig": { "defaults": { "unit": self.unit }, "overrides": [] },
            "targets": targets.collect::<Vec<_>>(),
        });
        match self.kind {
            Look::Number => {
                panel["type"] = json!("stat");
                panel["options"] = json!({ "reduceOptions": { "calcs": ["lastNotNull"] }, "colorMode": "none", "graphMode": "area" });
            }
            Look::Lines | Look::Durations => {
                panel["type"] = json!("timeseries");
                panel["fieldConfig"]["defaults"]["min"] = json!(0);
                panel["fieldConfig"]["defaults"]["custom"] = json!({ "fillOpacity": 8, "showPoints": "never" });
                panel["options"] = json!({
                    "legend": { "displayMode": "table", "placement": "bottom", "calcs": ["lastNotNull", "max"] },
                    "tooltip": { "mode": "multi", "sort": "desc" },
                });
            }
        }
        panel
    }
}
