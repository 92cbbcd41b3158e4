//! The workload's identity: a key made here, signed by the control plane, renewed before half its life is over.
//!
//! In: bundle and identity from the snapshot, chains from the CA. Out: one TLS epoch after another on a watch channel.
//! The key never leaves this process. An epoch in force is kept when a renewal fails; its expiry is told by a metric.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context as _;
use lorica_identity::ca_api::request_certificate;
use lorica_identity::{Bundle, CertificateDer, KeyPair, Svid, TlsEpoch, rotation};
use lorica_model::snapshot::{Snapshot, TrustBundle};
use lorica_model::spiffe::{SpiffeId, TrustDomain};
use tokio::sync::watch;
use tonic::Code;

/// How long the CA may take to answer.
const ISSUE_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest that a workload waits before it renews because the root has changed.
const MOST_SPREAD: Duration = Duration::from_secs(30);

/// Keeps one workload's identity fresh.
pub struct Keeper {
    /// The control plane's socket.
    pub control_socket: PathBuf,
    /// What the CA is told about the workload: its node in JSON.
    pub node: String,
    /// What the control plane sends.
    pub snapshots: watch::Receiver<Arc<Snapshot>>,
    /// Where epochs go.
    pub epochs: watch::Sender<Option<Arc<TlsEpoch>>>,
    /// Where it goes that the control plane gives this workload no first SVID, and why.
    pub denied: watch::Sender<Option<String>>,
}

/// The control plane does not give this workload an SVID: it is revoked, or is not what it says.
#[derive(Debug, thiserror::Error)]
#[error("the control plane refused it: {0}")]
struct Denied(String);

impl Keeper {
    /// Gets the first SVID and then renews it for ever.
    pub async fn run(mut self) {
        let mut failures = 0;
        let mut svid: Option<Arc<Svid>> = None;
        let mut trusted: Option<Arc<TrustBundle>> = None;
        // When a new SVID is asked for because the root has changed.
        let mut moving: Option<Instant> = None;
        loop {
            let (identity, bundle) = self.told().await;
            // Who is revoked is refused in the epoch of now, and nobody else's connection is made anew.
            let epoch_of_now = self.epochs.borrow().clone();
            if let (Some(trusted), Some(of_now)) = (&mut trusted, epoch_of_now)
                && trusted.has_roots_of(&bundle)
                && *trusted != bundle
            {
                self.epochs.send_replace(Some(of_now.revoking(Arc::new(bundle.revoked.clone()))));
                *trusted = bundle.clone();
            }
            // The first root is the one that SVIDs come from: once it is another, those from before are renewed.
            if trusted.as_ref().is_none_or(|trusted| !trusted.has_roots_of(&bundle)) {
                moving = svid.as_ref().filter(|svid| !comes_from(svid, &bundle)).map(|svid| Instant::now() + spread(svid));
            }
            let called = moving.is_some_and(|since| since <= Instant::now());
            let due = called || svid.as_ref().is_none_or(|svid| svid.id() != &identity || renewal_due(svid));
            if due {
                match self.renew(&identity).await {
                    Ok(renewed) => {
                        tracing::info!(%identity, not_after = ?renewed.not_after(), "the SVID was issued");
                        (svid, failures, trusted, moving) = (Some(Arc::new(renewed)), 0, None, None);
                    }
                    Err(error) => {
                        failures += 1;
                        tracing::warn!(error = format!("{error:#}"), failures, "the SVID could not be renewed");
                        if svid.is_none()
                            && let Some(Denied(why)) = error.downcast_ref()
                        {
                            self.denied.send_replace(Some(why.clone()));
                        }
                    }
                }
            }
            if let Some(svid) = svid.as_ref().filter(|_| trusted.as_ref().is_none_or(|trusted| *trusted != bundle)) {
                match epoch(svid, &bundle) {
                    Ok(epoch) => {
                        self.epochs.send_replace(Some(epoch));
                        trusted = Some(bundle);
                    }
                    Err(error) => {
                        tracing::error!(error = format!("{error:#}"), "the trust bundle cannot be used; the one before it stays in force")
                    }
                }
            }
            let pause = match (&svid, failures) {
                (Some(svid), 0) => {
                    let called = moving.map(|moving| moving.saturating_duration_since(Instant::now()));
                    called.unwrap_or(Duration::MAX).min(until_renewal(svid))
                }
                (_, failures) => rotation::pause(failures.max(1), fastrand::f64()),
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                changed = self.snapshots.changed() => if changed.is_err() { return },
            }
        }
    }

