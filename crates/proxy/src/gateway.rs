//! The gateway role: the data plane where calls from outside come in, or go out, as Gateway resources say.
//!
//! What the control plane sends (or files say) names listener ports; each is bound where the user wants it, on every worker, and closed
//! when the gateway has it no more. Connections that are open then go on.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use lorica_capture::listen;
use lorica_model::name::GatewayName;
use lorica_model::snapshot::{Listening, Snapshot};
use lorica_xds::NodeMetadata;
use lorica_xds::client::{Client, ClientConfig, Endpoint};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::{LocalSet, spawn_local};

use crate::admin::{self, Admin};
use crate::config::ProxyConfig;
use crate::endpoints::Vantage;
use crate::endpoints::shared::Shared;
use crate::identity::Keeper;
use crate::sidecar::{self, prepared};
use crate::source::Source;
use crate::standalone::{self, Notice, Signals};
use crate::view::{self, View};
use crate::{telemetry, workers};

/// Where a gateway's listener ports are bound.
#[derive(Debug, Clone)]
pub struct Binds {
    /// The address for ports of which nothing else is said.
    pub address: IpAddr,
    /// Ports that are bound elsewhere than at their own number.
    pub ports: BTreeMap<u16, SocketAddr>,
}

impl Default for Binds {
    /// Loopback: nothing is open to others unless somebody says so.
    fn default() -> Self {
        Self { address: Ipv4Addr::LOCALHOST.into(), ports: BTreeMap::new() }
    }
}

impl Binds {
    fn of(&self, port: u16) -> SocketAddr {
        self.ports.get(&port).copied().unwrap_or_else(|| SocketAddr::new(self.address, port))
    }
}

/// A socket of a listener port, for one worker.
pub struct GatewayListener {
    /// The port, as the listeners say it.
    pub port: u16,
    /// The socket.
    pub socket: Socket,
    /// Set when the gateway has the port no more.
    pub closed: watch::Receiver<bool>,
}

/// A socket, by what it carries.
pub enum Socket {
    /// Connections.
    Tcp(OwnedFd),
    /// Datagrams that are passed on.
    Udp(OwnedFd),
    /// QUIC. One worker has the socket, the others know by it that HTTP/3 is served.
    #[cfg(feature = "http3")]
    Quic(Option<OwnedFd>),
}

/// The most sockets that may wait for a worker: more than a gateway has ports.
pub(crate) const MAX_WAITING: usize = 1024;

/// The way by which a worker gets its sockets.
pub type Listeners = mpsc::Sender<GatewayListener>;

/// The listener ports of a gateway as they come and go.
pub struct Ports {
    binds: Binds,
    workers: Vec<Listeners>,
    open: BTreeMap<u16, (SocketAddr, bool, watch::Sender<bool>)>,
    /// Where QUIC is served beside TCP.
    #[cfg(feature = "http3")]
    quic: BTreeMap<u16, watch::Sender<bool>>,
    /// What could not be bound, and was told.
    failed: BTreeMap<u16, String>,
}

impl Ports {
    /// None open yet.
    #[must_use]
    pub fn new(binds: Binds, workers: Vec<Listeners>) -> Self {
        Self {
            binds,
            workers,
            open: BTreeMap::new(),
            #[cfg(feature = "http3")]
            quic: BTreeMap::new(),
            failed: BTreeMap::new(),
        }
    }

    /// Opens what a snapshot has and is not open, closes what it has not. What is worth a line is returned.
    pub fn follow(&mut self, snapshot: &Snapshot) -> Vec<Notice> {
        let wanted: BTreeMap<u16, bool> =
            snapshot.gateway.iter().map(|(port, unit)| (*port, matches!(unit.listening, Listening::Udp(_)))).collect();
        let mut notices = Vec::new();
        let before: Vec<u16> = self.open.keys().copied().collect();
        self.open.retain(|port, (address, udp, closed)| {
            let stays = wanted.get(port) == Some(&*udp);
            if !stays {
                closed.send_replace(true);
                notices.push(Notice::Note(format!("listener port {port} was closed ({address})")));
            }
            stays
        });
        self.failed.retain(|port, _| wanted.contains_key(port));
        let http3: BTreeSet<u16> = asking_for_http3(snapshot).collect();
        for (port, udp) in wanted {
            if self.open.contains_key(&port) {
                continue;
            }
            match self.bind(port, udp, http3.contains(&port)) {
                Ok((address, closed)) => {
                    self.failed.remove(&port);
                    self.open.insert(port, (address, udp, closed));
                }
                Err(error) => notices.extend(self.fail(port, &error)),
            }
        }
        #[cfg(feature = "http3")]
        self.follow_quic(&http3, &mut notices);
        if self.open.keys().any(|port| !before.contains(port)) {
            let places: Vec<String> = self.open.iter().map(|(port, (address, ..))| format!("port {port} on {address}")).collect();
            notices.push(Notice::Serving(format!("serving: {}", places.join(", "))));
        }
        notices
    }

