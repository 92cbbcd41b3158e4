//! The control plane: resources and registrations in, configuration and identities out.
//!
//! | module | noun |
//! | --- | --- |
//! | [`store`] | what must not be lost |
//! | [`mesh`] | the mesh as it is now: resources, workloads, sessions, publications |
//! | [`catalog`] | what one viewer may have of a publication |
//! | [`receipt`] | who acknowledged a publication |
//! | [`sessions`] | xDS streams, tied to the mesh |
//! | [`ca`] | the CA: who signs, the rotation of its root, the books on what was signed |
//! | [`issue`] | the CA's door |
//! | [`federation`] | bundles of other trust domains, fetched, and the mesh's own, served |
//! | [`hosts`] | join tokens, and the hosts that joined |
//! | [`kubernetes`] | service accounts of a cluster, and the keys that verify their tokens |
//! | [`claims`] | what a peer may claim to be |
//! | [`key_sets`] | the keys of token issuers, fetched |
//! | [`rate_limit`] | tokens of global limits, lent to proxies |
//! | [`diagnostics`] | what proxies tell of single requests |
//! | [`observed`] | who calls what, and what policies that are tried would change |
//! | `workload_api` | identities for the processes of this host |
//! | [`refused`] | what was refused to leave the mesh |
//! | [`telemetry`] | what the mesh tells of itself: taken in, kept, answered from |
//! | [`addresses`], [`declare`] | virtual addresses; services that workloads declare |
//! | [`api`] | the REST API's handlers |
//!
//! One Unix socket serves REST and gRPC to its owner, another the Workload API to everybody; `door` serves gRPC to hosts over TCP.
//! Nothing here sees a request between services.

pub mod addresses;
pub mod api;
pub mod ca;
pub mod catalog;
pub mod claims;
pub mod declare;
pub mod diagnostics;
pub mod federation;
pub mod hosts;
pub mod issue;
pub mod key_sets;
pub mod kubernetes;
pub mod mesh;
pub mod observed;
pub mod rate_limit;
pub mod receipt;
pub mod refused;
pub mod sessions;
pub mod store;
pub mod telemetry;

mod door;
mod serve;
mod workload_api;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context as _;
use lorica_api::Receipt;
use lorica_identity::intermediate::OwnCa;
use lorica_model::spiffe::TrustDomain;
use lorica_observe::series::{Bounds, SeriesStore};
use tokio_util::sync::CancellationToken;

pub use lorica_identity::authority::SVID_LIFETIME;

use crate::ca::{Ca, CaStart};
use crate::diagnostics::Diagnostics;
use crate::door::Door;
use crate::federation::Federation;
use crate::federation::endpoint::{Endpoint, EndpointConfig};
use crate::federation::own::Own;
use crate::hosts::{Admission, Hosts};
use crate::issue::Issuer;
use crate::kubernetes::{KubernetesConfig, ServiceAccounts};
use crate::mesh::Mesh;
use crate::observed::Observed;
use crate::rate_limit::Limits;
use crate::refused::Refused;
use crate::store::{Embedded, Expected, Store, StoreError, Table, Write};
use crate::telemetry::kept::{Kept, KeptConfig};
use crate::telemetry::otlp_http;
use crate::telemetry::prometheus::Questions;
use crate::telemetry::receive::Receiver;
use crate::telemetry::series::MetricsReceiver;
use crate::workload_api::HostWorkloads;

