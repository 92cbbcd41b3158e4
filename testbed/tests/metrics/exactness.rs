//! Every edge of the contact centre adds up: what callers' proxies say, what callees' proxies say, and what the programs counted themselves.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use contact_centre::report::Report;
use testbed::{Mesh, PATIENCE, eventually};

use crate::centre::Centre;
use crate::scrape::{self, Line};

/// Who calls whom, and how it ended.
const EDGE: [&str; 5] = ["source_workload", "destination_workload", "request_protocol", "response_code", "grpc_response_status"];

/// What both sides of an edge count alike.
const BOTH: [&str; 7] = [
    "istio_requests_total",
    "istio_request_duration_milliseconds_count",
    "istio_request_bytes_sum",
    "istio_response_bytes_sum",
    "istio_request_messages_total",
    "istio_response_messages_total",
    "istio_tcp_connections_opened_total",
];

#[tokio::test]
async fn every_edge_adds_up() -> anyhow::Result<()> {
    adds_up(30, 4).await
}

#[tokio::test]
#[ignore = "takes two minutes"]
async fn every_edge_adds_up_over_two_minutes() -> anyhow::Result<()> {
    adds_up(40, 120).await
}

async fn adds_up(rate: u32, seconds: u32) -> anyhow::Result<()> {
    let mesh = Mesh::as_nobody().start().await?;
    let mut centre = Centre::start(&mesh).await?;
    let (_customers, report) = centre.customers(rate, seconds)?;
    let within = Duration::from_secs(seconds.into()) + PATIENCE;
    let report: Report =
        eventually("the customers' report", within, || async { Ok(serde_json::from_slice(&std::fs::read(&report)?)?) }).await?;
    ensure!(report.is_good() && report.held_back == 0 && report.recorded == report.calls && report.counted == report.calls, "{report:#?}");
    ensure!(report.calls >= u64::from(rate) * u64::from(seconds) * 9 / 10, "{report:#?}");
    // A record is told when the last byte of its exchange has gone on, a moment after its caller has it.
    eventually("all edges add up", PATIENCE, || check(&mesh, &centre, &report)).await?;
    mesh.finish().await
}

async fn check(mesh: &Mesh, centre: &Centre<'_>, report: &Report) -> anyhow::Result<()> {
    let mut lines = Vec::new();
    for proxy in scrape::proxies(mesh).await? {
        lines.extend(scrape::page(proxy).await?);
    }
    for name in BOTH {
        let [source, destination] = ["source", "destination"].map(|reporter| scrape::by(&lines, name, reporter, &EDGE));
        ensure!(!source.is_empty() && source == destination, "{name}:\n{source:#?}\n{destination:#?}");
    }
    let routed = centre.routed().await?;
    ensure!((routed.routed, routed.refused, routed.releases_failed) == (report.calls, 0, 0), "{routed:?}");
    // Each call asks for the customer and for an agent, is recorded and counted; and an agent who took it is released.
    for (account, service, expected) in [
        ("caller", "call-routing", report.calls),
        ("call-routing", "customer-history", routed.routed),
        ("call-routing", "agent-assignment", 2 * routed.routed - routed.queued),
        ("call-routing", "recording", routed.routed),
    ] {
        let told = told(&lines, "istio_requests_total", account, service)?;
        ensure!(told == expected, "{account} → {service}: its proxy says {told}, and the program {expected}");
    }
    let connections = told(&lines, "istio_tcp_connections_opened_total", "call-routing", "analytics")?;
    ensure!(connections == routed.analytics_connections, "{connections} connections, and {routed:?}");
    Ok(())
}

/// What the proxies of an account's programs say of their calls to a service.
fn told(lines: &[Line], name: &str, account: &str, service: &str) -> anyhow::Result<u64> {
    let principal = format!("spiffe://mesh.local/ns/contact/sa/{account}");
    let labels =
        [("reporter", "source"), ("source_principal", principal.as_str()), ("destination_service", &format!("{service}.contact.mesh"))];
    let sum = scrape::sum(lines, name, &labels);
    format!("{sum}").parse().with_context(|| format!("{account} → {service}: {sum}"))
}
