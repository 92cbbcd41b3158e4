//! Starting workers: what a proxy is made of goes in, one running thread comes out, with what its end is steered by.
//!
//! A sidecar has one, a stand-alone proxy as many as it is told. Each has a runtime, listeners, counts and channels of its own:
//! on a request's way, no worker touches memory that another writes.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context as _;
use lorica_capture::{AppListener, SocketSource};
use lorica_identity::TlsEpoch;
use lorica_observe::Telemetry;
use lorica_xds::observed::Observer;
use lorica_xds::refused::Teller;
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{LocalSet, spawn_local};

use crate::app::App;
use crate::config::Own;
use crate::diagnostics::Diagnostics;
use crate::gateway::{GatewayListener, Socket};
use crate::limits::Limits;
use crate::path::record::UnderWay;
use crate::path::{self, accept, udp};
use crate::source::Source;
use crate::supervisor::{Ending, Listener};
use crate::told::Told;
use crate::view::View;
use crate::worker::{Parts, Worker};

/// What a worker is given.
pub struct Start {
    /// Its thread's name.
    pub name: String,
    /// Whom the proxy stands for.
    pub own: Arc<Own>,
    /// Where configuration comes from.
    pub source: Source,
    /// What is in force, and what follows.
    pub views: watch::Receiver<Arc<View>>,
    /// Where it says which of them it runs, by its number.
    pub adopted: watch::Sender<u64>,
    /// TLS epochs as they come.
    pub epochs: watch::Receiver<Option<Arc<TlsEpoch>>>,
    /// The proxy's telemetry.
    pub telemetry: Telemetry,
    /// What the process remembers of limits.
    pub limits: Limits,
    /// Which names the app was told for which addresses.
    pub told: Arc<Told>,
    /// By which the control plane is told what may not leave the mesh; none where there is no control plane.
    pub refusals: Option<Teller>,
    /// By which the control plane is told who calls what; none where there is no control plane.
    pub observer: Option<Observer>,
    /// What the process can tell of single requests.
    pub diagnostics: Diagnostics,
    /// Where the app listens.
    pub listening: watch::Receiver<Vec<AppListener>>,
    /// Where sockets in the app's namespace come from; none without one.
    pub sockets: Option<SocketSource>,
    /// What it accepts on.
    pub listeners: Vec<Listener>,
    /// Sockets of a gateway's listener ports, as these come.
    pub gateway: mpsc::Receiver<GatewayListener>,
}

/// A running worker.
pub struct Running {
    /// How much it has under way.
    pub under_way: Arc<UnderWay>,
    ending: watch::Sender<Ending>,
    ended: watch::Sender<bool>,
    thread: JoinHandle<()>,
}

impl Running {
    /// How many exchanges are under way, for the app and by it.
    #[must_use]
    pub fn exchanges(&self) -> usize {
        self.under_way.inbound.load(Ordering::Relaxed) + self.under_way.outbound.load(Ordering::Relaxed)
    }

    /// Tells it what to close by.
    pub fn close(&self, ending: Ending) {
        self.ending.send_replace(ending);
    }

    /// Ends it: what is still under way is cut off. [`Running::join`] waits for it.
    pub fn end(&self) {
        self.ended.send_replace(true);
    }

    /// Waits for the end of its thread.
    pub fn join(self) {
        // A worker that panicked has said so on stderr, and there is nothing left to save.
        drop(self.thread.join());
    }
}

/// Starts a worker, and gives it back once it accepts.
///
/// # Errors
/// Without a thread, a runtime, or a listener that it can wait on.
pub async fn start(start: Start) -> anyhow::Result<Running> {
    let (ending_in, ending) = watch::channel(Ending::Running);
    let (ended_in, ended) = watch::channel(false);
    let under_way = Arc::new(UnderWay::default());
    let (ready, started) = oneshot::channel();
    let thread = std::thread::Builder::new().name(start.name.clone());
    let counts = under_way.clone();
    let thread = thread.spawn(move || work(start, counts, ending, ended, ready)).context("no thread for a worker")?;
    started.await.context("a worker did not start")??;
    Ok(Running { under_way, ending: ending_in, ended: ended_in, thread })
}

/// A worker's thread.
fn work(
    start: Start,
    under_way: Arc<UnderWay>,
    ending: watch::Receiver<Ending>,
    mut ended: watch::Receiver<bool>,
    ready: oneshot::Sender<anyhow::Result<()>>,
) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return drop(ready.send(Err(error.into()))),
    };
    LocalSet::new().block_on(&runtime, async move {
        let started = accepting(start, under_way, ending, ended.clone());
        let failed = started.is_err();
        drop(ready.send(started));
        if !failed {
            // An error means that the main thread is gone, which is an end too.
            drop(ended.wait_for(|ended| *ended).await);
        }
    });
}

fn accepting(start: Start, under_way: Arc<UnderWay>, ending: watch::Receiver<Ending>, ended: watch::Receiver<bool>) -> anyhow::Result<()> {
    let Start {
        name: _,
        own,
        source,
        views,
        adopted,
        epochs,
        telemetry,
        limits,
        told,
        refusals,
        observer,
        diagnostics,
        listening,
        sockets,
        listeners,
        mut gateway,
    } = start;
    let app = App::new(listening, sockets)?;
    let worker = Worker::start(Parts {
        own,
        source,
        views,
        adopted,
        epochs,
        app,
        telemetry: telemetry.worker(),
        limits: limits.worker(),
        told,
        refusals,
        observer,
        diagnostics,
        under_way,
        ending,
        ended,
    });
    for (label, socket) in listeners {
        let listener = TcpListener::from_std(socket.into())?;
        spawn_local(accept::serve(worker.clone(), label, listener));
    }
    spawn_local(async move {
        while let Some(GatewayListener { port, socket, closed }) = gateway.recv().await {
            let worker = worker.clone();
            let opened = match socket {
                Socket::Tcp(socket) => TcpListener::from_std(socket.into())
                    .map(|listener| drop(spawn_local(path::gateway::serve(worker, port, listener, closed)))),
                Socket::Udp(socket) => {
                    UdpSocket::from_std(socket.into()).map(|socket| drop(spawn_local(udp::serve(worker, port, socket, closed))))
                }
                #[cfg(feature = "http3")]
                Socket::Quic(socket) => {
                    spawn_local(path::quic::serve(worker, port, socket, closed));
                    Ok(())
                }
            };
            if let Err(error) = opened {
                tracing::error!(%error, port, "a worker cannot wait on a listener port");
            }
        }
    });
    Ok(())
}

/// After so long the start is over, first answers included, and its code is of no more use: some 6 MiB of memory.
const STARTED: Duration = Duration::from_secs(1);

/// Gives back, once the start is over, the memory of the code that only the start needed.
pub async fn release_start_pages() {
    tokio::time::sleep(STARTED).await;
    if let Err(error) = lorica_capture::release_start_pages() {
        tracing::debug!(%error, "the pages that only the start needed stay in memory");
    }
}