/// What a control plane is told at its start.
#[derive(Debug, Clone)]
pub struct ControlConfig {
    /// Where its state is kept.
    pub state_directory: PathBuf,
    /// The Unix socket that it serves.
    pub socket: PathBuf,
    /// The Unix socket of the Workload API, which every user may ask that reaches it.
    pub workload_socket: PathBuf,
    /// The trust domain of a new mesh.
    pub trust_domain: Option<TrustDomain>,
    /// How long an SVID holds, from five seconds to seven days; [`SVID_LIFETIME`] unless said otherwise.
    pub svid_lifetime: Duration,
    /// The root of a new mesh, or what is new of the root of this one; none: made here.
    pub own_ca: Option<OwnCa>,
    /// Where telemetry is served over TCP; none: nowhere. Its own metrics are on the socket, too.
    pub telemetry: Option<SocketAddr>,
    /// How much of what the mesh tells is kept, and where else it is taken.
    pub kept: KeptConfig,
    /// Where hosts reach it over TCP; none: it is of this host alone.
    pub listen: Option<SocketAddr>,
    /// The cluster of Kubernetes whose service accounts are believed there; none: no account is.
    pub kubernetes: Option<KubernetesConfig>,
    /// Where the mesh's bundle is served to other meshes; none: nowhere.
    pub bundle_endpoint: Option<EndpointConfig>,
    /// How often other meshes are asked to fetch it.
    pub bundle_refresh: Duration,
}

/// What is told once a control plane answers.
#[derive(Debug, Clone)]
pub struct Ready {
    /// Its trust domain.
    pub trust_domain: TrustDomain,
    /// Where it is reached over TCP, if it is.
    pub listening: Option<SocketAddr>,
    /// Where OTLP is taken over gRPC and over HTTP, if it is.
    pub otlp: [Option<SocketAddr>; 2],
    /// Where telemetry is read over TCP, if it is.
    pub telemetry: Option<SocketAddr>,
}

/// For how many of their fetches a new root is told to other meshes before anything comes from it: SPIFFE recommends 3 to 5 (Federation, 4.1).
const FETCHES_AHEAD: u32 = 3;

/// A control plane.
pub struct ControlPlane {
    /// The mesh.
    pub mesh: Arc<Mesh>,
    /// The CA.
    pub ca: Arc<Ca>,
    /// The CA's door.
    pub issuer: Arc<Issuer>,
    /// What was refused to leave the mesh.
    pub refused: Arc<Refused>,
    /// Who calls what.
    pub observed: Arc<Observed>,
    /// What proxies tell of single requests.
    pub diagnostics: Arc<Diagnostics>,
    /// The tokens of global limits.
    pub limits: Arc<Limits>,
    /// The hosts that joined.
    pub hosts: Arc<Hosts>,
    /// Where hosts reach it over TCP.
    pub listening: Option<SocketAddr>,
    /// Other trust domains.
    pub federation: Arc<Federation>,
    /// What the mesh tells of itself.
    pub kept: Arc<Kept>,
    /// Where telemetry is served over TCP.
    pub telemetry: Option<SocketAddr>,
    store: Arc<dyn Store>,
    /// The time series.
    pub series: SeriesStore,
    questions: Questions,
    started_at: SystemTime,
    state_directory: PathBuf,
    socket: PathBuf,
}

