//! A worker: one thread, one runtime, and all that an exchange on it uses. Nothing of it is shared but what says so.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use lorica_identity::{PeerIdentity, TlsEpoch};
use lorica_model::name::ServicePort;
use lorica_model::reason::Reason;
use lorica_model::snapshot::{InboundPort, MtlsMode, Protocol};
use lorica_observe::WorkerTelemetry;
use lorica_observe::metrics::{Counter, OwnMetric};
use lorica_xds::observed::Observer;
use lorica_xds::refused::{Refusal, Teller};
use tokio::sync::watch;
use tokio_rustls::rustls::ClientConfig;

use crate::app::App;
use crate::checks;
use crate::config::Own;
use crate::diagnostics::{Diagnostics, WorkerDiagnostics};
use crate::limits::WorkerLimits;
use crate::observed::Observed;
use crate::path::caller::{Caller, Entry};
use crate::path::connect::ClientConfigs;
use crate::path::deadline::Heirs;
use crate::path::explain::Explanations;
use crate::path::mtls::Negotiated;
use crate::path::record::{Parties, UnderWay};
use crate::path::relay::Relayed;
use crate::path::trial;
use crate::peers::Peers;
use crate::pool::Pool;
use crate::rejudge::Rejudge;
use crate::source::Source;
use crate::stream::Stream;
use crate::supervisor::Ending;
use crate::tokens::Tokens;
use crate::told::Told;
use crate::view::{Reach, View};

/// What an exchange uses.
pub struct Worker {
    /// Whom the proxy stands for.
    pub own: Arc<Own>,
    /// Where configuration comes from.
    pub source: Source,
    /// Views to come; [`Self::view`] has the present one.
    pub views: watch::Receiver<Arc<View>>,
    /// The way to the app.
    pub app: App,
    /// Connections kept.
    pub pool: Rc<Pool>,
    /// What is remembered of limits.
    pub limits: WorkerLimits,
    /// Counts, spans and log lines.
    pub telemetry: WorkerTelemetry,
    /// How much this worker has under way.
    pub under_way: Arc<UnderWay>,
    /// Who is who, for the record.
    pub parties: Parties,
    /// How many connections are served.
    pub connections: Cell<usize>,
    /// How many copies of requests are under way.
    pub copies: Cell<usize>,
    /// Which names the app was told for which addresses.
    pub told: Arc<Told>,
    /// What requests with the app hand down to its calls.
    pub heirs: Heirs,
    /// How many names are being looked up.
    pub lookups: Cell<usize>,
    /// The ports of the gateway on which HTTP/3 is served, on whichever worker.
    #[cfg(feature = "http3")]
    pub http3: RefCell<std::collections::BTreeSet<u16>>,
    /// What is known of tokens.
    pub tokens: Tokens,
    /// What is under way, to be judged again.
    pub rejudge: Rejudge,
    /// Who called what.
    pub observed: Observed,
    /// What it can tell of single requests.
    pub diagnostics: WorkerDiagnostics,
    /// The tokens by which requests are recorded in full.
    pub explanations: Explanations,
    /// How many trials wait for somebody's answer.
    pub trials: Cell<usize>,
    /// Connections with peers, to be closed when these are revoked.
    peers: Peers,
    /// How the proxy is to end.
    pub ending: watch::Receiver<Ending>,
    /// Set when nothing is served any more.
    pub ended: watch::Receiver<bool>,
    refusals: Option<Teller>,
    pool_connects: Counter,
    pool_reuses: Counter,
    pool_stale: Counter,
    view: RefCell<Arc<View>>,
    epoch: RefCell<Option<Arc<TlsEpoch>>>,
    client_configs: RefCell<ClientConfigs>,
}

/// What a worker is made of.
pub struct Parts {
    /// See [`Worker::own`].
    pub own: Arc<Own>,
    /// See [`Worker::source`].
    pub source: Source,
    /// See [`Worker::views`].
    pub views: watch::Receiver<Arc<View>>,
    /// Where it says which of them it runs.
    pub adopted: watch::Sender<u64>,
    /// TLS epochs as they come.
    pub epochs: watch::Receiver<Option<Arc<TlsEpoch>>>,
    /// See [`Worker::app`].
    pub app: App,
    /// See [`Worker::telemetry`].
    pub telemetry: WorkerTelemetry,
    /// See [`Worker::limits`].
    pub limits: WorkerLimits,
    /// See [`Worker::told`].
    pub told: Arc<Told>,
    /// By which the control plane is told what may not leave the mesh; none where there is no control plane.
    pub refusals: Option<Teller>,
    /// By which the control plane is told who calls what; none where there is no control plane.
    pub observer: Option<Observer>,
    /// What the process can tell of single requests.
    pub diagnostics: Diagnostics,
    /// See [`Worker::under_way`].
    pub under_way: Arc<UnderWay>,
    /// See [`Worker::ending`].
    pub ending: watch::Receiver<Ending>,
    /// See [`Worker::ended`].
    pub ended: watch::Receiver<bool>,
}

