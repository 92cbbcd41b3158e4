//! Who calls whom, and what is called most, from the time series.

use std::sync::Arc;
use std::time::SystemTime;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use lorica_api::{Graph, GraphEdge, Top, TopBy, TopRow, Traffic};
use lorica_observe::graph::{Flow, Window, flows};
use lorica_observe::promql;
use lorica_observe::series::{Labels, milliseconds};
use serde::Deserialize;

use super::Failure;
use super::request::Query;
use crate::ControlPlane;

/// The window unless another is asked for, in milliseconds.
const DEFAULT: i64 = 60_000;
/// The shortest: proxies tell each ten seconds.
const SHORTEST: i64 = 10_000;
/// The longest.
const LONGEST: i64 = 24 * 3_600_000;
/// What labels say where nothing is known.
const UNKNOWN: &str = "unknown";

/// What is asked for.
#[derive(Debug, Deserialize)]
pub(super) struct Asked {
    window: Option<String>,
    namespace: Option<String>,
    by: Option<TopBy>,
}

impl Asked {
    fn window(&self) -> Result<Window, Failure> {
        let length = match &self.window {
            None => DEFAULT,
            Some(text) => promql::duration(text).filter(|length| (SHORTEST..=LONGEST).contains(length)).ok_or_else(|| {
                let message = format!("`{text}` is no window of time");
                Failure::new(StatusCode::BAD_REQUEST, message, Some("write 10s to 24h, as in `1m` or `1h30m`"))
            })?,
        };
        let to = milliseconds(SystemTime::now());
        Ok(Window { from: to - length, to })
    }

    /// Whether calls between services of these namespaces are wanted.
    fn wants(&self, namespaces: &[&str]) -> bool {
        self.namespace.as_deref().is_none_or(|wanted| namespaces.contains(&wanted))
    }
}

async fn seen<K: Ord + Send + 'static>(
    control: &ControlPlane,
    window: Window,
    key: impl Fn(&Labels) -> Option<K> + Send + 'static,
) -> Result<Vec<(K, Flow)>, Failure> {
    let unread = |message: String| Failure::new(StatusCode::INTERNAL_SERVER_ERROR, message, None);
    let asked = control.questions.ask(move |series| flows(series, window, key)).await;
    asked.map_err(|failure| unread(failure.message))?.map_err(|error| unread(error.to_string()))
}

#[allow(clippy::cast_precision_loss, reason = "a window is short")]
fn seconds(window: Window) -> f64 {
    (window.to - window.from) as f64 / 1000.0
}

fn traffic(flow: Flow) -> Traffic {
    let Flow { totals, rate, mutual_tls } = flow;
    Traffic {
        calls: totals.requests,
        failures: totals.failures,
        per_second: rate.per_second,
        p50_ms: rate.p50,
        p99_ms: rate.p99,
        received_per_second: rate.received,
        sent_per_second: rate.sent,
        mutual_tls,
    }
}

/// A service as people write it: `recording.contact`; without a namespace where there is none.
fn service(name: &str, namespace: &str) -> String {
    if namespace.is_empty() || namespace == UNKNOWN { name.to_owned() } else { format!("{name}.{namespace}") }
}

/// `GET /v1/graph?window=1m&namespace=contact`.
pub(super) async fn graph(State(control): State<Arc<ControlPlane>>, Query(asked): Query<Asked>) -> Result<Json<Graph>, Failure> {
    let window = asked.window()?;
    let key = move |labels: &Labels| {
        let (from, to) = (labels.get("source_workload_namespace"), labels.get("destination_service_namespace"));
        asked.wants(&[from, to]).then(|| {
            let source = service(labels.get("source_canonical_service"), from);
            (source, service(labels.get("destination_service_name"), to), labels.get("request_protocol").to_owned())
        })
    };
    let edges = seen(&control, window, key).await?.into_iter();
    let edge = |((source, destination, protocol), flow)| GraphEdge { source, destination, protocol, traffic: traffic(flow) };
    Ok(Json(Graph { window_seconds: seconds(window), edges: edges.map(edge).collect() }))
}

/// `GET /v1/top?by=service&window=1m&namespace=contact`.
pub(super) async fn top(State(control): State<Arc<ControlPlane>>, Query(asked): Query<Asked>) -> Result<Json<Top>, Failure> {
    let window = asked.window()?;
    let by = asked.by.unwrap_or_default();
    let key = move |labels: &Labels| {
        let namespace = labels.get("destination_service_namespace");
        let wanted = asked.wants(&[namespace]);
        wanted.then(|| match by {
            TopBy::Service => service(labels.get("destination_service_name"), namespace),
            TopBy::Route => match labels.get("route_name") {
                "" | UNKNOWN => format!("none, {}", service(labels.get("destination_service_name"), namespace)),
                route => format!("{} {}", labels.get("route_kind"), service(route, labels.get("route_namespace"))),
            },
        })
    };
    let mut rows: Vec<TopRow> =
        seen(&control, window, key).await?.into_iter().map(|(name, flow)| TopRow { name, traffic: traffic(flow) }).collect();
    rows.sort_by(|one, other| other.traffic.calls.cmp(&one.traffic.calls).then_with(|| one.name.cmp(&other.name)));
    Ok(Json(Top { window_seconds: seconds(window), by, rows }))
}