/// Runs a control plane until `shutdown`. `ready` is called once it answers.
///
/// # Errors
/// When its state or its socket cannot be had.
pub async fn run(config: ControlConfig, ready: impl FnOnce(&Ready), shutdown: impl Future<Output = ()>) -> anyhow::Result<()> {
    let store: Arc<dyn Store> = Arc::new(Embedded::open(&config.state_directory)?);
    let ca = CaStart::load(&*store, config.trust_domain.as_ref(), config.own_ca.as_ref(), SystemTime::now())?;
    let bundle = ca.bundle(SystemTime::now())?;
    let trust_domain = bundle.trust_domain.clone();
    let mesh = Mesh::load(store.clone(), trust_domain.clone(), bundle, prefix(&*store)?)?;
    // Before anybody is told anything: a proxy that had keys must not lose them to a control plane that has yet to fetch them.
    mesh.set_key_sets(key_sets::kept(&*store, mesh.key_sources())?);
    mesh.set_bundles(federation::kept(&*store, mesh.bundle_sources())?);
    let ahead = config.bundle_endpoint.as_ref().map_or(Duration::ZERO, |_| config.bundle_refresh * FETCHES_AHEAD);
    let ca = ca.of(mesh.clone(), store.clone(), config.svid_lifetime, ahead);
    let workloads = HostWorkloads::new(mesh.clone(), ca.clone(), workload_api::token_keys(&*store, &trust_domain)?);
    let own = Own::new(mesh.clone(), workloads.clone(), store.clone(), config.bundle_refresh);
    let accounts = config.kubernetes.map(ServiceAccounts::new).transpose()?;
    let hosts = Arc::new(Hosts::new(store.clone(), mesh.clone(), ca.clone(), accounts.clone()));
    let issuer = Issuer::new(mesh.clone(), ca.clone(), hosts.clone());
    let door = match config.listen {
        Some(address) => Some(Door::bind(address, ca.clone(), mesh.clone()).await?),
        None => None,
    };
    let listening = door.as_ref().map(|door| door.address);
    let place = config.state_directory.join("telemetry/series");
    let bounds = Bounds { bytes: config.kept.bytes / 4, age: config.kept.age, ..Bounds::default() };
    // The mesh is not to stand still because it cannot be looked at.
    let series = SeriesStore::open(&place, bounds).unwrap_or_else(|error| {
        tracing::error!(%error, directory = %place.display(), "time series cannot be kept: metrics that proxies tell are dropped");
        SeriesStore::closed()
    });
    let kept = Arc::new(Kept::open(&config.state_directory, &config.kept).await);
    let port = match config.telemetry {
        Some(address) => Some(telemetry::Port::bind(address).await?),
        None => None,
    };
    let telemetry = port.as_ref().map(|port| port.address);
    let control = Arc::new(ControlPlane {
        mesh: mesh.clone(),
        ca: ca.clone(),
        issuer,
        refused: Arc::default(),
        observed: Arc::default(),
        diagnostics: Diagnostics::new(mesh.clone(), hosts.clone(), ca.clone()),
        limits: Arc::new(Limits::new(mesh.clone(), Instant::now())),
        hosts: hosts.clone(),
        listening,
        federation: Federation::new(mesh.clone(), store.clone(), own),
        kept: kept.clone(),
        telemetry,
        store: store.clone(),
        questions: Questions::new(series.clone(), SystemTime::now()),
        series,
        started_at: SystemTime::now(),
        state_directory: config.state_directory,
        socket: config.socket,
    });
    let unserved = |socket: &Path| format!("{} cannot be served", socket.display());
    let listener = serve::bind(&control.socket).await.with_context(|| unserved(&control.socket))?;
    let workload_listener = workload_api::bind(&config.workload_socket).await.with_context(|| unserved(&config.workload_socket))?;
    let endpoint = match config.bundle_endpoint {
        Some(endpoint) => Some(Endpoint::bind(endpoint, ca.clone()).await?),
        None => None,
    };
    let otlp = bind(config.kept.otlp, "OTLP over gRPC").await?;
    let otlp_http = bind(config.kept.otlp_http, "OTLP over HTTP").await?;
    let mut tasks = vec![
        tokio::spawn(ca.keep()),
        tokio::spawn(workloads.clone().keep_fresh(store.clone())),
        tokio::spawn(expire(mesh.clone())),
        tokio::spawn(end_faults(mesh.clone())),
        tokio::spawn(key_sets::keep(mesh.clone(), store.clone())),
        tokio::spawn(control.federation.clone().keep()),
        tokio::spawn(catch_up(mesh)),
    ];
    tasks.extend(accounts.map(|accounts| tokio::spawn(accounts.keep())));
    tasks.extend(port.map(|port| tokio::spawn(port.serve(control.clone()))));
    tasks.extend(endpoint.map(|endpoint| tokio::spawn(endpoint.serve(control.federation.clone()))));
    let told = [&otlp, &otlp_http].map(|door| door.as_ref().and_then(telemetry::door::Door::address));
    ready(&Ready { trust_domain, listening, otlp: told, telemetry });
    let ending = CancellationToken::new();
    let receiver = Receiver::believing(kept.clone());
    let metrics = MetricsReceiver::believing(control.series.clone());
    if let Some(door) = otlp {
        let (traces, logs) = receiver.services();
        let routes = tonic::service::Routes::new(traces).add_service(logs).add_service(metrics.service());
        tasks.push(tokio::spawn(door.serve(routes.into_axum_router(), ending.clone())));
    }
    tasks.extend(otlp_http.map(|door| tokio::spawn(door.serve(otlp_http::router(receiver, metrics), ending.clone()))));
    let shutdown = async {
        shutdown.await;
        ending.cancel();
    };
    let serving = serve::serve(listener, door, Admission::new(hosts, workloads.clone()), control.clone(), shutdown);
    tokio::join!(serving, workload_api::serve(workload_listener, workloads, ending.clone()));
    tasks.iter().for_each(tokio::task::JoinHandle::abort);
    kept.close().await;
    store.close();
    // A socket without anybody behind it only confuses; one that is gone already is no loss.
    for socket in [&control.socket, &config.workload_socket] {
        let _: std::io::Result<()> = std::fs::remove_file(socket);
    }
    Ok(())
}

