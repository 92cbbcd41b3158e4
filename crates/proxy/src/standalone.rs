//! The stand-alone proxy: the data plane by itself, without control plane, supervisor or capture.
//!
//! In: a snapshot, an identity if there is one, addresses to listen on, and how to read the snapshot again. It starts what it
//! needs and nothing else: `N` workers, and this thread for signals, renewals and metrics. Out: calls carried, until
//! SIGTERM or SIGINT; then listeners close, what is under way is finished, and it ends.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use lorica_capture::{ListenerLabel, listen};
use lorica_identity::TlsEpoch;
use lorica_identity::files::IdentityFiles;
use lorica_model::name::ServicePort;
use lorica_model::snapshot::Snapshot;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::{LocalSet, spawn_local};

use crate::admin::{self, Admin};
use crate::config::{Own, TelemetryConfig};
use crate::diagnostics::Diagnostics;
use crate::endpoints::Vantage;
use crate::endpoints::shared::Shared;
use crate::gateway::{Binds, MAX_WAITING, Ports};
use crate::limits::Limits;
use crate::source::{Files, Source};
use crate::supervisor::{Ending, Listener};
use crate::view::View;
use crate::{identity_files, telemetry, workers};

/// The most workers: more threads than any machine of today has cores are a slip of the pen.
pub const MAX_WORKERS: usize = 512;

/// All that a stand-alone proxy needs to know, checked.
pub struct Standalone {
    /// Whom it stands for.
    pub own: Own,
    /// What it runs at first.
    pub snapshot: Snapshot,
    /// Its identity; none: it speaks plaintext only.
    pub identity: Option<Identity>,
    /// Local addresses that stand for service ports.
    pub upstreams: Vec<(ServicePort, SocketAddr)>,
    /// Addresses at which calls for app ports are taken, with the service ports that they are.
    pub inbound: Vec<(u16, ServicePort, SocketAddr)>,
    /// Where the listener ports of the gateway that it runs are bound.
    pub binds: Binds,
    /// Where metrics and readiness are served; any free port of loopback where port 0 is said.
    pub metrics: SocketAddr,
    /// Where telemetry goes.
    pub telemetry: TelemetryConfig,
    /// How many workers serve, from 1 to [`MAX_WORKERS`].
    pub workers: usize,
    /// How long exchanges may go on once it ends.
    pub drain_deadline: Duration,
    /// Told when its configuration is to be read again.
    pub reread: Arc<Notify>,
}

/// An identity from files.
pub struct Identity {
    /// Where they are.
    pub files: IdentityFiles,
    /// How they were before they were read.
    pub seen: identity_files::Stamp,
    /// What was read.
    pub epoch: Arc<TlsEpoch>,
}

impl Identity {
    /// Reads an identity.
    ///
    /// # Errors
    /// Where a file is missing or cannot be used, with what to do.
    pub fn load(files: IdentityFiles) -> anyhow::Result<Self> {
        let seen = identity_files::stamp(&files);
        let epoch = identity_files::load(&files, std::time::SystemTime::now())?;
        Ok(Self { files, seen, epoch })
    }
}

/// What is told to whoever started it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// It serves; where.
    Serving(String),
    /// Something else that is worth a line.
    Note(String),
}

/// Serves until SIGTERM or SIGINT. `again` reads the configuration once more, on SIGHUP: the next snapshot and a line on it, or the
/// diagnostics.
///
/// # Errors
/// What kept it from serving.
pub fn run(
    proxy: Standalone,
    again: impl FnMut() -> Result<(Snapshot, String), String>,
    tell: impl Fn(Notice) + Clone + 'static,
) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, serve(proxy, again, tell))
}

