//! What changes in the life of an agent: its SVID is renewed before half its life is over, and when the mesh moves to another root; what the
//! control plane has to tell is asked for again and again. The next question acknowledges what the last answer said of whom to trust.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::ensure;
use lorica_identity::host_api::{HostClient, HostView, Known};
use lorica_identity::{Bundle, Svid, TlsEpoch, rotation};
use tokio::sync::watch;
use tonic::Status;
use tonic::transport::Channel;

use super::identity::{Member, Standing, reason};
use super::view::{View, Views};

/// The longest that a host waits before it renews because the root has changed: all hosts are told of it at once.
const MOST_SPREAD: Duration = Duration::from_secs(30);

/// Keeps the identity of a host, and what it knows.
pub(super) struct Keeper {
    member: Member,
    client: HostClient<Channel>,
    channel: Channel,
    epochs: watch::Sender<Arc<TlsEpoch>>,
    views: Arc<Views>,
    /// When the SVID is to be renewed.
    due: SystemTime,
    known: Known,
}

type Answer = Pin<Box<dyn Future<Output = Result<HostView, Status>> + Send>>;

impl Keeper {
    pub(super) fn new(
        member: Member,
        client: HostClient<Channel>,
        channel: Channel,
        epochs: watch::Sender<Arc<TlsEpoch>>,
        views: Arc<Views>,
    ) -> Self {
        let due = renewal(member.epoch.svid());
        let workload = match &member.standing {
            Standing::Host { .. } => String::new(),
            Standing::Pod { workload, .. } => workload.to_string(),
        };
        Self { member, client, channel, epochs, views, due, known: Known { workload, ..Known::default() } }
    }

    /// Goes on for ever.
    pub(super) async fn run(mut self) {
        let (mut unrenewed, mut untold) = (0, 0);
        let mut answer = self.ask(Duration::ZERO);
        loop {
            let pause = match unrenewed {
                0 => self.due.duration_since(SystemTime::now()).unwrap_or_default(),
                failures => rotation::pause(failures, fastrand::f64()),
            };
            tokio::select! {
                answered = &mut answer => {
                    let taken = match answered {
                        Ok(view) => self.take(view).map_err(|error| format!("{error:#}")),
                        Err(status) => Err(reason(&status)),
                    };
                    match taken {
                        Ok(()) => untold = 0,
                        Err(error) => {
                            untold += 1;
                            tracing::warn!(error, failures = untold, "what the control plane has to tell is not known");
                        }
                    }
                    let pause = if untold == 0 { Duration::ZERO } else { rotation::pause(untold, fastrand::f64()) };
                    answer = self.ask(pause);
                }
                () = tokio::time::sleep(pause) => match self.renew().await {
                    Ok(()) => unrenewed = 0,
                    Err(error) => {
                        unrenewed += 1;
                        tracing::warn!(error = format!("{error:#}"), failures = unrenewed, "the agent's SVID could not be renewed");
                    }
                },
            }
        }
    }

    /// Asks what there is to know, after a while.
    fn ask(&self, pause: Duration) -> Answer {
        let (client, known) = (self.client.clone(), self.known.clone());
        Box::pin(async move {
            tokio::time::sleep(pause).await;
            client.watch(known).await
        })
    }

    fn take(&mut self, view: HostView) -> anyhow::Result<()> {
        if view.version == self.known.version {
            return Ok(());
        }
        let known =
            Known { version: view.version.clone(), bundle_version: view.bundle_version.clone(), workload: self.known.workload.clone() };
        let view = View::read(view)?;
        let own = &view.bundles.own;
        ensure!(*own.trust_domain() == self.member.trust_domain, "it is of the trust domain {}", own.trust_domain());
        let epoch = self.epochs.borrow().clone();
        if epoch.bundle().roots() != own.roots() {
            self.trust(&epoch, own.clone())?;
        }
        self.views.take(view);
        self.known = known;
        Ok(())
    }

    /// Takes other roots into use. The first is the one that SVIDs come from.
    fn trust(&mut self, epoch: &TlsEpoch, bundle: Bundle) -> anyhow::Result<()> {
        let svid = epoch.svid().clone();
        if bundle.roots().first().is_some_and(|root| !svid.is_from(root)) {
            let life = svid.not_after().duration_since(svid.not_before()).unwrap_or_default();
            let spread = (life / 20).min(MOST_SPREAD).mul_f64(fastrand::f64());
            self.due = self.due.min(SystemTime::now() + spread);
        }
        let epoch = self.member.epoch(svid, Arc::new(bundle))?;
        tracing::info!(roots = epoch.bundle().roots().len(), "the agent trusts by other roots");
        self.epochs.send_replace(epoch);
        Ok(())
    }

    async fn renew(&mut self) -> anyhow::Result<()> {
        let svid = self.member.renewed(&self.client, &self.channel).await?;
        let bundle = self.epochs.borrow().bundle().clone();
        let epoch = self.member.epoch(Arc::new(svid), bundle)?;
        self.due = renewal(epoch.svid());
        tracing::info!(identity = %self.member.id, not_after = ?epoch.svid().not_after(), "the agent's SVID was renewed");
        self.epochs.send_replace(epoch);
        Ok(())
    }
}

fn renewal(svid: &Svid) -> SystemTime {
    rotation::renew_at(svid.not_before(), svid.not_after(), fastrand::f64())
}
