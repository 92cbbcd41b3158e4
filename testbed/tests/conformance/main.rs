//! The Gateway API's conformance cases, run against a real control plane, real gateways and real sidecars.
//!
//! The cases are data (`../shared/conformance/gateway-api`; its README says how they are read); where they are not at hand the tests say so.
//! `trial` carries the checks of a test out in order, `go` reads them, `steps` holds what the data leaves out between them. The runner plays
//! Kubernetes: its Services and Deployments become Services, Workloads and echo servers of ours. A group that is put beside the others runs.

mod backends;
mod callers;
mod certificates;
mod data;
mod echo;
mod gateways;
mod go;
mod ours;
mod queue;
mod requests;
mod status;
mod steps;
mod traffic;
mod trial;

use anyhow::{Context as _, ensure};
use testbed::{Mesh, left_out};

use backends::Backends;
use callers::Callers;
use data::{Test, suite, text};
use gateways::Gateways;
use trial::Trial;

/// Tests that are not run, each with its reason.
const LEFT_OUT: &[(&str, &str)] = &[
    (
        "TLSRouteListenerMixedTerminationNotSupported",
        "it is for implementations that cannot do what TLSRouteMixedTerminationSameNamespace asks, which holds here",
    ),
    (
        "TLSRouteListenerTerminateNotSupported",
        "it is for implementations that cannot do what TLSRouteTerminateSimpleSameNamespace asks, which holds here",
    ),
];

/// Tests of which a part is left out, and why.
const IN_PART: &[(&str, &str)] = &[(
    "GatewayInfrastructure",
    "its status is held; that labels and annotations pass to Deployments, Services and ServiceAccounts is not, as nothing of the kind is made",
)];

/// The groups with a test of their own below.
const GROUPS: [&str; 7] = ["httproute", "listenerset", "gateway", "gatewayclass", "tlsroute", "tcproute", "backendtlspolicy"];

/// Runs a group of tests and tells every case that does not hold.
async fn group(name: &str) -> anyhow::Result<()> {
    part(name, |_| true).await
}

/// The same for the tests at some of the places of the data.
async fn part(name: &str, of: impl Fn(usize) -> bool) -> anyhow::Result<()> {
    let Some(suite) = suite(name)? else {
        left_out("the conformance cases of the Gateway API are not at hand");
        return Ok(());
    };
    let mesh = Mesh::options().start().await?;
    let mut backends = Backends::default();
    let base = suite.base()?;
    backends.start(&base, &suite.certificates).await?;
    let documents = [suite.certificates.documents(), backends.resources(&base), data::resources(&base)].concat();
    mesh.apply(&text(&documents)).await.context("the base manifest")?;
    let (gateways, callers) = (Gateways::new(&mesh), Callers::new(&mesh));
    let mut failed = Vec::new();
    for (_, test) in suite.tests.iter().enumerate().filter(|(at, _)| of(*at)) {
        if let Some((_, why)) = LEFT_OUT.iter().find(|(left_out, _)| *left_out == test.name) {
            left_out(&format!("{}: {why}", test.name));
            continue;
        }
        if let Some((_, why)) = IN_PART.iter().find(|(name, _)| *name == test.name) {
            left_out(&format!("{}, in part: {why}", test.name));
        }
        if let Err(error) = run(&mesh, &suite, test, &mut backends, &gateways, &callers).await {
            failed.push(format!("{}: {error:#}", test.name));
        }
    }
    callers.stop().await?;
    gateways.stop().await?;
    ensure!(failed.is_empty(), "{} of {} tests do not hold:\n{}", failed.len(), suite.tests.len(), failed.join("\n"));
    mesh.finish().await
}

/// One test: its manifests, its checks. What it brought is taken away again.
async fn run(
    mesh: &Mesh,
    suite: &data::Suite,
    test: &Test,
    backends: &mut Backends,
    gateways: &Gateways<'_>,
    callers: &Callers<'_>,
) -> anyhow::Result<()> {
    let mut manifests = Vec::new();
    for manifest in &test.manifests {
        manifests.extend(suite.manifest(manifest)?);
    }
    backends.start(&manifests, &suite.certificates).await?;
    let documents = [backends.resources(&manifests), data::resources(&manifests)].concat();
    let applied = mesh.lorica_with_input(["apply", "--allow-missing", "-f", "-"], Some(&text(&documents))).await?;
    ensure!(applied.code() == 0, "its manifests were refused: {}", applied.stderr);
    let held = Trial::new(mesh, suite, (test, &manifests), backends, gateways, callers).holds().await;
    let taken_away = Trial::take_away(mesh, backends, &manifests, &test.name).await;
    gateways.forget(&manifests).await?;
    held.and(taken_away)
}

/// The largest group in two parts, which run at once.
#[tokio::test]
async fn httproute_even() -> anyhow::Result<()> {
    part("httproute", |at| at % 2 == 0).await
}

#[tokio::test]
async fn httproute_odd() -> anyhow::Result<()> {
    part("httproute", |at| at % 2 == 1).await
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

/// Groups that are put beside these run as they are.
#[tokio::test]
async fn further_groups() -> anyhow::Result<()> {
    for name in data::further(&GROUPS) {
        group(&name).await?;
    }
    Ok(())
}
