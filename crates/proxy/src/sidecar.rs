//! The sidecar: one proxy beside one app, from its start to its end.
//!
//! listeners of the host → registration → SVID and first units → `Prepared` → listeners of the app's namespace →
//! worker → `Serving` → … → drain → end. The main thread keeps identity, configuration, DNS and metrics; the worker's
//! thread serves. Whatever fails before `Serving` is told to the supervisor, which tells the user.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use lorica_capture::{AppListener, FromProxy, ListenerLabel, ProxyChannel};
use lorica_identity::TlsEpoch;
use lorica_model::snapshot::InboundUnit;
use lorica_observe::push::Pusher;
use lorica_xds::client::{Client, ClientConfig, ConnectionState, Endpoint};
use lorica_xds::observed::Observer;
use lorica_xds::refused::Teller;
use lorica_xds::{NodeMetadata, NodePort};
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::watch;
use tokio::task::{JoinHandle, LocalSet, spawn_local};
use tokio::time::timeout;

use crate::admin::{self, Admin};
use crate::config::{Own, ProxyConfig};
use crate::diagnostics::{Diagnostics, attend};
use crate::dns::Dns;
use crate::endpoints::Vantage;
use crate::endpoints::shared::Shared;
use crate::identity::{Keeper, control_channel};
use crate::limits::Limits;
use crate::source::Source;
use crate::supervisor::{Ending, Interior, Listener, Supervisor};
use crate::view::{self, View};
use crate::{telemetry, workers};

/// How long callers' proxies may take to acknowledge that this workload is gone, before the drain goes on without them.
const WITHDRAWAL: Duration = Duration::from_secs(5);

/// How long a request may have been on its way when its caller's proxy acknowledged the withdrawal.
const ON_THE_WAY: Duration = Duration::from_millis(250);

/// Runs until the app or the supervisor has ended.
///
/// # Errors
/// What kept the proxy from serving; the supervisor has been told.
pub fn run(config: ProxyConfig, channel: ProxyChannel) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async {
        let supervisor = Supervisor::new(channel)?;
        match serve(Arc::new(config), &supervisor).await {
            Ok(()) => Ok(()),
            Err(error) => {
                // A supervisor that is gone cannot be told; the error below then says so too.
                drop(supervisor.say(&FromProxy::Failed { message: format!("{error:#}") }));
                Err(error)
            }
        }
    })
}

