//! What this process remembers of limits, for all workers: buckets, counts of what is under way, tokens that the control plane lent.
//!
//! A limit's state is found by its id, so that it outlives every snapshot and is one wherever the limit stands; one that says something
//! else begins anew. A worker remembers where it found a state, and locks nothing for a request.

mod leases;
mod table;

use std::cell::RefCell;
use std::collections::HashMap;
use std::future::Future;
use std::hash::{BuildHasher, Hasher};
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use lorica_model::head::RequestHead;
use lorica_model::name::WorkloadName;
use lorica_model::snapshot::{Asking, Counted, KeyPart, RateLimit, Unavailable};
use lorica_observe::metrics::{LimitCounts, WorkerMetrics};
use lorica_xds::rate_limit::{Borrower, Descriptor};
use tonic::transport::Channel;

use leases::{Borrowed, Lease, Leases, Lending};
use table::{Counts, Rates, Slot, Token};

/// The most limits and leases that a worker remembers; past it, it looks them up anew.
const MOST_REMEMBERED: usize = 4096;

/// What this process remembers. Clones are of the same.
#[derive(Clone)]
pub struct Limits(Arc<Shared>);

struct Shared {
    lending: Arc<Lending>,
    hasher: foldhash::fast::RandomState,
    states: Mutex<HashMap<Arc<str>, Arc<State>>>,
    /// How many proxies share a limit: known for longer than its state.
    proxies: Arc<Mutex<HashMap<String, Arc<AtomicU32>>>>,
}

impl Limits {
    /// Those of a proxy without a control plane: a global limit holds for it alone.
    #[must_use]
    pub fn alone() -> Self {
        Self::new(Lending::nobody(Instant::now()), Arc::default())
    }

    /// Those of a proxy whose control plane lends tokens, and the task that asks for them. `channel` leads to the control plane.
    pub fn lending(workload: &WorkloadName, channel: Channel) -> (Self, impl Future<Output = ()> + 'static) {
        let (lending, questions) = Lending::by_control_plane(Instant::now());
        let proxies: Arc<Mutex<HashMap<String, Arc<AtomicU32>>>> = Arc::default();
        let limits = Self::new(lending, proxies.clone());
        let told = move |limit: &str, count: u32| {
            let known = proxies.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(known) = known.get(limit) {
                known.store(count.max(1), Ordering::Relaxed);
            }
        };
        let task = leases::borrow(Borrower::new(workload, channel), questions, limits.0.lending.clone(), told);
        (limits, task)
    }

    fn new(lending: Lending, proxies: Arc<Mutex<HashMap<String, Arc<AtomicU32>>>>) -> Self {
        Self(Arc::new(Shared {
            lending: Arc::new(lending),
            hasher: foldhash::fast::RandomState::default(),
            states: Mutex::default(),
            proxies,
        }))
    }

    /// A worker's way to them.
    #[must_use]
    pub fn worker(&self) -> WorkerLimits {
        WorkerLimits { limits: self.clone(), states: RefCell::default(), leases: RefCell::default() }
    }
}

/// What is remembered of one limit.
pub struct State {
    counted: Counted,
    key: Vec<KeyPart>,
    counting: Counting,
    /// What became of requests.
    pub counts: Arc<LimitCounts>,
}

enum Counting {
    Rates(Rates),
    Counts(u32, Counts),
    Lent {
        leases: Leases,
        /// What each proxy goes by while the control plane is away.
        share: Rates,
        unavailable: Unavailable,
    },
    /// Somebody else counts.
    Elsewhere,
}

impl State {
    fn new(limit: &RateLimit, shared: &Shared, counts: Arc<LimitCounts>) -> Self {
        let keyed = !limit.key.is_empty();
        let counting = match &limit.counted {
            Counted::Local(quota) => Counting::Rates(Rates::new(quota.rate(), keyed)),
            Counted::Concurrent(most) => Counting::Counts(*most, Counts::new(keyed)),
            Counted::Global { quota, unavailable } => {
                let mut known = shared.proxies.lock().unwrap_or_else(PoisonError::into_inner);
                let proxies = known.entry(limit.id.to_string()).or_insert_with(|| Arc::new(AtomicU32::new(1))).clone();
                Counting::Lent {
                    leases: Leases::new(limit.id.clone(), proxies),
                    share: Rates::new(quota.rate(), keyed),
                    unavailable: *unavailable,
                }
            }
            Counted::Service(_) => Counting::Elsewhere,
        };
        Self { counted: limit.counted.clone(), key: limit.key.clone(), counting, counts }
    }

    fn is_of(&self, limit: &RateLimit) -> bool {
        self.counted == limit.counted && self.key == limit.key
    }
}

/// A worker's way to what is remembered.
pub struct WorkerLimits {
    limits: Limits,
    states: RefCell<HashMap<Arc<str>, Arc<State>, foldhash::fast::RandomState>>,
    leases: RefCell<HashMap<(usize, u64), Found, foldhash::fast::RandomState>>,
}

/// A lease, the state of whose limit it is (so that no other can come to lie at the same address), and whether it is the key's own.
type Found = Rc<(Arc<State>, Arc<Lease>, bool)>;

/// What a request took of a limit: given back where another limit refuses it, and, of what counts requests under way, at its end.
pub struct Taken {
    state: Arc<State>,
    what: What,
}

enum What {
    Nothing,
    Token(Token),
    Slot(Slot),
    Lent(Arc<Lease>),
}

impl Drop for Taken {
    fn drop(&mut self) {
        if let (Counting::Counts(_, counts), What::Slot(slot)) = (&self.state.counting, &self.what) {
            counts.give_back(*slot);
        }
    }
}