    /// Remembers why a port is not bound, and tells it, if that is news.
    fn fail(&mut self, port: u16, error: &anyhow::Error) -> Option<Notice> {
        let error = format!("{error:#}");
        let news = self.failed.insert(port, error.clone()).as_ref() != Some(&error);
        news.then(|| Notice::Note(format!("warning: {error}")))
    }

    /// What a snapshot asks for and this binary does not do.
    #[must_use]
    pub fn left_out(&self, snapshot: &Snapshot) -> Vec<Notice> {
        if cfg!(feature = "http3") {
            return Vec::new();
        }
        let told = |port| {
            let why = "this binary was built without the feature `http3`";
            Notice::Note(format!("warning: the listener port {port} is served by HTTP/1 and HTTP/2 only: {why}"))
        };
        asking_for_http3(snapshot).map(told).collect()
    }

    /// Opens QUIC beside TCP where a snapshot has it, closes it where it has not.
    #[cfg(feature = "http3")]
    fn follow_quic(&mut self, wanted: &BTreeSet<u16>, notices: &mut Vec<Notice>) {
        let open = &self.open;
        self.quic.retain(|port, closed| {
            let stays = wanted.contains(port) && open.contains_key(port);
            if !stays {
                closed.send_replace(true);
            }
            stays
        });
        for port in wanted.iter().copied() {
            let Some((address, ..)) = self.open.get(&port).filter(|_| !self.quic.contains_key(&port)) else { continue };
            let address = *address;
            match bound_datagrams(address, false) {
                Ok(socket) => {
                    let (closed_in, closed) = watch::channel(false);
                    // QUIC's packets find their connection by a number in them, the kernel's choice among sockets goes by addresses: of several
                    // workers, one has all of a port, or a client that changes its address would be lost.
                    let owner = usize::from(port) % self.workers.len().max(1);
                    let mut socket = Some(socket);
                    for (number, worker) in self.workers.iter().enumerate() {
                        let socket = Socket::Quic(if number == owner { socket.take() } else { None });
                        hand_over(worker, GatewayListener { port, socket, closed: closed.clone() });
                    }
                    self.failed.remove(&port);
                    self.quic.insert(port, closed_in);
                    tracing::info!(port, %address, "HTTP/3 is served");
                }
                Err(error) => {
                    let error = anyhow::anyhow!(
                        "HTTP/3 of the listener port {port} cannot be bound on {address} (UDP): {error}\nhint: see what has it (ss -lunp 'sport = {}')",
                        address.port()
                    );
                    notices.extend(self.fail(port, &error));
                }
            }
        }
    }

    /// Binds a port for every worker. `http3`: the same number of UDP is needed, too.
    fn bind(&self, port: u16, udp: bool, http3: bool) -> anyhow::Result<(SocketAddr, watch::Sender<bool>)> {
        let (closed_in, closed) = watch::channel(false);
        let mut address = self.binds.of(port);
        if http3 && address.port() == 0 {
            address = free_for_both(address).map_err(|error| refused(port, address, &error))?;
        }
        let shared = self.workers.len() > 1;
        let mut sockets = Vec::new();
        for _ in &self.workers {
            let socket = if udp { bound_datagrams(address, shared) } else { listen(address, shared) };
            let socket = socket.map_err(|error| refused(port, address, &error))?;
            address = SocketAddr::try_from(rustix::net::getsockname(&socket)?)?;
            sockets.push(socket);
        }
        for (worker, socket) in self.workers.iter().zip(sockets) {
            let socket = if udp { Socket::Udp(socket) } else { Socket::Tcp(socket) };
            hand_over(worker, GatewayListener { port, socket, closed: closed.clone() });
        }
        Ok((address, closed_in))
    }

    /// Where each port is.
    #[must_use]
    pub fn places(&self) -> BTreeMap<u16, SocketAddr> {
        self.open.iter().map(|(port, (address, ..))| (*port, *address)).collect()
    }

