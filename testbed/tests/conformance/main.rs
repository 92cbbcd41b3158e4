//! The Gateway API's conformance cases, run against a real control plane and real gateways.
//!
//! The cases are data (`../shared/conformance/gateway-api`; its README says how they are read); where they are not at hand the tests say so.
//! The runner plays Kubernetes: its Services and Deployments become Services, Workloads and echo servers of ours.

mod backends;
mod data;
mod expect;
mod gateways;

use anyhow::{Context as _, ensure};
use testbed::{Mesh, left_out};

use backends::Backends;
use data::{Test, suite};
use gateways::Gateways;

/// Tests that are not run: what they ask cannot hold here, or the data does not tell it. Each with its reason.
const LEFT_OUT: &[(&str, &str)] = &[
    ("HTTPRouteRetry", "the data does not say how the backend is asked to fail; testbed/tests/gateway.rs has retries"),
    ("HTTPRouteRetryConnectionError", "the same"),
    ("HTTPRouteRetryWithTimeouts", "the same"),
    ("HTTPRouteBackendProtocolWebSocket", "the data has no request; testbed/tests/mesh.rs has upgrades"),
    ("HTTPRouteWeight", "the data has the weights, not the requests; crates/model/tests/gateway_api.rs holds them against the compiler"),
    ("HTTPRouteRequestPercentageMirror", "the data has no count of requests; shares are held in crates/model"),
    ("GatewayModifyListeners", "the data does not hold the change that the test makes"),
    ("GatewayStaticAddresses", "the same"),
    ("GatewayNameMaximumLength", "a gateway's name is part of its identity and has at most 63 characters, as every name here"),
    ("GatewayTLSBackendClientCertificate", "its backend speaks TLS; crates/identity/tests/edge.rs has TLS towards backends"),
    (
        "GatewayFrontendClientCertificateValidation",
        "the data does not hold the clients' certificates; crates/identity/tests/edge.rs has them",
    ),
    ("GatewayFrontendClientCertificateValidationInsecureFallback", "the same"),
    ("GatewayInvalidFrontendClientCertificateValidation", "the same"),
    (
        "TLSRouteListenerMixedTerminationNotSupported",
        "it is for implementations that cannot do what TLSRouteMixedTerminationSameNamespace asks",
    ),
    ("TLSRouteListenerTerminateNotSupported", "the same"),
    ("TLSRouteHostnameIntersection", "its backends speak TLS; its statuses are those of the other tests"),
    ("TCPRouteMultipleRoutesAttachment", "the data does not hold the second route, which the test makes"),
    ("TCPRouteReferenceGrant", "the data does not say when the grant goes; TCPRouteInvalidCrossNamespaceBackendRef has the same status"),
    ("BackendTLSPolicy", "its backends speak TLS; crates/identity/tests/edge.rs has TLS towards backends"),
    ("BackendTLSPolicyConflictResolution", "the same"),
    ("BackendTLSPolicyGRPCRoute", "the same"),
    ("BackendTLSPolicyInvalidCACertificateRef", "the same"),
    ("BackendTLSPolicyInvalidKind", "the same"),
    ("BackendTLSPolicySANValidation", "the same"),
    (
        "HTTPRouteObservedGenerationBump",
        "a status is computed when it is asked for, of the generation that is stored; there is none of before",
    ),
];

#[tokio::test]
async fn httproute() -> anyhow::Result<()> {
    group("httproute").await
}

/// Runs a group of tests and tells every case that does not hold.
async fn group(name: &str) -> anyhow::Result<()> {
    let Some(suite) = suite(name)? else {
        left_out("the conformance cases of the Gateway API are not at hand");
        return Ok(());
    };
    let mesh = Mesh::options().start().await?;
    let mut backends = Backends::default();
    let base = suite.manifest("base/gateway-base.yaml")?;
    backends.start(&base).await?;
    mesh.apply(&text(&[suite.secrets(), backends.resources(&base), data::resources(&base)].concat())).await.context("the base manifest")?;
    let mut gateways = Gateways::new(&mesh);
    let mut failed = Vec::new();
    for test in &suite.tests {
        let expected = LEFT_OUT.iter().find(|(left_out, _)| *left_out == test.name);
        match (run(&mesh, &suite, test, &mut backends, &mut gateways, expected.is_some()).await, expected) {
            (Ok(()), _) => {}
            (Err(_), Some((_, why))) => left_out(&format!("{}: {why}", test.name)),
            (Err(error), None) => failed.push(format!("{}: {error:#}", test.name)),
        }
    }
    gateways.stop().await?;
    ensure!(failed.is_empty(), "{} of {} tests do not hold:\n{}", failed.len(), suite.tests.len(), failed.join("\n"));
    mesh.finish().await
}

/// One test: its manifests, its requests, its statuses. What it brought is taken away again.
async fn run(
    mesh: &Mesh,
    suite: &data::Suite,
    test: &Test,
    backends: &mut Backends,
    gateways: &mut Gateways<'_>,
    is_left_out: bool,
) -> anyhow::Result<()> {
    ensure!(!is_left_out, "it is left out");
    let mut manifests = Vec::new();
    for manifest in &test.manifests {
        manifests.extend(suite.manifest(manifest)?);
    }
    backends.start(&manifests).await?;
    let documents = [backends.resources(&manifests), data::resources(&manifests)].concat();
    let applied = mesh.lorica_with_input(["apply", "--allow-missing", "-f", "-"], Some(&text(&documents))).await?;
    ensure!(applied.code() == 0, "its manifests were refused: {}", applied.stderr);
    let held = expect::Expected { mesh, suite, test, manifests: &manifests, backends }.holds(gateways).await;
    let taken_away = mesh.lorica_with_input(["delete", "-f", "-"], Some(&text(&documents))).await?;
    gateways.forget(&manifests).await?;
    held?;
    ensure!(taken_away.code() == 0, "its manifests were not deleted: {}", taken_away.stderr);
    Ok(())
}

/// Documents as one text: JSON is YAML.
pub(crate) fn text(documents: &[serde_json::Value]) -> String {
    documents.iter().map(|document| format!("{document}\n---\n")).collect()
}

#[tokio::test]
async fn listenerset() -> anyhow::Result<()> {
    group("listenerset").await
}

#[tokio::test]
async fn gateway() -> anyhow::Result<()> {
    group("gateway").await
}

#[tokio::test]
async fn gatewayclass() -> anyhow::Result<()> {
    group("gatewayclass").await
}

#[tokio::test]
async fn tlsroute() -> anyhow::Result<()> {
    group("tlsroute").await
}

#[tokio::test]
async fn tcproute() -> anyhow::Result<()> {
    group("tcproute").await
}

#[tokio::test]
async fn backendtlspolicy() -> anyhow::Result<()> {
    group("backendtlspolicy").await
}