/// What became of a request.
pub enum Verdict {
    /// It passes.
    Passes(Taken),
    /// It is past the limit, for this long.
    Over(Duration),
    /// Nobody can say, and then none shall pass.
    Unavailable,
}

/// How long until something under way may be over: nobody knows, so callers are told the least.
const SOON: Duration = Duration::from_secs(1);

impl WorkerLimits {
    /// What is remembered of a limit.
    pub fn state(&self, limit: &RateLimit, metrics: &WorkerMetrics) -> Arc<State> {
        let mut known = self.states.borrow_mut();
        if let Some(state) = known.get(&limit.id).filter(|state| state.is_of(limit)) {
            return state.clone();
        }
        let shared = &self.limits.0;
        let mut states = shared.states.lock().unwrap_or_else(PoisonError::into_inner);
        // Those that no worker remembers are of limits that are gone.
        if states.len() >= MOST_REMEMBERED {
            states.retain(|_, state| Arc::strong_count(state) > 1);
        }
        let state = match states.get(&limit.id).filter(|state| state.is_of(limit)) {
            Some(state) => state.clone(),
            None => {
                let (policy, name) = limit.id.rsplit_once('/').unwrap_or_default();
                let state = Arc::new(State::new(limit, shared, metrics.limit(policy, name)));
                states.insert(limit.id.clone(), state.clone());
                state
            }
        };
        if known.len() >= MOST_REMEMBERED {
            known.clear();
        }
        known.insert(limit.id.clone(), state.clone());
        state
    }

    /// Whether a request passes a limit that is counted here.
    pub async fn take(&self, state: Arc<State>, head: &RequestHead, asking: Asking<'_>) -> Verdict {
        let shared = &self.limits.0;
        let key = self.key(&state.key, head, asking);
        let what = match &state.counting {
            Counting::Elsewhere => What::Nothing,
            Counting::Counts(most, counts) => match counts.take(key, *most) {
                Some(slot) => {
                    state.note(slot.apart);
                    What::Slot(slot)
                }
                None => return Verdict::Over(SOON),
            },
            Counting::Rates(rates) => match rates.take(key, rates.rate(), shared.lending.now()) {
                Ok(token) => {
                    state.note(token.apart);
                    What::Token(token)
                }
                Err(wait) => return Verdict::Over(Duration::from_nanos(wait)),
            },
            Counting::Lent { share, unavailable, leases } => {
                let found = self.lease(&state, leases, key, head, asking);
                let (_, lease, apart) = &*found;
                state.note(*apart);
                match shared.lending.take(lease).await {
                    Borrowed::Token => What::Lent(lease.clone()),
                    Borrowed::None(wait) => return Verdict::Over(wait),
                    Borrowed::Away => {
                        state.counts.unavailable.fetch_add(1, Ordering::Relaxed);
                        match unavailable {
                            Unavailable::Allow => What::Nothing,
                            Unavailable::Deny => return Verdict::Unavailable,
                            Unavailable::LocalShare => {
                                let own = share.rate().share(leases.proxies.load(Ordering::Relaxed));
                                match share.take(key, own, shared.lending.now()) {
                                    // It is not given back: a share is no exact thing.
                                    Ok(_) => What::Nothing,
                                    Err(wait) => return Verdict::Over(Duration::from_nanos(wait)),
                                }
                            }
                        }
                    }
                }
            }
        };
        Verdict::Passes(Taken { state, what })
    }

    /// Gives back what a request took that another limit refused.
    pub fn give_back(&self, taken: &[Taken]) {
        for Taken { state, what } in taken {
            match (&state.counting, what) {
                (Counting::Rates(rates), What::Token(token)) => rates.give_back(*token),
                (_, What::Lent(lease)) => self.limits.0.lending.give_back(lease),
                // What counts requests under way goes back by itself.
                _ => {}
            }
        }
    }

    fn lease(&self, state: &Arc<State>, leases: &Leases, key: u64, head: &RequestHead, asking: Asking<'_>) -> Found {
        let at = (Arc::as_ptr(state) as usize, key);
        if let Some(found) = self.leases.borrow().get(&at).filter(|found| !found.1.is_forgotten()) {
            return found.clone();
        }
        let parts = || parts(&state.key, head, asking);
        let (lease, apart) = leases.lease(key, parts, self.limits.0.lending.now());
        let found: Found = Rc::new((state.clone(), lease, apart));
        let mut known = self.leases.borrow_mut();
        if known.len() >= MOST_REMEMBERED {
            known.clear();
        }
        known.insert(at, found.clone());
        found
    }

    /// What tells a request's key apart: a hash that nobody outside can foresee.
    fn key(&self, parts: &[KeyPart], head: &RequestHead, asking: Asking<'_>) -> u64 {
        if parts.is_empty() {
            return 0;
        }
        let mut hasher = self.limits.0.hasher.build_hasher();
        for part in parts {
            let value = part.value(head, asking);
            hasher.write(value.as_bytes());
            hasher.write_usize(value.len());
        }
        hasher.finish().max(1)
    }
}

impl State {
    /// Notes where a request's key had no room of its own.
    fn note(&self, apart: bool) {
        if !apart {
            self.counts.overflowed.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn parts(key: &[KeyPart], head: &RequestHead, asking: Asking<'_>) -> Vec<(String, String)> {
    key.iter().map(|part| (part.entry().into_owned(), part.value(head, asking).into_owned())).collect()
}

/// What a rate limit service is asked of a request: the limit by its name, as users configure the service, and the parts of the key.
#[must_use]
pub fn descriptor(limit: &RateLimit, head: &RequestHead, asking: Asking<'_>) -> Descriptor {
    Descriptor { limit: limit.name().to_owned(), key: parts(&limit.key, head, asking) }
}
