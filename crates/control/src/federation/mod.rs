//! Other trust domains: their bundles, fetched from the endpoints that TrustBundles name, and this mesh's own, served to them.
//!
//! | module | noun |
//! | --- | --- |
//! | [`own`] | this mesh's bundle as a document, with its sequence |
//! | [`endpoint`] | the bundle endpoint, which shows it |
//!
//! A bundle that was fetched is kept until a newer one is there, however long its endpoint is silent, also over a restart. In: which bundles
//! are wanted. Out: what is known of each, to the mesh, which makes of it whom proxies trust.

pub mod endpoint;
pub mod own;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use lorica_identity::digest::sha256;
use lorica_identity::{BundleError, federation};
use lorica_model::compile::KnownBundle;
use lorica_model::resource::{EndpointProfile, TrustBundle};
use lorica_model::spiffe::TrustDomain;
use lorica_model::spiffe_bundle::{SpiffeBundle, SpiffeBundleError};
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;
use tokio::time::Instant;

use self::own::Own;
use crate::key_sets::fetch::{self, Asked, FetchError};
use crate::mesh::Mesh;
use crate::store::{Expected, Store, StoreError, Table, Write};
use crate::timestamp;

/// How many bundles are fetched at once.
const AT_ONCE: usize = 4;
/// The most and least often that a bundle is fetched, whatever it asks for.
pub const REFRESHES: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(3600));
/// How long until the first attempt after a failure.
const FIRST_PAUSE: Duration = Duration::from_secs(5);

/// Why a bundle is not taken.
#[derive(Debug, thiserror::Error)]
enum NotTaken {
    /// It could not be fetched.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// It is no bundle.
    #[error(transparent)]
    Bundle(#[from] SpiffeBundleError),
    /// A root in it is none.
    #[error(transparent)]
    Root(#[from] BundleError),
    /// TLS cannot be set up.
    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] tokio_rustls::rustls::Error),
    /// There is nothing to verify its server by.
    #[error("there is no bundle to verify the server by")]
    Unknown,
    /// There is a newer one.
    #[error("its sequence is {0}, and that of the bundle in force is {1}: it is older")]
    Older(u64, u64),
}

/// What is fetched of one trust domain, and what is known of it.
#[derive(Debug, Clone)]
struct Held {
    source: TrustBundle,
    fetched: Option<Arc<SpiffeBundle>>,
    problem: Option<String>,
    times: Times,
    next: Instant,
    failures: u32,
}

/// When something was done with a bundle.
#[derive(Debug, Clone, Copy, Default)]
struct Times {
    fetched: Option<SystemTime>,
    next: Option<SystemTime>,
    failing: Option<SystemTime>,
}

/// A bundle as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct BundleRecord {
    /// The document.
    document: String,
    /// The SHA-256 of the one that is written in the resource, to see that it was changed.
    written: Option<[u8; 32]>,
    /// When it was fetched, in seconds since 1970.
    fetched_at: u64,
}

/// What the mesh has to do with other trust domains.
pub struct Federation {
    mesh: Arc<Mesh>,
    store: Arc<dyn Store>,
    /// The bundle that others are shown.
    pub own: Own,
    times: Mutex<BTreeMap<TrustDomain, Times>>,
}

impl Held {
    fn new(source: TrustBundle, record: Option<(SpiffeBundle, SystemTime)>) -> Self {
        let times = Times { fetched: record.as_ref().map(|(_, at)| *at), ..Times::default() };
        let fetched = record.map(|(bundle, _)| Arc::new(bundle));
        Self { source, fetched, problem: None, times, next: Instant::now(), failures: 0 }
    }

    /// The bundle that is in force: it verifies the server by the profile of SPIFFE, and what comes must not be older.
    fn in_force(&self) -> Option<&Arc<SpiffeBundle>> {
        self.fetched.as_ref().or(self.source.written.as_ref())
    }

    /// Takes in what became of an attempt at `now`.
    fn tried(&mut self, outcome: Result<SpiffeBundle, NotTaken>, now: SystemTime) {
        match outcome {
            Ok(bundle) => {
                let before = self.fetched.as_ref().map(|before| &before.text);
                if before != Some(&bundle.text) {
                    let (sequence, roots) = (bundle.sequence, bundle.roots.len());
                    tracing::info!(trust_domain = %self.source.trust_domain, ?sequence, roots, "a bundle of another trust domain was taken");
                }
                self.fetched = Some(Arc::new(bundle));
                (self.problem, self.failures) = (None, 0);
                (self.times.fetched, self.times.failing) = (Some(now), None);
            }
            Err(error) => {
                tracing::warn!(trust_domain = %self.source.trust_domain, %error, "a bundle of another trust domain was not taken");
                self.problem = Some(error.to_string());
                self.failures = self.failures.saturating_add(1);
                self.times.failing.get_or_insert(now);
            }
        }
        let refresh = self.in_force().and_then(|bundle| bundle.refresh).unwrap_or(federation::REFRESH);
        let pause = pause(self.failures, refresh, fastrand::f64());
        (self.next, self.times.next) = (Instant::now() + pause, Some(now + pause));
    }
}