async fn serve(config: Arc<ProxyConfig>, supervisor: &Supervisor) -> anyhow::Result<()> {
    let host = supervisor.host_listeners().await.context("the supervisor is gone")?;
    let metrics = TcpListener::bind(("127.0.0.1", 0)).await.context("no port for metrics")?;
    let own = Arc::new(config.own());
    let telemetry = telemetry::open(&config.telemetry, &own, Some(control_channel(&config.control_socket)))?;
    let metadata = metadata(&config, &host, metrics.local_addr()?)?;
    let node = serde_json::json!({ "id": config.workload, "metadata": metadata }).to_string();
    let (refusals, telling) = telling(&config, &metadata);
    let (observer, observing) = observing(&config, &metadata);
    let (diagnostics, attending) = attending(&config, &metadata);
    let endpoint = Endpoint::Unix(config.control_socket.clone());
    let version = env!("CARGO_PKG_VERSION").to_owned();
    let (client, receiving) = Client::start(ClientConfig { endpoint, node_id: config.workload.clone(), version, metadata }, None);
    spawn_local(receiving);
    config.upstreams.iter().for_each(|port| client.want(port.clone()));

    let ((epochs, epoch), (denied, denial)) = (watch::channel(None), watch::channel(None));
    spawn_local(Keeper { control_socket: config.control_socket.clone(), node, snapshots: client.snapshot(), epochs, denied }.run());
    let shared = Arc::new(Shared::new(1, telemetry.clone()));
    let vantage = Vantage { own: config.locality.clone(), worker: 0, shared: shared.clone() };
    let (views_in, views) = watch::channel(Arc::new(View::first(vantage)));
    let (adopted, running) = watch::channel(0);
    let followed = view::follow(client.clone(), views_in, running);
    spawn_local(followed);

    let inbound = prepared(&config, &client, epoch.clone(), denial, false).await?;
    let known_names = known_names(&views.borrow());
    supervisor.say(&FromProxy::Prepared { virtual_v4: inbound.virtual_v4, virtual_v6: Some(inbound.virtual_v6), known_names })?;
    let (app, listening) = watch::channel(Vec::new());
    let Interior { listeners, sockets } = supervisor.interior(&app).await.context("the supervisor is gone")?;

    let (ending_in, mut asked) = watch::channel(Ending::Running);
    let (dns, served): (Vec<Listener>, Vec<Listener>) =
        host.into_iter().chain(listeners).partition(|(label, _)| matches!(label, ListenerLabel::DnsUdp | ListenerLabel::DnsTcp));
    let app_has_ipv6 = served.iter().any(|(label, socket)| *label == ListenerLabel::Outbound && is_ipv6(socket));
    let told = Arc::default();
    serve_names(Dns::new(config.namespace.clone(), views.clone(), telemetry.clone(), Arc::clone(&told), app_has_ipv6), dns)?;
    let admin = Admin::new(telemetry.clone(), Source::ControlPlane(client.clone()), epoch.clone(), shared);
    let pusher = pushing(&config, &own, admin.clone());
    spawn_local(admin::serve(metrics, admin));

    let worker = workers::start(workers::Start {
        name: "lorica-worker".to_owned(),
        own,
        source: Source::ControlPlane(client.clone()),
        views,
        adopted,
        epochs: epoch,
        telemetry: telemetry.clone(),
        limits: limits(&config),
        told,
        refusals: Some(refusals),
        observer: Some(observer),
        diagnostics,
        listening,
        sockets,
        listeners: served,
        gateway: tokio::sync::mpsc::channel(1).1,
    });
    let worker = worker.await?;
    supervisor.say(&FromProxy::Serving)?;
    spawn_local(workers::release_start_pages());
    spawn_local(announce(app.subscribe(), client.clone()));

    let outcome = tokio::select! {
        gone = supervisor.follow(&app, &ending_in) => gone.map_err(anyhow::Error::from),
        () = end(&config, &client, &mut asked, &worker, supervisor) => Ok(()),
    };
    worker.end();
    // The worker hands its last log lines over when it ends, and what it refused and saw last.
    worker.join();
    told_last([telling, observing, attending]).await;
    pusher.finish(Duration::from_secs(1)).await;
    telemetry.flush(Duration::from_secs(1)).await;
    outcome
}

/// Waits a moment for the control plane to take what was refused and seen last.
pub(crate) async fn told_last(telling: [JoinHandle<()>; 3]) {
    if timeout(Duration::from_secs(1), futures_util::future::join_all(telling)).await.is_err() {
        tracing::debug!("what was refused or seen last could not be told in time");
    }
}

/// Tells the control plane what may not leave the mesh.
/// The handle ends once all clones of the teller are gone and what they handed over was told.
pub(crate) fn telling(config: &ProxyConfig, metadata: &NodeMetadata) -> (Teller, JoinHandle<()>) {
    let node = lorica_xds::node(&config.workload.to_string(), env!("CARGO_PKG_VERSION"), metadata);
    let (teller, telling) = Teller::start(node, control_channel(&config.control_socket));
    (teller, spawn_local(telling))
}

/// Tells the control plane who calls what, and what policies that are tried would do. The handle is as that of [`telling`].
pub(crate) fn observing(config: &ProxyConfig, metadata: &NodeMetadata) -> (Observer, JoinHandle<()>) {
    let node = lorica_xds::node(&config.workload.to_string(), env!("CARGO_PKG_VERSION"), metadata);
    let (observer, telling) = Observer::start(node, control_channel(&config.control_socket));
    (observer, spawn_local(telling))
}

/// What the proxy can tell of single requests, with the task that attends the control plane. The handle is as that of [`telling`].
pub(crate) fn attending(config: &ProxyConfig, metadata: &NodeMetadata) -> (Diagnostics, JoinHandle<()>) {
    let node = lorica_xds::node(&config.workload.to_string(), env!("CARGO_PKG_VERSION"), metadata);
    let (diagnostics, told) = Diagnostics::told(config.explain.clone());
    let attending = attend::attend(diagnostics.untold(), told, node, control_channel(&config.control_socket));
    (diagnostics, spawn_local(attending))
}