/// A port for telemetry, where one is asked for.
async fn bind(address: Option<SocketAddr>, what: &'static str) -> anyhow::Result<Option<telemetry::door::Door>> {
    match address {
        Some(address) => telemetry::door::Door::bind(address, what).await.map(Some),
        None => Ok(None),
    }
}

/// The IPv6 prefix of the mesh, drawn once.
fn prefix(store: &dyn Store) -> Result<u64, StoreError> {
    const KEY: &str = "prefix";
    if let Some(prefix) = store.get(Table::Mesh, KEY)?.and_then(|record| serde_json::from_slice(&record).ok()) {
        return Ok(prefix);
    }
    let prefix = addresses::prefix(fastrand::u64(..));
    store.write(&[Write {
        table: Table::Mesh,
        key: KEY.to_owned(),
        value: Some(prefix.to_string().into_bytes()),
        expected: Expected::Absent,
    }])?;
    Ok(prefix)
}

/// Lets go of workloads that are gone.
async fn expire(mesh: Arc<Mesh>) {
    loop {
        // A drained workload goes at once, a lost one after its grace.
        drop(tokio::time::timeout(Duration::from_millis(500), mesh.said.notified()).await);
        let expiring = mesh.clone();
        drop(tokio::task::spawn_blocking(move || expiring.expire(Instant::now())).await);
    }
}

/// Takes faults away at their ends. Lorica's proxies hold to these by themselves; Envoys know of none.
async fn end_faults(mesh: Arc<Mesh>) {
    loop {
        // The clock may be set: what is far away is looked at again each minute.
        let wait = match mesh.end_faults(SystemTime::now()) {
            Some(end) => end.duration_since(SystemTime::now()).unwrap_or_default().min(Duration::from_secs(60)),
            None => Duration::from_secs(3600),
        };
        drop(tokio::time::timeout(wait, mesh.faults.notified()).await);
    }
}

/// Publishes what was held back under load.
async fn catch_up(mesh: Arc<Mesh>) {
    loop {
        mesh.behind.notified().await;
        tokio::time::sleep(mesh::PACE).await;
        mesh.catch_up();
    }
}

/// The receipt of a publication, once nobody is left to say something or `limit` has passed.
pub(crate) async fn wait_for(mesh: &Arc<Mesh>, revision: u64, limit: Duration) -> Option<Receipt> {
    let deadline = tokio::time::Instant::now() + limit;
    loop {
        let said = mesh.said.notified();
        tokio::pin!(said);
        said.as_mut().enable();
        let receipt = mesh.receipt(revision);
        // One that is still to come is waited for as well.
        let open = receipt.as_ref().map_or_else(|| mesh.newest() < revision, |receipt| !receipt.is_complete());
        if !open || mesh.has_ended() || tokio::time::timeout_at(deadline, said).await.is_err() {
            return mesh.receipt(revision);
        }
    }
}

/// A time as the API writes it: RFC 3339, to the millisecond.
pub(crate) fn timestamp(time: SystemTime) -> String {
    jiff::Timestamp::try_from(time).map_or_else(|_| String::new(), |time| format!("{time:.3}"))
}