/// How long until a bundle is fetched again, after so many failures in a row: a tenth of it by chance, so that many do not ask at once.
/// `random` is uniform in 0..1.
fn pause(failures: u32, refresh: Duration, random: f64) -> Duration {
    let (least, most) = REFRESHES;
    let refresh = refresh.clamp(least, most);
    let whole = match failures {
        0 => refresh,
        _ => FIRST_PAUSE.saturating_mul(1_u32.checked_shl(failures - 1).unwrap_or(u32::MAX)).min(refresh),
    };
    whole.mul_f64(0.9 + 0.1 * random)
}

/// Fetches the bundle of a source. `known`: the one that is in force.
async fn fetched(source: &TrustBundle, known: Option<&SpiffeBundle>) -> Result<SpiffeBundle, NotTaken> {
    let Some(endpoint) = &source.endpoint else { return Err(NotTaken::Unknown) };
    let tls = match &endpoint.profile {
        EndpointProfile::Web => None,
        EndpointProfile::Spiffe(id) => {
            let known = federation::bundle(&source.trust_domain, known.ok_or(NotTaken::Unknown)?)?;
            Some(federation::client_config(known, id)?)
        }
    };
    let asked = Asked { url: &endpoint.url, allow_private: endpoint.allow_private, tls, accept: "application/json" };
    taken(&source.trust_domain, &fetch::text(&asked).await?, known)
}

/// The bundle that a text is, if it is to be taken.
fn taken(trust_domain: &TrustDomain, text: &str, known: Option<&SpiffeBundle>) -> Result<SpiffeBundle, NotTaken> {
    let bundle = SpiffeBundle::read(text)?;
    // One that proxies could not use would keep them from taking any change of trust.
    federation::bundle(trust_domain, &bundle)?;
    match known.filter(|known| bundle.is_older_than(known)) {
        Some(known) => Err(NotTaken::Older(bundle.sequence.unwrap_or_default(), known.sequence.unwrap_or_default())),
        None => Ok(bundle),
    }
}

impl Federation {
    pub(crate) fn new(mesh: Arc<Mesh>, store: Arc<dyn Store>, own: Own) -> Arc<Self> {
        Arc::new(Self { mesh, store, own, times: Mutex::default() })
    }

    fn times(&self) -> MutexGuard<'_, BTreeMap<TrustDomain, Times>> {
        // It is replaced as a whole.
        self.times.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is shown of a trust domain's bundle besides what the world says.
    #[must_use]
    pub fn shown(&self, trust_domain: &TrustDomain) -> serde_json::Map<String, serde_json::Value> {
        let times = self.times().get(trust_domain).copied().unwrap_or_default();
        let all = [("fetchedAt", times.fetched), ("nextFetchAt", times.next), ("failingSince", times.failing)];
        all.into_iter().filter_map(|(name, at)| Some((name.to_owned(), timestamp(at?).into()))).collect()
    }

    /// Keeps the bundles that the mesh's resources name, until the control plane ends.
    pub async fn keep(self: Arc<Self>) {
        let mut held: BTreeMap<TrustDomain, Held> = BTreeMap::new();
        let mut changes = self.mesh.identities.subscribe();
        loop {
            changes.mark_unchanged();
            self.follow(&mut held);
            self.publish(&held).await;
            fetch(&mut held).await;
            self.publish(&held).await;
            let ended = match held.values().map(|held| held.next).min() {
                Some(due) => matches!(tokio::time::timeout_at(due, changes.changed()).await, Ok(Err(_))),
                None => changes.changed().await.is_err(),
            };
            if ended {
                return;
            }
        }
    }

    /// Keeps what is wanted and nothing else.
    fn follow(&self, held: &mut BTreeMap<TrustDomain, Held>) {
        let wanted = self.mesh.bundle_sources();
        held.retain(|trust_domain, _| wanted.contains_key(trust_domain));
        for (trust_domain, source) in wanted {
            match held.get_mut(&trust_domain) {
                Some(held) if held.source == source => {}
                Some(held) => {
                    // Who writes another bundle begins anew with that; else what was there holds until it is fetched as it is said now.
                    if held.source.written != source.written {
                        *held = Held::new(source, None);
                    } else {
                        (held.source, held.next, held.failures) = (source, Instant::now(), 0);
                    }
                }
                None => {
                    let record = record(&*self.store, &source).unwrap_or_else(|error| {
                        tracing::warn!(%trust_domain, %error, "what was fetched of a trust domain cannot be read; it is fetched anew");
                        None
                    });
                    held.insert(trust_domain, Held::new(source, record));
                }
            }
        }
    }

