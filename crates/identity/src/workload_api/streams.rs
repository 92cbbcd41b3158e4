//! The streams of the Workload API: what a caller has now goes in, whole answers come out, each time one differs from the last. It waits for
//! changes and for the time of renewals, and is the one place of this crate that looks at a clock by itself.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::stream;
use lorica_model::spiffe::SpiffeId;
use rustls_pki_types::CertificateDer;
use tokio::sync::watch;
use tonic::codegen::BoxFuture;
use tonic::{Response, Status};

use super::{Answers, JwtBundlesResponse, Renewable, Workloads, X509BundlesResponse, X509Svid, X509SvidResponse};
use crate::attestation::PeerProcess;
use crate::bundle::Bundle;

/// The longest time until a caller is looked at again.
const LOOK: Duration = Duration::from_secs(60);

/// What a stream is about.
pub(super) trait Subject: Send + 'static {
    type Answer: Clone + PartialEq + Send + 'static;

    /// The whole answer for a caller with these identities at `now`.
    fn answer<W: Workloads>(
        &mut self,
        workloads: &W,
        ids: &[SpiffeId],
        now: SystemTime,
    ) -> impl Future<Output = Result<Self::Answer, Status>> + Send;

    /// When another answer is due by itself.
    fn due(&self) -> Option<SystemTime> {
        None
    }
}

/// SVIDs, which are kept until they are renewed: a change of policies gives nobody a new one.
#[derive(Default)]
pub(super) struct Svids(Vec<Renewable>);

impl Subject for Svids {
    type Answer = X509SvidResponse;

    async fn answer<W: Workloads>(&mut self, workloads: &W, ids: &[SpiffeId], now: SystemTime) -> Result<X509SvidResponse, Status> {
        self.0.retain(|held| ids.contains(held.svid.id()) && now < held.renew_at);
        for id in ids {
            if !self.0.iter().any(|held| held.svid.id() == id) {
                self.0.push(workloads.svid(id).await?);
            }
        }
        self.0.sort_by_key(|held| ids.iter().position(|id| id == held.svid.id()));
        let bundles = workloads.bundles();
        let bundle = roots(&bundles.own);
        let svid = |held: &Renewable| X509Svid {
            spiffe_id: held.svid.id().to_string(),
            x509_svid: joined(held.svid.chain()),
            x509_svid_key: held.svid.key().private_key().secret_der().to_vec(),
            bundle: bundle.clone(),
            hint: String::new(),
        };
        let federated_bundles = bundles.federated.iter().map(|bundle| (bundle.trust_domain().uri(), roots(bundle))).collect();
        Ok(X509SvidResponse { svids: self.0.iter().map(svid).collect(), crl: Vec::new(), federated_bundles })
    }

    fn due(&self) -> Option<SystemTime> {
        self.0.iter().map(|held| held.renew_at).min()
    }
}

/// Roots.
pub(super) struct Roots;

impl Subject for Roots {
    type Answer = X509BundlesResponse;

    async fn answer<W: Workloads>(&mut self, workloads: &W, _: &[SpiffeId], _: SystemTime) -> Result<X509BundlesResponse, Status> {
        let bundles = workloads.bundles();
        let all = [&bundles.own].into_iter().chain(&bundles.federated);
        Ok(X509BundlesResponse { crl: Vec::new(), bundles: all.map(|bundle| (bundle.trust_domain().uri(), roots(bundle))).collect() })
    }
}

/// The keys that verify tokens.
pub(super) struct Keys;

impl Subject for Keys {
    type Answer = JwtBundlesResponse;

    async fn answer<W: Workloads>(&mut self, workloads: &W, _: &[SpiffeId], _: SystemTime) -> Result<JwtBundlesResponse, Status> {
        let bundles = workloads.bundles();
        let federated = bundles.federated_jwks.into_iter().map(|(id, jwks)| (id, jwks.into_bytes()));
        let mut all: BTreeMap<_, _> = federated.collect();
        all.insert(bundles.own.trust_domain().uri(), bundles.own_jwks.into_bytes());
        Ok(JwtBundlesResponse { bundles: all })
    }
}

fn roots(bundle: &Bundle) -> Vec<u8> {
    joined(bundle.roots())
}

/// Certificates one after another, as the API has them.
fn joined(certificates: &[CertificateDer<'_>]) -> Vec<u8> {
    certificates.iter().flat_map(|certificate| certificate.iter().copied()).collect()
}

/// Starts a stream: its first answer is there, or the call fails.
pub(super) fn start<W: Workloads, S: Subject>(
    workloads: Arc<W>,
    caller: Arc<PeerProcess>,
    subject: S,
) -> BoxFuture<Response<Answers<S::Answer>>, Status> {
    Box::pin(async move {
        let changes = workloads.changes();
        let mut watch = Watch { workloads, caller, changes, subject, last: None };
        let first = watch.next().await?;
        let answers = stream::unfold((Some(Ok(first)), Some(watch)), |(first, watch)| async move {
            let mut watch = watch?;
            let next = match first {
                Some(first) => first,
                None => watch.next().await,
            };
            let goes_on = next.is_ok();
            Some((next, (None, goes_on.then_some(watch))))
        });
        let answers: Answers<S::Answer> = Box::pin(answers);
        Ok(Response::new(answers))
    })
}

struct Watch<W, S: Subject> {
    workloads: Arc<W>,
    caller: Arc<PeerProcess>,
    changes: watch::Receiver<()>,
    subject: S,
    last: Option<S::Answer>,
}

impl<W: Workloads, S: Subject> Watch<W, S> {
    /// The next answer that differs from the last.
    async fn next(&mut self) -> Result<S::Answer, Status> {
        loop {
            if self.last.is_some() {
                self.wait().await?;
            }
            // What changes from here on is waited for no longer.
            self.changes.mark_unchanged();
            let ids = self.workloads.identities(&self.caller).await?;
            let answer = self.subject.answer(&*self.workloads, &ids, SystemTime::now()).await?;
            if self.last.as_ref() != Some(&answer) {
                self.last = Some(answer.clone());
                return Ok(answer);
            }
        }
    }

    async fn wait(&mut self) -> Result<(), Status> {
        // The clock may be set: it is asked again each time.
        let due = self.subject.due().map_or(LOOK, |due| due.duration_since(SystemTime::now()).unwrap_or_default());
        match tokio::time::timeout(due.min(LOOK), self.changes.changed()).await {
            Ok(Err(_)) => Err(Status::unavailable("the server ends")),
            Ok(Ok(())) | Err(_) => Ok(()),
        }
    }
}