    /// Whether something could not be bound and is to be tried again.
    #[must_use]
    pub fn is_behind(&self) -> bool {
        !self.failed.is_empty()
    }
}

fn hand_over(worker: &Listeners, listener: GatewayListener) {
    let port = listener.port;
    if let Err(error) = worker.try_send(listener) {
        tracing::error!(%error, port, "a worker takes no more listeners");
    }
}

/// The address with a port that nothing has, neither of TCP nor of UDP.
fn free_for_both(address: SocketAddr) -> std::io::Result<SocketAddr> {
    const TRIES: usize = 16;
    let mut last = std::io::ErrorKind::AddrInUse.into();
    for _ in 0..TRIES {
        let tcp = listen(address, false)?;
        let at = SocketAddr::try_from(rustix::net::getsockname(&tcp)?)?;
        match bound_datagrams(at, false) {
            Ok(_) => return Ok(at),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// The ports of which a chain is to be served by HTTP/3.
fn asking_for_http3(snapshot: &Snapshot) -> impl Iterator<Item = u16> {
    let asks = |listening: &Listening| matches!(listening, Listening::Tls(chains) if chains.iter().any(|chain| chain.http3));
    snapshot.gateway.iter().filter(move |(_, unit)| asks(&unit.listening)).map(|(port, _)| *port)
}

fn bound_datagrams(address: SocketAddr, shared: bool) -> std::io::Result<OwnedFd> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with, sockopt::set_socket_reuseport};
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, SocketType::DGRAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
    set_socket_reuseport(&socket, shared)?;
    bind(&socket, &address)?;
    Ok(socket)
}

fn refused(port: u16, address: SocketAddr, error: &std::io::Error) -> anyhow::Error {
    let hint = match error.kind() {
        std::io::ErrorKind::PermissionDenied => {
            format!("ports below 1024 are for root: bind it elsewhere with --bind {port}={}", 8000 + port % 1000)
        }
        std::io::ErrorKind::AddrInUse => {
            format!("see what listens there (ss -ltnp 'sport = {}'), or bind it elsewhere with --bind {port}=PORT", address.port())
        }
        std::io::ErrorKind::AddrNotAvailable => "the address must be one of this host".to_owned(),
        _ => format!("bind it elsewhere with --bind {port}=ADDRESS:PORT"),
    };
    anyhow::anyhow!("the listener port {port} cannot be bound on {address}: {error}\nhint: {hint}")
}

/// How long until binding is tried again.
const AGAIN: Duration = Duration::from_secs(5);

/// All that a gateway under a control plane needs to know.
pub struct GatewayConfig {
    /// What every proxy needs to know; it has no app.
    pub proxy: ProxyConfig,
    /// The gateway that it runs.
    pub gateway: GatewayName,
    /// Where ports are bound.
    pub binds: Binds,
    /// Where metrics and readiness are served.
    pub metrics: SocketAddr,
    /// How many workers serve.
    pub workers: usize,
}

/// Runs a gateway until SIGTERM or SIGINT.
///
/// # Errors
/// What kept it from serving.
pub fn run(config: GatewayConfig, tell: impl Fn(Notice) + Clone + 'static) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, serve(config, tell))
}

async fn serve(config: GatewayConfig, tell: impl Fn(Notice) + Clone + 'static) -> anyhow::Result<()> {
    let signals = Signals::new()?;
    let GatewayConfig { proxy, gateway, binds, metrics, workers: count } = config;
    let metrics = TcpListener::bind(metrics).await.with_context(|| format!("nothing can listen on {metrics} for --metrics"))?;
    let scraped = metrics.local_addr()?;
    let own = Arc::new(proxy.own());
    let telemetry = telemetry::open(&proxy.telemetry, &own, Some(crate::identity::control_channel(&proxy.control_socket)))?;
    let metadata = NodeMetadata {
        gateway: Some(gateway.clone()),
        metrics: Some(scraped),
        locality: proxy.locality.clone(),
        ..NodeMetadata::client(proxy.namespace.clone(), proxy.account.clone())
    };
    let node = serde_json::json!({ "id": proxy.workload, "metadata": metadata }).to_string();
    let (refusals, telling) = sidecar::telling(&proxy, &metadata);
    let (observer, observing) = sidecar::observing(&proxy, &metadata);
    let (diagnostics, attending) = sidecar::attending(&proxy, &metadata);
    let endpoint = Endpoint::Unix(proxy.control_socket.clone());
    let version = env!("CARGO_PKG_VERSION").to_owned();
    let (client, receiving) = Client::start(ClientConfig { endpoint, node_id: proxy.workload.clone(), version, metadata }, None);
    spawn_local(receiving);
    let ((epochs, epoch), (denied, denial)) = (watch::channel(None), watch::channel(None));
    spawn_local(Keeper { control_socket: proxy.control_socket.clone(), node, snapshots: client.snapshot(), epochs, denied }.run());
    prepared(&proxy, &client, epoch.clone(), denial, true).await?;

    let source = Source::ControlPlane(client.clone());
    let shared = Arc::new(Shared::new(count, telemetry.clone()));
    let admin = Admin::new(telemetry.clone(), source.clone(), epoch.clone(), shared.clone());
    let pusher = sidecar::pushing(&proxy, &own, admin.clone());
    spawn_local(admin::serve(metrics, admin));
    let limits = sidecar::limits(&proxy);
    let (_, listening) = watch::channel(Vec::new());
    let (mut views, mut running, mut listeners, mut adopting) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for number in 0..count {
        let vantage = Vantage { own: own.locality.clone(), worker: number, shared: shared.clone() };
        let (views_in, view) = watch::channel(standalone::first_view(&client.snapshot().borrow(), vantage));
        let (listeners_in, gateway) = mpsc::channel(MAX_WAITING);
        let (adopted, runs) = watch::channel(0);
        adopting.push(runs);
        let start = workers::Start {
            name: format!("worker-{number}"),
            own: own.clone(),
            source: source.clone(),
            views: view,
            adopted,
            epochs: epoch.clone(),
            telemetry: telemetry.clone(),
            limits: limits.clone(),
            told: Arc::default(),
            refusals: Some(refusals.clone()),
            observer: Some(observer.clone()),
            diagnostics: diagnostics.clone(),
            listening: listening.clone(),
            sockets: None,
            listeners: Vec::new(),
            gateway,
        };
        running.push(workers::start(start).await?);
        views.push(views_in);
        listeners.push(listeners_in);
    }
    tell(Notice::Note(format!("metrics on http://{scraped}/metrics")));
    if client.snapshot().borrow().gateway.is_empty() {
        tell(Notice::Note(format!(
            "waiting: the Gateway {gateway} has no listener to serve yet; `lorica get gateway {} -n {}` says why",
            gateway.name, gateway.namespace
        )));
    }
    spawn_local(workers::release_start_pages());
    let mut asked = signals.ends;
    tokio::select! {
        () = asked.next() => {}
        () = follow(Ports::new(binds, listeners), &client, &views, adopting, &tell) => {}
    }
    client.update_metadata(|metadata| metadata.draining = true);
    standalone::end(&running, proxy.drain_deadline, &mut asked, &tell).await;
    running.iter().for_each(workers::Running::end);
    running.into_iter().for_each(workers::Running::join);
    drop((refusals, observer, diagnostics));
    sidecar::told_last([telling, observing, attending]).await;
    pusher.finish(Duration::from_secs(1)).await;
    telemetry.flush(Duration::from_secs(1)).await;
    Ok(())
}

/// Gives every worker what is new, and keeps its listener ports as the gateway has them, for ever.
async fn follow(
    mut ports: Ports,
    client: &Client,
    views: &[watch::Sender<Arc<View>>],
    mut adopting: Vec<watch::Receiver<u64>>,
    tell: &impl Fn(Notice),
) {
    let mut snapshots = client.snapshot();
    let mut left_out = Vec::new();
    loop {
        let published = client.published();
        let snapshot = snapshots.borrow_and_update().clone();
        for views in views {
            let next = View::next(&views.borrow(), Arc::new(snapshot.unshared()), Instant::now());
            views.send_replace(Arc::new(next));
        }
        for (views, adopting) in views.iter().zip(&mut adopting) {
            let number = views.borrow().number;
            view::adopted(adopting, number).await;
        }
        client.confirm(published);
        let before = ports.places();
        ports.follow(&snapshot).into_iter().for_each(tell);
        if left_out != asking_for_http3(&snapshot).collect::<Vec<_>>() {
            left_out = asking_for_http3(&snapshot).collect();
            ports.left_out(&snapshot).into_iter().for_each(tell);
        }
        if ports.places() != before {
            let places = ports.places();
            client.update_metadata(|metadata| metadata.gateway_binds = places);
        }
        let changed = async {
            if snapshots.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = changed => {}
            () = tokio::time::sleep(AGAIN), if ports.is_behind() => {}
        }
    }
}