impl Worker {
    /// A worker, with the tasks that keep its view and its epoch the newest. Called on its own thread's local set.
    #[must_use]
    pub fn start(parts: Parts) -> Rc<Self> {
        let Parts {
            own,
            source,
            mut views,
            adopted,
            mut epochs,
            app,
            telemetry,
            limits,
            told,
            refusals,
            observer,
            diagnostics,
            under_way,
            ending,
            ended,
        } = parts;
        let (diagnostics, questions) = diagnostics.worker();
        let parties = Parties::new(&own);
        let view = RefCell::new(views.borrow_and_update().clone());
        let counter = |metric| telemetry.metrics.counter(metric, "");
        telemetry.adopt(view.borrow().snapshot.telemetry());
        let worker = Rc::new(Self {
            pool_connects: counter(OwnMetric::POOL_CONNECTS),
            pool_reuses: counter(OwnMetric::POOL_REUSES),
            pool_stale: counter(OwnMetric::POOL_STALE_REPEATS),
            own,
            source,
            view,
            views: views.clone(),
            app,
            pool: Rc::default(),
            limits,
            telemetry,
            under_way,
            parties,
            connections: Cell::new(0),
            copies: Cell::new(0),
            told,
            heirs: Heirs::default(),
            lookups: Cell::new(0),
            tokens: Tokens::default(),
            rejudge: Rejudge::default(),
            observed: Observed::new(observer),
            diagnostics,
            explanations: Explanations::default(),
            trials: Cell::new(0),
            peers: Peers::default(),
            refusals,
            #[cfg(feature = "http3")]
            http3: RefCell::default(),
            ending,
            ended,
            epoch: RefCell::new(unshared(&epochs.borrow_and_update())),
            client_configs: RefCell::default(),
        });
        let newest = worker.clone();
        tokio::task::spawn_local(async move {
            loop {
                adopted.send_replace(newest.view_number());
                if views.changed().await.is_err() {
                    return;
                }
                newest.catch_up(&views.borrow_and_update().clone());
            }
        });
        let newest = worker.clone();
        tokio::task::spawn_local(async move {
            while epochs.changed().await.is_ok() {
                let epoch = unshared(&epochs.borrow_and_update());
                newest.take(epoch);
            }
        });
        let pool = worker.pool.clone();
        tokio::task::spawn_local(async move { pool.watch().await });
        tokio::task::spawn_local(checks::run(worker.clone()));
        tokio::task::spawn_local(WorkerDiagnostics::answer(worker.clone(), questions));
        let giving = worker.clone();
        tokio::task::spawn_local(async move {
            let mut wanted = giving.view().vantage.shared.wanted();
            while wanted.changed().await.is_ok() {
                giving.pool.give_up();
            }
        });
        let ticking = worker.clone();
        tokio::task::spawn_local(async move {
            let mut second = tokio::time::interval(std::time::Duration::from_secs(1));
            loop {
                second.tick().await;
                ticking.pool.sweep();
                ticking.telemetry.hand_over();
                ticking.try_aside();
                ticking.observed.tell();
                ticking.diagnostics.tick();
            }
        });
        worker
    }

    /// Counts what was found out of trials aside of requests.
    fn try_aside(&self) {
        let aside = &self.view().vantage.shared.aside;
        self.observed.tried_aside(&self.telemetry.metrics, aside, |called| trial::Call::own(self, called));
    }

    /// The present view.
    #[must_use]
    pub fn view(&self) -> Arc<View> {
        self.view.borrow().clone()
    }

    /// The number of the present view.
    #[must_use]
    pub fn view_number(&self) -> u64 {
        self.view.borrow().number
    }

    /// Tells the control plane of a call that may not leave the mesh.
    pub fn refused(&self, refusal: Refusal) {
        if let Some(teller) = &self.refusals {
            teller.refused(refusal);
        }
    }

    /// Counts an upstream connection that is taken, `reused` or new.
    pub fn count_pool_use(&self, reused: bool) {
        if reused { &self.pool_reuses } else { &self.pool_connects }.add(1);
    }

    /// Counts a request that is repeated because a kept connection had been closed.
    pub fn count_stale(&self) {
        self.pool_stale.add(1);
    }