    /// Waits until the control plane has said who this workload is and whom it trusts.
    async fn told(&mut self) -> (SpiffeId, Arc<TrustBundle>) {
        loop {
            {
                let snapshot = self.snapshots.borrow_and_update();
                if let (Some(inbound), Some(bundle)) = (&snapshot.inbound, &snapshot.bundle) {
                    return (inbound.identity.clone(), bundle.clone());
                }
            }
            if self.snapshots.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    async fn renew(&self, identity: &SpiffeId) -> anyhow::Result<Svid> {
        let key = KeyPair::generate().context("a key could not be made")?;
        let request = key.request_pem(identity).context("a certificate request could not be made")?;
        let channel = control_channel(&self.control_socket);
        let issued =
            request_certificate(channel, request, &self.node, None, ISSUE_TIMEOUT).await.map_err(|status| match status.code() {
                Code::PermissionDenied => Denied(status.message().to_owned()).into(),
                _ => anyhow::anyhow!("the control plane did not sign it: {}", status.message()),
            })?;
        Svid::new(&issued.chain, key).context("the control plane sent a certificate that does not fit")
    }
}

/// A lazily connecting channel to the control plane's Unix socket.
#[must_use]
pub fn control_channel(socket: &Path) -> tonic::transport::Channel {
    let socket = socket.to_owned();
    // The address is never looked up: the connector below decides.
    tonic::transport::Endpoint::from_static("http://control.lorica").connect_with_connector_lazy(tower::service_fn(move |_| {
        let socket = socket.clone();
        async move { tokio::net::UnixStream::connect(socket).await.map(hyper_util::rt::TokioIo::new) }
    }))
}

fn epoch(svid: &Arc<Svid>, bundle: &TrustBundle) -> anyhow::Result<Arc<TlsEpoch>> {
    let one = |(trust_domain, roots): (&TrustDomain, &Vec<Vec<u8>>)| {
        Bundle::new(trust_domain.clone(), roots.iter().map(|root| CertificateDer::from(root.clone())).collect())
    };
    let federated = bundle.federated.iter().map(one).collect::<Result<Vec<_>, _>>()?;
    let trusted = one((&bundle.trust_domain, &bundle.roots))?.federated_with(federated);
    Ok(TlsEpoch::new(svid.clone(), Arc::new(trusted))?.revoking(Arc::new(bundle.revoked.clone())))
}

/// Jitter is a fixed function of the certificate, so that asking twice gives one answer.
fn renewal(svid: &Svid) -> SystemTime {
    let seed = svid.chain().first().map_or(0, |leaf| leaf.iter().rev().take(8).fold(0, |seed, byte| (seed << 8) | u64::from(*byte)));
    rotation::renew_at(svid.not_before(), svid.not_after(), fastrand::Rng::with_seed(seed).f64())
}

/// Whether an SVID comes from the root that SVIDs come from now.
fn comes_from(svid: &Svid, bundle: &TrustBundle) -> bool {
    bundle.roots.first().is_none_or(|root| svid.is_from(&CertificateDer::from(root.as_slice())))
}

/// How long to wait before a new SVID is asked for when the root has changed, so that a mesh does not ask all at once: a part of a
/// twentieth of an SVID's life, 30 s at most.
fn spread(svid: &Svid) -> Duration {
    let life = svid.not_after().duration_since(svid.not_before()).unwrap_or_default();
    (life / 20).min(MOST_SPREAD).mul_f64(fastrand::f64())
}

fn renewal_due(svid: &Svid) -> bool {
    renewal(svid) <= SystemTime::now()
}

fn until_renewal(svid: &Svid) -> Duration {
    renewal(svid).duration_since(SystemTime::now()).unwrap_or_default()
}