    /// Tells the mesh what is known, and keeps what is new of it.
    async fn publish(&self, held: &BTreeMap<TrustDomain, Held>) {
        *self.times() = held.iter().map(|(trust_domain, held)| (trust_domain.clone(), held.times)).collect();
        let known = |held: &Held| KnownBundle { bundle: held.fetched.clone(), problem: held.problem.clone() };
        let known: BTreeMap<_, _> = held.iter().map(|(trust_domain, held)| (trust_domain.clone(), known(held))).collect();
        let before = self.mesh.bundles();
        if known == before {
            return;
        }
        let put = |trust_domain: &TrustDomain, value: Option<Vec<u8>>| Write {
            table: Table::Bundles,
            key: trust_domain.to_string(),
            value,
            expected: Expected::Anything,
        };
        let is_new = |trust_domain: &TrustDomain, held: &Held| before.get(trust_domain).is_none_or(|before| before.bundle != held.fetched);
        let fresh = held.iter().filter(|(trust_domain, held)| is_new(trust_domain, held));
        let fresh = fresh.map(|(trust_domain, held)| put(trust_domain, stored(held)));
        let gone = before.keys().filter(|trust_domain| !held.contains_key(*trust_domain)).map(|trust_domain| put(trust_domain, None));
        let batch: Vec<Write> = fresh.chain(gone).collect();
        self.write(batch).await;
        self.mesh.set_bundles(known);
    }

    async fn write(&self, batch: Vec<Write>) {
        if batch.is_empty() {
            return;
        }
        let store = self.store.clone();
        match tokio::task::spawn_blocking(move || store.write(&batch)).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::warn!(%error, "bundles could not be kept: a control plane that starts anew has to fetch them"),
            Err(error) => tracing::debug!(%error, "bundles were not kept"),
        }
    }
}

/// Fetches what is due.
async fn fetch(held: &mut BTreeMap<TrustDomain, Held>) {
    let now = Instant::now();
    let mut due: Vec<(TrustBundle, Option<Arc<SpiffeBundle>>)> =
        held.values().filter(|held| held.next <= now).map(|held| (held.source.clone(), held.in_force().cloned())).collect();
    let mut under_way = JoinSet::new();
    loop {
        while under_way.len() < AT_ONCE
            && let Some((source, known)) = due.pop()
        {
            under_way.spawn(async move { (fetched(&source, known.as_deref()).await, source.trust_domain) });
        }
        let Some(ended) = under_way.join_next().await else { return };
        let Ok((outcome, trust_domain)) = ended else { continue };
        if let Some(held) = held.get_mut(&trust_domain) {
            held.tried(outcome, SystemTime::now());
        }
    }
}

/// A bundle as it is stored; none: there is none.
fn stored(held: &Held) -> Option<Vec<u8>> {
    let bundle = held.fetched.as_ref()?;
    let fetched_at = held.times.fetched?.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    serde_json::to_vec(&BundleRecord { document: bundle.text.to_string(), written: written(&held.source), fetched_at }).ok()
}

/// What tells the bundle that is written in a resource from others.
fn written(source: &TrustBundle) -> Option<[u8; 32]> {
    source.written.as_ref().map(|written| sha256(written.text.as_bytes()))
}

/// What was fetched for a source earlier, and when; none: nothing, or another bundle was written since.
fn record(store: &dyn Store, source: &TrustBundle) -> Result<Option<(SpiffeBundle, SystemTime)>, StoreError> {
    let Some(record) = store.get(Table::Bundles, source.trust_domain.as_str())? else { return Ok(None) };
    // A later version may refuse what an earlier one kept.
    let Ok(record) = serde_json::from_slice::<BundleRecord>(&record) else { return Ok(None) };
    let BundleRecord { document, written: begun_with, fetched_at } = record;
    if begun_with != written(source) {
        return Ok(None);
    }
    let bundle = taken(&source.trust_domain, &document, None).ok();
    Ok(bundle.map(|bundle| (bundle, SystemTime::UNIX_EPOCH + Duration::from_secs(fetched_at))))
}

/// What was fetched earlier of the bundles that the mesh's resources name.
///
/// # Errors
/// When the store cannot be read.
pub fn kept(store: &dyn Store, sources: BTreeMap<TrustDomain, TrustBundle>) -> Result<BTreeMap<TrustDomain, KnownBundle>, StoreError> {
    let one = |(trust_domain, source): (TrustDomain, TrustBundle)| {
        let bundle = record(store, &source)?.map(|(bundle, _)| Arc::new(bundle));
        Ok((trust_domain, KnownBundle { bundle, problem: None }))
    };
    sources.into_iter().map(one).collect()
}

#[cfg(test)]
mod tests;