    /// Takes a view into use that a wait has brought, before the worker's own task does.
    pub fn catch_up(&self, view: &Arc<View>) {
        self.telemetry.adopt(view.snapshot.telemetry());
        let before = self.view.replace(view.clone());
        if !before.authorizes_as(view) {
            self.rejudge.change();
        }
    }

    /// Takes a TLS epoch into use. Connections with peers that are revoked by now are closed.
    fn take(&self, epoch: Option<Arc<TlsEpoch>>) {
        let revoked = epoch.as_ref().map(|epoch| epoch.revoked().clone());
        *self.epoch.borrow_mut() = epoch;
        let closed = revoked.map_or(0, |revoked| self.peers.close(&revoked));
        if closed > 0 {
            tracing::warn!(closed, "connections with revoked peers were closed");
        }
    }

    /// Lets a peer in that has proved who it is: the connection, which ends once its peer is revoked. It is held against the newest list,
    /// also where the handshake began before that came, or went on from an earlier session without looking at certificates.
    ///
    /// # Errors
    /// Where it is revoked already, what is to be told.
    pub fn admit(&self, stream: Stream, peer: &PeerIdentity) -> Result<Stream, String> {
        let workload = peer.facts.as_ref().map(|facts| &facts.workload);
        if self.epoch.borrow().as_ref().is_some_and(|epoch| epoch.revoked().is_revoked(&peer.id, workload)) {
            return Err(match workload {
                Some(workload) => format!("{workload} ({}) is revoked", peer.id),
                None => format!("{} is revoked", peer.id),
            });
        }
        Ok(match stream {
            Stream::Tls(tls) => Stream::Peer(Box::new(self.peers.enter(*tls, peer))),
            other => other,
        })
    }

    /// The TLS epoch in force.
    #[must_use]
    pub fn epoch(&self) -> Option<Arc<TlsEpoch>> {
        self.epoch.borrow().clone()
    }

    /// The TLS configuration for calling a service port.
    #[must_use]
    pub fn client_config(&self, epoch: &TlsEpoch, reach: &Reach, protocol: Option<Negotiated>) -> Arc<ClientConfig> {
        self.client_configs.borrow_mut().get(epoch, &reach.accepted, protocol)
    }

    /// What the workload's unit says of an app port.
    #[must_use]
    pub fn inbound_port(&self, app_port: u16) -> Option<Arc<InboundPort>> {
        let view = self.view();
        let inbound = view.snapshot.inbound.as_ref()?;
        inbound.ports.iter().find(|port| port.app_port == app_port).cloned().map(Arc::new)
    }

    /// An app port that was published and not declared.
    #[must_use]
    pub fn undeclared_port(&self, app_port: u16) -> Arc<InboundPort> {
        let service = self
            .own
            .service
            .clone()
            .unwrap_or_else(|| lorica_model::name::ServiceName::new(self.own.namespace.clone(), self.own.workload.name.clone()));
        let service_port = ServicePort { service, port: app_port };
        Arc::new(InboundPort { service_port, app_port, protocol: Protocol::Detect, mtls: MtlsMode::Permissive })
    }

    /// Whether connections of this kind of caller are to end: callers' when the proxy drains, the app's own only with the app.
    #[must_use]
    pub fn is_draining(&self, caller: &Caller) -> bool {
        ends(*self.ending.borrow(), caller)
    }

    /// Waits until connections of this kind of caller are to end.
    pub async fn drain_begins(&self, caller: &Caller) {
        let mut ending = self.ending.clone();
        if ending.wait_for(|ending| ends(*ending, caller)).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Runs a relay until it is over, or the proxy's time is.
    pub async fn until_ended(&self, relay: impl Future<Output = Relayed>) -> Relayed {
        let mut ended = self.ended.clone();
        tokio::select! {
            relayed = relay => relayed,
            _ = ended.wait_for(|ended| *ended) => Relayed { up: 0, down: 0, reason: Some(Reason::Draining) },
        }
    }
}

/// The same epoch in memory of the worker's own: its references are counted on every request.
fn unshared(epoch: &Option<Arc<TlsEpoch>>) -> Option<Arc<TlsEpoch>> {
    epoch.as_ref().map(|epoch| Arc::new(TlsEpoch::clone(epoch)))
}

fn ends(ending: Ending, caller: &Caller) -> bool {
    match (ending, &caller.entry) {
        (Ending::Running, _) | (Ending::Drain, Entry::Outbound { .. }) => false,
        (Ending::Drain, Entry::Inbound { .. } | Entry::Gateway { .. } | Entry::Egress { .. }) | (Ending::AppEnded | Ending::Closing, _) => {
            true
        }
    }
}