async fn serve(
    proxy: Standalone,
    again: impl FnMut() -> Result<(Snapshot, String), String>,
    tell: impl Fn(Notice) + Clone + 'static,
) -> anyhow::Result<()> {
    // Before anything is served: a signal that comes early must not end it without order.
    let signals = Signals::new()?;
    let own = Arc::new(proxy.own);
    let (mut places, mut listeners) = (Vec::new(), (0..proxy.workers).map(|_| Vec::new()).collect::<Vec<Vec<Listener>>>());
    for (port, local) in &proxy.upstreams {
        let label = ListenerLabel::Upstream { host: port.service.fqdn(), port: port.port };
        let option = format!("--upstream {}:{}={local}", port.service, port.port);
        let address = add(&mut listeners, &label, *local, &option)?;
        places.push(format!("{}:{} on {address}", port.service, port.port));
    }
    for (app_port, port, local) in &proxy.inbound {
        let label = ListenerLabel::Inbound { app_port: *app_port };
        let address = add(&mut listeners, &label, *local, &format!("--inbound {app_port}={local}"))?;
        places.push(format!("{}:{} for app port {app_port} on {address}", port.service, port.port));
    }
    let metrics = bound(proxy.metrics, &format!("--metrics {}", proxy.metrics), false)?;
    let metrics = TcpListener::from_std(metrics.into())?;
    let scraped = metrics.local_addr()?;

    let telemetry = telemetry::open(&proxy.telemetry, &own, None)?;
    let (epochs_in, epochs) = watch::channel(proxy.identity.as_ref().map(|identity| identity.epoch.clone()));
    let (files_in, files) = watch::channel(Files { taken: 1, ..Files::default() });
    let source = Source::Files(files);
    // The app is whatever answers at its port of this host's loopback.
    let limits = Limits::alone();
    let diagnostics = Diagnostics::alone();
    let (_, listening) = watch::channel(Vec::new());
    let shared = Arc::new(Shared::new(proxy.workers, telemetry.clone()));
    let (mut views, mut gateways) = (Vec::new(), Vec::new());
    let mut running = Vec::new();
    for (number, listeners) in listeners.into_iter().enumerate() {
        let (views_in, view) =
            watch::channel(first_view(&proxy.snapshot, Vantage { own: own.locality.clone(), worker: number, shared: shared.clone() }));
        views.push(views_in);
        let (gateway_in, gateway) = mpsc::channel(MAX_WAITING);
        gateways.push(gateway_in);
        let start = workers::Start {
            name: format!("worker-{number}"),
            own: own.clone(),
            source: source.clone(),
            views: view,
            adopted: watch::channel(0).0,
            epochs: epochs.clone(),
            telemetry: telemetry.clone(),
            limits: limits.clone(),
            told: Arc::default(),
            refusals: None,
            observer: None,
            diagnostics: diagnostics.clone(),
            listening: listening.clone(),
            sockets: None,
            listeners,
            gateway,
        };
        running.push(workers::start(start).await?);
    }
    spawn_local(admin::serve(metrics, Admin::new(telemetry.clone(), source, epochs, shared)));
    let mut ports = Ports::new(proxy.binds, gateways);
    for notice in ports.follow(&proxy.snapshot) {
        match notice {
            Notice::Serving(_) => places.extend(ports.places().iter().map(|(port, address)| format!("port {port} on {address}"))),
            // What cannot be bound at the start is a mistake of the command line, not of the moment.
            Notice::Note(message) => anyhow::bail!("{}", message.trim_start_matches("warning: ")),
        }
    }
    tell(Notice::Serving(format!("serving: {}; metrics on http://{scraped}/metrics", places.join(", "))));
    ports.left_out(&proxy.snapshot).into_iter().for_each(&tell);
    if let Some(Identity { files, seen, .. }) = proxy.identity {
        let tell = tell.clone();
        spawn_local(identity_files::follow(files, seen, epochs_in, move |read| tell(Notice::Note(renewed(read)))));
    }

    spawn_local(workers::release_start_pages());
    let mut asked = signals.ends;
    tokio::select! {
        () = asked.next() => {}
        () = reload(signals.hangup, &proxy.reread, again, &views, &mut ports, &files_in, &tell) => {}
    }
    end(&running, proxy.drain_deadline, &mut asked, &tell).await;
    running.iter().for_each(workers::Running::end);
    // Workers hand their last log lines over when they end.
    running.into_iter().for_each(workers::Running::join);
    telemetry.flush(Duration::from_secs(1)).await;
    Ok(())
}

/// The first view of a worker.
pub(crate) fn first_view(snapshot: &Snapshot, vantage: Vantage) -> Arc<View> {
    Arc::new(View::next(&View::first(vantage), Arc::new(snapshot.unshared()), Instant::now()))
}

fn renewed(read: Result<&TlsEpoch, &anyhow::Error>) -> String {
    match read {
        Ok(epoch) => format!("the identity was renewed: {}", epoch.svid().id()),
        Err(error) => format!("warning: the identity was changed and cannot be used; the one before stays in force: {error:#}"),
    }
}