/// Tells the control plane this proxy's metrics.
pub(crate) fn pushing(config: &ProxyConfig, own: &Own, admin: Arc<Admin>) -> Pusher {
    let (pusher, pushing) = Pusher::start(telemetry::sender(own), control_channel(&config.control_socket), move || admin.families());
    spawn_local(pushing);
    pusher
}

/// What the proxy remembers of limits, with the task that asks the control plane for tokens of global ones.
pub(crate) fn limits(config: &ProxyConfig) -> Limits {
    let (limits, borrowing) = Limits::lending(&config.workload, control_channel(&config.control_socket));
    spawn_local(borrowing);
    limits
}

/// What the proxy says of itself when it registers.
fn metadata(config: &ProxyConfig, listeners: &[Listener], metrics: SocketAddr) -> anyhow::Result<NodeMetadata> {
    let address = |app_port: u16| -> anyhow::Result<SocketAddr> {
        let listener = listeners.iter().find(|(label, _)| *label == ListenerLabel::Inbound { app_port });
        let (_, socket) = listener.with_context(|| format!("there is no listener for port {app_port}"))?;
        let bound = SocketAddr::try_from(rustix::net::getsockname(socket)?)?;
        Ok(SocketAddr::new(config.advertise, bound.port()))
    };
    let port = |port: &crate::config::DeclaredPort| -> anyhow::Result<NodePort> {
        Ok(NodePort { service_port: port.service_port, app_port: port.app_port, protocol: port.protocol, address: address(port.app_port)? })
    };
    Ok(NodeMetadata {
        namespace: config.namespace.clone(),
        service: config.service.clone(),
        account: config.account.clone(),
        version: config.version.clone(),
        ports: config.ports.iter().map(port).collect::<anyhow::Result<_>>()?,
        metrics: Some(metrics),
        streams: true,
        locality: config.locality.clone(),
        ..NodeMetadata::client(config.namespace.clone(), config.account.clone())
    })
}

/// Waits for the workload's own units (a gateway's app calls nobody), an SVID, and the units of explicit listeners.
pub(crate) async fn prepared(
    config: &ProxyConfig,
    client: &Client,
    mut epochs: watch::Receiver<Option<Arc<TlsEpoch>>>,
    mut denial: watch::Receiver<Option<String>>,
    gateway: bool,
) -> anyhow::Result<Arc<InboundUnit>> {
    let mut snapshots = client.snapshot();
    let mut states = client.state();
    let all = async {
        let ready = snapshots.wait_for(|snapshot| {
            let settled = |port| snapshot.outbound.contains_key(port) || snapshot.absent.contains(port);
            let own = snapshot.egress.is_some() || gateway;
            snapshot.inbound.is_some() && snapshot.bundle.is_some() && own && config.upstreams.iter().all(settled)
        });
        let inbound = ready.await.ok().and_then(|snapshot| snapshot.inbound.clone()).context("the control plane's client ended")?;
        epochs.wait_for(Option::is_some).await.context("the identity's keeper ended")?;
        Ok(inbound)
    };
    let refused = async {
        match states.wait_for(|state| matches!(state, ConnectionState::Refused { .. })).await.as_deref() {
            Ok(ConnectionState::Refused { message }) => message.clone(),
            _ => std::future::pending().await,
        }
    };
    let denied = async {
        match denial.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(why)) => why.clone(),
            _ => std::future::pending().await,
        }
    };
    let socket = config.control_socket.display();
    tokio::select! {
        inbound = all => inbound,
        why = denied => bail!("the control plane gives {} no certificate: {why}\nhint: `lorica ca revocations` lists who is revoked", config.workload),
        message = refused => bail!("the control plane does not take {}: {message}", config.workload),
        () = tokio::time::sleep(config.start_deadline) => match &*client.state().borrow() {
            ConnectionState::Connecting { last_error } => {
                bail!("no control plane answers on {socket}{}\nhint: start one with `lorica control`, or name another with --server", last_error.as_deref().map(|error| format!(" ({error})")).unwrap_or_default())
            }
            _ => bail!("the control plane on {socket} has not sent everything within {} s\nhint: `lorica status` shows what it knows", config.start_deadline.as_secs()),
        },
    }
}

fn known_names(view: &View) -> Vec<String> {
    let services = view
        .snapshot
        .names
        .values()
        .flat_map(|table| table.records.iter().map(move |record| format!("{}.{}", record.name, table.namespace)));
    // Environment variables have a length, too.
    services.take(200).collect()
}

fn is_ipv6(socket: &std::os::fd::OwnedFd) -> bool {
    rustix::net::getsockname(socket).is_ok_and(|address| SocketAddr::try_from(address).is_ok_and(|address| address.is_ipv6()))
}

fn serve_names(dns: std::rc::Rc<Dns>, sockets: Vec<Listener>) -> anyhow::Result<()> {
    for (label, socket) in sockets {
        match label {
            ListenerLabel::DnsUdp => drop(spawn_local(dns.clone().serve_udp(UdpSocket::from_std(socket.into())?))),
            _ => drop(spawn_local(dns.clone().serve_tcp(TcpListener::from_std(socket.into())?))),
        }
    }
    Ok(())
}

/// Tells the control plane on which ports the app listens: only then may callers come.
async fn announce(mut app: watch::Receiver<Vec<AppListener>>, client: Client) {
    loop {
        let ports = app.borrow_and_update().iter().map(|listener| listener.port).collect::<Vec<_>>();
        client.update_metadata(|metadata| {
            metadata.listening = metadata.ports.iter().map(|port| port.app_port).filter(|port| ports.contains(port)).collect();
        });
        if app.changed().await.is_err() {
            return;
        }
    }
}

/// Drains when asked to, and returns when nothing is left to serve.
async fn end(
    config: &ProxyConfig,
    client: &Client,
    asked: &mut watch::Receiver<Ending>,
    worker: &workers::Running,
    supervisor: &Supervisor,
) {
    if asked.wait_for(|asked| *asked != Ending::Running).await.is_err() {
        return;
    }
    client.update_metadata(|metadata| metadata.draining = true);
    if *asked.borrow() == Ending::Drain {
        // Callers' proxies stop choosing this workload before it closes anything: no request runs into a closed door.
        tokio::select! {
            () = withdrawn(config, client) => {}
            _ = asked.wait_for(|asked| *asked == Ending::AppEnded) => {}
        }
        // It follows what the supervisor asked for once no caller comes any more.
        worker.close(Ending::Drain);
        let deadline = Instant::now() + config.drain_deadline;
        while worker.under_way.inbound.load(Ordering::Relaxed) > 0 && Instant::now() < deadline && *asked.borrow() == Ending::Drain {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        tell_drained(supervisor);
        if asked.wait_for(|asked| *asked == Ending::AppEnded).await.is_err() {
            return;
        }
    }
    worker.close(Ending::AppEnded);
    // The app is gone; what it said last is still on its way.
    let deadline = Instant::now() + Duration::from_secs(2);
    while worker.exchanges() > 0 && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    tell_drained(supervisor);
}

/// Waits until callers' proxies have acknowledged that this workload ends, and what they sent before has arrived.
async fn withdrawn(config: &ProxyConfig, client: &Client) {
    let connected = matches!(*client.state().borrow(), ConnectionState::Connected { .. });
    if !connected || config.ports.is_empty() {
        return;
    }
    let mut snapshots = client.snapshot();
    let told = snapshots.wait_for(|snapshot| snapshot.inbound.as_ref().is_some_and(|inbound| inbound.withdrawn));
    if timeout(WITHDRAWAL, told).await.is_err() {
        tracing::warn!("not every caller has acknowledged within {} s that this workload ends", WITHDRAWAL.as_secs());
    }
    tokio::time::sleep(ON_THE_WAY).await;
}

fn tell_drained(supervisor: &Supervisor) {
    if let Err(error) = supervisor.say(&FromProxy::Drained) {
        tracing::debug!(%error, "the supervisor is gone");
    }
}