/// Binds `address` once for each worker. Gives the address with the port that it became.
fn add(listeners: &mut [Vec<Listener>], label: &ListenerLabel, address: SocketAddr, option: &str) -> anyhow::Result<SocketAddr> {
    let shared = listeners.len() > 1;
    if shared && address.port() != 0 {
        // Sockets that share an address do not see each other; one that does not share sees whoever has it.
        drop(bound(address, option, false)?);
    }
    let mut at = address;
    for listeners in listeners {
        let socket = bound(at, option, shared)?;
        at = SocketAddr::try_from(rustix::net::getsockname(&socket)?)?;
        listeners.push((label.clone(), socket));
    }
    Ok(at)
}

fn bound(address: SocketAddr, option: &str, shared: bool) -> anyhow::Result<OwnedFd> {
    listen(address, shared).map_err(|error| {
        let hint = match error.kind() {
            std::io::ErrorKind::AddrInUse => {
                format!("choose another port, or see what listens there: ss -ltnp 'sport = {}'", address.port())
            }
            std::io::ErrorKind::AddrNotAvailable => "the address must be one of this host".to_owned(),
            std::io::ErrorKind::PermissionDenied => "choose a port from 1024 on".to_owned(),
            _ => "choose another address".to_owned(),
        };
        anyhow::anyhow!("nothing can listen on {address} for {option}: {error}\nhint: {hint}")
    })
}

/// Reads the configuration again whenever SIGHUP comes, or what it depends on has changed, for ever. A bad one changes nothing.
async fn reload(
    mut hangup: Signal,
    reread: &Notify,
    mut again: impl FnMut() -> Result<(Snapshot, String), String>,
    views: &[watch::Sender<Arc<View>>],
    ports: &mut Ports,
    files: &watch::Sender<Files>,
    tell: &impl Fn(Notice),
) {
    loop {
        tokio::select! {
            told = hangup.recv() => if told.is_none() { return std::future::pending().await },
            () = reread.notified() => {}
        }
        match again() {
            Ok((snapshot, line)) => {
                for views in views {
                    let next = View::next(&views.borrow(), Arc::new(snapshot.unshared()), Instant::now());
                    views.send_replace(Arc::new(next));
                }
                ports.follow(&snapshot).into_iter().for_each(tell);
                ports.left_out(&snapshot).into_iter().for_each(tell);
                files.send_modify(|files| *files = Files { taken: files.taken + 1, behind: false, ..*files });
                tell(Notice::Note(line));
            }
            Err(refused) => {
                files.send_modify(|files| *files = Files { refused: files.refused + 1, behind: true, ..*files });
                tell(Notice::Note(format!("{refused}\nthe configuration was not changed: the one before stays in force")));
            }
        }
    }
}

/// Closes the listeners, and gives what is under way its time. A second signal cuts it short.
pub(crate) async fn end(running: &[workers::Running], deadline: Duration, asked: &mut Ends, tell: &impl Fn(Notice)) {
    let under_way = || running.iter().map(workers::Running::exchanges).sum::<usize>();
    running.iter().for_each(|worker| worker.close(Ending::Closing));
    let until = Instant::now() + deadline;
    // Connections that were accepted a moment ago become exchanges first.
    tokio::time::sleep(SETTLE).await;
    if under_way() > 0 {
        let count = under_way();
        tell(Notice::Note(format!("ending: no new connections; {count} under way may take up to {} s", deadline.as_secs_f64())));
    }
    let finished = async {
        while under_way() > 0 && Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::select! {
        () = finished => {}
        () = asked.next() => {}
    }
    if under_way() > 0 {
        tell(Notice::Note(format!("warning: {} under way were cut off", under_way())));
    }
}

/// How long a worker has to see that it is to close, and to take up what was accepted before.
const SETTLE: Duration = Duration::from_millis(20);

/// The signals that a proxy without a supervisor listens to.
pub(crate) struct Signals {
    pub(crate) ends: Ends,
    hangup: Signal,
}

pub(crate) struct Ends {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let caught = |kind| signal(kind).context("signals cannot be received");
        let ends = Ends { terminate: caught(SignalKind::terminate())?, interrupt: caught(SignalKind::interrupt())? };
        Ok(Self { ends, hangup: caught(SignalKind::hangup())? })
    }
}

impl Ends {
    pub(crate) async fn next(&mut self) {
        tokio::select! { _ = self.terminate.recv() => {}, _ = self.interrupt.recv() => {} }
    }
}
